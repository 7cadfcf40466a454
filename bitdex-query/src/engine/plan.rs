//! Which way a page is taken, by what each way is thought to cost.

use std::fmt;

use super::{
    hidden::Shown,
    in_order::InOrder,
    lead::Led,
    order::{After, Sorter},
    set::SPARSE,
    skim,
    tree::{And, Child, Node},
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
    /// Comes to the ids that files list as those with the greatest codes, and tests each, until there are enough.
    Lead,
}

impl Plan {
    pub const ALL: [Self; 4] = [Self::Walk, Self::Gather, Self::Skim, Self::Lead];
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Walk => "walk",
            Self::Gather => "gather",
            Self::Skim => "skim",
            Self::Lead => "lead",
        })
    }
}

/// What things cost, in nanoseconds.
mod cost {
    /// One step of a walk over a column, with the test of the id.
    pub(super) const STEP: f64 = 5.0;
    /// The same where several keys, or texts, decide.
    pub(super) const KEYED_STEP: f64 = 40.0;
    /// The same where the next id is in any block, and its cell tells,
    pub(super) const FAR_STEP: f64 = 50.0;
    /// or another set does,
    pub(super) const FAR_SET: f64 = 20.0;
    /// or codes do.
    pub(super) const FAR_CODE: f64 = 50.0;
    /// One operand of one block.
    pub(super) const OPERAND: f64 = 150.0;
    /// The same where few ids of the block are left.
    pub(super) const SPARSE: f64 = 60.0;
    /// One step through lists, with the test of the id by its cell.
    pub(super) const LED_STEP: f64 = 40.0;
    /// A list that is begun.
    pub(super) const LIST: f64 = 300.0;
    /// One step through a term's ids that lie in the order of codes, with their cells.
    pub(super) const ORDERED_STEP: f64 = 3.0;
    /// A segment with such ids.
    pub(super) const ORDERED: f64 = 100.0;
    /// One of its ids in a block that is gone through by itself.
    pub(super) const APART: f64 = 5.0;
    /// A block of which layers above the base say something, beside these.
    pub(super) const CHANGED: f64 = 200.0;
    /// One of its ids of which they do.
    pub(super) const CHANGED_ID: f64 = 20.0;
    /// One of a term's ids where there is no list.
    pub(super) const UNLISTED: f64 = 40.0;
    /// A block in which layers above the base say something.
    pub(super) const OVERLAID: f64 = 150.0;
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
    /// Reading the code of an id of those most of which come first, and are kept.
    pub(super) const ROW: f64 = 30.0;
    /// An id that layers in memory raise to the codes of the first rows, among those of a block that are evaluated.
    pub(super) const RAISED: f64 = 50.0;
    /// Reading the code of such an id, with the test of the id.
    pub(super) const RAISED_TEST: f64 = 80.0;
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
    pub(super) lead_ns: f64,
    /// See [`skim::share`].
    pub(super) share: f64,
    /// Of a walk.
    step_ns: f64,
    /// Of a lead.
    led_step_ns: f64,
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

/// What [`Plan::Lead`] goes through.
#[derive(Debug)]
pub(super) enum Lists<'s> {
    /// Where codes have nothing to do with ids.
    ByCode(Box<Led<'s>>),
    /// Where they follow them.
    InOrder(Box<InOrder<'s>>),
}

impl Estimates {
    /// `forced`: which plan is taken, whatever it costs.
    pub(super) fn new<'s>(
        root: &And<'s>,
        asked: &Asked<'_, 's>,
        documents: u64,
        forced: Option<Plan>,
    ) -> Result<(Self, Option<Lists<'s>>)> {
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
            lead_ns: f64::INFINITY,
            share: f64::INFINITY,
            step_ns: cost::KEYED_STEP,
            led_step_ns: cost::LED_STEP,
        };
        let Some(column) = sorter.first() else { return Ok((none, None)) };
        let within = match range {
            Some((first, last)) => column.estimate(first, last.min(shown.most))?,
            None => documents,
        };
        // Of the rows that a walk comes to, this share passes.
        let passing = (matches as f64 / within.max(1) as f64).clamp(1e-9, 1.0);
        let steps = (want as f64 / passing).min(within as f64) + 1.0;
        let spread = spread(column, blocks)?;
        if spread >= 1.0 {
            root.seek();
        }
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
        let step_ns = match spread < 1.0 {
            true if sorter.is_plain() => cost::STEP,
            true => cost::KEYED_STEP,
            false => cost::FAR_STEP + tests(root, None),
        };
        let walk_ns = steps * step_ns + walked * (cost::BLOCK + operands * cost::SPARSE);
        let gather_ns = gathered * block + (matches as f64 * (gathered / all) * code).min(rows) + all * cost::LEFT_OUT;
        let in_order = |steps: f64, lists: usize| steps * cost::ORDERED_STEP + lists as f64 * cost::ORDERED;
        let is_worth = |steps, lists| forced.is_some() || in_order(steps, lists) < walk_ns.min(gather_ns);
        if spread < 1.0
            && let Some(lists) =
                InOrder::find(root, column, asked, (matches, (within as f64 / documents as f64).min(1.0)), is_worth)?
        {
            let (blocks, ids) = lists.apart();
            let apart = blocks as f64 * block + ids as f64 * cost::APART;
            let (blocks, ids) = lists.changed();
            let changed = blocks as f64 * cost::CHANGED + ids as f64 * cost::CHANGED_ID;
            let lead_ns = in_order(lists.steps, lists.segments()) + apart + changed;
            let led_step_ns = cost::ORDERED_STEP;
            let estimates = Self { walk_ns, gather_ns, lead_ns, step_ns, led_step_ns, ..none };
            return Ok((estimates, Some(Lists::InOrder(Box::new(lists)))));
        }
        let (mut share, mut led) = (f64::INFINITY, None);
        if sorter.first_descends()
            && spread >= 1.0
            && let Some(above) = asked.above(column)?
        {
            share = skim::share(want, matches, documents, above);
            let up_to_last = want as f64 / matches.max(1) as f64 * documents as f64 + above as f64;
            let most = if forced.is_some() { f64::INFINITY } else { walk_ns.min(gather_ns) };
            let is_worth = |steps, child| steps * (cost::LED_STEP + tests(root, child)) < most;
            led = Led::find(root, column, (up_to_last, documents), is_worth, forced == Some(Plan::Lead))?;
        }
        // Ids that layers in memory raise to the codes of the first rows.
        let raised = (layers as f64 * share * documents as f64).min(in_memory as f64);
        let skim_ns = match share < peaks::SHARE_MOST {
            true => {
                let untold = root.positives.iter().chain(&root.negatives).filter(|child| !child.told);
                let looks = untold.map(|child| looks(&child.node)).sum::<f64>() + f64::from(root.cells.is_some());
                let block = skimmed(share, of_block, (operands, looks), matches as f64 / all * code);
                let overlaid = if layers > 0 { cost::OVERLAID } else { 0.0 };
                all * (cost::LEFT_OUT + cost::BLOCK + block + overlaid) + raised * cost::RAISED
            }
            false => f64::INFINITY,
        };
        let lead_ns = led.as_ref().map_or(f64::INFINITY, |led| {
            let raised = match led.child().and_then(|child| root.positives.get(child)) {
                Some(child) => {
                    let ids = child.estimate as f64;
                    // Where it has words, these are combined with others.
                    let looked_up = if ids > all * ARRAY_MAX as f64 { all * cost::OPERAND } else { ids * cost::PROBE };
                    looked_up + raised * (ids / documents.max(1) as f64).min(1.0) * cost::RAISED_TEST
                }
                // All of them are tested.
                None => raised * cost::RAISED_TEST,
            };
            led.steps * (cost::LED_STEP + tests(root, led.child()))
                + led.len() as f64 * cost::LIST
                + led.ids as f64 * cost::UNLISTED
                + if layers > 0 { raised + all * cost::OVERLAID } else { 0.0 }
        });
        Ok((
            Self { walk_ns, gather_ns, skim_ns, share, lead_ns, step_ns, ..none },
            led.map(|led| Lists::ByCode(Box::new(led))),
        ))
    }

