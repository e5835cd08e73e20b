//! Ten thousand requests of every fate on each driver: served, refused, timed out while waiting, and
//! abandoned in each phase, over two workers, models that share nodes, and several keys. Afterwards
//! nothing is left, nothing is lost and nothing was done twice, by the router's count, the clients'
//! and the nodes'.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
#![allow(
    clippy::disallowed_types,
    reason = "the threads of a test wait for each other"
)]

mod support;

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use support::{
    Call, Desk, Driver, Metrics, Prng, RawClient, Router, RouterConfig, ask, event, fixed, note,
    on_both_drivers, pause, sse_head,
};

const REQUESTS: u64 = 10_000;
const CLIENTS: u64 = 50;
/// What a refused client waits before it asks for something else.
const REFUSED_PAUSE: Duration = Duration::from_millis(20);

/// What a client means to do.
#[derive(Debug, Clone, Copy)]
enum Plan {
    /// Takes the whole answer.
    Stay { is_stream: bool },
    /// Leaves this long after it asked, wherever it is then: waiting in the queue, for the node's head,
    /// or already answered.
    LeaveAfter(Duration),
    /// Leaves once the stream has begun.
    LeaveWithin,
}

/// What came of a request, as its client saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    Completed,
    Overloaded,
    QueueFull,
    TooLong,
    WaitTimeout,
    /// It left, and does not know how far its request had come.
    Left,
    /// It left in the middle of its stream.
    LeftStream,
}

/// A node's work: as the tag says, after a while.
fn work(call: &mut Call, tag: &str, done: &dyn Fn()) {
    let mut parts = tag.split('-');
    let (kind, delay_us) = (parts.next().unwrap(), parts.next().unwrap());
    pause(Duration::from_micros(delay_us.parse().unwrap()));
    if kind == "stream" {
        call.send(sse_head());
        call.send(&event("1"));
        pause(Duration::from_millis(1));
        call.send(&event("[DONE]"));
        done();
        call.send(b"0\r\n\r\n");
    } else {
        done();
        call.send(&fixed(b"{}"));
    }
}

struct Storm<'a> {
    router: &'a Router,
    left: AtomicU64,
    fates: Mutex<BTreeMap<Fate, u64>>,
    seed: u64,
}

impl Storm<'_> {
    /// One client until all requests are used up.
    fn client(&self, number: u64) {
        let mut random = Prng::new(self.seed.wrapping_add(number));
        let mut fates: BTreeMap<Fate, u64> = BTreeMap::new();
        let mut connection: Option<RawClient> = None;
        while take_one(&self.left) {
            let mut client = connection.take().unwrap_or_else(|| self.router.connect());
            let (fate, is_usable) = request(&mut client, &mut random);
            *fates.entry(fate).or_default() += 1;
            if is_usable {
                connection = Some(client);
            } else if random.below(2) == 0 {
                client.reset();
            }
        }
        let mut total = self.fates.lock().unwrap();
        for (fate, count) in fates {
            *total.entry(fate).or_default() += count;
        }
    }
}

fn take_one(left: &AtomicU64) -> bool {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
        left.checked_sub(1)
    })
    .is_ok()
}

