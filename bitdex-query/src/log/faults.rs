//! A disk for tests that fails on demand, counts syncs, and can lose what was not synced, as a power loss does.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::{Condvar, Mutex};
use rand::{Rng, RngExt as _};

use super::disk::{Disk, DiskFile, RealDisk};

pub(crate) const EIO: i32 = 5;
pub(crate) const ENOSPC: i32 = 28;

#[derive(Debug, Default)]
pub(crate) struct FaultyDisk {
    shared: Arc<Mutex<Plan>>,
    gate: Arc<Gate>,
}

/// Where writes wait on demand.
#[derive(Debug, Default)]
struct Gate {
    /// To files with this in their name.
    closed: Mutex<Option<&'static str>>,
    changed: Condvar,
    waiting: Mutex<usize>,
}

impl Gate {
    fn pass(&self, name: &str) {
        let mut closed = self.closed.lock();
        let is_held = |closed: &mut Option<&str>| closed.is_some_and(|part| name.contains(part));
        if is_held(&mut closed) {
            *self.waiting.lock() += 1;
            self.changed.wait_while(&mut closed, |closed| is_held(closed));
            *self.waiting.lock() -= 1;
        }
    }
}

#[derive(Debug, Default)]
struct Plan {
    /// After this many more bytes, writes fail with this error.
    write: Option<(u64, i32)>,
    /// Only files with this in their name fail.
    only: Option<&'static str>,
    /// After this many more syncs (of files and folders), they fail.
    sync: Option<u64>,
    /// After this many more operations of any kind, one fails with this error.
    step: Option<(u64, i32)>,
    steps: u64,
    /// A write takes no more than this at once.
    short: Option<usize>,
    /// Where segments of the log go that are removed.
    archive: Option<PathBuf>,
    /// Everything fails once a write or sync did.
    crash: bool,
    crashed: bool,
    syncs: u64,
    /// Length, and how much of it is synced.
    files: HashMap<PathBuf, (u64, u64)>,
}

impl Plan {
    fn alive(&self) -> io::Result<()> {
        if self.crashed { Err(io::Error::from_raw_os_error(EIO)) } else { Ok(()) }
    }

    /// Begins an operation.
    fn begin(&mut self) -> io::Result<()> {
        self.alive()?;
        self.steps += 1;
        if let Some((left, errno)) = &mut self.step {
            if *left == 0 {
                let errno = *errno;
                self.step = None;
                self.crashed = self.crash;
                return Err(io::Error::from_raw_os_error(errno));
            }
            *left -= 1;
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.begin()?;
        if let Some(left) = &mut self.sync {
            if *left == 0 {
                self.crashed = self.crash;
                return Err(io::Error::from_raw_os_error(EIO));
            }
            *left -= 1;
        }
        self.syncs += 1;
        Ok(())
    }
}

impl FaultyDisk {
    /// Writes take `bytes` more, then fail.
    pub(crate) fn fail_writes_after(&self, bytes: u64, errno: i32) {
        self.shared.lock().write = Some((bytes, errno));
    }

    /// Writes to files with `part` in their name fail, at once.
    pub(crate) fn fail_writes_of(&self, part: &'static str, errno: i32) {
        let mut plan = self.shared.lock();
        (plan.write, plan.only) = (Some((0, errno)), Some(part));
    }

    /// From now on writes to files with `part` in their name wait until the gate is opened.
    pub(crate) fn close_gate(&self, part: &'static str) {
        *self.gate.closed.lock() = Some(part);
    }

    pub(crate) fn open_gate(&self) {
        *self.gate.closed.lock() = None;
        self.gate.changed.notify_all();
    }

    pub(crate) fn is_anyone_at_the_gate(&self) -> bool {
        *self.gate.waiting.lock() > 0
    }

    pub(crate) fn fail_syncs_after(&self, syncs: u64) {
        self.shared.lock().sync = Some(syncs);
    }

    /// The operation behind so many more (of creations, writes, syncs, renames and removals) fails; only that one.
    pub(crate) fn fail_step_after(&self, steps: u64, errno: i32) {
        self.shared.lock().step = Some((steps, errno));
    }

    /// Whether the step of [`FaultyDisk::fail_step_after`] was reached.
    pub(crate) fn has_failed_step(&self) -> bool {
        self.shared.lock().step.is_none()
    }

    /// Writes take no more than so many bytes at once.
    pub(crate) fn write_short(&self, bytes: usize) {
        self.shared.lock().short = Some(bytes);
    }

