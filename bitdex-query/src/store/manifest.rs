//! The manifest: what a store is, and where reading it begins. A small text file, always replaced whole.
//!
//! ```text
//! bitdex manifest 4        format of the store
//! store 8a1f…              32 hex digits
//! definition 5c0e…         hash of the definition
//! epoch 3                  of the last promotion
//! first_segment 7          the first segment of the log that is needed
//! next_sequence 1234       every record below this one was durable
//! checkpoint FILE 1233 1   its sequence number and generation; absent before the first
//! segment 0 1100 FILE      its number, and the sequence number at which it stands; one line each, ascending
//! table 2 1100 FILE        the same of a lookup
//! staged FILE              one line each, in the order in which their rows came
//! prepared 2 1200 open     generation and sequence number of what is being built; `complete` once it is
//! prepared_segment 0 1200 FILE
//! prepared_table 2 1200 FILE
//! crc32 89abcdef           of all bytes before this line
//! ```

use std::{fmt::Write as _, fs, io, path::Path, str::FromStr};

use super::{format, is_pack};
use crate::log::{
    Error, Result,
    disk::{Disk, publish},
};

const TITLE: &str = "bitdex manifest ";
const COMPLETE: &str = "complete";
const INCOMPLETE: &str = "open";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// What all files are written in from now on; see [`format`].
    pub format: u32,
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
    /// Of a store that has no files yet, and whose log begins.
    pub fn new(format: u32, store: u128, definition: &str) -> Self {
        Self {
            format,
            store,
            definition: definition.into(),
            epoch: 0,
            first_segment: 1,
            next_sequence: 1,
            checkpoint: None,
            segments: Vec::new(),
            tables: Vec::new(),
            staged: Vec::new(),
            prepared: None,
        }
    }

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

    /// The last record that is known to be durable. `frontier`: what FRONTIER says, which may be lost.
    pub fn durable(&self, frontier: u64) -> u64 {
        frontier.max(self.next_sequence - 1)
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
        Err(Error::foreign(format!(
            "the data folder {} holds a store of definition {}, but index {index} of definition {definition} was given: \
             give the definition that the store was made with, or give the new one an empty folder and load it",
            folder.display(),
            self.definition,
        )))
    }

    /// What every file bears that is written from now on.
    pub fn stamp(&self) -> format::Stamp {
        format::Stamp { store: self.store, format: self.format }
    }

    /// Names of all packs that are needed.
    pub fn packs(&self) -> impl Iterator<Item = &str> {
        let prepared = self.prepared.iter();
        let segments = self.segments.iter().chain(prepared.clone().flat_map(|prepared| &prepared.segments));
        let tables = self.tables.iter().chain(prepared.flat_map(|prepared| &prepared.tables));
        let checkpoint = self.checkpoint.iter().map(|named| &named.file);
        let names = checkpoint.chain(segments.map(|named| &named.file)).chain(tables.map(|named| &named.file));
        names.chain(&self.staged).map(String::as_str)
    }

    fn encode(&self) -> String {
        let mut text = self.body();
        let crc = crc32fast::hash(text.as_bytes());
        // Writing to a string cannot fail.
        let _ = writeln!(text, "crc32 {crc:08x}");
        text
    }

    fn body(&self) -> String {
        let mut text = format!(
            "{TITLE}{}\nstore {:032x}\ndefinition {}\nepoch {}\nfirst_segment {}\nnext_sequence {}\n",
            self.format, self.store, self.definition, self.epoch, self.first_segment, self.next_sequence,
        );
        let mut line = |words: std::fmt::Arguments<'_>| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{words}");
        };
        if let Some(CheckpointRef { file, sequence, generation }) = &self.checkpoint {
            line(format_args!("checkpoint {file} {sequence} {generation}"));
        }
        for SegmentRef { number, file, sequence } in &self.segments {
            line(format_args!("segment {number} {sequence} {file}"));
        }
        for TableRef { source, file, sequence } in &self.tables {
            line(format_args!("table {source} {sequence} {file}"));
        }
        for file in &self.staged {
            line(format_args!("staged {file}"));
        }
        if let Some(Prepared { generation, sequence, segments, tables, complete }) = &self.prepared {
            let how_far = if *complete { COMPLETE } else { INCOMPLETE };
            line(format_args!("prepared {generation} {sequence} {how_far}"));
            for SegmentRef { number, file, sequence } in segments {
                line(format_args!("prepared_segment {number} {sequence} {file}"));
            }
            for TableRef { source, file, sequence } in tables {
                line(format_args!("prepared_table {source} {sequence} {file}"));
            }
        }
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
        format::check(path, found)?;
        let crc_at = text.rfind("crc32 ").ok_or_else(|| damaged(text.len(), "its last line is missing"))?;
        let (body, crc) = text.split_at(crc_at);
        if crc != format!("crc32 {:08x}\n", crc32fast::hash(body.as_bytes())) {
            return Err(damaged(crc_at, "its checksum does not match"));
        }
        // From here on only a release that wrote something else can be the cause.
        let mut at = title.len() + 1;
        let mut manifest = Self {
            format: found,
            store: 0,
            definition: String::new(),
            epoch: 0,
            first_segment: 0,
            next_sequence: 0,
            checkpoint: None,
            segments: Vec::new(),
            tables: Vec::new(),
            staged: Vec::new(),
            prepared: None,
        };
        for line in body.lines().skip(1) {
            manifest.take(line).ok_or_else(|| damaged(at, &format!("its line {line:?} is wrong")))?;
            at += line.len() + 1;
        }
        // Whatever is missing, there twice, or out of order shows here.
        if manifest.body() != body || manifest.next_sequence == 0 || !manifest.is_ordered() {
            return Err(damaged(title.len() + 1, "its lines are not those that a manifest has"));
        }
        Ok(manifest)
    }

    /// Takes in a line; `None` where it cannot.
    fn take(&mut self, line: &str) -> Option<()> {
        let (key, rest) = line.split_once(' ')?;
        let mut words = Words(rest.split(' '));
        match key {
            "store" => self.store = u128::from_str_radix(words.next()?, 16).ok()?,
            "definition" => self.definition = words.next()?.into(),
            "epoch" => self.epoch = words.parse()?,
            "first_segment" => self.first_segment = words.parse()?,
            "next_sequence" => self.next_sequence = words.parse()?,
            "checkpoint" => {
                let (file, sequence, generation) = (words.file()?, words.parse()?, words.parse()?);
                self.checkpoint = Some(CheckpointRef { file, sequence, generation });
            }
            "segment" => self.segments.push(words.segment()?),
            "table" => self.tables.push(words.table()?),
            "staged" => self.staged.push(words.file()?),
            "prepared" => {
                let (generation, sequence) = (words.parse()?, words.parse()?);
                let complete = match words.next()? {
                    COMPLETE => true,
                    INCOMPLETE => false,
                    _ => return None,
                };
                self.prepared = Some(Prepared { generation, sequence, complete, ..Prepared::default() });
            }
            "prepared_segment" => self.prepared.as_mut()?.segments.push(words.segment()?),
            "prepared_table" => self.prepared.as_mut()?.tables.push(words.table()?),
            _ => return None,
        }
        words.0.next().is_none().then_some(())
    }

    fn is_ordered(&self) -> bool {
        let ordered = |segments: &[SegmentRef], tables: &[TableRef]| {
            segments.is_sorted_by(|a, b| a.number < b.number) && tables.is_sorted_by(|a, b| a.source < b.source)
        };
        let prepared = self.prepared.as_ref();
        ordered(&self.segments, &self.tables)
            && prepared.is_none_or(|prepared| ordered(&prepared.segments, &prepared.tables))
    }
}

