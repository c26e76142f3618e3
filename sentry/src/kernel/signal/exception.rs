//! What the processor said of a fault: the fields `trapno`, `err` and `cr2` of a handler's context,
//! by which emulators and just-in-time compilers tell a write from a read.
//!
//! As on Linux they belong to the thread and stay until its next fault, whatever signal is delivered
//! meanwhile. Platforms tell a fault as a signal; the vector and the error code follow from that,
//! but for the bit of a page fault that says whether a page was there: it is told where access was
//! refused, and for the kernel's addresses.

use runsc_platform::{Access, Fault};

/// Vectors (Intel SDM vol. 3 §6.3.1).
const DIVIDE: u64 = 0;
const DEBUG: u64 = 1;
const BREAKPOINT: u64 = 3;
const INVALID_OPCODE: u64 = 6;
const STACK_SEGMENT: u64 = 12;
const PROTECTION: u64 = 13;
const PAGE_FAULT: u64 = 14;
const X87: u64 = 16;
const ALIGNMENT: u64 = 17;
const SIMD: u64 = 19;

/// Of a page fault's error code (Intel SDM vol. 3 §4.7).
const PRESENT: u64 = 1;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const FETCH: u64 = 1 << 4;

/// Where the addresses of user space end.
const TASK_SIZE: u64 = 0x7fff_ffff_f000;

/// The last fault of a thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exception {
    pub vector: u64,
    pub error: u64,
    /// Of its last page fault.
    pub address: u64,
}

impl Exception {
    /// After `fault`, raised at `rip` and told the guest with `code`; `x87`: that unit has an exception.
    pub fn after(self, fault: &Fault, code: i32, rip: u64, x87: bool) -> Exception {
        const SI_KERNEL: i32 = 0x80;
        const FPE_INTDIV: i32 = 1;
        const BUS_ADRALN: i32 = 1;
        const SEGV_ACCERR: i32 = 2;
        let plain = |vector| Exception {
            vector,
            error: 0,
            ..self
        };
        match (fault.signal, fault.code) {
            (libc::SIGFPE, FPE_INTDIV) => plain(DIVIDE),
            (libc::SIGFPE, _) if x87 => plain(X87),
            (libc::SIGFPE, _) => plain(SIMD),
            (libc::SIGILL, _) => plain(INVALID_OPCODE),
            (libc::SIGTRAP, SI_KERNEL) => plain(BREAKPOINT),
            (libc::SIGTRAP, _) => plain(DEBUG),
            (libc::SIGBUS, SI_KERNEL) => plain(STACK_SEGMENT),
            (libc::SIGBUS, BUS_ADRALN) => plain(ALIGNMENT),
            (libc::SIGSEGV, SI_KERNEL) => plain(PROTECTION),
            _ => {
                let kind = match fault.access {
                    Some(Access::Execute) => FETCH,
                    _ if fault.addr == rip => FETCH,
                    Some(Access::Write) => WRITE,
                    _ => 0,
                };
                let refused = fault.signal == libc::SIGSEGV && code == SEGV_ACCERR;
                let there = match refused || fault.addr >= TASK_SIZE {
                    true => PRESENT,
                    false => 0,
                };
                Exception {
                    vector: PAGE_FAULT,
                    error: USER | kind | there,
                    address: fault.addr,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_told_as_exceptions() {
        let last = Exception {
            vector: PAGE_FAULT,
            error: 7,
            address: 0x5000,
        };
        let fault = |signal, code, addr, access| Fault {
            signal,
            code,
            addr,
            access,
        };
        let (read, write, fetch) = (
            Some(Access::Read),
            Some(Access::Write),
            Some(Access::Execute),
        );
        const RIP: u64 = 0x40_0000;
        for (fault, code, vector, error, address) in [
            (fault(libc::SIGSEGV, 1, 8, read), 1, 14, 4, 8),
            (fault(libc::SIGSEGV, 1, 8, write), 1, 14, 6, 8),
            (fault(libc::SIGSEGV, 1, 8, write), 2, 14, 7, 8),
            (fault(libc::SIGSEGV, 1, RIP, fetch), 1, 14, 0x14, RIP),
            (fault(libc::SIGSEGV, 2, RIP, None), 2, 14, 0x15, RIP),
            (fault(libc::SIGSEGV, 1, 1 << 63, read), 1, 14, 5, 1 << 63),
            (fault(libc::SIGBUS, 2, 8, write), 2, 14, 6, 8),
            (fault(libc::SIGSEGV, 0x80, 0, None), 0x80, 13, 0, 0x5000),
            (fault(libc::SIGBUS, 0x80, 0, None), 0x80, 12, 0, 0x5000),
            (fault(libc::SIGBUS, 1, 0, None), 1, 17, 0, 0x5000),
            (fault(libc::SIGILL, 2, RIP, None), 2, 6, 0, 0x5000),
            (fault(libc::SIGTRAP, 0x80, 0, None), 0x80, 3, 0, 0x5000),
            (fault(libc::SIGTRAP, 2, RIP, None), 2, 1, 0, 0x5000),
            (fault(libc::SIGFPE, 1, RIP, None), 1, 0, 0, 0x5000),
            (fault(libc::SIGFPE, 3, RIP, None), 3, 16, 0, 0x5000),
        ] {
            let now = last.after(&fault, code, RIP, true);
            let expected = Exception {
                vector,
                error,
                address,
            };
            assert_eq!(now, expected, "{fault:?}");
        }
        let simd = fault(libc::SIGFPE, 3, RIP, None);
        assert_eq!(last.after(&simd, 3, RIP, false).vector, SIMD);
    }
}
