//! Guests that turn on the stub they run in: they jump into its code with registers of their choice
//! and write the memory that it hands traps over in.
//!
//! Such a guest may lose its own process. In each case a *witness*, another address space of the
//! same worker, has to keep its memory and go on making calls; no call of the Sentry may take long,
//! and none may fail in a way that ends the sandbox. Addresses are those of
//! `platform/src/systrap/layout.rs`, which a guest knows as well.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use runsc_platform::arch::Registers;
use runsc_platform::*;

use crate::Case;
use crate::guest::*;

pub const CASES: &[Case] = &[
    ("attack_jump_anywhere", jump_anywhere),
    ("attack_calls_from_stub_code", calls_from_stub_code),
    ("attack_scribble", scribble),
    ("attack_deaf_to_orders", deaf_to_orders),
    ("attack_forged_answers", forged_answers),
    ("attack_forged_refusals", forged_refusals),
    ("attack_feigned_rest", feigned_rest),
    ("attack_exhaust", exhaust),
    (
        "attack_stub_memory_is_not_shared",
        stub_memory_is_not_shared,
    ),
    ("attack_bells", bells),
];

/// Offsets from the end of the user range.
const CODE_END: u64 = 0x3000;
const ONE: u64 = 0x3008;
const GLOBAL: u64 = 0x8000;
const ORDERS: u64 = 0x1_0000;
const AREAS: u64 = 0x8_0000;
/// What the mapper says.
const ANSWERS: u64 = AREAS + AREA_LEN - 0x1000;
const AREA_LEN: u64 = 0x8000;

/// States and other words of an area.
const TRAPPED: u64 = 1;
const SAVE_FP: u64 = 4;

/// Longest that one call of the Sentry may take, whatever a guest does.
const PATIENCE: Duration = Duration::from_secs(30);

program!(
    call_for_ever,
    "2: mov eax, 400",
    "syscall",
    "inc qword ptr [rdi]",
    "jmp 2b",
);
program!(
    pause_for_ever,
    "mov qword ptr [rdi], 1",
    "2: pause",
    "jmp 2b"
);

/// Ends the program if a case hangs in a call of the platform.
struct Watchdog {
    _alive: Sender<()>,
}

impl Watchdog {
    fn new(case: &'static str, limit: Duration) -> Watchdog {
        let (_alive, ended) = channel();
        std::thread::spawn(move || {
            if ended.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                println!("  {case} ... FAILED: hangs");
                std::process::exit(1);
            }
        });
        Watchdog { _alive }
    }
}

/// Platform, witness and limits of a case.
pub(crate) struct Arena {
    pub machine: Machine,
    pub base: u64,
    witness: (Space, Thread),
    _watchdog: Watchdog,
}

/// What became of a guest thread.
#[derive(Debug)]
pub(crate) enum End {
    Trapped,
    /// Its process is gone.
    Gone,
    /// It neither stopped nor could be stopped: its process was killed.
    Killed,
}

/// None: these cases are about systrap alone; what other platforms have in a guest's address space
/// is the business of `stub_code_is_harmless`.
pub(crate) fn arena(platform: Arc<dyn Platform>, case: &'static str) -> Option<Arena> {
    if platform.name() != "systrap" {
        return None;
    }
    let _watchdog = Watchdog::new(case, Duration::from_secs(180));
    let base = platform.user_range().1;
    let mut machine = Machine::new(platform);
    let space = machine.space(call_for_ever());
    let mut thread = machine.thread(&space);
    thread.regs.rdi = DATA;
    for n in 1..DATA_LEN / 8 {
        space.set_word(DATA + 8 * n, n ^ 0x5eed);
    }
    assert_eq!(machine.run_to_syscall(&mut thread), 400);
    Some(Arena {
        machine,
        base,
        witness: (space, thread),
        _watchdog,
    })
}

/// What guests may make the platform say.
fn harmless<T>(result: Result<T>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(Error::Gone | Error::Refused { .. }) => None,
        Err(other) => panic!("{other}"),
    }
}

/// Does something that must not take long.
fn soon<T>(what: &str, body: impl FnOnce() -> T) -> T {
    let begin = Instant::now();
    let result = body();
    let took = begin.elapsed();
    assert!(took < PATIENCE, "{what} took {took:?}");
    result
}

impl Arena {
    /// The witness makes calls, and has its memory.
    pub fn check(&mut self) {
        let (space, thread) = &mut self.witness;
        for _ in 0..20 {
            let count = space.word(DATA);
            thread.context.resume(&thread.regs).unwrap();
            let id = thread.context.id();
            soon("a call of the witness", || {
                // Traps of attackers that were not waited for are none of ours.
                while self.machine.worker.wait(Wait::Block).unwrap() != Event::Trap(id) {}
            });
            let trap = thread.context.trap(&mut thread.regs).unwrap();
            assert_eq!((trap, thread.regs.syscall_number()), (Trap::Syscall, 400));
            assert_eq!(space.word(DATA), count + 1);
        }
        for n in 1..DATA_LEN / 8 {
            assert_eq!(space.word(DATA + 8 * n), n ^ 0x5eed);
        }
    }

    /// As `check`, and new guests can be made.
    pub fn check_all(&mut self) {
        self.check();
        let (_space, _thread, trap) = self.machine.once(call_for_ever());
        assert_eq!(trap, Trap::Syscall);
        let space = self.machine.space(call_for_ever());
        let mut thread = self.machine.thread(&space);
        thread.regs.rdi = DATA;
        for n in 0..3 {
            self.machine.run_to_syscall(&mut thread);
            assert_eq!(space.word(DATA), n);
        }
    }

