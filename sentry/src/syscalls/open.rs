//! Descriptors: open and close, dup, fcntl, flock, pipes, memfd.

use std::sync::Arc;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{Args, SysResult};
use crate::errno::{Errno, Error, Result};
use crate::fs::fdtable::Exec;
use crate::fs::file::{File, Positioned};
use crate::fs::inode::{FileType, OpenFlags};
use crate::fs::locks::{self, Kind, Owner, Range, Waiting};
use crate::fs::namei;
use crate::fs::open::{Opened, Special};
use crate::fs::pipe::{self, Pipe};
use crate::fs::sigio;
use crate::fs::tmpfs::{self, Options, Seals, Tmpfs};
use crate::fs::walk::{Base, Ctx, WalkFlags};
use crate::kernel::block::Stop;
use crate::kernel::task::Task;
use crate::kernel::wait::Ready;

const F_SETSIG: i32 = 10;
const F_GETSIG: i32 = 11;
const F_SETOWN_EX: i32 = 15;
const F_GETOWN_EX: i32 = 16;

/// A path argument.
pub(super) fn path_at(t: &Task, addr: u64) -> Result<Vec<u8>> {
    t.with_mm(|mm| mm.read_cstr(addr, libc::PATH_MAX as usize))
}

/// The file behind a place that is no regular file or directory.
pub(super) async fn open_special(t: &Task, special: Special) -> Result<Arc<File>, Error> {
    match special.kind {
        FileType::Fifo => pipe::open_fifo(t, special.path, special.flags).await,
        _ => Ok(crate::fs::dev::open(t, special)?),
    }
}

async fn open_file(
    t: &Task,
    base: &Base,
    path: &[u8],
    flags: OpenFlags,
    mode: u32,
    walk: WalkFlags,
) -> SysResult {
    let ctx = Ctx::of(t);
    let file = match ctx.open(base, path, flags, mode, walk)? {
        Opened::File(file) => file,
        Opened::Special(special) => open_special(t, special).await?,
    };
    Ok(t.add_file(file, Exec::from_flags(flags))? as u64)
}

pub async fn open(t: &Task, a: &Args) -> SysResult {
    let path = path_at(t, a.u64(0))?;
    let flags = OpenFlags::from_bits_truncate(a.int(1)) | OpenFlags::LARGEFILE;
    open_file(t, &Base::Cwd, &path, flags, a.uint(2), WalkFlags::empty()).await
}

pub async fn creat(t: &Task, a: &Args) -> SysResult {
    let path = path_at(t, a.u64(0))?;
    let flags = OpenFlags::CREAT | OpenFlags::WRONLY | OpenFlags::TRUNC | OpenFlags::LARGEFILE;
    open_file(t, &Base::Cwd, &path, flags, a.uint(1), WalkFlags::empty()).await
}

pub async fn openat(t: &Task, a: &Args) -> SysResult {
    let path = path_at(t, a.u64(1))?;
    let flags = OpenFlags::from_bits_truncate(a.int(2)) | OpenFlags::LARGEFILE;
    let base = namei::base(t, a.int(0), &path)?;
    open_file(t, &base, &path, flags, a.uint(3), WalkFlags::empty()).await
}

/// RESOLVE_* of openat2(2).
fn resolve_flags(resolve: u64) -> Result<WalkFlags> {
    let known = [
        (0x01, WalkFlags::NO_XDEV),
        (0x02, WalkFlags::NO_MAGICLINKS),
        (0x04, WalkFlags::NO_SYMLINKS | WalkFlags::NO_MAGICLINKS),
        (0x08, WalkFlags::BENEATH | WalkFlags::NO_MAGICLINKS),
        (0x10, WalkFlags::IN_ROOT | WalkFlags::NO_MAGICLINKS),
        (0x20, WalkFlags::CACHED),
    ];
    if resolve & !0x3f != 0 || resolve & 0x18 == 0x18 {
        return Err(Errno::EINVAL);
    }
    let set = known.iter().filter(|(bit, _)| resolve & bit != 0);
    Ok(set.fold(WalkFlags::empty(), |all, (_, flag)| all | *flag))
}

