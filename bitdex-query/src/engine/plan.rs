//! Which way a page is taken, by what each way is thought to cost.

use std::fmt;

use super::{order::Sorter, tree::And};
use crate::{log::Result, state::ColumnView};

/// How to take a page. All give the same rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// Comes to ids in the order of the first sort key, and tests each, until there are enough.
    Walk,
    /// Evaluates whole blocks, and selects the first rows of their ids.
    Gather,
}

impl Plan {
    pub const ALL: [Self; 2] = [Self::Walk, Self::Gather];
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Walk => "walk",
            Self::Gather => "gather",
        })
    }
}

/// What things cost, in nanoseconds.
mod cost {
    /// One step of a walk over a column, with the test of the id.
    pub(super) const STEP: f64 = 40.0;
    /// One operand of one block.
    pub(super) const OPERAND: f64 = 150.0;
    /// The same where few ids of the block are left.
    pub(super) const SPARSE: f64 = 60.0;
    /// Reading the code of an id, which seldom comes first.
    pub(super) const CODE: f64 = 8.0;
    /// The same of ids most of which come first, and are kept.
    pub(super) const ROW: f64 = 14.0;
    /// A block that is visited at all.
    pub(super) const BLOCK: f64 = 150.0;
    /// One that a bound leaves out.
    pub(super) const LEFT_OUT: f64 = 15.0;
}

/// Ids of the lanes that a search for the first rows looks into.
const LANES: f64 = 2048.0;
/// Steps that every walk may take.
const STEPS_LEAST: f64 = 512.0;

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
        root: &And<'_>,
        sorter: &Sorter<'_>,
        blocks: &[u16],
        range: Option<(u64, u64)>,
        cap: u64,
        want: usize,
        documents: u64,
    ) -> Result<Self> {
        let documents = documents.max(1);
        let matches = root.estimate(documents);
        let operands = (root.positives.len() + root.negatives.len()) as f64;
        let all = blocks.len().max(1) as f64;
        // Ids that the first operand leaves of a block decide what the others cost.
        let of_block = root.positives.first().map_or(documents, |child| child.estimate) as f64 / all;
        let operand = (cost::SPARSE + of_block).min(cost::OPERAND);
        let block = cost::BLOCK + operands * operand;
        let Some(column) = sorter.first() else {
            return Ok(Self { matches, walk_ns: f64::INFINITY, gather_ns: block * all });
        };
        let within = match range {
            Some((first, last)) => column.estimate(first, last.min(cap))?,
            None => documents,
        };
        // Of the rows that a walk comes to, this share passes.
        let share = (matches as f64 / within.max(1) as f64).clamp(1e-9, 1.0);
        let steps = (want as f64 / share).min(within as f64) + 1.0;
        let spread = spread(column, blocks)?;
        // Where codes follow ids, the lanes of a block tell which of its ids need not be looked at.
        let rows = match spread < 1.0 {
            true => (want as f64 * 2.0 + LANES * matches as f64 / documents as f64) * cost::ROW,
            false => f64::INFINITY,
        };
        let gathered = (all * (want as f64 / matches.max(1) as f64 + spread) + 1.0).min(all);
        let walked = (all * (steps / within.max(1) as f64 + spread) + 1.0).min(all).min(steps);
        Ok(Self {
            matches,
            walk_ns: steps * cost::STEP + walked * (cost::BLOCK + operands * cost::SPARSE),
            gather_ns: gathered * block
                + (matches as f64 * (gathered / all) * cost::CODE).min(rows)
                + all * cost::LEFT_OUT,
        })
    }

    pub(super) fn of(&self, plan: Plan) -> f64 {
        match plan {
            Plan::Walk => self.walk_ns,
            Plan::Gather => self.gather_ns,
        }
    }

    pub(super) fn cheaper(&self) -> Plan {
        if self.walk_ns <= self.gather_ns { Plan::Walk } else { Plan::Gather }
    }

    /// Steps after which a walk that has not come to its end has cost about as much as the other plan would.
    pub(super) fn patience(&self) -> usize {
        (self.gather_ns / cost::STEP).max(STEPS_LEAST) as usize
    }
}

/// The part of all codes that one block's codes reach over: 1 where they have nothing to do with ids.
fn spread(column: ColumnView<'_>, blocks: &[u16]) -> Result<f64> {
    let (mut min, mut max, mut widths, mut looked_at) = (u64::MAX, 0, 0.0, 0.0);
    for number in blocks.iter().step_by(blocks.len().div_ceil(8).max(1)) {
        if column.tops(*number)?.is_none() {
            return Ok(1.0);
        }
        let bounds = column.inner_bounds(*number)?;
        if bounds.count > 0 {
            (min, max) = (min.min(bounds.min), max.max(bounds.max));
            widths += bounds.max.saturating_sub(bounds.min) as f64;
            looked_at += 1.0;
        }
    }
    let all = max.saturating_sub(min) as f64;
    Ok(if looked_at < 2.0 || all <= 0.0 { 1.0 } else { (widths / looked_at / all).clamp(0.0, 1.0) })
}
