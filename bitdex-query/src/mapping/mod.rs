//! What only calls of the kernel give: files in memory, and how threads share the cores. The only place with `unsafe`
//! code.

pub mod ahead;
pub mod bus;
pub mod frontier;
mod map;
pub mod slices;

pub use frontier::Frontier;
pub use map::Map;
