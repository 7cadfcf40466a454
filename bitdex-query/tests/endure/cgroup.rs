//! A memory cgroup for one process, where the machine lets one be made: all that the process uses, page cache included,
//! is held to the limit, and the kernel ends it where no more can be taken back.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

#[derive(Debug)]
pub(crate) struct Cgroup {
    folder: PathBuf,
}

impl Cgroup {
    /// Below the one that this process is in.
    pub(crate) fn with_limit(bytes: u64) -> io::Result<Self> {
        let own = fs::read_to_string("/proc/self/cgroup")?;
        // Number, controllers, path; of version 2 no controllers.
        let lines = || own.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
        let first = lines().find(|(controllers, _)| controllers.split(',').any(|one| one == "memory"));
        let (root, path, limit) = match (first, lines().find(|(controllers, _)| controllers.is_empty())) {
            (Some((_, path)), _) => ("/sys/fs/cgroup/memory", path, "memory.limit_in_bytes"),
            (None, Some((_, path))) => ("/sys/fs/cgroup", path, "memory.max"),
            (None, None) => return Err(io::ErrorKind::NotFound.into()),
        };
        let name = format!("bitdex-{}", std::process::id());
        let folder = Path::new(root).join(path.trim_start_matches('/')).join(name);
        fs::create_dir(&folder)?;
        let cgroup = Self { folder };
        fs::write(cgroup.folder.join(limit), bytes.to_string())?;
        Ok(cgroup)
    }

    /// The file to which a process writes its id to come in.
    pub(crate) fn processes(&self) -> PathBuf {
        self.folder.join("cgroup.procs")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // One that is left over is empty, and harms nothing.
        let _ = fs::remove_dir(&self.folder);
    }
}
