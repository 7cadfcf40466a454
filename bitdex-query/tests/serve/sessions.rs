//! Ingest sessions and loads: who may send, what is taken, what is refused.

use std::time::Duration;

use bitdex_proto::{
    Error,
    client::{LoadEvent, Outcome, SessionEvent},
    wire,
};
use tokio::time::timeout;

use crate::{
    feed::{batch, commit, cursor, ingest, load, load_open, open, part_rows, session_open, upsert},
    process::Folder,
    queries::ready,
};

#[tokio::test(flavor = "multi_thread")]
async fn one_session_a_source_is_active() {
    let folder = Folder::new();
    let writer = folder.start();
    load(&folder, &[&writer]).await;
    let (schema, client) = (folder.schema(), ingest(&[&writer]));
    let mut first = open(&client, &schema, "postgres").await;
    let mut second = Box::pin(open(&client, &schema, "postgres"));
    assert!(timeout(Duration::from_millis(200), &mut second).await.is_err(), "the second waits");
    batch(&mut first, 1, vec![upsert(&schema, 5_000, "first")]).await;
    // Another source is not concerned.
    let other = open(&client, &schema, "clickhouse").await;
    assert_eq!(other.opened.cursor, "");
    drop(first);
    let second = second.await;
    assert_eq!(second.opened.cursor, cursor(2), "it opens where the first ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_may_overlap_and_are_answered_in_order() {
    let folder = Folder::new();
    let writer = folder.start();
    load(&folder, &[&writer]).await;
    let (schema, client) = (folder.schema(), ingest(&[&writer]));
    let mut session = open(&client, &schema, "postgres").await;
    for n in 1..=200 {
        session.send(vec![upsert(&schema, 6_000, &format!("version {n}"))]).await.unwrap();
        session.commit(commit(n)).await.unwrap();
    }
    let mut last = 0;
    for n in 1..=200 {
        match session.recv().await.unwrap() {
            SessionEvent::Ack(ack) => {
                assert_eq!(ack.cursor, cursor(n + 1));
                assert!(ack.sequence > last);
                last = ack.sequence;
            }
            other => panic!("batch {n}: {other:?}"),
        }
    }
    let answer = writer.post("/v1/get", r#"{"index": "items", "ids": [6000], "fields": ["name"]}"#).await.1;
    assert_eq!(answer["documents"][0]["fields"]["name"], "version 200");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_does_not_fit_is_refused_whole() {
    let folder = Folder::new();
    let writer = folder.start();
    load(&folder, &[&writer]).await;
    let (schema, client) = (folder.schema(), ingest(&[&writer]));
    let mut session = open(&client, &schema, "postgres").await;

    // It begins elsewhere than where the index stands.
    let Outcome::Refused(refused) = session.deliver(vec![upsert(&schema, 1, "gap")], commit(7)).await.unwrap() else {
        panic!("a gap was accepted")
    };
    assert!(refused.retry && refused.current_cursor == cursor(1), "{refused:?}");

    // One op of it is wrong; the good one is not kept, nor the batch behind it.
    let mut wrong = upsert(&schema, 2, "wrong");
    if let Some(wire::op::Kind::Upsert(upsert)) = &mut wrong.kind {
        upsert.values[1] = wire::Value { kind: Some(wire::value::Kind::Text("dear".into())) };
    }
    session.send(vec![upsert(&schema, 7_001, "good"), wrong]).await.unwrap();
    session.commit(commit(1)).await.unwrap();
    session.send(vec![upsert(&schema, 7_002, "behind")]).await.unwrap();
    session.commit(commit(2)).await.unwrap();
    match session.recv().await.unwrap() {
        SessionEvent::Refused(refused) => {
            assert!(!refused.retry && refused.reason.contains("price"), "{refused:?}");
            assert_eq!(refused.current_cursor, cursor(1));
        }
        other => panic!("{other:?}"),
    }
    match session.recv().await.unwrap() {
        SessionEvent::Refused(refused) => assert!(refused.retry, "{refused:?}"),
        other => panic!("{other:?}"),
    }
    let mut far = upsert(&schema, 0, "far");
    if let Some(wire::op::Kind::Upsert(upsert)) = &mut far.kind {
        upsert.key = 1 << 32;
    }
    let Outcome::Refused(refused) = session.deliver(vec![far], commit(1)).await.unwrap() else {
        panic!("a key out of range was accepted")
    };
    assert!(!refused.retry && refused.reason.contains("4294967296"), "{refused:?}");

    // The session goes on.
    batch(&mut session, 1, vec![upsert(&schema, 7_003, "right")]).await;
    let answer = writer.post("/v1/get", r#"{"index": "items", "ids": [7001, 7002, 7003], "fields": ["id"]}"#).await.1;
    assert_eq!(answer["documents"].as_array().unwrap().len(), 1, "{answer}");
    assert_eq!(answer["documents"][0]["id"], 7003);
    let metrics = writer.get("/metrics").await.1;
    assert!(metrics.contains("bitdex_ingest_refused_total{source=\"postgres\"} 4"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_fit_is_turned_away() {
    let folder = Folder::new();
    let writer = folder.start();
    let reader = folder.start_with(&["--reader-only"]);
    let schema = folder.schema();

    // A reader names the writer, and the client goes there.
    let client = ingest(&[&reader]);
    let mut session = open(&client, &schema, "postgres").await;
    assert!(!session.opened.loaded);
    let error = session.deliver(Vec::new(), commit(0)).await.unwrap_err();
    assert!(matches!(&error, Error::Precondition(message) if message.contains("needs a load")), "{error:?}");

    let stale = wire::SessionOpen { definition_hash: "0123".into(), ..session_open(&schema, "postgres") };
    let error = client.session(stale).await.unwrap_err();
    assert!(
        matches!(&error, Error::Precondition(message) if message.contains("0123") && message.contains(&schema.hash)),
        "{error:?}"
    );
    let elsewhere = wire::SessionOpen { index: "images".into(), ..session_open(&schema, "postgres") };
    assert!(matches!(client.session(elsewhere).await.unwrap_err(), Error::NotFound(_)));
    let nobody = session_open(&schema, "");
    assert!(matches!(client.session(nobody).await.unwrap_err(), Error::Invalid(_)));
    drop(writer);
    let error = client.session(session_open(&schema, "postgres")).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "nobody writes: {error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_broke_off_goes_on_where_it_was() {
    let folder = Folder::new();
    let mut writer = folder.start();
    let schema = folder.schema();
    let client = ingest(&[&writer]);
    let mut session = open(&client, &schema, "postgres").await;

    let mut stream = client.load(load_open(&schema, "a")).await.unwrap();
    assert_eq!(stream.opened.done, Vec::<u32>::new());
    let error = session.recv().await.unwrap_err();
    assert!(matches!(&error, Error::Unavailable { message, .. } if message.contains("a load took over")), "{error:?}");
    let (frames, rows) = part_rows(1);
    for frame in frames {
        stream.rows(1, frame).await.unwrap();
    }
    stream.part_done(1, rows).await.unwrap();
    assert_eq!(stream.recv().await.unwrap(), LoadEvent::PartDone(wire::LoadPartDone { part: 1, rows }));
    // Part of a part, and then the writer dies.
    stream.rows(0, part_rows(0).0.remove(0)).await.unwrap();
    writer.kill();
    assert!(matches!(stream.recv().await.unwrap_err(), Error::Unavailable { .. }));

    let writer = folder.start();
    let client = ingest(&[&writer]);
    let mut stream = client.load(load_open(&schema, "a")).await.unwrap();
    assert_eq!(stream.opened.done, vec![1]);
    assert_eq!(stream.opened.rows, rows);
    let finished_early = stream.finish().await;
    assert!(finished_early.is_ok());
    let error = stream.recv().await.unwrap_err();
    assert!(matches!(&error, Error::Precondition(message) if message.contains("3 parts")), "{error:?}");

    let mut stream = client.load(load_open(&schema, "a")).await.unwrap();
    for part in [0, 2, 3] {
        let (frames, rows) = part_rows(part);
        for frame in frames {
            stream.rows(part, frame).await.unwrap();
        }
        stream.part_done(part, rows).await.unwrap();
        assert_eq!(stream.recv().await.unwrap(), LoadEvent::PartDone(wire::LoadPartDone { part, rows }));
    }
    stream.finish().await.unwrap();
    assert!(matches!(stream.recv().await.unwrap(), LoadEvent::Finished(ack) if ack.cursor == cursor(0)));
    assert_eq!(writer.get("/readyz").await.0, 503, "loaded is not caught up");
    let mut session = open(&client, &schema, "postgres").await;
    batch(&mut session, 0, Vec::new()).await;
    ready(&writer).await;
    let broken_off = writer.client().describe("items").await.unwrap();

    // Loaded in one go elsewhere, the same state comes out.
    let other = Folder::new();
    let other_writer = other.start();
    load(&other, &[&other_writer]).await;
    assert_eq!(other_writer.client().describe("items").await.unwrap().state_hash, broken_off.state_hash);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_cannot_be_read_end_the_load() {
    let folder = Folder::new();
    let writer = folder.start();
    let (schema, client) = (folder.schema(), ingest(&[&writer]));
    let mut stream = client.load(load_open(&schema, "a")).await.unwrap();
    stream.rows(0, bytes::Bytes::from_static(b"\0\x08\0\0\0\x04abcd")).await.unwrap();
    let error = stream.recv().await.unwrap_err();
    assert!(matches!(&error, Error::Invalid(message) if message.contains("document")), "{error:?}");
    let mut stream = client.load(load_open(&schema, "a")).await.unwrap();
    stream.rows(9, bytes::Bytes::new()).await.unwrap();
    let error = stream.recv().await.unwrap_err();
    assert!(matches!(&error, Error::Invalid(message) if message.contains("part 9")), "{error:?}");
}
