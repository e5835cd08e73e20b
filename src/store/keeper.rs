//! Keeps the database open, notices when it fails and when it works again, and tells everyone once.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};

use crate::runtime::clock;
use crate::telemetry::{StoreHealth, log};

use super::StoreError;
use super::database::{Database, OpenError, Place, is_damage};
use super::files::{Identity, file_path, identity_of, set_aside};
use super::rescue::Rescued;
use super::seal::Sealer;

/// The database of a data directory, open or about to be opened again.
pub(super) struct Keeper {
    directory: PathBuf,
    database: Option<Database>,
    /// The file that was open last.
    file: Option<Identity>,
    /// What was read of one that was left behind, to be written to the next one before anything else.
    rescued: Option<Rescued>,
    sealer: Sealer,
    health: Arc<StoreHealth>,
    /// After a failure: nothing is tried before this.
    retry_at: Option<Instant>,
    /// When the file is written next to see whether it can be.
    beat_at: Instant,
}

/// How much of a transaction must be on the disk when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durability {
    /// All of it, even if the machine loses power.
    Disk,
    /// It survives the end of the process; after a loss of power the last ones may be missing.
    Process,
}

impl Keeper {
    /// Opens the database, if that is possible now.
    pub(super) fn open(directory: &Path, health: Arc<StoreHealth>) -> Self {
        let now = Instant::now();
        let mut keeper = Self {
            directory: directory.to_path_buf(),
            database: None,
            file: None,
            rescued: None,
            sealer: Sealer::new(directory),
            health,
            retry_at: None,
            beat_at: now,
        };
        keeper.look_after(now);
        keeper
    }

    pub(super) fn sealer(&self) -> &Sealer {
        &self.sealer
    }

    /// Reads; waits for other processes until `until`.
    pub(super) fn read<T>(
        &mut self,
        until: Instant,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        self.with_database(until, |database| work(&database.connection))
    }

    /// Writes, all or nothing; waits for other processes until `until`.
    pub(super) fn write<T>(
        &mut self,
        until: Instant,
        durability: Durability,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let done = self.with_database(until, |database| {
            let connection = &mut database.connection;
            let synchronous = match durability {
                Durability::Disk => "FULL",
                Durability::Process => "NORMAL",
            };
            connection.pragma_update(None, "synchronous", synchronous)?;
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let done = work(&transaction)?;
            transaction.commit()?;
            Ok(done)
        })?;
        self.beat_at = Instant::now() + BEAT_INTERVAL;
        if self.health.works() {
            log::info(format_args!("the store works again"));
        }
        Ok(done)
    }

    /// Opens what is closed, and writes to what was not written to for a while.
    pub(super) fn look_after(&mut self, now: Instant) {
        if let Some(database) = &self.database {
            let place = database.place(&self.directory);
            if place == Place::Elsewhere {
                self.leave();
            }
            if place != Place::Own {
                self.fail("its file is no longer in its place", None);
            }
        }
        let is_due = now >= self.beat_at || self.health.is_failing();
        if is_due && self.retry_at.is_none_or(|retry_at| now >= retry_at) {
            let at = clock::unix_secs().cast_signed();
            // What it leads to is told by the state of the store.
            let _ = self.write(
                now + BEAT_BUSY_TIMEOUT,
                Durability::Process,
                |transaction| transaction.execute("UPDATE beat SET at = ?1", [at]),
            );
        }
    }

    /// Why a credential was not sealed goes to the log; the database is not to blame.
    pub(super) fn cannot_seal(&self, error: &io::Error) -> StoreError {
        log::error(format_args!(
            "cannot seal a credential with seal.key in {}: {error}",
            self.directory.display()
        ));
        StoreError::Unavailable
    }

    fn with_database<T>(
        &mut self,
        until: Instant,
        work: impl FnOnce(&mut Database) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        self.ensure_open()?;
        let Some(database) = &mut self.database else {
            return Err(StoreError::Unavailable);
        };
        let patience = until.saturating_duration_since(Instant::now());
        let done = database
            .connection
            .busy_timeout(patience.saturating_sub(REPLY_MARGIN))
            .and_then(|()| work(database));
        done.map_err(|error| self.failed(&error))
    }

    fn ensure_open(&mut self) -> Result<(), StoreError> {
        if self.database.is_some() {
            return Ok(());
        }
        if self
            .retry_at
            .is_some_and(|retry_at| Instant::now() < retry_at)
        {
            return Err(StoreError::Unavailable);
        }
        // Before the attempt: only what may be what was opened is moved away.
        let found = identity_of(&file_path(&self.directory));
        let mut is_set_aside = false;
        let taken_up = match self.take_up() {
            Err(error @ (OpenError::Damaged(_) | OpenError::Foreign)) => {
                let now_unix = clock::unix_secs();
                let moved = found.and_then(|file| set_aside(&self.directory, file, now_unix));
                self.tell_unusable(&error.to_string(), moved);
                is_set_aside = true;
                self.take_up()
            }
            taken_up => taken_up,
        };
        match taken_up {
            Ok(database) => {
                let is_other = self.is_another(&database);
                self.file = Some(database.identity);
                self.database = Some(database);
                self.retry_at = None;
                if is_set_aside || is_other {
                    self.tell_begun_anew();
                }
                // Else it is the file of before, which has them.
                self.rescued = None;
                Ok(())
            }
            Err(error) => {
                self.fail(&error.to_string(), Some(RETRY_INTERVAL));
                Err(StoreError::Unavailable)
            }
        }
    }

