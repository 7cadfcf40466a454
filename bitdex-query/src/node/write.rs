//! Being the writer: applies records to a private version, hands them on in groups to be made durable ([`commit`]), and
//! says when changes go into files ([`keeper`]).
//!
//! A record that cannot be applied never reaches the log. What is in memory but not in files is bounded: past that,
//! records wait until a flush has made room, or are refused where the flush fails.
//!
//! [`commit`]: super::commit
//! [`keeper`]: super::keeper

use std::{
    collections::VecDeque,
    fs, mem,
    ops::ControlFlow,
    sync::{Arc, mpsc::RecvTimeoutError},
    time::{Duration, Instant, SystemTime},
};

use bitdex_proto::{Error as WireError, Result as WireResult, wire};
use prost::Message as _;
use wire::record::Kind;

use super::{
    Command, Role, Shared, Submission,
    commit::{Committer, Group, Waiting},
    keeper::{Failure, Flush, Job, Keeper},
    worker::Worker,
};
use crate::{
    election::LockGuard,
    log::{
        Cause, Error, Result,
        segment::{SegmentEnd, segment_path},
        writer::LogWriter,
    },
    mapping::Frontier,
    state::{Decoded, Files, State, Unsettled},
    store::{
        manifest::Manifest,
        policy::{Decision, Ingestion, Situation, decide, gives_way},
    },
};

/// Records are applied in groups of about this many bytes.
const GROUP_BYTES: usize = 1 << 20;
/// How often the writer looks whether a query of another process waits for changes, and whether a flush is due.
pub(super) const TICK: Duration = Duration::from_millis(20);
/// A flush that is expected to write no more than this is done at a drain.
const CHEAP_BYTES: u64 = 8 << 20;
/// And to take no longer: ingestion waits for it.
const CHEAP_TIME: Duration = Duration::from_millis(50);
/// After a failure in the background, before it is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// The same for a compaction, which may write gigabytes until it fails again.
const COMPACT_AGAIN: Duration = Duration::from_secs(10);

/// The position from which a former writer follows.
pub(super) type Left = (u128, SegmentEnd, Arc<Frontier>);

#[derive(Debug)]
pub(super) struct Writing {
    // The threads come before the lock, so that they have ended when it is given up.
    committer: Committer,
    flush: Option<Job>,
    compaction: Option<Job>,
    build: Option<Job>,
    keeper: Arc<Keeper>,
    frontier: Arc<Frontier>,
    store: u128,
    era: u64,
    /// What came and is not applied yet.
    queue: VecDeque<Submission>,
    /// The end of a load that waits for its base.
    ending: Option<Ending>,
    /// The newest files.
    files: Arc<Files>,
    /// They are not in the version that is shown.
    unshown: bool,
    flushing: Flushing,
    /// From when on there may be something to compact: the files changed since compaction last found nothing to do, or it
    /// failed for what may pass.
    compactable: Option<Instant>,
    /// The checkpoint still holds what a compaction has taken in.
    collects: bool,
    /// How often in a row compaction was broken off.
    broken_off: u32,
    /// Time of change of the file that readers touch, and when it was looked at.
    wanted: (Option<SystemTime>, Instant),
    lock: LockGuard,
}

/// What decides when to flush.
#[derive(Debug)]
struct Flushing {
    /// A flush is wanted whatever there is.
    due: bool,
    /// When the active layer's first change was seen.
    since: Option<Instant>,
    last: Option<Instant>,
    took: Duration,
    /// Bytes of log that no checkpoint has taken in: written by others before, and what this process had written at the
    /// last `Freeze`.
    inherited: u64,
    written: u64,
    /// No records are taken before.
    paused: Option<Instant>,
    /// After a failure: why, and when to try again.
    failed: Option<(WireError, Instant)>,
    /// After a refusal: not to log a `Freeze` before.
    not_before: Instant,
    /// Bytes of the last checkpoint.
    bytes: u64,
}

#[derive(Debug)]
struct Ending {
    record: wire::Record,
    waiting: Waiting,
    /// What the load left in memory is frozen.
    frozen: bool,
}

