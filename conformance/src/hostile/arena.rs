//! The memory random calls point at: some of every kind, and addresses of none.

use super::random::Random;
use std::sync::atomic::{AtomicU64, Ordering};

const PAGE: u64 = 4096;
const BIG: u64 = 32 * PAGE;

/// Addresses to hand to the kernel. The mappings are the process's own and never given back:
/// the calls that are made unmap them soon enough.
#[derive(Debug, Clone, Copy)]
pub struct Arena {
    /// Writable, private; a hole follows.
    private: u64,
    /// Writable, shared with children.
    shared: u64,
    /// A page to read, then one that allows nothing.
    read_only: u64,
    /// Two pages of a file that has less than one.
    file: u64,
    /// A signal handler.
    pub handler: u64,
}

fn map(length: u64, prot: i32, flags: i32, fd: i32) -> u64 {
    // SAFETY: a new mapping at an address of the kernel's choice.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), length as usize, prot, flags, fd, 0) };
    // A failure gives an address that is as good as any other invalid one.
    at as u64
}

extern "C" fn handler(_signal: i32) {}

/// Where this process writes what it makes up: the start of the private and of the shared part.
static STARTS: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];

/// Faults of this process's own writes are repaired, so that one call that takes the memory away
/// does not end the round. Any other fault ends it.
extern "C" fn repair(_signal: i32, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel hands over a siginfo of a fault.
    let at = unsafe { (*info).si_addr() } as u64;
    for start in &STARTS {
        let start = start.load(Ordering::Relaxed);
        if (start..start.wrapping_add(BIG)).contains(&at) {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
            let page = (at & !(PAGE - 1)) as *mut libc::c_void;
            // SAFETY: replaces a page that only holds made-up values.
            unsafe {
                libc::mmap(
                    page,
                    PAGE as usize,
                    libc::PROT_READ | libc::PROT_WRITE,
                    flags,
                    -1,
                    0,
                )
            };
            return;
        }
    }
    // SAFETY: takes a number only.
    unsafe { libc::_exit(1) }
}

/// Signals do nothing, but for faults.
fn handle_signals() {
    // SAFETY: all structures are this function's own; the handlers call nothing unsafe.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        for signal in 1..=64 {
            let fault = signal == libc::SIGSEGV || signal == libc::SIGBUS;
            action.sa_sigaction = if fault {
                repair as *const () as usize
            } else {
                handler as *const () as usize
            };
            action.sa_flags = if fault {
                libc::SA_SIGINFO | libc::SA_NODEFER
            } else {
                0
            };
            libc::sigaction(signal, &action, std::ptr::null_mut());
        }
    }
}

impl Arena {
    /// `fd` is a small file's, or -1.
    pub fn new(fd: i32) -> Self {
        let (rw, anonymous) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_ANONYMOUS);
        let private = map(BIG + 2 * PAGE, rw, libc::MAP_PRIVATE | anonymous, -1);
        let read_only = map(2 * PAGE, libc::PROT_READ, libc::MAP_PRIVATE | anonymous, -1);
        // SAFETY: both are pages of mappings made just now, and of nobody else.
        unsafe {
            libc::munmap((private + BIG) as *mut _, 2 * PAGE as usize);
            libc::mprotect((read_only + PAGE) as *mut _, PAGE as usize, libc::PROT_NONE);
        }
        let shared = map(BIG, rw, libc::MAP_SHARED | anonymous, -1);
        STARTS[0].store(private, Ordering::Relaxed);
        STARTS[1].store(shared, Ordering::Relaxed);
        handle_signals();
        Self {
            private,
            shared,
            read_only,
            file: map(2 * PAGE, rw, libc::MAP_SHARED, fd),
            handler: handler as *const () as u64,
        }
    }

    /// An address: mostly of memory that is there.
    pub fn address(&self, r: &mut Random) -> u64 {
        match r.below(32) {
            0 => 0,
            1 => self.private + BIG - 1 - r.below(16),
            2 => self.private + BIG - r.below(64) * 8,
            3 => self.private + BIG,
            4 => self.read_only + r.below(PAGE),
            5 => self.read_only + PAGE - r.below(32),
            6 => self.read_only + PAGE + r.below(PAGE),
            7 => self.file + r.below(2 * PAGE),
            8 => r.pick(&[
                1,
                PAGE,
                0xFFFF,
                0x7FFF_FFFF_EFF8,
                0x7FFF_FFFF_F000,
                0x7FFF_FFFF_FFFF,
                0x8000_0000_0000,
                0x4141_4141_4141_4141,
                0xFFFF_8000_0000_0000,
                0xFFFF_FFFF_FF60_0000,
                u64::MAX - 7,
                u64::MAX - 4095,
                u64::MAX,
            ]),
            9 => self.handler,
            10 | 11 => self.shared + r.below(BIG),
            12..=15 => self.shared + r.below(BIG / 8) * 8,
            16..=19 => self.private + r.below(32) * PAGE,
            20 | 21 => self.private + r.below(BIG),
            _ => self.private + r.below(BIG / 8) * 8,
        }
    }

    /// Puts `bytes` somewhere, at times right before the hole; gives the address.
    pub fn put(&self, r: &mut Random, bytes: &[u8]) -> u64 {
        let length = bytes.len() as u64;
        if length >= BIG {
            return self.private;
        }
        let base = if r.one_in(3) {
            self.shared
        } else {
            self.private
        };
        let at = match r.below(10) {
            0 => self.private + BIG - length,
            1 => base + r.below(BIG - length),
            _ => base + r.below((BIG - length) / 8 + 1) * 8,
        };
        if r.one_in(40) {
            // What follows is whatever is there.
            return at + length / 2;
        }
        // SAFETY: inside one of the mappings, which may be gone or read-only by now: then
        // `repair` puts a new page there, or the process ends.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), at as *mut u8, bytes.len()) };
        at
    }
}
