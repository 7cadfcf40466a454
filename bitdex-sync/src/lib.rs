//! bitdex-sync: follows Postgres (ops tables that triggers fill) and ClickHouse (a trailing window), loads the initial
//! state in bulk, and streams all of it to the index's writer. It keeps no state of its own: where it stands is in the
//! index, durable with the data.

pub mod backoff;
pub mod capture;
pub mod check;
pub mod cli;
mod commands;
pub mod daemon;
pub mod deliver;
pub mod load;
pub mod metrics;
pub mod postgres;
pub mod setup;
mod status;

pub use commands::main;
