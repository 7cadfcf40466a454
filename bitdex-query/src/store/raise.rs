//! Raising a store's format, once no pod of an older release is left that could not read it.
//!
//! Only the holder of the lock replaces the manifest. So where there is a writer it is asked by a file, `RAISE`, which
//! holds the wanted format and a line feed; the writer removes the file once the manifest states the format.

use std::{
    fs, io, thread,
    time::{Duration, Instant},
};

use super::{Folder, format, manifest::Manifest, remove};
use crate::{
    election::try_lock,
    log::{
        Error, Result,
        disk::{Disk, RealDisk},
    },
};

/// How often the asking process looks.
const POLL: Duration = Duration::from_millis(20);

/// For the writer, now and then: does what it is asked, and answers the manifest that it published for it. What it is
/// asked in vain, because it knows no format after `newest`, is removed.
pub fn answer(folder: &Folder, disk: &dyn Disk, manifest: &Manifest, newest: u32) -> Result<Option<Manifest>> {
    let path = folder.raise();
    let asked = match fs::read(&path) {
        // It may be seen before it is wholly written.
        Ok(bytes) if bytes.last() != Some(&b'\n') => return Ok(None),
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read", path)(error)),
    };
    let wanted = str::from_utf8(&asked).ok().and_then(|text| text.trim_end().parse().ok());
    let wanted = wanted.filter(|wanted| (manifest.format + 1..=newest).contains(wanted));
    let raised = wanted.map(|format| Manifest { format, ..manifest.clone() });
    if let Some(raised) = &raised {
        raised.publish(disk, &folder.manifest())?;
    }
    remove(disk, &path)?;
    Ok(raised)
}

/// Raises the store to the newest format, by itself or through its writer. Answers the format before.
pub fn raise(folder: &Folder, patience: Duration) -> Result<u32> {
    let before = folder.read_manifest()?.format;
    let deadline = Instant::now() + patience;
    let mut asked = false;
    while folder.read_manifest()?.format < format::NEWEST {
        if let Some(_lock) = try_lock(&folder.lock())? {
            let manifest = Manifest { format: format::NEWEST, ..folder.read_manifest()? };
            manifest.publish(&RealDisk, &folder.manifest())?;
            remove(&RealDisk, &folder.raise())?;
            break;
        }
        if !asked {
            fs::write(folder.raise(), format!("{}\n", format::NEWEST)).map_err(Error::write(folder.raise()))?;
            asked = true;
        }
        if Instant::now() > deadline {
            remove(&RealDisk, &folder.raise())?;
            return Err(Error::foreign(format!(
                "the writer of {} did not raise its format to {} within {} s: its release may not know that format; \
                 replace every pod by this release first, then try again",
                folder.root().display(),
                format::NEWEST,
                patience.as_secs(),
            )));
        }
        thread::sleep(POLL);
    }
    Ok(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(folder: &Folder) -> Manifest {
        let manifest = Manifest { epoch: 1, next_sequence: 9, ..Manifest::new(format::OLDEST, 1, "abc") };
        manifest.publish(&RealDisk, &folder.manifest()).unwrap();
        manifest
    }

    fn read(folder: &Folder) -> Manifest {
        Manifest::read(&folder.manifest()).unwrap().unwrap()
    }

    #[test]
    fn a_store_without_a_writer_is_raised_at_once() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::open(root.path(), false).unwrap();
        assert!(raise(&folder, Duration::ZERO).unwrap_err().to_string().contains("holds no store"));
        let before = store(&folder);
        assert_eq!(raise(&folder, Duration::ZERO).unwrap(), format::OLDEST);
        assert_eq!(read(&folder), Manifest { format: format::NEWEST, ..before });
        assert_eq!(raise(&folder, Duration::ZERO).unwrap(), format::NEWEST);
    }

    #[test]
    fn the_writer_is_asked() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::open(root.path(), false).unwrap();
        let manifest = store(&folder);
        let _lock = try_lock(&folder.lock()).unwrap().unwrap();
        assert_eq!(answer(&folder, &RealDisk, &manifest, format::NEWEST).unwrap(), None);
        let raised = thread::scope(|scope| {
            let asking = scope.spawn(|| raise(&folder, Duration::from_secs(60)));
            let raised = loop {
                if let Some(raised) = answer(&folder, &RealDisk, &manifest, format::NEWEST).unwrap() {
                    break raised;
                }
                thread::yield_now();
            };
            assert_eq!(asking.join().unwrap().unwrap(), format::OLDEST);
            raised
        });
        assert_eq!(read(&folder), raised);
        assert_eq!(raised.format, format::NEWEST);
        assert!(!folder.raise().exists());
    }

    #[test]
    fn a_writer_that_does_not_know_the_request_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::open(root.path(), false).unwrap();
        let manifest = store(&folder);
        let _lock = try_lock(&folder.lock()).unwrap().unwrap();
        let error = raise(&folder, Duration::ZERO).unwrap_err().to_string();
        assert!(error.contains("replace every pod"), "{error}");
        assert!(!folder.raise().exists());
        assert_eq!(read(&folder), manifest);
    }

    #[test]
    fn a_request_for_what_cannot_be_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::open(root.path(), false).unwrap();
        let manifest = store(&folder);
        let numbers = [format::OLDEST - 1, format::OLDEST, format::NEWEST + 1];
        let lines = numbers.map(|number| format!("{number}\n").into_bytes()).into_iter();
        let removed = lines.chain([b"x\n".to_vec(), b"\xb3\n".to_vec()]).map(|text| (text, true));
        let unfinished = [Vec::new(), format::NEWEST.to_string().into_bytes()].map(|text| (text, false));
        for (text, removed) in removed.chain(unfinished) {
            fs::write(folder.raise(), &text).unwrap();
            assert_eq!(answer(&folder, &RealDisk, &manifest, format::NEWEST).unwrap(), None);
            assert_eq!(folder.raise().exists(), !removed, "{text:?}");
        }
        assert_eq!(read(&folder), manifest);
    }
}
