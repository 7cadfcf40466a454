//! Every process is replaced in turn, by SIGTERM and by `kill -9`, under searches and steady ingestion: no search fails,
//! and nothing acknowledged is missing. The same between a release and the one before, forth and back.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::TcpListener,
    path::PathBuf,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU16, Ordering},
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
use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval, sleep},
};

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

/// Three processes run, each on one of four addresses, so that a new one is ready before an old one goes. Nobody has an
/// address between two of them, so none has a port that the system may give to a connection meanwhile: by default these
/// begin at 32768.
fn addresses() -> Vec<String> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + (std::process::id() % 2_000) as u16 * 8;
    let addresses = (0..1_000).map(|_| format!("127.0.0.1:{}", first + NEXT.fetch_add(1, Ordering::Relaxed)));
    let free: Vec<String> = addresses.filter(|address| TcpListener::bind(address).is_ok()).take(4).collect();
    assert_eq!(free.len(), 4, "no ports are free from {first} on");
    free
}

/// Options that make a process act as a release.
type Release = &'static [&'static str];
const NEW: Release = &["--newest-format=5"];
/// The release before.
const OLD: Release = &["--newest-format=4"];

fn start(folder: &Folder, address: &str, release: Release) -> Process {
    Process::start(serve(folder, address, release))
}

fn serve(folder: &Folder, address: &str, release: Release) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bitdex-query"));
    command.arg("serve").arg("--definition").arg(folder.definition()).arg("--data").arg(folder.data());
    command.arg(format!("--grpc-listen={address}")).args(["--http-listen=127.0.0.1:0", "--log-format=json"]);
    command.args(["--drain-seconds=1", "--flush-seconds=1", "--unflushed-mb=1"]).args(release);
    command
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
    /// As of the last batch that is known to be durable.
    model: Model,
    acknowledged: u64,
    /// The batch behind that: whether it became durable, the next session tells.
    sent: Vec<Op>,
    /// When the writer was told to go, or died.
    gone: Option<Instant>,
    promotions: Vec<Duration>,
}

