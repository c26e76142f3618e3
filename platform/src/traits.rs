//! The contract between the Sentry and a platform.
//!
//! Life of a guest thread: `Worker::new_context` → (`Context::resume` → `Worker::wait` reports
//! `Event::Trap(id)` → `Context::trap`)* → drop. All calls on a `Context`, except through its
//! [`Kicker`], are made on the worker thread that created it.

use std::any::Any;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use crate::arch::{FpState, Registers};

bitflags::bitflags! {
    /// Access rights of a mapping in a guest address space (PROT_* values of mmap(2)).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Prot: i32 {
        const READ = libc::PROT_READ;
        const WRITE = libc::PROT_WRITE;
        const EXEC = libc::PROT_EXEC;
    }
}

/// Index of a Sentry worker thread, dense from zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(pub usize);

/// Names one [`Context`] within its platform, never reused while the sandbox lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContextId(pub u64);

/// Something that must stay alive until a queued [`HostOp`] has been carried out: the guest
/// memory behind a range that is being unmapped must not be reused before it really is.
pub type Retired = Arc<dyn Any + Send + Sync>;

/// One change to the host mappings of a guest address space. Addresses and lengths are bytes and
/// multiples of the page size; the caller has checked them against [`Platform::user_range`].
#[derive(Clone, Debug)]
pub enum HostOp {
    /// Map `len` bytes of `file` from `offset`, always MAP_FIXED over whatever was there.
    /// `private` maps MAP_PRIVATE (never written through by the guest unless it holds WRITE).
    Map {
        addr: u64,
        len: u64,
        prot: Prot,
        file: Arc<OwnedFd>,
        offset: u64,
        private: bool,
        populate: bool,
    },
    Unmap {
        addr: u64,
        len: u64,
    },
    Protect {
        addr: u64,
        len: u64,
        prot: Prot,
    },
}

/// Why guest code stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trap {
    /// A system call: number in `Registers::orig_rax`, `rax` holds -ENOSYS, `rip` is after the
    /// instruction. Nothing of it was executed by the host.
    Syscall,
    /// A synchronous exception, as the host's siginfo told it.
    Fault(Fault),
    /// Stopped because of [`Kicker::kick`]; may be spurious.
    Interrupted,
}

/// A synchronous exception raised by guest code (sigaction(2), the si_code tables).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// SIGSEGV, SIGBUS, SIGFPE, SIGILL or SIGTRAP.
    pub signal: i32,
    /// si_code, e.g. SEGV_MAPERR, SEGV_ACCERR, SI_KERNEL.
    pub code: i32,
    /// si_addr.
    pub addr: u64,
    /// What was tried, where the platform can tell. ptrace cannot tell reading from writing; a write
    /// to a page mapped without WRITE shows as SEGV_ACCERR, so answer SEGV_MAPERR as a read and
    /// wait for the second fault. `Execute` is only reported with SEGV_MAPERR; SEGV_ACCERR with
    /// `addr == rip` on a page without EXEC is one too.
    pub access: Option<Access>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
    Execute,
}

/// What [`Worker::wait`] came back with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// This context of this worker stopped; [`Context::trap`] tells why.
    Trap(ContextId),
    /// Somebody called [`WorkerWaker::wake`].
    Woken,
    /// `Wait::Poll` found nothing.
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Return at once if nothing happened.
    Poll,
    /// Sleep until a trap or a wake.
    Block,
}

/// Errors of a platform. All but `Gone` and `Refused` are fatal for the sandbox.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The guest's address space or thread died outside our control. Fail stop.
    #[error("{0} was killed from outside the sandbox")]
    Lost(String),
    #[error("{what}: {source}")]
    Host {
        what: &'static str,
        source: std::io::Error,
    },
    /// The host has no more of something: memory, mappings, threads. A guest can provoke it. A
    /// refused [`HostOp`] leaves its range unmapped and is done with, those queued after it stay
    /// queued; if not even the unmapping is possible, it is refused again each time, until the
    /// address space is dropped. From [`Worker::new_context`]: no thread or process could be made.
    #[error("the host refused {op}: {source}")]
    Refused { op: String, source: std::io::Error },
    /// The address space is being torn down: the thread group was killed.
    #[error("the address space is gone")]
    Gone,
}

pub type Result<T> = std::result::Result<T, Error>;

/// A way to run guest code. One object a sandbox.
pub trait Platform: Send + Sync {
    /// The value of `--platform`.
    fn name(&self) -> &'static str;

    /// Lowest and highest (exclusive) guest virtual address that may be mapped.
    fn user_range(&self) -> (u64, u64);

    /// The host's vDSO pages as every guest address space already has them mapped (data pages
    /// included): start, end, and where the ELF image starts. None: the Sentry brings its own.
    fn vdso(&self) -> Option<VdsoRange>;

