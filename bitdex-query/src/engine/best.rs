//! The first rows of those that are pushed, in little more memory than they take.

use std::cell::Cell;

use super::order::{After, Keys, Rank, Sorter};
use crate::log::Result;

thread_local! {
    /// Room for ranks, which the last query of this thread left.
    static ROOM: Cell<Vec<Rank>> = const { Cell::new(Vec::new()) };
}

/// Ranks for which room is kept.
const KEPT: usize = 1 << 14;
/// Ranks are nearly in order where each has to pass so many others, on average. Those of ids that come in the order of
/// their blocks are where codes follow ids.
const NEARLY: usize = 4;

#[derive(Debug)]
pub(super) struct Best<'q, 's> {
    sorter: &'q Sorter<'s>,
    want: usize,
    descending: bool,
    after: Option<(Rank, Keys, u32)>,
    /// No row behind this rank is among the first.
    threshold: Option<Rank>,
    rows: Rows,
}

#[derive(Debug)]
enum Rows {
    /// Ranks tell all.
    Plain(Vec<Rank>),
    Keyed(Vec<(Rank, Keys, u32)>),
}

impl<'q, 's> Best<'q, 's> {
    pub(super) fn new(sorter: &'q Sorter<'s>, after: Option<&After>, want: usize) -> Self {
        let descending = sorter.first_descends();
        let after = after.map(|after| {
            let code = match sorter.first() {
                Some(_) => sorter.after_code(after),
                None => Some(after.id().into()),
            };
            let rank = Rank::new(code, after.id(), descending);
            (rank, sorter.after_keys(after), after.id())
        });
        let rows = if sorter.is_plain() { Rows::Plain(ROOM.take()) } else { Rows::Keyed(Vec::new()) };
        Self { sorter, want, descending, after, threshold: None, rows }
    }

    /// Whether the greatest codes come first.
    pub(super) fn descends(&self) -> bool {
        self.descending
    }

    /// Whether there are as many rows as wanted: others have to come before one of these.
    pub(super) fn is_full(&self) -> bool {
        self.threshold.is_some()
    }

    /// Whether no row of this code, nor any behind it, is among the first.
    pub(super) fn is_beyond(&self, code: Option<u64>) -> bool {
        self.is_beyond_all(Rank::new(code, 0, self.descending))
    }

    /// The same of the code of a rank.
    pub(super) fn is_beyond_all(&self, of: Rank) -> bool {
        self.want == 0 || self.threshold.is_some_and(|threshold| of.first_of_code() > threshold)
    }

    /// Whether a row of this code and id, and all that come after it, are not among the first.
    pub(super) fn is_behind(&self, code: u64, id: u32) -> bool {
        match &self.rows {
            Rows::Plain(_) => {
                let rank = Rank::new(Some(code), id, self.descending);
                self.want == 0 || self.threshold.is_some_and(|threshold| rank >= threshold)
            }
            Rows::Keyed(_) => self.is_beyond(Some(code)),
        }
    }

    /// Whether a row may be among the first, as far as its code and id tell.
    #[inline]
    pub(super) fn may_enter(&self, code: Option<u64>, id: u32) -> bool {
        let rank = Rank::new(code, id, self.descending);
        let after = self.after.as_ref().map(|(after, _, _)| *after);
        match &self.rows {
            Rows::Plain(_) => {
                after.is_none_or(|after| rank > after) && self.threshold.is_none_or(|threshold| rank < threshold)
            }
            Rows::Keyed(_) => {
                let first = rank.first_of_code();
                after.is_none_or(|after| first >= after.first_of_code())
                    && self.threshold.is_none_or(|threshold| first <= threshold)
            }
        }
    }

    /// Whether there are as many rows as wanted, before anything was told of others.
    pub(super) fn has_enough(&self) -> bool {
        self.len() >= self.want
    }

    fn len(&self) -> usize {
        match &self.rows {
            Rows::Plain(rows) => rows.len(),
            Rows::Keyed(rows) => rows.len(),
        }
    }

    /// The codes that may be among the first: from one to another, and whether a missing one may.
    pub(super) fn codes(&self) -> (u64, u64, bool) {
        match self.threshold {
            _ if self.want == 0 => (1, 0, false),
            None => (0, u64::MAX, true),
            Some(threshold) => match threshold.code(self.descending) {
                None => (0, u64::MAX, true),
                Some(last) if self.descending => (last, u64::MAX, false),
                Some(last) => (0, last, false),
            },
        }
    }

