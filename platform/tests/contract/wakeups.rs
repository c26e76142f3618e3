//! Kicks and wakes: none is lost, whatever the timing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use runsc_platform::ptrace::host_call_count;
use runsc_platform::*;

use crate::Case;
use crate::guest::*;

pub const CASES: &[Case] = &[
    ("kick_running", kick_running),
    ("kick_at_rest", kick_at_rest),
    ("kick_after_drop", kick_after_drop),
    ("kicks_are_never_lost", kicks_are_never_lost),
    ("kicks_do_not_disturb", kicks_do_not_disturb),
    ("stray_signals_do_not_disturb", stray_signals_do_not_disturb),
    ("wake_before_and_during_wait", wake_before_and_during_wait),
    ("wake_without_contexts", wake_without_contexts),
    ("wakes_are_never_lost", wakes_are_never_lost),
    ("wakes_among_traps", wakes_among_traps),
    ("poll_returns_at_once", poll_returns_at_once),
    ("sleeping_costs_nothing", sleeping_costs_nothing),
    ("a_core_is_handed_over_by_yielding", handed_over_by_yielding),
];

program!(spin, "2: inc qword ptr [rdi]", "jmp 2b");
program!(
    count_calls,
    "2: inc rbx",
    "mov eax, 39",
    "syscall",
    "jmp 2b"
);

fn kick_running(platform: Arc<dyn Platform>) {
    let mut machine = Machine::new(platform);
    let space = machine.space(spin());
    let mut thread = machine.thread(&space);
    thread.regs.rdi = DATA;
    let kicker = thread.context.kicker();
    for _ in 0..20 {
        let before = space.word(DATA);
        thread.context.resume(&thread.regs).unwrap();
        while space.word(DATA) == before {
            std::thread::yield_now();
        }
        kicker.kick();
        assert_eq!(machine.trap(&mut thread), Trap::Interrupted);
        assert_eq!(thread.regs.orig_rax, u64::MAX);
    }
}

fn kick_at_rest(platform: Arc<dyn Platform>) {
    let mut machine = Machine::new(platform);
    let space = machine.space(spin());
    let mut thread = machine.thread(&space);
    thread.regs.rdi = DATA;
    for _ in 0..20 {
        // Several count as one.
        thread.context.kicker().kick();
        thread.context.kicker().kick();
        assert_eq!(machine.run(&mut thread), Trap::Interrupted);
    }
}

fn kick_after_drop(platform: Arc<dyn Platform>) {
    let mut machine = Machine::new(platform);
    let space = machine.space(spin());
    let thread = machine.thread(&space);
    let kicker = thread.context.kicker();
    drop(thread);
    kicker.kick();
    assert_eq!(machine.worker.wait(Wait::Poll).unwrap(), Event::Nothing);
}

/// A guest that never traps by itself is kicked once a round from another thread, at any moment
/// of the round. A lost kick would hang.
fn kicks_are_never_lost(platform: Arc<dyn Platform>) {
    const ROUNDS: u64 = 5000;
    let mut machine = Machine::new(platform);
    let space = machine.space(spin());
    let mut thread = machine.thread(&space);
    thread.regs.rdi = DATA;
    let kicker = thread.context.kicker();
    let (round, rounds) = std::sync::mpsc::channel::<u64>();
    let other = std::thread::spawn(move || {
        for n in rounds {
            for _ in 0..n % 64 {
                std::hint::spin_loop();
            }
            kicker.kick();
        }
    });
    for n in 1..=ROUNDS {
        round.send(n).unwrap();
        assert_eq!(machine.run(&mut thread), Trap::Interrupted);
    }
    drop(round);
    other.join().unwrap();
}

