//! The stream of changes that the application makes: posts, publishing, tags, ratings, metrics.

use std::fmt::Write as _;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::{
    TAGS, Workload,
    distributions::{Zipf, chance, exponential, weighted},
    generate::Generator,
    rows::{DISABLED, Image, MetricEvent, Post, timestamp},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    NewPost,
    Publish,
    Tag,
    Rate,
    Metric,
}

/// One transaction of the application (or, for a metric, one event in ClickHouse).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub kind: Kind,
    /// For Postgres, in one transaction.
    pub statements: Vec<String>,
    /// For ClickHouse.
    pub metrics: Vec<MetricEvent>,
    /// One transaction in 200 stays open for seconds.
    pub lingers: bool,
}

const KINDS: [(f64, Kind); 5] =
    [(4.0, Kind::NewPost), (3.0, Kind::Publish), (18.0, Kind::Tag), (5.0, Kind::Rate), (70.0, Kind::Metric)];

/// Endless; the same for the same seed and initial rows.
#[derive(Debug)]
pub struct Changes {
    generator: Generator,
    random: ChaCha8Rng,
    now_us: i64,
    tags: Zipf,
    images: u32,
    posts: u32,
}

impl Changes {
    /// Goes on from the initial rows.
    pub fn new(workload: Workload, generator: Generator) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(workload.seed);
        random.set_stream(4);
        Self {
            images: generator.next_image() - 1,
            posts: generator.next_post() - 1,
            generator,
            random,
            now_us: workload.now_us,
            tags: Zipf::new(TAGS, 1.02),
        }
    }

    /// The next one that goes to Postgres.
    pub fn next_for_postgres(&mut self) -> Change {
        loop {
            let change = self.make();
            if !change.statements.is_empty() {
                return change;
            }
        }
    }

    fn make(&mut self) -> Change {
        let kind = weighted(&mut self.random, &KINDS).unwrap_or(Kind::Metric);
        let lingers = chance(&mut self.random, 0.005);
        self.now_us += 14_000;
        let mut change = Change { kind, statements: Vec::new(), metrics: Vec::new(), lingers };
        match kind {
            Kind::NewPost => {
                let size = 1 + exponential(&mut self.random, 3.7) as u32;
                let published_us = chance(&mut self.random, 0.5).then_some(self.now_us);
                let (post, images) = self.generator.post_of(size, self.now_us, published_us, self.now_us);
                change.statements = insert(&post, &images);
            }
            Kind::Publish => {
                let post = self.recent(self.posts);
                change.statements.push(format!(
                    "UPDATE \"Post\" SET \"publishedAt\" = '{}' WHERE id = {post}",
                    timestamp(self.now_us)
                ));
            }
            Kind::Tag => {
                let (image, tag) = (self.recent(self.images), self.tags.sample(&mut self.random));
                change.statements.push(match self.random.random_range(0..4) {
                    0 => format!("DELETE FROM \"TagsOnImage\" WHERE \"imageId\" = {image} AND \"tagId\" = {tag}"),
                    1 => format!(
                        "UPDATE \"TagsOnImage\" SET attributes = attributes # {DISABLED} WHERE \"imageId\" = {image}"
                    ),
                    _ => format!(
                        "INSERT INTO \"TagsOnImage\" (\"imageId\", \"tagId\") SELECT id, {tag} FROM \"Image\" \
                         WHERE id = {image} ON CONFLICT DO NOTHING"
                    ),
                });
            }
            Kind::Rate => {
                let (image, level) = (self.recent(self.images), 1 << self.random.random_range(0..6));
                change.statements.push(format!("UPDATE \"Image\" SET \"nsfwLevel\" = {level} WHERE id = {image}"));
            }
            Kind::Metric => change.metrics.push(MetricEvent {
                image: self.recent(self.images),
                metric: weighted(
                    &mut self.random,
                    &[(90.0, "reactionCount"), (3.0, "commentCount"), (7.0, "collectedCount")],
                )
                .unwrap_or("reactionCount"),
                delta: if chance(&mut self.random, 0.9) { 1 } else { -1 },
                created_us: self.now_us,
            }),
        }
        change
    }

    /// Mostly one of the newest.
    fn recent(&mut self, newest: u32) -> u32 {
        let back = exponential(&mut self.random, f64::from(newest) / 10.0) as u32;
        newest.saturating_sub(back).max(1)
    }
}

impl Iterator for Changes {
    type Item = Change;

    fn next(&mut self) -> Option<Change> {
        Some(self.make())
    }
}

fn null_or<T>(value: Option<T>, text: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| "NULL".into(), text)
}

fn quoted(text: impl std::fmt::Display) -> String {
    format!("'{text}'")
}

/// The statements that insert a post with its images and what belongs to them.
pub fn insert(post: &Post, images: &[Image]) -> Vec<String> {
    let mut statements = vec![format!(
        "INSERT INTO \"Post\" VALUES ({}, {}, {}, '{}', {})",
        post.id,
        post.user,
        null_or(post.published_us, |us| quoted(timestamp(us))),
        post.availability,
        null_or(post.version, |version| version.to_string()),
    )];
    let mut rows: Vec<(&str, String)> = [
        "\"Image\"",
        "\"TagsOnImage\"",
        "\"ImageTool\"",
        "\"ImageTechnique\"",
        "\"ImageResource\"",
        "\"CollectionItem\"",
    ]
    .map(|table| (table, String::new()))
    .into();
    for image in images {
        let id = image.id;
        // Writing to a String cannot fail.
        let _ = write!(
            rows[0].1,
            ", ({id}, '{}', {}, {}, {}, '{}', {}, {}, {}, '{}', {}, {}, {}, {})",
            image.url,
            null_or(image.hash.as_ref(), quoted),
            image.nsfw_level,
            image.flags,
            image.kind,
            image.user,
            null_or(image.blocked_for, quoted),
            null_or(image.scanned_us, |us| quoted(timestamp(us))),
            timestamp(image.created_us),
            image.post,
            image.width,
            image.height,
            null_or(image.meta.as_ref(), quoted),
        );
        for (tag, disabled) in &image.tags {
            let _ = write!(rows[1].1, ", ({id}, {tag}, {})", if *disabled { DISABLED } else { 0 });
        }
        for tool in &image.tools {
            let _ = write!(rows[2].1, ", ({id}, {tool})");
        }
        for technique in &image.techniques {
            let _ = write!(rows[3].1, ", ({id}, {technique})");
        }
        for resource in &image.resources {
            let _ = write!(rows[4].1, ", ({}, {}, {})", resource.image, resource.version, resource.detected);
        }
        for item in &image.collections {
            let _ = write!(rows[5].1, ", ({}, {}, {id}, '{}')", item.id, item.collection, item.status);
        }
    }
    let filled = rows.into_iter().filter(|(_, rows)| !rows.is_empty());
    statements.extend(filled.map(|(table, rows)| format!("INSERT INTO {table} VALUES {}", &rows[2..])));
    statements
}
