//! One worker thread: a core, a runtime, a listener, and the connections it accepted.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{IpAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::Sender;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::admission::LimitedCounter;
use crate::proxy::{self, Notice, Shared, Worker};
use crate::runtime::{self, Listener, Stream, mailbox};
use crate::telemetry::{Gauge, Occurrence, log};

use super::signals::Knocker;

/// Client connections of the whole process, and how many there may be.
pub(super) type Connections = LimitedCounter;

/// What a worker thread begins with.
pub(super) struct WorkerStart {
    pub(super) index: usize,
    pub(super) pinned_core: Option<usize>,
    /// At least one; workers of a process before may have been more.
    pub(super) listeners: Vec<TcpListener>,
    pub(super) inbox: mailbox::Receiver<Notice>,
    pub(super) connections: Arc<Connections>,
    pub(super) shared: Arc<Shared>,
    /// Accept tasks that run, of all workers.
    pub(super) accepting: Arc<AtomicUsize>,
    /// Where the worker says that it could accept connections, then that it does, or why it cannot.
    pub(super) started: Sender<io::Result<()>>,
    /// Where it is told that the worker has ended.
    pub(super) losses: Arc<Losses>,
}

/// Whether a worker has ended while the process runs; the main thread is told at once.
pub(super) struct Losses {
    any: AtomicBool,
    knocker: Knocker,
}

impl Losses {
    /// None yet.
    pub(super) fn new(knocker: Knocker) -> Self {
        Self {
            any: AtomicBool::new(false),
            knocker,
        }
    }

    pub(super) fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    fn add(&self) {
        self.any.store(true, Ordering::Release);
        self.knocker.worker_ended();
    }
}

/// Starts the thread.
pub(super) fn start(start: WorkerStart) -> io::Result<()> {
    let thread = thread::Builder::new().name(format!("worker-{}", start.index));
    thread.spawn(move || run(start)).map(drop)
}

fn run(start: WorkerStart) {
    let index = start.index;
    if let Some(core) = start.pinned_core
        && let Err(error) = pin(core)
    {
        log::warn(format_args!("worker {index} runs unpinned: {error}"));
    }
    let driver = start.shared.driver;
    let started = start.started.clone();
    let _watch = Watch::of(&start);
    let ended = runtime::block_on(driver, work(start));
    if let Ok(Err(error)) | Err(error) = ended {
        fail(index, error, &started);
    }
}

/// Says why a worker has ended.
fn fail(index: usize, error: io::Error, started: &Sender<io::Result<()>>) {
    log::error(format_args!("worker {index}: {error}"));
    // Nobody listens any more once all workers have started.
    let _ = started.try_send(Err(error));
}

/// Ends the process when its worker ends, also by a panic: a listener nobody serves would take
/// connections from the other workers and leave them unanswered.
struct Watch {
    index: usize,
    started: Sender<io::Result<()>>,
    losses: Arc<Losses>,
}

impl Watch {
    fn of(start: &WorkerStart) -> Self {
        Self {
            index: start.index,
            started: start.started.clone(),
            losses: Arc::clone(&start.losses),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        log::error(format_args!(
            "worker {} has ended; so does the process",
            self.index
        ));
        // At the start somebody may wait for its word; a panic has said nothing.
        let _ = self.started.try_send(Err(io::Error::other("it ended")));
        // The main thread drains what is left.
        self.losses.add();
    }
}

fn pin(core: usize) -> io::Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &cores)?)
}

async fn work(start: WorkerStart) -> io::Result<()> {
    let mut seed = [0; 16];
    getrandom::fill(&mut seed).map_err(io::Error::other)?;
    let (low, high) = seed.split_at(8);
    let seed = [low, high].map(|half| half.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)));
    let worker = Worker::new(start.shared, start.index, seed)
        .ok_or_else(|| io::Error::other("its metrics are taken"))?;
    let listeners = start.listeners.into_iter().map(Listener::new);
    let listeners = listeners
        .map(|listener| listener.map(Rc::new))
        .collect::<io::Result<_>>()?;
    let acceptor = Rc::new(Acceptor {
        worker: Rc::new(worker),
        listeners: RefCell::new(listeners),
        connections: start.connections,
        pause: Cell::new(PAUSE_MIN),
    });
    runtime::spawn(tidy_forever(Rc::clone(&acceptor.worker)));
    // There is room for all words of each worker.
    let _ = start.started.try_send(Ok(()));
    let watch = Watch {
        index: start.index,
        started: start.started.clone(),
        losses: start.losses,
    };
    let hearing = Hearing { acceptor, watch };
    // A task of its own: what is being served goes on when it ends, until all is drained.
    runtime::spawn(hear(start.inbox, hearing, start.accepting, start.started));
    std::future::pending().await
}

/// A worker that is told what to do. When it is not any more, also by a panic, it leaves: nobody could tell it
/// so.
struct Hearing {
    acceptor: Rc<Acceptor>,
    watch: Watch,
}

impl Drop for Hearing {
    fn drop(&mut self) {
        runtime::spawn(Rc::clone(&self.acceptor).close_gently());
    }
}

