//! A filter, bound to the schema and to the clock: names are field ids, literals are values of the field's type.

use std::ops::{Bound, RangeBounds as _};

use bitdex_proto::{
    Error, Result,
    query::{self, Comparator, Filter, check_all},
    schema::{Field, FieldId, Schema},
    value::{FieldType, Literal, Value},
};

use crate::state::Bounds;

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Node {
    /// All of them; everything where empty.
    And(Vec<Node>),
    /// Any of them; nothing where empty.
    Or(Vec<Node>),
    Not(Box<Node>),
    Leaf(FieldId, Test),
}

/// True where any of the document's values in the field passes; null has no values.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Test {
    /// Sorted, without duplicates.
    AnyOf(Vec<Value>),
    Range(Bounds),
    IsNull,
}

/// Binds a filter; `None` is every document. `now_us` is the clock; without one, relative times are refused.
pub(crate) fn bind(filter: Option<&Filter>, schema: &Schema, now_us: Option<i64>) -> Result<Node> {
    let Some(filter) = filter else { return Ok(Node::And(Vec::new())) };
    if filter.has_names() {
        filter.check(schema)?;
    }
    Binder { schema, now_us }.bind(filter)
}

/// Binds filters of which all have to be true, without relative times; answers what all has to be true.
pub(crate) fn bind_all<'f>(filters: impl Iterator<Item = &'f Filter>, schema: &Schema) -> Result<Vec<Node>> {
    let binder = Binder { schema, now_us: None };
    Ok(match binder.and(0, filters.map(|filter| binder.bind(filter)))? {
        Node::And(nodes) => nodes,
        node => vec![node],
    })
}

/// Whether a test that passes makes another one pass. False where that is hard to tell.
pub(crate) fn implies(node: &Node, other: &Node) -> bool {
    match (node, other) {
        (Node::Not(node), Node::Not(other)) => implies(other, node),
        (Node::Leaf(field, test), Node::Leaf(of, other)) if field == of => match (test, other) {
            (Test::AnyOf(values), Test::AnyOf(others)) => {
                values.iter().all(|value| others.binary_search(value).is_ok())
            }
            (Test::AnyOf(values), Test::Range(bounds)) => values.iter().all(|value| bounds.contains(value)),
            (Test::Range(range), Test::Range(bounds)) => {
                let mut both = range.clone();
                tighten(&mut both, bounds.clone());
                both == *range
            }
            (test, other) => test == other,
        },
        (node, other) => node == other,
    }
}

struct Binder<'s> {
    schema: &'s Schema,
    now_us: Option<i64>,
}

impl Binder<'_> {
    fn bind(&self, filter: &Filter) -> Result<Node> {
        Ok(match filter {
            Filter::And(filters) => self.and(filters.len(), filters.iter().map(|filter| self.bind(filter)))?,
            Filter::Or(filters) => {
                one_or(filters.iter().map(|filter| self.bind(filter)).collect::<Result<_>>()?, Node::Or)
            }
            Filter::Not(filter) => match negate(self.bind(filter)?) {
                Node::And(nodes) => self.and(nodes.len(), nodes.into_iter().map(Ok))?,
                node => node,
            },
            Filter::Compare { field, comparator, value } => {
                let (id, field) = self.field(field)?;
                let value = self.value(field, value)?;
                let range = |lo, hi| Node::Leaf(id, Test::Range((lo, hi)));
                match comparator {
                    Comparator::Eq => Node::Leaf(id, Test::AnyOf(vec![value])),
                    Comparator::Ne => negate(Node::Leaf(id, Test::AnyOf(vec![value]))),
                    Comparator::Lt => range(Bound::Unbounded, Bound::Excluded(value)),
                    Comparator::Le => range(Bound::Unbounded, Bound::Included(value)),
                    Comparator::Gt => range(Bound::Excluded(value), Bound::Unbounded),
                    Comparator::Ge => range(Bound::Included(value), Bound::Unbounded),
                }
            }
            Filter::In { field, values, negated, all } => {
                let (id, field) = self.field(field)?;
                let values = values.iter().map(|value| self.value(field, value));
                let node = if *all {
                    check_all(field)?;
                    let each = values.map(|value| Ok(Node::Leaf(id, Test::AnyOf(vec![value?]))));
                    one_or(each.collect::<Result<_>>()?, Node::And)
                } else {
                    let mut values = values.collect::<Result<Vec<_>>>()?;
                    values.sort_unstable();
                    values.dedup();
                    Node::Leaf(id, Test::AnyOf(values))
                };
                if *negated { negate(node) } else { node }
            }
            Filter::IsNull { field } => Node::Leaf(self.field(field)?.0, Test::IsNull),
            Filter::Named { name } => match self.schema.named_filter(name) {
                Some(named) => self.bind(&named.filter)?,
                None => return Err(Error::invalid(format!("the definition has no filter {name:?}"))),
            },
        })
    }

    fn field(&self, name: &str) -> Result<(FieldId, &Field)> {
        self.schema.filterable(name)
    }

    fn value(&self, field: &Field, literal: &Literal) -> Result<Value> {
        match (literal, self.now_us) {
            (Literal::Now { .. }, Some(_)) if field.ty != FieldType::Timestamp => Err(query::no_timestamp(field)),
            (Literal::Now { offset_us }, Some(now_us)) => {
                let does_not_fit =
                    || Error::invalid(format!("field {}: {literal} does not fit {}", field.name, field.ty));
                now_us.checked_add(*offset_us).map(Value::Int).ok_or_else(does_not_fit)
            }
            _ => literal.to_value(field.ty, format_args!("field {}", field.name)),
        }
    }

    /// Flattens, and makes one range of several of the same field of one value: both ends of a window are then one
    /// walk over the index. (Of many values, different ones may pass.) `about`: how many they are.
    fn and(&self, about: usize, nodes: impl Iterator<Item = Result<Node>>) -> Result<Node> {
        let mut all: Vec<Node> = Vec::with_capacity(about);
        for node in nodes {
            match node? {
                Node::And(nodes) => all.extend(nodes),
                Node::Leaf(field, Test::Range(range)) if !self.schema.fields[field].many => {
                    let same = all.iter_mut().find_map(|node| match node {
                        Node::Leaf(other, Test::Range(range)) if *other == field => Some(range),
                        _ => None,
                    });
                    match same {
                        Some(same) => tighten(same, range),
                        None => all.push(Node::Leaf(field, Test::Range(range))),
                    }
                }
                node => all.push(node),
            }
        }
        Ok(one_or(all, Node::And))
    }
}

