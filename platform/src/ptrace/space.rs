//! Guest address spaces: the queue of changes, and the stub process that holds the mappings.

use std::any::Any;
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::command::{self, Command};
use super::kick::Kick;
use super::stub::{Layout, PAGE, StubMemory};
use super::thread::Thread;
use crate::{AddressSpace, Error, HostOp, Result, Retired, WorkerId};

/// A queued change with what must outlive it.
struct Queued {
    op: HostOp,
    retired: Vec<Retired>,
}

/// The stub process of an address space.
pub(super) struct Process {
    pub worker: WorkerId,
    pub tgid: i32,
    pub slot: u64,
    /// Contexts that exist.
    pub contexts: usize,
    /// All host threads but those that are exiting, the group leader first.
    pub threads: Vec<Arc<Thread>>,
    pub parked: Vec<Arc<Thread>>,
}

/// Life of the stub of an address space.
pub(super) enum Home {
    /// No context was made yet.
    Unborn,
    Alive(Process),
    /// The last context was dropped.
    Gone,
}

pub(super) struct SpaceCore {
    queue: Mutex<VecDeque<Queued>>,
    pending: AtomicBool,
    pub home: Mutex<Home>,
    /// Kick handles of all contexts.
    kicks: Mutex<Vec<Weak<Kick>>>,
}

/// What the Sentry holds.
pub(super) struct Space {
    pub core: Arc<SpaceCore>,
}

impl Space {
    pub fn new() -> Space {
        Space {
            core: Arc::new(SpaceCore {
                queue: Mutex::default(),
                pending: AtomicBool::new(false),
                home: Mutex::new(Home::Unborn),
                kicks: Mutex::default(),
            }),
        }
    }
}

impl AddressSpace for Space {
    fn queue(&self, op: HostOp, retired: Option<Retired>) {
        let mut queue = self.core.queue.lock();
        let retired = Vec::from_iter(retired);
        let mut new = Queued { op, retired };
        if let Some(last) = queue.back_mut() {
            match merge(&last.op, &new.op) {
                Some(merged) => {
                    last.op = merged;
                    last.retired.append(&mut new.retired);
                }
                None => queue.push_back(new),
            }
        } else {
            queue.push_back(new);
        }
        self.core.pending.store(true, Ordering::SeqCst);
    }