    /// Waits for a thread to stop, for a while.
    fn stops(&mut self, thread: &Thread, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            let event = soon("a look", || self.machine.worker.wait(Wait::Poll).unwrap());
            if event == Event::Trap(thread.context.id()) {
                return true;
            }
            if Instant::now() > deadline {
                return false;
            }
            std::thread::yield_now();
        }
    }

    /// Runs a thread until it stops, or is gone with its process; after `limit` it is stopped, after
    /// another its process killed.
    pub fn attack(&mut self, space: &Space, thread: &mut Thread, limit: Duration) -> End {
        if harmless(thread.context.resume(&thread.regs)).is_none() {
            return End::Gone;
        }
        let mut killed = false;
        if !self.stops(thread, limit) {
            thread.context.kicker().kick();
            if !self.stops(thread, limit) {
                space.space.kill();
                killed = true;
                assert!(self.stops(thread, PATIENCE), "survives its death");
            }
        }
        match harmless(thread.context.trap(&mut thread.regs)) {
            Some(_) if !killed => End::Trapped,
            None if !killed => End::Gone,
            _ => End::Killed,
        }
    }

    /// The stub's code, as this process has it.
    fn stub_code(&self) -> &[u8] {
        unsafe { std::slice::from_raw_parts(self.base as *const u8, CODE_END as usize) }
    }

    pub fn area(&self, index: u64) -> u64 {
        self.base + AREAS + index * AREA_LEN
    }
}

/// All registers but rip and rsp.
pub(crate) fn filled(base: Registers, value: u64) -> Registers {
    let v = value;
    Registers {
        rax: v,
        rbx: v,
        rcx: v,
        rdx: v,
        rsi: v,
        rdi: v,
        rbp: v,
        r8: v,
        r9: v,
        r10: v,
        r11: v,
        r12: v,
        r13: v,
        r14: v,
        r15: v,
        ..base
    }
}

/// A guest to be lost: remade when it is.
struct Victims {
    current: Option<(Space, Thread)>,
}

impl Victims {
    fn take(&mut self, arena: &mut Arena) -> (Space, Thread) {
        self.current.take().unwrap_or_else(|| {
            let space = arena.machine.space(call_for_ever());
            let thread = soon("a new guest", || arena.machine.thread(&space));
            (space, thread)
        })
    }

    fn give_back(&mut self, end: &End, space: Space, thread: Thread) {
        if let End::Trapped = end {
            self.current = Some((space, thread));
        }
    }
}

fn jump_anywhere(platform: Arc<dyn Platform>) {
    let Some(mut arena) = arena(platform, "jump_anywhere") else {
        return;
    };
    let base = arena.base;
    let end = arena.stub_code().iter().rposition(|b| *b != 0).unwrap() as u64 + 1;
    assert!(end > 0x400 && end < CODE_END);
    let areas = [base + ANSWERS, arena.area(1), arena.area(2)];
    let pointers = [
        0,
        DATA,
        areas[1],
        areas[0],
        base + ORDERS,
        areas[2] + 4,
        areas[1] - 4,
        u64::MAX,
        base,
    ];
    let numbers = [
        libc::SYS_exit_group,
        libc::SYS_munmap,
        libc::SYS_mmap,
        libc::SYS_clone,
        libc::SYS_write,
        libc::SYS_futex,
        libc::SYS_rt_sigreturn,
        libc::SYS_exit,
    ];
    let mut victims = Victims { current: None };
    let mut died = 0;
    let beyond = (end..CODE_END).step_by(61);
    for (n, offset) in (0..end).chain(beyond).enumerate() {
        let (space, mut thread) = victims.take(&mut arena);
        // A fake area and a fake stack in the guest's data, if one looks there.
        for word in 0..64 {
            space.set_word(DATA + 8 * word, [3, 5, 0, DATA][(n + word as usize) % 4]);
        }
        let pointer = pointers[n % pointers.len()];
        let mut regs = filled(Registers::start(base + offset, DATA + 0x800), pointer);
        regs.rax = numbers[n % numbers.len()] as u64;
        if n % 5 == 0 {
            regs.rsp = pointer;
        }
        thread.regs = regs;
        let end = arena.attack(&space, &mut thread, Duration::from_micros(250));
        died += u32::from(!matches!(end, End::Trapped));
        victims.give_back(&end, space, thread);
        if n % 256 == 0 {
            arena.check();
        }
    }
    // It is no test if everything came back.
    assert!(died > 100, "{died}");
    drop(victims);
    arena.check_all();
}

