//! Builds the binaries that the harness runs, as the harness itself was built: with the profile of tests, or to be
//! measured as they go into images.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::folders;

const PROFILE: &str = if cfg!(feature = "bench") { "dist" } else { "release" };

#[derive(Debug, Clone)]
pub struct Binaries {
    pub query: PathBuf,
    pub sync: PathBuf,
}

/// `cargo build` of the whole workspace (so that features, and with them what is compiled, are those of the
/// running program); quick where nothing changed. `BITDEX_BIN` names a folder of binaries to use as
/// they are.
pub async fn build() -> Result<Binaries> {
    let folder = match std::env::var_os("BITDEX_BIN") {
        Some(folder) => PathBuf::from(folder),
        None => tokio::task::spawn_blocking(built).await.context("the build panicked")??,
    };
    let binaries = Binaries { query: folder.join("bitdex-query"), sync: folder.join("bitdex-sync") };
    for binary in [&binaries.query, &binaries.sync] {
        if !binary.is_file() {
            bail!("{} is missing", binary.display());
        }
    }
    Ok(binaries)
}

fn built() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--profile", PROFILE, "--quiet", "--workspace", "--bins"])
        .args(if cfg!(feature = "bench") { &["--features", "e2e/bench"][..] } else { &[] })
        .current_dir(folders::workspace())
        .stdin(Stdio::null())
        .status()
        .context("run cargo")?;
    if !status.success() {
        bail!("the binaries do not build ({status})");
    }
    // `target/e2e` stands beside the profile's folder.
    Ok(folders::target()?.with_file_name(PROFILE))
}
