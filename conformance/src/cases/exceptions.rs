//! sigaction(2), syscall(2), vsyscall: what the processor raises, as handlers see it, and what of the
//! registers a system call looks at.
//!
//! `unsafe`: instructions that fault on purpose. Each has the address of what follows it in r15, where
//! the handler goes on.

#![cfg(target_arch = "x86_64")]

use std::arch::asm;
use std::ptr::null_mut;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::case::*;

/// What a handler saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    signal: c_int,
    code: c_int,
    trapno: i64,
    err: i64,
    cr2: i64,
}

static SEEN: Mutex<Option<Seen>> = Mutex::new(None);

fn note(signal: c_int, info: *mut siginfo_t, context: *mut c_void) -> &'static mut [greg_t; 23] {
    // SAFETY: as the kernel made them for this handler.
    let (code, context) = unsafe { ((*info).si_code, &mut *context.cast::<ucontext_t>()) };
    let regs = &mut context.uc_mcontext.gregs;
    if let Ok(mut seen) = SEEN.lock() {
        *seen = Some(Seen {
            signal,
            code,
            trapno: regs[REG_TRAPNO as usize],
            err: regs[REG_ERR as usize],
            cr2: regs[REG_CR2 as usize],
        });
    }
    regs
}

extern "C" fn go_on(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    let regs = note(signal, info, context);
    regs[REG_RIP as usize] = regs[REG_R15 as usize];
    // Single steps end here.
    regs[REG_EFL as usize] &= !0x100;
}

/// A page that [`repair`] makes a writable one.
static BROKEN: AtomicUsize = AtomicUsize::new(0);

extern "C" fn repair(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    note(signal, info, context);
    let page = BROKEN.load(Ordering::Relaxed) as *mut c_void;
    // SAFETY: a page of this program's that nothing else uses.
    unsafe { mprotect(page, 4096, PROT_READ | PROT_WRITE) };
}

extern "C" fn look_on(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    note(signal, info, context);
}

type Handler = extern "C" fn(c_int, *mut siginfo_t, *mut c_void);

fn handle(signals: &[c_int], handler: Handler) -> Outcome {
    for &signal in signals {
        let mut action = zeroed::<sigaction>();
        action.sa_sigaction = handler as usize;
        action.sa_flags = SA_SIGINFO;
        ok!(sigaction(signal, &action, null_mut()));
    }
    Ok(())
}

fn seen() -> Outcome<Seen> {
    match SEEN.lock().map(|mut seen| seen.take()) {
        Ok(Some(seen)) => Ok(seen),
        _ => fail!("no handler ran"),
    }
}

/// Runs one faulting instruction, with an address for it in rdi.
macro_rules! raised {
    ($address:expr, $($line:literal),+) => {{
        // SAFETY: the handler goes on behind it.
        unsafe {
            asm!(
                "lea r15, [rip + 2f]",
                $($line,)+
                "2:",
                inout("rdi") $address as usize => _,
                out("rax") _, out("rcx") _, out("rdx") _, out("r11") _, out("r15") _,
            )
        };
        seen()?
    }};
}

/// The page of calls of old, or a skip.
fn vsyscall_page() -> Outcome<usize> {
    let maps = slurp("/proc/self/maps")?;
    match maps.lines().find(|line| line.ends_with("[vsyscall]")) {
        Some(line) if line.contains(" --xp ") => Ok(0xffff_ffff_ff60_0000),
        other => skip!("such calls are not emulated: {other:?}"),
    }
}

/// Calls a function of that page with two arguments.
fn call_at(function: usize, first: usize, second: usize) -> i64 {
    let value;
    // SAFETY: the page's functions follow the calling convention.
    unsafe {
        asm!("call rax", inout("rax") function => value, in("rdi") first, in("rsi") second,
            out("rcx") _, out("rdx") _, out("r11") _, clobber_abi("C"))
    };
    value
}

