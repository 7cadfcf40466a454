//! Answers to requests: pure functions over one [`State`].
//!
//! A filter is bound to the schema ([`filter`]) and resolved against the version ([`tree`]); the ids of a block that
//! pass it are made from the blocks of its operands, where they lie ([`evaluate`], [`codes`]), or single ids are tested
//! ([`probe`]). A page is taken in the total order of [`order`], by one of several plans ([`plan`]) that give the same
//! rows: [`walk`] or [`lead`], which give up where they take longer than was thought, [`gather`], or [`skim`]. Where the
//! field that is sorted by or tested tells what is [`hidden`], that is not looked at for itself. [`explain`] tells what a
//! query did, which it writes into a [`trace`].

mod best;
mod by_block;
mod cells;
mod changed;
mod codes;
mod distinct;
mod evaluate;
mod explain;
mod facets;
mod few;
mod filter;
mod fused;
mod gather;
mod hidden;
mod in_order;
mod lead;
mod named;
mod order;
mod plan;
mod probe;
mod set;
mod skim;
#[cfg(test)]
mod tests;
mod trace;
mod tree;
mod valued;
mod walk;
mod watch;

pub use explain::{Considered, Explained, ExplainedRun, ExplainedStep, explain};
pub use facets::{FacetValues, Facets, facet};
pub(crate) use named::NamedFilters;
pub use plan::Plan;
pub use watch::{Stopped, Watch, watched};

use std::{ops::Bound, rc::Rc};

use bitdex_proto::{
    Error, Result,
    query::{CountRequest, Fields, Filter, GetRequest, SearchRequest},
    schema::{FieldId, Schema},
    token::{PageCursor, encode_page_cursor},
    value::{FieldValue, Value},
};
use bytes::Bytes;
use smallvec::SmallVec;

use self::{
    evaluate::{Matcher, Pool},
    filter::Test,
    hidden::Shown,
    order::{After, Order, Sorter},
    plan::{Asked, Estimates, Lists},
    trace::Trace,
    tree::Resolver,
    walk::Walk,
};
use crate::state::State;

/// One page of a search.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    pub ids: Vec<u32>,
    pub fields: Vec<FieldId>,
    /// One for each id, in the order of `fields`; empty where no fields were asked for.
    pub rows: Vec<Vec<FieldValue>>,
    /// Where more rows follow.
    pub next_cursor: Option<Bytes>,
    /// All matches, where asked for.
    pub count: Option<Counted>,
    /// The clock that the answer used: the first page's where a cursor was given.
    pub now_us: i64,
}

/// A number of matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    pub count: u64,
    /// There are at least so many: counting ended there.
    pub is_lower_bound: bool,
}

/// Answer of [`get`].
#[derive(Debug, Clone, PartialEq)]
pub struct Documents {
    pub ids: Vec<u32>,
    pub fields: Vec<FieldId>,
    /// One for each id, in the order of `fields`.
    pub rows: Vec<Vec<FieldValue>>,
}

/// How a query is run.
#[derive(Debug, Clone, Copy, Default)]
struct How<'t> {
    /// `None`: by the plan that is thought to be the cheapest.
    plan: Option<Plan>,
    trace: Option<&'t Rc<Trace>>,
}

/// One page of the matches. The clock is the cursor's (that of the first page), else the request's own, else `now_us`
/// (microseconds since 1970 UTC).
pub fn search(state: &State, request: &SearchRequest, now_us: i64) -> Result<Page> {
    search_how(state, request, now_us, How::default())
}

/// As [`search`], by a given plan, whatever it costs.
pub fn search_by(state: &State, request: &SearchRequest, now_us: i64, plan: Plan) -> Result<Page> {
    search_how(state, request, now_us, How { plan: Some(plan), trace: None })
}

