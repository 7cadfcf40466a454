//! The server of BitDex: keeps an index in step with its log, and answers queries from it.
//!
//! Data flows one way: wire → domain → log → state → engine → answer.

pub mod engine;
pub mod node;
pub mod state;
