//! The mix of searches that the site makes.

use bitdex_proto::{
    query::{Comparator, Filter, SearchRequest, Sort},
    value::Literal,
};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::{
    BASE_MODELS, DAY_US, TAGS, TOOLS, Workload, base_model,
    distributions::{Zipf, chance, weighted},
};

/// One query of the mix.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    /// The first page; ids alone.
    pub request: SearchRequest,
    /// Pages that the visitor looks at: 1, or 3 of one in ten.
    pub pages: u32,
}

/// Endless; the same for the same seed.
#[derive(Debug)]
pub struct Queries {
    random: ChaCha8Rng,
    index: String,
    users: Zipf,
    tags: Zipf,
    versions: Zipf,
    bases: Zipf,
}

impl Queries {
    pub fn new(workload: Workload, index: &str) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(workload.seed);
        random.set_stream(5);
        Self {
            random,
            index: index.into(),
            users: Zipf::new(workload.users(), 1.05),
            tags: Zipf::new(TAGS, 1.02),
            versions: Zipf::new(workload.versions(), 1.05),
            bases: Zipf::new(BASE_MODELS, 1.2),
        }
    }

    fn filter(&mut self) -> Filter {
        let random = &mut self.random;
        let mut all = Vec::new();
        if chance(random, 0.85) {
            all.extend([
                Filter::eq("availability", Literal::Text("Public".into())),
                Filter::IsNull { field: "blockedFor".into() },
                Filter::eq("poi", Literal::Bool(false)),
                Filter::eq("minor", Literal::Bool(false)),
                Filter::eq("isPublished", Literal::Bool(true)),
            ]);
        }
        if chance(random, 0.97) {
            let levels = [1, 2, 4, 8, 16].map(Literal::Int);
            all.push(Filter::any_of("nsfwLevel", levels[..random.random_range(1..=levels.len())].to_vec()));
        }
        if chance(random, 0.5) {
            let kind = if chance(random, 0.9) { "image" } else { "video" };
            all.push(Filter::eq("type", Literal::Text(kind.into())));
        }
        match weighted(
            random,
            &[(45, 0), (10, 1), (7, 2), (4, 3), (3, 4), (3, 5), (28, 6)].map(|(w, k)| (f64::from(w), k)),
        ) {
            Some(0) => all.push(Filter::eq("userId", int(self.users.sample(random)))),
            Some(1) => {
                let many = if chance(random, 0.5) { 1 } else { 3 };
                let tags = (0..many).map(|_| int(self.tags.sample(random))).collect();
                all.push(Filter::any_of("tagIds", tags));
            }
            Some(2) => all.push(Filter::eq("modelVersionIds", int(self.versions.sample(random)))),
            Some(3) => all.push(Filter::eq("baseModels", Literal::Text(base_model(self.bases.sample(random))))),
            Some(4) => all.push(Filter::eq("toolIds", int(random.random_range(1..=TOOLS)))),
            Some(5) => all.push(Filter::eq("hasMeta", Literal::Bool(true))),
            _ => {}
        }
        if chance(random, 0.12) {
            let days = [1, 7, 30, 365][random.random_range(0..4)];
            all.push(Filter::Compare {
                field: "sortAt".into(),
                comparator: Comparator::Ge,
                value: Literal::Now { offset_us: -days * DAY_US },
            });
        }
        if chance(random, 0.04) {
            let values = (0..3).map(|_| int(self.tags.sample(random))).collect();
            all.push(Filter::In { field: "tagIds".into(), values, negated: true, all: false });
        }
        Filter::And(all)
    }
}

fn int(value: u32) -> Literal {
    Literal::Int(value.into())
}

impl Iterator for Queries {
    type Item = Query;

    fn next(&mut self) -> Option<Query> {
        let filter = self.filter();
        let random = &mut self.random;
        let field = weighted(
            random,
            &[(79.0, "sortAt"), (19.0, "reactionCount"), (1.0, "collectedCount"), (1.0, "commentCount")],
        )?;
        let limit = weighted(random, &[(41.0, 500), (28.0, 50), (24.0, 100), (5.0, 64), (2.0, 20), (1.0, 200)])?;
        let pages = if chance(random, 0.1) { 3 } else { 1 };
        let mut request = SearchRequest::new(self.index.clone());
        request.filter = Some(filter);
        request.sort = vec![Sort { field: field.into(), descending: true }];
        request.limit = limit;
        Some(Query { request, pages })
    }
}
