//! Filters of the definition as sets of ids: found in queries that name them or spell them out, and kept.
//!
//! Of a filter, those of its conjuncts are kept that sets alone decide: tests of the clock, of ids and of columns stay in
//! the query, where they are exact to the row, and where a walk can begin and end by them. A block of such a set is kept
//! beside the files; one that a layer in memory changes is worked out from its parts.

use std::{cell::OnceCell, ops::Bound};

use bitdex_proto::schema::{FieldId, KEY_FIELD};
use smallvec::SmallVec;

use super::{
    evaluate::{Begin, Pool, block_of, within_block},
    filter::{self, Node, Test},
    set::Set,
    tree::{And, Resolver},
};
use crate::{
    log::Result,
    segment::{Index, SEGMENT_BITS, sets::Block},
    state::{Layout, State},
};

/// Sets that a filter has to stand for: one is as good as any.
const SETS_LEAST: usize = 2;

/// The filters of a schema of which sets are kept.
#[derive(Debug, Default)]
pub(crate) struct NamedFilters(Vec<Named>);

#[derive(Debug)]
pub(super) struct Named {
    pub(super) name: String,
    /// What is kept: all of it has to be true.
    kept: Node,
    /// The fields and tests of it.
    tests: Vec<(FieldId, Test)>,
}

impl NamedFilters {
    pub(crate) fn new(layout: &Layout) -> Self {
        let schema = &layout.schema;
        let named = schema.filters.iter().filter_map(|named| {
            // What is bound to a clock would be frozen at it.
            let stable = named.filter.conjuncts().into_iter().filter(|filter| !filter.is_relative());
            let (mut kept, mut tests) = (Vec::new(), Vec::new());
            for node in filter::bind_all(stable, schema).ok()? {
                let before = tests.len();
                if !of_sets(&node, layout, &mut tests) {
                    tests.truncate(before);
                    continue;
                }
                kept.push(node);
            }
            let sets: usize = tests.iter().map(|(_, test)| sets(test)).sum();
            let name = named.name.clone();
            (sets >= SETS_LEAST).then_some(Named { name, kept: Node::And(kept), tests })
        });
        Self(named.collect())
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The filters that conjuncts contain, and which of the conjuncts they stand for (a bit each; of the first 64).
    pub(super) fn within(&self, conjuncts: &[Node]) -> SmallVec<[(usize, u64); 2]> {
        let mut found = SmallVec::new();
        let mut taken = 0_u64;
        loop {
            let stands_for = self.0.iter().enumerate().filter_map(|(n, named)| {
                let covered = named.covered(conjuncts)? & !taken;
                (covered != 0).then_some((n, covered))
            });
            // Of two that stand for as much, the one that lets less through.
            let gain =
                |(n, covered): &(usize, u64)| (covered.count_ones(), self.get(*n).map_or(0, |it| it.tests.len()));
            let Some((n, covered)) = stands_for.max_by_key(gain) else { return found };
            // A set in place of one set gains nothing.
            let gains = covered.count_ones() > 1
                || conjuncts.get(covered.trailing_zeros() as usize).is_some_and(|node| weight(node) > 1);
            if !gains {
                return found;
            }
            taken |= covered;
            found.push((n, covered));
        }
    }

    pub(super) fn get(&self, n: usize) -> Option<&Named> {
        self.0.get(n)
    }
}

impl Named {
    /// The conjuncts that are the same as one of its own; `None` where one of its own does not follow from any.
    fn covered(&self, conjuncts: &[Node]) -> Option<u64> {
        let Node::And(kept) = &self.kept else { return None };
        let mut covered = 0;
        for own in kept {
            match conjuncts.iter().take(64).position(|node| node == own) {
                Some(at) => covered |= 1 << at,
                None if conjuncts.iter().any(|node| filter::implies(node, own)) => {}
                None => return None,
            }
        }
        Some(covered)
    }
}

/// Whether sets alone decide; takes down the tests.
fn of_sets(node: &Node, layout: &Layout, tests: &mut Vec<(FieldId, Test)>) -> bool {
    match node {
        Node::And(nodes) | Node::Or(nodes) => nodes.iter().all(|node| of_sets(node, layout, tests)),
        Node::Not(node) => of_sets(node, layout, tests),
        Node::Leaf(field, test) => {
            let index = layout.spec().fields.get(*field).map(|(index, _)| *index);
            let of_sets = *field != KEY_FIELD && (*test == Test::IsNull || index == Some(Index::Terms));
            tests.push((*field, test.clone()));
            of_sets
        }
    }
}

/// Sets of a test, about.
fn sets(test: &Test) -> usize {
    match test {
        Test::AnyOf(values) => values.len(),
        Test::Range(_) => SETS_LEAST,
        Test::IsNull => 1,
    }
}

fn weight(node: &Node) -> usize {
    match node {
        Node::And(nodes) | Node::Or(nodes) => nodes.iter().map(weight).sum(),
        Node::Not(node) => weight(node),
        Node::Leaf(_, test) => sets(test),
    }
}

/// The set of a filter in one version.
#[derive(Debug)]
pub(super) struct NamedSet<'s> {
    state: &'s State,
    n: usize,
    named: &'s Named,
    /// Blocks that layers in memory may change, ascending.
    touched: OnceCell<SmallVec<[u16; 8]>>,
    /// To work blocks out.
    parts: OnceCell<Box<And<'s>>>,
}

