//! Every process is replaced in turn, by SIGTERM and by `kill -9`, under searches and steady ingestion: no search fails,
//! and nothing acknowledged is missing.

use std::{
    collections::BTreeMap,
    net::TcpListener,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bitdex_proto::{
    client::{Client, IngestClient, Outcome},
    ops::Op,
    query::SearchRequest,
};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use rustix::process::Signal;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::{
    alone,
    feed::{commit, expected, first_load, folder, get, number, ready, session_open, to_wire},
    long,
    model::{Model, Random, mark},
    process::{Folder, Process, eventually},
    random, report,
};

const RANDOM: Random = Random { documents: 400, posts: 40, upheaval: false };
const SLOW: Duration = Duration::from_millis(50);

/// Three processes run, each on one of four addresses, so that a new one is ready before an old one goes.
fn addresses() -> Vec<String> {
    let free: Vec<TcpListener> = (0..4).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    free.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect()
}

fn start(folder: &Folder, address: &str) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bitdex-query"));
    command.arg("serve").arg("--definition").arg(folder.definition()).arg("--data").arg(folder.data());
    command.arg(format!("--grpc-listen={address}")).args(["--http-listen=127.0.0.1:0", "--log-format=json"]);
    command.args(["--drain-seconds=1", "--flush-seconds=1", "--unflushed-mb=1"]);
    Process::start(command)
}

/// What searches met.
#[derive(Debug, Default)]
struct Met {
    latencies: Vec<Duration>,
    failed: Vec<String>,
}

/// So many searches a second, whether or not those before have been answered.
async fn searches(client: Client, a_second: u32, met: Arc<Mutex<Met>>, stop: Arc<AtomicBool>) {
    let mut pace = interval(Duration::from_secs(1) / a_second);
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut under_way = tokio::task::JoinSet::new();
    while !stop.load(Ordering::Relaxed) {
        pace.tick().await;
        let (client, met) = (client.clone(), Arc::clone(&met));
        under_way.spawn(async move {
            let start = Instant::now();
            let answer = client.search(SearchRequest { limit: 10, ..SearchRequest::new("things") }).await;
            let mut met = met.lock().unwrap();
            met.latencies.push(start.elapsed());
            if let Err(error) = answer {
                met.failed.push(format!("{error:?}"));
            }
        });
        while under_way.try_join_next().is_some() {}
    }
    under_way.join_all().await;
}

/// What the feed knows.
#[derive(Debug)]
struct Fed {
    /// By number of the batch.
    models: BTreeMap<u64, Model>,
    acknowledged: u64,
    /// When the writer was told to go, or died.
    gone: Option<Instant>,
    promotions: Vec<Duration>,
}

/// Small batches, one after the other, on whichever process is the writer.
async fn feed(addresses: Vec<String>, fed: Arc<Mutex<Fed>>, mut rng: ChaCha8Rng, stop: Arc<AtomicBool>) {
    let client = IngestClient::new(addresses).unwrap();
    let schema = crate::model::schema();
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut session) = client.session(session_open(&schema, "postgres")).await else {
            sleep(Duration::from_millis(2)).await;
            continue;
        };
        let mut at = number(&session.opened.cursor).unwrap();
        {
            let fed = fed.lock().unwrap();
            assert!(at >= fed.acknowledged, "{at} is before {}, which was acknowledged", fed.acknowledged);
            assert!(fed.models.contains_key(&at), "{at} was never sent");
        }
        while !stop.load(Ordering::Relaxed) {
            let mut model = fed.lock().unwrap().models[&at].clone();
            let mut ops: Vec<Op> = (0..20).map(|_| RANDOM.op(&mut rng, &schema)).collect();
            ops.push(mark(at + 1));
            ops.iter().for_each(|op| model.apply(op));
            fed.lock().unwrap().models.insert(at + 1, model);
            match session.deliver(to_wire(&schema, &ops), commit(at, at + 1)).await {
                Ok(Outcome::Acked(_)) => {
                    at += 1;
                    let mut fed = fed.lock().unwrap();
                    fed.acknowledged = at;
                    if let Some(gone) = fed.gone.take() {
                        fed.promotions.push(gone.elapsed());
                    }
                }
                // It may have been taken all the same: the next session tells.
                Ok(Outcome::Refused(refused)) => assert!(refused.retry, "{refused:?}"),
                Err(_) => break,
            }
            sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_search_fails_while_all_processes_are_replaced() {
    let _alone = alone().await;
    let mut rng = random("roll");
    let (rolls, a_second) = if long() { (20, 1_000) } else { (6, 200) };
    let folder = folder();
    let mut free = addresses();
    let all = free.clone();
    let mut processes: Vec<Process> = (0..3).map(|_| start(&folder, &free.remove(0))).collect();
    let mut model = Model::new();
    model.apply(&mark(2));
    first_load(&processes.iter().collect::<Vec<_>>(), &model).await;
    for process in &processes {
        ready(process).await;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let met = Arc::new(Mutex::new(Met::default()));
    let fed =
        Arc::new(Mutex::new(Fed { models: [(2, model)].into(), acknowledged: 2, gone: None, promotions: Vec::new() }));
    let client = Client::connect(all.clone()).unwrap();
    let feeding = tokio::spawn(feed(all, Arc::clone(&fed), ChaCha8Rng::from_rng(&mut rng), Arc::clone(&stop)));
    let searching = tokio::spawn(searches(client.clone(), a_second, Arc::clone(&met), Arc::clone(&stop)));

    for roll in 0..rolls {
        let new = start(&folder, &free.remove(0));
        ready(&new).await;
        let mut old = processes.remove(0);
        processes.push(new);
        let writes = old.client().describe("things").await.unwrap().role == "writer";
        let before = fed.lock().unwrap().acknowledged;
        if writes {
            fed.lock().unwrap().gone = Some(Instant::now());
        }
        if roll % 2 == 0 {
            old.signal(Signal::TERM);
            assert_eq!(old.ended().await.code(), Some(0), "{}", old.log());
        } else {
            old.kill();
        }
        free.push(old.grpc.clone());
        eventually("ingestion to go on", || async { (fed.lock().unwrap().acknowledged > before + 3).then_some(()) })
            .await;
        assert!(!feeding.is_finished(), "the feed failed");
    }
    stop.store(true, Ordering::Relaxed);
    searching.await.unwrap();
    feeding.await.unwrap();

    let (model, mut promotions) = {
        let fed = fed.lock().unwrap();
        (fed.models[&fed.acknowledged].clone(), fed.promotions.clone())
    };
    let ids: Vec<u32> = std::iter::once(crate::model::MARKER).chain(RANDOM.ids()).collect();
    let wanted = expected(&model, ids.iter().copied());
    for process in &processes {
        eventually("every batch", || async {
            let (found, _) = get(&process.client(), &model.schema, ids.clone()).await.ok()?;
            (found == wanted).then_some(())
        })
        .await;
    }
    let mut met = std::mem::take(&mut *met.lock().unwrap());
    met.latencies.sort_unstable();
    promotions.sort_unstable();
    let slow = met.latencies.iter().filter(|latency| **latency > SLOW).count();
    report(&format!(
        "{rolls} processes replaced: {} searches, {} failed, {slow} slower than {SLOW:?}, the slowest {:?}, {} retries; \
         from the writer's end to the next acknowledgement: {promotions:?}",
        met.latencies.len(),
        met.failed.len(),
        met.latencies.last(),
        client.retries()
    ));
    assert_eq!(met.failed, Vec::<String>::new());
}
