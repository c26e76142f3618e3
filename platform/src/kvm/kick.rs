//! Interrupting guest code: the states of [`crate::common::kick`], and the vCPU to interrupt.

use std::io;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use parking_lot::Mutex;

use super::vcpu::Vcpu;
use crate::Kicker;
use crate::common::kick::{KICK_SIGNAL, States};

/// Kick state of one context.
#[derive(Default)]
pub(super) struct Kick {
    states: States<AtomicU32>,
    /// Where it runs.
    vcpu: Mutex<Option<Arc<Vcpu>>>,
}

impl Kick {
    /// About to be let run; false if it was kicked at rest.
    pub fn start(&self) -> bool {
        self.states.start()
    }

    /// It was not let run after all.
    pub fn not_started(&self) {
        self.states.not_started();
    }

    /// Whether it is to stop.
    pub fn is_kicked(&self) -> bool {
        self.states.repeat()
    }

    pub fn stopped(&self) {
        self.states.trapped();
    }

    /// From now on `vcpu` is to be interrupted. Whoever kicked before has to be asked for.
    pub fn runs_on(&self, vcpu: Option<Arc<Vcpu>>) {
        *self.vcpu.lock() = vcpu;
    }

    pub fn kick_if_running(&self) {
        if self.states.kick_if_running() {
            self.interrupt();
        }
    }

    fn interrupt(&self) {
        if let Some(vcpu) = &*self.vcpu.lock() {
            vcpu.interrupt();
        }
    }
}

impl Kicker for Kick {
    fn kick(&self) {
        if self.states.kick() {
            self.interrupt();
        }
    }
}

/// Makes the signal that ends KVM_RUN do nothing else.
pub(super) fn install_handler() -> io::Result<()> {
    extern "C" fn nothing(_signal: i32) {}
    // SAFETY: all-zero is a valid `sigaction`.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = nothing as *const () as usize;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: `action` names a handler that does nothing.
    let rc = unsafe { libc::sigaction(KICK_SIGNAL, &action, std::ptr::null_mut()) };
    if rc != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
