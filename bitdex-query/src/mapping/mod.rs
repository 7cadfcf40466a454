//! Files in memory: the only place with `unsafe` code.

pub mod frontier;
mod map;

pub use frontier::Frontier;
pub use map::Map;
