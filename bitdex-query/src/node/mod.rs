//! This process's part in the index: it follows the log or writes it, publishes versions of the state, and lets callers
//! wait for one.
//!
//! One thread owns the log: it follows, and once the lock is this process's it writes. Everything else reads versions,
//! which that thread publishes only once they are durable.

mod commit;
mod keeper;
mod options;
mod session;
#[cfg(test)]
mod tests;
mod wait;
mod worker;
mod write;

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
    mpsc,
};

use arc_swap::ArcSwap;
use bitdex_proto::{Error, Result, query::Consistency, token::Token, wire};
use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::{
    sync::{Semaphore, oneshot, watch},
    time::Instant,
};

pub use options::{Ack, Health, NodeOptions, Role};
pub use session::SessionGuard;

use crate::{
    election::{LockGuard, read_address},
    log::{
        disk::{Disk, RealDisk},
        frame::MAX_PAYLOAD,
    },
    mapping::slices::step_back,
    state::{Decoded, Files, State},
    store::{Folder, manifest::Manifest},
};
use commit::Waiting;
use keeper::{Failure, Flush};
use session::Sessions;

/// A process's view of one index, and its right to write where it has it. Dropping it ends the thread that owns the log,
/// as a crash would: what was not acknowledged may be lost ([`Node::drain`] loses nothing).
#[derive(Debug)]
pub struct Node {
    shared: Arc<Shared>,
}

/// What hinders the node for now.
#[derive(Debug, Clone, Default)]
struct Problems {
    /// Why its versions grow old.
    following: Option<String>,
    /// Why it cannot write, or could not become the writer.
    writing: Option<String>,
    /// Why changes cannot be brought from memory and log into files.
    keeping: Option<String>,
    /// Why a segment cannot be brought up to date.
    compacting: Option<String>,
    /// Why a batch was refused that is as good as any: files that it has to look into are damaged.
    applying: Option<String>,
    /// What somebody did to the folder.
    folder: Option<String>,
}

/// What the log's thread and the callers share.
#[derive(Debug)]
struct Shared {
    options: NodeOptions,
    folder: Folder,
    disk: Arc<dyn Disk>,
    /// The newest version.
    current: ArcSwap<State>,
    /// The version that queries see: the newest one that was ready or, before the first, the newest.
    serving: ArcSwap<State>,
    /// Versions shown before that queries may still hold: so that none of those has to free what only an old version
    /// has.
    retired: Mutex<Vec<Arc<State>>>,
    /// Of the current version; set after it.
    sequence: watch::Sender<u64>,
    role: watch::Sender<Role>,
    epoch: AtomicU64,
    problems: Mutex<Problems>,
    /// Why this process cannot go on.
    failed: watch::Sender<Option<String>>,
    draining: AtomicBool,
    commands: mpsc::Sender<Command>,
    /// Permits are bytes, in units of [`QUEUE_UNIT`].
    queue: Arc<Semaphore>,
    sessions: Arc<Sessions>,
    /// Counts up while queries wait for what is not there yet.
    wanted: watch::Sender<u64>,
}

const QUEUE_UNIT: usize = 1 << 10;

/// What the thread that owns the log is told.
#[derive(Debug)]
enum Command {
    /// The lock is this process's.
    Locked(Result<LockGuard, crate::log::Error>),
    Submit(Box<Submission>),
    /// A group that the log's thread waits for is durable, and shown.
    Wake,
    /// What was applied since the last version shown is no part of the log; `poisoned`: nor will anything be from now on.
    Refused {
        era: u64,
        poisoned: Option<String>,
    },
    /// What is in memory has to come into files at once.
    Flush,
    /// The files of a newer manifest.
    Adopt(Arc<Files>),
    Flushed(Result<Flush, Failure>),
    /// Whether there was something to do.
    Compacted(Result<bool, Failure>),
    Built(Result<Arc<Files>, Failure>),
    Drain(oneshot::Sender<()>),
    Stop,
}

/// A record that waits to become durable.
#[derive(Debug)]
struct Submission {
    record: Decoded,
    payload: Vec<u8>,
    waiting: Waiting,
}

