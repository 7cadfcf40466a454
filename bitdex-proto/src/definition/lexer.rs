//! Postgres SQL, lexically: which identifiers an expression mentions, and whether it can stand inside parentheses.
//!
//! An expression that passes [`Expression::parse`] has balanced brackets, ends its quotes, holds no `;`, parameter or
//! subquery, and is free of comments, so that it means the same wherever it is put.

/// An identifier, folded as Postgres folds it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Quoted(String),
    Text,
    Symbol(char),
}

/// A checked expression over one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expression {
    /// Without comments, other white space than single blanks only inside literals.
    pub sql: String,
    /// Every identifier in it, quoted ones exactly, bare ones in lower case. Holds keywords and functions too.
    pub identifiers: Vec<String>,
}

impl Expression {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let tokens = lex(text)?;
        if tokens.is_empty() {
            return Err("the expression is empty".into());
        }
        let mut sql = String::with_capacity(text.len());
        let mut open = Vec::new();
        let mut identifiers = Vec::new();
        let mut before: Option<&Lexed<'_>> = None;
        for lexed in &tokens {
            if let Some(before) = before.filter(|before| before.end < lexed.start) {
                // Two literals on two lines are one literal to SQL; on one line they are an error.
                let newline = text[before.end..lexed.start].contains('\n');
                let literals = before.token == Token::Text && lexed.token == Token::Text;
                sql.push(if newline && literals { '\n' } else { ' ' });
            }
            sql.push_str(lexed.text);
            match &lexed.token {
                Token::Word(word) if word == "select" => {
                    return Err("a subquery reaches beyond the row: use a lookup or members for other tables".into());
                }
                Token::Word(word) | Token::Quoted(word) => identifiers.push(word.clone()),
                Token::Symbol(symbol @ ('(' | '[')) => open.push(*symbol),
                Token::Symbol(symbol @ (')' | ']')) => {
                    let wanted = if *symbol == ')' { '(' } else { '[' };
                    if open.pop() != Some(wanted) {
                        return Err(format!("`{symbol}` closes nothing"));
                    }
                }
                Token::Symbol(';') => return Err("`;` cannot stand in an expression".into()),
                Token::Symbol(_) | Token::Text => {}
            }
            before = Some(lexed);
        }
        match open.pop() {
            Some(symbol) => Err(format!("`{symbol}` is never closed")),
            None => Ok(Self { sql, identifiers }),
        }
    }
}

/// The parts of a name such as `public."Image"`.
pub(super) fn parse_name(text: &str) -> Result<Vec<String>, String> {
    let wrong = || format!("{text:?} is no SQL name: write it as in SQL, e.g. image, \"Image\" or public.\"Image\"");
    let tokens = lex(text)?;
    let mut parts = Vec::new();
    for (i, lexed) in tokens.iter().enumerate() {
        match (&lexed.token, i % 2) {
            (Token::Word(name) | Token::Quoted(name), 0) => parts.push(name.clone()),
            (Token::Symbol('.'), 1) => {}
            _ => return Err(wrong()),
        }
    }
    if tokens.len().is_multiple_of(2) { Err(wrong()) } else { Ok(parts) }
}

/// An identifier for SQL text.
pub(super) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text literal for SQL text (standard conforming strings).
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

struct Lexed<'a> {
    token: Token,
    text: &'a str,
    start: usize,
    end: usize,
}

fn is_word_start(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_' || !c.is_ascii()
}

fn is_word(c: char) -> bool {
    is_word_start(c) || c.is_ascii_digit() || c == '$'
}

fn lex(text: &str) -> Result<Vec<Lexed<'_>>, String> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        if c.is_whitespace() {
            at += c.len_utf8();
            continue;
        }
        if rest.starts_with("--") {
            at += rest.find('\n').unwrap_or(rest.len());
            continue;
        }
        if rest.starts_with("/*") {
            at += comment(rest)?;
            continue;
        }
        let (token, length) = next(rest, c)?;
        tokens.push(Lexed { token, text: &rest[..length], start: at, end: at + length });
        at += length;
    }
    Ok(tokens)
}

/// Length of the comment that `rest` starts with; comments nest.
fn comment(rest: &str) -> Result<usize, String> {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return Ok(at);
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    Err("a comment is never closed".into())
}

