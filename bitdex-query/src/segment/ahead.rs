//! Where a column is ahead of another one: the ids with the greatest codes of those whose code in the other column is
//! less, or missing.
//!
//! Made from the greatest codes when it is first asked for, and kept as long as the file is open.

use std::ops::Range;

use crate::log::Result;

/// Ids that are kept.
const KEPT: usize = 64;
/// Ranks that are read at once.
const CHUNK: usize = 256;
/// Ranks that are read at most: whoever asks waits for it.
const READ: usize = 1 << 14;

#[derive(Debug)]
pub struct Ahead {
    /// (code, id), descending.
    first: Vec<(u64, u32)>,
    /// Code of the next one.
    rest: Option<u64>,
}

impl Ahead {
    /// `ranked`: appends (code, id) at some of as many ranks. `other`: the code in the other column.
    pub(super) fn of(
        mut left: usize,
        ranked: impl Fn(Range<usize>, &mut Vec<(u64, u32)>) -> Result<()>,
        other: impl Fn(u32) -> Result<Option<u64>>,
    ) -> Result<Self> {
        let mut ahead = Self { first: Vec::new(), rest: None };
        let enough = left.saturating_sub(READ);
        let mut pairs = Vec::with_capacity(CHUNK);
        while left > 0 {
            if left <= enough {
                ahead.rest = pairs.first().map(|(code, _)| *code);
                break;
            }
            pairs.clear();
            ranked(left.saturating_sub(CHUNK)..left, &mut pairs)?;
            left = left.saturating_sub(CHUNK);
            for (code, id) in pairs.iter().rev().copied() {
                if other(id)?.is_some_and(|beside| beside >= code) {
                    continue;
                }
                if ahead.first.len() == KEPT {
                    ahead.rest = Some(code);
                    return Ok(ahead);
                }
                ahead.first.push((code, id));
            }
        }
        Ok(ahead)
    }

    /// Those with a greater code than `most`; `None`: there may be more of them than are kept.
    pub fn above(&self, most: u64) -> Option<&[(u64, u32)]> {
        if self.rest.is_some_and(|code| code > most) {
            return None;
        }
        self.first.get(..self.first.partition_point(|(code, _)| *code > most))
    }
}