impl Node {
    /// Opens the data folder and, unless it is `reader_only`, stands for election. Returns once this process either is
    /// the writer or has read the log up to its durable frontier (where there is no store yet: at once).
    ///
    /// FAILED_PRECONDITION for a folder of another definition or on a network file system, DATA_LOSS for damaged files,
    /// each named.
    pub async fn open(options: NodeOptions) -> Result<Arc<Self>> {
        Self::open_on(options, Arc::new(RealDisk)).await
    }

    /// As [`Node::open`], with all changes of files going through `disk`.
    pub async fn open_on(options: NodeOptions, disk: Arc<dyn Disk>) -> Result<Arc<Self>> {
        let (shared, receiver) = Shared::new(options, disk)?;
        // Made before the thread, so that the thread ends also where this call is given up.
        let node = Arc::new(Self { shared: Arc::clone(&shared) });
        let (opened, result) = oneshot::channel();
        std::thread::Builder::new()
            .name("bitdex-log".into())
            .spawn(move || worker::run(shared, receiver, opened))
            .map_err(|error| Error::Internal(format!("cannot start the log's thread: {error}")))?;
        result.await.unwrap_or_else(|_| Err(Error::Internal("the log's thread ended while it opened".into())))?;
        Ok(node)
    }

    /// Reads what the first queries would have to read and verify, for so long at most.
    pub fn warm(&self, limit: std::time::Duration) {
        step_back(keeper::NICE);
        let started = Instant::now();
        self.current().files().warm_all(&|| started.elapsed() < limit);
    }

    /// The newest version, ready or not; never waits.
    pub fn current(&self) -> Arc<State> {
        self.shared.current.load_full()
    }

    /// The newest version that was ready, which is the one before a load while that is under way; the newest of all
    /// where there was none. Never waits.
    pub fn serving(&self) -> Arc<State> {
        self.shared.serving.load_full()
    }

    /// The newest version that was ready, once it is at `min_sequence` or later and has what `consistency` demands.
    ///
    /// UNAVAILABLE with the progress while there is none, DEADLINE_EXCEEDED where `deadline` passes first,
    /// FAILED_PRECONDITION for a token that this store cannot compare itself with.
    pub async fn wait_for(
        &self,
        consistency: Option<&Consistency>,
        min_sequence: u64,
        deadline: Instant,
    ) -> Result<Arc<State>> {
        wait::wait_for(&self.shared, consistency, min_sequence, deadline).await
    }

    pub fn role(&self) -> Role {
        *self.shared.role.borrow()
    }

    /// Waits until this process is the writer.
    pub async fn promoted(&self) {
        // The sender lives as long as `self`.
        let _ = self.shared.role.subscribe().wait_for(|role| *role == Role::Writer).await;
    }

    /// The epoch of the log that this process wrote or read last; 0 before the first.
    pub fn epoch(&self) -> u64 {
        self.shared.epoch.load(Ordering::Relaxed)
    }

    /// gRPC address of the writer, where it told one.
    pub fn writer_address(&self) -> Option<String> {
        read_address(&self.shared.folder.writer())
    }

    /// The right to write; UNAVAILABLE, with the writer's address, where this process is not the writer or drains.
    pub fn writer(&self) -> Result<WriterHandle> {
        if self.role() == Role::Writer && !self.shared.draining.load(Ordering::Acquire) {
            return Ok(WriterHandle { shared: Arc::clone(&self.shared) });
        }
        let (message, writer) = match self.role() {
            Role::Writer => ("this process is shutting down", None),
            Role::Reader => ("this process is a reader: write to the writer", self.writer_address()),
        };
        Err(Error::Unavailable { message: message.into(), writer })
    }

    /// Stops taking records, makes durable and acknowledges what was taken, writes a checkpoint where that is cheap, and
    /// gives up the lock. The process goes on as a reader that never stands again.
    pub async fn drain(&self) {
        self.shared.draining.store(true, Ordering::Release);
        let (sender, drained) = oneshot::channel();
        if self.shared.commands.send(Command::Drain(sender)).is_ok() {
            // An error means that the thread ended, and with it the lock.
            let _ = drained.await;
        }
    }

