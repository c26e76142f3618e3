//! Several threads and several address spaces.

use std::sync::Arc;
use std::time::{Duration, Instant};

use runsc_platform::arch::Registers;
use runsc_platform::*;

use crate::Case;
use crate::guest::*;

pub const CASES: &[Case] = &[
    ("threads_share_memory", threads_share_memory),
    (
        "mapping_changes_reach_running_threads",
        mapping_changes_reach_running_threads,
    ),
    ("changes_race_with_resumes", changes_race_with_resumes),
    ("new_thread_while_all_run", new_thread_while_all_run),
    ("spaces_are_isolated", spaces_are_isolated),
    ("dropped_while_running", dropped_while_running),
    ("threads_come_and_go", threads_come_and_go),
    ("many_threads", many_threads),
    ("many_spaces", many_spaces),
    ("two_workers", two_workers),
    ("dropped_on_another_thread", dropped_on_another_thread),
    (
        "computing_threads_run_in_parallel",
        computing_threads_run_in_parallel,
    ),
    ("killed_from_outside", killed_from_outside),
    ("processes_are_made_ahead", processes_are_made_ahead),
    ("nothing_is_left_behind", nothing_is_left_behind),
    ("guests_die_with_the_sentry", guests_die_with_the_sentry),
    ("only_guest_memory_is_mapped", only_guest_memory_is_mapped),
];

program!(
    // Sets the word at RSI, waits for the one at RDI, calls.
    set_and_await,
    "mov qword ptr [rsi], 1",
    "2: pause",
    "cmp qword ptr [rdi], 0",
    "je 2b",
    "mov eax, 700",
    "syscall",
);

fn threads_share_memory(platform: Arc<dyn Platform>) {
    let mut machine = Machine::new(platform);
    let space = machine.space(set_and_await());
    let mut first = machine.thread(&space);
    let mut second = machine.thread(&space);
    for (thread, set, wait) in [
        (&mut first, DATA, DATA + 64),
        (&mut second, DATA + 64, DATA),
    ] {
        thread.regs.rsi = set;
        thread.regs.rdi = wait;
        thread.context.resume(&thread.regs).unwrap();
    }
    let mut ids = Vec::new();
    for _ in 0..2 {
        match machine.worker.wait(Wait::Block).unwrap() {
            Event::Trap(id) => ids.push(id),
            other => panic!("{other:?}"),
        }
    }
    ids.sort();
    assert_eq!(ids, [first.context.id(), second.context.id()]);
    for thread in [&mut first, &mut second] {
        assert_eq!(
            thread.context.trap(&mut thread.regs).unwrap(),
            Trap::Syscall
        );
    }
}

/// Waits until the guest has set a word.
fn await_word(space: &Space, addr: u64) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while space.word(addr) == 0 {
        assert!(Instant::now() < deadline, "the guest does not run");
        std::thread::yield_now();
    }
}

/// One thread changes the mappings under another that runs.
fn mapping_changes_reach_running_threads(platform: Arc<dyn Platform>) {
    let mut machine = Machine::new(platform);
    let space = machine.space(set_and_await());
    let mut runner = machine.thread(&space);
    runner.regs.rsi = DATA;
    runner.regs.rdi = DATA + PAGE;
    runner.context.resume(&runner.regs).unwrap();
    await_word(&space, DATA);
    // No thread is at rest: the change waits for one to be stopped.
    space.unmap(DATA + PAGE, PAGE);
    space.space.shoot_down();
    let trap = machine.trap(&mut runner);
    assert_eq!(trap, Trap::Interrupted);
    let fault = machine.run_to_fault(&mut runner);
    assert_eq!(fault.addr, DATA + PAGE);
    // Another thread is at rest and carries it out.
    space.map(DATA + PAGE, PAGE, Prot::READ);
    let mut other = machine.thread(&space);
    space.set_word(DATA, 0);
    runner.regs.rip = CODE;
    runner.context.resume(&runner.regs).unwrap();
    await_word(&space, DATA);
    space.unmap(DATA + PAGE, PAGE);
    other.context.flush().unwrap();
    let Trap::Fault(fault) = machine.trap(&mut runner) else {
        panic!("still mapped");
    };
    assert_eq!(fault.addr, DATA + PAGE);
}

