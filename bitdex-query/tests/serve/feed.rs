//! What bitdex-sync would send: a bulk load in COPY's binary rows, and batches of ops.

use bitdex_proto::{
    client::{IngestClient, LoadEvent, Outcome, Session},
    ops::{Change, Op},
    schema::Schema,
    value::{FieldValue, Float, Value},
    wire,
};
use bytes::Bytes;

use crate::process::{Folder, Process};

/// 2026-01-01T00:00:00Z
pub(crate) const NEW_YEAR_US: i64 = 1_767_225_600_000_000;
/// 2100-01-01T00:00:00Z
pub(crate) const FAR_US: i64 = 4_102_444_800_000_000;
/// Microseconds from 1970 to 2000, where COPY counts from.
const COPY_EPOCH_US: i64 = 946_684_800_000_000;

pub(crate) fn ingest(processes: &[&Process]) -> IngestClient {
    IngestClient::new(processes.iter().map(|process| process.grpc.clone()).collect()).unwrap()
}

/// A cursor of the source "postgres", the n-th of a made-up history.
pub(crate) fn cursor(n: u64) -> Bytes {
    format!("{}:{}:|token-{n}", 100 + n, 100 + n).into()
}

/// A row of COPY in binary format; `None` is null.
pub(crate) fn copy_row(fields: &[Option<Vec<u8>>]) -> Vec<u8> {
    let mut row = i16::try_from(fields.len()).unwrap().to_be_bytes().to_vec();
    for field in fields {
        match field {
            None => row.extend((-1_i32).to_be_bytes()),
            Some(bytes) => {
                row.extend(i32::try_from(bytes.len()).unwrap().to_be_bytes());
                row.extend(bytes);
            }
        }
    }
    row
}

pub(crate) fn int(value: i64) -> Option<Vec<u8>> {
    Some(value.to_be_bytes().into())
}

pub(crate) fn text(value: &str) -> Option<Vec<u8>> {
    Some(value.into())
}

fn float(value: f64) -> Option<Vec<u8>> {
    Some(value.to_be_bytes().into())
}

fn timestamp(us: i64) -> Option<Vec<u8>> {
    Some((us - COPY_EPOCH_US).to_be_bytes().into())
}

/// A numeric below 10 000 with two digits after the point.
fn money(cents: i64) -> Option<Vec<u8>> {
    let (whole, fraction) = (u16::try_from(cents / 100).unwrap(), u16::try_from(cents % 100).unwrap() * 100);
    Some([2, 0, 0, 2, whole, fraction].iter().flat_map(|word| word.to_be_bytes()).collect())
}

/// Number of documents that [`load`] brings.
pub(crate) const LOADED: u32 = 300;

/// The document `id` as COPY gives it. Every seventh is pending for long.
fn item(id: u32) -> Vec<u8> {
    let n = i64::from(id);
    let rating = match id % 5 {
        0 => None,
        1 => float(f64::NAN),
        _ => float(f64::from(id) / 8.0),
    };
    let listed_at = match id % 7 {
        0 => timestamp(FAR_US),
        1 => None,
        _ => timestamp(NEW_YEAR_US - n * 3_600_000_000),
    };
    copy_row(&[
        int(n),
        text(&format!("item {:03}", id % 100)),
        money(n * 37 % 5_000),
        rating,
        Some(vec![u8::from(id.is_multiple_of(2))]),
        listed_at,
        int(n % 4),
        text("note"),
    ])
}

fn part(schema: &Schema, source: &str, lo: u32, hi: u32) -> wire::LoadPart {
    let source = schema.source(source).unwrap().0 as u32;
    wire::LoadPart { source, lo: lo.into(), hi: hi.into() }
}

pub(crate) fn load_open(schema: &Schema, load_id: &str) -> wire::LoadOpen {
    wire::LoadOpen {
        index: schema.index.clone(),
        definition_hash: schema.hash.clone(),
        source: "postgres".into(),
        load_id: load_id.into(),
        cursor: cursor(0),
        parts: vec![
            part(schema, "document", 0, LOADED / 2),
            part(schema, "document", LOADED / 2, LOADED),
            part(schema, "category", 0, 4),
            part(schema, "tags", 0, LOADED),
        ],
    }
}

