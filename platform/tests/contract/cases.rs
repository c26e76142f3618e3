//! One thread at a time: system calls, faults, mappings, registers, FP state.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use runsc_platform::arch::{FpState, Registers};
use runsc_platform::*;

use crate::Case;
use crate::guest::*;

pub const CASES: &[Case] = &[
    ("syscall_registers", syscall_registers),
    (
        "syscall_of_every_number_traps",
        syscall_of_every_number_traps,
    ),
    ("memory_faults", memory_faults),
    ("exceptions", exceptions),
    ("single_step", single_step),
    ("int_80_is_a_fault", int_80_is_a_fault),
    ("vsyscall_page_is_a_fault", vsyscall_page_is_a_fault),
    ("stub_code_is_harmless", stub_code_is_harmless),
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
    ("fp_state_is_kept", fp_state_is_kept),
    ("fp_state_get_and_set", fp_state_get_and_set),
    ("fp_state_hostile", fp_state_hostile),
    ("segment_bases", segment_bases),
    ("hostile_registers", hostile_registers),
    (
        "restart_codes_are_plain_values",
        restart_codes_are_plain_values,
    ),
    ("vdso_can_be_called", vdso_can_be_called),
    ("address_space_is_empty", address_space_is_empty),
    ("new_space_after_old", new_space_after_old),
];

program!(
    call_twice,
    "mov eax, 0x1234",
    "syscall",
    "mov rbx, rax",
    "mov eax, 39",
    "syscall",
    "ud2"
);

fn syscall_registers(platform: Arc<dyn Platform>) {
    let mut machine = Machine::new(platform);
    let space = machine.space(call_twice());
    let mut thread = machine.thread(&space);
    thread.regs = Registers {
        rdi: 1,
        rsi: 2,
        rdx: 3,
        r10: 4,
        r8: 5,
        r9: 6,
        r12: 0x1212_1212_1212_1212,
        r15: u64::MAX,
        ..thread.regs
    };
    assert_eq!(machine.run_to_syscall(&mut thread), 0x1234);
    let regs = thread.regs;
    assert_eq!(regs.syscall_args(), [1, 2, 3, 4, 5, 6]);
    assert_eq!((regs.r12, regs.r15), (0x1212_1212_1212_1212, u64::MAX));
    assert_eq!(regs.rax as i64, -i64::from(libc::ENOSYS));
    assert_eq!(regs.rip, CODE + 7);
    assert_eq!(regs.rcx, regs.rip);
    // Only the result changes.
    thread.regs.set_return(0xabcd_ef01_2345);
    assert_eq!(machine.run_to_syscall(&mut thread), 39);
    assert_eq!(thread.regs.rbx, 0xabcd_ef01_2345);
    assert_eq!(thread.regs.rdi, 1);
    // Everything changes: it starts again elsewhere.
    thread.regs = Registers::start(CODE + 7, 0x77);
    thread.regs.rax = 0x55;
    assert_eq!(machine.run_to_syscall(&mut thread), 39);
    assert_eq!(
        (thread.regs.rbx, thread.regs.rsp, thread.regs.rdi),
        (0x55, 0x77, 0)
    );
}

program!(call_rbx, "2: mov rax, rbx", "syscall", "jmp 2b");

fn syscall_of_every_number_traps(platform: Arc<dyn Platform>) {
    let mut machine = Machine::new(platform);
    let space = machine.space(call_rbx());
    let mut thread = machine.thread(&space);
    let numbers = (0..600).chain([u64::MAX, 1 << 40, 0x4000_0000, 1 << 31, 0xffff_ffff]);
    for number in numbers {
        thread.regs.rbx = number;
        assert_eq!(machine.run_to_syscall(&mut thread), number);
        assert_eq!(thread.regs.rax as i64, -38);
    }
}

program!(read_rdi, "mov al, [rdi]", "ud2");
program!(write_rdi, "mov [rdi], al", "ud2");
program!(jump_rdi, "jmp rdi");