/// A change queued by another thread at any moment of a resume takes effect. Lost, it would hang.
fn changes_race_with_resumes(platform: Arc<dyn Platform>) {
    use std::sync::atomic::{AtomicU64, Ordering};
    const ROUNDS: u64 = 2000;
    let mut machine = Machine::new(platform);
    let space = machine.space(announce_and_spin());
    let mut thread = machine.thread(&space);
    let round = Arc::new(AtomicU64::new(0));
    let (seen, target) = (round.clone(), space.space.clone());
    let other = std::thread::spawn(move || {
        for n in 1..=ROUNDS {
            while seen.load(Ordering::SeqCst) < n {
                std::thread::yield_now();
            }
            for _ in 0..n % 300 {
                std::hint::spin_loop();
            }
            let op = HostOp::Unmap {
                addr: HOLE,
                len: PAGE,
            };
            target.queue(op, None);
            target.shoot_down();
        }
    });
    for n in 1..=ROUNDS {
        space.map(HOLE, PAGE, Prot::READ | Prot::WRITE);
        thread.context.flush().unwrap();
        thread.regs = Registers::start(CODE, 0);
        thread.regs.rsi = HOLE;
        thread.regs.rdi = HOLE + 8;
        round.store(n, Ordering::SeqCst);
        loop {
            match machine.run(&mut thread) {
                Trap::Interrupted => {}
                Trap::Fault(fault) => {
                    assert_eq!(fault.addr & !(PAGE - 1), HOLE);
                    break;
                }
                trap => panic!("{trap:?}"),
            }
        }
    }
    other.join().unwrap();
}

fn new_thread_while_all_run(platform: Arc<dyn Platform>) {
    let mut machine = Machine::new(platform);
    let space = machine.space(set_and_await());
    let mut runner = machine.thread(&space);
    runner.regs.rsi = DATA;
    runner.regs.rdi = DATA + 64;
    runner.context.resume(&runner.regs).unwrap();
    await_word(&space, DATA);
    let mut fresh = machine.thread(&space);
    fresh.regs.rsi = DATA + 64;
    fresh.regs.rdi = DATA;
    fresh.context.resume(&fresh.regs).unwrap();
    let mut calls = 0;
    while calls < 2 {
        let Event::Trap(id) = machine.worker.wait(Wait::Block).unwrap() else {
            panic!("no trap");
        };
        let thread = match id == fresh.context.id() {
            true => &mut fresh,
            false => &mut runner,
        };
        match thread.context.trap(&mut thread.regs).unwrap() {
            Trap::Syscall => calls += 1,
            Trap::Interrupted => thread.context.resume(&thread.regs).unwrap(),
            trap => panic!("{trap:?}"),
        }
    }
    assert_eq!((runner.regs.orig_rax, fresh.regs.orig_rax), (700, 700));
    assert_eq!(runner.regs.rdi, DATA + 64);
}

program!(
    store_and_call,
    "mov [rdi], rsi",
    "mov rax, [rdi]",
    "syscall"
);

fn spaces_are_isolated(platform: Arc<dyn Platform>) {
    let mut machine = Machine::new(platform);
    let spaces = [
        machine.space(store_and_call()),
        machine.space(store_and_call()),
    ];
    spaces[0].map(HOLE, PAGE, Prot::READ | Prot::WRITE);
    let mut threads = [machine.thread(&spaces[0]), machine.thread(&spaces[1])];
    for (n, thread) in threads.iter_mut().enumerate() {
        thread.regs.rdi = DATA;
        thread.regs.rsi = 10 + n as u64;
        assert_eq!(machine.run_to_syscall(thread), 10 + n as u64);
    }
    assert_eq!(spaces[0].word(DATA), 10);
    assert_eq!(spaces[1].word(DATA), 11);
    for thread in &mut threads {
        thread.regs = Registers::start(CODE, 0);
        thread.regs.rdi = HOLE;
    }
    machine.run_to_syscall(&mut threads[0]);
    assert_eq!(machine.run_to_fault(&mut threads[1]).addr, HOLE);
}

