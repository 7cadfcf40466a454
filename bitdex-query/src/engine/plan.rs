//! Which way a page is taken, by what each way is thought to cost.

use super::{order::Sorter, tree::And};
use crate::{log::Result, state::State};

/// How to take a page. All give the same rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plan {
    /// See [`super::walk`].
    Walk,
    /// See [`super::gather`].
    Gather,
}

/// What things cost, in nanoseconds.
mod cost {
    /// One step of a walk over a column, with the test of the id.
    pub(super) const STEP: f64 = 30.0;
    /// One operand of one block.
    pub(super) const OPERAND: f64 = 150.0;
    /// Reading the code of an id, and keeping it where it comes first.
    pub(super) const CODE: f64 = 12.0;
    /// A block that is visited at all.
    pub(super) const BLOCK: f64 = 200.0;
}

/// What the choice rests on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Estimates {
    /// Documents that pass the filter.
    pub(super) matches: u64,
    pub(super) walk_ns: f64,
    pub(super) gather_ns: f64,
}

impl Estimates {
    /// Of a filter whose ids are in `blocks`. `range`: the codes that a walk has to go through, where not all.
    pub(super) fn new(
        state: &State,
        root: &And<'_>,
        sorter: &Sorter<'_>,
        blocks: &[u16],
        range: Option<(u64, u64)>,
        want: usize,
    ) -> Result<Self> {
        let documents = state.documents().max(1);
        let matches = root.estimate(documents);
        let operands = (root.positives.len() + root.negatives.len()) as f64;
        let block = cost::BLOCK + operands * cost::OPERAND;
        let Some(column) = sorter.first() else {
            return Ok(Self { matches, walk_ns: f64::INFINITY, gather_ns: block * blocks.len() as f64 });
        };
        let within = match range {
            Some((first, last)) => column.estimate(first, last)?,
            None => documents,
        };
        // Of the rows that a walk comes to, this share passes.
        let share = (matches as f64 / within.max(1) as f64).clamp(1e-9, 1.0);
        let steps = (want as f64 / share).min(within as f64) + 1.0;
        // Blocks that the codes of a walk's rows lie in: all, where codes have nothing to do with ids.
        let spread = spread(sorter, blocks)?;
        let all = blocks.len().max(1) as f64;
        let walked = (all * (steps / within.max(1) as f64 + spread)).min(all).min(steps);
        let gathered = (all * (want as f64 / matches.max(1) as f64 + spread)).min(all);
        let tests = steps.min(walked * 6.0) * operands * cost::STEP;
        Ok(Self {
            matches,
            walk_ns: steps * cost::STEP + walked * block + tests,
            gather_ns: gathered * block + matches as f64 * (gathered / all) * cost::CODE + all * 30.0,
        })
    }

    pub(super) fn cheaper(&self) -> Plan {
        if self.walk_ns <= self.gather_ns { Plan::Walk } else { Plan::Gather }
    }
}

/// The part of all codes that one block's codes reach over: 1 where they have nothing to do with ids.
fn spread(sorter: &Sorter<'_>, blocks: &[u16]) -> Result<f64> {
    let Some(column) = sorter.first() else { return Ok(1.0) };
    let (mut min, mut max, mut widths, mut looked_at) = (u64::MAX, 0, 0.0, 0.0);
    for number in blocks.iter().step_by(blocks.len().div_ceil(16).max(1)) {
        let bounds = column.bounds(*number)?;
        if bounds.count > 0 {
            (min, max) = (min.min(bounds.min), max.max(bounds.max));
            widths += bounds.max.saturating_sub(bounds.min) as f64;
            looked_at += 1.0;
        }
    }
    let all = max.saturating_sub(min) as f64;
    Ok(if looked_at < 2.0 || all <= 0.0 { 1.0 } else { (widths / looked_at / all).clamp(0.0, 1.0) })
}
