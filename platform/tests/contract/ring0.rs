//! Guests that turn on what shares a virtual machine with them: ring 0's pages, its entries, the
//! instructions only it may use, and the host's memory behind their pages. Addresses and selectors
//! are those of `platform/src/kvm/ring0.rs`, which a guest knows as well.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use runsc_platform::arch::Registers;
use runsc_platform::memory::{MemFd, Window};
use runsc_platform::ptrace::host_call_count;
use runsc_platform::*;

use crate::Case;
use crate::guest::*;
use crate::traps::{call_rbx, read_rdi};

pub const CASES: &[Case] = &[
    ("attack_ring0_pages", ring0_pages),
    ("attack_privileged_instructions", privileged_instructions),
    ("attack_ports", ports),
    ("attack_selectors", selectors),
    ("attack_every_interrupt", every_interrupt),
    ("attack_random_code", random_code),
    ("attack_truncated_file", truncated_file),
    ("spinning_threads_share", spinning_threads_share),
    ("one_host_call_a_trap", one_host_call_a_trap),
    ("ring0_answers", ring0_answers),
];

fn is_kvm(platform: &Arc<dyn Platform>) -> bool {
    platform.name() == "kvm"
}

program!(
    // Each of RDI: load, store, jump, by RSI.
    reach_rdi,
    "cmp rsi, 1",
    "je 3f",
    "ja 4f",
    "mov al, [rdi]",
    "jmp 5f",
    "3: mov [rdi], al",
    "jmp 5f",
    "4: jmp rdi",
    "5: mov eax, 900",
    "syscall",
);

/// None of ring 0's pages can be read or written; jumping there does no more than a system call.
fn ring0_pages(platform: Arc<dyn Platform>) {
    if !is_kvm(&platform) {
        return;
    }
    let (_, base) = platform.user_range();
    let mut machine = Machine::new(platform);
    let space = machine.space(reach_rdi());
    let mut thread = machine.thread(&space);
    // What is mapped there and, beyond it, what is not.
    for page in (0..512).chain([600, 0x3_ffff]) {
        for how in 0..3 {
            thread.regs = Registers::start(CODE, STACK_TOP - 64);
            // Never the entry for system calls, see below.
            thread.regs.rdi = base + page * PAGE + (page * 24 + 1) % PAGE;
            thread.regs.rsi = how;
            let fault = machine.run_to_fault(&mut thread);
            assert_eq!(fault.signal, libc::SIGSEGV, "page {page}, {how}");
        }
    }
    // Behind them is the vDSO, which guests may read.
    for page in 512..516 {
        thread.regs = Registers::start(CODE, STACK_TOP - 64);
        thread.regs.rdi = base + page * PAGE;
        thread.regs.rsi = 1;
        let fault = machine.run_to_fault(&mut thread);
        assert_eq!(fault.signal, libc::SIGSEGV, "page {page}");
    }
    if let Some(answers) = thread.context.answers() {
        answers.publish(Answer::Getpid, Some(5));
    }
    // The entries for system calls themselves make none but the guest's own, and lead nowhere and to
    // no flags that a guest may not have, though it calls for what is answered in place.
    for entry in (16..64).step_by(4).map(|page| base + page * PAGE + 4 * 32) {
        for (rcx, r11) in [
            (u64::MAX, u64::MAX),
            (base, 0x202),
            (1 << 63, 0x202),
            (0x8000_0000_0000, 0x202),
            (CODE, 0x3202),
            (CODE, 0x302),
        ] {
            thread.regs = Registers::start(CODE, STACK_TOP - 64);
            (thread.regs.rdi, thread.regs.rsi) = (entry, 2);
            (thread.regs.rcx, thread.regs.r11) = (rcx, r11);
            thread.regs.rax = 39;
            match machine.run(&mut thread) {
                Trap::Syscall | Trap::Fault(_) => {}
                trap => panic!("{trap:?}"),
            }
            thread.regs.rsi = 0;
            thread.regs.rdi = 0;
            let fault = machine.run(&mut thread);
            assert!(matches!(fault, Trap::Fault(_)), "{fault:?}");
            assert_eq!(thread.regs.eflags & 0x3000, 0, "I/O privilege");
        }
    }
    witness(&mut machine);
}

/// Other guests go on.
fn witness(machine: &mut Machine) {
    let space = machine.space(call_rbx());
    let mut thread = machine.thread(&space);
    thread.regs.rbx = 77;
    assert_eq!(machine.run_to_syscall(&mut thread), 77);
}

