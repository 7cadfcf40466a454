//! Something for each of the blocks that a query comes to, by number of the block.

/// A query comes to few blocks as a rule, and what is said of one is large: so a small number stands at the block's own.
#[derive(Debug)]
pub(super) struct ByBlock<T> {
    /// By number, as far as they go: one more than the place; 0 where there is nothing.
    places: Vec<u32>,
    all: Vec<T>,
}

impl<T> Default for ByBlock<T> {
    fn default() -> Self {
        Self { places: Vec::new(), all: Vec::new() }
    }
}

impl<T> ByBlock<T> {
    #[inline]
    fn place(&self, number: u16) -> Option<usize> {
        (*self.places.get(usize::from(number))? as usize).checked_sub(1)
    }

    #[inline]
    pub(super) fn get(&self, number: u16) -> Option<&T> {
        self.all.get(self.place(number)?)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, number: u16) -> Option<&mut T> {
        let place = self.place(number)?;
        self.all.get_mut(place)
    }

    pub(super) fn insert(&mut self, number: u16, of_block: T) {
        let at = usize::from(number);
        if at >= self.places.len() {
            self.places.resize(at + 1, 0);
        }
        self.all.push(of_block);
        if let Some(place) = self.places.get_mut(at) {
            *place = self.all.len() as u32;
        }
    }

    pub(super) fn into_all(self) -> Vec<T> {
        self.all
    }
}
