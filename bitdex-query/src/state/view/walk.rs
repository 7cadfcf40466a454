//! The ids of a column in its order, merged from all layers.

use std::{cmp::Reverse, collections::BinaryHeap, fmt};

use super::{
    super::layer::{LayerColumn, Order},
    ColumnView,
};
use crate::{
    log::Result,
    segment::columns::{Column, SparseColumn},
};

/// See [`ColumnView::walk`].
///
/// Each layer gives its ids in order; the smallest head is next, unless a layer above overrides it. Only the source in
/// use is outside the heap, so that a run out of one source costs one comparison an id.
pub(crate) struct Walk<'s> {
    view: ColumnView<'s>,
    /// All bits set to walk down: then the smallest key is the last in the ascending order.
    flip: u128,
    sources: Vec<Source<'s>>,
    heads: BinaryHeap<Reverse<(u128, usize)>>,
    current: Option<(u128, usize)>,
}

enum Source<'s> {
    Segment { column: &'s Column, ranks: Ranks },
    Checkpoint { column: &'s SparseColumn, ranks: Ranks },
    Frozen(Order<'s>),
    Active(Order<'s>),
}

/// Ranks still to come, from `next` on in the walk's direction.
#[derive(Debug, Clone)]
struct Ranks {
    range: std::ops::Range<usize>,
    descending: bool,
}

impl Ranks {
    fn next(&mut self) -> Option<usize> {
        if self.descending { self.range.next_back() } else { self.range.next() }
    }
}

fn key(code: u64, id: u32) -> u128 {
    u128::from(code) << 32 | u128::from(id)
}

fn unpack(key: u128) -> (u64, u32) {
    ((key >> 32) as u64, key as u32)
}

const KEY_BITS: u128 = (1 << 96) - 1;

impl<'s> Walk<'s> {
    pub(super) fn new(view: ColumnView<'s>, descending: bool, from: Option<(u64, u32)>) -> Result<Self> {
        let mut walk = Self {
            view,
            flip: if descending { KEY_BITS } else { 0 },
            sources: Vec::new(),
            heads: BinaryHeap::new(),
            current: None,
        };
        for column in view.segments() {
            let head = |rank| {
                let id = column.ranked(rank)?;
                Ok((column.get(id)?.unwrap_or_default(), id))
            };
            let range = positioned(column.len(), descending, from, head, |code, id| column.rank(code, id))?;
            walk.push(Source::Segment { column, ranks: Ranks { range, descending } })?;
        }
        if let Some(column) = view.checkpoint {
            let head = |rank| column.ranked(rank);
            let range = positioned(column.values(), descending, from, head, |code, id| column.rank(code, id))?;
            walk.push(Source::Checkpoint { column, ranks: Ranks { range, descending } })?;
        }
        if let Some(layer) = view.frozen {
            walk.push(Source::Frozen(ordered(layer, descending, from)))?;
        }
        if let Some(layer) = view.active {
            walk.push(Source::Active(ordered(layer, descending, from)))?;
        }
        walk.current = walk.heads.pop().map(|Reverse(head)| head);
        Ok(walk)
    }

    fn push(&mut self, mut source: Source<'s>) -> Result<()> {
        if let Some((code, id)) = source.next(&self.view, self.flip != 0)? {
            self.heads.push(Reverse((key(code, id) ^ self.flip, self.sources.len())));
            self.sources.push(source);
        }
        Ok(())
    }

    pub(crate) fn next(&mut self) -> Result<Option<(u64, u32)>> {
        let Some((head, at)) = self.current else { return Ok(None) };
        let next = match self.sources.get_mut(at) {
            Some(source) => source.next(&self.view, self.flip != 0)?,
            None => None,
        };
        self.current = match next {
            Some((code, id)) => {
                let next = (key(code, id) ^ self.flip, at);
                match self.heads.peek_mut() {
                    Some(mut least) if least.0 < next => Some(std::mem::replace(&mut *least, Reverse(next)).0),
                    _ => Some(next),
                }
            }
            None => self.heads.pop().map(|Reverse(head)| head),
        };
        Ok(Some(unpack(head ^ self.flip)))
    }
}

impl Source<'_> {
    /// The next id of which no layer above says something else.
    fn next(&mut self, view: &ColumnView<'_>, descending: bool) -> Result<Option<(u64, u32)>> {
        let overrides = |layer: Option<&LayerColumn>, id: u32| layer.is_some_and(|layer| layer.get(id).is_some());
        match self {
            Self::Segment { column, ranks } => {
                while let Some(rank) = ranks.next() {
                    let id = column.ranked(rank)?;
                    if overrides(view.active, id) || overrides(view.frozen, id) {
                        continue;
                    }
                    if let Some(checkpoint) = view.checkpoint
                        && checkpoint.get(id)?.is_some()
                    {
                        continue;
                    }
                    if let Some(code) = column.get(id)? {
                        return Ok(Some((code, id)));
                    }
                }
                Ok(None)
            }
            Self::Checkpoint { column, ranks } => {
                while let Some(rank) = ranks.next() {
                    let (code, id) = column.ranked(rank)?;
                    if !overrides(view.active, id) && !overrides(view.frozen, id) {
                        return Ok(Some((code, id)));
                    }
                }
                Ok(None)
            }
            Self::Frozen(ids) => loop {
                match step(ids, descending) {
                    Some((_, id)) if overrides(view.active, id) => {}
                    next => return Ok(next),
                }
            },
            Self::Active(ids) => Ok(step(ids, descending)),
        }
    }
}

fn step(ids: &mut Order<'_>, descending: bool) -> Option<(u64, u32)> {
    if descending { ids.next_back() } else { ids.next() }
}

fn ordered<'s>(layer: &'s LayerColumn, descending: bool, from: Option<(u64, u32)>) -> Order<'s> {
    match from {
        None => layer.order(..),
        Some(from) if descending => layer.order(..=from),
        Some(from) => layer.order(from..),
    }
}

/// The ranks from `from` on in the walk's direction. Where all ids of a file lie behind it, or before it, its two ends
/// tell.
fn positioned(
    length: usize,
    descending: bool,
    from: Option<(u64, u32)>,
    head: impl Fn(usize) -> Result<(u64, u32)>,
    rank: impl Fn(u64, u32) -> Result<usize>,
) -> Result<std::ops::Range<usize>> {
    let (Some(from), Some(last)) = (from, length.checked_sub(1)) else { return Ok(0..length) };
    let (least, most) = (head(0)?, head(last)?);
    Ok(if descending {
        match () {
            () if most <= from => 0..length,
            () if from < least => 0..0,
            () => {
                // Those below it, and the id itself if it is there.
                let below = rank(from.0, from.1)?.min(length);
                let with = below < length && head(below)? == from;
                0..below + usize::from(with)
            }
        }
    } else {
        match () {
            () if least >= from => 0..length,
            () if most < from => 0..0,
            () => rank(from.0, from.1)?.min(length)..length,
        }
    })
}

impl fmt::Debug for Walk<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Walk")
            .field("descending", &(self.flip != 0))
            .field("current", &self.current)
            .finish_non_exhaustive()
    }
}