pub async fn openat2(t: &Task, a: &Args) -> SysResult {
    let size = a.len(3);
    if size < 24 {
        return Err(Errno::EINVAL.into());
    }
    if size > 4096 {
        return Err(Errno::E2BIG.into());
    }
    let mut how = vec![0; size];
    t.mm().read_bytes(a.u64(2), &mut how)?;
    if how[24..].iter().any(|b| *b != 0) {
        return Err(Errno::E2BIG.into());
    }
    let field = |i: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&how[i * 8..i * 8 + 8]);
        u64::from_ne_bytes(bytes)
    };
    let (bits, mode, resolve) = (field(0), field(1), field(2));
    let flags = i32::try_from(bits)
        .ok()
        .and_then(OpenFlags::from_bits)
        .ok_or(Errno::EINVAL)?;
    let creates = flags.contains(OpenFlags::CREAT)
        || flags.contains(OpenFlags::TMPFILE | OpenFlags::DIRECTORY);
    if mode & !0o7777 != 0 || (mode != 0 && !creates) {
        return Err(Errno::EINVAL.into());
    }
    let allowed = OpenFlags::PATH | OpenFlags::DIRECTORY | OpenFlags::NOFOLLOW | OpenFlags::CLOEXEC;
    if flags.contains(OpenFlags::PATH) && !(flags - allowed).is_empty() {
        return Err(Errno::EINVAL.into());
    }
    let walk = resolve_flags(resolve)?;
    let path = path_at(t, a.u64(1))?;
    // A scoped walk starts at the directory even for absolute paths.
    let scoped = walk.intersects(WalkFlags::BENEATH | WalkFlags::IN_ROOT);
    let start: &[u8] = if scoped { b"." } else { &path };
    let base = namei::base(t, a.int(0), start)?;
    let flags = flags | OpenFlags::LARGEFILE;
    open_file(t, &base, &path, flags, mode as u32, walk).await
}

pub async fn close(t: &Task, a: &Args) -> SysResult {
    t.files().close(a.int(0))?;
    Ok(0)
}

pub async fn close_range(t: &Task, a: &Args) -> SysResult {
    const UNSHARE: u32 = 2;
    const CLOEXEC: u32 = 4;
    let (first, last, flags) = (a.uint(0), a.uint(1), a.uint(2));
    if flags & !(UNSHARE | CLOEXEC) != 0 || first > last {
        return Err(Errno::EINVAL.into());
    }
    if flags & UNSHARE != 0 {
        let own = t.files().fork();
        t.set_files(Some(own));
    }
    if flags & CLOEXEC != 0 {
        t.files().set_exec_range(first, last);
    } else {
        t.files().close_range(first, last);
    }
    Ok(0)
}

fn nofile(t: &Task) -> u64 {
    t.group().limits.lock().soft(libc::RLIMIT_NOFILE)
}

pub async fn dup(t: &Task, a: &Args) -> SysResult {
    let file = t.any_file(a.int(0))?;
    Ok(t.add_file(file, Exec::Keep)? as u64)
}

pub async fn dup2(t: &Task, a: &Args) -> SysResult {
    let (old, new) = (a.int(0), a.int(1));
    let file = t.any_file(old)?;
    if old != new {
        t.files().set(new, file, Exec::Keep, nofile(t))?;
    }
    Ok(new as u64)
}

pub async fn dup3(t: &Task, a: &Args) -> SysResult {
    let (old, new, flags) = (a.int(0), a.int(1), a.int(2));
    if flags & !libc::O_CLOEXEC != 0 || old == new {
        return Err(Errno::EINVAL.into());
    }
    let exec = Exec::from_flags(OpenFlags::from_bits_truncate(flags));
    let file = t.any_file(old)?;
    t.files().set(new, file, exec, nofile(t))?;
    Ok(new as u64)
}

pub async fn pipe(t: &Task, a: &Args) -> SysResult {
    make_pipe(t, a.u64(0), 0)
}

pub async fn pipe2(t: &Task, a: &Args) -> SysResult {
    make_pipe(t, a.u64(0), a.int(1))
}

