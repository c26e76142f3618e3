//! getsockopt(2), setsockopt(2): the value in and out; what it means is the socket's.

use super::socket_of;
use crate::errno::Errno;
use crate::kernel::task::Task;
use crate::syscalls::{Args, SysResult};

/// Longest value taken: no option that is supported has more.
const MAX_VALUE: usize = 1024;

pub async fn setsockopt(t: &Task, a: &Args) -> SysResult {
    let socket = socket_of(t, a.int(0))?;
    let len = usize::try_from(a.int(4)).map_err(|_| Errno::EINVAL)?;
    let mut value = vec![0; len.min(MAX_VALUE)];
    if !value.is_empty() {
        t.mm().read_bytes(a.u64(3), &mut value)?;
    }
    socket.set_option(t, a.int(1), a.int(2), &value)?;
    Ok(0)
}

pub async fn getsockopt(t: &Task, a: &Args) -> SysResult {
    let socket = socket_of(t, a.int(0))?;
    let room: i32 = t.mm().read_obj(a.u64(4))?;
    let room = usize::try_from(room).map_err(|_| Errno::EINVAL)?;
    let value = socket.option(t, a.int(1), a.int(2), room)?;
    if a.int(2) == libc::SO_PEERGROUPS && a.int(1) == libc::SOL_SOCKET && value.len() > room {
        // This one is not cut.
        t.mm().write_obj(a.u64(4), &(value.len() as u32))?;
        return Err(Errno::ERANGE.into());
    }
    let n = value.len().min(room);
    t.mm().write_bytes(a.u64(3), &value[..n])?;
    t.mm().write_obj(a.u64(4), &(n as u32))?;
    Ok(0)
}
