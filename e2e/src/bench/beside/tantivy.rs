//! tantivy with the workload's rows, as one who knows it would use it for this mix: one segment in a mapped folder, its
//! documents in the order (sortAt, id) descending, so that the commonest sort ends at the page's last row and a window
//! of time is a range of documents; every field of few values as bits of one packed column, tested in batches; terms
//! only of fields that are selective; own loops over blocks of postings, no query parser, no scores; the other sorts by
//! a fast field with a threshold; exclusions by seeking, after everything else. Stored fields lie uncompressed in
//! blocks of 4 KB.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};
use bitdex_proto::{
    query::{Comparator, Filter, SearchRequest},
    schema::Schema,
    value::{FieldValue, Literal, Value},
};
use tantivy::{
    DocId, DocSet as _, Index, IndexBuilder, IndexSettings, TERMINATED, TantivyDocument, Term,
    columnar::ColumnValues,
    directory::MmapDirectory,
    index::SegmentReader,
    postings::{BlockSegmentPostings, SegmentPostings},
    schema::{Field, IndexRecordOption, NumericOptions, STORED, TextFieldIndexing, TextOptions, Value as _},
    store::{Compressor, StoreReader},
};

use super::{
    Key,
    flat::{COUNTS, Flat, Flats},
};
use crate::workload::rows::{HAS_META, MINOR, POI};

/// Bytes that the writer may hold before it would begin a second segment; one is made whatever it holds.
const WRITER_MEMORY: usize = 1 << 30;
const STORE_BLOCK: usize = 4 << 10;
/// Decompressed blocks that the store's reader keeps, as tantivy's own searcher does.
const STORE_CACHE: usize = 100;
/// Documents that are tested at a time.
const BATCH: usize = 128;
/// Stands for a null in a column of times.
const NO_TIME: i64 = i64::MIN;

// Bits of the packed column; the levels stand for themselves.
const LEVELS: u64 = 0b11_1111;
const KINDS: [&str; 3] = ["image", "video", "audio"];
const KIND: u32 = 6;
const PUBLIC: u64 = 1 << 9;
const NOT_BLOCKED: u64 = 1 << 10;
const NOT_POI: u64 = 1 << 11;
const NOT_MINOR: u64 = 1 << 12;
const PUBLISHED: u64 = 1 << 13;
const META: u64 = 1 << 14;

/// Fields whose values are terms.
const TERMS: [&str; 4] = ["userId", "tagIds", "modelVersionIds", "toolIds"];

#[derive(Debug, Clone)]
struct Fields {
    schema: tantivy::schema::Schema,
    packed: Field,
    published: Field,
}

impl Fields {
    fn of(schema: &Schema) -> Self {
        let mut builder = tantivy::schema::Schema::builder();
        for field in &schema.fields {
            let name = field.name.as_str();
            match name {
                "id" | "reactionCount" | "commentCount" | "collectedCount" => {
                    builder.add_u64_field(name, NumericOptions::default().set_stored().set_fast());
                }
                "sortAt" => {
                    builder.add_i64_field(name, NumericOptions::default().set_stored().set_fast());
                }
                "existedAt" | "publishedAt" => {
                    builder.add_i64_field(name, STORED);
                }
                "baseModels" => {
                    let terms = TextFieldIndexing::default()
                        .set_tokenizer("raw")
                        .set_index_option(IndexRecordOption::Basic)
                        .set_fieldnorms(false);
                    builder.add_text_field(name, TextOptions::default().set_stored().set_indexing_options(terms));
                }
                name if TERMS.contains(&name) => {
                    builder.add_u64_field(name, NumericOptions::default().set_stored().set_indexed());
                }
                "url" | "hash" | "type" | "blockedFor" | "availability" | "labels" => {
                    builder.add_text_field(name, STORED);
                }
                "hasMeta" | "onSite" | "minor" | "poi" | "isPublished" | "resourcePoi" => {
                    builder.add_bool_field(name, STORED);
                }
                _ => {
                    builder.add_u64_field(name, STORED);
                }
            }
        }
        let packed = builder.add_u64_field("packed", NumericOptions::default().set_fast());
        let published = builder.add_i64_field("publishedOrNone", NumericOptions::default().set_fast());
        Self { schema: builder.build(), packed, published }
    }
}