/// The rows of one part, in frames, and how many they are.
pub(crate) fn part_rows(part: u32) -> (Vec<Bytes>, u64) {
    let rows: Vec<Vec<u8>> = match part {
        0 => (0..LOADED / 2).map(item).collect(),
        1 => (LOADED / 2..LOADED).map(item).collect(),
        // Category 3 is not there: a lookup without a row.
        2 => (0..3).map(|id| copy_row(&[int(id), text(["tools", "toys", "books"][id as usize])])).collect(),
        3 => (0..LOADED)
            .flat_map(|id| {
                (0..id % 4).map(move |tag| copy_row(&[int(id.into()), text(&format!("tag{}", (id + tag) % 9))]))
            })
            .collect(),
        other => panic!("there is no part {other}"),
    };
    let count = rows.len() as u64;
    (rows.chunks(40).map(|chunk| chunk.concat().into()).collect(), count)
}

/// Loads [`LOADED`] documents and catches up, so that the index is ready.
pub(crate) async fn load(folder: &Folder, processes: &[&Process]) -> wire::Ack {
    let schema = folder.schema();
    let client = ingest(processes);
    let mut load = client.load(load_open(&schema, "load")).await.unwrap();
    for part in 0..4 {
        let (frames, rows) = part_rows(part);
        for frame in frames {
            load.rows(part, frame).await.unwrap();
        }
        load.part_done(part, rows).await.unwrap();
    }
    for _ in 0..4 {
        assert!(matches!(load.recv().await.unwrap(), LoadEvent::PartDone(_)));
    }
    load.finish().await.unwrap();
    assert!(matches!(load.recv().await.unwrap(), LoadEvent::Finished(_)));
    let mut session = open(&client, &schema, "postgres").await;
    assert_eq!(session.opened.cursor, cursor(0));
    assert!(session.opened.loaded && !session.opened.caught_up);
    batch(&mut session, 0, Vec::new()).await
}

pub(crate) fn session_open(schema: &Schema, source: &str) -> wire::SessionOpen {
    wire::SessionOpen { index: schema.index.clone(), definition_hash: schema.hash.clone(), source: source.into() }
}

pub(crate) async fn open(client: &IngestClient, schema: &Schema, source: &str) -> Session {
    client.session(session_open(schema, source)).await.unwrap()
}

/// The commit from cursor `n` to `n + 1`.
pub(crate) fn commit(n: u64) -> wire::Commit {
    wire::Commit { previous_cursor: cursor(n), new_cursor: cursor(n + 1), caught_up: true, backlog: 0 }
}

/// Delivers the batch from cursor `n` to `n + 1`.
pub(crate) async fn batch(session: &mut Session, n: u64, ops: Vec<wire::Op>) -> wire::Ack {
    match session.deliver(ops, commit(n)).await.unwrap() {
        Outcome::Acked(ack) => ack,
        Outcome::Refused(refused) => panic!("refused: {refused:?}"),
    }
}

/// A document that is visible, cheap, and has a name of its own.
pub(crate) fn upsert(schema: &Schema, id: u32, name: &str) -> wire::Op {
    let text = |text: &str| Some(Value::Text(text.into()));
    let row = [
        text(name),
        Some(Value::Int(150)),
        Some(Value::Float(Float::new(0.5))),
        Some(Value::Bool(false)),
        Some(Value::Int(NEW_YEAR_US)),
        Some(Value::Int(1)),
        None,
    ];
    Op::Upsert { source: 0, key: id.into(), row: Some(row.into_iter().collect()) }.to_wire(schema)
}

pub(crate) fn pin(schema: &Schema, id: u32, rank: i64) -> wire::Op {
    let field = schema.field("pinned").unwrap().0;
    let change = Change::Set(FieldValue::One(Value::Int(rank)));
    Op::Field { document: id, field, change }.to_wire(schema)
}
