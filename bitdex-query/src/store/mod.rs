//! The data folder: which files there are, and which of them are still needed.
//!
//! ```text
//! LOCK                 held by the writer; empty, never unlinked
//! MANIFEST             what the store is, and where reading it begins
//! FRONTIER             sequence number of the last durable record
//! WRITER               epoch and address of the writer
//! WANTED               touched by readers in which a query waits for changes
//! RAISE                a format that the writer is asked to raise the store to
//! log-N.seg            segments of the log
//! checkpoint-S.pack    the header as of record S, and what changed between the base and S
//! segment-N-G-S.pack   documents of segment N of generation G, as of record S
//! table-T-G-S.pack     rows of lookup T of generation G, as of record S
//! staged-S.pack        rows of an unfinished load, which the `Freeze` record S took in
//! *.tmp                not published; left over from a crash, replaced or removed by the next writer
//! ```
//!
//! A name says what is in the file, so it is never used again for something else. Every file but FRONTIER is written
//! under a temporary name, synced and renamed, or only appended to; none is changed or shortened in place.

pub mod format;
pub mod manifest;
pub mod pack;
pub mod policy;
pub mod raise;

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
};

use self::manifest::Manifest;
use crate::log::{
    Error, Result,
    disk::{Disk, TEMPORARY},
    segment::{segment_number, segment_path},
};