fn packed(flat: &Flat) -> u64 {
    let kind = KINDS.iter().position(|kind| *kind == flat.kind).map_or(0, |place| 1 << (KIND + place as u32));
    let set = |is: bool, bit: u64| if is { bit } else { 0 };
    u64::from(flat.nsfw_level) & LEVELS
        | kind
        | set(flat.availability == "Public", PUBLIC)
        | set(flat.blocked_for.is_none(), NOT_BLOCKED)
        | set(flat.flags & POI == 0, NOT_POI)
        | set(flat.flags & MINOR == 0, NOT_MINOR)
        | set(flat.published_us.is_some(), PUBLISHED)
        | set(flat.flags & HAS_META != 0, META)
}

/// An open index.
pub(super) struct Tantivy {
    fields: Fields,
    segment: SegmentReader,
    store: StoreReader,
    packed: Column<u64>,
    sort_us: Column<i64>,
    published_us: Column<i64>,
    ids: Column<u64>,
    counts: [Column<u64>; 3],
}

type Column<T> = std::sync::Arc<dyn ColumnValues<T>>;

/// What a query asks for.
struct Wanted {
    all: u64,
    /// One of these bits besides.
    any: u64,
    /// A document has one of these terms.
    terms: Option<Vec<Term>>,
    /// And none of these.
    except: Vec<Term>,
    since_us: i64,
}