impl<'s> NamedSet<'s> {
    pub(super) fn new(state: &'s State, n: usize) -> Option<Self> {
        let named = state.layout().named().get(n)?;
        Some(Self { state, n, named, touched: OnceCell::new(), parts: OnceCell::new() })
    }

    fn is_touched(&self, number: u16) -> bool {
        self.touched.get_or_init(|| touched(self.state, self.named)).binary_search(&number).is_ok()
    }

    pub(super) fn name(&self) -> &'s str {
        &self.named.name
    }

    pub(super) fn parts(&self) -> Result<&And<'s>> {
        if let Some(parts) = self.parts.get() {
            return Ok(parts);
        }
        let parts = Resolver::new(self.state, None).parts(&self.named.kept)?;
        Ok(self.parts.get_or_init(|| Box::new(parts)))
    }

    /// Number of ids, about.
    pub(super) fn estimate(&self) -> Result<u64> {
        let documents = self.state.documents();
        match self.state.files().filter_sets().estimate(self.n) {
            Some(estimate) => Ok(estimate.min(documents)),
            None => Ok(self.parts()?.estimate(documents)),
        }
    }

    /// A block as it is kept; `None` where it has to be worked out.
    pub(super) fn plain_block(&self, number: u16, pool: &mut Pool) -> Result<Option<Block<'s>>> {
        if self.is_touched(number) {
            return Ok(None);
        }
        let files = self.state.files();
        let Some(position) = files.position_of_block(number) else { return Ok(None) };
        if let Some(block) = files.filter_sets().get(self.n, position, number) {
            return Ok(Some(block));
        }
        // No layer in memory says anything of it, so it is what files say.
        let mut set = pool.set();
        self.parts()?.evaluate(number, &mut set, pool, Begin::All)?;
        let block = files.filter_sets().put(self.n, position, number, set.as_block());
        pool.put_set(set);
        Ok(block)
    }

    /// Calls `then` with a block.
    pub(super) fn with_block<T>(&self, number: u16, pool: &mut Pool, then: impl FnOnce(Block<'_>) -> T) -> Result<T> {
        if let Some(block) = self.plain_block(number, pool)? {
            return Ok(then(block));
        }
        let mut own: Set = pool.set();
        self.parts()?.evaluate(number, &mut own, pool, Begin::All)?;
        let answer = then(own.as_block());
        pool.put_set(own);
        Ok(answer)
    }

    pub(super) fn contains(&self, id: u32) -> Result<bool> {
        let number = block_of(id);
        let files = self.state.files();
        if let Some(position) = files.position(id >> SEGMENT_BITS).filter(|_| !self.is_touched(number))
            && let Some(block) = files.filter_sets().get(self.n, position, number)
        {
            return Ok(block.contains(within_block(id)));
        }
        self.parts()?.contains(id)
    }
}

/// The blocks of a filter that layers in memory may change, ascending.
fn touched(state: &State, named: &Named) -> SmallVec<[u16; 8]> {
    let mut touched = SmallVec::new();
    let mut touch = |block| touched.push(block);
    state.changed_blocks(KEY_FIELD, None, &mut touch);
    for (field, test) in &named.tests {
        match test {
            Test::IsNull => state.changed_blocks(*field, None, &mut touch),
            Test::Range(bounds) => {
                state.changed_blocks(*field, Some((bounds.0.as_ref(), bounds.1.as_ref())), &mut touch)
            }
            Test::AnyOf(values) => {
                for value in values {
                    state.changed_blocks(*field, Some((Bound::Included(value), Bound::Included(value))), &mut touch);
                }
            }
        }
    }
    touched.sort_unstable();
    touched.dedup();
    touched
}