    pub(super) fn of(&self, plan: Plan) -> f64 {
        match plan {
            Plan::Walk => self.walk_ns,
            Plan::Gather => self.gather_ns,
            Plan::Skim => self.skim_ns,
            Plan::Lead => self.lead_ns,
        }
    }

    /// The cheapest.
    pub(super) fn pick(&self) -> Plan {
        // Of equal ones the first.
        let plans = [Plan::Lead, Plan::Walk, self.pick_by_blocks()];
        plans.into_iter().min_by(|a, b| self.of(*a).total_cmp(&self.of(*b))).unwrap_or(Plan::Gather)
    }

    /// The cheapest that goes by blocks.
    pub(super) fn pick_by_blocks(&self) -> Plan {
        if self.skim_ns < self.gather_ns { Plan::Skim } else { Plan::Gather }
    }

    /// Steps after which a walk or a lead that has not come to its end has cost about as much as another plan would.
    pub(super) fn patience(&self, plan: Plan) -> usize {
        let step = if plan == Plan::Lead { self.led_step_ns } else { self.step_ns };
        (self.of(self.pick_by_blocks()) / step).max(STEPS_LEAST) as usize
    }
}

impl Asked<'_, '_> {
    /// How many documents come before the first row, downwards; `None`: all that have a value.
    fn above(&self, column: ColumnView<'_>) -> Result<Option<u64>> {
        let after = self.after.map_or(Some(u64::MAX), |after| self.sorter.after_code(after));
        let Some(after) = after else { return Ok(None) };
        let last = self.range.map_or(u64::MAX, |(_, last)| last).min(self.shown.most).min(after);
        last.checked_add(1).map_or(Ok(0), |from| column.estimate(from, u64::MAX)).map(Some)
    }
}

