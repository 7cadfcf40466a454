//! The second half of writing, in a thread of its own: makes groups of records durable, shows what they leave, and
//! acknowledges them, in order. Meanwhile the log's thread applies the next ones.
//!
//! Groups that wait are made durable by one fsync. Where one fails, it and everything that was applied behind it is
//! refused; the log's thread hears of it ([`Command::Refused`]), goes back to what is durable, and begins a new *era*.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use bitdex_proto::{Error as WireError, Result as WireResult};
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{Ack, Command, Shared, token};
use crate::{
    election::Locked,
    log::{Error, Result, writer::LogWriter},
    state::State,
};

/// Groups that may wait; the bytes in them are bounded by the queue's permits.
const DEPTH: usize = 16;
/// No more groups are joined once they have this many bytes.
const JOINED_BYTES: usize = 8 << 20;
/// How often whoever waits for the last groups looks whether they are done.
const LOOK: Duration = Duration::from_millis(1);

/// Whoever waits for a record to be durable.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) answer: oneshot::Sender<WireResult<Ack>>,
    pub(super) since: Instant,
    /// Its room in the queue.
    pub(super) _permit: OwnedSemaphorePermit,
}

impl Waiting {
    /// The caller may have given up waiting; the record is kept all the same.
    pub(super) fn answer(self, result: WireResult<Ack>) {
        let _ = self.answer.send(result);
    }
}

/// Records that become durable together.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) era: u64,
    /// What the records leave; `None` where there are none.
    pub(super) version: Option<State>,
    pub(super) payloads: Vec<Vec<u8>>,
    /// In order: a record's sequence number and the Postgres cursor behind it, or why there is none.
    pub(super) answers: Vec<(Waiting, WireResult<(u64, Bytes)>)>,
    /// The next record is to be the first of a segment.
    pub(super) roll: bool,
    /// The log's thread is to be told.
    pub(super) wake: bool,
}

/// The thread, seen from the log's.
#[derive(Debug)]
pub(super) struct Committer {
    groups: Option<SyncSender<Group>>,
    sent: u64,
    done: Arc<AtomicU64>,
    /// Segments that were to be closed.
    rolls: u64,
    rolled: Arc<AtomicU64>,
    era: Arc<AtomicU64>,
    written: Arc<AtomicU64>,
    thread: Option<JoinHandle<LogWriter>>,
}

impl Committer {
    pub(super) fn start(shared: &Arc<Shared>, log: LogWriter, locked: Locked) -> Result<Self> {
        let (groups, receiver) = sync_channel(DEPTH);
        let [done, rolled, written, era] = [(); 4].map(|()| Arc::<AtomicU64>::default());
        let stage = Stage {
            shared: Arc::clone(shared),
            log,
            locked,
            groups: receiver,
            done: Arc::clone(&done),
            rolled: Arc::clone(&rolled),
            written: Arc::clone(&written),
            refusing: None,
            era: Arc::clone(&era),
        };
        let thread = thread::Builder::new()
            .name("bitdex-commit".into())
            .spawn(move || stage.run())
            .map_err(Error::io("start a thread for", shared.folder.root()))?;
        Ok(Self { groups: Some(groups), sent: 0, done, rolls: 0, rolled, era, written, thread: Some(thread) })
    }

    /// Waits while many groups do.
    pub(super) fn send(&mut self, group: Group) -> Result<()> {
        self.sent += 1;
        self.rolls += u64::from(group.roll);
        let sent = self.groups.as_ref().is_some_and(|groups| groups.send(group).is_ok());
        if sent { Ok(()) } else { Err(ended()) }
    }

    /// Whether everything that was sent is shown and answered, and nothing was refused since `era` began. After a
    /// refusal the log's thread must go back before it shows anything: what it has is more than what is durable.
    pub(super) fn is_idle(&self, era: u64) -> bool {
        self.done.load(Ordering::Acquire) == self.sent && self.era.load(Ordering::Relaxed) == era
    }

    /// Whether each segment that was to be closed is, with the next one behind it.
    pub(super) fn has_rolled(&self) -> bool {
        self.rolled.load(Ordering::Acquire) == self.rolls
    }

    /// Waits until everything that was sent is shown and answered, and segments are closed.
    pub(super) fn wait(&self) {
        let is_alive = || self.thread.as_ref().is_some_and(|thread| !thread.is_finished());
        while (self.done.load(Ordering::Acquire) < self.sent || !self.has_rolled()) && is_alive() {
            thread::sleep(LOOK);
        }
    }

    /// Bytes of log that this writer made durable.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Lets it finish what was sent.
    pub(super) fn finish(mut self) -> Result<LogWriter> {
        self.groups = None;
        self.thread.take().and_then(|thread| thread.join().ok()).ok_or_else(ended)
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        self.groups = None;
        if let Some(thread) = self.thread.take() {
            // A panic in it was told on stderr, and its groups are not acknowledged.
            let _ = thread.join();
        }
    }
}