fn search_how(state: &State, request: &SearchRequest, now_us: i64, how: How<'_>) -> Result<Page> {
    let schema = state.schema();
    check_index(schema, &request.index)?;
    request.validate()?;
    let order = Order::resolve(&request.sort, schema)?;
    let fields = request.fields.resolve(schema)?;
    let distinct = request.distinct.as_ref().map(|name| distinct::resolve(name, schema)).transpose()?;
    let cursor = order::read_cursor(state, request)?;
    let now_us = cursor.as_ref().map_or(request.now_us.unwrap_or(now_us), |cursor| cursor.now_us);
    let after = cursor.as_ref().map(|cursor| After::read(cursor, &order, schema)).transpose()?;

    let filter = filter::bind(request.filter.as_ref(), schema, Some(now_us))?;
    let shown_at = (!request.include_pending).then_some(now_us);
    let count = match (request.count, request.count_up_to) {
        (true, _) => Some(count_matches(state, &filter, shown_at, None, how)?),
        (false, Some(up_to)) => Some(count_matches(state, &filter, shown_at, Some(up_to), how)?),
        (false, None) => None,
    };
    let limit = request.limit as usize;
    // One more than asked for tells whether another page follows.
    let mut ids = match distinct {
        Some(field) => {
            let rows = |filter: &filter::Node, after: Option<&After>, want: usize| {
                page(state, &mut matcher(state, filter, shown_at, how)?, &order, after, want, how)
            };
            distinct::distinct(state, &filter, &order, after.as_ref(), limit + 1, field, rows)?
        }
        None => {
            let mut matcher = matcher(state, &filter, shown_at, how)?;
            page(state, &mut matcher, &order, after.as_ref(), limit + 1, how)?
        }
    };
    let more = ids.len() > limit;
    ids.truncate(limit);

    let next_cursor = match ids.last() {
        Some(last) if more => Some(encode_page_cursor(PageCursor {
            version: 0,
            store: state.store().into(),
            generation: state.generation(),
            sequence: cursor.as_ref().map_or(state.sequence(), |first| first.sequence),
            now_us,
            query: Bytes::copy_from_slice(&request.identity(schema)?),
            after: order.after(state, *last)?,
            after_id: *last,
            check: Bytes::new(),
        })),
        _ => None,
    };
    let mut rows = Vec::new();
    if !fields.is_empty() {
        rows.reserve(ids.len());
        state.document_reader(&fields).each(&ids, |id, row| {
            rows.push(row.ok_or_else(|| order::gone(id))?);
            Ok::<_, Error>(())
        })?;
    }
    Ok(Page { ids, fields, rows, next_cursor, count, now_us })
}

/// A filter, and what is hidden at a clock; `None`: nothing is hidden.
fn matcher<'s>(state: &'s State, filter: &'s filter::Node, now_us: Option<i64>, how: How<'_>) -> Result<Matcher<'s>> {
    if let Some(trace) = how.trace {
        trace.begin();
    }
    let resolver = Resolver::new(state, how.trace.map(|trace| &**trace));
    let mut root = resolver.root(filter)?;
    let mut hidden = match (state.schema().visible_at, now_us) {
        (Some(field), Some(now_us)) => {
            resolver.column(field, &Test::Range((Bound::Excluded(Value::Int(now_us)), Bound::Unbounded)))?
        }
        _ => None,
    };
    hidden = hidden.filter(|test| !test.ranges.is_empty());
    if hidden.is_some()
        && let Some(now_us) = now_us
    {
        // A test that lets no hidden document pass makes up for the other.
        let tested: SmallVec<[FieldId; 4]> = root.tested().collect();
        for field in tested {
            if let Some(shown) = hidden::shown(state, field, now_us)?
                && shown.spared.is_empty()
                && root.cap(field, shown.most)
            {
                hidden = None;
                if let Some(trace) = how.trace {
                    let name = &state.schema().fields[field].name;
                    trace.run(|run| run.hidden = Some(format!("the filter's test of {name} keeps them out")));
                }
            }
        }
    }
    let trace = how.trace.map(|trace| {
        trace.resolved(&root);
        let Some(hidden) = &hidden else { return (Rc::clone(trace), 0) };
        let test = trace::told(state.schema(), hidden.field, &hidden.test);
        trace.run(|run| run.hidden = Some(format!("tested by themselves: {test}")));
        let step = trace.step(test, "codes", hidden.estimate().unwrap_or_default(), Vec::new());
        trace.exclusion(step);
        (Rc::clone(trace), step)
    });
    Ok(Matcher { root, hidden, now_us, pool: Pool::of_thread(), trace })
}

