//! Stubs: the host processes that hold guest address spaces.
//!
//! ```text
//! 0 ......... user_end ........ lowest of:
//! | guest mappings |    | command page r-- | code page r-x |  vvar vdso |
//! ```
//!
//! A worker forks one *template* from its own thread, empties it except for those pages, puts the
//! seccomp filter on it and never runs guest code in it. All stubs are clones of the template, with
//! the worker as parent (CLONE_PARENT) and tracer (CLONE_PTRACE); they die with it
//! (PTRACE_O_EXITKILL). They share the Sentry's table of host fds so that a mapping can name one.

use std::io;
use std::os::fd::AsFd;

use parking_lot::Mutex;

use super::command::{self, Command};
use super::filter;
use super::sys;
use crate::arch::Registers;
use crate::common::TASK_SIZE;
use crate::common::xstate::XState;
use crate::host;
use crate::memory::{MemFd, Window};
use crate::{Error, Result, VdsoRange};

pub(super) use crate::common::PAGE;
/// vm.mmap_min_addr as distributions set it.
const USER_START: u64 = 0x1_0000;

/// clone(2) flags that make a stub out of the template.
pub(super) const CLONE_STUB: u64 =
    (libc::CLONE_FILES | libc::CLONE_PARENT | libc::CLONE_PTRACE) as u64;
/// clone(2) flags that make another thread in a stub.
pub(super) const CLONE_THREAD_FLAGS: u64 = (libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM
    | libc::CLONE_PTRACE) as u64;

/// Machine code of the stub. RBX points to an array of (number, six arguments) in the command page,
/// R12 counts them; entered at `syscall` the first call's registers are already loaded. Stops at
/// the last or the first failed call with its result in RAX.
const CODE: &[u8] = &[
    0xcc, // int3, where the template waits for its first orders
    // loop:
    0x48, 0x8b, 0x03, //       mov rax, [rbx]
    0x48, 0x8b, 0x7b, 0x08, // mov rdi, [rbx+8]
    0x48, 0x8b, 0x73, 0x10, // mov rsi, [rbx+16]
    0x48, 0x8b, 0x53, 0x18, // mov rdx, [rbx+24]
    0x4c, 0x8b, 0x53, 0x20, // mov r10, [rbx+32]
    0x4c, 0x8b, 0x43, 0x28, // mov r8, [rbx+40]
    0x4c, 0x8b, 0x4b, 0x30, // mov r9, [rbx+48]
    0x0f, 0x05, //             syscall
    0x48, 0x3d, 0x01, 0xf0, 0xff, 0xff, // cmp rax, -4095
    0x73, 0x09, //             jae done
    0x48, 0x83, 0xc3, 0x38, // add rbx, 56
    0x49, 0xff, 0xcc, //       dec r12
    0x75, 0xd2, //             jnz loop
    // done:
    0xcc, //                   int3
];
const LOOP: u64 = 1;
const SYSCALL: u64 = 28;
const SYSCALL_RETURN: u64 = 30;
const DONE_RETURN: u64 = 48;

/// Where the platform's own pages are in every stub. The same in the Sentry, which holds those
/// addresses so that nothing else takes them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub code: u64,
    pub command: u64,
    pub user_end: u64,
    pub vdso: Option<VdsoRange>,
}

impl Layout {
    pub const USER_START: u64 = USER_START;

    /// What seccomp sees as the instruction pointer of the stub's calls.
    pub fn syscall_return(&self) -> u64 {
        self.code + SYSCALL_RETURN
    }

    pub fn batch_entry(&self) -> u64 {
        self.code + LOOP
    }

    pub fn single_entry(&self) -> u64 {
        self.code + SYSCALL
    }

    /// Where the instruction pointer is after the final int3.
    pub fn done(&self) -> u64 {
        self.code + DONE_RETURN
    }

    fn template_entry(&self) -> u64 {
        self.code
    }

    /// The pages that a stub keeps, ascending: start and end.
    fn kept(&self) -> Vec<(u64, u64)> {
        let mut kept = vec![
            (self.code, self.code + PAGE),
            (self.command, self.command + PAGE),
        ];
        kept.extend(self.vdso.map(|vdso| (vdso.start, vdso.end)));
        kept.sort_unstable();
        kept
    }
}

/// The platform's own memory: the code page, and a memfd with one command page per stub.
pub(super) struct StubMemory {
    pub layout: Layout,
    pub commands: MemFd,
    pub window: Window,
    /// Slot 0 belongs to the templates, one at a time.
    slots: Mutex<Slots>,
    template: Mutex<()>,
}

struct Slots {
    used: u64,
    free: Vec<u64>,
}

/// Most stubs that can exist at once, one command page each (sparse).
const MAX_SLOTS: u64 = 1 << 15;