    /// Bytes of files that were unlinked, and that this process still has mapped for versions in use. `None` where the
    /// system does not tell.
    pub fn pinned_bytes(&self) -> Option<u64> {
        let root = std::fs::canonicalize(self.shared.folder.root()).ok()?;
        let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
        Some(maps.lines().filter_map(|line| mapped_bytes(line, &root)).sum())
    }

    pub fn health(&self) -> Health {
        let fatal = self.shared.failed.borrow().clone();
        let Problems { following, writing, keeping, compacting, applying, folder } =
            self.shared.problems.lock().clone();
        Health {
            role: self.role(),
            fatal: fatal.is_some(),
            stale: following.is_some(),
            problem: fatal.or(following).or(writing).or(applying).or(folder).or(keeping).or(compacting),
        }
    }

    /// Waits until the node has failed for good ([`Health::fatal`]), and says why. The process should then end with an
    /// error, so that another takes its place.
    pub async fn failed(&self) -> String {
        match self.shared.failed.subscribe().wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            // The sender lives as long as `self`.
            Err(_) => String::new(),
        }
    }

    /// Waits, on the writer, until a query of any process of the folder waits for changes that are not there yet:
    /// whoever feeds the index should then send progress at once. Goes on firing every 25 ms while one waits.
    pub async fn progress_wanted(&self) {
        // The sender lives as long as `self`.
        let _ = self.shared.wanted.subscribe().changed().await;
    }

    /// Sequence number of the newest version.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.shared.sequence.subscribe()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // An error means that the thread has ended.
        let _ = self.shared.commands.send(Command::Stop);
    }
}

impl Shared {
    fn new(options: NodeOptions, disk: Arc<dyn Disk>) -> Result<(Arc<Self>, mpsc::Receiver<Command>)> {
        let folder = Folder::open(&options.data, !options.reader_only)?;
        let (commands, receiver) = mpsc::channel();
        let state = Arc::new(State::new(Arc::clone(&options.schema)));
        let shared = Arc::new(Self {
            current: ArcSwap::new(Arc::clone(&state)),
            serving: ArcSwap::new(state),
            retired: Mutex::default(),
            queue: Arc::new(Semaphore::new((options.queue_bytes / QUEUE_UNIT).max(1))),
            options,
            folder,
            disk,
            sequence: watch::Sender::new(0),
            role: watch::Sender::new(Role::Reader),
            epoch: AtomicU64::new(0),
            problems: Mutex::default(),
            failed: watch::Sender::new(None),
            draining: AtomicBool::new(false),
            commands,
            sessions: Arc::default(),
            wanted: watch::Sender::new(0),
        });
        Ok((shared, receiver))
    }

    /// Shows a version to queries. Only for what is durable.
    fn publish(&self, state: &State) {
        let sequence = state.sequence();
        let version = Arc::new(state.clone());
        let mut retired = Vec::with_capacity(2);
        if state.readiness().ready || !self.serving.load().readiness().ready {
            retired.push(self.serving.swap(Arc::clone(&version)));
        }
        retired.push(self.current.swap(version));
        self.retired.lock().append(&mut retired);
        self.free();
        self.sequence.send_replace(sequence);
        metrics::gauge!("bitdex_sequence").set(sequence as f64);
    }

    /// Frees versions that are shown no more, and that no query holds.
    fn free(&self) {
        let mut retired = self.retired.lock();
        if !retired.is_empty() {
            retired.sort_unstable_by_key(Arc::as_ptr);
            retired.dedup_by(|one, other| Arc::ptr_eq(one, other));
            let (held, free): (Vec<_>, Vec<_>) = retired.drain(..).partition(|version| Arc::strong_count(version) > 1);
            *retired = held;
            drop(retired);
            drop(free);
        }
    }

    /// Removes files that are not needed any more. What cannot be removed stays for the next time.
    fn clean(&self, manifest: &Manifest) {
        if let Err(error) = self.folder.clean(&*self.disk, manifest) {
            tracing::warn!(%error, "cannot remove old files of the store");
        }
    }

    fn set_following(&self, problem: Option<String>) {
        self.problems.lock().following = problem;
    }