program!(p_cli, "cli");
program!(p_sti, "sti");
program!(p_hlt, "hlt");
program!(p_read_cr3, "mov rax, cr3");
program!(p_write_cr3, "mov cr3, rax");
program!(p_write_cr0, "mov cr0, rax");
program!(p_write_dr7, "mov dr7, rax");
program!(p_lgdt, "lgdt [rsp]");
program!(p_lidt, "lidt [rsp]");
program!(p_lldt, "lldt ax");
program!(p_ltr, "ltr ax");
program!(p_wrmsr, "mov ecx, 0xc0000082", "wrmsr");
program!(p_rdmsr, "mov ecx, 0xc0000082", "rdmsr");
program!(p_invlpg, "invlpg [rsp]");
program!(p_swapgs, "swapgs");
program!(p_sysret, "mov rcx, 0x400000", "sysretq");
program!(p_wbinvd, "wbinvd");
program!(p_clts, "clts");
program!(
    p_xsetbv,
    "xor ecx, ecx",
    "mov eax, 1",
    "xor edx, edx",
    "xsetbv"
);

fn privileged_instructions(platform: Arc<dyn Platform>) {
    if !is_kvm(&platform) {
        return;
    }
    let mut machine = Machine::new(platform);
    let programs = [
        p_cli(),
        p_sti(),
        p_hlt(),
        p_read_cr3(),
        p_write_cr3(),
        p_write_cr0(),
        p_write_dr7(),
        p_lgdt(),
        p_lidt(),
        p_lldt(),
        p_ltr(),
        p_wrmsr(),
        p_rdmsr(),
        p_invlpg(),
        p_swapgs(),
        p_sysret(),
        p_wbinvd(),
        p_clts(),
        p_xsetbv(),
    ];
    for code in programs {
        let (_space, thread, trap) = machine.once(code);
        let Trap::Fault(fault) = trap else {
            panic!("{trap:?} for {code:x?}");
        };
        assert!(
            matches!(fault.signal, libc::SIGSEGV | libc::SIGILL),
            "{fault:?} for {code:x?}"
        );
        assert!(thread.regs.rip < CODE + code.len() as u64, "{code:x?}");
    }
    witness(&mut machine);
}

program!(
    // All flags that POPF takes, then a write to the port in DX.
    out_dx,
    "mov rax, -1",
    "and rax, 0xfffffffffffbfeff",
    "push rax",
    "popfq",
    "mov eax, 900",
    "out dx, al",
    "syscall",
);
program!(in_dx, "in al, dx", "mov eax, 900", "syscall");

/// No port is the guest's: not those that ring 0's entries use, and no others.
fn ports(platform: Arc<dyn Platform>) {
    if !is_kvm(&platform) {
        return;
    }
    let mut machine = Machine::new(platform);
    for code in [out_dx(), in_dx()] {
        let space = machine.space(code);
        let mut thread = machine.thread(&space);
        for port in (0..0x50).chain([0x60, 0x80, 0x3f8, 0xcf8, 0xffff]) {
            thread.regs = Registers::start(CODE, STACK_TOP - 64);
            thread.regs.rdx = port;
            let fault = machine.run_to_fault(&mut thread);
            assert_eq!(fault.signal, libc::SIGSEGV, "port {port:#x}");
            assert_eq!(thread.regs.eflags & 0x3000, 0, "I/O privilege");
        }
    }
    witness(&mut machine);
}

program!(
    // A far return to the segment in RBX, at RDI.
    far_return, "push rbx", "push rdi", "retfq",
);
program!(
    interrupt_return,
    "mov rax, rsp",
    "push rsi",
    "push rax",
    "push 0x3002",
    "push rbx",
    "push rdi",
    "iretq",
);
program!(load_segment, "mov ds, ebx", "mov eax, 900", "syscall");
program!(load_stack, "mov ss, ebx", "mov eax, 900", "syscall");

fn selectors(platform: Arc<dyn Platform>) {
    if !is_kvm(&platform) {
        return;
    }
    let (_, base) = platform.user_range();
    let mut machine = Machine::new(platform);
    for code in [far_return(), interrupt_return()] {
        let space = machine.space(code);
        let mut thread = machine.thread(&space);
        for selector in (0..0x80).chain([0xfff8, 0xffff]) {
            // 0x33 is the guest's own.
            if selector & !7 == 0x30 {
                continue;
            }
            for target in [CODE, base] {
                thread.regs = Registers::start(CODE, STACK_TOP - 64);
                thread.regs.rbx = selector;
                thread.regs.rsi = 0x2b;
                thread.regs.rdi = target;
                let fault = machine.run_to_fault(&mut thread);
                assert!(
                    matches!(fault.signal, libc::SIGSEGV | libc::SIGBUS | libc::SIGILL),
                    "{selector:#x}: {fault:?}"
                );
                assert_eq!((thread.regs.cs, thread.regs.ss), (0x33, 0x2b));
            }
        }
    }
    for code in [load_segment(), load_stack()] {
        let space = machine.space(code);
        let mut thread = machine.thread(&space);
        for selector in 0..0x80 {
            thread.regs = Registers::start(CODE, STACK_TOP - 64);
            thread.regs.rbx = selector;
            let trap = machine.run(&mut thread);
            // Where the host's own table is looked at, what Linux leaves to all is there.
            assert!(
                matches!(trap, Trap::Fault(_) | Trap::Syscall),
                "{selector:#x}: {trap:?}"
            );
            assert_eq!((thread.regs.cs, thread.regs.ss), (0x33, 0x2b));
        }
    }
    witness(&mut machine);
}

