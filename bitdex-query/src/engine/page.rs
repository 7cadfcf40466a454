//! One page out of the matches, by one of two plans that give the same rows: walk the first sort field's index in order
//! and test whether each id is in (dense filters), or gather the sort values of all that are in and select (sparse).

use std::ops::{Bound, RangeBounds as _};

use bitdex_proto::{
    Error, Result,
    schema::{FieldId, KEY_FIELD},
    value::FieldValue,
};
use roaring::RoaringBitmap;

use super::{
    evaluate::{Evaluator, Set},
    filter::{Node, Test, tighten},
    order::{After, Order, Row},
};
use crate::state::{Bounds, Document, Postings};

/// Looking a document up costs as much as this many steps of a walk.
const LOOKUP_COST: u64 = 8;
/// A bitmap of at least this many ids is intersected, not walked, where few of them can be in.
const NARROW_FROM: u64 = 1024;

/// How to take a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plan {
    Walk,
    Gather,
}

/// The matches of a query: in `set`, not in `hidden`, and passing what was too much work to evaluate beforehand.
#[derive(Debug)]
pub(super) struct Candidates<'a> {
    evaluator: &'a Evaluator<'a>,
    order: &'a Order,
    set: Set<'a>,
    hidden: &'a RoaringBitmap,
    residual: Vec<&'a Node>,
    /// A range on the first sort field.
    bounds: Option<(&'a Bounds, u64)>,
}

impl<'a> Candidates<'a> {
    pub(super) fn new(
        evaluator: &'a Evaluator<'a>,
        filter: &'a Node,
        order: &'a Order,
        hidden: Option<&'a RoaringBitmap>,
    ) -> Self {
        let nodes = match filter {
            Node::And(nodes) => nodes.as_slice(),
            node => std::slice::from_ref(node),
        };
        let (mut evaluated, mut residual, mut bounds) = (Vec::new(), Vec::new(), None);
        for node in nodes {
            match node {
                Node::Leaf(field, Test::Range(range)) if *field != KEY_FIELD => {
                    let estimate = evaluator.estimate(node);
                    if *field == order.first().field && bounds.is_none() {
                        bounds = Some((range, estimate.ids));
                    } else if estimate.guessed {
                        residual.push(node);
                    } else {
                        evaluated.push(node);
                    }
                }
                node => evaluated.push(node),
            }
        }
        let set = evaluator.and(evaluated);
        Self { evaluator, order, set, hidden: hidden.unwrap_or(evaluator.nothing()), residual, bounds }
    }

    /// The first `want` rows behind `after`.
    pub(super) fn page(&self, after: Option<&After>, want: usize, plan: Option<Plan>) -> Result<Vec<u32>> {
        if self.set.is_empty() {
            return Ok(Vec::new());
        }
        match plan.unwrap_or_else(|| self.cheaper(want)) {
            Plan::Walk => self.walk(after, want),
            Plan::Gather => Ok(self.gather(after, want)),
        }
    }

    fn cheaper(&self, want: usize) -> Plan {
        let (all, matches) = (self.evaluator.state.documents(), self.set.len());
        // A walk steps over what is not in; each residual test is taken to halve what is.
        let halved = (matches >> self.residual.len()).max(1);
        let steps = (want as u64).saturating_mul(all / halved + 1).min(all);
        let steps = self.bounds.map_or(steps, |(_, ids)| steps.min(ids));
        let tests = if self.residual.is_empty() { 0 } else { steps.min(matches) * LOOKUP_COST };
        let walks = self.order.first().field == KEY_FIELD || steps + tests <= matches * LOOKUP_COST;
        if walks { Plan::Walk } else { Plan::Gather }
    }