impl Writing {
    pub(super) fn new(
        lock: LockGuard,
        log: LogWriter,
        manifest: Manifest,
        frontier: Arc<Frontier>,
        worker: &Worker,
    ) -> Result<Self> {
        let shared = &worker.shared;
        let files = Arc::clone(worker.state.files());
        let length = |name: &String| fs::metadata(shared.folder.named(name)).map_or(0, |metadata| metadata.len());
        let bytes = manifest.checkpoint.as_ref().map_or(0, |checkpoint| length(&checkpoint.file));
        let segments = manifest.first_segment..=log.end().number;
        let inherited = segments
            .map(|number| fs::metadata(segment_path(shared.folder.root(), number)).map_or(0, |metadata| metadata.len()))
            .sum();
        let store = manifest.store;
        Ok(Self {
            committer: Committer::start(shared, log, lock.locked().clone())?,
            flush: None,
            compaction: None,
            build: None,
            keeper: Arc::new(Keeper::new(shared, &frontier, lock.locked().clone(), manifest, Arc::clone(&files))),
            frontier,
            store,
            era: 0,
            queue: VecDeque::new(),
            ending: None,
            files,
            unshown: false,
            flushing: Flushing {
                due: false,
                since: None,
                last: None,
                took: Duration::ZERO,
                inherited,
                written: 0,
                paused: None,
                failed: None,
                not_before: Instant::now(),
                bytes,
            },
            compactable: Some(Instant::now()),
            collects: false,
            broken_off: 0,
            wanted: (None, Instant::now()),
            lock,
        })
    }

    /// Until the node is stopped, or drained: then answers where to follow from.
    pub(super) fn run(mut self, worker: &mut Worker) -> Result<ControlFlow<(), Left>> {
        loop {
            worker.shared.free();
            self.look(&worker.shared)?;
            self.turn(worker)?;
            let wait = match self.flushing.paused {
                _ if self.queue.is_empty() || self.decide(worker, false).ingestion == Ingestion::Waits => TICK,
                Some(until) => until.saturating_duration_since(Instant::now()).min(TICK),
                None => Duration::ZERO,
            };
            let command = match worker.commands.recv_timeout(wait) {
                Ok(command) => command,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return Ok(ControlFlow::Break(())),
            };
            match self.obey(worker, command)? {
                ControlFlow::Continue(()) => {}
                ControlFlow::Break(Some(done)) => {
                    let left = self.drain(worker)?;
                    // The caller may have given up waiting.
                    let _ = done.send(());
                    return Ok(ControlFlow::Continue(left));
                }
                ControlFlow::Break(None) => return Ok(ControlFlow::Break(())),
            }
        }
    }