fn memory_faults(platform: Arc<dyn Platform>) {
    const MAPERR: i32 = 1;
    const ACCERR: i32 = 2;
    let mut machine = Machine::new(platform);
    let beyond = 0x3000_0000;
    let cases = [
        (read_rdi(), HOLE + 5, libc::SIGSEGV, MAPERR),
        (read_rdi(), 0, libc::SIGSEGV, MAPERR),
        (write_rdi(), HOLE + 5, libc::SIGSEGV, MAPERR),
        (write_rdi(), CODE + 64, libc::SIGSEGV, ACCERR),
        (jump_rdi(), HOLE + 5, libc::SIGSEGV, MAPERR),
        (jump_rdi(), DATA + 5, libc::SIGSEGV, ACCERR),
        (read_rdi(), beyond, libc::SIGBUS, libc::BUS_ADRERR),
    ];
    for (code, addr, signal, si_code) in cases {
        let space = machine.space(code);
        // Mapped, but beyond the end of the file.
        space.map_from(beyond, PAGE, Prot::READ, 1 << 30);
        let mut thread = machine.thread(&space);
        thread.regs.rdi = addr;
        thread.regs.rax = 0x99;
        let fault = machine.run_to_fault(&mut thread);
        assert_eq!(
            (fault.signal, fault.code, fault.addr),
            (signal, si_code, addr)
        );
        if code == jump_rdi() && si_code == MAPERR {
            assert_eq!(fault.access, Some(Access::Execute));
        }
        if code == write_rdi() {
            assert!(fault.access.is_none_or(|access| access == Access::Write));
        }
        let expected = if code == jump_rdi() { addr } else { CODE };
        assert_eq!(thread.regs.rip, expected);
        assert_eq!(thread.regs.rax, 0x99);
        assert_eq!(thread.regs.orig_rax, u64::MAX);
        // Mapping the page and going on makes the access succeed.
        if addr == HOLE + 5 && code != jump_rdi() {
            space.map(HOLE, PAGE, Prot::READ | Prot::WRITE);
            space.memory.write(HOLE as usize + 5, &[0x42]).unwrap();
            let fault = machine.run_to_fault(&mut thread);
            assert_eq!(fault.signal, libc::SIGILL);
            let byte = space.memory.load_u8(HOLE as usize + 5).unwrap();
            assert_eq!(byte, if code == write_rdi() { 0x99 } else { 0x42 });
        }
    }
}

program!(
    divide_by_zero,
    "xor ecx, ecx",
    "mov eax, 1",
    "cdq",
    "idiv ecx"
);
program!(undefined, "ud2");
program!(breakpoint, "int3", "ud2");
program!(halt, "hlt");
program!(wild_read, "mov rax, 0x8000000000000000", "mov al, [rax]");
program!(overflow_gate, "int 0x10");

fn exceptions(platform: Arc<dyn Platform>) {
    const SI_KERNEL: i32 = 0x80;
    let mut machine = Machine::new(platform);
    let cases = [
        (divide_by_zero(), libc::SIGFPE, 1, CODE + 8),
        (undefined(), libc::SIGILL, 2, CODE),
        (breakpoint(), libc::SIGTRAP, SI_KERNEL, CODE + 1),
        (halt(), libc::SIGSEGV, SI_KERNEL, CODE),
        (wild_read(), libc::SIGSEGV, SI_KERNEL, CODE + 10),
        (overflow_gate(), libc::SIGSEGV, SI_KERNEL, CODE),
    ];
    for (code, signal, si_code, rip) in cases {
        let (_space, thread, trap) = machine.once(code);
        let Trap::Fault(fault) = trap else {
            panic!("{trap:?} for {code:x?}");
        };
        assert_eq!((fault.signal, fault.code), (signal, si_code), "{code:x?}");
        assert_eq!(thread.regs.rip, rip, "{code:x?}");
    }
}

program!(
    set_trap_flag,
    "pushfq",
    "or dword ptr [rsp], 0x100",
    "popfq",
    "nop",
    "ud2"
);

