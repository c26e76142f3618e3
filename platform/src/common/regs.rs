//! Making register values harmless before the host sees them.

use super::TASK_SIZE;
use crate::Fault;
use crate::arch::Registers;

const USER_CS: u64 = 0x33;
const USER_DS: u64 = 0x2b;
/// CF PF AF ZF SF TF DF OF NT RF AC ID: what user code may set (Intel SDM vol. 1 §3.4.3).
const USER_FLAGS: u64 = 0x0025_4dd5;
/// Bit 1 always reads as one; interrupts are on.
const FIXED_FLAGS: u64 = 0x202;

/// Registers that the host accepts, and the fault that running with the original ones would raise.
pub(crate) fn sanitise(regs: &Registers) -> (Registers, Option<Fault>) {
    let mut clean = *regs;
    clean.cs = USER_CS;
    clean.ss = USER_DS;
    for selector in [&mut clean.ds, &mut clean.es] {
        if *selector != USER_DS {
            *selector = 0;
        }
    }
    // The bases are set; a selector would only be in their way.
    clean.fs = 0;
    clean.gs = 0;
    clean.eflags = clean.eflags & USER_FLAGS | FIXED_FLAGS;
    // Keeps the host from restarting a call it never began.
    clean.orig_rax = u64::MAX;
    let addresses = [clean.rip, clean.fs_base, clean.gs_base];
    let fault = addresses.iter().any(|&a| a >= TASK_SIZE).then_some(Fault {
        signal: libc::SIGSEGV,
        code: SI_KERNEL,
        addr: 0,
        access: None,
    });
    (clean, fault)
}

/// si_code of a general-protection fault.
const SI_KERNEL: i32 = 0x80;

/// What has to be done to make a stopped thread's registers `new`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Nothing,
    OnlyRax,
    All,
}

/// Compares what the guest stopped with to what it is to go on with. Both sanitised but for
/// `orig_rax`, which does not count.
pub(crate) fn change(old: &Registers, new: &Registers) -> Change {
    let mut same = *old;
    same.orig_rax = new.orig_rax;
    if same == *new {
        return Change::Nothing;
    }
    same.rax = new.rax;
    // The host takes -512 and so on for a request to restart the call.
    let restart = (-516..=-512).contains(&(new.rax as i64));
    if same == *new && !restart {
        Change::OnlyRax
    } else {
        Change::All
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_wild_addresses_fault() {
        let good = Registers::start(0x1000, u64::MAX);
        assert_eq!(sanitise(&good), (good, None));
        for set in [
            |r: &mut Registers| r.rip = 1 << 47,
            |r: &mut Registers| r.fs_base = u64::MAX,
            |r: &mut Registers| r.gs_base = 1 << 63,
        ] {
            let mut bad = good;
            set(&mut bad);
            assert!(sanitise(&bad).1.is_some(), "{bad:x?}");
        }
    }

    #[test]
    fn privileged_bits_are_taken_out() {
        let hostile = Registers {
            cs: 0x10,
            ss: 0,
            ds: 0x18,
            es: 0x2b,
            fs: 0xffff,
            gs: 3,
            eflags: u64::MAX,
            ..Registers::start(0, 0)
        };
        let (clean, fault) = sanitise(&hostile);
        assert_eq!(fault, None);
        assert_eq!((clean.cs, clean.ss), (0x33, 0x2b));
        assert_eq!((clean.ds, clean.es, clean.fs, clean.gs), (0, 0x2b, 0, 0));
        // No I/O privilege, no virtual-8086 mode; interrupts stay on.
        assert_eq!(clean.eflags & 0x3000, 0);
        assert_eq!(clean.eflags & 0x20000, 0);
        assert_eq!(clean.eflags & 0x200, 0x200);
    }

    #[test]
    fn restart_codes_take_the_long_way() {
        let old = Registers::start(0x1000, 0);
        let with = |rax: i64| Registers {
            rax: rax as u64,
            ..old
        };
        assert_eq!(change(&old, &old), Change::Nothing);
        assert_eq!(change(&old, &with(7)), Change::OnlyRax);
        assert_eq!(change(&old, &with(-4)), Change::OnlyRax);
        assert_eq!(change(&old, &with(-512)), Change::All);
        assert_eq!(change(&old, &Registers { rdx: 1, ..old }), Change::All);
    }
}
