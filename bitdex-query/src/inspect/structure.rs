//! Whether sets, columns, counts, hops and hashes are those that the rows yield.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::{Debug, Display},
    num::NonZero,
    ops::Bound,
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
};

use bitdex_proto::{
    schema::{DOCUMENT_SOURCE, FieldId, KEY_FIELD},
    value::{FieldValue, Value},
};

use super::check::{Checked, Findings};
use crate::{
    log::Result,
    segment::{
        BLOCK_BITS, Index, SEGMENT_BITS,
        segment::Segment,
        sets::{Block, BlockBuffer},
        value::{Term, ValueRef},
    },
    state::{State, compute::row_hash, encode::Input, layout::Place},
};

pub(super) fn check(state: &State, checked: &mut Checked, progress: &mut dyn FnMut(&str)) {
    let segments = state.files().segments();
    in_parallel(
        segments,
        |segment| {
            let mut findings = Findings::default();
            let result = segment_sums(state, segment, &mut findings);
            findings.keep(result);
            findings
        },
        |n, findings| {
            checked.findings.append(findings);
            progress(&format!("added up segment {n} of {}", segments.len()));
        },
    );
    rows(state, checked, progress);
    for hop in 0..state.layout().hops.len() {
        progress(&format!("comparing the way back {hop} of lookups"));
        let result = hops(state, hop, checked);
        checked.findings.keep(result);
    }
    let mut documents = Documents::new(state);
    let blocks = state.blocks();
    in_parallel(
        &blocks,
        |block| {
            let mut part = Documents::new(state);
            let mut checked = Checked::default();
            let result = part.block(*block, &mut checked);
            checked.findings.keep(result);
            (part, checked.findings)
        },
        |n, (part, findings)| {
            documents.add(&part);
            checked.findings.append(findings);
            progress(&format!("compared documents, block {n} of {}", blocks.len()));
        },
    );
    let fields = documents.fields.clone();
    in_parallel(
        &fields,
        |field| {
            let mut checked = Checked::default();
            let result = documents.whole(*field, &mut checked);
            checked.findings.keep(result);
            checked.findings
        },
        |n, findings| {
            checked.findings.append(findings);
            progress(&format!("compared field {n} of {}", fields.len()));
        },
    );
    checked.documents = documents.present;
    if documents.present != state.documents() {
        let expected = documents.present;
        checked.findings.add(format_args!(
            "{}: the header counts {} documents, but {expected} are present",
            documents.place(None),
            state.documents(),
        ));
    }
}

