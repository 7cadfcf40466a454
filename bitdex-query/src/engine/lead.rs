//! The plan that goes through the ids with the greatest codes as files list them, of the terms of one operand or of all
//! ids, and tests each: the greatest of all segments first. What layers above the base say comes before, down to the code
//! that the last row is thought to have. It is for orders from the greatest code down that have nothing to do with the
//! order of ids.

use std::{collections::BinaryHeap, ops::Range};

use smallvec::SmallVec;

use super::{
    best::Best,
    cells::LISTED,
    evaluate::{Matcher, id_of},
    gather::{Codes, push_each, push_listed},
    hidden::{self, Hidden},
    plan::Asked,
    probe::Probes,
    tree::{And, Child, Node},
    watch,
};
use crate::{
    log::Result,
    state::{CodeReader, ColumnView, Lead, LeadList, Operand},
};

/// Ids of one list that are looked at before those of others, at most; what they need is asked for together.
const RUN: usize = 16;
const RUN_LEAST: usize = 4;
/// Terms of an operand whose lists are gone through side by side.
const TERMS: usize = 8;
/// Ids of a block that layers raise that are tested together.
const TOGETHER: usize = 64;
/// The part of a list that is thought to be needed, at most: estimates are only about right.
const PART_MOST: f64 = 0.7;

/// What is gone through.
#[derive(Debug)]
pub(super) struct Led<'s> {
    /// The positive whose terms' ids are listed; `None`: all ids are.
    child: Option<usize>,
    /// Each with its term.
    lists: SmallVec<[(usize, LeadList<'s>); 16]>,
    /// Segments, by position, that have few of the ids and no list.
    few: SmallVec<[usize; 8]>,
    /// Ids in these.
    pub(super) ids: u64,
    /// Ids that will have to be looked at, about, until the last row is known.
    pub(super) steps: f64,
}

impl<'s> Led<'s> {
    /// `None`: nothing lists what would be needed. `steps`: ids of all `documents` that come up to the last row that is
    /// wanted. `is_worth`: whether so many steps are, of which the operand at a place needs no test. `forced`: also where
    /// lists are thought to be too short.
    pub(super) fn find(
        root: &And<'s>,
        column: ColumnView<'s>,
        (steps, documents): (f64, u64),
        is_worth: impl Fn(f64, Option<usize>) -> bool,
        forced: bool,
    ) -> Result<Option<Self>> {
        for (n, child) in root.positives.iter().enumerate() {
            let terms = terms(&child.node);
            let steps = steps * child.estimate as f64 / documents.max(1) as f64;
            if !terms.is_empty()
                && terms.len() <= TERMS
                && is_worth(steps, Some(n))
                && let Some(led) = Self::of(Some(n), terms, column, (steps, child.estimate), forced)?
            {
                return Ok(Some(led));
            }
        }
        if is_worth(steps, None) { Self::of(None, &[], column, (steps, documents), forced) } else { Ok(None) }
    }

    /// The positive that needs no test.
    pub(super) fn child(&self) -> Option<usize> {
        self.child
    }

    fn of(
        child: Option<usize>,
        terms: &[Operand<'s>],
        column: ColumnView<'s>,
        (steps, ids): (f64, u64),
        forced: bool,
    ) -> Result<Option<Self>> {
        let mut led = Self { child, lists: SmallVec::new(), few: SmallVec::new(), ids: 0, steps };
        let of: SmallVec<[Option<&Operand<'s>>; TERMS]> = match child {
            Some(_) => terms.iter().map(Some).collect(),
            None => SmallVec::from_elem(None, 1),
        };
        for (term, of) in of.into_iter().enumerate() {
            for (position, lead) in column.leads(of)?.into_iter().enumerate() {
                match lead {
                    Lead::Nothing => {}
                    Lead::NoList => return Ok(None),
                    Lead::Few(ids) => {
                        led.ids += ids;
                        led.few.push(position);
                    }
                    Lead::List(list) => {
                        let needed = steps * list.of() as f64 / ids.max(1) as f64;
                        if needed > list.len() as f64 * PART_MOST && !forced {
                            return Ok(None);
                        }
                        led.lists.push((term, list));
                    }
                }
            }
        }
        led.few.sort_unstable();
        led.few.dedup();
        // Segments whose blocks are gone through whole need no list of another term.
        let few = &led.few;
        led.lists.retain(|(_, list)| few.binary_search(&list.position()).is_err());
        Ok((!led.lists.is_empty()).then_some(led))
    }

    /// A positive was taken out.
    pub(super) fn without(&mut self, positive: usize) {
        self.child = self.child.map(|child| child - usize::from(positive < child));
    }

    /// How many lists there are.
    pub(super) fn len(&self) -> usize {
        self.lists.len()
    }

    /// `None` where lists do not hold enough, or it takes more than so many `steps`: then nothing is known. `share`: see
    /// [`skim::share`](super::skim::share).
    pub(super) fn run(
        &self,
        matcher: &mut Matcher<'s>,
        asked: Asked<'_, 's>,
        column: ColumnView<'s>,
        (share, documents): (f64, u64),
        steps: usize,
    ) -> Result<Option<Vec<u32>>> {
        if let (Some((trace, _)), Some(child)) = (&matcher.trace, self.positive(matcher)) {
            trace.lies(child.step, "first in order");
        }
        let mut best = Best::new(asked.sorter, asked.after, asked.want);
        let codes = asked.spared_first(matcher, column, &mut best)?;
        let few = |number: &u16| column.segment_of(*number).is_some_and(|it| self.few.binary_search(&it).is_ok());
        let mut hidden = Hidden::default();
        for number in asked.blocks.iter().filter(|number| few(number)) {
            whole(matcher, &mut hidden, column, *number, codes, &mut best)?;
        }
        let mut probes = Probes::granted(self.child);
        let length = (self.steps / self.lists.len().max(1) as f64) as usize / 2;
        let length = length.clamp(RUN_LEAST, RUN);
        let mut way = Way { led: self, column, codes, length, steps, probes: &mut probes };
        let has_layers = way.has_layers(matcher);
        let blocks = || asked.blocks.iter().filter(|number| !few(number));
        let mut floor = u64::MAX;
        if has_layers {
            let most = (share * documents as f64) as usize;
            floor = column.reached_by(share.min(1.0))?.unwrap_or(0).max(codes.first);
            floor = way.layers(matcher, blocks(), (floor, u64::MAX), most, &mut best)?;
        }
        let enough = way.lists(matcher, &mut best)?;
        if has_layers && enough {
            let (least, ..) = best.codes();
            let least = least.max(codes.first);
            if least < floor {
                way.layers(matcher, blocks(), (least, floor - 1), usize::MAX, &mut best)?;
            }
        }
        probes.leave(matcher);
        Ok(enough.then(|| best.finish()))
    }

    fn positive<'m>(&self, matcher: &'m Matcher<'s>) -> Option<&'m Child<'s>> {
        matcher.root.positives.get(self.child?)
    }
}

/// All of a block.
fn whole<'s>(
    matcher: &mut Matcher<'s>,
    hidden: &mut Hidden<'s>,
    column: ColumnView<'s>,
    number: u16,
    codes: Codes,
    best: &mut Best<'_, '_>,
) -> Result<()> {
    let reader = column.reader(number)?;
    if let Some(listed) = matcher.listed(number, LISTED)? {
        listed.fetch_with(&reader, best.is_full());
        return push_listed(matcher, hidden, (number, &reader), codes, &listed, best);
    }
    let mut set = matcher.pool.set();
    matcher.evaluate(number, &mut set)?;
    if !set.is_empty() {
        push_each(matcher, hidden, (number, &reader), codes, &set, best)?;
    }
    matcher.pool.put_set(set);
    Ok(())
}

