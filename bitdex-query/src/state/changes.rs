//! The row changes of a batch, gathered in order and brought down to one new row for each place and key.

use bitdex_proto::{
    ops::{Change, Op, Row},
    schema::FieldId,
    value::{FieldValue, Value},
};
use smallvec::SmallVec;

use super::{
    State,
    compute::{self, broken},
    encode::{self, Broken, Input},
    layout::{Layout, Place},
    parallel::Parts,
};
use crate::{log::Result, mapping::slices::give_way, segment::value::ValueRef};

/// Where bytes stand among others.
pub(super) type Span = std::ops::Range<usize>;

/// Where a row is that is to be; `None`: it is gone.
pub(super) type NewRow = (Place, i64, Option<Span>);

type Steps = [(Place, i64, Step)];

#[derive(Debug)]
enum Step {
    Row(Option<Span>),
    Member(Value, bool),
    External(Change),
}

/// Changes of rows, in order.
#[derive(Debug, Default)]
pub(super) struct Changes {
    steps: Vec<(Place, i64, Step)>,
    /// The rows' bytes.
    bytes: Vec<u8>,
}

/// A row that is no longer what it was.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowChange<'s> {
    pub(super) place: Place,
    pub(super) key: i64,
    pub(super) old: Option<&'s [u8]>,
    pub(super) new: Option<&'s [u8]>,
}

/// The rows that differ from a state's, in the order of (place, key).
#[derive(Debug)]
pub(super) struct Resolved<'s> {
    /// Each with its old row.
    rows: Vec<(NewRow, Option<&'s [u8]>)>,
    /// Of the new rows.
    bytes: Vec<u8>,
    /// What the state's hash grows by.
    pub(super) hash: u128,
}

impl<'s> Resolved<'s> {
    pub(super) fn rows<'r>(&'r self) -> Vec<RowChange<'r>>
    where
        's: 'r,
    {
        let new = |span: &Option<Span>| span.as_ref().and_then(|span| self.bytes.get(span.clone()));
        let rows = self.rows.iter();
        rows.map(|((place, key, span), old)| RowChange { place: *place, key: *key, old: *old, new: new(span) })
            .collect()
    }

    /// Where the new rows stand among the bytes.
    pub(super) fn into_new(self) -> (Vec<NewRow>, Vec<u8>) {
        (self.rows.into_iter().map(|(new, _)| new).collect(), self.bytes)
    }
}

impl Changes {
    pub(super) fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Number of changes.
    pub(super) fn len(&self) -> usize {
        self.steps.len()
    }

    pub(super) fn row(&mut self, place: Place, key: i64, row: Option<&Row>) {
        let span = row.map(|row| {
            let start = self.bytes.len();
            row.iter().for_each(|value| encode::put_optional(&mut self.bytes, value.as_ref()));
            start..self.bytes.len()
        });
        self.steps.push((place, key, Step::Row(span)));
    }

    /// A row as it stands in a layer.
    pub(super) fn bytes(&mut self, place: Place, key: i64, row: Option<&[u8]>) {
        let span = row.map(|row| {
            self.bytes.extend_from_slice(row);
            self.bytes.len() - row.len()..self.bytes.len()
        });
        self.steps.push((place, key, Step::Row(span)));
    }

    pub(super) fn member(&mut self, place: Place, document: u32, value: Value, present: bool) {
        self.steps.push((place, document.into(), Step::Member(value, present)));
    }

    pub(super) fn external(&mut self, layout: &Layout, field: FieldId, document: u32, change: Change) {
        self.steps.push((layout.external(field), document.into(), Step::External(change)));
    }

    /// No row of the place is left whose key is from `first` to `last` and not kept.
    pub(super) fn clear(
        &mut self,
        state: &State,
        place: Place,
        (first, last): (i64, i64),
        kept: impl Fn(i64) -> bool,
    ) -> Result<()> {
        self.steps.retain(|(of, key, _)| *of != place || !(first..=last).contains(key) || kept(*key));
        let steps = &mut self.steps;
        state.each_key(place, first, last, &mut |key| {
            if !kept(key) {
                steps.push((place, key, Step::Row(None)));
            }
        })
    }

