//! Text → tokens, one at a time, each with its place.

use std::{borrow::Cow, ops::Range};

use super::error;
use crate::{Result, query::Comparator};

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token<'t> {
    Open,
    Close,
    OpenList,
    CloseList,
    Comma,
    Comparator(Comparator),
    Word(&'t str),
    Quoted(Cow<'t, str>),
    End,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Spanned<'t> {
    pub(super) token: Token<'t>,
    pub(super) at: Range<usize>,
}

#[derive(Debug, Clone)]
pub(super) struct Lexer<'t> {
    text: &'t str,
    at: usize,
}

pub(super) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '/' | '.' | ':' | '+')
}

impl<'t> Lexer<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, at: 0 }
    }

    pub(super) fn next(&mut self) -> Result<Spanned<'t>> {
        let rest = &self.text[self.at..];
        let trimmed = rest.trim_start();
        let start = self.at + (rest.len() - trimmed.len());
        let Some(first) = trimmed.chars().next() else {
            self.at = self.text.len();
            return Ok(Spanned { token: Token::End, at: self.at..self.at });
        };
        let (token, length) = match first {
            '(' => (Token::Open, 1),
            ')' => (Token::Close, 1),
            '[' => (Token::OpenList, 1),
            ']' => (Token::CloseList, 1),
            ',' => (Token::Comma, 1),
            '=' | '!' | '<' | '>' => self.comparator(trimmed, start)?,
            '\'' | '"' => self.quoted(trimmed, start, first)?,
            c if is_word(c) => {
                let length = trimmed.find(|c| !is_word(c)).unwrap_or(trimmed.len());
                (Token::Word(&trimmed[..length]), length)
            }
            c => return Err(self.unexpected(start, c)),
        };
        self.at = start + length;
        Ok(Spanned { token, at: start..self.at })
    }

    fn comparator(&self, text: &str, start: usize) -> Result<(Token<'t>, usize)> {
        let (comparator, length) = match text.as_bytes() {
            [b'=', b'=', ..] => {
                return Err(error::at(self.text, start..start + 2, "write `=` for equality"));
            }
            [b'=', ..] => (Comparator::Eq, 1),
            [b'!', b'=', ..] => (Comparator::Ne, 2),
            [b'<', b'>', ..] => {
                return Err(error::at(self.text, start..start + 2, "write `!=` for inequality"));
            }
            [b'<', b'=', ..] => (Comparator::Le, 2),
            [b'<', ..] => (Comparator::Lt, 1),
            [b'>', b'=', ..] => (Comparator::Ge, 2),
            [b'>', ..] => (Comparator::Gt, 1),
            _ => return Err(error::at(self.text, start..start + 1, "expected `!=`; to negate a test, write NOT")),
        };
        Ok((Token::Comparator(comparator), length))
    }

    fn quoted(&self, text: &'t str, start: usize, quote: char) -> Result<(Token<'t>, usize)> {
        let inner = &text[1..];
        let mut unescaped: Option<String> = None;
        let mut chars = inner.char_indices();
        while let Some((at, c)) = chars.next() {
            if c == quote {
                let value = unescaped.map_or(Cow::Borrowed(&inner[..at]), Cow::Owned);
                return Ok((Token::Quoted(value), at + 2));
            }
            let escaped = (c == '\\').then(|| inner[at + 1..].chars().next()).flatten();
            match escaped.filter(|next| matches!(next, '\\' | '"' | '\'')) {
                Some(next) => {
                    let value = unescaped.get_or_insert_with(|| inner[..at].to_owned());
                    value.push(next);
                    chars.next();
                }
                None => {
                    if let Some(value) = &mut unescaped {
                        value.push(c);
                    }
                }
            }
        }
        Err(error::at(self.text, start..start + 1, format!("this quote has no end: close it with {quote}")))
    }

    fn unexpected(&self, start: usize, c: char) -> crate::Error {
        let message = match c {
            '&' => "write AND".into(),
            '|' => "write OR".into(),
            '{' | '}' => "a filter as text has no braces: lists are written [1, 2]".into(),
            c => format!("unexpected {c:?}: put values with such characters in quotes"),
        };
        error::at(self.text, start..start + c.len_utf8(), message)
    }
}