program!(
    announce_and_spin,
    "mov qword ptr [rsi], 1",
    "2: inc qword ptr [rdi]",
    "jmp 2b"
);

fn dropped_while_running(platform: Arc<dyn Platform>) {
    let mut machine = Machine::new(platform);
    for _ in 0..10 {
        let space = machine.space(announce_and_spin());
        let mut threads: Vec<Thread> = (0..3).map(|_| machine.thread(&space)).collect();
        for (n, thread) in (0..).zip(&mut threads) {
            thread.regs.rsi = DATA + n * 64;
            thread.regs.rdi = DATA + n * 64 + 8;
            thread.context.resume(&thread.regs).unwrap();
        }
        for n in 0..3 {
            await_word(&space, DATA + n * 64);
        }
        threads.remove(1);
        drop(threads);
        // The memory is out of the guest's reach at once.
        let counts = [8, 72, 136].map(|at| space.word(DATA + at));
        for _ in 0..100 {
            std::thread::yield_now();
        }
        assert_eq!(counts, [8, 72, 136].map(|at| space.word(DATA + at)));
        assert_eq!(machine.worker.wait(Wait::Poll).unwrap(), Event::Nothing);
    }
}

fn threads_come_and_go(platform: Arc<dyn Platform>) {
    let mut machine = Machine::new(platform);
    let space = machine.space(store_and_call());
    let mut first = machine.thread(&space);
    first.regs.rdi = DATA;
    machine.run_to_syscall(&mut first);
    for round in 0..30u64 {
        let mut threads = Vec::new();
        for n in 0..1 + round % 12 {
            let mut thread = machine.thread(&space);
            thread.regs.rdi = DATA;
            thread.regs.rsi = n;
            assert_eq!(machine.run_to_syscall(&mut thread), n);
            threads.push(thread);
        }
        // In another order than they came.
        while !threads.is_empty() {
            threads.remove(threads.len() / 2);
        }
    }
    // The first one may go before the others.
    let mut other = machine.thread(&space);
    drop(first);
    other.regs.rdi = DATA;
    other.regs.rsi = 3;
    assert_eq!(machine.run_to_syscall(&mut other), 3);
}

fn many_threads(platform: Arc<dyn Platform>) {
    let mut machine = Machine::new(platform);
    let space = machine.space(store_and_call());
    let mut threads: Vec<Thread> = (0..100).map(|_| machine.thread(&space)).collect();
    for (n, thread) in threads.iter_mut().enumerate() {
        thread.regs.rdi = DATA + n as u64 * 8;
        thread.regs.rsi = n as u64;
        thread.context.resume(&thread.regs).unwrap();
    }
    let mut seen = 0;
    while seen < 100 {
        let Event::Trap(id) = machine.worker.wait(Wait::Block).unwrap() else {
            panic!("no trap");
        };
        let thread = threads.iter_mut().find(|t| t.context.id() == id).unwrap();
        assert_eq!(
            thread.context.trap(&mut thread.regs).unwrap(),
            Trap::Syscall
        );
        seen += 1;
    }
    for (n, thread) in threads.iter().enumerate() {
        assert_eq!(thread.regs.orig_rax, n as u64);
    }
}

fn many_spaces(platform: Arc<dyn Platform>) {
    let mut machine = Machine::new(platform);
    let mut guests = Vec::new();
    for n in 0..40 {
        let space = machine.space(store_and_call());
        let mut thread = machine.thread(&space);
        thread.regs.rdi = DATA;
        thread.regs.rsi = n;
        guests.push((space, thread));
    }
    for (n, (_, thread)) in guests.iter_mut().enumerate() {
        assert_eq!(machine.run_to_syscall(thread), n as u64);
    }
    guests.truncate(20);
    for (n, (space, thread)) in guests.iter_mut().enumerate() {
        thread.regs.rip = CODE;
        assert_eq!(machine.run_to_syscall(thread), n as u64);
        assert_eq!(space.word(DATA), n as u64);
    }
}

