//! What the golden stores hold, in plain maps.

use std::collections::{BTreeMap, BTreeSet};

/// The values of a document that its own row has.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Row {
    pub(crate) level: Option<i64>,
    pub(crate) kind: Option<&'static str>,
    pub(crate) title: Option<String>,
    pub(crate) ratio: Option<f64>,
    /// In hundredths.
    pub(crate) price: Option<i64>,
    pub(crate) flag: Option<bool>,
    /// Microseconds since 1970.
    pub(crate) made_at: Option<i64>,
    pub(crate) post: Option<i64>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Contents {
    pub(crate) rows: BTreeMap<u32, Row>,
    /// Post → rank.
    pub(crate) posts: BTreeMap<i64, Option<i64>>,
    /// Version → base, model.
    pub(crate) versions: BTreeMap<i64, (&'static str, i64)>,
    /// Model → poi.
    pub(crate) models: BTreeMap<i64, bool>,
    pub(crate) tags: BTreeMap<u32, BTreeSet<i64>>,
    pub(crate) words: BTreeMap<u32, BTreeSet<&'static str>>,
    pub(crate) version_ids: BTreeMap<u32, BTreeSet<i64>>,
    pub(crate) clicks: BTreeMap<u32, i64>,
    pub(crate) step: BTreeMap<u32, i64>,
    pub(crate) labels: BTreeMap<u32, BTreeSet<&'static str>>,
}

/// The first second of 2024.
pub(crate) const DAY_ONE: i64 = 1_704_067_200_000_000;
/// Documents of the first block with a flag alone: more than an array of ids may have.
pub(crate) const PLAIN: u32 = 4_100;
/// Ids in other blocks and segments, up to the last one.
pub(crate) const FAR: [u32; 4] = [65_540, 65_600, 1_048_579, 0xfff0_0002];

/// Documents from the first id on that have a row with values. From format 5 on so many that the first of terms' ids are
/// listed.
fn full(large: bool, format: u32) -> u32 {
    if large && format >= 5 { 400 } else { 60 }
}

impl Contents {
    /// A row with a value in most of its columns.
    pub(crate) fn row(id: u32) -> Row {
        let n = i64::from(id);
        Row {
            level: (id % 5 != 4).then_some(n % 7 - 3),
            kind: [Some("image"), Some("video"), None][id as usize % 3],
            title: (id % 4 != 3).then(|| format!("title {:03}, of thing {id}", id % 50)),
            ratio: (id % 6 != 5).then(|| f64::from(id % 16) / 8.0 - 0.5),
            price: (id % 7 != 6).then_some(n % 300 * 5 - 250),
            flag: Some(id.is_multiple_of(2)),
            made_at: (id % 9 != 8).then(|| DAY_ONE + n % 1_000 * 3_600_000_000),
            post: (id % 3 != 2).then_some(n % 6),
        }
    }

    /// What a load brings, of a store in this format: [`full`] rows and [`FAR`]; and where it is `large`, up to [`PLAIN`]
    /// that have a flag alone.
    pub(crate) fn loaded(large: bool, format: u32) -> Self {
        let mut all = Self::default();
        let rows = full(large, format);
        for id in (0..if large { PLAIN } else { rows }).chain(FAR) {
            let full = !(rows..PLAIN).contains(&id);
            let row = if full { Self::row(id) } else { Row { flag: Some(id % 2 == 0), ..Row::default() } };
            all.rows.insert(id, row);
            if full {
                let n = i64::from(id);
                all.tags.insert(id, (0..n % 4).map(|k| n % 10 * k - 5).collect());
                all.words.insert(id, ["red", "green", "blue"].into_iter().take(id as usize % 4).collect());
                all.version_ids.insert(id, (0..n % 3).map(|k| (n + k) % 5).collect());
            }
        }
        // Rows of a document that is not there.
        all.tags.insert(4_200, [1, 2].into());
        all.posts = (0..5).map(|post| (post, (post != 3).then_some(100 - 10 * post))).collect();
        all.versions = (0..4).map(|id| (id, (["base one", "base two"][id as usize % 2], id % 3))).collect();
        all.models = (0..2).map(|id| (id, id == 0)).collect();
        all
    }

    pub(crate) fn rank(&self, id: u32) -> Option<i64> {
        *self.posts.get(&self.rows[&id].post?)?
    }

    pub(crate) fn bases(&self, id: u32) -> BTreeSet<&'static str> {
        self.version_ids.get(&id).into_iter().flatten().filter_map(|id| Some(self.versions.get(id)?.0)).collect()
    }

    pub(crate) fn poi(&self, id: u32) -> BTreeSet<bool> {
        let versions = self.version_ids.get(&id).into_iter().flatten();
        versions.filter_map(|id| self.models.get(&self.versions.get(id)?.1).copied()).collect()
    }
}
