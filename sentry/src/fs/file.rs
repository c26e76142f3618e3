//! Open files: the operations of an open file and the open file description around them.
//!
//! [`FileOps`] is what a file system, pipe, socket or device implements; [`File`] is Linux's open
//! file description: status flags and position, shared by dup and fork. Nothing here blocks: an
//! operation that would returns EAGAIN and the system-call layer waits on [`FileOps::wait_queue`].

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use parking_lot::Mutex;

use crate::errno::{Errno, Result};
use crate::fs::inode::{Attr, DirEntry, FileType, Inode, OpenFlags, SetAttr};
use crate::fs::notify::{self, Events};
use crate::fs::path::PathRef;
use crate::fs::sigio::{self, Subscribers};
use crate::kernel::task::Task;
use crate::kernel::wait::{Ready, WaitQueue};
use crate::mm::io::{Sink, Source};
use crate::mm::mappable::Mappable;

/// Whether reads and writes have a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Positioned {
    /// Regular files, block devices, directories.
    Yes,
    /// Pipes, sockets, terminals: lseek fails with ESPIPE, pread too.
    Stream,
}

/// Operations of an open file. Offsets and lengths are bytes.
pub trait FileOps: Any + Send + Sync {
    fn positioned(&self) -> Positioned {
        Positioned::Yes
    }

    /// Reads at `offset` (streams ignore it); Ok(0) is the end of the file. EAGAIN if it would
    /// block.
    fn read_at(&self, _file: &File, _dst: &mut Sink<'_>, _offset: u64) -> Result<usize> {
        Err(Errno::EINVAL)
    }

    /// Writes at `offset`. With O_APPEND, [`File`] passes `WriteAt::End`.
    /// Returns bytes written and, for positioned files, the position after them.
    fn write_at(&self, _file: &File, _src: &mut Source<'_>, _at: WriteAt) -> Result<(usize, u64)> {
        Err(Errno::EINVAL)
    }

    /// tee(2): copies what the next read would give, without taking it. Only pipes can.
    fn peek(&self, _file: &File, _dst: &mut [u8]) -> Result<usize> {
        Err(Errno::EINVAL)
    }

    /// lseek(2) for what only the file knows: its end, SEEK_DATA and SEEK_HOLE. Regular files and
    /// directories have a usable default from `attr`.
    fn seek(&self, file: &File, whence: Seek, offset: i64, current: u64) -> Result<u64> {
        let size = match whence {
            Seek::Set | Seek::Cur => 0,
            Seek::End | Seek::Data | Seek::Hole => file.attr()?.size,
        };
        default_seek(size, whence, offset, current)
    }

    /// Emits entries from position `pos` (0 at the start) until `emit` says no (false) or the end.
    /// Without `.` and `..`: the VFS adds them and shifts positions by two.
    fn readdir(
        &self,
        _file: &File,
        _pos: u64,
        _emit: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> Result<()> {
        Err(Errno::ENOTDIR)
    }

    /// What is ready now. Regular files are always ready.
    fn ready(&self, _file: &File) -> Ready {
        Ready::IN | Ready::OUT | Ready::RDNORM | Ready::WRNORM
    }

    /// Woken when `ready` changes. None: never changes (and epoll_ctl gives EPERM).
    fn wait_queue(&self) -> Option<&WaitQueue> {
        None
    }

    /// Those to be told by a signal (O_ASYNC). None: it tells nobody.
    fn subscribers(&self) -> Option<&Subscribers> {
        None
    }

    /// Who owns a file that nobody said it of, once it gets O_ASYNC: F_OWNER_* and the number.
    fn default_owner(&self, _task: &Task) -> Option<(i32, i32)> {
        None
    }

    /// ioctl(2); `arg` as the guest passed it. FIONBIO, FIOCLEX and friends are handled before.
    fn ioctl(&self, _task: &Task, _file: &File, _cmd: u32, _arg: u64) -> Result<u64> {
        Err(Errno::ENOTTY)
    }

    /// For mmap(2). ENODEV if it cannot be mapped.
    fn mappable(&self, _file: &File) -> Result<Arc<dyn Mappable>> {
        Err(Errno::ENODEV)
    }

    /// fsync(2), fdatasync(2). EINVAL for what cannot be synced.
    fn sync(&self, _file: &File) -> Result<()> {
        Err(Errno::EINVAL)
    }

    /// ftruncate(2) and the like on the open file; None: through the inode.
    fn set_attr(&self, file: &File, change: &SetAttr) -> Result<()> {
        file.inode().set_attr(change)
    }

    /// fstat(2) where the open file knows better than its inode (an unlinked host file); None:
    /// ask the inode.
    fn attr(&self, _file: &File) -> Result<Option<Attr>> {
        Ok(None)
    }

    /// fallocate(2): FALLOC_FL_* mode.
    fn allocate(&self, _file: &File, _mode: i32, _offset: u64, _len: u64) -> Result<()> {
        Err(Errno::ENODEV)
    }

    /// Each close(2) of a descriptor (not of the last description), for flush semantics.
    fn flush(&self, _file: &File) -> Result<()> {
        Ok(())
    }

    /// The last reference to the description went away.
    fn release(&self, _file: &File) {}

    /// Extra lines of /proc/PID/fdinfo/N after pos, flags, mnt_id and ino.
    fn fdinfo(&self, _file: &File) -> String {
        String::new()
    }

    fn as_any(&self) -> &dyn Any;
}

/// Where a write goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteAt {
    Offset(u64),
    /// O_APPEND: the end of the file, atomically.
    End,
}

