//! A small guest: an address space with code, data and stack, and programs to put there.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use runsc_platform::arch::Registers;
use runsc_platform::memory::{MemFd, Window};
use runsc_platform::*;

pub const PAGE: u64 = 4096;
pub const CODE: u64 = 0x40_0000;
pub const DATA: u64 = 0x80_0000;
pub const STACK_TOP: u64 = 0x100_0000;
/// Bytes of data, and of stack.
pub const DATA_LEN: u64 = 16 * PAGE;
/// Where nothing is mapped.
pub const HOLE: u64 = 0x2000_0000;

/// The machine code between two symbols that the assembler text of `$name` defines.
macro_rules! program {
    ($name:ident, $($line:literal),+ $(,)?) => {
        pub fn $name() -> &'static [u8] {
            unsafe extern "C" {
                #[link_name = concat!("guest_", stringify!($name))]
                static START: u8;
                #[link_name = concat!("guest_", stringify!($name), "_end")]
                static END: u8;
            }
            let start = &raw const START;
            let len = &raw const END as usize - start as usize;
            unsafe { std::slice::from_raw_parts(start, len) }
        }
        std::arch::global_asm!(
            ".pushsection .rodata.guest,\"a\",@progbits",
            concat!(".globl guest_", stringify!($name)),
            concat!("guest_", stringify!($name), ":"),
            $($line,)+
            concat!(".globl guest_", stringify!($name), "_end"),
            concat!("guest_", stringify!($name), "_end:"),
            ".popsection",
        );
    };
}
pub(crate) use program;

/// A platform with one worker, on the calling thread.
pub struct Machine {
    pub platform: Arc<dyn Platform>,
    pub worker: Box<dyn Worker>,
    pub waker: Arc<dyn WorkerWaker>,
}

/// Sets a flag that other threads of a case look at, also when the case fails.
pub struct Sets<'a>(pub &'a AtomicBool);

impl Drop for Sets<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One address space with the usual mappings.
pub struct Space {
    pub space: Arc<dyn AddressSpace>,
    pub file: Arc<OwnedFd>,
    pub memory: Window,
}

pub struct Thread {
    pub context: Box<dyn Context>,
    pub regs: Registers,
}

impl Machine {
    pub fn new(platform: Arc<dyn Platform>) -> Machine {
        Machine::new_at(platform, WorkerId(0))
    }

    pub fn new_at(platform: Arc<dyn Platform>, id: WorkerId) -> Machine {
        let worker = platform.new_worker(id).unwrap();
        let waker = platform.waker(id);
        Machine {
            platform,
            worker,
            waker,
        }
    }

    /// An address space with `code` at [`CODE`], and zeroed data and stack.
    pub fn space(&self, code: &[u8]) -> Space {
        let memfd = MemFd::create(c"guest").unwrap();
        memfd.set_len(1 << 30).unwrap();
        let memory = Window::map(memfd.as_fd(), 0, 1 << 30, true).unwrap();
        memory.write(CODE as usize, code).unwrap();
        let space = Space {
            space: self.platform.new_address_space(),
            file: Arc::new(memfd.into_fd()),
            memory,
        };
        let code_len = (code.len() as u64).next_multiple_of(PAGE);
        space.map(CODE, code_len, Prot::READ | Prot::EXEC);
        space.map(DATA, DATA_LEN, Prot::READ | Prot::WRITE);
        space.map(STACK_TOP - DATA_LEN, DATA_LEN, Prot::READ | Prot::WRITE);
        space
    }

    /// A thread about to run from [`CODE`].
    pub fn thread(&mut self, space: &Space) -> Thread {
        let context = self.worker.new_context(&space.space).unwrap();
        // Cases count in the numbers of calls.
        if self.platform.name() == "kvm"
            && let Some(answers) = context.answers()
        {
            answers.answer_other_calls(InPlace::Never);
        }
        Thread {
            context,
            regs: Registers::start(CODE, STACK_TOP - 64),
        }
    }

    /// Waits for a trap of this thread; other events are a failure.
    pub fn trap(&mut self, thread: &mut Thread) -> Trap {
        let event = self.worker.wait(Wait::Block).unwrap();
        assert_eq!(event, Event::Trap(thread.context.id()));
        thread.context.trap(&mut thread.regs).unwrap()
    }

    /// Runs a thread to its next trap.
    pub fn run(&mut self, thread: &mut Thread) -> Trap {
        thread.context.resume(&thread.regs).unwrap();
        self.trap(thread)
    }

    /// Runs a thread to its next system call; gives its number.
    pub fn run_to_syscall(&mut self, thread: &mut Thread) -> u64 {
        let trap = self.run(thread);
        assert_eq!(trap, Trap::Syscall, "{:x?}", thread.regs);
        thread.regs.syscall_number()
    }

    /// Runs a thread to a fault; gives it.
    pub fn run_to_fault(&mut self, thread: &mut Thread) -> Fault {
        match self.run(thread) {
            Trap::Fault(fault) => fault,
            trap => panic!("{trap:?} instead of a fault: {:x?}", thread.regs),
        }
    }

    /// A fresh guest with this code, run to its first trap.
    pub fn once(&mut self, code: &[u8]) -> (Space, Thread, Trap) {
        let space = self.space(code);
        let mut thread = self.thread(&space);
        let trap = self.run(&mut thread);
        (space, thread, trap)
    }
}

impl Space {
    /// Maps part of the space's file: the offset is the address.
    pub fn map(&self, addr: u64, len: u64, prot: Prot) {
        self.map_from(addr, len, prot, addr);
    }

    pub fn map_from(&self, addr: u64, len: u64, prot: Prot, offset: u64) {
        let op = HostOp::Map {
            addr,
            len,
            prot,
            file: self.file.clone(),
            offset,
            private: false,
            populate: false,
        };
        self.space.queue(op, None);
    }

    pub fn unmap(&self, addr: u64, len: u64) {
        self.space.queue(HostOp::Unmap { addr, len }, None);
    }

    pub fn protect(&self, addr: u64, len: u64, prot: Prot) {
        self.space.queue(HostOp::Protect { addr, len, prot }, None);
    }

    pub fn word(&self, addr: u64) -> u64 {
        self.memory.load_u64(addr as usize).unwrap()
    }

    pub fn set_word(&self, addr: u64, value: u64) {
        self.memory.store_u64(addr as usize, value).unwrap();
    }
}
