//! Everything that needs a real Postgres.

// Helpers of tests may panic, as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod capture;
mod check;
mod common;
