//! Cuts the ops of one poll into batches that a writer takes: nearly always one, and several only where there are more
//! than it takes at once. Pages before the last leave the cursor's snapshot where it was, so that they are delivered
//! again by whoever resumes. External ops are therefore kept together, in the last page: query ops ask for what is there
//! when they are applied, and must not be applied twice.

use std::{collections::VecDeque, sync::Arc};

use bitdex_proto::{
    ops::{Op, dedup},
    schema::Schema,
    value::Value,
};
use prost::Message as _;

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

    /// Ops that stay together; their weights must not exceed [`PAGE_WEIGHT`].
    pub(super) fn push_together(&mut self, ops: Weighed) {
        if self.weight + ops.weight > PAGE_WEIGHT && !self.current.is_empty() {
            self.full.push_back(std::mem::take(&mut self.current));
            self.weight = 0;
        }
        self.weight += ops.weight;
        self.current.extend(ops.ops);
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

/// External ops in their order, deduplicated, and about how many bytes they take on the wire.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Weighed {
    ops: Vec<Op>,
    weight: usize,
}

/// Gathers the ops of external rows: as one lot, unless they are more than a page holds.
#[derive(Debug)]
pub(super) struct External {
    schema: Arc<Schema>,
    full: Vec<Weighed>,
    current: Weighed,
}

impl External {
    pub(super) fn new(schema: Arc<Schema>) -> Self {
        Self { schema, full: Vec::new(), current: Weighed::default() }
    }

    /// The ops of one row. Refused where no page could hold them.
    pub(super) fn push(&mut self, ops: Vec<Op>) -> bitdex_proto::Result<()> {
        let weight = self.weigh(&ops);
        if weight > PAGE_WEIGHT {
            return Err(bitdex_proto::Error::invalid(format!(
                "it takes {weight} bytes, and a batch holds {PAGE_WEIGHT}: give it as several rows"
            )));
        }
        if self.current.weight + weight > PAGE_WEIGHT {
            self.dedup();
            // Worth going on with only where much is left to fill; else each further row would go through all of it.
            if self.current.weight + weight > PAGE_WEIGHT || self.current.weight > PAGE_WEIGHT / 2 {
                self.full.push(std::mem::take(&mut self.current));
            }
        }
        self.current.weight += weight;
        self.current.ops.extend(ops);
        Ok(())
    }

    /// Lots of at most [`PAGE_WEIGHT`], in their order.
    pub(super) fn into_lots(mut self) -> Vec<Weighed> {
        self.dedup();
        self.full.push(self.current);
        self.full
    }

    fn dedup(&mut self) {
        let ops = dedup(std::mem::take(&mut self.current.ops), &self.schema);
        self.current = Weighed { weight: self.weigh(&ops), ops };
    }

    fn weigh(&self, ops: &[Op]) -> usize {
        // Besides its own bytes, each op has a tag and a length in its frame.
        ops.iter().map(|op| op.to_wire(&self.schema).encoded_len() + SMALL).sum()
    }
}

/// More bytes than a number, a tag or a length takes.
const SMALL: usize = 12;

/// About how many bytes an op on rows takes on the wire; at least that many but for small change.
fn weight(op: &Op) -> usize {
    let value = |value: &Value| match value {
        Value::Text(text) => SMALL + text.len(),
        Value::Bool(_) | Value::Int(_) | Value::Float(_) => SMALL,
    };
    2 * SMALL
        + match op {
            Op::Upsert { row: Some(row), .. } => row.iter().map(|cell| cell.as_ref().map_or(SMALL, value)).sum(),
            Op::Upsert { row: None, .. } | Op::Truncate { .. } => 0,
            Op::Retain { keys, .. } => 5 * keys.len(),
            Op::Member { value: member, .. } => value(member),
            // These come by `push_together`, weighed exactly.
            Op::Field { .. } | Op::QueryOpSet { .. } => PAGE_WEIGHT,
        }
}

#[cfg(test)]
mod tests {
    use bitdex_proto::{
        ops::Change,
        query::Filter,
        value::{FieldValue, Literal},
        wire,
    };

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

    fn schema() -> Arc<Schema> {
        let yaml = "index: a\ndocument: { table: t, key: id }\nfields:\n  x: { type: int, filter: true }\n\
                    external:\n  labels: { type: string, many: true }\n  rank: { type: int }\n";
        Arc::clone(bitdex_proto::definition::Definition::parse(yaml).unwrap().schema())
    }

    /// A query op with a filter of about so many bytes.
    fn query(bytes: usize, rank: i64) -> Op {
        let values = (0..bytes as i64 / 12).map(|n| Literal::Int(i64::MAX - n)).collect();
        let filter = Filter::In { field: "x".into(), values, negated: false, all: false };
        Op::QueryOpSet { filter, changes: vec![(3, Change::Set(FieldValue::One(Value::Int(rank))))] }
    }

    fn encoded(ops: &[Op]) -> usize {
        wire::OpFrame { ops: ops.iter().map(|op| op.to_wire(&schema())).collect() }.encoded_len()
    }

    #[test]
    fn external_ops_come_last_and_together() {
        let mut external = External::new(schema());
        (0..100).for_each(|n| external.push(vec![query(1 << 10, n)]).unwrap());
        let lots = external.into_lots();
        assert_eq!(lots.len(), 1);
        // What leaves no room for them goes before.
        let mut pages = Pages::default();
        pages.extend([text(20 << 20), text(12 << 20)]);
        lots.into_iter().for_each(|lot| pages.push_together(lot));
        assert_eq!(pages.take_full().map(|page| page.len()), Some(1));
        let rows = pages.take_full();
        let last = pages.into_last();
        assert!(last.iter().filter(|op| matches!(op, Op::QueryOpSet { .. })).count() == 1, "the same filter merges");
        assert_eq!(rows.map_or(0, |page| page.len()) + last.len(), 2);
    }

    #[test]
    fn big_filters_weigh_what_they_take() {
        let mut external = External::new(schema());
        let error = external.push(vec![query(48 << 20, 1)]).unwrap_err().to_string();
        assert!(error.contains("a batch holds"), "{error}");
        for n in 0..8 {
            external.push(vec![query((10 << 20) + n * 100, 1)]).unwrap();
        }
        let lots = external.into_lots();
        assert!(lots.len() > 1);
        assert_eq!(lots.iter().map(|lot| lot.ops.len()).sum::<usize>(), 8);
        for lot in lots {
            assert!(encoded(&lot.ops) <= lot.weight && lot.weight <= PAGE_WEIGHT, "{}", lot.weight);
        }
    }

    #[test]
    fn changes_that_supersede_each_other_stay_one_lot() {
        let mut external = External::new(schema());
        let label = Value::Text("x".repeat(1 << 20).into());
        for _ in 0..100 {
            let change = Change::Set(FieldValue::many(vec![label.clone()]));
            external.push(vec![Op::Field { document: 1, field: 2, change }]).unwrap();
        }
        let lots = external.into_lots();
        assert_eq!(lots.iter().map(|lot| lot.ops.len()).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn what_fits_is_one_page() {
        let mut pages = Pages::default();
        pages.extend((0..PAGE_OPS as i64).map(|key| Op::Upsert { source: 0, key, row: None }));
        assert_eq!(pages.take_full(), None);
        assert_eq!(pages.into_last().len(), PAGE_OPS);
    }
}