impl Tantivy {
    /// Writes the index into an empty folder.
    pub(super) fn build(flats: &Flats, schema: &Schema, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)?;
        let fields = Fields::of(schema);
        let settings = IndexSettings {
            docstore_compression: Compressor::None,
            docstore_blocksize: STORE_BLOCK,
            ..IndexSettings::default()
        };
        let mut writer = IndexBuilder::new()
            .schema(fields.schema.clone())
            .settings(settings)
            .single_segment_index_writer(MmapDirectory::open(folder)?, WRITER_MEMORY)?;
        let mut order: Vec<&Flat> = flats.documents.iter().collect();
        order.sort_unstable_by_key(|flat| std::cmp::Reverse((flat.sort_us(), flat.id)));
        for flat in order {
            let mut document = TantivyDocument::new();
            for (place, value) in flats.values(flat, schema)?.iter().enumerate() {
                // Fields are numbered in the order in which they were added.
                let field = Field::from_field_id(u32::try_from(place)?);
                let signed = matches!(schema.fields[place].name.as_str(), "sortAt" | "existedAt" | "publishedAt");
                for value in value.values() {
                    match value {
                        Value::Int(int) if signed => document.add_i64(field, *int),
                        Value::Int(int) => document.add_u64(field, u64::try_from(*int)?),
                        Value::Bool(bool) => document.add_bool(field, *bool),
                        Value::Text(text) => document.add_text(field, text),
                        Value::Float(float) => document.add_f64(field, float.get()),
                    }
                }
            }
            document.add_u64(fields.packed, packed(flat));
            document.add_i64(fields.published, flat.published_us.unwrap_or(NO_TIME));
            writer.add_document(document)?;
        }
        writer.finalize()?;
        Ok(())
    }

    pub(super) fn open(schema: &Schema, folder: &Path) -> Result<Self> {
        let fields = Fields::of(schema);
        let searcher = Index::open_in_dir(folder)?.reader()?.searcher();
        let [segment] = searcher.segment_readers() else { bail!("the index has not one segment") };
        let fast = segment.fast_fields();
        let [reactions, comments, collections] = COUNTS.map(|name| fast.u64(name));
        Ok(Self {
            packed: fast.u64("packed")?.values,
            sort_us: fast.i64("sortAt")?.values,
            published_us: fast.i64("publishedOrNone")?.values,
            ids: fast.u64("id")?.values,
            counts: [reactions?.values, comments?.values, collections?.values],
            store: segment.get_store_reader(STORE_CACHE)?,
            segment: segment.clone(),
            fields,
        })
    }

    /// The documents of a page, best first.
    pub(super) fn search(&self, request: &SearchRequest, after: Option<Key>, now_us: i64) -> Result<Vec<DocId>> {
        let wanted = self.wanted(request, now_us)?;
        let limit = request.limit as usize;
        let [sort] = request.sort.as_slice() else { bail!("one field to sort by") };
        if !sort.descending {
            bail!("descending only");
        }
        if sort.field == "sortAt" {
            let start = after.map_or(0, |(us, id)| {
                self.first(|doc| (self.sort_us.get_val(doc), self.ids.get_val(doc)) < (us, u64::from(id)))
            });
            let mut page = Vec::with_capacity(limit);
            self.matches(&wanted, start, now_us, |docs| {
                page.extend(docs.iter().take(limit - page.len()));
                page.len() < limit
            })?;
            return Ok(page);
        }
        let place = COUNTS.iter().position(|count| *count == sort.field).context("an unknown field to sort by")?;
        let after = after.map(|(value, id)| (u64::try_from(value).unwrap_or(0), u64::from(id)));
        self.top(&wanted, &self.counts[place], after, limit, now_us)
    }

    pub(super) fn ids(&self, docs: &[DocId]) -> Vec<u32> {
        let mut ids = vec![0; docs.len()];
        self.ids.get_vals(docs, &mut ids);
        ids.into_iter().map(|id| id as u32).collect()
    }

    pub(super) fn documents(&self, docs: &[DocId]) -> Result<Vec<TantivyDocument>> {
        docs.iter().map(|doc| Ok(self.store.get(*doc)?)).collect()
    }

    /// What a document holds in every field of the schema.
    pub(super) fn values(&self, document: &TantivyDocument, schema: &Schema) -> Vec<FieldValue> {
        let mut all: Vec<Vec<Value>> = vec![Vec::new(); schema.fields.len()];
        for (field, value) in document.field_values() {
            let Some(values) = all.get_mut(field.field_id() as usize) else { continue };
            let int = value.as_i64().or_else(|| value.as_u64().and_then(|int| i64::try_from(int).ok()));
            values.extend(
                int.map(Value::Int)
                    .or_else(|| value.as_bool().map(Value::Bool))
                    .or_else(|| value.as_str().map(|text| Value::Text(text.into()))),
            );
        }
        let fields = schema.fields.iter().zip(all);
        fields
            .map(
                |(field, values)| {
                    if field.many { FieldValue::many(values) } else { FieldValue::one(values.into_iter().next()) }
                },
            )
            .collect()
    }

    pub(super) fn count(&self, request: &SearchRequest, now_us: i64) -> Result<u64> {
        let wanted = self.wanted(request, now_us)?;
        let mut count = 0;
        self.matches(&wanted, 0, now_us, |docs| {
            count += docs.len() as u64;
            true
        })?;
        Ok(count)
    }

    fn wanted(&self, request: &SearchRequest, now_us: i64) -> Result<Wanted> {
        let mut wanted = Wanted { all: 0, any: !0, terms: None, except: Vec::new(), since_us: i64::MIN };
        let Some(Filter::And(filters)) = &request.filter else { bail!("a filter that the mix does not have") };
        for filter in filters {
            match filter {
                Filter::IsNull { field } if field == "blockedFor" => wanted.all |= NOT_BLOCKED,
                Filter::Compare { field, comparator: Comparator::Eq, value } => match (field.as_str(), value) {
                    ("availability", Literal::Text(text)) if text == "Public" => wanted.all |= PUBLIC,
                    ("type", Literal::Text(text)) => {
                        let place = KINDS.iter().position(|kind| kind == text).context("an unknown type")?;
                        wanted.all |= 1 << (KIND + place as u32);
                    }
                    ("poi", Literal::Bool(false)) => wanted.all |= NOT_POI,
                    ("minor", Literal::Bool(false)) => wanted.all |= NOT_MINOR,
                    ("isPublished", Literal::Bool(true)) => wanted.all |= PUBLISHED,
                    ("hasMeta", Literal::Bool(true)) => wanted.all |= META,
                    (_, value) => self.one_of(&mut wanted, field, std::slice::from_ref(value))?,
                },
                Filter::In { field, values, negated: false, all: false } if field == "nsfwLevel" => {
                    wanted.any = 0;
                    for value in values {
                        let Literal::Int(level) = value else { bail!("levels are integers") };
                        wanted.any |= u64::try_from(*level)? & LEVELS;
                    }
                }
                Filter::In { field, values, negated: false, all: false } => self.one_of(&mut wanted, field, values)?,
                Filter::In { field, values, negated: true, all: false } => {
                    wanted.except.extend(self.terms(field, values)?);
                }
                Filter::Compare { field, comparator: Comparator::Ge, value: Literal::Now { offset_us } }
                    if field == "sortAt" =>
                {
                    wanted.since_us = now_us + offset_us;
                }
                other => bail!("a filter that the mix does not have: {other:?}"),
            }
        }
        Ok(wanted)
    }

    fn one_of(&self, wanted: &mut Wanted, field: &str, values: &[Literal]) -> Result<()> {
        if wanted.terms.replace(self.terms(field, values)?).is_some() {
            bail!("two selective fields in one query");
        }
        Ok(())
    }

    fn terms(&self, field: &str, values: &[Literal]) -> Result<Vec<Term>> {
        let field = self.fields.schema.get_field(field)?;
        let term = |value: &Literal| {
            Ok(match value {
                Literal::Int(int) => Term::from_field_u64(field, u64::try_from(*int)?),
                Literal::Text(text) => Term::from_field_text(field, text),
                other => bail!("no term: {other}"),
            })
        };
        values.iter().map(term).collect()
    }

    /// The first document of which this is true; it is of all that follow.
    fn first(&self, is: impl Fn(DocId) -> bool) -> DocId {
        let (mut low, mut high) = (0, self.segment.max_doc());
        while low < high {
            let middle = low + (high - low) / 2;
            if is(middle) { high = middle } else { low = middle + 1 }
        }
        low
    }

    fn postings(&self, term: &Term) -> Result<Option<SegmentPostings>> {
        let index = self.segment.inverted_index(term.field())?;
        Ok(index.read_postings(term, IndexRecordOption::Basic)?)
    }

    fn block_postings(&self, term: &Term) -> Result<Option<BlockSegmentPostings>> {
        let index = self.segment.inverted_index(term.field())?;
        let Some(info) = index.get_term_info(term)? else { return Ok(None) };
        Ok(Some(index.read_block_postings_from_terminfo(&info, IndexRecordOption::Basic)?))
    }

    /// What is not in the packed column, for documents in ascending order.
    fn rest(&self, wanted: &Wanted, now_us: i64) -> Result<Rest<'_>> {
        let except = wanted.except.iter().filter_map(|term| self.postings(term).transpose()).collect::<Result<_>>()?;
        // Behind the documents that come by then, nothing is hidden: sortAt is never before publishedAt.
        let shown_from = self.first(|doc| self.sort_us.get_val(doc) <= now_us);
        Ok(Rest { published_us: &*self.published_us, shown_from, now_us, except })
    }

    /// Calls `take` with matching documents from `start` on, in ascending order, until it returns false.
    fn matches(
        &self,
        wanted: &Wanted,
        start: DocId,
        now_us: i64,
        mut take: impl FnMut(&[DocId]) -> bool,
    ) -> Result<()> {
        let mut rest = self.rest(wanted, now_us)?;
        let end = match wanted.since_us {
            i64::MIN => self.segment.max_doc(),
            since_us => self.first(|doc| self.sort_us.get_val(doc) < since_us),
        };
        let mut source = match wanted.terms.as_deref() {
            None => Source::All(start),
            Some([term]) => match self.block_postings(term)? {
                None => return Ok(()),
                Some(mut postings) => {
                    let within = postings.seek(start);
                    Source::One { postings: Box::new(postings), within }
                }
            },
            Some(terms) => {
                let mut union: Vec<SegmentPostings> =
                    terms.iter().filter_map(|term| self.postings(term).transpose()).collect::<Result<_>>()?;
                for postings in &mut union {
                    if postings.doc() < start {
                        postings.seek(start);
                    }
                }
                Source::Union(union)
            }
        };
        let (mut docs, mut values) = ([0; BATCH], [0; BATCH]);
        loop {
            let many = source.next(end, &mut docs);
            if many == 0 {
                return Ok(());
            }
            match source {
                Source::All(_) => self.packed.get_range(docs[0].into(), &mut values[..many]),
                _ => self.packed.get_vals(&docs[..many], &mut values[..many]),
            }
            let mut kept = 0;
            for place in 0..many {
                docs[kept] = docs[place];
                kept += usize::from(values[place] & wanted.all == wanted.all && values[place] & wanted.any != 0);
            }
            let kept = rest.keep(&mut docs, kept);
            if !take(&docs[..kept]) {
                return Ok(());
            }
        }
    }

    /// The best by (value, id) descending.
    fn top(
        &self,
        wanted: &Wanted,
        values: &Column<u64>,
        after: Option<(u64, u64)>,
        limit: usize,
        now_us: i64,
    ) -> Result<Vec<DocId>> {
        let mut best = Best { limit, after, at_least: 0, rows: Vec::with_capacity(2 * limit) };
        let mut batch = [0; BATCH];
        if wanted.terms.is_some() {
            self.matches(wanted, 0, now_us, |docs| {
                values.get_vals(docs, &mut batch[..docs.len()]);
                for (doc, value) in docs.iter().zip(batch) {
                    best.offer(*doc, value, &*self.ids);
                }
                true
            })?;
            return Ok(best.page());
        }
        // Few documents reach the threshold, once it has risen: the value is looked at first.
        let mut rest = self.rest(wanted, now_us)?;
        let end = match wanted.since_us {
            i64::MIN => self.segment.max_doc(),
            since_us => self.first(|doc| self.sort_us.get_val(doc) < since_us),
        };
        let mut source = Source::All(0);
        let mut docs = [0; BATCH];
        loop {
            let many = source.next(end, &mut docs);
            if many == 0 {
                return Ok(best.page());
            }
            values.get_range(docs[0].into(), &mut batch[..many]);
            let first = docs[0];
            let mut kept = 0;
            for (place, value) in batch[..many].iter().enumerate() {
                docs[kept] = first + place as u32;
                kept += usize::from(*value >= best.at_least);
            }
            let mut passed = 0;
            for place in 0..kept {
                let doc = docs[place];
                let packed = self.packed.get_val(doc);
                docs[passed] = doc;
                passed += usize::from(packed & wanted.all == wanted.all && packed & wanted.any != 0);
            }
            let passed = rest.keep(&mut docs, passed);
            for doc in &docs[..passed] {
                best.offer(*doc, batch[(doc - first) as usize], &*self.ids);
            }
        }
    }
}

