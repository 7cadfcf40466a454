//! Writers die or leave; readers take over; nothing acknowledged is lost, and no query fails.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bitdex_proto::{
    Error,
    client::{Client, Outcome, SessionEvent},
    query::{Fields, GetRequest, SearchRequest},
};
use rustix::process::Signal;

use crate::{
    feed::{batch, commit, cursor, ingest, load, open, upsert},
    process::{Folder, Process, eventually},
    queries::{in_step, ready},
};

/// Searches all the time, on any of the processes, until stopped.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    client: Client,
    task: tokio::task::JoinHandle<Vec<Error>>,
}

impl Load {
    fn start(processes: &[&Process]) -> Self {
        let client = Client::connect(processes.iter().map(|process| process.grpc.clone()).collect()).unwrap();
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let task = tokio::spawn({
            let (stop, answered, client) = (Arc::clone(&stop), Arc::clone(&answered), client.clone());
            async move {
                let mut failed = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    match client.search(SearchRequest::new("items")).await {
                        Ok(_) => {
                            answered.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => failed.push(error),
                    }
                }
                failed
            }
        });
        Self { stop, answered, client, task }
    }

    /// Waits until a hundred more searches were answered, so that all connections were used since.
    async fn go_on(&self) {
        let from = self.answered.load(Ordering::Relaxed);
        eventually("searches", || async { (self.answered.load(Ordering::Relaxed) > from + 100).then_some(()) }).await;
    }

    /// What failed, and how many calls were repeated on another connection.
    async fn stop(self) -> (Vec<Error>, u64) {
        self.stop.store(true, Ordering::Relaxed);
        (self.task.await.unwrap(), self.client.retries())
    }
}