pub static CASES: &[Case] = &[
    Case::new(
        "exception.page_fault",
        "sigaction(2)",
        "a handler's context tells a page fault's address, and write from read from fetch",
        || {
            handle(&[SIGSEGV, SIGBUS], go_on)?;
            const WHAT: i64 = 1 << 1 | 1 << 2 | 1 << 4;
            let at = map_anon(page_size())?;
            let told = |seen: Seen| (seen.signal, seen.trapno, seen.err & WHAT, seen.cr2);
            let read = raised!(16, "mov al, [rdi]");
            eq("a read of nothing", told(read), (SIGSEGV, 14, 4, 16))?;
            let write = raised!(24, "mov [rdi], al");
            eq("a write to nothing", told(write), (SIGSEGV, 14, 6, 24))?;
            poke(at, 0xc3);
            let here = at as i64;
            let fetch = raised!(at, "jmp rdi");
            eq("a fetch of data", told(fetch), (SIGSEGV, 14, 0x14, here))?;
            ok!(mprotect(at.cast(), page_size(), PROT_READ));
            let write = raised!(at, "mov [rdi], al");
            eq("a write refused", told(write), (SIGSEGV, 14, 6, here))?;
            ok!(mprotect(at.cast(), page_size(), PROT_NONE));
            let read = raised!(at, "mov al, [rdi]");
            eq("a read refused", told(read), (SIGSEGV, 14, 4, here))?;
            let kernel = 0xffff_8000_0000_0000usize;
            let read = raised!(kernel, "mov al, [rdi]");
            eq("the kernel's", (read.code, read.err), (1, 5))?;
            let file = ok!(memfd_create(p(c"short"), 0));
            let flags = MAP_SHARED;
            let rw = PROT_READ | PROT_WRITE;
            let short = ok!(mmap(null_mut(), page_size(), rw, flags, file, 0));
            let write = raised!(short, "mov [rdi], al");
            let beyond = (SIGBUS, 14, 6, short as i64);
            eq("a write beyond a file", told(write), beyond)
        },
    ),
    Case::new(
        "exception.others",
        "sigaction(2)",
        "a handler's context tells the vector of other exceptions",
        || {
            handle(&[SIGSEGV, SIGFPE, SIGILL, SIGTRAP], go_on)?;
            let told = |seen: Seen| (seen.signal, seen.trapno, seen.err);
            let at = raised!(0, "xor ecx, ecx", "mov eax, 1", "cdq", "idiv ecx");
            eq("division", told(at), (SIGFPE, 0, 0))?;
            let at = raised!(0, "ud2");
            eq("undefined", told(at), (SIGILL, 6, 0))?;
            let at = raised!(0, "int3");
            eq("breakpoint", told(at), (SIGTRAP, 3, 0))?;
            let at = raised!(0, "hlt");
            eq("privileged", told(at), (SIGSEGV, 13, 0))?;
            let at = raised!(0, "pushfq", "or dword ptr [rsp], 0x100", "popfq", "nop");
            eq("single step", told(at), (SIGTRAP, 1, 0))?;
            let at = raised!(
                0,
                "push 0",
                "fldcw [rsp]",
                "pop rax",
                "fld1",
                "fldz",
                "fdivp",
                "fwait"
            );
            // SAFETY: leaves the unit as the calling convention wants it.
            unsafe { asm!("fninit") };
            eq("x87", told(at), (SIGFPE, 16, 0))?;
            let at = raised!(
                0,
                "push 0",
                "ldmxcsr [rsp]",
                "pop rax",
                "mov eax, 0x3f800000",
                "movd xmm0, eax",
                "xorps xmm1, xmm1",
                "divss xmm0, xmm1"
            );
            // SAFETY: the value a program starts with.
            unsafe { asm!("push 0x1f80", "ldmxcsr [rsp]", "pop rax", out("rax") _) };
            eq("SSE", told(at), (SIGFPE, 19, 0))
        },
    ),
    Case::new(
        "exception.stays",
        "sigaction(2)",
        "the last exception is told with later signals, too",
        || {
            handle(&[SIGSEGV], go_on)?;
            handle(&[SIGUSR1], look_on)?;
            let write = raised!(40, "mov [rdi], al");
            ok!(raise(SIGUSR1));
            let later = seen()?;
            let told = |seen: Seen| (seen.trapno, seen.err & 2, seen.cr2);
            eq("with SIGUSR1", told(later), told(write))?;
            // One without an address leaves that of the last page fault.
            let protected = raised!(0, "hlt");
            eq("address", (protected.trapno, protected.cr2), (13, 40))
        },
    ),
    Case::new(
        "exception.icebp",
        "sigaction(2)",
        "int1 is a breakpoint, not a single step",
        || {
            handle(&[SIGTRAP], go_on)?;
            let at = raised!(0, ".byte 0xf1");
            eq("code, vector", (at.code, at.trapno), (TRAP_BRKPT, 1))
        },
    ),
    Case::new(
        "syscall.half_a_register",
        "syscall(2)",
        "the lower half of rax is the call's number",
        || {
            let call = |number: i64| {
                let value: i64;
                // SAFETY: takes no arguments.
                unsafe {
                    asm!("syscall", inout("rax") number => value, out("rcx") _, out("r11") _)
                };
                value
            };
            let pid = i64::from(getpid_now());
            eq("with one above", call(1 << 32 | SYS_getpid), pid)?;
            eq("with all set above", call(-1 << 32 | SYS_getpid), pid)?;
            let none = -i64::from(ENOSYS);
            eq("another number", call(1 << 16 | SYS_getpid), none)?;
            eq("no number", call(-1), none)?;
            eq("no number below", call(0xffff_ffff), none)
        },
    ),
    Case::new(
        "vsyscall.calls",
        "vdso(7)",
        "the functions at fixed addresses tell time and core",
        || {
            let page = vsyscall_page()?;
            let before = ok!(time(null_mut()));
            let mut told: time_t = 0;
            let value = call_at(page + 0x400, (&raw mut told) as usize, 0);
            let mut of_day = zeroed::<timeval>();
            let same = call_at(page, (&raw mut of_day) as usize, 0);
            let after = ok!(time(null_mut()));
            let between = before..=after;
            ensure!(between.contains(&value), "time: {value}, {between:?}");
            eq("what is stored", told, value)?;
            eq("gettimeofday", same, 0)?;
            ensure!(between.contains(&of_day.tv_sec), "{}", of_day.tv_sec);
            eq("nothing to fill in", call_at(page, 0, 0), 0)?;
            let mut core = u32::MAX;
            eq(
                "getcpu",
                call_at(page + 0x800, (&raw mut core) as usize, 0),
                0,
            )?;
            let cores = ok!(sysconf(_SC_NPROCESSORS_CONF));
            ensure!(i64::from(core) < cores, "core {core} of {cores}");
            Ok(())
        },
    ),
    Case::new(
        "vsyscall.again",
        "vdso(7)",
        "a call whose argument is a bad address is a fault, and is made again after it",
        || {
            let page = vsyscall_page()?;
            handle(&[SIGSEGV], repair)?;
            let at = map_anon(4096)?;
            ok!(mprotect(at.cast(), 4096, PROT_NONE));
            BROKEN.store(at as usize, Ordering::Relaxed);
            let value = call_at(page + 0x400, at as usize, 0);
            eq("signal", seen()?.signal, SIGSEGV)?;
            // SAFETY: mapped above, and written to by the call.
            eq("what is stored", unsafe { *at.cast::<time_t>() }, value)
        },
    ),
    Case::new(
        "vsyscall.errors",
        "vdso(7)",
        "nothing else is there, and nothing can be read",
        || {
            let page = vsyscall_page()?;
            handle(&[SIGSEGV], go_on)?;
            let told = |seen: Seen| (seen.signal, seen.code);
            let odd = raised!(page + 8, "jmp rdi");
            eq("between functions", told(odd), (SIGSEGV, SI_KERNEL))?;
            let fourth = raised!(page + 0xc00, "jmp rdi");
            eq("behind them", told(fourth), (SIGSEGV, SI_KERNEL))?;
            let read = raised!(page, "mov al, [rdi]");
            eq("a read", told(read), (SIGSEGV, 1))?;
            let pid = child(|| call_at(page + 0x400, 8, 0) as i32)?;
            expect_signal(pid, SIGSEGV)
        },
    ),
];
