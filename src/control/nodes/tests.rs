//! Tests of the nodes on a virtual clock: probes come out as the test says, nothing is connected to.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;

use super::tasks::Plan;
use super::token::Power;
use super::*;
use crate::auth::Secret;
use crate::auth::key::KeyHash;
use crate::config::BaseUrl;
use crate::control::probe::{Answer, Engine, ProbeError};
use crate::store::{Credential, StoredNode};

struct Case {
    nodes: Nodes,
    directory: Arc<NodeDirectory>,
    tokens: Arc<ArcSwap<NodeTokens>>,
    now: Duration,
}

fn settings(name: &str, port: u16) -> NodeConfig {
    NodeConfig {
        name: name.to_owned(),
        base_url: BaseUrl::parse(&format!("http://127.0.0.1:{port}")).unwrap(),
        models: vec!["m".to_owned()],
        api_key: None,
        max_concurrency: None,
        weight: 1,
    }
}

fn registration(id: u64) -> Registration {
    Registration {
        id,
        token: token(id),
        created_at: 17,
        lost_credential: false,
    }
}

/// A registration that shows the token of this node, and says nothing about the credential.
fn claim(id: Option<u64>) -> Claim {
    Claim {
        token: id.map(|id| (token(id), Power::Move)),
        names_credential: false,
        is_by_admin: false,
    }
}

fn token(id: u64) -> KeyHash {
    KeyHash::of(format!("token {id}").as_bytes())
}

fn stored(id: u64, name: &str, port: u16) -> StoredNode {
    StoredNode {
        id,
        name: name.to_owned(),
        base_url: format!("http://127.0.0.1:{port}"),
        models: Vec::new(),
        api_key: Credential::Known(Secret::new("k".to_owned())),
        max_concurrency: Some(3),
        weight: 2,
        token_digest: token(id),
        created_at: 17,
    }
}

fn watch(config: &Config) -> Watch {
    let own = OwnMarks {
        listener: "127.0.0.1:8080".parse().unwrap(),
        token: ProbeToken::random().unwrap(),
    };
    Watch::of(config, &own)
}

fn config(nodes: &[NodeConfig]) -> Config {
    Config {
        nodes: nodes.to_vec(),
        ..Config::default()
    }
}

fn report(initializing: bool) -> Heartbeat {
    Heartbeat {
        initializing,
        ..Heartbeat::default()
    }
}

impl Case {
    fn new(configured: &[NodeConfig]) -> Self {
        let mut case = Self::unrestored(configured);
        case.nodes.restore(Kept::default(), Duration::ZERO);
        case
    }

    /// Before what the store has kept was read.
    fn unrestored(configured: &[NodeConfig]) -> Self {
        let (directory, tokens) = <(Arc<NodeDirectory>, Arc<ArcSwap<NodeTokens>>)>::default();
        let config = config(configured);
        Self {
            nodes: Nodes::new(
                &config,
                watch(&config),
                Arc::clone(&directory),
                Arc::clone(&tokens),
            ),
            directory,
            tokens,
            now: Duration::ZERO,
        }
    }

    /// Lets time pass, and has every probe that comes due answered as `answer` says by port.
    fn pass(&mut self, time: Duration, answer: impl Fn(u16) -> Result<Answer, ProbeError>) {
        let until = self.now + time;
        loop {
            let mut taken = Vec::new();
            self.nodes.request_probes(
                |probe| {
                    taken.push(probe);
                    true
                },
                self.now,
            );
            for probe in taken {
                self.nodes.probed(Outcome {
                    serial: probe.serial,
                    answer: answer(probe.base_url.port()),
                });
            }
            self.nodes.settle(self.now);
            let next = self.nodes.next_probe_in(self.now);
            let step = next.min(self.nodes.next_event_in(self.now));
            let step = step.max(Duration::from_millis(1));
            if self.now + step > until {
                self.now = until;
                return self.nodes.settle(self.now);
            }
            self.now += step;
        }
    }

    fn state(&self, name: &str) -> &'static str {
        let table = self.directory.snapshot();
        let published = table.node(name).unwrap().live.state().as_str();
        let views = self.nodes.list();
        let view = views.iter().find(|view| view.name == name).unwrap();
        assert_eq!(view.state, published);
        view.state
    }

    fn register(&mut self, id: u64, settings: NodeConfig) -> Result<NodeView, NodesError> {
        self.nodes.admit(registration(id), settings, self.now)
    }
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn good(port: u16) -> Result<Answer, ProbeError> {
    Ok(Answer {
        addresses: vec![address(port)],
        latency: Duration::from_millis(2),
        models: vec!["m".into()],
        engine: Engine::LlamaCpp,
        slots: Some(4),
    })
}

