//! A persistent sorted map that is changed in bulk. Entries stand in chunks, chunks in nodes. A clone shares all of
//! them; a change costs the chunks that it touches, and pointers to the others of their nodes.

use std::{fmt, ops::Bound, sync::Arc};

use crate::mapping::{
    ahead::{fetch, fetch_all},
    slices::give_way,
};

/// Chunks of a node.
const NODE: usize = 64;
/// So many chunks before one is gone through it is asked where its entries lie, and then, so many before, for these; of
/// one node.
const AHEAD: [usize; 2] = [8, 4];

/// Some entries that follow one another. Never changed, and never empty within a [`Sorted`].
pub(crate) trait Chunk {
    type Key: Ord + Clone + fmt::Debug;
    /// What is to become of one key.
    type Change<'c>;

    /// Number of entries.
    fn keys(&self) -> usize;
    fn first(&self) -> Self::Key;
    /// Where the key is, or belongs.
    fn search(&self, key: &Self::Key) -> Result<usize, usize>;
    fn key_of<'c>(change: &'c Self::Change<'_>) -> &'c Self::Key;
    /// The entries of `old` with changes, which ascend, each of another key, in pieces that are not empty.
    fn merge(old: Option<&Self>, changes: &[Self::Change<'_>], out: &mut Vec<Self>)
    where
        Self: Sized;
    /// Asks for what whoever goes through the entries reads of each.
    fn fetch(&self);
    /// Of heap.
    fn bytes(&self) -> usize;
}

#[derive(Debug)]
struct Held<C: Chunk> {
    first: C::Key,
    chunk: Arc<C>,
}

#[derive(Debug)]
struct Node<C: Chunk> {
    first: C::Key,
    held: Arc<Vec<Held<C>>>,
}

#[derive(Debug)]
pub(crate) struct Sorted<C: Chunk> {
    nodes: Arc<Vec<Node<C>>>,
    length: usize,
    bytes: usize,
}

impl<C: Chunk> Clone for Held<C> {
    fn clone(&self) -> Self {
        Self { first: self.first.clone(), chunk: Arc::clone(&self.chunk) }
    }
}

impl<C: Chunk> Clone for Node<C> {
    fn clone(&self) -> Self {
        Self { first: self.first.clone(), held: Arc::clone(&self.held) }
    }
}

impl<C: Chunk> Clone for Sorted<C> {
    fn clone(&self) -> Self {
        Self { nodes: Arc::clone(&self.nodes), length: self.length, bytes: self.bytes }
    }
}

impl<C: Chunk> Default for Sorted<C> {
    fn default() -> Self {
        Self { nodes: Arc::default(), length: 0, bytes: 0 }
    }
}

/// The place of an entry: node, chunk, entry. Behind the last one: (number of nodes, 0, 0).
type Place = (usize, usize, usize);

impl<C: Chunk> Sorted<C> {
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Of heap, about.
    pub(crate) fn bytes(&self) -> u64 {
        (self.bytes + self.nodes.len() * size_of::<Node<C>>()) as u64
    }

    /// Applies changes, which ascend by key, each of another key.
    pub(crate) fn change(&mut self, mut changes: &[C::Change<'_>]) {
        if changes.is_empty() {
            return;
        }
        let nodes = Arc::make_mut(&mut self.nodes);
        if nodes.is_empty() {
            let mut held = Vec::new();
            replace(&mut held, 0..0, None, changes, (&mut self.length, &mut self.bytes));
            *nodes = split(held);
            return;
        }
        // From the back, so that what stands before stays where it is.
        while let Some(last) = changes.last() {
            let at = nodes.partition_point(|node| node.first <= *C::key_of(last)).saturating_sub(1);
            let from = match at {
                0 => 0,
                _ => changes.partition_point(|change| *C::key_of(change) < nodes[at].first),
            };
            let (before, mine) = changes.split_at(from);
            changes = before;
            let held = Arc::make_mut(&mut nodes[at].held);
            change_chunks(held, mine, (&mut self.length, &mut self.bytes));
            match held.first() {
                None => {
                    nodes.remove(at);
                    if nodes.is_empty() && !changes.is_empty() {
                        return self.change(changes);
                    }
                }
                Some(_) if held.len() > NODE => {
                    let held = std::mem::take(held);
                    nodes.splice(at..=at, split(held));
                }
                Some(first) => nodes[at].first = first.first.clone(),
            }
        }
    }

    /// The chunk that has the key, and where.
    pub(crate) fn find(&self, key: &C::Key) -> Option<(&C, usize)> {
        let node = self.nodes.partition_point(|node| node.first <= *key).checked_sub(1)?;
        let held = &self.nodes.get(node)?.held;
        let chunk = held.partition_point(|held| held.first <= *key).checked_sub(1)?;
        let chunk = &*held.get(chunk)?.chunk;
        Some((chunk, chunk.search(key).ok()?))
    }

    /// Entries within bounds, ascending.
    pub(crate) fn range(&self, from: Bound<&C::Key>, to: Bound<&C::Key>) -> Range<'_, C> {
        let front = match from {
            Bound::Unbounded => self.begin(),
            Bound::Included(key) => self.seek(key, false),
            Bound::Excluded(key) => self.seek(key, true),
        };
        let back = match to {
            Bound::Unbounded => self.end(),
            Bound::Included(key) => self.seek(key, true),
            Bound::Excluded(key) => self.seek(key, false),
        };
        Range { sorted: self, front, back: back.max(front), chunk: None }
    }

    /// The last chunks, down to the one that makes it so many entries.
    pub(crate) fn last(&self, entries: usize) -> Range<'_, C> {
        let (mut front, mut left) = (self.end(), entries);
        'nodes: for (node, of) in self.nodes.iter().enumerate().rev() {
            for (chunk, held) in of.held.iter().enumerate().rev() {
                if left == 0 {
                    break 'nodes;
                }
                front = (node, chunk, 0);
                left = left.saturating_sub(held.chunk.keys());
            }
        }
        Range { sorted: self, front, back: self.end(), chunk: None }
    }

