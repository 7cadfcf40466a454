//! The rows of the site, and how they are written: lines of COPY's text format, and values of an INSERT.

use std::io::Write as _;

/// Column values of one row as COPY's text format; `\N` is null.
#[derive(Debug, Default)]
pub struct Line(Vec<u8>);

impl Line {
    pub fn of(buffer: Vec<u8>) -> Self {
        Self(buffer)
    }

    pub fn into_inner(self) -> Vec<u8> {
        self.0
    }

    fn separate(&mut self) {
        if self.0.last().is_some_and(|byte| *byte != b'\n') {
            self.0.push(b'\t');
        }
    }

    pub fn int(&mut self, int: i64) -> &mut Self {
        self.separate();
        // Writing to a Vec cannot fail.
        let _ = write!(self.0, "{int}");
        self
    }

    /// The generator's texts hold no character that COPY escapes.
    pub fn text(&mut self, text: &str) -> &mut Self {
        debug_assert!(!text.is_empty() && !text.contains(['\t', '\n', '\\', '\r']));
        self.separate();
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    pub fn bool(&mut self, bool: bool) -> &mut Self {
        self.text(if bool { "t" } else { "f" })
    }

    pub fn time(&mut self, us: i64) -> &mut Self {
        let text = timestamp(us);
        self.text(&text)
    }

    pub fn null(&mut self) -> &mut Self {
        self.text_raw(b"\\N")
    }

    fn text_raw(&mut self, text: &[u8]) -> &mut Self {
        self.separate();
        self.0.extend_from_slice(text);
        self
    }

    pub fn optional<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) -> &mut Self {
        match value {
            Some(value) => write(self, value),
            None => {
                self.null();
            }
        }
        self
    }

    pub fn end(&mut self) {
        self.0.push(b'\n');
    }
}

/// As Postgres and ClickHouse read it, in UTC.
pub fn timestamp(us: i64) -> String {
    chrono::DateTime::from_timestamp_micros(us)
        .map(|time| time.format("%Y-%m-%d %H:%M:%S%.6f+00").to_string())
        .unwrap_or_default()
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Post {
    pub id: u32,
    pub user: u32,
    pub published_us: Option<i64>,
    pub availability: &'static str,
    pub version: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    pub id: u32,
    pub url: String,
    pub hash: Option<String>,
    pub nsfw_level: u32,
    pub flags: u32,
    pub kind: &'static str,
    pub user: u32,
    pub blocked_for: Option<&'static str>,
    pub scanned_us: Option<i64>,
    pub created_us: i64,
    pub post: u32,
    pub width: u32,
    pub height: u32,
    pub meta: Option<String>,
    /// With whether the tag is disabled (bit 10 of its attributes).
    pub tags: Vec<(u32, bool)>,
    pub tools: Vec<u32>,
    pub techniques: Vec<u32>,
    pub resources: Vec<Resource>,
    pub collections: Vec<CollectionItem>,
    pub metrics: Vec<MetricEvent>,
}

/// Of an image, or of one that is gone: nothing keeps these rows to existing images or versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resource {
    pub image: u32,
    pub version: u32,
    pub detected: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CollectionItem {
    pub id: u32,
    pub collection: u32,
    pub status: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetricEvent {
    pub image: u32,
    pub metric: &'static str,
    pub delta: i32,
    pub created_us: i64,
}

/// Bit 13.
pub const HAS_META: u32 = 1 << 13;
/// Bit 14.
pub const ON_SITE: u32 = 1 << 14;
/// Bit 3.
pub const MINOR: u32 = 1 << 3;
/// Bit 4.
pub const POI: u32 = 1 << 4;
/// Bit 10 of a tag's attributes.
pub const DISABLED: u32 = 1 << 10;

impl Post {
    pub fn write(&self, line: &mut Line) {
        line.int(self.id.into()).int(self.user.into()).optional(self.published_us, |line, us| {
            line.time(us);
        });
        line.text(self.availability).optional(self.version, |line, version| {
            line.int(version.into());
        });
        line.end();
    }
}

impl Image {
    pub fn write(&self, line: &mut Line) {
        line.int(self.id.into()).text(&self.url).optional(self.hash.as_deref(), |line, hash| {
            line.text(hash);
        });
        line.int(self.nsfw_level.into()).int(self.flags.into()).text(self.kind).int(self.user.into());
        line.optional(self.blocked_for, |line, reason| {
            line.text(reason);
        });
        line.optional(self.scanned_us, |line, us| {
            line.time(us);
        });
        line.time(self.created_us).int(self.post.into()).int(self.width.into()).int(self.height.into());
        line.optional(self.meta.as_deref(), |line, meta| {
            line.text(meta);
        });
        line.end();
    }
}

impl Resource {
    pub fn write(&self, line: &mut Line) {
        line.int(self.image.into()).int(self.version.into()).bool(self.detected).end();
    }
}

impl CollectionItem {
    pub fn write(&self, image: u32, line: &mut Line) {
        line.int(self.id.into()).int(self.collection.into()).int(image.into()).text(self.status).end();
    }
}

impl MetricEvent {
    /// `imageId, metric, delta, createdAt`; the time in seconds with a fraction, as ClickHouse takes it.
    pub fn write(&self, line: &mut Line) {
        let (seconds, millis) = (self.created_us.div_euclid(1_000_000), self.created_us.rem_euclid(1_000_000) / 1_000);
        line.int(self.image.into()).text(self.metric).int(self.delta.into());
        line.text(&format!("{seconds}.{millis:03}")).end();
    }
}
