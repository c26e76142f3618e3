//! What a guest thread and a guest address space hold: registers, FP state, the vDSO.

use std::sync::Arc;

use runsc_platform::arch::{FpState, Registers};
use runsc_platform::*;

use crate::Case;
use crate::guest::*;
use crate::traps::{call_rbx, call_twice, read_rdi};

pub const CASES: &[Case] = &[
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
    ("vdso_names_a_core", vdso_names_a_core),
    ("address_space_is_empty", address_space_is_empty),
    ("new_space_after_old", new_space_after_old),
];

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

program!(
    // getcpu(rdi, rsi, NULL), at rbx
    call_getcpu,
    "xor edx, edx",
    "call rbx",
    "mov edi, eax",
    "mov eax, 600",
    "syscall",
);

fn vdso_names_a_core(platform: Arc<dyn Platform>) {
    let Some(vdso) = platform.vdso() else {
        println!("  !!! SKIPPED: the platform brings no vDSO");
        return;
    };
    let image = runsc_platform::host::vdso_bytes().unwrap();
    let symbol = dynamic_symbol(&image, "__vdso_getcpu").unwrap();
    let cores = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_CONF) } as u64;
    let mut machine = Machine::new(platform);
    let space = machine.space(call_getcpu());
    space.set_word(DATA, u64::MAX);
    let mut thread = machine.thread(&space);
    thread.regs.rbx = vdso.image + symbol;
    (thread.regs.rdi, thread.regs.rsi) = (DATA, DATA + 4);
    assert_eq!(machine.run_to_syscall(&mut thread), 600);
    assert_eq!(thread.regs.rdi, 0);
    let core = space.word(DATA) & 0xffff_ffff;
    assert!(core < cores, "{core} of {cores}");
}

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
pub fn dynamic_symbol(image: &[u8], name: &str) -> Option<u64> {
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
