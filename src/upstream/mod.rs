//! Connections to nodes: one worker's idle connections, and connecting anew.
//!
//! An idle connection has no read pending. Its socket is looked at before it is used again, and now and
//! then while it is idle: if the node has closed it or has sent bytes nobody asked for, it is dropped
//! instead of being used. Connections are handed out last in, first out, so the warm ones stay warm and
//! the surplus ages out.
//!
//! The first read of a response begins once the request is out ([`response_buf`] is what it reads into):
//! under load the answer is then often there, where a read that stood since before would first find
//! nothing, and cost the kernel two visits to the socket more.
//!
//! Must never resolve a name (addresses come resolved from the node table) and never block.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::time::Duration;

use crate::nodes::{Node, NodeId, NodeTable};
use crate::runtime::{self, Buf, HEADROOM, Stream, clock};
use crate::telemetry::{PoolGuard, PoolRecorder, PoolState, Recorder};

/// Bounds of one worker's pool (`connection_pool`, spec section 2).
#[derive(Debug, Clone, Copy)]
pub struct PoolLimits {
    /// Idle connections kept per node; beyond it the oldest is closed.
    pub max_idle_per_node: usize,
    /// Age at which an idle connection is closed.
    pub idle_timeout: Duration,
}

/// One worker's connections, by node.
pub struct Pool {
    limits: Cell<PoolLimits>,
    /// Sweeps so far: which of many idle connections the next one looks at.
    sweep_count: Cell<usize>,
    metrics: Recorder,
    nodes: RefCell<HashMap<NodeId, NodePool, BuildHasherDefault<NodeHasher>>>,
}

/// A connection to a node, counted for as long as it lives.
pub struct Upstream {
    /// The socket; no read is pending when it is handed out. Boxed once per connection: each response
    /// hands it on several times.
    pub stream: Box<Stream>,
    count: PoolGuard,
}

/// Node ids are small numbers of our own making: nobody outside can choose them to collide.
#[derive(Default)]
struct NodeHasher(u64);

struct NodePool {
    count: PoolRecorder,
    idle: Vec<Idle>,
}

struct Idle {
    upstream: Upstream,
    /// Coarse time at which it became idle.
    since: Duration,
}

impl Pool {
    /// An empty pool.
    pub fn new(limits: PoolLimits, metrics: Recorder) -> Self {
        Self {
            limits: Cell::new(limits),
            sweep_count: Cell::new(0),
            metrics,
            nodes: RefCell::default(),
        }
    }

    /// Changes the bounds; connections beyond them go at the next [`Pool::sweep`].
    pub fn set_limits(&self, limits: PoolLimits) {
        self.limits.set(limits);
    }

    /// The connection to `node` that became idle last and is still alive.
    pub fn check_out(&self, node: NodeId) -> Option<Upstream> {
        let mut nodes = self.nodes.borrow_mut();
        let idle = &mut nodes.get_mut(&node)?.idle;
        while let Some(Idle { mut upstream, .. }) = idle.pop() {
            // Else the node has closed it, or sent bytes that belong to no request.
            if upstream.stream.reader.is_quiet() {
                upstream.count.change(PoolState::Active);
                return Some(upstream);
            }
        }
        None
    }

    /// Connects to the first of the node's addresses that answers, within `limit` in all.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] at the limit, otherwise the last address's error;
    /// [`io::ErrorKind::AddrNotAvailable`] when there is no address.
    pub async fn connect(&self, node: &Node, limit: Duration) -> io::Result<Upstream> {
        let count = self.count(node);
        let began = clock::now();
        let mut outcome = Err(io::ErrorKind::AddrNotAvailable.into());
        for (index, address) in node.addresses.iter().enumerate() {
            // Each address gets its share of what is left: one that swallows packets must not use up
            // the time of the others.
            let addresses_left = u32::try_from(node.addresses.len() - index).unwrap_or(u32::MAX);
            let share = limit.saturating_sub(began.elapsed()) / addresses_left;
            let connected = runtime::timeout(share, Stream::connect(*address)).await;
            outcome = connected.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()));
            if outcome.is_ok() {
                break;
            }
        }
        let stream = Box::new(outcome?);
        Ok(Upstream { stream, count })
    }

    /// Keeps a connection whose response has ended cleanly.
    pub fn check_in(&self, node: NodeId, mut upstream: Upstream) {
        let mut nodes = self.nodes.borrow_mut();
        let Some(NodePool { idle, .. }) = nodes.get_mut(&node) else {
            return;
        };
        // The deadline passed just as the response ended: the socket is shut down.
        if upstream.stream.deadline.expired() {
            return;
        }
        upstream.stream.deadline.clear();
        upstream.count.change(PoolState::Idle);
        if idle.len() >= self.limits.get().max_idle_per_node {
            idle.remove(0);
        }
        idle.push(Idle {
            upstream,
            since: clock::coarse(),
        });
    }

    /// Closes connections that were idle for too long, that the node has closed, that are too many, or
    /// whose node is no longer in `table`; returns how many. To be called about once a second. Of many
    /// idle connections each call looks at [`LOOKS_PER_SWEEP`] or a few less, in turn.
    pub fn sweep(&self, table: &NodeTable) -> usize {
        let now = clock::coarse();
        let limits = self.limits.get();
        let mut nodes = self.nodes.borrow_mut();
        let idle_count: usize = nodes.values().map(|pool| pool.idle.len()).sum();
        let stride = idle_count.div_ceil(LOOKS_PER_SWEEP).max(1);
        let mut number = self.sweep_count.get();
        self.sweep_count.set(number.wrapping_add(1));
        let mut closed = 0;
        nodes.retain(|node, pool| {
            let is_known = table.node_by_id(*node).is_some();
            let before = pool.idle.len();
            pool.idle.retain(|idle| {
                number = number.wrapping_add(1);
                is_known
                    && now.saturating_sub(idle.since) < limits.idle_timeout
                    && (!number.is_multiple_of(stride) || idle.upstream.stream.reader.is_quiet())
            });
            // The oldest stand in front.
            let surplus = pool.idle.len().saturating_sub(limits.max_idle_per_node);
            pool.idle.drain(..surplus);
            closed += before - pool.idle.len();
            is_known
        });
        closed
    }

    /// Closes every idle connection.
    pub fn clear(&self) {
        self.nodes.borrow_mut().clear();
    }

    fn count(&self, node: &Node) -> PoolGuard {
        let mut nodes = self.nodes.borrow_mut();
        let pool = nodes.entry(node.id).or_insert_with(|| NodePool {
            count: self.metrics.pool(&node.name),
            idle: Vec::new(),
        });
        pool.count.connection(PoolState::Active)
    }
}

impl Hasher for NodeHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    #[inline]
    fn write_u32(&mut self, number: u32) {
        // An odd factor keeps neighbours apart in the high bits, which the map looks at first.
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Sockets that one sweep looks at: a fraction of a millisecond.
const LOOKS_PER_SWEEP: usize = 1024;

/// The buffer a response begins in: room in front for the head that is written to the client.
pub fn response_buf() -> Buf {
    Buf::medium().with_headroom(HEADROOM)
}
