//! The HTTP client of the harness.

use std::{sync::Once, time::Duration};

use anyhow::Result;

static PROVIDER: Once = Once::new();

/// A client for the loopback address, whatever proxy the environment names.
pub fn client(timeout: Duration) -> Result<reqwest::Client> {
    // The client refuses to be built without one, though it speaks plain HTTP here. Another provider that stands
    // already will do.
    PROVIDER.call_once(|| {
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    Ok(reqwest::Client::builder().no_proxy().timeout(timeout).build()?)
}
