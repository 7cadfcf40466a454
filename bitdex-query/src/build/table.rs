//! Rows of a lookup and of its hops → a table.

use std::{
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};

use bitdex_proto::schema::SourceId;

use super::{
    generation::no_room,
    go_on,
    staged::{Merged, Staged},
};
use crate::{
    log::Result,
    segment::{table::TableWriter, value::ValueRef},
    state::{
        compute, encode,
        layout::{Layout, Place},
    },
    store::pack::{Pack, PackWriter, SectionId, SectionKind},
};

const HEADER: SectionId = SectionId { kind: SectionKind::Header, place: 0 };
/// Rows between two looks at memory, and at whether to go on: a few milliseconds.
pub(super) const STRIDE: u64 = 4096;

/// What a table says of itself: u64 the record up to which it has taken in changes, u64 0, u128 hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TableHeader {
    pub(crate) sequence: u64,
    /// Sum of the hashes of the lookup's rows; those of hops follow from them and do not count.
    pub(crate) hash: u128,
}

impl TableHeader {
    pub(crate) fn write(self, pack: &mut PackWriter) -> Result<()> {
        pack.section(HEADER)?;
        pack.write(&self.sequence.to_le_bytes())?;
        pack.write(&[0; 8])?;
        pack.write(&self.hash.to_le_bytes())
    }

    pub(crate) fn read(pack: &Arc<Pack>) -> Result<Self> {
        let header = pack.require(HEADER)?;
        let bytes = header.bytes(0, header.len())?;
        let short = || header.damaged(0, "the header of a table is too short");
        let (sequence, rest) = bytes.split_first_chunk().ok_or_else(short)?;
        let hash = rest.get(8..).and_then(<[u8]>::first_chunk).ok_or_else(short)?;
        Ok(Self { sequence: u64::from_le_bytes(*sequence), hash: u128::from_le_bytes(*hash) })
    }
}

/// The hops of a lookup, with the column by which each keeps the keys of rows; places ascending.
pub(super) fn hops(layout: &Layout, source: SourceId) -> Vec<(Place, usize)> {
    let hops = layout.hops.iter().enumerate().filter(|(_, (of, _))| *of == source);
    let mut hops: Vec<_> = hops.map(|(hop, (_, column))| (layout.hop_place(hop), *column)).collect();
    hops.sort_unstable();
    hops
}

/// The row of a hop: keys ascending.
fn put_keys(out: &mut Vec<u8>, keys: &[(i64, i64)]) {
    out.clear();
    encode::put_number(out, keys.len() as u64);
    keys.iter().for_each(|(_, key)| encode::put_key(out, *key));
}

/// Writes a lookup's rows out of staged files, then those of its hops. Holds at most `memory` bytes.
#[derive(Debug)]
pub(super) struct Tables<'a> {
    pub(super) layout: &'a Layout,
    pub(super) staged: &'a [Staged],
    pub(super) memory: usize,
    pub(super) cancel: &'a AtomicBool,
}

impl Tables<'_> {
    /// Answers the hash.
    pub(super) fn write(&self, pack: &mut PackWriter, path: &Path, source: SourceId) -> Result<u128> {
        let mut table = TableWriter::new(pack)?;
        let mut hash = 0_u128;
        self.each(path, source, |key, row| {
            hash = hash.wrapping_add(compute::row_hash(source as Place, key, row));
            table.push(pack, source as Place, key, Some(row))?;
            self.check(table.bytes())
        })?;
        for (place, column) in hops(self.layout, source) {
            self.hop(pack, &mut table, path, source, place, column)?;
        }
        table.finish(pack)?;
        Ok(hash)
    }

    fn each(&self, path: &Path, source: SourceId, mut row: impl FnMut(i64, &[u8]) -> Result<()>) -> Result<()> {
        let mut rows = Merged::new(&self.layout.schema, self.staged, source, i64::MIN, i64::MAX)?;
        let mut read = 0_u64;
        while let Some(key) = rows.next()? {
            if read.is_multiple_of(STRIDE) {
                go_on(self.cancel, path)?;
            }
            read += 1;
            row(key, rows.row().unwrap_or_default())?;
        }
        Ok(())
    }

    fn check(&self, bytes: usize) -> Result<()> {
        if bytes > self.memory { Err(no_room("a lookup's table", self.memory)) } else { Ok(()) }
    }

    /// In as many passes over the rows as the memory asks for; each takes the next values in ascending order.
    fn hop(
        &self,
        pack: &mut PackWriter,
        table: &mut TableWriter,
        path: &Path,
        source: SourceId,
        place: Place,
        column: usize,
    ) -> Result<()> {
        let mut from = Some(i64::MIN);
        let mut bytes = Vec::new();
        while let Some(first) = from {
            let room = self.memory.saturating_sub(table.bytes()) / size_of::<(i64, i64)>() / 2;
            let mut pairs: Vec<(i64, i64)> = Vec::new();
            // Values from here on are left to later passes.
            let mut end: Option<i64> = None;
            self.each(path, source, |key, row| {
                let value = compute::column_of(self.layout, source, key, row, column)?;
                let Some(ValueRef::Int(value)) = value else { return Ok(()) };
                if value < first || end.is_some_and(|end| value >= end) {
                    return Ok(());
                }
                if pairs.len() >= room.max(2) {
                    let middle = pairs.len() / 2;
                    let (_, (cut, _), _) = pairs.select_nth_unstable(middle);
                    let mut cut = *cut;
                    if pairs.iter().all(|(value, _)| *value >= cut) {
                        // Half of them have the least value: what is above it goes, where there is any.
                        match pairs.iter().map(|(value, _)| *value).filter(|value| *value > cut).min() {
                            Some(above) => cut = above,
                            None => return Err(no_room("the rows of a lookup that share one value", self.memory)),
                        }
                    }
                    end = Some(cut);
                    pairs.retain(|(value, _)| *value < cut);
                    if value >= cut {
                        return Ok(());
                    }
                }
                if pairs.len() == pairs.capacity() {
                    pairs.reserve_exact((pairs.len() / 2 + 1024).min(room.max(2).saturating_sub(pairs.len())).max(1));
                }
                pairs.push((value, key));
                Ok(())
            })?;
            pairs.sort_unstable();
            for keys in pairs.chunk_by(|one, next| one.0 == next.0) {
                if let Some((value, _)) = keys.first() {
                    put_keys(&mut bytes, keys);
                    table.push(pack, place, *value, Some(&bytes))?;
                }
            }
            self.check(table.bytes())?;
            from = end;
        }
        Ok(())
    }
}
