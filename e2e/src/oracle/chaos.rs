//! Ends processes at random and starts them again.

use std::time::Duration;

use anyhow::Result;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::history::History;
use crate::processes::Pair;

#[derive(Debug)]
pub struct Chaos {
    random: ChaCha8Rng,
    /// Ends so far.
    pub kills: u64,
}

impl Chaos {
    pub fn new(seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(1_001);
        Self { random, kills: 0 }
    }

    /// A pause, then the end of one process or of several, a pause, and their start.
    pub async fn strike(&mut self, pair: &mut Pair, history: &History) -> Result<()> {
        self.pause(100, 900).await;
        pair.check()?;
        let (sync, pods): (bool, Vec<usize>) = match self.random.random_range(0..8) {
            0..=2 => (true, Vec::new()),
            3..=5 => (false, vec![self.random.random_range(0..pair.pods.len())]),
            6 => (false, (0..pair.pods.len()).collect()),
            _ => (true, (0..pair.pods.len()).collect()),
        };
        let gently = self.random.random_bool(0.2);
        if sync {
            history.add("chaos", if gently { "SIGTERM to sync" } else { "kill -9 sync" });
            if gently {
                pair.sync.terminate().await?
            } else {
                pair.sync.kill()?
            }
            self.kills += 1;
        }
        for pod in &pods {
            history.add("chaos", format!("{} pod number {pod}", if gently { "SIGTERM to" } else { "kill -9" }));
            let process = &mut pair.pods[*pod].process;
            if gently {
                process.terminate().await?
            } else {
                process.kill()?
            }
            self.kills += 1;
        }
        self.pause(0, 400).await;
        for pod in pods {
            pair.pods[pod].process.start()?;
        }
        if sync {
            pair.sync.start()?;
        }
        Ok(())
    }

    /// `kill -9` of sync within `most_ms`, and its start.
    pub async fn strike_sync(&mut self, pair: &mut Pair, history: &History, most_ms: u64) -> Result<()> {
        self.pause(0, most_ms).await;
        pair.check()?;
        history.add("chaos", "kill -9 sync");
        pair.sync.kill()?;
        self.kills += 1;
        self.pause(0, 200).await;
        pair.sync.start()
    }

    /// `kill -9` of all pods within `most_ms`, and their start.
    pub async fn strike_pods(&mut self, pair: &mut Pair, history: &History, most_ms: u64) -> Result<()> {
        self.pause(0, most_ms).await;
        pair.check()?;
        history.add("chaos", "kill -9 all pods");
        for pod in &mut pair.pods {
            pod.process.kill()?;
            self.kills += 1;
        }
        self.pause(0, 200).await;
        pair.start_pods()
    }

    async fn pause(&mut self, least_ms: u64, most_ms: u64) {
        tokio::time::sleep(Duration::from_millis(self.random.random_range(least_ms..=most_ms))).await;
    }
}
