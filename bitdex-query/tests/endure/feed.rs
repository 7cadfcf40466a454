//! What bitdex-sync would send: sessions and loads, from a model; and answers, as a model has them.

use std::collections::BTreeMap;

use bitdex_proto::{
    Error,
    client::{Client, IngestClient, LoadEvent, Outcome, Session},
    ops::Op,
    query::{Fields, Filter, GetRequest, SearchRequest, Sort},
    schema::{FieldId, Schema, SourceKind},
    value::{FieldType, FieldValue, Value},
    wire,
};
use bytes::Bytes;

use crate::{
    model::Model,
    process::{Folder, Process, eventually},
};

/// Microseconds from 1970 to 2000, where COPY counts from.
const COPY_EPOCH_US: i64 = 946_684_800_000_000;

pub(crate) fn folder() -> Folder {
    Folder::with_definition(crate::model::DEFINITION)
}

/// A cursor of the source "postgres", the n-th of a made-up history.
pub(crate) fn cursor(n: u64) -> Bytes {
    format!("{}:{}:|token-{n}", 100 + n, 100 + n).into()
}

/// Which of the cursors it is.
pub(crate) fn number(cursor: &[u8]) -> Option<u64> {
    std::str::from_utf8(cursor).ok()?.rsplit_once("token-")?.1.parse().ok()
}

pub(crate) fn commit(from: u64, to: u64) -> wire::Commit {
    let previous_cursor = if from == 0 { Bytes::new() } else { cursor(from) };
    wire::Commit { previous_cursor, new_cursor: cursor(to), caught_up: true, backlog: 0 }
}

pub(crate) fn session_open(schema: &Schema, source: &str) -> wire::SessionOpen {
    wire::SessionOpen { index: schema.index.clone(), definition_hash: schema.hash.clone(), source: source.into() }
}

/// A session on whichever is the writer, once there is one.
pub(crate) async fn open(processes: &[&Process], schema: &Schema, source: &str) -> Session {
    let client = IngestClient::new(processes.iter().map(|process| process.grpc.clone()).collect()).unwrap();
    eventually("a session", || async {
        match client.session(session_open(schema, source)).await {
            Ok(session) => Some(session),
            Err(Error::Unavailable { .. }) => None,
            Err(error) => panic!("{error:?}"),
        }
    })
    .await
}

pub(crate) fn to_wire(schema: &Schema, ops: &[Op]) -> Vec<wire::Op> {
    ops.iter().map(|op| op.to_wire(schema)).collect()
}

/// A row of COPY in binary format.
fn copy_row(fields: impl ExactSizeIterator<Item = Option<Vec<u8>>>) -> Vec<u8> {
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

fn copy_field(value: &Value, ty: FieldType) -> Vec<u8> {
    match (value, ty) {
        (Value::Int(us), FieldType::Timestamp) => (us - COPY_EPOCH_US).to_be_bytes().into(),
        (Value::Int(int), _) => int.to_be_bytes().into(),
        (Value::Bool(bool), _) => vec![u8::from(*bool)],
        (Value::Text(text), _) => text.as_bytes().into(),
        (Value::Float(float), _) => float.get().to_be_bytes().into(),
    }
}

/// One part of a load, with its rows.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) part: wire::LoadPart,
    pub(crate) frames: Vec<Bytes>,
    pub(crate) rows: u64,
}

/// Everything of the model that a load carries, each source in as many parts, each part in frames of as many rows.
pub(crate) fn parts(model: &Model, each: usize, frame: usize) -> Vec<Part> {
    let mut parts = Vec::new();
    for (source, spec) in model.schema.sources.iter().enumerate() {
        let rows: Vec<(i64, Vec<u8>)> = match &spec.kind {
            SourceKind::Metrics { .. } => continue,
            SourceKind::Document { columns } | SourceKind::Lookup { columns } => model
                .rows_of(source)
                .map(|(key, row)| {
                    let types = std::iter::once(FieldType::Int).chain(columns.iter().map(|column| column.ty));
                    let values = std::iter::once(Some(Value::Int(key))).chain(row.iter().cloned());
                    let fields: Vec<_> = values.zip(types).map(|(v, ty)| v.map(|v| copy_field(&v, ty))).collect();
                    (key, copy_row(fields.into_iter()))
                })
                .collect(),
            SourceKind::Members { ty } => model
                .members_of(source)
                .map(|(document, value)| {
                    let key = i64::from(document);
                    let fields = [copy_field(&Value::Int(key), FieldType::Int), copy_field(value, *ty)];
                    (key, copy_row(fields.map(Some).into_iter()))
                })
                .collect(),
        };
        let source = u32::try_from(source).unwrap();
        let mut lo = i64::MIN;
        let size = rows.len().div_ceil(each).max(1);
        let mut rest = &rows[..];
        loop {
            // Rows of one key stay together.
            let mut end = size.min(rest.len());
            while end < rest.len() && rest[end].0 == rest[end - 1].0 {
                end += 1;
            }
            let hi = rest.get(end).map_or(i64::MAX, |(key, _)| *key);
            let frames = rest[..end].chunks(frame);
            let frames = frames.map(|rows| rows.iter().flat_map(|(_, row)| row).copied().collect::<Vec<u8>>().into());
            parts.push(Part { part: wire::LoadPart { source, lo, hi }, frames: frames.collect(), rows: end as u64 });
            rest = &rest[end..];
            lo = hi;
            if rest.is_empty() {
                break;
            }
        }
    }
    parts
}

