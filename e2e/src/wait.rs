//! Waiting for a condition, with a limit and an error that says what was awaited and what was seen last.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// Asks `condition` until it gives a value. `Ok(Err(seen))` means "not yet"; an `Err` ends the wait at once.
pub async fn until<T, F>(what: &str, limit: Duration, mut condition: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<Result<T, String>>>,
{
    let start = Instant::now();
    let mut pause = Duration::from_millis(2);
    loop {
        match condition().await? {
            Ok(value) => return Ok(value),
            Err(seen) if start.elapsed() > limit => bail!("{what}: not within {limit:?}; last seen: {seen}"),
            Err(_) => {}
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// A port of the loopback address that is free now.
pub fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
