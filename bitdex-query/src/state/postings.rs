//! Sets of document ids, as small as what they hold: a field like a post's id has nearly as many values as documents.

use std::sync::Arc;

use roaring::RoaringBitmap;

/// Above this many ids a set is a bitmap.
const FEW: usize = 48;

/// A set of ids, never empty inside an index. Clones share their contents; changes copy what is shared.
#[derive(Debug, Clone)]
pub(crate) enum Postings {
    One(u32),
    /// Ascending.
    Few(Arc<[u32]>),
    Bitmap(Arc<RoaringBitmap>),
}

impl Postings {
    /// Of ascending ids without duplicates.
    pub(crate) fn from_sorted(ids: &[u32]) -> Self {
        match ids {
            [id] => Self::One(*id),
            ids if ids.len() <= FEW => Self::Few(ids.into()),
            ids => Self::Bitmap(Arc::new(ids.iter().copied().collect())),
        }
    }

    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::One(_) => 1,
            Self::Few(ids) => ids.len() as u64,
            Self::Bitmap(bitmap) => bitmap.len(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::One(_) => false,
            Self::Few(ids) => ids.is_empty(),
            Self::Bitmap(bitmap) => bitmap.is_empty(),
        }
    }

    /// Puts in or takes out each id; ids ascending, each at most once.
    pub(crate) fn change(&mut self, changes: &[(u32, bool)]) {
        if let Self::Bitmap(bitmap) = self {
            let bitmap = Arc::make_mut(bitmap);
            for (id, present) in changes {
                if *present {
                    bitmap.insert(*id);
                } else {
                    bitmap.remove(*id);
                }
            }
            if bitmap.len() <= FEW as u64 / 2 {
                *self = Self::from_sorted(&bitmap.iter().collect::<Vec<_>>());
            }
            return;
        }
        let mut ids = self.to_vec();
        for (id, present) in changes {
            match (ids.binary_search(id), present) {
                (Err(at), true) => ids.insert(at, *id),
                (Ok(at), false) => {
                    ids.remove(at);
                }
                _ => {}
            }
        }
        *self = Self::from_sorted(&ids);
    }

    fn to_vec(&self) -> Vec<u32> {
        match self {
            Self::One(id) => vec![*id],
            Self::Few(ids) => ids.to_vec(),
            Self::Bitmap(bitmap) => bitmap.iter().collect(),
        }
    }

    pub(crate) fn add_to(&self, all: &mut RoaringBitmap) {
        match self {
            Self::One(id) => {
                all.insert(*id);
            }
            Self::Few(ids) => all.extend(ids.iter().copied()),
            Self::Bitmap(bitmap) => *all |= bitmap.as_ref(),
        }
    }

    /// Calls `each` with the ids in order until it says stop; tells whether it went to the end.
    pub(crate) fn walk(&self, descending: bool, mut each: impl FnMut(u32) -> bool) -> bool {
        match (self, descending) {
            (Self::One(id), _) => each(*id),
            (Self::Few(ids), false) => ids.iter().copied().all(each),
            (Self::Few(ids), true) => ids.iter().rev().copied().all(each),
            (Self::Bitmap(bitmap), false) => bitmap.iter().all(each),
            (Self::Bitmap(bitmap), true) => bitmap.iter().rev().all(each),
        }
    }
}
