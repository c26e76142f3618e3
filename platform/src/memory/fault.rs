//! The handler for SIGSEGV and SIGBUS raised by the routines of [`super::access`].
//!
//! A fault anywhere else is a bug of the Sentry: the handler that was there before is put back and
//! the instruction runs again, so that it ends the process the usual way (fail stop).

use std::io;
use std::mem::MaybeUninit;
use std::sync::OnceLock;

use super::access;

/// What was installed before us, for SIGSEGV and SIGBUS. Set before our handler can run.
static PREVIOUS: OnceLock<[libc::sigaction; 2]> = OnceLock::new();

const SIGNALS: [i32; 2] = [libc::SIGSEGV, libc::SIGBUS];

/// Installs the process-wide handler. Idempotent; to be called before the first access to a
/// [`super::Window`]. Needs the host calls rt_sigaction and, when a fault is handled, rt_sigreturn.
pub fn install_fault_handler() -> io::Result<()> {
    if PREVIOUS.get().is_some() {
        return Ok(());
    }
    let previous = [current(SIGNALS[0])?, current(SIGNALS[1])?];
    if PREVIOUS.set(previous).is_err() {
        return Ok(());
    }
    for signal in SIGNALS {
        // SAFETY: all-zero is a valid `sigaction`.
        let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
        action.sa_sigaction = on_fault as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: `action` names a handler of the SA_SIGINFO kind that is async-signal-safe.
        let rc = unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) };
        if rc != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

fn current(signal: i32) -> io::Result<libc::sigaction> {
    // SAFETY: all-zero is a valid `sigaction`.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: only reads the current action into a local of the right type.
    let rc = unsafe { libc::sigaction(signal, std::ptr::null(), &mut action) };
    if rc != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(action)
}

extern "C" fn on_fault(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel hands a SA_SIGINFO handler a valid ucontext of this thread.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    // SAFETY: likewise a valid siginfo.
    let code = unsafe { (*info).si_code };
    let rip = &mut registers[libc::REG_RIP as usize];
    if code > 0
        && let Some(resume) = access::fixup(*rip as u64)
    {
        *rip = resume as i64;
        return;
    }
    let slot = usize::from(signal == libc::SIGBUS);
    if let Some(previous) = PREVIOUS.get() {
        // SAFETY: puts back an action that was valid before.
        unsafe { libc::sigaction(signal, &previous[slot], std::ptr::null_mut()) };
    }
    if code <= 0 {
        // Sent by somebody, so returning would not raise it again.
        // SAFETY: raise is async-signal-safe.
        unsafe { libc::raise(signal) };
    }
}