async fn promoted(process: &Process) {
    eventually("promotion", || async {
        (process.client().describe("items").await.unwrap().role == "writer").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_writer_is_replaced_and_nothing_acknowledged_is_lost() {
    let folder = Folder::new();
    let mut processes = vec![folder.start(), folder.start(), folder.start()];
    load(&folder, &processes.iter().collect::<Vec<_>>()).await;
    for process in &processes {
        ready(process).await;
    }
    let schema = folder.schema();
    let mut next = 1;
    let mut acknowledged = Vec::new();
    // The first is the writer; whoever takes over is moved to the front.
    while processes.len() > 1 {
        let searches = Load::start(&processes.iter().collect::<Vec<_>>());
        searches.go_on().await;
        let client = ingest(&processes.iter().collect::<Vec<_>>());
        let mut session = open(&client, &schema, "postgres").await;
        assert_eq!(session.opened.cursor, cursor(next), "the cursor is that of the last batch");
        for _ in 0..20 {
            let id = 10_000 + u32::try_from(next).unwrap();
            batch(&mut session, next, vec![upsert(&schema, id, "kept")]).await;
            acknowledged.push(id);
            next += 1;
        }
        // Some batches are under way when it dies.
        for ahead in 0..5 {
            let id = 20_000 + u32::try_from(next + ahead).unwrap();
            session.send(vec![upsert(&schema, id, "perhaps")]).await.unwrap();
            session.commit(commit(next + ahead)).await.unwrap();
        }
        processes[0].kill();
        loop {
            match session.recv().await {
                Ok(SessionEvent::Ack(_)) => {
                    acknowledged.push(20_000 + u32::try_from(next).unwrap());
                    next += 1;
                }
                Ok(other) => panic!("{other:?}"),
                Err(error) => {
                    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
                    break;
                }
            }
        }
        processes.remove(0);
        let front = eventually("promotion", || async {
            for (i, process) in processes.iter().enumerate() {
                if process.client().describe("items").await.unwrap().role == "writer" {
                    return Some(i);
                }
            }
            None
        })
        .await;
        processes.swap(0, front);
        searches.go_on().await;
        let (failed, _) = searches.stop().await;
        assert!(failed.is_empty(), "{failed:?}");

        // What was not acknowledged may be there or not, but whole, in order, and the cursor tells.
        let client = ingest(&processes.iter().collect::<Vec<_>>());
        let session = open(&client, &schema, "postgres").await;
        let reached = (next..=next + 5).find(|n| cursor(*n) == session.opened.cursor);
        next = reached.unwrap_or_else(|| panic!("{:?} is none of the cursors sent", session.opened.cursor));
        let get = GetRequest {
            index: "items".into(),
            ids: acknowledged.clone(),
            fields: Fields::Named(vec!["id".into()]),
            include_pending: false,
            now_us: None,
            consistency: None,
        };
        let found = processes[0].client().get(get).await.unwrap().documents;
        assert_eq!(found.iter().map(|hit| hit.id).collect::<Vec<_>>(), acknowledged);
        if let [a, b] = &processes[..] {
            let (a, b) = in_step(a, b).await;
            assert_eq!(a.state_hash, b.state_hash);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_is_told_to_go_hands_over() {
    let folder = Folder::new();
    let mut leaving = folder.start_with(&["--drain-seconds=1"]);
    let staying = folder.start();
    load(&folder, &[&leaving]).await;
    ready(&leaving).await;
    ready(&staying).await;
    let schema = folder.schema();
    let client = ingest(&[&staying, &leaving]);
    let mut session = open(&client, &schema, "postgres").await;
    batch(&mut session, 1, vec![upsert(&schema, 8_000, "before")]).await;

    let searches = Load::start(&[&leaving, &staying]);
    searches.go_on().await;
    leaving.signal(Signal::TERM);
    let error = session.recv().await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    // It no longer counts as ready, hands over, and still answers.
    assert_eq!(leaving.get("/readyz").await.0, 503);
    assert_eq!(leaving.get("/healthz").await.0, 200);
    let told = crate::process::http().get(format!("http://{}/healthz", leaving.http)).send().await.unwrap();
    assert_eq!(told.headers()["connection"], "close", "callers are told to leave");
    promoted(&staying).await;
    let mut session = eventually("a session on the new writer", || async {
        client.session(crate::feed::session_open(&schema, "postgres")).await.ok()
    })
    .await;
    assert_eq!(session.opened.cursor, cursor(2));
    batch(&mut session, 2, vec![upsert(&schema, 8_001, "after")]).await;
    searches.go_on().await;
    let status = leaving.ended().await;
    assert_eq!(status.code(), Some(0), "{}", leaving.log());
    searches.go_on().await;
    let answered = searches.answered.load(Ordering::Relaxed);
    let (failed, retries) = searches.stop().await;
    assert!(failed.is_empty(), "{failed:?}");
    assert!(retries <= 30, "{retries} of {answered} searches tried the process that has gone");
    let answer = staying.post("/v1/get", r#"{"index": "items", "ids": [8000, 8001], "fields": ["name"]}"#).await.1;
    assert_eq!(answer["documents"].as_array().unwrap().len(), 2, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sigint_ends_a_process_that_has_nothing_to_do() {
    let folder = Folder::new();
    let mut process = folder.start();
    process.signal(Signal::INT);
    assert_eq!(process.ended().await.code(), Some(0), "{}", process.log());
}

/// A file that cannot grow stands for a disk that fails in the midst of a write.
#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_cannot_write_acknowledges_nothing_more_and_ends() {
    let folder = Folder::new();
    {
        let writer = folder.start();
        load(&folder, &[&writer]).await;
    }
    let serve = folder.command();
    let mut limited = std::process::Command::new("sh");
    // Half a mebibyte a file; the signal that would kill the process is ignored, so that writes fail instead.
    limited.args(["-c", "trap '' XFSZ; ulimit -f 1024; exec \"$@\"", "sh"]).arg(serve.get_program());
    limited.args(serve.get_args()).arg("--drain-seconds=0");
    let mut writer = Process::start(limited);
    ready(&writer).await;
    let schema = folder.schema();
    let client = ingest(&[&writer]);
    let mut session = open(&client, &schema, "postgres").await;
    let mut next = 1;
    let name = "x".repeat(50_000);
    let end = loop {
        assert!(next < 1_000, "the limit has no effect");
        let id = 30_000 + u32::try_from(next).unwrap();
        match session.deliver(vec![upsert(&schema, id, &name)], commit(next)).await {
            Ok(Outcome::Acked(_)) => next += 1,
            Ok(Outcome::Refused(refused)) => panic!("{refused:?}"),
            Err(error) => break error,
        }
    };
    assert!(matches!(end, Error::Unavailable { .. }), "{end:?}");
    assert!(next > 1, "something was written first");
    assert_eq!(writer.ended().await.code(), Some(1), "{}", writer.log());
    assert!(writer.log().contains("File too large"), "{}", writer.log());

    let writer = folder.start();
    ready(&writer).await;
    let mut session = open(&ingest(&[&writer]), &schema, "postgres").await;
    let kept = (next..=next + 1).find(|n| cursor(*n) == session.opened.cursor);
    let kept = kept.expect("everything that was acknowledged, and at most the batch that was not");
    batch(&mut session, kept, Vec::new()).await;
    let client = writer.client().with_deadline(Duration::from_secs(10));
    assert_eq!(client.describe("items").await.unwrap().documents, u64::from(crate::feed::LOADED) + kept - 1);
}
