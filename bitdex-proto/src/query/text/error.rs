//! An error in a text: what was expected, and where.

use std::ops::Range;

use crate::Error;

/// Characters shown on either side of the mark.
const AROUND: usize = 50;
/// Marks below what is wrong, at most.
const MARKS: usize = 40;

/// `at`: the bytes of `text` that are wrong; empty at its end.
pub(super) fn at(text: &str, at: Range<usize>, message: impl AsRef<str>) -> Error {
    let message = message.as_ref();
    let start = floor(text, at.start);
    let end = floor(text, at.end).max(start);
    let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
    let line_end = text[start..].find('\n').map_or(text.len(), |newline| start + newline);
    let column = text[line_start..start].chars().count() + 1;
    let place = if text.contains('\n') {
        let line = text[..start].matches('\n').count() + 1;
        format!("line {line}, column {column}")
    } else {
        format!("column {column}")
    };

    let before: Vec<char> = text[line_start..start].chars().rev().take(AROUND).collect();
    let cut_before = column - 1 > before.len();
    let after: Vec<char> = text[start..line_end].chars().take(AROUND).collect();
    let cut_after = text[start..line_end].chars().nth(AROUND).is_some();
    let marked = text[start..end.min(line_end)].chars().take(AROUND).count().clamp(1, MARKS);
    // One character a column, or the mark would stand elsewhere.
    let shown = |c: &char| if c.is_control() { ' ' } else { *c };
    let mut line = String::from(if cut_before { "…" } else { "" });
    line.extend(before.iter().rev().map(shown));
    line.extend(after.iter().map(shown));
    line.push_str(if cut_after { "…" } else { "" });
    let indent = " ".repeat(before.len() + usize::from(cut_before));
    Error::invalid(format!("{place}: {message}\n{line}\n{indent}{}", "^".repeat(marked)))
}

fn floor(text: &str, at: usize) -> usize {
    text.floor_char_boundary(at)
}