/// Whatever is kicked when, a guest's registers and calls stay in order.
fn kicks_do_not_disturb(platform: Arc<dyn Platform>) {
    let mut machine = Machine::new(platform);
    let space = machine.space(count_calls());
    let mut thread = machine.thread(&space);
    let kicker = thread.context.kicker();
    let stop = Arc::new(AtomicBool::new(false));
    let seen = stop.clone();
    let other = std::thread::spawn(move || {
        let mut kicks = 0u32;
        while !seen.load(Ordering::Relaxed) {
            kicker.kick();
            kicks += 1;
            for _ in 0..kicks % 512 {
                std::hint::spin_loop();
            }
        }
    });
    let ends = Sets(&stop);
    let mut calls = 0;
    let mut interrupted = 0;
    while calls < 3000 || interrupted < 100 {
        match machine.run(&mut thread) {
            Trap::Syscall => {
                calls += 1;
                assert_eq!(thread.regs.rbx, calls);
                assert_eq!(thread.regs.orig_rax, 39);
                // The restart codes must come back as they are, even with a signal underway.
                thread.regs.set_return((-512 - (calls as i64 % 5)) as u64);
                if calls % 7 == 0 {
                    space.map(HOLE, PAGE, Prot::READ);
                }
            }
            Trap::Interrupted => interrupted += 1,
            trap => panic!("{trap:?}"),
        }
    }
    drop(ends);
    other.join().unwrap();
}

/// Ctrl-C and the like reach the stubs too; they are not the guest's.
fn stray_signals_do_not_disturb(platform: Arc<dyn Platform>) {
    let mut machine = Machine::new(platform);
    let space = machine.space(count_calls());
    let mut thread = machine.thread(&space);
    let path = format!("/proc/self/task/{}/children", host::gettid());
    let Ok(children) = std::fs::read_to_string(path) else {
        println!("  !!! SKIPPED: /proc does not show the stubs");
        return;
    };
    let signals = [
        libc::SIGINT,
        libc::SIGTERM,
        libc::SIGTSTP,
        libc::SIGSTOP,
        libc::SIGCONT,
        libc::SIGSEGV,
        libc::SIGTRAP,
        libc::SIGSYS,
        libc::SIGUSR1,
        libc::SIGCHLD,
    ];
    for calls in 1..=50u64 {
        for child in children.split_whitespace() {
            let signal = signals[calls as usize % signals.len()];
            unsafe { libc::kill(child.parse().unwrap(), signal) };
        }
        if calls % 2 == 0 {
            space.map(HOLE, PAGE, Prot::READ);
        }
        // A signal that looks like a kick may interrupt it, which is never wrong.
        let mut trap = machine.run(&mut thread);
        while trap == Trap::Interrupted {
            trap = machine.run(&mut thread);
        }
        assert_eq!(trap, Trap::Syscall);
        assert_eq!(thread.regs.rbx, calls);
    }
    // The template has them pending, and still works.
    let (_space, _thread, trap) = machine.once(count_calls());
    assert_eq!(trap, Trap::Syscall);
}

fn wake_before_and_during_wait(platform: Arc<dyn Platform>) {
    let mut machine = Machine::new(platform);
    machine.waker.wake();
    machine.waker.wake();
    assert_eq!(machine.worker.wait(Wait::Block).unwrap(), Event::Woken);
    assert_eq!(machine.worker.wait(Wait::Poll).unwrap(), Event::Nothing);
    let waker = machine.waker.clone();
    let other = std::thread::spawn(move || {
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(20) {
            std::thread::yield_now();
        }
        waker.wake();
    });
    assert_eq!(machine.worker.wait(Wait::Block).unwrap(), Event::Woken);
    other.join().unwrap();
}

fn wake_without_contexts(platform: Arc<dyn Platform>) {
    ping_pong(&mut Machine::new(platform), 2000);
}

/// Two threads wake each other in turn; a lost wake would hang.
fn wakes_are_never_lost(platform: Arc<dyn Platform>) {
    let mut machine = Machine::new(platform);
    let space = machine.space(spin());
    let mut thread = machine.thread(&space);
    // With a stub at rest and with one that runs.
    ping_pong(&mut machine, 3000);
    thread.regs.rdi = DATA;
    thread.context.resume(&thread.regs).unwrap();
    ping_pong(&mut machine, 300);
}

