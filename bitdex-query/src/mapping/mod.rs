//! What only calls of the kernel, or an instruction of the processor, give: files in memory, memory that is asked for
//! before it is read, and how threads share the cores. The only place with `unsafe` code.

pub mod ahead;
pub mod bus;
pub mod frontier;
mod map;
pub mod slices;

pub use frontier::Frontier;
pub use map::Map;
