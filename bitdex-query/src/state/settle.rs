//! Rows that changed → what changes in sets and columns. Old values are computed from the rows and lookups as they
//! stand, new ones with the changed rows before those, and the difference is what is written.
//!
//! Where one lookup's row reaches many documents, fields that depend on nothing else change for all of them alike:
//! they are moved block by block, without a look at any document.

use std::{
    collections::{BTreeMap, HashMap},
    ops::RangeInclusive,
    sync::Arc,
};

use bitdex_proto::{
    schema::{DOCUMENT_SOURCE, FieldId, KEY_FIELD, SourceId},
    value::{FieldType, Value},
};
use roaring::RoaringBitmap;
use smallvec::SmallVec;

use super::{
    State,
    changes::{Changes, RowChange},
    compute::{self, Lookups, broken},
    encode::{self, Broken, Input},
    layer::{Layer, LayerColumn, LayerSets, RowEntry, SetChange, SetKey},
    layout::{Layout, Numbers, Place, Way},
    parallel::Parts,
};
use crate::{
    log::Result,
    mapping::slices::give_way,
    segment::{
        BLOCK_BITS, Index,
        sets::{Block, BlockBuffer},
        value::{self, Term, ValueRef},
    },
};

/// From this many documents on, those that a row reaches are moved together where that is possible.
const WIDE: u64 = 1024;

/// What a set of rows does to the layers.
#[derive(Debug, Default)]
struct Effects {
    /// By field.
    sets: Vec<FieldSets>,
    /// By field.
    columns: Vec<Vec<(u32, Option<u64>)>>,
    wide: Vec<Wide>,
    came: u64,
    went: u64,
}

/// What changes in the sets of one field: ids, and whether they come in.
#[derive(Debug, Default)]
struct FieldSets {
    exists: Vec<(u32, bool)>,
    /// By the codes of values that are not texts.
    codes: Vec<(u64, u32, bool)>,
    texts: Vec<(Arc<str>, u32, bool)>,
}

impl FieldSets {
    fn push(&mut self, value: ValueRef<'_>, id: u32, present: bool) {
        match value {
            ValueRef::Text(text) => {
                // Of few texts, many documents in turn have the same one.
                let same = self.texts.last().filter(|(last, ..)| **last == *text);
                let text = same.map_or_else(|| text.into(), |(last, ..)| last.clone());
                self.texts.push((text, id, present));
            }
            value => self.codes.push((value.code(), id, present)),
        }
    }

    fn append(&mut self, mut other: Self) {
        self.exists.append(&mut other.exists);
        self.codes.append(&mut other.codes);
        self.texts.append(&mut other.texts);
    }

    /// Adds them in the order of their keys.
    fn gather(mut self, field: FieldId, ty: FieldType, out: &mut SetChanges) {
        let Self { exists, codes, texts } = &mut self;
        exists.sort_unstable();
        codes.sort_unstable();
        texts.sort_unstable();
        let of_all = exists.iter().map(|(id, present)| ((), *id, *present));
        gather(of_all, &mut |_, block| SetKey { field, term: None, block }, out);
        let of_codes = codes.iter().copied();
        gather(of_codes, &mut |code, block| SetKey { field, term: value::decode(*code, ty), block }, out);
        let of_texts = texts.iter().map(|(text, id, present)| (text, *id, *present));
        let term = |text: &Arc<str>| Some(Value::Text(text.clone()));
        gather(of_texts, &mut |text, block| SetKey { field, term: term(text), block }, out);
    }
}

/// Adds changes, which are in the order of (term, id), by term and block.
fn gather<T: PartialEq>(
    changes: impl Iterator<Item = (T, u32, bool)>,
    key: &mut dyn FnMut(&T, u16) -> SetKey,
    out: &mut SetChanges,
) {
    let mut taken: Vec<u16> = Vec::new();
    let mut changes = changes.peekable();
    while let Some((term, first, present)) = changes.next() {
        give_way();
        let block = block_of(first);
        let mut next = Some((first, present));
        let put = std::iter::from_fn(|| {
            while let Some((id, present)) = next.take() {
                let more = changes.next_if(|(other, id, _)| *other == term && block_of(*id) == block);
                next = more.map(|(_, id, present)| (id, present));
                if present {
                    return Some(id as u16);
                }
                taken.push(id as u16);
            }
            None
        });
        let put = out.put(put);
        let gone = out.put(taken.drain(..));
        out.keys.push((key(&term, block), put, gone));
    }
}

