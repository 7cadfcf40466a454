//! A state as bytes: the source rows, the cursors and an unfinished load's progress. Documents and indexes are computed
//! again when it is read, and must then have the hash that was written.
//!
//! Layout: magic, format (u32); then chunks of kind (u8), place (u32: source or field), length (u32), CRC-32 of all
//! that and of the payload (u32), payload. Numbers are little-endian. The first chunk is the header, the last one says
//! how many came before it, so a cut file is told from a whole one.

use std::{
    io::{self, Read as _},
    sync::Arc,
};

use bitdex_proto::{
    Error,
    ops::{Change, Op, Row},
    schema::{FieldId, Origin, Schema, SourceId, SourceKind},
    value::FieldValue,
    wire,
};
use bytes::Bytes;
use prost::Message as _;

use super::{
    Feed, LoadProgress, Loading, State,
    encode::{Broken, Input, put_bytes, put_field, put_key, put_number, put_optional, put_values},
};

const MAGIC: &[u8; 8] = b"bitdexST";
const FORMAT: u32 = 1;
/// A chunk ends after the record that reaches this many bytes.
const CHUNK: usize = 256 << 10;

/// Why a checkpoint could not be read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error("the checkpoint cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("the checkpoint has format {found}, this release reads {supported}: run the release that wrote it")]
    Format { found: u32, supported: u32 },
    #[error("the checkpoint is of definition {found}, this process serves {expected}: start it with that definition")]
    Definition { found: String, expected: String },
    /// Names the chunk.
    #[error("the checkpoint is damaged: {0}")]
    Damaged(String),
}

impl From<CheckpointError> for Error {
    fn from(error: CheckpointError) -> Self {
        match error {
            CheckpointError::Damaged(_) => Self::DataLoss(error.to_string()),
            CheckpointError::Io(_) => Self::Internal(error.to_string()),
            CheckpointError::Format { .. } | CheckpointError::Definition { .. } => {
                Self::Precondition(error.to_string())
            }
        }
    }
}

/// What a chunk holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Header = 1,
    /// Rows of a source: key, a value or null for each column.
    Rows = 2,
    /// Members of a source: document, values.
    Members = 3,
    /// Values of an external field: document, value.
    External = 4,
    /// Field ops that wait for the end of a load, as on the wire.
    Deferred = 5,
    /// Number of chunks before, hash of the state.
    End = 6,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        [Self::Header, Self::Rows, Self::Members, Self::External, Self::Deferred, Self::End]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::Rows => "rows",
            Self::Members => "members",
            Self::External => "external values",
            Self::Deferred => "deferred ops",
            Self::End => "end",
        }
    }
}

struct Writer<'w> {
    out: &'w mut dyn io::Write,
    payload: Vec<u8>,
    chunks: u64,
}

impl Writer<'_> {
    fn chunk(&mut self, kind: Kind, place: usize) -> io::Result<()> {
        let too_long = |_| io::Error::other("a chunk longer than 4 GiB");
        let length = u32::try_from(self.payload.len()).map_err(too_long)?;
        let place = u32::try_from(place).map_err(too_long)?;
        let mut head = vec![kind as u8];
        head.extend_from_slice(&place.to_le_bytes());
        head.extend_from_slice(&length.to_le_bytes());
        let crc = checksum(&head, &self.payload);
        self.out.write_all(&head)?;
        self.out.write_all(&crc.to_le_bytes())?;
        self.out.write_all(&self.payload)?;
        self.payload.clear();
        self.chunks += 1;
        Ok(())
    }

    fn records<T>(
        &mut self,
        kind: Kind,
        place: usize,
        records: impl IntoIterator<Item = T>,
        put: impl Fn(&mut Vec<u8>, T),
    ) -> io::Result<()> {
        for record in records {
            put(&mut self.payload, record);
            if self.payload.len() >= CHUNK {
                self.chunk(kind, place)?;
            }
        }
        if self.payload.is_empty() { Ok(()) } else { self.chunk(kind, place) }
    }
}

fn checksum(head: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(payload);
    hasher.finalize()
}

impl State {
    /// Writes what [`State::read_checkpoint`] rebuilds this state from.
    pub fn write_checkpoint(&self, out: &mut dyn io::Write) -> io::Result<()> {
        out.write_all(MAGIC)?;
        out.write_all(&FORMAT.to_le_bytes())?;
        let mut writer = Writer { out, payload: Vec::with_capacity(2 * CHUNK), chunks: 0 };
        self.put_header(&mut writer.payload);
        writer.chunk(Kind::Header, 0)?;
        for (source, rows) in self.rows.rows.iter().enumerate() {
            writer.records(Kind::Rows, source, rows, |out, (key, row)| {
                put_key(out, *key);
                row.iter().for_each(|value| put_optional(out, value.as_ref()));
            })?;
        }
        for (source, members) in self.rows.members.iter().enumerate() {
            writer.records(Kind::Members, source, members, |out, (document, values)| {
                put_number(out, (*document).into());
                put_values(out, values);
            })?;
        }
        for (field, values) in self.rows.external.iter().enumerate() {
            writer.records(Kind::External, field, values, |out, (document, value)| {
                put_number(out, (*document).into());
                put_field(out, value);
            })?;
        }
        writer.records(Kind::Deferred, 0, &self.deferred, |out, op| {
            put_bytes(out, &op.to_wire(self.schema()).encode_to_vec());
        })?;
        let chunks = writer.chunks;
        put_number(&mut writer.payload, chunks);
        writer.payload.extend_from_slice(&self.hash().to_le_bytes());
        writer.chunk(Kind::End, 0)
    }

