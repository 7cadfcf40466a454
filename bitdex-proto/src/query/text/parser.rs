//! Tokens → [`Filter`], against the schema.

use std::ops::Range;

use super::{
    MAX_TEXT, error,
    lexer::{Lexer, Spanned, Token},
};
use crate::{
    Error, Result,
    names::suggestion,
    query::{Comparator, Filter, filter::MAX_DEPTH},
    schema::{Field, Schema},
    value::{FieldType, Literal, parse_decimal, parse_offset},
};

/// Words that are no values and no names unless they are quoted.
pub(crate) const KEYWORDS: [&str; 14] =
    ["AND", "OR", "NOT", "IN", "TO", "EXISTS", "IS", "NULL", "EMPTY", "ALL", "CONTAINS", "STARTS", "TRUE", "FALSE"];
const GEO: [&str; 5] = ["_geoRadius", "_geoBoundingBox", "_geoPolygon", "_geoPoint", "_geo"];
const TESTS: &str = "= != < <= > >= IN, NOT IN, ALL, EXISTS, NOT EXISTS, IS NULL, IS NOT NULL, or value TO value";

pub(super) fn parse(text: &str, schema: &Schema) -> Result<Filter> {
    if text.len() > MAX_TEXT {
        return Err(Error::invalid(format!("a filter of {} bytes; at most {MAX_TEXT} are allowed", text.len())));
    }
    let mut lexer = Lexer::new(text);
    let next = lexer.next()?;
    let mut parser = Parser { text, schema, lexer, next };
    if parser.next.token == Token::End {
        return Err(parser.expected("a filter, as in `userId = 7`"));
    }
    let filter = parser.or(1)?;
    match parser.next.token {
        Token::End => Ok(filter),
        Token::Close => Err(parser.here("this `)` closes nothing")),
        _ => Err(parser.expected("AND, OR, or the end")),
    }
}

struct Parser<'t, 's> {
    text: &'t str,
    schema: &'s Schema,
    lexer: Lexer<'t>,
    next: Spanned<'t>,
}

