//! What BitDex's two binaries and their clients share: the definition of an index, the values it holds, the wire
//! (generated from `proto/`) and the validated domain types over it.
//!
//! Data flows wire → domain: everything outside this crate's `wire` module works on the domain types, which can only
//! hold what is valid.

pub mod client;
pub mod copy;
pub mod definition;
pub mod error;
mod names;
pub mod ops;
pub mod query;
pub mod schema;
pub mod snapshot;
pub mod token;
pub mod value;

/// Code generated from `proto/bitdex/v1`.
#[allow(missing_debug_implementations, unreachable_pub, clippy::all, clippy::expect_used, clippy::unwrap_used)]
pub mod wire {
    tonic::include_proto!("bitdex.v1");

    /// The compiled descriptors of all protos, for server reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
}

pub use error::{Error, Result};
