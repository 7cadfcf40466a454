//! What stays the same from page to page of an answer, as a hash that cursors carry. Every release must make the same
//! one of the same request, as long as the version of cursors is the same.

use xxhash_rust::xxh3::xxh3_128;

use super::{Comparator, Filter, SearchRequest};
use crate::{Result, schema::Schema, value::Literal};

impl SearchRequest {
    /// Of index, filter, sort, include_pending and distinct.
    pub fn identity(&self, schema: &Schema) -> Result<[u8; 16]> {
        let mut text = Text(Vec::with_capacity(512));
        text.bytes(self.index.as_bytes());
        match &self.filter {
            None => text.tag(0),
            Some(filter) => {
                text.tag(1);
                match filter.has_names() {
                    // What a name means may change while pages are read.
                    true => text.filter(&filter.expanded(schema)?),
                    false => text.filter(filter),
                }
            }
        }
        text.length(self.sort.len());
        for sort in &self.sort {
            text.bytes(sort.field.as_bytes());
            text.tag(sort.descending.into());
        }
        text.tag(self.include_pending.into());
        text.bytes(self.distinct.as_deref().unwrap_or_default().as_bytes());
        Ok(xxh3_128(&text.0).to_le_bytes())
    }
}

/// No two requests have the same one: each part says of what kind, and how long, it is.
struct Text(Vec<u8>);

impl Text {
    fn tag(&mut self, tag: u8) {
        self.0.push(tag);
    }

