//! The seccomp filter of every stub.
//!
//! Guest system calls never get here: PTRACE_SYSEMU skips them before seccomp looks. The filter is
//! what stands if that ever fails: only the stub's own `syscall` instruction may make calls, only
//! the few that change the address space or the set of threads, and all else kills. Calls through
//! the vsyscall page, which the host kernel carries out without a system call, are turned into a
//! signal that the worker reports as a fault.

use crate::common::bpf::*;

use super::stub::{CLONE_STUB, CLONE_THREAD_FLAGS, Layout};

/// Kills unless the first argument is below `limit`.
fn guest_range(limit: u64) -> [Insn; 7] {
    [
        load(arg(0) + 4),
        jump(GT, high(limit), 3, 0),
        jump(EQ, high(limit), 0, 3),
        load(arg(0)),
        jump(GE, low(limit), 0, 1),
        ret(KILL),
        ret(ALLOW),
    ]
}

/// What [`program`] lets pass, for people: call, number, checks and reason.
const ALLOWED: &[(&str, i64, &str)] = &[
    ("exit()", libc::SYS_exit, "a guest thread ends"),
    (
        "clone(arg0 == a new stub or a new thread)",
        libc::SYS_clone,
        "fork(2) and clone(2) of guests",
    ),
    (
        "munmap(arg0 < end of guest memory)",
        libc::SYS_munmap,
        "changes of guest mappings",
    ),
    (
        "mprotect(arg0 < end of guest memory)",
        libc::SYS_mprotect,
        "changes of guest mappings",
    ),
    (
        "mmap(arg3 & MAP_FIXED, arg0 < end of guest memory)",
        libc::SYS_mmap,
        "changes of guest mappings; the command page, to read",
    ),
];

/// The stubs' filter in the form of [`crate::seccomp::Filter::describe`].
pub fn describe() -> String {
    let mut text = format!(
        "stub (ptrace): {} calls, from the stub's one syscall instruction only; any other kills the process\n",
        ALLOWED.len()
    );
    for (call, _, why) in ALLOWED {
        text.push_str(&format!("  {call}  # {why}\n"));
    }
    text
}