fn single_step(platform: Arc<dyn Platform>) {
    let mut machine = Machine::new(platform);
    let (_space, mut thread, trap) = machine.once(set_trap_flag());
    let Trap::Fault(fault) = trap else {
        panic!("{trap:?}");
    };
    assert_eq!((fault.signal, fault.code), (libc::SIGTRAP, 2));
    // Cleared by the Sentry, it stays off.
    thread.regs.eflags &= !0x100;
    assert_eq!(machine.run_to_fault(&mut thread).signal, libc::SIGILL);
    // Set by the Sentry, it works.
    thread.regs.rip = CODE;
    thread.regs.eflags |= 0x100;
    assert_eq!(machine.run_to_fault(&mut thread).signal, libc::SIGTRAP);
    assert_eq!(thread.regs.rip, CODE + 1);
}

program!(int_80, "mov eax, 20", "mov ecx, 7", "int 0x80", "ud2");

fn int_80_is_a_fault(platform: Arc<dyn Platform>) {
    let mut machine = Machine::new(platform);
    let (_space, thread, trap) = machine.once(int_80());
    let Trap::Fault(fault) = trap else {
        panic!("{trap:?}");
    };
    assert_eq!(fault.signal, libc::SIGSEGV);
    assert_eq!(thread.regs.rip, CODE + 10);
    assert_eq!((thread.regs.rax, thread.regs.rcx), (20, 7));
}

program!(call_rdi, "call rdi", "mov eax, 500", "syscall");

fn vsyscall_page_is_a_fault(platform: Arc<dyn Platform>) {
    let mut machine = Machine::new(platform);
    for page_offset in [0, 0x400, 0x800] {
        let addr = 0xffff_ffff_ff60_0000 + page_offset;
        let space = machine.space(call_rdi());
        let mut thread = machine.thread(&space);
        thread.regs.rdi = addr;
        let fault = machine.run_to_fault(&mut thread);
        assert_eq!((fault.signal, fault.addr), (libc::SIGSEGV, addr));
        // As if the call had got there and no further: the Sentry may carry it out.
        assert_eq!(thread.regs.rip, addr);
        let back = thread.regs.rsp;
        assert_eq!(space.word(back), CODE + 2);
        thread.regs.rip = space.word(back);
        thread.regs.rsp += 8;
        thread.regs.rax = 77;
        assert_eq!(machine.run_to_syscall(&mut thread), 500);
    }
}

/// Jumping into the platform's own code, wherever that is, does nothing a guest could not do.
fn stub_code_is_harmless(platform: Arc<dyn Platform>) {
    let (_, end) = platform.user_range();
    let vdso = platform.vdso();
    let mut machine = Machine::new(platform);
    let space = machine.space(call_rdi());
    let mut thread = machine.thread(&space);
    for offset in 0..2 * PAGE {
        let addr = end + offset;
        if vdso.is_some_and(|vdso| addr >= vdso.start && addr < vdso.end) {
            continue;
        }
        thread.regs = Registers::start(CODE, STACK_TOP - 64);
        thread.regs.rdi = addr;
        // Were it carried out: exit_group.
        thread.regs.rax = libc::SYS_exit_group as u64;
        thread.regs.rbx = DATA;
        thread.regs.r12 = 1;
        let trap = machine.run(&mut thread);
        assert!(matches!(trap, Trap::Fault(_) | Trap::Syscall), "{trap:?}");
    }
    // And it cannot be written.
    let space = machine.space(write_rdi());
    let mut thread = machine.thread(&space);
    for page in 0..2 {
        thread.regs = Registers::start(CODE, STACK_TOP - 64);
        thread.regs.rdi = end + page * PAGE;
        let fault = machine.run_to_fault(&mut thread);
        assert_eq!(fault.signal, libc::SIGSEGV);
    }
}

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
    let error = thread.context.resume(&thread.regs).unwrap_err();
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
    let error = thread.context.resume(&thread.regs).unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    // A change that splits a mapping cannot be made any more; it is not forgotten.
    let dropped = Arc::new(AtomicBool::new(false));
    let op = HostOp::Unmap {
        addr: DATA + PAGE,
        len: PAGE,
    };
    let mut refused = 0;
    while thread.context.flush().is_err() {
        refused += 1;
        assert!(refused < 1000);
    }
    space.space.queue(op, Some(Arc::new(Flag(dropped.clone()))));
    for _ in 0..3 {
        let error = thread.context.resume(&thread.regs).unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{error}");
        assert!(!dropped.load(Ordering::SeqCst));
    }
    // Other guests go on, and the memory is free once this one is gone.
    let (_space, _thread, trap) = machine.once(call_twice());
    assert_eq!(trap, Trap::Syscall);
    drop(thread);
    assert!(dropped.load(Ordering::SeqCst));
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
    assert!(dropped.load(Ordering::SeqCst));
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