/// Calls that must not be carried out for a guest, with arguments that would make them work.
fn forbidden(arena: &Arena) -> Vec<(i64, [u64; 6])> {
    let base = arena.base;
    let me = std::process::id() as u64;
    let mut calls = Vec::new();
    let mut add = |number: i64, args: &[u64]| {
        let mut all = [0; 6];
        all[..args.len()].copy_from_slice(args);
        calls.push((number, all));
    };
    let fixed = (libc::MAP_SHARED | libc::MAP_FIXED) as u64;
    for fd in (0..40).chain([255, 256, 257, 258, 300]) {
        add(libc::SYS_mmap, &[HOLE, PAGE, 3, fixed, fd, 0]);
    }
    add(libc::SYS_mmap, &[0, PAGE, 7, 0x22, u64::MAX, 0]);
    for at in [DATA, base, base + ORDERS, base + ANSWERS, base + GLOBAL] {
        add(libc::SYS_munmap, &[at, PAGE]);
        add(libc::SYS_mprotect, &[at, PAGE, 7]);
        add(libc::SYS_mremap, &[at, PAGE, 2 * PAGE, 1]);
        add(libc::SYS_madvise, &[at, PAGE, libc::MADV_REMOVE as u64]);
    }
    let flags = [
        libc::CLONE_FILES | libc::CLONE_PARENT | libc::SIGCHLD,
        libc::CLONE_VM
            | libc::CLONE_FS
            | libc::CLONE_FILES
            | libc::CLONE_SIGHAND
            | libc::CLONE_THREAD
            | libc::CLONE_SYSVSEM,
        libc::SIGCHLD,
        libc::CLONE_VM | libc::CLONE_VFORK,
        libc::CLONE_NEWUSER | libc::SIGCHLD,
        0,
    ];
    for flags in flags {
        add(libc::SYS_clone, &[flags as u64]);
    }
    add(libc::SYS_clone3, &[DATA, 88]);
    for number in [libc::SYS_fork, libc::SYS_vfork, libc::SYS_unshare] {
        add(number, &[0]);
    }
    for number in [libc::SYS_execve, libc::SYS_execveat] {
        add(number, &[DATA, DATA, DATA]);
    }
    for pid in (1..30).chain([me, u64::MAX, 0, -(me as i64) as u64]) {
        add(libc::SYS_kill, &[pid, 9]);
        add(libc::SYS_tgkill, &[pid, pid, 9]);
    }
    add(libc::SYS_tkill, &[me, 9]);
    for request in [0, libc::PTRACE_ATTACH as u64, libc::PTRACE_SEIZE as u64] {
        add(libc::SYS_ptrace, &[request, me]);
    }
    add(libc::SYS_process_vm_writev, &[me, DATA, 1, DATA, 1]);
    add(libc::SYS_process_vm_readv, &[me, DATA, 1, DATA, 1]);
    add(libc::SYS_pidfd_open, &[me]);
    add(libc::SYS_pidfd_send_signal, &[3, 9]);
    add(libc::SYS_pidfd_getfd, &[3, 3]);
    add(libc::SYS_openat, &[libc::AT_FDCWD as u64, DATA, 2]);
    add(libc::SYS_open, &[DATA, 2]);
    add(libc::SYS_socket, &[1, 1]);
    for fd in (0..60).chain([255, 300, u64::MAX]) {
        add(libc::SYS_write, &[fd, base + ONE, 8]);
    }
    for number in [libc::SYS_read, libc::SYS_close, libc::SYS_dup] {
        for fd in [0, 3, 256, 257] {
            add(number, &[fd, DATA, 8]);
        }
    }
    add(libc::SYS_close_range, &[0, 300]);
    for number in [libc::SYS_exit_group, libc::SYS_exit] {
        add(number, &[7]);
    }
    for op in 0..4 {
        add(libc::SYS_seccomp, &[op, 0, DATA]);
    }
    for option in 0..=80 {
        add(libc::SYS_prctl, &[option, 0, 0, 0, 0]);
    }
    add(
        libc::SYS_rt_sigaction,
        &[libc::SIGSYS as u64, DATA, DATA, 8],
    );
    add(libc::SYS_sigaltstack, &[DATA, 0]);
    for code in [0x1001, 0x1002, 0x1011, 0x1012, 0x3001] {
        add(libc::SYS_arch_prctl, &[code, DATA]);
    }
    add(libc::SYS_setpriority, &[0, 0, 19]);
    add(libc::SYS_sched_setaffinity, &[0, 8, DATA]);
    add(libc::SYS_ioperm, &[0, 0x3f8, 1]);
    add(libc::SYS_iopl, &[3]);
    add(libc::SYS_io_uring_setup, &[8, DATA]);
    add(libc::SYS_bpf, &[0, DATA, 64]);
    add(libc::SYS_userfaultfd, &[0]);
    add(libc::SYS_rseq, &[DATA, 32, 0, 0]);
    add(libc::SYS_set_robust_list, &[DATA, 24]);
    add(libc::SYS_set_tid_address, &[base + ORDERS]);
    add(libc::SYS_memfd_create, &[DATA, 0]);
    add(libc::SYS_eventfd2, &[0, 0]);
    add(libc::SYS_shmget, &[0, PAGE, 0o1777]);
    add(libc::SYS_setrlimit, &[0, DATA]);
    add(libc::SYS_prlimit64, &[me, 0, DATA, 0]);
    for number in [335, 336, 0x4000_0000 | 9, 512, 1 << 31] {
        add(number, &[DATA]);
    }
    let wait = libc::FUTEX_WAIT as u64;
    let bitset = libc::FUTEX_WAIT_BITSET as u64;
    for at in [base + ORDERS, base + ORDERS + 12, base + GLOBAL, DATA] {
        add(libc::SYS_futex, &[at, wait, 0]);
        add(libc::SYS_futex, &[at, wait | 128, 0]);
        add(libc::SYS_futex, &[at, bitset, 0, 0, 0, 0x4000_0000]);
    }
    // Not even where plain waiting is allowed.
    for op in 2..16 {
        add(
            libc::SYS_futex,
            &[base + ANSWERS, op, 1, 1, base + ANSWERS, 0x4000_0000],
        );
        add(
            libc::SYS_futex,
            &[base + ANSWERS, op | 256, 1, 1, base + ANSWERS, u64::MAX],
        );
    }
    calls
}

