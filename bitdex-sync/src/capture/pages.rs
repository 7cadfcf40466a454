//! Cuts the ops of one poll into batches that a writer takes: nearly always one, and several only where there are more
//! than it takes at once. Pages before the last leave the cursor's snapshot where it was.

use std::collections::VecDeque;

use bitdex_proto::{
    ops::{Change, Op},
    value::Value,
};

/// Changes of one batch; more than that are a backlog, and while it drains answers say that they are catching up.
pub(super) const PAGE_OPS: usize = 100_000;
/// Approximate bytes of one batch on the wire; a writer takes 64 MiB.
pub(super) const PAGE_WEIGHT: usize = 32 << 20;

#[derive(Debug, Default)]
pub(super) struct Pages {
    full: VecDeque<Vec<Op>>,
    current: Vec<Op>,
    weight: usize,
}

impl Pages {
    pub(super) fn push(&mut self, op: Op) {
        let weight = weight(&op);
        if self.current.len() >= PAGE_OPS || (self.weight + weight > PAGE_WEIGHT && !self.current.is_empty()) {
            self.full.push_back(std::mem::take(&mut self.current));
            self.weight = 0;
        }
        self.weight += weight;
        self.current.push(op);
    }

    pub(super) fn extend(&mut self, ops: impl IntoIterator<Item = Op>) {
        ops.into_iter().for_each(|op| self.push(op));
    }

    /// A page after which there is at least one more op.
    pub(super) fn take_full(&mut self) -> Option<Vec<Op>> {
        self.full.pop_front()
    }

    /// The last page, once [`Pages::take_full`] gives no more.
    pub(super) fn into_last(self) -> Vec<Op> {
        self.current
    }
}

/// About how many bytes an op takes on the wire; at least that many but for small change.
fn weight(op: &Op) -> usize {
    const SMALL: usize = 12;
    let value = |value: &Value| match value {
        Value::Text(text) => SMALL + text.len(),
        Value::Bool(_) | Value::Int(_) | Value::Float(_) => SMALL,
    };
    let change = |change: &Change| match change {
        Change::Set(set) => set.values().iter().map(value).sum(),
        Change::Add(one) | Change::Remove(one) => value(one),
        Change::Delete => SMALL,
    };
    2 * SMALL
        + match op {
            Op::Upsert { row: Some(row), .. } => row.iter().map(|cell| cell.as_ref().map_or(SMALL, value)).sum(),
            Op::Upsert { row: None, .. } | Op::Truncate { .. } => 0,
            Op::Retain { keys, .. } => 5 * keys.len(),
            Op::Member { value: member, .. } => value(member),
            Op::Field { change: one, .. } => 2 * SMALL + change(one),
            // Field names and the filter; bounded by the request limits.
            Op::QueryOpSet { changes, .. } => {
                4096 + changes.iter().map(|(_, one)| 4 * SMALL + change(one)).sum::<usize>()
            }
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: usize) -> Op {
        Op::Upsert { source: 0, key: 1, row: Some(vec![Some(Value::Text("x".repeat(bytes).into()))].into()) }
    }

    #[test]
    fn pages_are_bounded_in_number_and_in_bytes() {
        let mut pages = Pages::default();
        pages.extend((0..250_000).map(|key| Op::Upsert { source: 0, key, row: None }));
        assert_eq!(pages.take_full().map(|page| page.len()), Some(PAGE_OPS));
        assert_eq!(pages.take_full().map(|page| page.len()), Some(PAGE_OPS));
        assert_eq!(pages.take_full(), None);
        assert_eq!(pages.into_last().len(), 50_000);

        let mut pages = Pages::default();
        pages.extend([text(20 << 20), text(20 << 20), text(40 << 20)]);
        assert_eq!(pages.take_full().map(|page| page.len()), Some(1));
        assert_eq!(pages.take_full().map(|page| page.len()), Some(1));
        assert_eq!(pages.into_last().len(), 1);
    }

    #[test]
    fn what_fits_is_one_page() {
        let mut pages = Pages::default();
        pages.extend((0..PAGE_OPS as i64).map(|key| Op::Upsert { source: 0, key, row: None }));
        assert_eq!(pages.take_full(), None);
        assert_eq!(pages.into_last().len(), PAGE_OPS);
    }
}
