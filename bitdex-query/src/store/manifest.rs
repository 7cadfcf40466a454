//! The manifest: what a store is, and where reading it begins. A small text file, always replaced whole.
//!
//! ```text
//! bitdex manifest 1
//! store 8a1f…              32 hex digits
//! definition 5c0e…         hash of the definition
//! epoch 3                  of the last promotion
//! first_segment 7          the first segment of the log that is needed
//! next_sequence 1234       every record below this one was durable
//! checkpoint checkpoint-0000000000001233.ckpt 1233 1     file, sequence number, generation; absent before the first
//! crc32 89abcdef           of all bytes before this line
//! ```

use std::{fs, io, path::Path};

use crate::log::{
    Error, Result,
    disk::{Disk, publish},
};

/// What this release reads and writes.
pub const MANIFEST_FORMAT: u32 = 1;
const TITLE: &str = "bitdex manifest ";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    pub store: u128,
    pub definition: String,
    pub epoch: u64,
    pub first_segment: u64,
    pub next_sequence: u64,
    pub checkpoint: Option<CheckpointRef>,
    /// By number, ascending.
    pub segments: Vec<SegmentRef>,
    /// By source, ascending.
    pub tables: Vec<TableRef>,
    /// Files of an unfinished load, in the order in which their rows came.
    pub staged: Vec<String>,
    /// The next generation's base, under way or complete.
    pub prepared: Option<Prepared>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentRef {
    pub number: u32,
    pub file: String,
    /// It has taken in all changes up to this sequence number.
    pub sequence: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableRef {
    /// The lookup.
    pub source: usize,
    pub file: String,
    pub sequence: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prepared {
    pub generation: u64,
    /// Of the `Freeze` that staged the load's last rows.
    pub sequence: u64,
    pub segments: Vec<SegmentRef>,
    pub tables: Vec<TableRef>,
    pub complete: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointRef {
    /// A file name in the data folder.
    pub file: String,
    pub sequence: u64,
    pub generation: u64,
}

impl Manifest {
    /// `None` where there is no manifest.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        match fs::read(path) {
            Ok(bytes) => Self::decode(path, &bytes).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("read", path)(error)),
        }
    }

    /// Whether the store may not have a segment yet.
    pub fn is_new(&self) -> bool {
        self.next_sequence == 1 && self.checkpoint.is_none()
    }

    /// Makes this the manifest, durably.
    pub fn publish(&self, disk: &dyn Disk, path: &Path) -> Result<()> {
        publish(disk, path, self.encode().as_bytes()).map(drop)
    }

    /// Refuses a store of another definition.
    pub fn check_definition(&self, folder: &Path, index: &str, definition: &str) -> Result<()> {
        if self.definition == definition {
            return Ok(());
        }
        Err(Error::Foreign(format!(
            "the data folder {} holds a store of definition {}, this process serves index {index} of definition \
             {definition}: start it with the definition that the store was made with, or give the new one an empty \
             folder and load it",
            folder.display(),
            self.definition,
        )))
    }

    fn encode(&self) -> String {
        let mut text = format!(
            "{TITLE}{MANIFEST_FORMAT}\nstore {:032x}\ndefinition {}\nepoch {}\nfirst_segment {}\nnext_sequence {}\n",
            self.store, self.definition, self.epoch, self.first_segment, self.next_sequence,
        );
        if let Some(CheckpointRef { file, sequence, generation }) = &self.checkpoint {
            text.push_str(&format!("checkpoint {file} {sequence} {generation}\n"));
        }
        let crc = crc32fast::hash(text.as_bytes());
        text.push_str(&format!("crc32 {crc:08x}\n"));
        text
    }

    fn decode(path: &Path, bytes: &[u8]) -> Result<Self> {
        let damaged = |offset: usize, reason: &str| {
            Error::damaged(
                path,
                offset as u64,
                format!("{reason}; restore the data folder from a copy, or empty it and load again"),
            )
        };
        let text = std::str::from_utf8(bytes).map_err(|error| damaged(error.valid_up_to(), "it is not text"))?;
        let (title, _) = text.split_once('\n').ok_or_else(|| damaged(0, "it has no first line"))?;
        let found = title
            .strip_prefix(TITLE)
            .and_then(|version| version.parse().ok())
            .ok_or_else(|| damaged(0, "it does not begin as a manifest does"))?;
        if found != MANIFEST_FORMAT {
            return Err(Error::Format { path: path.into(), found, supported: MANIFEST_FORMAT });
        }
        let crc_at = text.rfind("crc32 ").ok_or_else(|| damaged(text.len(), "its last line is missing"))?;
        let (body, crc) = text.split_at(crc_at);
        if crc != format!("crc32 {:08x}\n", crc32fast::hash(body.as_bytes())) {
            return Err(damaged(crc_at, "its checksum does not match"));
        }
        // From here on only a release that wrote something else can be the cause.
        let value = |key: &str| {
            body.lines().skip(1).find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')).ok_or(key.to_owned())
        };
        let number = |key: &str| value(key)?.parse::<u64>().map_err(|_| key.to_owned());
        let read = || -> Result<Self, String> {
            Ok(Self {
                store: u128::from_str_radix(value("store")?, 16).map_err(|_| "store")?,
                definition: value("definition")?.into(),
                epoch: number("epoch")?,
                first_segment: number("first_segment")?,
                next_sequence: number("next_sequence").and_then(|next| match next {
                    0 => Err("next_sequence".into()),
                    next => Ok(next),
                })?,
                segments: Vec::new(),
                tables: Vec::new(),
                staged: Vec::new(),
                prepared: None,
                checkpoint: value("checkpoint").ok().map(CheckpointRef::parse).transpose()?,
            })
        };
        read().map_err(|key| damaged(0, &format!("its line {key:?} is missing or wrong")))
    }
}

