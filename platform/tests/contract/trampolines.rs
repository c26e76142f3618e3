//! Attacks by way of patched call sites: guests can jump into what those jump to, and read the tables
//! that belong to it.

use std::sync::Arc;
use std::time::Duration;

use runsc_platform::arch::Registers;
use runsc_platform::*;

use crate::Case;
use crate::attacks::{Arena, End, arena, filled};
use crate::guest::*;
use crate::patched::{general, heat, numbered};

pub const CASES: &[Case] = &[
    ("attack_trampolines", jump_into_trampolines),
    ("attack_tables_are_read_only", tables_are_read_only),
];

/// Offset from the end of the user range, and the length of one.
const SITES: u64 = 0x2_0000;
const TRAMPOLINE: u64 = 256;
/// Where jumps and threads are looked up.
const LOW: u64 = 0x6_0000;

/// A guest with a patched site, and a thread whose %fs base the table knows.
fn patched(arena: &mut Arena, code: &[u8]) -> Option<(Space, Thread)> {
    let space = arena.machine.space(code);
    let mut thread = arena.machine.thread(&space);
    thread.regs.fs_base = DATA;
    heat(&mut arena.machine, &space, &mut thread, code)?;
    thread.regs.set_return(1);
    assert_eq!(arena.machine.run(&mut thread), Trap::Syscall);
    Some((space, thread))
}

/// Every byte of a trampoline is an entry, with registers of the guest's choice.
fn jump_into_trampolines(platform: Arc<dyn Platform>) {
    let Some(mut arena) = arena(platform, "trampolines") else {
        return;
    };
    let mut stopped = 0;
    for code in [numbered(), general()] {
        let mut victim = None;
        for n in 0..3 * TRAMPOLINE {
            let taken = match victim.take() {
                Some(taken) => Some(taken),
                None => patched(&mut arena, code),
            };
            let Some((space, mut thread)) = taken else {
                return;
            };
            // Its own area, nobody's, and the middle of one for a stack and an area.
            let pointer = [arena.area(1), DATA, arena.area(1) + 0x28, u64::MAX][n as usize % 4];
            let at = arena.base + SITES + n % TRAMPOLINE;
            let mut regs = filled(Registers::start(at, DATA + 0x800), pointer);
            regs.rax = [39, 700, u64::MAX][n as usize % 3];
            regs.fs_base = if n % 2 == 0 { DATA } else { pointer & !7 };
            if n % 5 == 0 {
                regs.rsp = pointer;
            }
            thread.regs = regs;
            let end = arena.attack(&space, &mut thread, Duration::from_micros(250));
            if let End::Trapped = end {
                stopped += 1;
                victim = Some((space, thread));
            }
            if n % 128 == 0 {
                arena.check();
            }
        }
    }
    assert!(stopped > 100, "{stopped}");
    arena.check_all();
}

program!(store, "mov [rdi], rsi", "mov eax, 400", "syscall");
program!(fetch, "mov rsi, [rdi]", "mov eax, 400", "syscall");

/// Nobody but the Sentry writes to where jumps lead and to where threads are looked up.
fn tables_are_read_only(platform: Arc<dyn Platform>) {
    let Some(mut arena) = arena(platform, "tables_are_read_only") else {
        return;
    };
    let Some((_patched, _thread)) = patched(&mut arena, general()) else {
        return;
    };
    for at in [
        LOW,
        LOW + 0x8000,
        arena.base + SITES,
        arena.base + SITES + 0x3_f000,
    ] {
        for (code, refused) in [(store(), true), (fetch(), false)] {
            let space = arena.machine.space(code);
            let mut thread = arena.machine.thread(&space);
            (thread.regs.rdi, thread.regs.rsi) = (at, 0x4141_4141);
            match arena.machine.run(&mut thread) {
                Trap::Fault(fault) if refused => {
                    assert_eq!((fault.signal, fault.addr), (libc::SIGSEGV, at));
                }
                Trap::Syscall if !refused => assert_ne!(thread.regs.rsi, 0x4141_4141),
                other => panic!("{at:#x}: {other:?}"),
            }
        }
    }
    arena.check_all();
}