program!(
    fill_vectors,
    "vmovdqu ymm0, [rdi]",
    "vmovdqu ymm15, [rdi+32]",
    "fld1",
    "mov eax, 1",
    "syscall",
    "vmovdqu [rdi+64], ymm0",
    "vmovdqu [rdi+96], ymm15",
    "fstp qword ptr [rdi+128]",
    "mov eax, 2",
    "syscall",
);

fn fp_state_is_kept(platform: Arc<dyn Platform>) {
    let mut machine = Machine::new(platform);
    let data: Vec<u8> = (0..64).collect();
    // Two guests in turn, with different contents.
    let mut guests = Vec::new();
    for add in [1u8, 100] {
        let space = machine.space(fill_vectors());
        let data: Vec<u8> = data.iter().map(|byte| byte + add).collect();
        space.memory.write(DATA as usize, &data).unwrap();
        let mut thread = machine.thread(&space);
        thread.regs.rdi = DATA;
        assert_eq!(machine.run_to_syscall(&mut thread), 1);
        guests.push((space, thread, data));
    }
    for (space, thread, data) in &mut guests {
        // Changes of mappings run other code on the thread.
        space.map(HOLE, PAGE, Prot::READ);
        assert_eq!(machine.run_to_syscall(thread), 2);
        let mut back = vec![0; 64];
        space.memory.read(DATA as usize + 64, &mut back).unwrap();
        assert_eq!(&back, data);
        assert_eq!(space.word(DATA + 128), 1f64.to_bits());
    }
}

fn fp_state_get_and_set(platform: Arc<dyn Platform>) {
    let mut machine = Machine::new(platform);
    let space = machine.space(fill_vectors());
    space.memory.write(DATA as usize, &[0x5a; 64]).unwrap();
    let mut thread = machine.thread(&space);
    thread.regs.rdi = DATA;
    machine.run_to_syscall(&mut thread);
    let state = thread.context.fp_state().unwrap();
    // XMM0 in the legacy area.
    assert_eq!(state.as_bytes()[160..176], [0x5a; 16]);
    // Moved to another thread, it arrives.
    let mut other = machine.thread(&space);
    other.context.set_fp_state(&state).unwrap();
    other.regs = thread.regs;
    machine.run_to_syscall(&mut other);
    let mut back = vec![0; 64];
    space.memory.read(DATA as usize + 64, &mut back).unwrap();
    assert_eq!(back, [0x5a; 64]);
    // The initial state clears all of it.
    thread.context.set_fp_state(&FpState::initial()).unwrap();
    thread.context.flush().unwrap();
    machine.run_to_syscall(&mut thread);
    space.memory.read(DATA as usize + 64, &mut back).unwrap();
    assert_eq!(back, [0; 64]);
    // A new thread starts with it, whatever others had.
    let mut fresh = machine.thread(&space);
    let state = fresh.context.fp_state().unwrap();
    assert_eq!(state.as_bytes()[160..416], [0; 256]);
    assert_eq!(state.as_bytes()[..2], 0x37fu16.to_le_bytes());
    assert_eq!(state.as_bytes()[24..28], 0x1f80u32.to_le_bytes());
}

fn fp_state_hostile(platform: Arc<dyn Platform>) {
    let mut machine = Machine::new(platform);
    let space = machine.space(fill_vectors());
    let mut thread = machine.thread(&space);
    thread.regs.rdi = DATA;
    for len in [
        0, 1, 27, 511, 512, 520, 575, 576, 600, 832, 1000, 2696, 5000, 100_000,
    ] {
        for byte in [0, 0x80, 0xff] {
            let state = FpState::from_bytes(vec![byte; len]);
            thread.context.set_fp_state(&state).unwrap();
            // All exceptions masked again, or the guest traps on its first x87 instruction.
            let mut clean = FpState::initial().as_bytes().to_vec();
            clean.resize(len.max(576), 0);
            thread
                .context
                .set_fp_state(&FpState::from_bytes(clean))
                .unwrap();
            thread.regs.rip = CODE;
            assert_eq!(machine.run_to_syscall(&mut thread), 1);
        }
    }
}

