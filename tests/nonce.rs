//! No answer ever reaches another client: storms in which every request carries a nonce that the node
//! echoes, with aborts, slow readers and nodes that die, on both drivers. Each request knows from its own
//! nonce what its node will do, so each outcome is exact. Seeds are printed; set NONCE_SEED to repeat one.

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

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use support::{
    Call, Driver, Prng, RawClient, Router, RouterConfig, ScriptedNode, eventually, note,
    on_both_drivers, pause, post, sse_head,
};

const THREADS: u64 = 8;
const REQUESTS: u64 = 1500;
const SLOTS: u32 = 3;

/// What is to happen to a request; part of its nonce, so that client and node agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// One JSON body of up to 3000 bytes.
    Unary,
    /// Up to ten events.
    Stream,
    /// Up to ten events, read with pauses.
    SlowReader,
    /// A stream that the client leaves after the first event.
    Abort,
    /// The client leaves before it reads anything.
    AbortUnread,
    /// The node closes before a response byte.
    NodeDies,
    /// The node closes within the stream.
    NodeDiesMidStream,
    /// As `Unary`; the node closes the connection behind the response.
    UnaryThenClose,
}

impl Fate {
    const ALL: [Self; 8] = [
        Self::Unary,
        Self::Stream,
        Self::SlowReader,
        Self::Abort,
        Self::AbortUnread,
        Self::NodeDies,
        Self::NodeDiesMidStream,
        Self::UnaryThenClose,
    ];

    /// Shares in a thousand.
    fn draw(random: &mut Prng, is_peaceful: bool) -> Self {
        match random.below(if is_peaceful { 800 } else { 1000 }) {
            0..450 => Self::Unary,
            450..750 => Self::Stream,
            750..800 => Self::UnaryThenClose,
            800..850 => Self::SlowReader,
            850..900 => Self::Abort,
            900..940 => Self::AbortUnread,
            940..970 => Self::NodeDies,
            _ => Self::NodeDiesMidStream,
        }
    }
}

/// Identifies a request; ends in its fate and its size.
fn nonce(thread: u64, number: u64, fate: Fate, size: u64) -> String {
    let fate = Fate::ALL.iter().position(|known| *known == fate).unwrap();
    format!("n{thread:02}-{number:06}-{fate}-{size}")
}

/// The node's half: fate and size from the nonce in the body.
fn read_nonce(call: &Call) -> (String, Fate, usize) {
    let body: serde_json::Value = serde_json::from_slice(&call.body).unwrap();
    let nonce = body["nonce"].as_str().unwrap().to_owned();
    let mut parts = nonce.rsplit('-');
    let size = parts.next().unwrap().parse().unwrap();
    let fate = Fate::ALL[parts.next().unwrap().parse::<usize>().unwrap()];
    (nonce, fate, size)
}

fn unary_body(nonce: &str, size: usize) -> Vec<u8> {
    format!(
        r#"{{"nonce":"{nonce}","filling":"{}"}}"#,
        nonce.repeat(size * 10)
    )
    .into_bytes()
}

fn stream_event(nonce: &str, number: usize) -> Vec<u8> {
    format!("data: {{\"nonce\":\"{nonce}\",\"number\":{number}}}\n\n").into_bytes()
}

/// Counts a node's requests under way; a request ends before its last byte is sent.
#[derive(Clone, Default)]
struct Load(Arc<(AtomicUsize, AtomicUsize)>);

impl Load {
    fn begin(&self) {
        let now = self.0.0.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.1.fetch_max(now, Ordering::SeqCst);
    }

    fn end(&self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }

    fn peak(&self) -> usize {
        self.0.1.load(Ordering::SeqCst)
    }
}

