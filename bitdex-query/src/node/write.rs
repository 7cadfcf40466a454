//! Being the writer: takes all records that wait, makes them durable with one fsync, shows them, and only then
//! acknowledges them; writes checkpoints beside that.
//!
//! A record is applied to a private version first, so that one which cannot be applied never reaches the log.

use std::{
    fs, mem,
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::RecvTimeoutError,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use bitdex_proto::{Error as WireError, Result as WireResult, wire};
use bytes::Bytes;
use prost::Message as _;
use wire::record::Kind;

use super::{Ack, Command, Role, Shared, Submission, token, worker::Worker};
use crate::{
    election::LockGuard,
    log::{
        Error, Result,
        segment::{SegmentEnd, segment_path},
        writer::LogWriter,
    },
    mapping::Frontier,
    state::State,
    store::{
        Folder,
        manifest::{CheckpointRef, Manifest},
    },
};

/// A group takes no more records once it has this many bytes.
const GROUP_BYTES: usize = 8 << 20;
/// How often the writer looks whether a query of another process waits for changes.
const WANTED: Duration = Duration::from_millis(20);
/// A checkpoint that is expected to be no longer than this is written at a drain.
const CHEAP_BYTES: u64 = 16 << 20;

/// The position from which a former writer follows.
pub(super) type Left = (u128, SegmentEnd, Arc<Frontier>);

#[derive(Debug)]
pub(super) struct Writing {
    // Before the lock, so that it has ended when the lock is given up.
    checkpoint: Option<Checkpoint>,
    log: LogWriter,
    manifest: Manifest,
    frontier: Arc<Frontier>,
    /// Bytes of log behind the last checkpoint, but for what this process wrote.
    inherited: u64,
    /// [`LogWriter::written`] at the last checkpoint.
    written: u64,
    /// Length of the last checkpoint's file.
    checkpoint_length: u64,
    /// A checkpoint is wanted whatever the length of the log.
    due: bool,
    /// Not to try a checkpoint before this much log was written; after a failure.
    not_before: u64,
    /// Time of change of the file that readers touch, and when it was looked at.
    wanted: (Option<SystemTime>, Instant),
    lock: LockGuard,
}

/// A checkpoint that is being written. Dropping it cancels it and waits for its end.
#[derive(Debug)]
struct Checkpoint {
    /// The first segment that is needed behind it.
    segment: u64,
    written: u64,
    cancel: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Checkpoint {
    fn drop(&mut self) {
        self.cancel.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic in it was told on stderr; the checkpoint is then simply not there.
            let _ = thread.join();
        }
    }
}

impl Writing {
    pub(super) fn new(
        lock: LockGuard,
        log: LogWriter,
        manifest: Manifest,
        frontier: Arc<Frontier>,
        folder: &Folder,
    ) -> Result<Self> {
        let length = |path| fs::metadata(path).map_or(0, |metadata| metadata.len());
        let segments = manifest.first_segment..=log.end().number;
        let inherited = segments.map(|number| length(segment_path(folder.root(), number))).sum();
        let checkpoint_length = manifest.checkpoint.as_ref().map_or(0, |named| length(folder.named(&named.file)));
        Ok(Self {
            checkpoint: None,
            inherited,
            written: log.written(),
            checkpoint_length,
            due: false,
            not_before: 0,
            wanted: (None, Instant::now()),
            log,
            manifest,
            frontier,
            lock,
        })
    }

    /// Writes the first record of a store.
    pub(super) fn write_genesis(&mut self, worker: &mut Worker) -> Result<()> {
        let schema = &worker.shared.options.schema;
        let genesis =
            wire::Genesis { store: format!("{:032x}", self.manifest.store), definition_hash: schema.hash.clone() };
        let record = wire::Record { kind: Some(Kind::Genesis(genesis)) };
        worker.state.apply(self.log.next(), &record).map_err(|error| Error::Record {
            path: segment_path(worker.shared.folder.root(), self.log.end().number),
            sequence: self.log.next(),
            reason: error.to_string(),
        })?;
        self.log.commit(&[record.encode_to_vec()])?;
        worker.shared.publish(&worker.state);
        Ok(())
    }

    /// Until the node is stopped, or drained: then answers where to follow from.
    pub(super) fn run(mut self, worker: &mut Worker) -> Result<ControlFlow<(), Left>> {
        let mut next = None;
        loop {
            self.look_for_waiting(&worker.shared);
            let command = match next.take() {
                Some(command) => command,
                None => match worker.commands.recv_timeout(WANTED) {
                    Ok(command) => command,
                    Err(RecvTimeoutError::Timeout) => continue,
                    Err(RecvTimeoutError::Disconnected) => return Ok(ControlFlow::Break(())),
                },
            };
            match command {
                Command::Submit(submission) => {
                    let group;
                    (group, next) = gather(worker, *submission);
                    self.commit(worker, group)?;
                }
                Command::Checkpointed(result) => self.finish_checkpoint(&worker.shared, result)?,
                Command::Drain(done) => {
                    self.drain(worker)?;
                    let left = (self.manifest.store, self.log.end(), Arc::clone(&self.frontier));
                    drop(self.lock);
                    // The caller may have given up waiting.
                    let _ = done.send(());
                    return Ok(ControlFlow::Continue(left));
                }
                Command::Stop => return Ok(ControlFlow::Break(())),
                // Nobody stands while this process holds the lock.
                Command::Locked(_) => {}
            }
            self.start_checkpoint_if_due(worker)?;
        }
    }

    fn commit(&mut self, worker: &mut Worker, group: Vec<Submission>) -> Result<()> {
        let first = self.log.next();
        let mut accepted: Vec<(Submission, Bytes)> = Vec::with_capacity(group.len());
        for submission in group {
            let sequence = first + accepted.len() as u64;
            if let Err(error) = admit(&worker.state, &submission.record) {
                answer(submission, Err(error));
                continue;
            }
            match worker.state.apply(sequence, &submission.record) {
                Ok(()) => accepted.push((submission, worker.state.cursor("postgres"))),
                Err(error) => {
                    // It may be applied in part: back to what is durable, and over the group again.
                    worker.state = State::clone(&worker.shared.current.load());
                    for (sequence, (accepted, _)) in (first..).zip(&accepted) {
                        worker.state.apply(sequence, &accepted.record).map_err(|error| Error::Record {
                            path: worker.shared.folder.root().into(),
                            sequence,
                            reason: error.to_string(),
                        })?;
                    }
                    answer(submission, Err(error));
                }
            }
        }
        if accepted.is_empty() {
            return Ok(());
        }
        let payloads: Vec<Vec<u8>> =
            accepted.iter_mut().map(|(submission, _)| mem::take(&mut submission.payload)).collect();
        if let Err(error) = self.log.commit(&payloads) {
            worker.state = State::clone(&worker.shared.current.load());
            let message = error.to_string();
            let full = matches!(error, Error::Full { .. });
            let told = match full {
                true => WireError::from(error),
                false => WireError::unavailable(format!("{message}; this process writes no more")),
            };
            if full {
                metrics::counter!("bitdex_log_disk_full_total").increment(1);
                tracing::error!(error = message, "records were refused");
                worker.shared.set_writing(Some(message.clone()));
            }
            for (submission, _) in accepted {
                answer(submission, Err(told.clone()));
            }
            return if full { Ok(()) } else { Err(Error::Poisoned(message)) };
        }
        worker.shared.set_writing(None);
        worker.shared.publish(&worker.state);
        for (sequence, (submission, postgres_cursor)) in (first..).zip(accepted) {
            self.due |= matches!(submission.record.kind, Some(Kind::LoadEnd(_)));
            let token = token(&worker.state, sequence, postgres_cursor);
            answer(submission, Ok(Ack { sequence, token }));
        }
        Ok(())
    }

    /// Bytes of log that the next start would have to read.
    fn log_bytes(&self) -> u64 {
        self.inherited + self.log.written() - self.written
    }

    fn start_checkpoint_if_due(&mut self, worker: &Worker) -> Result<()> {
        let shared = &worker.shared;
        let long = self.log_bytes() >= shared.options.checkpoint_bytes && self.log.written() >= self.not_before;
        if self.checkpoint.is_some() || !(long || self.due) {
            return Ok(());
        }
        self.due = false;
        // So that the next record is the first of a segment, and nothing before it must be read again.
        match self.log.roll() {
            Ok(()) => {}
            Err(error @ Error::Full { .. }) => {
                self.checkpoint_failed(shared, &error);
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        let cancel = Arc::new(AtomicBool::new(false));
        let thread = thread::Builder::new().name("bitdex-checkpoint".into()).spawn({
            let (shared, cancel) = (Arc::clone(shared), Arc::clone(&cancel));
            let (state, store) = (worker.state.clone(), self.manifest.store);
            move || {
                let result = {
                    let _ = (&state, store, &cancel);
                    todo!("node: flush")
                };
                // An error means that the node has ended; the next writer removes the file.
                let _ = shared.commands.send(Command::Checkpointed(result));
            }
        });
        match thread {
            Ok(thread) => {
                self.checkpoint = Some(Checkpoint {
                    segment: self.log.end().number,
                    written: self.log.written(),
                    cancel,
                    thread: Some(thread),
                });
            }
            Err(error) => {
                self.checkpoint_failed(shared, &Error::io("start a thread for", shared.folder.root())(error));
            }
        }
        Ok(())
    }

    fn finish_checkpoint(&mut self, shared: &Shared, result: Result<(CheckpointRef, u64)>) -> Result<()> {
        let Some(checkpoint) = self.checkpoint.take() else { return Ok(()) };
        match result {
            Ok((named, length)) => self.adopt_checkpoint(shared, named, length, &checkpoint),
            Err(error) => {
                self.checkpoint_failed(shared, &error);
                Ok(())
            }
        }
    }

    /// Makes the manifest name the checkpoint, and then removes what it replaces.
    fn adopt_checkpoint(
        &mut self,
        shared: &Shared,
        named: CheckpointRef,
        length: u64,
        checkpoint: &Checkpoint,
    ) -> Result<()> {
        let manifest = Manifest {
            first_segment: checkpoint.segment,
            next_sequence: self.log.next(),
            checkpoint: Some(named),
            ..self.manifest.clone()
        };
        match manifest.publish(&*shared.disk, &shared.folder.manifest()) {
            Ok(()) => {}
            Err(error @ Error::Full { .. }) => {
                self.checkpoint_failed(shared, &error);
                return Ok(());
            }
            // Which of the two manifests a crash would leave is open, but after a failed sync nothing is trusted.
            Err(error) => return Err(error),
        }
        tracing::info!(checkpoint = ?manifest.checkpoint, length, "wrote a checkpoint");
        metrics::counter!("bitdex_checkpoints_total").increment(1);
        self.manifest = manifest;
        self.inherited = 0;
        self.written = checkpoint.written;
        self.checkpoint_length = length;
        shared.clean(&self.manifest);
        Ok(())
    }

    /// The log stays as it is; another checkpoint is tried once it has grown further.
    fn checkpoint_failed(&mut self, shared: &Shared, error: &Error) {
        self.not_before = self.log.written() + shared.options.checkpoint_bytes / 4 + 1;
        metrics::counter!("bitdex_checkpoint_failures_total").increment(1);
        tracing::warn!(%error, "no checkpoint could be written; the log is kept");
    }

    fn drain(&mut self, worker: &mut Worker) -> Result<()> {
        let shared = &worker.shared;
        shared.sessions.supersede_all();
        self.checkpoint = None;
        let expected = self.checkpoint_length + self.log_bytes();
        if self.log.written() > self.written && expected <= CHEAP_BYTES {
            let cancel = Arc::new(AtomicBool::new(false));
            match self.log.roll().and_then(|()| {
                todo!("node: flush")
            }) {
                Ok((named, length)) => {
                    let segment = self.log.end().number;
                    let done = Checkpoint { segment, written: self.log.written(), cancel, thread: None };
                    self.adopt_checkpoint(shared, named, length, &done)?;
                }
                Err(error) if self.log.is_poisoned() => return Err(error),
                Err(error) => self.checkpoint_failed(shared, &error),
            }
        }
        shared.role.send_replace(Role::Reader);
        tracing::info!(sequence = worker.state.sequence(), "gave up writing");
        Ok(())
    }

    fn look_for_waiting(&mut self, shared: &Shared) {
        let (seen, looked) = &mut self.wanted;
        if looked.elapsed() < WANTED {
            return;
        }
        *looked = Instant::now();
        let touched = fs::metadata(shared.folder.wanted()).and_then(|metadata| metadata.modified()).ok();
        if touched != mem::replace(seen, touched) {
            shared.wanted.send_modify(|count| *count += 1);
        }
    }
}

/// All submissions that wait, up to a size, and the other command that came behind them.
fn gather(worker: &Worker, first: Submission) -> (Vec<Submission>, Option<Command>) {
    let mut bytes = first.payload.len();
    let mut group = vec![first];
    while bytes < GROUP_BYTES {
        match worker.commands.try_recv() {
            Ok(Command::Submit(submission)) => {
                bytes += submission.payload.len();
                group.push(*submission);
            }
            Ok(other) => return (group, Some(other)),
            Err(_) => break,
        }
    }
    (group, None)
}

/// What depends on the state: a batch goes on from the cursor that is there.
fn admit(state: &State, record: &wire::Record) -> WireResult<()> {
    match &record.kind {
        Some(Kind::Genesis(_)) => Err(WireError::invalid("only the store itself writes its first record")),
        Some(Kind::Batch(batch)) => {
            let current = state.cursor(&batch.source);
            if batch.previous_cursor == current {
                return Ok(());
            }
            Err(WireError::Precondition(format!(
                "the batch of source {} goes on from cursor {:?}, but the durable one is {:?}: send what follows that",
                batch.source,
                String::from_utf8_lossy(&batch.previous_cursor),
                String::from_utf8_lossy(&current),
            )))
        }
        _ => Ok(()),
    }
}

/// The caller may have given up waiting; the record is kept all the same.
fn answer(submission: Submission, result: WireResult<Ack>) {
    let _ = submission.answer.send(result);
}
