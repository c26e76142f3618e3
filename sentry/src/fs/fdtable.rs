//! Descriptor tables: numbers for open files. Shared between tasks by CLONE_FILES.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::errno::{Errno, Result};
use crate::fs::file::File;
use crate::fs::inode::OpenFlags;
use crate::fs::locks::Owner;

/// Most descriptors a table can ever have (/proc/sys/fs/nr_open).
pub const NR_OPEN: u64 = 1 << 20;

/// FD_CLOEXEC of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exec {
    Keep,
    Close,
}

impl Exec {
    /// From O_CLOEXEC among open flags.
    pub fn from_flags(flags: OpenFlags) -> Exec {
        if flags.contains(OpenFlags::CLOEXEC) {
            Exec::Close
        } else {
            Exec::Keep
        }
    }
}

#[derive(Clone)]
struct Slot {
    file: Arc<File>,
    exec: Exec,
}

#[derive(Clone, Default)]
struct Slots {
    slots: Vec<Option<Slot>>,
    /// No free number below this one.
    hint: usize,
}

/// See the module documentation.
pub struct FdTable {
    id: u64,
    inner: Mutex<Slots>,
}

impl Default for FdTable {
    fn default() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        FdTable {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            inner: Mutex::default(),
        }
    }
}

impl FdTable {
    pub fn new() -> Arc<FdTable> {
        Arc::default()
    }

    /// Unique while the sandbox lives; owns the POSIX record locks taken through the table.
    pub fn id(&self) -> u64 {
        self.id
    }

    pub fn lock_owner(&self) -> Owner {
        Owner::Process(self.id)
    }

    /// A copy (fork(2)).
    pub fn fork(&self) -> Arc<FdTable> {
        let table = FdTable::default();
        let slots = self.inner.lock().clone();
        *table.inner.lock() = slots;
        Arc::new(table)
    }

    /// The file behind `fd`. EBADF, also for O_PATH descriptors.
    pub fn get(&self, fd: i32) -> Result<Arc<File>> {
        let file = self.get_any(fd)?;
        if file.flags().contains(OpenFlags::PATH) {
            return Err(Errno::EBADF);
        }
        Ok(file)
    }

    /// The file behind `fd`, O_PATH or not.
    pub fn get_any(&self, fd: i32) -> Result<Arc<File>> {
        self.get_with_exec(fd).map(|(file, _)| file)
    }

    pub fn get_with_exec(&self, fd: i32) -> Result<(Arc<File>, Exec)> {
        let fd = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        match self.inner.lock().slots.get(fd) {
            Some(Some(slot)) => Ok((slot.file.clone(), slot.exec)),
            _ => Err(Errno::EBADF),
        }
    }

    /// The lowest free number from `min` on, below `limit` (RLIMIT_NOFILE). EMFILE.
    pub fn add(&self, file: Arc<File>, exec: Exec, min: i32, limit: u64) -> Result<i32> {
        let min = usize::try_from(min).map_err(|_| Errno::EINVAL)?;
        let limit = limit.min(NR_OPEN) as usize;
        let mut inner = self.inner.lock();
        let from = min.max(inner.hint);
        let free = inner
            .slots
            .iter()
            .skip(from)
            .position(Option::is_none)
            .map_or(inner.slots.len().max(from), |n| n + from);
        if free >= limit {
            return Err(Errno::EMFILE);
        }
        if free >= inner.slots.len() {
            inner.slots.resize(free + 1, None);
        }
        inner.slots[free] = Some(Slot { file, exec });
        if min <= inner.hint {
            inner.hint = free + 1;
        }
        i32::try_from(free).map_err(|_| Errno::EMFILE)
    }

    /// dup2(2): `fd` becomes `file`; what it was is closed. EBADF if beyond `limit`.
    pub fn set(&self, fd: i32, file: Arc<File>, exec: Exec, limit: u64) -> Result<()> {
        let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        if index as u64 >= limit.min(NR_OPEN) {
            return Err(Errno::EBADF);
        }
        let mut inner = self.inner.lock();
        if index >= inner.slots.len() {
            inner.slots.resize(index + 1, None);
        }
        let old = inner.slots[index].replace(Slot { file, exec });
        drop(inner);
        if let Some(old) = old {
            // dup2 does not report errors of the implicit close.
            let _ = self.closed(&old.file);
        }
        Ok(())
    }

    /// close(2). EBADF, or what flushing says; the number is free either way.
    pub fn close(&self, fd: i32) -> Result<()> {
        let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        let slot = {
            let mut inner = self.inner.lock();
            inner.take(index).ok_or(Errno::EBADF)?
        };
        self.closed(&slot.file)
    }

    fn closed(&self, file: &Arc<File>) -> Result<()> {
        if file.flags().contains(OpenFlags::PATH) {
            return Ok(());
        }
        if let Some(locks) = file.inode().extra().locks_if_any() {
            locks.release(self.lock_owner());
        }
        file.ops().flush(file)
    }

    pub fn set_exec(&self, fd: i32, exec: Exec) -> Result<()> {
        let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        match self.inner.lock().slots.get_mut(index) {
            Some(Some(slot)) => {
                slot.exec = exec;
                Ok(())
            }
            _ => Err(Errno::EBADF),
        }
    }

    /// close_range(2) over numbers `first..=last`.
    pub fn close_range(&self, first: u32, last: u32) {
        for file in self.take_range(first, last, |_| true) {
            let _ = self.closed(&file);
        }
    }

    /// close_range(2) with CLOSE_RANGE_CLOEXEC.
    pub fn set_exec_range(&self, first: u32, last: u32) {
        let mut inner = self.inner.lock();
        for slot in inner.range(first, last).iter_mut().flatten() {
            slot.exec = Exec::Close;
        }
    }

    /// execve(2).
    pub fn close_on_exec(&self) {
        for file in self.take_range(0, u32::MAX, |slot| slot.exec == Exec::Close) {
            let _ = self.closed(&file);
        }
    }

    fn take_range(&self, first: u32, last: u32, which: impl Fn(&Slot) -> bool) -> Vec<Arc<File>> {
        let mut inner = self.inner.lock();
        let mut taken = Vec::new();
        for slot in inner.range(first, last) {
            if slot.as_ref().is_some_and(&which)
                && let Some(slot) = slot.take()
            {
                taken.push(slot.file);
            }
        }
        if !taken.is_empty() {
            inner.hint = inner.hint.min(first as usize);
        }
        taken
    }

    /// The numbers in use, ascending.
    pub fn numbers(&self) -> Vec<i32> {
        let inner = self.inner.lock();
        let used = inner.slots.iter().enumerate().filter(|(_, s)| s.is_some());
        used.filter_map(|(i, _)| i32::try_from(i).ok()).collect()
    }

    /// FDSize of /proc/PID/status.
    pub fn capacity(&self) -> usize {
        self.inner.lock().slots.len().next_power_of_two().max(64)
    }
}

impl Slots {
    fn take(&mut self, index: usize) -> Option<Slot> {
        let slot = self.slots.get_mut(index)?.take()?;
        self.hint = self.hint.min(index);
        Some(slot)
    }

    fn range(&mut self, first: u32, last: u32) -> &mut [Option<Slot>] {
        let end = (last as usize).saturating_add(1).min(self.slots.len());
        let start = (first as usize).min(end);
        &mut self.slots[start..end]
    }
}

impl Drop for FdTable {
    fn drop(&mut self) {
        self.close_range(0, u32::MAX);
    }
}