/// The same change of one set for many documents, or of one column.
#[derive(Debug)]
struct Wide {
    field: FieldId,
    ids: Arc<RoaringBitmap>,
    change: WideChange,
}

#[derive(Debug)]
enum WideChange {
    Set(Option<Value>, bool),
    Code(Option<u64>),
}

impl Effects {
    fn new(fields: usize) -> Self {
        let sets = (0..fields).map(|_| FieldSets::default()).collect();
        Self { sets, columns: vec![Vec::new(); fields], ..Self::default() }
    }

    fn append(&mut self, other: Self) {
        self.sets.iter_mut().zip(other.sets).for_each(|(all, more)| all.append(more));
        self.columns.iter_mut().zip(other.columns).for_each(|(all, mut more)| all.append(&mut more));
        self.came += other.came;
        self.went += other.went;
    }

    /// Writes this and new rows, which ascend.
    fn write(self, layout: &Layout, rows: &[RowEntry<'_>], layer: &mut Layer) {
        let Self { sets, columns, wide, .. } = self;
        let Layer { rows: held_rows, sets: held_sets, columns: held_columns, .. } = layer;
        let write_rows = || {
            held_rows.change(rows);
            write_sets(layout, sets, &wide, held_sets);
        };
        Parts::of(rows.len()).both(write_rows, || write_columns(layout, columns, &wide, held_columns));
    }
}

fn write_sets(layout: &Layout, sets: Vec<FieldSets>, wide: &[Wide], held: &mut LayerSets) {
    let mut changes = SetChanges::default();
    for ((field, sets), (_, ty)) in sets.into_iter().enumerate().zip(&layout.spec().fields) {
        sets.gather(field, *ty, &mut changes);
    }
    changes.write(layout, held);
    for Wide { field, ids, change } in wide {
        let WideChange::Set(term, present) = change else { continue };
        let mut changes = SetChanges::default();
        let ids = ids.iter().map(|id| ((), id, *present));
        gather(ids, &mut |_, block| SetKey { field: *field, term: term.clone(), block }, &mut changes);
        changes.write(layout, held);
    }
}

fn write_columns(layout: &Layout, mut columns: Vec<Vec<(u32, Option<u64>)>>, wide: &[Wide], held: &mut [LayerColumn]) {
    for (codes, column) in columns.iter_mut().zip(held.iter_mut()) {
        codes.sort_unstable_by_key(|(id, _)| *id);
        column.change(codes);
    }
    for Wide { field, ids, change } in wide {
        if let WideChange::Code(code) = change
            && let Some(column) = held.get_mut(*field)
        {
            column.change(&ids.iter().map(|id| (id, *code)).collect::<Vec<_>>());
        }
    }
    let Some(visible) = layout.schema.visible_at.and_then(|field| held.get(field)).cloned() else { return };
    for (field, column) in held.iter_mut().enumerate().filter(|(field, _)| layout.follows_visible_at(*field)) {
        let singly = columns.get(field).into_iter().flatten().map(|(id, _)| *id);
        column.compare(&visible, singly);
        for Wide { ids, .. } in
            wide.iter().filter(|wide| wide.field == field && matches!(wide.change, WideChange::Code(_)))
        {
            column.compare(&visible, ids.iter());
        }
    }
}

/// Changes of sets, gathered in the order of their keys.
#[derive(Debug, Default)]
struct SetChanges {
    /// How many ids behind those before come in, and how many of the following go out.
    keys: Vec<(SetKey, usize, usize)>,
    ids: Vec<u16>,
}

impl SetChanges {
    /// Adds ids that come in, or go out, under the next key; tells how many they are.
    fn put(&mut self, ids: impl Iterator<Item = u16>) -> usize {
        let start = self.ids.len();
        self.ids.extend(ids);
        self.ids.len() - start
    }

