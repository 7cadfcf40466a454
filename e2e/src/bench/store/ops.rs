//! The workload's changes as ops: what bitdex-sync would make of them.

use std::{collections::VecDeque, sync::Arc};

use anyhow::{Context as _, Result};
use bitdex_proto::{ops::Op, schema::Schema, value::Value, wire};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::rows::{image_op, post_op};
use crate::workload::{
    TAGS,
    distributions::{Zipf, chance, exponential},
    generate::Generator,
    rows::{Image, Post},
};

/// Posts that are changed again are among as many of the newest.
const RECENT: usize = 20_000;

/// Endless; new posts with their images, publishing, tags, ratings and metrics in the shares of the workload.
pub(in crate::bench) struct Changes {
    schema: Arc<Schema>,
    generator: Generator,
    random: ChaCha8Rng,
    recent: VecDeque<(Post, Vec<Image>)>,
    tags: Zipf,
    now_us: i64,
    post: usize,
    tag: usize,
    tool: usize,
    resource: usize,
    events: usize,
    pending: VecDeque<Op>,
}

impl Changes {
    pub(in crate::bench) fn new(schema: &Arc<Schema>, generator: Generator, seed: u64, now_us: i64) -> Result<Self> {
        let source = |name: &str| schema.source(name).map(|(id, _)| id).with_context(|| format!("no source {name}"));
        let mut changes = Self {
            schema: Arc::clone(schema),
            generator,
            random: ChaCha8Rng::seed_from_u64(seed),
            recent: VecDeque::new(),
            tags: Zipf::new(TAGS, 1.02),
            now_us,
            post: source("post")?,
            tag: source("tagIds")?,
            tool: source("toolIds")?,
            resource: source("modelVersionIds")?,
            events: source("events")?,
            pending: VecDeque::new(),
        };
        // So that there is something to change again.
        for _ in 0..500 {
            changes.post()?;
        }
        Ok(changes)
    }

    fn post(&mut self) -> Result<()> {
        let published_us = chance(&mut self.random, 0.5).then_some(self.now_us);
        let size = 1 + exponential(&mut self.random, 3.7) as u32;
        let (post, images) = self.generator.post_of(size, self.now_us, published_us, self.now_us);
        self.pending.push_back(post_op(&self.schema, self.post, &post)?);
        for image in &images {
            self.pending.push_back(image_op(&self.schema, image)?);
            let member = |source, value: u32| Op::Member {
                source,
                document: image.id,
                value: Value::Int(value.into()),
                present: true,
            };
            self.pending.extend(image.tags.iter().map(|(tag, _)| member(self.tag, *tag)));
            self.pending.extend(image.tools.iter().map(|tool| member(self.tool, *tool)));
            self.pending.extend(image.resources.iter().map(|resource| member(self.resource, resource.version)));
        }
        self.recent.push_back((post, images));
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
        Ok(())
    }

    fn change(&mut self) -> Result<()> {
        self.now_us += 14_000;
        let place = self.random.random_range(0..self.recent.len());
        let newest = self.generator.next_image() - 1;
        let back = exponential(&mut self.random, f64::from(newest) / 10.0) as u32;
        let image = newest.saturating_sub(back).max(1);
        match self.random.random_range(0..100) {
            0..4 => self.post()?,
            4..7 => {
                let post = &mut self.recent[place].0;
                post.published_us = Some(self.now_us);
                self.pending.push_back(post_op(&self.schema, self.post, post)?);
            }
            7..25 => {
                let value = Value::Int(self.tags.sample(&mut self.random).into());
                let present = self.random.random_range(0..4) > 0;
                self.pending.push_back(Op::Member { source: self.tag, document: image, value, present });
            }
            25..30 => {
                let images = &mut self.recent[place].1;
                let within = self.random.random_range(0..images.len());
                images[within].nsfw_level = 1 << self.random.random_range(0..6);
                self.pending.push_back(image_op(&self.schema, &images[within])?);
            }
            _ => {
                let counts = [5_000, 50, 500].map(|most| Some(Value::Int(self.random.random_range(0..most))));
                let row = Some(counts.into());
                self.pending.push_back(Op::Upsert { source: self.events, key: image.into(), row });
            }
        }
        Ok(())
    }

    /// The clock of the newest change.
    pub(in crate::bench) fn now_us(&self) -> i64 {
        self.now_us
    }

    /// The next ops, as they go over the wire.
    pub(in crate::bench) fn batch(&mut self, ops: usize) -> Result<Vec<wire::Op>> {
        while self.pending.len() < ops {
            self.change()?;
        }
        let schema = Arc::clone(&self.schema);
        Ok(self.pending.drain(..ops).map(|op| op.to_wire(&schema)).collect())
    }
}