fn next(rest: &str, c: char) -> Result<(Token, usize), String> {
    match c {
        '"' => {
            let length = quoted(rest, '"', false)?;
            let name = rest[1..length - 1].replace("\"\"", "\"");
            if name.is_empty() { Err("\"\" is no identifier".into()) } else { Ok((Token::Quoted(name), length)) }
        }
        '\'' => Ok((Token::Text, quoted(rest, '\'', false)?)),
        '$' => {
            let tag = 1 + rest[1..].find(|c| !is_word(c) || c == '$').unwrap_or(rest.len() - 1);
            if !rest[tag..].starts_with('$') || rest[1..].starts_with(|c: char| c.is_ascii_digit()) {
                return Err("a parameter such as $1 has no value here".into());
            }
            let (tag, body) = rest.split_at(tag + 1);
            let end = body.find(tag).ok_or_else(|| format!("a string that {tag} opens is never closed"))?;
            Ok((Token::Text, end + 2 * tag.len()))
        }
        // Digits alone: what follows them (`e5`, `x1f`) then counts as a word, which at worst names too many columns.
        '0'..='9' => Ok((Token::Text, rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len()))),
        c if is_word_start(c) => {
            let length = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            let word = rest[..length].to_ascii_lowercase();
            if word == "u" && rest[length..].starts_with("&\"") {
                return Err("U&\"…\" identifiers are not supported: write the characters themselves".into());
            }
            if rest[length..].starts_with('\'') && matches!(word.as_str(), "e" | "b" | "x" | "n") {
                return Ok((Token::Text, length + quoted(&rest[length..], '\'', word == "e")?));
            }
            Ok((Token::Word(word), length))
        }
        c => Ok((Token::Symbol(c), c.len_utf8())),
    }
}

/// Length of the quoted text at the start, both quotes included.
fn quoted(rest: &str, quote: char, backslashes: bool) -> Result<usize, String> {
    let mut chars = rest.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if backslashes && c == '\\' {
            chars.next();
        } else if c == quote && chars.next_if(|(_, next)| *next == quote).is_none() {
            return Ok(at + 1);
        }
    }
    Err(format!("a {quote} is never closed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identifiers(sql: &str) -> Vec<String> {
        Expression::parse(sql).unwrap().identifiers
    }

    #[test]
    fn finds_identifiers_and_nothing_in_literals() {
        assert_eq!(identifiers(r#"("flags" & 8192) <> 0"#), ["flags"]);
        assert_eq!(identifiers(r#"Status = 'ACC"x"EPTED' AND "a""b" > 1"#), ["status", "and", "a\"b"]);
        assert_eq!(identifiers(r"E'it\'s a' || b || $x$ c $x$ || N'd'"), ["b"]);
        assert_eq!(identifiers("a /* b /* c */ d */ + e -- f"), ["a", "e"]);
        assert_eq!(identifiers("t.é::text"), ["t", "é", "text"]);
        assert_eq!(identifiers("a$b + 1.5e3"), ["a$b", "e3"]);
    }

    #[test]
    fn cleans_without_changing_meaning() {
        let clean = |sql: &str| Expression::parse(sql).unwrap().sql;
        assert_eq!(clean("  a\n  + /* x */ b -- end"), "a + b");
        assert_eq!(clean("'a  b'\n  'c'"), "'a  b'\n'c'");
        assert_eq!(clean("a<>b::text"), "a<>b::text");
    }

    #[test]
    fn refuses_what_cannot_stand_in_parentheses() {
        for (sql, expected) in [
            ("", "empty"),
            ("-- nothing", "empty"),
            ("a)", "closes nothing"),
            ("(a]", "closes nothing"),
            ("(a", "never closed"),
            ("'a", "never closed"),
            ("\"a", "never closed"),
            ("/* a", "never closed"),
            ("$x$ a", "never closed"),
            ("a; b", "`;`"),
            ("$1 + a", "$1"),
            ("(select 1)", "subquery"),
            (r#"U&"\0041""#, "U&"),
        ] {
            let error = Expression::parse(sql).unwrap_err();
            assert!(error.contains(expected), "{sql}: {error}");
        }
    }

    #[test]
    fn names_fold_as_postgres_folds() {
        assert_eq!(parse_name("Image").unwrap(), ["image"]);
        assert_eq!(parse_name(r#"public."Image""#).unwrap(), ["public", "Image"]);
        assert_eq!(parse_name(r#" "a.b" "#).unwrap(), ["a.b"]);
        for text in ["", "a.", ".a", "a b", "a()", "'a'", "1"] {
            assert!(parse_name(text).is_err(), "{text}");
        }
        assert_eq!(quote("a\"b"), r#""a""b""#);
        assert_eq!(literal("it's"), "'it''s'");
    }
}