impl<'t, 's> Parser<'t, 's> {
    fn take(&mut self) -> Result<Spanned<'t>> {
        let next = self.lexer.next()?;
        Ok(std::mem::replace(&mut self.next, next))
    }

    fn here(&self, message: impl AsRef<str>) -> Error {
        error::at(self.text, self.next.at.clone(), message)
    }

    fn expected(&self, what: &str) -> Error {
        let found = match &self.next.token {
            Token::End => "the end".to_owned(),
            _ => format!("`{}`", shorten(&self.text[self.next.at.clone()])),
        };
        let hint = match self.next.token {
            Token::Word(word) if KEYWORDS.contains(&word) => format!("; to mean the text {word}, put it in quotes"),
            Token::Word(word) if KEYWORDS.contains(&word.to_ascii_uppercase().as_str()) => {
                format!("; keywords are in capitals: {}", word.to_ascii_uppercase())
            }
            _ => String::new(),
        };
        self.here(format!("expected {what}, found {found}{hint}"))
    }

    fn is(&self, keyword: &str) -> bool {
        matches!(self.next.token, Token::Word(word) if word == keyword)
    }

    /// Takes the keyword where it is next.
    fn eat(&mut self, keyword: &str) -> Result<bool> {
        let is = self.is(keyword);
        if is {
            self.take()?;
        }
        Ok(is)
    }

    fn depth(&self, depth: usize) -> Result<()> {
        // Each level of a tree is one here, and the parser itself one more.
        if depth <= MAX_DEPTH + 1 {
            return Ok(());
        }
        Err(self.here(format!("a filter is nested deeper than {MAX_DEPTH} levels")))
    }

    /// `depth` counts the levels that the filter's tree, or the parser's stack, may have from the top to here.
    fn or(&mut self, depth: usize) -> Result<Filter> {
        self.depth(depth)?;
        let mut filters = vec![self.and(depth + 1)?];
        while self.eat("OR")? {
            filters.push(self.and(depth + 1)?);
        }
        Ok(one_or(filters, Filter::Or))
    }

    fn and(&mut self, depth: usize) -> Result<Filter> {
        let mut filters = vec![self.not(depth)?];
        while self.eat("AND")? {
            filters.push(self.not(depth)?);
        }
        Ok(one_or(filters, Filter::And))
    }

    fn not(&mut self, depth: usize) -> Result<Filter> {
        self.depth(depth)?;
        if self.eat("NOT")? {
            return Ok(Filter::Not(Box::new(self.not(depth + 1)?)));
        }
        if self.next.token == Token::Open {
            let open = self.take()?;
            let filter = self.or(depth)?;
            if self.next.token != Token::Close {
                if self.next.token == Token::End {
                    return Err(error::at(self.text, open.at, "this `(` is not closed"));
                }
                return Err(self.expected("AND, OR, or `)`"));
            }
            self.take()?;
            return Ok(filter);
        }
        self.test()
    }

    fn test(&mut self) -> Result<Filter> {
        match &self.next.token {
            Token::Word("TRUE") => {
                self.take()?;
                return Ok(Filter::And(Vec::new()));
            }
            Token::Word("FALSE") => {
                self.take()?;
                return Ok(Filter::Or(Vec::new()));
            }
            Token::Word(word) if GEO.contains(word) => {
                let message = format!(
                    "{word} is not supported: there are no places here; keep the coordinates as two fields and compare \
                     each, as in `lat 50 TO 51 AND lng 3 TO 4`"
                );
                return Err(self.here(message));
            }
            Token::Word(word) if KEYWORDS.contains(word) => return Err(self.expected("a field")),
            Token::Word(_) | Token::Quoted(_) => {}
            Token::Comparator(_) => return Err(self.expected("a field before the comparison")),
            _ => return Err(self.expected("a field")),
        }
        let name = self.take()?;
        let field_name = match &name.token {
            Token::Word(word) => *word,
            Token::Quoted(text) => text.as_ref(),
            _ => "",
        };
        let ends = matches!(self.next.token, Token::End | Token::Close) || self.is("AND") || self.is("OR");
        if ends && self.schema.named_filter(field_name).is_some() {
            return Ok(Filter::Named { name: field_name.into() });
        }
        let field = self.field(field_name, name.at.clone(), ends)?;
        self.test_of(field)
    }

    fn field(&self, name: &str, at: Range<usize>, alone: bool) -> Result<&'s Field> {
        let Some((_, field)) = self.schema.field(name) else {
            let message = if self.schema.named_filter(name).is_some() {
                format!(
                    "{name} is a filter of the definition, and stands alone: expected AND, OR, or the end behind it"
                )
            } else {
                let fields = self.schema.fields.iter().filter(|field| field.filter);
                let filters = self.schema.filters.iter().map(|filter| filter.name.as_str());
                let known = fields.map(|field| field.name.as_str()).chain(filters);
                let what = if alone { "unknown filter or field" } else { "unknown field" };
                format!("{what} {}{}", shorten(name), suggestion(name, known))
            };
            return Err(error::at(self.text, at, message));
        };
        if !field.filter {
            let message = format!("field {name} cannot be filtered by: the definition does not say `filter: true`");
            return Err(error::at(self.text, at, message));
        }
        Ok(field)
    }

    /// What stands behind a field's name.
    fn test_of(&mut self, field: &'s Field) -> Result<Filter> {
        let name = || field.name.clone();
        if let Token::Comparator(comparator) = self.next.token {
            self.take()?;
            let value = self.value(field)?;
            return Ok(Filter::Compare { field: name(), comparator, value });
        }
        let negated = self.eat("NOT")?;
        if self.is("IN") || self.is("ALL") {
            let all = self.is("ALL");
            if all && !field.many {
                return Err(self.here(format!("field {} holds one value: `ALL` needs a field of many", field.name)));
            }
            self.take()?;
            return Ok(Filter::In { field: name(), values: self.list(field)?, negated, all });
        }
        if self.eat("EXISTS")? {
            return Ok(null(name(), negated));
        }
        if self.is("CONTAINS") || self.is("STARTS") {
            return Err(self.here("CONTAINS and STARTS WITH are not supported: values are compared whole"));
        }
        if negated {
            return Err(self.expected("IN, ALL or EXISTS behind NOT"));
        }
        if self.eat("IS")? {
            let negated = self.eat("NOT")?;
            if self.eat("NULL")? {
                return Ok(null(name(), !negated));
            }
            if self.is("EMPTY") && field.many {
                // A field of many values that has none is null.
                self.take()?;
                return Ok(null(name(), !negated));
            }
            if self.is("EMPTY") {
                let remedy = format!("field {} holds one value: write IS NULL, or compare it with ''", field.name);
                return Err(self.here(remedy));
            }
            return Err(self.expected("NULL or EMPTY behind IS"));
        }
        let keyword = matches!(self.next.token, Token::Word(word) if KEYWORDS.contains(&word));
        if matches!(self.next.token, Token::Word(_) | Token::Quoted(_)) && !keyword {
            return self.range(field);
        }
        if field.ty == FieldType::Bool && matches!(self.next.token, Token::End | Token::Close | Token::Word(_)) {
            let message = format!("a test behind the field: write `{0} = true` or `{0} = false`", field.name);
            return Err(self.expected(&message));
        }
        Err(self.expected(&format!("a test behind the field: {TESTS}")))
    }

    fn range(&mut self, field: &'s Field) -> Result<Filter> {
        let start = self.next.at.start;
        // What is no range is more likely a forgotten operator than a wrong value.
        let mut ahead = self.lexer.clone();
        let is_range = (0..3).any(|_| matches!(ahead.next(), Ok(Spanned { token: Token::Word("TO"), .. })));
        if !is_range {
            return Err(self.expected(&format!("a test behind the field: {TESTS}")));
        }
        let low = self.value(field)?;
        if !self.eat("TO")? {
            return Err(self.expected("TO"));
        }
        let high = self.value(field)?;
        if field.many {
            let message = format!("field {} holds many values: a range of them is not supported", field.name);
            return Err(error::at(self.text, start..self.next.at.start, message));
        }
        let end = |comparator, value| Filter::Compare { field: field.name.clone(), comparator, value };
        Ok(Filter::And(vec![end(Comparator::Ge, low), end(Comparator::Le, high)]))
    }

    fn list(&mut self, field: &Field) -> Result<Vec<Literal>> {
        if self.next.token != Token::OpenList {
            return Err(self.expected("a list, as in [1, 2]"));
        }
        let open = self.take()?;
        let mut values = Vec::new();
        loop {
            match self.next.token {
                Token::CloseList => break,
                Token::End => return Err(error::at(self.text, open.at, "this `[` is not closed")),
                _ => values.push(self.value(field)?),
            }
            match self.next.token {
                Token::Comma => {
                    self.take()?;
                }
                Token::CloseList => {}
                Token::End => return Err(error::at(self.text, open.at, "this `[` is not closed")),
                _ => return Err(self.expected("`,` or `]`")),
            }
        }
        self.take()?;
        Ok(values)
    }

    fn value(&mut self, field: &Field) -> Result<Literal> {
        let what = || format!("a value of type {} for field {}", field.ty, field.name);
        match &self.next.token {
            Token::Word("NULL") => {
                return Err(self.here(format!("compare with null by `{} IS NULL` or `EXISTS`", field.name)));
            }
            Token::Word(word) if KEYWORDS.contains(word) => return Err(self.expected(&what())),
            Token::Word(_) | Token::Quoted(_) => {}
            Token::OpenList => return Err(self.here("a list needs IN")),
            _ => return Err(self.expected(&what())),
        }
        let Spanned { token, at } = self.take()?;
        match &token {
            Token::Word(word) if field.ty == FieldType::Timestamp && word.starts_with("now") => {
                let rest = &word["now".len()..];
                if rest.is_empty() || rest.starts_with(['-', '+']) {
                    return self.now(rest, at);
                }
            }
            _ => {}
        }
        let text = match &token {
            Token::Word(word) => *word,
            Token::Quoted(text) => text.as_ref(),
            _ => "",
        };
        literal(text, field.ty).ok_or_else(|| {
            let hint = match field.ty {
                FieldType::Timestamp => ", as in 2026-01-01T00:00:00Z, or now - 24h",
                FieldType::Bool => ", which is true or false",
                _ => "",
            };
            error::at(self.text, at, format!("expected {}{hint}, found `{}`", what(), shorten(text)))
        })
    }

    /// Behind `now`: nothing, or an offset, with or without spaces around its sign.
    fn now(&mut self, rest: &str, at: Range<usize>) -> Result<Literal> {
        let mut offset = rest.to_owned();
        let mut end = at.end;
        if offset.is_empty() {
            match self.next.token {
                Token::Word(word) if word.starts_with(['-', '+']) => {
                    offset.push_str(word);
                    end = self.take()?.at.end;
                }
                _ => return Ok(Literal::Now { offset_us: 0 }),
            }
        }
        if offset.len() == 1
            && let Token::Word(word) = self.next.token
        {
            offset.push_str(word);
            end = self.take()?.at.end;
        }
        match parse_offset(&offset) {
            Some(offset_us) => Ok(Literal::Now { offset_us }),
            None => Err(error::at(
                self.text,
                at.start..end,
                "expected a time relative to the clock, as in now - 24h or now + 90s (units us ms s m h d)",
            )),
        }
    }
}