    fn set_writing(&self, problem: Option<String>) {
        self.problems.lock().writing = problem;
    }

    fn set_compacting(&self, problem: Option<String>) {
        self.problems.lock().compacting = problem;
    }

    fn set_applying(&self, problem: Option<String>) {
        self.problems.lock().applying = problem;
    }

    fn set_folder(&self, problem: Option<String>) {
        let mut problems = self.problems.lock();
        if problems.folder != problem {
            if let Some(problem) = &problem {
                tracing::error!(problem);
            }
            problems.folder = problem;
        }
    }

    fn set_keeping(&self, problem: Option<String>) {
        self.problems.lock().keeping = problem;
    }

    fn fail(&self, reason: String) {
        tracing::error!(%reason, "the node cannot go on");
        self.role.send_replace(Role::Reader);
        self.sessions.supersede_all();
        self.failed.send_replace(Some(reason));
    }
}

/// The length of a mapping, of a line of `/proc/self/maps`, where it is of an unlinked file of this folder.
fn mapped_bytes(line: &str, root: &std::path::Path) -> Option<u64> {
    let file = line.strip_suffix(" (deleted)")?;
    let path = file.find('/').and_then(|at| file.get(at..))?;
    std::path::Path::new(path).parent().filter(|parent| *parent == root)?;
    let (from, to) = line.split_once(' ')?.0.split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    number(to)?.checked_sub(number(from)?)
}

/// A token that demands `sequence` of the state's store.
fn token(state: &State, sequence: u64, postgres_cursor: Bytes) -> Bytes {
    let now_us = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(i64::MAX));
    Token { store: state.store().into(), generation: state.generation(), sequence, postgres_cursor, now_us }.to_bytes()
}

/// The right to write, while this process is the writer. Cheap to clone.
#[derive(Debug, Clone)]
pub struct WriterHandle {
    shared: Arc<Shared>,
}

impl WriterHandle {
    /// Checks the record, appends it, waits until it is durable and visible here.
    ///
    /// INVALID_ARGUMENT where it does not decode against the schema, FAILED_PRECONDITION where a batch's previous cursor
    /// is not the durable one, RESOURCE_EXHAUSTED where the disk is full, UNAVAILABLE where this process stopped being
    /// the writer. After the latter two the record may turn out to be kept after a change of writers; its source's
    /// cursor then tells.
    pub async fn submit(&self, record: wire::Record) -> Result<Ack> {
        let bytes = record.encoded_len();
        if bytes > MAX_PAYLOAD {
            return Err(Error::Exhausted(format!(
                "a record of {bytes} bytes is above the limit of {MAX_PAYLOAD}: send smaller batches"
            )));
        }
        let room = (bytes / QUEUE_UNIT + 1).min((self.shared.options.queue_bytes / QUEUE_UNIT).max(1));
        let permit = Arc::clone(&self.shared.queue)
            .acquire_many_owned(u32::try_from(room).unwrap_or(u32::MAX))
            .await
            .map_err(|_| ended())?;
        if self.shared.draining.load(Ordering::Acquire) {
            return Err(Error::unavailable("this process is shutting down"));
        }
        // Only now: what waits for room is held once, not encoded and decoded besides.
        let payload = record.encode_to_vec();
        let record = Decoded::new(&self.shared.options.schema, record)?;
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting { answer, since: std::time::Instant::now(), _permit: permit };
        let submission = Submission { record, payload, waiting };
        self.shared.commands.send(Command::Submit(Box::new(submission))).map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }

    /// Bytes of records that may wait to become durable; past it [`Self::submit`] waits.
    pub fn queue_bytes(&self) -> usize {
        self.shared.options.queue_bytes
    }

    /// Waits for the turn to feed `source`: one session a source is active.
    pub async fn session(&self, source: &str) -> SessionGuard {
        self.shared.sessions.enter(source).await
    }

    /// Ends the active session of `source` (a load begins).
    pub fn supersede(&self, source: &str) {
        self.shared.sessions.supersede(source);
    }
}

fn ended() -> Error {
    Error::unavailable("this process is no longer the writer")
}
