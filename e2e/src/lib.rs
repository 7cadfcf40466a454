//! The end-to-end harness: a real Postgres, a real ClickHouse engine, the real binaries as processes, the workload
//! that everything is measured on, and what drives them (the oracle test, the demo, the benchmarks).

pub mod bench;
pub mod clickhouse;
pub mod demo;
pub mod folders;
pub mod http;
pub mod oracle;
pub mod postgres;
pub mod processes;
pub mod reaper;
pub mod sql;
pub mod stage;
pub mod terminal;
pub mod wait;
pub mod workload;