/// whence of lseek(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    Set,
    Cur,
    End,
    Data,
    Hole,
}

/// lseek(2) over a file of `size` bytes without holes.
pub fn default_seek(size: u64, whence: Seek, offset: i64, current: u64) -> Result<u64> {
    let signed = |v: u64| i64::try_from(v).map_err(|_| Errno::EOVERFLOW);
    let target = match whence {
        Seek::Set => offset,
        Seek::Cur => signed(current)?
            .checked_add(offset)
            .ok_or(Errno::EOVERFLOW)?,
        Seek::End => signed(size)?.checked_add(offset).ok_or(Errno::EOVERFLOW)?,
        Seek::Data | Seek::Hole => {
            let at = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
            if at >= size {
                return Err(Errno::ENXIO);
            }
            return Ok(if whence == Seek::Data { at } else { size });
        }
    };
    u64::try_from(target).map_err(|_| Errno::EINVAL)
}

/// An open file description (open(2), "Open file descriptions").
pub struct File {
    ops: Arc<dyn FileOps>,
    /// Where it was opened. Pipes, sockets and other anonymous files have a path without a place in
    /// the tree, whose name is like `pipe:[123]`.
    path: PathRef,
    /// Access mode and status flags (O_APPEND, O_NONBLOCK, O_DIRECT, O_NOATIME, O_ASYNC).
    flags: AtomicI32,
    /// Position. The lock makes read and write on a shared description atomic (POSIX).
    pos: Mutex<u64>,
    /// Unique while the sandbox lives; identifies the owner of OFD and flock locks.
    id: u64,
    count: Count,
    /// Who gets SIGIO.
    pub owner: Mutex<sigio::Owner>,
}

/// How the description counts in [`crate::fs::extra::InodeExtra`] while it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Count {
    No,
    Writer,
    Program,
}

impl File {
    pub fn new(ops: Arc<dyn FileOps>, path: PathRef, flags: OpenFlags) -> Arc<File> {
        Self::make(ops, path, flags, Count::No)
    }

    /// A description that the caller has counted with `InodeExtra::get_write`.
    pub(in crate::fs) fn new_writer(
        ops: Arc<dyn FileOps>,
        path: PathRef,
        flags: OpenFlags,
    ) -> Arc<File> {
        Self::make(ops, path, flags, Count::Writer)
    }

    /// A description that the caller has counted with `InodeExtra::deny_write`.
    pub(in crate::fs) fn new_program(
        ops: Arc<dyn FileOps>,
        path: PathRef,
        flags: OpenFlags,
    ) -> Arc<File> {
        Self::make(ops, path, flags, Count::Program)
    }

    fn make(ops: Arc<dyn FileOps>, path: PathRef, flags: OpenFlags, count: Count) -> Arc<File> {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        let keep = !(OpenFlags::CREAT
            | OpenFlags::EXCL
            | OpenFlags::NOCTTY
            | OpenFlags::TRUNC
            | OpenFlags::CLOEXEC);
        Arc::new(File {
            ops,
            path,
            flags: AtomicI32::new((flags & keep).bits()),
            pos: Mutex::new(0),
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            count,
            owner: Mutex::default(),
        })
    }

    pub fn ops(&self) -> &Arc<dyn FileOps> {
        &self.ops
    }

    /// The concrete type behind the operations, if it is a `T`.
    pub fn downcast<T: FileOps>(&self) -> Option<&T> {
        self.ops.as_any().downcast_ref()
    }

    pub fn path(&self) -> &PathRef {
        &self.path
    }

    pub fn inode(&self) -> &Arc<dyn Inode> {
        self.path.inode()
    }

    pub fn id(&self) -> u64 {
        self.id
    }

    pub fn flags(&self) -> OpenFlags {
        OpenFlags::from_bits_retain(self.flags.load(Ordering::Relaxed))
    }

    /// F_SETFL and FIONBIO; the caller passes the whole new set.
    pub fn set_flags(&self, flags: OpenFlags) {
        self.flags.store(flags.bits(), Ordering::Relaxed);
    }

    pub fn nonblocking(&self) -> bool {
        self.flags().contains(OpenFlags::NONBLOCK)
    }

