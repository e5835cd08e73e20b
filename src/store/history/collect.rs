//! Takes the records from the workers' queues, writes them, and deletes what is past its time.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use crate::runtime::clock;
use crate::store::StoreError;
use crate::store::keeper::{Durability, Keeper};
use crate::telemetry::{History, HistoryRecord, StoreHealth, log};

use super::{keep, write};

/// What of the history is between the workers and the file.
pub(in crate::store) struct Collector {
    history: Arc<History>,
    health: Arc<StoreHealth>,
    /// Taken from the queues and not yet written.
    pending: Vec<HistoryRecord>,
    /// Makes ids unique.
    serial: u32,
    clean_at: Instant,
}

impl Collector {
    pub(in crate::store) fn new(history: Arc<History>, health: Arc<StoreHealth>) -> Self {
        Self {
            history,
            health,
            pending: Vec::new(),
            // Another process may write at the same time; where both begin is chance.
            serial: getrandom::u32().unwrap_or_default(),
            clean_at: Instant::now(),
        }
    }

    /// Where it is heard that records should not wait any longer.
    pub(in crate::store) fn alarms(&self) -> &Receiver<()> {
        self.history.alarms()
    }

    /// How long records may wait in their queues, unless there is an alarm.
    pub(in crate::store) fn interval(&self) -> Duration {
        match self.history.is_on() {
            true => COLLECT_INTERVAL,
            false => CLEAN_INTERVAL,
        }
    }

    /// Writes what waits, and deletes a little of what is past its time; whether there is more to do
    /// at once.
    pub(in crate::store) fn work(&mut self, keeper: &mut Keeper) -> bool {
        let may_be_more = self.write_batch(keeper);
        let must_clean_on = self.clean(keeper);
        may_be_more || must_clean_on
    }

    /// Writes everything, as far as that is possible before `until`.
    pub(in crate::store) fn finish(&mut self, keeper: &mut Keeper, until: Instant) {
        while Instant::now() < until {
            let may_be_more = self.write_batch(keeper);
            match self.pending.is_empty() {
                true if !may_be_more => break,
                true => {}
                false => thread::park_timeout(RETRY_PAUSE),
            }
        }
        self.history.take(&mut self.pending, usize::MAX);
        let lost = self.pending.len();
        if lost > 0 {
            self.health.history_lost(lost as u64);
            log::warn(format_args!(
                "{lost} requests are missing in the history: the store fails"
            ));
        }
    }

    /// One transaction; whether it was full and worked.
    fn write_batch(&mut self, keeper: &mut Keeper) -> bool {
        let room = BATCH_RECORDS.saturating_sub(self.pending.len());
        let may_be_more = self.history.take(&mut self.pending, room);
        if self.pending.is_empty() {
            return false;
        }
        let until = Instant::now() + BUSY_TIMEOUT;
        let (records, serial) = (&self.pending, &mut self.serial);
        let written = keeper.write(until, Durability::Process, |transaction| {
            write::insert(transaction, records, serial)
        });
        match written {
            Ok(()) => self.health.history_written(self.pending.len() as u64),
            Err(StoreError::Conflict) => self.health.history_lost(self.pending.len() as u64),
            // They wait here, later ones in their queues, which have an end.
            Err(StoreError::Busy | StoreError::Unavailable) => return false,
        }
        self.pending.clear();
        may_be_more
    }

    /// Deletes a little, if it is time to; whether there may be more.
    fn clean(&mut self, keeper: &mut Keeper) -> bool {
        let now = Instant::now();
        if now < self.clean_at {
            return false;
        }
        self.clean_at = now + CLEAN_INTERVAL;
        let limits = self.history.limits();
        let before = clock::unix_secs().saturating_sub(limits.retention_secs) * 1000;
        let until = now + BUSY_TIMEOUT;
        let is_due = keeper.read(until, |connection| {
            keep::is_due(connection, before, limits.rows_max)
        });
        if is_due != Ok(true) {
            return false;
        }
        let deleted = keeper.write(until, Durability::Process, |transaction| {
            keep::delete_some(transaction, before, limits.rows_max, DELETE_STEP)
        });
        let is_full_step = deleted.is_ok_and(|deleted| deleted >= DELETE_STEP);
        if is_full_step {
            self.clean_at = now;
        }
        is_full_step
    }
}

/// Most requests one transaction writes: a few ten milliseconds, in which nobody else can write.
const BATCH_RECORDS: usize = 4096;
/// Most requests one transaction deletes: more than it takes to keep up with writing.
const DELETE_STEP: u64 = 5000;
/// How long a batch waits for other processes before those who wait for the thread are heard.
const BUSY_TIMEOUT: Duration = Duration::from_millis(250);
/// How often the queues are looked through.
const COLLECT_INTERVAL: Duration = Duration::from_millis(100);
/// At the end, between attempts to write to a database that fails.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// How often it is looked what is past its time.
const CLEAN_INTERVAL: Duration = Duration::from_secs(1);
