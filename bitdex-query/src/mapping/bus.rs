//! A last word where the kernel cannot read a page of a mapped file: the disk failed under it, or somebody made the file
//! shorter. The process ends by SIGBUS all the same, for there is nothing that it could go on with.

#![allow(unsafe_code)]

use std::{ffi::CStr, io, mem, ptr};

const MAPS: &CStr = c"/proc/self/maps";
/// Of a line of that file: two addresses, and a path of up to 4 KiB.
const LINE: usize = 4608;

/// Makes this process name the file before it ends so.
pub fn name_unreadable_files() -> io::Result<()> {
    // SAFETY: the struct consists of integers and of a handler, for which zeros are values.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = tell as extern "C" fn(_, _, _) as usize;
    // Only once: the access is then tried again, and ends the process as it would have.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESETHAND;
    // SAFETY: the action is whole and lives until after the call; the handler does nothing that is not allowed in one.
    match unsafe { libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Only calls what is safe in a signal handler: open, read, close, write.
extern "C" fn tell(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel hands over a valid struct; of a SIGBUS it holds the address.
    let address = unsafe { (*info).si_addr() } as usize;
    put(b"bitdex-query: the kernel cannot read a page of ");
    if !put_name(address) {
        put(b"a mapped file");
    }
    put(b": its disk failed, or it was made shorter; `bitdex-query check` tells what is damaged\n");
}

/// What cannot be written is lost.
fn put(bytes: &[u8]) {
    // SAFETY: the bytes are there for as long as the call takes.
    unsafe { libc::write(libc::STDERR_FILENO, bytes.as_ptr().cast(), bytes.len()) };
}

/// Writes the path of the file that is mapped at an address; false where none is.
fn put_name(address: usize) -> bool {
    // SAFETY: the path ends with a zero.
    let maps = unsafe { libc::open(MAPS.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    if maps < 0 {
        return false;
    }
    let (mut line, mut length, mut found) = ([0_u8; LINE], 0, false);
    let mut chunk = [0_u8; 1024];
    while !found {
        // SAFETY: as many bytes as are asked for fit into the chunk.
        let read = unsafe { libc::read(maps, chunk.as_mut_ptr().cast(), chunk.len()) };
        let Ok(read @ 1..) = usize::try_from(read) else { break };
        for byte in chunk.iter().take(read) {
            if *byte != b'\n' {
                if let Some(place) = line.get_mut(length) {
                    (*place, length) = (*byte, length + 1);
                }
                continue;
            }
            if let Some(name) = line.get(..length).and_then(|line| name_at(line, address)) {
                put(name);
                found = true;
                break;
            }
            length = 0;
        }
    }
    // SAFETY: the descriptor is this function's own.
    unsafe { libc::close(maps) };
    found
}

/// The path in a line of the kernel's list of mappings (`from-to perms offset device inode path`), where the address is
/// in it.
fn name_at(line: &[u8], address: usize) -> Option<&[u8]> {
    let text = str::from_utf8(line.get(..line.iter().position(|byte| *byte == b' ')?)?).ok()?;
    let (from, to) = text.split_once('-')?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    if !(number(from)?..number(to)?).contains(&address) {
        return None;
    }
    line.get(line.iter().position(|byte| *byte == b'/')?..)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_mappings_names_its_file() {
        let line = b"7f00a0000000-7f00a0010000 r--s 00000000 fe:01 123456                     /data/a b.pack";
        assert_eq!(name_at(line, 0x7f00_a000_0000), Some(&b"/data/a b.pack"[..]));
        assert_eq!(name_at(line, 0x7f00_a000_ffff), Some(&b"/data/a b.pack"[..]));
        assert_eq!(name_at(line, 0x7f00_a001_0000), None);
        assert_eq!(name_at(b"7f00a0000000-7f00a0010000 rw-p 00000000 00:00 0 ", 0x7f00_a000_0000), None);
        assert_eq!(name_at(b"", 0), None);
    }
}