/// Does the work on all cores, and takes what comes of it in the order of `tasks`, with its number from 1 on.
fn in_parallel<T: Sync, R: Send>(tasks: &[T], work: impl Fn(&T) -> R + Sync, mut take: impl FnMut(usize, R)) {
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get).min(tasks.len());
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        // As many results may wait as there are threads, so that a slow one does not let them pile up.
        let (sender, results) = mpsc::sync_channel(threads);
        for _ in 0..threads {
            let (sender, next, work) = (sender.clone(), &next, &work);
            scope.spawn(move || {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let Some(task) = tasks.get(n) else { return };
                    if sender.send((n, work(task))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let mut early = BTreeMap::new();
        let mut wanted = 0;
        for (n, result) in results {
            early.insert(n, result);
            while let Some(result) = early.remove(&wanted) {
                wanted += 1;
                take(wanted, result);
            }
        }
    });
}

fn name(state: &State, field: FieldId) -> String {
    match state.schema().fields.get(field) {
        Some(field) => format!("field {}", field.name),
        None => format!("hidden field {field}"),
    }
}

/// A segment's own counts.
fn segment_sums(state: &State, segment: &Segment, findings: &mut Findings) -> Result<()> {
    let layout = state.layout();
    let document = layout.slot(DOCUMENT_SOURCE as Place);
    let (mut hash, mut present) = (0u128, 0);
    let mut from = Some(segment.number() << SEGMENT_BITS);
    while let Some(start) = from
        && let Some(id) = segment.documents().next(start)?
    {
        for (slot, row) in segment.documents().get(id)?.into_iter().flatten().enumerate() {
            let Some(row) = row else { continue };
            hash = hash.wrapping_add(row_hash(layout.place(slot), id.into(), row));
            present += u64::from(Some(slot) == document);
        }
        from = id.checked_add(1);
    }
    let path = segment.pack().path().display();
    if present != segment.documents_present() {
        let told = segment.documents_present();
        findings.add(format_args!("{path}: it counts {told} documents, but rows of {present} are in it"));
    }
    if hash != segment.hash() {
        findings.add(format_args!("{path}: its hash is not that of its rows"));
    }
    for field in 0..layout.spec().fields.len() {
        if let Some(column) = segment.column(field)
            && !column.agrees()?
        {
            findings
                .add(format_args!("{path}, {}: bounds of the column are not those of its codes", name(state, field)));
        }
        if !segment.leaders_agree(field)? {
            findings.add(format_args!("{path}, {}: listed first are not the ids that come first", name(state, field)));
        }
    }
    Ok(())
}

fn rows(state: &State, checked: &mut Checked, progress: &mut dyn FnMut(&str)) {
    // The rows of hops follow from those of lookups, and are no part of the hash.
    let places: Vec<Place> = (0..state.layout().places().saturating_sub(state.layout().hops.len()) as Place).collect();
    let sum = |place: &Place| -> Result<(u128, u64)> {
        let (mut hash, mut count) = (0u128, 0u64);
        let mut rows = state.rows(*place, i64::MIN, i64::MAX)?;
        while let Some((key, row)) = rows.next()? {
            hash = hash.wrapping_add(row_hash(*place, key, row));
            count += 1;
        }
        Ok((hash, count))
    };
    let mut hash = Some(0u128);
    in_parallel(&places, sum, |n, sum| {
        let sum = checked.findings.keep(sum);
        checked.rows += sum.map_or(0, |(_, count)| count);
        hash = hash.zip(sum).map(|(hash, (more, _))| hash.wrapping_add(more));
        progress(&format!("added up rows, place {n} of {}", places.len()));
    });
    // Where not all rows can be read, it is told why.
    if hash.is_some_and(|hash| hash != state.hash()) {
        let folder = state.files().folder().display();
        checked
            .findings
            .add(format_args!("{folder}: the version's hash {:032x} is not that of its rows", state.hash()));
    }
}

/// Each row of a lookup is kept by the value of the hop's column, and nothing else is.
fn hops(state: &State, hop: usize, checked: &mut Checked) -> Result<()> {
    let Some((source, column)) = state.layout().hops.get(hop).copied() else { return Ok(()) };
    let place = state.layout().hop_place(hop);
    let folder = state.files().folder().display().to_string();
    let mut expected = 0u64;
    let mut rows = state.rows(source as Place, i64::MIN, i64::MAX)?;
    while let Some((key, row)) = rows.next()? {
        let mut input = Input(row);
        let value = (0..=column).map(|_| input.optional().ok()).last().flatten();
        let back = match value {
            None => {
                checked.findings.add(format_args!("{folder}: row {key} of lookup {source} does not decode"));
                continue;
            }
            Some(Some(Value::Int(back))) => back,
            Some(_) => continue,
        };
        expected += 1;
        let keys = state.row(place, back)?.and_then(keys);
        if keys.is_none_or(|keys| keys.binary_search(&key).is_err()) {
            checked.findings.add(format_args!(
                "{folder}: the way back from {back} in lookup {source} does not lead to its row {key}"
            ));
        }
    }
    let mut held = 0;
    let mut rows = state.rows(place, i64::MIN, i64::MAX)?;
    while let Some((back, row)) = rows.next()? {
        match keys(row) {
            Some(keys) => held += keys.len() as u64,
            None => checked.findings.add(format_args!("{folder}: row {back} of place {place} does not decode")),
        }
    }
    if held != expected {
        checked.findings.add(format_args!(
            "{folder}: the ways back through lookup {source} lead to {held} rows instead of {expected}"
        ));
    }
    Ok(())
}

/// The keys of a hop's row.
fn keys(row: &[u8]) -> Option<Vec<i64>> {
    let mut input = Input(row);
    let count = input.length().ok()?;
    let keys: Vec<i64> = (0..count).map(|_| input.key().ok()).collect::<Option<_>>()?;
    (input.is_empty() && keys.is_sorted_by(|a, b| a < b)).then_some(keys)
}

/// Compares what is indexed with the documents, and adds up what the documents have.
struct Documents<'s> {
    state: &'s State,
    /// The indexed ones.
    fields: Vec<FieldId>,
    /// By field: documents that have a value, and pairs of document and value.
    totals: Vec<(u64, u64)>,
    present: u64,
    /// The block, for messages.
    at: Option<u16>,
}

