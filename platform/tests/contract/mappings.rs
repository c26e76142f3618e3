//! Changes of the guest's mappings.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use runsc_platform::arch::Registers;
use runsc_platform::*;

use crate::Case;
use crate::guest::*;
use crate::traps::call_twice;

pub const CASES: &[Case] = &[
    ("mapping_batches", mapping_batches),
    (
        "protect_and_unmap_take_effect",
        protect_and_unmap_take_effect,
    ),
    ("private_mappings_copy", private_mappings_copy),
    ("refused_changes", refused_changes),
    ("too_many_mappings", too_many_mappings),
    (
        "retired_memory_outlives_its_mapping",
        retired_memory_outlives_its_mapping,
    ),
    ("flush_without_running", flush_without_running),
];

program!(
    sum_pages,
    "xor eax, eax",
    "2: add rax, [rdi]",
    "add rdi, 4096",
    "dec rsi",
    "jnz 2b",
    "syscall",
);

/// Many changes at once, in order: page by page, backwards, so that nothing can be merged.
fn mapping_batches(platform: Arc<dyn Platform>) {
    const PAGES: u64 = 1000;
    let mut machine = Machine::new(platform);
    let space = machine.space(sum_pages());
    let mut thread = machine.thread(&space);
    let mut expected = 0;
    for page in 0..PAGES {
        space.set_word(HOLE + page * PAGE, page);
        expected += page;
    }
    for page in 0..PAGES {
        let offset = HOLE + (PAGES - 1 - page) * PAGE;
        space.map_from(HOLE + page * PAGE, PAGE, Prot::READ, offset);
    }
    let sum = |machine: &mut Machine, thread: &mut Thread| {
        thread.regs = Registers::start(CODE, STACK_TOP - 64);
        thread.regs.rdi = HOLE;
        thread.regs.rsi = PAGES;
        machine.run(thread)
    };
    assert_eq!(sum(&mut machine, &mut thread), Trap::Syscall);
    assert_eq!(thread.regs.syscall_number(), expected);
    // In order: the last one counts.
    for page in 0..PAGES {
        space.unmap(HOLE + page * PAGE, PAGE);
        space.map_from(HOLE + page * PAGE, PAGE, Prot::READ, HOLE + PAGE);
    }
    assert_eq!(sum(&mut machine, &mut thread), Trap::Syscall);
    assert_eq!(thread.regs.syscall_number(), PAGES);
    for page in 0..PAGES {
        space.map_from(HOLE + page * PAGE, PAGE, Prot::READ, HOLE + PAGE);
        space.unmap(HOLE + page * PAGE, PAGE);
    }
    let Trap::Fault(fault) = sum(&mut machine, &mut thread) else {
        panic!("still mapped");
    };
    assert_eq!(fault.addr, HOLE);
}

program!(
    touch_loop,
    "2: mov [rdi], rsi",
    "mov rax, [rdi]",
    "syscall",
    "jmp 2b"
);

fn protect_and_unmap_take_effect(platform: Arc<dyn Platform>) {
    let mut machine = Machine::new(platform);
    let space = machine.space(touch_loop());
    let mut thread = machine.thread(&space);
    thread.regs.rdi = DATA + 8;
    thread.regs.rsi = 7;
    assert_eq!(machine.run_to_syscall(&mut thread), 7);
    space.protect(DATA, PAGE, Prot::READ);
    let fault = machine.run_to_fault(&mut thread);
    assert_eq!((fault.code, fault.addr), (2, DATA + 8));
    space.protect(DATA, PAGE, Prot::READ | Prot::WRITE);
    assert_eq!(machine.run_to_syscall(&mut thread), 7);
    assert_eq!(space.word(DATA + 8), 7);
    space.protect(DATA, PAGE, Prot::empty());
    let fault = machine.run_to_fault(&mut thread);
    assert_eq!((fault.code, fault.addr), (2, DATA + 8));
    space.unmap(DATA, PAGE);
    let fault = machine.run_to_fault(&mut thread);
    assert_eq!((fault.code, fault.addr), (1, DATA + 8));
}

