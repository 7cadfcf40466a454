//! The writer's files, kept in the background: flushes, compaction, and the building of a load's base.
//!
//! One thread for each job; the manifest, which all of them change, is behind a lock. What a new manifest no longer
//! names is unlinked once that is durable. After a manifest that could not be published for another reason than a full
//! disk nothing is trusted ([`Failure::Fatal`]); every other failure leaves the files as they were, to be tried again.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{Command, Shared};
use crate::{
    build::{
        compaction::{compact, pick},
        generation::{Limits, build},
    },
    election::Locked,
    log::{
        Cause, Error, Result,
        segment::{Segment, segment_number, segment_path},
    },
    mapping::{Frontier, slices::step_back},
    state::{Files, Frozen, State, write_checkpoint},
    store::{
        manifest::{Manifest, Prepared},
        raise,
    },
};

/// How much a background thread steps back behind the log's thread, which starts it and has stepped back itself.
pub(super) const NICE: i32 = 5;

/// Why a job came to nothing.
#[derive(Debug)]
pub(super) enum Failure {
    /// It was told to end.
    Cancelled,
    Again(Error),
    Fatal(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Again(error)
    }
}

/// What is behind the lock.
#[derive(Debug)]
struct Kept {
    manifest: Manifest,
    files: Arc<Files>,
    /// Why a wish to raise the format was not looked at last time, or not fulfilled.
    not_raised: Option<String>,
}

#[derive(Debug)]
pub(super) struct Keeper {
    shared: Arc<Shared>,
    frontier: Arc<Frontier>,
    locked: Locked,
    kept: Mutex<Kept>,
}

impl Keeper {
    pub(super) fn new(
        shared: &Arc<Shared>,
        frontier: &Arc<Frontier>,
        locked: Locked,
        manifest: Manifest,
        files: Arc<Files>,
    ) -> Self {
        let kept = Mutex::new(Kept { manifest, files, not_raised: None });
        Self { shared: Arc::clone(shared), frontier: Arc::clone(frontier), locked, kept }
    }

    pub(super) fn manifest(&self) -> Manifest {
        self.kept.lock().manifest.clone()
    }

    /// Those of the newest manifest.
    pub(super) fn files(&self) -> Arc<Files> {
        Arc::clone(&self.kept.lock().files)
    }

    /// Makes a changed manifest durable, hands its files to the log's thread, and unlinks those that it replaces.
    fn publish(&self, cancel: &AtomicBool, change: impl FnOnce(&mut Manifest)) -> Result<(), Failure> {
        let Shared { folder, disk, options, .. } = &*self.shared;
        let mut kept = self.kept.lock();
        if cancel.load(Ordering::Relaxed) {
            return Err(Failure::Cancelled);
        }
        let mut manifest = kept.manifest.clone();
        change(&mut manifest);
        manifest.next_sequence = manifest.next_sequence.max(self.frontier.load() + 1);
        // What another writer has published since must not be lost.
        self.locked.check().map_err(Failure::Fatal)?;
        manifest.publish(&**disk, &folder.manifest()).map_err(|error| match error {
            error if error.is_refusal() => Failure::Again(error),
            // Which of the two manifests a crash would leave is open.
            error => Failure::Fatal(error),
        })?;
        let old = std::mem::replace(&mut kept.manifest, manifest);
        let files = Files::open(folder, &kept.manifest, &options.schema, Some(&kept.files)).map_err(Failure::Fatal)?;
        let files = files.ok_or_else(|| {
            Failure::Fatal(Error::damaged(folder.manifest(), 0, "a file that was just written is not there"))
        })?;
        let before = std::mem::replace(&mut kept.files, files);
        kept.files.warm(&before, &|| !cancel.load(Ordering::Relaxed));
        // An error means that the node has ended.
        let _ = self.shared.commands.send(Command::Adopt(Arc::clone(&kept.files)));
        self.unlink(&old, &kept.manifest);
        Ok(())
    }