impl StubMemory {
    pub fn new() -> Result<StubMemory> {
        let host = |what| move |source| Error::Host { what, source };
        let commands = MemFd::create(c"runsc-commands").map_err(host("memfd_create"))?;
        commands
            .set_len(MAX_SLOTS * PAGE)
            .map_err(host("ftruncate"))?;
        let len = (MAX_SLOTS * PAGE) as usize;
        let window = Window::map(commands.as_fd(), 0, len, true).map_err(host("mmap"))?;
        let (code, command) = map_own_pages(&commands).map_err(host("mapping stub code"))?;
        let vdso = host::vdso_range();
        let mut user_end = code.min(command);
        if let Some(vdso) = vdso {
            user_end = user_end.min(vdso.start);
        }
        Ok(StubMemory {
            layout: Layout {
                code,
                command,
                user_end,
                vdso,
            },
            commands,
            window,
            slots: Mutex::new(Slots {
                used: 1,
                free: Vec::new(),
            }),
            template: Mutex::new(()),
        })
    }

    /// A command page nobody uses.
    pub fn take_slot(&self) -> Result<u64> {
        let mut slots = self.slots.lock();
        if let Some(slot) = slots.free.pop() {
            return Ok(slot);
        }
        if slots.used == MAX_SLOTS {
            return Err(Error::Refused {
                op: "one more address space".to_owned(),
                source: io::Error::from_raw_os_error(libc::EAGAIN),
            });
        }
        slots.used += 1;
        Ok(slots.used - 1)
    }

    pub fn free_slot(&self, slot: u64) {
        self.slots.lock().free.push(slot);
    }
}

/// Maps the code page and, below it, the command page of slot 0, at an address the host picks.
fn map_own_pages(commands: &MemFd) -> io::Result<(u64, u64)> {
    // SAFETY: an address of the kernel's choice replaces nothing.
    let base = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            2 * PAGE as usize,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let code = base.cast::<u8>().wrapping_add(PAGE as usize);
    // SAFETY: the second page was just mapped writable, and the code is shorter than a page.
    unsafe { std::ptr::copy_nonoverlapping(CODE.as_ptr(), code, CODE.len()) };
    // SAFETY: the page is ours; nothing writes to it from now on.
    let rc = unsafe {
        libc::mprotect(
            code.cast(),
            PAGE as usize,
            libc::PROT_READ | libc::PROT_EXEC,
        )
    };
    if rc != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: replaces the first page, which is ours and unused.
    let rc = unsafe {
        libc::mmap(
            base,
            PAGE as usize,
            libc::PROT_READ,
            libc::MAP_SHARED | libc::MAP_FIXED,
            std::os::fd::AsRawFd::as_raw_fd(&commands.as_fd()),
            0,
        )
    };
    if rc == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok((code as u64, base as u64))
}

/// The process all stubs of a worker are cloned from. Belongs to the worker thread.
pub(super) struct Template {
    pub pid: i32,
    pub xstate: XState,
}

impl Template {
    /// Forks the template from the calling thread, which becomes its tracer.
    pub fn new(memory: &StubMemory) -> Result<Template> {
        let host = |what| move |source| Error::Host { what, source };
        let layout = &memory.layout;
        let pid = fork_stopped(layout.template_entry()).map_err(host("fork of the stub"))?;
        // From here on the process dies with us, should anything fail.
        let status = sys::wait_one(pid).map_err(host("wait4"))?;
        if status.stopped() != Some(libc::SIGTRAP) {
            return Err(Error::Lost(format!("stub template ({status:?})")));
        }
        let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL;
        sys::set_options(pid, options).map_err(host("PTRACE_SETOPTIONS"))?;
        sys::clear_signal_mask(pid).map_err(host("PTRACE_SETSIGMASK"))?;
        let run = |what: &'static str, number: i64, args: [u64; 6]| {
            command::single(layout, pid, &Command { number, args })?
                .map_err(|source| Error::Host { what, source })
        };
        // The kernel writes to the rseq area, which is about to go.
        if let Some((address, size, signature)) = sys::rseq_registration(pid) {
            let args = [address, u64::from(size), 1, u64::from(signature), 0, 0];
            run("rseq of the stub", libc::SYS_rseq, args)?;
        }
        // The child has the memory we had when it was forked: only statics will do.
        static NO_CORE: [u64; 2] = [0; 2];
        let args = [
            libc::RLIMIT_CORE as u64,
            NO_CORE.as_ptr() as u64,
            0,
            0,
            0,
            0,
        ];
        run("setrlimit of the stub", libc::SYS_setrlimit, args)?;
        let args = [
            libc::PR_SET_NAME as u64,
            c"runsc-stub".as_ptr() as u64,
            0,
            0,
            0,
            0,
        ];
        run("naming the stub", libc::SYS_prctl, args)?;
        let args = [libc::PR_SET_NO_NEW_PRIVS as u64, 1, 0, 0, 0, 0];
        run("no_new_privs of the stub", libc::SYS_prctl, args)?;
        // Struct __user_cap_header_struct, version 3, and its two data: none.
        static CAP_HEADER: [u32; 2] = [0x2008_0522, 0];
        static NO_CAPS: [u32; 6] = [0; 6];
        let args = [
            CAP_HEADER.as_ptr() as u64,
            NO_CAPS.as_ptr() as u64,
            0,
            0,
            0,
            0,
        ];
        run("dropping the stub's capabilities", libc::SYS_capset, args)?;
        let mut from = 0;
        for (start, end) in layout.kept().into_iter().chain([(TASK_SIZE, TASK_SIZE)]) {
            if start > from {
                let args = [from, start - from, 0, 0, 0, 0];
                run("emptying the stub", libc::SYS_munmap, args)?;
            }
            from = end;
        }
        install_filter(memory, pid)?;
        let xstate = XState::probe(pid).map_err(host("PTRACE_GETREGSET"))?;
        xstate
            .set(pid, &crate::arch::FpState::initial())
            .map_err(host("PTRACE_SETREGSET"))?;
        Ok(Template { pid, xstate })
    }

    /// A new stub: gives its pid and the slot of its command page.
    pub fn clone_stub(&self, memory: &StubMemory) -> Result<(i32, u64)> {
        let slot = memory.take_slot()?;
        match self.clone_with_slot(memory, slot) {
            Ok(pid) => Ok((pid, slot)),
            Err(error) => {
                memory.free_slot(slot);
                Err(error)
            }
        }
    }

    fn clone_with_slot(&self, memory: &StubMemory, slot: u64) -> Result<i32> {
        let layout = &memory.layout;
        let clone = Command {
            number: libc::SYS_clone,
            args: [CLONE_STUB, 0, 0, 0, 0, 0],
        };
        let pid = spawn(layout, self.pid, &clone)?;
        let map = Command {
            number: libc::SYS_mmap,
            args: [
                layout.command,
                PAGE,
                libc::PROT_READ as u64,
                (libc::MAP_SHARED | libc::MAP_FIXED) as u64,
                std::os::fd::AsRawFd::as_raw_fd(&memory.commands.as_fd()) as u64,
                slot * PAGE,
            ],
        };
        command::single(layout, pid, &map)?.map_err(|source| Error::Host {
            what: "mapping the command page",
            source,
        })?;
        Ok(pid)
    }
}

