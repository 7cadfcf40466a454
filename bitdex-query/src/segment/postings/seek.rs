//! One value, looked up in many files side by side: what is needed next is asked for in all of them before it is read in
//! any. One behind the other, each would wait for memory half a dozen times.

use smallvec::SmallVec;

use super::{FieldType, GROUP, MANY, Place, Posting, Postings};
use crate::{
    log::Result,
    mapping::ahead::{fetch, fetch_all},
    segment::value::{Term, ValueRef},
};

/// The sets of a value in files, as [`Postings::get`] finds them; `None`: a file that has no sets.
pub fn seek<'a>(
    files: impl Iterator<Item = Option<&'a Postings>>,
    value: ValueRef<'_>,
) -> Result<SmallVec<[Option<Posting<'a>>; 16]>> {
    let files: SmallVec<[Option<&Postings>; 16]> = files.collect();
    for postings in files.iter().flatten() {
        fetch(*postings);
    }
    let has_keys = |postings: &Postings| postings.ty != FieldType::String && !matches!(value, ValueRef::Text(_));
    if files.iter().flatten().any(|postings| !has_keys(postings)) {
        return files.into_iter().map(|postings| postings.map_or(Ok(None), |it| it.get(Term::Value(value)))).collect();
    }
    let code = value.code();
    for postings in files.iter().flatten() {
        postings.keys.fetch_bases(&postings.section, code)?;
    }
    let mut groups: SmallVec<[Option<(&Postings, usize)>; 16]> = SmallVec::new();
    for postings in files {
        let group = postings.map_or(Ok(None), |it| it.keys.group_of(&it.section, code))?;
        let group = postings.zip(group);
        if let Some((postings, group)) = group {
            postings.fetch_group(group)?;
        }
        groups.push(group);
    }
    for (postings, group) in groups.iter().flatten() {
        postings.keys.fetch_keys(&postings.section, *group)?;
    }
    let place = |group: Option<(&'a Postings, usize)>| {
        let Some((postings, group)) = group else { return Ok(None) };
        let position = postings.keys.find_in(&postings.section, group, code)?;
        position.ok().map_or(Ok(None), |position| postings.fetch_place(position).map(|place| Some((postings, place))))
    };
    sets(groups.into_iter().map(place).collect::<Result<_>>()?)
}

/// The sets at positions of files, as [`Postings::set_at`] finds them; `None`: a file in which there is none.
pub fn sets_at<'a>(
    files: impl Iterator<Item = Option<(&'a Postings, usize)>>,
) -> Result<SmallVec<[Option<Posting<'a>>; 16]>> {
    let files: SmallVec<[Option<(&Postings, usize)>; 16]> = files.collect();
    for (postings, _) in files.iter().flatten() {
        fetch(*postings);
    }
    if files.iter().flatten().any(|(postings, position)| *position < postings.has_exists()) {
        return files.into_iter().map(|file| file.map(|(postings, at)| postings.set_at(at)).transpose()).collect();
    }
    let position = |(postings, position): &(&Postings, usize)| position - postings.has_exists();
    for file in files.iter().flatten() {
        file.0.fetch_group(position(file) / GROUP)?;
    }
    let place = |file: Option<(&'a Postings, usize)>| {
        let Some(file) = file else { return Ok(None) };
        file.0.fetch_place(position(&file)).map(|place| Some((file.0, place)))
    };
    sets(files.into_iter().map(place).collect::<Result<_>>()?)
}

type Places<'a> = SmallVec<[Option<(&'a Postings, Place)>; 16]>;

fn sets(places: Places<'_>) -> Result<SmallVec<[Option<Posting<'_>>; 16]>> {
    for (postings, place) in places.iter().flatten() {
        postings.fetch_directory(place)?;
    }
    places.into_iter().map(|place| place.map(|(postings, place)| postings.formed(place)).transpose()).collect()
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

    /// Where the set of a value lies; what lies there is asked for.
    fn fetch_place(&self, position: usize) -> Result<Place> {
        let place = self.place(position)?;
        self.few.slice::<u16>(&self.section, place.at, 1)?.iter().for_each(fetch);
        Ok(place)
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
