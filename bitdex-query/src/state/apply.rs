//! Records → state. Nothing here looks at a clock, at randomness or outside.

use std::sync::Arc;

use bitdex_proto::{Result, schema::Schema, wire};

use super::{Files, State};

impl State {
    /// Applies the record with the given sequence number. An error means that the record is not valid for this state
    /// ([`State::validate`] tells beforehand) or that files are damaged; the state must then be treated as lost.
    pub fn apply(&mut self, _sequence: u64, _record: &wire::Record) -> Result<()> {
        todo!("state")
    }

    /// Whether everything in the record decodes against the schema. The rows of a load are the exception: they need
    /// the load's parts, see [`State::check_load_rows`].
    pub fn check(_schema: &Schema, _record: &wire::Record) -> Result<()> {
        todo!("state")
    }

    /// Whether COPY rows decode as rows of their part's source.
    pub fn check_load_rows(_schema: &Schema, _parts: &[wire::LoadPart], _rows: &wire::LoadRows) -> Result<()> {
        todo!("state")
    }

    /// Whether [`State::apply`] would take this record next: [`State::check`], and what depends on the state.
    pub fn validate(&self, _record: &wire::Record) -> Result<()> {
        todo!("state")
    }

    /// Gives the files of the next generation, which the coming `LoadEnd` swaps in. Without them, `LoadEnd` applies
    /// what is staged as ordinary rows.
    pub fn prepare(&mut self, _prepared: Arc<Files>) {
        todo!("state")
    }
}