/// What the host shows of this process: threads and file descriptors.
fn own_things() -> (usize, usize) {
    let count = |path| std::fs::read_dir(path).map_or(0, Iterator::count);
    (count("/proc/self/task"), count("/proc/self/fd"))
}

fn calls_from_stub_code(platform: Arc<dyn Platform>) {
    let Some(mut arena) = arena(platform, "calls_from_stub_code") else {
        return;
    };
    let code = arena.stub_code();
    let sites: Vec<u64> = (0..code.len() as u64 - 1)
        .filter(|&n| code[n as usize..][..2] == [0x0f, 0x05])
        .map(|n| arena.base + n)
        .collect();
    assert!(sites.len() > 10, "{sites:x?}");
    let calls = forbidden(&arena);
    let before = own_things();
    let mut victims = Victims { current: None };
    // Each call from some site, and a few from all.
    let all_sites = [
        (libc::SYS_mmap, [HOLE, PAGE, 3, 0x32, u64::MAX, 0]),
        (libc::SYS_clone, [0x11, 0, 0, 0, 0, 0]),
        (libc::SYS_exit_group, [0; 6]),
    ];
    let each = calls
        .into_iter()
        .enumerate()
        .map(|(n, call)| (sites[n % sites.len()], call));
    let all = sites
        .iter()
        .flat_map(|site| all_sites.map(|call| (*site, call)));
    for (n, (site, (number, args))) in each.chain(all).enumerate() {
        let (space, mut thread) = victims.take(&mut arena);
        let [rdi, rsi, rdx, r10, r8, r9] = args;
        thread.regs = Registers {
            rax: number as u64,
            rdi,
            rsi,
            rdx,
            r10,
            r8,
            r9,
            // Where the code after it looks, there is an order to go on as a guest.
            rbx: DATA,
            r15: DATA,
            r14: DATA + PAGE,
            r11: DATA,
            ..Registers::start(site, STACK_TOP - 64)
        };
        let end = arena.attack(&space, &mut thread, PATIENCE);
        // Its filter has killed it: nothing was carried out.
        assert!(matches!(end, End::Gone), "{number} {args:x?}: {end:?}");
        if n % 64 == 0 {
            arena.check();
        }
    }
    // The watchdogs of arenas before this one are on their way out.
    let until = Instant::now() + PATIENCE;
    while own_things() != before && Instant::now() < until {
        std::thread::yield_now();
    }
    assert_eq!(own_things(), before);
    arena.check_all();
}

program!(
    // Writes values from the table at r8 to r10 words at r9 and every r11 bytes on, r12 times.
    fill,
    "2: xor ebx, ebx",
    "3: mov rax, [r8 + rbx * 8]",
    "mov rdi, r9",
    "mov rdx, r12",
    "4: mov rcx, r10",
    "mov rsi, rdi",
    "rep stosq",
    "lea rdi, [rsi + r11]",
    "dec rdx",
    "jnz 4b",
    "mov qword ptr [r13], 1",
    "inc ebx",
    "and ebx, 15",
    "jmp 3b",
);

/// Numbers that a directory of /proc is made of, or that a file there holds.
fn numbers(path: &str) -> Vec<i32> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let names = std::fs::read_dir(path).into_iter().flatten().flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    let words = text.split_whitespace().map(str::to_owned);
    words.chain(names).filter_map(|n| n.parse().ok()).collect()
}

/// Lets the newest thread of the newest process run beside the worker. /proc may be that of another
/// namespace, with other numbers.
fn place_apart() {
    let tasks = numbers("/proc/self/task").into_iter();
    let children = tasks.flat_map(|tid| numbers(&format!("/proc/self/task/{tid}/children")));
    let newest = children.max().unwrap_or(0);
    let thread = numbers(&format!("/proc/{newest}/task")).into_iter().max();
    let path = format!("/proc/{newest}/task/{}/status", thread.unwrap_or(0));
    let status = std::fs::read_to_string(path).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("NSpid:"));
    let Some(tid) = line.and_then(|line| line.split_whitespace().last()?.parse().ok()) else {
        println!("  !!! /proc does not show the stubs: the attacker does not run in parallel");
        return;
    };
    let mut cores = nix::sched::CpuSet::new();
    cores.set(1).unwrap();
    // With one core only it stays where it is.
    let _ = nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(tid), &cores);
}

/// Programs of the attacker and of the thread beside it.
const SECOND: u64 = CODE + 0x400;

fn two_programs(arena: &Arena, first: &[u8], second: &[u8]) -> Space {
    let mut code = first.to_vec();
    code.resize((SECOND - CODE) as usize, 0x90);
    code.extend(second);
    arena.machine.space(&code)
}

/// Whether the guest comes to set a word.
fn sets(space: &Space, addr: u64) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while space.word(addr) == 0 && Instant::now() < deadline {
        std::thread::yield_now();
    }
    space.word(addr) != 0
}