/// What the tests of an id that may be in any block cost beside that of its cell, and without that of the positive at a
/// place.
fn tests(root: &And<'_>, granted: Option<usize>) -> f64 {
    let test = |child: &Child<'_>| match &child.node {
        Node::Column(_) | Node::And(_) | Node::Or(_) => cost::FAR_CODE,
        node => looks(node) * cost::FAR_SET,
    };
    let others = root.positives.iter().enumerate().filter(|(n, _)| Some(*n) != granted).map(|(_, child)| child);
    others.chain(&root.negatives).filter(|child| !child.told).map(test).sum()
}

/// How many sets an id is looked up in.
fn looks(node: &Node<'_>) -> f64 {
    match node {
        Node::Union(union) => union.terms.len() as f64,
        _ => 1.0,
    }
}

/// What a block costs of which only ids with the greatest codes are looked at. `first`: ids of its first operand. `looks`:
/// sets that single ids are looked up in. `codes`: what it takes to read the codes of all that match.
fn skimmed(share: f64, first: f64, (operands, looks): (f64, f64), codes: f64) -> f64 {
    let few = first <= ARRAY_MAX as f64;
    let is_array = |level: f64| IDS * level <= peaks::ARRAY_MOST as f64;
    let levels = peaks::SHARES.into_iter().map(|share| 1.0 / share as f64);
    let level = levels.filter(|level| !few || !is_array(*level)).find(|level| *level >= share);
    let level = level.unwrap_or(peaks::SHARE_MOST);
    let ids = first * level;
    if !few && is_array(level) {
        // The ids of the level are looked up in all operands.
        return looks * (cost::SPARSE + IDS * level * cost::FAR_PROBE) + codes * level;
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
