//! Changes of the workload, applied to a version and left in memory.

use anyhow::{Context as _, Result};
use bitdex_proto::{
    query::{SearchRequest, Sort},
    wire::{self, record::Kind},
};
use bitdex_query::{
    engine,
    state::{POSTGRES, State},
};

use super::NOW_US;
use crate::{
    bench::store::{feed, ops::Changes},
    workload::{HOUR_US, Workload, generate::Generator},
};

const BATCH: usize = 10_000;
/// Changes begin so long before the clock of the queries, so that none is of its future.
const SPAN_US: i64 = 2 * HOUR_US;

/// What has been applied so far.
pub(super) struct Overlay {
    changes: Changes,
    ops: usize,
    batches: u64,
}

impl Overlay {
    pub(super) fn new(workload: Workload, state: &State) -> Result<Self> {
        let mut last = SearchRequest::new(state.schema().index.clone());
        last.sort = vec![Sort { field: "id".into(), descending: true }];
        last.include_pending = true;
        last.limit = 1;
        let newest = engine::search(state, &last, NOW_US)?.ids;
        let newest = newest.first().context("the store is empty")?;
        // There are fewer posts than images.
        let generator = Generator::new(workload).behind(*newest, *newest);
        let changes = Changes::new(state.schema(), generator, workload.seed, NOW_US - SPAN_US)?;
        Ok(Self { changes, ops: 0, batches: 0 })
    }

    /// Goes on until as many ops are applied.
    pub(super) fn grow(&mut self, state: &mut State, ops: usize) -> Result<()> {
        while self.ops < ops {
            let batch = self.changes.batch(BATCH.min(ops - self.ops))?;
            self.ops += batch.len();
            self.batches += 1;
            let previous_cursor = state.cursor(POSTGRES);
            let new_cursor = feed::cursor(self.batches);
            let source = POSTGRES.into();
            let batch = wire::Batch { source, previous_cursor, new_cursor, ops: batch, caught_up: true, backlog: 0 };
            state.apply(state.sequence() + 1, &wire::Record { kind: Some(Kind::Batch(batch)) })?;
        }
        Ok(())
    }
}
