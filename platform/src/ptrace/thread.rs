//! A host thread of a stub, as its worker knows it.

use std::io;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::space::SpaceCore;
use super::sys;
use crate::arch::Registers;
use crate::common::bpf::{AUDIT_ARCH_X86_64, VSYSCALL_PAGE};
use crate::common::kick::Kick;
use crate::{Access, ContextId, Fault, Trap};

/// What a thread is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Stopped, nobody's: waits to become a context.
    Parked,
    /// Stopped, a context's.
    Rest,
    /// Runs guest code.
    Running,
    /// Runs guest code, but its context was dropped: parked when it stops.
    Leaving,
    /// Told to end, or killed.
    Exiting,
}

/// Why a context stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    Syscall,
    Fault(Fault),
    Interrupted,
    /// A call to this address in the vsyscall page, whose `ret` the host has carried out.
    Vsyscall(u64),
}

pub(super) struct Thread {
    pub tgid: i32,
    pub tid: i32,
    /// Touched by the worker thread only, so never contended.
    pub local: Mutex<Local>,
}

pub(super) struct Local {
    pub phase: Phase,
    pub context: Option<(ContextId, Arc<Kick>)>,
    pub home: Weak<SpaceCore>,
    pub stop: Stop,
    /// Guest registers at the last stop, once `captured`.
    pub regs: Registers,
    pub captured: bool,
    /// The host thread still has the registers it stopped with.
    pub untouched: bool,
    /// The FP state is the initial one.
    pub fp_initial: bool,
    /// Not bound to the worker's core.
    pub spread: bool,
    /// Runs bound to the worker's core, and is counted so.
    pub bound_run: bool,
    /// The worker's count of resumes when it was last resumed.
    pub resumed: u64,
    /// When that was, if `spread`; and how many short runs it has had since.
    pub resumed_at: Option<std::time::Instant>,
    pub short_runs: u32,
}

impl Thread {
    /// A thread that has just been made and is stopped.
    pub fn new(tgid: i32, tid: i32, fp_initial: bool) -> Arc<Thread> {
        Arc::new(Thread {
            tgid,
            tid,
            local: Mutex::new(Local {
                phase: Phase::Parked,
                context: None,
                home: Weak::new(),
                stop: Stop::Interrupted,
                regs: Registers::default(),
                captured: false,
                untouched: false,
                fp_initial,
                spread: false,
                bound_run: false,
                resumed: 0,
                resumed_at: None,
                short_runs: 0,
            }),
        })
    }
}

impl Local {
    /// Notes a stop of guest code.
    pub fn stopped(&mut self, stop: Stop) {
        self.phase = Phase::Rest;
        self.stop = stop;
        self.captured = false;
        self.untouched = true;
    }

    /// Notes a stop without having run, with these registers.
    pub fn stopped_before(&mut self, stop: Stop, regs: &Registers) {
        self.phase = Phase::Rest;
        self.stop = stop;
        self.regs = *regs;
        self.captured = true;
        self.untouched = false;
    }

    /// Reads the guest's registers, unless that was done. To be called before the thread is used
    /// for anything else.
    pub fn capture(&mut self, tid: i32) -> io::Result<()> {
        if self.captured || !self.untouched {
            return Ok(());
        }
        sys::get_registers(tid, &mut self.regs)?;
        self.captured = true;
        let regs = &mut self.regs;
        match self.stop {
            Stop::Syscall => {
                // The `syscall` instruction leaves its traces in rcx and r11; `int 0x80` does not,
                // and is no way into this kernel.
                let by_syscall = regs.rcx == regs.rip && regs.r11 == regs.eflags;
                if !by_syscall && sys::syscall_arch(tid)? != AUDIT_ARCH_X86_64 {
                    const INT_80_LEN: u64 = 2;
                    regs.rip = regs.rip.wrapping_sub(INT_80_LEN);
                    regs.rax = regs.orig_rax;
                    regs.orig_rax = u64::MAX;
                    self.untouched = false;
                    // What a gate that user code may not use raises: vector 0x80, IDT.
                    self.stop = Stop::Fault(segv(SI_KERNEL, 0, None));
                }
            }
            Stop::Vsyscall(address) => {
                regs.rip = address;
                regs.rsp = regs.rsp.wrapping_sub(8);
                regs.orig_rax = u64::MAX;
                self.untouched = false;
                self.stop = Stop::Fault(segv(SEGV_MAPERR, address, Some(Access::Execute)));
            }
            Stop::Fault(ref mut fault) => {
                // Data can be next to code, but an instruction cannot come from an unmapped page
                // and still do something.
                if fault.code == SEGV_MAPERR
                    && fault.signal == libc::SIGSEGV
                    && fault.addr == regs.rip
                {
                    fault.access = Some(Access::Execute);
                }
                regs.orig_rax = u64::MAX;
            }
            Stop::Interrupted => regs.orig_rax = u64::MAX,
        }
        Ok(())
    }

    pub fn trap(&self) -> Trap {
        match self.stop {
            Stop::Syscall => Trap::Syscall,
            Stop::Fault(fault) => Trap::Fault(fault),
            Stop::Interrupted => Trap::Interrupted,
            Stop::Vsyscall(address) => {
                Trap::Fault(segv(SEGV_MAPERR, address, Some(Access::Execute)))
            }
        }
    }
}

const SEGV_MAPERR: i32 = 1;
const SI_KERNEL: i32 = 0x80;
const SYS_SECCOMP: i32 = 1;

fn segv(code: i32, addr: u64, access: Option<Access>) -> Fault {
    Fault {
        signal: libc::SIGSEGV,
        code,
        addr,
        access,
    }
}

/// What the siginfo of a signal that exceptions raise says. Err: seccomp stopped a system call that
/// should never have reached the host. None: somebody sent the signal.
pub(super) fn exception(
    signal: i32,
    info: &[u8; 128],
) -> std::result::Result<Option<Stop>, &'static str> {
    let word = |at: usize| i32::from_ne_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]]);
    let code = word(8);
    let addr = u64::from(word(16) as u32) | u64::from(word(20) as u32) << 32;
    if code <= 0 {
        return Ok(None);
    }
    if signal == libc::SIGSYS {
        return match code {
            SYS_SECCOMP if addr >= VSYSCALL_PAGE => Ok(Some(Stop::Vsyscall(addr))),
            _ => Err("a system call of the guest reached the host"),
        };
    }
    Ok(Some(Stop::Fault(Fault {
        signal,
        code,
        addr,
        access: None,
    })))
}
