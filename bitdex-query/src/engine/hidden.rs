//! What is hidden at a clock: documents whose `visible_at` is later.

use bitdex_proto::{
    schema::{FieldId, Function, Origin},
    value::{FieldType, Value},
};

use crate::{log::Result, segment::value::ValueRef, state::State};

/// The code of `field` above which exactly the hidden documents are, at a clock; `None` where the field does not tell.
///
/// It does where it is `visible_at` itself, and where it is the greatest of that and of others none of which is later
/// than the clock. A document without a value in it has no `visible_at` either, and shows.
pub(super) fn cap(state: &State, field: FieldId, now_us: i64) -> Result<Option<u64>> {
    let schema = state.schema();
    let Some(visible) = schema.visible_at else { return Ok(None) };
    let now = ValueRef::of(&Value::Int(now_us)).code();
    if field == visible {
        return Ok(Some(now));
    }
    let Some(Origin::Derived { function: Function::Greatest, inputs }) =
        schema.fields.get(field).map(|field| &field.origin)
    else {
        return Ok(None);
    };
    if !inputs.contains(&visible) {
        return Ok(None);
    }
    for input in inputs.iter().filter(|input| **input != visible) {
        let timestamp = schema.fields.get(*input).is_some_and(|field| field.ty == FieldType::Timestamp);
        let later = match state.column(*input) {
            Some(column) if timestamp => column.most()?.is_some_and(|most| most > now),
            _ => true,
        };
        if later {
            return Ok(None);
        }
    }
    Ok(Some(now))
}
