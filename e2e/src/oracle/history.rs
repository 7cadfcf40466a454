//! What was done, so that a difference can be traced to the statements behind it.

use std::{sync::Mutex, time::Instant};

use anyhow::Result;
use sqlx::{AssertSqlSafe, PgConnection, Row as _};

use super::documents::Difference;
use crate::postgres;

/// Lines of each kind that a report shows for one document.
const SHOWN: usize = 40;
/// Documents that a report shows in full.
const DOCUMENTS: usize = 3;

#[derive(Debug)]
struct Entry {
    at_ms: u128,
    who: String,
    what: String,
}

#[derive(Debug)]
pub struct History {
    start: Instant,
    entries: Mutex<Vec<Entry>>,
}

impl Default for History {
    fn default() -> Self {
        Self { start: Instant::now(), entries: Mutex::default() }
    }
}

impl History {
    pub fn add(&self, who: impl Into<String>, what: impl Into<String>) {
        let entry = Entry { at_ms: self.start.elapsed().as_millis(), who: who.into(), what: what.into() };
        self.entries.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(entry);
    }

    /// Entries that mention one of these numbers, and all that mention none of any table's rows (kills, quiet points).
    fn about(&self, numbers: &[String]) -> Vec<String> {
        let entries = self.entries.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let concerns = |entry: &&Entry| {
            let mut words = entry.what.split(|c: char| !c.is_ascii_digit());
            words.any(|word| numbers.iter().any(|number| number == word)) || entry.what.contains("TRUNCATE")
        };
        let lines: Vec<String> = entries
            .iter()
            .filter(concerns)
            .map(|entry| format!("  {:>8} ms  {:<14} {}", entry.at_ms, entry.who, entry.what))
            .collect();
        lines[lines.len().saturating_sub(SHOWN)..].to_vec()
    }
}

/// The differences with their documents' histories, as text.
pub async fn report(
    differences: &[Difference],
    history: &History,
    connection: &mut PgConnection,
    ops: &str,
) -> Result<String> {
    let mut text = format!("{} differences between the index and its oracle:\n", differences.len());
    for difference in differences.iter().take(20) {
        let Difference { document, field, wanted, found } = difference;
        text += &format!("  document {document}, {field}: should be {wanted}, is {found}\n");
    }
    let mut documents: Vec<u32> = differences.iter().map(|difference| difference.document).collect();
    documents.dedup();
    for document in documents.into_iter().take(DOCUMENTS) {
        let post =
            format!("SELECT coalesce((SELECT \"postId\"::text FROM public.\"Image\" WHERE id = {document}), '')");
        let post = postgres::scalar(connection, &post).await?;
        let mut numbers = vec![document.to_string()];
        if !post.is_empty() {
            numbers.push(post.clone());
        }
        text += &format!("document {document} (post {post}): statements that mention either\n");
        text += &history.about(&numbers).join("\n");
        text += "\nits rows of the ops table\n";
        let sql = format!(
            "SELECT concat_ws(' ', '  xid', o.xid, s.name, o.key, o.value, CASE WHEN truncate THEN 'truncate' END) \
             FROM {ops}.ops o LEFT JOIN {ops}.sources s ON s.id = o.source \
             WHERE o.key IN ({}) OR truncate ORDER BY o.xid DESC LIMIT {SHOWN}",
            numbers.join(", ")
        );
        for row in sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(&mut *connection).await? {
            text += &row.try_get_unchecked::<String, _>(0)?;
            text.push('\n');
        }
    }
    Ok(text)
}
