//! The ids that have a value in a field, where nearly always all documents have one.
//!
//! `x IN [most of the values that there are]` is read as: has a value, and none of the others. The first costs nothing in a
//! block of which the base alone says something, if every document of the base has a value.

use bitdex_proto::schema::{FieldId, KEY_FIELD};

use crate::{
    log::Result,
    segment::value::Term,
    state::{Operand, State},
};

#[derive(Debug)]
pub(super) struct Valued<'s> {
    pub(super) operand: Operand<'s>,
    present: Operand<'s>,
    /// Every document of the base has a value.
    all_of_base: bool,
}

impl<'s> Valued<'s> {
    pub(super) fn new(state: &'s State, field: FieldId) -> Result<Self> {
        let in_base = |field| {
            let known = state.files().known_term(field, Term::Exists);
            known.map(|known| known.map_or(0, |known| known.ids))
        };
        let (valued, all) = (in_base(field), in_base(KEY_FIELD));
        Ok(Self {
            operand: state.operand(field, Term::Exists)?,
            present: state.operand(KEY_FIELD, Term::Exists)?,
            all_of_base: valued.is_some() && valued == all,
        })
    }

    /// Whether all documents of a block have a value, as far as that is quickly told.
    pub(super) fn is_all(&self, number: u16) -> bool {
        self.all_of_base && self.operand.is_of_base(number) && self.present.is_of_base(number)
    }
}
