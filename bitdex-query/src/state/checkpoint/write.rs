//! Writing a checkpoint: the one below merged with the frozen layer, without what the base has taken in.

use std::{
    ops::Bound,
    sync::{Arc, atomic::AtomicBool},
};

use bitdex_proto::{
    ops::Op,
    schema::{FieldId, Schema},
    value::{FieldType, Value},
};
use prost::Message as _;

use super::{
    super::{
        Files, Frozen,
        encode::put_bytes,
        layer::{BlockDelta, LayerColumn, RowEntry, SetKey},
        layout::Place,
        view::combine::{Change, combine},
    },
    Checkpoint, DEFERRED, Flushed, HEADER, header,
};
use crate::{
    build::go_on,
    log::{Result, disk::Disk},
    segment::{
        Index, SEGMENT_BITS,
        columns::{ColumnWriter, SparseColumn},
        postings::{Posting, Postings, PostingsWriter, Role},
        sets::{Block, BlockBuffer},
        table::TableWriter,
        value::{Term, ValueRef},
    },
    store::{
        Folder, checkpoint_name,
        format::Stamp,
        manifest::CheckpointRef,
        pack::{PackKind, PackWriter},
    },
};

/// Writes the checkpoint below, merged with the frozen layer, and what was staged. Leaves out what the base has taken in.
/// Ends early, with an error, once `cancel` is set.
///
/// In memory are the sets of one field at a time, or one column, and the keys of the rows.
pub fn write_checkpoint(
    frozen: &Frozen,
    disk: &Arc<dyn Disk>,
    folder: &Folder,
    store: impl Into<Stamp>,
    cancel: &AtomicBool,
) -> Result<Flushed> {
    let (sequence, store) = (frozen.sequence(), store.into());
    let staged = frozen.layer.staged.write(&frozen.layout.schema, disk, folder, store, sequence, cancel)?;
    let name = checkpoint_name(sequence);
    let mut merge = Merge::new(frozen, cancel);
    let mut pack = PackWriter::create(disk, &folder.named(&name), PackKind::Checkpoint, store)?;
    pack.section(HEADER)?;
    pack.write(&header::encode(&frozen.layout.schema.hash, &frozen.header))?;
    pack.section(DEFERRED)?;
    put_ops(&mut pack, &frozen.layout.schema, &frozen.layer.deferred)?;
    merge.rows(&mut pack)?;
    for (field, (index, ty)) in frozen.layout.spec().fields.iter().enumerate() {
        merge.sets(&mut pack, field, *ty)?;
        if *index == Index::Column {
            merge.column(&mut pack, field)?;
        }
    }
    merge.check()?;
    // The new one's checksums will vouch for whatever was read of it.
    merge.old.map_or(Ok(()), Checkpoint::verify_again)?;
    let bytes = pack.finish()?;
    let checkpoint = CheckpointRef { file: name, sequence, generation: frozen.header.generation };
    Ok(Flushed { checkpoint, staged, bytes })
}

struct Merge<'f> {
    frozen: &'f Frozen,
    files: &'f Files,
    old: Option<&'f Checkpoint>,
    cancel: &'f AtomicBool,
    buffer: BlockBuffer,
}

impl<'f> Merge<'f> {
    fn new(frozen: &'f Frozen, cancel: &'f AtomicBool) -> Self {
        let files = &*frozen.below;
        Self { frozen, files, old: files.checkpoint(), cancel, buffer: BlockBuffer::default() }
    }

    fn check(&self) -> Result<()> {
        go_on(self.cancel, self.files.folder())
    }