fn scribble(platform: Arc<dyn Platform>) {
    let Some(mut arena) = arena(platform, "scribble") else {
        return;
    };
    let base = arena.base;
    let until = Instant::now() + Duration::from_millis(800);
    let mut round = 0;
    while round < 3 || Instant::now() < until {
        round += 1;
        let space = two_programs(&arena, fill(), call_for_ever());
        let table = [
            0,
            u64::MAX,
            1,
            2,
            3,
            4,
            5,
            6,
            0x1_0000_0001,
            0x3_0000_0003,
            CODE,
            DATA,
            arena.area(2) + 0x1000,
            base + ORDERS,
            base,
            0x8000_0000_0000_0000,
        ];
        for (n, value) in (0..).zip(table) {
            space.set_word(DATA + PAGE + 8 * n, value);
        }
        let mut attacker = arena.machine.thread(&space);
        place_apart();
        let mut threads = Vec::new();
        for _ in 0..2 {
            threads.extend(harmless(soon("a thread", || {
                arena.machine.worker.new_context(&space.space)
            })));
        }
        attacker.regs.r8 = DATA + PAGE;
        // All of the areas, or what matters most of them; sometimes only the states; or what the
        // mapper says.
        (attacker.regs.r9, attacker.regs.r10, attacker.regs.r12) = match round % 4 {
            0 => (arena.area(1), AREA_LEN / 8, 3),
            1 => (arena.area(1), 32, 3),
            2 => (arena.area(1), 1, 3),
            _ => (base + ANSWERS, PAGE / 8, 1),
        };
        attacker.regs.r11 = AREA_LEN;
        attacker.regs.r13 = DATA;
        harmless(attacker.context.resume(&attacker.regs));
        sets(&space, DATA);
        let mut start = Registers::start(SECOND, STACK_TOP - 64);
        start.rdi = DATA + 64;
        let until = Instant::now() + Duration::from_millis(100);
        let mut step = 0u64;
        while Instant::now() < until && !threads.is_empty() {
            step += 1;
            let at = step as usize % threads.len();
            let context = &mut threads[at];
            match step % 5 {
                0 => space.map(HOLE, PAGE, Prot::READ),
                1 => space.unmap(HOLE, PAGE),
                2 => space.protect(DATA + 2 * PAGE, PAGE, Prot::READ),
                _ => {}
            }
            if step % 16 == 3 && harmless(soon("flush", || context.flush())).is_none() {
                break;
            }
            let mut regs = start;
            if step.is_multiple_of(3) {
                regs.rip = HOLE;
            }
            if harmless(soon("resume", || context.resume(&regs))).is_none() {
                break;
            }
            if step.is_multiple_of(4) {
                context.kicker().kick();
            }
            if step.is_multiple_of(8) {
                space.space.shoot_down();
            }
            let id = context.id();
            let deadline = Instant::now() + Duration::from_millis(2);
            let mut stopped = false;
            while !stopped && Instant::now() < deadline {
                match soon("a look", || arena.machine.worker.wait(Wait::Poll).unwrap()) {
                    Event::Trap(other) if other == id => stopped = true,
                    Event::Trap(other) if other == attacker.context.id() => {
                        let trap = attacker.context.trap(&mut attacker.regs);
                        harmless(trap.and_then(|_| attacker.context.resume(&attacker.regs)));
                    }
                    _ => std::thread::yield_now(),
                }
            }
            if !stopped {
                // It may be anywhere by now.
                let gone = threads.remove(at);
                soon("dropping", || drop(gone));
                threads.extend(harmless(soon("a thread", || {
                    arena.machine.worker.new_context(&space.space)
                })));
                continue;
            }
            if harmless(soon("trap", || context.trap(&mut regs))).is_none() {
                break;
            }
            if step.is_multiple_of(6) {
                let Some(state) = harmless(soon("fp_state", || context.fp_state())) else {
                    break;
                };
                harmless(soon("set_fp_state", || context.set_fp_state(&state)));
            }
        }
        match round % 2 {
            0 => space.space.kill(),
            _ => soon("dropping", || drop(attacker)),
        }
        soon("dropping", || drop(threads));
        arena.check();
    }
    assert!(round > 2);
    arena.check_all();
}

program!(
    // Makes a call by the stub's own instruction at r12, which comes back here by a fake area at rbx.
    call_and_return,
    "mov dword ptr [rbx], 3",
    "inc qword ptr [rbx + 0x800]",
    "mov eax, r13d",
    "jmp r12",
);

/// Has a thread make a call by the stub's instruction at `site` for ever. How often: at DATA + 0x800.
fn call_from_stub(space: &Space, thread: &mut Thread, site: u64, number: i64, args: [u64; 3]) {
    [thread.regs.rdi, thread.regs.rsi, thread.regs.rdx] = args;
    thread.regs.rbx = DATA;
    thread.regs.r12 = site;
    thread.regs.r13 = number as u64;
    let regs = &thread.regs;
    // The registers to come back with: offsets of `layout::area`.
    for (at, word) in [
        (16, regs.rdi),
        (24, regs.rsi),
        (32, regs.rdx),
        (64, regs.rip),
        (72, regs.rsp),
        (80, 0x202),
        (104, regs.rbx),
        (128, regs.r12),
        (136, regs.r13),
    ] {
        space.set_word(DATA + at, word);
    }
    thread.context.resume(&thread.regs).unwrap();
}

impl Arena {
    /// The last call of stub code with this number that is followed by a look at the state at rbx.
    fn site(&self, number: i64) -> u64 {
        let mut call = vec![0xb8, 0, 0, 0, 0, 0x0f, 0x05];
        call[1..5].copy_from_slice(&(number as u32).to_le_bytes());
        let last = self
            .stub_code()
            .windows(call.len())
            .rposition(|w| w == call);
        self.base + last.unwrap() as u64 + 5
    }
}

