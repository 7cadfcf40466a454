//! What a data folder holds, by headers and directories alone.

use std::{
    collections::BTreeMap,
    fmt::{self, Display, Formatter},
    fs,
    path::Path,
    sync::Arc,
};

use bitdex_proto::schema::Schema;
use serde::Serialize;

use super::of_one_version;
use crate::{
    election::read_address,
    log::{
        Error, Result,
        disk::TEMPORARY,
        segment::{Segment, segment_number, segment_path},
    },
    mapping::Frontier,
    segment::SEGMENT_BITS,
    state::Files,
    store::{
        Folder, is_pack,
        manifest::{Manifest, SegmentRef, TableRef},
        pack::{Pack, PackKind, SectionKind},
    },
};

#[derive(Debug, Serialize)]
pub struct Report {
    pub folder: String,
    pub store: String,
    pub format: u32,
    pub definition: String,
    pub epoch: u64,
    /// Sequence number of the last durable record.
    pub frontier: u64,
    pub writer: Option<String>,
    pub checkpoint: Option<u64>,
    pub generation: Option<u64>,
    pub first_log_segment: u64,
    pub next_sequence: u64,
    /// By name.
    pub files: Vec<FileReport>,
    /// Of the packs that the manifest names, by kind of file, kind of section and field.
    pub sections: Vec<SectionReport>,
    /// The index of each field in the packs that the manifest names; the largest first.
    pub fields: Vec<FieldReport>,
    pub total_bytes: u64,
    /// In files that the manifest does not need.
    pub dead_bytes: u64,
    /// Where the definition is given and there is a checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_rows: Option<CheckpointRows>,
    /// What is wrong.
    pub problems: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CheckpointRows {
    pub rows: u64,
    /// Dead: segments and tables have taken them in, and the next checkpoint leaves them out.
    pub taken_in: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FieldReport {
    pub field: String,
    /// Sets and columns in segments.
    pub base_bytes: u64,
    /// Sets and columns in the checkpoint.
    pub checkpoint_bytes: u64,
    /// Sets and columns in files that the manifest does not name.
    pub dead_bytes: u64,
}

#[derive(Debug, Serialize)]
pub struct FileReport {
    pub name: String,
    pub bytes: u64,
    /// What it is for.
    pub role: String,
    pub needed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sections: Vec<SectionReport>,
}

#[derive(Debug, Clone, Serialize)]
pub struct SectionReport {
    pub file: String,
    pub section: String,
    /// The field of an index, or the place of rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    pub bytes: u64,
    /// Of a field's index.
    #[serde(skip)]
    is_index: bool,
}

impl Report {
    /// `schema`: to name fields; that of another store is refused.
    pub fn read(folder: &Folder, schema: Option<&Arc<Schema>>) -> Result<Self> {
        of_one_version(
            folder,
            |manifest| Self::of(folder, schema, manifest.clone()),
            |report| report.problems.is_empty(),
        )
    }

    fn of(folder: &Folder, schema: Option<&Arc<Schema>>, manifest: Manifest) -> Result<Self> {
        let root = folder.root();
        if let Some(schema) = schema {
            manifest.check_definition(root, &schema.index, &schema.hash)?;
        }
        let mut problems = Vec::new();
        let frontier = match Frontier::open(&folder.frontier(), false) {
            Ok(frontier) => frontier.load(),
            Err(error) => {
                problems.push(error.to_string());
                0
            }
        };
        let names = Names(schema.map(|schema| &**schema));
        let roles = roles(&manifest, names);
        let mut files = Vec::new();
        let mut found = folder.names()?;
        found.sort();
        for name in roles.keys().filter(|name| !found.contains(name)) {
            problems.push(format!("{} is named by the manifest but missing", root.join(name).display()));
        }
        let logs: Vec<u64> = found.iter().filter_map(|name| segment_number(name)).collect();
        if !manifest.is_new() || frontier > 0 {
            let last = logs.iter().copied().fold(manifest.first_segment, u64::max);
            for number in (manifest.first_segment..=last).filter(|number| !logs.contains(number)) {
                problems.push(format!("{} is needed but missing", segment_path(root, number).display()));
            }
        }
        for name in found {
            // A file may go while this runs.
            let Ok(metadata) = fs::metadata(root.join(&name)) else { continue };
            let role = roles.get(&name).cloned();
            let (file, problem) = file(root, &manifest, name, metadata.len(), role, names);
            problems.extend(problem.map(|error| error.to_string()));
            files.push(file);
        }
        let sections = sum(&files);
        let fields = by_field(&files);
        let checkpoint_rows = match schema.map(|schema| checkpoint_rows(folder, &manifest, schema)) {
            Some(Ok(rows)) => rows,
            Some(Err(error)) => {
                problems.push(error.to_string());
                None
            }
            None => None,
        };
        Ok(Self {
            folder: root.display().to_string(),
            store: format!("{:032x}", manifest.store),
            format: manifest.format,
            epoch: manifest.epoch,
            frontier,
            writer: read_address(&folder.writer()),
            checkpoint: manifest.checkpoint.as_ref().map(|checkpoint| checkpoint.sequence),
            generation: manifest.checkpoint.as_ref().map(|checkpoint| checkpoint.generation),
            first_log_segment: manifest.first_segment,
            next_sequence: manifest.next_sequence,
            total_bytes: files.iter().map(|file| file.bytes).sum(),
            dead_bytes: files.iter().filter(|file| !file.needed).map(|file| file.bytes).sum(),
            checkpoint_rows,
            definition: manifest.definition,
            files,
            sections,
            fields,
            problems,
        })
    }
}

fn checkpoint_rows(folder: &Folder, manifest: &Manifest, schema: &Arc<Schema>) -> Result<Option<CheckpointRows>> {
    let Some(files) = Files::open(folder, manifest, schema, None)? else { return Ok(None) };
    let Some(checkpoint) = files.checkpoint() else { return Ok(None) };
    let rows = checkpoint.rows();
    let mut taken_in = 0;
    for place in 0..files.layout().places() as u16 {
        if let Some(source) = files.table_of(place) {
            if files.has_taken_in_table(source) {
                taken_in += rows.range(place, i64::MIN, i64::MAX)?.len();
            }
            continue;
        }
        for segment in files.segments().iter().filter(|segment| files.has_taken_in(segment.number())) {
            let first = i64::from(segment.number()) << SEGMENT_BITS;
            taken_in += rows.range(place, first, first + (1 << SEGMENT_BITS) - 1)?.len();
        }
    }
    Ok(Some(CheckpointRows { rows: rows.len() as u64, taken_in: taken_in as u64 }))
}

/// What the manifest names each pack for.
fn roles(manifest: &Manifest, names: Names<'_>) -> BTreeMap<String, String> {
    let mut roles = BTreeMap::new();
    if let Some(checkpoint) = &manifest.checkpoint {
        let role = format!("checkpoint at record {}, generation {}", checkpoint.sequence, checkpoint.generation);
        roles.insert(checkpoint.file.clone(), role);
    }
    let mut base = |segments: &[SegmentRef], tables: &[TableRef], prefix: &str| {
        for segment in segments {
            let role = format!("{prefix}segment {} at record {}", segment.number, segment.sequence);
            roles.insert(segment.file.clone(), role);
        }
        for table in tables {
            let role = format!("{prefix}{} at record {}", names.lookup(table.source), table.sequence);
            roles.insert(table.file.clone(), role);
        }
    };
    base(&manifest.segments, &manifest.tables, "");
    if let Some(prepared) = &manifest.prepared {
        base(&prepared.segments, &prepared.tables, &format!("being built for generation {}: ", prepared.generation));
    }
    for name in &manifest.staged {
        roles.insert(name.clone(), "rows of an unfinished load".into());
    }
    roles
}

/// An error where a segment of the log ends before its successor says that it does.
fn shortened(root: &Path, manifest: &Manifest, number: u64, bytes: u64) -> Result<(), Error> {
    match Segment::open(root, number + 1, manifest.store) {
        Ok(Some(next)) if next.header.predecessor.offset > bytes => Err(Error::damaged(
            segment_path(root, number),
            bytes,
            format!("it ends here, but its successor says that it ends at byte {}", next.header.predecessor.offset),
        )),
        // Its own line tells what is wrong with the successor.
        _ => Ok(()),
    }
}

fn file(
    root: &Path,
    manifest: &Manifest,
    name: String,
    bytes: u64,
    role: Option<String>,
    names: Names<'_>,
) -> (FileReport, Option<Error>) {
    let mut file = FileReport { name, bytes, role: String::new(), needed: true, format: None, sections: Vec::new() };
    if let Some(number) = segment_number(&file.name) {
        file.needed = number >= manifest.first_segment;
        match Segment::open(root, number, manifest.store) {
            Ok(Some(segment)) => {
                let (first, epoch) = (segment.header.first(), segment.header.epoch);
                file.role = format!("log from record {first} on, epoch {epoch}");
                return match shortened(root, manifest, number, bytes) {
                    Ok(()) => (file, None),
                    Err(error) => (file, Some(error)),
                };
            }
            Ok(None) => file.role = "log, removed meanwhile".into(),
            Err(error) => {
                file.role = "log, damaged".into();
                return (file, Some(error));
            }
        }
    } else if is_pack(&file.name) {
        file.needed = role.is_some();
        file.role = role.unwrap_or_else(|| "not named by the manifest".into());
        match Pack::open_any(&root.join(&file.name)) {
            Ok(Some(pack)) => {
                file.format = Some(pack.stamp().format);
                let kind = pack.kind().map_or("unknown", PackKind::name);
                file.sections = pack.sections().iter().map(|section| describe(kind, section, names)).collect();
            }
            Ok(None) => {}
            Err(error) => return (file, Some(error)),
        }
    } else if file.name.ends_with(&format!(".{TEMPORARY}")) {
        file.needed = false;
        file.role = "being written, or left over".into();
    } else {
        file.role = match file.name.as_str() {
            "MANIFEST" => "the manifest",
            "FRONTIER" => "the durable frontier",
            "LOCK" => "the writer's lock",
            "WRITER" => "the writer's address",
            "WANTED" => "touched while queries wait",
            "RAISE" => "asks the writer to raise the format",
            _ => "not of the store",
        }
        .into();
    }
    (file, None)
}

/// What the definition calls things; their numbers where there is none.
#[derive(Debug, Clone, Copy)]
struct Names<'s>(Option<&'s Schema>);

impl Names<'_> {
    fn field(self, field: usize) -> String {
        match self.0.map(|schema| schema.fields.get(field)) {
            Some(Some(field)) => field.name.clone(),
            Some(None) => format!("hidden field {field}"),
            None => format!("field {field}"),
        }
    }