/// Makes the stopped thread `tid` of a stub carry out a clone, and waits until the new thread has
/// stopped too.
pub(super) fn spawn(layout: &Layout, tid: i32, clone: &Command) -> Result<i32> {
    let host = |what| move |source| Error::Host { what, source };
    let child = command::single(layout, tid, clone)?.map_err(|source| Error::Refused {
        op: "one more guest thread".to_owned(),
        source,
    })? as i32;
    let status = sys::wait_one(child).map_err(host("wait4"))?;
    match status.stopped() {
        Some(_) => Ok(child),
        None => Err(Error::Lost(format!("stub {child}"))),
    }
}

fn install_filter(memory: &StubMemory, pid: i32) -> Result<()> {
    let fault = |_| Error::Host {
        what: "writing the command page",
        source: io::Error::from_raw_os_error(libc::EFAULT),
    };
    let layout = &memory.layout;
    let program = filter::program(layout);
    let _alone = memory.template.lock();
    // struct sock_fprog, then the instructions, in the template's command page.
    let mut page = Vec::with_capacity(PAGE as usize);
    page.extend((program.len() as u64).to_le_bytes());
    page.extend((layout.command + 16).to_le_bytes());
    for insn in &program {
        page.extend(insn.code.to_le_bytes());
        page.extend([insn.jt, insn.jf]);
        page.extend(insn.k.to_le_bytes());
    }
    memory.window.write(0, &page).map_err(fault)?;
    let command = Command {
        number: libc::SYS_seccomp,
        args: [
            u64::from(libc::SECCOMP_SET_MODE_FILTER),
            libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            layout.command,
            0,
            0,
            0,
        ],
    };
    command::single(layout, pid, &command)?.map_err(|source| Error::Host {
        what: "installing the stub's seccomp filter",
        source,
    })?;
    memory.window.zero(0, page.len()).map_err(fault)
}

/// Forks the calling thread; the child asks to be traced and stops at `entry`, an int3.
fn fork_stopped(entry: u64) -> io::Result<i32> {
    // SAFETY: without CLONE_VM the child has its own copy of our memory. It is the only thread of
    // its process and runs only the few instructions below, which take no lock and allocate
    // nothing.
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_FILES, 0, 0, 0, 0) };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    if pid > 0 {
        return Ok(pid as i32);
    }
    // SAFETY: in the child; no memory is passed.
    unsafe {
        libc::syscall(
            libc::SYS_prctl,
            libc::PR_SET_PDEATHSIG,
            libc::SIGKILL,
            0,
            0,
            0,
        )
    };
    // SAFETY: in the child; no memory is passed.
    let rc = unsafe { libc::syscall(libc::SYS_ptrace, libc::PTRACE_TRACEME, 0, 0, 0) };
    if rc != 0 {
        // SAFETY: ends the child without running anything of ours.
        unsafe { libc::syscall(libc::SYS_exit_group, 1) };
    }
    // SAFETY: the code page holds an int3 there, at which the tracer takes over for good.
    unsafe { std::arch::asm!("jmp {}", in(reg) entry, options(noreturn)) }
}

/// Registers to enter the stub's code with.
pub(super) fn entry_registers(rip: u64) -> Registers {
    Registers::start(rip, 0)
}