fn two_workers(platform: Arc<dyn Platform>) {
    if !platform.contexts_are_bound() {
        return workers_share(platform);
    }
    let other = platform.clone();
    let second = std::thread::spawn(move || {
        let mut machine = Machine::new_at(other, WorkerId(1));
        count_up(&mut machine);
    });
    let mut machine = Machine::new(platform);
    count_up(&mut machine);
    second.join().unwrap();
}

/// Traps of any context are reported by any worker, each once.
fn workers_share(platform: Arc<dyn Platform>) {
    use std::collections::HashMap;
    use std::sync::Mutex;
    const CALLS: u64 = 3000;
    type Shared = Arc<Mutex<(HashMap<ContextId, Thread>, usize)>>;
    let shared: Shared = Arc::default();
    let work = |mut machine: Machine, shared: Shared, other: Arc<dyn WorkerWaker>| {
        let space = machine.space(store_and_call());
        let mut thread = machine.thread(&space);
        thread.regs.rdi = DATA;
        {
            let mut shared = shared.lock().unwrap();
            thread.context.resume(&thread.regs).unwrap();
            shared.0.insert(thread.context.id(), thread);
        }
        loop {
            let event = machine.worker.wait(Wait::Block).unwrap();
            let mut shared = shared.lock().unwrap();
            if let Event::Trap(id) = event {
                let thread = shared.0.get_mut(&id).unwrap();
                let trap = thread.context.trap(&mut thread.regs).unwrap();
                assert_eq!(trap, Trap::Syscall);
                assert_eq!(thread.regs.orig_rax, thread.regs.rsi);
                thread.regs.rsi += 1;
                thread.regs.rip = CODE;
                if thread.regs.rsi < CALLS {
                    thread.context.resume(&thread.regs).unwrap();
                } else {
                    shared.1 += 1;
                    other.wake();
                }
            }
            if shared.1 == 2 {
                break;
            }
        }
        (space, machine)
    };
    let other = platform.clone();
    let (first_waker, second_waker) = (platform.waker(WorkerId(0)), platform.waker(WorkerId(1)));
    let theirs = shared.clone();
    let second = std::thread::spawn(move || {
        drop(work(
            Machine::new_at(other, WorkerId(1)),
            theirs,
            first_waker,
        ));
    });
    let kept = work(Machine::new(platform), shared, second_waker);
    second.join().unwrap();
    drop(kept);
}

fn count_up(machine: &mut Machine) {
    let space = machine.space(store_and_call());
    let mut thread = machine.thread(&space);
    thread.regs.rdi = DATA;
    for n in 0..1000 {
        thread.regs.rip = CODE;
        thread.regs.rsi = n;
        assert_eq!(machine.run_to_syscall(&mut thread), n);
    }
}

fn dropped_on_another_thread(platform: Arc<dyn Platform>) {
    let mut machine = Machine::new(platform);
    let space = machine.space(announce_and_spin());
    let mut runner = machine.thread(&space);
    runner.regs.rsi = DATA;
    runner.regs.rdi = DATA + 8;
    runner.context.resume(&runner.regs).unwrap();
    await_word(&space, DATA);
    std::thread::spawn(move || drop(runner)).join().unwrap();
    assert_eq!(machine.worker.wait(Wait::Block).unwrap(), Event::Woken);
    let count = space.word(DATA + 8);
    for _ in 0..100 {
        std::thread::yield_now();
    }
    assert_eq!(space.word(DATA + 8), count);
}

program!(
    // Sets the word at RSI once the one at RDI was set, computing meanwhile; then tells.
    compute,
    "mov rcx, r8",
    "2: dec rcx",
    "jnz 2b",
    "mov qword ptr [rsi], 1",
    "3: cmp qword ptr [rdi], 0",
    "je 3b",
    "rdtscp",
    "mov ebx, ecx",
    "mov eax, 1",
    "syscall",
);

