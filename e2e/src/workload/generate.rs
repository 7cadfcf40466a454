//! The rows, post by post in the order of time, and blocks of them as COPY takes them.

use rand::{Rng as _, RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::{
    BASE_MODELS, DAY_US, HOUR_US, SECOND_US, TAGS, TECHNIQUES, TOOLS, Workload, base_model,
    distributions::{Zipf, chance, exponential, heavy, weighted},
    rows::{CollectionItem, HAS_META, Image, Line, MINOR, MetricEvent, ON_SITE, POI, Post, Resource},
    schema::TABLES,
};

/// How far back the first image lies.
const SPAN_US: i64 = 3 * 365 * DAY_US;
/// Images of a block.
const BLOCK: u32 = 5_000;

/// Positions in [`TABLES`].
pub mod table {
    pub const USER: usize = 0;
    pub const MODEL: usize = 1;
    pub const VERSION: usize = 2;
    pub const POST: usize = 3;
    pub const IMAGE: usize = 4;
    pub const TAG: usize = 5;
    pub const TOOL: usize = 6;
    pub const TECHNIQUE: usize = 7;
    pub const RESOURCE: usize = 8;
    pub const COLLECTION: usize = 9;
}

/// Rows of every table, as COPY's text; and metric events, as ClickHouse's tab-separated text.
#[derive(Debug, Default)]
pub struct Block {
    pub tables: [Vec<u8>; TABLES.len()],
    pub rows: [u64; TABLES.len()],
    pub metrics: Vec<u8>,
    pub events: u64,
    pub images: u64,
}

impl Block {
    fn row(&mut self, table: usize, write: impl FnOnce(&mut Line)) {
        let mut line = Line::of(std::mem::take(&mut self.tables[table]));
        write(&mut line);
        self.tables[table] = line.into_inner();
        self.rows[table] += 1;
    }

    fn add(&mut self, post: &Post, images: &[Image]) {
        self.row(table::POST, |line| post.write(line));
        for image in images {
            self.image(image);
        }
    }

    fn image(&mut self, image: &Image) {
        let id = i64::from(image.id);
        self.row(table::IMAGE, |line| image.write(line));
        for (tag, disabled) in &image.tags {
            let attributes = if *disabled { super::rows::DISABLED } else { 0 };
            self.row(table::TAG, |line| line.int(id).int((*tag).into()).int(attributes.into()).end());
        }
        for tool in &image.tools {
            self.row(table::TOOL, |line| line.int(id).int((*tool).into()).end());
        }
        for technique in &image.techniques {
            self.row(table::TECHNIQUE, |line| line.int(id).int((*technique).into()).end());
        }
        for resource in &image.resources {
            self.row(table::RESOURCE, |line| resource.write(line));
        }
        for item in &image.collections {
            self.row(table::COLLECTION, |line| item.write(image.id, line));
        }
        let mut line = Line::of(std::mem::take(&mut self.metrics));
        for event in &image.metrics {
            event.write(&mut line);
        }
        self.metrics = line.into_inner();
        self.events += image.metrics.len() as u64;
        self.images += 1;
    }
}

/// Makes posts with their images, one after the other; the same after the initial rows for the stream of changes.
#[derive(Debug)]
pub struct Generator {
    workload: Workload,
    random: ChaCha8Rng,
    users: Zipf,
    tags: Zipf,
    versions: Zipf,
    collections: Zipf,
    next_image: u32,
    next_post: u32,
    next_item: u32,
    /// Images made so far, which decides their time.
    made: u32,
}

impl Generator {
    pub fn new(workload: Workload) -> Self {
        Self {
            workload,
            random: ChaCha8Rng::seed_from_u64(workload.seed),
            users: Zipf::new(workload.users(), 1.05),
            tags: Zipf::new(TAGS, 1.02),
            versions: Zipf::new(workload.versions(), 1.05),
            collections: Zipf::new(workload.collections(), 1.1),
            next_image: 1,
            next_post: 1,
            next_item: 1,
            made: 0,
        }
    }

    /// Goes on behind these ids.
    pub fn behind(self, image: u32, post: u32) -> Self {
        Self { next_image: image + 1, next_post: post + 1, ..self }
    }

    /// Ids used so far are below this.
    pub fn next_image(&self) -> u32 {
        self.next_image
    }

    pub fn next_post(&self) -> u32 {
        self.next_post
    }

    /// Images come ever quicker as the site grows.
    fn created_us(&self) -> i64 {
        let place = (f64::from(self.made) / f64::from(self.workload.images.max(1))).min(1.0);
        let age = SPAN_US as f64 * (1.0 - place.sqrt());
        self.workload.now_us - age as i64 - SECOND_US
    }

    /// A post as the initial rows have it: most are published, some are drafts or scheduled.
    pub fn post(&mut self) -> (Post, Vec<Image>) {
        let size = 1 + exponential(&mut self.random, 3.7) as u32;
        let created_us = self.created_us();
        let now_us = self.workload.now_us;
        let fate: f64 = self.random.random();
        let published_us = if fate < 0.15 {
            None
        } else if fate < 0.153 {
            Some(now_us + 60 * SECOND_US + exponential(&mut self.random, 3.0 * DAY_US as f64) as i64)
        } else {
            let at = created_us + exponential(&mut self.random, 4.0 * HOUR_US as f64) as i64;
            Some(at.min(now_us - SECOND_US / 2))
        };
        self.post_of(size, created_us, published_us, now_us)
    }

    /// A post with as many images, made and published at these times. `written_us`: when its rows are, before which all
    /// that they tell of images has happened.
    pub fn post_of(
        &mut self,
        size: u32,
        created_us: i64,
        published_us: Option<i64>,
        written_us: i64,
    ) -> (Post, Vec<Image>) {
        let random = &mut self.random;
        let availability = [(97.5, "Public"), (1.4, "Private"), (1.0, "Unsearchable"), (0.1, "EarlyAccess")];
        let post = Post {
            id: self.next_post,
            user: self.users.sample(random),
            published_us,
            availability: weighted(random, &availability).unwrap_or("Public"),
            version: chance(random, 0.3).then(|| self.versions.sample(random)),
        };
        self.next_post += 1;
        let made_us = |place: u32| (created_us + i64::from(place) * SECOND_US).min(written_us);
        let images = (0..size).map(|place| self.image(&post, made_us(place), written_us)).collect();
        (post, images)
    }

    fn image(&mut self, post: &Post, created_us: i64, written_us: i64) -> Image {
        let id = self.next_image;
        self.next_image += 1;
        self.made += 1;
        let random = &mut self.random;
        let has_meta = chance(random, 0.6);
        let mut flags = 0;
        for (flag, set) in [
            (HAS_META, has_meta),
            (ON_SITE, chance(random, 0.35)),
            (MINOR, chance(random, 0.005)),
            (POI, chance(random, 0.01)),
        ] {
            flags |= if set { flag } else { 0 };
        }
        let reasons = ["tos", "moderated", "CSAM", "AiNotVerified"];
        let resources = self.resources(id);
        let random = &mut self.random;
        let mut image = Image {
            id,
            url: format!("{:016x}-{:08x}", random.next_u64(), random.next_u32()),
            hash: (!chance(random, 0.05)).then(|| format!("U{:016x}{:08x}", random.next_u64(), random.next_u32())),
            nsfw_level: weighted(random, &NSFW_LEVELS).unwrap_or(1),
            flags,
            kind: weighted(random, &[(93.0, "image"), (6.9, "video"), (0.1, "audio")]).unwrap_or("image"),
            user: post.user,
            blocked_for: chance(random, 0.02).then(|| reasons[random.random_range(0..reasons.len())]),
            scanned_us: (!chance(random, 0.03))
                .then(|| (created_us + exponential(random, 60.0 * SECOND_US as f64) as i64).min(written_us)),
            created_us,
            post: post.id,
            width: 64 * random.random_range(8..=32),
            height: 64 * random.random_range(8..=32),
            meta: has_meta.then(|| {
                format!(
                    "{{\"seed\": {}, \"steps\": {}, \"prompt\": \"{:016x} {:016x}\"}}",
                    random.next_u32(),
                    random.random_range(10..60),
                    random.next_u64(),
                    random.next_u64()
                )
            }),
            tags: Vec::new(),
            tools: if chance(random, 0.12) { distinct(random, 0.91, TOOLS) } else { Vec::new() },
            techniques: if chance(random, 0.08) { distinct(random, 1.6, TECHNIQUES) } else { Vec::new() },
            resources,
            collections: Vec::new(),
            metrics: Vec::new(),
        };
        image.tags = self.image_tags();
        image.collections = self.items();
        image.metrics = metrics(&mut self.random, id, created_us);
        if chance(&mut self.random, 0.02) {
            self.next_image += self.random.random_range(1..=3);
        }
        image
    }

    fn image_tags(&mut self) -> Vec<(u32, bool)> {
        let many = exponential(&mut self.random, 11.0).round() as usize;
        let mut tags: Vec<u32> = (0..many).map(|_| self.tags.sample(&mut self.random)).collect();
        tags.sort_unstable();
        tags.dedup();
        tags.into_iter().map(|tag| (tag, chance(&mut self.random, 0.03))).collect()
    }

    fn resources(&mut self, id: u32) -> Vec<Resource> {
        let random = &mut self.random;
        let many = exponential(random, 3.3) as usize;
        let mut versions: Vec<u32> = (0..many).map(|_| self.versions.sample(random)).collect();
        if chance(random, 0.002) {
            // Of a version that is gone.
            versions.push(self.workload.versions() + random.random_range(1..=100));
        }
        versions.sort_unstable();
        versions.dedup();
        let mut resources: Vec<Resource> = versions
            .into_iter()
            .map(|version| Resource { image: id, version, detected: chance(random, 0.8) })
            .collect();
        if chance(random, 0.001) {
            // Of an image that is gone; ids this high are never given out.
            let image = 0x4000_0000 + id;
            resources.push(Resource { image, version: self.versions.sample(random), detected: true });
        }
        resources
    }

    fn items(&mut self) -> Vec<CollectionItem> {
        let mut items: Vec<CollectionItem> = Vec::new();
        while chance(&mut self.random, 0.091) {
            let collection = match items.last() {
                // An image may stand twice in one collection.
                Some(last) if chance(&mut self.random, 0.1) => last.collection,
                _ => self.collections.sample(&mut self.random),
            };
            let status = if chance(&mut self.random, 0.95) { "ACCEPTED" } else { "REVIEW" };
            items.push(CollectionItem { id: self.next_item, collection, status });
            self.next_item += 1;
        }
        items
    }
}

const NSFW_LEVELS: [(f64, u32); 6] = [(72.0, 1), (8.0, 2), (7.0, 4), (7.0, 8), (5.0, 16), (1.0, 32)];

/// One value and as many more as an exponential of this mean, cut down to a whole number, says.
fn distinct(random: &mut ChaCha8Rng, more: f64, of: u32) -> Vec<u32> {
    let many = 1 + exponential(random, more) as u32;
    let mut values: Vec<u32> = (0..many).map(|_| random.random_range(1..=of)).collect();
    values.sort_unstable();
    values.dedup();
    values
}

/// (metric, share of images, exponent of the tail, most).
const METRICS: [(&str, f64, f64, u32); 3] =
    [("reactionCount", 0.60, 1.2, 60_000), ("commentCount", 0.03, 1.66, 500), ("collectedCount", 0.15, 1.4, 5_000)];

fn metrics(random: &mut ChaCha8Rng, image: u32, created_us: i64) -> Vec<MetricEvent> {
    let mut events = Vec::new();
    for (metric, share, alpha, top) in METRICS {
        if !chance(random, share) {
            continue;
        }
        let value = heavy(random, alpha, top) as i32;
        let mut event = |delta| events.push(MetricEvent { image, metric, delta, created_us });
        if chance(random, 0.1) {
            // Given and taken back: the value is the sum.
            event(value + 1);
            event(-1);
        } else {
            event(value);
        }
    }
    events
}

/// All initial rows, in blocks; the first holds the tables that do not grow with images one by one.
#[derive(Debug)]
pub struct Blocks {
    generator: Generator,
    fixed: bool,
}

impl Blocks {
    pub fn new(workload: Workload) -> Self {
        Self { generator: Generator::new(workload), fixed: false }
    }

    /// Goes on where the initial rows ended.
    pub fn into_generator(self) -> Generator {
        self.generator
    }
}

impl Iterator for Blocks {
    type Item = Block;

    fn next(&mut self) -> Option<Block> {
        let workload = self.generator.workload;
        let mut block = Block::default();
        if !self.fixed {
            self.fixed = true;
            fixed(workload, &mut block);
            return Some(block);
        }
        let end = workload.images.min(self.generator.made.saturating_add(BLOCK));
        if self.generator.made >= workload.images {
            return None;
        }
        while self.generator.made < end {
            let (post, mut images) = self.generator.post();
            let over = (self.generator.made.saturating_sub(workload.images)) as usize;
            images.truncate(images.len() - over);
            block.add(&post, &images);
        }
        Some(block)
    }
}

/// Users, models and versions, on streams of their own.
fn fixed(workload: Workload, block: &mut Block) {
    let mut random = ChaCha8Rng::seed_from_u64(workload.seed);
    random.set_stream(1);
    for id in 1..=workload.users() {
        let name = format!("user{id}-{:04x}", random.random::<u16>());
        block.row(table::USER, |line| line.int(id.into()).text(&name).end());
    }
    random.set_stream(2);
    for id in 1..=workload.models() {
        let kind = if chance(&mut random, 0.25) { "Checkpoint" } else { "LORA" };
        let poi = chance(&mut random, 0.02);
        block.row(table::MODEL, |line| line.int(id.into()).text(kind).bool(poi).end());
    }
    random.set_stream(3);
    let base = Zipf::new(BASE_MODELS, 1.2);
    for id in 1..=workload.versions() {
        let base = base_model(base.sample(&mut random));
        let model = random.random_range(1..=workload.models());
        block.row(table::VERSION, |line| line.int(id.into()).text(&base).int(model.into()).end());
    }
}
