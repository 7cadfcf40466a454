//! The real program, several processes on one folder, over its real ports.

// Clippy allows these in test functions; this whole program is a test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bad_input;
mod failover;
mod features;
mod feed;
mod process;
mod queries;
mod sessions;
mod start;