fn private_mappings_copy(platform: Arc<dyn Platform>) {
    let mut machine = Machine::new(platform);
    let space = machine.space(touch_loop());
    space.set_word(HOLE, 1);
    let op = HostOp::Map {
        addr: HOLE,
        len: PAGE,
        prot: Prot::READ | Prot::WRITE,
        file: space.file.clone(),
        offset: HOLE,
        private: true,
        populate: true,
    };
    space.space.queue(op, None);
    let mut thread = machine.thread(&space);
    thread.regs.rdi = HOLE;
    thread.regs.rsi = 9;
    assert_eq!(machine.run_to_syscall(&mut thread), 9);
    assert_eq!(space.word(HOLE), 1);
}

/// The error of a resume that the host refuses something for, told at once or as its trap.
fn refused(machine: &mut Machine, thread: &mut Thread) -> Error {
    if let Err(error) = thread.context.resume(&thread.regs) {
        return error;
    }
    let event = machine.worker.wait(Wait::Block).unwrap();
    assert_eq!(event, Event::Trap(thread.context.id()));
    let mut regs = thread.regs;
    let error = thread.context.trap(&mut regs).unwrap_err();
    assert_eq!((regs.rip, regs.rsp), (thread.regs.rip, thread.regs.rsp));
    error
}

fn refused_changes(platform: Arc<dyn Platform>) {
    let mut machine = Machine::new(platform);
    let space = machine.space(touch_loop());
    let mut thread = machine.thread(&space);
    thread.regs.rdi = DATA;
    thread.regs.rsi = 3;
    assert_eq!(machine.run_to_syscall(&mut thread), 3);
    // A file that may not be written cannot be mapped so.
    let read_only: std::os::fd::OwnedFd = std::fs::File::open("/proc/self/exe").unwrap().into();
    let op = HostOp::Map {
        addr: HOLE,
        len: PAGE,
        prot: Prot::READ | Prot::WRITE,
        file: Arc::new(read_only.as_fd().try_clone_to_owned().unwrap()),
        offset: 0,
        private: false,
        populate: false,
    };
    space.map(HOLE + 2 * PAGE, PAGE, Prot::READ | Prot::WRITE);
    space.space.queue(op.clone(), None);
    space.map(HOLE + PAGE, PAGE, Prot::READ | Prot::WRITE);
    let error = refused(&mut machine, &mut thread);
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    // Still at rest, with its registers; those before and after the refused one are in force.
    for page in [1, 2] {
        thread.regs.rdi = HOLE + page * PAGE;
        assert_eq!(machine.run_to_syscall(&mut thread), 3);
    }
    thread.regs.rdi = HOLE;
    assert_eq!(machine.run_to_fault(&mut thread).code, 1);
    // What was there before is gone too.
    space.map(HOLE, PAGE, Prot::READ | Prot::WRITE);
    assert_eq!(machine.run_to_syscall(&mut thread), 3);
    space.space.queue(op, None);
    let error = thread.context.flush().unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    assert_eq!(machine.run_to_fault(&mut thread).code, 1);
    // Outside the guest's range, down to the last byte.
    let (start, end) = machine.platform.user_range();
    for (addr, len) in [
        (0, PAGE),
        (start - PAGE, 2 * PAGE),
        (end, PAGE),
        (end - PAGE, 2 * PAGE),
    ] {
        space.unmap(addr, len);
        let error = thread.context.flush().unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{addr:x}: {error}");
    }
    space.map(end - PAGE, PAGE, Prot::READ | Prot::WRITE);
    space.map(start, PAGE, Prot::READ | Prot::WRITE);
    // The file is shorter than the address is high.
    space.map_from(end - PAGE, PAGE, Prot::READ | Prot::WRITE, 0);
    for addr in [start, end - PAGE] {
        thread.regs.rdi = addr;
        assert_eq!(machine.run_to_syscall(&mut thread), 3);
    }
}

