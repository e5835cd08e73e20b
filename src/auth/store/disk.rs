//! The file operations of the key store: lock, read whole, replace whole.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::StoreError;

/// Which version of the file was seen: inode, length and times, or that there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp(Option<[i128; 4]>);

impl Stamp {
    /// There is no file.
    pub const ABSENT: Self = Self(None);
}

/// The key file of a data directory.
pub(super) fn file_path(directory: &Path) -> PathBuf {
    directory.join("api-keys.json")
}

/// Takes the writers' lock, waiting a while for another writer; released on drop or by the kernel when the
/// process dies. The lock has its own file because the key file is replaced under it.
pub(super) fn lock(directory: &Path) -> Result<Flock<File>, StoreError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(failed("create the data directory", directory))?;
    let path = directory.join("api-keys.lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed("open", &path))?;
    let until = Instant::now() + LOCK_PATIENCE;
    let mut file = file;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((back, Errno::EWOULDBLOCK)) if Instant::now() < until => {
                file = back;
                thread::park_timeout(LOCK_PAUSE);
            }
            Err((_, errno)) => return Err(failed("lock", &path)(io::Error::from(errno))),
        }
    }
}

/// The whole file, or `None` if there is none.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("open", path)(error)),
    };
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(failed("read", path))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let reason = format!("it is larger than {FILE_BYTES_MAX} bytes");
        return Err(StoreError::Damaged {
            path: path.to_path_buf(),
            reason,
        });
    }
    Ok(Some(bytes))
}

/// Puts a new file in place of the old one. A crash at any moment leaves one of the two, whole; a
/// half-written temporary file is never read and is overwritten by the next writer.
///
/// The caller holds the lock.
pub(super) fn replace(directory: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let path = file_path(directory);
    let temporary = directory.join("api-keys.json.tmp");
    // Removed rather than truncated: it must be a new file with our mode, not someone's link.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("remove", &temporary)(error));
        }
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(failed("create", &temporary))?;
    file.write_all(bytes).map_err(failed("write", &temporary))?;
    file.sync_all().map_err(failed("write", &temporary))?;
    fs::rename(&temporary, &path).map_err(failed("replace", &path))?;
    // The rename itself is durable only once the directory is.
    let sync = File::open(directory).and_then(|directory| directory.sync_all());
    sync.map_err(failed("write", directory))
}

/// One `stat` of the key file.
pub(super) fn stamp(directory: &Path) -> Result<Stamp, StoreError> {
    let path = file_path(directory);
    match fs::metadata(&path) {
        Ok(metadata) => Ok(Stamp(Some([
            i128::from(metadata.ino()),
            i128::from(metadata.len()),
            nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        ]))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Stamp::ABSENT),
        Err(error) => Err(failed("look at", &path)(error)),
    }
}

fn nanoseconds(seconds: i64, rest: i64) -> i128 {
    i128::from(seconds) * 1_000_000_000 + i128::from(rest)
}

fn failed(action: &'static str, path: &Path) -> impl Fn(io::Error) -> StoreError {
    let path = path.to_path_buf();
    move |source| StoreError::Io {
        action,
        path: path.clone(),
        source,
    }
}

/// Several times the size of a full file.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// How long another writer is waited for; each takes milliseconds.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const LOCK_PAUSE: Duration = Duration::from_millis(2);