/// The first `want` rows behind `after`.
fn page<'s>(
    state: &'s State,
    matcher: &mut Matcher<'s>,
    order: &Order,
    after: Option<&After>,
    want: usize,
    how: How<'_>,
) -> Result<Vec<u32>> {
    let sorter = Sorter::new(state, order)?;
    let all = state.blocks();
    let blocks = matcher.root.blocks(&all)?;
    if let Some(trace) = how.trace {
        trace.run(|run| run.plan = "page: nothing can match".into());
        trace.planned((all.len(), blocks.len()));
    }
    if blocks.is_empty() {
        return Ok(Vec::new());
    }
    let first = order.first();
    let mut shown = Shown::ALL;
    if let (Some(now_us), true) = (matcher.now_us, matcher.hidden.is_some())
        && let Some(by_code) = hidden::shown(state, first.field, now_us)?
    {
        shown = by_code;
        matcher.hidden = None;
        if let Some(trace) = how.trace {
            let (name, spared) = (&state.schema().fields[first.field].name, shown.spared.len());
            trace.run(|run| run.hidden = Some(format!("the codes of {name} tell them, but for {spared} documents")));
        }
    }
    let range = matcher.root.range(first.field);
    let asked = Asked { sorter: &sorter, range, shown: &shown, blocks: &blocks, after, want };
    let (estimates, mut lists) = Estimates::new(&matcher.root, &asked, state.documents(), how.plan)?;
    if let Some(trace) = how.trace {
        trace.run(|run| run.estimates = Some(estimates));
    }
    let plan = how.plan.unwrap_or_else(|| estimates.pick());
    let told = |plan: &str| {
        if let Some(trace) = how.trace {
            let name = &state.schema().fields[first.field].name;
            let way = if first.descending { "downwards" } else { "upwards" };
            trace.run(|run| run.plan = format!("page: {plan} by {name} {way}"));
        }
    };
    if let Some(trace) = how.trace {
        trace.planned((all.len(), blocks.len()));
    }
    let resolver = Resolver::new(state, how.trace.map(|trace| &**trace));
    // Codes are read in their order, or compared, anyhow.
    let taken = match sorter.first() {
        Some(_) => matcher.root.take_range(first.field, resolver)?,
        None => None,
    };
    if let Some((at, step)) = taken {
        if let Some(Lists::ByCode(led)) = &mut lists {
            led.without(at);
        }
        if let Some(trace) = how.trace {
            trace.lies(step, "ends of the order");
        }
    }
    let mut by_blocks = plan;
    let mut given_up = "";
    if plan == Plan::Lead {
        if let (Some(lists), Some(column)) = (lists, sorter.first()) {
            told("lead");
            let steps = how.plan.map_or_else(|| estimates.patience(plan), |_| usize::MAX);
            let found = match lists {
                Lists::ByCode(led) => led.run(matcher, asked, column, (estimates.share, state.documents()), steps)?,
                Lists::InOrder(lists) => lists.run(matcher, asked, column, steps)?,
            };
            if let Some(found) = found {
                ended(how, found.len());
                return Ok(found);
            }
            given_up = "lead, given up, then ";
        }
        by_blocks = estimates.pick_by_blocks();
    }
    if let (Plan::Walk, Some(column)) = (plan, sorter.first()) {
        told("walk");
        let steps = how.plan.map_or_else(|| estimates.patience(plan), |_| usize::MAX);
        let walk = Walk { asked, column, steps };
        let found = walk.run(matcher, |matcher| {
            let exists = resolver.exists(first.field)?;
            if let Some(trace) = how.trace {
                trace.exclusion(exists.step);
            }
            matcher.root.negatives.push(exists);
            matcher.root.blocks(&all)
        })?;
        if let Some(found) = found {
            ended(how, found.len());
            return Ok(found);
        }
        given_up = "walk, given up, then ";
        by_blocks = estimates.pick_by_blocks();
    }
    if by_blocks == Plan::Skim {
        told(&format!("{given_up}skim"));
        if let Some(found) = skim::skim(matcher, asked, estimates.share, state.documents())? {
            ended(how, found.len());
            return Ok(found);
        }
        given_up = "skim, given up, then ";
    }
    told(&format!("{given_up}gather"));
    let found = gather::gather(matcher, asked)?;
    ended(how, found.len());
    Ok(found)
}

