//! What was measured beside others: one table with ratios for each size, a file with every latency, and how latencies
//! grow with the number of documents.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde_json::{Value as Json, json};

use super::Query;
use crate::{
    bench::{Latencies, Results, size},
    terminal::{count, say, table},
    workload::Workload,
};

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Ids, all pages.
    Search,
    /// The first 50 with all stored fields.
    Page,
    /// All matches, counted exactly.
    Count,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Search, Self::Page, Self::Count];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Search => "search",
            Self::Page => "page",
            Self::Count => "count",
        }
    }

    fn told(self) -> &'static str {
        match self {
            Self::Search => "search (ids)",
            Self::Page => "page of 50, all fields",
            Self::Count => "exact count",
        }
    }
}

/// Who answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Who {
    Ours,
    Grpc,
    Postgres,
    #[cfg_attr(not(feature = "bench"), allow(dead_code, reason = "tantivy is not built in"))]
    Tantivy,
    /// With a page cache that was empty before the first query of the kind.
    OursCold,
    #[cfg_attr(not(feature = "bench"), allow(dead_code, reason = "tantivy is not built in"))]
    TantivyCold,
}

impl Who {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ours => "bitdex",
            Self::Grpc => "grpc",
            Self::Postgres => "postgres",
            Self::Tantivy => "tantivy",
            Self::OursCold => "bitdex_cold",
            Self::TantivyCold => "tantivy_cold",
        }
    }

    /// What its figures' names in the summary begin with.
    fn prefix(self) -> &'static str {
        match self {
            Self::Ours => "",
            Self::Grpc => "grpc_",
            Self::Postgres => "postgres_",
            Self::Tantivy => "tantivy_",
            Self::OursCold => "cold_",
            Self::TantivyCold => "tantivy_cold_",
        }
    }

    /// What its ratio is taken to.
    fn base(self) -> Self {
        if self == Self::TantivyCold { Self::OursCold } else { Self::Ours }
    }
}

/// Latencies by query.
type Times = BTreeMap<(Kind, Who), Vec<Vec<Duration>>>;

/// Collects what one size came to.
pub(super) struct Asked {
    workload: Workload,
    pages: Vec<Page>,
    times: Times,
    pub(super) dropped: &'static str,
}

/// One page of a query, as the file tells it.
struct Page {
    request: Json,
    sort: String,
    page: u32,
    ids: usize,
    /// Of first pages.
    matches: Option<u64>,
}

impl Asked {
    pub(super) fn new(workload: Workload, queries: &[Query]) -> Self {
        let pages = queries
            .iter()
            .map(|query| Page {
                request: serde_json::to_value(&query.request).unwrap_or_default(),
                sort: query.request.sort.first().map(|sort| sort.field.clone()).unwrap_or_default(),
                page: query.page,
                ids: query.ids.len(),
                matches: None,
            })
            .collect();
        Self { workload, pages, times: Times::new(), dropped: "" }
    }

    pub(super) fn now_us(&self) -> i64 {
        self.workload.now_us
    }

    pub(super) fn matches(&mut self, place: usize, matches: u64) {
        if let Some(page) = self.pages.get_mut(place) {
            page.matches = Some(matches);
        }
    }

    pub(super) fn matched(&self, place: usize) -> Option<u64> {
        self.pages.get(place)?.matches
    }

    pub(super) fn took(&mut self, kind: Kind, who: Who, place: usize, elapsed: Duration) {
        let many = self.pages.len();
        let all = self.times.entry((kind, who)).or_insert_with(|| vec![Vec::new(); many]);
        if let Some(times) = all.get_mut(place) {
            times.push(elapsed);
        }
    }

    pub(super) fn done(self) -> Report {
        Report { asked: self }
    }
}

/// One size, measured.
pub(super) struct Report {
    asked: Asked,
}

/// Documents that a query finds of all, and how long it took.
#[cfg_attr(not(feature = "bench"), allow(dead_code, reason = "for plots"))]
pub(super) struct Point {
    pub(super) share: f64,
    pub(super) micros: f64,
}

