//! Call sites that a platform changes, and calls it answers in place. Where it does neither, there is
//! nothing to see.

use std::sync::Arc;

use runsc_platform::*;

use crate::Case;
use crate::guest::*;

pub const CASES: &[Case] = &[
    ("hot_sites_are_patched", hot_sites_are_patched),
    (
        "patched_calls_can_be_made_again",
        patched_calls_can_be_made_again,
    ),
    (
        "a_moved_tail_is_the_guests_code",
        a_moved_tail_is_the_guests_code,
    ),
    ("calls_are_answered_in_place", calls_are_answered_in_place),
    ("kicks_find_patched_guests", kicks_find_patched_guests),
    ("kicks_lose_no_call", kicks_lose_no_call),
];

program!(
    // The form whose number is part of the jump.
    numbered,
    "2: inc rbx",
    "mov eax, 39",
    "syscall",
    "mov r12, rax",
    "jmp 2b",
    "nop",
    "nop"
);

program!(
    // The form that moves what follows: libc's syscall(3).
    general,
    "mov eax, 700",
    "2: inc rbx",
    "syscall",
    "cmp rax, -4095",
    "jae 3f",
    "mov r12, rax",
    "mov eax, 700",
    "jmp 2b",
    "3: ud2",
    "nop",
    "nop"
);

/// A guest whose site is patched, known by its %fs base. None: this platform patches nothing.
fn heated(platform: Arc<dyn Platform>, code: &[u8]) -> Option<(Machine, Space, Thread)> {
    let mut machine = Machine::new(platform);
    let space = machine.space(code);
    let mut thread = machine.thread(&space);
    // Tables are by it.
    thread.regs.fs_base = DATA;
    heat(&mut machine, &space, &mut thread, code)?;
    Some((machine, space, thread))
}

/// Runs a guest until the platform calls its site hot, and patches it. None: it never does.
pub(crate) fn heat(
    machine: &mut Machine,
    space: &Space,
    thread: &mut Thread,
    code: &[u8],
) -> Option<Patch> {
    for _ in 0..200 {
        assert_eq!(machine.run(thread), Trap::Syscall);
        if let Some(site) = thread.context.hot_site() {
            let start = CODE;
            let patch = thread.context.patch(site, Code { start, bytes: code })?;
            let mut page = vec![0; PAGE as usize];
            space.memory.read(CODE as usize, &mut page).unwrap();
            let at = (patch.addr - CODE) as usize;
            page[at..at + 7].copy_from_slice(&patch.bytes);
            // Another page in its place, as a whole.
            const COPY: u64 = 0x300_0000;
            space.memory.write(COPY as usize, &page).unwrap();
            space.map_from(CODE, PAGE, Prot::READ | Prot::EXEC, COPY);
            return Some(patch);
        }
        thread.regs.set_return(1);
    }
    println!("  !!! SKIPPED: this platform patches nothing");
    None
}

fn hot_sites_are_patched(platform: Arc<dyn Platform>) {
    for code in [numbered(), general()] {
        let Some((mut machine, space, mut thread)) = heated(platform.clone(), code) else {
            return;
        };
        let (rip, number) = (thread.regs.rip, thread.regs.orig_rax);
        for n in 0..300u64 {
            let before = thread.regs;
            thread.regs.set_return(n);
            assert_eq!(machine.run(&mut thread), Trap::Syscall, "{n}");
            let regs = thread.regs;
            assert_eq!((regs.rip, regs.rcx), (rip, rip), "{n}");
            assert_eq!((regs.orig_rax, regs.r12), (number, n));
            assert_eq!(regs.rax as i64, -i64::from(libc::ENOSYS));
            assert_eq!((regs.rbx, regs.rsp), (before.rbx + 1, before.rsp));
            assert_eq!(regs.rdi, before.rdi);
            // All registers are set, as after a signal handler.
            if n % 3 == 0 {
                thread.regs.rdi = n;
            }
        }
        // A thread that is not in the tables makes the call after all.
        let mut other = machine.thread(&space);
        other.regs.rbx = 5;
        assert_eq!(machine.run(&mut other), Trap::Syscall);
        assert_eq!((other.regs.rip, other.regs.orig_rax), (rip, number));
        assert_eq!(other.regs.rbx, 6);
    }
}

/// A call that is restarted goes to the `syscall` that was there, and from it on behind the site,
/// though nothing but the result was set.
fn patched_calls_can_be_made_again(platform: Arc<dyn Platform>) {
    for code in [numbered(), general()] {
        let Some((mut machine, _space, mut thread)) = heated(platform.clone(), code) else {
            return;
        };
        let (behind, number) = (thread.regs.rip, thread.regs.orig_rax);
        for n in 0..20 {
            for _again in 0..n % 3 {
                thread.regs.rip = behind - 2;
                thread.regs.rax = number;
                let before = thread.regs;
                assert_eq!(machine.run(&mut thread), Trap::Syscall);
                assert_eq!((thread.regs.rip, thread.regs.orig_rax), (behind, number));
                assert_eq!(thread.regs.rbx, before.rbx, "{n}");
            }
            let before = thread.regs;
            thread.regs.set_return(n);
            assert_eq!(machine.run(&mut thread), Trap::Syscall);
            assert_eq!((thread.regs.rip, thread.regs.orig_rax), (behind, number));
            let regs = (thread.regs.r12, thread.regs.rbx);
            assert_eq!(regs, (n, before.rbx + 1), "{n}");
        }
    }
}

