//! Why guest code stops: system calls and exceptions.

use std::sync::Arc;

use runsc_platform::arch::Registers;
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
        // The lower half, with its sign.
        let told = i64::from(number as i32) as u64;
        assert_eq!(machine.run_to_syscall(&mut thread), told);
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
    if platform.name() == "systrap" {
        // There it may end the process: see `attacks`.
        return;
    }
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
