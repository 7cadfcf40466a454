//! Immutable parts of files: sets of ids by term, columns, documents, tables of rows; and the segment, which is made of
//! them. Everything is read where it is mapped.

pub mod ahead;
pub mod builder;
pub mod cells;
pub mod columns;
pub mod documents;
pub mod kept;
mod keys;
pub mod lanes;
pub mod leaders;
pub mod orders;
pub mod overridden;
mod parts;
pub mod peaks;
pub mod postings;
#[allow(clippy::module_inception)]
pub mod segment;
pub mod sets;
pub mod table;
#[cfg(test)]
mod tests;
pub mod tops;
pub mod value;

/// Ids of a block: 2^16.
pub const BLOCK_BITS: u32 = 16;
/// Ids of a segment: 2^20.
pub const SEGMENT_BITS: u32 = 20;
pub const BLOCKS_PER_SEGMENT: u16 = 1 << (SEGMENT_BITS - BLOCK_BITS);

/// How a field is indexed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Index {
    None,
    /// Term → set of ids.
    Terms,
    /// Id → code, the ids in that order, and the set of ids that have a value (term `Exists`).
    Column,
}

/// What a segment has to know of the schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// Places of a document's rows: sources keyed by document, and external fields. Position = slot.
    pub slots: usize,
    /// By field of the layout. The key field has `None`: it is its own index.
    pub fields: Vec<(Index, bitdex_proto::value::FieldType)>,
}
