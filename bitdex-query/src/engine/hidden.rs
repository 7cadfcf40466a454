//! What is hidden at a clock: documents whose `visible_at` is later.

use bitdex_proto::{schema::FieldId, value::Value};
use smallvec::SmallVec;

use super::{
    by_block::ByBlock,
    codes::ColumnTest,
    evaluate::{Matcher, block_of, within_block},
};
use crate::{
    log::Result,
    segment::value::ValueRef,
    state::{CodeReader, State},
};

/// Looks at what is hidden of many ids: where a block's codes lie is sought once.
#[derive(Debug, Default)]
pub(super) struct Hidden<'s>(ByBlock<CodeReader<'s>>);

impl<'s> Hidden<'s> {
    #[inline]
    pub(super) fn contains(&mut self, matcher: &Matcher<'s>, id: u32) -> Result<bool> {
        matcher.hidden.as_ref().map_or(Ok(false), |hidden| self.look(matcher, hidden, id))
    }

    fn look(&mut self, matcher: &Matcher<'s>, hidden: &ColumnTest<'s>, id: u32) -> Result<bool> {
        let number = block_of(id);
        if self.0.get(number).is_none() {
            self.0.insert(number, hidden.column.reader(number)?);
        }
        let code = self.0.get(number).and_then(|codes| codes.get(within_block(id)));
        is_hidden(matcher, hidden, code, id)
    }
}

/// As [`Hidden::contains`], of ids hardly two of which are of one block.
pub(super) fn contains(matcher: &Matcher<'_>, id: u32) -> Result<bool> {
    match &matcher.hidden {
        Some(hidden) => is_hidden(matcher, hidden, hidden.column.get(id)?, id),
        None => Ok(false),
    }
}

fn is_hidden(matcher: &Matcher<'_>, hidden: &ColumnTest<'_>, code: Option<u64>, id: u32) -> Result<bool> {
    let is_hidden = || code.map_or(Ok(false), |code| hidden.passes(code, id));
    match &matcher.trace {
        None => is_hidden(),
        Some((trace, step)) => trace.passes(*step, || Ok(!is_hidden()?)).map(|passes| !passes),
    }
}

/// What of a field's codes shows.
#[derive(Debug, Clone)]
pub(super) struct Shown {
    /// Documents with a greater code are hidden,
    pub(super) most: u64,
    /// but for these, ascending.
    pub(super) spared: SmallVec<[u32; 4]>,
}

impl Shown {
    pub(super) const ALL: Self = Self { most: u64::MAX, spared: SmallVec::new_const() };
}

/// What shows of a field that tells; `None` where it does not.
///
/// It does where it is `visible_at` itself, and where it is the greatest of that and of others that are hardly ever later
/// than the clock. A document without a value in it has no `visible_at` either, and shows.
pub(super) fn shown(state: &State, field: FieldId, now_us: i64) -> Result<Option<Shown>> {
    let schema = state.schema();
    let Some(visible) = schema.visible_at else { return Ok(None) };
    let most = ValueRef::of(&Value::Int(now_us)).code();
    if field == visible {
        return Ok(Some(Shown { most, spared: SmallVec::new() }));
    }
    if !state.follows_visible_at(field) {
        return Ok(None);
    }
    let (Some(column), Some(visible_at)) = (state.column(field), state.column(visible)) else { return Ok(None) };
    Ok(column.ahead(&visible_at, most)?.map(|mut spared| {
        spared.sort_unstable();
        spared.dedup();
        Shown { most, spared }
    }))
}
