//! YAML as a tree whose every node knows its place.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::{DuplicateKeyPolicy, Location, Spanned};

use super::error::{DefinitionError, DefinitionErrors, Position};

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct At<T> {
    pub value: T,
    pub at: Position,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<At<Node>>),
    /// In the order of the file; no key twice.
    Map(Vec<(At<String>, At<Node>)>),
}

impl Node {
    /// For errors: what stands here instead of what was wanted.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Null => "nothing".into(),
            Self::Bool(value) => value.to_string(),
            Self::Int(value) => value.to_string(),
            Self::Float(value) => value.to_string(),
            Self::Text(value) => format!("{value:?}"),
            Self::List(_) => "a list".into(),
            Self::Map(_) => "a mapping".into(),
        }
    }
}

/// Reads one YAML document.
pub(super) fn read(text: &str) -> Result<At<Node>, DefinitionErrors> {
    let options = serde_saphyr::options! {
        duplicate_keys: DuplicateKeyPolicy::Error,
        // Only `true` and `false` are bools, so that a field may be called `on` or `no`.
        strict_booleans: true,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options::<Spanned<Node>>(text, options).map(place).map_err(|error| {
        let at = error.location().map_or(Position { line: 1, column: 1 }, |location| position(&location));
        let message = error.without_snippet().to_string();
        // One line an error, and the line number is in front already.
        let message = message.lines().next().unwrap_or_default();
        DefinitionErrors(vec![DefinitionError { at, message: format!("this is no valid YAML: {message}") }])
    })
}

fn position(location: &Location) -> Position {
    Position { line: location.line() as usize, column: location.column() as usize }
}

fn place<T>(spanned: Spanned<T>) -> At<T> {
    At { at: position(&spanned.referenced), value: spanned.value }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a scalar, a list or a mapping")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Int(value))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Node, E> {
        i64::try_from(value).map(Node::Int).map_err(|_| E::custom(format!("{value} does not fit a 64-bit integer")))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = list.next_element::<Spanned<Node>>()? {
            nodes.push(place(node));
        }
        Ok(Node::List(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries: Vec<(At<String>, At<Node>)> = Vec::new();
        while let Some((key, value)) = map.next_entry::<Spanned<String>, Spanned<Node>>()? {
            let key = place(key);
            if entries.iter().any(|(known, _)| known.value == key.value) {
                return Err(A::Error::custom(format!("{} stands here twice", key.value)));
            }
            entries.push((key, place(value)));
        }
        Ok(Node::Map(entries))
    }
}
