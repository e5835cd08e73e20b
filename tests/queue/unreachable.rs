//! A node that cannot be reached any more while requests wait: whoever was given it waits again, in
//! front, for another one.

use std::time::Duration;

use crate::support::{
    Desk, Driver, RawClient, Router, RouterConfig, answer_with_tag, ask, event, eventually,
    eventually_within, on_both_drivers, sse_head,
};
use crate::{expect_served, is_near, line_up, notice, send, send_to_wait};

const WITHIN: Duration = Duration::from_secs(1);
const UNREACHABLE: (u16, &str) = (502, "node_unreachable");

/// A node that leaves no connection behind that would outlive its listener.
fn mortal() -> Desk {
    Desk::answering(|call, tag| {
        answer_with_tag(call, tag);
        call.close();
    })
}

/// Two nodes that are full: requests stay at both until they are let go.
struct Pair {
    mortal: Desk,
    living: Desk,
    router: Router,
    /// Those at the mortal node and those at the living one.
    holders: [Vec<(String, RawClient)>; 2],
}

impl Pair {
    fn new(config: RouterConfig, slots: u32) -> Self {
        let (mortal, living) = (mortal(), Desk::start());
        let router = config
            .node_with("mortal", mortal.node(), "m", slots, "")
            .node_with("living", living.node(), "m", slots, "")
            .start();
        let mut holders = [Vec::new(), Vec::new()];
        for index in 1..=2 * slots as usize {
            let tag = format!("holder{index}");
            let client = send(&router, &ask(&tag));
            eventually("it is at a node", || {
                mortal.arrived().len() + living.arrived().len() == index
            });
            let is_living = living.arrived().contains(&tag);
            holders[usize::from(is_living)].push((tag, client));
        }
        assert!(holders.iter().all(|of_one| of_one.len() == slots as usize));
        Self {
            mortal,
            living,
            router,
            holders,
        }
    }

    /// The mortal node answers those it has and is gone: its slots come free.
    #[track_caller]
    fn die(&mut self) {
        self.mortal.node().stop_listening();
        self.mortal.open();
        for (tag, client) in &mut self.holders[0] {
            expect_served(client, tag);
        }
    }

    /// Waits until so many connections to the mortal node were refused, and `waiting` wait.
    #[track_caller]
    fn until_refused(&self, count: usize, waiting: usize) {
        let refused = || refused_by(&self.router, "mortal");
        eventually("connections were refused", || refused() >= count as f64);
        self.router.until_waiting(waiting);
    }

    /// The living node serves everybody from now on.
    #[track_caller]
    fn go_on(&mut self) {
        self.living.open();
        for (tag, client) in &mut self.holders[1] {
            expect_served(client, tag);
        }
    }
}

fn refused_by(router: &Router, node: &str) -> f64 {
    router.metrics().value(&format!(
        r#"llm_router_node_failures_total{{node="{node}",reason="connect"}}"#
    ))
}

fn tags(count: usize) -> Vec<String> {
    (1..=count).map(|index| format!("w{index}")).collect()
}

fn line_up_all(router: &Router, tags: &[String]) -> Vec<RawClient> {
    let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
    line_up(router, &tags)
}

/// A router before a living node whose slot is taken, and one that is gone but still trusted. Whoever
/// comes next is given that one.
fn half_dead(config: RouterConfig) -> (Desk, Router, RawClient) {
    let (gone, living) = (mortal(), Desk::start());
    let router = config
        .node_with("gone", gone.node(), "m", 1, "")
        .node_with("living", living.node(), "m", 1, "")
        .start();
    gone.node().stop_listening();
    let holder = send(&router, &ask("holder"));
    living.expect("holder");
    (living, router, holder)
}

fn patient(driver: Driver) -> RouterConfig {
    RouterConfig::new(driver).set("load_manager.default_timeout_secs", 60)
}

#[track_caller]
fn expect_error(client: &mut RawClient, (status, code): (u16, &str)) {
    let response = client.response();
    assert_eq!(
        (response.status, response.error_code().as_str()),
        (status, code)
    );
}

