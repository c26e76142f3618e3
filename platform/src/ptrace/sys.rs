//! The host calls of this platform, one thin function each.
//!
//! All are counted per thread ([`crate::common::host_calls`]), because their number per trap is what the
//! platform's speed comes down to.

use std::io;

use crate::arch::Registers;
use crate::common::host_calls::count;

/// Requests that `libc` does not name.
pub(super) const PTRACE_SYSEMU: u32 = 31;
pub(super) const PTRACE_GETSIGINFO: u32 = 0x4202;
const PTRACE_SETSIGMASK: u32 = 0x420b;
pub(super) const PTRACE_GET_SYSCALL_INFO: u32 = 0x420e;
const PTRACE_GET_RSEQ_CONFIGURATION: u32 = 0x420f;
const NT_X86_XSTATE: usize = 0x202;

/// A wait status (wait(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Status(pub i32);

impl Status {
    /// The signal of a stop; None if the thread is dead.
    pub fn stopped(self) -> Option<i32> {
        libc::WIFSTOPPED(self.0).then(|| libc::WSTOPSIG(self.0))
    }
}

/// # Safety
/// `addr` and `data` are what `request` expects; buffers live until it returns.
unsafe fn ptrace(request: u32, tid: i32, addr: usize, data: usize) -> io::Result<i64> {
    count();
    // SAFETY: passed on to the caller.
    let rc = unsafe { libc::syscall(libc::SYS_ptrace, u64::from(request), tid, addr, data) };
    if rc < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(rc)
}

/// Lets a stopped tracee run until its next stop. `request`: PTRACE_SYSEMU or PTRACE_CONT. The
/// signal it stopped with is dropped.
pub(super) fn restart(request: u32, tid: i32) -> io::Result<()> {
    // SAFETY: no memory of ours is passed.
    unsafe { ptrace(request, tid, 0, 0) }.map(drop)
}

pub(super) fn set_options(tid: i32, options: i32) -> io::Result<()> {
    // SAFETY: no memory of ours is passed.
    unsafe { ptrace(libc::PTRACE_SETOPTIONS, tid, 0, options as usize) }.map(drop)
}

pub(super) fn get_registers(tid: i32, regs: &mut Registers) -> io::Result<()> {
    let data = std::ptr::from_mut(regs) as usize;
    // SAFETY: `Registers` has the layout of user_regs_struct.
    unsafe { ptrace(libc::PTRACE_GETREGS, tid, 0, data) }.map(drop)
}

pub(super) fn set_registers(tid: i32, regs: &Registers) -> io::Result<()> {
    let data = std::ptr::from_ref(regs) as usize;
    // SAFETY: `Registers` has the layout of user_regs_struct.
    unsafe { ptrace(libc::PTRACE_SETREGS, tid, 0, data) }.map(drop)
}

/// Sets only `rax`.
pub(super) fn set_rax(tid: i32, value: u64) -> io::Result<()> {
    let offset = std::mem::offset_of!(Registers, rax);
    // SAFETY: no memory of ours is passed.
    unsafe { ptrace(libc::PTRACE_POKEUSER, tid, offset, value as usize) }.map(drop)
}

/// siginfo of the signal a tracee stopped with. The raw 128 bytes: the layout depends on the code.
pub(super) fn signal_info(tid: i32) -> io::Result<[u8; 128]> {
    let mut info = [0u8; 128];
    let data = info.as_mut_ptr() as usize;
    // SAFETY: siginfo_t has 128 bytes.
    unsafe { ptrace(PTRACE_GETSIGINFO, tid, 0, data) }?;
    Ok(info)
}

pub(super) fn clear_signal_mask(tid: i32) -> io::Result<()> {
    let mask = 0u64;
    let data = std::ptr::from_ref(&mask) as usize;
    // SAFETY: a signal set of 8 bytes.
    unsafe { ptrace(PTRACE_SETSIGMASK, tid, 8, data) }.map(drop)
}