    fn document(&self, id: u32) -> Option<&'a Document> {
        self.evaluator.state.document(id)
    }

    fn is_in(&self, id: u32) -> bool {
        self.set.contains(id) && !self.hidden.contains(id) && self.passes(id)
    }

    fn passes(&self, id: u32) -> bool {
        self.residual.is_empty()
            || self.document(id).is_some_and(|document| self.residual.iter().all(|node| node.matches(document)))
    }

    fn gather(&self, after: Option<&After>, want: usize) -> Vec<u32> {
        let field = self.order.first().field;
        let mut best = Best::new(self.order, after, want);
        for id in self.set.iter().filter(|id| !self.hidden.contains(*id)) {
            let Some(document) = self.document(id) else { continue };
            if self.residual.iter().all(|node| node.matches(document)) && self.within(field, document) {
                best.push(document, id);
            }
        }
        best.finish()
    }

    fn within(&self, field: FieldId, document: &[FieldValue]) -> bool {
        self.bounds.is_none_or(|(bounds, _)| document[field].values().iter().any(|value| bounds.contains(value)))
    }

    fn walk(&self, after: Option<&After>, want: usize) -> Result<Vec<u32>> {
        let first = self.order.first();
        if first.field == KEY_FIELD {
            return Ok(self.walk_keys(after, want));
        }
        let state = self.evaluator.state;
        let index = state.index(first.field).ok_or_else(|| {
            Error::Internal(format!("field {} has no index to sort by", state.schema().fields[first.field].name))
        })?;
        let mut found = Vec::with_capacity(want.min(1024));
        if after.is_none_or(|after| after.first().is_some()) {
            let mut bounds = self.bounds.map_or((Bound::Unbounded, Bound::Unbounded), |(bounds, _)| bounds.clone());
            if let Some(value) = after.and_then(After::first) {
                let value = Bound::Included(value.clone());
                let rest = if first.descending { (Bound::Unbounded, value) } else { (value, Bound::Unbounded) };
                tighten(&mut bounds, rest);
            }
            let mut entries = index.range(&bounds);
            while let Some((value, ids)) = if first.descending { entries.next_back() } else { entries.next() } {
                let behind = after.filter(|after| after.first() == Some(value));
                self.walk_equal(ids, behind, want, &mut found);
                if found.len() == want {
                    return Ok(found);
                }
            }
        }
        if self.bounds.is_none() {
            let behind = after.filter(|after| after.first().is_none());
            self.walk_equal(&Postings::Bitmap(index.nulls.clone()), behind, want, &mut found);
        }
        Ok(found)
    }

    /// Adds the rows of one value of the first sort field, those behind `after` where that has the same value.
    fn walk_equal(&self, ids: &Postings, after: Option<&After>, want: usize, found: &mut Vec<u32>) {
        let narrowed = match ids {
            Postings::Bitmap(bitmap)
                if bitmap.len() >= NARROW_FROM && self.set.len() < self.evaluator.state.documents() / 4 =>
            {
                Some(Postings::Bitmap((bitmap.as_ref() & &*self.set).into()))
            }
            _ => None,
        };
        let ids = narrowed.as_ref().unwrap_or(ids);
        if self.order.is_single() {
            let descending = self.order.ids_descend();
            ids.walk(descending, |id| {
                let behind = after.is_none_or(|after| if descending { id < after.id() } else { id > after.id() });
                if behind && self.is_in(id) {
                    found.push(id);
                }
                found.len() < want
            });
            return;
        }
        let mut best = Best::new(self.order, after, want - found.len());
        ids.walk(false, |id| {
            if self.is_in(id)
                && let Some(document) = self.document(id)
            {
                best.push(document, id);
            }
            true
        });
        found.extend(best.finish());
    }

    fn walk_keys(&self, after: Option<&After>, want: usize) -> Vec<u32> {
        let passes = |id: &u32| !self.hidden.contains(*id) && self.passes(*id);
        let after = after.map(After::id);
        if self.order.first().descending {
            let mut ids = self.set.iter();
            if let Some(after) = after {
                ids.advance_back_to(after);
            }
            ids.rev().skip_while(|id| after.is_some_and(|after| *id >= after)).filter(passes).take(want).collect()
        } else {
            let mut ids = self.set.iter();
            if let Some(after) = after {
                ids.advance_to(after);
            }
            ids.skip_while(|id| after.is_some_and(|after| *id <= after)).filter(passes).take(want).collect()
        }
    }
}

/// The first `want` rows of those pushed, in little more memory than they take.
struct Best<'a> {
    order: &'a Order,
    after: Option<&'a After>,
    want: usize,
    rows: Vec<(&'a Document, u32)>,
}

impl<'a> Best<'a> {
    fn new(order: &'a Order, after: Option<&'a After>, want: usize) -> Self {
        Self { order, after, want, rows: Vec::new() }
    }

    fn push(&mut self, document: &'a Document, id: u32) {
        let row = Row::Document(document, id);
        if self.after.is_some_and(|after| self.order.compare(row, Row::After(after)).is_le()) {
            return;
        }
        self.rows.push((document, id));
        if self.rows.len() >= 2 * self.want + 64 {
            let order = self.order;
            self.rows.select_nth_unstable_by(self.want, |a, b| {
                order.compare(Row::Document(a.0, a.1), Row::Document(b.0, b.1))
            });
            self.rows.truncate(self.want);
        }
    }

    fn finish(mut self) -> Vec<u32> {
        let order = self.order;
        self.rows.sort_unstable_by(|a, b| order.compare(Row::Document(a.0, a.1), Row::Document(b.0, b.1)));
        self.rows.truncate(self.want);
        self.rows.into_iter().map(|(_, id)| id).collect()
    }
}