/// Whoever goes on behind the call, where the jump now is, finds what was there.
fn a_moved_tail_is_the_guests_code(platform: Arc<dyn Platform>) {
    let Some((mut machine, _space, mut thread)) = heated(platform, general()) else {
        return;
    };
    let behind = thread.regs.rip;
    // Put there by the Sentry.
    thread.regs.rax = 8;
    thread.regs.rip = behind;
    thread.regs.rdi = 1;
    assert_eq!(machine.run(&mut thread), Trap::Syscall);
    assert_eq!((thread.regs.r12, thread.regs.rip), (8, behind));
    // A failing call takes the branch that was moved.
    thread.regs.set_return(-5i64 as u64);
    let fault = machine.run_to_fault(&mut thread);
    assert_eq!(fault.signal, libc::SIGILL);
    assert_eq!(thread.regs.rax as i64, -5);
    assert!((CODE..CODE + PAGE).contains(&thread.regs.rip));
}

program!(
    ask_and_tell,
    "2: mov eax, 39",
    "syscall",
    "mov rbx, rax",
    "mov eax, 600",
    "syscall",
    "jmp 2b",
    "nop",
    "nop"
);

fn calls_are_answered_in_place(platform: Arc<dyn Platform>) {
    let mut machine = Machine::new(platform);
    let space = machine.space(ask_and_tell());
    let mut thread = machine.thread(&space);
    thread.regs.fs_base = DATA;
    let Some(answers) = thread.context.answers() else {
        println!("  !!! SKIPPED: this platform answers nothing in place");
        return;
    };
    // Both sites, in turn; the first one is asked for first.
    // Where calls are answered wherever they are made, nothing is to be patched.
    if machine.platform.name() != "kvm" {
        heat(&mut machine, &space, &mut thread, ask_and_tell()).unwrap();
        while thread.regs.orig_rax != 600 {
            machine.run(&mut thread);
        }
    }
    answers.publish(Answer::Getpid, Some(77));
    for _ in 0..100 {
        assert_eq!(machine.run_to_syscall(&mut thread), 600);
        assert_eq!(thread.regs.rbx, 77);
    }
    answers.publish(Answer::Getpid, None);
    assert_eq!(machine.run_to_syscall(&mut thread), 39);
    thread.regs.set_return(5);
    assert_eq!(machine.run_to_syscall(&mut thread), 600);
    assert_eq!(thread.regs.rbx, 5);
    // Nobody else's once the thread is gone.
    drop(thread);
    answers.publish(Answer::Getpid, Some(78));
}

program!(
    ask_for_ever,
    "2: mov eax, 39",
    "syscall",
    "inc rbx",
    "jmp 2b",
    "nop",
    "nop"
);

/// A guest that is answered in place all the time is stopped by a kick, wherever it is.
fn kicks_find_patched_guests(platform: Arc<dyn Platform>) {
    let mut machine = Machine::new(platform);
    let space = machine.space(ask_for_ever());
    let mut thread = machine.thread(&space);
    thread.regs.fs_base = DATA;
    let Some(answers) = thread.context.answers() else {
        return;
    };
    if machine.platform.name() != "kvm" {
        heat(&mut machine, &space, &mut thread, ask_for_ever()).unwrap();
    }
    answers.publish(Answer::Getpid, Some(1));
    let kicker = thread.context.kicker();
    for round in 0..2000u32 {
        let before = thread.regs.rbx;
        thread.context.resume(&thread.regs).unwrap();
        for _ in 0..round % 512 {
            std::hint::spin_loop();
        }
        kicker.kick();
        match machine.trap(&mut thread) {
            Trap::Interrupted => {}
            // It was about to be answered.
            Trap::Syscall => {
                assert_eq!(thread.regs.orig_rax, 39);
                thread.regs.set_return(1);
            }
            trap => panic!("{trap:?}"),
        }
        assert!(thread.regs.rbx >= before);
        let inside = (CODE..CODE + PAGE).contains(&thread.regs.rip);
        assert!(inside, "{:x}", thread.regs.rip);
        assert_eq!(thread.regs.rsp, STACK_TOP - 64);
    }
}

/// A call that is restarted is made, or a kick finds the thread still before it.
fn kicks_lose_no_call(platform: Arc<dyn Platform>) {
    let Some((mut machine, _space, mut thread)) = heated(platform, numbered()) else {
        return;
    };
    let (behind, number) = (thread.regs.rip, thread.regs.orig_rax);
    let kicker = thread.context.kicker();
    for round in 0..2000u32 {
        thread.regs.rip = behind - 2;
        thread.regs.rax = number;
        thread.context.resume(&thread.regs).unwrap();
        for _ in 0..round % 512 {
            std::hint::spin_loop();
        }
        kicker.kick();
        let trap = machine.trap(&mut thread);
        match trap {
            Trap::Interrupted => {
                assert_eq!((thread.regs.rip, thread.regs.rax), (behind - 2, number))
            }
            Trap::Syscall => assert_eq!((thread.regs.rip, thread.regs.orig_rax), (behind, number)),
            Trap::Fault(_) => panic!("{trap:?}"),
        }
    }
}
