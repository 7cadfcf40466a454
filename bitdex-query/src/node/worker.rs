//! The thread that owns the log: it follows until the lock is this process's, takes over, and writes.

use std::{
    fs::{self, File},
    io::Read as _,
    mem,
    ops::ControlFlow,
    os::unix::fs::MetadataExt as _,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError, sync_channel},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use bitdex_proto::{Result as WireResult, schema::Schema, wire};
use tokio::sync::oneshot;
use wire::record::Kind;

use super::{
    Command, Role, Shared, keeper,
    write::{Writing, write_genesis},
};
use crate::{
    election::{self, LockGuard, publish_address},
    log::{
        Cause, Error, Result,
        disk::publish,
        reader::{Apply, Followed, LogEnd, LogReader},
        segment::{SegmentEnd, segment_path},
        writer::{LogOptions, LogWriter},
    },
    mapping::{Frontier, frontier, slices::step_back},
    state::{Decoded, Files, State, Unsettled},
    store::{
        format,
        manifest::{Manifest, Prepared},
    },
};

/// How often a follower looks at the frontier.
const POLL: Duration = Duration::from_millis(1);
/// How long a follower that cannot go on waits before it tries from the manifest again.
const RETRY: Duration = Duration::from_secs(1);
/// How often a follower looks whether there is a newer manifest.
const LOOK: Duration = Duration::from_millis(20);
/// While much is replayed, a version is published this often, once the node is open.
const PUBLISH: Duration = Duration::from_millis(20);
/// From so many records on, they are decoded by a thread of their own.
const MANY: u64 = 64;
/// How much the log's thread steps back for those that answer queries.
const NICE: i32 = 10;
/// Records that wait, decoded.
const DECODED: usize = 16;
/// How often a manifest whose files are gone is read again before that counts as damage.
const REOPEN: usize = 10;
const RANDOM: &str = "/dev/urandom";

pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) commands: Receiver<Command>,
    /// The state at `follower`'s position or, on the writer, at the log's end. Never ahead of the frontier while
    /// following.
    pub(super) state: State,
    /// Sequence numbers at which loads began, as far as no checkpoint seen has taken them in.
    pub(super) began: Vec<u64>,
    follower: Option<Follower>,
    seen: Seen,
    /// Nobody sees versions before the log is read up to its frontier once.
    opening: bool,
    warming: Option<Warming>,
    /// The epoch known when this process last failed to become the writer; `None` once there was a writer again.
    not_promoted: Option<u64>,
}

#[derive(Debug)]
struct Follower {
    reader: LogReader,
    frontier: Arc<Frontier>,
}

/// Files of a newer manifest, before queries look into them.
#[derive(Debug)]
struct Warming {
    files: Arc<Files>,
    /// Of the manifest.
    file: Option<(u64, SystemTime)>,
    thread: thread::JoinHandle<()>,
}

/// The manifest that the state's files are of: its file, and when that was looked at last.
#[derive(Debug, Default)]
struct Seen {
    file: Option<(u64, SystemTime)>,
    looked: Option<Instant>,
    /// Since when this follower is behind the frontier.
    behind: Option<Instant>,
}

pub(super) fn run(shared: Arc<Shared>, commands: Receiver<Command>, opened: oneshot::Sender<WireResult<()>>) {
    // On Linux these are of the thread, and of those that it starts: what answers goes before what changes. Where they
    // are refused, it is only ruder.
    step_back(NICE);
    let mut worker = Worker::new(Arc::clone(&shared), commands);
    let unwinding = FailOnUnwind(&shared);
    match worker.start() {
        Ok(writing) => {
            // An error means that the caller gave up; the node's drop has sent `Stop`.
            let _ = opened.send(Ok(()));
            if let Err(error) = worker.serve(writing) {
                shared.fail(error.to_string());
            }
        }
        Err(error) => {
            let _ = opened.send(Err(error.into()));
        }
    }
    mem::forget(unwinding);
}