impl Report {
    pub(super) fn documents(&self) -> u32 {
        self.asked.workload.images
    }

    pub(super) fn latencies(&self, kind: Kind, who: Who) -> Option<Latencies> {
        let latencies: Latencies = self.asked.times.get(&(kind, who))?.iter().flatten().copied().collect();
        (!latencies.is_empty()).then_some(latencies)
    }

    /// First pages: each query's median time over the share of documents that it matches.
    #[cfg_attr(not(feature = "bench"), allow(dead_code, reason = "for plots"))]
    pub(super) fn points(&self, kind: Kind, who: Who) -> Vec<Point> {
        let Some(times) = self.asked.times.get(&(kind, who)) else { return Vec::new() };
        let pages = self.asked.pages.iter().zip(times);
        pages
            .filter_map(|(page, times)| {
                let latencies: Latencies = times.iter().copied().collect();
                let share = page.matches? as f64 / f64::from(self.documents());
                (!times.is_empty()).then(|| Point { share, micros: latencies.percentile(0.5).as_secs_f64() * 1e6 })
            })
            .collect()
    }

    /// Searches for ids by the field that they sort by.
    fn by_sort(&self, who: Who) -> BTreeMap<&str, Vec<Duration>> {
        let mut all: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
        for (page, times) in
            self.asked.pages.iter().zip(self.asked.times.get(&(Kind::Search, who)).into_iter().flatten())
        {
            all.entry(&page.sort).or_default().extend(times);
        }
        all
    }

    pub(super) fn tell(&self) {
        let micros = |latencies: &Latencies, share| latencies.percentile(share).as_secs_f64() * 1e6;
        let shares = [0.5, 0.95, 0.99, 0.999];
        let mut rows = Vec::new();
        for (kind, who) in self.asked.times.keys().copied() {
            let (Some(latencies), base) = (self.latencies(kind, who), self.latencies(kind, who.base())) else {
                continue;
            };
            let mut row = vec![format!("{}, {}", kind.told(), who.name().replace('_', " "))];
            row.push(count(self.queries(kind, who)));
            row.extend(shares.map(|share| format!("{:.1}", micros(&latencies, share))));
            let ratio = |base: &Latencies, share| format!("{:.1}", micros(&latencies, share) / micros(base, share));
            match base.filter(|_| who.base() != who) {
                Some(base) => row.extend(shares[..3].iter().map(|share| ratio(&base, *share))),
                None => row.extend(["", "", ""].map(String::from)),
            }
            rows.push(row);
        }
        say(format!(
            "\n{} documents; µs, and times ours; cold: page cache dropped once before each kind, by {}",
            count(self.documents().into()),
            self.asked.dropped
        ));
        table(&["", "queries", "p50", "p95", "p99", "p99.9", "× p50", "× p95", "× p99"], &rows);
    }

    /// Queries that were timed.
    fn queries(&self, kind: Kind, who: Who) -> u64 {
        self.asked.times.get(&(kind, who)).map_or(0, |all| all.iter().filter(|times| !times.is_empty()).count() as u64)
    }

    pub(super) fn summarise(&self, results: &mut Results) {
        let size = size(self.documents());
        for (kind, who) in self.asked.times.keys().copied() {
            let name = format!("{}{}_{size}", who.prefix(), kind.name());
            let asked = self.queries(kind, Who::Ours);
            if self.queries(kind, who) < asked {
                results.set(format!("{name}_share_run"), self.queries(kind, who) as f64 / asked as f64);
            }
            if let Some(latencies) = self.latencies(kind, who) {
                results.micros(&name, latencies);
            }
        }
    }

