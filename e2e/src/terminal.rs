//! What a person sees: lines, progress bars with rates, small tables.

use std::{fmt::Display, time::Duration};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Prints one line.
#[allow(clippy::print_stdout, reason = "the harness's programs talk to a terminal")]
pub fn say(line: impl Display) {
    println!("{line}");
}

/// A headline of a step.
pub fn step(title: &str) {
    say(format!("\n── {title} {}", "─".repeat(76_usize.saturating_sub(title.chars().count()))));
}

/// A bar over `total` of `unit`; without a terminal it stays silent until [`done`].
pub fn bar(what: &str, total: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    let template = "{msg:<28} {bar:32.cyan/blue} {human_pos:>11}/{human_len} {per_sec} {eta}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(what.to_owned());
    bar
}

/// Takes the bar away and says what it came to.
pub fn done(bar: &ProgressBar, unit: &str) {
    let (amount, elapsed) = (bar.position(), bar.elapsed());
    let what = bar.message();
    bar.finish_and_clear();
    say(format!("{what:<28} {} {unit} in {} ({}/s)", count(amount), seconds(elapsed), count(rate(amount, elapsed))));
}

pub fn rate(amount: u64, elapsed: Duration) -> u64 {
    (amount as f64 / elapsed.as_secs_f64().max(1e-6)) as u64
}

pub fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

/// With thin groups: 1 234 567.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            grouped.push(' ');
        }
        grouped.push(digit);
    }
    grouped
}

/// Columns as wide as their widest cell, right-aligned but the first.
pub fn table(header: &[&str], rows: &[Vec<String>]) {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([header[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let cells: Vec<String> = cells.zip(&widths).map(|(cell, width)| format!("{cell:>width$}")).collect();
        say(format!("  {}", cells.join("  ")));
    };
    line(&mut header.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_234_567), "1 234 567");
        assert_eq!(rate(500, Duration::from_millis(250)), 2_000);
    }
}
