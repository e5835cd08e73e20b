//! Servers and groups of nothing but counters, for the tests of this module.

use std::sync::Arc;

#[cfg(loom)]
use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

#[cfg(not(loom))]
use super::{Admission, AdmissionLimits, LocalAdmission};
use super::{Group, LimitedCounter, Server};

#[derive(Debug)]
pub(super) struct TestServer {
    pub(super) slots: LimitedCounter,
    is_online: AtomicBool,
}

#[derive(Debug)]
pub(super) struct TestGroup {
    name: &'static str,
    servers: Vec<Arc<TestServer>>,
    waiting: AtomicU32,
}

impl TestServer {
    pub(super) fn new(slots: u32) -> Arc<Self> {
        Arc::new(Self {
            slots: LimitedCounter::new(slots),
            is_online: AtomicBool::new(true),
        })
    }

    #[cfg(not(loom))]
    pub(super) fn set_online(&self, is_online: bool) {
        self.is_online.store(is_online, Ordering::Relaxed);
    }

    pub(super) fn is_online(&self) -> bool {
        self.is_online.load(Ordering::Relaxed)
    }
}

impl TestGroup {
    pub(super) fn new(name: &'static str, servers: &[&Arc<TestServer>]) -> Arc<Self> {
        Arc::new(Self {
            name,
            servers: servers.iter().map(|server| Arc::clone(server)).collect(),
            waiting: AtomicU32::new(0),
        })
    }

    #[cfg(not(loom))]
    pub(super) fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// What a newcomer does before it asks: takes a slot without any lock.
    pub(super) fn try_take(&self) -> Option<&Arc<TestServer>> {
        let mut online = self.servers.iter().filter(|server| server.is_online());
        online.find(|server| server.slots.try_take())
    }
}

impl Server for Arc<TestServer> {
    fn try_take_in_turn(&self) -> bool {
        self.is_online() && self.slots.try_take_in_turn()
    }

    fn release(&self) -> bool {
        self.slots.release()
    }

    fn contend(&self) {
        self.slots.contend();
    }

    fn settle(&self) {
        self.slots.settle();
    }

    fn identity(&self) -> usize {
        Self::as_ptr(self).addr()
    }
}

impl Group for TestGroup {
    type Server = Arc<TestServer>;

    fn name(&self) -> &str {
        self.name
    }

    fn servers(&self) -> &[Arc<TestServer>] {
        &self.servers
    }

    fn member(&self, server: &Arc<TestServer>) -> Option<&Arc<TestServer>> {
        self.servers.iter().find(|own| Arc::ptr_eq(own, server))
    }

    fn try_take_in_turn(&self, rotation: &mut usize) -> Option<&Arc<TestServer>> {
        let count = self.servers.len();
        let index = (0..count)
            .map(|step| (*rotation + step) % count)
            .find(|index| self.servers[*index].try_take_in_turn())?;
        *rotation = index + 1;
        self.servers.get(index)
    }

    fn is_available(&self) -> bool {
        self.servers.iter().any(|server| server.is_online())
    }

    fn publish_waiting(&self, waiting: u32) {
        self.waiting.store(waiting, Ordering::Relaxed);
    }
}

/// Admission of one worker that is alone.
#[cfg(not(loom))]
pub(super) fn alone(limits: AdmissionLimits) -> LocalAdmission<TestGroup> {
    LocalAdmission::new(Arc::new(Admission::new(limits, |_| {})), 0)
}
