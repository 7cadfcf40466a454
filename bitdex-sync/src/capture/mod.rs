//! Following Postgres: what changed between two snapshots, and where an index stands.

mod cleanup;
mod consumer;
mod external;
mod pages;
mod poll;
mod read;
mod window;

pub use self::{
    cleanup::{Cleaned, Cleanup},
    consumer::{Consumer, HistoryError, fresh_token},
    poll::{Plan, PollError, Polled, Poller, Request},
    read::DataError,
};