/// The only node, or all of them joined.
fn one_or(mut nodes: Vec<Node>, joined: fn(Vec<Node>) -> Node) -> Node {
    match nodes.pop() {
        Some(node) if nodes.is_empty() => node,
        last => {
            nodes.extend(last);
            joined(nodes)
        }
    }
}

fn negate(node: Node) -> Node {
    match node {
        Node::Not(inner) => *inner,
        Node::Or(nodes) => Node::And(nodes.into_iter().map(negate).collect()),
        node => Node::Not(Box::new(node)),
    }
}

/// Keeps of `range` what lies in `other` too.
pub(crate) fn tighten(range: &mut Bounds, other: Bounds) {
    let (lo, hi) = other;
    let higher = match (&range.0, &lo) {
        (_, Bound::Unbounded) => false,
        (Bound::Unbounded, _) => true,
        (Bound::Excluded(old), Bound::Included(new)) => new > old,
        (Bound::Excluded(old), Bound::Excluded(new)) => new > old,
        (Bound::Included(old), Bound::Included(new)) => new > old,
        (Bound::Included(old), Bound::Excluded(new)) => new >= old,
    };
    if higher {
        range.0 = lo;
    }
    let lower = match (&range.1, &hi) {
        (_, Bound::Unbounded) => false,
        (Bound::Unbounded, _) => true,
        (Bound::Excluded(old), Bound::Included(new)) => new < old,
        (Bound::Excluded(old), Bound::Excluded(new)) => new < old,
        (Bound::Included(old), Bound::Included(new)) => new < old,
        (Bound::Included(old), Bound::Excluded(new)) => new <= old,
    };
    if lower {
        range.1 = hi;
    }
}

impl Test {
    pub(crate) fn passes(&self, values: &[Value]) -> bool {
        match self {
            Self::AnyOf(any) => values.iter().any(|value| any.binary_search(value).is_ok()),
            Self::Range(bounds) => values.iter().any(|value| bounds.contains(value)),
            Self::IsNull => values.is_empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tightened_range_holds_what_both_hold() {
        let ends = |at: i64| [Bound::Unbounded, Bound::Included(Value::Int(at)), Bound::Excluded(Value::Int(at))];
        let ends: Vec<_> = (0..3).flat_map(ends).collect();
        let pairs: Vec<_> = ends.iter().flat_map(|lo| ends.iter().map(|hi| (lo.clone(), hi.clone()))).collect();
        for one in &pairs {
            for other in &pairs {
                let mut both = one.clone();
                tighten(&mut both, other.clone());
                for value in (-1..4).map(Value::Int) {
                    let expected = one.contains(&value) && other.contains(&value);
                    assert_eq!(both.contains(&value), expected, "{value:?} in {one:?} and {other:?}");
                }
            }
        }
    }
}