    fn begin(&self) -> Place {
        (0, 0, 0)
    }

    fn end(&self) -> Place {
        (self.nodes.len(), 0, 0)
    }

    /// The first entry whose key is not less than this one, or greater where `behind`.
    fn seek(&self, key: &C::Key, behind: bool) -> Place {
        let Some(node) = self.nodes.partition_point(|node| node.first <= *key).checked_sub(1) else {
            return self.begin();
        };
        let held = &self.nodes[node].held;
        let Some(chunk) = held.partition_point(|held| held.first <= *key).checked_sub(1) else {
            return (node, 0, 0);
        };
        let entries = &held[chunk].chunk;
        let at = match entries.search(key) {
            Ok(at) => at + usize::from(behind),
            Err(at) => at,
        };
        match (at < entries.keys(), chunk + 1 < held.len()) {
            (true, _) => (node, chunk, at),
            (false, true) => (node, chunk + 1, 0),
            (false, false) => (node + 1, 0, 0),
        }
    }

    fn chunk(&self, (node, chunk, _): Place) -> Option<&C> {
        Some(&*self.nodes.get(node)?.held.get(chunk)?.chunk)
    }

    fn at(&self, place: Place) -> Option<(&C, usize)> {
        Some((self.chunk(place)?, place.2))
    }

    fn before(&self, (node, chunk, at): Place) -> Option<Place> {
        if let Some(at) = at.checked_sub(1) {
            return Some((node, chunk, at));
        }
        let (node, chunk) = match chunk.checked_sub(1) {
            Some(chunk) => (node, chunk),
            None => {
                let node = node.checked_sub(1)?;
                (node, self.nodes.get(node)?.held.len().checked_sub(1)?)
            }
        };
        Some((node, chunk, self.chunk((node, chunk, 0))?.keys().checked_sub(1)?))
    }
}

/// Nodes out of chunks.
fn split<C: Chunk>(held: Vec<Held<C>>) -> Vec<Node<C>> {
    let pieces = held.len().div_ceil(NODE).max(1);
    let each = held.len().div_ceil(pieces).max(1);
    let mut nodes = Vec::with_capacity(pieces);
    let mut held = held.into_iter().peekable();
    while let Some(first) = held.peek().map(|held| held.first.clone()) {
        nodes.push(Node { first, held: Arc::new(held.by_ref().take(each).collect()) });
    }
    nodes
}

