//! One value, looked up in many files side by side: what is needed next is asked for in all of them before it is read in
//! any. One behind the other, each would wait for memory half a dozen times.

use smallvec::SmallVec;

use super::{FieldType, GROUP, MANY, Place, Posting, Postings};
use crate::{
    log::Result,
    mapping::ahead::{fetch, fetch_all},
    segment::value::{Term, ValueRef},
};

/// How far one file has come.
struct Seek<'a> {
    postings: &'a Postings,
    group: Option<usize>,
    place: Option<Place>,
}

/// The sets of a value in files, as [`Postings::get`] finds them; `None`: a file that has no sets.
pub fn seek<'a>(
    files: impl Iterator<Item = Option<&'a Postings>>,
    value: ValueRef<'_>,
) -> Result<SmallVec<[Option<Posting<'a>>; 16]>> {
    let files: SmallVec<[Option<&Postings>; 16]> = files.collect();
    let mut seeks: SmallVec<[Option<Seek<'a>>; 16]> = SmallVec::new();
    for postings in files.iter().copied().flatten() {
        fetch(postings);
    }
    let has_keys = |postings: &Postings| postings.ty != FieldType::String && !matches!(value, ValueRef::Text(_));
    if files.iter().copied().flatten().any(|postings| !has_keys(postings)) {
        return files.into_iter().map(|postings| postings.map_or(Ok(None), |it| it.get(Term::Value(value)))).collect();
    }
    let code = value.code();
    for postings in files.iter().copied().flatten() {
        postings.keys.fetch_bases(&postings.section, code)?;
    }
    for postings in &files {
        let Some(postings) = postings else {
            seeks.push(None);
            continue;
        };
        let group = postings.keys.group_of(&postings.section, code)?;
        if let Some(group) = group {
            postings.fetch_group(group)?;
        }
        seeks.push(Some(Seek { postings, group, place: None }));
    }
    for Seek { postings, group, .. } in seeks.iter().flatten() {
        if let Some(group) = group {
            postings.keys.fetch_keys(&postings.section, *group)?;
        }
    }
    for Seek { postings, group, place } in seeks.iter_mut().flatten() {
        if let Some(group) = *group
            && let Ok(position) = postings.keys.find_in(&postings.section, group, code)?
        {
            let found = postings.place(position)?;
            postings.few.slice::<u16>(&postings.section, found.at, 1)?.iter().for_each(fetch);
            *place = Some(found);
        }
    }
    for Seek { postings, place, .. } in seeks.iter().flatten() {
        if let Some(place) = place {
            postings.fetch_directory(place)?;
        }
    }
    let found = |seek: Option<Seek<'a>>| match seek {
        Some(Seek { postings, place: Some(place), .. }) => postings.formed(place).map(Some),
        _ => Ok(None),
    };
    seeks.into_iter().map(found).collect()
}

impl Postings {
    /// Asks for what tells where the sets of a group's values lie.
    fn fetch_group(&self, group: usize) -> Result<()> {
        self.keys.fetch_group(&self.section, group)?;
        self.starts.slice::<u32>(&self.section, group, 1)?.iter().for_each(fetch);
        let left = self.values.saturating_sub(group * GROUP).min(GROUP);
        let forms = self.forms.slice::<u8>(&self.section, group * GROUP, left)?;
        forms.first().into_iter().chain(forms.last()).for_each(fetch);
        Ok(())
    }

    /// Asks for a set's directory, or for the rest of its ids.
    fn fetch_directory(&self, place: &Place) -> Result<()> {
        if place.form == MANY
            && let [low, high, blocks, _] = self.few.slice::<u16>(&self.section, place.at, 4)?
        {
            let (at, blocks) = (u32::from(*low) | u32::from(*high) << 16, usize::from(*blocks));
            fetch_all(self.directories.slice::<u64>(&self.section, at as usize, blocks + 1)?);
        }
        Ok(())
    }
}