/// Sends one request and does what its plan says; whether the connection can be used again.
fn request(client: &mut RawClient, random: &mut Prng) -> (Fate, bool) {
    let plan = match random.below(10) {
        0..5 => Plan::Stay { is_stream: false },
        5..7 => Plan::Stay { is_stream: true },
        7..9 => Plan::LeaveAfter(Duration::from_micros(random.below(30_000))),
        _ => Plan::LeaveWithin,
    };
    // One model is so slow that most of those who ask for it wait in vain.
    let (plan, model, delay_us) = match random.below(250) {
        0 => {
            let is_stream = random.below(2) == 0;
            (Plan::Stay { is_stream }, "slow", 1_100_000)
        }
        1..150 => (plan, "p", random.below(4000)),
        150..200 => (plan, "q", random.below(4000)),
        _ => (plan, "r", random.below(4000)),
    };
    let is_stream = !matches!(plan, Plan::Stay { is_stream: false });
    let kind = if is_stream { "stream" } else { "plain" };
    let mut asking = ask(&format!("{kind}-{delay_us}-{}", random.next()))
        .model(model)
        .key(["sk-a", "sk-b", "sk-c"][random.below(3) as usize]);
    if is_stream {
        asking = asking.stream();
    }
    if random.below(50) == 0 {
        asking = asking.field("X-Request-Timeout", "0.001");
    }
    client.send(&asking.bytes());
    match plan {
        Plan::LeaveAfter(wait) => {
            pause(wait);
            (Fate::Left, false)
        }
        Plan::LeaveWithin => {
            let head = client.head();
            if head.status == 200 {
                client.chunk();
                return (Fate::LeftStream, false);
            }
            let length = head.field("content-length").unwrap().parse().unwrap();
            let body = client.read_exact(length);
            (refusal(head.status, &body), true)
        }
        Plan::Stay { .. } => {
            let response = client.response();
            if response.status != 200 {
                return (refusal(response.status, &response.body), true);
            }
            let whole = if is_stream {
                "data: 1\n\ndata: [DONE]\n\n"
            } else {
                "{}"
            };
            let text = without_comments(response.text());
            if let Some(error) = text.strip_prefix("data: {") {
                // The stream had begun before its fate was known.
                let error = format!("{{{error}");
                return (refusal(response.status, error.as_bytes()), true);
            }
            assert_eq!(text, whole);
            (Fate::Completed, true)
        }
    }
}

/// What follows the comments at the beginning of a stream.
fn without_comments(mut text: &str) -> &str {
    while text.starts_with(": queue position=") {
        text = text.split_once("\n\n").unwrap().1;
    }
    text
}

fn refusal(status: u16, body: &[u8]) -> Fate {
    pause(REFUSED_PAUSE);
    let body: serde_json::Value = serde_json::from_slice(body).unwrap();
    match (status, body["error"]["code"].as_str().unwrap()) {
        (503, "queue_full") => Fate::Overloaded,
        (429, "queue_full") => Fate::QueueFull,
        (503, "wait_too_long") => Fate::TooLong,
        (504 | 200, "wait_timeout") => Fate::WaitTimeout,
        other => panic!("not an outcome of a storm: {other:?}"),
    }
}

/// The sum of all samples of a family whose labels contain `part`.
fn sum_where(metrics: &Metrics, family: &str, part: &str) -> u64 {
    let names: Vec<String> = metrics
        .names()
        .filter(|name| name.starts_with(family) && name.contains(part))
        .map(str::to_owned)
        .collect();
    names.iter().map(|name| metrics.value(name) as u64).sum()
}

#[test]
fn after_a_storm_nothing_is_left_and_everything_is_accounted_for() {
    on_both(|config| config);
}

#[test]
fn after_a_storm_of_streams_that_begin_early_nothing_is_left_either() {
    on_both(|config| config.set("queue.stream_position", true));
}

fn on_both(configure: fn(RouterConfig) -> RouterConfig) {
    // Another one each time; the one that is printed repeats what the clients do.
    let seed = std::env::var("STORM_SEED").map_or_else(
        |_| RandomState::new().hash_one(0),
        |seed| seed.parse().unwrap(),
    );
    note(&format!("STORM_SEED={seed}"));
    on_both_drivers(|driver| storm(driver, seed, configure));
}