    /// `shows` is asked of those alone that would be among the first so far.
    pub(super) fn push(&mut self, code: Option<u64>, id: u32, shows: impl FnOnce() -> Result<bool>) -> Result<()> {
        if !self.may_enter(code, id) || !shows()? {
            return Ok(());
        }
        let rank = Rank::new(code, id, self.descending);
        let full = match &mut self.rows {
            Rows::Plain(rows) => {
                rows.push(rank);
                rows.len() >= 2 * self.want + 64
            }
            Rows::Keyed(rows) => {
                let keys = self.sorter.keys(id)?;
                if let Some((_, after, after_id)) = &self.after
                    && self.sorter.compare((&keys, id), (after, *after_id)).is_le()
                {
                    return Ok(());
                }
                rows.push((rank.first_of_code(), keys, id));
                rows.len() >= 2 * self.want + 64
            }
        };
        if full {
            self.select();
        }
        Ok(())
    }

    /// Draws the threshold in.
    pub(super) fn tighten(&mut self) {
        let rows = self.len();
        if rows > self.want || rows == self.want && self.threshold.is_none() {
            self.select();
        }
    }

    /// Drops all but the first.
    fn select(&mut self) {
        let Some(last) = self.want.checked_sub(1) else { return };
        match &mut self.rows {
            Rows::Plain(rows) if rows.len() > last => {
                if !insert(rows) {
                    rows.select_nth_unstable(last);
                }
                self.threshold = rows.get(last).copied();
                rows.truncate(self.want);
            }
            Rows::Keyed(rows) if rows.len() > last => {
                let sorter = self.sorter;
                let by_keys = |a: &(Rank, Keys, u32), b: &(Rank, Keys, u32)| sorter.compare((&a.1, a.2), (&b.1, b.2));
                let (_, (rank, ..), _) = rows.select_nth_unstable_by(last, by_keys);
                self.threshold = Some(*rank);
                rows.truncate(self.want);
            }
            _ => {}
        }
    }

    /// What tells of all of them where ranks do, in their order.
    pub(super) fn into_ranks(self) -> Vec<Rank> {
        match self.rows {
            Rows::Plain(rows) => first(rows, self.want, |rank| rank),
            Rows::Keyed(_) => Vec::new(),
        }
    }

    /// In their order.
    pub(super) fn finish(self) -> Vec<u32> {
        let (want, descending, sorter) = (self.want, self.descending, self.sorter);
        match self.rows {
            Rows::Plain(rows) => first(rows, want, |rank| rank.id(descending)),
            Rows::Keyed(mut rows) => {
                rows.sort_unstable_by(|a, b| sorter.compare((&a.1, a.2), (&b.1, b.2)));
                rows.into_iter().take(want).map(|(_, _, id)| id).collect()
            }
        }
    }
}

/// Something of each of the first ranks, in their order; the room of all goes back.
fn first<T>(mut rows: Vec<Rank>, want: usize, of: impl Fn(Rank) -> T) -> Vec<T> {
    if !insert(&mut rows) {
        rows.sort_unstable();
    }
    let first = rows.iter().take(want).map(|rank| of(*rank)).collect();
    rows.clear();
    rows.shrink_to(KEPT);
    ROOM.set(rows);
    first
}

/// Sorts what is nearly in order; false where it is not, and is not sorted then.
fn insert(rows: &mut [Rank]) -> bool {
    let mut passed = 0;
    for n in 1..rows.len() {
        let rank = rows[n];
        let mut at = n;
        while at > 0 && rank < rows[at - 1] {
            rows[at] = rows[at - 1];
            at -= 1;
        }
        rows[at] = rank;
        passed += n - at;
        if passed > (n + NEARLY * NEARLY) * NEARLY {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use rand::RngExt as _;

    use super::*;
    use crate::testing::seeded;

    #[test]
    fn what_is_nearly_in_order_is_sorted_and_nothing_gets_lost() {
        let mut rng = seeded();
        for _ in 0..200 {
            let (rows, away) = (rng.random_range(0..600), [0, 2, 6, 10_000][rng.random_range(0..4)]);
            let mut ranks: Vec<Rank> = (0..rows)
                .map(|n: u64| Rank::new(Some(n * 10 + rng.random_range(0..=away * 10)), rng.random(), false))
                .collect();
            let mut sorted = ranks.clone();
            sorted.sort_unstable();
            let inserted = insert(&mut ranks);
            assert!(inserted || away > 6, "{rows} rows, each at most {away} places away");
            if !inserted {
                ranks.sort_unstable();
            }
            assert!(ranks == sorted);
        }
    }
}