program!(
    // Never lets it be seen that an order was carried out, or that a thread has stopped.
    deny,
    "2: mov dword ptr [r8], 0x7fffffff",
    "mov dword ptr [r9], 0",
    "mov dword ptr [r10], 0",
    "mov qword ptr [r13], 1",
    "jmp 2b",
);

/// The answers to orders, and that threads are at rest for others to use, never show.
fn deaf_to_orders(platform: Arc<dyn Platform>) {
    let Some(mut arena) = arena(platform, "deaf_to_orders") else {
        return;
    };
    let space = two_programs(&arena, deny(), call_for_ever());
    let mut attacker = arena.machine.thread(&space);
    place_apart();
    let mut helper = arena.machine.thread(&space);
    // Two that are there for whoever comes next.
    for thread in [1, 2].map(|_| arena.machine.thread(&space)) {
        drop(thread);
    }
    attacker.regs.r8 = arena.base + ANSWERS;
    attacker.regs.r9 = arena.area(3);
    attacker.regs.r10 = arena.area(4);
    attacker.regs.r13 = DATA;
    attacker.context.resume(&attacker.regs).unwrap();
    assert!(sets(&space, DATA));
    for n in 0..10 {
        space.map(HOLE + 2 * n * PAGE, PAGE, Prot::READ);
        harmless(soon("flush", || helper.context.flush()));
    }
    arena.check();
    harmless(soon("a thread", || {
        arena.machine.worker.new_context(&space.space)
    }));
    arena.check();
    space.space.kill();
    soon("dropping", || drop((attacker, helper)));
    // Nor may it matter that the mapper cannot sleep, which is where its success shows.
    let space = arena.machine.space(call_and_return());
    let mut attacker = arena.machine.thread(&space);
    place_apart();
    let mut helper = arena.machine.thread(&space);
    let wake = [arena.base + ORDERS, libc::FUTEX_WAKE as u64, 1];
    let site = arena.site(libc::SYS_futex);
    call_from_stub(&space, &mut attacker, site, libc::SYS_futex, wake);
    assert!(sets(&space, DATA + 0x800));
    for n in 0..50 {
        let unmap = HostOp::Unmap {
            addr: HOLE + 2 * n * PAGE,
            len: PAGE,
        };
        space.space.queue(unmap, Some(Arc::new(())));
        harmless(soon("flush", || helper.context.flush()));
    }
    let woken = space.word(DATA + 0x800);
    assert!(woken > 20, "{woken}");
    arena.check();
    space.space.kill();
    soon("dropping", || drop((attacker, helper)));
    arena.check_all();
}

program!(
    // Copies the word at rsi to rdi, for ever.
    copy,
    "2: mov rax, [rsi]",
    "mov [rdi], rax",
    "jmp 2b",
);
program!(
    // Says of each order at once that r10 of its calls are left, with result r11; and that the thread
    // of area r12 has state r14 and kind r15.
    forge,
    "2: mov eax, [r9]",
    "mov dword ptr [r8 + 4], r10d",
    "mov qword ptr [r8 + 8], r11",
    "mov dword ptr [r8], eax",
    "mov dword ptr [r12 + 4], r15d",
    "mov dword ptr [r12], r14d",
    "mov qword ptr [r13], 1",
    "jmp 2b",
);

/// A guest whose one thread copies the word at HOLE while another forges. The third is at rest.
struct Forgery {
    space: Space,
    copier: Thread,
    forger: Thread,
    helper: Thread,
}

impl Forgery {
    fn new(arena: &mut Arena, left: u64, result: u64, state: u64, kind: u64) -> Forgery {
        let space = two_programs(arena, forge(), copy());
        space.map(HOLE, PAGE, Prot::READ);
        space.set_word(HOLE, 7);
        let mut copier = arena.machine.thread(&space);
        let mut forger = arena.machine.thread(&space);
        place_apart();
        let helper = arena.machine.thread(&space);
        copier.regs.rip = SECOND;
        copier.regs.rsi = HOLE;
        copier.regs.rdi = DATA + 8;
        copier.context.resume(&copier.regs).unwrap();
        assert!(sets(&space, DATA + 8));
        forger.regs.r8 = arena.base + ANSWERS;
        forger.regs.r9 = arena.base + ORDERS;
        forger.regs.r10 = left;
        forger.regs.r11 = result;
        forger.regs.r12 = match state {
            // Nobody's.
            0 => arena.base + ANSWERS + 0x800,
            _ => arena.area(3),
        };
        forger.regs.r13 = DATA;
        (forger.regs.r14, forger.regs.r15) = (state, kind);
        forger.context.resume(&forger.regs).unwrap();
        assert!(sets(&space, DATA));
        Forgery {
            space,
            copier,
            forger,
            helper,
        }
    }

    /// Whether the guest sees what the page is used for once nobody needs it any more.
    fn sees_secret(&self, arena: &mut Arena, retired: &std::sync::Weak<()>) -> bool {
        const SECRET: u64 = 0x005e_c4e7;
        let until = Instant::now() + Duration::from_millis(20);
        while Instant::now() < until {
            if retired.strong_count() == 0 {
                self.space.set_word(HOLE, SECRET);
            }
            let _ = arena.machine.worker.wait(Wait::Poll).unwrap();
            std::thread::yield_now();
            if self.space.word(DATA + 8) == SECRET {
                return true;
            }
        }
        false
    }

