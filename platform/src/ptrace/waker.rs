//! Sleeping in wait4(2) and being woken out of it.
//!
//! wait4 knows no "unless this flag is set", so a signal sent just before the call would be lost.
//! Therefore the test of the flag and the call are a few instructions in assembly, and the signal
//! handler moves a thread that is anywhere between the test and the end of the call (the kernel
//! backs up to the `syscall` instruction when it restarts an interrupted call) out of it. No wake
//! is lost, and none costs a host call while the worker is awake.

use std::arch::global_asm;
use std::io;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};

use super::sys::{self, Status};
use crate::WorkerWaker;

/// Signal that wakes a worker thread of the Sentry, also sent by its timer.
pub(super) const WAKE_SIGNAL: i32 = libc::SIGUSR2;

const AWAKE: u32 = 0;
const WOKEN: u32 = 1;
/// In wait4, or about to be.
const ASLEEP: u32 = 2;
/// In a futex wait: it has no children to wait for.
const ASLEEP_ALONE: u32 = 3;

/// The wake flag of one worker.
#[derive(Default)]
pub(super) struct Waker {
    state: AtomicU32,
    /// Host pid and tid of the worker thread, zero until it is known.
    pid: AtomicI32,
    tid: AtomicI32,
}

/// What ended a sleep.
pub(super) enum Slept {
    Child(i32, Status),
    /// Woken, or the timer's signal came; [`Waker::take`] tells.
    Signal,
}

unsafe extern "C" {
    /// wait4(-1, status, options, NULL) unless `*state != expected`; -EINTR if not or if the wake
    /// signal came. Otherwise as the system call.
    fn runsc_wait4_unless(state: *const u32, expected: u32, status: *mut i32, options: i32) -> i64;
    static runsc_wait4_start: [u8; 0];
    static runsc_wait4_end: [u8; 0];
    static runsc_wait4_out: [u8; 0];
}

global_asm!(
    ".pushsection .text.runsc_wait4,\"ax\",@progbits",
    ".balign 16",
    ".globl runsc_wait4_unless",
    "runsc_wait4_unless:",
    "mov r8, rdx",
    "movsxd rdx, ecx",
    ".globl runsc_wait4_start",
    "runsc_wait4_start:",
    "cmp dword ptr [rdi], esi",
    "jne runsc_wait4_out",
    "mov rsi, r8",
    "mov rdi, -1",
    "xor r10d, r10d",
    "mov eax, 61",
    "syscall",
    ".globl runsc_wait4_end",
    "runsc_wait4_end:",
    "ret",
    ".globl runsc_wait4_out",
    "runsc_wait4_out:",
    "mov rax, -4",
    "ret",
    ".popsection",
);

extern "C" fn on_wake(_: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel hands a SA_SIGINFO handler a valid siginfo.
    let info = unsafe { &*info };
    if info.si_code == libc::SI_TIMER {
        // SAFETY: a timer's siginfo carries a value.
        let value = unsafe { info.si_value() };
        let fired = value.sival_ptr.cast::<AtomicBool>();
        // SAFETY: all timers with this signal are made by `cores`, with such a static. No other
        // process can send this code.
        unsafe { &*fired }.store(true, Ordering::Release);
    }
    // SAFETY: the kernel hands a SA_SIGINFO handler a valid ucontext of this thread.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let rip = &mut registers[libc::REG_RIP as usize];
    let start = (&raw const runsc_wait4_start) as i64;
    let end = (&raw const runsc_wait4_end) as i64;
    if *rip >= start && *rip < end {
        *rip = (&raw const runsc_wait4_out) as i64;
    }
}

/// Installs the process-wide handler of the wake signal and makes stops of tracees raise no
/// SIGCHLD.
pub(super) fn install_handlers() -> io::Result<()> {
    // SAFETY: all-zero is a valid `sigaction`.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = on_wake as *const () as usize;
    // SA_RESTART keeps a late signal from showing as EINTR elsewhere.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
    // SAFETY: `action` names a handler of the SA_SIGINFO kind that is async-signal-safe.
    if unsafe { libc::sigaction(WAKE_SIGNAL, &action, std::ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all-zero is a valid `sigaction` (SIG_DFL).
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_flags = libc::SA_NOCLDSTOP;
    // SAFETY: `action` is the default action.
    if unsafe { libc::sigaction(libc::SIGCHLD, &action, std::ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

impl Waker {
    /// The calling thread is the worker: lets the wake signal through to it.
    pub fn bind(&self) -> io::Result<()> {
        // SAFETY: all-zero is a valid set.
        let mut set: libc::sigset_t = unsafe { MaybeUninit::zeroed().assume_init() };
        // SAFETY: `set` is valid and the signal number too.
        unsafe { libc::sigaddset(&mut set, WAKE_SIGNAL) };
        // SAFETY: `set` is valid.
        let rc = unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut()) };
        if rc != 0 {
            return Err(io::Error::from_raw_os_error(rc));
        }
        self.pid.store(std::process::id() as i32, Ordering::Release);
        self.tid.store(crate::host::gettid(), Ordering::Release);
        Ok(())
    }

    /// Whether somebody called `wake`; uses it up.
    pub fn take(&self) -> bool {
        self.state
            .compare_exchange(WOKEN, AWAKE, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Sleeps until a child of the worker stops or dies or until woken.
    pub fn sleep(&self) -> io::Result<Slept> {
        if !self.fall_asleep(ASLEEP) {
            return Ok(Slept::Signal);
        }
        let mut status = 0;
        sys::count_wait();
        // SAFETY: both pointers are valid; the routine only reads the flag and writes the status.
        let rc = unsafe {
            runsc_wait4_unless(
                self.state.as_ptr(),
                ASLEEP,
                &mut status,
                libc::__WALL | libc::__WNOTHREAD,
            )
        };
        self.get_up(ASLEEP);
        match rc {
            tid if tid > 0 => Ok(Slept::Child(tid as i32, Status(status))),
            rc => match -rc as i32 {
                libc::EINTR => Ok(Slept::Signal),
                libc::ECHILD => {
                    self.sleep_alone();
                    Ok(Slept::Signal)
                }
                errno => Err(io::Error::from_raw_os_error(errno)),
            },
        }
    }

    fn sleep_alone(&self) {
        if !self.fall_asleep(ASLEEP_ALONE) {
            return;
        }
        sys::count_wait();
        // SAFETY: the word is valid for the call.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                self.state.as_ptr(),
                libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
                ASLEEP_ALONE,
                std::ptr::null::<libc::timespec>(),
            )
        };
        self.get_up(ASLEEP_ALONE);
    }

    fn fall_asleep(&self, how: u32) -> bool {
        self.state
            .compare_exchange(AWAKE, how, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    fn get_up(&self, from: u32) {
        // If this fails the worker was woken, which stays to be taken.
        let _ = self
            .state
            .compare_exchange(from, AWAKE, Ordering::AcqRel, Ordering::Acquire);
    }
}

impl WorkerWaker for Waker {
    fn wake(&self) {
        match self.state.swap(WOKEN, Ordering::AcqRel) {
            ASLEEP => {
                let pid = self.pid.load(Ordering::Acquire);
                let tid = self.tid.load(Ordering::Acquire);
                // Fails only if the worker is gone.
                let _ = sys::tgkill(pid, tid, WAKE_SIGNAL);
            }
            ASLEEP_ALONE => {
                // SAFETY: the word is valid for the call.
                unsafe {
                    libc::syscall(
                        libc::SYS_futex,
                        self.state.as_ptr(),
                        libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
                        1,
                    )
                };
            }
            _ => {}
        }
    }
}
