//! A warm worker serves from memory it already has: the router runs inside this test, whose allocator
//! counts what worker threads ask for while requests, or events of a stream, pass through.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
#![allow(
    clippy::disallowed_types,
    reason = "a script and the test hand over in turn"
)]
#![allow(unsafe_code, reason = "an allocator that counts")]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use llm_router::auth::key::KeyHash;
use llm_router::config::{BaseUrl, Config, IoDriver, NodeConfig};
use llm_router::control;
use llm_router::server::Server;
use llm_router::store;

use support::{
    MODEL, RawClient, ScriptedNode, chat_body, event, eventually, fixed, note, sse_head,
};

/// The system's allocator, counting what threads named `worker-…` ask for while a count is on.
struct Counting;

static IS_COUNTING: AtomicBool = AtomicBool::new(false);
static COUNT: AtomicU64 = AtomicU64::new(0);

impl Counting {
    fn note() {
        if !IS_COUNTING.load(Ordering::Relaxed) {
            return;
        }
        let mut name = [0_u8; 16];
        // SAFETY: writes at most 16 bytes, and allocates nothing.
        unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
        if name.starts_with(b"worker-") {
            COUNT.fetch_add(1, Ordering::Relaxed);
        }
    }
}

// SAFETY: every call goes to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::note();
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::note();
        // SAFETY: as the caller promised.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        Self::note();
        // SAFETY: as the caller promised.
        unsafe { System.realloc(block, layout, bytes) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations of the workers per turn of `act`, once `WARM_TURNS` turns have warmed them up.
fn per_turn(mut act: impl FnMut()) -> f64 {
    (0..WARM_TURNS).for_each(|_| act());
    COUNT.store(0, Ordering::Relaxed);
    IS_COUNTING.store(true, Ordering::Relaxed);
    (0..TURNS).for_each(|_| act());
    IS_COUNTING.store(false, Ordering::Relaxed);
    COUNT.load(Ordering::Relaxed) as f64 / f64::from(TURNS)
}

/// A router of one worker in this process, in front of `node`. It ends with the process.
fn router(
    driver: IoDriver,
    node: &ScriptedNode,
    configure: impl FnOnce(&mut Config),
) -> (Server, SocketAddr) {
    let directory = std::env::temp_dir().join(format!("llm-router-{}", std::process::id()));
    let mut config = Config {
        nodes: vec![NodeConfig {
            name: "one".to_owned(),
            base_url: BaseUrl::parse(&format!("http://{}", node.address())).unwrap(),
            models: vec![MODEL.to_owned()],
            api_key: None,
            max_concurrency: Some(8),
            weight: 1,
        }],
        ..Config::default()
    };
    config.server.host = IpAddr::V4(Ipv4Addr::LOCALHOST);
    config.server.port = 0;
    config.server.workers = 1;
    config.server.pin_workers = false;
    config.server.io_driver = driver;
    config.server.data_dir = directory;
    config.auth.api_keys = vec![KeyHash::of(KEY.as_bytes())];
    configure(&mut config);
    let (key_file, keys) = control::load_keys(&config).unwrap();
    let data_dir = config.server.data_dir.clone();
    let server = Server::start(config, keys, None, |shared, inbox| {
        let history = Arc::clone(&shared.history);
        let (store, _) = store::start(data_dir, history, Arc::clone(&shared.store))?;
        control::start(shared, key_file, None, store, inbox).map(drop)
    })
    .unwrap();
    assert!(server.wait_until_ready(Duration::from_secs(10)));
    let address = server.address();
    (server, address)
}

fn request() -> Vec<u8> {
    let body = chat_body(MODEL);
    let mut request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: router\r\nAuthorization: Bearer {KEY}\r\n\
         User-Agent: OpenAI/Python 2.8.1\r\nX-Stainless-Lang: python\r\nAccept: application/json\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(&body);
    request
}

fn unary(driver: IoDriver) -> f64 {
    let body = br#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3}}"#;
    let node = ScriptedNode::answering(fixed(body));
    let (_server, address) = router(driver, &node, |_| {});
    let (mut client, request) = (RawClient::connect(address), request());
    per_turn(|| {
        client.send(&request);
        assert_eq!(client.response().body, body);
    })
}

fn events(driver: IoDriver) -> f64 {
    let (next, wanted) = mpsc::channel::<()>();
    let wanted = Mutex::new(wanted);
    let node = ScriptedNode::start(move |call| {
        call.send(sse_head());
        while wanted.lock().unwrap().recv().is_ok() {
            call.send(&event(EVENT));
        }
    });
    let (_server, address) = router(driver, &node, |_| {});
    let mut client = RawClient::connect(address);
    client.send(&request());
    assert_eq!(client.head().status, 200);
    per_turn(|| {
        next.send(()).unwrap();
        let chunk = client.chunk().unwrap();
        assert_eq!(chunk, format!("data: {EVENT}\n\n").as_bytes());
    })
}

/// A request that finds the router overloaded: one runs, one waits, and no more may wait.
fn refusals(driver: IoDriver) -> f64 {
    let (done, release) = mpsc::channel::<()>();
    let release = Mutex::new(release);
    let node = ScriptedNode::start(move |call| {
        if release.lock().unwrap().recv().is_ok() {
            call.send(&fixed(b"{}"));
        }
    });
    let limit = |config: &mut Config| {
        config.load_manager.max_concurrent = 1;
        config.load_manager.max_waiting = 1;
    };
    let (_server, address) = router(driver, &node, limit);
    let request = request();
    let others: Vec<_> = (0..2)
        .map(|_| {
            let mut other = RawClient::connect(address);
            other.send(&request);
            other
        })
        .collect();
    let mut client = RawClient::connect(address);
    let refused = || {
        client.send(&request);
        assert_eq!(client.response().status, 503);
    };
    eventually_overloaded(address);
    let count = per_turn(refused);
    drop((others, done));
    count
}

/// Waits until one request waits.
fn eventually_overloaded(address: SocketAddr) {
    eventually("the router is overloaded", || {
        let mut client = RawClient::connect(address);
        client.send(b"GET /metrics HTTP/1.1\r\nHost: router\r\n\r\n");
        let text = client.response().body;
        String::from_utf8_lossy(&text).contains("llm_router_backpressure_state 2")
    });
}

/// One test, so that nothing else runs in this process meanwhile.
#[test]
fn a_warm_worker_allocates_nothing_for_a_request_an_event_or_a_refusal() {
    for driver in [IoDriver::IoUring, IoDriver::Epoll] {
        let (per_request, per_event) = (unary(driver), events(driver));
        let per_refusal = refusals(driver);
        note(&format!(
            "{driver:?}: {per_request} allocations per request, {per_event} per event, {per_refusal} per refusal"
        ));
        assert!(per_refusal <= ALLOWANCE, "{driver:?}: {per_refusal}");
        assert!(per_request <= ALLOWANCE, "{driver:?}: {per_request}");
        assert!(per_event <= ALLOWANCE, "{driver:?}: {per_event}");
    }
}

const KEY: &str = "sk-test";
const EVENT: &str = r#"{"choices":[{"delta":{"content":"token"}}]}"#;
const WARM_TURNS: u32 = 300;
const TURNS: u32 = 2000;
/// For what is not part of a request: the pause that a loop makes every 64 turns on epoll, and what the
/// worker does once a second.
const ALLOWANCE: f64 = 0.05;