    fn length(&mut self, length: usize) {
        self.0.extend_from_slice(&(length as u64).to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.length(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    fn filter(&mut self, filter: &Filter) {
        match filter {
            Filter::And(filters) => self.filters(0, filters),
            Filter::Or(filters) => self.filters(1, filters),
            Filter::Not(filter) => self.filters(2, std::slice::from_ref(filter)),
            Filter::Compare { field, comparator, value } => {
                let comparator = match comparator {
                    Comparator::Eq => 0,
                    Comparator::Ne => 1,
                    Comparator::Lt => 2,
                    Comparator::Le => 3,
                    Comparator::Gt => 4,
                    Comparator::Ge => 5,
                };
                self.0.extend_from_slice(&[3, comparator]);
                self.bytes(field.as_bytes());
                self.literal(value);
            }
            Filter::In { field, values, negated, all } => {
                self.0.extend_from_slice(&[4, u8::from(*negated), u8::from(*all)]);
                self.bytes(field.as_bytes());
                self.length(values.len());
                values.iter().for_each(|value| self.literal(value));
            }
            Filter::IsNull { field } => {
                self.tag(5);
                self.bytes(field.as_bytes());
            }
            Filter::Named { name } => {
                self.tag(6);
                self.bytes(name.as_bytes());
            }
        }
    }

    fn filters(&mut self, tag: u8, filters: &[Filter]) {
        self.tag(tag);
        self.length(filters.len());
        filters.iter().for_each(|filter| self.filter(filter));
    }

    fn literal(&mut self, literal: &Literal) {
        let mut number = |tag, number: u64| {
            self.tag(tag);
            self.0.extend_from_slice(&number.to_le_bytes());
        };
        match literal {
            Literal::Int(int) => number(0, *int as u64),
            Literal::Float(float) => number(1, float.to_bits()),
            Literal::Bool(bool) => number(2, (*bool).into()),
            Literal::Text(text) => {
                self.tag(3);
                self.bytes(text.as_bytes());
            }
            Literal::TimestampUs(us) => number(4, *us as u64),
            Literal::Decimal { unscaled, scale } => {
                number(5, *unscaled as u64);
                self.0.extend_from_slice(&scale.to_le_bytes());
            }
            Literal::Now { offset_us } => number(6, *offset_us as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, sync::Arc};

    use super::*;
    use crate::definition::Definition;

    const DEFINITION: &str = "
index: images
document: { table: image, key: id }
fields:
  a: { type: int, filter: true, sort: true }
  b: { type: string, filter: true }
  at: { type: timestamp, filter: true }
filters:
  few: 'a < LESS'
";

    fn schema(less: &str) -> Arc<Schema> {
        Definition::parse(&DEFINITION.replace("LESS", less)).unwrap().schema().clone()
    }

    fn request(filter: &str, rest: &str) -> SearchRequest {
        serde_json::from_str(&format!(r#"{{"index": "images", "filter": {filter} {rest}}}"#)).unwrap()
    }

    #[test]
    fn it_stays_the_same_from_release_to_release() {
        let filter = r#"{"and": [{"field": "a", "in": [1, 2]}, {"field": "b", "eq": "x"},
            {"not": {"field": "at", "ge": {"now": "-24h"}}}]}"#;
        let identity = request(filter, r#", "sort": [{"field": "a", "descending": true}]"#).identity(&schema("5"));
        assert_eq!(u128::from_le_bytes(identity.unwrap()), 0x5a3e663a_303b6413_c60d586e_4575c9fa);
    }

    #[test]
    fn requests_of_other_answers_differ() {
        let one = r#"{"field": "a", "eq": 1}"#;
        let two = r#"{"field": "a", "eq": 2}"#;
        let requests = [
            ("null".into(), ""),
            (one.into(), ""),
            (two.into(), ""),
            (r#"{"field": "a", "lt": 1}"#.into(), ""),
            (r#"{"field": "a", "in": [1]}"#.into(), ""),
            (r#"{"field": "a", "not_in": [1]}"#.into(), ""),
            (r#"{"field": "a", "all": [1]}"#.into(), ""),
            (r#"{"field": "a", "in": [1, 2]}"#.into(), ""),
            (r#"{"field": "a", "is_null": true}"#.into(), ""),
            (r#"{"field": "b", "eq": "1"}"#.into(), ""),
            (r#"{"field": "at", "ge": 1}"#.into(), ""),
            (r#"{"field": "at", "ge": {"now": "1us"}}"#.into(), ""),
            (r#"{"named": "few"}"#.into(), ""),
            (format!(r#"{{"not": {one}}}"#), ""),
            (format!(r#"{{"and": [{one}, {two}]}}"#), ""),
            (format!(r#"{{"or": [{one}, {two}]}}"#), ""),
            (format!(r#"{{"and": [{{"or": [{one}]}}, {two}]}}"#), ""),
            (format!(r#"{{"and": [{{"or": [{one}, {two}]}}]}}"#), ""),
            (one.into(), r#", "sort": [{"field": "a"}]"#),
            (one.into(), r#", "sort": [{"field": "a", "descending": true}]"#),
            (one.into(), r#", "sort": [{"field": "a"}, {"field": "id"}]"#),
            (one.into(), r#", "include_pending": true"#),
            (one.into(), r#", "distinct": "a""#),
        ];
        let schema = schema("5");
        let identity = |(filter, rest): &(String, &str)| request(filter, rest).identity(&schema).unwrap();
        let all: HashSet<_> = requests.iter().map(identity).collect();
        assert_eq!(all.len(), requests.len());
    }

    #[test]
    fn what_pages_may_change_leaves_it_as_it_is() {
        let one = r#"{"field": "a", "eq": 1}"#;
        let identity = |rest: &str| request(one, rest).identity(&schema("5")).unwrap();
        for rest in [r#", "limit": 7"#, r#", "fields": ["a"]"#, r#", "now_us": 1"#, r#", "count": true"#] {
            assert_eq!(identity(rest), identity(""), "{rest}");
        }
    }

    #[test]
    fn a_name_counts_as_what_it_means() {
        let named = request(r#"{"named": "few"}"#, "");
        let spelled_out = request(r#"{"field": "a", "lt": 5}"#, "");
        assert_eq!(named.identity(&schema("5")), spelled_out.identity(&schema("5")));
        assert_ne!(named.identity(&schema("5")), named.identity(&schema("6")));
    }
}
