//! `make demo`: a real Postgres with sample data, the pair beside it, and changes that queries follow, each checked as
//! it is shown. At the end it stays up with lines to try, or ends where it shall.

mod live;
mod show;

use std::time::Duration;

use anyhow::{Result, bail};

use crate::{
    folders,
    postgres::Wanted,
    processes::Options,
    stage::Stage,
    terminal::{count, say, seconds, step},
    workload::Workload,
};

#[derive(Debug, Clone, Copy)]
pub struct Demo {
    pub images: u32,
    pub seed: u64,
    /// End after everything was shown.
    pub once: bool,
}

/// An error where anything that it showed was not right.
pub async fn run(demo: Demo) -> Result<()> {
    let logs = folders::logs("demo")?;
    say(format!("BitDex demo: {} images, seed {}; logs in {}", count(demo.images.into()), demo.seed, logs.display()));
    let now_us = chrono::Utc::now().timestamp_micros();
    let workload = Workload { images: demo.images, seed: demo.seed, now_us };
    let options = Options { query: &["--drain-seconds", "0"], sync: &["--metrics-interval-ms", "250"] };
    let mut stage = Stage::set(workload, &Wanted::default(), &logs, options).await?;
    let shown = tokio::select! {
        shown = acts(&mut stage) => shown,
        _ = tokio::signal::ctrl_c() => return stage.clear().await,
    };
    if let Err(error) = shown {
        bail!("{error:?}\n{}", stage.pair.tails());
    }
    if demo.once {
        stage.clear().await?;
        say("\nEverything shown was right.");
        return Ok(());
    }
    show::lines_to_try(&stage);
    tokio::signal::ctrl_c().await?;
    say("\nEnding …");
    stage.clear().await
}

async fn acts(stage: &mut Stage) -> Result<()> {
    let describe = stage.client.describe(stage.index()).await?;
    say(format!(
        "{} documents, served by two pods {} after sync started",
        count(describe.documents),
        seconds(stage.loading)
    ));
    if describe.documents != u64::from(stage.workload.images) {
        bail!("{} documents instead of {}", describe.documents, stage.workload.images);
    }
    step("First pages");
    show::first_pages(stage).await?;
    step("A change in Postgres");
    live::a_change(stage).await?;
    step("Read your own write");
    live::read_your_write(stage).await?;
    step("A scheduled post");
    live::a_scheduled_post(stage, Duration::from_secs(3)).await?;
    step("Counts from ClickHouse");
    live::counts(stage).await?;
    step("The writer is killed");
    live::the_writer_dies(stage).await
}
