//! How long a thread keeps a core that others wait for. On Linux 6.12 and later, a thread that wakes takes the core at
//! once from one whose slices are longer; else it may wait for the scheduler's next tick, whatever their priorities.

#![allow(unsafe_code)]

use std::{
    cell::Cell,
    io, mem, thread,
    time::{Duration, Instant},
};

/// Of a thread that answers: how long it keeps a core that another one that answers waits for.
pub const ANSWERING: Duration = Duration::from_micros(100);
/// Of a thread that steps back: how long it keeps a core that another one waits for.
const CHANGING: Duration = Duration::from_micros(200);
/// Calls of [`give_way`] between two looks at the clock.
const CALLS: u32 = 4;

thread_local! {
    /// Since when this thread, which steps back, has had the core, and calls since it last looked at the clock.
    static STEPPED_BACK: Cell<Option<(Instant, u32)>> = const { Cell::new(None) };
}

/// Lets threads that answer go before this one, and before those that it starts: it is nicer, by so much, and gives way
/// where it says that it can. Where the system refuses, it is only ruder.
pub fn step_back(by: i32) {
    let _ = rustix::process::nice(by);
    let _ = set_slice(CHANGING);
    STEPPED_BACK.set(Some((Instant::now(), 0)));
}

/// Whether a thread has stepped back: the system lets the threads that it starts do so too, [`give_way`] does not.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    stepped_back: bool,
}

impl Manner {
    pub fn of_this_thread() -> Self {
        Self { stepped_back: STEPPED_BACK.get().is_some() }
    }

    /// For a thread that this one's has started.
    pub fn take_over(self) {
        STEPPED_BACK.set(self.stepped_back.then(|| (Instant::now(), 0)));
    }
}

/// A thread that has stepped back says, every few microseconds, that others may have the core now. Without that, one
/// that waits in vain for the end of a slice may wait until the system's next tick, up to 10 ms.
#[inline]
pub fn give_way() {
    if let Some((since, calls)) = STEPPED_BACK.get() {
        STEPPED_BACK.set(Some((since, calls + 1)));
        if calls >= CALLS {
            look(since);
        }
    }
}

#[cold]
fn look(since: Instant) {
    let since = if since.elapsed() < CHANGING {
        since
    } else {
        thread::yield_now();
        Instant::now()
    };
    STEPPED_BACK.set(Some((since, 0)));
}

/// Asks for slices of this length for this thread, and for those that it starts. Older kernels take no notice.
pub fn set_slice(slice: Duration) -> io::Result<()> {
    let size = mem::size_of::<libc::sched_attr>() as u32;
    // SAFETY: the struct consists of integers, for which zeros are values.
    let mut attributes: libc::sched_attr = unsafe { mem::zeroed() };
    // SAFETY: the kernel writes at most `size` bytes, as long as the struct, which lives until after the call; 0 is this
    // thread.
    if unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    attributes.size = size;
    attributes.sched_runtime = slice.as_nanos() as u64;
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
    fn a_thread_that_steps_back_is_nicer_and_gives_way_and_others_are_as_they_were() {
        let of_thread = || {
            step_back(3);
            let began = Instant::now();
            while began.elapsed() < CHANGING * 2 {
                give_way();
            }
            let (since, _) = STEPPED_BACK.get().unwrap();
            assert!(since > began, "it has given way since");
            let manner = Manner::of_this_thread();
            let started = thread::spawn(move || {
                let before = STEPPED_BACK.get();
                manner.take_over();
                (before, STEPPED_BACK.get().is_some(), rustix::process::nice(0).unwrap())
            });
            assert_eq!(started.join().unwrap(), (None, true, rustix::process::nice(0).unwrap()));
            rustix::process::nice(0).unwrap()
        };
        let before = rustix::process::nice(0).unwrap();
        assert_eq!(thread::spawn(of_thread).join().unwrap(), before + 3);
        give_way();
        assert_eq!((STEPPED_BACK.get(), rustix::process::nice(0).unwrap()), (None, before));
    }

    #[test]
    fn slices_can_be_asked_for() {
        thread::spawn(|| set_slice(ANSWERING).unwrap()).join().unwrap();
    }
}