fn storm(driver: Driver, seed: u64, configure: fn(RouterConfig) -> RouterConfig) {
    let slots = [2, 3, 1];
    let desks = slots.map(|_| Desk::working(work));
    let router = configure(RouterConfig::new(driver))
        .set("auth.required", true)
        .set("auth.api_keys", r#"["sk-a", "sk-b", "sk-c"]"#)
        .set("load_manager.max_waiting", 30)
        .set("load_manager.max_concurrent", 5)
        .set("load_manager.default_timeout_secs", 1)
        .set("queue.max_size", 16)
        .node_serving("one", desks[0].node(), &["p", "q"], slots[0])
        .node_serving("two", desks[1].node(), &["q", "r"], slots[1])
        .node_serving("three", desks[2].node(), &["slow"], slots[2])
        .start();
    let storm = Storm {
        router: &router,
        left: AtomicU64::new(REQUESTS),
        fates: Mutex::default(),
        seed,
    };
    let began = Instant::now();
    std::thread::scope(|scope| {
        for number in 0..CLIENTS {
            let storm = &storm;
            scope.spawn(move || storm.client(number));
        }
    });
    let took = began.elapsed();
    let settled = router.settles();
    let fates = storm.fates.into_inner().unwrap();
    note(&format!(
        "{driver:?}: {took:?}, quiet after {settled:?}: {fates:?}"
    ));
    account(&router.metrics(), &fates, &desks, &slots);
}

fn account(metrics: &Metrics, fates: &BTreeMap<Fate, u64>, desks: &[Desk], slots: &[u32]) {
    let of = |fate: Fate| fates.get(&fate).copied().unwrap_or(0);
    assert_eq!(fates.values().sum::<u64>(), REQUESTS);
    for fate in [
        Fate::Completed,
        Fate::Overloaded,
        Fate::QueueFull,
        Fate::TooLong,
        Fate::WaitTimeout,
        Fate::Left,
        Fate::LeftStream,
    ] {
        assert!(of(fate) > 0, "a storm has all of it: {fates:?}");
    }
    // Each request is completed, refused, timed out or abandoned, and is counted once.
    let requests = "llm_router_requests_total{endpoint=\"chat_completions\"";
    let of_status =
        |status: u16| metrics.value(&format!("{requests},status=\"{status}\"}}")) as u64;
    let accepted = sum_where(metrics, requests, "");
    let (answered, refused, timed_out) = (
        of_status(200),
        of_status(503) + of_status(429),
        of_status(504),
    );
    assert_eq!(accepted, answered + refused + timed_out + of_status(499));
    let cancelled = metrics.sum("llm_router_cancelled_total") as u64;
    let completed = of(Fate::Completed);
    let left = of(Fate::Left) + of(Fate::LeftStream);
    // One that was abandoned before its head was whole is no request.
    assert!(accepted <= REQUESTS && accepted + left >= REQUESTS);
    assert!((completed..=completed + left).contains(&answered));
    assert!(cancelled <= left, "{cancelled} of {left}");
    assert!(accepted <= completed + refused + timed_out + left);
    for phase in ["queue", "first_byte", "stream"] {
        assert!(metrics.cancelled(phase) > 0.0, "nobody left in {phase}");
    }
    // Refusals by reason. Who left may have been refused without noticing.
    for (reason, seen) in [
        ("overloaded", Fate::Overloaded),
        ("model_queue_full", Fate::QueueFull),
        ("wait_too_long", Fate::TooLong),
        ("wait_timeout", Fate::WaitTimeout),
    ] {
        let counted = metrics.rejections(reason) as u64;
        let seen = of(seen);
        assert!(
            (seen..=seen + of(Fate::Left)).contains(&counted),
            "{reason}: {counted} counted, {seen} seen"
        );
    }
    let rejected = metrics.sum("llm_router_rejections_total") as u64;
    assert_eq!(rejected, refused + timed_out);
    // Nothing happened at the nodes that was not decided here, and never too much at once.
    let selections = metrics.sum("llm_router_node_selections_total") as u64;
    let retries = metrics.sum("llm_router_retries_total") as u64;
    assert_eq!(metrics.sum("llm_router_node_failures_total"), 0.0);
    let at_nodes: u64 = desks.iter().map(|desk| desk.arrived().len() as u64).sum();
    // A client may leave after its node was chosen and before anything was sent there.
    assert!(
        (selections + retries - left..=selections + retries).contains(&at_nodes),
        "{selections} chosen, {retries} again, {at_nodes} arrived"
    );
    assert!(at_nodes >= answered);
    for (desk, slots) in desks.iter().zip(slots) {
        let most = desk.present_max();
        assert_eq!(most, *slots as usize, "at once, at the most");
    }
}