/// Documents that may match, ascending.
enum Source {
    All(DocId),
    One { postings: Box<BlockSegmentPostings>, within: usize },
    Union(Vec<SegmentPostings>),
}

impl Source {
    /// The next ones below `end`; 0: there are no more.
    fn next(&mut self, end: DocId, docs: &mut [DocId; BATCH]) -> usize {
        match self {
            Self::All(next) => {
                let many = (end.saturating_sub(*next) as usize).min(BATCH);
                for (place, doc) in docs[..many].iter_mut().enumerate() {
                    *doc = *next + place as u32;
                }
                *next += many as u32;
                many
            }
            Self::One { postings, within } => {
                let block = postings.docs();
                let block = block.get(*within..).unwrap_or_default();
                let many = block.partition_point(|doc| *doc < end).min(BATCH);
                docs[..many].copy_from_slice(&block[..many]);
                postings.advance();
                *within = 0;
                many
            }
            Self::Union(all) => {
                let mut many = 0;
                while many < BATCH {
                    let doc = all.iter().map(SegmentPostings::doc).min().unwrap_or(TERMINATED);
                    if doc >= end {
                        break;
                    }
                    for postings in all.iter_mut() {
                        if postings.doc() == doc {
                            postings.advance();
                        }
                    }
                    docs[many] = doc;
                    many += 1;
                }
                many
            }
        }
    }
}