#[test]
fn a_node_that_dies_costs_nobody_who_waits_an_answer() {
    for slots in [1, 2, 4] {
        on_both_drivers(|driver| {
            let mut pair = Pair::new(patient(driver), slots);
            let tags = tags(20);
            let mut waiting = line_up_all(&pair.router, &tags);
            pair.die();
            pair.until_refused(slots as usize, 20);
            assert_eq!(pair.living.arrived().len(), slots as usize);
            pair.go_on();
            for (index, (client, tag)) in waiting.iter_mut().zip(&tags).enumerate() {
                let response = expect_served(client, tag);
                let place = (index + 1).to_string();
                assert_eq!(notice(&response).0, Some(place.as_str()), "as told first");
            }
            let mut served = pair.living.arrived().split_off(slots as usize);
            served.sort_unstable();
            let mut wanted = tags;
            wanted.sort_unstable();
            assert_eq!(served, wanted, "each exactly once");
            assert_eq!(pair.mortal.arrived().len(), slots as usize);
            assert_eq!(pair.living.present_max(), slots as usize);
            drop((waiting, std::mem::take(&mut pair.holders)));
            pair.router.settles();
            let metrics = pair.router.metrics();
            assert_eq!(metrics.sum("llm_router_rejections_total"), 0.0);
        });
    }
}

#[test]
fn the_first_in_line_stays_the_first_although_its_node_failed_it() {
    on_both_drivers(|driver| {
        let mut pair = Pair::new(patient(driver), 1);
        let mut waiting = line_up(&pair.router, &["a", "b", "c"]);
        pair.die();
        pair.until_refused(1, 3);
        pair.living.release(&pair.holders[1][0].0);
        for (client, tag) in waiting.iter_mut().zip(["a", "b", "c"]) {
            pair.living.serve(tag);
            expect_served(client, tag);
        }
        assert_eq!(pair.living.arrived()[1..], ["a", "b", "c"]);
    });
}

#[test]
fn a_dead_node_is_ejected_although_those_it_fails_hold_its_slot_for_a_while() {
    on_both_drivers(|driver| {
        let mut pair = Pair::new(patient(driver), 1);
        let tags = tags(12);
        let mut waiting = line_up_all(&pair.router, &tags);
        pair.die();
        eventually("the node is ejected", || {
            let state = r#"llm_router_node_state{node="mortal",state="ejected"}"#;
            pair.router.metrics().value(state) == 1.0
        });
        pair.router.until_waiting(12);
        pair.go_on();
        for (client, tag) in waiting.iter_mut().zip(&tags) {
            expect_served(client, tag);
        }
        drop((waiting, std::mem::take(&mut pair.holders)));
        pair.router.settles();
    });
}

#[test]
fn a_node_that_is_back_at_once_serves_again_before_any_probe() {
    on_both_drivers(|driver| {
        let mut pair = Pair::new(patient(driver), 1);
        let mut waiting = line_up(&pair.router, &["a", "b"]);
        pair.die();
        pair.until_refused(1, 2);
        pair.mortal.node().listen_again();
        // The slot is held for a second; the first in line leaves the node to the one behind it, whose
        // success tells it that the node is well.
        let mut others = waiting.split_off(1);
        expect_served(&mut others[0], "b");
        expect_served(&mut waiting[0], "a");
        assert_eq!(pair.mortal.arrived()[1..], ["b", "a"]);
        assert_eq!(pair.living.arrived().len(), 1);
    });
}