/// What the documents of one block have in one field.
#[derive(Default)]
struct Expected {
    exists: Vec<u16>,
    terms: HashMap<Value, Vec<u16>>,
    codes: Vec<(u16, u64)>,
}

impl<'s> Documents<'s> {
    fn new(state: &'s State) -> Self {
        let spec = state.layout().spec();
        let indexed = |field: &FieldId| spec.fields.get(*field).is_some_and(|(index, _)| *index != Index::None);
        let fields = (0..spec.fields.len()).filter(indexed).collect();
        Self { state, fields, totals: vec![(0, 0); spec.fields.len()], present: 0, at: None }
    }

    /// Takes over what another one added up.
    fn add(&mut self, other: &Self) {
        self.present += other.present;
        for (mine, theirs) in self.totals.iter_mut().zip(&other.totals) {
            *mine = (mine.0 + theirs.0, mine.1 + theirs.1);
        }
    }

    fn index(&self, field: FieldId) -> Index {
        self.state.layout().spec().fields.get(field).map_or(Index::None, |(index, _)| *index)
    }

    /// The file in which a block is, and the block.
    fn place(&self, block: Option<u16>) -> String {
        let files = self.state.files();
        let segment = block.and_then(|block| files.segment(u32::from(block) >> (SEGMENT_BITS - BLOCK_BITS)));
        let path = segment.map_or_else(|| files.folder(), |segment| segment.pack().path()).display();
        block.map_or_else(|| path.to_string(), |block| format!("{path}, block {block}"))
    }

    fn wrong(&self, field: FieldId, checked: &mut Checked, what: impl Display) {
        checked.findings.add(format_args!("{}, {}: {what}", self.place(self.at), name(self.state, field)));
    }

    fn block(&mut self, block: u16, checked: &mut Checked) -> Result<()> {
        self.at = Some(block);
        let mut buffer = BlockBuffer::default();
        let present = ids(self.state.operand(KEY_FIELD, Term::Exists)?.block(block, &mut buffer)?);
        self.present += present.len() as u64;
        let mut expected: Vec<Expected> = self.fields.iter().map(|_| Expected::default()).collect();
        let mut reader = self.state.document_reader(&self.fields);
        for low in &present {
            let id = u32::from(block) << BLOCK_BITS | u32::from(*low);
            let Some(values) = reader.values(id)? else {
                self.wrong(KEY_FIELD, checked, format_args!("document {id} is counted as present, but has no row"));
                continue;
            };
            for (expected, value) in expected.iter_mut().zip(values) {
                expected.take(*low, value);
            }
        }
        for (field, expected) in self.fields.clone().into_iter().zip(expected) {
            if let Some((documents, pairs)) = self.totals.get_mut(field) {
                *documents += expected.exists.len() as u64;
                *pairs += expected.terms.values().map(|ids| ids.len() as u64).sum::<u64>();
            }
            self.set(field, Term::Exists, &expected.exists, checked)?;
            match self.index(field) {
                Index::None => {}
                Index::Terms => {
                    for (value, ids) in &expected.terms {
                        self.set(field, Term::Value(ValueRef::of(value)), ids, checked)?;
                    }
                }
                Index::Column => self.codes(field, block, &expected.codes, checked)?,
            }
        }
        Ok(())
    }

    /// Whether the set holds these ids of the block, and no others.
    fn set(&self, field: FieldId, term: Term<'_>, expected: &[u16], checked: &mut Checked) -> Result<()> {
        let Some(block) = self.at else { return Ok(()) };
        let mut buffer = BlockBuffer::default();
        let held = ids(self.state.operand(field, term)?.block(block, &mut buffer)?);
        if held != expected {
            let id = first_difference(&held, expected).map(|low| u32::from(block) << BLOCK_BITS | u32::from(low));
            let what = format!(
                "the set of {term:?} has {} ids instead of {}; the first that differs is {id:?}",
                held.len(),
                expected.len()
            );
            self.wrong(field, checked, what);
        }
        Ok(())
    }

