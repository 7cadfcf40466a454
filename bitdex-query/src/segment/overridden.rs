//! What a checkpoint's column says of the ids of a block: found in one step, however many there are.
//!
//! It is made at the first look into a block, and kept as long as the file is open: up to 21 KiB a block. The codes stay
//! where they are.

use super::lanes::{LANES, Lane, LaneBounds, LaneCodes, lane_of};

#[derive(Debug)]
pub struct Overridden {
    /// Where the block's first id stands.
    first: usize,
    count: usize,
    /// With the place of its first code, from `first` on.
    lanes: Vec<(Lane, usize)>,
    /// By number of the lane, where it stands in `lanes`, plus one; 0: nowhere.
    places: [u8; LANES],
    bounds: LaneBounds,
    /// For each floor, descending, the ids whose codes reach it, ascending, and where they end in `reaching`.
    floors: Box<[(u64, usize)]>,
    reaching: Box<[u16]>,
}

impl Overridden {
    /// `ids`: within the block, ascending, with their codes; the first of them stands at `first`. `floors`: descending.
    pub(super) fn new(first: usize, ids: &[(u16, Option<u64>)], floors: &[u64]) -> Self {
        let mut made = Self {
            first,
            count: ids.len(),
            lanes: Vec::new(),
            places: [0; LANES],
            bounds: LaneBounds::NOTHING,
            floors: Box::default(),
            reaching: Box::default(),
        };
        let mut reaching = Vec::new();
        let ends = floors.iter().map(|floor| {
            let reach = ids.iter().filter(|(_, code)| code.is_some_and(|code| code >= *floor));
            reaching.extend(reach.map(|(id, _)| *id));
            (*floor, reaching.len())
        });
        made.floors = ends.collect();
        made.reaching = reaching.into();
        let mut codes = Vec::new();
        let mut rest = ids;
        while let Some((id, _)) = rest.first() {
            let n = lane_of(*id);
            let (mine, others) = rest.split_at(rest.partition_point(|(id, _)| lane_of(*id) == n).max(1));
            let at = ids.len() - rest.len();
            rest = others;
            codes.clear();
            let lane = Lane::of(mine, &mut codes);
            made.bounds.set(n, LaneCodes { lane: &lane, codes: &codes }.bounds());
            made.lanes.push((lane, at));
            if let Some(place) = made.places.get_mut(n) {
                *place = made.lanes.len() as u8;
            }
        }
        made
    }

    /// Where its codes stand.
    pub(super) fn positions(&self) -> std::ops::Range<usize> {
        self.first..self.first + self.count
    }

    #[inline]
    fn at(&self, n: usize) -> Option<&(Lane, usize)> {
        self.lanes.get(usize::from(*self.places.get(n)?).wrapping_sub(1))
    }

    /// Where an id stands; `id`: within the block.
    #[inline]
    pub(super) fn find(&self, id: u16) -> Option<usize> {
        let (lane, at) = self.at(lane_of(id))?;
        Some(self.first + at + lane.find(id)?)
    }

    /// The n-th lane. `codes`: those of the block.
    #[inline]
    pub fn lane<'a>(&'a self, n: usize, codes: &'a [u64]) -> Option<LaneCodes<'a>> {
        let (lane, at) = self.at(n)?;
        Some(LaneCodes { lane, codes: codes.get(*at..).unwrap_or_default() })
    }

    /// Ids, ascending, among which are all whose codes reach `least`; `None`: there are none but all of them.
    pub fn reaching(&self, least: u64) -> Option<&[u16]> {
        let n = self.floors.iter().position(|(floor, _)| *floor <= least)?;
        let from = n.checked_sub(1).map_or(Some(0), |before| Some(self.floors.get(before)?.1))?;
        self.reaching.get(from..self.floors.get(n)?.1)
    }

    /// Of the codes of each lane.
    pub fn bounds(&self) -> &LaneBounds {
        &self.bounds
    }
}