    fn write(self, layout: &Layout, held: &mut LayerSets) {
        let mut ids = self.ids.as_slice();
        let mut take = |count: usize| {
            let (taken, rest) = ids.split_at(count);
            ids = rest;
            taken
        };
        let changes = self.keys.into_iter();
        let changes: Vec<_> =
            changes.map(|(key, put, taken)| SetChange { key, put: take(put), taken: take(taken) }).collect();
        held.change(&changes, |field| layout.cell_tells(field));
    }
}

fn block_of(id: u32) -> u16 {
    (id >> BLOCK_BITS) as u16
}

impl Lookups for State {
    fn lookup(&self, source: SourceId, key: i64) -> Result<Option<&[u8]>> {
        self.row(source as Place, key)
    }
}

/// The lookups with the batch's rows before the state's.
struct Newer<'s, 'r> {
    state: &'s State,
    rows: &'r HashMap<(SourceId, i64), Option<&'r [u8]>>,
}

impl Lookups for Newer<'_, '_> {
    fn lookup(&self, source: SourceId, key: i64) -> Result<Option<&[u8]>> {
        if !self.rows.is_empty()
            && let Some(row) = self.rows.get(&(source, key))
        {
            return Ok(*row);
        }
        self.state.row(source as Place, key)
    }
}

/// A row as it is to be; `None`: it is gone.
type HopRow = (Place, i64, Option<Vec<u8>>);

/// A document whose own rows changed.
struct Own<'r, 's> {
    id: u32,
    /// In the order of the places.
    rows: SmallVec<[&'r RowChange<'s>; 2]>,
}

impl State {
    /// Applies what was gathered: rows, the sets and columns that follow from them, the hash and the counts.
    pub(super) fn settle(&mut self, changes: Changes) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let (new, bytes, back, effects, hash) = {
            let state = &*self;
            let resolved = changes.resolve(state)?;
            let rows = resolved.rows();
            let hash = state.header.hash.wrapping_add(resolved.hash);
            let effects = Settling::new(state, &rows)?.effects()?;
            let back = state.hop_rows(&rows)?;
            let (new, bytes) = resolved.into_new();
            (new, bytes, back, effects, hash)
        };
        let documents = self.header.documents + effects.came;
        self.header.documents = documents.saturating_sub(effects.went);
        self.header.hash = hash;
        let new = new.into_iter().map(|(place, key, span)| ((place, key), span.and_then(|span| bytes.get(span))));
        // Those of hops come last, as their places do.
        let back = back.iter().map(|(place, key, row)| ((*place, *key), row.as_deref()));
        effects.write(&self.layout, &new.chain(back).collect::<Vec<_>>(), &mut self.active);
        Ok(())
    }

