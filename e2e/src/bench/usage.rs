//! Memory and disk, as the system counts them.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result};

use super::{Results, size};
use crate::stage::{Stage, find_role};

pub(super) async fn measure(stage: &Stage, results: &mut Results) -> Result<()> {
    let documents = stage.workload.images;
    let reader = find_role(&stage.pair.pods, &stage.index(), "reader").await?;
    let pid = stage.pair.pods[reader].process.pid().context("the reader does not run")?;
    results.set(format!("reader_heap_{}_mb", size(documents)), anonymous_kb(pid)? as f64 / 1_024.0);
    results.set("store_bytes_per_document_with_values", bytes_of(stage.pair.data())? as f64 / f64::from(documents));
    Ok(())
}

/// Memory of a process that no file backs.
pub(super) fn anonymous_kb(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("no RssAnon in /proc")?;
    line.trim().trim_end_matches(" kB").trim().parse().context("RssAnon is no number")
}

/// Bytes of all files by the letters that their names begin with (`log`, `segment`); `other` where that is none.
pub(super) fn bytes_by_kind(folder: &Path) -> Result<BTreeMap<String, u64>> {
    let mut kinds = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // A file may be unlinked meanwhile.
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            for (kind, bytes) in bytes_by_kind(&entry.path())? {
                *kinds.entry(kind).or_default() += bytes;
            }
            continue;
        }
        let name = entry.file_name().to_string_lossy().into_owned();
        let kind: String = name.chars().take_while(|letter| letter.is_ascii_alphabetic()).collect();
        *kinds.entry(if kind.is_empty() { "other".into() } else { kind.to_lowercase() }).or_default() += metadata.len();
    }
    Ok(kinds)
}

fn bytes_of(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // A file may be unlinked meanwhile.
        let Ok(metadata) = entry.metadata() else { continue };
        bytes += if metadata.is_dir() { bytes_of(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}

/// USER_HZ, the unit of times in /proc; 100 wherever Linux runs servers.
const TICKS_PER_SECOND: f64 = 100.0;

/// Seconds of CPU that a process has used, in user and system mode.
pub(super) fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold spaces; utime and stime are the 12th and 13th after it.
    let rest = stat.rsplit_once(')').context("no name in /proc/…/stat")?.1;
    let ticks: Vec<u64> = rest.split_whitespace().skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
    Ok(ticks.iter().sum::<u64>() as f64 / TICKS_PER_SECOND)
}