fn respond(call: &mut Call, load: &Load) {
    let (nonce, fate, size) = read_nonce(call);
    load.begin();
    match fate {
        Fate::Unary | Fate::UnaryThenClose => {
            let body = unary_body(&nonce, size);
            call.send(
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(),
            );
            load.end();
            call.send(&body);
            if fate == Fate::UnaryThenClose {
                call.close();
            }
        }
        Fate::NodeDies => {
            load.end();
            call.close();
        }
        Fate::Stream
        | Fate::SlowReader
        | Fate::Abort
        | Fate::AbortUnread
        | Fate::NodeDiesMidStream => {
            call.send(sse_head());
            for number in 0..=size {
                let event = stream_event(&nonce, number);
                call.send(format!("{:x}\r\n", event.len()).as_bytes());
                call.send(&event);
                call.send(b"\r\n");
                if fate == Fate::Abort || fate == Fate::AbortUnread {
                    call.wait_left();
                    break;
                }
            }
            load.end();
            if fate == Fate::NodeDiesMidStream {
                call.close();
            } else {
                call.send(b"0\r\n\r\n");
            }
        }
    }
}

/// How often each outcome was seen.
#[derive(Default)]
struct Tally {
    complete: AtomicUsize,
    cut: AtomicUsize,
    left: AtomicUsize,
    failed: AtomicUsize,
    refused: AtomicUsize,
}

/// One request from end to end; whatever comes must be this request's own. False when the connection
/// is used up.
fn play(client: &mut RawClient, nonce: &str, fate: Fate, size: usize, tally: &Tally) -> bool {
    let body = format!(r#"{{"model":"m","nonce":"{nonce}"}}"#);
    client.send(&post("/v1/chat/completions", body.as_bytes()));
    let count = |outcome: &AtomicUsize| outcome.fetch_add(1, Ordering::SeqCst);
    if fate == Fate::AbortUnread {
        count(&tally.left);
        return false;
    }
    let head = client.head();
    match (head.status, fate) {
        // No slot is free for this one: never seen by a node.
        (503, _) => {
            client.read_exact(head.field("content-length").unwrap().parse().unwrap());
            count(&tally.refused);
        }
        (502, Fate::NodeDies) => {
            client.read_exact(head.field("content-length").unwrap().parse().unwrap());
            count(&tally.failed);
        }
        (200, Fate::Unary | Fate::UnaryThenClose) => {
            let length = head.field("content-length").unwrap().parse().unwrap();
            let received = client.read_exact(length);
            assert!(
                received == unary_body(nonce, size),
                "{nonce} got another's answer"
            );
            count(&tally.complete);
        }
        (200, Fate::Abort) => {
            assert_eq!(client.chunk().unwrap(), stream_event(nonce, 0), "{nonce}");
            count(&tally.left);
            return false;
        }
        (200, Fate::Stream | Fate::SlowReader) => {
            for number in 0..=size {
                if fate == Fate::SlowReader {
                    pause(Duration::from_millis(1));
                }
                assert_eq!(
                    client.chunk().unwrap(),
                    stream_event(nonce, number),
                    "{nonce}"
                );
            }
            assert_eq!(client.chunk(), None, "{nonce}");
            count(&tally.complete);
        }
        (200, Fate::NodeDiesMidStream) => {
            let (received, _) = client.read_to_end();
            let expected: Vec<u8> = (0..=size)
                .flat_map(|number| {
                    let event = stream_event(nonce, number);
                    [format!("{:x}\r\n", event.len()).as_bytes(), &event, b"\r\n"].concat()
                })
                .collect();
            assert!(
                received == expected,
                "{nonce}: {:?}",
                String::from_utf8_lossy(&received)
            );
            count(&tally.cut);
            return false;
        }
        (status, _) => panic!("{nonce}: {status} for {fate:?}"),
    }
    !head.closes()
}

fn storm(
    driver: Driver,
    slots: u32,
    requests: u64,
    is_peaceful: bool,
) -> (Router, Vec<Load>, Tally) {
    let seed = std::env::var("NONCE_SEED").map_or(20_260, |seed| seed.parse().unwrap());
    note(&format!("NONCE_SEED={seed}"));
    let loads: Vec<Load> = (0..3).map(|_| Load::default()).collect();
    let nodes: Vec<ScriptedNode> = loads
        .iter()
        .map(|load| {
            let load = load.clone();
            ScriptedNode::start(move |call| respond(call, &load))
        })
        .collect();
    let config = nodes
        .iter()
        .enumerate()
        .fold(RouterConfig::new(driver), |config, (index, node)| {
            config.node_with(&format!("node-{index}"), node, "m", slots, "")
        });
    let router = config.start();
    let tally = Tally::default();
    let failure = Mutex::new(None);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (router, tally, failure) = (&router, &tally, &failure);
            scope.spawn(move || {
                let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    let mut random = Prng::new(seed * 1000 + thread);
                    let mut client = router.connect();
                    for number in 0..requests {
                        let fate = Fate::draw(&mut random, is_peaceful);
                        let size = random.below(11);
                        let nonce = nonce(thread, number, fate, size);
                        let goes_on = play(&mut client, &nonce, fate, size as usize, tally);
                        if !goes_on || random.below(50) == 0 {
                            client = router.connect();
                        }
                    }
                }));
                if played.is_err() {
                    *failure.lock().unwrap() = Some(thread);
                }
            });
        }
    });
    assert_eq!(
        failure.into_inner().unwrap(),
        None,
        "a client failed; seed {seed}"
    );
    drop(nodes);
    (router, loads, tally)
}