/// AUDIT_ARCH_* of the system call a tracee stopped at.
pub(super) fn syscall_arch(tid: i32) -> io::Result<u32> {
    let mut info = [0u8; 88];
    let data = info.as_mut_ptr() as usize;
    // SAFETY: the kernel writes at most as many bytes as `addr` says.
    unsafe { ptrace(PTRACE_GET_SYSCALL_INFO, tid, info.len(), data) }?;
    Ok(u32::from_ne_bytes([info[4], info[5], info[6], info[7]]))
}

/// rseq(2) registration of a tracee: address, size, signature. None if the host cannot tell.
pub(super) fn rseq_registration(tid: i32) -> Option<(u64, u32, u32)> {
    #[repr(C)]
    #[derive(Default)]
    struct Configuration {
        pointer: u64,
        size: u32,
        signature: u32,
        flags: u32,
        pad: u32,
    }
    let mut config = Configuration::default();
    let data = std::ptr::from_mut(&mut config) as usize;
    // SAFETY: the structure is struct ptrace_rseq_configuration.
    unsafe {
        ptrace(
            PTRACE_GET_RSEQ_CONFIGURATION,
            tid,
            size_of::<Configuration>(),
            data,
        )
    }
    .ok()?;
    (config.pointer != 0).then_some((config.pointer, config.size, config.signature))
}

/// Reads the extended state; gives its size.
pub(super) fn get_xstate(tid: i32, to: &mut [u8]) -> io::Result<usize> {
    let mut iov = libc::iovec {
        iov_base: to.as_mut_ptr().cast(),
        iov_len: to.len(),
    };
    let data = std::ptr::from_mut(&mut iov) as usize;
    // SAFETY: the iovec describes `to`.
    unsafe { ptrace(libc::PTRACE_GETREGSET, tid, NT_X86_XSTATE, data) }?;
    Ok(iov.iov_len)
}

pub(super) fn set_xstate(tid: i32, from: &[u8]) -> io::Result<()> {
    let mut iov = libc::iovec {
        iov_base: from.as_ptr().cast_mut().cast(),
        iov_len: from.len(),
    };
    let data = std::ptr::from_mut(&mut iov) as usize;
    // SAFETY: the iovec describes `from`, which is only read.
    unsafe { ptrace(libc::PTRACE_SETREGSET, tid, NT_X86_XSTATE, data) }.map(drop)
}

/// Waits for one tracee of this thread.
pub(super) fn wait_one(tid: i32) -> io::Result<Status> {
    loop {
        let mut status = 0;
        count();
        // SAFETY: `status` is valid.
        let rc = unsafe {
            libc::wait4(
                tid,
                &mut status,
                libc::__WALL | libc::__WNOTHREAD,
                std::ptr::null_mut(),
            )
        };
        if rc == tid {
            return Ok(Status(status));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Any tracee of this thread that has stopped or died, without sleeping.
pub(super) fn poll_any() -> io::Result<Option<(i32, Status)>> {
    let mut status = 0;
    count();
    // SAFETY: `status` is valid.
    let rc = unsafe {
        libc::wait4(
            -1,
            &mut status,
            libc::__WALL | libc::__WNOTHREAD | libc::WNOHANG,
            std::ptr::null_mut(),
        )
    };
    match rc {
        0 => Ok(None),
        tid if tid > 0 => Ok(Some((tid, Status(status)))),
        _ => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ECHILD) => Ok(None),
            error => Err(error),
        },
    }
}

/// Counts the blocking wait of `waker`, which is made in assembly.
pub(super) fn count_wait() {
    count();
}

pub(super) fn tgkill(tgid: i32, tid: i32, signal: i32) -> io::Result<()> {
    count();
    // SAFETY: no memory is passed.
    match unsafe { libc::syscall(libc::SYS_tgkill, tgid, tid, signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