fn change_chunks<C: Chunk>(
    held: &mut Vec<Held<C>>,
    mut changes: &[C::Change<'_>],
    (length, bytes): (&mut usize, &mut usize),
) {
    while let Some(last) = changes.last() {
        let at = held.partition_point(|held| held.first <= *C::key_of(last)).saturating_sub(1);
        let from = match held.get(at) {
            Some(first) if at > 0 => changes.partition_point(|change| *C::key_of(change) < first.first),
            _ => 0,
        };
        let (before, mine) = changes.split_at(from);
        changes = before;
        give_way();
        let old = held.get(at).map(|held| Arc::clone(&held.chunk));
        let range = at..at + usize::from(old.is_some());
        replace(held, range, old.as_deref(), mine, (length, bytes));
    }
}

/// Puts what a chunk becomes in its place.
fn replace<C: Chunk>(
    held: &mut Vec<Held<C>>,
    place: std::ops::Range<usize>,
    old: Option<&C>,
    changes: &[C::Change<'_>],
    (length, bytes): (&mut usize, &mut usize),
) {
    let cost = |chunk: &C| chunk.bytes() + size_of::<C>() + size_of::<Held<C>>();
    if let Some(old) = old {
        *length -= old.keys();
        *bytes = bytes.saturating_sub(cost(old));
    }
    let mut new = Vec::new();
    C::merge(old, changes, &mut new);
    for chunk in &new {
        *length += chunk.keys();
        *bytes += cost(chunk);
    }
    let mut new = new.into_iter().map(|chunk| Held { first: chunk.first(), chunk: Arc::new(chunk) });
    if let (1, Some(old)) = (new.len(), held.get_mut(place.start).filter(|_| !place.is_empty())) {
        new.by_ref().for_each(|new| *old = new);
    } else {
        held.splice(place, new);
    }
}

/// See [`Sorted::range`].
#[derive(Debug)]
pub(crate) struct Range<'s, C: Chunk> {
    sorted: &'s Sorted<C>,
    front: Place,
    back: Place,
    /// Where `front` is.
    chunk: Option<&'s C>,
}

/// Chunks whose entries are counted, before the others are taken to be like them.
const COUNTED: usize = 16;

impl<'s, C: Chunk> Range<'s, C> {
    /// Chunks, and the entries of each that lie within.
    fn chunks(&self) -> impl Iterator<Item = (&'s C, std::ops::Range<usize>)> + use<'s, C> {
        let ((node, chunk, at), (last_node, last_chunk, last_at)) = (self.front, self.back);
        let nodes = self.sorted.nodes.iter().enumerate().take(last_node + 1).skip(node);
        nodes.flat_map(move |(n, of)| {
            let behind = if n == last_node { last_chunk + usize::from(last_at > 0) } else { of.held.len() };
            let held = of.held.get(..behind).unwrap_or_default();
            held.iter().enumerate().skip(if n == node { chunk } else { 0 }).map(move |(c, it)| {
                held.get(c + AHEAD[0]).into_iter().for_each(|it| fetch(&*it.chunk));
                held.get(c + AHEAD[1]).into_iter().for_each(|it| it.chunk.fetch());
                let from = if (n, c) == (node, chunk) { at } else { 0 };
                let to = if (n, c) == (last_node, last_chunk) { last_at } else { it.chunk.keys() };
                (&*it.chunk, from..to)
            })
        })
    }

    /// Number of entries, about.
    pub(crate) fn about(&self) -> usize {
        let ((mut node, mut chunk, front), (last_node, last_chunk, back)) = (self.front, self.back);
        let (mut entries, mut chunks) = (back, 0);
        while (node, chunk) < (last_node, last_chunk) && chunks < COUNTED {
            let Some(held) = self.sorted.nodes.get(node).map(|node| &node.held) else { break };
            match held.get(chunk) {
                Some(held) => (entries, chunks, chunk) = (entries + held.chunk.keys(), chunks + 1, chunk + 1),
                None => (node, chunk) = (node + 1, 0),
            }
        }
        let nodes = self.sorted.nodes.get(node..last_node).unwrap_or_default();
        let left = (nodes.iter().map(|node| node.held.len()).sum::<usize>() + last_chunk).saturating_sub(chunk);
        (entries + left * (entries / chunks.max(1))).saturating_sub(front)
    }
}

impl<C: Chunk> Clone for Range<'_, C> {
    fn clone(&self) -> Self {
        Self { sorted: self.sorted, front: self.front, back: self.back, chunk: self.chunk }
    }
}

impl<'s, C: Chunk> Iterator for Range<'s, C> {
    type Item = (&'s C, usize);

    fn next(&mut self) -> Option<Self::Item> {
        if self.front >= self.back {
            return None;
        }
        let chunk = match self.chunk {
            Some(chunk) => chunk,
            None => self.sorted.chunk(self.front)?,
        };
        let (node, of_node, at) = self.front;
        if at + 1 < chunk.keys() {
            self.chunk = Some(chunk);
            self.front.2 += 1;
        } else {
            self.chunk = None;
            let more = self.sorted.nodes.get(node).is_some_and(|node| of_node + 1 < node.held.len());
            self.front = if more { (node, of_node + 1, 0) } else { (node + 1, 0, 0) };
        }
        Some((chunk, at))
    }

    /// Chunk by chunk, without a look at where it ends for each entry.
    fn fold<B, F: FnMut(B, Self::Item) -> B>(self, init: B, mut each: F) -> B {
        self.chunks().fold(init, |folded, (chunk, range)| range.fold(folded, |folded, at| each(folded, (chunk, at))))
    }
}

impl<C: Chunk> DoubleEndedIterator for Range<'_, C> {
    fn next_back(&mut self) -> Option<Self::Item> {
        if self.front >= self.back {
            return None;
        }
        self.back = self.sorted.before(self.back)?;
        self.sorted.at(self.back)
    }
}

/// A chunk whose entries are values of one type.
#[derive(Debug)]
pub(crate) struct Entries<E>(pub(crate) Vec<E>);

/// An entry of a chunk.
pub(crate) trait Entry: Clone {
    type Key: Ord + Clone + fmt::Debug;
    type Change<'c>;
    /// Entries of a chunk, at most.
    const CHUNK: usize;

    fn key(&self) -> &Self::Key;
    fn key_of<'c>(change: &'c Self::Change<'_>) -> &'c Self::Key;
    /// What becomes of an entry; `None`: it goes, or does not come.
    fn changed(old: Option<&Self>, change: &Self::Change<'_>) -> Option<Self>;
    /// Of heap, besides its own size.
    fn bytes(&self) -> usize {
        0
    }
}

impl<E: Entry> Chunk for Entries<E> {
    type Key = E::Key;
    type Change<'c> = E::Change<'c>;

    fn keys(&self) -> usize {
        self.0.len()
    }

    fn first(&self) -> E::Key {
        self.0[0].key().clone()
    }

    fn search(&self, key: &E::Key) -> Result<usize, usize> {
        self.0.binary_search_by(|entry| entry.key().cmp(key))
    }

    fn key_of<'c>(change: &'c Self::Change<'_>) -> &'c E::Key {
        E::key_of(change)
    }

    fn merge(old: Option<&Self>, changes: &[Self::Change<'_>], out: &mut Vec<Self>) {
        let old = old.map_or(&[][..], |old| &old.0);
        let mut merged = Vec::with_capacity(old.len() + changes.len());
        let mut rest = old;
        for change in changes {
            let before = rest.partition_point(|entry| entry.key() < E::key_of(change));
            let (kept, behind) = rest.split_at(before);
            merged.extend_from_slice(kept);
            let same = behind.first().filter(|entry| entry.key() == E::key_of(change));
            rest = if same.is_some() { &behind[1..] } else { behind };
            merged.extend(E::changed(same, change));
        }
        merged.extend_from_slice(rest);
        if merged.len() <= E::CHUNK {
            if !merged.is_empty() {
                out.push(Self(merged));
            }
            return;
        }
        for piece in merged.chunks(even(merged.len(), E::CHUNK)) {
            out.push(Self(piece.to_vec()));
        }
    }

    fn fetch(&self) {
        fetch_all(&self.0);
    }

    fn bytes(&self) -> usize {
        self.0.capacity() * size_of::<E>() + self.0.iter().map(E::bytes).sum::<usize>()
    }
}

/// Of `length` entries, how many to put into each piece: pieces of about three quarters of `most`, all alike.
pub(crate) fn even(length: usize, most: usize) -> usize {
    let pieces = length.div_ceil((most * 3 / 4).max(1)).max(1);
    length.div_ceil(pieces).max(1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::{RngExt as _, seq::IndexedRandom as _};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::testing::seeded;

    #[derive(Debug, Clone, PartialEq)]
    struct Pair(u16, u32);

    impl Entry for Pair {
        type Key = u16;
        /// `None` takes the key out.
        type Change<'c> = (u16, Option<u32>);
        const CHUNK: usize = 4;

        fn key(&self) -> &u16 {
            &self.0
        }

        fn key_of(change: &(u16, Option<u32>)) -> &u16 {
            &change.0
        }

        fn changed(_: Option<&Self>, (key, value): &(u16, Option<u32>)) -> Option<Self> {
            value.map(|value| Self(*key, value))
        }
    }

    fn pairs<'s>(range: impl Iterator<Item = (&'s Entries<Pair>, usize)>) -> Vec<Pair> {
        range.map(|(chunk, at)| chunk.0[at].clone()).collect()
    }

    fn check(sorted: &Sorted<Entries<Pair>>, model: &BTreeMap<u16, u32>, rng: &mut ChaCha8Rng) {
        use Bound::{Excluded, Included, Unbounded};
        assert_eq!((sorted.len(), sorted.is_empty()), (model.len(), model.is_empty()));
        let of = |(chunk, at): (&Entries<Pair>, usize)| (chunk.0[at].0, chunk.0[at].1);
        for _ in 0..40 {
            let (one, other): (u16, u16) = (rng.random_range(0..2_100), rng.random_range(0..2_100));
            assert_eq!(sorted.find(&one).map(of), model.get(&one).map(|value| (one, *value)));
            let (low, high) = (one.min(other), one.max(other) + 1);
            let from = *[Unbounded, Included(low), Excluded(low)].choose(rng).unwrap();
            let to = *[Unbounded, Included(high), Excluded(high)].choose(rng).unwrap();
            let wanted: Vec<Pair> = model.range((from, to)).map(|(key, value)| Pair(*key, *value)).collect();
            let range = sorted.range(from.as_ref(), to.as_ref());
            assert_eq!(pairs(range.clone()), wanted);
            let mut left = range.clone();
            let taken = left.by_ref().take(rng.random_range(0..200)).count();
            let mut folded = Vec::new();
            left.for_each(|(chunk, at)| folded.push(chunk.0[at].clone()));
            assert_eq!(folded, wanted[taken..]);
            let about = range.about();
            assert!(about >= wanted.len() / 8 && about <= wanted.len() * 8, "{about} of {}", wanted.len());
            assert!(wanted.len() > COUNTED || about == wanted.len(), "{about} of {}", wanted.len());
            assert_eq!(pairs(range.clone().rev()), wanted.iter().rev().cloned().collect::<Vec<_>>());
            let entries = rng.random_range(0..=model.len() + 1);
            let last = pairs(sorted.last(entries));
            let most = if entries == 0 { 0 } else { entries + Pair::CHUNK - 1 };
            assert!((entries.min(model.len())..=most).contains(&last.len()), "{} for {entries}", last.len());
            let skipped = model.len() - last.len();
            assert_eq!(last, model.iter().skip(skipped).map(|(key, value)| Pair(*key, *value)).collect::<Vec<_>>());
            // From both ends at once.
            let (mut range, mut ends) = (range, (Vec::new(), Vec::new()));
            while let Some((chunk, at)) = range.next() {
                ends.0.push(chunk.0[at].clone());
                if rng.random() {
                    ends.1.extend(range.next_back().map(|(chunk, at)| chunk.0[at].clone()));
                }
            }
            ends.0.extend(ends.1.into_iter().rev());
            assert_eq!(ends.0, wanted);
        }
    }

    #[test]
    fn changes_in_bulk_equal_a_plain_map_and_leave_clones_as_they_were() {
        let mut rng = seeded();
        for _ in 0..20 {
            let (mut sorted, mut model) = (Sorted::<Entries<Pair>>::default(), BTreeMap::new());
            let mut clones: Vec<(Sorted<_>, BTreeMap<u16, u32>)> = Vec::new();
            for _ in 0..30 {
                let span = *[5, 200, 2_000].choose(&mut rng).unwrap();
                let start = rng.random_range(0..2_000);
                let remove = *[0.0, 0.3, 1.0].choose(&mut rng).unwrap();
                let changes: BTreeMap<u16, Option<u32>> = (0..rng.random_range(0..400))
                    .map(|_| {
                        let key = (start + rng.random_range(0..span)) % 2_000;
                        (key, (!rng.random_bool(remove)).then(|| rng.random()))
                    })
                    .collect();
                for (key, value) in &changes {
                    match value {
                        Some(value) => model.insert(*key, *value),
                        None => model.remove(key),
                    };
                }
                sorted.change(&changes.into_iter().collect::<Vec<_>>());
                clones.push((sorted.clone(), model.clone()));
            }
            for (sorted, model) in clones {
                check(&sorted, &model, &mut rng);
                let bytes: usize =
                    sorted.nodes.iter().flat_map(|node| node.held.iter()).map(|held| held.chunk.bytes()).sum();
                assert!(sorted.bytes() as usize >= bytes);
            }
        }
    }
}