fn one_or(mut filters: Vec<Filter>, several: fn(Vec<Filter>) -> Filter) -> Filter {
    match filters.pop() {
        Some(filter) if filters.is_empty() => filter,
        last => {
            filters.extend(last);
            several(filters)
        }
    }
}

fn null(field: String, is_null: bool) -> Filter {
    let test = Filter::IsNull { field };
    if is_null { test } else { Filter::Not(Box::new(test)) }
}

/// The literal of a type that a text means.
fn literal(text: &str, ty: FieldType) -> Option<Literal> {
    Some(match ty {
        FieldType::Int => Literal::Int(text.parse().ok()?),
        FieldType::Decimal(scale) => {
            Literal::Decimal { unscaled: parse_decimal(text, scale)?, scale: u32::from(scale) }
        }
        FieldType::Float => {
            let float: f64 = match text {
                "NaN" => f64::NAN,
                "Infinity" => f64::INFINITY,
                "-Infinity" => f64::NEG_INFINITY,
                text => text.parse().ok().filter(|float: &f64| float.is_finite())?,
            };
            Literal::Float(float)
        }
        FieldType::Bool => Literal::Bool(text.parse().ok()?),
        FieldType::Timestamp => match text.parse() {
            Ok(us) => Literal::TimestampUs(us),
            Err(_) => match Literal::Text(text.into()).to_value(ty, "").ok()? {
                crate::value::Value::Int(us) => Literal::TimestampUs(us),
                _ => return None,
            },
        },
        FieldType::String => Literal::Text(text.into()),
    })
}

/// For one line of a message.
fn shorten(text: &str) -> String {
    const MOST: usize = 60;
    let mut shown: String = text.chars().take(MOST).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(MOST).is_some() {
        shown.push('…');
    }
    shown
}