/// The program, for stubs laid out like this.
pub(super) fn program(layout: &Layout) -> Vec<Insn> {
    let ip = layout.syscall_return();
    let mut code = vec![
        load(ARCH),
        jump(EQ, AUDIT_ARCH_X86_64, 1, 0),
        ret(KILL),
        // The stub's own instruction?
        load(IP + 4),
        jump(EQ, high(ip), 0, 2),
        load(IP),
        jump(EQ, low(ip), 6, 0),
        // The vsyscall page?
        load(IP + 4),
        jump(EQ, high(VSYSCALL_PAGE), 0, 3),
        load(IP),
        jump(GE, low(VSYSCALL_PAGE), 0, 1),
        ret(TRAP),
        ret(KILL),
        load(NR),
    ];
    // A thread of the stub ends.
    code.extend(call(libc::SYS_exit, &[ret(ALLOW)]));
    // A stub or a thread is made: exactly the flags this platform uses.
    code.extend(call(
        libc::SYS_clone,
        &[
            load(arg(0) + 4),
            jump(EQ, 0, 0, 3),
            load(arg(0)),
            jump(EQ, low(CLONE_STUB), 2, 0),
            jump(EQ, low(CLONE_THREAD_FLAGS), 1, 0),
            ret(KILL),
            ret(ALLOW),
        ],
    ));
    // Changes of guest mappings: below the stub's own pages only.
    for number in [libc::SYS_munmap, libc::SYS_mprotect] {
        code.extend(call(number, &guest_range(layout.user_end)));
    }
    // Mappings: only at a fixed address, and above the guest's range only the command page, only
    // to read.
    let mut body = vec![
        load(arg(3)),
        jump(SET, libc::MAP_FIXED as u32, 1, 0),
        ret(KILL),
        load(arg(0)),
        jump(EQ, low(layout.command), 0, 5),
        load(arg(0) + 4),
        jump(EQ, high(layout.command), 0, 3),
        load(arg(2)),
        jump(EQ, libc::PROT_READ as u32, 0, 1),
        ret(ALLOW),
    ];
    body.extend(guest_range(layout.user_end));
    code.extend(call(libc::SYS_mmap, &body));
    code.push(ret(KILL));
    code
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ptrace::stub::PAGE;

    const LAYOUT: Layout = Layout {
        code: 0x7f12_3456_7000,
        command: 0x7f12_3456_6000,
        user_end: 0x7f12_3456_6000,
        vdso: None,
    };

    #[test]
    fn the_description_names_the_calls_of_the_program() {
        // Arguments that some rule of each call lets pass.
        let args = |number| match number {
            libc::SYS_clone => [low(CLONE_STUB).into(), 0, 0, 0, 0, 0],
            libc::SYS_mmap => [0x10000, PAGE, 1, libc::MAP_FIXED as u64, 0, 0],
            _ => [0x10000, PAGE, 1, 0, 0, 0],
        };
        let ip = LAYOUT.syscall_return();
        let arch = AUDIT_ARCH_X86_64;
        let passes = |number: &i64| verdict(arch, ip, *number, args(*number)) == ALLOW;
        let allowed: Vec<i64> = (0..600).filter(passes).collect();
        let mut named: Vec<i64> = ALLOWED.iter().map(|(_, number, _)| *number).collect();
        named.sort_unstable();
        assert_eq!(allowed, named);
    }

    fn verdict(arch: u32, ip: u64, number: i64, args: [u64; 6]) -> u32 {
        crate::common::bpf::verdict(&program(&LAYOUT), arch, ip, number, args)
    }

    fn stub_call(number: i64, args: [u64; 6]) -> u32 {
        let arch = AUDIT_ARCH_X86_64;
        verdict(arch, LAYOUT.syscall_return(), number, args)
    }

    #[test]
    fn every_call_of_the_stub_passes() {
        let fixed = (libc::MAP_FIXED | libc::MAP_SHARED) as u64;
        let cases = [
            (libc::SYS_mmap, [0x10000, PAGE, 7, fixed, 3, 0]),
            (
                libc::SYS_mmap,
                [LAYOUT.user_end - PAGE, PAGE, 7, fixed, 3, 0],
            ),
            (libc::SYS_mmap, [LAYOUT.command, PAGE, 1, fixed, 3, 0]),
            (libc::SYS_munmap, [0x7f12_0000_0000, PAGE, 0, 0, 0, 0]),
            (libc::SYS_munmap, [0x1234_ffff_f000, PAGE, 0, 0, 0, 0]),
            (libc::SYS_mprotect, [0x10000, PAGE, 1, 0, 0, 0]),
            (libc::SYS_clone, [CLONE_STUB, 0, 0, 0, 0, 0]),
            (libc::SYS_clone, [CLONE_THREAD_FLAGS, 0, 0, 0, 0, 0]),
            (libc::SYS_exit, [0; 6]),
        ];
        for (number, args) in cases {
            assert_eq!(stub_call(number, args), ALLOW, "{number} {args:x?}");
        }
    }

    #[test]
    fn everything_else_kills() {
        let shared = libc::MAP_SHARED as u64;
        let fixed = libc::MAP_FIXED as u64 | shared;
        let above = LAYOUT.user_end;
        let cases = [
            (libc::SYS_mmap, [0x10000, PAGE, 7, shared, 3, 0]),
            (libc::SYS_mmap, [above + PAGE, PAGE, 1, fixed, 3, 0]),
            (libc::SYS_mmap, [above, PAGE, 3, fixed, 3, 0]),
            (libc::SYS_mmap, [1 << 63, PAGE, 1, fixed, 3, 0]),
            (libc::SYS_munmap, [above, PAGE, 0, 0, 0, 0]),
            (libc::SYS_munmap, [0x7fff_0000_0000, PAGE, 0, 0, 0, 0]),
            (libc::SYS_mprotect, [LAYOUT.code, PAGE, 7, 0, 0, 0]),
            (libc::SYS_clone, [libc::CLONE_VM as u64, 0, 0, 0, 0, 0]),
            (libc::SYS_clone, [CLONE_STUB | 1 << 40, 0, 0, 0, 0, 0]),
            (libc::SYS_execve, [0; 6]),
            (libc::SYS_read, [0; 6]),
            (libc::SYS_ptrace, [0; 6]),
            (-1, [0; 6]),
        ];
        for (number, args) in cases {
            assert_eq!(stub_call(number, args), KILL, "{number} {args:x?}");
        }
        for number in 0..600 {
            let allowed = [libc::SYS_exit].contains(&number);
            let expected = if allowed { ALLOW } else { KILL };
            let args = [u64::MAX; 6];
            assert_eq!(stub_call(number, args), expected, "{number}");
        }
    }

    #[test]
    fn only_the_stub_may_call() {
        let arch = AUDIT_ARCH_X86_64;
        let ip = LAYOUT.syscall_return();
        let exit = |arch, ip| verdict(arch, ip, libc::SYS_exit, [0; 6]);
        assert_eq!(exit(arch, ip), ALLOW);
        assert_eq!(exit(0x4000_0003, ip), KILL);
        for wrong in [0, ip - 2, ip + 1, ip ^ 1 << 32, ip & 0xffff_ffff] {
            assert_eq!(exit(arch, wrong), KILL, "{wrong:x}");
        }
        // Reported as a fault, not a death: the guest may try.
        assert_eq!(exit(arch, VSYSCALL_PAGE), TRAP);
        assert_eq!(exit(arch, VSYSCALL_PAGE + 0x400), TRAP);
    }
}