    /// The rows of hops that follow from changed rows of lookups.
    fn hop_rows(&self, rows: &[RowChange<'_>]) -> Result<Vec<HopRow>> {
        let layout = &self.layout;
        let mut moved: BTreeMap<(Place, i64), Vec<(i64, bool)>> = BTreeMap::new();
        for (hop, (source, column)) in layout.hops.iter().enumerate() {
            let place = layout.hop_place(hop);
            for change in rows.iter().filter(|change| usize::from(change.place) == *source) {
                let value = |row: Option<&[u8]>| match row {
                    Some(row) => compute::column_of(layout, *source, change.key, row, *column)
                        .map(|value| value.and_then(ValueRef::as_int)),
                    None => Ok(None),
                };
                let (old, new) = (value(change.old)?, value(change.new)?);
                if old == new {
                    continue;
                }
                for (value, present) in [(old, false), (new, true)] {
                    if let Some(value) = value {
                        moved.entry((place, value)).or_default().push((change.key, present));
                    }
                }
            }
        }
        let mut out = Vec::with_capacity(moved.len());
        for ((place, value), changes) in moved {
            let mut keys = self.hop_keys(place, value)?;
            for (key, present) in &changes {
                match (keys.binary_search(key), present) {
                    (Err(at), true) => keys.insert(at, *key),
                    (Ok(at), false) => {
                        keys.remove(at);
                    }
                    _ => {}
                }
            }
            let mut bytes = Vec::with_capacity(keys.len() * 4 + 4);
            encode::put_number(&mut bytes, keys.len() as u64);
            keys.iter().for_each(|key| encode::put_key(&mut bytes, *key));
            out.push((place, value, (!keys.is_empty()).then_some(bytes)));
        }
        Ok(out)
    }

    /// Keys of the lookup's rows that hold `value` in the hop's column.
    fn hop_keys(&self, place: Place, value: i64) -> Result<Vec<i64>> {
        let Some(row) = self.row(place, value)? else { return Ok(Vec::new()) };
        let mut input = Input(row);
        let keys = input.length().and_then(|count| (0..count).map(|_| input.key()).collect());
        keys.map_err(|Broken| broken(&self.layout, place, value, row))
    }

    /// The documents that a lookup's row reaches by one way.
    fn reach(&self, key: i64, way: &Way) -> Result<RoaringBitmap> {
        let mut keys = vec![key];
        for hop in &way.back {
            let place = self.layout.hop_place(*hop);
            let mut before = Vec::new();
            for key in keys {
                before.append(&mut self.hop_keys(place, key)?);
            }
            keys = before;
        }
        let mut reached = RoaringBitmap::new();
        let mut buffer = BlockBuffer::default();
        let is_column = self.layout.spec().fields[way.field].0 == Index::Column;
        for key in keys {
            let value = ValueRef::Int(key);
            if is_column {
                let Some(column) = self.column(way.field) else { continue };
                let mut walk = column.walk(false, Some((value.code(), 0)))?;
                while let Some((code, id)) = walk.next()?
                    && code == value.code()
                {
                    reached.insert(id);
                }
                continue;
            }
            let operand = self.operand(way.field, Term::Value(value))?;
            for number in operand.blocks() {
                give_way();
                let first = u32::from(number) << BLOCK_BITS;
                match operand.block(number, &mut buffer)? {
                    Block::Empty => {}
                    Block::Array(ids) => reached.extend(ids.iter().map(|id| first | u32::from(*id))),
                    Block::Bits(words) => {
                        reached |= RoaringBitmap::from_lsb0_bytes(first, bytemuck::cast_slice(words.as_slice()));
                    }
                }
            }
        }
        Ok(reached)
    }
}

/// Works out what follows from changed rows.
struct Settling<'s, 'r> {
    state: &'s State,
    rows: &'r [RowChange<'s>],
    own: Vec<Own<'r, 's>>,
    /// Rows of lookups.
    lookups: HashMap<(SourceId, i64), Option<&'r [u8]>>,
    /// Documents that lookups reach, by the fields that have to be computed of them.
    reached: Vec<(Numbers, RoaringBitmap)>,
}

