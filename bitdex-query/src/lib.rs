//! The server of BitDex: keeps an index in step with its log, and answers queries from it.
//!
//! Data flows one way: wire → domain → log → state → engine → answer.

pub mod build;
pub mod cli;
pub mod election;
pub mod engine;
pub mod inspect;
pub mod log;
pub mod mapping;
pub mod node;
pub mod segment;
pub mod server;
pub mod state;
pub mod store;
#[cfg(test)]
mod testing;
