//! Which way a page is taken, by what each way is thought to cost.

use std::fmt;

use super::{
    hidden::Shown,
    order::{After, Sorter},
    set::SPARSE,
    skim,
    tree::And,
};
use crate::{
    log::Result,
    segment::{BLOCK_BITS, peaks, sets::ARRAY_MAX},
    state::ColumnView,
};

/// How to take a page. All give the same rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// Comes to ids in the order of the first sort key, and tests each, until there are enough.
    Walk,
    /// Evaluates whole blocks, and selects the first rows of their ids.
    Gather,
    /// Evaluates blocks of those ids alone that have the greatest codes, and of more where there are too few.
    Skim,
}

impl Plan {
    pub const ALL: [Self; 3] = [Self::Walk, Self::Gather, Self::Skim];
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Walk => "walk",
            Self::Gather => "gather",
            Self::Skim => "skim",
        })
    }
}

/// What things cost, in nanoseconds.
mod cost {
    /// One step of a walk over a column, with the test of the id.
    pub(super) const STEP: f64 = 40.0;
    /// The same where the next id is in any block.
    pub(super) const FAR_STEP: f64 = 150.0;
    /// One operand of one block.
    pub(super) const OPERAND: f64 = 150.0;
    /// The same where few ids of the block are left.
    pub(super) const SPARSE: f64 = 60.0;
    /// Copying the words of a block.
    pub(super) const COPY: f64 = 600.0;
    /// Looking one of a block's few ids up in words that nobody has read lately.
    pub(super) const FAR_PROBE: f64 = 5.0;
    /// Looking an id up in words.
    pub(super) const PROBE: f64 = 1.0;
    /// Reading the code of an id, which seldom comes first.
    pub(super) const CODE: f64 = 8.0;
    /// Besides, to look for it in a layer above the base.
    pub(super) const LAYER: f64 = 60.0;
    /// The same where there are many ids in a block.
    pub(super) const LAYER_OF_MANY: f64 = 8.0;
    /// One of the ids with the greatest codes of a layer in memory.
    pub(super) const RAISED: f64 = 8.0;
    /// Reading the code of an id of those most of which come first, and are kept.
    pub(super) const ROW: f64 = 30.0;
    /// A block that is visited at all.
    pub(super) const BLOCK: f64 = 150.0;
    /// One that a bound leaves out.
    pub(super) const LEFT_OUT: f64 = 50.0;
}

/// Ids of the lanes that a search for the first rows looks into.
const LANES: f64 = 2048.0;
/// Ids of a block.
const IDS: f64 = (1_u32 << BLOCK_BITS) as f64;
/// The greatest [`spread`] of codes that follow ids: also of one block, over which all of its codes reach.
const FOLLOWS: f64 = 0.999;
/// Steps that every walk may take.
const STEPS_LEAST: f64 = 512.0;

/// What the choice rests on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Estimates {
    /// Documents that pass the filter.
    pub(super) matches: u64,
    pub(super) walk_ns: f64,
    pub(super) gather_ns: f64,
    pub(super) skim_ns: f64,
    /// See [`skim::share`].
    pub(super) share: f64,
}

/// What a page is taken of: the first `want` rows behind `after`. `range`: the codes of the first key that pass, which
/// plans see to themselves. `shown`: of its codes. `blocks`: where the filter may hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'q, 's> {
    pub(super) sorter: &'q Sorter<'s>,
    pub(super) range: Option<(u64, u64)>,
    pub(super) shown: &'q Shown,
    pub(super) blocks: &'q [u16],
    pub(super) after: Option<&'q After>,
    pub(super) want: usize,
}

impl Estimates {
    pub(super) fn new(root: &And<'_>, asked: &Asked<'_, '_>, documents: u64) -> Result<Self> {
        let Asked { sorter, range, shown, blocks, want, .. } = *asked;
        let documents = documents.max(1);
        let matches = root.estimate(documents);
        let operands = (root.positives.len() + root.negatives.len()) as f64;
        let all = blocks.len().max(1) as f64;
        // Ids that the first operand leaves of a block decide what the others cost.
        let of_block = root.positives.first().map_or(documents, |child| child.estimate) as f64 / all;
        let operand = (cost::SPARSE + of_block).min(cost::OPERAND);
        let block = cost::BLOCK + operands * operand;
        let none = Self {
            matches,
            walk_ns: f64::INFINITY,
            gather_ns: block * all,
            skim_ns: f64::INFINITY,
            share: f64::INFINITY,
        };
        let Some(column) = sorter.first() else { return Ok(none) };
        let within = match range {
            Some((first, last)) => column.estimate(first, last.min(shown.most))?,
            None => documents,
        };
        // Of the rows that a walk comes to, this share passes.
        let passing = (matches as f64 / within.max(1) as f64).clamp(1e-9, 1.0);
        let steps = (want as f64 / passing).min(within as f64) + 1.0;
        let spread = spread(column, blocks)?;
        // Where codes follow ids, the lanes of a block tell which of its ids need not be looked at.
        let rows = match spread < 1.0 {
            true => (want as f64 * 2.0 + LANES * (matches as f64 / all / IDS).min(1.0)) * cost::ROW,
            false => f64::INFINITY,
        };
        let (layers, in_memory) = if spread < 1.0 { (0, 0) } else { column.layers() };
        let is_many = matches as f64 / all > f64::from(SPARSE);
        let code = cost::CODE + layers as f64 * if is_many { cost::LAYER_OF_MANY } else { cost::LAYER };
        let gathered = (all * (want as f64 / matches.max(1) as f64 + spread) + 1.0).min(all);
        let walked = (all * (steps / within.max(1) as f64 + spread) + 1.0).min(all).min(steps);
        let share = match sorter.first_descends() && spread >= 1.0 {
            true => asked.share(column, matches, documents)?,
            false => f64::INFINITY,
        };
        let skim_ns = match share < peaks::SHARE_MOST {
            true => {
                let block = skimmed(share, of_block, operands, matches as f64 / all * code);
                let raised = (layers as f64 * share * documents as f64).min(in_memory as f64) * cost::RAISED;
                let looked_up = if of_block <= skim::FEW.into() { of_block * all * cost::LAYER } else { f64::INFINITY };
                all * (cost::LEFT_OUT + cost::BLOCK + block) + raised.min(looked_up)
            }
            false => f64::INFINITY,
        };
        Ok(Self {
            walk_ns: steps * (if spread < 1.0 { cost::STEP } else { cost::FAR_STEP })
                + walked * (cost::BLOCK + operands * cost::SPARSE),
            gather_ns: gathered * block + (matches as f64 * (gathered / all) * code).min(rows) + all * cost::LEFT_OUT,
            skim_ns,
            share,
            ..none
        })
    }