/// The words of a line behind its key.
struct Words<'a>(std::str::Split<'a, char>);

impl<'a> Words<'a> {
    fn next(&mut self) -> Option<&'a str> {
        self.0.next()
    }

    fn parse<T: FromStr>(&mut self) -> Option<T> {
        self.next()?.parse().ok()
    }

    /// A name that is used as a path in the folder.
    fn file(&mut self) -> Option<String> {
        self.next().filter(|name| is_pack(name)).map(Into::into)
    }

    fn segment(&mut self) -> Option<SegmentRef> {
        let (number, sequence) = (self.parse()?, self.parse()?);
        Some(SegmentRef { number, sequence, file: self.file()? })
    }

    fn table(&mut self) -> Option<TableRef> {
        let (source, sequence) = (self.parse()?, self.parse()?);
        Some(TableRef { source, sequence, file: self.file()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        log::disk::RealDisk,
        store::{checkpoint_name, segment_name, staged_name, table_name},
    };

    fn example() -> Manifest {
        let segment = |number, sequence| SegmentRef { number, file: segment_name(number, 1, sequence), sequence };
        let table = |source, sequence| TableRef { source, file: table_name(source, 1, sequence), sequence };
        Manifest {
            format: format::NEWEST,
            store: 0x1234,
            definition: "abc".into(),
            epoch: 3,
            first_segment: 7,
            next_sequence: 1234,
            checkpoint: Some(CheckpointRef { file: checkpoint_name(1233), sequence: 1233, generation: 2 }),
            segments: vec![segment(0, 17), segment(5, 1233)],
            tables: vec![table(1, 17), table(2, 900)],
            staged: vec![staged_name(30), staged_name(20)],
            prepared: Some(Prepared {
                generation: 3,
                sequence: 1200,
                segments: vec![segment(0, 1200), segment(1, 1200)],
                tables: vec![table(1, 1200)],
                complete: false,
            }),
        }
    }

    /// With a checksum that is right.
    fn sealed(text: &str) -> String {
        let body = &text[..text.rfind("crc32").unwrap()];
        format!("{body}crc32 {:08x}\n", crc32fast::hash(body.as_bytes()))
    }

    #[test]
    fn reads_what_it_published() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("MANIFEST");
        assert_eq!(Manifest::read(&path).unwrap(), None);
        let complete = Prepared { complete: true, ..example().prepared.unwrap() };
        let examples = [
            example(),
            Manifest { checkpoint: None, format: format::OLDEST, ..example() },
            Manifest { prepared: Some(complete), staged: Vec::new(), ..example() },
            Manifest { prepared: None, segments: Vec::new(), tables: Vec::new(), ..example() },
        ];
        for manifest in examples {
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
        for found in [format::OLDEST - 1, format::NEWEST + 1] {
            let (newest, other) = (format!("manifest {}", format::NEWEST), format!("manifest {found}"));
            let text = example().encode().replace(&newest, &other);
            let error = Manifest::decode(Path::new("m"), text.as_bytes()).unwrap_err().to_string();
            let told = error.contains(&format!("format {found}")) && error.contains("run the release that wrote it");
            assert!(told, "{error}");
        }
    }

    #[test]
    fn lines_that_no_release_wrote_are_refused() {
        let good = example().encode();
        Manifest::decode(Path::new("m"), sealed(&good).as_bytes()).unwrap();
        let lines: Vec<&str> = good.lines().collect();
        for at in 1..lines.len() - 1 {
            let mut twice = lines.clone();
            twice.insert(at, lines[at]);
            let mut missing = lines.clone();
            missing.remove(at);
            let longer = format!("{} x", lines[at]);
            let mut more = lines.clone();
            more[at] = &longer;
            for lines in [twice, more, missing] {
                let text = sealed(&(lines.join("\n") + "\n"));
                let decoded = Manifest::decode(Path::new("m"), text.as_bytes());
                // Another list of files may be right as well.
                assert!(decoded.is_err() || decoded.unwrap().packs().count() != example().packs().count(), "{text}");
            }
        }
        for (from, to) in [
            ("checkpoint checkpoint-", "checkpoint ../checkpoint-"),
            ("staged staged-", "staged /staged-"),
            (".pack\n", "\n"),
            ("segment 5", "segment 0"),
            ("segment 5", "segment 05"),
            ("next_sequence 1234", "next_sequence 0"),
            ("epoch 3", "epoch -3"),
            ("open", "opened"),
            ("staged ", "stashed "),
        ] {
            let text = sealed(&good.replacen(from, to, 1));
            assert_ne!(text, good);
            assert!(Manifest::decode(Path::new("m"), text.as_bytes()).is_err(), "{text}");
        }
    }
}
