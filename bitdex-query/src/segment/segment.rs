//! An open segment.
//!
//! Its own section, the header:
//!
//! ```text
//! 0    u32   number
//! 4    u32   0
//! 8    u64   sequence number up to which it has taken in changes
//! 16   u64   present documents
//! 24   u64   lower, and
//! 32   u64   upper half of the sum of the hashes of its rows
//! 40   u64   XXH3-64 of its spec: u32 slots, then for each field a byte for the index (0 none, 1 terms, 2 column) and
//!            two for the type (0 int, 1 decimal, 2 float, 3 bool, 4 timestamp, 5 string; the scale, else 0)
//! ```

use std::{
    path::Path,
    sync::{Arc, OnceLock},
};

use bitdex_proto::{
    schema::{FieldId, KEY_FIELD},
    value::FieldType,
};
use bytemuck::{Pod, Zeroable};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    Index, Spec,
    cells::{self, Cells},
    columns::Column,
    documents::Documents,
    leaders::{self, Leading},
    orders::{self, Orders},
    postings::{Posting, Postings, Role},
    value::Term,
};
use crate::{
    log::{Error, Result},
    store::{
        format,
        pack::{Pack, PackKind, SectionId, SectionKind},
    },
};

pub(super) const HEADER: SectionId = SectionId { kind: SectionKind::Header, place: 0 };

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Header {
    pub(super) number: u32,
    pub(super) zero: u32,
    pub(super) sequence: u64,
    pub(super) documents: u64,
    pub(super) hash: [u64; 2],
    pub(super) spec: u64,
}

pub(super) fn fingerprint(spec: &Spec) -> u64 {
    let mut bytes = (spec.slots as u32).to_le_bytes().to_vec();
    for (index, ty) in &spec.fields {
        bytes.push(match index {
            Index::None => 0,
            Index::Terms => 1,
            Index::Column => 2,
        });
        bytes.extend(match ty {
            FieldType::Int => [0, 0],
            FieldType::Decimal(scale) => [1, *scale],
            FieldType::Float => [2, 0],
            FieldType::Bool => [3, 0],
            FieldType::Timestamp => [4, 0],
            FieldType::String => [5, 0],
        });
    }
    xxh3_64(&bytes)
}

#[derive(Debug)]
pub struct Segment {
    pack: Arc<Pack>,
    header: Header,
    documents: Documents,
    fields: Vec<Field>,
    cells: OnceLock<Option<Cells>>,
    /// By field, and by which of the columns it is whose codes follow the ids.
    orders: Box<[OnceLock<Option<Orders>>]>,
    /// Fields of these columns.
    following: Vec<FieldId>,
}

#[derive(Debug)]
struct Field {
    ty: FieldType,
    postings: Option<Postings>,
    column: Option<Column>,
}

impl Segment {
    /// `None` where there is no file of that name.
    pub fn open(path: &Path, store: u128, spec: &Spec) -> Result<Option<Self>> {
        let Some(pack) = Pack::open(path, PackKind::Segment, store)? else { return Ok(None) };
        let section = pack.require(HEADER)?;
        let &[header] = section.slice::<Header>(0, 1)? else {
            return Err(section.damaged(0, "it has no header"));
        };
        if header.spec != fingerprint(spec) {
            return Err(Error::foreign(format!(
                "segment {} was built for another definition than the manifest's: {}",
                header.number,
                path.display()
            )));
        }
        let documents = Documents::open(&pack, header.number, spec.slots)?;
        let fields = spec.fields.iter().enumerate().map(|(field, (index, ty))| {
            let indexed = field == KEY_FIELD || *index != Index::None;
            let postings = if indexed { Postings::open(&pack, Role::Held, field, *ty)? } else { None };
            let column = if *index == Index::Column { Column::open(&pack, field)? } else { None };
            if *index == Index::Column && column.as_ref().is_none_or(|column| column.segment() != header.number) {
                return Err(section.damaged(0, &format!("it has no column of field {field}")));
            }
            Ok(Field { ty: *ty, postings, column })
        });
        let fields: Vec<Field> = fields.collect::<Result<_>>()?;
        let follows = |field: &Field| field.column.as_ref().is_some_and(|column| column.tops().is_some());
        let following: Vec<FieldId> =
            fields.iter().enumerate().filter(|(_, field)| follows(field)).map(|(at, _)| at).collect();
        let orders = (0..fields.len() * following.len()).map(|_| OnceLock::new()).collect();
        Ok(Some(Self { header, documents, fields, pack, cells: OnceLock::new(), orders, following }))
    }

    pub fn pack(&self) -> &Arc<Pack> {
        &self.pack
    }

