//! The checkpoint file: the header, and what changed since the base.
//!
//! Its sections: the header, deferred ops, rows as a table (a row may be gone), for each field the ids that came into its
//! sets and those that went out, and for each column its overrides.

mod header;
mod write;

use std::{path::Path, sync::Arc};

use bitdex_proto::{ops::Op, schema::FieldId, wire};
use prost::Message as _;

use super::{
    Frozen, Header,
    encode::{Broken, Input},
    layout::Layout,
};
use crate::{
    log::{Error, Result},
    segment::{
        columns::SparseColumn,
        postings::{Postings, Role},
        table::Table,
    },
    store::{
        manifest::{CheckpointRef, Manifest},
        pack::{Pack, PackKind, Section, SectionId, SectionKind},
    },
};

pub use write::write_checkpoint;

const HEADER: SectionId = SectionId { kind: SectionKind::Header, place: 0 };
const DEFERRED: SectionId = SectionId { kind: SectionKind::Deferred, place: 0 };

/// What a flush wrote; the manifest does not name it yet.
#[derive(Debug, Clone)]
pub struct Flushed {
    pub checkpoint: CheckpointRef,
    /// The file with what was staged, where there was something.
    pub staged: Option<String>,
    pub bytes: u64,
}

impl Flushed {
    /// Names in a manifest what the flush of `frozen` wrote, and no more what that replaces. `began`: where loads began.
    pub(crate) fn name_in(self, manifest: &mut Manifest, frozen: &Frozen, began: &[u64]) {
        // Another load may have ended in memory since the one that swapped this base in.
        let below = frozen.below.prepared_for();
        if let Some(base) = manifest.prepared.take_if(|base| base.complete && below == Some(base.generation)) {
            manifest.segments = base.segments;
            manifest.tables = base.tables;
        }
        let below = manifest.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.sequence);
        let is_other = began.iter().any(|began| (below + 1..=frozen.sequence()).contains(began));
        if is_other || !frozen.is_loading() {
            manifest.staged.clear();
            manifest.prepared = None;
        }
        if let Some(file) = self.staged.filter(|_| frozen.is_loading()) {
            // What was built lacks these rows.
            manifest.prepared = None;
            manifest.staged.push(file);
        }
        manifest.checkpoint = Some(self.checkpoint);
    }
}

/// An open checkpoint.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    pack: Arc<Pack>,
    header: Header,
    deferred: Section,
    rows: Table,
    /// By field.
    added: Vec<Option<Postings>>,
    removed: Vec<Option<Postings>>,
    columns: Vec<Option<SparseColumn>>,
}

impl Checkpoint {
    /// `None` where there is no file of that name.
    pub(crate) fn open(path: &Path, store: u128, layout: &Layout) -> Result<Option<Self>> {
        let Some(pack) = Pack::open(path, PackKind::Checkpoint, store)? else { return Ok(None) };
        let header = pack.require(HEADER)?;
        let (definition, header) = header::decode(header.bytes(0, header.len())?)
            .map_err(|Broken| header.damaged(0, "the header does not decode"))?;
        if definition != layout.schema.hash {
            return Err(Error::foreign(format!(
                "{} is of definition {definition}, this process serves {}: start it with that definition",
                path.display(),
                layout.schema.hash,
            )));
        }
        let fields = || layout.spec().fields.iter().enumerate();
        let sets =
            |role| fields().map(|(field, (_, ty))| Postings::open(&pack, role, field, *ty)).collect::<Result<_>>();
        Ok(Some(Self {
            header,
            deferred: pack.require(DEFERRED)?,
            rows: Table::open(&pack)?,
            added: sets(Role::Added)?,
            removed: sets(Role::Removed)?,
            columns: fields().map(|(field, _)| SparseColumn::open(&pack, field)).collect::<Result<_>>()?,
            pack,
        }))
    }

    pub(crate) fn path(&self) -> &Path {
        self.pack.path()
    }

    /// Verifies again what was read of it.
    pub(crate) fn verify_again(&self) -> Result<()> {
        self.pack.verify_again()
    }

    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    pub(crate) fn sequence(&self) -> u64 {
        self.header.sequence
    }

    pub(crate) fn rows(&self) -> &Table {
        &self.rows
    }

    /// Ids that came in, or went out.
    pub(crate) fn sets(&self, role: Role, field: FieldId) -> Option<&Postings> {
        let sets = match role {
            Role::Added => &self.added,
            Role::Removed => &self.removed,
            Role::Held => return None,
        };
        sets.get(field)?.as_ref()
    }

    pub(crate) fn column(&self, field: FieldId) -> Option<&SparseColumn> {
        self.columns.get(field)?.as_ref()
    }

    /// Ops that wait for the end of the load.
    pub(crate) fn deferred(&self, layout: &Layout) -> Result<Vec<Op>> {
        let length = self.deferred.len();
        let mut input = Input(self.deferred.bytes(0, length)?);
        let mut ops = Vec::new();
        while !input.is_empty() {
            let at = length - input.0.len();
            let op = input.bytes().ok().and_then(|bytes| wire::Op::decode(bytes).ok());
            let op = op.and_then(|op| Op::from_wire(&op, &layout.schema).ok());
            ops.push(op.ok_or_else(|| self.deferred.damaged(at, "an op does not decode"))?);
        }
        Ok(ops)
    }
}