program!(
    read_segments,
    "mov rax, fs:[0]",
    "mov rbx, gs:[8]",
    "syscall",
    "rdfsbase rax",
    "syscall",
);

fn segment_bases(platform: Arc<dyn Platform>) {
    let mut machine = Machine::new(platform);
    let space = machine.space(read_segments());
    space.set_word(DATA + 0x100, 111);
    space.set_word(DATA + 0x208, 222);
    let mut thread = machine.thread(&space);
    thread.regs.set_tls(DATA + 0x100);
    thread.regs.gs_base = DATA + 0x200;
    assert_eq!(machine.run_to_syscall(&mut thread), 111);
    assert_eq!(thread.regs.rbx, 222);
    assert_eq!(thread.regs.fs_base, DATA + 0x100);
    assert_eq!(thread.regs.gs_base, DATA + 0x200);
    space.map(HOLE, PAGE, Prot::READ);
    assert_eq!(machine.run_to_syscall(&mut thread), DATA + 0x100);
}

fn hostile_registers(platform: Arc<dyn Platform>) {
    let mut machine = Machine::new(platform);
    let space = machine.space(call_rbx());
    let mut thread = machine.thread(&space);
    let good = thread.regs;
    let wild = [
        1 << 47,
        (1 << 47) - 4096,
        1 << 63,
        u64::MAX,
        0x8000_0000_0000_0000 - 1,
    ];
    type Field = fn(&mut Registers) -> &mut u64;
    let fields: [Field; 3] = [|r| &mut r.rip, |r| &mut r.fs_base, |r| &mut r.gs_base];
    for field in fields {
        for value in wild {
            thread.regs = good;
            *field(&mut thread.regs) = value;
            let fault = machine.run_to_fault(&mut thread);
            assert_eq!(fault.signal, libc::SIGSEGV);
            // Reported with the values that were asked for.
            assert_eq!(*field(&mut thread.regs), value);
        }
    }
    for value in wild {
        thread.regs = good;
        thread.regs.rsp = value;
        thread.regs.rbx = 5;
        assert_eq!(machine.run_to_syscall(&mut thread), 5);
        assert_eq!(thread.regs.rsp, value);
    }
    for value in [0, 3, 0x10, 0x18, 0x23, 0x2b, 0x33, 0x63, 0xffff, u64::MAX] {
        thread.regs = Registers {
            cs: value,
            ss: value,
            ds: value,
            es: value,
            fs: value,
            gs: value,
            orig_rax: value,
            rbx: 6,
            // Everything but the trap flag.
            eflags: !0x100,
            ..good
        };
        assert_eq!(machine.run_to_syscall(&mut thread), 6);
        assert_eq!((thread.regs.cs, thread.regs.ss), (0x33, 0x2b));
        // Neither I/O privilege nor interrupts off.
        assert_eq!(thread.regs.eflags & 0x3200, 0x200);
    }
}

/// -512 and its like make the host restart a system call, if anything makes it look.
fn restart_codes_are_plain_values(platform: Arc<dyn Platform>) {
    let mut machine = Machine::new(platform);
    for code in 512..=516 {
        let space = machine.space(call_twice());
        let mut thread = machine.thread(&space);
        machine.run_to_syscall(&mut thread);
        thread.regs.set_return((-code as i64) as u64);
        thread.context.kicker().kick();
        let mut trap = machine.run(&mut thread);
        if trap == Trap::Interrupted {
            trap = machine.run(&mut thread);
        }
        assert_eq!(trap, Trap::Syscall);
        assert_eq!(thread.regs.orig_rax, 39, "{code}");
        assert_eq!(thread.regs.rbx as i64, -code as i64);
    }
}

program!(
    call_clock,
    // clock_gettime(CLOCK_MONOTONIC, rsi), at rbx
    "mov edi, 1",
    "call rbx",
    "mov edi, eax",
    "mov eax, 600",
    "syscall",
);