fn ping_pong(machine: &mut Machine, rounds: u64) {
    let round = Arc::new(AtomicU64::new(0));
    let seen = round.clone();
    let waker = machine.waker.clone();
    let other = std::thread::spawn(move || {
        for n in 1..=rounds {
            while seen.load(Ordering::SeqCst) < n {
                std::thread::yield_now();
            }
            for _ in 0..n % 256 {
                std::hint::spin_loop();
            }
            waker.wake();
        }
    });
    for n in 1..=rounds {
        round.store(n, Ordering::SeqCst);
        assert_eq!(machine.worker.wait(Wait::Block).unwrap(), Event::Woken);
    }
    other.join().unwrap();
}

/// Wakes and traps at once: each comes through.
fn wakes_among_traps(platform: Arc<dyn Platform>) {
    let mut machine = Machine::new(platform);
    let space = machine.space(count_calls());
    let mut thread = machine.thread(&space);
    let waker = machine.waker.clone();
    let wanted = Arc::new(AtomicU64::new(0));
    let got = wanted.clone();
    let other = std::thread::spawn(move || {
        for n in 1..=500 {
            waker.wake();
            while got.load(Ordering::SeqCst) < n {
                std::thread::yield_now();
            }
        }
    });
    let mut woken = 0;
    let mut calls = 0;
    thread.context.resume(&thread.regs).unwrap();
    while woken < 500 {
        match machine.worker.wait(Wait::Block).unwrap() {
            Event::Woken => {
                woken += 1;
                wanted.store(woken, Ordering::SeqCst);
            }
            Event::Trap(_) => {
                let trap = thread.context.trap(&mut thread.regs).unwrap();
                assert_eq!(trap, Trap::Syscall);
                calls += 1;
                assert_eq!(thread.regs.rbx, calls);
                thread.context.resume(&thread.regs).unwrap();
            }
            Event::Nothing => panic!("a blocking wait gave nothing"),
        }
    }
    other.join().unwrap();
    assert!(calls > 0);
}

fn poll_returns_at_once(platform: Arc<dyn Platform>) {
    let mut machine = Machine::new(platform);
    assert_eq!(machine.worker.wait(Wait::Poll).unwrap(), Event::Nothing);
    let space = machine.space(spin());
    let mut thread = machine.thread(&space);
    assert_eq!(machine.worker.wait(Wait::Poll).unwrap(), Event::Nothing);
    thread.regs.rdi = DATA;
    thread.context.resume(&thread.regs).unwrap();
    assert_eq!(machine.worker.wait(Wait::Poll).unwrap(), Event::Nothing);
    thread.context.kicker().kick();
    loop {
        match machine.worker.wait(Wait::Poll).unwrap() {
            Event::Nothing => std::thread::yield_now(),
            event => {
                assert_eq!(event, Event::Trap(thread.context.id()));
                break;
            }
        }
    }
}

/// A worker with nothing to do sleeps for good.
fn sleeping_costs_nothing(platform: Arc<dyn Platform>) {
    let mut machine = Machine::new(platform);
    let (_space, _thread, _) = machine.once(count_calls());
    let waker = machine.waker.clone();
    let other = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        waker.wake();
    });
    let switches = || {
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        unsafe { libc::getrusage(libc::RUSAGE_THREAD, &mut usage) };
        usage.ru_nvcsw
    };
    let before = switches();
    assert_eq!(machine.worker.wait(Wait::Block).unwrap(), Event::Woken);
    assert!(switches() - before <= 3);
    other.join().unwrap();
}

/// systrap: between a worker and a thread of its core, a trap and its answer cost the worker one
/// host call; nobody is put to sleep and woken.
fn handed_over_by_yielding(platform: Arc<dyn Platform>) {
    if platform.name() != "systrap" {
        return;
    }
    const CALLS: u64 = 50;
    let mut machine = Machine::new(platform);
    let space = machine.space(count_calls());
    let mut thread = machine.thread(&space);
    // Where others have the core for long, the worker sleeps for a while.
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        let before = host_call_count();
        for _ in 0..CALLS {
            machine.run_to_syscall(&mut thread);
        }
        if host_call_count() - before <= CALLS {
            return;
        }
    }
    panic!("more than one host call a trap");
}