    fn end(self, arena: &mut Arena) {
        self.space.space.kill();
        let Forgery {
            space,
            copier,
            forger,
            helper,
        } = self;
        soon("dropping", || drop((copier, forger, helper)));
        drop(space);
        arena.check();
    }
}

fn forged_answers(platform: Arc<dyn Platform>) {
    let Some(mut arena) = arena(platform, "forged_answers") else {
        return;
    };
    let forgeries = [
        (0, 0, 0, 0),
        (0, 0, TRAPPED, 1),
        (0, 0, TRAPPED, 5),
        (1, -12i64 as u64, 0, 0),
        (u64::MAX, u64::MAX, 3, 2),
    ];
    for (left, result, state, kind) in forgeries {
        for posted in [false, true] {
            let mut forgery = Forgery::new(&mut arena, left, result, state, kind);
            let token = Arc::new(());
            let retired = Arc::downgrade(&token);
            // Much to do before.
            for n in 0..200 {
                forgery.space.map(
                    HOLE + (2 + 2 * n) * 16 * PAGE,
                    PAGE,
                    Prot::READ | Prot::WRITE,
                );
            }
            let unmap = HostOp::Unmap {
                addr: HOLE,
                len: PAGE,
            };
            forgery.space.space.queue(unmap, Some(token));
            let helper = &mut forgery.helper;
            if posted {
                helper.regs.rip = HOLE;
                let _ =
                    soon("resume", || helper.context.resume(&helper.regs)).map_err(Err::<(), _>);
                if arena.stops(helper, Duration::from_millis(20)) {
                    harmless(soon("trap", || helper.context.trap(&mut helper.regs)));
                }
            } else {
                harmless(soon("flush", || helper.context.flush()));
            }
            assert!(!forgery.sees_secret(&mut arena, &retired), "{left} {state}");
            forgery.end(&mut arena);
        }
    }
    arena.check_all();
}

/// Of three changes the host refuses the second; the guest says it was another, or none.
fn forged_refusals(platform: Arc<dyn Platform>) {
    let Some(mut arena) = arena(platform, "forged_refusals") else {
        return;
    };
    // Cannot be mapped.
    let pipe = Arc::new(nix::unistd::pipe().unwrap().0);
    for left in [0, 1, 2, 3] {
        for posted in [false, true] {
            let mut forgery = Forgery::new(&mut arena, left, -12i64 as u64, 0, 0);
            let token = Arc::new(());
            let retired = Arc::downgrade(&token);
            forgery.space.map(HOLE + 0x10_0000, PAGE, Prot::READ);
            let bad = HostOp::Map {
                addr: HOLE,
                len: PAGE,
                prot: Prot::READ,
                file: pipe.clone(),
                offset: 0,
                private: false,
                populate: false,
            };
            forgery.space.space.queue(bad, Some(token));
            forgery.space.unmap(HOLE + 0x20_0000, PAGE);
            let helper = &mut forgery.helper;
            if posted {
                helper.regs.rip = HOLE;
                harmless(soon("resume", || helper.context.resume(&helper.regs)));
                if arena.stops(helper, Duration::from_millis(20)) {
                    harmless(soon("trap", || helper.context.trap(&mut helper.regs)));
                }
            } else {
                harmless(soon("flush", || helper.context.flush()));
            }
            assert!(
                !forgery.sees_secret(&mut arena, &retired),
                "{left} left, posted: {posted}"
            );
            forgery.end(&mut arena);
        }
    }
    arena.check_all();
}

program!(
    // Seems to have trapped, and runs on; RSI its area.
    feign,
    "2: mov dword ptr [rsi + 4], 1",
    "mov dword ptr [rsi], r8d",
    "3: pause",
    "jmp 3b",
);

/// A thread that seems to be at rest and is not cannot be asked for its FP state.
fn feigned_rest(platform: Arc<dyn Platform>) {
    let Some(mut arena) = arena(platform, "feigned_rest") else {
        return;
    };
    for (state, deaf) in [(TRAPPED, false), (2, false), (TRAPPED, true)] {
        let space = arena.machine.space(feign());
        let mut thread = arena.machine.thread(&space);
        thread.regs.rsi = arena.area(1);
        thread.regs.r8 = state;
        if deaf {
            // In stub code that waits for an area of nobody, kicks do not stop it.
            space.set_word(DATA, SAVE_FP + 100);
            let code = arena.stub_code();
            // mov eax, [rbx]; cmp eax, TRAPPED
            let wait = [0x8b, 0x03, 0x83, 0xf8, 0x01];
            let at = code.windows(wait.len()).position(|w| w == wait).unwrap();
            thread.regs.rip = arena.base + at as u64;
            thread.regs.rbx = DATA;
            thread.context.resume(&thread.regs).unwrap();
            // Another one speaks for it.
            let mut other = arena.machine.thread(&space);
            other.regs = thread.regs;
            other.regs.rip = CODE;
            other.context.resume(&other.regs).unwrap();
            assert!(arena.stops(&thread, PATIENCE));
            harmless(thread.context.trap(&mut thread.regs));
            harmless(soon("fp_state", || thread.context.fp_state()));
            arena.check();
            space.space.kill();
            soon("dropping", || drop((thread, other)));
            continue;
        }
        thread.context.resume(&thread.regs).unwrap();
        assert!(arena.stops(&thread, PATIENCE));
        let trap = thread.context.trap(&mut thread.regs);
        if harmless(trap).is_some() {
            harmless(soon("fp_state", || thread.context.fp_state()));
        }
        soon("dropping", || drop(thread));
        arena.check();
    }
    arena.check_all();
}