/// Threads that compute for long get a core each, if there are.
fn computing_threads_run_in_parallel(platform: Arc<dyn Platform>) {
    let cores = std::thread::available_parallelism().unwrap().get();
    if cores < 2 {
        println!("  !!! SKIPPED: one core");
        return;
    }
    let mut machine = Machine::new(platform);
    // The machine may be busy with other things: one of many attempts has to do.
    let deadline = Instant::now() + Duration::from_secs(60);
    while Instant::now() < deadline {
        let space = machine.space(compute());
        let mut threads: Vec<Thread> = (0..2).map(|_| machine.thread(&space)).collect();
        for (n, thread) in threads.iter_mut().enumerate() {
            thread.regs.r8 = 50_000_000;
            thread.regs.rsi = DATA + n as u64 * 64;
            thread.regs.rdi = DATA + (1 - n as u64) * 64;
            thread.context.resume(&thread.regs).unwrap();
        }
        let mut cores = Vec::new();
        for _ in 0..2 {
            let Event::Trap(id) = machine.worker.wait(Wait::Block).unwrap() else {
                panic!("no trap");
            };
            let thread = threads.iter_mut().find(|t| t.context.id() == id).unwrap();
            thread.context.trap(&mut thread.regs).unwrap();
            cores.push(thread.regs.rbx);
        }
        if cores[0] != cores[1] {
            return;
        }
    }
    panic!("they share a core while others idle");
}

/// A stub that somebody kills is an error, not a hang: of the sandbox with ptrace, whose stubs only
/// somebody outside can kill, of its guest process with systrap.
fn killed_from_outside(platform: Arc<dyn Platform>) {
    let alone = platform.name() == "systrap";
    let mut machine = Machine::new(platform);
    let space = machine.space(announce_and_spin());
    let mut runner = machine.thread(&space);
    runner.regs.rsi = DATA;
    runner.regs.rdi = DATA + 8;
    runner.context.resume(&runner.regs).unwrap();
    await_word(&space, DATA);
    let Some(pid) = busiest_child() else {
        println!("  !!! SKIPPED: /proc does not show the stubs");
        return;
    };
    unsafe { libc::kill(pid, libc::SIGKILL) };
    if alone {
        let event = machine.worker.wait(Wait::Block).unwrap();
        assert_eq!(event, Event::Trap(runner.context.id()));
        let error = runner.context.trap(&mut runner.regs).unwrap_err();
        assert!(matches!(error, Error::Gone), "{error}");
        let error = runner.context.resume(&runner.regs).unwrap_err();
        assert!(matches!(error, Error::Gone), "{error}");
        let (_space, _thread, trap) = machine.once(store_and_call());
        assert!(matches!(trap, Trap::Fault(_)));
        return;
    }
    let error = machine.worker.wait(Wait::Block).unwrap_err();
    assert!(matches!(error, Error::Lost(_)), "{error}");
    let error = runner.context.resume(&runner.regs).unwrap_err();
    assert!(matches!(error, Error::Lost(_)), "{error}");
}

/// Pids of this thread's children.
fn children() -> Option<Vec<i32>> {
    let path = format!("/proc/self/task/{}/children", host::gettid());
    let text = std::fs::read_to_string(path).ok()?;
    Some(
        text.split_whitespace()
            .map(|pid| pid.parse().unwrap())
            .collect(),
    )
}

fn busiest_child() -> Option<i32> {
    let ticks = |pid: &i32| -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let rest = stat.rsplit(')').next().unwrap_or("");
        let state = rest.split_whitespace().next().unwrap_or("");
        u64::from(state == "R")
    };
    children()?.into_iter().filter(|pid| ticks(pid) > 0).max()
}

/// A sandbox that makes processes has some ready, and ends those it does not need.
fn processes_are_made_ahead(platform: Arc<dyn Platform>) {
    if platform.name() != "systrap" {
        return;
    }
    let mut machine = Machine::new(platform);
    let count = || children().map(|pids| pids.len());
    if count().is_none() {
        println!("  !!! SKIPPED: /proc does not show the stubs");
        return;
    }
    let until = |what: &str, done: &dyn Fn(usize) -> bool| {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !count().is_some_and(done) {
            assert!(Instant::now() < deadline, "{what}: {:?}", count());
            std::thread::yield_now();
        }
    };
    let first = machine.once(store_and_call());
    assert_eq!(count(), Some(2), "one, and the one all are copies of");
    let more: Vec<_> = (0..5).map(|_| machine.once(store_and_call())).collect();
    until("ready", &|found| found > 7);
    drop((first, more));
    until("ended", &|found| found <= 4);
    let (_space, _thread, trap) = machine.once(store_and_call());
    assert!(matches!(trap, Trap::Fault(_)));
}