    /// A new, empty address space. Cheap: host resources are made with its first context.
    fn new_address_space(&self) -> Arc<dyn AddressSpace>;

    /// As `new_address_space`, for one that will have the same code where `parent` has it: what
    /// [`Context::patch`] has done to it holds there too.
    fn fork_address_space(&self, _parent: &dyn AddressSpace) -> Arc<dyn AddressSpace> {
        self.new_address_space()
    }

    /// To be called once on each worker thread, before it makes contexts.
    fn new_worker(&self, id: WorkerId) -> Result<Box<dyn Worker>>;

    /// Wakes worker `id` from any thread.
    fn waker(&self, id: WorkerId) -> Arc<dyn WorkerWaker>;

    /// True if a context can only be used on the worker that made it (a ptrace tracee belongs
    /// to one thread).
    fn contexts_are_bound(&self) -> bool;
}

/// Where the host's vDSO lies in every guest address space. Addresses in bytes, page aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VdsoRange {
    pub start: u64,
    pub end: u64,
    /// AT_SYSINFO_EHDR.
    pub image: u64,
}

/// One guest address space (a stub process, a page-table root).
pub trait AddressSpace: Send + Sync {
    /// Queues a change. It is in force before any context of this address space that is at rest
    /// now runs guest code again; contexts running now see it at the latest after
    /// [`AddressSpace::shoot_down`]. Changes are carried out in the order queued.
    fn queue(&self, op: HostOp, retired: Option<Retired>);

    /// Makes every context that runs guest code stop soon, so that queued changes take effect. It
    /// reports [`Trap::Interrupted`]; resuming it carries the changes out. Not needed if another
    /// context of this address space is at rest: its `flush` acts on all.
    fn shoot_down(&self);

    /// Ends all guest code in this address space, for one that does not react to kicks: its contexts
    /// are gone. Where guest code cannot get into such a state, nothing.
    fn kill(&self) {}

    /// The host process that holds it and nothing else, if there is one at the moment.
    fn host_process(&self) -> Option<i32> {
        None
    }

    /// Lets the host's listings of processes show that process by this name, at most 15 bytes of it,
    /// and these arguments, each ending in NUL; a long list is cut off. Takes up to some
    /// milliseconds, and may be in vain.
    fn show_as(&self, _name: &[u8], _arguments: &[u8]) {}

    /// Other code is mapped from `start` to `end` than before, or none.
    fn forget_code(&self, _start: u64, _end: u64) {}

    /// For platforms and tests that need the concrete type.
    fn as_any(&self) -> &dyn Any;
}

/// Code of a guest, as its program has it: nothing in it is from an earlier [`Patch`].
#[derive(Clone, Copy, Debug)]
pub struct Code<'a> {
    /// Guest address of the first byte, where an instruction begins or that is far from the site.
    pub start: u64,
    pub bytes: &'a [u8],
}

/// Bytes to put into guest code. Until every thread sees all of them, each has to see none: the
/// page is to be replaced, not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patch {
    pub addr: u64,
    pub bytes: [u8; 7],
}

/// What one Sentry worker thread holds of the platform. Not `Send`: made and used on its thread.
pub trait Worker {
    /// A new guest thread in `space`. Its FP state is the initial one (see [`FpState::initial`]).
    /// All contexts of one address space may have to be made by one worker (ptrace); may make a
    /// running one of them report [`Trap::Interrupted`]. `Gone` after the last context of the
    /// address space was dropped; `Refused` if the host has no thread left.
    fn new_context(&mut self, space: &Arc<dyn AddressSpace>) -> Result<Box<dyn Context>>;

    /// Waits for a trap of any of this worker's contexts, or for a wake. Sleeping costs nothing; a
    /// poll costs a host call only if something runs.
    fn wait(&mut self, mode: Wait) -> Result<Event>;

    /// Right after `resume` of this context: waits a moment for its trap, where that is cheaper
    /// than going to `wait`, while `idle` says that there is nothing else to do. True: it trapped,
    /// and `wait` will not say so again.
    fn linger(&mut self, _context: ContextId, _idle: &dyn Fn() -> bool) -> bool {
        false
    }
}

/// Wakes a worker out of [`Worker::wait`].
pub trait WorkerWaker: Send + Sync {
    /// Makes the current or the next `wait(Block)` return `Event::Woken`. Never lost, cheap when
    /// the worker is not asleep.
    fn wake(&self);
}

/// One guest thread.
///
/// Dropping it ends the thread, wherever it is. When the last one of an address space is dropped on
/// its worker thread, no guest code runs in it any more when the drop returns, and what is queued is
/// forgotten; dropped elsewhere, both happen when the worker waits next. What the address space has
/// retired, then and later, is dropped when the host has given up its mappings.
pub trait Context: Send {
    fn id(&self) -> ContextId;