    fn json(&self) -> Json {
        let nanos = |times: &[Duration]| times.iter().map(|time| time.as_nanos() as u64).collect::<Vec<u64>>();
        let page = |(place, page): (usize, &Page)| {
            let mut told = json!({
                "request": page.request, "page": page.page, "ids": page.ids, "matches": page.matches,
            });
            for kind in Kind::ALL {
                let by_whom: serde_json::Map<String, Json> = self
                    .asked
                    .times
                    .iter()
                    .filter(|((of, _), times)| *of == kind && times.get(place).is_some_and(|times| !times.is_empty()))
                    .map(|((_, who), times)| (who.name().to_owned(), json!(nanos(&times[place]))))
                    .collect();
                if !by_whom.is_empty() {
                    told[format!("{}_ns", kind.name())] = by_whom.into();
                }
            }
            told
        };
        json!({
            "documents": self.documents(),
            "seed": self.asked.workload.seed,
            "now_us": self.asked.workload.now_us,
            "cache_dropped_by": self.asked.dropped,
            "pages": self.asked.pages.iter().enumerate().map(page).collect::<Vec<Json>>(),
        })
    }
}

/// `queries.json`: every latency of every query at every size.
pub(super) fn write(reports: &[Report], folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let file = folder.join("queries.json");
    let json = json!({ "sizes": reports.iter().map(Report::json).collect::<Vec<Json>>() });
    fs::write(&file, serde_json::to_vec(&json)?).with_context(|| format!("write {}", file.display()))?;
    say(format!("every latency is in {}", file.display()));
    Ok(())
}

/// By field that is sorted by, and by who answered.
pub(super) type Exponents = BTreeMap<String, BTreeMap<Who, f64>>;

/// By which power of the number of documents latencies grow, by field that is sorted by: the slope of log latency over
/// log size, by least squares over all searches for ids of all sizes.
pub(super) fn exponents(reports: &[Report], results: &mut Results) -> Exponents {
    let sizes: BTreeSet<u32> = reports.iter().map(Report::documents).collect();
    if sizes.len() < 2 {
        return Exponents::new();
    }
    let whos: BTreeSet<Who> =
        reports.iter().flat_map(|report| report.asked.times.keys().map(|(_, who)| *who)).collect();
    let mut fields = Exponents::new();
    for who in whos {
        let mut points: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
        for report in reports {
            for (sort, times) in report.by_sort(who) {
                let at = f64::from(report.documents()).ln();
                let times = times.iter().map(|time| (at, time.as_secs_f64().max(1e-9).ln()));
                points.entry(sort.to_owned()).or_default().extend(times);
            }
        }
        for (sort, points) in points {
            if let Some(slope) = slope(&points) {
                results.set(format!("{}search_exponent_{sort}", who.prefix()), slope);
                fields.entry(sort).or_default().insert(who, slope);
            }
        }
    }
    let whos: BTreeSet<Who> = fields.values().flat_map(|by_whom| by_whom.keys().copied()).collect();
    let header: Vec<&str> = std::iter::once("exponent, sorted by").chain(whos.iter().map(|who| who.name())).collect();
    let rows: Vec<Vec<String>> = fields
        .iter()
        .map(|(sort, by_whom)| {
            let cells = whos.iter().map(|who| by_whom.get(who).map_or(String::new(), |slope| format!("{slope:.2}")));
            std::iter::once(sort.clone()).chain(cells).collect()
        })
        .collect();
    table(&header, &rows);
    fields
}

/// The slope of the line that fits best; `None` where all points stand at one place.
fn slope(points: &[(f64, f64)]) -> Option<f64> {
    let many = points.len() as f64;
    let (x, y) = points.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0, y + point.1));
    let (x, y) = (x / many, y / many);
    let (over, under) = points
        .iter()
        .fold((0.0, 0.0), |(over, under), point| (over + (point.0 - x) * (point.1 - y), under + (point.0 - x).powi(2)));
    (under > 1e-12).then(|| over / under)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponents_are_slopes_of_logarithms() {
        let of = |power: f64| [1e6_f64, 2e6, 1e7].map(|size| (size.ln(), (3.0 * size.powf(power)).ln()));
        assert!((slope(&of(0.5)).unwrap() - 0.5).abs() < 1e-9);
        assert!(slope(&of(0.0)).unwrap().abs() < 1e-9);
        assert_eq!(slope(&[(1.0, 2.0), (1.0, 3.0)]), None);
    }
}
