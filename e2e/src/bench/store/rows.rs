//! The workload's rows as COPY in binary format gives them, a file for each part of a load, written ahead so that
//! making them is no part of what is measured.

use std::{
    fs::File,
    io::{BufReader, BufWriter, Read as _, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use bitdex_proto::{
    ops::{Op, Row},
    schema::{DOCUMENT_SOURCE, Schema, SourceId, SourceKind},
    value::{FieldType, Value},
    wire,
};
use bytes::Bytes;

use crate::workload::{
    Workload,
    generate::{Blocks, Generator, table},
    rows::{HAS_META, Image, MINOR, ON_SITE, POI, Post},
};

/// Microseconds from 1970 to 2000, where COPY counts from.
const COPY_EPOCH_US: i64 = 946_684_800_000_000;
/// Images whose rows are one part of each source.
const PART: u32 = 200_000;
/// Ids of images that are gone, of which resources are left, begin here.
const GONE: u32 = 0x4000_0000;
const FRAME: usize = 1 << 20;

/// One part of a load: frames of whole rows, each behind its length, in a file.
#[derive(Debug, Clone)]
pub(in crate::bench) struct Part {
    pub(in crate::bench) part: wire::LoadPart,
    pub(in crate::bench) rows: u64,
    file: PathBuf,
}

impl Part {
    /// Calls `each` with frame after frame, and removes the file.
    pub(in crate::bench) async fn send(&self, mut each: impl AsyncFnMut(Bytes) -> Result<()>) -> Result<()> {
        let mut frames = self.frames()?;
        while let Some(frame) = frames.next()? {
            each(frame).await?;
        }
        self.remove()
    }

    /// As [`Part::send`], without waiting.
    pub(in crate::bench) fn each(&self, mut each: impl FnMut(Bytes) -> Result<()>) -> Result<()> {
        let mut frames = self.frames()?;
        while let Some(frame) = frames.next()? {
            each(frame)?;
        }
        self.remove()
    }

    fn frames(&self) -> Result<Frames> {
        Ok(Frames(BufReader::with_capacity(FRAME, File::open(&self.file)?)))
    }

    fn remove(&self) -> Result<()> {
        std::fs::remove_file(&self.file).context("remove a part that was sent")
    }
}

struct Frames(BufReader<File>);

impl Frames {
    /// The next frame that holds rows.
    fn next(&mut self) -> Result<Option<Bytes>> {
        let mut length = [0; 4];
        while self.0.read_exact(&mut length).is_ok() {
            let mut frame = vec![0; u32::from_le_bytes(length) as usize];
            self.0.read_exact(&mut frame)?;
            if !frame.is_empty() {
                return Ok(Some(frame.into()));
            }
        }
        Ok(None)
    }
}

/// Everything that was made.
#[derive(Debug)]
pub(in crate::bench) struct Rows {
    pub(in crate::bench) parts: Vec<Part>,
    pub(in crate::bench) metrics: Vec<(u32, [i32; 3])>,
    pub(in crate::bench) documents: u64,
    pub(in crate::bench) member_rows: u64,
    /// Bytes of the values themselves: 8 for a timestamp, 4 for an int or a member, 1 for a bool, a text's own.
    pub(in crate::bench) value_bytes: u64,
    pub(in crate::bench) generator: Generator,
}

/// A value of a row.
enum Cell<'a> {
    Int(i64),
    Bool(bool),
    Time(i64),
    Text(&'a str),
}

fn flag(image: &Image, bit: u32) -> Option<Cell<'_>> {
    Some(Cell::Bool(image.flags & bit != 0))
}

fn int(value: u32) -> Option<Cell<'static>> {
    Some(Cell::Int(value.into()))
}

/// A column of the document's row, by its name in the definition.
fn of_image<'a>(image: &'a Image, column: &str) -> Result<Option<Cell<'a>>> {
    Ok(match column {
        "url" => Some(Cell::Text(&image.url)),
        "hash" => image.hash.as_deref().map(Cell::Text),
        "width" => int(image.width),
        "height" => int(image.height),
        "nsfwLevel" => int(image.nsfw_level),
        "type" => Some(Cell::Text(image.kind)),
        "userId" => int(image.user),
        "postId" => int(image.post),
        "blockedFor" => image.blocked_for.map(Cell::Text),
        "hasMeta" => flag(image, HAS_META),
        "onSite" => flag(image, ON_SITE),
        "minor" => flag(image, MINOR),
        "poi" => flag(image, POI),
        "existedAt" => Some(Cell::Time(image.scanned_us.map_or(image.created_us, |us| us.max(image.created_us)))),
        other => bail!("the workload's images have no {other}"),
    })
}

