//! The ids of a column in its order, merged from all layers.

use std::{cmp::Reverse, collections::BinaryHeap, fmt, ops::Range};

use super::{
    super::layer::{LayerColumn, Order},
    ColumnView,
};
use crate::{
    log::{Error, Result},
    segment::columns::{Column, SparseColumn},
};

/// Ids that a source reads at once: few at first, since most walks end soon.
const FIRST: usize = 4;
const MOST: usize = 256;

/// See [`ColumnView::walk`].
///
/// Each layer gives its ids in order, and the smallest head is next; what a layer above overrides is left out, and of what
/// a segment and the checkpoint both say, the second. A source reads many at a time, and gives all of them that come
/// before the other sources' heads: where the code of the last one tells that of all, the others' codes are not read.
/// Until a segment's codes come, it is not looked into: its first code stands for it.
pub(crate) struct Walk<'s> {
    view: ColumnView<'s>,
    from: Option<(u64, u32)>,
    /// All bits set to walk down: then the smallest key is the last in the ascending order.
    flip: u128,
    sources: Vec<Source<'s>>,
    heads: BinaryHeap<Reverse<(u128, usize)>>,
    /// The last one that was given, which a second source may have too.
    last: Option<u32>,
}

struct Source<'s> {
    of: Of<'s>,
    /// Whether it was looked into.
    begun: bool,
    /// Those before `at` were given.
    ids: Vec<u32>,
    /// One for each of `ids`; none while those of a segment were not read.
    codes: Vec<u64>,
    at: usize,
    chunk: usize,
}