    /// Takes in an op that was staged: what came before it is all there is.
    pub(super) fn push_staged(&mut self, op: &Op) {
        let mut forget = |place: Place, gone: &dyn Fn(i64) -> bool| {
            // A step that removes stays: it hides the state's row.
            self.steps.retain(|(of, key, step)| *of != place || !gone(*key) || matches!(step, Step::Row(None)));
        };
        match op {
            Op::Upsert { source, key, row } => self.row(*source as Place, *key, row.as_ref()),
            Op::Member { source, document, value, present } => {
                self.member(*source as Place, *document, value.clone(), *present);
            }
            Op::Truncate { source } => forget(*source as Place, &|_| true),
            Op::Retain { source, first, last, keys } => forget(*source as Place, &|key| {
                (i64::from(*first)..=i64::from(*last)).contains(&key)
                    && keys.binary_search_by_key(&key, |kept| i64::from(*kept)).is_err()
            }),
            Op::Field { .. } | Op::QueryOpSet { .. } => {}
        }
    }

    /// Takes in an op on the rows of a source; tells whether it was one.
    pub(super) fn push(&mut self, state: &State, op: &Op) -> Result<bool> {
        match op {
            Op::Upsert { source, key, row } => self.row(*source as Place, *key, row.as_ref()),
            Op::Member { source, document, value, present } => {
                self.member(*source as Place, *document, value.clone(), *present);
            }
            Op::Truncate { source } => self.clear(state, *source as Place, (i64::MIN, i64::MAX), |_| false)?,
            Op::Retain { source, first, last, keys } => {
                let kept = |key| keys.binary_search_by_key(&key, |kept| i64::from(*kept)).is_ok();
                self.clear(state, *source as Place, ((*first).into(), (*last).into()), kept)?;
            }
            Op::Field { .. } | Op::QueryOpSet { .. } => return Ok(false),
        }
        Ok(true)
    }

    /// The rows that differ from the state's.
    pub(super) fn resolve(mut self, state: &State) -> Result<Resolved<'_>> {
        let key_of = |(place, key, _): &(Place, i64, Step)| (*place, *key);
        let parts = Parts::of(self.steps.len());
        // In bulk they mostly come in order already, or in runs; two runs are left to be merged.
        let half = self.steps.len() / 2;
        let (front, back) = self.steps.split_at_mut(half);
        parts.both(|| front.sort_by_key(key_of), || back.sort_by_key(key_of));
        self.steps.sort_by_key(key_of);
        let (steps, came) = (self.steps.as_slice(), self.bytes.as_slice());
        // No group is cut.
        let start = |part: usize| {
            let at = steps.len() * part / parts.count;
            match steps.get(..at).and_then(<[_]>::last).map(key_of) {
                Some(before) => at + steps[at..].iter().take_while(|step| key_of(step) == before).count(),
                None => at,
            }
        };
        let folded = parts.work(|numbers| {
            let fold = |part| {
                let mut folding = Folding::new(came);
                folding.fold_all(state, steps.get(start(part)..start(part + 1)).unwrap_or_default())?;
                Ok((part, folding))
            };
            numbers.map(fold).collect::<Result<Vec<_>>>()
        });
        let mut folded: Vec<_> = folded.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
        folded.sort_unstable_by_key(|(part, _)| *part);

        let mut rows = Vec::with_capacity(folded.iter().map(|(_, part)| part.rows.len()).sum());
        let mut made = Vec::with_capacity(folded.iter().map(|(_, part)| part.made.len()).sum());
        let mut hash = 0_u128;
        for (_, part) in folded {
            let moved = |span: Span| match span.start < came.len() {
                true => span,
                false => span.start + made.len()..span.end + made.len(),
            };
            rows.extend(part.rows.into_iter().map(|((place, key, new), old)| ((place, key, new.map(moved)), old)));
            made.extend_from_slice(&part.made);
            hash = hash.wrapping_add(part.hash);
        }
        self.bytes.append(&mut made);
        Ok(Resolved { rows, bytes: self.bytes, hash })
    }
}

/// Works out the new rows of some steps.
#[derive(Debug)]
struct Folding<'c, 's> {
    /// Bytes of the rows that came.
    came: &'c [u8],
    /// Of those that are worked out. Spans say where they stand behind those that came.
    made: Vec<u8>,
    /// See [`Resolved`].
    rows: Vec<(NewRow, Option<&'s [u8]>)>,
    hash: u128,
    /// Used again for each set.
    values: Vec<u8>,
}

impl<'c, 's> Folding<'c, 's> {
    fn new(came: &'c [u8]) -> Self {
        Self { came, made: Vec::new(), rows: Vec::new(), hash: 0, values: Vec::new() }
    }