const PACK_SUFFIX: &str = ".pack";

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
        match fs::metadata(&root) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => {
                let path = root.display();
                return Err(Error::foreign(format!("{path} is not a folder: give --data the folder of a store")));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && create => {
                fs::create_dir_all(&root).map_err(Error::io("make the data folder", &root))?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let path = root.display();
                return Err(Error::foreign(format!("there is no folder {path}: give --data the folder of a store")));
            }
            Err(error) => return Err(Error::io("open the data folder", &root)(error)),
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

    /// The newest manifest; a folder without one holds no store.
    pub fn read_manifest(&self) -> Result<Manifest> {
        if let Some(manifest) = Manifest::read(&self.manifest())? {
            return Ok(manifest);
        }
        self.refuse_remains()?;
        Err(Error::foreign(format!("the data folder {} holds no store: it has no MANIFEST", self.root.display())))
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

    /// Asks the writer to raise the store's format.
    pub fn raise(&self) -> PathBuf {
        self.root.join("RAISE")
    }

    pub fn checkpoint(&self, sequence: u64) -> PathBuf {
        self.named(&checkpoint_name(sequence))
    }

    /// `number`: of 2^20 ids; `generation`: of the load that it belongs to; `sequence`: at which it stands.
    pub fn segment(&self, number: u32, generation: u64, sequence: u64) -> PathBuf {
        self.named(&segment_name(number, generation, sequence))
    }

    /// As [`Folder::segment`], of a lookup.
    pub fn table(&self, source: usize, generation: u64, sequence: u64) -> PathBuf {
        self.named(&table_name(source, generation, sequence))
    }

    /// `sequence`: of the `Freeze` that took the rows in.
    pub fn staged(&self, sequence: u64) -> PathBuf {
        self.named(&staged_name(sequence))
    }

    /// A name out of the manifest.
    pub fn named(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Names of all files.
    pub fn names(&self) -> Result<Vec<String>> {
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
        let remains = |name: &String| segment_number(name).is_some() || is_pack(name);
        Ok(self.names()?.into_iter().filter(remains).min())
    }

    /// An error where there is more of a store than a folder without a manifest can have.
    pub fn refuse_remains(&self) -> Result<()> {
        self.remains()?.map_or(Ok(()), |name| {
            Err(Error::foreign(format!(
                "the data folder {} has {name} but no MANIFEST: restore the manifest, or empty the folder and load again",
                self.root.display()
            )))
        })
    }

    /// Unlinks what the manifest does not need: leftovers, packs that it does not name, and the segments of the log
    /// before the first needed one, in ascending order, on which followers rely. Processes that have them open keep
    /// them. Only for the holder of the lock, and only while no pack is being written or waits to be named.
    pub fn clean(&self, disk: &dyn Disk, manifest: &manifest::Manifest) -> Result<()> {
        let mut segments = Vec::new();
        let needed: HashSet<&str> = manifest.packs().collect();
        for name in self.names()? {
            if name.ends_with(&format!(".{TEMPORARY}")) || (is_pack(&name) && !needed.contains(name.as_str())) {
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
    format!("checkpoint-{sequence:016}{PACK_SUFFIX}")
}

pub fn segment_name(number: u32, generation: u64, sequence: u64) -> String {
    format!("segment-{number:04}-{generation}-{sequence:016}{PACK_SUFFIX}")
}

pub fn table_name(source: usize, generation: u64, sequence: u64) -> String {
    format!("table-{source}-{generation}-{sequence:016}{PACK_SUFFIX}")
}

pub fn staged_name(sequence: u64) -> String {
    format!("staged-{sequence:016}{PACK_SUFFIX}")
}

/// Whether a file of this name, in the folder itself, is a pack.
pub fn is_pack(name: &str) -> bool {
    name.ends_with(PACK_SUFFIX) && !name.contains('/')
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
        Some((_, name)) => Err(Error::foreign(format!(
            "the data folder {} is on {name}, which keeps neither locks nor mapped files as the store needs them: use a \
             local or block volume (ext4, xfs)",
            root.display()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Cause;

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
        let refused = |path: &Path, create, why: &str| {
            let error = Folder::open(path, create).unwrap_err();
            assert!(matches!(error.cause(), Cause::Foreign(told) if told.contains(why)), "{error:?}");
            assert!(error.to_string().contains(&*path.to_string_lossy()), "{error}");
        };
        refused(&root, false, "there is no folder");
        assert!(Folder::open(&root, true).unwrap().root().is_dir());
        let file = parent.path().join("file");
        fs::write(&file, "").unwrap();
        refused(&file, false, "is not a folder");
        refused(&file, true, "is not a folder");
    }

    #[test]
    fn cleaning_leaves_what_the_manifest_names() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::open(root.path(), false).unwrap();
        let segment =
            |number, sequence| manifest::SegmentRef { number, file: segment_name(number, 1, sequence), sequence };
        let table = manifest::TableRef { source: 1, file: table_name(1, 1, 5), sequence: 5 };
        let manifest = manifest::Manifest {
            format: format::NEWEST,
            store: 1,
            definition: "abc".into(),
            epoch: 1,
            first_segment: 3,
            next_sequence: 9,
            checkpoint: Some(manifest::CheckpointRef { file: checkpoint_name(8), sequence: 8, generation: 1 }),
            segments: vec![segment(0, 5), segment(1, 8)],
            tables: vec![table.clone()],
            staged: vec![staged_name(7)],
            prepared: Some(manifest::Prepared {
                generation: 2,
                sequence: 7,
                segments: vec![segment(0, 7)],
                tables: vec![manifest::TableRef { file: table_name(1, 2, 7), ..table }],
                complete: false,
            }),
        };
        let mut kept: Vec<String> = manifest.packs().map(Into::into).collect();
        assert_eq!(kept.len(), 7);
        kept.extend(["LOCK", "MANIFEST", "FRONTIER", "RAISE", "notes.txt"].map(Into::into));
        kept.extend([3, 4].map(|number| segment_path(Path::new(""), number).display().to_string()));
        let gone = [checkpoint_name(7), segment_name(0, 1, 4), table_name(2, 1, 5), staged_name(6)];
        let logs = [1, 2].map(|number| segment_path(Path::new(""), number).display().to_string());
        let leftovers = ["MANIFEST.tmp".to_owned(), format!("{}.tmp", segment_name(2, 1, 8))];
        for name in kept.iter().chain(&gone).chain(&logs).chain(&leftovers) {
            fs::write(root.path().join(name), "").unwrap();
        }
        assert_eq!(folder.remains().unwrap(), Some(checkpoint_name(7)));
        folder.clean(&crate::log::disk::RealDisk, &manifest).unwrap();
        let mut names = folder.names().unwrap();
        names.sort();
        kept.sort();
        assert_eq!(names, kept);
    }
}