    fn shoot_down(&self) {
        for kick in self.core.kicks.lock().iter().filter_map(Weak::upgrade) {
            kick.kick_if_running();
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl SpaceCore {
    pub fn add_kick(&self, kick: &Arc<Kick>) {
        let mut kicks = self.kicks.lock();
        kicks.retain(|kick| kick.strong_count() > 0);
        kicks.push(Arc::downgrade(kick));
    }

    /// Forgets what is queued: the stub is gone.
    pub fn clear(&self) {
        let dropped = std::mem::take(&mut *self.queue.lock());
        self.pending.store(false, Ordering::Release);
        drop(dropped);
    }

    /// Whether something is queued. A context that asks after having marked itself running either
    /// learns of a change here, or is seen running by the `shoot_down` that follows the change.
    pub fn has_pending(&self) -> bool {
        self.pending.load(Ordering::SeqCst)
    }

    /// Carries out what is queued, on the stopped thread `tid`, whose registers are the stub's
    /// afterwards. A change the host refuses is dropped and its range unmapped; those after it stay
    /// queued.
    pub fn flush(&self, memory: &StubMemory, slot: u64, tid: i32) -> Result<()> {
        let mut ops = {
            let mut queue = self.queue.lock();
            self.pending.store(false, Ordering::Release);
            std::mem::take(&mut *queue)
        };
        let mut commands = Vec::with_capacity(ops.len());
        for (at, queued) in ops.iter().enumerate() {
            if !in_range(&memory.layout, &queued.op) {
                let source = io::Error::from_raw_os_error(libc::EINVAL);
                let error = refused(&queued.op, source);
                // Nothing was carried out yet; all but the bad one may be.
                ops.remove(at);
                self.put_back(ops);
                return Err(error);
            }
            commands.push(command(&queued.op));
        }
        let (done, failure) = command::batch(memory, slot, tid, &commands)?;
        let Some(source) = failure else {
            return Ok(());
        };
        let rest = ops.split_off((done + 1).min(ops.len()));
        let Some(mut failed) = ops.pop_back() else {
            return Ok(());
        };
        let error = refused(&failed.op, source);
        self.put_back(rest);
        // What was there must not stay: its memory may be reused, or be meant to be written no more.
        let (addr, len) = range(&failed.op);
        let unmap = HostOp::Unmap { addr, len };
        if command::single(&memory.layout, tid, &command(&unmap))?.is_err() {
            // Nor even that: nothing of this address space runs any more until it goes.
            failed.op = unmap;
            self.put_back(VecDeque::from([failed]));
        }
        Err(error)
    }

    /// Puts changes in front of those queued meanwhile.
    fn put_back(&self, mut ops: VecDeque<Queued>) {
        let mut queue = self.queue.lock();
        ops.append(&mut queue);
        self.pending.store(!ops.is_empty(), Ordering::Release);
        *queue = ops;
    }
}

fn refused(op: &HostOp, source: io::Error) -> Error {
    Error::Refused {
        op: format!("{op:x?}"),
        source,
    }
}

fn range(op: &HostOp) -> (u64, u64) {
    match *op {
        HostOp::Map { addr, len, .. }
        | HostOp::Unmap { addr, len }
        | HostOp::Protect { addr, len, .. } => (addr, len),
    }
}

/// The last line of defence for the stub's own pages.
fn in_range(layout: &Layout, op: &HostOp) -> bool {
    let (addr, len) = range(op);
    addr >= Layout::USER_START
        && addr.is_multiple_of(PAGE)
        && addr
            .checked_add(len)
            .is_some_and(|end| end <= layout.user_end)
}

fn command(op: &HostOp) -> Command {
    match op {
        HostOp::Map {
            addr,
            len,
            prot,
            file,
            offset,
            private,
            populate,
        } => {
            let mut flags = libc::MAP_FIXED;
            // Private pages are accounted for by the Sentry, not by the host.
            flags |= match private {
                true => libc::MAP_PRIVATE | libc::MAP_NORESERVE,
                false => libc::MAP_SHARED,
            };
            if *populate {
                flags |= libc::MAP_POPULATE;
            }
            Command {
                number: libc::SYS_mmap,
                args: [
                    *addr,
                    *len,
                    prot.bits() as u64,
                    flags as u64,
                    file.as_raw_fd() as u64,
                    *offset,
                ],
            }
        }
        HostOp::Unmap { addr, len } => Command {
            number: libc::SYS_munmap,
            args: [*addr, *len, 0, 0, 0, 0],
        },
        HostOp::Protect { addr, len, prot } => Command {
            number: libc::SYS_mprotect,
            args: [*addr, *len, prot.bits() as u64, 0, 0, 0],
        },
    }
}

/// One change that has the effect of two in a row, if there is one.
fn merge(first: &HostOp, second: &HostOp) -> Option<HostOp> {
    let (a, a_len) = range(first);
    let (b, b_len) = range(second);
    // What is mapped over need not be unmapped first.
    if let (HostOp::Unmap { .. }, HostOp::Map { .. }) = (first, second)
        && b <= a
        && a.checked_add(a_len)? <= b.checked_add(b_len)?
    {
        return Some(second.clone());
    }
    if a.checked_add(a_len)? != b {
        return None;
    }
    let len = a_len.checked_add(b_len)?;
    match (first, second) {
        (HostOp::Unmap { .. }, HostOp::Unmap { .. }) => Some(HostOp::Unmap { addr: a, len }),
        (HostOp::Protect { prot, .. }, HostOp::Protect { prot: other, .. }) if prot == other => {
            Some(HostOp::Protect {
                addr: a,
                len,
                prot: *prot,
            })
        }
        (
            HostOp::Map {
                prot,
                file,
                offset,
                private,
                populate,
                ..
            },
            HostOp::Map {
                prot: prot2,
                file: file2,
                offset: offset2,
                private: private2,
                populate: populate2,
                ..
            },
        ) if (prot, private, populate) == (prot2, private2, populate2)
            && Arc::ptr_eq(file, file2)
            && offset.checked_add(a_len) == Some(*offset2) =>
        {
            Some(HostOp::Map {
                addr: a,
                len,
                prot: *prot,
                file: file.clone(),
                offset: *offset,
                private: *private,
                populate: *populate,
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Prot;
    use crate::memory::MemFd;

    fn map(addr: u64, len: u64, offset: u64, file: &Arc<std::os::fd::OwnedFd>) -> HostOp {
        HostOp::Map {
            addr,
            len,
            prot: Prot::READ,
            file: file.clone(),
            offset,
            private: false,
            populate: false,
        }
    }

    #[test]
    fn adjacent_changes_merge_only_if_alike() {
        let file = Arc::new(MemFd::create(c"a").unwrap().into_fd());
        let other = Arc::new(MemFd::create(c"b").unwrap().into_fd());
        let first = map(0x10000, 0x1000, 0, &file);
        let merged = merge(&first, &map(0x11000, 0x2000, 0x1000, &file)).unwrap();
        assert_eq!(range(&merged), (0x10000, 0x3000));
        for different in [
            map(0x11000, 0x1000, 0x1000, &other),
            map(0x11000, 0x1000, 0x2000, &file),
            map(0x12000, 0x1000, 0x1000, &file),
            HostOp::Unmap {
                addr: 0x11000,
                len: 0x1000,
            },
        ] {
            assert!(merge(&first, &different).is_none(), "{different:?}");
        }
        let unmap = |addr, len| HostOp::Unmap { addr, len };
        let merged = merge(&unmap(0x1000, 0x1000), &unmap(0x2000, 0x1000)).unwrap();
        assert_eq!(range(&merged), (0x1000, 0x2000));
        // An unmap is absorbed by a mapping that covers it, and only by such a one.
        assert!(merge(&unmap(0x10000, 0x1000), &first).is_some());
        assert!(merge(&unmap(0x10000, 0x2000), &first).is_none());
    }

    #[test]
    fn changes_outside_the_guest_range_are_refused() {
        let layout = Layout {
            code: 0x7000_0000,
            command: 0x6fff_f000,
            user_end: 0x6fff_f000,
            vdso: None,
        };
        let unmap = |addr, len| HostOp::Unmap { addr, len };
        assert!(in_range(&layout, &unmap(0x10000, 0x1000)));
        assert!(!in_range(&layout, &unmap(0x10000, u64::MAX)));
        assert!(!in_range(&layout, &unmap(0x6fff_e000, 0x2000)));
        assert!(!in_range(&layout, &unmap(0x10001, 0x1000)));
        assert!(!in_range(&layout, &unmap(0, 0x1000)));
    }
}
