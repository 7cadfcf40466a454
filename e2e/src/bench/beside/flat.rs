//! The workload's documents as the definition's view gives them, made straight from the generator: what Postgres and
//! tantivy are filled with, and what the index's answers are held against.

use std::{collections::HashMap, io::Write as _};

use anyhow::{Context as _, Result, bail};
use bitdex_proto::{
    schema::Schema,
    value::{FieldType, FieldValue, Value},
};

use crate::workload::{
    Workload,
    generate::{Blocks, table},
    rows::{HAS_META, Image, MINOR, ON_SITE, POI, Post, timestamp},
};

/// One document: about 400 bytes.
#[derive(Debug)]
pub(super) struct Flat {
    pub(super) id: u32,
    pub(super) url: Box<str>,
    pub(super) hash: Option<Box<str>>,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) nsfw_level: u32,
    pub(super) kind: &'static str,
    pub(super) user: u32,
    pub(super) post: u32,
    pub(super) blocked_for: Option<&'static str>,
    pub(super) flags: u32,
    pub(super) availability: &'static str,
    pub(super) posted_to: Option<u32>,
    pub(super) existed_us: i64,
    pub(super) published_us: Option<i64>,
    pub(super) tags: Box<[u32]>,
    pub(super) tools: Box<[u32]>,
    pub(super) techniques: Box<[u32]>,
    pub(super) versions: Box<[u32]>,
    /// Places in [`Flats::bases`].
    pub(super) bases: Box<[u8]>,
    /// Whether one of its models shows no real person, and whether one does.
    pub(super) resource_poi: [bool; 2],
    pub(super) collections: Box<[u32]>,
    /// Reactions, comments, collections.
    pub(super) counts: [i32; 3],
}

/// Fields in the order of [`Flat::counts`].
pub(super) const COUNTS: [&str; 3] = ["reactionCount", "commentCount", "collectedCount"];

/// All documents, ids ascending.
#[derive(Debug)]
pub(super) struct Flats {
    pub(super) documents: Vec<Flat>,
    pub(super) bases: Vec<Box<str>>,
}

impl Flats {
    pub(super) fn make(workload: Workload) -> Result<Self> {
        let mut blocks = Blocks::new(workload);
        let fixed = blocks.next().context("a workload without models")?;
        let mut models = HashMap::new();
        for line in lines(&fixed.tables[table::MODEL])? {
            models.insert(line[0].parse::<u32>()?, line[2] == "t");
        }
        let mut bases: Vec<Box<str>> = Vec::new();
        let mut versions = HashMap::new();
        for line in lines(&fixed.tables[table::VERSION])? {
            let base = match bases.iter().position(|base| **base == *line[1]) {
                Some(base) => base,
                None => {
                    bases.push(line[1].into());
                    bases.len() - 1
                }
            };
            let poi = models.get(&line[2].parse()?).copied();
            versions.insert(line[0].parse::<u32>()?, (u8::try_from(base)?, poi));
        }
        drop(fixed);
        let mut generator = blocks.into_generator();
        let mut documents = Vec::with_capacity(workload.images as usize);
        while documents.len() < workload.images as usize {
            let (post, mut images) = generator.post();
            images.truncate(workload.images as usize - documents.len());
            for image in images {
                documents.push(Flat::new(&post, image, &versions)?);
            }
        }
        Ok(Self { documents, bases })
    }

    pub(super) fn find(&self, id: u32) -> Result<&Flat> {
        let place = self.documents.binary_search_by_key(&id, |flat| flat.id).ok();
        place.and_then(|place| self.documents.get(place)).with_context(|| format!("there is no document {id}"))
    }

    /// What a document holds in every field of the schema.
    pub(super) fn values(&self, flat: &Flat, schema: &Schema) -> Result<Vec<FieldValue>> {
        schema.fields.iter().map(|field| self.value(flat, &field.name)).collect()
    }

    fn value(&self, flat: &Flat, field: &str) -> Result<FieldValue> {
        let int = |int: u32| FieldValue::One(Value::Int(int.into()));
        let time = |us: i64| FieldValue::One(Value::Int(us));
        let text = |text: &str| FieldValue::One(Value::Text(text.into()));
        let flag = |flag: u32| FieldValue::One(Value::Bool(flat.flags & flag != 0));
        let ints = |ints: &[u32]| FieldValue::many(ints.iter().map(|int| Value::Int((*int).into())).collect());
        let optional = |value: Option<FieldValue>| value.unwrap_or(FieldValue::Null);
        Ok(match field {
            "id" => int(flat.id),
            "url" => text(&flat.url),
            "hash" => optional(flat.hash.as_deref().map(text)),
            "width" => int(flat.width),
            "height" => int(flat.height),
            "nsfwLevel" => int(flat.nsfw_level),
            "type" => text(flat.kind),
            "userId" => int(flat.user),
            "postId" => int(flat.post),
            "blockedFor" => optional(flat.blocked_for.map(text)),
            "hasMeta" => flag(HAS_META),
            "onSite" => flag(ON_SITE),
            "minor" => flag(MINOR),
            "poi" => flag(POI),
            "existedAt" => time(flat.existed_us),
            "publishedAt" => optional(flat.published_us.map(time)),
            "availability" => text(flat.availability),
            "postedToId" => optional(flat.posted_to.map(int)),
            "tagIds" => ints(&flat.tags),
            "toolIds" => ints(&flat.tools),
            "techniqueIds" => ints(&flat.techniques),
            "modelVersionIds" => ints(&flat.versions),
            "baseModels" => FieldValue::many(self.base_models(flat).map(|base| Value::Text(base.into())).collect()),
            "resourcePoi" => {
                let seen = [false, true].into_iter().zip(flat.resource_poi).filter(|(_, seen)| *seen);
                FieldValue::many(seen.map(|(poi, _)| Value::Bool(poi)).collect())
            }
            "collectionIds" => ints(&flat.collections),
            "sortAt" => time(flat.sort_us()),
            "isPublished" => FieldValue::One(Value::Bool(flat.published_us.is_some())),
            "pinnedRank" | "labels" => FieldValue::Null,
            other => match COUNTS.iter().position(|count| *count == other) {
                Some(place) => FieldValue::One(Value::Int(flat.counts[place].into())),
                None => bail!("the workload's documents have no {other}"),
            },
        })
    }

