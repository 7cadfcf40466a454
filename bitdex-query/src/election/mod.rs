//! Who writes: the process that holds the lock on the folder's LOCK file.
//!
//! The file is made once, never unlinked, never written and never truncated, so that all processes lock the same one.
//! The kernel gives the lock up when its holder ends, however that happens; a candidate that waits blocked on it goes on
//! at once. The lock says who may write *now*; the epoch, which each promotion raises in the manifest before it writes
//! anything, says whose segments are whose. Somebody may remove the file all the same: the holder looks whether it is still
//! there before it acknowledges anything, and before each manifest.

mod address;

use std::{
    fs::File,
    io::{self, ErrorKind},
    path::Path,
};

use rustix::fs::{FlockOperation, flock};

pub use address::{publish_address, read_address};

use crate::log::{Error, Result, named::Named};

/// The right to write, as long as it lives.
#[derive(Debug)]
#[must_use = "the lock is given up when the guard is dropped"]
pub struct LockGuard {
    _file: File,
    locked: Locked,
}

impl LockGuard {
    pub fn locked(&self) -> &Locked {
        &self.locked
    }
}

/// Which file is locked. The lock is worth nothing once others would lock another one.
#[derive(Debug, Clone)]
pub struct Locked(Named);

impl Locked {
    /// Fails where the file was removed, or another one put in its place.
    pub fn check(&self) -> Result<()> {
        match self.0.is_there()? {
            true => Ok(()),
            false => Err(Error::foreign(format!(
                "{} was replaced while processes of its folder were running: stop them all, then start them again",
                self.0.path().display()
            ))),
        }
    }
}

/// Takes the lock if it is free.
pub fn try_lock(path: &Path) -> Result<Option<LockGuard>> {
    let file = open(path)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => confirm(path, file).map(Some),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(errno) => Err(Error::io("lock", path)(errno.into())),
    }
}

/// Waits, blocked, until the lock is free, and takes it.
pub fn lock(path: &Path) -> Result<LockGuard> {
    let file = open(path)?;
    loop {
        match flock(&file, FlockOperation::LockExclusive) {
            Ok(()) => return confirm(path, file),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(Error::io("lock", path)(errno.into())),
        }
    }
}

fn open(path: &Path) -> Result<File> {
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(|error| not_opened(path, error))
}

fn not_opened(path: &Path, error: io::Error) -> Error {
    match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Error::foreign(format!(
            "cannot open {}: {error}: a process that may write there can become the writer; one that is only to read is \
             given --reader-only",
            path.display()
        )),
        _ => Error::io("open", path)(error),
    }
}

fn confirm(path: &Path, file: File) -> Result<LockGuard> {
    let locked = Locked(Named::new(path, &file)?);
    locked.check()?;
    Ok(LockGuard { _file: file, locked })
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::mpsc, thread};

    use super::*;
    use crate::log::Cause;

    #[test]
    fn one_holds_and_the_next_follows_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("LOCK");
        let held = try_lock(&path).unwrap().unwrap();
        assert!(try_lock(&path).unwrap().is_none());
        let (sender, promoted) = mpsc::channel();
        let waiting = thread::spawn({
            let path = path.clone();
            move || {
                let guard = lock(&path).unwrap();
                sender.send(()).unwrap();
                guard
            }
        });
        assert!(promoted.try_recv().is_err());
        drop(held);
        promoted.recv().unwrap();
        let guard = waiting.join().unwrap();
        assert!(try_lock(&path).unwrap().is_none());
        drop(guard);
        assert!(try_lock(&path).unwrap().is_some());
    }

    #[test]
    fn one_that_may_not_write_is_told_how_it_can_read() {
        let path = Path::new("/data/LOCK");
        for kind in [ErrorKind::PermissionDenied, ErrorKind::ReadOnlyFilesystem] {
            let error = not_opened(path, kind.into()).to_string();
            assert!(error.contains("/data/LOCK") && error.contains("--reader-only"), "{error}");
        }
        assert!(matches!(not_opened(path, ErrorKind::StorageFull.into()).cause(), Cause::Io { .. }));
    }

    #[test]
    fn a_lock_on_a_file_that_was_replaced_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("LOCK");
        let file = open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let error = confirm(&path, file).unwrap_err().to_string();
        assert!(error.contains("was replaced"), "{error}");

        let guard = try_lock(&path).unwrap().unwrap();
        guard.locked().check().unwrap();
        fs::remove_file(&path).unwrap();
        let another = try_lock(&path).unwrap().unwrap();
        let error = guard.locked().check().unwrap_err().to_string();
        assert!(error.contains("was replaced"), "{error}");
        another.locked().check().unwrap();
    }
}