/// A guest that maps more than the host takes is refused, and nothing else suffers.
fn too_many_mappings(platform: Arc<dyn Platform>) {
    let limit = std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap();
    let limit: u64 = limit.trim().parse().unwrap();
    if limit > 1_000_000 {
        println!("  !!! SKIPPED: vm.max_map_count is {limit}");
        return;
    }
    let mut machine = Machine::new(platform);
    let space = machine.space(touch_loop());
    let mut thread = machine.thread(&space);
    // Every other page of the file, so that no two are one.
    for n in 0..limit + 10 {
        space.map_from(HOLE + n * PAGE, PAGE, Prot::READ, (n % 7) * 2 * PAGE);
    }
    let error = refused(&mut machine, &mut thread);
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    // A change that splits a mapping cannot be made any more; it is not forgotten.
    let dropped = Arc::new(AtomicBool::new(false));
    let op = HostOp::Unmap {
        addr: DATA + PAGE,
        len: PAGE,
    };
    let mut attempts = 0;
    while thread.context.flush().is_err() {
        attempts += 1;
        assert!(attempts < 1000);
    }
    space.space.queue(op, Some(Arc::new(Flag(dropped.clone()))));
    for _ in 0..3 {
        let error = refused(&mut machine, &mut thread);
        assert!(matches!(error, Error::Refused { .. }), "{error}");
        assert!(!dropped.load(Ordering::SeqCst));
    }
    // Other guests go on, and the memory is free once this one is gone.
    let (_space, _thread, trap) = machine.once(call_twice());
    assert_eq!(trap, Trap::Syscall);
    drop(thread);
    await_flag(&dropped);
}

/// What an address space has retired is dropped soon after it is gone.
fn await_flag(dropped: &AtomicBool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !dropped.load(Ordering::SeqCst) {
        assert!(std::time::Instant::now() < deadline, "still kept");
        std::thread::yield_now();
    }
}

struct Flag(Arc<AtomicBool>);

impl Drop for Flag {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn retired_memory_outlives_its_mapping(platform: Arc<dyn Platform>) {
    let mut machine = Machine::new(platform);
    let space = machine.space(touch_loop());
    let mut thread = machine.thread(&space);
    thread.regs.rdi = DATA;
    machine.run_to_syscall(&mut thread);
    let dropped = Arc::new(AtomicBool::new(false));
    let op = HostOp::Unmap {
        addr: DATA,
        len: PAGE,
    };
    let flag = Arc::new(Flag(dropped.clone()));
    space.space.queue(op.clone(), Some(flag));
    assert!(!dropped.load(Ordering::SeqCst));
    thread.context.flush().unwrap();
    assert!(dropped.load(Ordering::SeqCst));
    // Also when the address space goes before the change was carried out.
    dropped.store(false, Ordering::SeqCst);
    space.space.queue(op, Some(Arc::new(Flag(dropped.clone()))));
    assert!(!dropped.load(Ordering::SeqCst));
    drop(thread);
    await_flag(&dropped);
}

fn flush_without_running(platform: Arc<dyn Platform>) {
    let mut machine = Machine::new(platform);
    let space = machine.space(touch_loop());
    let mut thread = machine.thread(&space);
    thread.context.flush().unwrap();
    thread.regs.rdi = DATA;
    thread.regs.rsi = 1;
    thread.context.resume(&thread.regs).unwrap();
    assert_eq!(
        machine.worker.wait(Wait::Block).unwrap(),
        Event::Trap(thread.context.id())
    );
    // The registers are not lost if changes are carried out before they were asked for.
    space.protect(DATA + PAGE, PAGE, Prot::READ);
    thread.context.flush().unwrap();
    let trap = thread.context.trap(&mut thread.regs).unwrap();
    assert_eq!(trap, Trap::Syscall);
    assert_eq!((thread.regs.rdi, thread.regs.orig_rax), (DATA, 1));
    assert_eq!(machine.run_to_syscall(&mut thread), 1);
}
