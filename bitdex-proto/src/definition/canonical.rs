//! The canonical form of a definition: equal exactly where two definitions mean the same index. Its hash names the
//! definition. Comments, layout, and line numbers are no part of it; order is, because it numbers sources and fields.

use std::{fmt::Write as _, sync::Arc};

use super::{Definition, MemberSource, MetricsSource, RowSource, SourceColumn};
use crate::schema::{Origin, Schema};

/// Raised when the same text would come to mean another index.
const VERSION: u32 = 1;

/// The definition of these parts, with its hash.
pub(super) fn hashed(
    mut schema: Schema,
    document: RowSource,
    lookups: Vec<RowSource>,
    members: Vec<MemberSource>,
    metrics: Vec<MetricsSource>,
) -> Definition {
    let mut text = Canonical(format!("bitdex definition {VERSION}\n"));
    text.line(&["index", &schema.index]);
    text.rows("document", &document);
    for lookup in &lookups {
        text.rows("lookup", lookup);
    }
    for source in &members {
        text.line(&[
            "members",
            &source.name,
            &source.table.to_string(),
            &source.key,
            &source.value,
            &source.ty.to_string(),
            source.where_.as_deref().unwrap_or_default(),
        ]);
    }
    for source in &metrics {
        text.line(&[
            "metrics",
            &source.name,
            &source.table,
            &source.key,
            source.inserted_at.as_deref().unwrap_or_default(),
            source.where_.as_deref().unwrap_or_default(),
        ]);
        text.columns(&source.columns);
    }
    for field in &schema.fields {
        text.line(&[
            "field",
            &field.name,
            &field.ty.to_string(),
            if field.many { "many" } else { "one" },
            if field.filter { "filter" } else { "" },
            if field.sort { "sort" } else { "" },
            &origin(&field.origin),
        ]);
    }
    if let Some(field) = schema.visible_at {
        text.line(&["visible_at", &schema.fields[field].name]);
    }
    schema.hash = blake3::hash(text.0.as_bytes()).to_hex().to_string();
    Definition { schema: Arc::new(schema), document, lookups, members, metrics }
}

struct Canonical(String);

impl Canonical {
    /// One line of parts, each with its length in front, so that no two lists of parts read the same.
    fn line(&mut self, parts: &[&str]) {
        for part in parts {
            // Writing to a string cannot fail.
            let _ = write!(self.0, "{}:{part} ", part.len());
        }
        self.0.push('\n');
    }

    fn rows(&mut self, kind: &str, source: &RowSource) {
        let condition = source.where_.as_deref().unwrap_or_default();
        self.line(&[kind, &source.name, &source.table.to_string(), &source.key, condition]);
        self.columns(&source.columns);
    }

    fn columns(&mut self, columns: &[SourceColumn]) {
        for column in columns {
            self.line(&["column", &column.name, &column.ty.to_string(), &column.sql]);
        }
    }
}

fn origin(origin: &Origin) -> String {
    let path = |path: &crate::schema::Path| {
        let hops: Vec<_> = path.hops.iter().map(|hop| format!("{}>{}", hop.by, hop.source)).collect();
        format!("{}[{}]", path.first, hops.join(","))
    };
    match origin {
        Origin::Key => "key".into(),
        Origin::Document { column } => format!("document {column}"),
        Origin::Lookup { by, path: walk, column } => format!("lookup {by} {} {column}", path(walk)),
        Origin::Members { source } => format!("members {source}"),
        Origin::Through { members, path: walk, column } => format!("through {members} {} {column}", path(walk)),
        Origin::Derived { function, inputs } => format!("derived {function:?} {inputs:?}"),
        Origin::Metric { source, column, default } => format!("metric {source} {column} {default:?}"),
        Origin::External => "external".into(),
    }
}
