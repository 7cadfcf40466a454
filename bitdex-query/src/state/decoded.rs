//! Records of the log, decoded against the schema: off the thread that applies them.

use bitdex_proto::{
    Result,
    ops::Op,
    schema::Schema,
    wire::{self, record::Kind},
};
use prost::Message as _;

use super::apply::{check_definition, check_load, malformed};

/// A record whose ops are of the schema.
#[derive(Debug)]
pub struct Decoded {
    /// Of a batch: without its ops.
    record: wire::Record,
    ops: Vec<Op>,
}

impl Decoded {
    /// Of a record as it stands in the log. The memory of `room` is used for its ops, and given back: whoever reads many
    /// records asks for it once. What was in it is forgotten.
    pub fn read(schema: &Schema, payload: &[u8], room: &mut Vec<wire::Op>) -> Result<Self> {
        room.clear();
        // What is read is merged into a batch without anything; a record of another kind takes its place.
        let batch = wire::Batch { ops: std::mem::take(room), ..wire::Batch::default() };
        let mut record = wire::Record { kind: Some(Kind::Batch(batch)) };
        record.merge(payload).map_err(|error| bitdex_proto::Error::invalid(error.to_string()))?;
        let mut decoded = Self::new(schema, record)?;
        if let Some(Kind::Batch(batch)) = &mut decoded.record.kind {
            *room = std::mem::take(&mut batch.ops);
        }
        Ok(decoded)
    }

    /// INVALID_ARGUMENT, by name, where something in the record does not decode against the schema. The rows of a load
    /// are the exception: they need the load's parts, see [`super::State::check_load_rows`].
    pub fn new(schema: &Schema, mut record: wire::Record) -> Result<Self> {
        let ops = match record.kind.as_mut().ok_or_else(|| malformed("a kind"))? {
            Kind::Genesis(genesis) => {
                check_definition(schema, &genesis.definition_hash)?;
                Vec::new()
            }
            Kind::Batch(batch) if batch.source.is_empty() => return Err(malformed("the name of its source")),
            Kind::Batch(batch) => {
                let mut ops = Vec::with_capacity(batch.ops.len());
                for op in batch.ops.drain(..) {
                    ops.push(Op::from_wire(&op, schema)?);
                }
                ops
            }
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