    pub(super) fn of(&self, plan: Plan) -> f64 {
        match plan {
            Plan::Walk => self.walk_ns,
            Plan::Gather => self.gather_ns,
            Plan::Skim => self.skim_ns,
        }
    }

    /// The cheapest.
    pub(super) fn pick(&self) -> Plan {
        let by_blocks = self.pick_by_blocks();
        if self.walk_ns <= self.of(by_blocks) { Plan::Walk } else { by_blocks }
    }

    /// The cheapest that does not walk.
    pub(super) fn pick_by_blocks(&self) -> Plan {
        if self.skim_ns < self.gather_ns { Plan::Skim } else { Plan::Gather }
    }

    /// Steps after which a walk that has not come to its end has cost about as much as another plan would.
    pub(super) fn patience(&self) -> usize {
        (self.of(self.pick_by_blocks()) / cost::STEP).max(STEPS_LEAST) as usize
    }
}

impl Asked<'_, '_> {
    /// See [`skim::share`].
    fn share(&self, column: ColumnView<'_>, matches: u64, documents: u64) -> Result<f64> {
        let after = self.after.map_or(Some(u64::MAX), |after| self.sorter.after_code(after));
        // What has no value comes last.
        let Some(after) = after else { return Ok(f64::INFINITY) };
        let last = self.range.map_or(u64::MAX, |(_, last)| last).min(self.shown.most).min(after);
        let above = last.checked_add(1).map_or(Ok(0), |from| column.estimate(from, u64::MAX))?;
        Ok(skim::share(self.want, matches, documents, above))
    }
}

/// What a block costs of which only ids with the greatest codes are looked at. `first`: ids of its first operand. `codes`:
/// what it takes to read the codes of all that match.
fn skimmed(share: f64, first: f64, operands: f64, codes: f64) -> f64 {
    let few = first <= ARRAY_MAX as f64;
    let is_array = |level: f64| IDS * level <= peaks::ARRAY_MOST as f64;
    let levels = peaks::SHARES.into_iter().map(|share| 1.0 / share as f64);
    let level = levels.filter(|level| !few || !is_array(*level)).find(|level| *level >= share);
    let level = level.unwrap_or(peaks::SHARE_MOST);
    let ids = first * level;
    if !few && is_array(level) {
        // The ids of the level are looked up in all operands.
        return operands * (cost::SPARSE + IDS * level * cost::FAR_PROBE) + codes * level;
    }
    let begin = if few { first * cost::PROBE } else { cost::COPY };
    begin + (operands - 1.0).max(0.0) * (cost::SPARSE + ids * cost::PROBE).min(cost::OPERAND) + codes * level
}

/// The part of all codes that one block's codes reach over: 1 where they have nothing to do with ids.
fn spread(column: ColumnView<'_>, blocks: &[u16]) -> Result<f64> {
    let (mut min, mut max, mut widths) = (u64::MAX, 0, 0.0);
    let (mut following, mut others, mut new) = (0.0, 0.0, 0.0);
    for number in blocks.iter().step_by(blocks.len().div_ceil(8).max(1)) {
        let bounds = column.inner_bounds(*number)?;
        if bounds.count == 0 {
            continue;
        }
        (min, max) = (min.min(bounds.min), max.max(bounds.max));
        let width = bounds.max.saturating_sub(bounds.min) as f64;
        if column.tops(*number)?.is_some() {
            (widths, following) = (widths + width, following + 1.0);
        } else if column.is_in_base(*number)? {
            others += 1.0;
        } else {
            // What is in no file yet is as what came before it.
            (widths, new) = (widths + width, new + 1.0);
        }
    }
    let all = max.saturating_sub(min) as f64;
    if following < 1.0 || following < others || all <= 0.0 {
        return Ok(1.0);
    }
    Ok(((widths / all + others) / (following + others + new)).clamp(0.0, FOLLOWS))
}
