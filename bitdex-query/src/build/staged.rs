//! Staged files, read: what they hold together of each row.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, binary_heap::PeekMut},
    ops::Range,
    path::{Path, PathBuf},
};

use bitdex_proto::{
    ops::Op,
    schema::{Schema, SourceId, SourceKind},
    value::Value,
};

use crate::{
    log::{Error, Result},
    segment::table::Table,
    state::encode::{self, Broken, Input},
    store::pack::{Pack, PackKind, PackWriter, SectionId, SectionKind},
};

const HEADER: SectionId = SectionId { kind: SectionKind::Header, place: 0 };

/// What a staged file takes away of that which files before it hold.
#[derive(Debug, Default)]
pub(super) struct Removals {
    /// Ascending.
    truncated: Vec<SourceId>,
    retained: Vec<Retained>,
}

/// See [`Op::Retain`].
#[derive(Debug)]
struct Retained {
    source: SourceId,
    first: u32,
    last: u32,
    keys: Vec<u32>,
}

impl Retained {
    fn removes(&self, key: i64) -> bool {
        u32::try_from(key)
            .is_ok_and(|key| (self.first..=self.last).contains(&key) && self.keys.binary_search(&key).is_err())
    }
}

impl Removals {
    pub(super) fn of<'a>(ops: impl Iterator<Item = &'a Op>) -> Self {
        let mut removals = Self::default();
        for op in ops {
            match op {
                Op::Truncate { source } => removals.truncated.push(*source),
                Op::Retain { source, first, last, keys } => removals.retained.push(Retained {
                    source: *source,
                    first: *first,
                    last: *last,
                    keys: keys.to_vec(),
                }),
                _ => {}
            }
        }
        removals.truncated.sort_unstable();
        removals.truncated.dedup();
        removals
    }

    pub(super) fn write(&self, pack: &mut PackWriter) -> Result<()> {
        let mut bytes = Vec::new();
        encode::put_number(&mut bytes, self.truncated.len() as u64);
        self.truncated.iter().for_each(|source| encode::put_number(&mut bytes, *source as u64));
        encode::put_number(&mut bytes, self.retained.len() as u64);
        for Retained { source, first, last, keys } in &self.retained {
            encode::put_number(&mut bytes, *source as u64);
            [*first, *last, keys.len() as u32].into_iter().chain(keys.iter().copied()).for_each(|number| {
                encode::put_number(&mut bytes, number.into());
            });
        }
        pack.section(HEADER)?;
        pack.write(&bytes)
    }

    fn read(mut input: Input<'_>) -> Result<Self, Broken> {
        let source = |input: &mut Input<'_>| usize::try_from(input.number()?).map_err(|_| Broken);
        let truncated = (0..input.length()?).map(|_| source(&mut input)).collect::<Result<_, _>>()?;
        let retained = (0..input.length()?).map(|_| {
            let (source, first, last) = (source(&mut input)?, input.id()?, input.id()?);
            let keys = (0..input.length()?).map(|_| input.id()).collect::<Result<_, _>>()?;
            Ok(Retained { source, first, last, keys })
        });
        Ok(Self { retained: retained.collect::<Result<_, _>>()?, truncated })
    }
}

/// One staged file.
#[derive(Debug)]
pub(super) struct Staged {
    path: PathBuf,
    table: Table,
    removals: Removals,
}

impl Staged {
    pub(super) fn open(path: &Path, store: u128) -> Result<Self> {
        let pack = Pack::open(path, PackKind::Staged, store)?
            .ok_or_else(|| Error::damaged(path, 0, "the manifest names it, but there is no such file"))?;
        let header = pack.require(HEADER)?;
        let removals = Removals::read(Input(header.bytes(0, header.len())?))
            .map_err(|Broken| header.damaged(0, "what it takes away does not decode"))?;
        Ok(Self { path: path.into(), table: Table::open(&pack)?, removals })
    }

    /// The least key within the bounds of which it has a row of this source.
    pub(super) fn next_key(&self, source: SourceId, first: i64, last: i64) -> Result<Option<i64>> {
        let range = self.table.range(source as u16, first, last)?;
        if range.is_empty() { Ok(None) } else { Ok(Some(self.table.at(range.start)?.0)) }
    }
}

/// A row that is next: its key, its file, its bytes.
type Head<'a> = (i64, usize, Option<&'a [u8]>);