    fn put_header(&self, out: &mut Vec<u8>) {
        put_bytes(out, self.schema().hash.as_bytes());
        put_number(out, self.sequence);
        put_bytes(out, self.store.as_bytes());
        put_number(out, self.generation);
        out.push(self.loaded.into());
        put_number(out, self.feeds.len() as u64);
        for (source, feed) in &self.feeds {
            put_bytes(out, source.as_bytes());
            put_bytes(out, &feed.cursor);
            out.push(feed.caught_up.into());
            put_number(out, feed.backlog);
        }
        out.push(self.loading.is_some().into());
        if let Some(loading) = &self.loading {
            let LoadProgress { load_id, cursor, parts, done, rows } = &loading.progress;
            put_bytes(out, loading.source.as_bytes());
            put_bytes(out, load_id.as_bytes());
            put_bytes(out, cursor);
            put_number(out, parts.len() as u64);
            for part in parts {
                put_number(out, part.source.into());
                put_key(out, part.lo);
                put_key(out, part.hi);
            }
            put_number(out, done.len() as u64);
            done.iter().for_each(|part| put_number(out, (*part).into()));
            put_number(out, *rows);
        }
    }

    /// Reads a checkpoint of this definition. Damage is found and named; nothing stands in for what is missing.
    pub fn read_checkpoint(schema: Arc<Schema>, input: &mut dyn io::Read) -> Result<Self, CheckpointError> {
        let mut prelude = [0; 12];
        read_exactly(input, &mut prelude, "its first bytes")?;
        let (magic, format) = prelude.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err(CheckpointError::Damaged("it does not begin as a checkpoint".into()));
        }
        let found = format.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte));
        if found != FORMAT {
            return Err(CheckpointError::Format { found, supported: FORMAT });
        }
        let mut state = Self::new(schema);
        let mut chunks = 0;
        loop {
            let chunk = Chunk::read(input, chunks)?;
            if (chunk.kind == Kind::Header) != (chunks == 0) {
                return Err(chunk.damaged("stands where it should not"));
            }
            match chunk.kind {
                Kind::Header => state.read_header(&chunk)?,
                Kind::End => {
                    let hash = chunk.end()?;
                    if state.loading.is_none() {
                        state.rebuild();
                    }
                    return if hash == state.hash() {
                        Ok(state)
                    } else {
                        Err(chunk.damaged("its hash is not that of the state before it"))
                    };
                }
                _ => state.read_chunk(&chunk).map_err(|Broken| chunk.damaged("its contents do not decode"))?,
            }
            chunks += 1;
        }
    }

    fn read_header(&mut self, chunk: &Chunk) -> Result<(), CheckpointError> {
        let broken = |Broken| chunk.damaged("its contents do not decode");
        let mut input = Input(&chunk.payload);
        let found = input.text().map_err(broken)?;
        if found != self.schema().hash {
            return Err(CheckpointError::Definition { found: found.into(), expected: self.schema().hash.clone() });
        }
        self.read_header_rest(&mut input).map_err(broken)
    }

    fn read_header_rest(&mut self, input: &mut Input<'_>) -> Result<(), Broken> {
        self.sequence = input.number()?;
        self.store = input.text()?.into();
        self.generation = input.number()?;
        self.loaded = input.byte()? != 0;
        for _ in 0..input.length()? {
            let source = input.text()?.to_owned();
            let cursor = Bytes::copy_from_slice(input.bytes()?);
            let caught_up = input.byte()? != 0;
            self.feeds.insert(source, Feed { cursor, caught_up, backlog: input.number()? });
        }
        if input.byte()? != 0 {
            let source = input.text()?.to_owned();
            let load_id = input.text()?.to_owned();
            let cursor = Bytes::copy_from_slice(input.bytes()?);
            let part =
                |input: &mut Input<'_>| Ok(wire::LoadPart { source: input.id()?, lo: input.key()?, hi: input.key()? });
            let parts = (0..input.length()?).map(|_| part(input)).collect::<Result<_, Broken>>()?;
            let done = (0..input.length()?).map(|_| input.id()).collect::<Result<_, Broken>>()?;
            let progress = LoadProgress { load_id, cursor, parts, done, rows: input.number()? };
            self.loading = Some(Arc::new(Loading { source, progress }));
        }
        if input.is_empty() { Ok(()) } else { Err(Broken) }
    }

    fn read_chunk(&mut self, chunk: &Chunk) -> Result<(), Broken> {
        let schema = self.schema().clone();
        let mut input = Input(&chunk.payload);
        while !input.is_empty() {
            match chunk.kind {
                Kind::Rows => self.read_row(&schema, chunk.place, &mut input)?,
                Kind::Members => self.read_members(&schema, chunk.place, &mut input)?,
                Kind::External => self.read_external(&schema, chunk.place, &mut input)?,
                Kind::Deferred => {
                    let op = wire::Op::decode(input.bytes()?).map_err(|_| Broken)?;
                    self.deferred.push_back(Op::from_wire(&op, &schema).map_err(|_| Broken)?);
                }
                Kind::Header | Kind::End => return Err(Broken),
            }
        }
        Ok(())
    }

    fn read_row(&mut self, schema: &Schema, source: SourceId, input: &mut Input<'_>) -> Result<(), Broken> {
        let columns = schema.sources.get(source).ok_or(Broken)?.columns();
        let key = input.key()?;
        let row: Row = columns
            .iter()
            .map(|column| {
                let value = input.optional()?;
                if value.as_ref().is_none_or(|value| value.fits(column.ty)) { Ok(value) } else { Err(Broken) }
            })
            .collect::<Result<_, Broken>>()?;
        let (layout, rows) = self.rows_mut();
        let layout = layout.clone();
        if rows.set_row(&layout, source, key, Some(&row)) { Ok(()) } else { Err(Broken) }
    }

    fn read_members(&mut self, schema: &Schema, source: SourceId, input: &mut Input<'_>) -> Result<(), Broken> {
        let Some(SourceKind::Members { ty }) = schema.sources.get(source).map(|source| &source.kind) else {
            return Err(Broken);
        };
        let document = input.id()?;
        let values = input.values()?;
        if !values.iter().all(|value| value.fits(*ty)) {
            return Err(Broken);
        }
        let changes: Vec<_> = values.into_iter().map(|value| (value, true)).collect();
        if self.rows.change_members(source, document, &changes) { Ok(()) } else { Err(Broken) }
    }

    fn read_external(&mut self, schema: &Schema, field: FieldId, input: &mut Input<'_>) -> Result<(), Broken> {
        let document = input.id()?;
        let value = input.field()?;
        let fits = |field: &bitdex_proto::schema::Field| {
            field.origin == Origin::External
                && value.values().iter().all(|value| value.fits(field.ty))
                && matches!(value, FieldValue::Many(_)) == field.many
        };
        if !schema.fields.get(field).is_some_and(fits) {
            return Err(Broken);
        }
        if self.rows.change_external(field, document, &Change::Set(value)) { Ok(()) } else { Err(Broken) }
    }
}