pub(crate) fn load_open(schema: &Schema, load_id: &str, n: u64, parts: &[Part]) -> wire::LoadOpen {
    wire::LoadOpen {
        index: schema.index.clone(),
        definition_hash: schema.hash.clone(),
        source: "postgres".into(),
        load_id: load_id.into(),
        cursor: cursor(n),
        parts: parts.iter().map(|part| part.part).collect(),
    }
}

/// Sends the parts of a load that are not there yet, and finishes it; the cursor is the n-th then.
pub(crate) async fn load(
    client: &IngestClient,
    schema: &Schema,
    load_id: &str,
    n: u64,
    parts: &[Part],
) -> Result<(), Error> {
    let stream = client.load(load_open(schema, load_id, n, parts)).await?;
    let done = stream.opened.done.clone();
    let (sender, mut receiver) = stream.split();
    let send = async {
        for (number, part) in (0..).zip(parts).filter(|(number, _)| !done.contains(number)) {
            for frame in &part.frames {
                sender.rows(number, frame.clone()).await?;
            }
            sender.part_done(number, part.rows).await?;
        }
        sender.finish().await
    };
    let receive = async {
        loop {
            if let LoadEvent::Finished(ack) = receiver.recv().await? {
                assert_eq!(ack.cursor, cursor(n));
                return Ok::<(), Error>(());
            }
        }
    };
    // Why a stream ended, its receiver says.
    let (_, received) = tokio::join!(send, receive);
    received
}

/// Loads the model into an empty index, as the first of the history, and catches up with both databases.
pub(crate) async fn first_load(processes: &[&Process], model: &Model) -> wire::Ack {
    let client = IngestClient::new(processes.iter().map(|process| process.grpc.clone()).collect()).unwrap();
    load(&client, &model.schema, "first", 1, &parts(model, 3, 1_000)).await.unwrap();
    let mut session = open(processes, &model.schema, "postgres").await;
    assert_eq!(session.opened.cursor, cursor(1));
    acknowledged(&mut session, Vec::new(), commit(1, 2)).await;
    let mut metrics = open(processes, &model.schema, "clickhouse").await;
    acknowledged(&mut metrics, Vec::new(), commit(0, 1)).await
}

/// Delivers a batch, which must be taken.
pub(crate) async fn acknowledged(session: &mut Session, ops: Vec<wire::Op>, commit: wire::Commit) -> wire::Ack {
    match session.deliver(ops, commit).await.unwrap() {
        Outcome::Acked(ack) => ack,
        Outcome::Refused(refused) => panic!("{refused:?}"),
    }
}

/// Field → value, of each document of an answer.
pub(crate) type Documents = BTreeMap<u32, BTreeMap<FieldId, FieldValue>>;

fn read(schema: &Schema, fields: &[String], hits: Vec<wire::Hit>) -> Documents {
    let fields: Vec<FieldId> = fields.iter().map(|name| schema.field(name).unwrap().0).collect();
    let document = |hit: wire::Hit| {
        let values = fields.iter().zip(hit.values).map(|(field, value)| {
            let spec = &schema.fields[*field];
            let read = |value| Value::from_wire(value, spec.ty, &spec.name).unwrap().unwrap();
            let values: Vec<Value> = value.values.iter().map(read).collect();
            let value = if spec.many { FieldValue::many(values) } else { FieldValue::one(values.into_iter().next()) };
            (*field, value)
        });
        (hit.id, values.collect())
    };
    hits.into_iter().map(document).collect()
}

/// Documents by id, with all of their fields, and the version that the answer saw.
pub(crate) async fn get(client: &Client, schema: &Schema, ids: Vec<u32>) -> Result<(Documents, u64), Error> {
    let request = GetRequest {
        index: schema.index.clone(),
        ids,
        fields: Fields::All,
        include_pending: false,
        now_us: None,
        consistency: None,
    };
    let answer = client.get(request).await?;
    let sequence = answer.info.map_or(0, |info| info.sequence);
    Ok((read(schema, &answer.fields, answer.documents), sequence))
}

/// The documents as the model has them; ids that it does not have are left out.
pub(crate) fn expected(model: &Model, ids: impl IntoIterator<Item = u32>) -> Documents {
    let fields = 0..model.schema.fields.len();
    let document = |id| (id, fields.clone().map(|field| (field, model.value(id, field))).collect());
    ids.into_iter().filter(|id| model.has(*id)).map(document).collect()
}

pub(crate) fn search(schema: &Schema, filter: &Filter, sort: &str, descending: bool, limit: u32) -> SearchRequest {
    SearchRequest {
        filter: Some(filter.clone()),
        sort: vec![Sort { field: sort.into(), descending }],
        limit,
        ..SearchRequest::new(schema.index.clone())
    }
}

/// Waits until the process serves.
pub(crate) async fn ready(process: &Process) {
    eventually("readiness", || async { (process.get("/readyz").await.0 == 200).then_some(()) }).await;
}