    fn rows(&self, pack: &mut PackWriter) -> Result<()> {
        let mut writer = TableWriter::new(pack)?;
        let mut newer = self.frozen.layer.rows.all().peekable();
        for place in 0..self.frozen.layout.places() as Place {
            self.check()?;
            let old = self.old.map(|old| old.rows());
            let range = old.map_or(Ok(0..0), |old| old.range(place, i64::MIN, i64::MAX))?;
            for (n, position) in range.enumerate() {
                if n % 1024 == 0 {
                    self.check()?;
                }
                let Some((key, row)) = old.map(|old| old.at(position)).transpose()? else { break };
                self.newer_rows(pack, &mut writer, &mut newer, (place, key))?;
                let overridden = newer.peek().is_some_and(|(next, _)| *next == (place, key));
                if !overridden && !self.files.has_taken_in_row(place, key) {
                    writer.push(pack, place, key, row)?;
                }
            }
            self.newer_rows(pack, &mut writer, &mut newer, (place + 1, i64::MIN))?;
        }
        writer.finish(pack)
    }

    /// The frozen layer's rows before `end`.
    fn newer_rows<'r>(
        &self,
        pack: &mut PackWriter,
        writer: &mut TableWriter,
        rows: &mut std::iter::Peekable<impl Iterator<Item = RowEntry<'r>>>,
        end: (Place, i64),
    ) -> Result<()> {
        let mut n = 0;
        while let Some(((place, key), row)) = rows.next_if(|(next, _)| *next < end) {
            n += 1;
            if n % 1024 == 0 {
                self.check()?;
            }
            // A row that came and went since is not even known to be gone.
            if row.is_some() || self.files.row(place, key)?.is_some() {
                writer.push(pack, place, key, row)?;
            }
        }
        Ok(())
    }

    fn sets(&mut self, pack: &mut PackWriter, field: FieldId, ty: FieldType) -> Result<()> {
        let old = |role| self.old.and_then(|old| old.sets(role, field));
        let mut olds = [OldSets::new(old(Role::Added))?, OldSets::new(old(Role::Removed))?];
        let first = SetKey { field, term: None, block: 0 };
        let behind = SetKey { field: field + 1, term: None, block: 0 };
        let mut newer = self.frozen.layer.sets.range(Bound::Included(&first), Bound::Excluded(&behind)).peekable();
        let mut added = PostingsWriter::new(Role::Added, field, ty);
        let mut removed = PostingsWriter::new(Role::Removed, field, ty);
        let mut deltas: Vec<(u16, &BlockDelta)> = Vec::new();
        loop {
            self.check()?;
            // The least term of all.
            let of_layer = newer.peek().map(|(key, _)| term(&key.term));
            let heads = olds.iter().filter_map(|old| old.head.map(|(term, _)| term));
            let Some(least) = heads.chain(of_layer).min() else { break };
            let [came, went] = olds.each_mut().map(|old| old.take(least));
            let (came, went) = (came?, went?);
            deltas.clear();
            while let Some((key, delta)) = newer.next_if(|(key, _)| term(&key.term) == least) {
                deltas.push((key.block, delta));
            }
            added.term(least);
            removed.term(least);
            self.term(came, went, &deltas, &mut added, &mut removed)?;
        }
        added.finish(pack)?;
        removed.finish(pack)
    }

    /// All blocks of one term.
    fn term(
        &mut self,
        came: Option<Posting<'f>>,
        went: Option<Posting<'f>>,
        deltas: &[(u16, &BlockDelta)],
        added: &mut PostingsWriter,
        removed: &mut PostingsWriter,
    ) -> Result<()> {
        let mut came = OldBlocks::new(came)?;
        let mut went = OldBlocks::new(went)?;
        let mut deltas = deltas.iter().peekable();
        loop {
            let of_layer = deltas.peek().map(|(number, _)| *number);
            let heads = [came.head.map(|head| head.0), went.head.map(|head| head.0), of_layer];
            let Some(number) = heads.into_iter().flatten().min() else { return Ok(()) };
            let taken = self.files.has_taken_in_block(number);
            let [came, went] = [came.take(number)?, went.take(number)?];
            let [came, went] = if taken { [Block::Empty, Block::Empty] } else { [came, went] };
            let delta = deltas.next_if(|(next, _)| *next == number).map(|(_, delta)| *delta);
            let (new, gone) =
                delta.map_or((Block::Empty, Block::Empty), |delta| (delta.added.as_block(), delta.removed.as_block()));
            put_block(added, number, combine(came, &[Change { added: new, removed: gone }], &mut self.buffer));
            put_block(removed, number, combine(went, &[Change { added: gone, removed: new }], &mut self.buffer));
        }
    }

    fn column(&self, pack: &mut PackWriter, field: FieldId) -> Result<()> {
        let mut writer = ColumnWriter::sparse(field);
        let empty = LayerColumn::default();
        let layer = self.frozen.layer.columns.get(field).unwrap_or(&empty);
        let mut newer = layer.codes().peekable();
        let old: Option<&SparseColumn> = self.old.and_then(|old| old.column(field));
        for position in 0..old.map_or(0, SparseColumn::len) {
            if position % 1024 == 0 {
                self.check()?;
            }
            let Some((id, code)) = old.map(|old| old.nth(position)).transpose()? else { break };
            while let Some((id, code)) = newer.next_if(|(next, _)| *next < id) {
                writer.push(id, code);
            }
            let overridden = newer.peek().is_some_and(|(next, _)| *next == id);
            if !overridden && !self.files.has_taken_in(id >> SEGMENT_BITS) {
                writer.push(id, code);
            }
        }
        newer.for_each(|(id, code)| writer.push(id, code));
        self.check()?;
        writer.finish(pack).map(drop)
    }
}

