//! The most frequent values of a field among the matches: exact counts.
//!
//! The matches are evaluated once, for all facets. Then, of a field with sets, each value's set is counted against them,
//! but only where it is large enough to come among the first; or, where matches are few, their values are read from
//! their documents. Of a field with a column, the codes of the matches are gathered and sorted; where there are many, the
//! column is walked, in which equal codes lie side by side. Codes of texts tell only how they begin: documents are read
//! of those that are frequent enough to come among the first.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
};

use bitdex_proto::{
    Result,
    query::FacetRequest,
    schema::{FieldId, KEY_FIELD},
    value::Value,
};

use super::{
    How, check_index,
    evaluate::{Matcher, block_of, id_of, within_block},
    filter, matcher,
    set::{Set, each_id},
    watch,
};
use crate::{
    log,
    segment::{
        sets::and_len,
        value::{self, Term, ValueRef},
    },
    state::{ColumnView, State},
};

/// Values whose sets are counted together, the largest first.
const CANDIDATES: usize = 4096;
/// Matches of which codes are gathered, 8 bytes each; of more, the column is walked.
const GATHERED_MOST: u64 = 1 << 20;

/// What the ways cost, in nanoseconds.
mod cost {
    /// Reading a value from a document.
    pub(super) const DOCUMENT: u64 = 1_000;
    /// Coming to a value that has a set, with a part of them being counted.
    pub(super) const TERM: u64 = 200;
}

/// Answer of [`facet`].
#[derive(Debug, Clone, PartialEq)]
pub struct Facets {
    /// In the order of the request.
    pub facets: Vec<FacetValues>,
    /// All matches.
    pub count: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct FacetValues {
    pub field: FieldId,
    /// The most frequent first; of equally frequent ones the smallest.
    pub values: Vec<(Value, u64)>,
    /// Matches that have no value.
    pub nulls: u64,
}

/// A way to count. All give the same values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// The sets of a field's values.
    Sets,
    /// The documents of the matches.
    Documents,
    /// The codes of the matches.
    Codes,
    /// A whole column, in its order.
    Walk,
}

/// The most frequent values of the request's fields. The clock is the request's own, else `now_us`.
pub fn facet(state: &State, request: &FacetRequest, now_us: i64) -> Result<Facets> {
    facet_by(state, request, now_us, None)
}

/// By the given way where the field allows it, else by the one that is thought to be the cheapest.
pub(super) fn facet_by(state: &State, request: &FacetRequest, now_us: i64, way: Option<Way>) -> Result<Facets> {
    let schema = state.schema();
    check_index(schema, &request.index)?;
    request.validate()?;
    let fields = request.facets.iter().map(|facet| {
        let (id, field) = schema.field(&facet.field).ok_or_else(|| schema.unknown_field(&facet.field))?;
        if !field.filter {
            return Err(bitdex_proto::Error::invalid(format!(
                "field {} has no facets: the definition does not say `filter: true`",
                facet.field
            )));
        }
        Ok((id, facet.limit as usize))
    });
    let fields = fields.collect::<Result<Vec<_>>>()?;
    let now_us = request.now_us.unwrap_or(now_us);
    let filter = filter::bind(request.filter.as_ref(), schema, Some(now_us))?;
    let mut matcher = matcher(state, &filter, (!request.include_pending).then_some(now_us), How::default())?;
    let blocks = matcher.root.blocks(&state.blocks())?;
    let matches = Matches::new(state, &mut matcher, &blocks)?;
    let facets = fields.into_iter().map(|(field, limit)| Ok(matches.facet(field, limit, way)?));
    Ok(Facets { facets: facets.collect::<Result<_>>()?, count: matches.count })
}

/// The matches, whole.
struct Matches<'s> {
    state: &'s State,
    /// By number, ascending, none of them empty.
    blocks: Vec<(u16, Set)>,
    count: u64,
}

impl<'s> Matches<'s> {
    fn new(state: &'s State, matcher: &mut Matcher<'s>, numbers: &[u16]) -> log::Result<Self> {
        let mut blocks = Vec::with_capacity(numbers.len());
        let mut count = 0;
        let mut set = matcher.pool.set();
        for number in numbers {
            matcher.evaluate_shown(*number, &mut set)?;
            set.narrow();
            let ids = set.len();
            if ids > 0 {
                count += u64::from(ids);
                let next = matcher.pool.set();
                blocks.push((*number, std::mem::replace(&mut set, next)));
            }
        }
        matcher.pool.put_set(set);
        Ok(Self { state, blocks, count })
    }