struct Chunk {
    /// Position in the file.
    number: u64,
    kind: Kind,
    place: usize,
    payload: Vec<u8>,
}

impl Chunk {
    fn read(input: &mut dyn io::Read, number: u64) -> Result<Self, CheckpointError> {
        let mut head = [0; 13];
        read_exactly(input, &mut head, &format!("chunk {number}"))?;
        let number_at = |at: usize| head[at..at + 4].iter().rev().fold(0_u32, |all, byte| all << 8 | u32::from(*byte));
        let (place, length, crc) = (number_at(1), number_at(5), number_at(9));
        let mut payload = Vec::new();
        // Grows as bytes arrive: a damaged length does not allocate what is not there.
        input.take(length.into()).read_to_end(&mut payload)?;
        if payload.len() != length as usize {
            return Err(CheckpointError::Damaged(format!("it ends within chunk {number}")));
        }
        if checksum(&head[..9], &payload) != crc {
            return Err(CheckpointError::Damaged(format!("chunk {number} fails its checksum")));
        }
        let kind = Kind::of(head[0])
            .ok_or_else(|| CheckpointError::Damaged(format!("chunk {number} is of unknown kind {}", head[0])))?;
        Ok(Self { number, kind, place: place as usize, payload })
    }

    fn damaged(&self, what: &str) -> CheckpointError {
        CheckpointError::Damaged(format!("chunk {} ({} {}): {what}", self.number, self.kind.name(), self.place))
    }

    /// The hash in the last chunk, whose count must fit.
    fn end(&self) -> Result<u128, CheckpointError> {
        let broken = || self.damaged("its contents do not decode");
        let mut input = Input(&self.payload);
        if input.number().map_err(|Broken| broken())? != self.number {
            return Err(self.damaged("chunks before it are missing"));
        }
        let hash: [u8; 16] = input.0.try_into().map_err(|_| broken())?;
        Ok(u128::from_le_bytes(hash))
    }
}

fn read_exactly(input: &mut dyn io::Read, bytes: &mut [u8], what: &str) -> Result<(), CheckpointError> {
    input.read_exact(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => CheckpointError::Damaged(format!("it ends within {what}")),
        _ => CheckpointError::Io(error),
    })
}