fn ended() -> Error {
    Error::poisoned("the thread that writes the log ended by a fault of ours (see its panic message)")
}

struct Stage {
    shared: Arc<Shared>,
    log: LogWriter,
    locked: Locked,
    groups: Receiver<Group>,
    done: Arc<AtomicU64>,
    rolled: Arc<AtomicU64>,
    written: Arc<AtomicU64>,
    /// Why groups of earlier eras are refused; `None` before the first failure, and again after a success.
    refusing: Option<WireError>,
    /// Only this thread changes it, before it counts what it refuses as done.
    era: Arc<AtomicU64>,
}

impl Stage {
    fn run(mut self) -> LogWriter {
        while let Ok(first) = self.groups.recv() {
            let (mut joined, mut bytes) = (Vec::new(), 0);
            let mut next = Some(first);
            while let Some(group) = next.take() {
                if group.era < self.era.load(Ordering::Relaxed) {
                    self.refuse(vec![group]);
                } else {
                    bytes += group.payloads.iter().map(Vec::len).sum::<usize>();
                    let ends = group.roll || bytes >= JOINED_BYTES;
                    joined.push(group);
                    if ends {
                        break;
                    }
                }
                next = self.groups.try_recv().ok();
            }
            if !joined.is_empty() {
                self.commit(joined);
            }
        }
        self.log
    }

    fn commit(&mut self, joined: Vec<Group>) {
        let payloads: Vec<&Vec<u8>> = joined.iter().flat_map(|group| &group.payloads).collect();
        let records = payloads.len();
        if records > 0
            // Another process may have locked a new file before the records were durable.
            && let Err(error) =
                self.locked.check().and_then(|()| self.log.commit(&payloads)).and_then(|()| self.locked.check())
        {
            return self.fail(joined, error);
        }
        self.written.store(self.log.written(), Ordering::Relaxed);
        if self.log.take_lost() {
            self.tell(Command::Flush);
        }
        if let Some(version) = joined.iter().rev().find_map(|group| group.version.as_ref()) {
            if self.refusing.take().is_some() {
                self.shared.set_writing(None);
            }
            self.shared.publish(version);
            metrics::histogram!("bitdex_log_group_records").record(records as f64);
        }
        let latency = metrics::histogram!("bitdex_commit_seconds");
        let count = joined.len() as u64;
        let (mut roll, mut wake) = (false, false);
        for Group { version, answers, roll: rolls, wake: wakes, .. } in joined {
            for (waiting, result) in answers {
                let result = match (result, &version) {
                    (Ok((sequence, cursor)), Some(version)) => {
                        latency.record(waiting.since.elapsed().as_secs_f64());
                        Ok(Ack { sequence, token: token(version, sequence, cursor) })
                    }
                    (Ok(_), None) => Err(WireError::Internal("a record without a version".into())),
                    (Err(error), _) => Err(error),
                };
                waiting.answer(result);
            }
            roll |= rolls;
            wake |= wakes;
        }
        self.done.fetch_add(count, Ordering::Release);
        if roll {
            let rolled = self.log.roll();
            self.rolled.fetch_add(1, Ordering::Release);
            match rolled {
                // Without room for a segment now, the next group tries to make one.
                Ok(()) => {}
                Err(error) if error.is_refusal() => {}
                Err(error) => return self.fail(Vec::new(), error),
            }
        }
        if wake {
            self.tell(Command::Wake);
        }
    }

    fn fail(&mut self, joined: Vec<Group>, error: Error) {
        let era = 1 + self.era.fetch_add(1, Ordering::Relaxed);
        let full = error.is_refusal();
        let message = error.to_string();
        let told = if full {
            metrics::counter!("bitdex_log_disk_full_total").increment(1);
            tracing::error!(error = message, "records were refused");
            self.shared.set_writing(Some(message.clone()));
            WireError::from(error)
        } else {
            WireError::unavailable(format!("{message}; this process writes no more"))
        };
        self.refusing = Some(told);
        // Before any answer, so that what comes in reply to one finds the new era.
        self.tell(Command::Refused { era, poisoned: (!full).then_some(message) });
        self.refuse(joined);
    }

    fn refuse(&mut self, groups: Vec<Group>) {
        let reason = self.refusing.clone().unwrap_or_else(super::ended);
        let count = groups.len() as u64;
        self.rolled.fetch_add(groups.iter().filter(|group| group.roll).count() as u64, Ordering::Release);
        for (waiting, _) in groups.into_iter().flat_map(|group| group.answers) {
            waiting.answer(Err(reason.clone()));
        }
        self.done.fetch_add(count, Ordering::Release);
    }

    fn tell(&self, command: Command) {
        // An error means that the node has ended.
        let _ = self.shared.commands.send(command);
    }
}