/// The terms whose ids are those of a node.
fn terms<'n, 's>(node: &'n Node<'s>) -> &'n [Operand<'s>] {
    match node {
        Node::Term(operand) => std::slice::from_ref(&**operand),
        Node::Union(union) => &union.terms,
        _ => &[],
    }
}

struct Way<'r, 's> {
    led: &'r Led<'s>,
    column: ColumnView<'s>,
    codes: Codes,
    /// Ids that are looked at together.
    length: usize,
    /// That are left.
    steps: usize,
    probes: &'r mut Probes<'s>,
}

impl<'s> Way<'_, 's> {
    /// Pushes the first ids of all lists. Whether none of the others comes before the last row, as far as is known.
    fn lists(&mut self, matcher: &mut Matcher<'s>, best: &mut Best<'_, '_>) -> Result<bool> {
        let lists = &self.led.lists;
        let firsts = lists.iter().map(|(_, list)| list.id(0)).collect::<Result<SmallVec<[Option<u32>; 16]>>>()?;
        for ((_, list), id) in lists.iter().zip(&firsts) {
            id.iter().for_each(|id| list.fetch(*id));
        }
        // The code of the next id of a list, which list, and the id's place there.
        let mut heads: BinaryHeap<(u64, usize, usize)> = BinaryHeap::with_capacity(lists.len());
        let mut ends: SmallVec<[(u64, u32); 16]> = SmallVec::new();
        for (n, ((_, list), id)) in lists.iter().zip(firsts).enumerate() {
            match id {
                Some(id) => heads.push((list.code(id)?, n, 0)),
                None => ends.extend(list.end()?),
            }
        }
        let mut last: SmallVec<[Option<(u64, u32)>; 16]> = SmallVec::from_elem(None, lists.len());
        while let Some((code, n, at)) = heads.pop() {
            if best.is_beyond(Some(code)) || code < self.codes.first {
                break;
            }
            let (Some((term, list)), Some(last)) = (lists.get(n), last.get_mut(n)) else { continue };
            if self.steps == 0 {
                return Ok(false);
            }
            self.steps = self.steps.saturating_sub(self.length);
            match self.some(matcher, (*term, list), at, last, best)? {
                Some(code) => heads.push((code, n, at + self.length)),
                None => ends.extend(list.end()?),
            }
            if !best.is_full() && best.has_enough() {
                best.tighten();
            }
        }
        best.tighten();
        // All others have codes that do not pass, or come later.
        let is_behind = |(code, id): &(u64, u32)| *code < self.codes.first || best.is_behind(*code, *id);
        // Of rows without a code, any may come first.
        let (.., may_be_missing) = best.codes();
        Ok((!may_be_missing || !self.codes.missing) && ends.iter().all(is_behind))
    }

    /// Pushes some ids of a list. Answers with the code of the one behind them; `None`: there is none.
    fn some(
        &mut self,
        matcher: &mut Matcher<'s>,
        (term, list): (usize, &LeadList<'s>),
        from: usize,
        last: &mut Option<(u64, u32)>,
        best: &mut Best<'_, '_>,
    ) -> Result<Option<u64>> {
        watch::steps(self.length as u32)?;
        let mut left: SmallVec<[(Option<u64>, u32); RUN + 1]> = SmallVec::new();
        // And the one behind them.
        list.each(from, self.length + 1, |id| {
            list.fetch(id);
            left.push((None, id));
        })?;
        let next = if left.len() > self.length { left.pop() } else { None };
        if let Some((trace, _)) = &matcher.trace {
            trace.run(|run| run.walked += left.len() as u64);
        }
        let mut at = 0;
        for n in 0..left.len() {
            let id = left[n].1;
            let code = list.code(id)?;
            if last.replace((code, id)).is_some_and(|last| (code, id) >= last) {
                return Err(list.damaged("ids are not listed in their order"));
            }
            let code = Some(code);
            if self.codes.pass(code) && best.may_enter(code, id) && !self.column.is_overridden(id)? {
                left[at] = (code, id);
                at += 1;
            }
        }
        left.truncate(at);
        self.passing(matcher, &mut left, (term, Some(list.position())), best)?;
        next.map(|(_, next)| list.code(next)).transpose()
    }

    /// Pushes of some ids, each with its code, those that pass and that the base does not have in the set of a term before
    /// this one. All are of the segment at a position; `None`: no file has them.
    fn passing(
        &mut self,
        matcher: &mut Matcher<'s>,
        ids: &mut [(Option<u64>, u32)],
        (term, position): (usize, Option<usize>),
        best: &mut Best<'_, '_>,
    ) -> Result<()> {
        let hidden = matcher.hidden.as_ref().zip(position);
        let hidden = hidden.and_then(|(hidden, position)| hidden.column.of_segment(position));
        let mut entering = 0;
        for n in 0..ids.len() {
            let (code, id) = ids[n];
            if best.may_enter(code, id) {
                self.probes.fetch(matcher, id)?;
                ids[entering] = (code, id);
                entering += 1;
            }
        }
        let mut passing = 0;
        for n in 0..entering {
            let (code, id) = ids[n];
            if !self.is_of_term_before(matcher, term, id)? && self.probes.contains(matcher, id)? {
                hidden.iter().for_each(|codes| codes.fetch(id));
                ids[passing] = (code, id);
                passing += 1;
            }
        }
        for (code, id) in ids.iter().take(passing).copied() {
            best.push(code, id, || Ok(!hidden::contains(matcher, id)?))?;
        }
        Ok(())
    }

    /// Whether the base has an id in the set of a term before this one, whose list has it too then.
    fn is_of_term_before(&self, matcher: &Matcher<'s>, term: usize, id: u32) -> Result<bool> {
        any(self.terms(matcher).get(..term).unwrap_or_default(), |operand| operand.base_contains(id))
    }

    fn terms<'m>(&self, matcher: &'m Matcher<'s>) -> &'m [Operand<'s>] {
        self.led.positive(matcher).map_or(&[], |child| terms(&child.node))
    }

    fn has_layers(&self, matcher: &Matcher<'s>) -> bool {
        !self.column.is_of_base() || self.terms(matcher).iter().any(|operand| !operand.is_all_of_base())
    }

    /// Pushes the ids that have a code from `least` to `most`, or came into a set with one such, by what layers above the
    /// base say; or from a greater code on, where these have more than about `ids` of them. Answers from which.
    fn layers<'b>(
        &mut self,
        matcher: &mut Matcher<'s>,
        blocks: impl Iterator<Item = &'b u16>,
        (mut least, most): (u64, u64),
        ids: usize,
        best: &mut Best<'_, '_>,
    ) -> Result<u64> {
        least = self.column.raised(least, ids)?;
        let (mut said, mut ids) = (Said::default(), Vec::new());
        let (mut buffer, mut room) = (matcher.pool.buffer(), matcher.pool.buffer());
        for number in blocks {
            watch::step()?;
            let reader = self.column.reader(*number)?;
            ids.clear();
            let terms = self.terms(matcher);
            if terms.is_empty() {
                reader.each_reaching(least, &mut ids);
            }
            for term in terms.iter().filter(|_| !reader.is_plain()) {
                reader.each_reaching_of(term.block(*number, &mut buffer)?, least, &mut room, &mut ids);
            }
            for term in terms.iter().filter(|term| !term.is_of_base(*number)) {
                term.each_added(*number, |id| {
                    if !reader.is_overridden(id) {
                        ids.push(id);
                    }
                })?;
            }
            ids.sort_unstable();
            ids.dedup();
            said.push(*number, reader, &ids);
        }
        matcher.pool.put_buffer(buffer);
        matcher.pool.put_buffer(room);
        let mut left = Vec::new();
        said.fetch(0);
        for (n, of_block) in said.blocks.iter().enumerate() {
            said.fetch(n + 1);
            watch::steps(of_block.range.len() as u32)?;
            let SaidOfBlock { number, reader, .. } = of_block;
            for within in said.of(of_block).iter().copied() {
                let (id, code) = (id_of(*number, within), reader.get(within));
                let is_listed = |operand: &Operand<'s>| operand.base_contains(id);
                let is_meant = code.is_some_and(|code| least <= code && code <= most);
                if !is_meant || !self.codes.pass(code) || !best.may_enter(code, id) {
                    continue;
                }
                // Then it was come to.
                if !reader.is_overridden(within) && any(self.terms(matcher), is_listed)? {
                    continue;
                }
                left.push((code, id));
            }
            let segment = self.column.segment_of(*number);
            let next = said.blocks.get(n + 1).map(|next| self.column.segment_of(next.number));
            // Few of a block are waited for with those of others.
            if left.len() >= TOGETHER || next != Some(segment) {
                for some in left.chunks_mut(TOGETHER) {
                    self.passing(matcher, some, (0, segment), best)?;
                }
                left.clear();
            }
        }
        best.tighten();
        Ok(least)
    }
}