impl<'s, 'r> Settling<'s, 'r> {
    fn new(state: &'s State, rows: &'r [RowChange<'s>]) -> Result<Self> {
        let layout = &state.layout;
        let mut of_documents: Vec<(u32, &RowChange<'s>)> = Vec::with_capacity(rows.len());
        let mut lookups = HashMap::new();
        for change in rows {
            if layout.slot(change.place).is_none() {
                lookups.insert((usize::from(change.place), change.key), change.new);
            } else if let Ok(id) = u32::try_from(change.key) {
                of_documents.push((id, change));
            }
        }
        // Stable, so the places of one document stay in order.
        of_documents.sort_by_key(|(id, _)| *id);
        let mut own: Vec<Own<'r, 's>> = Vec::with_capacity(of_documents.len());
        for (id, change) in of_documents {
            match own.last_mut() {
                Some(last) if last.id == id => last.rows.push(change),
                _ => own.push(Own { id, rows: SmallVec::from_slice(&[change]) }),
            }
        }
        Ok(Self { state, rows, own, lookups, reached: Vec::new() })
    }

    fn layout(&self) -> &'s Layout {
        &self.state.layout
    }

    fn newer(&self) -> Newer<'s, '_> {
        Newer { state: self.state, rows: &self.lookups }
    }

    fn effects(mut self) -> Result<Effects> {
        let wide = self.reach_all()?;
        // Those of which no own row changed.
        let mut others = RoaringBitmap::new();
        self.reached.iter().for_each(|(_, ids)| others |= ids);
        let mut all: RoaringBitmap = self.own.iter().map(|own| own.id).collect();
        others -= &all;
        all |= &others;
        Ok(Effects { wide, ..self.in_parts(&all, &others)? })
    }

    /// Finds what lookups reach: fills `reached`, and answers with what can be moved without a look at documents.
    fn reach_all(&mut self) -> Result<Vec<Wide>> {
        let layout = self.layout();
        let mut wide: Vec<(&Way, &RowChange<'s>, RoaringBitmap)> = Vec::new();
        let mut busy: RoaringBitmap = RoaringBitmap::new();
        for change in self.rows {
            let Some(ways) = layout.ways.get(usize::from(change.place)) else { continue };
            for way in ways.iter().filter(|way| !way.fed.is_empty()) {
                let ids = self.state.reach(change.key, way)?;
                if ids.len() >= WIDE {
                    wide.push((way, change, ids));
                } else if !ids.is_empty() {
                    busy |= &ids;
                    add_reached(&mut self.reached, way.fed.iter().copied().collect(), ids);
                }
            }
        }
        if wide.is_empty() {
            return Ok(Vec::new());
        }
        busy.extend(self.own.iter().map(|own| own.id));
        // Of two rows on one path the nearer one decides.
        wide.sort_by_key(|(way, ..)| way.back.len());
        let mut moved = Vec::new();
        let mut done: HashMap<FieldId, RoaringBitmap> = HashMap::new();
        for (way, change, ids) in wide {
            let source = usize::from(change.place);
            let is_uniform = |field: &FieldId| layout.is_uniform(*field, source, way);
            let (together, singly): (Vec<FieldId>, Vec<FieldId>) = way.fed.iter().partition(|field| is_uniform(field));
            add_reached(&mut self.reached, together.iter().copied().collect(), &ids & &busy);
            for field in together {
                let done = done.entry(field).or_insert_with(|| busy.clone());
                let ids = Arc::new(&ids - &*done);
                *done |= ids.as_ref();
                if !ids.is_empty() {
                    self.move_together(field, way, change, &ids, &mut moved)?;
                }
            }
            add_reached(&mut self.reached, singly.into_iter().collect(), ids);
        }
        Ok(moved)
    }

    fn move_together(
        &self,
        field: FieldId,
        way: &Way,
        change: &RowChange<'_>,
        ids: &Arc<RoaringBitmap>,
        moved: &mut Vec<Wide>,
    ) -> Result<()> {
        let (layout, newer) = (self.layout(), self.newer());
        let old = compute::uniform(layout, self.state, field, way.back.len(), change.key)?;
        let new = compute::uniform(layout, &newer, field, way.back.len(), change.key)?;
        let follows = layout.follows_visible_at(field);
        if old == new && !follows {
            return Ok(());
        }
        let mut push = |change| moved.push(Wide { field, ids: ids.clone(), change });
        if layout.spec().fields[field].0 == Index::Column {
            if old.map(ValueRef::code) != new.map(ValueRef::code) || follows {
                push(WideChange::Code(new.map(ValueRef::code)));
            }
        } else {
            for (value, present) in [(old, false), (new, true)] {
                if let Some(value) = value {
                    push(WideChange::Set(Some(value.to_value()), present));
                }
            }
        }
        if old.is_some() != new.is_some() {
            push(WideChange::Set(None, new.is_some()));
        }
        Ok(())
    }

    /// What changes in all of these documents.
    fn in_parts(&self, all: &RoaringBitmap, others: &RoaringBitmap) -> Result<Effects> {
        let parts = Parts::of(all.len() as usize);
        let share = all.len().div_ceil(parts.count as u64);
        let firsts: Vec<u32> = (0..).map_while(|n| all.select(u32::try_from(n * share).ok()?)).collect();
        let made = parts.work(|numbers| {
            let mut worker = Worker::new(self);
            for part in numbers {
                let Some(first) = firsts.get(part) else { break };
                let last = firsts.get(part + 1).map_or(u32::MAX, |next| next - 1);
                self.documents(*first..=last, others, &mut worker)?;
            }
            Ok(worker.effects)
        });
        // In any order: all is sorted before it is written.
        let mut made = made.into_iter();
        let mut effects = made.next().transpose()?.unwrap_or_default();
        made.try_for_each(|more| more.map(|more| effects.append(more)))?;
        Ok(effects)
    }

    /// What changes in the documents of a range: those with rows of their own that changed, and `others`.
    fn documents(
        &self,
        range: RangeInclusive<u32>,
        others: &RoaringBitmap,
        worker: &mut Worker<'_, 's, 'r>,
    ) -> Result<()> {
        let at = |id: u32| self.own.partition_point(|own| own.id < id);
        let behind = range.end().checked_add(1).map_or(self.own.len(), at);
        for own in self.own.get(at(*range.start())..behind).unwrap_or_default() {
            let mut fields = Numbers::default();
            own.rows.iter().for_each(|row| fields.extend(worker.fed_by(row.place)));
            self.reached_by(own.id, &mut fields);
            worker.document(own.id, &own.rows, &fields)?;
        }
        let only = match self.reached.as_slice() {
            [(fields, _)] => Some(fields),
            _ => None,
        };
        for id in others.range(range) {
            match only {
                Some(fields) => worker.document(id, &[], fields)?,
                None => {
                    let mut fields = Numbers::default();
                    self.reached_by(id, &mut fields);
                    worker.document(id, &[], &fields)?;
                }
            }
        }
        Ok(())
    }

    /// Adds the fields by which lookups reach a document.
    fn reached_by(&self, id: u32, fields: &mut Numbers) {
        self.reached.iter().filter(|(_, ids)| ids.contains(id)).for_each(|(more, _)| fields.extend(more));
    }
}

fn add_reached(reached: &mut Vec<(Numbers, RoaringBitmap)>, fields: Numbers, ids: RoaringBitmap) {
    if fields.is_empty() || ids.is_empty() {
        return;
    }
    match reached.iter_mut().find(|(others, _)| *others == fields) {
        Some((_, all)) => *all |= ids,
        None => reached.push((fields, ids)),
    }
}

/// Computes documents before and after.
struct Worker<'w, 's, 'r> {
    settling: &'w Settling<'s, 'r>,
    effects: Effects,
    /// By place, the fields that it feeds.
    fed: Vec<Numbers>,
    /// The fields that were computed last, as a list, and the slots that this takes.
    plan: (Numbers, Vec<FieldId>, Vec<usize>),
}

type Rows<'a> = SmallVec<[Option<&'a [u8]>; 16]>;
type Values<'a> = SmallVec<[(FieldId, ValueRef<'a>); 32]>;

