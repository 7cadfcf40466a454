//! Which values the index is known to have, so that the overlap of the windows does not send them over and over.

use std::collections::BTreeMap;

use bitdex_proto::{
    ops::{Op, Row},
    schema::SourceId,
};

/// Rows remembered; past it everything is forgotten, and sent once more.
const LIMIT: usize = 1_000_000;

#[derive(Debug, Default)]
pub(super) struct Acknowledged {
    rows: BTreeMap<(SourceId, i64), Row>,
}

impl Acknowledged {
    /// The ops that say something new.
    pub(super) fn unknown(&self, mut ops: Vec<Op>) -> Vec<Op> {
        ops.retain(|op| match op {
            Op::Upsert { source, key, row: Some(row) } => self.rows.get(&(*source, *key)) != Some(row),
            _ => true,
        });
        ops
    }

    /// These are durable in the index.
    pub(super) fn learn(&mut self, ops: Vec<Op>) {
        for op in ops {
            match op {
                Op::Upsert { source, key, row: Some(row) } => {
                    if self.rows.len() >= LIMIT {
                        self.rows.clear();
                    }
                    self.rows.insert((source, key), row);
                }
                Op::Upsert { source, key, row: None } => {
                    self.rows.remove(&(source, key));
                }
                Op::Retain { source, first, last, keys } => {
                    let within = self.rows.range((source, i64::from(first))..=(source, i64::from(last)));
                    let gone: Vec<_> = within
                        .map(|(row, _)| *row)
                        .filter(|(_, key)| keys.binary_search_by_key(key, |kept| i64::from(*kept)).is_err())
                        .collect();
                    for row in gone {
                        self.rows.remove(&row);
                    }
                }
                _ => {}
            }
        }
    }

    pub(super) fn clear(&mut self) {
        self.rows.clear();
    }
}

#[cfg(test)]
mod tests {
    use bitdex_proto::value::Value;

    use super::*;

    #[test]
    fn only_what_was_acknowledged_is_suppressed() {
        let op = |key, value| Op::Upsert { source: 1, key, row: Some(vec![Some(Value::Int(value))].into()) };
        let mut acknowledged = Acknowledged::default();
        assert_eq!(acknowledged.unknown(vec![op(1, 5)]), [op(1, 5)]);
        assert_eq!(acknowledged.unknown(vec![op(1, 5)]), [op(1, 5)], "not acknowledged yet");
        acknowledged.learn(vec![op(1, 5)]);
        assert_eq!(acknowledged.unknown(vec![op(1, 5), op(1, 6), op(2, 5)]), [op(1, 6), op(2, 5)]);
        // What the index has lost is sent again, even if it is what it was.
        acknowledged.learn(vec![op(2, 5), op(3, 5), op(9, 5)]);
        let retain = Op::Retain { source: 1, first: 1, last: 8, keys: [2].into() };
        assert_eq!(acknowledged.unknown(vec![retain.clone()]), std::slice::from_ref(&retain));
        acknowledged.learn(vec![Op::Retain { source: 2, first: 0, last: 9, keys: [].into() }, retain]);
        assert_eq!(acknowledged.unknown(vec![op(1, 5), op(2, 5), op(3, 5), op(9, 5)]), [op(1, 5), op(3, 5)]);
        acknowledged.clear();
        assert_eq!(acknowledged.unknown(vec![op(1, 5)]), [op(1, 5)]);
    }
}