/// Says so where the thread ends by a panic.
struct FailOnUnwind<'a>(&'a Shared);

impl Drop for FailOnUnwind<'_> {
    fn drop(&mut self) {
        self.0.fail("the thread that owns the log ended by a fault of ours (see its panic message)".into());
    }
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, commands: Receiver<Command>) -> Self {
        let state = State::clone(&shared.current.load());
        Self {
            shared,
            commands,
            state,
            began: Vec::new(),
            follower: None,
            seen: Seen::default(),
            opening: true,
            warming: None,
            not_promoted: None,
        }
    }

    /// Becomes the writer if the lock is free, else reads up to the frontier.
    fn start(&mut self) -> Result<Option<Writing>> {
        if !self.shared.options.reader_only
            && let Some(lock) = election::try_lock(&self.shared.folder.lock())?
        {
            match self.take_over(lock) {
                // It can still serve queries; there may be room later.
                Err(error) if error.is_refusal() => self.stay_follower(&error),
                result => return result.map(Some),
            }
        } else if !self.shared.options.reader_only {
            self.stand(Duration::ZERO);
        }
        self.follow()?;
        Ok(None)
    }

    /// Until the node is stopped.
    fn serve(&mut self, mut writing: Option<Writing>) -> Result<()> {
        loop {
            if let Some(writing) = writing.take() {
                match writing.run(self)? {
                    ControlFlow::Break(()) => return Ok(()),
                    ControlFlow::Continue(end) => self.resume_following(end)?,
                }
            }
            match self.follow_until_locked()? {
                ControlFlow::Break(()) => return Ok(()),
                ControlFlow::Continue(lock) => match self.take_over(lock) {
                    Ok(taken) => writing = Some(taken),
                    Err(error) if matches!(error.cause(), Cause::Foreign(_)) => return Err(error),
                    // Were this the end, each process in turn would end for the same cause, and none would be left to
                    // answer queries.
                    Err(error) => self.stay_follower(&error),
                },
            }
        }
    }

    /// After a promotion that failed, which has given up the lock: goes on from what is published, and tries again
    /// later, with new files.
    fn stay_follower(&mut self, error: &Error) {
        tracing::error!(%error, "cannot become the writer; will try again");
        self.shared.set_writing(Some(format!("this process cannot become the writer: {error}")));
        self.not_promoted = Some(self.shared.epoch.load(Ordering::Relaxed));
        // It may hold what is not durable.
        self.state = State::clone(&self.shared.current.load());
        self.follower = None;
        self.stand(RETRY);
    }

    /// Waits for the lock, blocked, in a thread of its own.
    fn stand(&self, delay: Duration) {
        let path = self.shared.folder.lock();
        let commands = self.shared.commands.clone();
        let spawned = thread::Builder::new().name("bitdex-candidate".into()).spawn(move || {
            thread::sleep(delay);
            // Where the node has ended meanwhile, the lock is given up with the message.
            let _ = commands.send(Command::Locked(election::lock(&path)));
        });
        if let Err(error) = spawned {
            self.shared.fail(format!("cannot start the thread that waits for the lock: {error}"));
        }
    }

    fn follow_until_locked(&mut self) -> Result<ControlFlow<(), LockGuard>> {
        let mut stuck = false;
        loop {
            self.shared.free();
            let wait = match self.follow() {
                Ok(()) => {
                    if mem::take(&mut stuck) {
                        self.shared.set_following(None);
                    }
                    // Another process could: what hindered this one is over, or no longer matters.
                    if self.not_promoted.is_some_and(|epoch| self.shared.epoch.load(Ordering::Relaxed) > epoch) {
                        self.not_promoted = None;
                        self.shared.set_writing(None);
                    }
                    POLL
                }
                Err(error) => {
                    let problem = format!("this process no longer follows the log: {error}");
                    if self.shared.problems.lock().following.as_ref() != Some(&problem) {
                        tracing::error!(%error, "cannot follow the log; will try again from the manifest");
                    }
                    self.shared.set_following(Some(problem));
                    stuck = true;
                    // The position is not trusted any more. A later checkpoint may lead past the damage.
                    self.follower = None;
                    RETRY
                }
            };
            match self.commands.recv_timeout(wait) {
                Ok(Command::Locked(_)) if self.shared.draining.load(Ordering::Acquire) => {}
                Ok(Command::Locked(lock)) => return lock.map(ControlFlow::Continue),
                Ok(Command::Submit(submission)) => {
                    // Came when this process had just stopped being the writer.
                    submission.waiting.answer(Err(super::ended()));
                }
                Ok(Command::Drain(done)) => {
                    let _ = done.send(());
                }
                Ok(Command::Stop) | Err(RecvTimeoutError::Disconnected) => return Ok(ControlFlow::Break(())),
                // The others tell the writer of what ended with its writing.
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Applies and publishes everything up to the durable frontier, and goes over to the newest files. Where there is no
    /// store yet, does nothing.
    pub(super) fn follow(&mut self) -> Result<()> {
        let mut tries = 0;
        loop {
            if self.follower.is_none() {
                let Some(manifest) = self.read_manifest()? else { return self.shared.folder.refuse_remains() };
                if !self.open_follower(&manifest)? {
                    tries += 1;
                    if manifest.is_new() {
                        return Ok(());
                    }
                    if tries == REOPEN {
                        return Err(self.missing_files(&manifest));
                    }
                    thread::sleep(POLL);
                    continue;
                }
            }
            let Some(follower) = &self.follower else { return Ok(()) };
            let frontier = follower.frontier.load();
            self.tell_lag(frontier);
            if frontier <= self.state.sequence() {
                self.adopt_newer()?;
                // The state may come from a checkpoint.
                show(&self.shared, &self.state);
                return Ok(());
            }
            let Some(mut follower) = self.follower.take() else { return Ok(()) };
            let behind = frontier - self.state.sequence();
            let mut replay = Replay::new(self);
            let mut published = Instant::now();
            let reader = &mut follower.reader;
            let followed = replay.run(behind, |apply| reader.follow(frontier, apply), &mut |replay| {
                if published.elapsed() >= PUBLISH {
                    // What many records change is worked out at less cost together.
                    if !replay.worker.opening {
                        replay.settle()?;
                        replay.worker.shared.publish(&replay.worker.state);
                    }
                    replay.worker.tell_lag(frontier);
                    published = Instant::now();
                }
                Ok(())
            });
            let reopen = replay.reopen;
            self.shared.epoch.store(follower.reader.epoch(), Ordering::Relaxed);
            match followed {
                Ok(followed) => {
                    show(&self.shared, &self.state);
                    if followed == Followed::UpToDate {
                        self.follower = Some(follower);
                        self.tell_lag(frontier);
                        return self.adopt_newer();
                    }
                }
                // It goes on from the manifest.
                Err(_) if reopen => {}
                Err(error) => {
                    // A record that was refused leaves the state in pieces; versions published are whole.
                    self.state = State::clone(&self.shared.current.load());
                    return Err(error);
                }
            }
        }
    }

    fn tell_lag(&mut self, frontier: u64) {
        let records = frontier.saturating_sub(self.state.sequence());
        if records == 0 {
            self.seen.behind = None;
        }
        let since = (records > 0).then(|| *self.seen.behind.get_or_insert_with(Instant::now));
        metrics::gauge!("bitdex_lag_records").set(records as f64);
        metrics::gauge!("bitdex_lag_seconds").set(since.map_or(0.0, |since| since.elapsed().as_secs_f64()));
        metrics::gauge!("bitdex_frontier").set(frontier as f64);
    }

    /// Looks through the files of the newest manifest from now on, or once a thread has made them ready for queries.
    fn adopt_newer(&mut self) -> Result<()> {
        if let Some(warming) = &self.warming {
            if !warming.thread.is_finished() {
                return Ok(());
            }
            if let Some(Warming { files, file, .. }) = self.warming.take() {
                // A `Freeze` may have led further meanwhile, or an error back.
                let fit = self.state.files().sequence()..=self.state.sequence();
                return if fit.contains(&files.sequence()) { self.show_files(files, file) } else { Ok(()) };
            }
        }
        if self.seen.looked.is_some_and(|looked| looked.elapsed() < LOOK) {
            return Ok(());
        }
        self.seen.looked = Some(Instant::now());
        let file = manifest_file(&self.shared);
        if file.is_none() || file == self.seen.file {
            return Ok(());
        }
        let Some((manifest, files)) = self.newest_files()? else { return Ok(()) };
        // Ahead of this process: the log leads there, or to a `Freeze` that asks for the manifest.
        if manifest.checkpoint.as_ref().is_some_and(|named| named.sequence > self.state.sequence()) {
            return Ok(());
        }
        let before = Arc::clone(self.state.files());
        if !files.is_cold(&before) {
            return self.show_files(files, file);
        }
        let thread = thread::Builder::new().name("bitdex-warm".into()).spawn({
            let files = Arc::clone(&files);
            move || {
                // On Linux this is of the thread. Where it is refused, it is only ruder.
                step_back(keeper::NICE);
                files.warm(&before, &|| true);
            }
        });
        let thread = thread.map_err(Error::io("start a thread for", self.shared.folder.root()))?;
        self.warming = Some(Warming { files, file, thread });
        Ok(())
    }

    fn show_files(&mut self, files: Arc<Files>, file: Option<(u64, SystemTime)>) -> Result<()> {
        self.state.adopt(files)?;
        self.seen.file = file;
        self.shared.publish(&self.state);
        Ok(())
    }

    /// The manifest and its files; again where some are gone, which means that there is a newer manifest. `None` where
    /// there is no manifest.
    fn newest_files(&self) -> Result<Option<(Manifest, Arc<Files>)>> {
        let mut tries = 0;
        loop {
            let Some(manifest) = self.read_manifest()? else { return Ok(None) };
            let Shared { folder, options, .. } = &*self.shared;
            if let Some(files) = Files::open(folder, &manifest, &options.schema, Some(self.state.files()))? {
                return Ok(Some((manifest, files)));
            }
            tries += 1;
            if tries == REOPEN {
                return Err(self.missing_files(&manifest));
            }
            thread::sleep(POLL);
        }
    }

    fn read_manifest(&self) -> Result<Option<Manifest>> {
        let path = self.shared.folder.manifest();
        let manifest = Manifest::read(&path)?;
        if let Some(manifest) = &manifest {
            format::check_up_to(&path, manifest.format, self.shared.options.newest_format)?;
            let schema = &self.shared.options.schema;
            manifest.check_definition(self.shared.folder.root(), &schema.index, &schema.hash)?;
            let store = self.state.store();
            if !store.is_empty() && store != format!("{:032x}", manifest.store) {
                return Err(Error::foreign(format!(
                    "the data folder {} now holds store {:032x}, this process serves store {store}: restart it",
                    self.shared.folder.root().display(),
                    manifest.store
                )));
            }
        }
        Ok(manifest)
    }

    /// Stands behind the newest checkpoint, or where the state already is if that is later. False where files that the
    /// manifest names are gone, which means that there is a newer manifest.
    fn open_follower(&mut self, manifest: &Manifest) -> Result<bool> {
        let folder = &self.shared.folder;
        let frontier = Arc::new(Frontier::open(&folder.frontier(), !self.shared.options.reader_only)?);
        let file = manifest_file(&self.shared);
        let Some(files) = Files::open(folder, manifest, &self.shared.options.schema, Some(self.state.files()))? else {
            return Ok(false);
        };
        if files.sequence() > self.state.sequence() {
            self.state = State::open(files)?;
            self.began.clear();
            self.seen.file = file;
        }
        let next = self.state.sequence() + 1;
        let Some(reader) = LogReader::open(folder.root(), manifest.store, manifest.first_segment, next)? else {
            return Ok(false);
        };
        self.follower = Some(Follower { reader, frontier });
        Ok(true)
    }

    /// Follows again, after having been the writer, from where this process wrote last.
    fn resume_following(&mut self, (store, end, frontier): (u128, SegmentEnd, Arc<Frontier>)) -> Result<()> {
        // Without the segment (a new writer's checkpoint may be that quick) it starts from the manifest.
        self.follower =
            LogReader::at_end(self.shared.folder.root(), store, end)?.map(|reader| Follower { reader, frontier });
        Ok(())
    }

    /// Becomes the writer: reads the log to its end, makes the epoch durable, starts a segment with what was above the
    /// last durable mark, and only then shows that.
    fn take_over(&mut self, lock: LockGuard) -> Result<Writing> {
        let started = Instant::now();
        self.warming = None;
        let manifest = match self.read_manifest()? {
            Some(manifest) => manifest,
            None => self.create_store()?,
        };
        let (end, frontier) = self.read_to_end(&manifest)?;
        // Before they are made durable: a record that cannot be applied must not be.
        for (sequence, payload) in (end.durable.last + 1..).zip(&end.tail) {
            Replay::new(self).apply_one(sequence, payload).map_err(|reason| {
                Error::record(segment_path(self.shared.folder.root(), end.durable.number), sequence, reason)
            })?;
        }
        // The files of the manifest that this process goes on from.
        let files = Files::open(&self.shared.folder, &manifest, &self.shared.options.schema, Some(self.state.files()))?;
        self.state.adopt(files.ok_or_else(|| self.missing_files(&manifest))?)?;
        let Self { shared, state, .. } = self;
        let manifest = Manifest { epoch: manifest.epoch + 1, next_sequence: end.durable.last + 1, ..manifest };
        manifest.publish(&*shared.disk, &shared.folder.manifest())?;
        let options = LogOptions {
            disk: Arc::clone(&shared.disk),
            folder: shared.folder.root().into(),
            store: manifest.store,
            epoch: manifest.epoch,
            frontier: Arc::clone(&frontier),
            segment_bytes: shared.options.segment_bytes,
        };
        let mut log = LogWriter::take_over(options, &end)?;
        shared.epoch.store(manifest.epoch, Ordering::Relaxed);
        shared.publish(state);
        shared.clean(&manifest);
        if let Some(address) = &shared.options.advertise {
            // A hint: without it others are told that there is a writer, but not where.
            if let Err(error) = publish_address(&*shared.disk, &shared.folder.writer(), manifest.epoch, address) {
                tracing::warn!(%error, "other processes cannot be told where the writer is");
            }
        }
        tracing::info!(
            epoch = manifest.epoch,
            sequence = state.sequence(),
            kept = end.tail.len(),
            torn_bytes = end.torn,
            elapsed = ?started.elapsed(),
            "became the writer"
        );
        if self.state.sequence() == 0 {
            write_genesis(self, &mut log, manifest.store)?;
        }
        let writing = Writing::new(lock, log, manifest, frontier, self)?;
        self.not_promoted = None;
        self.shared.set_following(None);
        self.shared.set_writing(None);
        self.shared.role.send_replace(Role::Writer);
        Ok(writing)
    }

    /// Applies everything that is durable. Only for the holder of the lock: nobody else changes files any more, so what
    /// is missing now is lost.
    fn read_to_end(&mut self, manifest: &Manifest) -> Result<(LogEnd, Arc<Frontier>)> {
        if let Some(follower) = &self.follower
            && follower.reader.is_removed()?
        {
            self.follower = None;
        }
        if self.follower.is_none() && !self.open_follower(manifest)? {
            let frontier = Arc::new(Frontier::open(&self.shared.folder.frontier(), true)?);
            if manifest.is_new() && frontier.load() == 0 {
                let durable = SegmentEnd { number: 0, offset: 0, last: 0 };
                return Ok((LogEnd { durable, tail: Vec::new(), torn: 0 }, frontier));
            }
            return Err(self.missing_files(manifest));
        }
        let Some(Follower { reader, frontier }) = self.follower.take() else {
            return Err(Error::foreign("the log is not open"));
        };
        let durable = manifest.durable(frontier.load());
        let behind = durable.saturating_sub(self.state.sequence());
        let mut replay = Replay::new(self);
        match replay.run(behind, |apply| reader.finish(durable, apply), &mut |_| Ok(())) {
            Ok(end) => Ok((end, frontier)),
            // From the checkpoint on, which lies behind the record that asked for it: so this happens once.
            Err(_) if replay.reopen => self.read_to_end(manifest),
            Err(error) => Err(error),
        }
    }

    /// Why a version could not be opened, although its manifest is there.
    fn missing_files(&self, manifest: &Manifest) -> Error {
        let folder = &self.shared.folder;
        let packs = manifest.packs().map(|name| folder.named(name));
        let log = segment_path(folder.root(), manifest.first_segment);
        match packs.chain([log]).find(|path| !path.exists()) {
            Some(path) => Error::damaged(path, 0, "it is not there, although MANIFEST names it"),
            None => Error::damaged(folder.manifest(), 0, "a file that it names was not there when it was opened"),
        }
    }

    fn create_store(&self) -> Result<Manifest> {
        let Shared { folder, disk, options, .. } = &*self.shared;
        folder.refuse_remains()?;
        let mut store = [0; 16];
        File::open(RANDOM).and_then(|mut file| file.read_exact(&mut store)).map_err(Error::io("read", RANDOM))?;
        publish(&**disk, &folder.frontier(), &frontier::initial())?;
        let manifest = Manifest::new(options.newest_format, u128::from_le_bytes(store), &options.schema.hash);
        manifest.publish(&**disk, &folder.manifest())?;
        Ok(manifest)
    }
}

/// Publishes what is newer than what queries see.
fn show(shared: &Shared, state: &State) {
    if state.sequence() > shared.current.load().sequence() {
        shared.publish(state);
    }
}

/// The manifest's file, as far as it tells one manifest from the next.
fn manifest_file(shared: &Shared) -> Option<(u64, SystemTime)> {
    let metadata = fs::metadata(shared.folder.manifest()).ok()?;
    Some((metadata.ino(), metadata.modified().ok()?))
}

fn decode(schema: &Schema, payload: &[u8], room: &mut Vec<wire::Op>) -> Result<Decoded, String> {
    Decoded::read(schema, payload, room).map_err(|error| error.to_string())
}

/// Applies records of the log, with the files that they need beside the state.
struct Replay<'a> {
    worker: &'a mut Worker,
    /// The manifest has a later checkpoint: go on from that.
    reopen: bool,
    unsettled: Unsettled,
}

impl<'a> Replay<'a> {
    fn new(worker: &'a mut Worker) -> Self {
        Self { worker, reopen: false, unsettled: Unsettled::default() }
    }

    /// Applies the records that `read` hands over, and calls `each` behind each of them. Afterwards the state is a version,
    /// unless there was an error.
    fn run<R: Send>(
        &mut self,
        behind: u64,
        read: impl FnOnce(Apply<'_>) -> Result<R> + Send,
        each: &mut dyn FnMut(&mut Self) -> Result<(), String>,
    ) -> Result<R> {
        let schema = Arc::clone(&self.worker.shared.options.schema);
        let mut room = Vec::new();
        let read = if behind < MANY {
            read(&mut |sequence, payload| {
                self.apply(sequence, decode(&schema, payload, &mut room)?)?;
                each(self)
            })
        } else {
            thread::scope(|scope| {
                let (sender, records) = sync_channel(DECODED);
                let reading = scope.spawn(move || {
                    read(&mut |sequence, payload| {
                        // Nobody listens once a record could not be applied, which is told there.
                        sender
                            .send((sequence, decode(&schema, payload, &mut room)?))
                            .map_err(|_| "it is not wanted".into())
                    })
                });
                let mut applied = Ok(());
                for (sequence, record) in records {
                    let done = self.apply(sequence, record).and_then(|()| each(self));
                    if let Err(reason) = done {
                        applied = Err(self.refused(sequence, reason));
                        break;
                    }
                }
                let read = reading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                applied.and(read)
            })
        };
        let read = read?;
        self.settle().map_err(|reason| self.refused(self.worker.state.sequence(), reason))?;
        Ok(read)
    }

    fn refused(&self, sequence: u64, reason: String) -> Error {
        Error::record(self.worker.shared.folder.root(), sequence, reason)
    }

    /// Works out what the records behind it left; only then is the state a version.
    fn settle(&mut self) -> Result<(), String> {
        self.worker.state.settle_all(mem::take(&mut self.unsettled)).map_err(|error| error.to_string())
    }

    fn apply_one(mut self, sequence: u64, payload: &[u8]) -> Result<(), String> {
        let record = decode(&self.worker.shared.options.schema, payload, &mut Vec::new())?;
        self.apply(sequence, record)?;
        self.settle()
    }

    fn apply(&mut self, sequence: u64, record: Decoded) -> Result<(), String> {
        match record.kind() {
            Some(Kind::Freeze(_)) if self.worker.state.frozen().is_some() => self.adopt()?,
            Some(Kind::LoadBegin(_)) => self.worker.began.push(sequence),
            Some(Kind::LoadEnd(_)) => self.prepare(sequence)?,
            _ => {}
        }
        self.worker.state.take(sequence, &record, &mut self.unsettled).map_err(|error| error.to_string())
    }

    /// The writer made the manifest that takes in the frozen layer durable before it logged this record.
    fn adopt(&mut self) -> Result<(), String> {
        let file = manifest_file(&self.worker.shared);
        let (manifest, files) = self.newest()?;
        let sequence = manifest.checkpoint.as_ref().map_or(0, |named| named.sequence);
        self.reopen_if(sequence > self.worker.state.sequence())?;
        self.worker.state.adopt(files).map_err(|error| error.to_string())?;
        self.worker.seen.file = file;
        match self.worker.state.frozen() {
            None => Ok(()),
            Some(frozen) => Err(format!(
                "it freezes what came since record {}, but the manifest's checkpoint {sequence} has not taken that in",
                frozen.sequence()
            )),
        }
    }

    /// Where the load's base was built, it is there before this record is.
    fn prepare(&mut self, sequence: u64) -> Result<(), String> {
        for _ in 0..REOPEN {
            let (manifest, files) = self.newest()?;
            let checkpoint = manifest.checkpoint.as_ref().map_or(0, |named| named.sequence);
            self.reopen_if(checkpoint >= sequence)?;
            if self.worker.state.frozen().is_some() && checkpoint <= self.worker.state.sequence() {
                // What is staged in it is part of the base.
                self.worker.state.adopt(files).map_err(|error| error.to_string())?;
            }
            let Shared { folder, options, .. } = &*self.worker.shared;
            let generation = self.worker.state.loading_generation();
            let complete = |prepared: &Prepared| prepared.complete && Some(prepared.generation) == generation;
            if !manifest.prepared.as_ref().is_some_and(complete) {
                return Ok(());
            }
            let base = Files::open_prepared(folder, &manifest, &options.schema).map_err(|error| error.to_string())?;
            if let Some(base) = base {
                self.worker.state.prepare(base);
                return Ok(());
            }
            thread::sleep(POLL);
        }
        Err("a file of the base that was built for the load is not there".into())
    }

    fn newest(&self) -> Result<(Manifest, Arc<Files>), String> {
        let newest = self.worker.newest_files().map_err(|error| error.to_string())?;
        newest.ok_or_else(|| "the manifest is not there".into())
    }

    fn reopen_if(&mut self, reopen: bool) -> Result<(), String> {
        self.reopen |= reopen;
        if reopen { Err("it is in a checkpoint".into()) } else { Ok(()) }
    }
}