/// Tests that few documents need.
struct Rest<'a> {
    published_us: &'a dyn ColumnValues<i64>,
    shown_from: DocId,
    now_us: i64,
    except: Vec<SegmentPostings>,
}

impl Rest<'_> {
    /// Moves those that pass to the front; how many they are.
    fn keep(&mut self, docs: &mut [DocId; BATCH], many: usize) -> usize {
        if many == 0 || (self.except.is_empty() && docs[0] >= self.shown_from) {
            return many;
        }
        let mut kept = 0;
        for place in 0..many {
            let doc = docs[place];
            let shown = doc >= self.shown_from || self.published_us.get_val(doc) <= self.now_us;
            let excepted = self
                .except
                .iter_mut()
                .any(|postings| (if postings.doc() < doc { postings.seek(doc) } else { postings.doc() }) == doc);
            docs[kept] = doc;
            kept += usize::from(shown && !excepted);
        }
        kept
    }
}

/// The best rows so far.
struct Best {
    limit: usize,
    /// Rows must come behind this one.
    after: Option<(u64, u64)>,
    /// What does not reach this is not among the best.
    at_least: u64,
    rows: Vec<(u64, u64, DocId)>,
}

impl Best {
    fn offer(&mut self, doc: DocId, value: u64, ids: &dyn ColumnValues<u64>) {
        if value < self.at_least || self.after.is_some_and(|(after, _)| value > after) {
            return;
        }
        let row = (value, ids.get_val(doc), doc);
        if self.after.is_some_and(|after| (row.0, row.1) >= after) {
            return;
        }
        self.rows.push(row);
        if self.rows.len() >= 2 * self.limit.max(1) {
            self.cut();
        }
    }

    fn cut(&mut self) {
        if self.rows.len() > self.limit && self.limit > 0 {
            let (_, last, _) = self.rows.select_nth_unstable_by(self.limit - 1, |a, b| b.cmp(a));
            self.at_least = last.0;
            self.rows.truncate(self.limit);
        }
    }

    fn page(mut self) -> Vec<DocId> {
        self.cut();
        self.rows.sort_unstable_by(|a, b| b.cmp(a));
        self.rows.into_iter().map(|(_, _, doc)| doc).collect()
    }
}
