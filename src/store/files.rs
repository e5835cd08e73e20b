//! The files of a data directory: which they are, and how they get out of the way. Only the one that is meant
//! is moved, and never onto another: several processes may find the same file damaged.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// Device and inode of a file.
pub(super) type Identity = (u64, u64);

pub(super) fn file_path(directory: &Path) -> PathBuf {
    directory.join(FILE_NAME)
}

pub(super) fn identity_of(path: &Path) -> io::Result<Identity> {
    let metadata = fs::metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Whether the database of a data directory is this file.
pub(super) fn is_in_place(directory: &Path, file: Identity) -> io::Result<bool> {
    match identity_of(&file_path(directory)) {
        Ok(found) => Ok(found == file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The files SQLite keeps beside the database, in the order of [`BESIDE`].
pub(super) fn beside(directory: &Path) -> [Option<Identity>; 2] {
    let path = file_path(directory);
    BESIDE.map(|suffix| identity_of(&with_suffix(&path, suffix)).ok())
}

/// Moves this file away, with what belongs to it, and says where to. `None` if it is no longer in its place:
/// what is there now is left alone.
pub(super) fn set_aside(
    directory: &Path,
    file: Identity,
    now_unix: u64,
) -> io::Result<Option<PathBuf>> {
    let _held = hold(directory)?;
    if !is_in_place(directory, file)? {
        return Ok(None);
    }
    let path = file_path(directory);
    let aside = free_name(&path, "damaged", now_unix)?;
    // Its log first: replayed into a new file of this name, it would damage that one.
    for suffix in BESIDE.into_iter().chain([""]) {
        let from = with_suffix(&path, suffix);
        match fs::rename(from, with_suffix(&aside, suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(Some(aside))
}

/// What becomes of the log of a file that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Log {
    /// Nobody needs it.
    Removed,
    /// It may hold what the file does not.
    Kept,
}

/// Gets what was beside a file that is gone out of the way of the next one.
pub(super) fn clear(
    directory: &Path,
    beside: [Option<Identity>; 2],
    log: Log,
    now_unix: u64,
) -> io::Result<()> {
    let _held = hold(directory)?;
    let path = file_path(directory);
    let left = free_name(&path, "left", now_unix)?;
    for (suffix, own) in BESIDE.into_iter().zip(beside) {
        let from = with_suffix(&path, suffix);
        // Another process may have begun the next file already.
        if own.is_none() || identity_of(&from).ok() != own {
            continue;
        }
        match log {
            Log::Removed => fs::remove_file(from)?,
            Log::Kept => fs::rename(from, with_suffix(&left, suffix))?,
        }
    }
    Ok(())
}

/// Held while a file is opened, and from the look at one until it is moved: no other process moves files in
/// between. SQLite would take the journal of the next one for that of the one it has just opened, and change
/// both. What is locked is a file that only the owner may open: a lock on the directory could be held by
/// anyone who may read that.
pub(super) fn hold(directory: &Path) -> io::Result<Option<Flock<File>>> {
    hold_within(directory, HOLD_PATIENCE)
}

/// The same for who can wait longer.
pub(super) fn hold_within(directory: &Path, patience: Duration) -> io::Result<Option<Flock<File>>> {
    let until = Instant::now() + patience;
    let lock = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(directory.join(LOCK_NAME));
    let Ok(mut opened) = lock else {
        // What is wrong with the directory shows when a file is to be opened or moved.
        return Ok(None);
    };
    loop {
        match Flock::lock(opened, FlockArg::LockExclusiveNonblock) {
            Ok(held) => return Ok(Some(held)),
            Err((back, Errno::EWOULDBLOCK)) if Instant::now() < until => {
                opened = back;
                thread::park_timeout(HOLD_PAUSE);
            }
            Err((_, Errno::EWOULDBLOCK)) => {
                let reason = "another process is at its files";
                return Err(io::Error::new(io::ErrorKind::WouldBlock, reason));
            }
            // Not every file system has such locks: the look alone has to do.
            Err(_) => return Ok(None),
        }
    }
}

/// A name that says what was moved away and when, and that nothing has yet, nor anything beside it.
fn free_name(path: &Path, what: &str, now_unix: u64) -> io::Result<PathBuf> {
    let name = |number: u32| match number {
        0 => with_suffix(path, &format!(".{what}-{now_unix}")),
        _ => with_suffix(path, &format!(".{what}-{now_unix}.{number}")),
    };
    let is_free = |name: &PathBuf| {
        BESIDE.into_iter().chain([""]).all(|suffix| {
            let found = fs::symlink_metadata(with_suffix(name, suffix));
            found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        })
    };
    (0..NAMES_MAX).map(name).find(is_free).ok_or_else(|| {
        let reason = "too many were moved away just now";
        io::Error::new(io::ErrorKind::AlreadyExists, reason)
    })
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

const FILE_NAME: &str = "llm-router.db";
const LOCK_NAME: &str = "llm-router.db.lock";
/// What SQLite appends to the name for its log and the index of it.
const BESIDE: [&str; 2] = ["-wal", "-shm"];
/// How long other processes may take to open or move files.
const HOLD_PATIENCE: Duration = Duration::from_secs(1);
const HOLD_PAUSE: Duration = Duration::from_millis(5);
/// How many may be moved away within a second.
const NAMES_MAX: u32 = 100;

#[cfg(test)]
#[cfg(not(loom))]
#[path = "files_tests.rs"]
mod tests;