    pub fn number(&self) -> u32 {
        self.header.number
    }

    /// Sequence number up to which it has taken in changes.
    pub fn sequence(&self) -> u64 {
        self.header.sequence
    }

    /// Present documents.
    pub fn documents_present(&self) -> u64 {
        self.header.documents
    }

    /// Sum of the hashes of its rows.
    pub fn hash(&self) -> u128 {
        let [low, high] = self.header.hash;
        u128::from(low) | u128::from(high) << 64
    }

    pub fn documents(&self) -> &Documents {
        &self.documents
    }

    /// Sets of a field with index `Terms`; of one with index `Column`, and of the key field: the term `Exists` alone.
    pub fn postings(&self, field: FieldId) -> Option<&Postings> {
        self.fields.get(field)?.postings.as_ref()
    }

    /// How many fields there may be sets of.
    pub fn fields(&self) -> usize {
        self.fields.len()
    }

    pub fn posting(&self, field: FieldId, term: Term<'_>) -> Result<Option<Posting<'_>>> {
        self.postings(field).map_or(Ok(None), |postings| postings.get(term))
    }

    /// The cells of its documents, by fields that documents have one value of: always the same ones. `None` where there
    /// are none. Makes them, which takes 10 ms for a full segment.
    pub fn cells(&self, fields: &[FieldId]) -> Option<&Cells> {
        match self.cells.get() {
            Some(cells) => cells.as_ref(),
            // Later there may be.
            None if !cells::has_room() => None,
            // Whoever reads what is damaged is told of it.
            None => self.cells.get_or_init(|| Cells::of(self, fields).unwrap_or(None)).as_ref(),
        }
    }

    /// As [`Segment::cells`], where they are made; `None`: they are not.
    pub fn made_cells(&self) -> Option<Option<&Cells>> {
        self.cells.get().map(Option::as_ref)
    }

    fn place_of_order(&self, field: FieldId, column: FieldId) -> Option<&OnceLock<Option<Orders>>> {
        let at = self.following.iter().position(|following| *following == column)?;
        self.orders.get(field * self.following.len() + at)
    }

    /// The ids of the terms of a field, of which a document has one value, in the order of a column whose codes follow the
    /// ids: always the same ones. `None` where there are none; so it is where `cells` are not made. Makes them, which takes
    /// 30 ms for a full segment.
    pub fn order(&self, field: FieldId, column: FieldId) -> Option<&Orders> {
        let place = self.place_of_order(field, column)?;
        match place.get() {
            Some(orders) => orders.as_ref(),
            // There may be among other files.
            None if !orders::has_room() => None,
            None => {
                let cells = self.made_cells().flatten()?;
                let (postings, column) = (self.postings(field)?, self.column(column)?);
                // Whoever reads what is damaged is told of it.
                place.get_or_init(|| Orders::of(postings, column, cells).ok()).as_ref()
            }
        }
    }

    /// Whether codes of a column follow the ids.
    pub fn may_order(&self, column: FieldId) -> bool {
        self.following.contains(&column)
    }

    /// The fields, with columns, that have orders.
    pub fn made_orders(&self) -> impl Iterator<Item = (FieldId, FieldId)> {
        let made = self.orders.iter().enumerate().filter(|(_, orders)| matches!(orders.get(), Some(Some(_))));
        made.filter_map(|(at, _)| Some((at / self.following.len(), *self.following.get(at % self.following.len())?)))
    }

    /// As [`Segment::order`], where they are made; `None`: they are not.
    pub fn made_order(&self, field: FieldId, column: FieldId) -> Option<Option<&Orders>> {
        self.place_of_order(field, column)?.get().map(Option::as_ref)
    }

    /// Whether the first ids of a field's terms are listed as follows from its sets and from the columns.
    pub fn leaders_agree(&self, field: FieldId) -> Result<bool> {
        let has_terms = field != KEY_FIELD && self.column(field).is_none();
        let Some(postings) = self.postings(field).filter(|_| has_terms) else { return Ok(true) };
        let mut leading = Vec::new();
        if self.pack.stamp().format >= format::LEADERS {
            for (field, Field { ty, column, .. }) in self.fields.iter().enumerate() {
                if let Some(column) = column
                    && leaders::are_made_for(*ty)
                    && column.tops().is_none()
                {
                    leading.push(Leading { field, codes: column.all_codes()? });
                }
            }
        }
        leaders::agree(postings, &leading, self.documents_present())
    }

    pub fn column(&self, field: FieldId) -> Option<&Column> {
        self.fields.get(field)?.column.as_ref()
    }
}