    /// Opens the file; one that follows another gets what was read of that, unless it refuses it.
    fn take_up(&mut self) -> Result<Database, OpenError> {
        let mut database = Database::open(&self.directory)?;
        let Some(rescued) = self.rescued.as_ref().filter(|_| self.is_another(&database)) else {
            return Ok(database);
        };
        match rescued.write_to(&mut database.connection) {
            // It would do so every time.
            Err(error) if is_refusal(&error) => {
                log::error(format_args!(
                    "{} refuses what was to be taken over, {rescued}: {error}",
                    file_path(&self.directory).display()
                ));
                self.rescued = None;
            }
            written => written?,
        }
        Ok(database)
    }

    /// Whether this is not the file that was open before.
    fn is_another(&self, database: &Database) -> bool {
        let is_other = |file: Identity| database.is_new || database.identity != file;
        self.file.is_some_and(is_other)
    }

    /// Takes leave of a file that was taken away.
    fn leave(&mut self) {
        self.rescue();
        let left = self.database.take();
        let left = left.map(|database| database.leave(&self.directory, clock::unix_secs()));
        if let Some(Err(error)) = left {
            log::error(format_args!(
                "the log of the file of before is in the way in {}: {error}",
                self.directory.display()
            ));
        }
    }

    /// Reads what the next file must know, before this one is closed.
    fn rescue(&mut self) {
        let rescued = self.database.as_ref().map(|database| {
            // What is not read now is not read at all, but others wait as well.
            let _ = database.connection.busy_timeout(BEAT_BUSY_TIMEOUT);
            Rescued::from(&database.connection)
        });
        // An attempt to write an earlier one may have failed.
        self.rescued = rescued.or_else(|| self.rescued.take());
    }

    fn tell_begun_anew(&mut self) {
        let file = file_path(&self.directory);
        match self.rescued.take() {
            Some(rescued) => log::error(format_args!(
                "{} is not the file of before: requests until now are missing in the history; taken over \
                 were {rescued}",
                file.display()
            )),
            None => log::error(format_args!(
                "{} is not the file of before: requests until now are missing in the history, and so are \
                 registered nodes, drains and sessions that this process does not know",
                file.display()
            )),
        }
        self.health.file_begun_anew();
    }

    fn failed(&mut self, error: &rusqlite::Error) -> StoreError {
        match error.sqlite_error_code() {
            // Not the database's fault.
            _ if is_refusal(error) => StoreError::Conflict,
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                self.tell("another process has it locked");
                StoreError::Busy
            }
            _ if is_damage(error) => {
                self.rescue();
                if let Some(database) = self.database.take() {
                    let moved = database.leave_damaged(&self.directory, clock::unix_secs());
                    if moved.is_err() {
                        // It will be found damaged again.
                        self.retry_at = Some(Instant::now() + RETRY_INTERVAL);
                    }
                    self.tell_unusable(&format!("it is damaged: {error}"), moved);
                }
                StoreError::Unavailable
            }
            _ => {
                self.fail(&error.to_string(), Some(RETRY_INTERVAL));
                StoreError::Unavailable
            }
        }
    }

    /// Closes the database for a while.
    fn fail(&mut self, reason: &str, pause: Option<Duration>) {
        self.database = None;
        self.retry_at = pause.map(|pause| Instant::now() + pause);
        self.tell(reason);
    }

    fn tell_unusable(&self, reason: &str, moved: io::Result<Option<PathBuf>>) {
        let file = file_path(&self.directory);
        match moved {
            Ok(Some(aside)) => log::error(format_args!(
                "{} cannot be used: {reason}; it is kept as {}, and a new one is begun",
                file.display(),
                aside.display()
            )),
            Ok(None) => log::error(format_args!(
                "{} cannot be used: {reason}; it was moved away before, and what is there now is taken up",
                file.display()
            )),
            Err(error) => self.tell(&format!("{reason}; it cannot be moved away: {error}")),
        }
    }

    fn tell(&self, reason: &str) {
        if self.health.failed() {
            log::error(format_args!(
                "the store fails: {}: {reason}; requests are served all the same",
                file_path(&self.directory).display()
            ));
        }
    }
}

/// Whether the database works, but does not take what it was given.
fn is_refusal(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation)
}

/// How long after a failure the database is left alone.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// How often the file is written to when there is nothing else to write.
const BEAT_INTERVAL: Duration = Duration::from_secs(10);
/// How long that waits for other processes.
const BEAT_BUSY_TIMEOUT: Duration = Duration::from_millis(500);
/// What is left of a caller's patience for carrying the answer.
const REPLY_MARGIN: Duration = Duration::from_millis(100);

#[cfg(test)]
#[cfg(not(loom))]
#[path = "keeper_tests.rs"]
mod tests;
