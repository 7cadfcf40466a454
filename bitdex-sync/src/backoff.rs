//! Pauses between attempts: doubling, with jitter, without an end.

use std::time::Duration;

use rand::RngExt as _;

#[derive(Debug)]
pub struct Backoff {
    next: Duration,
    first: Duration,
    longest: Duration,
}

impl Backoff {
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { next: first, first, longest }
    }

    /// For connections: 100 ms to 5 s.
    pub fn for_connections() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(5))
    }

    /// The pause to make now: between half of and the whole current step.
    pub fn step(&mut self) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(self.longest);
        whole.mul_f64(rand::rng().random_range(0.5..=1.0))
    }

    /// After a success.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_grow_to_the_limit_and_start_over() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(350));
        for whole in [100, 200, 350, 350] {
            let step = backoff.step();
            assert!(step >= Duration::from_millis(whole) / 2 && step <= Duration::from_millis(whole), "{step:?}");
        }
        backoff.reset();
        assert!(backoff.step() <= Duration::from_millis(100));
    }
}
