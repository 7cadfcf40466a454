//! Latencies, and the flat summary that all parts write into.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use anyhow::{Context as _, Result};

use crate::terminal::{say, table};

/// Many latencies of one kind.
#[derive(Debug, Default, Clone)]
pub struct Latencies(Vec<Duration>);

impl Latencies {
    pub fn add(&mut self, latency: Duration) {
        self.0.push(latency);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn total(&self) -> Duration {
        self.0.iter().sum()
    }

    /// The smallest latency that at least this share of all does not exceed.
    pub fn percentile(&self, share: f64) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let at = (share * sorted.len() as f64).ceil() as usize;
        sorted.get(at.saturating_sub(1)).copied().unwrap_or_default()
    }
}

impl FromIterator<Duration> for Latencies {
    fn from_iter<I: IntoIterator<Item = Duration>>(latencies: I) -> Self {
        Self(latencies.into_iter().collect())
    }
}

const PERCENTILES: [(&str, f64); 4] = [("p50", 0.50), ("p95", 0.95), ("p99", 0.99), ("p999", 0.999)];

/// What was measured in this run: numbers by name, and every latency in a file of its own.
#[derive(Debug, Default)]
pub struct Results {
    summary: BTreeMap<String, f64>,
    latencies: BTreeMap<String, Latencies>,
}

impl Results {
    pub fn set(&mut self, name: impl Into<String>, value: f64) {
        self.summary.insert(name.into(), value);
    }

    /// `name_p50_us` and so on; p99.9 only where a thousand latencies stand behind it.
    pub fn micros(&mut self, name: &str, latencies: Latencies) {
        self.percentiles(name, "us", 1e6, latencies);
    }

    /// `name_p50_ms` and so on.
    pub fn millis(&mut self, name: &str, latencies: Latencies) {
        self.percentiles(name, "ms", 1e3, latencies);
    }

    fn percentiles(&mut self, name: &str, unit: &str, scale: f64, latencies: Latencies) {
        for (percentile, share) in PERCENTILES {
            if percentile != "p999" || latencies.len() >= 1_000 {
                let value = latencies.percentile(share).as_secs_f64() * scale;
                self.set(format!("{name}_{percentile}_{unit}"), value);
            }
        }
        self.latencies.insert(name.into(), latencies);
    }

    /// Prints the table; writes `summary.json` and `NAME.json` with every latency in nanoseconds.
    pub fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)?;
        let rows: Vec<Vec<String>> =
            self.summary.iter().map(|(name, value)| vec![name.clone(), rounded(*value)]).collect();
        table(&["what", "measured"], &rows);
        let json = serde_json::to_vec_pretty(&self.summary)?;
        let summary = folder.join("summary.json");
        fs::write(&summary, json).with_context(|| format!("write {}", summary.display()))?;
        for (name, latencies) in &self.latencies {
            let nanos: Vec<u64> =
                latencies.0.iter().map(|latency| u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX)).collect();
            fs::write(folder.join(format!("{name}.json")), serde_json::to_vec(&nanos)?)?;
        }
        say(format!("written to {}", summary.display()));
        Ok(())
    }
}

/// Three digits or so.
fn rounded(value: f64) -> String {
    match value.abs() {
        size if size >= 1_000.0 => crate::terminal::count(value.round() as u64),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

/// A number of documents as names carry it: 200k, 1m, 10m.
pub fn size(documents: u32) -> String {
    match documents {
        n if n >= 1_000_000 && n % 1_000_000 == 0 => format!("{}m", n / 1_000_000),
        n if n >= 1_000 && n % 1_000 == 0 => format!("{}k", n / 1_000),
        n => n.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_what_was_measured() {
        let latencies: Latencies = (1..=200).map(Duration::from_micros).collect();
        assert_eq!(latencies.percentile(0.5), Duration::from_micros(100));
        assert_eq!(latencies.percentile(0.99), Duration::from_micros(198));
        assert_eq!(latencies.percentile(1.0), Duration::from_micros(200));
        let mut results = Results::default();
        results.micros("a", latencies);
        assert_eq!(results.summary["a_p95_us"], 190.0);
        assert!(!results.summary.contains_key("a_p999_us"), "200 latencies say nothing of p99.9");
        assert_eq!([size(200_000), size(10_000_000), size(1_234)], ["200k", "10m", "1234"]);
    }
}
