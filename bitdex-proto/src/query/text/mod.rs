//! Filters and sorts as text, in Meilisearch's grammar: `nsfwLevel <= 4 AND tagIds IN [1, 2] AND NOT userId = 3 AND
//! publishedAt EXISTS`, and `sortAt:desc`.
//!
//! ```text
//! filter  = and { "OR" and }                             OR binds weakest, NOT strongest
//! and     = not { "AND" not }
//! not     = "NOT" not | "(" filter ")" | test
//! test    = field ("=" | "!=" | "<" | "<=" | ">" | ">=") value
//!         | field ["NOT"] "IN" list | field value "TO" value
//!         | field "EXISTS" | field "NOT" "EXISTS" | field "IS" ["NOT"] ("NULL" | "EMPTY")
//!         | field ["NOT"] "ALL" list                     beyond Meilisearch: each value of the list is there
//!         | name | "TRUE" | "FALSE"                      beyond Meilisearch: a filter of the definition; constants
//! list    = "[" [ value { "," value } [","] ] "]"
//! value   = word | 'text' | "text" | "now" [("+" | "-") number unit]
//! ```
//!
//! A word is letters, digits and `_ - / . : +`. In quotes, a backslash stands before a quote or a backslash. What a
//! value means is decided by its field's type, so text gives the same [`Filter`] as the structured form does. An error
//! shows the line, with a mark below the column.

mod error;
mod lexer;
mod parser;
mod print;
mod sort;
#[cfg(test)]
mod tests;

pub(crate) use parser::KEYWORDS;
pub use print::Printed;

use super::{Filter, Sort};
use crate::{Result, schema::Schema};

/// Bytes of a filter or a sort.
pub const MAX_TEXT: usize = 2 << 20;

impl Filter {
    /// Reads a filter from text. Each field is there, can be filtered by, and each value is of its type.
    pub fn parse(text: &str, schema: &Schema) -> Result<Self> {
        let filter = parser::parse(text, schema)?;
        filter.validate()?;
        Ok(filter)
    }

    /// The text that [`Filter::parse`] reads as this filter.
    pub fn to_text(&self) -> String {
        Printed(self).to_string()
    }
}

impl Sort {
    /// Reads `field:asc` or `field:desc`, or several with commas between them.
    pub fn parse(text: &str, schema: &Schema) -> Result<Vec<Self>> {
        sort::parse(text, schema)
    }
}