fn make_pipe(t: &Task, fds: u64, flags: i32) -> SysResult {
    let known = OpenFlags::CLOEXEC | OpenFlags::NONBLOCK | OpenFlags::DIRECT;
    let flags = OpenFlags::from_bits(flags)
        .filter(|f| known.contains(*f))
        .ok_or(Errno::EINVAL)?;
    let (read, write) = pipe::pipe(t, flags);
    let exec = Exec::from_flags(flags);
    let first = t.add_file(read, exec)?;
    let second = match t.add_file(write, exec) {
        Ok(fd) => fd,
        Err(e) => {
            let _ = t.files().close(first);
            return Err(e.into());
        }
    };
    if let Err(e) = t.mm().write_obj(fds, &[first, second]) {
        let _ = t.files().close(first);
        let _ = t.files().close(second);
        return Err(e.into());
    }
    Ok(0)
}

pub async fn memfd_create(t: &Task, a: &Args) -> SysResult {
    let flags = a.uint(1);
    let known =
        libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING | libc::MFD_NOEXEC_SEAL | libc::MFD_EXEC;
    if flags & !known != 0
        || flags & (libc::MFD_EXEC | libc::MFD_NOEXEC_SEAL)
            == libc::MFD_EXEC | libc::MFD_NOEXEC_SEAL
    {
        return Err(Errno::EINVAL.into());
    }
    let name = match t.mm().read_cstr(a.u64(0), 250) {
        Err(Errno::ENAMETOOLONG) => Err(Errno::EINVAL),
        other => other,
    }?;
    let no_exec = flags & libc::MFD_NOEXEC_SEAL != 0;
    let options = Options {
        size: Some(0),
        nr_inodes: Some(0),
        ..Options::default()
    };
    let fs = Tmpfs::new(t.kernel().memory.clone(), &options);
    let creds = t.creds();
    let sealing = flags & libc::MFD_ALLOW_SEALING != 0 || no_exec;
    let file = fs.memfd(&name, (creds.fsuid, creds.fsgid), sealing)?;
    if no_exec {
        let change = crate::fs::inode::SetAttr {
            perm: Some(0o666),
            ..Default::default()
        };
        file.inode().set_attr(&change)?;
        tmpfs::seals_of(&file)?.set_seals(Seals::EXEC);
    }
    let exec = if flags & libc::MFD_CLOEXEC != 0 {
        Exec::Close
    } else {
        Exec::Keep
    };
    Ok(t.add_file(file, exec)? as u64)
}

pub async fn flock(t: &Task, a: &Args) -> SysResult {
    let operation = a.int(1);
    let file = t.file(a.int(0))?;
    let kind = match operation & !libc::LOCK_NB {
        libc::LOCK_SH => Kind::Shared,
        libc::LOCK_EX => Kind::Exclusive,
        libc::LOCK_UN => {
            if let Some(locks) = file.inode().extra().locks_if_any() {
                locks.flock_release(file.id());
            }
            return Ok(0);
        }
        _ => return Err(Errno::EINVAL.into()),
    };
    let locks = file.inode().extra().locks();
    if operation & libc::LOCK_NB != 0 {
        locks.flock(file.id(), kind)?;
        return Ok(0);
    }
    t.wait_on(locks.queue(), Ready::all(), None, || {
        locks.flock(file.id(), kind)
    })
    .await
    .map_err(Stop::restart)?;
    Ok(0)
}

/// struct flock.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Flock {
    kind: i16,
    whence: i16,
    pad: u32,
    start: i64,
    len: i64,
    pid: i32,
    pad2: u32,
}

fn lock_range(file: &File, lock: &Flock) -> Result<Range> {
    let base = match i32::from(lock.whence) {
        libc::SEEK_SET => 0,
        libc::SEEK_CUR => file.position(),
        libc::SEEK_END => file.attr()?.size,
        _ => return Err(Errno::EINVAL),
    };
    let base = i64::try_from(base).map_err(|_| Errno::EOVERFLOW)?;
    let start = base.checked_add(lock.start).ok_or(Errno::EOVERFLOW)?;
    Range::new(start, lock.len)
}

