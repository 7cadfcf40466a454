//! Files out of rows: staging of a load, the base of the next generation, compaction.

pub mod compaction;
pub mod generation;
pub mod staging;
