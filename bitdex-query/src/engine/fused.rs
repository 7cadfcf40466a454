//! Operands whose blocks lie as words, applied to a set in one pass: each is read once, and the set is written once.

use smallvec::SmallVec;

use super::set::Set;
use crate::{mapping::ahead::fetch, segment::sets::WORDS};

/// A set of more ids than this is made words of before more than one operand is applied.
pub(super) const DENSE: u32 = 192;
/// Words that are worked on at once.
const CHUNK: usize = 16;

type Words = [u64; WORDS];

#[derive(Debug, Default)]
pub(super) struct Fused<'b> {
    must: SmallVec<[&'b Words; 8]>,
    must_not: SmallVec<[&'b Words; 4]>,
    /// Groups, one behind the other: an id has to be in any of each.
    any: SmallVec<[&'b Words; 8]>,
    /// Ends of the groups.
    ends: SmallVec<[usize; 4]>,
}

impl<'b> Fused<'b> {
    pub(super) fn must(&mut self, words: &'b Words) {
        self.must.push(words);
    }

    pub(super) fn must_not(&mut self, words: &'b Words) {
        self.must_not.push(words);
    }

    pub(super) fn must_any(&mut self, group: &[&'b Words]) {
        self.any.extend_from_slice(group);
        self.ends.push(self.any.len());
    }

    fn groups(&self) -> impl Iterator<Item = &[&'b Words]> {
        let starts = [0].into_iter().chain(self.ends.iter().copied());
        starts.zip(&self.ends).filter_map(|(start, end)| self.any.get(start..*end))
    }

    pub(super) fn apply(&self, set: &mut Set) {
        let operands = self.must.len() + self.must_not.len() + self.any.len();
        if operands == 0 || set.is_empty() {
            return;
        }
        if set.is_sparse() && (operands == 1 || set.len() <= DENSE) {
            // One operand after the other, without branches: reads of one for many ids wait for memory side by side.
            if operands > 1 {
                // All of them are waited for at once.
                let all = || self.must.iter().chain(&self.must_not).chain(&self.any);
                set.as_block().for_each(|id| all().for_each(|words| fetch(&words[usize::from(id >> 6)])));
            }
            let is_in = |words: &Words, id: u16| words[usize::from(id >> 6)] >> (id & 63) & 1 == 1;
            self.must.iter().for_each(|words| set.keep(|id| is_in(words, id)));
            self.must_not.iter().for_each(|words| set.keep(|id| !is_in(words, id)));
            for group in self.groups() {
                // Most ids are in the first of them.
                set.keep(|id| group.iter().any(|words| is_in(words, id)));
            }
            return;
        }
        for (at, words) in set.words().as_chunks_mut::<CHUNK>().0.iter_mut().enumerate() {
            let chunk = |operand: &&'b Words| -> &'b [u64; CHUNK] { &operand.as_chunks().0[at] };
            let mut all = *words;
            for operand in self.must.iter().map(chunk) {
                all.iter_mut().zip(operand).for_each(|(to, word)| *to &= word);
            }
            for operand in self.must_not.iter().map(chunk) {
                all.iter_mut().zip(operand).for_each(|(to, word)| *to &= !word);
            }
            for group in self.groups() {
                let mut any = [0; CHUNK];
                for operand in group.iter().map(chunk) {
                    any.iter_mut().zip(operand).for_each(|(to, word)| *to |= word);
                }
                all.iter_mut().zip(&any).for_each(|(to, word)| *to &= word);
            }
            *words = all;
        }
    }
}
