//! The workload that everything is measured on: an image-sharing site. Its tables, rows, changes and queries are a
//! function of a seed, of the number of images and of the clock that they are told: the same bytes each time.

pub mod changes;
pub mod distributions;
pub mod generate;
pub mod load;
pub mod queries;
pub mod rows;
pub mod schema;

#[cfg(test)]
mod tests;

/// What decides every byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workload {
    pub images: u32,
    pub seed: u64,
    /// The clock of the generated site: its newest image is this old. Microseconds since 1970 UTC.
    pub now_us: i64,
}

pub const TAGS: u32 = 31_000;
pub const TOOLS: u32 = 60;
pub const TECHNIQUES: u32 = 20;
pub const BASE_MODELS: u32 = 24;

impl Workload {
    /// A part of it that grows with the number of images, at least 1.
    fn share(&self, images_each: u32) -> u32 {
        (self.images / images_each).max(1)
    }

    pub fn users(&self) -> u32 {
        self.share(20)
    }

    pub fn versions(&self) -> u32 {
        self.share(105)
    }

    pub fn models(&self) -> u32 {
        self.share(130)
    }

    pub fn collections(&self) -> u32 {
        self.share(50)
    }
}

pub const SECOND_US: i64 = 1_000_000;
pub const HOUR_US: i64 = 3_600 * SECOND_US;
pub const DAY_US: i64 = 24 * HOUR_US;

/// Name of the n-th base model, from 1.
pub fn base_model(n: u32) -> String {
    format!("Base {n}")
}
