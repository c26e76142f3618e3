//! pipe(2), pipe2(2).

use crate::errno::{Errno, Result};
use crate::fs::fdtable::Exec;
use crate::fs::inode::OpenFlags;
use crate::kernel::task::Task;
use crate::syscalls::{Args, SysResult};

/// Installs two files and tells their numbers; neither stays if that fails.
pub(super) fn install_pair(
    t: &Task,
    files: [std::sync::Arc<crate::fs::file::File>; 2],
    exec: Exec,
    addr: u64,
) -> Result<()> {
    let table = t.files();
    let [a, b] = files;
    let first = t.add_file(a, exec)?;
    let second = match t.add_file(b, exec) {
        Ok(second) => second,
        Err(e) => {
            table.close(first)?;
            return Err(e);
        }
    };
    if let Err(e) = t.mm().write_obj(addr, &[first, second]) {
        table.close(first)?;
        table.close(second)?;
        return Err(e);
    }
    Ok(())
}

fn make(t: &Task, addr: u64, flags: OpenFlags) -> SysResult {
    let known = OpenFlags::CLOEXEC | OpenFlags::NONBLOCK | OpenFlags::DIRECT;
    if !known.contains(flags) {
        return Err(Errno::EINVAL.into());
    }
    let (read, write) = crate::fs::pipe::pipe(t, flags);
    install_pair(t, [read, write], Exec::from_flags(flags), addr)?;
    Ok(0)
}

pub async fn pipe(t: &Task, a: &Args) -> SysResult {
    make(t, a.u64(0), OpenFlags::empty())
}

pub async fn pipe2(t: &Task, a: &Args) -> SysResult {
    make(t, a.u64(0), OpenFlags::from_bits_retain(a.int(1)))
}
