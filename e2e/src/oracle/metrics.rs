//! Metric events, some of them inserted with a time that is past, as rows that become visible late have.

use anyhow::{Context as _, Result};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::{
    clickhouse::ClickHouse,
    workload::{
        Workload,
        rows::{Line, MetricEvent},
    },
};

/// How late, at most; well within the overlap of sync's windows (60 s).
const LATE_S: i64 = 20;

#[derive(Debug)]
pub struct Metrics {
    random: ChaCha8Rng,
    ids: u32,
    now_us: i64,
}

impl Metrics {
    pub fn new(workload: &Workload, ids: u32) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(workload.seed);
        random.set_stream(3_000);
        Self { random, ids, now_us: workload.now_us }
    }

    /// Twenty events, in one INSERT.
    pub async fn step(&mut self, clickhouse: &ClickHouse) -> Result<()> {
        // Its clock, not ours.
        let now = clickhouse.query("SELECT toUnixTimestamp(now())").await?;
        let now: i64 = now.trim().parse().context("ClickHouse's clock")?;
        let mut rows = Vec::new();
        for _ in 0..20 {
            let event = MetricEvent {
                image: self.random.random_range(0..self.ids),
                metric: ["reactionCount", "commentCount", "collectedCount"][self.random.random_range(0..3)],
                delta: self.random.random_range(-3..50),
                created_us: self.now_us,
            };
            let late = if self.random.random_bool(0.3) { self.random.random_range(2..=LATE_S) } else { 0 };
            let mut line = Line::default();
            event.write(&mut line);
            let line = line.into_inner();
            rows.extend_from_slice(line.strip_suffix(b"\n").unwrap_or(&line));
            rows.extend_from_slice(format!("\t{}\n", now - late).as_bytes());
        }
        clickhouse.insert("imageMetricEvents (imageId, metric, delta, createdAt, insertedAt)", &rows).await
    }
}
