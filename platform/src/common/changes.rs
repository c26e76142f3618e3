//! Changes of a guest address space: queued by the Sentry, merged, carried out as host calls.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::PAGE;
use crate::{Error, HostOp, Result, Retired};

/// A host system call for a stub.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Command {
    pub number: i64,
    pub args: [u64; 6],
}

/// A queued change with what must outlive it.
struct Queued {
    op: HostOp,
    retired: Vec<Retired>,
}

/// The queue of one address space.
#[derive(Default)]
pub(crate) struct Changes {
    queue: Mutex<VecDeque<Queued>>,
    pending: AtomicBool,
}

/// Changes on their way to a stub.
pub(crate) struct Batch {
    ops: VecDeque<Queued>,
    pub commands: Vec<Command>,
}

impl Batch {
    /// The changes, for a platform that carries them out itself.
    pub fn host_ops(&self) -> impl Iterator<Item = &HostOp> {
        self.ops.iter().map(|queued| &queued.op)
    }

    /// Whether something must outlive the change it is part of.
    pub fn retires(&self) -> bool {
        self.ops.iter().any(|queued| !queued.retired.is_empty())
    }
}

/// How a stub carries out calls: in order, up to the first that fails; how many succeeded and that
/// failure.
pub(crate) type Carried = (usize, Option<io::Error>);

impl Changes {
    pub fn push(&self, op: HostOp, retired: Option<Retired>) {
        let mut queue = self.queue.lock();
        let mut new = Queued {
            op,
            retired: Vec::from_iter(retired),
        };
        match queue.back_mut() {
            Some(last) => match merge(&last.op, &new.op) {
                Some(merged) => {
                    last.op = merged;
                    last.retired.append(&mut new.retired);
                }
                None => queue.push_back(new),
            },
            None => queue.push_back(new),
        }
        self.pending.store(true, Ordering::SeqCst);
    }

    /// Whether something is queued. A context that asks after having marked itself running either
    /// learns of a change here, or is seen running by the `shoot_down` that follows the change.
    pub fn pending(&self) -> bool {
        self.pending.load(Ordering::SeqCst)
    }

    /// Forgets what is queued, and a batch on its way: the stub is gone, or about to be. Gives what
    /// must outlive it.
    pub fn clear(&self, batch: Option<Batch>) -> Vec<Retired> {
        let queued = std::mem::take(&mut *self.queue.lock());
        self.pending.store(false, Ordering::Release);
        let taken = batch.into_iter().flat_map(|batch| batch.ops);
        taken.chain(queued).flat_map(|op| op.retired).collect()
    }

    /// Takes what is queued, if anything. `user`: lowest and highest (exclusive) address that may
    /// be changed; a change elsewhere is refused and forgotten.
    pub fn take(&self, user: (u64, u64)) -> Result<Option<Batch>> {
        let mut ops = {
            let mut queue = self.queue.lock();
            self.pending.store(false, Ordering::Release);
            std::mem::take(&mut *queue)
        };
        if let Some(bad) = ops.iter().position(|queued| !in_range(user, &queued.op)) {
            let error = match ops.remove(bad) {
                Some(queued) => refused(&queued.op, io::Error::from_raw_os_error(libc::EINVAL)),
                None => Error::Gone,
            };
            // All others may still be carried out.
            self.put_back(ops);
            return Err(error);
        }
        if ops.is_empty() {
            return Ok(None);
        }
        let commands = ops.iter().map(|queued| command(&queued.op)).collect();
        Ok(Some(Batch { ops, commands }))
    }

    /// Carries out what is queued by `carry`. A change the host refuses is dropped and its range
    /// unmapped; those after it stay queued. `carry` also hears whether anything is retired by it:
    /// then it must not return before the host has really done it.
    pub fn flush(
        &self,
        user: (u64, u64),
        mut carry: impl FnMut(&[Command], bool) -> Result<Carried>,
    ) -> Result<()> {
        let Some(batch) = self.take(user)? else {
            return Ok(());
        };
        match carry(&batch.commands, batch.retires())? {
            (_, None) => Ok(()),
            (done, Some(source)) => Err(self.failed(batch, done, source, carry)),
        }
    }

    /// After the change behind the first `done` ones of a batch was refused: gives that error.
    pub fn failed(
        &self,
        batch: Batch,
        done: usize,
        source: io::Error,
        mut carry: impl FnMut(&[Command], bool) -> Result<Carried>,
    ) -> Error {
        let retires = batch.retires();
        let mut ops = batch.ops;
        let rest = ops.split_off((done + 1).min(ops.len()));
        let Some(mut failed) = ops.pop_back() else {
            return Error::Gone;
        };
        let error = refused(&failed.op, source);
        self.put_back(rest);
        // What was there must not stay: its memory may be reused, or be meant to be written no more.
        let (addr, len) = range(&failed.op);
        let unmap = HostOp::Unmap { addr, len };
        match carry(&[command(&unmap)], retires) {
            Ok((_, None)) => {}
            Ok((_, Some(_))) => {
                // Nor even that: nothing of this address space runs any more until it goes.
                failed.op = unmap;
                self.put_back(VecDeque::from([failed]));
            }
            Err(error) => return error,
        }
        error
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
fn in_range(user: (u64, u64), op: &HostOp) -> bool {
    let (addr, len) = range(op);
    addr >= user.0
        && addr.is_multiple_of(PAGE)
        && addr.checked_add(len).is_some_and(|end| end <= user.1)
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
        let user = (0x10000, 0x6fff_f000);
        let unmap = |addr, len| HostOp::Unmap { addr, len };
        assert!(in_range(user, &unmap(0x10000, 0x1000)));
        assert!(!in_range(user, &unmap(0x10000, u64::MAX)));
        assert!(!in_range(user, &unmap(0x6fff_e000, 0x2000)));
        assert!(!in_range(user, &unmap(0x10001, 0x1000)));
        assert!(!in_range(user, &unmap(0, 0x1000)));
    }
}