fn exhaust(platform: Arc<dyn Platform>) {
    let Some(mut arena) = arena(platform, "exhaust") else {
        return;
    };
    // Threads.
    let space = arena.machine.space(pause_for_ever());
    let mut contexts = Vec::new();
    let error = loop {
        match arena.machine.worker.new_context(&space.space) {
            Ok(context) => contexts.push(context),
            Err(error) => break error,
        }
        assert!(contexts.len() < 10_000);
    };
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    arena.check();
    // One that was given back is there again.
    drop(contexts.pop());
    contexts.push(arena.machine.worker.new_context(&space.space).unwrap());
    soon("dropping", || drop(contexts));
    arena.check();
    // Address spaces.
    let mut spaces = Vec::new();
    for _ in 0..150 {
        let space = arena.machine.platform.new_address_space();
        match arena.machine.worker.new_context(&space) {
            Ok(context) => spaces.push((space, context)),
            Err(error) => {
                assert!(matches!(error, Error::Refused { .. }), "{error}");
                break;
            }
        }
    }
    arena.check();
    drop(spaces);
    // Mappings, until the host has no more for a process.
    let space = arena.machine.space(pause_for_ever());
    let mut thread = arena.machine.thread(&space);
    for n in 0..70_000 {
        space.map_from(HOLE + n * PAGE, PAGE, Prot::READ, (n % 2) * 16 * PAGE);
    }
    let error = thread.context.flush().unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    soon("dropping", || drop(thread));
    arena.check_all();
}

program!(
    // Copies words from rsi on, every r8 bytes, to rdi on; rdx of them. Or, r9 set, writes them.
    peek,
    "2: test r9, r9",
    "jz 3f",
    "mov [rsi], r9",
    "3: mov rax, [rsi]",
    "mov [rdi], rax",
    "add rsi, r8",
    "add rdi, 8",
    "dec rdx",
    "jnz 2b",
    "mov eax, 400",
    "syscall",
);

/// What one process has left in its areas is not in another's: not beside it, nor after it.
fn stub_memory_is_not_shared(platform: Arc<dyn Platform>) {
    const MARK: u64 = 0x4d41_524b_4d41_524b;
    const STEP: u64 = 0x800;
    let Some(mut arena) = arena(platform, "stub_memory_is_not_shared") else {
        return;
    };
    // Not where the thread is handed over.
    let from = arena.base + ANSWERS + 0x300;
    let count = (PAGE + AREA_LEN) / STEP;
    let look = |arena: &mut Arena, mark: u64| {
        let space = arena.machine.space(peek());
        let mut thread = arena.machine.thread(&space);
        thread.regs.rsi = from;
        thread.regs.rdi = DATA;
        thread.regs.rdx = count;
        thread.regs.r8 = STEP;
        thread.regs.r9 = mark;
        // Registers are left there too.
        thread.regs.r12 = MARK;
        assert_eq!(arena.machine.run_to_syscall(&mut thread), 400);
        let seen = (0..count)
            .filter(|n| space.word(DATA + 8 * n) == MARK)
            .count();
        (space, thread, seen)
    };
    let first = look(&mut arena, MARK);
    assert_eq!(first.2, count as usize);
    let beside = look(&mut arena, 0);
    assert_eq!(beside.2, 0, "beside it");
    drop(first);
    // More than there are made ahead, so that some get what others have left.
    for n in 0..24 {
        let before = look(&mut arena, if n % 2 == 0 { 0 } else { MARK });
        let found = if n % 2 == 0 { 0 } else { count as usize };
        assert_eq!(before.2, found, "after it");
    }
    arena.check_all();
}

fn bells(platform: Arc<dyn Platform>) {
    let Some(mut arena) = arena(platform, "bells") else {
        return;
    };
    // The file descriptors, as the stub's global page tells them to anybody.
    let space = arena.machine.space(peek());
    let mut thread = arena.machine.thread(&space);
    thread.regs.rsi = arena.base + GLOBAL;
    thread.regs.rdi = DATA;
    thread.regs.rdx = 2;
    thread.regs.r8 = 64;
    arena.machine.run_to_syscall(&mut thread);
    let fds = [DATA, DATA + 8].map(|at| space.word(at) >> 32);
    assert!(fds.iter().all(|fd| *fd >= 256), "{fds:?}");
    drop(thread);
    let site = arena.site(libc::SYS_write);
    for fd in fds {
        for value in [arena.base + ONE, DATA + 0x900] {
            let space = arena.machine.space(call_and_return());
            space.set_word(DATA + 0x900, u64::MAX - 1);
            let mut thread = arena.machine.thread(&space);
            call_from_stub(&space, &mut thread, site, libc::SYS_write, [fd, value, 8]);
            let until = Instant::now() + PATIENCE;
            let (mut gone, mut rang) = (false, 0);
            while Instant::now() < until && !gone && (value == DATA + 0x900 || rang <= 100) {
                arena.check();
                gone |= matches!(thread.context.trap(&mut thread.regs), Err(Error::Gone));
                rang = space.word(DATA + 0x800);
            }
            match value {
                DATA..STACK_TOP => assert!(gone, "a bell was rung with {:x}", u64::MAX - 1),
                _ => assert!(!gone && rang > 100, "{rang}"),
            }
            space.space.kill();
            soon("dropping", || drop(thread));
        }
    }
    arena.check_all();
}
