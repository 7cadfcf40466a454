//! Looking at a data folder from outside: what it holds, and whether that is sound. Nothing here changes anything or
//! takes the lock.

pub mod check;
mod report;
mod structure;
#[cfg(test)]
mod tests;

pub use report::{FieldReport, Report};