fn every_interrupt(platform: Arc<dyn Platform>) {
    if !is_kvm(&platform) {
        return;
    }
    let mut machine = Machine::new(platform);
    for vector in 0..=255u8 {
        let code = [0xcd, vector, 0x0f, 0x0b];
        let (_space, thread, trap) = machine.once(&code);
        let Trap::Fault(fault) = trap else {
            panic!("{trap:?} for int {vector}");
        };
        // Where the host's own gates are looked at, a few do nothing, and UD2 comes next.
        let expected: &[i32] = match vector {
            3 => &[libc::SIGTRAP],
            _ => &[libc::SIGSEGV, libc::SIGILL],
        };
        assert!(expected.contains(&fault.signal), "int {vector}: {fault:?}");
        let after = thread.regs.rip.wrapping_sub(CODE);
        assert!(matches!(after, 0 | 2), "int {vector}: {after}");
    }
    witness(&mut machine);
}

/// Code made of random bytes, step by step: whatever it does, it ends with a trap of its own.
fn random_code(platform: Arc<dyn Platform>) {
    const PROGRAMS: u64 = 1500;
    const STEPS: u32 = 24;
    if !is_kvm(&platform) {
        return;
    }
    let mut machine = Machine::new(platform);
    let space = machine.space(&[0; PAGE as usize]);
    let mut thread = machine.thread(&space);
    let kicker = thread.context.kicker();
    let (done, rounds) = std::sync::mpsc::channel::<()>();
    // Code that has cleared the trap flag may loop.
    let other = std::thread::spawn(move || {
        use std::sync::mpsc::RecvTimeoutError::Timeout;
        while rounds.recv_timeout(Duration::from_millis(20)) == Err(Timeout) {
            kicker.kick();
        }
    });
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for program in 0..PROGRAMS {
        let code: Vec<u8> = (0..8).flat_map(|_| random().to_le_bytes()).collect();
        space.memory.write(CODE as usize, &code).unwrap();
        thread.regs = Registers::start(CODE, STACK_TOP - 512);
        for field in [
            &mut thread.regs.rax,
            &mut thread.regs.rbx,
            &mut thread.regs.rcx,
            &mut thread.regs.rdx,
            &mut thread.regs.rsi,
            &mut thread.regs.rdi,
        ] {
            *field = match random() % 4 {
                0 => DATA + random() % DATA_LEN,
                1 => 0x7fff_c000_0000 + random() % (64 * PAGE),
                2 => random() % 256,
                _ => random(),
            };
        }
        for _ in 0..STEPS {
            thread.regs.eflags |= 0x100;
            match machine.run(&mut thread) {
                Trap::Fault(fault) if fault.signal == libc::SIGTRAP => {}
                Trap::Syscall => {}
                Trap::Interrupted | Trap::Fault(_) => break,
            }
            assert_eq!(thread.regs.cs, 0x33, "program {program}");
        }
    }
    drop(done);
    other.join().unwrap();
    witness(&mut machine);
}

/// A file that somebody cuts off under a guest is that guest's fault alone.
fn truncated_file(platform: Arc<dyn Platform>) {
    const PAGES: u64 = 16;
    let mut machine = Machine::new(platform);
    let file = MemFd::create(c"guest").unwrap();
    file.set_len(PAGES * PAGE).unwrap();
    let window = Window::map(file.as_fd(), 0, (PAGES * PAGE) as usize, true).unwrap();
    let shared: Arc<OwnedFd> = Arc::new(file.try_clone_fd().unwrap());
    let space = machine.space(read_rdi());
    space.space.queue(
        HostOp::Map {
            addr: HOLE,
            len: PAGES * PAGE,
            prot: Prot::READ,
            file: shared,
            offset: 0,
            private: false,
            populate: false,
        },
        None,
    );
    let mut thread = machine.thread(&space);
    for round in 0..20u64 {
        let (page, byte) = (round % PAGES, round + 1);
        file.set_len(PAGES * PAGE).unwrap();
        window.write((page * PAGE) as usize, &[byte as u8]).unwrap();
        thread.regs = Registers::start(CODE, STACK_TOP - 64);
        thread.regs.rdi = HOLE + page * PAGE;
        assert_eq!(machine.run_to_fault(&mut thread).signal, libc::SIGILL);
        assert_eq!(thread.regs.rax, byte);
        file.set_len(page * PAGE).unwrap();
        thread.regs.rip = CODE;
        thread.regs.rdi += 8;
        let fault = machine.run_to_fault(&mut thread);
        assert_eq!(
            (fault.signal, fault.code, fault.addr),
            (libc::SIGBUS, libc::BUS_ADRERR, HOLE + page * PAGE + 8)
        );
        assert_eq!(thread.regs.rip, CODE);
    }
    witness(&mut machine);
}