/// F_GETLK, F_SETLK, F_SETLKW and their OFD twins.
async fn record_lock(t: &Task, file: &Arc<File>, cmd: i32, addr: u64) -> SysResult {
    let mut lock: Flock = t.mm().read_obj(addr)?;
    let ofd = matches!(
        cmd,
        libc::F_OFD_GETLK | libc::F_OFD_SETLK | libc::F_OFD_SETLKW
    );
    if ofd && lock.pid != 0 {
        return Err(Errno::EINVAL.into());
    }
    let (owner, pid) = if ofd {
        (Owner::Description(file.id()), -1)
    } else {
        (t.files().lock_owner(), t.pid())
    };
    let kind = match i32::from(lock.kind) {
        libc::F_RDLCK => Some(Kind::Shared),
        libc::F_WRLCK => Some(Kind::Exclusive),
        libc::F_UNLCK => None,
        _ => return Err(Errno::EINVAL.into()),
    };
    let range = lock_range(file, &lock)?;
    if matches!(cmd, libc::F_GETLK | libc::F_OFD_GETLK) {
        // OFD locks may ask with F_UNLCK for any lock of theirs; that finds none here.
        let kind = kind.ok_or(Errno::EINVAL)?;
        let found = file.inode().extra().locks_if_any();
        match found.and_then(|l| l.test(owner, kind, range)) {
            None => lock.kind = libc::F_UNLCK as i16,
            Some(other) => {
                lock.kind = match other.kind {
                    Kind::Shared => libc::F_RDLCK as i16,
                    Kind::Exclusive => libc::F_WRLCK as i16,
                };
                lock.whence = libc::SEEK_SET as i16;
                lock.start = i64::try_from(other.range.start).unwrap_or(i64::MAX);
                lock.len = i64::try_from(other.range.len()).unwrap_or(0);
                lock.pid = other.pid;
            }
        }
        t.mm().write_obj(addr, &lock)?;
        return Ok(0);
    }
    let Some(kind) = kind else {
        if let Some(locks) = file.inode().extra().locks_if_any() {
            locks.unlock(owner, range);
        }
        return Ok(0);
    };
    let flags = file.flags();
    let allowed = match kind {
        Kind::Shared => flags.readable(),
        Kind::Exclusive => flags.writable(),
    };
    if !allowed {
        return Err(Errno::EBADF.into());
    }
    let locks = file.inode().extra().locks();
    if matches!(cmd, libc::F_SETLK | libc::F_OFD_SETLK) {
        locks.lock(owner, pid, kind, range, Waiting::No)?;
        return Ok(0);
    }
    let result = t
        .wait_on(locks.queue(), Ready::all(), None, || {
            locks.lock(owner, pid, kind, range, Waiting::Yes)
        })
        .await;
    locks::stop_waiting(owner);
    result.map_err(Stop::restart)?;
    Ok(0)
}

/// Status flags that F_SETFL can change.
const SETTABLE: OpenFlags = OpenFlags::APPEND
    .union(OpenFlags::NONBLOCK)
    .union(OpenFlags::ASYNC)
    .union(OpenFlags::DIRECT)
    .union(OpenFlags::NOATIME);

fn set_status(t: &Task, file: &Arc<File>, fd: i32, bits: i32) -> SysResult {
    let new = OpenFlags::from_bits_truncate(bits) & SETTABLE;
    let old = file.flags();
    if new.contains(OpenFlags::NOATIME)
        && !old.contains(OpenFlags::NOATIME)
        && !crate::fs::perm::is_owner(&file.attr()?, &t.creds())
    {
        return Err(Errno::EPERM.into());
    }
    let seals = tmpfs::seals_of(file).map(|d| d.seals());
    let sealed = seals.is_ok_and(|s| s.contains(Seals::WRITE));
    if sealed && old.contains(OpenFlags::APPEND) && !new.contains(OpenFlags::APPEND) {
        return Err(Errno::EPERM.into());
    }
    if (new ^ old).contains(OpenFlags::ASYNC) {
        sigio::set_async(t, file, fd, new.contains(OpenFlags::ASYNC));
    }
    file.set_flags((old - SETTABLE) | new);
    Ok(0)
}