    fn codes(&self, field: FieldId, block: u16, expected: &[(u16, u64)], checked: &mut Checked) -> Result<()> {
        let Some(column) = self.state.column(field) else {
            self.wrong(field, checked, "the column is missing");
            return Ok(());
        };
        let bounds = column.bounds(block)?;
        let mut codes = Vec::new();
        column.block(block, &mut codes)?;
        for (low, code) in expected {
            let id = u32::from(block) << BLOCK_BITS | u32::from(*low);
            let (one, decoded) = (column.get(id)?, codes.get(usize::from(*low)).copied());
            if one != Some(*code) || decoded != Some(*code) {
                let what =
                    format!("the column says {one:?} of document {id}, and {decoded:?} in its block, not {code}");
                self.wrong(field, checked, what);
            }
            if *code < bounds.min || *code > bounds.max {
                self.wrong(field, checked, format_args!("document {id} is outside of the block's bounds"));
            }
        }
        Ok(())
    }

    /// That the index of a field holds nothing else than what the blocks were found to have.
    fn whole(&self, field: FieldId, checked: &mut Checked) -> Result<()> {
        let (documents, pairs) = self.totals.get(field).copied().unwrap_or_default();
        let exists = self.count(field, Term::Exists)?;
        if exists != documents {
            let what = format!("the set of documents that have a value has {exists} ids instead of {documents}");
            self.wrong(field, checked, what);
        }
        if self.index(field) == Index::Column {
            for descending in [false, true] {
                self.walk(field, descending, documents, checked)?;
            }
            return Ok(());
        }
        let unbounded = (Bound::Unbounded, Bound::Unbounded);
        let mut held = 0;
        for value in self.state.terms_within(field, &unbounded, usize::MAX)? {
            held += self.count(field, Term::Value(ValueRef::of(&value)))?;
        }
        if held != pairs {
            self.wrong(field, checked, format_args!("its sets have {held} ids in all instead of {pairs}"));
        }
        Ok(())
    }

    fn count(&self, field: FieldId, term: Term<'_>) -> Result<u64> {
        let operand = self.state.operand(field, term)?;
        let mut buffer = BlockBuffer::default();
        let mut count = 0;
        for block in operand.blocks() {
            count += u64::from(operand.block(block, &mut buffer)?.len());
        }
        Ok(count)
    }

    /// The order holds every document with a value, in order.
    fn walk(&self, field: FieldId, descending: bool, documents: u64, checked: &mut Checked) -> Result<()> {
        let Some(column) = self.state.column(field) else { return Ok(()) };
        let mut walk = column.walk(descending, None)?;
        let (mut last, mut count) = (None, 0);
        while let Some(next) = walk.next()? {
            count += 1;
            let follows = last.is_none_or(|last| if descending { next < last } else { next > last });
            if !follows || column.get(next.1)? != Some(next.0) {
                self.wrong(field, checked, format_args!("document {} is not where it belongs in the order", next.1));
            }
            last = Some(next);
        }
        if count != documents {
            self.wrong(field, checked, format_args!("the order has {count} documents instead of {documents}"));
        }
        Ok(())
    }
}

impl Expected {
    fn take(&mut self, low: u16, value: FieldValue) {
        match value {
            FieldValue::Null => return,
            FieldValue::One(value) => self.value(low, value),
            FieldValue::Many(values) => values.iter().for_each(|value| self.value(low, value.clone())),
        }
        self.exists.push(low);
    }

    fn value(&mut self, low: u16, value: Value) {
        self.codes.push((low, ValueRef::of(&value).code()));
        self.terms.entry(value).or_default().push(low);
    }
}

fn ids(block: Block<'_>) -> Vec<u16> {
    match block {
        Block::Empty => Vec::new(),
        Block::Array(ids) => ids.to_vec(),
        Block::Bits(_) => {
            let mut ids = Vec::with_capacity(block.len() as usize);
            block.for_each(|id| ids.push(id));
            ids
        }
    }
}

fn first_difference<T: Copy + Debug + Ord>(one: &[T], other: &[T]) -> Option<T> {
    let same = one.iter().zip(other).take_while(|(a, b)| a == b).count();
    match (one.get(same), other.get(same)) {
        (Some(a), Some(b)) => Some(*a.min(b)),
        (a, b) => a.or(b).copied(),
    }
}
