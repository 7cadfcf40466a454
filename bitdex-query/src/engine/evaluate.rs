//! Filters → sets of ids. Sets that an index holds already are borrowed, not copied; of an `and` the smallest operand
//! comes first, and an operand that costs more to build than to test on what is left is tested.

use std::ops::{Bound, Deref};

use bitdex_proto::{
    schema::{FieldId, KEY_FIELD},
    value::Value,
};
use roaring::RoaringBitmap;

use super::filter::{Node, Test};
use crate::state::{Bounds, FieldIndex, Postings, State};

/// Entries of an index that an estimate looks at before it guesses.
pub(super) const LOOK_AT: usize = 8192;
/// Testing one document costs as much as building a set from this many entries of an index.
const TEST_COST: u64 = 10;

/// A set of ids of an index, or one made for this query.
#[derive(Debug, Clone)]
pub(super) enum Set<'a> {
    Shared(&'a RoaringBitmap),
    Owned(RoaringBitmap),
}

impl Deref for Set<'_> {
    type Target = RoaringBitmap;

    fn deref(&self) -> &RoaringBitmap {
        match self {
            Self::Shared(bitmap) => bitmap,
            Self::Owned(bitmap) => bitmap,
        }
    }
}

impl<'a> Set<'a> {
    pub(super) fn into_owned(self) -> RoaringBitmap {
        match self {
            Self::Shared(bitmap) => bitmap.clone(),
            Self::Owned(bitmap) => bitmap,
        }
    }

    fn and(self, other: Set<'a>) -> Self {
        Self::Owned(match (self, other) {
            (Self::Owned(one), other) => one & &*other,
            (one, Self::Owned(other)) => other & &*one,
            (Self::Shared(one), Self::Shared(other)) => one & other,
        })
    }

    fn minus(self, other: &RoaringBitmap) -> Self {
        Self::Owned(match self {
            Self::Owned(one) => one - other,
            Self::Shared(one) => one - other,
        })
    }
}

/// How many ids a node holds, about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Estimate {
    pub(super) ids: u64,
    /// Entries of indexes to go through in order to build the set.
    work: u64,
    /// A range with more entries than an estimate looks at, so that `ids` is a guess.
    pub(super) guessed: bool,
}

#[derive(Debug)]
pub(super) struct Evaluator<'a> {
    pub(super) state: &'a State,
    nothing: RoaringBitmap,
    look_at: usize,
}

impl<'a> Evaluator<'a> {
    pub(super) fn new(state: &'a State, look_at: usize) -> Self {
        Self { state, nothing: RoaringBitmap::new(), look_at }
    }

    /// Documents that are not visible yet; `None`: there are none.
    pub(super) fn pending(&self, now_us: i64) -> Option<RoaringBitmap> {
        let index = self.state.index(self.state.schema().visible_at?)?;
        let future = (Bound::Excluded(Value::Int(now_us)), Bound::Unbounded);
        let pending = range(index, &future);
        (!pending.is_empty()).then_some(pending)
    }

    pub(super) fn count(&self, filter: &Node, hidden: Option<&RoaringBitmap>) -> u64 {
        let set = self.set(filter);
        set.len() - hidden.map_or(0, |hidden| set.intersection_len(hidden))
    }