#[test]
fn no_answer_is_crossed_in_a_storm_of_aborts_slow_readers_and_dying_nodes() {
    on_both_drivers(|driver| {
        let (router, _, tally) = storm(driver, 100, REQUESTS, false);
        router.settles();
        let of = |outcome: &AtomicUsize| outcome.load(Ordering::SeqCst);
        let (complete, cut, left, failed, refused) = (
            of(&tally.complete),
            of(&tally.cut),
            of(&tally.left),
            of(&tally.failed),
            of(&tally.refused),
        );
        note(&format!(
            "complete {complete}, cut {cut}, left {left}, failed {failed}, refused {refused}"
        ));
        assert_eq!(refused, 0, "there is a slot for everyone");
        assert_eq!(
            complete + cut + left + failed,
            (THREADS * REQUESTS) as usize
        );
        let metrics = router.metrics();
        let answered = |status: &str| {
            metrics
                .get(&format!(
                    r#"llm_router_requests_total{{endpoint="chat_completions",status="{status}"}}"#
                ))
                .unwrap_or_default()
        };
        assert_eq!(answered("502"), failed as f64);
        // Who left without reading may have been counted as answered, cut off, or not at all if its
        // request was never received whole: what was read has exactly one record.
        assert!(answered("200") >= (complete + cut) as f64);
        assert!(answered("200") + answered("499") <= (complete + cut + left) as f64);
        let died = r#"reason="closed_mid_response""#;
        let counted: f64 = metrics
            .names()
            .filter(|name| {
                name.starts_with("llm_router_node_failures_total") && name.contains(died)
            })
            .map(|name| metrics.value(name))
            .sum();
        assert_eq!(counted, cut as f64);
    });
}

#[test]
fn a_node_never_has_more_requests_than_slots() {
    on_both_drivers(|driver| {
        let (router, loads, tally) = storm(driver, SLOTS, 300, true);
        router.settles();
        for load in &loads {
            assert!(load.peak() <= SLOTS as usize, "{} at once", load.peak());
        }
        let complete = tally.complete.load(Ordering::SeqCst);
        let refused = tally.refused.load(Ordering::SeqCst);
        assert_eq!(complete + refused, (THREADS * 300) as usize);
        // Eight clients and nine slots: nobody is turned away.
        assert_eq!(refused, 0);
        eventually("the pool holds no active connection", || {
            let metrics = router.metrics();
            metrics
                .names()
                .filter(|name| name.contains("state=\"active\""))
                .all(|name| metrics.value(name) == 0.0)
        });
    });
}
