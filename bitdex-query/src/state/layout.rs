//! What a schema means for the state, worked out once: the fields that documents hold (the schema's, then hidden ones
//! that only lead from lookups back to documents), which of them are indexed, and the ways from a changed lookup row
//! to the documents that show it.

use std::sync::Arc;

use bitdex_proto::{
    schema::{DOCUMENT_SOURCE, FieldId, Function, KEY_FIELD, Origin, Path, Schema, SourceId, SourceKind},
    value::FieldType,
};

use crate::{
    engine::NamedFilters,
    segment::{Index, Spec},
};

/// Where a row stands: a source (its number), an external field (number of sources + its number), or a hop (number of
/// sources + number of the schema's fields + its position in [`Layout::hops`]): there the key is the column's value, and
/// the row holds the keys of the lookup's rows, ascending.
pub(crate) type Place = u16;

/// A set of small numbers: of fields, or of slots.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Numbers(smallvec::SmallVec<[u64; 2]>);

impl Numbers {
    pub(crate) fn insert(&mut self, number: usize) {
        if self.0.len() <= number / 64 {
            self.0.resize(number / 64 + 1, 0);
        }
        self.0[number / 64] |= 1 << (number % 64);
    }

    pub(crate) fn contains(&self, number: usize) -> bool {
        self.0.get(number / 64).is_some_and(|word| word >> (number % 64) & 1 == 1)
    }

    pub(crate) fn extend(&mut self, others: &Self) {
        if self.0.len() < others.0.len() {
            self.0.resize(others.0.len(), 0);
        }
        self.0.iter_mut().zip(&others.0).for_each(|(word, other)| *word |= other);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> + use<'_> {
        let bits = |word: u64| (0..64).filter(move |bit| word >> bit & 1 == 1);
        self.0.iter().enumerate().flat_map(move |(n, word)| bits(*word).map(move |bit| n * 64 + bit))
    }
}

impl FromIterator<usize> for Numbers {
    fn from_iter<I: IntoIterator<Item = usize>>(numbers: I) -> Self {
        let mut all = Self::default();
        numbers.into_iter().for_each(|number| all.insert(number));
        all
    }
}