fn of_post<'a>(post: &'a Post, column: &str) -> Result<Option<Cell<'a>>> {
    Ok(match column {
        "publishedAt" => post.published_us.map(Cell::Time),
        "availability" => Some(Cell::Text(post.availability)),
        "postedToId" => post.version.map(|version| Cell::Int(version.into())),
        other => bail!("the workload's posts have no {other}"),
    })
}

fn value(cell: Cell<'_>) -> Value {
    match cell {
        Cell::Int(int) => Value::Int(int),
        Cell::Bool(bool) => Value::Bool(bool),
        Cell::Time(us) => Value::Int(us),
        Cell::Text(text) => Value::Text(text.into()),
    }
}

fn row<'a>(schema: &Schema, source: SourceId, mut cell: impl FnMut(&str) -> Result<Option<Cell<'a>>>) -> Result<Row> {
    let columns = schema.sources[source].columns();
    columns.iter().map(|column| Ok(cell(&column.name)?.map(value))).collect()
}

/// The op that puts an image's row.
pub(in crate::bench) fn image_op(schema: &Schema, image: &Image) -> Result<Op> {
    let row = row(schema, DOCUMENT_SOURCE, |column| of_image(image, column))?;
    Ok(Op::Upsert { source: DOCUMENT_SOURCE, key: image.id.into(), row: Some(row) })
}

pub(in crate::bench) fn post_op(schema: &Schema, source: SourceId, post: &Post) -> Result<Op> {
    let row = row(schema, source, |column| of_post(post, column))?;
    Ok(Op::Upsert { source, key: post.id.into(), row: Some(row) })
}

/// Writes the rows of one source.
struct Writer {
    folder: PathBuf,
    source: SourceId,
    types: Vec<String>,
    frame: Vec<u8>,
    file: Option<BufWriter<File>>,
    path: PathBuf,
    lo: i64,
    rows: u64,
    value_bytes: u64,
    parts: Vec<Part>,
}

impl Writer {
    fn new(folder: &Path, schema: &Schema, source: SourceId) -> Self {
        Self {
            folder: folder.into(),
            source,
            types: schema.sources[source].columns().iter().map(|column| column.name.clone()).collect(),
            frame: Vec::with_capacity(FRAME + 1_024),
            file: None,
            path: PathBuf::new(),
            lo: i64::MIN,
            rows: 0,
            value_bytes: 0,
            parts: Vec::new(),
        }
    }

    fn begin(&mut self, fields: usize) {
        self.frame.extend((fields as i16).to_be_bytes());
        self.rows += 1;
    }

    fn cell(&mut self, cell: Option<Cell<'_>>) {
        let out = &mut self.frame;
        let mut eight = |int: i64| {
            out.extend(8_i32.to_be_bytes());
            out.extend(int.to_be_bytes());
        };
        self.value_bytes += match cell {
            None => {
                out.extend((-1_i32).to_be_bytes());
                0
            }
            Some(Cell::Int(int)) => {
                eight(int);
                4
            }
            Some(Cell::Time(us)) => {
                eight(us - COPY_EPOCH_US);
                8
            }
            Some(Cell::Bool(bool)) => {
                out.extend(1_i32.to_be_bytes());
                out.push(u8::from(bool));
                1
            }
            Some(Cell::Text(text)) => {
                out.extend((text.len() as i32).to_be_bytes());
                out.extend(text.as_bytes());
                text.len() as u64
            }
        };
    }

    fn end(&mut self) -> Result<()> {
        if self.frame.len() >= FRAME { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        if self.file.is_none() {
            self.path = self.folder.join(format!("{}-{}.rows", self.source, self.parts.len()));
            self.file = Some(BufWriter::new(File::create(&self.path)?));
        }
        if let Some(file) = &mut self.file {
            file.write_all(&(self.frame.len() as u32).to_le_bytes())?;
            file.write_all(&self.frame)?;
        }
        self.frame.clear();
        Ok(())
    }

    /// Ends a part below this key.
    fn part(&mut self, hi: i64) -> Result<()> {
        self.flush()?;
        if let Some(mut file) = self.file.take() {
            file.flush()?;
        }
        let part = wire::LoadPart { source: self.source as u32, lo: self.lo, hi };
        self.parts.push(Part { part, rows: std::mem::take(&mut self.rows), file: self.path.clone() });
        self.lo = hi;
        Ok(())
    }

    fn row<'a>(&mut self, key: u32, mut cell: impl FnMut(&str) -> Result<Option<Cell<'a>>>) -> Result<()> {
        let columns = std::mem::take(&mut self.types);
        self.begin(columns.len() + 1);
        self.cell(int(key));
        for column in &columns {
            self.cell(cell(column)?);
        }
        self.types = columns;
        self.end()
    }