    pub(super) fn set(&self, node: &Node) -> Set<'a> {
        match node {
            Node::And(nodes) => self.and(nodes),
            Node::Or(nodes) => {
                let mut nodes = nodes.iter();
                let first = nodes.next().map_or_else(RoaringBitmap::new, |node| self.set(node).into_owned());
                Set::Owned(nodes.fold(first, |all, node| all | &*self.set(node)))
            }
            Node::Not(node) => Set::Shared(self.state.present()).minus(&self.set(node)),
            Node::Leaf(KEY_FIELD, test) => self.keys(test),
            Node::Leaf(field, test) => match (self.state.index(*field), test) {
                (None, _) => Set::Owned(RoaringBitmap::new()),
                (Some(index), Test::IsNull) => Set::Shared(&index.nulls),
                (Some(index), Test::AnyOf(values)) => any_of(index, values),
                (Some(index), Test::Range(bounds)) => Set::Owned(range(index, bounds)),
            },
        }
    }

    /// The intersection; all documents where there is nothing to intersect.
    pub(super) fn and<'n>(&self, nodes: impl IntoIterator<Item = &'n Node>) -> Set<'a> {
        let mut nodes: Vec<_> = nodes.into_iter().map(|node| (self.estimate(node), node)).collect();
        nodes.sort_by_key(|(estimate, _)| estimate.ids);
        let mut nodes = nodes.into_iter();
        let Some((_, first)) = nodes.next() else { return Set::Shared(self.state.present()) };
        let mut all = self.set(first);
        for (estimate, node) in nodes {
            if all.is_empty() {
                break;
            }
            all = if all.len() * TEST_COST < estimate.work {
                self.retain(&all, node)
            } else if let Node::Not(inner) = node {
                all.minus(&self.set(inner))
            } else {
                all.and(self.set(node))
            };
        }
        all
    }

    fn retain(&self, set: &RoaringBitmap, node: &Node) -> Set<'a> {
        let passes = |id: &u32| self.state.document(*id).is_some_and(|document| node.matches(document));
        Set::Owned(set.iter().filter(passes).collect())
    }

    fn keys(&self, test: &Test) -> Set<'a> {
        let present = self.state.present();
        let id = |value: &Value| match value {
            Value::Int(key) => u32::try_from(*key).ok(),
            _ => None,
        };
        Set::Owned(match test {
            Test::IsNull => RoaringBitmap::new(),
            Test::AnyOf(values) => values.iter().filter_map(id).filter(|id| present.contains(*id)).collect(),
            Test::Range(bounds) => {
                let (lo, hi) = key_range(bounds);
                if lo > hi { RoaringBitmap::new() } else { present.range(lo..=hi).collect() }
            }
        })
    }

    pub(super) fn estimate(&self, node: &Node) -> Estimate {
        let all = self.state.documents();
        match node {
            Node::And(nodes) => {
                let nodes = nodes.iter().map(|node| self.estimate(node));
                let none = Estimate { ids: all, work: 0, guessed: false };
                nodes.fold(none, |sum, node| sum.with(node, sum.ids.min(node.ids)))
            }
            Node::Or(nodes) => {
                let nodes = nodes.iter().map(|node| self.estimate(node));
                let none = Estimate { ids: 0, work: 0, guessed: false };
                nodes.fold(none, |sum, node| sum.with(node, all.min(sum.ids + node.ids)))
            }
            Node::Not(node) => {
                let node = self.estimate(node);
                Estimate { ids: all.saturating_sub(node.ids), ..node }
            }
            Node::Leaf(KEY_FIELD, Test::AnyOf(values)) => Estimate::of(values.len() as u64),
            Node::Leaf(KEY_FIELD, Test::Range(bounds)) => {
                let (lo, hi) = key_range(bounds);
                Estimate::of(if lo > hi { 0 } else { self.state.present().range_cardinality(lo..=hi) })
            }
            Node::Leaf(KEY_FIELD, Test::IsNull) => Estimate::of(0),
            Node::Leaf(field, test) => self.estimate_leaf(*field, test),
        }
    }

    fn estimate_leaf(&self, field: FieldId, test: &Test) -> Estimate {
        let Some(index) = self.state.index(field) else { return Estimate::of(0) };
        match test {
            Test::IsNull => Estimate { ids: index.nulls.len(), work: 0, guessed: false },
            Test::AnyOf(values) => {
                let ids = values.iter().filter_map(|value| index.values.get(value)).map(Postings::len).sum();
                Estimate { ids, work: values.len() as u64, guessed: false }
            }
            Test::Range(bounds) => {
                let mut entries = index.range(bounds);
                let mut estimate = Estimate { ids: 0, work: 0, guessed: false };
                for (_, postings) in entries.by_ref().take(self.look_at) {
                    estimate.ids += postings.len();
                    estimate.work += 1;
                }
                if entries.next().is_some() {
                    estimate.guessed = true;
                    estimate.ids = estimate.ids.max(self.state.documents() / 3);
                    estimate.work = estimate.work.max(index.values.len() as u64 / 3);
                }
                estimate
            }
        }
    }

    pub(super) fn nothing(&self) -> &RoaringBitmap {
        &self.nothing
    }
}

impl Estimate {
    fn of(ids: u64) -> Self {
        Self { ids, work: ids, guessed: false }
    }

    fn with(self, other: Self, ids: u64) -> Self {
        Self { ids, work: self.work + other.work, guessed: self.guessed || other.guessed }
    }
}

/// The ids within bounds on the key; empty where the first is above the second.
fn key_range(bounds: &Bounds) -> (u32, u32) {
    // One beyond the ids on either side, so that an excluded end can be stepped over without a special case.
    let clamp = |key: i64| key.clamp(-1, i64::from(u32::MAX) + 1);
    let lo = match &bounds.0 {
        Bound::Included(Value::Int(key)) => clamp(*key),
        Bound::Excluded(Value::Int(key)) => clamp(*key) + 1,
        _ => 0,
    };
    let hi = match &bounds.1 {
        Bound::Included(Value::Int(key)) => clamp(*key),
        Bound::Excluded(Value::Int(key)) => clamp(*key) - 1,
        _ => i64::from(u32::MAX),
    };
    match (u32::try_from(lo.max(0)), u32::try_from(hi.min(i64::from(u32::MAX)))) {
        (Ok(lo), Ok(hi)) => (lo, hi),
        _ => (1, 0),
    }
}

fn any_of<'a>(index: &'a FieldIndex, values: &[Value]) -> Set<'a> {
    if let [value] = values
        && let Some(Postings::Bitmap(bitmap)) = index.values.get(value)
    {
        return Set::Shared(bitmap);
    }
    Set::Owned(union(values.iter().filter_map(|value| index.values.get(value))))
}

fn range(index: &FieldIndex, bounds: &Bounds) -> RoaringBitmap {
    union(index.range(bounds).map(|(_, postings)| postings))
}

fn union<'p>(all: impl Iterator<Item = &'p Postings>) -> RoaringBitmap {
    let mut small = Vec::new();
    let mut set = RoaringBitmap::new();
    for postings in all {
        match postings {
            Postings::One(id) => small.push(*id),
            Postings::Few(ids) => small.extend_from_slice(ids),
            Postings::Bitmap(bitmap) => set |= bitmap.as_ref(),
        }
    }
    // In order they go in much faster than as they come.
    small.sort_unstable();
    set | small.into_iter().collect::<RoaringBitmap>()
}