impl CheckpointRef {
    fn parse(text: &str) -> Result<Self, String> {
        let mut words = text.split(' ');
        match (words.next(), words.next().map(str::parse), words.next().map(str::parse), words.next()) {
            // The name is used as a path in the folder.
            (Some(file), Some(Ok(sequence)), Some(Ok(generation)), None) if !file.contains('/') => {
                Ok(Self { file: file.into(), sequence, generation })
            }
            _ => Err("checkpoint".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::disk::RealDisk;

    fn example() -> Manifest {
        Manifest {
            store: 0x1234,
            definition: "abc".into(),
            epoch: 3,
            first_segment: 7,
            next_sequence: 1234,
            checkpoint: Some(CheckpointRef { file: "checkpoint-1233.ckpt".into(), sequence: 1233, generation: 2 }),
            segments: Vec::new(),
            tables: Vec::new(),
            staged: Vec::new(),
            prepared: None,
        }
    }

    #[test]
    fn reads_what_it_published() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("MANIFEST");
        assert_eq!(Manifest::read(&path).unwrap(), None);
        for manifest in [example(), Manifest { checkpoint: None, ..example() }] {
            manifest.publish(&RealDisk, &path).unwrap();
            assert_eq!(Manifest::read(&path).unwrap(), Some(manifest));
        }
    }

    #[test]
    fn every_changed_byte_is_refused_by_name() {
        let path = Path::new("/data/MANIFEST");
        let good = example().encode().into_bytes();
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bytes = good.clone();
                bytes[at] ^= 1 << bit;
                let error = Manifest::decode(path, &bytes).unwrap_err().to_string();
                assert!(error.contains("/data/MANIFEST"), "{error}");
            }
            assert!(Manifest::decode(path, &good[..at]).is_err());
        }
    }

    #[test]
    fn names_both_definitions() {
        let error = example().check_definition(Path::new("/data"), "shop", "def").unwrap_err().to_string();
        assert!(error.contains("abc") && error.contains("def") && error.contains("empty folder"), "{error}");
    }

    #[test]
    fn a_later_format_is_told_from_damage() {
        let text = example().encode().replace("manifest 1", "manifest 2");
        let error = Manifest::decode(Path::new("m"), text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("format 2") && error.contains("run the release that wrote it"), "{error}");
    }
}
