//! The oracle test on the oldest and on the newest Postgres: reduced, or in full where `BITDEX_TEST_LONG` is set.
//! `BITDEX_TEST_SEED` names the seed of a run to repeat.

use e2e::{
    oracle::{self, Options},
    terminal::say,
};

/// One at a time: each has several processes of its own.
static ONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

async fn on_postgres(major: u32) {
    let _alone = ONE.lock().await;
    let seed = std::env::var("BITDEX_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    let long = std::env::var_os("BITDEX_TEST_LONG").is_some();
    let options = if long { Options::full(seed) } else { Options::reduced(seed) };
    let options = Options { postgres: Some(major), ..options };
    match oracle::run(options).await {
        Ok(summary) => say(format!("seed {seed}: {summary:?}")),
        Err(error) => panic!("BITDEX_TEST_SEED={seed}: {error:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_index_equals_the_view_on_postgres_14() {
    on_postgres(14).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_index_equals_the_view_on_postgres_18() {
    on_postgres(18).await;
}
