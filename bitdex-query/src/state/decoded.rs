//! Records of the log, decoded against the schema: off the thread that applies them.

use bitdex_proto::{
    Error, Result,
    ops::Op,
    schema::Schema,
    wire::{self, record::Kind},
};

use super::apply::{check_definition, check_load, malformed};

/// A record whose ops are of the schema.
#[derive(Debug)]
pub struct Decoded {
    /// Of a batch: without its ops.
    record: wire::Record,
    ops: Vec<Op>,
}

impl Decoded {
    /// INVALID_ARGUMENT, by name, where something in the record does not decode against the schema. The rows of a load
    /// are the exception: they need the load's parts, see [`super::State::check_load_rows`].
    pub fn new(schema: &Schema, mut record: wire::Record) -> Result<Self> {
        let ops = match record.kind.as_mut().ok_or_else(|| malformed("a kind"))? {
            Kind::Genesis(genesis) => {
                check_definition(schema, &genesis.definition_hash)?;
                Vec::new()
            }
            Kind::Batch(batch) if batch.source.is_empty() => return Err(malformed("the name of its source")),
            Kind::Batch(batch) => std::mem::take(&mut batch.ops)
                .iter()
                .map(|op| Op::from_wire(op, schema))
                .collect::<Result<_, Error>>()?,
            Kind::LoadBegin(begin) => {
                check_load(schema, begin)?;
                Vec::new()
            }
            Kind::LoadRows(_) | Kind::LoadPartDone(_) | Kind::LoadEnd(_) | Kind::Freeze(_) => Vec::new(),
        };
        Ok(Self { record, ops })
    }

    pub fn kind(&self) -> Option<&Kind> {
        self.record.kind.as_ref()
    }

    pub(super) fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// The record; of a batch: without its ops.
    pub fn into_record(self) -> wire::Record {
        self.record
    }
}