enum Of<'s> {
    Segment { column: &'s Column, ranks: Option<Ranks> },
    Checkpoint { column: &'s SparseColumn, ranks: Ranks },
    Frozen(Order<'s>),
    Active(Order<'s>),
}

/// Ranks still to come in the walk's direction.
#[derive(Debug, Clone)]
struct Ranks {
    range: Range<usize>,
    descending: bool,
}

impl Ranks {
    /// The next `count`, ascending.
    fn take(&mut self, count: usize) -> Range<usize> {
        let count = count.min(self.range.len());
        if self.descending {
            self.range.end -= count;
            self.range.end..self.range.end + count
        } else {
            self.range.start += count;
            self.range.start - count..self.range.start
        }
    }
}

fn key(code: u64, id: u32) -> u128 {
    u128::from(code) << 32 | u128::from(id)
}

const KEY_BITS: u128 = (1 << 96) - 1;

impl<'s> Walk<'s> {
    pub(super) fn new(view: ColumnView<'s>, descending: bool, from: Option<(u64, u32)>) -> Result<Self> {
        let flip = if descending { KEY_BITS } else { 0 };
        let mut walk = Self { view, from, flip, sources: Vec::new(), heads: BinaryHeap::new(), last: None };
        for column in view.segments() {
            let Some(first) = begins(column, descending, from)? else { continue };
            let (code, id, ranks) = match first {
                First::About(code) => (code, if descending { u32::MAX } else { 0 }, None),
                First::At((code, id), range) => (code, id, Some(Ranks { range, descending })),
            };
            walk.heads.push(Reverse((key(code, id) ^ flip, walk.sources.len())));
            walk.sources.push(Source::new(Of::Segment { column, ranks }));
        }
        if let Some(column) = view.checkpoint {
            let range = positioned(column, descending, from)?;
            walk.push(Of::Checkpoint { column, ranks: Ranks { range, descending } })?;
        }
        if let Some(layer) = view.frozen {
            walk.push(Of::Frozen(ordered(layer, descending, from)))?;
        }
        if let Some(layer) = view.active {
            walk.push(Of::Active(ordered(layer, descending, from)))?;
        }
        Ok(walk)
    }

    fn push(&mut self, of: Of<'s>) -> Result<()> {
        let mut source = Source::new(of);
        source.begun = true;
        if let Some((code, id)) = source.head(&self.view, self.flip != 0)? {
            self.heads.push(Reverse((key(code, id) ^ self.flip, self.sources.len())));
            self.sources.push(source);
        }
        Ok(())
    }

    /// The source whose head comes next.
    fn pop(&mut self) -> Result<Option<usize>> {
        while let Some(Reverse((_, n))) = self.heads.pop() {
            let Some(source) = self.sources.get_mut(n) else { continue };
            let descending = self.flip != 0;
            if !source.begin(descending, self.from)? {
                return Ok(Some(n));
            }
            if let Some((code, id)) = source.head(&self.view, descending)? {
                self.heads.push(Reverse((key(code, id) ^ self.flip, n)));
            }
        }
        Ok(None)
    }

    pub(crate) fn next(&mut self) -> Result<Option<(u64, u32)>> {
        while let Some(n) = self.pop()? {
            let Some(source) = self.sources.get_mut(n) else { continue };
            source.decode()?;
            let next = source.head(&self.view, self.flip != 0)?;
            source.at += 1;
            if let Some((code, id)) = source.head(&self.view, self.flip != 0)? {
                self.heads.push(Reverse((key(code, id) ^ self.flip, n)));
            }
            let id = next.map(|(_, id)| id);
            if id != self.last {
                self.last = id;
                return Ok(next);
            }
        }
        Ok(None)
    }

    /// Appends the next ids, up to `most`; none only at the end.
    pub(crate) fn run(&mut self, most: usize, ids: &mut Vec<u32>) -> Result<()> {
        let (to, descending) = (ids.len() + most, self.flip != 0);
        while ids.len() < to
            && let Some(n) = self.pop()?
        {
            let others = self.heads.peek().map_or(u128::MAX, |Reverse((key, _))| *key);
            let Some(source) = self.sources.get_mut(n) else { continue };
            while source.has_more(&self.view, descending)? {
                let count = source.up_to(others, self.flip)?.min(to - ids.len());
                if count == 0 {
                    if let Some((code, id)) = source.head(&self.view, descending)? {
                        self.heads.push(Reverse((key(code, id) ^ self.flip, n)));
                    }
                    break;
                }
                let next = source.ids.get(source.at..source.at + count).unwrap_or_default();
                source.at += count;
                ids.extend_from_slice(if next.first() == self.last.as_ref() { &next[1..] } else { next });
                self.last = next.last().copied();
            }
        }
        Ok(())
    }
}

impl<'s> Source<'s> {
    fn new(of: Of<'s>) -> Self {
        Self { of, begun: false, ids: Vec::new(), codes: Vec::new(), at: 0, chunk: FIRST }
    }

    /// Finds where a segment begins, if it was not looked into yet. Whether it was not.
    fn begin(&mut self, descending: bool, from: Option<(u64, u32)>) -> Result<bool> {
        if std::mem::replace(&mut self.begun, true) {
            return Ok(false);
        }
        let Of::Segment { column, ranks: ranks @ None } = &mut self.of else { return Ok(true) };
        let range = match from.map(|from| behind(from, descending)) {
            None => 0..column.len(),
            Some(behind) => {
                let rank = behind.map_or(Ok(column.len()), |(code, id)| column.rank(code, id))?;
                if !is_row(from) {
                    column.remember(rank);
                }
                if descending { 0..rank } else { rank..column.len() }
            }
        };
        *ranks = Some(Ranks { range, descending });
        Ok(true)
    }

    /// The next id of which no layer above says something else.
    #[inline]
    fn head(&mut self, view: &ColumnView<'s>, descending: bool) -> Result<Option<(u64, u32)>> {
        if !self.has_more(view, descending)? {
            return Ok(None);
        }
        let Some(id) = self.ids.get(self.at).copied() else { return Ok(None) };
        Ok(Some((self.code(self.at, id)?, id)))
    }

    /// Whether there is such an id, which is read then.
    fn has_more(&mut self, view: &ColumnView<'s>, descending: bool) -> Result<bool> {
        while self.at >= self.ids.len() {
            self.at = 0;
            self.ids.clear();
            self.codes.clear();
            if !self.fill(view, descending)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Of the id at a place.
    fn code(&self, at: usize, id: u32) -> Result<u64> {
        match (self.codes.get(at), &self.of) {
            (Some(code), _) => Ok(*code),
            (None, Of::Segment { column, .. }) => column.get(id)?.ok_or_else(|| uncoded(column)),
            // Others always come with theirs.
            (None, _) => Ok(0),
        }
    }

    /// Reads the codes that were not read yet.
    fn decode(&mut self) -> Result<()> {
        if let (Of::Segment { column, .. }, true) = (&self.of, self.codes.is_empty()) {
            let mut near = column.near();
            for id in &self.ids {
                self.codes.push(near.get(*id)?.ok_or_else(|| uncoded(column))?);
            }
        }
        Ok(())
    }

    /// How many of the ids that were read come up to a key, which is turned as those of the walk's heads are. An id of that
    /// very key is the last of them: another source gives it once more right behind.
    fn up_to(&mut self, others: u128, flip: u128) -> Result<usize> {
        let left = self.ids.len() - self.at;
        let Some(last) = self.ids.last().filter(|_| others < u128::MAX) else { return Ok(left) };
        if key(self.code(self.ids.len() - 1, *last)?, *last) ^ flip <= others {
            return Ok(left);
        }
        self.decode()?;
        let pairs = self.codes.iter().zip(&self.ids).skip(self.at);
        Ok(pairs.take_while(|(code, id)| key(**code, **id) ^ flip <= others).count())
    }

    /// Reads the next ids; of those there may be none left that count. False at the end.
    fn fill(&mut self, view: &ColumnView<'s>, descending: bool) -> Result<bool> {
        let overrides = |layer: Option<&LayerColumn>, id: u32| layer.is_some_and(|layer| layer.overrides(id));
        let count = self.chunk;
        self.chunk = (count * 2).min(MOST);
        let (ids, codes) = (&mut self.ids, &mut self.codes);
        let mut push = |(code, id): (u64, u32)| {
            codes.push(code);
            ids.push(id);
        };
        match &mut self.of {
            Of::Segment { column, ranks } => {
                let ranks = ranks.as_mut().map_or(0..0, |ranks| ranks.take(count));
                if ranks.is_empty() {
                    return Ok(false);
                }
                ids.extend(column.ranked_bytes(ranks)?.as_chunks().0.iter().map(|id| column.id(*id)));
                if !view.is_of_base() {
                    let mut failed = Ok(());
                    ids.retain(|id| match view.is_overridden(*id) {
                        Ok(overrides) => !overrides,
                        Err(error) => {
                            failed = Err(error);
                            false
                        }
                    });
                    failed?;
                }
            }
            Of::Checkpoint { column, ranks } => {
                let ranks = ranks.take(count);
                if ranks.is_empty() {
                    return Ok(false);
                }
                for rank in ranks {
                    let (code, id) = column.ranked(rank)?;
                    if !overrides(view.active, id) && !overrides(view.frozen, id) {
                        push((code, id));
                    }
                }
            }
            Of::Frozen(order) => {
                let mut left = count;
                while left > 0
                    && let Some((code, id)) = step(order, descending)
                {
                    left -= 1;
                    if !overrides(view.active, id) {
                        push((code, id));
                    }
                }
                return Ok(left < count);
            }
            Of::Active(order) => {
                (0..count).map_while(|_| step(order, descending)).for_each(push);
                return Ok(!ids.is_empty());
            }
        }
        if descending {
            ids.reverse();
            codes.reverse();
        }
        Ok(true)
    }
}

#[cold]
fn uncoded(column: &Column) -> Error {
    column.damaged("an id is in the order that has no code")
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

/// What a segment's codes begin with.
enum First {
    /// None comes before this one.
    About(u64),
    /// The ranks still to come, and the first of them.
    At((u64, u32), Range<usize>),
}

/// `None`: all of them lie before `from`.
fn begins(column: &Column, descending: bool, from: Option<(u64, u32)>) -> Result<Option<First>> {
    let Some((least, most)) = column.span() else { return Ok(None) };
    let Some(from) = from else { return Ok(Some(First::About(if descending { most } else { least }))) };
    if descending && from.0 < least || !descending && from.0 > most {
        return Ok(None);
    }
    if !is_row(Some(from))
        && let Some((code, id)) = behind(from, descending)
        && let Some(place) = column.remembered(code, id)?
    {
        let (first, range) =
            if descending { (place.before, 0..place.rank) } else { (place.behind, place.rank..column.len()) };
        return Ok(first.map(|first| First::At(first, range)));
    }
    Ok(Some(First::About(if descending { most.min(from.0) } else { least.max(from.0) })))
}

/// Whether a walk begins at a row, and not before or behind all rows of a code.
fn is_row(from: Option<(u64, u32)>) -> bool {
    from.is_some_and(|(_, id)| id != 0 && id != u32::MAX)
}

/// The first (code, id) of which a walk downwards from `from` comes to none, nor to any behind it; upwards `from` itself.
/// `None`: there is none behind it.
fn behind((code, id): (u64, u32), descending: bool) -> Option<(u64, u32)> {
    match (descending, id.checked_add(1)) {
        (false, _) => Some((code, id)),
        (true, Some(id)) => Some((code, id)),
        (true, None) => Some((code.checked_add(1)?, 0)),
    }
}

/// The ranks from `from` on in the walk's direction. Where all ids of a checkpoint lie behind it, or before it, its two
/// ends tell.
fn positioned(column: &SparseColumn, descending: bool, from: Option<(u64, u32)>) -> Result<Range<usize>> {
    let length = column.values();
    let (Some(from), Some(last)) = (from, length.checked_sub(1)) else { return Ok(0..length) };
    let rank = match behind(from, descending) {
        None => length,
        Some(behind) if behind <= column.ranked(0)? => 0,
        Some(behind) if behind > column.ranked(last)? => length,
        Some((code, id)) => column.rank(code, id)?,
    };
    Ok(if descending { 0..rank } else { rank..length })
}

impl fmt::Debug for Walk<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Walk").field("descending", &(self.flip != 0)).finish_non_exhaustive()
    }
}
