//! A block of which layers above the base say something, for whoever has a term's ids there in order as the base has
//! them: what that tells is right but of the ids that layers speak of, which are told apart here.

use smallvec::SmallVec;

use super::{evaluate::id_of, gather::Codes, order::Rank};
use crate::{
    log::Result,
    segment::sets::{Block, BlockBuffer},
    state::{CodeReader, ColumnView, Operand, State},
};

#[derive(Debug)]
pub(super) struct Changed<'s> {
    pub(super) number: u16,
    codes: CodeReader<'s>,
    /// Ids that layers add to the term's set.
    added: Sets<'s>,
    /// Ids that they take out of it, and those whose cells may be others.
    others: Sets<'s>,
}

type Sets<'s> = SmallVec<[Set<'s>; 3]>;

#[derive(Debug, Clone, Copy)]
struct Set<'s> {
    /// What new documents change lies behind all that the base has of a block: that is seen by the bounds alone.
    first: u16,
    last: u16,
    ids: Block<'s>,
}

impl<'s> Set<'s> {
    /// `None`: it is empty.
    fn of(ids: Block<'s>) -> Option<Self> {
        let (first, last) = match ids {
            Block::Empty => return None,
            Block::Array(array) => (*array.first()?, *array.last()?),
            Block::Bits(_) => (0, u16::MAX),
        };
        Some(Self { first, last, ids })
    }

    #[inline]
    fn contains(&self, id: u16) -> bool {
        self.first <= id && id <= self.last && self.ids.contains(id)
    }
}

impl<'s> Changed<'s> {
    /// `cells`: whose do matter.
    pub(super) fn new(
        number: u16,
        operand: &Operand<'s>,
        column: ColumnView<'s>,
        cells: Option<&'s State>,
    ) -> Result<Self> {
        let (mut added, mut others) = (Sets::new(), Sets::new());
        operand.each_change(number, |comes, goes| {
            added.extend(Set::of(comes));
            others.extend(Set::of(goes));
        })?;
        others.extend(cells.into_iter().flat_map(|state| state.moved(number)).filter_map(Set::of));
        Ok(Self { number, codes: column.reader(number)?, added, others })
    }

    /// Whether layers say anything that matters of an id, which is within the block.
    pub(super) fn says(&self, id: u16) -> bool {
        self.codes.is_overridden(id) || self.added.iter().chain(&self.others).any(|set| set.contains(id))
    }

    /// Calls `each` with ranks whose codes pass: of all ids that are the term's and of which layers say something, and of
    /// some that were its.
    pub(super) fn each_rank(
        &self,
        operand: &Operand<'s>,
        passing: Codes,
        buffer: &mut BlockBuffer,
        mut each: impl FnMut(Rank),
    ) -> Result<()> {
        let mut ids = SmallVec::<[u16; 64]>::new();
        self.added.iter().for_each(|set| set.ids.for_each(|id| ids.push(id)));
        if let Some(base) = Set::of(operand.base_block(self.number)?) {
            self.codes.overridden_of(base.ids, |id| ids.push(id));
            for set in self.others.iter().filter(|set| set.first <= base.last && base.first <= set.last) {
                buffer.set_and(base.ids, set.ids);
                buffer.block().for_each(|id| ids.push(id));
            }
        }
        ids.sort_unstable();
        ids.dedup();
        self.codes.fetch_overridden(&ids);
        // Where codes follow ids, in the order of the ranks.
        for id in ids.iter().rev() {
            let code = self.codes.get(*id);
            if passing.pass(code) {
                each(Rank::new(code, id_of(self.number, *id), true));
            }
        }
        Ok(())
    }
}