    /// Carries out the queued changes of the address space, then lets guest code run with these
    /// registers. Returns at once; the worker reports the trap. `Error::Refused` leaves the
    /// context at rest; a platform may also let [`Context::trap`] say so. Hostile register values
    /// (segment selectors, flags, non-canonical addresses) are sanitised here, not refused.
    fn resume(&mut self, regs: &Registers) -> Result<()>;

    /// After `Event::Trap(self.id())`: why it stopped, and its registers. At rest from now on.
    /// `Error::Refused`: it has not run, a change was refused.
    fn trap(&mut self, regs: &mut Registers) -> Result<Trap>;

    /// Carries out the queued changes now, without running guest code. Only at rest.
    fn flush(&mut self) -> Result<()>;

    /// The FP/vector state. Only at rest.
    fn fp_state(&mut self) -> Result<FpState>;

    /// Replaces the FP/vector state. Hostile content (reserved bits) is sanitised. Only at rest.
    fn set_fp_state(&mut self, state: &FpState) -> Result<()>;

    /// Only at rest: it will be for a while, so nobody need be quick.
    fn rest(&mut self) {}

    /// The worker that is closest to where guest code of this context runs, if one is.
    fn near_worker(&self) -> Option<WorkerId> {
        None
    }

    /// A handle for other threads to interrupt guest code.
    fn kicker(&self) -> Arc<dyn Kicker>;

    /// After a system call: the address behind its instruction, if it was made there so often that
    /// it would pay to [`Context::patch`] it. Told once.
    fn hot_site(&mut self) -> Option<u64> {
        None
    }

    /// Prepares the system call that ends at `site` to cost less from now on, by a change of the
    /// code around it: `code`, on pages without write permission. None: it has to stay as it is.
    fn patch(&mut self, _site: u64, _code: Code<'_>) -> Option<Patch> {
        None
    }

    /// Who to tell, on any thread, if the address space dies of something done to it from outside
    /// or by itself, where that is not the end of the sandbox. Contexts that run report it as their
    /// trap, too.
    fn set_mourner(&mut self, _mourner: Weak<dyn Mourner>) {}

    /// Where to publish what this thread's calls are answered with in place; None on a platform
    /// that answers nothing so. Nothing is published for a new context.
    fn answers(&self) -> Option<Arc<dyn Answers>> {
        None
    }
}

/// Calls without arguments that may be answered without a trap, from a published value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Getpid,
    Gettid,
    Getppid,
    Getuid,
    Geteuid,
    Getgid,
    Getegid,
}

impl Answer {
    pub const ALL: [Answer; 7] = [
        Answer::Getpid,
        Answer::Gettid,
        Answer::Getppid,
        Answer::Getuid,
        Answer::Geteuid,
        Answer::Getgid,
        Answer::Getegid,
    ];

    /// The system-call number.
    pub const fn call(self) -> i64 {
        match self {
            Answer::Getpid => libc::SYS_getpid,
            Answer::Gettid => libc::SYS_gettid,
            Answer::Getppid => libc::SYS_getppid,
            Answer::Getuid => libc::SYS_getuid,
            Answer::Geteuid => libc::SYS_geteuid,
            Answer::Getgid => libc::SYS_getgid,
            Answer::Getegid => libc::SYS_getegid,
        }
    }
}

/// Calls that may be answered in place as well, without a published value.
pub const OTHER_CALLS: [i64; 5] = [
    libc::SYS_clock_gettime,
    libc::SYS_gettimeofday,
    libc::SYS_time,
    libc::SYS_getcpu,
    libc::SYS_sched_yield,
];

/// Whether calls are answered without a trap where that is possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InPlace {
    Answer,
    /// Every call is to be seen by the Sentry.
    Never,
}

/// Hears of the death of an address space.
pub trait Mourner: Send + Sync {
    fn died(&self);
}

/// What a context's calls are answered with in place. From any thread, at any time; a guest that
/// changes the published values only deceives itself.
pub trait Answers: Send + Sync {
    /// The value that the call gives from now on; None: it traps.
    fn publish(&self, answer: Answer, value: Option<u32>);

    /// Whether [`OTHER_CALLS`] may be answered in place from now on, as they may be at first.
    fn answer_other_calls(&self, how: InPlace);
}

/// Interrupts a running context from any thread.
pub trait Kicker: Send + Sync {
    /// If guest code runs, it stops soon with a trap (`Interrupted`, unless it trapped anyhow).
    /// If it is at rest, the next `resume` traps with `Interrupted` soon; harmless when gone.
    fn kick(&self);
}
