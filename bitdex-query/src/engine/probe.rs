//! Membership of single ids: where the operands of a block lie is sought once, at the first id that falls into it; from a
//! number of ids on, all of the block is evaluated.

use super::{
    by_block::ByBlock,
    cells::{BlockCells, told},
    evaluate::{Matcher, Pool, block_of, within_block},
    set::Set,
    tree::{And, Node},
};
use crate::{log::Result, mapping::ahead::fetch, segment::sets::Block};

/// Ids tested one by one in a block before all of it is evaluated,
const TESTS: u16 = 32;
/// and where two reads tell of an id.
const SHORT_TESTS: u16 = 256;

/// What is known of the blocks that were come to.
#[derive(Debug, Default)]
pub(super) struct Probes<'s> {
    blocks: ByBlock<Seen>,
    steps: Vec<Step<'s>>,
    /// Of steps.
    cells: Vec<BlockCells<'s>>,
    /// See [`Probes::granted`].
    granted: Option<usize>,
}

#[derive(Debug)]
enum Seen {
    Nothing,
    /// From where to where its steps stand, and ids tested.
    Steps(u32, u32, u16),
    /// Of a query that is traced: ids tested.
    Traced(u16),
    Evaluated(Set),
}

/// How ids of a block are tested.
enum Tests<'p, 's> {
    /// None passes.
    None,
    Set(&'p Set),
    Cells(&'p BlockCells<'s>),
    Steps(&'p [Step<'s>], &'p [BlockCells<'s>]),
    Traced,
}

