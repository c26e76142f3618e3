//! The windows that a thread used last.
//!
//! The MemoryFile's table of windows is shared by all threads: a look-up there takes a lock, a hash
//! and a counted reference, which together cost more than a small copy. Most accesses go where the
//! ones before went, so each thread keeps what it used last for itself. A window kept here outlives
//! its place in the table; the few there can be cost address space only.
//!
//! The same for host files that guests have mapped: constants of a program (a path, a message) are
//! read there, and a host call each time would cost as much as all the rest.

use std::cell::RefCell;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

use runsc_platform::memory::Window;

use crate::errno::{Errno, Result};
use crate::mm::memory_file::{CHUNK, FileRange, MemoryFile};

/// Windows kept by a thread: one for each remainder of the chunk's number.
const SLOTS: usize = 8;

/// A window of the MemoryFile `fd`.
pub(crate) struct Recent {
    /// Tells MemoryFiles apart, and keeps the descriptor from being another one's.
    fd: Arc<OwnedFd>,
    chunk: u64,
    window: Arc<Window>,
}

impl std::ops::Deref for Recent {
    type Target = Window;

    fn deref(&self) -> &Window {
        &self.window
    }
}

thread_local! {
    static RECENT: RefCell<[Option<Rc<Recent>>; SLOTS]> =
        const { RefCell::new([const { None }; SLOTS]) };
}

/// As [`MemoryFile::window`]: window, position in it, bytes from there to its end.
///
/// # Errors
/// ENOMEM.
pub(crate) fn window(memory: &MemoryFile, offset: u64) -> Result<(Rc<Recent>, usize, usize)> {
    let chunk = offset / CHUNK;
    let pos = (offset % CHUNK) as usize;
    let avail = CHUNK as usize - pos;
    RECENT.with_borrow_mut(|slots| {
        let slot = &mut slots[chunk as usize % SLOTS];
        if let Some(recent) = slot
            && recent.chunk == chunk
            && Arc::ptr_eq(&recent.fd, memory.fd())
        {
            return Ok((recent.clone(), pos, avail));
        }
        let recent = Rc::new(Recent {
            fd: memory.fd().clone(),
            chunk,
            window: memory.window(offset)?.0,
        });
        *slot = Some(recent.clone());
        Ok((recent, pos, avail))
    })
}

/// Bytes of a window on a host file.
const HOST_CHUNK: u64 = 1 << 20;

thread_local! {
    static RECENT_HOST: RefCell<[Option<Rc<Recent>>; SLOTS]> =
        const { RefCell::new([const { None }; SLOTS]) };
}

/// A window to read byte `offset` of a host file through: window, position in it, bytes from there
/// to its end, which may be beyond the end of the file. None if the host does not map it.
pub(crate) fn host(fd: &Arc<OwnedFd>, offset: u64) -> Option<(Rc<Recent>, usize, usize)> {
    let chunk = offset / HOST_CHUNK;
    let pos = (offset % HOST_CHUNK) as usize;
    let avail = HOST_CHUNK as usize - pos;
    RECENT_HOST.with_borrow_mut(|slots| {
        let slot = &mut slots[(fd.as_raw_fd() as usize).wrapping_add(chunk as usize) % SLOTS];
        if let Some(recent) = slot
            && recent.chunk == chunk
            && Arc::ptr_eq(&recent.fd, fd)
        {
            return Some((recent.clone(), pos, avail));
        }
        let len = HOST_CHUNK as usize;
        let window = Window::map(fd.as_fd(), chunk * HOST_CHUNK, len, false).ok()?;
        let recent = Rc::new(Recent {
            fd: fd.clone(),
            chunk,
            window: Arc::new(window),
        });
        *slot = Some(recent.clone());
        Some((recent, pos, avail))
    })
}

/// As [`FileRange::window`] for byte `off` of `range`, which is one of `memory`.
///
/// # Errors
/// ENOMEM; EFAULT beyond the end of the range.
pub(crate) fn of_range(
    memory: &MemoryFile,
    range: &FileRange,
    off: u64,
) -> Result<(Rc<Recent>, usize, usize)> {
    let left = range.len().checked_sub(off).filter(|left| *left > 0);
    let left = left.ok_or(Errno::EFAULT)?;
    let (recent, pos, avail) = window(memory, range.offset() + off)?;
    Ok((
        recent,
        pos,
        avail.min(usize::try_from(left).unwrap_or(usize::MAX)),
    ))
}