/// Ids of which layers above the base say something.
#[derive(Debug, Default)]
struct Said<'s> {
    blocks: Vec<SaidOfBlock<'s>>,
    ids: Vec<u16>,
}

#[derive(Debug)]
struct SaidOfBlock<'s> {
    number: u16,
    reader: CodeReader<'s>,
    range: Range<usize>,
}

impl<'s> Said<'s> {
    /// `ids`: of a block, ascending.
    fn push(&mut self, number: u16, reader: CodeReader<'s>, ids: &[u16]) {
        if !ids.is_empty() {
            let from = self.ids.len();
            self.ids.extend_from_slice(ids);
            self.blocks.push(SaidOfBlock { number, reader, range: from..self.ids.len() });
        }
    }

    fn of(&self, block: &SaidOfBlock<'s>) -> &[u16] {
        self.ids.get(block.range.clone()).unwrap_or_default()
    }

    /// Asks for the codes of the ids of the n-th block, and for where those of the one behind it stand.
    fn fetch(&self, n: usize) {
        if n == 0 {
            self.blocks.first().into_iter().for_each(|block| block.reader.fetch_places(self.of(block)));
        }
        self.blocks.get(n).into_iter().for_each(|block| block.reader.fetch_said_codes(self.of(block)));
        self.blocks.get(n + 1).into_iter().for_each(|block| block.reader.fetch_places(self.of(block)));
    }
}

fn any<'s>(operands: &[Operand<'s>], mut is_one: impl FnMut(&Operand<'s>) -> Result<bool>) -> Result<bool> {
    for operand in operands {
        if is_one(operand)? {
            return Ok(true);
        }
    }
    Ok(false)
}
