//! What is wrong with a definition: each mistake with its place, all of them at once.

use std::fmt;

/// A place in the YAML text, both counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

/// One mistake. Displays as `line 12: …`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {}: {message}", at.line)]
pub struct DefinitionError {
    pub at: Position,
    pub message: String,
}

/// Every mistake found, in the order of the file; never empty. Displays one a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefinitionErrors(pub Vec<DefinitionError>);

impl fmt::Display for DefinitionErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for DefinitionErrors {}

impl From<DefinitionErrors> for crate::Error {
    fn from(errors: DefinitionErrors) -> Self {
        Self::Invalid(errors.to_string())
    }
}

/// Collects mistakes, so that one does not hide the next.
#[derive(Debug, Default)]
pub(super) struct Errors(Vec<DefinitionError>);

impl Errors {
    pub(super) fn add(&mut self, at: Position, message: impl Into<String>) {
        self.0.push(DefinitionError { at, message: message.into() });
    }

    /// `Err` where there was any mistake.
    pub(super) fn finish(mut self) -> Result<(), DefinitionErrors> {
        if self.0.is_empty() {
            return Ok(());
        }
        self.0.sort_by_key(|error| error.at);
        self.0.dedup();
        Err(DefinitionErrors(self.0))
    }
}
