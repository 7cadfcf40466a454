//! Everything that needs a real Postgres.

mod capture;
mod check;
mod common;
