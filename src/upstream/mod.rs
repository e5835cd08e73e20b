//! Connections to nodes: one worker's idle connections, and connecting anew.
//!
//! An idle connection keeps a read standing. It will carry the first bytes of the next response, and
//! until then it tells for nothing whether the node has closed the connection or sent bytes nobody
//! asked for; such a connection is dropped instead of being used. Connections are handed out last in,
//! first out, so the warm ones stay warm and the surplus ages out.
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
    metrics: Recorder,
    nodes: RefCell<HashMap<NodeId, NodePool, BuildHasherDefault<NodeHasher>>>,
}

/// A connection to a node, counted for as long as it lives.
pub struct Upstream {
    /// The socket; a read stands on it. Boxed once per connection: each response hands it on several
    /// times.
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
            // Done means closed by the node, or bytes that belong to no request.
            if !upstream.stream.reader.is_done_now() {
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
        let mut stream = Box::new(outcome?);
        stream.reader.arm(response_buf());
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
        upstream.stream.reader.arm_standing(response_buf());
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
    /// whose node is no longer in `table`; returns how many. To be called about once a second.
    pub fn sweep(&self, table: &NodeTable) -> usize {
        let now = clock::coarse();
        let limits = self.limits.get();
        let mut closed = 0;
        self.nodes.borrow_mut().retain(|node, pool| {
            let is_known = table.node_by_id(*node).is_some();
            let before = pool.idle.len();
            pool.idle.retain_mut(|idle| {
                is_known
                    && now.saturating_sub(idle.since) < limits.idle_timeout
                    && !idle.upstream.stream.reader.is_done_now()
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

/// The buffer a response begins in: room in front for the head that is written to the client.
fn response_buf() -> Buf {
    Buf::medium().with_headroom(HEADROOM)
}