    fn lookup(self, source: usize) -> String {
        match self.0.and_then(|schema| schema.sources.get(source)) {
            Some(source) => format!("lookup {}", source.name),
            None => format!("lookup {source}"),
        }
    }

    /// Where rows stand: a source, an external field, or a hop.
    fn place(self, place: usize) -> String {
        let Some(schema) = self.0 else { return format!("place {place}") };
        let field = place.checked_sub(schema.sources.len());
        match (schema.sources.get(place), field.and_then(|field| schema.fields.get(field))) {
            (Some(source), _) => source.name.clone(),
            (None, Some(field)) => field.name.clone(),
            (None, None) => format!("hop {}", place.saturating_sub(schema.sources.len() + schema.fields.len())),
        }
    }
}

fn describe(file: &str, &(kind, place, bytes): &(u16, u16, u64), names: Names<'_>) -> SectionReport {
    let known = SectionKind::of(kind);
    SectionReport {
        file: file.into(),
        section: known.map_or_else(|| format!("kind {kind}"), |kind| kind.name().into()),
        is_index: known.is_some_and(SectionKind::is_of_field),
        field: match known {
            Some(kind) if kind.is_of_field() => Some(names.field(place.into())),
            Some(SectionKind::TableIndex) => Some(names.place(place.into())),
            _ => None,
        },
        bytes,
    }
}

