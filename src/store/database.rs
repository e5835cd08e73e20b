//! Opens the database file: ours, of our version, with our settings, or a clear reason why not.

use std::fmt;
use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::files::{
    Identity, Log, beside, clear, file_path, hold, identity_of, is_in_place, set_aside,
};
use super::schema::{APPLICATION_ID, MIGRATIONS, VERSION};

/// An open database, and which file it is.
#[derive(Debug)]
pub(super) struct Database {
    pub(super) connection: Connection,
    pub(super) identity: Identity,
    /// There was nothing in it before.
    pub(super) is_new: bool,
    /// The files SQLite keeps beside it.
    beside: [Option<Identity>; 2],
}

/// Why there is none.
#[derive(Debug)]
pub(super) enum OpenError {
    /// It was written by a newer version of the router, with this schema.
    Newer(i32),
    /// It belongs to another program.
    Foreign,
    /// It is no database, or one that is damaged.
    Damaged(rusqlite::Error),
    /// It cannot be used now.
    Sqlite(rusqlite::Error),
    /// It cannot be reached.
    Io(io::Error),
}

/// Where an open file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Where it belongs.
    Own,
    /// Moved, removed, or replaced: what is written to it is lost.
    Elsewhere,
    /// It cannot be told.
    Unknown,
}

impl Database {
    /// Opens the database of a data directory, making both where they are missing.
    pub(super) fn open(directory: &Path) -> Result<Self, OpenError> {
        let path = file_path(directory);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
        let _held = hold(directory)?;
        make_private(&path)?;
        let identity = identity_of(&path)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(&path, flags)?;
        connection.busy_timeout(OPEN_BUSY_TIMEOUT)?;
        let is_new = check(&mut connection)?;
        switch_to_wal(&connection)?;
        configure(&connection)?;
        migrate(&mut connection, MIGRATIONS)?;
        Ok(Self {
            connection,
            identity,
            is_new,
            beside: beside(directory),
        })
    }

    /// Whether the file is still in its place.
    pub(super) fn place(&self, directory: &Path) -> Place {
        match is_in_place(directory, self.identity) {
            Ok(true) => Place::Own,
            Ok(false) => Place::Elsewhere,
            Err(_) => Place::Unknown,
        }
    }

    /// Closes it after it was taken away from the directory: what its log holds is moved into it, wherever it
    /// is, and the log itself out of the way. SQLite would do neither, and the next file of this name would
    /// be given what the log of this one holds.
    pub(super) fn leave(self, directory: &Path, now_unix: u64) -> io::Result<()> {
        let is_busy = self
            .connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0));
        let log = match is_busy {
            Ok(false) => Log::Removed,
            _ => Log::Kept,
        };
        clear(directory, self.beside, log, now_unix)
    }

    /// Closes one that is damaged, without moving what its log holds into it, and moves it away. Says where to;
    /// `None` if it was taken away before, and its log is out of the way as well.
    pub(super) fn leave_damaged(
        self,
        directory: &Path,
        now_unix: u64,
    ) -> io::Result<Option<PathBuf>> {
        // Refused only by a connection that is broken, which moves nothing either.
        let _ = self
            .connection
            .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        drop(self.connection);
        let aside = set_aside(directory, self.identity, now_unix)?;
        if aside.is_none() {
            clear(directory, self.beside, Log::Kept, now_unix)?;
        }
        Ok(aside)
    }
}

/// Whether the file itself is at fault, not its surroundings.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
    )
}

/// Makes the file where it is missing, readable for its owner only; SQLite gives the files beside it
/// the same mode.
fn make_private(path: &Path) -> io::Result<()> {
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    match made {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Refuses what is not ours, before anything is written to it. Says whether it is empty.
fn check(connection: &mut Connection) -> Result<bool, OpenError> {
    // One transaction, so that all three are of one moment: another process may be making the file.
    let moment = connection.transaction()?;
    let application: i32 = pragma(&moment, "application_id")?;
    let objects: i64 =
        moment.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let version: i32 = pragma(&moment, "user_version")?;
    match application {
        APPLICATION_ID if version > VERSION => Err(OpenError::Newer(version)),
        APPLICATION_ID => Ok(false),
        0 if objects == 0 && version == 0 => Ok(true),
        _ => Err(OpenError::Foreign),
    }
}

/// Turns the write-ahead log on. Of several that do so at once, SQLite tells all but one that the
/// database is locked, busy timeout or not: they ask again for as long.
#[expect(
    clippy::disallowed_methods,
    reason = "the store's thread may wait, and there is nothing to wait for"
)]
fn switch_to_wal(connection: &Connection) -> rusqlite::Result<()> {
    let switch = || connection.execute_batch("PRAGMA journal_mode = WAL");
    connection.busy_timeout(Duration::ZERO)?;
    let mut switched = switch();
    for _ in 1..WAL_ATTEMPTS {
        match &switched {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {}
            _ => break,
        }
        thread::sleep(OPEN_BUSY_TIMEOUT / WAL_ATTEMPTS);
        switched = switch();
    }
    connection.busy_timeout(OPEN_BUSY_TIMEOUT)?;
    switched
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(&format!(
        "PRAGMA synchronous = NORMAL;
         PRAGMA journal_size_limit = {WAL_BYTES_KEPT};
         PRAGMA cache_size = -{CACHE_KIB};
         PRAGMA temp_store = MEMORY;
         PRAGMA cell_size_check = ON;
         PRAGMA trusted_schema = OFF;",
    ))
}

/// Takes the steps that are missing, each of which is taken whole or not at all. Another process may be
/// about to do the same.
fn migrate(connection: &mut Connection, migrations: &[&str]) -> rusqlite::Result<()> {
    loop {
        let step = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let version: i32 = pragma(&step, "user_version")?;
        let sql = usize::try_from(version)
            .ok()
            .and_then(|version| migrations.get(version));
        let Some(sql) = sql else {
            return Ok(());
        };
        step.execute_batch(sql)?;
        step.pragma_update(None, "application_id", APPLICATION_ID)?;
        step.pragma_update(None, "user_version", version + 1)?;
        step.commit()?;
    }
}

fn pragma<T: rusqlite::types::FromSql>(connection: &Connection, name: &str) -> rusqlite::Result<T> {
    connection.pragma_query_value(None, name, |row| row.get(0))
}

impl From<rusqlite::Error> for OpenError {
    fn from(error: rusqlite::Error) -> Self {
        match is_damage(&error) {
            true => Self::Damaged(error),
            false => Self::Sqlite(error),
        }
    }
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newer(version) => write!(
                f,
                "it was written by a newer version of llm-router (schema {version}, this one knows \
                 {VERSION}); run that version again, or move the file away"
            ),
            Self::Foreign => f.write_str("it belongs to another program"),
            Self::Damaged(error) => write!(f, "it is damaged: {error}"),
            Self::Sqlite(error) => error.fmt(f),
            Self::Io(error) => error.fmt(f),
        }
    }
}

/// How long another process may keep it locked while it is being opened.
const OPEN_BUSY_TIMEOUT: Duration = Duration::from_millis(500);
const WAL_ATTEMPTS: u32 = 50;
/// The write-ahead log is cut back to this after a checkpoint.
const WAL_BYTES_KEPT: u32 = 16 * 1024 * 1024;
const CACHE_KIB: u32 = 8 * 1024;

#[cfg(test)]
#[cfg(not(loom))]
#[path = "database_tests.rs"]
mod tests;