program!(spin_at_rdi, "2: inc qword ptr [rdi]", "jmp 2b");

/// More guest threads that never trap than there are processors: each gets its turn.
fn spinning_threads_share(platform: Arc<dyn Platform>) {
    const THREADS: u64 = 12;
    let mut machine = Machine::new(platform);
    let space = machine.space(spin_at_rdi());
    let mut threads: Vec<Thread> = (0..THREADS).map(|_| machine.thread(&space)).collect();
    for (n, thread) in (0..).zip(&mut threads) {
        thread.regs.rdi = DATA + n * 64;
        thread.context.resume(&thread.regs).unwrap();
    }
    // Twice, so that none only had its first turn.
    for _ in 0..2 {
        let before: Vec<u64> = (0..THREADS).map(|n| space.word(DATA + n * 64)).collect();
        let deadline = Instant::now() + Duration::from_secs(20);
        while (0..THREADS).any(|n| space.word(DATA + n * 64) == before[n as usize]) {
            assert!(Instant::now() < deadline, "some get no turn");
            std::thread::yield_now();
        }
    }
    drop(threads);
    witness(&mut machine);
}

/// What a trap costs where guest code runs on the thread that handles it: KVM_RUN.
fn one_host_call_a_trap(platform: Arc<dyn Platform>) {
    if !is_kvm(&platform) {
        return;
    }
    const CALLS: u64 = 200;
    let mut machine = Machine::new(platform);
    let space = machine.space(call_rbx());
    let mut thread = machine.thread(&space);
    // A busy machine may let the watch take the thread away in between.
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        machine.run_to_syscall(&mut thread);
        let before = host_call_count();
        for _ in 0..CALLS {
            machine.run_to_syscall(&mut thread);
        }
        if host_call_count() - before == CALLS {
            return;
        }
    }
    panic!("more than one host call a trap");
}

program!(
    ask_rbx,
    "2: mov eax, ebx",
    "syscall",
    "mov r12, rax",
    "mov eax, 900",
    "syscall",
    "jmp 2b",
);

/// Each call that can be answered is, by its own word and without a trap, until it is not to be.
fn ring0_answers(platform: Arc<dyn Platform>) {
    if !is_kvm(&platform) {
        return;
    }
    let mut machine = Machine::new(platform);
    let space = machine.space(ask_rbx());
    let mut thread = machine.thread(&space);
    let Some(answers) = thread.context.answers() else {
        println!("  !!! SKIPPED: ring 0 answers nothing here");
        return;
    };
    for (n, answer) in (1000..).zip(Answer::ALL) {
        answers.publish(answer, Some(n));
    }
    answers.answer_other_calls(InPlace::Answer);
    let calls = Answer::ALL.map(Answer::call);
    let values = (1000..).zip(calls).chain([(0, libc::SYS_sched_yield)]);
    for (value, call) in values {
        thread.regs = Registers::start(CODE, STACK_TOP - 64);
        thread.regs.rbx = call as u64;
        assert_eq!(machine.run_to_syscall(&mut thread), 900, "call {call}");
        assert_eq!(thread.regs.r12, value, "call {call}");
        assert_eq!(thread.regs.rsp, STACK_TOP - 64);
    }
    // Others are not, not even those that differ in what the entry looks at last.
    let low = [0, 38, 40, 511, 5000, 0x7fff, 0x8000, 0x8027, 0xffd8, 0xffff];
    let high = [0x1_0027, 0x8000_0027, 0xffff_0018, u32::MAX];
    for number in low.into_iter().chain(high).map(u64::from) {
        thread.regs = Registers::start(CODE, STACK_TOP - 64);
        thread.regs.rbx = number;
        let told = machine.run_to_syscall(&mut thread);
        assert_eq!((told as u32, thread.regs.orig_rax), (number as u32, number));
        assert_eq!(thread.regs.rsp, STACK_TOP - 64);
    }
    for answer in Answer::ALL {
        answers.publish(answer, None);
    }
    answers.answer_other_calls(InPlace::Never);
    for call in calls.into_iter().chain([libc::SYS_sched_yield]) {
        thread.regs = Registers::start(CODE, STACK_TOP - 64);
        thread.regs.rbx = call as u64;
        assert_eq!(machine.run_to_syscall(&mut thread), call as u64);
    }
}
