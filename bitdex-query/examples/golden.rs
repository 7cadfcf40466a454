//! Makes golden stores: `cargo run -p bitdex-query --example golden -- FORMAT FOLDER`. See tests/golden/README.md.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a tool for the tests")]

#[path = "../tests/golden/contents.rs"]
#[allow(dead_code, reason = "shared with the test, which compares with it")]
mod contents;
#[path = "../tests/golden/store.rs"]
mod store;

use std::path::PathBuf;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let format = arguments.next().expect("a format").parse().unwrap();
    let folder = PathBuf::from(arguments.next().expect("a folder that is not there yet"));
    store::serving(&folder.join("serving"), format);
    store::loading(&folder.join("loading"), format);
}