    fn pair(&mut self, key: u32, value: u32) -> Result<()> {
        self.begin(2);
        self.cell(int(key));
        self.cell(int(value));
        // The document's key is not stored with each of its members.
        self.value_bytes -= 4;
        self.end()
    }
}

/// Makes all rows of the workload, as files of this folder.
pub(in crate::bench) fn make(workload: Workload, schema: &Schema, folder: &Path) -> Result<Rows> {
    let source = |name: &str| schema.source(name).map(|(id, _)| id).with_context(|| format!("no source {name}"));
    let mut writers: Vec<Writer> = (0..schema.sources.len()).map(|id| Writer::new(folder, schema, id)).collect();
    let (post, version, model) = (source("post")?, source("version")?, source("model")?);
    let members = ["tagIds", "toolIds", "techniqueIds", "modelVersionIds", "collectionIds"].map(source);
    let [tags, tools, techniques, resources, collections] = members;
    let (tags, tools, techniques, resources, collections) = (tags?, tools?, techniques?, resources?, collections?);
    let mut blocks = Blocks::new(workload);
    let fixed = blocks.next().context("a workload without models")?;
    for line in lines(&fixed.tables[table::VERSION])? {
        writers[version].row(line[0].parse()?, |column| {
            Ok(Some(if column == "baseModel" { Cell::Text(line[1]) } else { Cell::Int(line[2].parse()?) }))
        })?;
    }
    for line in lines(&fixed.tables[table::MODEL])? {
        writers[model].row(line[0].parse()?, |_| Ok(Some(Cell::Bool(line[2] == "t"))))?;
    }
    drop(fixed);
    let mut generator = blocks.into_generator();
    let (mut made, mut next_part) = (0, PART);
    let (mut metrics, mut gone) = (Vec::new(), Vec::new());
    while made < workload.images {
        let (one, mut images) = generator.post();
        images.truncate((workload.images - made) as usize);
        made += images.len() as u32;
        writers[post].row(one.id, |column| of_post(&one, column))?;
        for image in &images {
            writers[DOCUMENT_SOURCE].row(image.id, |column| of_image(image, column))?;
            for (tag, _) in image.tags.iter().filter(|(_, disabled)| !disabled) {
                writers[tags].pair(image.id, *tag)?;
            }
            for tool in &image.tools {
                writers[tools].pair(image.id, *tool)?;
            }
            for technique in &image.techniques {
                writers[techniques].pair(image.id, *technique)?;
            }
            for resource in image.resources.iter().filter(|resource| resource.detected) {
                if resource.image == image.id {
                    writers[resources].pair(image.id, resource.version)?;
                } else {
                    gone.push((resource.image, resource.version));
                }
            }
            for item in image.collections.iter().filter(|item| item.status == "ACCEPTED") {
                writers[collections].pair(image.id, item.collection)?;
            }
            let mut sums = [0; 3];
            for event in &image.metrics {
                let place = ["reactionCount", "commentCount", "collectedCount"].iter().position(|m| *m == event.metric);
                sums[place.context("an unknown metric")?] += event.delta;
            }
            if sums != [0; 3] {
                metrics.push((image.id, sums));
            }
        }
        if made >= next_part && made < workload.images {
            next_part += PART;
            for (id, writer) in writers.iter_mut().enumerate() {
                if id != post && id != version && id != model && schema.sources[id].is_postgres() {
                    writer.part(generator.next_image().into())?;
                }
            }
        }
    }
    // Rows of images that are gone come last, in the order of their keys as all others.
    writers[resources].part(GONE.into())?;
    gone.sort_unstable();
    for (image, version) in gone {
        writers[resources].pair(image, version)?;
    }
    let mut rows =
        Rows { parts: Vec::new(), metrics, documents: made.into(), member_rows: 0, value_bytes: 0, generator };
    for (id, mut writer) in writers.into_iter().enumerate() {
        if !schema.sources[id].is_postgres() {
            continue;
        }
        writer.part(i64::MAX)?;
        if matches!(schema.sources[id].kind, SourceKind::Members { ty: FieldType::Int }) {
            rows.member_rows += writer.parts.iter().map(|part| part.rows).sum::<u64>();
        }
        rows.value_bytes += writer.value_bytes;
        rows.parts.extend(writer.parts);
    }
    rows.value_bytes += 12 * rows.metrics.len() as u64;
    Ok(rows)
}

/// Lines of COPY's text.
fn lines(text: &[u8]) -> Result<Vec<Vec<&str>>> {
    Ok(std::str::from_utf8(text)?.lines().map(|line| line.split('\t').collect()).collect())
}