fn dead(_: u16) -> Result<Answer, ProbeError> {
    Err(ProbeError::ConnectTimeout)
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn what_a_probe_finds_is_in_the_table_before_the_node_gets_traffic() {
    let mut open = settings("a", 1);
    open.models.clear();
    let mut case = Case::new(&[open]);
    assert_eq!(case.state("a"), "pending");
    case.pass(SECOND, good);
    assert_eq!(case.state("a"), "online");
    let table = case.directory.snapshot();
    let node = table.node("a").unwrap();
    assert_eq!(node.models, ["m".into()] as [Box<str>; 1]);
    assert_eq!(node.live.slots().limit, 4);
    let view = case.nodes.list().remove(0);
    assert_eq!(
        (view.engine, view.latency_ms),
        (Some("llama.cpp"), Some(2.0))
    );
    assert_eq!((view.slots_total, view.last_error), (4, None));
}

#[test]
fn many_answers_at_once_make_few_tables() {
    let all: Vec<_> = (1..=1000)
        .map(|port| settings(&format!("n{port}"), port))
        .collect();
    let mut case = Case::new(&all);
    let before = case.directory.snapshot().generation();
    case.pass(SECOND, good);
    let tables = case.directory.snapshot().generation() - before;
    assert!((1..=20).contains(&tables), "{tables}");
    assert!(case.nodes.list().iter().all(|view| view.state == "online"));
}

#[test]
fn a_registered_node_is_pending_until_a_probe_has_succeeded() {
    let mut case = Case::new(&[]);
    let view = case.register(7, settings("r", 1)).unwrap();
    assert_eq!((view.state, view.source), ("pending", "registered"));
    assert_eq!(
        (view.id.as_str(), view.created_at),
        ("0000000000000007", Some(17))
    );
    case.pass(5 * SECOND, dead);
    assert_eq!(case.state("r"), "offline");
    let view = case.nodes.get(&NodeRef::Registered(7)).unwrap();
    assert_eq!(view.last_error, Some("no connection in time"));
    case.pass(10 * SECOND, good);
    assert_eq!(case.state("r"), "online");
}

#[test]
fn names_are_unique_over_both_kinds_of_nodes() {
    let mut case = Case::new(&[settings("file", 1)]);
    case.register(7, settings("own", 2)).unwrap();
    let plan = |case: &Case, name: &str, port| case.nodes.plan(&settings(name, port), claim(None));
    assert!(matches!(plan(&case, "new", 9), Ok(Plan::New)));
    assert!(matches!(plan(&case, "own", 2), Ok(Plan::Again { .. })));
    for (name, port) in [("own", 9), ("file", 1), ("file", 9)] {
        assert_eq!(plan(&case, name, port).unwrap_err(), NodesError::NameTaken);
    }
    assert_eq!(
        case.register(8, settings("file", 3)),
        Err(NodesError::NameTaken)
    );
    // Nor does a node of the file answer to a registered one's ways, or the reverse.
    assert!(case.nodes.get(&NodeRef::OfFile("own".to_owned())).is_err());
    let file = NodeRef::OfFile("file".to_owned());
    assert_eq!(case.nodes.stored(&file).unwrap_err(), NodesError::IsOfFile);
    let heartbeat = case
        .nodes
        .heartbeat(&file, token(7), report(false), case.now);
    assert_eq!(heartbeat, Err(NodesError::WrongToken));
}

#[test]
fn whoever_shows_the_token_of_a_node_may_bring_it_elsewhere_but_not_its_credential() {
    let mut case = Case::new(&[settings("file", 1)]);
    case.register(7, settings("own", 2)).unwrap();
    let mut secret = settings("secret", 3);
    secret.api_key = Some(Secret::new("k".to_owned()));
    case.register(8, secret).unwrap();
    let mut lost = registration(9);
    lost.lost_credential = true;
    let admitted = case.nodes.admit(lost, settings("lost", 4), case.now);
    assert!(admitted.is_ok());
    let plan = |name: &str, url: &str, claim| {
        let mut settings = settings(name, 1);
        settings.base_url = BaseUrl::parse(url).unwrap();
        case.nodes.plan(&settings, claim)
    };
    let there = "http://127.0.0.1:9";
    let known = match plan("own", there, claim(Some(7))) {
        Ok(Plan::Again { known, .. }) => known,
        other => panic!("{other:?}"),
    };
    assert_eq!((known.id, known.created_at), (7, 17));
    for (name, shown) in [("own", Some(8)), ("own", None), ("file", Some(7))] {
        let refused = plan(name, there, claim(shown)).unwrap_err();
        assert_eq!(refused, NodesError::NameTaken);
    }
    for (name, id) in [("secret", 8), ("lost", 9)] {
        let refused = plan(name, there, claim(Some(id))).unwrap_err();
        assert_eq!(refused, NodesError::CredentialNeeded);
        let named = Claim {
            names_credential: true,
            ..claim(Some(id))
        };
        assert!(matches!(plan(name, there, named), Ok(Plan::Again { .. })));
    }
    // Another path of the same place is no other place.
    let below = plan("secret", "http://127.0.0.1:3/below", claim(Some(8)));
    assert!(matches!(below, Ok(Plan::Again { .. })));
}

#[test]
fn a_name_and_an_address_alone_give_no_token_to_go_elsewhere_with() {
    let mut case = Case::new(&[]);
    case.register(7, settings("own", 2)).unwrap();
    let report = Claim {
        token: Some((token(7), Power::Report)),
        ..claim(None)
    };
    let admin = Claim {
        is_by_admin: true,
        ..claim(None)
    };
    for (claim, expected) in [
        (claim(None), Power::Report),
        (claim(Some(8)), Power::Report),
        (report, Power::Report),
        (claim(Some(7)), Power::Move),
        (admin, Power::Move),
    ] {
        match case.nodes.plan(&settings("own", 2), claim) {
            Ok(Plan::Again { power, .. }) => assert_eq!(power, expected),
            other => panic!("{other:?}"),
        }
    }
    for claim in [report, admin] {
        let refused = case.nodes.plan(&settings("own", 3), claim).unwrap_err();
        assert_eq!(refused, NodesError::NameTaken);
    }
}

#[test]
fn nothing_is_registered_before_the_store_was_read() {
    let nodes = Case::unrestored(&[]).nodes;
    let plan = nodes.plan(&settings("a", 1), claim(None));
    assert_eq!(plan.unwrap_err(), NodesError::StoreUnavailable);
    // Nor is a node that may have registered before told that there is none.
    let unknown = nodes.get(&NodeRef::Registered(7));
    assert_eq!(unknown, Err(NodesError::StoreUnavailable));
}

#[test]
fn heartbeats_need_the_token_and_their_loss_takes_the_node_offline() {
    let mut case = Case::new(&[]);
    case.register(7, settings("r", 1)).unwrap();
    let node = NodeRef::Registered(7);
    case.pass(SECOND, good);
    let wrong = case
        .nodes
        .heartbeat(&node, token(8), report(false), case.now);
    assert_eq!(wrong, Err(NodesError::WrongToken));
    let state = case
        .nodes
        .heartbeat(&node, token(7), report(false), case.now);
    assert_eq!(state, Ok("online"));
    case.pass(59 * SECOND, good);
    assert_eq!(case.state("r"), "online");
    case.pass(2 * SECOND, good);
    assert_eq!(case.state("r"), "offline");
    let state = case
        .nodes
        .heartbeat(&node, token(7), report(true), case.now);
    assert_eq!(state, Ok("offline"));
    case.pass(SECOND, good);
    assert_eq!(case.state("r"), "offline");
    case.pass(10 * SECOND, good);
    assert_eq!(case.state("r"), "pending");
    let state = case
        .nodes
        .heartbeat(&node, token(7), report(false), case.now);
    assert_eq!(state, Ok("pending"));
    case.pass(SECOND, good);
    assert_eq!(case.state("r"), "online");
}

#[test]
fn workers_know_the_token_of_each_registered_node_that_there_is() {
    let mut case = Case::unrestored(&[settings("file", 1)]);
    let shown = |case: &Case, id, token: u64| {
        let tokens = case.tokens.load();
        tokens.is_of(id, format!("token {token}").as_bytes())
    };
    assert_eq!(shown(&case, 7, 7), None);
    let kept = || Kept {
        nodes: vec![stored(7, "r", 2)],
        drains: Vec::new(),
    };
    case.nodes.restore(kept(), case.now);
    case.register(8, settings("s", 3)).unwrap();
    let told = [(7, 7), (8, 8), (7, 8), (9, 9)].map(|(id, token)| shown(&case, id, token));
    assert_eq!(told, [Some(true), Some(true), Some(false), Some(false)]);
    // A new registration makes the token before void, and so does a removal.
    let mut again = registration(8);
    again.token = token(9);
    let admitted = case.nodes.admit(again, settings("s", 3), case.now);
    assert!(admitted.is_ok() && case.nodes.remove(7, case.now).is_ok());
    let told = [(7, 7), (8, 8), (8, 9)].map(|(id, token)| shown(&case, id, token));
    assert_eq!(told, [Some(false), Some(false), Some(true)]);
    // One that is read again is known again.
    case.nodes.restore(kept(), case.now);
    assert_eq!(shown(&case, 7, 7), Some(true));
}

#[test]
fn a_node_that_moves_has_to_prove_itself_again_and_old_answers_do_not_count() {
    let mut case = Case::new(&[]);
    case.register(7, settings("r", 1)).unwrap();
    case.pass(SECOND, good);
    let mut under_way = Vec::new();
    case.now += 10 * SECOND;
    case.nodes.request_probes(
        |probe| {
            under_way.push(probe);
            true
        },
        case.now,
    );
    case.register(7, settings("r", 2)).unwrap();
    assert_eq!(case.state("r"), "pending");
    case.nodes.probed(Outcome {
        serial: under_way[0].serial,
        answer: good(1),
    });
    case.nodes.settle(case.now);
    assert_eq!(case.state("r"), "pending");
    case.pass(
        SECOND,
        |port| if port == 2 { good(port) } else { dead(port) },
    );
    assert_eq!(case.state("r"), "online");
    let table = case.directory.snapshot();
    assert_eq!(table.node("r").unwrap().addresses, [address(2)]);
    assert_eq!(case.nodes.list().len(), 1);
}

#[test]
fn a_drained_node_stays_so_over_a_move_and_a_restart() {
    let mut case = Case::new(&[settings("file", 1)]);
    case.register(7, settings("r", 2)).unwrap();
    case.pass(SECOND, good);
    for node in [NodeRef::OfFile("file".to_owned()), NodeRef::Registered(7)] {
        let view = case.nodes.set_drained(&node, true, case.now).unwrap();
        assert_eq!(view.state, "draining");
    }
    case.register(7, settings("r", 3)).unwrap();
    case.pass(20 * SECOND, good);
    assert_eq!(
        (case.state("file"), case.state("r")),
        ("draining", "draining")
    );

    let mut later = Case::unrestored(&[settings("file", 1)]);
    let drains = vec!["file".to_owned(), "r".to_owned(), "gone".to_owned()];
    let nodes = vec![stored(7, "r", 2), stored(9, "file", 3), stored(8, "s", 4)];
    later.nodes.restore(Kept { nodes, drains }, later.now);
    later.pass(20 * SECOND, good);
    let states = ["file", "r", "s"].map(|name| later.state(name));
    assert_eq!(states, ["draining", "draining", "online"]);
    let view = later.nodes.get(&NodeRef::Registered(8)).unwrap();
    assert_eq!(
        (view.slots_total, view.weight, view.created_at),
        (3, 2, Some(17))
    );
    // The name belongs to the configuration.
    assert!(later.nodes.get(&NodeRef::Registered(9)).is_err());
    let node = NodeRef::OfFile("file".to_owned());
    later.nodes.set_drained(&node, false, later.now).unwrap();
    later.pass(SECOND, good);
    assert_eq!(later.state("file"), "online");
}

#[test]
fn what_the_store_has_is_no_wish_once_it_was_read() {
    let mut case = Case::new(&[settings("file", 1)]);
    case.register(7, settings("r", 2)).unwrap();
    case.pass(SECOND, good);
    // The store could not keep that both were enabled.
    let kept = || Kept {
        nodes: vec![stored(7, "r", 2), stored(8, "s", 3)],
        drains: ["file", "r", "s"].map(str::to_owned).to_vec(),
    };
    case.nodes.restore(kept(), case.now);
    case.pass(SECOND, good);
    let states = ["file", "r", "s"].map(|name| case.state(name));
    assert_eq!(states, ["online", "online", "draining"]);
    assert_eq!(case.nodes.drains(), Some(vec!["s".to_owned()]));
}

#[test]
fn a_removed_node_is_gone_at_once_and_its_name_is_free() {
    let mut case = Case::new(&[]);
    case.register(7, settings("r", 1)).unwrap();
    case.pass(SECOND, good);
    assert!(case.nodes.remove(7, case.now).is_ok());
    assert!(case.directory.snapshot().node("r").is_none());
    assert_eq!(case.nodes.remove(7, case.now), Err(NodesError::NotFound));
    let plan = case.nodes.plan(&settings("r", 2), claim(None));
    assert!(matches!(plan, Ok(Plan::New)));
}

#[test]
fn a_new_configuration_keeps_what_stays_begins_what_is_new_and_drops_the_rest() {
    let mut case = Case::new(&[
        settings("stays", 1),
        settings("moves", 2),
        settings("goes", 3),
    ]);
    case.register(7, settings("own", 4)).unwrap();
    case.pass(SECOND, good);
    let id = |case: &Case, name: &str| case.directory.snapshot().node(name).unwrap().id;
    let before = id(&case, "stays");
    let mut heavier = settings("stays", 1);
    heavier.weight = 5;
    let mut next = config(&[settings("new", 5), heavier, settings("moves", 6)]);
    next.aliases = vec![AliasConfig {
        model: "alias".to_owned(),
        to: "m".to_owned(),
    }];
    next.health.probe_interval = 2 * SECOND;
    let watch_next = watch(&next);
    let replaced = case.nodes.replace_configured(&next, watch_next, case.now);
    assert_eq!(replaced, Ok(()));
    let states = ["stays", "own", "moves", "new"].map(|name| case.state(name));
    assert_eq!(states, ["online", "online", "pending", "pending"]);
    let table = case.directory.snapshot();
    assert!(table.node("goes").is_none() && table.resolve("alias").is_some());
    assert_eq!(
        (id(&case, "stays"), table.node("stays").unwrap().weight),
        (before, 5)
    );
    case.pass(SECOND, good);
    assert_eq!(
        (case.state("moves"), case.state("new")),
        ("online", "online")
    );
    assert!(case.nodes.next_probe_in(case.now) <= 2 * SECOND);

    let taken = config(&[settings("own", 9), settings("more", 10)]);
    let watch_next = watch(&taken);
    let refused = case.nodes.replace_configured(&taken, watch_next, case.now);
    assert_eq!(refused, Err(vec!["own".to_owned()]));
    assert_eq!(case.state("stays"), "online");
    assert!(case.directory.snapshot().node("more").is_none());
}

/// As many probers as there are, nodes that swallow every packet, and the time limit of a probe: the
/// control thread's loop, without threads.
#[test]
fn a_thousand_nodes_that_fall_silent_are_offline_within_a_minute_and_the_others_are_not_kept_waiting()
 {
    let dead_ports = 2..=1001_u16;
    let mut all: Vec<_> = dead_ports
        .clone()
        .map(|port| settings(&format!("dead-{port}"), port))
        .collect();
    all.push(settings("alive", 1));
    let mut case = Case::new(&all);
    case.pass(SECOND, good);
    // Their probes are spread as they would be after a while.
    let timeout = Duration::from_secs(5);
    let silent_from = case.now;
    let mut under_way: BinaryHeap<Reverse<(Duration, u64, u16)>> = BinaryHeap::new();
    let mut offline_at = None;
    let mut alive_probes = Vec::new();
    while case.now < silent_from + 120 * SECOND {
        let (now, mut started) = (case.now, Vec::new());
        let room = PROBERS_MAX - under_way.len();
        case.nodes.request_probes(
            |probe| {
                if started.len() == room {
                    return false;
                }
                let port = probe.base_url.port();
                let time = if port == 1 {
                    Duration::from_millis(2)
                } else {
                    timeout
                };
                started.push(Reverse((now + time, probe.serial, port)));
                true
            },
            now,
        );
        under_way.extend(started);
        while let Some(Reverse((at, serial, port))) = under_way.peek().copied()
            && at <= now
        {
            under_way.pop();
            if port == 1 {
                alive_probes.push(now);
            }
            case.nodes.probed(Outcome {
                serial,
                answer: if port == 1 { good(port) } else { dead(port) },
            });
        }
        case.nodes.settle(now);
        let views = case.directory.snapshot();
        let is_offline = |port| {
            let node = views.node(&format!("dead-{port}")).unwrap();
            node.live.state() == NodeState::Offline
        };
        if offline_at.is_none() && dead_ports.clone().all(is_offline) {
            offline_at = Some(now);
        }
        case.now += Duration::from_millis(50);
    }
    let took = offline_at.unwrap() - silent_from;
    assert!(took <= 60 * SECOND && took >= 10 * SECOND, "{took:?}");
    assert_eq!(case.state("alive"), "online");
    // While all the others are dead and looked for, the living one is asked at its pace.
    let after: Vec<_> = alive_probes
        .iter()
        .filter(|at| **at > offline_at.unwrap())
        .collect();
    assert!(
        after
            .windows(2)
            .all(|pair| *pair[1] - *pair[0] <= 11 * SECOND)
    );
    assert!(after.len() >= 5);
}
