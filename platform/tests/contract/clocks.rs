//! The clocks of the vDSO that a platform shows its guests: those of the host, without a trap.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use runsc_platform::arch::Registers;
use runsc_platform::*;

use crate::Case;
use crate::guest::*;
use crate::state::dynamic_symbol;

pub const CASES: &[Case] = &[("clocks_are_the_hosts", clocks_are_the_hosts)];

program!(
    // RBP times: CLOCK_MONOTONIC, by the function RBX into [R14], in nanoseconds to [R12]; UD2 if
    // that is less than what was at [R13] before, where another thread writes its own.
    tell_time,
    "2: mov r15, [r13]",
    "mov edi, 1",
    "mov rsi, r14",
    "call rbx",
    "mov rax, [r14]",
    "imul rax, rax, 1000000000",
    "add rax, [r14+8]",
    "cmp rax, r15",
    "jb 3f",
    "mov [r12], rax",
    "dec rbp",
    "jnz 2b",
    "mov eax, 600",
    "syscall",
    "3: ud2",
);

fn place(n: u64) -> u64 {
    DATA + n * 256
}

fn now_ns() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Two threads tell the time as fast as they can: neither sees the other one's time ahead of its own,
/// the host sees none ahead of its own, and at some moment one that is hardly behind.
fn clocks_are_the_hosts(platform: Arc<dyn Platform>) {
    const TIMES: u64 = 100_000;
    const ROUNDS: u32 = 100;
    let Some(vdso) = platform.vdso() else {
        println!("  !!! SKIPPED: the platform brings no vDSO");
        return;
    };
    let image = runsc_platform::host::vdso_bytes().unwrap();
    let symbol = dynamic_symbol(&image, "__vdso_clock_gettime").unwrap();
    let mut machine = Machine::new(platform);
    let space = machine.space(tell_time());
    let mut threads: Vec<Thread> = (0..2).map(|_| machine.thread(&space)).collect();
    // A busy machine may let the host look late each time for a while.
    let mut best = u64::MAX;
    for _ in 0..ROUNDS {
        for (n, thread) in (0..).zip(&mut threads) {
            thread.regs = Registers::start(CODE, STACK_TOP - 64 - n * 0x2000);
            thread.regs.rbx = vdso.image + symbol;
            (thread.regs.r12, thread.regs.r13) = (place(n), place(1 - n));
            thread.regs.r14 = place(2 + n);
            thread.regs.rbp = TIMES;
        }
        best = best.min(round(&mut machine, &space, &mut threads));
        if best < 1000 {
            return;
        }
    }
    panic!("{best} ns behind");
}

/// Gives the least that a time was behind the host's.
fn round(machine: &mut Machine, space: &Space, threads: &mut [Thread]) -> u64 {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut best = u64::MAX;
            while !done.load(Ordering::SeqCst) {
                for n in 0..2 {
                    let told = space.word(place(n));
                    let now = now_ns();
                    assert!(told <= now, "{told} is ahead of {now}");
                    if told != 0 {
                        best = best.min(now - told);
                    }
                }
            }
            best
        });
        for thread in &mut *threads {
            thread.context.resume(&thread.regs).unwrap();
        }
        let mut left = threads.len();
        while left > 0 {
            let Event::Trap(id) = machine.worker.wait(Wait::Block).unwrap() else {
                panic!("nobody woke it");
            };
            let thread = threads.iter_mut().find(|t| t.context.id() == id).unwrap();
            match thread.context.trap(&mut thread.regs).unwrap() {
                Trap::Syscall => left -= 1,
                // A platform may, when another thread begins.
                Trap::Interrupted => thread.context.resume(&thread.regs).unwrap(),
                trap => panic!("{trap:?}: a clock went back"),
            }
        }
        done.store(true, Ordering::SeqCst);
        watcher.join().unwrap()
    })
}
