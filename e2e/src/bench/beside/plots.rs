//! Plots as SVG: latency against selectivity at each size, and percentiles against the number of documents.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::report::{Exponents, Kind, Report, Who};
use crate::{bench::size, terminal::say};

const WHOS: [(Who, RGBColor); 4] = [
    (Who::Ours, RGBColor(0, 90, 181)),
    (Who::Grpc, RGBColor(26, 160, 120)),
    (Who::Tantivy, RGBColor(230, 140, 0)),
    (Who::Postgres, RGBColor(190, 30, 60)),
];
const SIZE: (u32, u32) = (960, 600);
const FONT: (&str, u32) = ("sans-serif", 16);
/// (x, y)
type Points = Vec<(f64, f64)>;

/// A query that matches nothing has no place on a logarithmic axis; it stands here, in documents.
const NOTHING: f64 = 0.5;

pub(super) fn draw(reports: &[Report], exponents: &Exponents, folder: &Path) -> Result<()> {
    for kind in Kind::ALL {
        for report in reports {
            let name = format!("selectivity-{}-{}.svg", kind.name(), size(report.documents()));
            selectivity(report, kind, &folder.join(&name)).map_err(|error| anyhow!("{name}: {error}"))?;
        }
        let name = format!("size-{}.svg", kind.name());
        sizes(reports, kind, &grows(kind, exponents), &folder.join(&name))
            .map_err(|error| anyhow!("{name}: {error}"))?;
    }
    say(format!("plots are in {}: selectivity-*.svg, size-*.svg", folder.display()));
    Ok(())
}

type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;

/// The lowest and the highest, with some air.
fn span(values: impl Iterator<Item = f64>) -> std::ops::Range<f64> {
    let (low, high) = values.fold((f64::MAX, 0.0_f64), |(low, high), value| (low.min(value), high.max(value)));
    if high > 0.0 { low * 0.8..high * 1.25 } else { 0.1..1.0 }
}

type Axes = Cartesian2d<LogCoord<f64>, LogCoord<f64>>;

/// A chart with logarithmic axes, on which `draw` puts the series.
fn chart<'f>(
    file: &'f Path,
    title: String,
    descriptions: (&str, &str),
    (xs, ys): (std::ops::Range<f64>, std::ops::Range<f64>),
    draw: impl FnOnce(&mut ChartContext<'_, SVGBackend<'f>, Axes>) -> Drawn,
) -> Drawn {
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, FONT)
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(72)
        .build_cartesian_2d(xs.log_scale(), ys.log_scale())?;
    let number = |number: &f64| if *number < 0.999 { format!("{number:.0e}") } else { format!("{number:.0}") };
    chart
        .configure_mesh()
        .x_desc(descriptions.0)
        .y_desc(descriptions.1)
        .x_label_formatter(&number)
        .y_label_formatter(&number)
        .draw()?;
    draw(&mut chart)?;
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK)
        .draw()?;
    root.present()?;
    Ok(())
}

fn selectivity(report: &Report, kind: Kind, file: &Path) -> Drawn {
    let nothing = NOTHING / f64::from(report.documents());
    let series: Vec<(Who, RGBColor, Points)> = WHOS
        .iter()
        .map(|(who, colour)| {
            let points = report.points(kind, *who).into_iter().map(|point| (point.share.max(nothing), point.micros));
            (*who, *colour, points.collect())
        })
        .collect();
    let all = || series.iter().flat_map(|(.., points)| points.iter());
    let title = format!("{}: latency against selectivity, {} documents", kind.name(), size(report.documents()));
    let spans = (span(all().map(|point| point.0)), span(all().map(|point| point.1)));
    chart(file, title, ("share of documents that match", "µs, median of a query"), spans, |chart| {
        for (who, colour, points) in &series {
            let colour = *colour;
            chart
                .draw_series(points.iter().map(|point| Circle::new(*point, 2, colour.mix(0.5).filled())))?
                .label(who.name())
                .legend(move |(x, y)| Circle::new((x, y), 4, colour.filled()));
        }
        Ok(())
    })
}

/// By which power of the size our searches grow, by field that is sorted by.
fn grows(kind: Kind, exponents: &Exponents) -> String {
    let fields = exponents.iter().filter(|_| kind == Kind::Search);
    let told: Vec<String> =
        fields.filter_map(|(field, by_whom)| Some(format!("{field} {:.2}", by_whom.get(&Who::Ours)?))).collect();
    if told.is_empty() { String::new() } else { format!("; exponents of ours: {}", told.join(", ")) }
}

fn sizes(reports: &[Report], kind: Kind, grows: &str, file: &Path) -> Drawn {
    let at = |who: Who, share: f64| -> Vec<(f64, f64)> {
        let points = reports.iter().filter_map(|report| {
            let latencies = report.latencies(kind, who)?;
            Some((f64::from(report.documents()), latencies.percentile(share).as_secs_f64() * 1e6))
        });
        points.collect()
    };
    let series: Vec<(Who, RGBColor, Points, Points)> =
        WHOS.iter().map(|(who, colour)| (*who, *colour, at(*who, 0.99), at(*who, 0.5))).collect();
    let all = || series.iter().flat_map(|(.., p99, p50)| p99.iter().chain(p50));
    let title = format!("{}: p99 (thick) and p50 (thin) against size{grows}", kind.name());
    let spans = (span(all().map(|point| point.0)), span(all().map(|point| point.1)));
    let bottom = spans.1.start;
    chart(file, title, ("documents", "µs"), spans, |chart| {
        for (who, colour, p99, p50) in &series {
            let colour = *colour;
            chart
                .draw_series(LineSeries::new(p99.iter().copied(), colour.stroke_width(3)).point_size(4))?
                .label(who.name())
                .legend(move |(x, y)| Circle::new((x, y), 4, colour.filled()));
            chart.draw_series(LineSeries::new(p50.iter().copied(), colour.stroke_width(1)).point_size(2))?;
        }
        // The axis tells powers of ten alone.
        let told = reports.iter().map(|report| report.documents());
        chart.draw_series(told.map(|all| Text::new(size(all), (f64::from(all), bottom * 1.25), FONT)))?;
        Ok(())
    })
}
