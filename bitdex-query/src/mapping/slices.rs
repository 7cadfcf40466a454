//! How long a thread keeps a core that others wait for. On Linux 6.12 and later, a thread that wakes takes the core at
//! once from one whose slices are longer; else it may wait for the scheduler's next tick, whatever their priorities.

#![allow(unsafe_code)]

use std::{io, mem, time::Duration};

/// Of a thread that answers: how long it keeps a core that another one that answers waits for.
pub const ANSWERING: Duration = Duration::from_micros(500);

/// Asks for slices of this length for this thread, and for those that it starts; `None`: the system's own. Older kernels
/// take no notice.
pub fn set_slice(slice: Option<Duration>) -> io::Result<()> {
    let size = mem::size_of::<libc::sched_attr>() as u32;
    // SAFETY: the struct consists of integers, for which zeros are values.
    let mut attributes: libc::sched_attr = unsafe { mem::zeroed() };
    // SAFETY: the kernel writes at most `size` bytes, as long as the struct, which lives until after the call; 0 is this
    // thread.
    if unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    attributes.size = size;
    attributes.sched_runtime = slice.map_or(0, |slice| slice.as_nanos() as u64);
    // SAFETY: the kernel reads `size` bytes, as long as the struct, which lives until after the call.
    match unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_asks_for_slices_keeps_its_priority() {
        let of_thread = || {
            rustix::process::nice(3).unwrap();
            set_slice(Some(Duration::from_micros(200))).unwrap();
            set_slice(None).unwrap();
            rustix::process::nice(0).unwrap()
        };
        let before = rustix::process::nice(0).unwrap();
        assert_eq!(std::thread::spawn(of_thread).join().unwrap(), before + 3);
    }
}