    /// Raises the store's format, where an operator asks for it.
    pub(super) fn raise(&self) -> Result<()> {
        let Shared { folder, disk, options, .. } = &*self.shared;
        // A job that publishes just now holds nobody up; it is asked again.
        let Some(mut kept) = self.kept.try_lock() else { return Ok(()) };
        self.locked.check()?;
        match raise::answer(folder, &**disk, &kept.manifest, options.newest_format) {
            Ok(Some(raised)) => {
                tracing::info!(format = raised.format, "raised the format of the store");
                kept.manifest = raised;
                Ok(())
            }
            Ok(None) => {
                kept.not_raised = None;
                Ok(())
            }
            // Somebody's wish that cannot be read, or cannot be fulfilled now.
            Err(error) if error.is_refusal() || is_of(&error, &folder.raise()) => {
                let error = error.to_string();
                // It is looked at many times a second.
                if kept.not_raised.as_ref() != Some(&error) {
                    tracing::warn!(
                        error,
                        "whether the format of the store is to be raised cannot be told, or not done"
                    );
                    kept.not_raised = Some(error);
                }
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// What cannot be removed stays until the next promotion.
    fn unlink(&self, old: &Manifest, new: &Manifest) {
        let Shared { folder, disk, .. } = &*self.shared;
        let kept: BTreeSet<&str> = new.packs().collect();
        let files = old.packs().filter(|name| !kept.contains(name)).map(|name| folder.named(name));
        // Ascending, on which followers rely.
        let segments = (old.first_segment..new.first_segment).map(|number| segment_path(folder.root(), number));
        for path in files.chain(segments) {
            if let Err(error) = disk.remove(&path) {
                tracing::warn!(path = %path.display(), %error, "cannot remove an old file of the store");
            }
        }
    }

    /// The last segment of the log that begins at or before record `next`. Somebody may have removed one that comes
    /// before it.
    fn segment_of(&self, next: u64) -> Result<u64> {
        let Shared { folder, .. } = &*self.shared;
        let manifest = self.manifest();
        let mut numbers: Vec<u64> = folder.names()?.iter().filter_map(|name| segment_number(name)).collect();
        numbers.sort_unstable();
        for number in numbers.into_iter().rev().take_while(|number| *number > manifest.first_segment) {
            let segment = Segment::open(folder.root(), number, manifest.store)?;
            if segment.is_some_and(|segment| segment.header.first() <= next) {
                return Ok(number);
            }
        }
        Ok(manifest.first_segment)
    }

    /// Writes a checkpoint. `began`: where loads began that this process knows of.
    pub(super) fn flush(&self, frozen: &Frozen, began: &[u64], cancel: &AtomicBool) -> Result<Flush, Failure> {
        let started = Instant::now();
        let Shared { folder, disk, .. } = &*self.shared;
        let store = self.kept.lock().manifest.stamp();
        let flushed = write_checkpoint(frozen, disk, folder, store, cancel)?;
        let first_segment = self.segment_of(frozen.sequence() + 1)?;
        let bytes = flushed.bytes;
        self.publish(cancel, |manifest| {
            flushed.name_in(manifest, frozen, began);
            manifest.first_segment = first_segment;
        })?;
        let elapsed = started.elapsed();
        metrics::counter!("bitdex_checkpoints_total").increment(1);
        metrics::counter!("bitdex_checkpoint_bytes_total").increment(bytes);
        metrics::histogram!("bitdex_checkpoint_seconds").record(elapsed.as_secs_f64());
        tracing::info!(sequence = frozen.sequence(), bytes, ?elapsed, "wrote a checkpoint");
        Ok(Flush { bytes, took: elapsed })
    }

    /// As [`Keeper::flush`], at once. `None` where it was in vain: then the log is kept.
    pub(super) fn flush_now(&self, frozen: &Frozen, began: &[u64]) -> Result<Option<Flush>> {
        match self.flush(frozen, began, &AtomicBool::new(false)) {
            Ok(flush) => Ok(Some(flush)),
            Err(Failure::Fatal(error)) => Err(error),
            Err(failure) => {
                tracing::warn!(?failure, "no checkpoint could be written; the log is kept");
                Ok(None)
            }
        }
    }

    /// Rewrites what is most worth it; false where nothing is.
    fn compact(&self, cancel: &AtomicBool) -> Result<bool, Failure> {
        let started = Instant::now();
        let Shared { folder, disk, options, .. } = &*self.shared;
        let (store, files) = {
            let kept = self.kept.lock();
            (kept.manifest.stamp(), Arc::clone(&kept.files))
        };
        let Some(work) = pick(&files, options.compact_fraction, store.format)? else { return Ok(false) };
        let (compacted, bytes) = compact(&files, work, disk, folder, store, cancel)?;
        self.publish(cancel, |manifest| compacted.name_in(manifest))?;
        let elapsed = started.elapsed();
        metrics::counter!("bitdex_compactions_total").increment(1);
        metrics::counter!("bitdex_compaction_bytes_total").increment(bytes);
        metrics::histogram!("bitdex_compaction_seconds").record(elapsed.as_secs_f64());
        tracing::info!(?work, bytes, ?elapsed, "compacted");
        Ok(true)
    }

    /// Builds the base of the load's generation, or goes on where a build broke off.
    fn build(&self, state: &State, cancel: &AtomicBool) -> Result<Arc<Files>, Failure> {
        let started = Instant::now();
        let Shared { folder, disk, options, .. } = &*self.shared;
        let manifest = self.manifest();
        let generation = state.loading_generation().ok_or_else(|| Error::foreign("no load is under way"))?;
        let prepared = manifest.prepared.clone().filter(|prepared| prepared.generation == generation);
        let sequence = manifest.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.sequence);
        let prepared = prepared.unwrap_or(Prepared { generation, sequence, ..Prepared::default() });
        let limits = Limits { memory: options.build_memory, threads: options.build_threads };
        let mut unpublished = None;
        let built = build(state, disk, folder, manifest.stamp(), &prepared, limits, cancel, &mut |prepared| {
            self.publish(cancel, |manifest| manifest.prepared = Some(prepared)).map_err(|failure| {
                unpublished = Some(failure);
                Error::poisoned("the manifest could not be published")
            })
        });
        let built = match (built, unpublished) {
            (_, Some(failure)) => return Err(failure),
            (built, None) => built?,
        };
        self.publish(cancel, |manifest| manifest.prepared = Some(Prepared { complete: true, ..built }))?;
        let files = Files::open_prepared(folder, &self.manifest(), &options.schema)?;
        tracing::info!(generation, elapsed = ?started.elapsed(), "built the base of a load");
        Ok(files.ok_or_else(|| Error::damaged(folder.manifest(), 0, "a file that was just built is not there"))?)
    }
}

/// Whether it is of this file alone.
fn is_of(error: &Error, file: &Path) -> bool {
    matches!(error.cause(), Cause::Io { path, .. } if path == file)
}

/// What a flush did.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flush {
    pub(super) bytes: u64,
    pub(super) took: Duration,
}

/// A thread at work in the background. Dropping it cancels it and waits for its end.
#[derive(Debug)]
pub(super) struct Job {
    cancel: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Job {
    /// `began`: where loads began that this process knows of.
    pub(super) fn flush(keeper: &Arc<Keeper>, frozen: Arc<Frozen>, began: Vec<u64>) -> Result<Self> {
        let run = move |keeper: &Keeper, cancel: &AtomicBool| keeper.flush(&frozen, &began, cancel);
        Self::start(keeper, "bitdex-flush", run, Command::Flushed)
    }

    pub(super) fn compact(keeper: &Arc<Keeper>) -> Result<Self> {
        Self::start(keeper, "bitdex-compact", Keeper::compact, Command::Compacted)
    }

    pub(super) fn build(keeper: &Arc<Keeper>, state: State) -> Result<Self> {
        let run = move |keeper: &Keeper, cancel: &AtomicBool| keeper.build(&state, cancel);
        Self::start(keeper, "bitdex-build", run, Command::Built)
    }

    fn start<T: 'static>(
        keeper: &Arc<Keeper>,
        name: &str,
        run: impl FnOnce(&Keeper, &AtomicBool) -> Result<T, Failure> + Send + 'static,
        tell: fn(Result<T, Failure>) -> Command,
    ) -> Result<Self> {
        let cancel = Arc::<AtomicBool>::default();
        let spawned = thread::Builder::new().name(name.into()).spawn({
            let (keeper, cancel) = (Arc::clone(keeper), Arc::clone(&cancel));
            move || {
                // On Linux this is of the thread, and of those that it starts. Where it is refused, it is only ruder.
                step_back(NICE);
                let unwinding = FailOnUnwind(&keeper.shared);
                let result = run(&keeper, &cancel).map_err(|failure| match failure {
                    Failure::Again(_) if cancel.load(Ordering::Relaxed) => Failure::Cancelled,
                    failure => failure,
                });
                std::mem::forget(unwinding);
                // An error means that the node has ended.
                let _ = keeper.shared.commands.send(tell(result));
            }
        });
        let thread = spawned.map_err(Error::io("start a thread for", keeper.shared.folder.root()))?;
        Ok(Self { cancel, thread: Some(thread) })
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    /// Tells it to end; it answers all the same.
    pub(super) fn cancel(&self) {
        self.cancel.store(true, Ordering::Relaxed);
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.cancel();
        if let Some(thread) = self.thread.take() {
            // A panic in it has failed the node.
            let _ = thread.join();
        }
    }
}

/// Without an answer the log's thread would wait for ever.
struct FailOnUnwind<'a>(&'a Shared);

impl Drop for FailOnUnwind<'_> {
    fn drop(&mut self) {
        let reason = "a thread that keeps the files ended by a fault of ours (see its panic message)";
        // An error means that the node has ended.
        let _ = self.0.commands.send(Command::Flushed(Err(Failure::Fatal(Error::poisoned(reason)))));
    }
}