fn vdso_can_be_called(platform: Arc<dyn Platform>) {
    let Some(vdso) = platform.vdso() else {
        println!("  !!! SKIPPED: the platform brings no vDSO");
        return;
    };
    let image = runsc_platform::host::vdso_bytes().unwrap();
    let symbol = dynamic_symbol(&image, "__vdso_clock_gettime").unwrap();
    let mut machine = Machine::new(platform);
    let space = machine.space(call_clock());
    let mut thread = machine.thread(&space);
    thread.regs.rbx = vdso.image + symbol;
    thread.regs.rsi = DATA;
    assert_eq!(machine.run_to_syscall(&mut thread), 600);
    assert_eq!(thread.regs.rdi, 0);
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    let then = space.word(DATA) as i64;
    assert!((now.tv_sec - then).abs() <= 5, "{then} {}", now.tv_sec);
    // The image is the one the Sentry sees.
    let (start, _) = machine.platform.user_range();
    assert!(vdso.start > start && vdso.image >= vdso.start && vdso.image < vdso.end);
}

/// Value of a symbol of a vDSO, by walking its dynamic section.
fn dynamic_symbol(image: &[u8], name: &str) -> Option<u64> {
    let word = |at: usize| u64::from_le_bytes(image[at..at + 8].try_into().unwrap());
    let half = |at: usize| u16::from_le_bytes(image[at..at + 2].try_into().unwrap());
    let (headers, count) = (word(32) as usize, half(56) as usize);
    let dynamic = (0..count)
        .map(|n| headers + n * 56)
        .find(|&at| image[at..at + 4] == 2u32.to_le_bytes())?;
    let (mut strings, mut symbols) = (0, 0);
    let mut at = word(dynamic + 8) as usize;
    while word(at) != 0 {
        match word(at) {
            5 => strings = word(at + 8) as usize,
            6 => symbols = word(at + 8) as usize,
            _ => {}
        }
        at += 16;
    }
    (1..64).map(|n| symbols + n * 24).find_map(|symbol| {
        let start = strings + half(symbol) as usize;
        let end = start + name.len();
        let found = image.get(start..end) == Some(name.as_bytes()) && image[end] == 0;
        found.then(|| word(symbol + 8))
    })
}

/// Nothing of the Sentry is in there.
fn address_space_is_empty(platform: Arc<dyn Platform>) {
    let local = 0x1234_5678u64;
    let here = &raw const local as u64;
    let text = address_space_is_empty as *const () as u64;
    let heap = Box::new(1u64);
    let mut machine = Machine::new(platform);
    for addr in [here, text, &raw const *heap as u64] {
        let space = machine.space(read_rdi());
        let mut thread = machine.thread(&space);
        thread.regs.rdi = addr;
        let fault = machine.run_to_fault(&mut thread);
        assert_eq!(
            (fault.signal, fault.code, fault.addr),
            (libc::SIGSEGV, 1, addr)
        );
    }
}

/// Address spaces come and go; nothing of one is found in the next.
fn new_space_after_old(platform: Arc<dyn Platform>) {
    let mut machine = Machine::new(platform);
    for round in 0..50 {
        let (space, mut thread, trap) = machine.once(fill_vectors());
        let Trap::Fault(fault) = trap else {
            panic!("{trap:?} in round {round}");
        };
        assert_eq!(fault.addr, 0);
        let state = thread.context.fp_state().unwrap();
        assert_eq!(state.as_bytes()[160..416], [0; 256], "round {round}");
        space.map(HOLE + round * PAGE, PAGE, Prot::READ | Prot::WRITE);
        space.memory.write(DATA as usize, &[0xaa; 64]).unwrap();
        thread.regs.rdi = DATA;
        machine.run_to_syscall(&mut thread);
        drop(thread);
        let Err(error) = machine.worker.new_context(&space.space) else {
            panic!("the address space is still there");
        };
        assert!(matches!(error, Error::Gone), "{error}");
        let space = machine.space(read_rdi());
        let mut thread = machine.thread(&space);
        thread.regs.rdi = HOLE + round * PAGE;
        assert_eq!(machine.run_to_fault(&mut thread).code, 1);
    }
}