    /// Takes in steps, which are in order.
    fn fold_all(&mut self, state: &'s State, mut steps: &Steps) -> Result<()> {
        self.rows.reserve(steps.len());
        while let Some((place, key, _)) = steps.first() {
            give_way();
            let length = steps.iter().take_while(|(of, other, _)| (of, other) == (place, key)).count();
            let (group, rest) = steps.split_at(length);
            steps = rest;
            let old = state.row(*place, *key)?;
            let new = match self.fold(old, group) {
                Ok(new) => new,
                Err(Broken) => return Err(broken(&state.layout, *place, *key, old.unwrap_or_default())),
            };
            let row = new.as_ref().and_then(|span| self.row(span));
            if row != old {
                let hash_of = |row: Option<&[u8]>| row.map_or(0, |row| compute::row_hash(*place, *key, row));
                self.hash = self.hash.wrapping_sub(hash_of(old)).wrapping_add(hash_of(row));
                self.rows.push(((*place, *key, new), old));
            }
        }
        Ok(())
    }

    fn row(&self, span: &Span) -> Option<&[u8]> {
        match span.start.checked_sub(self.came.len()) {
            None => self.came.get(span.clone()),
            Some(start) => self.made.get(start..start + span.len()),
        }
    }

    /// The new row of one place and key. `None`: there is none. `group` is in order.
    fn fold(&mut self, old: Option<&[u8]>, group: &Steps) -> Result<Option<Span>, Broken> {
        // The last whole row hides what was before it.
        let whole = group.iter().rposition(|(_, _, step)| matches!(step, Step::Row(_)));
        let (held, group) = match whole.and_then(|at| Some((&group.get(at)?.2, group.get(at + 1..)?))) {
            Some((Step::Row(span), behind)) => (Some(span.clone()), behind),
            _ => (None, group),
        };
        let Some((_, _, first)) = group.first() else { return Ok(held.flatten()) };
        let start = match held {
            Some(span) => span.and_then(|span| self.came.get(span)),
            None => old,
        };
        let begin = self.came.len() + self.made.len();
        let is_there = match first {
            Step::External(_) => external(start, group, &mut self.made),
            _ => members(start, group, &mut self.values, &mut self.made),
        };
        Ok(is_there?.then_some(begin..self.came.len() + self.made.len()))
    }
}

/// Writes the new set to `out`; tells whether it has any values.
fn members(old: Option<&[u8]>, group: &Steps, values: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<bool, Broken> {
    let mut changes = SmallVec::<[(ValueRef<'_>, bool); 16]>::new();
    for (_, _, step) in group {
        if let Step::Member(value, present) = step {
            changes.push((ValueRef::of(value), *present));
        }
    }
    changes.sort_by_key(|(value, _)| *value);
    // The last change of a value wins.
    changes.reverse();
    changes.dedup_by_key(|(value, _)| *value);
    values.clear();
    let mut count = 0_u64;
    let mut keep = |value| {
        count += 1;
        encode::put_ref(values, value);
    };
    if let Some(old) = old {
        Input(old).each_value(&mut |value| {
            while let Some((next, present)) = changes.last().copied()
                && next <= value
            {
                changes.pop();
                if present {
                    keep(next);
                }
                if next == value {
                    return;
                }
            }
            keep(value);
        })?;
    }
    changes.iter().rev().filter(|(_, present)| *present).for_each(|(value, _)| keep(*value));
    encode::put_number(out, count);
    out.extend_from_slice(values);
    Ok(count > 0)
}

/// As [`members`], of an external field.
fn external(old: Option<&[u8]>, group: &Steps, out: &mut Vec<u8>) -> Result<bool, Broken> {
    let mut held = match old {
        Some(old) => Input(old).field()?,
        None => FieldValue::Null,
    };
    for (_, _, step) in group {
        let Step::External(change) = step else { continue };
        held = match change {
            Change::Set(value) => value.clone(),
            Change::Delete => FieldValue::Null,
            Change::Add(value) => FieldValue::many(held.values().iter().chain([value]).cloned().collect()),
            Change::Remove(value) => {
                FieldValue::many(held.values().iter().filter(|held| *held != value).cloned().collect())
            }
        };
    }
    encode::put_field(out, &held);
    Ok(!held.is_null())
}
