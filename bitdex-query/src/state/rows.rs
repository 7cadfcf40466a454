//! The rows of one place, through all layers.

use std::iter::Peekable;

use super::{State, files::Rows, layer::Layer, layout::Place};
use crate::log::Result;

type Changes<'s> = Peekable<Box<dyn Iterator<Item = (i64, Option<&'s [u8]>)> + 's>>;

/// See [`State::rows`].
pub(crate) struct StateRows<'s> {
    files: Rows<'s>,
    head: Option<(i64, &'s [u8])>,
    /// Of the layers in memory, the newest first.
    layers: [Option<Changes<'s>>; 2],
}

impl State {
    /// The rows of a place with keys from `first` to `last`, ascending.
    pub(crate) fn rows(&self, place: Place, first: i64, last: i64) -> Result<StateRows<'_>> {
        let changes = |layer| changes(layer, place, first, last);
        let frozen = self.frozen.as_ref().map(|frozen| changes(&frozen.layer));
        let mut files = self.files.rows(place, first, last)?;
        Ok(StateRows { head: files.next()?, files, layers: [Some(changes(&self.active)), frozen] })
    }
}

fn changes(layer: &Layer, place: Place, first: i64, last: i64) -> Changes<'_> {
    let rows: Box<dyn Iterator<Item = _>> = Box::new(layer.rows.of(place, first, last));
    rows.peekable()
}

impl<'s> StateRows<'s> {
    pub(crate) fn next(&mut self) -> Result<Option<(i64, &'s [u8])>> {
        loop {
            let changed = self.layers.iter_mut().flatten().filter_map(|layer| Some(layer.peek()?.0)).min();
            let Some(key) = [changed, self.head.map(|head| head.0)].into_iter().flatten().min() else {
                return Ok(None);
            };
            let mut row = None;
            for layer in self.layers.iter_mut().flatten() {
                if let Some((_, change)) = layer.next_if(|change| change.0 == key) {
                    row = row.or(Some(change));
                }
            }
            if let Some((_, below)) = self.head.filter(|head| head.0 == key) {
                self.head = self.files.next()?;
                row = row.or(Some(Some(below)));
            }
            if let Some(row) = row.flatten() {
                return Ok(Some((key, row)));
            }
        }
    }
}