#[test]
fn whoever_had_not_waited_before_does_so_at_the_first_place() {
    on_both_drivers(|driver| {
        let (living, router, mut holder) = half_dead(patient(driver));
        let mut late = send_to_wait(&router, &ask("late"), 1);
        let metrics = router.metrics();
        assert_eq!(metrics.waiting_for("m"), 1.0);
        assert_eq!(
            metrics.value(r#"llm_router_node_in_flight{node="gone"}"#),
            1.0
        );
        living.open();
        expect_served(&mut holder, "holder");
        let response = expect_served(&mut late, "late");
        assert_eq!(notice(&response), (Some("1"), Some("1")));
        drop((holder, late));
        router.settles();
        assert_eq!(living.arrived(), ["holder", "late"]);
    });
}

#[test]
fn a_client_that_leaves_while_it_waits_again_gives_everything_back() {
    on_both_drivers(|driver| {
        let (living, router, mut holder) = half_dead(patient(driver));
        drop(send_to_wait(&router, &ask("late"), 1));
        eventually_within(WITHIN, "it has left", || {
            let metrics = router.metrics();
            metrics.value("llm_router_queue_size") == 0.0
                && metrics.value(r#"llm_router_node_in_flight{node="gone"}"#) == 0.0
                && metrics.cancelled("queue") == 1.0
        });
        living.open();
        expect_served(&mut holder, "holder");
        drop(holder);
        router.settles();
        assert_eq!(living.arrived(), ["holder"]);
    });
}

#[test]
fn whoever_waits_again_in_vain_is_told_what_had_happened_to_it() {
    on_both_drivers(|driver| {
        let config = RouterConfig::new(driver).set("load_manager.default_timeout_secs", 2);
        let (_living, router, holder) = half_dead(config);
        let mut late = send_to_wait(&router, &ask("late"), 1);
        expect_error(&mut late, UNREACHABLE);
        let waited = router.metrics().value("llm_router_queue_wait_seconds_sum");
        assert!(is_near(waited, 2.0), "{waited} s in the queue");
        drop((late, holder));
        router.settles();
    });
}

#[test]
fn an_overloaded_router_lets_nobody_wait_again() {
    on_both_drivers(|driver| {
        let other = Desk::start();
        let config = RouterConfig::new(driver)
            .set("load_manager.max_waiting", 1)
            .node_with("o", other.node(), "other", 1, "");
        let (living, router, _holder) = half_dead(config);
        let _of_other = send(&router, &ask("x").model("other"));
        other.expect("x");
        let _waiting = send_to_wait(&router, &ask("y").model("other"), 1);
        let mut late = send(&router, &ask("late"));
        expect_error(&mut late, UNREACHABLE);
        assert_eq!(living.arrived(), ["holder"]);
    });
}

#[test]
fn where_the_only_node_is_gone_nobody_waits_for_it_again() {
    on_both_drivers(|driver| {
        let desk = mortal();
        let router = RouterConfig::new(driver)
            .node_with("n", desk.node(), "m", 1, "")
            .start();
        let mut holder = send(&router, &ask("holder"));
        desk.expect("holder");
        let mut waiting = line_up_all(&router, &tags(20));
        desk.node().stop_listening();
        desk.open();
        expect_served(&mut holder, "holder");
        for client in &mut waiting {
            expect_error(client, UNREACHABLE);
        }
        drop((holder, waiting));
        router.settles();
        assert_eq!(desk.arrived(), ["holder"]);
    });
}

#[test]
fn where_all_nodes_are_gone_nobody_waits_for_long() {
    on_both_drivers(|driver| {
        let desks = [mortal(), mortal()];
        let router = patient(driver)
            .node_with("a", desks[0].node(), "m", 1, "")
            .node_with("b", desks[1].node(), "m", 1, "")
            .start();
        let arrived = || desks.iter().map(|desk| desk.arrived().len()).sum::<usize>();
        let holders = ["h1", "h2"].map(|tag| send(&router, &ask(tag)));
        eventually("both nodes work", || arrived() == 2);
        let mut waiting = line_up_all(&router, &tags(6));
        desks.iter().for_each(|desk| desk.node().stop_listening());
        desks.iter().for_each(Desk::open);
        for client in &mut waiting {
            expect_error(client, UNREACHABLE);
        }
        drop((holders, waiting));
        router.settles();
        assert_eq!(arrived(), 2);
    });
}

#[test]
fn a_stream_that_has_begun_is_told_its_place_while_it_waits_again() {
    on_both_drivers(|driver| {
        let mortal = mortal();
        let living = Desk::answering(|call, tag| {
            if tag == "stream" {
                call.send(sse_head());
                call.send(&event("[DONE]"));
                call.send(b"0\r\n\r\n");
                call.close();
            } else {
                answer_with_tag(call, tag);
            }
        });
        let router = patient(driver)
            .set("queue.stream_position", true)
            .node_with("mortal", mortal.node(), "m", 1, "")
            .node_with("living", living.node(), "m", 1, "")
            .start();
        let mut holders = ["h1", "h2"].map(|tag| {
            let client = send(&router, &ask(tag));
            eventually("it is at a node", || {
                let at_one = |desk: &Desk| desk.arrived().iter().any(|here| here == tag);
                at_one(&mortal) || at_one(&living)
            });
            client
        });
        let first = send_to_wait(&router, &ask("first"), 1);
        let mut stream = send_to_wait(&router, &ask("stream").stream(), 2);
        assert_eq!(stream.head().status, 200);
        assert_eq!(stream.chunk().unwrap(), b": queue position=2 wait=1\n\n");
        drop(first);
        assert_eq!(stream.chunk().unwrap(), b": queue position=1 wait=1\n\n");
        mortal.node().stop_listening();
        mortal.open();
        eventually("it was refused", || refused_by(&router, "mortal") >= 1.0);
        router.until_waiting(1);
        living.open();
        let rest: Vec<u8> = std::iter::from_fn(|| stream.chunk()).flatten().collect();
        let rest = String::from_utf8(rest).unwrap();
        assert!(rest.ends_with("data: [DONE]\n\n"), "{rest}");
        for (client, tag) in holders.iter_mut().zip(["h1", "h2"]) {
            expect_served(client, tag);
        }
    });
}
