//! The oracle test: thousands of random transactions from several connections, while every process is killed and
//! restarted at random, from before the first load is through, and the index is loaded anew on the way; at each quiet point every document of every pod equals the view's row and ClickHouse's values,
//! and at the end random queries give the same ids in the same order as SQL.
//!
//! A seed fixes what each connection does and which processes are killed; how they interleave is up to the machine. A
//! difference is reported with the document, the field, both values, the statements that mentioned the document and its
//! rows of the ops table.

pub mod chaos;
pub mod documents;
pub mod external;
pub mod history;
pub mod metrics;
pub mod queries;
pub mod run;
pub mod transactions;
pub mod upheaval;

pub use run::{Options, Summary, run};
