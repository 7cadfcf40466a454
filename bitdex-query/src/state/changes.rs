//! The row changes of a batch, gathered in order and brought down to one new row for each place and key.

use std::sync::Arc;

use bitdex_proto::{
    ops::{Change, Op, Row},
    schema::FieldId,
    value::{FieldValue, Value},
};
use smallvec::SmallVec;

use super::{
    State,
    compute::broken,
    encode::{self, Broken, Input},
    layout::{Layout, Place},
};
use crate::{log::Result, segment::value::ValueRef};

#[derive(Debug)]
enum Step {
    Row(Option<Arc<[u8]>>),
    Member(Value, bool),
    External(Change),
}

/// Changes of rows, in order.
#[derive(Debug, Default)]
pub(super) struct Changes {
    steps: Vec<(Place, i64, Step)>,
}

/// A row that is no longer what it was.
#[derive(Debug)]
pub(super) struct RowChange<'s> {
    pub(super) place: Place,
    pub(super) key: i64,
    pub(super) old: Option<&'s [u8]>,
    pub(super) new: Option<Arc<[u8]>>,
}

/// The bytes of a row.
fn encoded(row: &Row, out: &mut Vec<u8>) -> Arc<[u8]> {
    out.clear();
    row.iter().for_each(|value| encode::put_optional(out, value.as_ref()));
    out.as_slice().into()
}

impl Changes {
    pub(super) fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    pub(super) fn row(&mut self, place: Place, key: i64, row: Option<&Row>, scratch: &mut Vec<u8>) {
        self.steps.push((place, key, Step::Row(row.map(|row| encoded(row, scratch)))));
    }

    /// A row as it stands in a layer.
    pub(super) fn bytes(&mut self, place: Place, key: i64, row: Option<&[u8]>) {
        self.steps.push((place, key, Step::Row(row.map(Arc::from))));
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
    pub(super) fn push_staged(&mut self, op: &Op, scratch: &mut Vec<u8>) {
        let mut forget = |place: Place, gone: &dyn Fn(i64) -> bool| {
            // A step that removes stays: it hides the state's row.
            self.steps.retain(|(of, key, step)| *of != place || !gone(*key) || matches!(step, Step::Row(None)));
        };
        match op {
            Op::Upsert { source, key, row } => self.row(*source as Place, *key, row.as_ref(), scratch),
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
    pub(super) fn push(&mut self, state: &State, op: &Op, scratch: &mut Vec<u8>) -> Result<bool> {
        match op {
            Op::Upsert { source, key, row } => self.row(*source as Place, *key, row.as_ref(), scratch),
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

    /// The rows that differ from the state's, in the order of (place, key).
    pub(super) fn resolve(mut self, state: &State) -> Result<Vec<RowChange<'_>>> {
        self.steps.sort_by_key(|(place, key, _)| (*place, *key));
        let mut changed = Vec::with_capacity(self.steps.len());
        let mut steps = self.steps.into_iter().peekable();
        let mut group: Vec<Step> = Vec::new();
        let mut folding = Folding::default();
        while let Some((place, key, step)) = steps.next() {
            group.clear();
            group.push(step);
            while let Some((_, _, step)) = steps.next_if(|(of, other, _)| (*of, *other) == (place, key)) {
                group.push(step);
            }
            let old = state.row(place, key)?;
            let new = match folding.fold(old, &mut group) {
                Ok(Some(new)) => new,
                Ok(None) => continue,
                Err(Broken) => return Err(broken(&state.layout, place, key, old.unwrap_or_default())),
            };
            if new.as_deref() != old {
                changed.push(RowChange { place, key, old, new });
            }
        }
        Ok(changed)
    }
}

/// Works out the new row of one place and key; its room is used again.
#[derive(Debug, Default)]
struct Folding {
    values: Vec<u8>,
    out: Vec<u8>,
}

impl Folding {
    /// `None`: as before. `group` is in order.
    fn fold(&mut self, old: Option<&[u8]>, group: &mut Vec<Step>) -> Result<Option<Option<Arc<[u8]>>>, Broken> {
        // The last whole row hides what was before it.
        let whole = group.iter().rposition(|step| matches!(step, Step::Row(_)));
        let held = match whole {
            Some(at) => match group.drain(..=at).next_back() {
                Some(Step::Row(row)) => row,
                _ => None,
            },
            None => None,
        };
        let start = if whole.is_some() { held.as_deref() } else { old };
        let folded = match group.first() {
            None => return Ok(Some(held)),
            Some(Step::External(_)) => self.external(start, group)?,
            Some(_) => self.members(start, group)?,
        };
        if !folded {
            return Ok(Some(None));
        }
        Ok((Some(self.out.as_slice()) != old).then(|| Some(self.out.as_slice().into())))
    }

    /// Writes the new set to `out`; tells whether it has any values.
    fn members(&mut self, old: Option<&[u8]>, group: &mut [Step]) -> Result<bool, Broken> {
        let mut changes = SmallVec::<[(ValueRef<'_>, bool); 8]>::new();
        for step in group.iter() {
            if let Step::Member(value, present) = step {
                changes.push((ValueRef::of(value), *present));
            }
        }
        changes.sort_by_key(|(value, _)| *value);
        // The last change of a value wins.
        changes.reverse();
        changes.dedup_by_key(|(value, _)| *value);
        self.values.clear();
        let (mut count, values) = (0_u64, &mut self.values);
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
        self.out.clear();
        encode::put_number(&mut self.out, count);
        self.out.extend_from_slice(&self.values);
        Ok(count > 0)
    }

    /// As [`Folding::members`], of an external field.
    fn external(&mut self, old: Option<&[u8]>, group: &[Step]) -> Result<bool, Broken> {
        let mut held = match old {
            Some(old) => Input(old).field()?,
            None => FieldValue::Null,
        };
        for step in group {
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
        self.out.clear();
        encode::put_field(&mut self.out, &held);
        Ok(!held.is_null())
    }
}
