//! The words that a stub thread and the Sentry hand a guest thread over with.
//!
//! | state    | set by                          | means                                          |
//! |----------|---------------------------------|------------------------------------------------|
//! | GUEST    | stub, on its way out            | guest code runs                                |
//! | TRAPPED  | stub, registers published       | stopped; the stub looks for the answer         |
//! | PARKED   | either, from TRAPPED            | stopped; the stub sleeps, or is about to       |
//! | RESUME   | Sentry, registers and rax set   | to go on                                       |
//! | MAP      | Sentry, as RESUME               | to go on once the mapper has carried out an order, |
//! |          |                                 | who sets RESUME then, or PARKED if refused     |
//! | LOOKS_ON | stub, from MAP                  | as MAP; the stub looks instead of sleeping         |
//! | SAVE_FP  | Sentry, from TRAPPED or PARKED  | to write its FP state down; back to TRAPPED    |
//!
//! Whoever replaces PARKED wakes the futex. A stub rings its worker's bell after TRAPPED if that
//! worker has said that it sleeps; the worker says so before it looks a last time. So of a trap
//! and a falling asleep at once, one sees the other.
//!
//! Everything in an area can be changed by guest code at any time, to anything. The Sentry takes
//! from there what it would take from a guest's registers, and compares states with constants.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::layout::area;
use crate::arch::Registers;

pub(super) mod state {
    pub const GUEST: u32 = 0;
    pub const TRAPPED: u32 = 1;
    pub const PARKED: u32 = 2;
    pub const RESUME: u32 = 3;
    pub const SAVE_FP: u32 = 4;
    pub const MAP: u32 = 5;
    pub const LOOKS_ON: u32 = 6;
}

/// Why a thread trapped.
pub(super) mod kind {
    pub const SYSCALL: u32 = 1;
    pub const FAULT: u32 = 2;
    pub const INTERRUPTED: u32 = 3;
    /// A new thread, with no registers yet.
    pub const BORN: u32 = 4;
    /// The host refused an order that the thread waited for.
    pub const REFUSED: u32 = 5;
}

/// How a thread goes back to guest code.
pub(super) mod exit {
    /// All registers, flags and segment bases.
    pub const FULL: u32 = 0;
    /// As after a system call: the segment bases are there, rcx is where it goes on.
    pub const FAST: u32 = 1;
}

/// A part of the stubs' file, mapped for the life of the platform. No reference to more than one
/// word of it is ever made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shared(*mut u8);

// SAFETY: the memory is process-wide and only reached by atomic accesses.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// # Safety
    /// All offsets used with the result lie in memory that stays mapped, readable and writable.
    pub unsafe fn new(base: *mut u8) -> Shared {
        Shared(base)
    }

    /// The part `offset` bytes further on.
    pub fn at(self, offset: u64) -> Shared {
        Shared(self.0.wrapping_add(offset as usize))
    }

    pub fn address(self) -> usize {
        self.0 as usize
    }

    pub fn u32(&self, offset: u64) -> &AtomicU32 {
        let word = self.0.wrapping_add(offset as usize).cast();
        // SAFETY: offsets are constants of `layout`, aligned, and inside what `new` was promised.
        unsafe { AtomicU32::from_ptr(word) }
    }

    pub fn u64(&self, offset: u64) -> &AtomicU64 {
        let word = self.0.wrapping_add(offset as usize).cast();
        // SAFETY: offsets are constants of `layout`, aligned, and inside what `new` was promised.
        unsafe { AtomicU64::from_ptr(word) }
    }

    fn get(&self, offset: u64) -> u64 {
        self.u64(offset).load(Ordering::Relaxed)
    }

    fn set(&self, offset: u64, value: u64) {
        self.u64(offset).store(value, Ordering::Relaxed);
    }

    /// Writes whole words; a rest is filled with zeros.
    pub fn write(&self, offset: u64, bytes: &[u8]) {
        for (n, chunk) in bytes.chunks(8).enumerate() {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.set(offset + 8 * n as u64, u64::from_le_bytes(word));
        }
    }

    /// Writes zeros. `len`: bytes, a multiple of eight.
    pub fn clear(&self, offset: u64, len: u64) {
        for at in (0..len).step_by(8) {
            self.set(offset + at, 0);
        }
    }

    /// Reads whole words. `len`: bytes, a multiple of eight.
    pub fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        (0..len as u64 / 8)
            .flat_map(|n| self.get(offset + 8 * n).to_le_bytes())
            .collect()
    }
}

/// Names and order of what a trap tells.
macro_rules! registers {
    ($($field:ident $offset:ident),* $(,)?) => {
        /// The registers published in an area. Selectors are those of 64-bit user code.
        pub(super) fn load_registers(area: &Shared) -> Registers {
            Registers {
                $($field: area.get(area::$offset),)*
                ..Registers::start(0, 0)
            }
        }

        pub(super) fn store_registers(area: &Shared, regs: &Registers) {
            $(area.set(area::$offset, regs.$field);)*
        }
    };
}

registers!(
    rax RAX, rdi RDI, rsi RSI, rdx RDX, r10 R10, r8 R8, r9 R9, rip RIP, rsp RSP, eflags EFLAGS,
    rcx RCX, r11 R11, rbx RBX, rbp RBP, r12 R12, r13 R13, r14 R14, r15 R15, fs_base FS_BASE,
    gs_base GS_BASE,
);

/// futex(2) between processes.
pub(super) fn futex_wake(word: &AtomicU32) {
    crate::common::host_calls::count();
    // SAFETY: the word is valid; waking touches no memory.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1) };
}

/// Sleeps while the word has this value, at most `timeout` milliseconds.
pub(super) fn futex_wait(word: &AtomicU32, value: u32, timeout_ms: i64) {
    crate::common::host_calls::count();
    let timeout = libc::timespec {
        tv_sec: timeout_ms / 1000,
        tv_nsec: timeout_ms % 1000 * 1_000_000,
    };
    // SAFETY: word and timeout are valid during the call.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT,
            value,
            &raw const timeout,
        )
    };
}
