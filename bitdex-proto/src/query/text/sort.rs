//! `sortAt:desc, id:asc` → sorts.

use super::{MAX_TEXT, error};
use crate::{
    Error, Result,
    names::suggestion,
    query::{MAX_SORTS, Sort},
    schema::{KEY_FIELD, Schema},
};

pub(super) fn parse(text: &str, schema: &Schema) -> Result<Vec<Sort>> {
    if text.len() > MAX_TEXT {
        return Err(Error::invalid(format!("a sort of {} bytes; at most {MAX_TEXT} are allowed", text.len())));
    }
    let mut sorts = Vec::new();
    let mut start = 0;
    for part in text.split(',') {
        let from = start + (part.len() - part.trim_start().len());
        start += part.len() + 1;
        if sorts.len() == MAX_SORTS {
            return Err(error::at(text, from..text.len(), format!("at most {MAX_SORTS} sort keys are allowed")));
        }
        sorts.push(one(text, part.trim(), from, schema)?);
    }
    Ok(sorts)
}

fn one(text: &str, part: &str, from: usize, schema: &Schema) -> Result<Sort> {
    let whole = from..from + part.len();
    if part.starts_with("_geoPoint") {
        return Err(error::at(text, whole, "_geoPoint is not supported: there are no places here to sort by"));
    }
    let Some((name, direction)) = part.rsplit_once(':') else {
        return Err(error::at(text, whole, "expected a field and its direction, as in `sortAt:desc`"));
    };
    let at = from..from + name.len();
    let descending = match direction {
        "asc" => false,
        "desc" => true,
        _ => {
            return Err(error::at(text, at.end + 1..whole.end, "expected `asc` or `desc` behind the field"));
        }
    };
    let sortable = || schema.fields.iter().enumerate().filter(|(id, field)| field.sort || *id == KEY_FIELD);
    let Some((id, field)) = schema.field(name) else {
        let known = sortable().map(|(_, field)| field.name.as_str());
        return Err(error::at(text, at, format!("unknown field {name}{}", suggestion(name, known))));
    };
    if field.many {
        return Err(error::at(text, at, format!("field {name} holds many values: it cannot be sorted by")));
    }
    if !field.sort && id != KEY_FIELD {
        let message = format!("field {name} cannot be sorted by: the definition does not say `sort: true`");
        return Err(error::at(text, at, message));
    }
    Ok(Sort { field: name.into(), descending })
}
