//! Names that may have been meant by one that is unknown.

/// At most so many are suggested.
const MOST: usize = 3;

/// " (did you mean `a` or `b`?)", or nothing where no known name is close.
pub(crate) fn suggestion<'n>(name: &str, known: impl IntoIterator<Item = &'n str>) -> String {
    // Longer ones are no slips of the pen, and would only cost time.
    if name.len() > 64 {
        return String::new();
    }
    let most = (name.chars().count() / 3).clamp(1, 3);
    let lower = name.to_lowercase();
    let mut close: Vec<(usize, &str)> = known
        .into_iter()
        .filter_map(|known| {
            let lower_known = known.to_lowercase();
            let holds = |whole: &str, part: &str| part.len() >= 3 && whole.contains(part);
            let contained = holds(&lower_known, &lower) || holds(&lower, &lower_known);
            let distance = distance(&lower, &lower_known);
            (distance <= most || contained).then_some((distance, known))
        })
        .collect();
    close.sort_unstable();
    close.truncate(MOST);
    match close.as_slice() {
        [] => String::new(),
        [.., (_, last)] => {
            let first: Vec<_> = close.iter().rev().skip(1).rev().map(|(_, name)| format!("`{name}`")).collect();
            let or = if first.is_empty() { "" } else { " or " };
            format!(" (did you mean {}{or}`{last}`?)", first.join(", "))
        }
    }
}

/// Inserted, removed, replaced and swapped characters.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let (mut before, mut last): (Vec<usize>, Vec<usize>) = (Vec::new(), (0..=b.len()).collect());
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let mut least = (last[j] + usize::from(x != y)).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                least = least.min(before[j - 1] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_edits() {
        for (a, b, edits) in [("", "", 0), ("a", "", 1), ("level", "levle", 1), ("abc", "xbz", 2), ("ca", "abc", 3)] {
            assert_eq!((distance(a, b), distance(b, a)), (edits, edits), "{a} {b}");
        }
    }

    #[test]
    fn names_what_is_close_and_nothing_else() {
        let known = ["userId", "nsfwLevel", "tagIds", "postId", "sortAt"];
        assert_eq!(suggestion("userid", known), " (did you mean `userId`?)");
        assert_eq!(suggestion("tagId", known), " (did you mean `tagIds`?)");
        assert_eq!(suggestion("level", known), " (did you mean `nsfwLevel`?)");
        assert_eq!(suggestion("psotId", known), " (did you mean `postId`?)");
        assert_eq!(suggestion("ab", ["ac", "ad", "ae", "af"]), " (did you mean `ac`, `ad` or `ae`?)");
        assert_eq!(suggestion("colour", known), "");
        assert_eq!(suggestion(&"x".repeat(10_000), known), "");
    }
}