fn nothing_is_left_behind(platform: Arc<dyn Platform>) {
    {
        let mut machine = Machine::new(platform);
        let space = machine.space(announce_and_spin());
        let mut threads: Vec<Thread> = (0..3).map(|_| machine.thread(&space)).collect();
        threads[0].regs.rsi = DATA;
        threads[0].regs.rdi = DATA + 8;
        let regs = threads[0].regs;
        threads[0].context.resume(&regs).unwrap();
        // So many that some are made ahead.
        for _ in 0..6 {
            let (_space, _thread, trap) = machine.once(store_and_call());
            assert!(matches!(trap, Trap::Fault(_)));
        }
        // The worker goes first, with everything still there.
        drop(machine);
        assert!(threads[0].context.resume(&regs).is_err());
        assert!(threads[1].context.resume(&regs).is_err());
    }
    let mut status = 0;
    let rc = unsafe { libc::waitpid(-1, &mut status, libc::__WALL | libc::__WNOTHREAD) };
    assert_eq!(rc, -1);
    let errno = std::io::Error::last_os_error().raw_os_error();
    assert_eq!(errno, Some(libc::ECHILD));
}

/// Runs a guest that spins, tells the pids that hold it on standard output, and waits for ever.
pub fn spin_for_ever(platform: Arc<dyn Platform>) {
    let mut machine = Machine::new(platform);
    let space = machine.space(announce_and_spin());
    let mut runner = machine.thread(&space);
    runner.regs.rsi = DATA;
    runner.regs.rdi = DATA + 8;
    runner.context.resume(&runner.regs).unwrap();
    await_word(&space, DATA);
    let pids = children().unwrap_or_default();
    println!(
        "{}",
        pids.iter().map(|pid| format!("{pid} ")).collect::<String>()
    );
    let event = machine.worker.wait(Wait::Block);
    panic!("{event:?}");
}

/// SIGKILL to the Sentry ends all guest code at once.
fn guests_die_with_the_sentry(platform: Arc<dyn Platform>) {
    use std::io::{BufRead, BufReader};
    let mut sentry = std::process::Command::new(std::env::current_exe().unwrap())
        .args([crate::SPIN, platform.name()])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(sentry.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let pids: Vec<i32> = line
        .split_whitespace()
        .map(|pid| pid.parse().unwrap())
        .collect();
    sentry.kill().unwrap();
    sentry.wait().unwrap();
    let alive = |pid: &i32| match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        // A zombie that its new parent has not reaped yet runs nothing.
        Ok(stat) => !stat.contains(") Z ") && stat.contains("runsc-stub"),
        Err(_) => false,
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    while pids.iter().any(alive) {
        assert!(Instant::now() < deadline, "stubs outlive the Sentry");
        std::thread::yield_now();
    }
}

/// What the host shows of an address space: the guest's mappings below the end of its range, and
/// above that nothing that can be written or that belongs to the Sentry.
fn only_guest_memory_is_mapped(platform: Arc<dyn Platform>) {
    let (low, end) = platform.user_range();
    let mut machine = Machine::new(platform);
    let (_space, _thread, _) = machine.once(store_and_call());
    for pid in children().unwrap_or_default() {
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        for line in maps.lines() {
            let start = u64::from_str_radix(line.split('-').next().unwrap(), 16).unwrap();
            let name = line.split_whitespace().nth(5).unwrap_or("");
            if start >= low && start < end {
                assert!(name.starts_with("/memfd:guest"), "{line}");
                continue;
            }
            // What systrap's threads hand over lies where they can write.
            let writable = line.split_whitespace().nth(1).unwrap().as_bytes()[1] == b'w';
            assert!(!writable || name == "/memfd:runsc-stubs", "{line}");
            let known = [
                "",
                "/memfd:runsc-commands",
                "/memfd:runsc-stubs",
                "[vdso]",
                "[vvar]",
                "[vvar_vclock]",
                "[vsyscall]",
            ];
            assert!(known.contains(&name), "{line}");
        }
    }
}