impl<'w, 's, 'r> Worker<'w, 's, 'r> {
    fn new(settling: &'w Settling<'s, 'r>) -> Self {
        let layout = settling.layout();
        let fed = (0..layout.places()).map(|place| layout.fields_of(place as Place).iter().copied().collect());
        Self { settling, effects: Effects::new(layout.fields.len()), fed: fed.collect(), plan: Default::default() }
    }

    fn fed_by(&self, place: Place) -> &Numbers {
        &self.fed[usize::from(place)]
    }

    fn make_plan(&mut self, fields: &Numbers) {
        if self.plan.0 != *fields {
            let mut slots = Numbers::default();
            fields.iter().for_each(|field| slots.extend(self.settling.layout().inputs_of(field)));
            self.plan = (fields.clone(), fields.iter().collect(), slots.iter().collect());
        }
    }

    /// `rows`: those that changed, of places of this document; `fields`: those that may have changed.
    fn document(&mut self, id: u32, rows: &[&'r RowChange<'s>], fields: &Numbers) -> Result<()> {
        give_way();
        let (state, layout) = (self.settling.state, self.settling.layout());
        let key = i64::from(id);
        let (was, is) = match rows.first() {
            // Sets hold present documents only.
            None => (true, true),
            Some(row) if usize::from(row.place) == DOCUMENT_SOURCE => (row.old.is_some(), row.new.is_some()),
            Some(_) => {
                let present = state.row(DOCUMENT_SOURCE as Place, key)?.is_some();
                (present, present)
            }
        };
        if was == is {
            if !was || fields.is_empty() {
                return Ok(());
            }
            self.make_plan(fields);
        } else {
            self.make_plan(&layout.indexed().iter().copied().collect());
            self.effects.sets[KEY_FIELD].exists.push((id, is));
            *if is { &mut self.effects.came } else { &mut self.effects.went } += 1;
        }
        let (_, fields, slots) = &self.plan;
        let mut old: Rows<'_> = SmallVec::from_elem(None, layout.spec().slots);
        let mut new = old.clone();
        for slot in slots {
            let place = layout.place(*slot);
            match rows.iter().find(|row| row.place == place) {
                Some(row) => (old[*slot], new[*slot]) = (row.old, row.new),
                None => {
                    old[*slot] = state.row(place, key)?;
                    new[*slot] = old[*slot];
                }
            }
        }
        let newer = self.settling.newer();
        let (mut before, mut after) = (Values::new(), Values::new());
        if was {
            compute::values(layout, &old, state, id, fields, &mut |field, value| before.push((field, value)))?;
        }
        if is {
            compute::values(layout, &new, &newer, id, fields, &mut |field, value| after.push((field, value)))?;
        }
        differences(layout, id, &before, &after, &mut self.effects);
        Ok(())
    }
}