    /// `Break`: the end of writing, with whoever is to be told of it.
    fn obey(
        &mut self,
        worker: &mut Worker,
        command: Command,
    ) -> Result<ControlFlow<Option<tokio::sync::oneshot::Sender<()>>>> {
        match command {
            Command::Submit(submission) => {
                let mut bytes = submission.payload.len();
                self.queue.push_back(*submission);
                while bytes < GROUP_BYTES {
                    match worker.commands.try_recv() {
                        Ok(Command::Submit(submission)) => {
                            bytes += submission.payload.len();
                            self.queue.push_back(*submission);
                        }
                        Ok(other) => {
                            // What came before it is applied before it.
                            self.take_queued(worker)?;
                            return self.obey(worker, other);
                        }
                        Err(_) => break,
                    }
                }
            }
            Command::Wake => {}
            Command::Refused { poisoned: Some(reason), .. } => return Err(Error::poisoned(reason)),
            Command::Refused { era, poisoned: None } => self.go_back(worker, era)?,
            Command::Adopt(files) => {
                worker.state.adopt(Arc::clone(&files))?;
                self.files = files;
                (self.unshown, self.compactable) = (true, Some(Instant::now()));
            }
            Command::Flush => self.flushing.due = true,
            Command::Flushed(result) => self.flushed(worker, result)?,
            Command::Compacted(result) => {
                self.compaction = None;
                match result {
                    Ok(true) => {
                        (self.collects, self.compactable, self.broken_off) = (true, Some(Instant::now()), 0);
                        worker.shared.set_compacting(None);
                    }
                    Ok(false) => {
                        // The next checkpoint is without it, and nothing else may ever ask for one.
                        self.flushing.due |= mem::take(&mut self.collects);
                        (self.compactable, self.broken_off) = (None, 0);
                        worker.shared.set_compacting(None);
                    }
                    Err(Failure::Cancelled) => self.broken_off += 1,
                    Err(Failure::Again(error)) => {
                        self.broken_off = 0;
                        // What is damaged stays so until the files change.
                        let passes = !matches!(error.cause(), Cause::Damaged { .. });
                        self.compactable = passes.then(|| Instant::now() + COMPACT_AGAIN);
                        metrics::counter!("bitdex_compaction_failures_total").increment(1);
                        tracing::warn!(%error, "a segment could not be compacted");
                        worker.shared.set_compacting(Some(format!("a segment cannot be compacted: {error}")));
                    }
                    Err(Failure::Fatal(error)) => return Err(error),
                }
            }
            Command::Built(result) => self.built(worker, result)?,
            Command::Drain(done) => return Ok(ControlFlow::Break(Some(done))),
            Command::Stop => return Ok(ControlFlow::Break(None)),
            // Nobody stands while this process holds the lock.
            Command::Locked(_) => {}
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Does what can be done now.
    fn turn(&mut self, worker: &mut Worker) -> Result<()> {
        self.take_queued(worker)?;
        self.freeze_if_due(worker)?;
        self.start_flush(worker)?;
        self.go_on_ending(worker)?;
        self.start_compaction(worker)?;
        if self.unshown && self.committer.is_idle(self.era) {
            self.unshown = false;
            worker.shared.publish(&worker.state);
        }
        Ok(())
    }

    fn decide(&self, worker: &Worker, draining: bool) -> Decision {
        let Flushing { since, last, took, inherited, written, .. } = self.flushing;
        let age = |since: Instant| since.elapsed();
        decide(
            &worker.shared.options.flush,
            &Situation {
                unflushed: worker.state.unflushed(),
                frozen: worker.state.frozen().map_or(0, |frozen| frozen.bytes()),
                age: since.map_or(Duration::ZERO, age),
                log_bytes: inherited + self.committer.written().saturating_sub(written),
                flushing: worker.state.frozen().is_some() || self.flush.is_some(),
                since_last: last.map(age),
                last_took: took,
                draining,
            },
        )
    }

    /// Whether records must wait, for a flush to make room or for a moment.
    fn is_held(&mut self, worker: &Worker) -> bool {
        if self.flushing.paused.is_some_and(|until| Instant::now() < until) {
            return true;
        }
        match self.decide(worker, false).ingestion {
            Ingestion::Free => {}
            Ingestion::Slowed(pause) => self.flushing.paused = Some(Instant::now() + pause),
            Ingestion::Waits => return true,
        }
        false
    }

    fn take_queued(&mut self, worker: &mut Worker) -> Result<()> {
        if self.queue.is_empty() {
            return Ok(());
        }
        if let (Ingestion::Waits, Some((reason, _))) = (self.decide(worker, false).ingestion, &self.flushing.failed) {
            for submission in self.queue.drain(..) {
                submission.waiting.answer(Err(reason.clone()));
            }
        }
        if self.is_held(worker) {
            return Ok(());
        }
        let (mut bytes, mut group) = (0, Vec::new());
        while bytes < GROUP_BYTES
            && let Some(submission) = self.queue.pop_front()
        {
            bytes += submission.payload.len();
            group.push(submission);
        }
        self.apply(worker, group)
    }

    /// Applies records as one group, and hands it on.
    fn apply(&mut self, worker: &mut Worker, submissions: Vec<Submission>) -> Result<()> {
        let base = worker.state.clone();
        let mut group = Group { era: self.era, ..Group::default() };
        let mut records: Vec<Decoded> = Vec::with_capacity(submissions.len());
        let mut unsettled = Unsettled::default();
        for Submission { record, payload, waiting } in submissions {
            if let Err(error) = self.admit(&worker.state, &record) {
                group.answers.push((waiting, Err(error)));
                continue;
            }
            if matches!(record.kind(), Some(Kind::LoadEnd(_))) && self.needs_base(worker) {
                self.ending = Some(Ending { record: record.into_record(), waiting, frozen: false });
                continue;
            }
            let sequence = worker.state.sequence() + 1;
            match worker.state.take(sequence, &record, &mut unsettled) {
                Ok(()) => {
                    self.applied(worker, sequence, &record, &mut group);
                    group.answers.push((waiting, Ok((sequence, worker.state.cursor("postgres")))));
                    group.payloads.push(payload);
                    records.push(record);
                }
                Err(error) => {
                    // It may be applied in part: back to what was before the group, and over the group again.
                    worker.state = base.clone();
                    unsettled = Unsettled::default();
                    for record in &records {
                        let sequence = worker.state.sequence() + 1;
                        worker
                            .state
                            .take(sequence, record, &mut unsettled)
                            .map_err(|error| Error::record(worker.shared.folder.root(), sequence, error))?;
                    }
                    group.answers.push((waiting, Err(error)));
                }
            }
        }
        let settled = worker.state.settle_all(unsettled);
        let refused =
            settled.as_ref().err().into_iter().chain(group.answers.iter().filter_map(|it| it.1.as_ref().err()));
        let damage = refused.filter(|error| matches!(error, WireError::DataLoss(_))).last();
        match damage.map(|error| format!("changes are refused: {error}")) {
            None if records.is_empty() => {}
            damage => worker.shared.set_applying(damage),
        }
        if let Err(error) = settled {
            // Which of them met the damage is not known; none of them is logged.
            worker.state = base;
            records.clear();
            group.payloads.clear();
            for (_, answer) in group.answers.iter_mut().filter(|(_, answer)| answer.is_ok()) {
                *answer = Err(error.clone());
            }
        }
        if group.answers.is_empty() {
            return Ok(());
        }
        group.version = (!records.is_empty()).then(|| worker.state.clone());
        self.committer.send(group)
    }

    /// What depends on the state: a batch goes on from the cursor that is there.
    fn admit(&self, state: &State, record: &Decoded) -> WireResult<()> {
        match record.kind() {
            Some(Kind::Genesis(_) | Kind::Freeze(_)) => {
                Err(WireError::invalid("only the store itself writes this record"))
            }
            Some(Kind::Batch(batch)) => {
                let current = state.cursor(&batch.source);
                if batch.previous_cursor == current {
                    return Ok(());
                }
                Err(WireError::Precondition(format!(
                    "the batch of source {} goes on from cursor {:?}, but the durable one is {:?}: send what follows \
                     that",
                    batch.source,
                    String::from_utf8_lossy(&batch.previous_cursor),
                    String::from_utf8_lossy(&current),
                )))
            }
            Some(Kind::LoadRows(_) | Kind::LoadPartDone(_) | Kind::LoadEnd(_)) if self.ending.is_some() => {
                Err(WireError::Precondition("the load is being ended: wait for that".into()))
            }
            Some(Kind::LoadEnd(_)) => state.check_load_end(),
            _ => Ok(()),
        }
    }

    fn applied(&mut self, worker: &mut Worker, sequence: u64, record: &Decoded, group: &mut Group) {
        match record.kind() {
            Some(Kind::LoadBegin(_)) => {
                worker.began.push(sequence);
                if let Some(build) = &self.build {
                    build.cancel();
                }
                if let Some(ending) = self.ending.take() {
                    let reason = "another load has begun: this one is over";
                    group.answers.push((ending.waiting, Err(WireError::Precondition(reason.into()))));
                }
            }
            Some(Kind::LoadEnd(_)) => {}
            _ => return,
        }
        // So that files which are of no use any more can go, and the log before.
        self.flushing.due = true;
        group.wake = true;
    }

    /// Back to what is durable: what was applied behind it was refused.
    fn go_back(&mut self, worker: &mut Worker, era: u64) -> Result<()> {
        self.era = era;
        worker.state = State::clone(&worker.shared.current.load());
        worker.state.adopt(Arc::clone(&self.files))?;
        let durable = worker.state.sequence();
        worker.began.retain(|began| *began <= durable);
        // Had that been due for more than its size, it still is.
        self.flushing.due = true;
        self.flushing.not_before = Instant::now() + RETRY;
        if let Some(ending) = &mut self.ending {
            ending.frozen &= worker.state.staged_bytes().0 == 0;
        }
        Ok(())
    }

    fn freeze_if_due(&mut self, worker: &mut Worker) -> Result<()> {
        let unflushed = worker.state.unflushed();
        if unflushed.rows == 0 && unflushed.bytes == 0 {
            self.flushing.since = None;
        } else if self.flushing.since.is_none() {
            self.flushing.since = Some(Instant::now());
        }
        metrics::gauge!("bitdex_unflushed_rows").set(unflushed.rows as f64);
        metrics::gauge!("bitdex_unflushed_bytes").set(unflushed.bytes as f64);
        let forced = self.flushing.due
            || self.ending.as_ref().is_some_and(|ending| !ending.frozen) && worker.state.staged_bytes().0 > 0;
        let due = forced || self.decide(worker, false).flush;
        if !due {
            return Ok(());
        }
        self.break_off_compaction(worker);
        if worker.state.frozen().is_none() && Instant::now() >= self.flushing.not_before {
            self.freeze(worker)?;
        }
        Ok(())
    }

    /// Logs that everything up to here goes into the next checkpoint.
    fn freeze(&mut self, worker: &mut Worker) -> Result<()> {
        if worker.state.staged_bytes().0 > 0
            && let Some(build) = &self.build
        {
            // It lacks these rows.
            build.cancel();
        }
        self.log(worker, &wire::Record { kind: Some(Kind::Freeze(wire::Freeze {})) }, Vec::new())?;
        if let Some(ending) = &mut self.ending {
            ending.frozen = true;
        }
        (self.flushing.due, self.flushing.since, self.flushing.last) = (false, None, Some(Instant::now()));
        (self.flushing.inherited, self.flushing.written) = (0, self.committer.written());
        Ok(())
    }

    /// Logs a record that closes a segment.
    fn log(&mut self, worker: &mut Worker, record: &wire::Record, waiting: Vec<Waiting>) -> Result<()> {
        let sequence = worker.state.sequence() + 1;
        worker
            .state
            .apply(sequence, record)
            .map_err(|error| Error::record(worker.shared.folder.root(), sequence, error))?;
        let cursor = worker.state.cursor("postgres");
        self.committer.send(Group {
            era: self.era,
            version: Some(worker.state.clone()),
            payloads: vec![record.encode_to_vec()],
            answers: waiting.into_iter().map(|waiting| (waiting, Ok((sequence, cursor.clone())))).collect(),
            roll: true,
            wake: true,
        })
    }

    /// Brings the frozen layer into files, once the record that froze it is durable and its segment closed.
    fn start_flush(&mut self, worker: &Worker) -> Result<()> {
        let Some(frozen) = worker.state.frozen() else { return Ok(()) };
        let waits = self.flushing.failed.as_ref().is_some_and(|(_, again)| Instant::now() < *again);
        // With the segment that begins behind it, all before can go.
        let is_durable = self.frontier.load() >= frozen.sequence() && self.committer.has_rolled();
        if self.flush.is_some() || waits || !is_durable {
            return Ok(());
        }
        match &self.compaction {
            Some(_) => self.break_off_compaction(worker),
            None => self.flush = Some(Job::flush(&self.keeper, Arc::clone(frozen), worker.began.clone())?),
        }
        Ok(())
    }

    fn flushed(&mut self, worker: &mut Worker, result: Result<Flush, Failure>) -> Result<()> {
        self.flush = None;
        match result {
            Ok(flush) => {
                (self.flushing.bytes, self.flushing.took) = (flush.bytes, flush.took);
                if self.flushing.failed.take().is_some() {
                    worker.shared.set_keeping(None);
                }
                let checkpoint = self.files.sequence();
                worker.began.retain(|began| *began > checkpoint);
            }
            Err(Failure::Fatal(error)) => return Err(error),
            Err(Failure::Cancelled) => {}
            Err(Failure::Again(error)) => {
                metrics::counter!("bitdex_checkpoint_failures_total").increment(1);
                tracing::warn!(%error, "no checkpoint could be written; the log is kept");
                worker.shared.set_keeping(Some(format!("changes cannot be brought into files: {error}")));
                let error = WireError::from(error);
                // Whoever loads may try again once there is room.
                if let Some(ending) = self.ending.take() {
                    ending.waiting.answer(Err(error.clone()));
                }
                self.flushing.failed = Some((error, Instant::now() + RETRY));
            }
        }
        Ok(())
    }

    /// Before a flush.
    fn break_off_compaction(&self, worker: &Worker) {
        let Some(compaction) = &self.compaction else { return };
        // A load replaces what it rewrites.
        let is_in_vain = self.ending.is_some() || worker.state.is_loading();
        if is_in_vain || gives_way(self.decide(worker, false).ingestion, self.broken_off) {
            compaction.cancel();
        }
    }

    /// None while a load is under way: it replaces what would be rewritten.
    fn start_compaction(&mut self, worker: &Worker) -> Result<()> {
        if self.compactable.is_some_and(|from| Instant::now() >= from)
            && self.compaction.is_none()
            && self.flush.is_none()
            && worker.state.frozen().is_none()
            && !worker.state.is_loading()
        {
            self.compaction = Some(Job::compact(&self.keeper)?);
        }
        Ok(())
    }

    /// Whether the load's end must wait until a base is built out of staged files.
    fn needs_base(&self, worker: &Worker) -> bool {
        let (active, frozen) = worker.state.staged_bytes();
        active > worker.shared.options.small_load || frozen > 0 || !self.files.staged().is_empty()
    }

    /// Begins to build once all that the load brought is in files.
    fn go_on_ending(&mut self, worker: &Worker) -> Result<()> {
        let Some(ending) = &mut self.ending else { return Ok(()) };
        if self.build.is_some() || worker.state.frozen().is_some() || self.flushing.due {
            return Ok(());
        }
        let checkpoint = self.files.sequence();
        if worker.began.iter().any(|began| *began > checkpoint) {
            // The staged files are of the load before, until a flush has taken in that this one began.
            self.flushing.due = true;
        } else if ending.frozen || worker.state.staged_bytes().0 == 0 {
            ending.frozen = true;
            // Nothing that may still be refused goes into files.
            let mut durable = State::clone(&worker.shared.current.load());
            durable.adopt(Arc::clone(&self.files))?;
            self.build = Some(Job::build(&self.keeper, durable)?);
        }
        Ok(())
    }

    fn built(&mut self, worker: &mut Worker, result: Result<Arc<Files>, Failure>) -> Result<()> {
        let cancelled = self.build.take().is_none_or(|build| build.is_cancelled());
        let failure = match result {
            Err(Failure::Fatal(error)) => return Err(error),
            // Where the load's end still waits, the next turn begins again.
            _ if cancelled => return Ok(()),
            Ok(base) => {
                let Some(ending) = self.ending.take() else { return Ok(()) };
                worker.state.prepare(base);
                self.flushing.due = true;
                return self.log(worker, &ending.record, vec![ending.waiting]);
            }
            Err(Failure::Cancelled) => return Ok(()),
            Err(Failure::Again(error)) => error,
        };
        tracing::warn!(error = %failure, "the base of a load could not be built");
        if let Some(ending) = self.ending.take() {
            ending.waiting.answer(Err(failure.into()));
        }
        Ok(())
    }

    fn drain(mut self, worker: &mut Worker) -> Result<Left> {
        let shared = Arc::clone(&worker.shared);
        shared.sessions.supersede_all();
        (self.flush, self.compaction, self.build) = (None, None, None);
        if let Some(ending) = self.ending.take() {
            ending.waiting.answer(Err(super::ended()));
        }
        while let Some(submission) = self.queue.pop_front() {
            self.apply(worker, vec![submission])?;
        }
        // What is frozen only now becomes durable, too, before it is brought into files.
        self.committer.wait();
        self.finish_flush(worker)?;
        // In vain, were something refused just now: then it stays in the log.
        let unflushed = worker.state.unflushed();
        let freezes = self.is_cheap(unflushed.bytes + worker.state.staged_bytes().0)
            && unflushed.rows > 0
            && worker.state.frozen().is_none();
        if freezes {
            self.freeze(worker)?;
        }
        let Self { committer, keeper, files, frontier, store, lock, .. } = self;
        let log = committer.finish()?;
        if log.is_poisoned() {
            return Err(Error::poisoned("the log could not be written"));
        }
        worker.state = State::clone(&shared.current.load());
        worker.state.adopt(files)?;
        if let Some(frozen) = worker.state.frozen().filter(|_| freezes).cloned() {
            keeper.flush_now(&frozen, &worker.began)?;
        }
        shared.role.send_replace(Role::Reader);
        tracing::info!(sequence = worker.state.sequence(), "gave up writing");
        let end = log.end();
        drop(lock);
        Ok((store, end, frontier))
    }

    /// Whether a flush of so many more bytes than the last one's may be done at a drain.
    fn is_cheap(&self, more: u64) -> bool {
        self.flushing.bytes + more <= CHEAP_BYTES && self.flushing.took <= CHEAP_TIME
    }

    /// Brings into files what a flush that was cancelled left, where that is cheap.
    fn finish_flush(&mut self, worker: &mut Worker) -> Result<()> {
        self.files = self.keeper.files();
        worker.state.adopt(Arc::clone(&self.files))?;
        let Some(frozen) = worker.state.frozen().cloned() else { return Ok(()) };
        let cheap = self.is_cheap(frozen.bytes());
        if !cheap || self.frontier.load() < frozen.sequence() {
            return Ok(());
        }
        if let Some(flush) = self.keeper.flush_now(&frozen, &worker.began)? {
            self.flushing.bytes = flush.bytes;
            self.files = self.keeper.files();
            worker.state.adopt(Arc::clone(&self.files))?;
        }
        Ok(())
    }

    /// For queries of other processes that wait, and for operators' wishes.
    fn look(&mut self, shared: &Shared) -> Result<()> {
        let (seen, looked) = &mut self.wanted;
        if looked.elapsed() < TICK {
            return Ok(());
        }
        *looked = Instant::now();
        let touched = fs::metadata(shared.folder.wanted()).and_then(|metadata| metadata.modified()).ok();
        if touched != mem::replace(seen, touched) {
            shared.wanted.send_modify(|count| *count += 1);
        }
        // Where it cannot be told, other errors will tell more.
        let is_lost = !self.frontier.is_there().unwrap_or(true);
        shared.set_folder(is_lost.then(|| {
            format!(
                "{} was removed or replaced: no process can start until all have ended and there is a new one (see what \
                 damage calls for, in the manual)",
                shared.folder.frontier().display()
            )
        }));
        self.keeper.raise()
    }
}

/// Writes the first record of a store.
pub(super) fn write_genesis(worker: &mut Worker, log: &mut LogWriter, store: u128) -> Result<()> {
    let definition_hash = worker.shared.options.schema.hash.clone();
    let genesis = wire::Genesis { store: format!("{store:032x}"), definition_hash };
    let record = wire::Record { kind: Some(Kind::Genesis(genesis)) };
    let path = segment_path(worker.shared.folder.root(), log.end().number);
    worker.state.apply(log.next(), &record).map_err(|error| Error::record(path, log.next(), error))?;
    log.commit(&[record.encode_to_vec()])?;
    worker.shared.publish(&worker.state);
    Ok(())
}