    fn facet(&self, field: FieldId, limit: usize, way: Option<Way>) -> log::Result<FacetValues> {
        let mut top = Top::new(limit);
        if field == KEY_FIELD {
            // Each has its own.
            'ids: for (number, set) in &self.blocks {
                for within in set.as_block().iter() {
                    if top.values.len() == limit {
                        break 'ids;
                    }
                    top.push(Value::Int(id_of(*number, within).into()), 1);
                }
            }
            return Ok(FacetValues { field, values: top.finish(), nulls: 0 });
        }
        let nulls = self.count - self.common(field, Term::Exists)?;
        let column = self.state.column(field);
        let way = match (column, way) {
            (_, Some(Way::Documents)) => Way::Documents,
            (Some(_), Some(way @ (Way::Codes | Way::Walk))) => way,
            (Some(_), _) if self.count <= GATHERED_MOST => Way::Codes,
            (Some(_), _) => Way::Walk,
            (None, Some(Way::Sets)) => Way::Sets,
            (None, _) => {
                let sets = (self.state.terms_len(field) as u64).saturating_mul(cost::TERM);
                if self.count.saturating_mul(cost::DOCUMENT) < sets { Way::Documents } else { Way::Sets }
            }
        };
        match (way, column) {
            (Way::Sets, _) => self.by_sets(field, &mut top)?,
            (Way::Codes, Some(column)) if column.is_exact() => self.by_codes(field, column, &mut top)?,
            (Way::Codes, Some(column)) => self.by_beginnings(field, column, &mut top)?,
            (Way::Walk, Some(column)) => self.by_walk(field, column, &mut top)?,
            _ => self.by_documents(field, &mut top)?,
        }
        Ok(FacetValues { field, values: top.finish(), nulls })
    }

    /// Matches that are in the set of a term.
    fn common(&self, field: FieldId, term: Term<'_>) -> log::Result<u64> {
        let operand = self.state.operand(field, term)?;
        let numbers = operand.blocks();
        let mut buffer = Default::default();
        let mut matches = self.blocks.as_slice();
        let mut count = 0;
        for number in numbers {
            // Both ascend.
            let at = matches.partition_point(|(of, _)| *of < number);
            matches = matches.get(at..).unwrap_or_default();
            match matches.first() {
                Some((of, set)) if *of == number => {
                    count += u64::from(and_len(set.as_block(), operand.block(number, &mut buffer)?));
                }
                Some(_) => {}
                None => break,
            }
        }
        Ok(count)
    }

    fn by_sets(&self, field: FieldId, top: &mut Top) -> log::Result<()> {
        let mut terms = self.state.terms(field)?;
        let mut candidates: Vec<(u64, ValueRef<'_>)> = Vec::new();
        let mut more = true;
        while more {
            watch::step()?;
            match terms.next()? {
                Some((value, bound)) => {
                    let bound = bound.min(self.count);
                    if top.may_enter(bound, value) {
                        candidates.push((bound, value));
                    }
                }
                None => more = false,
            }
            if candidates.len() == CANDIDATES || !more {
                candidates.sort_unstable_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
                for (bound, value) in candidates.drain(..) {
                    if top.may_enter(bound, value) {
                        watch::step()?;
                        let count = self.common(field, Term::Value(value))?;
                        if top.may_enter(count, value) {
                            top.push(value.to_value(), count);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn by_documents(&self, field: FieldId, top: &mut Top) -> log::Result<()> {
        let mut counts = HashMap::new();
        for (number, set) in &self.blocks {
            each_id(set.as_block(), false, |within| {
                self.count_document(field, id_of(*number, within), &mut counts)?;
                Ok::<_, log::Error>(true)
            })?;
        }
        top.push_all(counts);
        Ok(())
    }

    /// Adds the values of a document to the counts.
    fn count_document(&self, field: FieldId, id: u32, counts: &mut HashMap<Value, u64>) -> log::Result<()> {
        watch::step()?;
        if let Some(document) = self.state.document(id)? {
            for value in document.value(field)?.values() {
                match counts.get_mut(value) {
                    Some(count) => *count += 1,
                    None => drop(counts.insert(value.clone(), 1)),
                }
            }
        }
        Ok(())
    }

    fn by_codes(&self, field: FieldId, column: ColumnView<'_>, top: &mut Top) -> log::Result<()> {
        let gathered = self.gather(column, |code, _| code)?;
        for equal in gathered.chunk_by(|a, b| a == b) {
            if let Some(code) = equal.first() {
                self.push_code(field, *code, equal.len() as u64, top);
            }
        }
        Ok(())
    }

    /// As [`Matches::by_codes`] where a code tells only how a value begins.
    fn by_beginnings(&self, field: FieldId, column: ColumnView<'_>, top: &mut Top) -> log::Result<()> {
        let gathered = self.gather(column, |code, id| (code, id))?;
        let mut runs: Vec<&[(u64, u32)]> = gathered.chunk_by(|a, b| a.0 == b.0).collect();
        // The more frequent ones leave less room for those that follow.
        runs.sort_by_key(|run| Reverse(run.len()));
        for run in runs {
            if let Some((code, _)) = run.first() {
                self.push_run(field, *code, run.iter().map(|(_, id)| *id), top)?;
            }
        }
        Ok(())
    }

    /// Something of the code and the id of each match that has a value, sorted.
    fn gather<T: Ord>(&self, column: ColumnView<'_>, of: impl Fn(u64, u32) -> T) -> log::Result<Vec<T>> {
        let mut gathered = Vec::new();
        for (number, set) in &self.blocks {
            watch::block()?;
            let codes = column.reader(*number)?;
            each_id(set.as_block(), false, |within| {
                gathered.extend(codes.get(within).map(|code| of(code, id_of(*number, within))));
                Ok::<_, log::Error>(true)
            })?;
        }
        gathered.sort_unstable();
        Ok(gathered)
    }

    fn by_walk(&self, field: FieldId, column: ColumnView<'_>, top: &mut Top) -> log::Result<()> {
        // By number, one more than the position; 0: no match is there.
        let mut places = vec![0_u32; usize::from(self.blocks.last().map_or(0, |(number, _)| *number)) + 1];
        for (at, (number, _)) in self.blocks.iter().enumerate() {
            if let Some(place) = places.get_mut(usize::from(*number)) {
                *place = at as u32 + 1;
            }
        }
        let exact = column.is_exact();
        let mut end_run = |code: u64, count: u64, ids: &mut Vec<u32>| {
            if exact {
                self.push_code(field, code, count, top);
                return Ok(());
            }
            self.push_run(field, code, ids.drain(..), top)
        };
        let mut walk = column.walk(false, None)?;
        let (mut run, mut ids) = (None, Vec::new());
        while let Some((code, id)) = walk.next()? {
            watch::step()?;
            let place = places.get(usize::from(block_of(id))).and_then(|place| place.checked_sub(1));
            let matches = place.and_then(|place| self.blocks.get(place as usize));
            if !matches.is_some_and(|(_, set)| set.contains(within_block(id))) {
                continue;
            }
            match &mut run {
                Some((of, count)) if *of == code => *count += 1,
                _ => {
                    if let Some((of, count)) = run.replace((code, 1)) {
                        end_run(of, count, &mut ids)?;
                    }
                }
            }
            if !exact {
                ids.push(id);
            }
        }
        if let Some((of, count)) = run {
            end_run(of, count, &mut ids)?;
        }
        Ok(())
    }

    /// The values of all matches of one code.
    fn push_run(
        &self,
        field: FieldId,
        code: u64,
        ids: impl ExactSizeIterator<Item = u32>,
        top: &mut Top,
    ) -> log::Result<()> {
        if !top.may_enter_by_code(ids.len() as u64, code) {
            return Ok(());
        }
        let mut counts = HashMap::new();
        for id in ids {
            self.count_document(field, id, &mut counts)?;
        }
        top.push_all(counts);
        Ok(())
    }

    fn push_code(&self, field: FieldId, code: u64, count: u64, top: &mut Top) {
        let ty = self.state.schema().fields.get(field).map(|field| field.ty);
        if let Some(value) = ty.and_then(|ty| value::decode(code, ty))
            && top.may_enter(count, ValueRef::of(&value))
        {
            top.push(value, count);
        }
    }
}

/// The first values so far.
struct Top {
    limit: usize,
    /// The last of them on top.
    values: BinaryHeap<Reverse<(u64, Reverse<Value>)>>,
}

impl Top {
    fn new(limit: usize) -> Self {
        Self { limit, values: BinaryHeap::new() }
    }

    /// Whether a value with at most so many ids may be among the first.
    fn may_enter(&self, count: u64, value: ValueRef<'_>) -> bool {
        match self.values.peek() {
            _ if count == 0 => false,
            Some(Reverse((least, Reverse(last)))) if self.values.len() >= self.limit => {
                count > *least || count == *least && value < ValueRef::of(last)
            }
            _ => true,
        }
    }

    /// As [`Top::may_enter`], of values of which only a code is known.
    fn may_enter_by_code(&self, count: u64, code: u64) -> bool {
        match self.values.peek() {
            Some(Reverse((least, Reverse(last)))) if self.values.len() >= self.limit => {
                count > *least || count == *least && code <= ValueRef::of(last).code()
            }
            _ => true,
        }
    }

    fn push_all(&mut self, counts: HashMap<Value, u64>) {
        for (value, count) in counts {
            if self.may_enter(count, ValueRef::of(&value)) {
                self.push(value, count);
            }
        }
    }

    fn push(&mut self, value: Value, count: u64) {
        self.values.push(Reverse((count, Reverse(value))));
        if self.values.len() > self.limit {
            self.values.pop();
        }
    }

    fn finish(self) -> Vec<(Value, u64)> {
        let values = self.values.into_sorted_vec();
        values.into_iter().map(|Reverse((count, Reverse(value)))| (value, count)).collect()
    }
}