pub async fn fcntl(t: &Task, a: &Args) -> SysResult {
    const F_DUPFD_QUERY: i32 = 1027;
    const F_GET_RW_HINT: i32 = 1035;
    const F_SET_FILE_RW_HINT: i32 = 1038;
    let (fd, cmd, arg) = (a.int(0), a.int(1), a.u64(2));
    let files = t.files();
    let (file, exec) = files.get_with_exec(fd)?;
    match cmd {
        libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => {
            let limit = nofile(t);
            let min = arg as i32;
            if min < 0 || min as u64 >= limit {
                return Err(Errno::EINVAL.into());
            }
            let exec = if cmd == libc::F_DUPFD {
                Exec::Keep
            } else {
                Exec::Close
            };
            return Ok(files.add(file, exec, min, limit)? as u64);
        }
        libc::F_GETFD => return Ok(u64::from(exec == Exec::Close)),
        libc::F_SETFD => {
            let close = arg & libc::FD_CLOEXEC as u64 != 0;
            files.set_exec(fd, if close { Exec::Close } else { Exec::Keep })?;
            return Ok(0);
        }
        libc::F_GETFL => return Ok(file.flags().bits() as u64),
        F_DUPFD_QUERY => {
            let other = files.get_any(arg as i32)?;
            return Ok(u64::from(Arc::ptr_eq(&file, &other)));
        }
        _ => {}
    }
    if file.flags().contains(OpenFlags::PATH) {
        return Err(Errno::EBADF.into());
    }
    match cmd {
        libc::F_SETFL => set_status(t, &file, fd, arg as i32),
        libc::F_GETLK
        | libc::F_SETLK
        | libc::F_SETLKW
        | libc::F_OFD_GETLK
        | libc::F_OFD_SETLK
        | libc::F_OFD_SETLKW => record_lock(t, &file, cmd, arg).await,
        libc::F_GETOWN => Ok(i64::from(sigio::owner_number(&file)) as u64),
        libc::F_SETOWN => {
            sigio::set_owner_number(&file, t, arg as i32)?;
            Ok(0)
        }
        F_GETOWN_EX => {
            let owner = file.owner.lock().clone();
            let (kind, id) = owner.told();
            t.mm().write_obj(arg, &[kind, id])?;
            Ok(0)
        }
        F_SETOWN_EX => {
            let [kind, id]: [i32; 2] = t.mm().read_obj(arg)?;
            sigio::set_owner(&file, t, kind, id)?;
            Ok(0)
        }
        F_GETSIG => Ok(file.owner.lock().signal as u64),
        F_SETSIG => {
            let signal = arg as i32;
            if !(0..=64).contains(&signal) {
                return Err(Errno::EINVAL.into());
            }
            file.owner.lock().signal = signal;
            Ok(0)
        }
        libc::F_GETLEASE => Ok(libc::F_UNLCK as u64),
        libc::F_SETLEASE => match (arg as i32, file.inode().kind()) {
            (libc::F_RDLCK | libc::F_WRLCK | libc::F_UNLCK, FileType::Regular) => {
                Err(Errno::EAGAIN.into())
            }
            _ => Err(Errno::EINVAL.into()),
        },
        libc::F_SETPIPE_SZ | libc::F_GETPIPE_SZ => {
            let pipe = Pipe::of(&file).ok_or(Errno::EBADF)?;
            if cmd == libc::F_GETPIPE_SZ {
                return Ok(pipe.capacity() as u64);
            }
            Ok(pipe.set_capacity(t, arg)? as u64)
        }
        libc::F_GET_SEALS => Ok(u64::from(tmpfs::seals_of(&file)?.seals().bits())),
        libc::F_ADD_SEALS => {
            let data = tmpfs::seals_of(&file)?;
            let seals = Seals::from_bits(arg as u32).ok_or(Errno::EINVAL)?;
            if !file.flags().writable() {
                return Err(Errno::EPERM.into());
            }
            data.add_seals(seals)?;
            Ok(0)
        }
        F_GET_RW_HINT..=F_SET_FILE_RW_HINT => rw_hint(t, &file, cmd, arg),
        _ => Err(Errno::EINVAL.into()),
    }
}

/// F_GET_RW_HINT and friends: a hint is kept nowhere, so it is always "not set".
fn rw_hint(t: &Task, file: &File, cmd: i32, addr: u64) -> SysResult {
    if file.ops().positioned() == Positioned::Stream {
        return Err(Errno::EINVAL.into());
    }
    if (cmd - 1035) % 2 == 0 {
        t.mm().write_obj(addr, &0u64)?;
        return Ok(0);
    }
    let hint: u64 = t.mm().read_obj(addr)?;
    if hint > 5 {
        return Err(Errno::EINVAL.into());
    }
    Ok(0)
}