/// The sections of needed files, those of equal description added up; the largest first.
fn sum(files: &[FileReport]) -> Vec<SectionReport> {
    let mut sums: BTreeMap<(&str, &str, Option<&str>), u64> = BTreeMap::new();
    for section in files.iter().filter(|file| file.needed).flat_map(|file| &file.sections) {
        *sums.entry((&section.file, &section.section, section.field.as_deref())).or_default() += section.bytes;
    }
    let mut sections: Vec<SectionReport> = sums
        .into_iter()
        .map(|((file, section, field), bytes)| SectionReport {
            file: file.into(),
            section: section.into(),
            field: field.map(Into::into),
            bytes,
            is_index: false,
        })
        .collect();
    sections.sort_by_key(|section| std::cmp::Reverse(section.bytes));
    sections
}

/// What the sections of fields take.
fn by_field(files: &[FileReport]) -> Vec<FieldReport> {
    let mut fields: BTreeMap<&str, FieldReport> = BTreeMap::new();
    for (file, section) in files.iter().flat_map(|file| file.sections.iter().map(move |section| (file, section))) {
        let Some(field) = section.field.as_deref().filter(|_| section.is_index) else { continue };
        let sums = fields.entry(field).or_insert_with(|| FieldReport { field: field.into(), ..FieldReport::default() });
        let sum = match section.file == PackKind::Checkpoint.name() {
            _ if !file.needed => &mut sums.dead_bytes,
            true => &mut sums.checkpoint_bytes,
            false => &mut sums.base_bytes,
        };
        *sum += section.bytes;
    }
    let mut fields: Vec<FieldReport> = fields.into_values().collect();
    fields.sort_by_key(|field| std::cmp::Reverse(field.base_bytes + field.checkpoint_bytes));
    fields
}