    pub fn ready(&self) -> Ready {
        self.ops.ready(self)
    }

    /// stat of the open file.
    pub fn attr(&self) -> Result<Attr> {
        match self.ops.attr(self)? {
            Some(attr) => Ok(attr),
            None => self.inode().attr(),
        }
    }

    fn check_readable(&self) -> Result<()> {
        if !self.flags().readable() {
            return Err(Errno::EBADF);
        }
        if self.inode().kind() == FileType::Dir {
            return Err(Errno::EISDIR);
        }
        Ok(())
    }

    /// read(2) without waiting: at the position, which moves.
    pub fn read(&self, dst: &mut Sink<'_>) -> Result<usize> {
        self.check_readable()?;
        if self.ops.positioned() == Positioned::Stream {
            return self.ops.read_at(self, dst, 0);
        }
        let mut pos = self.pos.lock();
        let n = self.ops.read_at(self, dst, *pos)?;
        *pos = pos.saturating_add(n as u64);
        drop(pos);
        self.was_read();
        Ok(n)
    }

    /// pread(2).
    pub fn pread(&self, dst: &mut Sink<'_>, offset: u64) -> Result<usize> {
        self.check_readable()?;
        if self.ops.positioned() == Positioned::Stream {
            return Err(Errno::ESPIPE);
        }
        let n = self.ops.read_at(self, dst, offset)?;
        self.was_read();
        Ok(n)
    }

    /// write(2) without waiting: at the position, or the end with O_APPEND.
    pub fn write(&self, src: &mut Source<'_>) -> Result<usize> {
        let flags = self.flags();
        if !flags.writable() {
            return Err(Errno::EBADF);
        }
        if self.ops.positioned() == Positioned::Stream {
            return self
                .ops
                .write_at(self, src, WriteAt::Offset(0))
                .map(|(n, _)| n);
        }
        let mut pos = self.pos.lock();
        let at = if flags.contains(OpenFlags::APPEND) {
            WriteAt::End
        } else {
            WriteAt::Offset(*pos)
        };
        let (n, after) = self.ops.write_at(self, src, at)?;
        *pos = after;
        drop(pos);
        self.was_written();
        Ok(n)
    }

    /// pwrite(2). On Linux O_APPEND wins over the offset.
    pub fn pwrite(&self, src: &mut Source<'_>, offset: u64) -> Result<usize> {
        let flags = self.flags();
        if !flags.writable() {
            return Err(Errno::EBADF);
        }
        if self.ops.positioned() == Positioned::Stream {
            return Err(Errno::ESPIPE);
        }
        let at = if flags.contains(OpenFlags::APPEND) {
            WriteAt::End
        } else {
            WriteAt::Offset(offset)
        };
        let (n, _) = self.ops.write_at(self, src, at)?;
        self.was_written();
        Ok(n)
    }

    /// lseek(2).
    pub fn seek(&self, whence: Seek, offset: i64) -> Result<u64> {
        if self.ops.positioned() == Positioned::Stream {
            return Err(Errno::ESPIPE);
        }
        let mut pos = self.pos.lock();
        *pos = self.ops.seek(self, whence, offset, *pos)?;
        Ok(*pos)
    }

    pub fn position(&self) -> u64 {
        *self.pos.lock()
    }

    /// Runs `f` with the position locked, as getdents64(2) and sendfile(2) need it.
    pub fn with_position<R>(&self, f: impl FnOnce(&mut u64) -> R) -> R {
        f(&mut self.pos.lock())
    }
}

impl File {
    /// Takes note of a read, for the access time and for watchers.
    fn was_read(&self) {
        use crate::fs::mount::MountFlags;
        if self.flags().contains(OpenFlags::NOATIME) {
            return;
        }
        let mount = self.path.mount.flags();
        if !mount.contains(MountFlags::NOATIME) && !self.path.mount.is_readonly() {
            self.inode().accessed(!mount.contains(MountFlags::RELATIME));
        }
        notify::file(&self.path.dentry, Events::ACCESS);
    }

    fn was_written(&self) {
        notify::file(&self.path.dentry, Events::MODIFY);
    }
}

impl Drop for File {
    fn drop(&mut self) {
        self.ops.release(self);
        let flags = self.flags();
        if flags.contains(OpenFlags::PATH) {
            return;
        }
        if let Some(locks) = self.inode().extra().locks_if_any() {
            locks.flock_release(self.id);
            locks.release(crate::fs::locks::Owner::Description(self.id));
        }
        match self.count {
            Count::No => {}
            Count::Writer => self.inode().extra().put_write(),
            Count::Program => self.inode().extra().allow_write(),
        }
        let event = if flags.writable() {
            Events::CLOSE_WRITE
        } else {
            Events::CLOSE_NOWRITE
        };
        notify::file(&self.path.dentry, event);
    }
}
