//! Whether a data folder is sound: every checksum, and that what is indexed is what the rows say.
//!
//! It looks at one version, that of the newest manifest and the log behind it. All files of it are mapped before
//! anything is read, so that it may run beside a writer.

use std::{fmt::Display, path::Path, sync::Arc};

use bitdex_proto::{schema::Schema, wire};
use prost::Message as _;

use super::{of_one_version, structure};
use crate::{
    log::{
        Error, Result,
        reader::{LogEnd, LogReader},
        segment::segment_path,
    },
    mapping::Frontier,
    state::{Files, State},
    store::{Folder, is_pack, manifest::Manifest, pack::Pack},
};

/// More findings than these are counted, not kept.
const KEPT: usize = 1000;

/// What was found.
#[derive(Debug, Default)]
pub struct Findings {
    lines: Vec<String>,
    count: usize,
}

impl Findings {
    /// The same finding twice is one: damage is met on several ways.
    pub(super) fn add(&mut self, finding: impl Display) {
        let line = finding.to_string();
        if self.lines.contains(&line) {
            return;
        }
        self.count += 1;
        if self.lines.len() < KEPT {
            self.lines.push(line);
        }
    }

    pub(super) fn append(&mut self, others: Self) {
        let unkept = others.count - others.lines.len();
        others.lines.into_iter().for_each(|line| self.add(line));
        self.count += unkept;
    }

    /// The value of a result whose error is a finding.
    pub(super) fn keep<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.add(error)).ok()
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// One line each.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    /// All of them, also those without a line.
    pub fn count(&self) -> usize {
        self.count
    }
}

/// What was looked at.
#[derive(Debug, Default)]
pub struct Checked {
    pub findings: Findings,
    pub files: usize,
    pub bytes: u64,
    /// Of the log.
    pub records: u64,
    /// Whole records of the log that are not known to be durable; the next writer takes them on.
    pub unsure: usize,
    /// Bytes behind the last whole record: torn by a crash, or being written.
    pub torn: u64,
    /// 0 where `compared` is false.
    pub documents: u64,
    pub rows: u64,
    /// Whether the version could be opened, and its index compared with its rows.
    pub compared: bool,
    /// How many of the findings, the first ones, are of damage; what comes behind them may follow from that.
    pub damage: usize,
}

/// One version, whole.
struct Opened {
    packs: Vec<Arc<Pack>>,
    state: Option<State>,
    checked: Checked,
}

/// `progress` is told what is being looked at. An error means that there is nothing to check; all else is a finding.
pub fn check(folder: &Folder, schema: &Arc<Schema>, progress: &mut dyn FnMut(&str)) -> Result<Checked> {
    let look = |manifest: &Manifest| {
        manifest.check_definition(folder.root(), &schema.index, &schema.hash)?;
        progress(&format!("opening the version at record {} and the log behind it", manifest.durable(0)));
        open(folder, manifest, schema)
    };
    let opened = of_one_version(folder, look, |opened| opened.checked.findings.is_empty())?;
    let Opened { packs, state, mut checked } = opened;
    checked.files = packs.len();
    for (number, pack) in (1..).zip(&packs) {
        progress(&format!("verifying file {number} of {}: {}", packs.len(), name(pack.path())));
        checked.findings.keep(pack.verify());
        checked.bytes += pack.len();
    }
    checked.damage = checked.findings.lines().len();
    if let Some(state) = &state {
        structure::check(state, &mut checked, progress);
        checked.compared = true;
    }
    Ok(checked)
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn open(folder: &Folder, manifest: &Manifest, schema: &Arc<Schema>) -> Result<Opened> {
    let mut opened = Opened { packs: Vec::new(), state: None, checked: Checked::default() };
    let Checked { findings, records, unsure, torn, .. } = &mut opened.checked;
    for named in manifest.packs() {
        let path = folder.named(named);
        if !path.exists() {
            findings.add(format_args!("{} is named by the manifest but missing", path.display()));
        }
    }
    for name in folder.names()?.iter().filter(|name| is_pack(name)) {
        // One that nothing names may go at any time.
        if let Some(Some(pack)) = findings.keep(Pack::open_any(&folder.named(name))) {
            if pack.stamp().store != manifest.store {
                findings.add(Error::damaged(pack.path(), 16, "it belongs to another store"));
            }
            opened.packs.push(pack);
        }
    }
    findings.keep(Files::open_prepared(folder, manifest, schema));
    let mut state = match findings.keep(Files::open(folder, manifest, schema, None)) {
        Some(Some(files)) if manifest.checkpoint.is_some() => findings.keep(State::open(files)),
        Some(Some(_)) => Some(State::new(Arc::clone(schema))),
        _ => None,
    };
    if let Some(state) = &mut state
        && let Some(Some(prepared)) = findings.keep(Files::open_prepared(folder, manifest, schema))
    {
        state.prepare(prepared);
    }
    let followed = follow(folder, manifest, state.as_mut(), records);
    match findings.keep(followed) {
        Some(end) => (*unsure, *torn) = end.map_or((0, 0), |end| (end.tail.len(), end.torn)),
        // It may have been applied in part.
        None => state = None,
    }
    opened.state = state;
    Ok(opened)
}

/// Applies the log as far as it is known to be durable, as the next writer would: by the frontier, which may be behind
/// after a power loss, by the manifest, and by the marks of the frames. `None`: there is no log yet.
fn follow(
    folder: &Folder,
    manifest: &Manifest,
    mut state: Option<&mut State>,
    records: &mut u64,
) -> Result<Option<LogEnd>> {
    let frontier = Frontier::open(&folder.frontier(), false)?.load();
    let next = manifest.checkpoint.as_ref().map_or(1, |checkpoint| checkpoint.sequence + 1);
    if manifest.is_new() && frontier == 0 {
        return Ok(None);
    }
    let removed = || {
        let path = segment_path(folder.root(), manifest.first_segment);
        Error::damaged(folder.manifest(), 0, format!("it names {}, which is missing", path.display()))
    };
    let reader = LogReader::open(folder.root(), manifest.store, manifest.first_segment, next)?.ok_or_else(removed)?;
    let end = reader.finish(manifest.durable(frontier), &mut |sequence, payload| {
        *records += 1;
        let record = wire::Record::decode(payload).map_err(|error| error.to_string())?;
        match &mut state {
            Some(state) => state.apply(sequence, &record).map_err(|error| error.to_string()),
            None => Ok(()),
        }
    })?;
    Ok(Some(end))
}
