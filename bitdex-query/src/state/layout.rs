//! What a schema means for the state, worked out once: the fields that documents hold (the schema's, then hidden ones
//! that only lead from lookups back to documents), which of them are indexed, and the ways from a changed lookup row
//! to the documents that show it.

use std::sync::Arc;

use bitdex_proto::schema::{DOCUMENT_SOURCE, FieldId, KEY_FIELD, Origin, Path, Schema, SourceId, SourceKind};

use crate::segment::Spec;

/// Where a row stands: a source (its number), an external field (number of sources + its number), or a hop (number of
/// sources + number of the schema's fields + its position in [`Layout::hops`]): there the key is the column's value, and
/// the row holds the keys of the lookup's rows, ascending.
pub(crate) type Place = u16;

#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) schema: Arc<Schema>,
    pub(crate) fields: Vec<Slot>,
    /// By source: how to get from one of its rows to documents. Empty for all but lookups.
    pub(crate) ways: Vec<Vec<Way>>,
    /// Pairs of (lookup, column): its rows are kept by the value of this column too.
    pub(crate) hops: Vec<(SourceId, usize)>,
}

/// One field of the documents.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) origin: Origin,
    /// Whether value → ids is kept. The key field needs none: it is its own index.
    pub(crate) indexed: bool,
}

/// From a row of a lookup to documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Way {
    /// Positions in [`Layout::hops`], to go back through in this order.
    pub(crate) back: Vec<usize>,
    /// The indexed field that holds the key at which the walk began.
    pub(crate) field: FieldId,
}

impl Layout {
    pub(crate) fn new(schema: Arc<Schema>) -> Self {
        let fields = schema
            .fields
            .iter()
            .enumerate()
            .map(|(id, field)| Slot {
                origin: field.origin.clone(),
                indexed: id != KEY_FIELD && (field.filter || field.sort || schema.visible_at == Some(id)),
            })
            .collect();
        let ways = vec![Vec::new(); schema.sources.len()];
        let mut layout = Self { schema, fields, ways, hops: Vec::new() };
        for field in &layout.schema.clone().fields {
            match &field.origin {
                Origin::Lookup { by, path, .. } => layout.lead_back(&Origin::Document { column: *by }, path),
                Origin::Through { members, path, .. } => {
                    layout.lead_back(&Origin::Members { source: *members }, path);
                }
                _ => {}
            }
        }
        layout
    }

    /// Registers the ways back from each lookup of a path that begins at the value of `start`.
    fn lead_back(&mut self, start: &Origin, path: &Path) {
        let field = self.indexed_field(start);
        let mut back = Vec::new();
        let mut source = path.first;
        self.register(source, Way { back: Vec::new(), field });
        for hop in &path.hops {
            back.insert(0, self.hop(source, hop.by));
            source = hop.source;
            self.register(source, Way { back: back.clone(), field });
        }
    }

    fn register(&mut self, source: SourceId, way: Way) {
        if !self.ways[source].contains(&way) {
            self.ways[source].push(way);
        }
    }

    /// The field of this origin, indexed; a hidden one where the schema has none.
    fn indexed_field(&mut self, origin: &Origin) -> FieldId {
        match self.fields.iter().position(|slot| slot.origin == *origin) {
            Some(field) => {
                self.fields[field].indexed = true;
                field
            }
            None => {
                self.fields.push(Slot { origin: origin.clone(), indexed: true });
                self.fields.len() - 1
            }
        }
    }

    fn hop(&mut self, source: SourceId, column: usize) -> usize {
        self.hops.iter().position(|hop| *hop == (source, column)).unwrap_or_else(|| {
            self.hops.push((source, column));
            self.hops.len() - 1
        })
    }

    /// Whether a change of a row with this key concerns the document of that id, and no other.
    pub(crate) fn is_of_document(&self, source: SourceId) -> bool {
        source == DOCUMENT_SOURCE || !matches!(self.schema.sources[source].kind, SourceKind::Lookup { .. })
    }
}

impl Layout {
    /// How fields are indexed, and how many slots documents have.
    pub(crate) fn spec(&self) -> &Spec {
        todo!("state")
    }

    /// Number of the places keyed by document among all places, in the order of their numbers.
    pub(crate) fn slot(&self, _place: Place) -> Option<usize> {
        todo!("state")
    }

    /// The place of a slot.
    pub(crate) fn place(&self, _slot: usize) -> Place {
        todo!("state")
    }

    pub(crate) fn external(&self, _field: FieldId) -> Place {
        todo!("state")
    }

    pub(crate) fn hop_place(&self, _hop: usize) -> Place {
        todo!("state")
    }

    /// Number of all places.
    pub(crate) fn places(&self) -> usize {
        todo!("state")
    }
}
