//! seccomp(2), and what prctl(2) has of it.

use std::sync::Arc;

use crate::errno::{Errno, Result};
use crate::kernel::cred::Cap;
use crate::kernel::seccomp::bpf::{Insn, MAX_LEN, Program};
use crate::kernel::seccomp::listener::{self, Listener};
use crate::kernel::seccomp::{self as filters, Filter, Seccomp};
use crate::kernel::task::Task;
use crate::mm::io::UserMemory;
use crate::syscalls::{Args, SysResult};

bitflags::bitflags! {
    /// SECCOMP_FILTER_FLAG_*.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Flags: u32 {
        const TSYNC = 1;
        const LOG = 1 << 1;
        /// The Sentry has no speculation to control.
        const SPEC_ALLOW = 1 << 2;
        const NEW_LISTENER = 1 << 3;
        const TSYNC_ESRCH = 1 << 4;
        const WAIT_KILLABLE_RECV = 1 << 5;
    }
}

pub async fn seccomp(t: &Task, a: &Args) -> SysResult {
    const SET_MODE_STRICT: u32 = 0;
    const SET_MODE_FILTER: u32 = 1;
    const GET_ACTION_AVAIL: u32 = 2;
    const GET_NOTIF_SIZES: u32 = 3;
    match a.uint(0) {
        SET_MODE_STRICT if a.uint(1) == 0 && a.u64(2) == 0 => set_strict(t),
        SET_MODE_FILTER => set_filter(t, a.uint(1), a.u64(2)),
        GET_ACTION_AVAIL if a.uint(1) == 0 => is_available(t, a.u64(2)),
        GET_NOTIF_SIZES if a.uint(1) == 0 => {
            let sizes = listener::SIZES.map(u16::to_ne_bytes);
            t.mm().write_bytes(a.u64(2), sizes.as_flattened())?;
            Ok(0)
        }
        _ => Err(Errno::EINVAL.into()),
    }
}

/// PR_SET_SECCOMP.
pub fn set_mode(t: &Task, mode: u64, program: u64) -> SysResult {
    match mode {
        1 => set_strict(t),
        2 => set_filter(t, 0, program),
        _ => Err(Errno::EINVAL.into()),
    }
}

fn set_strict(t: &Task) -> SysResult {
    let _filters = t.group().filters.lock();
    if t.seccomp().is_some() {
        return Err(Errno::EINVAL.into());
    }
    t.set_seccomp(Some(Seccomp::Strict));
    Ok(0)
}

fn set_filter(t: &Task, flags: u32, program: u64) -> SysResult {
    let flags = Flags::from_bits(flags).ok_or(Errno::EINVAL)?;
    let listens = flags.contains(Flags::NEW_LISTENER);
    // What both return would be told apart by nobody.
    if listens && flags.contains(Flags::TSYNC) && !flags.contains(Flags::TSYNC_ESRCH)
        || flags.contains(Flags::WAIT_KILLABLE_RECV) && !listens
    {
        return Err(Errno::EINVAL.into());
    }
    let program = read_program(t, program)?;
    if !listens {
        return set_program(t, &program, flags, None);
    }
    let (listener, fd) = listener::open(t, flags.contains(Flags::WAIT_KILLABLE_RECV))?;
    match set_program(t, &program, flags, Some(&listener)) {
        Ok(_) => Ok(fd as u64),
        Err(e) => {
            // Another thread may have been faster.
            let _ = t.files().close(fd);
            Err(e)
        }
    }
}

fn set_program(
    t: &Task,
    program: &Program,
    flags: Flags,
    listener: Option<&Arc<Listener>>,
) -> SysResult {
    loop {
        // Built without the lock, which others wait for that hold the tree's.
        let before = t.seccomp();
        let filter = build(t, program, before.as_ref(), flags)?;
        let _filters = t.group().filters.lock();
        let same = match (&before, &t.seccomp()) {
            (None, None) => true,
            (Some(Seccomp::Filter(a)), Some(Seccomp::Filter(b))) => Arc::ptr_eq(a, b),
            _ => false,
        };
        if same {
            if let Some(listener) = listener {
                if filter.has_listener() {
                    return Err(Errno::EBUSY.into());
                }
                filter.set_listener(listener.clone());
            }
            return install(t, &filter, flags);
        }
    }
}

/// The program on top of `before`.
fn build(
    t: &Task,
    program: &Program,
    before: Option<&Seccomp>,
    flags: Flags,
) -> Result<Arc<Filter>> {
    let before = match before {
        None => None,
        Some(Seccomp::Filter(before)) => Some(before.clone()),
        Some(Seccomp::Strict) => return Err(Errno::EINVAL),
    };
    // Programs are the Sentry's memory, not the guest's.
    let kernel = t.kernel();
    kernel.resources.check_own_memory(&kernel.memory)?;
    Filter::new(program.clone(), before, flags.contains(Flags::LOG))
}

/// With the group's `filters` held.
fn install(t: &Task, filter: &Arc<Filter>, flags: Flags) -> SysResult {
    if flags.contains(Flags::TSYNC) {
        return match filters::synchronize(t, filter) {
            Ok(()) => Ok(0),
            Err(_) if flags.contains(Flags::TSYNC_ESRCH) => Err(Errno::ESRCH.into()),
            Err(tid) => Ok(tid as u64),
        };
    }
    t.set_seccomp(Some(Seccomp::Filter(filter.clone())));
    Ok(0)
}

/// A struct sock_fprog and what it points to.
fn read_program(t: &Task, addr: u64) -> Result<Program> {
    let mut head = [0u8; 16];
    t.mm().read_bytes(addr, &mut head)?;
    let len = usize::from(u16::from_ne_bytes([head[0], head[1]]));
    let at = u64::from_ne_bytes(head[8..].try_into().unwrap_or_default());
    if len == 0 || len > MAX_LEN {
        return Err(Errno::EINVAL);
    }
    if !t.creds().no_new_privs && !t.has_cap(Cap::SysAdmin) {
        return Err(Errno::EACCES);
    }
    let mut bytes = vec![0u8; len * 8];
    if t.copy_in(at, &mut bytes) < bytes.len() {
        return Err(Errno::EFAULT);
    }
    let insns: Vec<Insn> = bytes
        .as_chunks::<8>()
        .0
        .iter()
        .map(|[c0, c1, jt, jf, k @ ..]| Insn {
            code: u16::from_ne_bytes([*c0, *c1]),
            jt: *jt,
            jf: *jf,
            k: u32::from_ne_bytes(*k),
        })
        .collect();
    Program::new(&insns)
}

fn is_available(t: &Task, addr: u64) -> SysResult {
    let mut action = [0u8; 4];
    t.mm().read_bytes(addr, &mut action)?;
    match u32::from_ne_bytes(action) {
        filters::KILL_PROCESS
        | filters::KILL_THREAD
        | filters::TRAP
        | filters::ERRNO
        | filters::TRACE
        | filters::USER_NOTIF
        | filters::LOG
        | filters::ALLOW => Ok(0),
        _ => Err(Errno::EOPNOTSUPP.into()),
    }
}