/// The rows of one source out of all staged files, keys ascending.
#[derive(Debug)]
pub(super) struct Merged<'a> {
    files: &'a [Staged],
    of_members: bool,
    /// By file: positions of the rows that are not read yet.
    ranges: Vec<Range<usize>>,
    /// The next row of each file: its key, and the file.
    heads: BinaryHeap<Reverse<(i64, usize)>>,
    rows: Vec<Option<&'a [u8]>>,
    /// Takes rows away of the files before the one with this position.
    retained: Vec<(usize, &'a Retained)>,
    changes: Vec<(Value, bool)>,
    current: Option<Current<'a>>,
    buffer: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
enum Current<'a> {
    File(&'a [u8]),
    Buffer,
}

impl<'a> Merged<'a> {
    /// With keys from `first` to `last`.
    pub(super) fn new(schema: &Schema, files: &'a [Staged], source: SourceId, first: i64, last: i64) -> Result<Self> {
        let is_truncated = |file: &Staged| file.removals.truncated.binary_search(&source).is_ok();
        let from = files.iter().rposition(is_truncated).unwrap_or(0);
        let mut merged = Self {
            files,
            of_members: schema.sources.get(source).is_some_and(|of| matches!(of.kind, SourceKind::Members { .. })),
            ranges: vec![0..0; files.len()],
            heads: BinaryHeap::new(),
            rows: vec![None; files.len()],
            retained: Vec::new(),
            changes: Vec::new(),
            current: None,
            buffer: Vec::new(),
        };
        for (at, file) in files.iter().enumerate().skip(from) {
            let retained = file.removals.retained.iter().filter(|retained| retained.source == source);
            merged.retained.extend(retained.map(|retained| (at, retained)));
            if let Some(range) = merged.ranges.get_mut(at) {
                *range = file.table.range(source as u16, first, last)?;
            }
            if let Some(key) = merged.read(at)? {
                merged.heads.push(Reverse((key, at)));
            }
        }
        Ok(merged)
    }

    /// Reads the next row of a file, and answers its key.
    fn read(&mut self, file: usize) -> Result<Option<i64>> {
        let (Some(staged), Some(range), Some(row)) =
            (self.files.get(file), self.ranges.get_mut(file), self.rows.get_mut(file))
        else {
            return Ok(None);
        };
        let Some(position) = range.next() else { return Ok(None) };
        let (key, read) = staged.table.at(position)?;
        *row = read;
        Ok(Some(key))
    }

    /// The least (key, file), and its row; of `key`, where one is given.
    fn take(&mut self, key: Option<i64>) -> Result<Option<Head<'a>>> {
        let Some(Reverse((least, file))) = self.heads.peek().copied() else { return Ok(None) };
        if key.is_some_and(|key| key != least) {
            return Ok(None);
        }
        let row = self.rows.get(file).copied().flatten();
        let next = self.read(file)?;
        if let Some(mut head) = self.heads.peek_mut() {
            match next {
                Some(next) => *head = Reverse((next, file)),
                None => drop(PeekMut::pop(head)),
            }
        }
        Ok(Some((least, file, row)))
    }

    /// Goes on to the next row that is there, and answers its key.
    pub(super) fn next(&mut self) -> Result<Option<i64>> {
        while let Some((key, mut file, mut row)) = self.take(None)? {
            self.current = None;
            match self.of_members {
                false => {
                    while let Some(newer) = self.take(Some(key))? {
                        (_, file, row) = newer;
                    }
                    if !self.retained.iter().any(|(at, retained)| *at > file && retained.removes(key)) {
                        self.current = row.map(Current::File);
                    }
                }
                true => {
                    let mut newer = self.take(Some(key))?;
                    // Nothing went, and some came: what stands behind the first count is the set.
                    match row {
                        Some([0, set @ ..]) if newer.is_none() => {
                            self.current = set.first().is_some_and(|count| *count > 0).then_some(Current::File(set));
                        }
                        _ => {
                            self.change(file, row)?;
                            while let Some((_, file, row)) = newer {
                                self.change(file, row)?;
                                newer = self.take(Some(key))?;
                            }
                            self.put_changes();
                        }
                    }
                }
            }
            if self.current.is_some() {
                return Ok(Some(key));
            }
        }
        Ok(None)
    }

    /// Adds a file's changes of a member set.
    fn change(&mut self, file: usize, row: Option<&[u8]>) -> Result<()> {
        let mut input = Input(row.unwrap_or_default());
        let mut read = || Ok([(input.values()?, false), (input.values()?, true)]);
        let broken = |Broken| {
            let path = self.files.get(file).map_or(Path::new(""), |file| &file.path);
            Error::damaged(path, 0, "the changes of a member set do not decode")
        };
        for (values, present) in read().map_err(broken)? {
            self.changes.extend(values.into_iter().map(|value| (value, present)));
        }
        Ok(())
    }

    fn put_changes(&mut self) {
        self.changes.sort_by(|(one, _), (other, _)| one.cmp(other));
        // Of equal values the last counts.
        self.changes.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            if same {
                kept.1 = next.1;
            }
            same
        });
        self.changes.retain(|(_, present)| *present);
        if !self.changes.is_empty() {
            self.buffer.clear();
            encode::put_number(&mut self.buffer, self.changes.len() as u64);
            self.changes.iter().for_each(|(value, _)| encode::put_value(&mut self.buffer, value));
            self.current = Some(Current::Buffer);
        }
        self.changes.clear();
    }

    /// The row that [`Merged::next`] went on to.
    pub(super) fn row(&self) -> Option<&[u8]> {
        Some(match self.current? {
            Current::File(row) => row,
            Current::Buffer => &self.buffer,
        })
    }
}
