//! The mock inference node: an OpenAI-compatible server that answers at once or slowly, whole or
//! broken, exactly as told (spec section 13). Tests and benchmarks put it behind the router.
//!
//! Every answer and every event carries the node's name, the request's nonce and the event's number,
//! so that a crossed, lost or reordered byte shows. It must never think: an answer is a template, and
//! the node is fast enough not to be what a benchmark measures. It must never be exposed either: it
//! asks for no key.

mod answer;
mod ask;
mod connection;
mod events;
mod exchange;
mod inlet;
mod json;
mod message;
mod node;

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;

use crate::runtime::{self, Driver, Listener, Preference};
use exchange::Worker;
use node::Node;
pub use node::Stats;

/// What a mock node serves and how it misbehaves.
#[derive(Debug, Clone)]
pub struct MockOptions {
    /// Where it listens; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Its name, in every answer.
    pub name: String,
    /// The models it has; any other is a 404. With an empty list it takes any name.
    pub models: Vec<String>,
    /// Requests it works on at once; one more is answered 503. `None`: any number.
    pub slots: Option<u32>,
    /// From the request to the first byte of its answer.
    pub first_token_delay: Duration,
    /// Between two tokens. An answer that is no stream takes as long as the stream would.
    pub token_interval: Duration,
    /// Tokens of a generated answer.
    pub token_count: u32,
    /// Bytes of the text of an answer, of the vector of an embedding or of a spoken answer;
    /// `None`: as many as the tokens take.
    pub body_bytes: Option<usize>,
    /// Share of requests answered with a 500, 0 to 1.
    pub error_rate: f64,
    /// Share of requests whose connection is closed in the middle of the answer, 0 to 1.
    pub disconnect_rate: f64,
    /// An idle connection is closed after this; many Python servers use 5 s.
    pub keep_alive: Duration,
    /// Threads, at least 1.
    pub workers: usize,
    /// The I/O driver [`run`] chooses.
    pub io_driver: Preference,
    /// Decides which requests fail: the same seed gives the same sequence.
    pub seed: u64,
}

impl Default for MockOptions {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            name: "mock".into(),
            models: vec!["mock-model".into()],
            slots: None,
            first_token_delay: Duration::ZERO,
            token_interval: Duration::ZERO,
            token_count: 16,
            body_bytes: None,
            error_rate: 0.0,
            disconnect_rate: 0.0,
            keep_alive: Duration::from_secs(5),
            workers: 1,
            io_driver: Preference::Auto,
            seed: 1,
        }
    }
}

/// A running mock node. It ends with the process.
#[derive(Debug, Clone)]
pub struct MockNode {
    /// Where it listens.
    pub address: SocketAddr,
    node: Arc<Node>,
}

impl MockNode {
    /// What it has seen so far; the same figures as `GET /stats`.
    pub fn stats(&self) -> Stats {
        self.node.stats()
    }
}

/// Starts a mock node on threads of its own; it accepts connections when this returns.
///
/// # Errors
/// Options out of range, an address that cannot be bound, threads or rings that cannot be made.
pub fn start(options: MockOptions, driver: Driver) -> io::Result<MockNode> {
    check(&options)?;
    let first = Listener::bind(options.listen)?;
    let address = first.local_addr()?;
    let mut listeners = vec![first];
    while listeners.len() < options.workers {
        listeners.push(Listener::bind(address)?);
    }
    let node = Arc::new(Node::new(options));
    let (started, outcomes) = crossbeam_channel::bounded(listeners.len());
    for (index, listener) in listeners.into_iter().enumerate() {
        let (node, started) = (Arc::clone(&node), started.clone());
        std::thread::Builder::new()
            .name(format!("mock-{index}"))
            .spawn(move || work(driver, node, listener, &started))?;
    }
    // A thread that ends without a word shows as a closed channel.
    drop(started);
    for _ in 0..node.options.workers {
        outcomes
            .recv()
            .map_err(|_| io::Error::other("a mock worker ended while it started"))??;
    }
    Ok(MockNode { address, node })
}

/// Runs a mock node in the foreground and says on standard output where it listens.
///
/// # Errors
/// See [`start`]; also when no I/O driver of the wanted kind works. Does not return otherwise.
pub fn run(options: MockOptions) -> io::Result<()> {
    let driver = runtime::choose(options.io_driver)?.driver;
    let started = start(options, driver)?;
    let name = &started.node.options.name;
    writeln!(
        io::stdout().lock(),
        "mock node {name} listens on http://{} ({driver})",
        started.address
    )?;
    loop {
        std::thread::park();
    }
}

fn check(options: &MockOptions) -> io::Result<()> {
    let rates = [options.error_rate, options.disconnect_rate];
    let problem = if rates.iter().any(|rate| !(0.0..=1.0).contains(rate)) {
        "a rate must lie between 0 and 1"
    } else if !(1..=WORKERS_MAX).contains(&options.workers) {
        "a mock node has 1 to 1024 workers"
    } else if options.token_count > TOKENS_MAX {
        "a mock answer has at most 1000000 tokens"
    } else if options
        .body_bytes
        .is_some_and(|bytes| bytes > BODY_BYTES_MAX)
    {
        "a mock answer has at most 64 MiB of text"
    } else {
        return Ok(());
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, problem))
}

/// One thread: its own listener, several accepts standing at once.
fn work(driver: Driver, node: Arc<Node>, bound: TcpListener, started: &Sender<io::Result<()>>) {
    let ended = runtime::block_on(driver, async {
        let listener = Rc::new(Listener::new(bound)?);
        let worker = Rc::new(Worker::new(node));
        for _ in 1..listener.accept_tasks() {
            runtime::spawn(accept_forever(Rc::clone(&worker), Rc::clone(&listener)));
        }
        // Nobody listens any more if `start` has already failed.
        let _ = started.send(Ok(()));
        accept_forever(worker, listener).await;
        Ok(())
    });
    if let Err(error) | Ok(Err(error)) = ended {
        let _ = started.send(Err(error));
    }
}

async fn accept_forever(worker: Rc<Worker>, listener: Rc<Listener>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => runtime::spawn(connection::serve(Rc::clone(&worker), stream)),
            // Descriptors have run out, most likely: wait for some connections to end.
            Err(_) => runtime::sleep(ACCEPT_RETRY).await,
        }
    }
}

const WORKERS_MAX: usize = 1024;
const TOKENS_MAX: u32 = 1_000_000;
const BODY_BYTES_MAX: usize = 64 << 20;
const ACCEPT_RETRY: Duration = Duration::from_millis(10);
