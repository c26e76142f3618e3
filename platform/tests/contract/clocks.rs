//! The clocks of the vDSO that a platform shows its guests: those of the host, without a trap.

use std::sync::Arc;

use runsc_platform::arch::Registers;
use runsc_platform::*;

use crate::Case;
use crate::guest::*;
use crate::state::dynamic_symbol;

pub const CASES: &[Case] = &[("clocks_are_the_hosts", clocks_are_the_hosts)];

program!(
    // RBP times: CLOCK_MONOTONIC, by the function RBX into [R14], in nanoseconds to [R12], between two
    // readings of the time-stamp counter to [R12+8] and [R12+16]; UD2 if that is less than what was at
    // [R13] before, where another thread writes its own.
    tell_time,
    "2: mov r15, [r13]",
    "rdtsc",
    "shl rdx, 32",
    "or rax, rdx",
    "mov [r12+8], rax",
    "mov edi, 1",
    "mov rsi, r14",
    "call rbx",
    "rdtsc",
    "shl rdx, 32",
    "or rax, rdx",
    "mov [r12+16], rax",
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

/// The host's time, and the time-stamp counter then: of many readings the closest pair.
#[derive(Clone, Copy)]
struct Moment {
    ticks: i128,
    ns: i128,
}

impl Moment {
    fn now() -> Moment {
        let ticks = || i128::from(unsafe { std::arch::x86_64::_rdtsc() });
        let tries = (0..1000).map(|_| {
            let mut now = libc::timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            let before = ticks();
            unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
            let after = ticks();
            let moment = Moment {
                ticks: (before + after) / 2,
                ns: i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec),
            };
            (after - before, moment)
        });
        tries.min_by_key(|(width, _)| *width).unwrap().1
    }

    /// The host's time, in nanoseconds, when the counter was at `ticks`; `later` tells how fast it is.
    fn time_at(&self, ticks: u64, later: &Moment) -> i128 {
        let passed = i128::from(ticks) - self.ticks;
        self.ns + passed * (later.ns - self.ns) / (later.ticks - self.ticks)
    }
}

/// Two threads tell the time as fast as they can: neither sees the other one's time ahead of its own,
/// and what they are told is the host's time of that moment.
fn clocks_are_the_hosts(platform: Arc<dyn Platform>) {
    const TIMES: u64 = 20_000;
    const ROUNDS: u32 = 20;
    const CLOSE: i128 = 1000;
    let Some(vdso) = platform.vdso() else {
        println!("  !!! SKIPPED: the platform brings no vDSO");
        return;
    };
    let image = runsc_platform::host::vdso_bytes().unwrap();
    let symbol = dynamic_symbol(&image, "__vdso_clock_gettime").unwrap();
    let mut machine = Machine::new(platform);
    let space = machine.space(tell_time());
    let mut threads: Vec<Thread> = (0..2).map(|_| machine.thread(&space)).collect();
    for _ in 0..ROUNDS {
        for (n, thread) in (0..).zip(&mut threads) {
            thread.regs = Registers::start(CODE, STACK_TOP - 64 - n * 0x2000);
            thread.regs.rbx = vdso.image + symbol;
            (thread.regs.r12, thread.regs.r13) = (place(n), place(1 - n));
            thread.regs.r14 = place(2 + n);
            thread.regs.rbp = TIMES;
        }
        let start = Moment::now();
        run_all(&mut machine, &mut threads);
        let end = Moment::now();
        for n in 0..2 {
            let [told, before, after] = [0, 8, 16].map(|at| space.word(place(n) + at));
            let [before, after] = [before, after].map(|ticks| start.time_at(ticks, &end));
            let told = i128::from(told);
            assert!(
                before - CLOSE <= told && told <= after + CLOSE,
                "told {told} between {before} and {after}"
            );
        }
    }
}

fn run_all(machine: &mut Machine, threads: &mut [Thread]) {
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
}
