//! The log: one sequence of records, and the only thing that changes state.
//!
//! What it guarantees:
//!
//! - A record that was acknowledged is there, whole, after any crash; none is there twice; sequence numbers are
//!   consecutive and never go back.
//! - Nothing above the durable [frontier](crate::mapping::frontier) is ever given to a follower.
//! - Bytes above the last durable mark may be torn, and are then left out; a bad frame below it is refused by name
//!   ([`Cause::Damaged`]), never skipped.
//! - A segment belongs to one epoch. A new writer starts its own, whose header names where the one before ends; what
//!   stands behind that end is no part of the log.
//! - After a failed write or fsync nothing more is acknowledged ([`writer`]).
//!
//! The formats are told byte by byte in `docs/store-format.md`.

pub mod disk;
mod error;
#[cfg(test)]
pub(crate) mod faults;
pub mod frame;
pub mod named;
pub mod reader;
pub mod segment;
#[cfg(test)]
mod tests;
pub mod writer;

pub use error::{Cause, Error, Result};
