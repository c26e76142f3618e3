//! Pipes and memfds.

use crate::errno::{Errno, Result};
use crate::fs::fdtable::Exec;
use crate::fs::file::File;
use crate::fs::inode::OpenFlags;
use crate::fs::tmpfs;
use crate::kernel::task::Task;
use crate::syscalls::{Args, SysResult};

fn make(t: &Task, addr: u64, flags: i32) -> SysResult {
    if flags & !(libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_DIRECT) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let flags = OpenFlags::from_bits_truncate(flags);
    let exec = Exec::from_flags(flags);
    let (reader, writer) = crate::fs::pipe::pipe(t, flags);
    let r = t.add_file(reader, exec)?;
    let w = match t.add_file(writer, exec) {
        Ok(w) => w,
        Err(e) => {
            t.files().close(r)?;
            return Err(e.into());
        }
    };
    if let Err(e) = t.mm().write_obj(addr, &[r, w]) {
        t.files().close(r)?;
        t.files().close(w)?;
        return Err(e.into());
    }
    Ok(0)
}

pub async fn pipe(t: &Task, a: &Args) -> SysResult {
    make(t, a.u64(0), 0)
}

pub async fn pipe2(t: &Task, a: &Args) -> SysResult {
    make(t, a.u64(0), a.int(1))
}

pub async fn memfd_create(_: &Task, _: &Args) -> SysResult {
    Err(Errno::ENOSYS.into())
}

pub fn add_seals(_: &File, _: u32) -> Result<()> {
    Err(Errno::EINVAL)
}

pub fn get_seals(file: &File) -> Result<u32> {
    Ok(tmpfs::seals_of(file)?.seals().bits())
}