    /// Segments of the log that are removed are kept in a folder.
    pub(crate) fn archive(&self, folder: &Path) {
        self.shared.lock().archive = Some(folder.into());
    }

    /// The next injected failure ends everything, as the end of the process would.
    pub(crate) fn crash_on_failure(&self) {
        self.shared.lock().crash = true;
    }

    pub(crate) fn heal(&self) {
        let mut plan = self.shared.lock();
        (plan.write, plan.sync, plan.only) = (None, None, None);
    }

    pub(crate) fn syncs(&self) -> u64 {
        self.shared.lock().syncs
    }

    /// Takes away, of each file, a random part of what was not synced: its end, or pages of it, which then are zeros.
    pub(crate) fn lose_power(&self, rng: &mut impl Rng) {
        let plan = self.shared.lock();
        let mut files: Vec<_> = plan.files.iter().collect();
        files.sort();
        for (path, (length, synced)) in files {
            if length > synced && path.exists() {
                let file = File::options().write(true).open(path).unwrap();
                if rng.random() {
                    file.set_len(rng.random_range(*synced..=*length)).unwrap();
                    continue;
                }
                let page = [64, 512, 4096][rng.random_range(0..3)];
                for start in (synced / page * page..*length).step_by(page as usize) {
                    let (from, to) = (start.max(*synced), (start + page).min(*length));
                    if rng.random() {
                        file.write_all_at(&vec![0; (to - from) as usize], from).unwrap();
                    }
                }
            }
        }
    }
}

impl Disk for FaultyDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut plan = self.shared.lock();
        plan.begin()?;
        let file = RealDisk.create(path)?;
        plan.files.insert(path.into(), (0, 0));
        let path = Arc::new(Mutex::new(PathBuf::from(path)));
        Ok(Box::new(FaultyFile { file, path, shared: Arc::clone(&self.shared), gate: Arc::clone(&self.gate) }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut plan = self.shared.lock();
        plan.begin()?;
        RealDisk.rename(from, to)?;
        if let Some(lengths) = plan.files.remove(from) {
            plan.files.insert(to.into(), lengths);
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut plan = self.shared.lock();
        plan.begin()?;
        plan.files.remove(path);
        match (&plan.archive, path.file_name()) {
            (Some(archive), Some(name)) if name.to_string_lossy().ends_with(".seg") => {
                // A copy, for followers ask whether theirs still has a name; whole once it is there.
                let (copied, kept) = (archive.join("copied"), archive.join(name));
                fs::copy(path, &copied)?;
                fs::rename(copied, kept)?;
                RealDisk.remove(path)
            }
            _ => RealDisk.remove(path),
        }
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.shared.lock().sync()?;
        RealDisk.sync_folder(folder)
    }
}

#[derive(Debug)]
struct FaultyFile {
    file: Box<dyn DiskFile>,
    /// Under which it was made; a published file goes by the name without the suffix.
    path: Arc<Mutex<PathBuf>>,
    shared: Arc<Mutex<Plan>>,
    gate: Arc<Gate>,
}

impl FaultyFile {
    fn lengths<'a>(&self, plan: &'a mut Plan) -> Option<&'a mut (u64, u64)> {
        let mut path = self.path.lock();
        if !plan.files.contains_key(&*path) {
            *path = path.with_extension("");
        }
        plan.files.get_mut(&*path)
    }
}

impl DiskFile for FaultyFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let name = self.path.lock().file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        self.gate.pass(&name);
        let shared = Arc::clone(&self.shared);
        let mut plan = shared.lock();
        plan.begin()?;
        let mut allowed = bytes.len().min(plan.short.unwrap_or(usize::MAX));
        let concerned = plan.only.is_none_or(|part| name.contains(part));
        if let Some((left, errno)) = plan.write.filter(|_| concerned) {
            allowed = allowed.min(left as usize);
            if allowed == 0 {
                plan.crashed = plan.crash;
                return Err(io::Error::from_raw_os_error(errno));
            }
            plan.write = Some((left - allowed as u64, errno));
        }
        let written = self.file.write(&bytes[..allowed])?;
        if let Some((length, _)) = self.lengths(&mut plan) {
            *length += written as u64;
        }
        Ok(written)
    }

    fn sync(&mut self) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let mut plan = shared.lock();
        plan.sync()?;
        if let Some((length, synced)) = self.lengths(&mut plan) {
            *synced = *length;
        }
        drop(plan);
        self.file.sync()
    }
}