    pub(super) fn base_models<'a>(&'a self, flat: &'a Flat) -> impl Iterator<Item = &'a str> {
        flat.bases.iter().filter_map(|base| self.bases.get(usize::from(*base))).map(|base| &**base)
    }

    /// A line of COPY's text, one column a field of the schema.
    pub(super) fn write(&self, flat: &Flat, schema: &Schema, out: &mut Vec<u8>) -> Result<()> {
        for (place, field) in schema.fields.iter().enumerate() {
            if place > 0 {
                out.push(b'\t');
            }
            let value = self.value(flat, &field.name)?;
            match &value {
                FieldValue::Null => out.extend(b"\\N"),
                FieldValue::One(value) => one(value, field.ty, out)?,
                FieldValue::Many(values) => {
                    out.push(b'{');
                    for (place, value) in values.iter().enumerate() {
                        if place > 0 {
                            out.push(b',');
                        }
                        // The workload's texts hold nothing that an array's text escapes, once they are quoted.
                        if matches!(value, Value::Text(_)) {
                            out.push(b'"');
                        }
                        one(value, field.ty, out)?;
                        if matches!(value, Value::Text(_)) {
                            out.push(b'"');
                        }
                    }
                    out.push(b'}');
                }
            }
        }
        out.push(b'\n');
        Ok(())
    }
}

fn one(value: &Value, ty: FieldType, out: &mut Vec<u8>) -> Result<()> {
    match value {
        Value::Int(us) if ty == FieldType::Timestamp => out.extend(timestamp(*us).bytes()),
        Value::Int(int) => write!(out, "{int}")?,
        Value::Bool(bool) => out.push(if *bool { b't' } else { b'f' }),
        Value::Text(text) => out.extend(text.bytes()),
        Value::Float(float) => write!(out, "{}", float.get())?,
    }
    Ok(())
}

impl Flat {
    fn new(post: &Post, image: Image, versions: &HashMap<u32, (u8, Option<bool>)>) -> Result<Self> {
        let resources: Vec<u32> = image
            .resources
            .iter()
            .filter(|resource| resource.detected && resource.image == image.id)
            .map(|resource| resource.version)
            .collect();
        let (mut bases, mut resource_poi) = (Vec::new(), [false; 2]);
        for (base, poi) in resources.iter().filter_map(|version| versions.get(version)) {
            bases.push(*base);
            if let Some(poi) = poi {
                resource_poi[usize::from(*poi)] = true;
            }
        }
        let mut counts = [0; 3];
        for event in &image.metrics {
            let place = COUNTS.iter().position(|count| *count == event.metric);
            counts[place.context("an unknown metric")?] += event.delta;
        }
        let accepted = image.collections.iter().filter(|item| item.status == "ACCEPTED");
        Ok(Self {
            id: image.id,
            url: image.url.into(),
            hash: image.hash.map(Into::into),
            width: image.width,
            height: image.height,
            nsfw_level: image.nsfw_level,
            kind: image.kind,
            user: image.user,
            post: image.post,
            blocked_for: image.blocked_for,
            flags: image.flags,
            availability: post.availability,
            posted_to: post.version,
            existed_us: image.scanned_us.map_or(image.created_us, |us| us.max(image.created_us)),
            published_us: post.published_us,
            tags: set(image.tags.iter().filter(|(_, disabled)| !disabled).map(|(tag, _)| *tag)),
            tools: set(image.tools),
            techniques: set(image.techniques),
            versions: set(resources),
            bases: set(bases),
            resource_poi,
            collections: set(accepted.map(|item| item.collection)),
            counts,
        })
    }

    pub(super) fn sort_us(&self) -> i64 {
        self.published_us.map_or(self.existed_us, |us| us.max(self.existed_us))
    }
}

fn set<T: Ord>(values: impl IntoIterator<Item = T>) -> Box<[T]> {
    let mut values: Vec<T> = values.into_iter().collect();
    values.sort_unstable();
    values.dedup();
    values.into()
}

/// Lines of COPY's text.
fn lines(text: &[u8]) -> Result<Vec<Vec<&str>>> {
    Ok(std::str::from_utf8(text)?.lines().map(|line| line.split('\t').collect()).collect())
}