async fn hear(
    inbox: mailbox::Receiver<Notice>,
    hearing: Hearing,
    accepting: Arc<AtomicUsize>,
    started: Sender<io::Result<()>>,
) {
    let acceptor = &hearing.acceptor;
    let ended = inbox.run(|notice| match notice {
        Notice::OpenListeners => {
            acceptor.open(&accepting);
            let _ = started.try_send(Ok(()));
        }
        Notice::CloseListeners => runtime::spawn(Rc::clone(acceptor).close_gently()),
        Notice::ReleaseListeners => acceptor.release(),
        Notice::Turn { seat } => acceptor.worker.turn_came(seat),
        Notice::Frame => acceptor.worker.frame_came(),
        Notice::Answer(answer) => acceptor.worker.answer_came(*answer),
        Notice::NodesChanged => acceptor.worker.nodes_changed(),
        Notice::ConfigChanged => acceptor.worker.follow_config(),
    });
    if let Err(error) = ended.await {
        fail(hearing.watch.index, error, &started);
    }
}

async fn tidy_forever(worker: Rc<Worker>) {
    loop {
        runtime::sleep(TIDY_INTERVAL).await;
        worker.tidy();
    }
}

/// Accepts connections and starts serving them.
struct Acceptor {
    worker: Rc<Worker>,
    /// Until they are closed or released.
    listeners: RefCell<Vec<Rc<Listener>>>,
    connections: Arc<Connections>,
    /// How long to pause when the system has no descriptors or memory left.
    pause: Cell<Duration>,
}

/// One client connection counted in [`Connections`]; given back on drop.
struct Place(Arc<Connections>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.release();
    }
}

impl Acceptor {
    fn open(self: &Rc<Self>, accepting: &Arc<AtomicUsize>) {
        for listener in &*self.listeners.borrow() {
            for _ in 0..listener.accept_tasks() {
                let accepting = Accepting::begin(accepting);
                let listener = Rc::clone(listener);
                runtime::spawn(Rc::clone(self).accept_forever(listener, accepting));
            }
        }
    }

    async fn accept_forever(self: Rc<Self>, listener: Rc<Listener>, _accepting: Accepting) {
        while !listener.is_closed() {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    self.pause.set(PAUSE_MIN);
                    let place = self.wait_for_place(&listener).await;
                    self.serve(stream, peer.ip(), place);
                }
                Err(_) if listener.is_closed() => return,
                // The client left again before it was accepted.
                Err(error) if error.raw_os_error() == Some(libc::ECONNABORTED) => {}
                Err(_) => {
                    // For want of descriptors or memory, mostly: waiting may bring them back.
                    self.worker.metrics.count(Occurrence::AcceptError);
                    let pause = self.pause.get();
                    self.pause.set((pause * 2).min(PAUSE_MAX));
                    runtime::sleep(pause).await;
                }
            }
        }
    }

    /// A place for a connection that was accepted; none once the listener is closed: the kernel took it
    /// long ago, and a drain refuses nobody.
    async fn wait_for_place(&self, listener: &Listener) -> Option<Place> {
        loop {
            if self.connections.try_take() {
                return Some(Place(Arc::clone(&self.connections)));
            }
            if listener.is_closed() {
                return None;
            }
            runtime::sleep(PAUSE_MIN).await;
        }
    }

    fn serve(&self, stream: Stream, peer: IpAddr, place: Option<Place>) {
        let worker = Rc::clone(&self.worker);
        // Counted from here on, not from the task's first turn: a drain must not overlook it.
        let active = worker.metrics.gauge(Gauge::ConnectionsActive);
        runtime::spawn(async move {
            proxy::serve(worker, stream, peer).await;
            drop((active, place));
        });
    }

    /// Stops listening without resetting anyone: handshakes under way finish before the sockets close.
    async fn close_gently(self: Rc<Self>) {
        let listeners = self.listeners.take();
        // Without the filter a connection made in the very moment of closing is reset.
        let filtered = listeners
            .iter()
            .map(|listener| listener.stop_handshakes().is_ok());
        if filtered.fold(false, |any, is_filtered| any | is_filtered) {
            runtime::sleep(HANDSHAKES_FINISH).await;
        }
        for listener in listeners {
            for (stream, peer) in listener.close() {
                self.serve(stream, peer.ip(), None);
            }
        }
        self.close_idle();
    }

    /// Accepts no more. Whoever stands in a backlog is accepted by the process that has the sockets too.
    fn release(&self) {
        for listener in self.listeners.take() {
            listener.release();
        }
        self.close_idle();
    }

    fn close_idle(&self) {
        runtime::close_idle();
        self.worker.pool.clear();
    }
}

/// An accept task that runs; the process is not drained before all of them have ended.
struct Accepting(Arc<AtomicUsize>);

impl Accepting {
    fn begin(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        // Release: whoever sees the count fall also sees the connections that were accepted before.
        self.0.fetch_sub(1, Ordering::Release);
    }
}

/// How long a handshake under way is given to finish before its listener closes.
const HANDSHAKES_FINISH: Duration = Duration::from_millis(200);
const TIDY_INTERVAL: Duration = Duration::from_secs(1);
/// Pauses of accepting when descriptors run out, or when the connection limit is reached.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
