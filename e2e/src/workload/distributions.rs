//! The skews of the workload, over one random stream.

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution as _, Exp, Zipf as Rejection};

/// Values 1 to n, the k-th with a weight of 1/k^s.
#[derive(Debug, Clone, Copy)]
pub struct Zipf(Option<Rejection<f64>>);

impl Zipf {
    pub fn new(n: u32, exponent: f64) -> Self {
        Self(Rejection::new(f64::from(n.max(1)), exponent).ok())
    }

    pub fn sample(&self, random: &mut ChaCha8Rng) -> u32 {
        self.0.map_or(1, |zipf| zipf.sample(random) as u32)
    }
}

/// Exponential with this mean.
pub fn exponential(random: &mut ChaCha8Rng, mean: f64) -> f64 {
    Exp::new(1.0 / mean).map_or(0.0, |exponential| exponential.sample(random))
}

/// One of the values by its weight; weights need not sum to 1.
pub fn weighted<T: Copy>(random: &mut ChaCha8Rng, choices: &[(f64, T)]) -> Option<T> {
    let total: f64 = choices.iter().map(|(weight, _)| weight).sum();
    let mut at = random.random::<f64>() * total;
    for (weight, choice) in choices {
        at -= weight;
        if at < 0.0 {
            return Some(*choice);
        }
    }
    choices.last().map(|(_, choice)| *choice)
}

/// A heavy tail: 1 and up, above x with a probability of x^-alpha, at most `top`.
pub fn heavy(random: &mut ChaCha8Rng, alpha: f64, top: u32) -> u32 {
    let uniform: f64 = 1.0 - random.random::<f64>();
    (uniform.powf(-1.0 / alpha) as u32).clamp(1, top)
}

pub fn chance(random: &mut ChaCha8Rng, probability: f64) -> bool {
    random.random::<f64>() < probability
}