impl Fed {
    /// All batches up to this one are.
    fn durable(&mut self, at: u64) {
        let sent = std::mem::take(&mut self.sent);
        let known = self.acknowledged;
        assert!(at == known || at == known + 1 && !sent.is_empty(), "{at} is durable, and {known} was acknowledged");
        if at > known {
            sent.iter().for_each(|op| self.model.apply(op));
            self.acknowledged = at;
        }
    }
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
        fed.lock().unwrap().durable(at);
        while !stop.load(Ordering::Relaxed) {
            let mut ops: Vec<Op> = (0..20).map(|_| RANDOM.op(&mut rng, &schema)).collect();
            ops.push(mark(at + 1));
            let batch = to_wire(&schema, &ops);
            fed.lock().unwrap().sent = ops;
            match session.deliver(batch, commit(at, at + 1)).await {
                Ok(Outcome::Acked(_)) => {
                    at += 1;
                    let mut fed = fed.lock().unwrap();
                    fed.durable(at);
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

/// Three processes under searches and ingestion.
struct Fleet {
    folder: Folder,
    /// Addresses that no process has.
    free: Vec<String>,
    /// In the order in which they were started.
    processes: Vec<Process>,
    releases: Vec<Release>,
    met: Arc<Mutex<Met>>,
    fed: Arc<Mutex<Fed>>,
    client: Client,
    started: Instant,
    stop: Arc<AtomicBool>,
    searching: JoinHandle<()>,
    feeding: JoinHandle<()>,
}

impl Fleet {
    async fn start(release: Release, a_second: u32, rng: &mut ChaCha8Rng) -> Self {
        let folder = folder();
        let mut free = addresses();
        let all = free.clone();
        let processes: Vec<Process> = (0..3).map(|_| start(&folder, &free.remove(0), release)).collect();
        let mut model = Model::new();
        model.apply(&mark(2));
        first_load(&processes.iter().collect::<Vec<_>>(), &model).await;
        for process in &processes {
            ready(process).await;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let met = Arc::new(Mutex::new(Met::default()));
        let fed = Fed { model, acknowledged: 2, sent: Vec::new(), gone: None, promotions: Vec::new() };
        let fed = Arc::new(Mutex::new(fed));
        let client = Client::connect(all.clone()).unwrap();
        let feeding = tokio::spawn(feed(all, Arc::clone(&fed), ChaCha8Rng::from_rng(rng), Arc::clone(&stop)));
        let started = Instant::now();
        let searching = tokio::spawn(searches(client.clone(), a_second, Arc::clone(&met), Arc::clone(&stop)));
        Self {
            folder,
            free,
            processes,
            releases: vec![release; 3],
            met,
            fed,
            client,
            started,
            stop,
            searching,
            feeding,
        }
    }

    /// Starts a process, and ends the one that has run longest, once the new one is ready.
    async fn replace(&mut self, release: Release, gracefully: bool) {
        let new = start(&self.folder, &self.free.remove(0), release);
        ready(&new).await;
        let mut old = self.processes.remove(0);
        self.processes.push(new);
        self.releases.rotate_left(1);
        self.releases[2] = release;
        if is_writer(&old).await {
            self.fed.lock().unwrap().gone = Some(Instant::now());
        }
        if gracefully {
            old.signal(Signal::TERM);
            assert_eq!(old.ended().await.code(), Some(0), "{}", old.log());
        } else {
            old.kill();
        }
        self.free.push(old.grpc.clone());
        self.goes_on().await;
    }

    /// The release of the writer, and the others'.
    async fn roles(&self) -> (Release, Vec<Release>) {
        loop {
            for (at, process) in self.processes.iter().enumerate() {
                if is_writer(process).await {
                    let mut others = self.releases.clone();
                    return (others.remove(at), others);
                }
            }
        }
    }

    /// Waits for acknowledgements.
    async fn goes_on(&self) {
        let acknowledged = || self.fed.lock().unwrap().acknowledged;
        let before = acknowledged();
        eventually("ingestion to go on", || async { (acknowledged() > before + 3).then_some(()) }).await;
        assert!(!self.feeding.is_finished(), "the feed failed");
    }

    /// Stops searches and ingestion; every process has all that was acknowledged, and no search failed.
    async fn finish(self) -> Folder {
        self.stop.store(true, Ordering::Relaxed);
        let asked_for = self.started.elapsed();
        self.searching.await.unwrap();
        self.feeding.await.unwrap();
        let (model, mut promotions) = {
            let fed = self.fed.lock().unwrap();
            (fed.model.clone(), fed.promotions.clone())
        };
        let ids: Vec<u32> = std::iter::once(crate::model::MARKER).chain(RANDOM.ids()).collect();
        let wanted = expected(&model, ids.iter().copied());
        for process in &self.processes {
            eventually("every batch", || async {
                let (found, _) = get(&process.client(), &model.schema, ids.clone()).await.ok()?;
                (found == wanted).then_some(())
            })
            .await;
        }
        // Ids lie as far apart as they can, and there are few of them.
        let heaps: Vec<u64> = self.processes.iter().map(heap_kib).collect();
        assert!(heaps.iter().all(|kib| *kib < 200 << 10), "{heaps:?} KiB");
        let mut met = std::mem::take(&mut *self.met.lock().unwrap());
        met.latencies.sort_unstable();
        promotions.sort_unstable();
        let slow = met.latencies.iter().filter(|latency| **latency > SLOW).count();
        report(&format!(
            "{} searches at {:.0}/s, {} failed, {slow} slower than {SLOW:?}, the slowest {:?}, {} retries; from the \
             writer's end to the next acknowledgement: {promotions:?}",
            met.latencies.len(),
            met.latencies.len() as f64 / asked_for.as_secs_f64(),
            met.failed.len(),
            met.latencies.last(),
            self.client.retries()
        ));
        assert_eq!(met.failed, Vec::<String>::new());
        self.folder
    }
}

/// Memory that no file stands behind.
fn heap_kib(process: &Process) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid().as_raw_nonzero())).unwrap();
    let kib = status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.strip_suffix("kB"));
    kib.unwrap().trim().parse().unwrap()
}

async fn is_writer(process: &Process) -> bool {
    process.client().describe("things").await.is_ok_and(|described| described.role == "writer")
}

#[tokio::test(flavor = "multi_thread")]
async fn no_search_fails_while_all_processes_are_replaced() {
    let _alone = alone().await;
    let mut rng = random("roll");
    let (rolls, a_second) = if long() { (20, 1_000) } else { (6, 200) };
    let mut fleet = Fleet::start(NEW, a_second, &mut rng).await;
    for roll in 0..rolls {
        fleet.replace(NEW, roll % 2 == 0).await;
    }
    fleet.finish().await;
}

/// The format that the manifest states.
fn format(folder: &Folder) -> u32 {
    let text = fs::read_to_string(folder.data().join("MANIFEST")).unwrap();
    text.lines().next().unwrap().strip_prefix("bitdex manifest ").unwrap().parse().unwrap()
}

/// The formats of all files that bear one; a file may go meanwhile.
fn formats(folder: &Folder) -> BTreeSet<u32> {
    let read = |path| fs::read(path).ok().map(|bytes| u32::from_le_bytes(bytes[8..12].try_into().unwrap()));
    folder.files(".pack").into_iter().filter_map(read).collect()
}

/// The newest checkpoint's file.
fn checkpoint(folder: &Folder) -> Option<PathBuf> {
    folder.files(".pack").into_iter().rfind(|path| path.to_string_lossy().contains("checkpoint-"))
}

/// `bitdex-query` with this command on the folder: whether it succeeds, and what it says.
async fn tool(folder: &Folder, command: &str, options: &[&str]) -> (bool, String) {
    let mut tool = Command::new(env!("CARGO_BIN_EXE_bitdex-query"));
    tool.arg(command).arg("--data").arg(folder.data()).args(options);
    let output = tokio::task::spawn_blocking(move || tool.output().unwrap()).await.unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    (output.status.success(), said)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_releases_serve_one_folder_until_its_format_is_raised() {
    let _alone = alone().await;
    let mut rng = random("roll between releases");
    let (rounds, a_second) = if long() { (4, 1_000) } else { (1, 200) };
    let mut fleet = Fleet::start(OLD, a_second, &mut rng).await;
    // Forth, back, and in mixed company.
    let releases = [NEW, NEW, NEW, OLD, OLD, OLD, NEW, OLD, NEW].repeat(rounds);
    let mut flushed = BTreeMap::new();
    for (roll, release) in releases.into_iter().enumerate() {
        fleet.replace(release, roll % 2 == 0).await;
        let before = checkpoint(&fleet.folder);
        eventually("a flush", || async { (checkpoint(&fleet.folder) > before).then_some(()) }).await;
        *flushed.entry(fleet.roles().await.0).or_insert(0) += 1;
        assert_eq!((format(&fleet.folder), formats(&fleet.folder)), (4, [4].into()));
    }
    assert!(flushed.contains_key(OLD) && flushed.contains_key(NEW), "{flushed:?}");
    report(&format!("flushes awaited, by options of the writer: {flushed:?}"));

    // The release before cannot raise it, and is left alone.
    while fleet.roles().await.0 != OLD {
        fleet.replace(OLD, true).await;
    }
    let (raised, said) = tool(&fleet.folder, "raise-format", &["--patience-seconds=1"]).await;
    assert!(!raised && said.contains("replace every pod by this release first"), "{said}");
    assert_eq!(format(&fleet.folder), 4);

    // Raised too early, it is not served by the release before any more: that one says why, and is replaced.
    for release in [NEW, OLD].into_iter().cycle() {
        if matches!(fleet.roles().await, (writer, others) if writer == NEW && others.contains(&OLD)) {
            break;
        }
        fleet.replace(release, true).await;
    }
    let (raised, said) = tool(&fleet.folder, "raise-format", &[]).await;
    assert!(raised && said.contains("from 4 to 5"), "{said}");
    assert_eq!(format(&fleet.folder), 5);
    let told =
        |text: &str| text.contains("MANIFEST has format 5, this process reads 3 to 4: run the release that wrote it");
    let left = &fleet.processes[fleet.releases.iter().position(|release| *release == OLD).unwrap()];
    eventually("the release before to say that it cannot go on", || async {
        let (status, text) = left.get("/readyz").await;
        (status == 503 && told(&text)).then_some(())
    })
    .await;
    assert!(left.client().search(SearchRequest::new("things")).await.is_ok(), "it answers as before");
    fleet.goes_on().await;
    let refused = serve(&fleet.folder, &fleet.free[0], OLD).output().unwrap();
    assert_eq!(refused.status.code(), Some(64));
    assert!(told(&String::from_utf8(refused.stderr).unwrap()));

    // It may get the lock all the same: it gives it up again.
    for gracefully in [false, true, true] {
        fleet.replace(NEW, gracefully).await;
    }
    eventually("files of the new format", || async { (formats(&fleet.folder) == [5].into()).then_some(()) }).await;
    let folder = fleet.finish().await;
    let definition = format!("--definition={}", folder.definition().display());
    let (sound, said) = tool(&folder, "check", &[&definition]).await;
    assert!(sound, "{said}");
}