/// One test of an id.
#[derive(Debug, Clone, Copy)]
enum Step<'s> {
    Must(Block<'s>),
    MustNot(Block<'s>),
    /// One of several in a row; how many there are behind it.
    Any(Block<'s>, u32),
    /// What cells tell; the place of the block's.
    Cells(u32),
    /// An operand that does not lie as one block in a file: its place among the positives, or the negatives.
    Positive(u32),
    Negative(u32),
}

impl<'s> Probes<'s> {
    /// Of ids that are known to be in the base's set of a positive: it is asked of those alone in whose block layers above
    /// the base change it.
    pub(super) fn granted(positive: Option<usize>) -> Self {
        Self { granted: positive, ..Self::default() }
    }

    /// Asks for what tells of an id.
    pub(super) fn fetch(&mut self, matcher: &mut Matcher<'s>, id: u32) -> Result<()> {
        let number = block_of(id);
        self.look_up(matcher, number)?;
        if let Some(Seen::Steps(first, last, _)) = self.blocks.get(number) {
            for step in self.steps.get(*first as usize..*last as usize).unwrap_or_default() {
                match step {
                    Step::Cells(n) => self.cells.get(*n as usize).into_iter().for_each(|it| it.fetch(within_block(id))),
                    Step::Must(Block::Bits(words))
                    | Step::MustNot(Block::Bits(words))
                    | Step::Any(Block::Bits(words), _) => {
                        words.get(usize::from(within_block(id) >> 6)).into_iter().for_each(fetch);
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    pub(super) fn contains(&mut self, matcher: &mut Matcher<'s>, id: u32) -> Result<bool> {
        match self.of_block(matcher, block_of(id), 1)? {
            Tests::None => Ok(false),
            Tests::Set(set) => Ok(set.contains(within_block(id))),
            Tests::Cells(cells) => by_cell(cells, &matcher.root, id),
            Tests::Steps(steps, cells) => passes(steps, cells, &matcher.root, id),
            Tests::Traced => matcher.contains(id),
        }
    }

    /// Calls `each` with those of some ids of one block that pass, until it answers false. Whether it never did.
    pub(super) fn each_passing(
        &mut self,
        matcher: &mut Matcher<'s>,
        ids: &[u32],
        mut each: impl FnMut(&Matcher<'s>, u32) -> Result<bool>,
    ) -> Result<bool> {
        for some in ids.chunks(TESTS.into()) {
            let Some(first) = some.first() else { continue };
            let tests = self.of_block(matcher, block_of(*first), some.len() as u16)?;
            let root = &matcher.root;
            let more = match tests {
                Tests::None => true,
                Tests::Set(set) => each_of(some, |id| Ok(set.contains(within_block(id))), |id| each(matcher, id))?,
                Tests::Cells(cells) => each_of(some, |id| by_cell(cells, root, id), |id| each(matcher, id))?,
                Tests::Steps(steps, cells) => {
                    each_of(some, |id| passes(steps, cells, root, id), |id| each(matcher, id))?
                }
                Tests::Traced => each_of(some, |id| matcher.contains(id), |id| each(matcher, id))?,
            };
            if !more {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// How so many more ids of a block are tested.
    fn of_block(&mut self, matcher: &mut Matcher<'s>, number: u16, ids: u16) -> Result<Tests<'_, 's>> {
        self.look_up(matcher, number)?;
        let has_enough = match self.blocks.get_mut(number) {
            Some(Seen::Steps(first, last, tested)) => {
                if let Some(cells) = cells_of(&self.steps, (*first, *last), &mut self.cells) {
                    cells.expect(ids, &mut matcher.pool);
                }
                let most = tests(&self.steps, *first as usize, *last as usize);
                let enough = *tested >= most;
                *tested = tested.saturating_add(ids);
                enough
            }
            Some(Seen::Traced(tested)) => {
                let enough = *tested >= TESTS;
                *tested = tested.saturating_add(ids);
                enough
            }
            _ => false,
        };
        if has_enough {
            let mut set = matcher.pool.set();
            matcher.evaluate(number, &mut set)?;
            // Looked into at once, whatever it holds.
            set.words();
            if let Some(block) = self.blocks.get_mut(number) {
                if let Seen::Steps(first, last, _) = block
                    && let Some(cells) = cells_of(&self.steps, (*first, *last), &mut self.cells)
                {
                    cells.leave(&mut matcher.pool);
                }
                *block = Seen::Evaluated(set);
            }
        }
        Ok(match self.blocks.get(number) {
            Some(Seen::Evaluated(set)) => Tests::Set(set),
            Some(Seen::Traced(_)) => Tests::Traced,
            Some(Seen::Steps(first, last, _)) => {
                let steps = self.steps.get(*first as usize..*last as usize).unwrap_or_default();
                let cells = match steps {
                    [Step::Cells(n)] => self.cells.get(*n as usize),
                    _ => None,
                };
                cells.map_or(Tests::Steps(steps, &self.cells), Tests::Cells)
            }
            Some(Seen::Nothing) | None => Tests::None,
        })
    }

    /// Finds out how ids of a block are tested, where that was not done yet.
    fn look_up(&mut self, matcher: &mut Matcher<'s>, number: u16) -> Result<()> {
        if self.blocks.get(number).is_none() {
            let first = self.steps.len();
            let seen = if matcher.trace.is_some() {
                Seen::Traced(0)
            } else if self.compile(&matcher.root, number, &mut matcher.pool)? {
                Seen::Steps(first as u32, self.steps.len() as u32, 0)
            } else {
                Seen::Nothing
            };
            self.blocks.insert(number, seen);
        }
        Ok(())
    }

    /// Whether any id of the block may pass.
    fn compile(&mut self, root: &And<'s>, number: u16, pool: &mut Pool) -> Result<bool> {
        let cells = root.cells.as_ref().and_then(|cells| cells.block(number));
        let cells = cells.filter(BlockCells::tell_of_most);
        let at = cells.as_ref().map(|_| self.cells.len() as u32);
        self.cells.extend(cells);
        compile(root, number, (at, self.granted), &mut self.steps, pool)
    }

    /// Gives back its room.
    pub(super) fn leave(self, matcher: &mut Matcher<'_>) {
        for block in self.blocks.into_all() {
            if let Seen::Evaluated(set) = block {
                matcher.pool.put_set(set);
            }
        }
        self.cells.into_iter().for_each(|mut cells| cells.leave(&mut matcher.pool));
    }
}

/// What the steps of a block ask cells by.
fn cells_of<'c, 's>(
    steps: &[Step<'_>],
    (first, last): (u32, u32),
    cells: &'c mut [BlockCells<'s>],
) -> Option<&'c mut BlockCells<'s>> {
    let mut steps = steps.get(first as usize..last as usize)?.iter();
    let place = steps.find_map(|step| if let Step::Cells(n) = step { Some(*n as usize) } else { None })?;
    cells.get_mut(place)
}

/// How many ids are tested one by one: the fewer reads tell of each, the less there is to be gained by evaluating the
/// block.
fn tests(steps: &[Step<'_>], first: usize, last: usize) -> u16 {
    let is_read = |step: &Step<'_>| matches!(step, Step::Must(_) | Step::MustNot(_) | Step::Cells(_));
    match steps.get(first..last) {
        Some([]) => u16::MAX,
        Some([step]) if is_read(step) => u16::MAX,
        Some([one, other]) if is_read(one) && is_read(other) => SHORT_TESTS,
        _ => TESTS,
    }
}

/// Whether any id of the block may pass. `cells`: the place of the block's. `granted`: see [`Probes::granted`].
fn compile<'s>(
    root: &And<'s>,
    number: u16,
    (cells, granted): (Option<u32>, Option<usize>),
    steps: &mut Vec<Step<'s>>,
    pool: &mut Pool,
) -> Result<bool> {
    let mut cells_tell = cells.is_some();
    for (child, n) in root.positives.iter().zip(0..) {
        let of_base = || match &child.node {
            Node::Term(operand) => operand.is_of_base(number),
            Node::Union(union) => union.of_block(number).all(|operand| operand.is_of_base(number)),
            _ => false,
        };
        if granted == Some(n as usize) && of_base() {
            continue;
        }
        if let (true, Some(at)) = (child.told, cells) {
            if std::mem::take(&mut cells_tell) {
                steps.push(Step::Cells(at));
            }
            continue;
        }
        match &child.node {
            Node::Nothing => return Ok(false),
            Node::Term(operand) => match positive(operand.plain_block(number)?, n) {
                Some(step) => steps.push(step),
                None => return Ok(false),
            },
            Node::Valued(valued) if valued.is_all(number) => {}
            Node::Valued(valued) => match positive(valued.operand.plain_block(number)?, n) {
                Some(step) => steps.push(step),
                None => return Ok(false),
            },
            Node::Named(named) => match named.plain_block(number, pool)? {
                Some(Block::Empty) => return Ok(false),
                Some(block) => steps.push(Step::Must(block)),
                // What layers in memory say of it, and what is not kept of it, lies with its parts.
                None => {
                    let first = steps.len();
                    if !compile(named.parts()?, number, (None, None), steps, pool)? {
                        return Ok(false);
                    }
                    let parts = steps.get(first..).unwrap_or_default();
                    if parts.iter().any(|step| matches!(step, Step::Positive(_) | Step::Negative(_))) {
                        steps.truncate(first);
                        steps.push(Step::Positive(n));
                    }
                }
            },
            Node::Union(union) => {
                let first = steps.len();
                for operand in union.of_block(number) {
                    match operand.plain_block(number)? {
                        Some(Block::Empty) => {}
                        Some(block) => steps.push(Step::Any(block, 0)),
                        None => {
                            steps.truncate(first);
                            steps.push(Step::Positive(n));
                            break;
                        }
                    }
                }
                let group = steps.get_mut(first..).unwrap_or_default();
                if group.is_empty() {
                    return Ok(false);
                }
                for (step, behind) in group.iter_mut().rev().zip(0..) {
                    if let Step::Any(_, left) = step {
                        *left = behind;
                    }
                }
            }
            _ => steps.push(Step::Positive(n)),
        }
    }
    if let (true, Some(at)) = (cells_tell, cells) {
        steps.push(Step::Cells(at));
    }
    for (child, n) in root.negatives.iter().zip(0..).filter(|(child, _)| !child.told || cells.is_none()) {
        match &child.node {
            Node::Nothing => {}
            Node::Term(operand) => match operand.plain_block(number)? {
                Some(Block::Empty) => {}
                Some(block) => steps.push(Step::MustNot(block)),
                None => steps.push(Step::Negative(n)),
            },
            Node::Union(union) => {
                let first = steps.len();
                for operand in union.of_block(number) {
                    match operand.plain_block(number)? {
                        Some(Block::Empty) => {}
                        Some(block) => steps.push(Step::MustNot(block)),
                        None => {
                            steps.truncate(first);
                            steps.push(Step::Negative(n));
                            break;
                        }
                    }
                }
            }
            _ => steps.push(Step::Negative(n)),
        }
    }
    Ok(true)
}

/// The test of the positive at a place, by its block where that lies somewhere; `None`: no id passes.
fn positive(block: Option<Block<'_>>, place: u32) -> Option<Step<'_>> {
    match block {
        Some(Block::Empty) => None,
        Some(block) => Some(Step::Must(block)),
        None => Some(Step::Positive(place)),
    }
}

/// Calls `each` with the ids that pass, until it answers false. Whether it never did.
#[inline]
fn each_of(
    ids: &[u32],
    passes: impl Fn(u32) -> Result<bool>,
    mut each: impl FnMut(u32) -> Result<bool>,
) -> Result<bool> {
    for id in ids {
        if passes(*id)? && !each(*id)? {
            return Ok(false);
        }
    }
    Ok(true)
}

#[inline]
fn by_cell(cells: &BlockCells<'_>, root: &And<'_>, id: u32) -> Result<bool> {
    match cells.passes(within_block(id)) {
        Some(passes) => Ok(passes),
        None => told(root, id),
    }
}

fn passes(steps: &[Step<'_>], cells: &[BlockCells<'_>], root: &And<'_>, id: u32) -> Result<bool> {
    let within = within_block(id);
    let mut at = 0;
    while let Some(step) = steps.get(at) {
        at += 1;
        match step {
            Step::Must(block) if !block.contains(within) => return Ok(false),
            Step::MustNot(block) if block.contains(within) => return Ok(false),
            Step::Must(_) | Step::MustNot(_) => {}
            Step::Cells(n) => match cells.get(*n as usize) {
                Some(cells) if by_cell(cells, root, id)? => {}
                _ => return Ok(false),
            },
            Step::Any(block, behind) => match block.contains(within) {
                true => at += *behind as usize,
                false if *behind == 0 => return Ok(false),
                false => {}
            },
            Step::Positive(n) => match root.positives.get(*n as usize) {
                Some(child) if child.node.contains(id)? => {}
                _ => return Ok(false),
            },
            Step::Negative(n) => match root.negatives.get(*n as usize) {
                Some(child) if child.node.contains(id)? => return Ok(false),
                _ => {}
            },
        }
    }
    Ok(true)
}