/// Both are in the order of (field, value). Where `visible_at` may have changed, of fields that follow it the code is
/// said again, also where it is the old one: see [`ColumnView::ahead`](super::view::ColumnView::ahead).
fn differences(
    layout: &Layout,
    id: u32,
    mut before: &[(FieldId, ValueRef<'_>)],
    mut after: &[(FieldId, ValueRef<'_>)],
    effects: &mut Effects,
) {
    let visible = |values: &[(FieldId, ValueRef<'_>)]| {
        let of_field = |(field, _): &&(FieldId, ValueRef<'_>)| Some(*field) == layout.schema.visible_at;
        values.iter().find(of_field).map(|(_, value)| value.code())
    };
    let (was_visible, is_visible) = (visible(before), visible(after));
    let same_visible = was_visible.is_some() && was_visible == is_visible;
    while let Some(field) = before.first().into_iter().chain(after.first()).map(|(field, _)| *field).min() {
        let of_field = |values: &[(FieldId, ValueRef<'_>)]| values.iter().take_while(|(of, _)| *of == field).count();
        let (old, rest) = before.split_at(of_field(before));
        before = rest;
        let (new, rest) = after.split_at(of_field(after));
        after = rest;
        let sets = &mut effects.sets[field];
        if old.is_empty() != new.is_empty() {
            sets.exists.push((id, !new.is_empty()));
        }
        if layout.spec().fields[field].0 == Index::Column {
            let code = |values: &[(FieldId, ValueRef<'_>)]| values.first().map(|(_, value)| value.code());
            if code(old) != code(new) || !same_visible && layout.follows_visible_at(field) {
                effects.columns[field].push((id, code(new)));
            }
            continue;
        }
        let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
        loop {
            let (value, present) = match (old.peek(), new.peek()) {
                (None, None) => break,
                (Some((_, gone)), Some((_, came))) if gone == came => {
                    old.next();
                    new.next();
                    continue;
                }
                (Some((_, gone)), other) if other.is_none_or(|(_, came)| gone < came) => (*gone, false),
                (_, Some((_, came))) => (*came, true),
                (Some((_, gone)), None) => (*gone, false),
            };
            if present {
                new.next();
            } else {
                old.next();
            }
            sets.push(value, id, present);
        }
    }
}
