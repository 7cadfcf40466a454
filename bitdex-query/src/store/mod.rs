//! The data folder: which files there are, and which of them are still needed.
//!
//! ```text
//! LOCK                 held by the writer; empty, never unlinked
//! MANIFEST             what the store is, and where reading it begins
//! FRONTIER             sequence number of the last durable record
//! WRITER               epoch and address of the writer
//! WANTED               touched by readers in which a query waits for changes
//! log-N.seg            segments of the log
//! checkpoint-S.ckpt    the state at record S
//! *.tmp                not published; left over from a crash, replaced or removed by the next writer
//! ```
//!
//! Every file but FRONTIER is written under a temporary name, synced and renamed, or only appended to; none is changed
//! or shortened in place.

pub mod format;
pub mod manifest;
pub mod pack;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::log::{
    Error, Result,
    disk::{Disk, TEMPORARY},
    segment::{segment_number, segment_path},
};

const CHECKPOINT_PREFIX: &str = "checkpoint-";
const CHECKPOINT_SUFFIX: &str = ".ckpt";

/// File systems on which another machine's processes do not see a lock, a rename or a mapped word as ours do.
const REFUSED: [(u64, &str); 4] = [(0x6969, "NFS"), (0x517b, "SMB"), (0xff53_4d42, "CIFS"), (0xfe53_4d42, "SMB2")];

/// The paths of a data folder.
#[derive(Debug, Clone)]
pub struct Folder {
    root: PathBuf,
}

impl Folder {
    /// Makes the folder where it is missing, and refuses one on a network file system.
    pub fn open(root: impl Into<PathBuf>, create: bool) -> Result<Self> {
        let root = root.into();
        if create {
            fs::create_dir_all(&root).map_err(Error::io("make the data folder", &root))?;
        }
        let stat = rustix::fs::statfs(&root).map_err(|errno| Error::io("open the data folder", &root)(errno.into()))?;
        check_file_system(&root, stat.f_type as u64)?;
        Ok(Self { root })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn lock(&self) -> PathBuf {
        self.root.join("LOCK")
    }

    pub fn manifest(&self) -> PathBuf {
        self.root.join("MANIFEST")
    }

    pub fn frontier(&self) -> PathBuf {
        self.root.join("FRONTIER")
    }

    pub fn writer(&self) -> PathBuf {
        self.root.join("WRITER")
    }

    pub fn wanted(&self) -> PathBuf {
        self.root.join("WANTED")
    }

    pub fn checkpoint(&self, sequence: u64) -> PathBuf {
        self.root.join(checkpoint_name(sequence))
    }

    /// A name out of the manifest.
    pub fn named(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Names of all files.
    fn names(&self) -> Result<Vec<String>> {
        let failed = || Error::io("list", &self.root);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(failed())? {
            if let Ok(name) = entry.map_err(failed())?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// The first file that only a store has; for a folder without a manifest.
    pub fn remains(&self) -> Result<Option<String>> {
        let remains = |name: &String| segment_number(name).is_some() || is_checkpoint(name);
        Ok(self.names()?.into_iter().filter(remains).min())
    }

    /// Unlinks what the manifest does not need: leftovers, older checkpoints, and the segments before the first needed
    /// one, in ascending order, on which followers rely. Processes that have them open keep them. Only for the holder
    /// of the lock, and only while no checkpoint is being written.
    pub fn clean(&self, disk: &dyn Disk, manifest: &manifest::Manifest) -> Result<()> {
        let mut segments = Vec::new();
        let needed = manifest.checkpoint.as_ref().map(|checkpoint| checkpoint.file.as_str());
        for name in self.names()? {
            if name.ends_with(&format!(".{TEMPORARY}")) || (is_checkpoint(&name) && Some(name.as_str()) != needed) {
                remove(disk, &self.root.join(&name))?;
            } else if let Some(number) = segment_number(&name)
                && number < manifest.first_segment
            {
                segments.push(number);
            }
        }
        segments.sort_unstable();
        segments.into_iter().try_for_each(|number| remove(disk, &segment_path(&self.root, number)))
    }
}

pub fn checkpoint_name(sequence: u64) -> String {
    format!("{CHECKPOINT_PREFIX}{sequence:016}{CHECKPOINT_SUFFIX}")
}

fn is_checkpoint(name: &str) -> bool {
    name.starts_with(CHECKPOINT_PREFIX) && name.ends_with(CHECKPOINT_SUFFIX)
}

fn remove(disk: &dyn Disk, path: &Path) -> Result<()> {
    match disk.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        _ => Ok(()),
    }
}

fn check_file_system(root: &Path, kind: u64) -> Result<()> {
    // The kernel's field is signed on some machines.
    match REFUSED.iter().find(|(magic, _)| *magic == kind & 0xffff_ffff) {
        None => Ok(()),
        Some((_, name)) => Err(Error::Foreign(format!(
            "the data folder {} is on {name}, which keeps neither locks nor mapped files as the store needs them: use a \
             local or block volume (ext4, xfs)",
            root.display()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_file_systems_are_refused_by_name() {
        let error = check_file_system(Path::new("/data"), 0x6969).unwrap_err().to_string();
        assert!(error.contains("/data is on NFS"), "{error}");
        assert!(check_file_system(Path::new("/data"), 0xffff_ffff_ff53_4d42).is_err());
        assert!(check_file_system(Path::new("/data"), 0xef53).is_ok());
    }

    #[test]
    fn a_folder_that_is_missing_is_made_or_named() {
        let parent = tempfile::tempdir().unwrap();
        let root = parent.path().join("a/b");
        let error = Folder::open(&root, false).unwrap_err().to_string();
        assert!(error.contains("a/b"), "{error}");
        assert!(Folder::open(&root, true).unwrap().root().is_dir());
    }
}