/// In groups of three digits, as people read them.
struct Grouped(u64);

impl Display for Grouped {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        let mut text = String::with_capacity(digits.len() * 4 / 3);
        for (n, digit) in digits.chars().enumerate() {
            if n > 0 && (digits.len() - n).is_multiple_of(3) {
                text.push(' ');
            }
            text.push(digit);
        }
        f.pad_integral(true, "", &text)
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "folder      {}", self.folder)?;
        writeln!(f, "store       {}, format {}", self.store, self.format)?;
        writeln!(f, "definition  {}", self.definition)?;
        writeln!(f, "records     durable up to {}", self.frontier)?;
        match (self.checkpoint, self.generation) {
            (Some(at), Some(generation)) => writeln!(f, "checkpoint  at record {at}, generation {generation}")?,
            _ => writeln!(f, "checkpoint  none yet")?,
        }
        writeln!(f, "log         needed from segment {} on", self.first_log_segment)?;
        writeln!(f, "last writer epoch {}, {}", self.epoch, self.writer.as_deref().unwrap_or("no address told"))?;
        let [total, dead] = [self.total_bytes, self.dead_bytes].map(Grouped);
        writeln!(f, "bytes       {total} in all, {dead} in dead files")?;
        let old = |file: &&FileReport| file.needed && file.format.is_some_and(|format| format < self.format);
        match self.files.iter().filter(old).count() {
            0 => {}
            old => writeln!(f, "old format  files to be rewritten: {old}")?,
        }
        if let Some(CheckpointRows { rows, taken_in }) = self.checkpoint_rows {
            writeln!(f, "dead rows   {taken_in} of the checkpoint's {rows}, which base files have taken in")?;
            writeln!(
                f,
                "            {} of base files at most, which the checkpoint replaces",
                rows.saturating_sub(taken_in)
            )?;
        }
        writeln!(f, "\n{:>15}  file", "bytes")?;
        for file in &self.files {
            let dead = if file.needed { "" } else { " (dead)" };
            writeln!(f, "{:>15}  {}: {}{dead}", Grouped(file.bytes), file.name, file.role)?;
        }
        if !self.sections.is_empty() {
            writeln!(f, "\n{:>15}  section", "bytes")?;
        }
        for section in &self.sections {
            let field = section.field.as_ref().map_or_else(String::new, |field| format!(" of {field}"));
            writeln!(f, "{:>15}  {}: {}{field}", Grouped(section.bytes), section.file, section.section)?;
        }
        if !self.fields.is_empty() {
            writeln!(f, "\n{:>15} {:>15} {:>15}  index of field", "base", "checkpoint", "in dead files")?;
        }
        for FieldReport { field, base_bytes, checkpoint_bytes, dead_bytes } in &self.fields {
            let [base, checkpoint, dead] = [base_bytes, checkpoint_bytes, dead_bytes].map(|bytes| Grouped(*bytes));
            writeln!(f, "{base:>15} {checkpoint:>15} {dead:>15}  {field}")?;
        }
        for problem in &self.problems {
            writeln!(f, "\nwrong: {problem}")?;
        }
        Ok(())
    }
}
