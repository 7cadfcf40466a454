//! Where the harness keeps what it fetches, writes and logs: `target/e2e` of the workspace.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

pub fn workspace() -> &'static Path {
    // The crate stands one folder below the workspace's root.
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// `target/e2e`, created where missing.
pub fn target() -> Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from);
    made(target.join("e2e"))
}

/// A folder under `target/e2e` that any account of this machine can reach; under the temporary folder where the
/// workspace lies behind a private one (a home of root's).
pub fn reachable(name: &str) -> Result<PathBuf> {
    let target = target()?;
    if target.ancestors().all(is_searchable_by_others) {
        return made(target.join(name));
    }
    made(std::env::temp_dir().join("bitdex-e2e").join(name))
}

/// A fresh folder for the logs of one run, under `target/e2e/logs`.
pub fn logs(run: &str) -> Result<PathBuf> {
    let folder = target()?.join("logs").join(format!("{run}-{}", std::process::id()));
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))?;
    }
    made(folder)
}

fn made(folder: PathBuf) -> Result<PathBuf> {
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    Ok(folder)
}

fn is_searchable_by_others(folder: &Path) -> bool {
    fs::metadata(folder).is_ok_and(|metadata| metadata.permissions().mode() & 0o001 != 0)
}

/// The last lines of a log file, for error messages.
pub fn tail(log: &Path, lines: usize) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