fn term(term: &Option<Value>) -> Term<'_> {
    term.as_ref().map_or(Term::Exists, |value| Term::Value(ValueRef::of(value)))
}

fn put_block(writer: &mut PostingsWriter, number: u16, block: Block<'_>) {
    if !block.is_empty() {
        writer.block(number, block);
    }
}

fn put_ops<'o>(pack: &mut PackWriter, schema: &Schema, ops: impl IntoIterator<Item = &'o Op>) -> Result<()> {
    let mut bytes = Vec::new();
    for op in ops {
        bytes.clear();
        put_bytes(&mut bytes, &op.to_wire(schema).encode_to_vec());
        pack.write(&bytes)?;
    }
    Ok(())
}

/// The terms of the old checkpoint's sets, ascending.
struct OldSets<'f> {
    sets: Option<&'f Postings>,
    position: usize,
    head: Option<(Term<'f>, Posting<'f>)>,
}

impl<'f> OldSets<'f> {
    fn new(sets: Option<&'f Postings>) -> Result<Self> {
        let mut old = Self { sets, position: 0, head: None };
        old.advance()?;
        Ok(old)
    }

    fn advance(&mut self) -> Result<()> {
        self.head = match self.sets {
            Some(sets) if self.position < sets.len() => Some(sets.at(self.position)?),
            _ => None,
        };
        self.position += 1;
        Ok(())
    }

    /// The set of this term, where it is the next one.
    fn take(&mut self, wanted: Term<'_>) -> Result<Option<Posting<'f>>> {
        match self.head {
            Some((term, set)) if term == wanted => {
                self.advance()?;
                Ok(Some(set))
            }
            _ => Ok(None),
        }
    }
}

/// The blocks of a set, ascending.
struct OldBlocks<'f> {
    set: Option<Posting<'f>>,
    n: usize,
    head: Option<(u16, Block<'f>)>,
}

impl<'f> OldBlocks<'f> {
    fn new(set: Option<Posting<'f>>) -> Result<Self> {
        let mut old = Self { set, n: 0, head: None };
        old.advance()?;
        Ok(old)
    }

    fn advance(&mut self) -> Result<()> {
        self.head = match &self.set {
            Some(set) if self.n < set.blocks() => Some(set.nth(self.n)?),
            _ => None,
        };
        self.n += 1;
        Ok(())
    }

    fn take(&mut self, number: u16) -> Result<Block<'f>> {
        match self.head {
            Some((next, block)) if next == number => {
                self.advance()?;
                Ok(block)
            }
            _ => Ok(Block::Empty),
        }
    }
}