/// A run found so many rows.
fn ended(how: How<'_>, rows: usize) {
    if let Some(trace) = how.trace {
        trace.run(|run| run.rows = rows as u64);
    }
}

/// `up_to`: counting ends with the block in which so many are reached.
fn count_matches(
    state: &State,
    filter: &filter::Node,
    now_us: Option<i64>,
    up_to: Option<u64>,
    how: How<'_>,
) -> Result<Counted> {
    let mut matcher = matcher(state, filter, now_us, how)?;
    let all = state.blocks();
    let blocks = matcher.root.blocks(&all)?;
    if let Some(trace) = how.trace {
        let how =
            if matcher.root.is_told() { "count, by cells; its steps block by block" } else { "count, block by block" };
        trace.run(|run| run.plan = how.into());
        trace.planned((all.len(), blocks.len()));
    }
    let mut counted = Counted { count: 0, is_lower_bound: false };
    match up_to {
        None => counted.count = matcher.count(&blocks)?,
        Some(up_to) => {
            for number in &blocks {
                if counted.count >= up_to {
                    counted.is_lower_bound = true;
                    break;
                }
                counted.count += matcher.count(std::slice::from_ref(number))?;
            }
        }
    }
    ended(how, counted.count as usize);
    Ok(counted)
}

/// The version that the request's cursor demands: wait for it before calling [`search`]. `None` without a cursor.
pub fn cursor_sequence(state: &State, request: &SearchRequest) -> Result<Option<u64>> {
    check_index(state.schema(), &request.index)?;
    Ok(order::read_cursor(state, request)?.map(|cursor| cursor.sequence))
}

/// Documents by id, in the order asked for and as often; what is absent or pending is left out. No fields named means
/// all.
pub fn get(state: &State, request: &GetRequest, now_us: i64) -> Result<Documents> {
    let schema = state.schema();
    check_index(schema, &request.index)?;
    request.validate()?;
    let fields = match &request.fields {
        Fields::None => Fields::All.resolve(schema)?,
        fields => fields.resolve(schema)?,
    };
    let now_us = request.now_us.unwrap_or(now_us);
    // Read behind all fields, where it matters.
    let visible_at = schema.visible_at.filter(|_| !request.include_pending);
    let read: Vec<FieldId> = fields.iter().copied().chain(visible_at).collect();
    let mut found = Documents { ids: Vec::new(), fields, rows: Vec::new() };
    state.document_reader(&read).each(&request.ids, |id, row| {
        let Some(mut row) = row else { return Ok(()) };
        let visible_at = visible_at.and_then(|_| row.pop());
        if !matches!(visible_at, Some(FieldValue::One(Value::Int(at))) if at > now_us) {
            found.ids.push(id);
            found.rows.push(row);
        }
        Ok::<_, Error>(())
    })?;
    Ok(found)
}

/// Number of matches.
pub fn count(state: &State, request: &CountRequest, now_us: i64) -> Result<Counted> {
    count_how(state, request, now_us, How::default())
}

fn count_how(state: &State, request: &CountRequest, now_us: i64, how: How<'_>) -> Result<Counted> {
    check_index(state.schema(), &request.index)?;
    request.validate()?;
    let now_us = request.now_us.unwrap_or(now_us);
    let filter = filter::bind(request.filter.as_ref(), state.schema(), Some(now_us))?;
    count_matches(state, &filter, (!request.include_pending).then_some(now_us), request.up_to, how)
}

/// Calls `each` with every match of a filter without relative times, pending documents included, ascending.
pub(crate) fn matching(state: &State, filter: &Filter, each: &mut dyn FnMut(u32) -> Result<()>) -> Result<()> {
    let filter = filter::bind(Some(filter), state.schema(), None)?;
    let mut matcher = matcher(state, &filter, None, How::default())?;
    let blocks = matcher.root.blocks(&state.blocks())?;
    matcher.each(&blocks, each)
}

fn check_index(schema: &Schema, index: &str) -> Result<()> {
    if index == schema.index {
        Ok(())
    } else {
        Err(Error::NotFound(format!("index {index:?} is not served here: this process serves {:?}", schema.index)))
    }
}