#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) schema: Arc<Schema>,
    pub(crate) fields: Vec<Slot>,
    /// By source: how to get from one of its rows to documents. Empty for all but lookups.
    pub(crate) ways: Vec<Vec<Way>>,
    /// Pairs of (lookup, column): its rows are kept by the value of this column too.
    pub(crate) hops: Vec<(SourceId, usize)>,
    spec: Spec,
    /// By slot.
    slots: Vec<Place>,
    /// By place: its slot, where it has one.
    slot_of: Vec<Option<usize>>,
    /// By place of a source or an external field: indexed fields that may change with one of its rows.
    fed: Vec<Vec<FieldId>>,
    /// By field: the slots that its value is computed from.
    inputs: Vec<Numbers>,
    /// All indexed fields.
    indexed: Vec<FieldId>,
    /// Fields with sets of which a document has one value.
    single: Vec<FieldId>,
    named: NamedFilters,
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
    /// Indexed fields that may change with the row, of documents that are reached this way.
    pub(crate) fed: Vec<FieldId>,
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
        let spec = Spec { slots: 0, fields: Vec::new() };
        let (slots, slot_of, fed, inputs, indexed, single, named) = Default::default();
        let mut layout =
            Self { schema, fields, ways, hops: Vec::new(), spec, slots, slot_of, fed, inputs, indexed, single, named };
        for field in &layout.schema.clone().fields {
            match &field.origin {
                Origin::Lookup { by, path, .. } => layout.lead_back(&Origin::Document { column: *by }, path),
                Origin::Through { members, path, .. } => {
                    layout.lead_back(&Origin::Members { source: *members }, path);
                }
                _ => {}
            }
        }
        layout.place_rows();
        layout.feed();
        layout.named = NamedFilters::new(&layout);
        layout
    }

    /// Works out the slots and how fields are indexed.
    fn place_rows(&mut self) {
        let schema = self.schema.clone();
        let sources = schema.sources.len();
        let of_sources = (0..sources).filter(|source| self.is_of_document(*source));
        let external = schema.fields.iter().enumerate().filter(|(_, field)| field.origin == Origin::External);
        self.slots = of_sources.chain(external.map(|(field, _)| sources + field)).map(|place| place as Place).collect();
        self.slot_of = (0..self.places() as Place).map(|place| self.slots.binary_search(&place).ok()).collect();
        let fields = self.fields.iter().enumerate().map(|(id, slot)| {
            let field = schema.fields.get(id);
            let ty = match (field, &slot.origin) {
                (Some(field), _) => field.ty,
                (None, Origin::Members { source }) => match schema.sources[*source].kind {
                    SourceKind::Members { ty } => ty,
                    _ => FieldType::Int,
                },
                (None, Origin::Document { column }) => schema.sources[DOCUMENT_SOURCE].columns()[*column].ty,
                (None, _) => FieldType::Int,
            };
            let many = field.map_or(matches!(slot.origin, Origin::Members { .. }), |field| field.many);
            let ordered = field.is_some_and(|field| field.sort) || schema.visible_at == Some(id);
            let index = match ty {
                _ if !slot.indexed => Index::None,
                _ if many => Index::Terms,
                FieldType::Timestamp | FieldType::Float | FieldType::Decimal(_) => Index::Column,
                _ if ordered => Index::Column,
                _ => Index::Terms,
            };
            (index, ty)
        });
        self.spec = Spec { slots: self.slots.len(), fields: fields.collect() };
        let is_single = |field: &FieldId| schema.fields.get(*field).is_some_and(|field| !field.many);
        let of_sets = self.spec.fields.iter().enumerate().filter(|(_, (index, _))| *index == Index::Terms);
        self.single = of_sets.map(|(field, _)| field).filter(is_single).collect();
    }

    /// Works out which rows feed which fields.
    fn feed(&mut self) {
        let sources = self.schema.sources.len();
        // By field: the places that its value depends on.
        let mut places: Vec<Numbers> = Vec::with_capacity(self.fields.len());
        for (id, slot) in self.fields.iter().enumerate() {
            let along =
                |path: &Path| std::iter::once(path.first).chain(path.hops.iter().map(|hop| hop.source)).collect();
            places.push(match &slot.origin {
                Origin::Key => Numbers::default(),
                Origin::Document { .. } => [DOCUMENT_SOURCE].into_iter().collect(),
                Origin::Lookup { path, .. } => {
                    let mut places: Numbers = along(path);
                    places.insert(DOCUMENT_SOURCE);
                    places
                }
                Origin::Members { source } | Origin::Metric { source, .. } => [*source].into_iter().collect(),
                Origin::Through { members, path, .. } => {
                    let mut places: Numbers = along(path);
                    places.insert(*members);
                    places
                }
                Origin::Derived { inputs, .. } => {
                    let mut all = Numbers::default();
                    inputs.iter().for_each(|input| all.extend(&places[*input]));
                    all
                }
                Origin::External => [sources + id].into_iter().collect(),
            });
        }
        let indexed = |id: &FieldId| self.fields[*id].indexed;
        self.indexed = (0..self.fields.len()).filter(indexed).collect();
        self.fed = (0..sources + self.schema.fields.len())
            .map(|place| self.indexed.iter().copied().filter(|field| places[*field].contains(place)).collect())
            .collect();
        let slots = &self.slots;
        self.inputs = places
            .iter()
            .map(|places| {
                places.iter().filter_map(|place| slots.iter().position(|slot| usize::from(*slot) == place)).collect()
            })
            .collect();
        for source in 0..sources {
            for way in 0..self.ways[source].len() {
                let fed = self.fed[source]
                    .iter()
                    .copied()
                    .filter(|field| self.leads(*field, source, &self.ways[source][way]));
                self.ways[source][way].fed = fed.collect();
            }
        }
    }

    /// Whether the value of a field depends on rows of a lookup, of documents reached this way.
    fn leads(&self, field: FieldId, source: SourceId, way: &Way) -> bool {
        let passes =
            |start: Origin, path: &Path| self.fields[way.field].origin == start && self.passes(path, source, &way.back);
        match &self.fields[field].origin {
            Origin::Lookup { by, path, .. } => passes(Origin::Document { column: *by }, path),
            Origin::Through { members, path, .. } => passes(Origin::Members { source: *members }, path),
            Origin::Derived { inputs, .. } => inputs.iter().any(|input| self.leads(*input, source, way)),
            _ => false,
        }
    }

    /// Whether rows of `source` stand on a path where it is reached back through `back`.
    fn passes(&self, path: &Path, source: SourceId, back: &[usize]) -> bool {
        let mut at = path.first;
        let Some(hops) = path.hops.get(..back.len()) else { return false };
        for (hop, back) in hops.iter().zip(back.iter().rev()) {
            if self.hops[*back] != (at, hop.by) {
                return false;
            }
            at = hop.source;
        }
        at == source
    }

    /// Whether all documents that are reached this way from one row of `source` hold the same value in a field: it
    /// depends on that row, and on rows that it leads to, alone.
    pub(crate) fn is_uniform(&self, field: FieldId, source: SourceId, way: &Way) -> bool {
        match &self.fields[field].origin {
            Origin::Lookup { by, path, .. } => {
                self.fields[way.field].origin == (Origin::Document { column: *by })
                    && self.passes(path, source, &way.back)
            }
            Origin::Derived { inputs, .. } => inputs.iter().all(|input| self.is_uniform(*input, source, way)),
            _ => false,
        }
    }

    /// Registers the ways back from each lookup of a path that begins at the value of `start`.
    fn lead_back(&mut self, start: &Origin, path: &Path) {
        let field = self.indexed_field(start);
        let mut back = Vec::new();
        let mut source = path.first;
        self.register(source, Way { back: Vec::new(), field, fed: Vec::new() });
        for hop in &path.hops {
            back.insert(0, self.hop(source, hop.by));
            source = hop.source;
            self.register(source, Way { back: back.clone(), field, fed: Vec::new() });
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
    /// The schema's filters of which sets are kept.
    pub(crate) fn named(&self) -> &NamedFilters {
        &self.named
    }

    /// Fields with sets of which a document has one value: those that cells may tell.
    pub(crate) fn single(&self) -> &[FieldId] {
        &self.single
    }

    /// Whether cells may tell what a document has of a field, or whether it is there.
    pub(crate) fn cell_tells(&self, field: FieldId) -> bool {
        field == KEY_FIELD || self.single.binary_search(&field).is_ok()
    }

    /// How fields are indexed, and how many slots documents have.
    pub(crate) fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Number of the places keyed by document among all places, in the order of their numbers.
    pub(crate) fn slot(&self, place: Place) -> Option<usize> {
        self.slot_of.get(usize::from(place)).copied().flatten()
    }

    /// The place of a slot.
    pub(crate) fn place(&self, slot: usize) -> Place {
        self.slots[slot]
    }

    pub(crate) fn external(&self, field: FieldId) -> Place {
        (self.schema.sources.len() + field) as Place
    }

    pub(crate) fn hop_place(&self, hop: usize) -> Place {
        (self.schema.sources.len() + self.schema.fields.len() + hop) as Place
    }

    /// Number of all places.
    pub(crate) fn places(&self) -> usize {
        self.schema.sources.len() + self.schema.fields.len() + self.hops.len()
    }

    /// Indexed fields whose values may change with a row of this place, derived ones included, ascending. (With the
    /// presence of a document all of them change.)
    pub(crate) fn fields_of(&self, place: Place) -> &[FieldId] {
        self.fed.get(usize::from(place)).map_or(&[], Vec::as_slice)
    }

    /// All indexed fields, ascending.
    pub(crate) fn indexed(&self) -> &[FieldId] {
        &self.indexed
    }

    /// Whether a field is the greatest of `visible_at` and others.
    pub(crate) fn follows_visible_at(&self, field: FieldId) -> bool {
        let origin = self.schema.fields.get(field).map(|field| &field.origin);
        match (origin, self.schema.visible_at) {
            (Some(Origin::Derived { function: Function::Greatest, inputs }), Some(visible)) => {
                inputs.contains(&visible)
            }
            _ => false,
        }
    }

    /// The slots that the value of a field is computed from.
    pub(crate) fn inputs_of(&self, field: FieldId) -> &Numbers {
        &self.inputs[field]
    }

    /// Whether rows of this place come from Postgres, by a load.
    pub(crate) fn is_loaded(&self, place: Place) -> bool {
        self.schema.sources.get(usize::from(place)).is_some_and(bitdex_proto::schema::Source::is_postgres)
    }
}
