//! What a row of the table is made of: number spaces, families, levels, argument types.

use std::fmt;

/// An architecture, that is, a numbering of system calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Arch {
    X86_64,
    Aarch64,
}

impl Arch {
    /// The architecture this program was compiled for; x86-64's numbering elsewhere.
    pub const HOST: Arch = if cfg!(target_arch = "aarch64") {
        Arch::Aarch64
    } else {
        Arch::X86_64
    };

    pub const ALL: &[Arch] = &[Arch::X86_64, Arch::Aarch64];

    pub const fn name(self) -> &'static str {
        match self {
            Arch::X86_64 => "x86_64",
            Arch::Aarch64 => "aarch64",
        }
    }
}

/// How much of a system call works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// As Linux does it, as far as a program can tell.
    Full,
    /// Works, with the exceptions that the row's note names.
    Partial,
    /// Fails with the errno that the row's note begins with.
    None,
}

impl Level {
    pub const ALL: &[Level] = &[Level::Full, Level::Partial, Level::None];

    pub const fn name(self) -> &'static str {
        match self {
            Level::Full => "full",
            Level::Partial => "partial",
            Level::None => "none",
        }
    }

    pub fn from_name(name: &str) -> Option<Level> {
        Self::ALL.iter().copied().find(|level| level.name() == name)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The part of Linux a call belongs to; each is one source file of the Sentry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// Bytes through a descriptor that is already open: read, write, seek, splice, sync,
    /// ioctl.
    Io,
    /// Making, duplicating, configuring and closing descriptors of files: open, dup, fcntl,
    /// flock, pipe, memfd.
    Open,
    /// Names and attributes: stat, mkdir, rename, chmod, xattr, getdents, working directory
    /// and root, mounts, inotify.
    Path,
    /// Waiting for descriptors, and descriptors that exist to be waited for: poll, select,
    /// epoll, eventfd, timerfd, signalfd.
    Poll,
    /// The address space: mmap, brk, mprotect, madvise, locking, NUMA policy.
    Memory,
    /// Tasks, thread groups, sessions and their scheduling: clone, execve, exit, wait,
    /// prctl, pidfd, namespaces, `sched_*`.
    Process,
    /// Signals, from action to queue.
    Signal,
    /// Memory shared between threads and the kernel: futex, robust lists, rseq, membarrier.
    Futex,
    /// Clocks, timers and sleeping.
    Time,
    /// Identity and rights: uids, gids, capabilities, seccomp, security modules.
    Cred,
    /// The machine as a whole and limits on it: uname, sysinfo, rlimits, getrandom.
    System,
    /// Sockets.
    Socket,
    /// POSIX message queues.
    Mqueue,
    /// System V IPC.
    Sysv,
    /// What is left: kernel modules, key rings, bpf, io_uring, AIO, quotas, and calls that Linux itself no longer has.
    Other,
}

impl Family {
    pub const ALL: &[Family] = &[
        Family::Io,
        Family::Open,
        Family::Path,
        Family::Poll,
        Family::Memory,
        Family::Process,
        Family::Signal,
        Family::Futex,
        Family::Time,
        Family::Cred,
        Family::System,
        Family::Socket,
        Family::Mqueue,
        Family::Sysv,
        Family::Other,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Family::Io => "io",
            Family::Open => "open",
            Family::Path => "path",
            Family::Poll => "poll",
            Family::Memory => "memory",
            Family::Process => "process",
            Family::Signal => "signal",
            Family::Futex => "futex",
            Family::Time => "time",
            Family::Cred => "cred",
            Family::System => "system",
            Family::Socket => "socket",
            Family::Mqueue => "mqueue",
            Family::Sysv => "sysv",
            Family::Other => "other",
        }
    }

    pub fn from_name(name: &str) -> Option<Family> {
        Self::ALL
            .iter()
            .copied()
            .find(|family| family.name() == name)
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What an argument means: enough to print it, and to make one up.
///
/// A type whose name ends in `Out` is memory that the call writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[rustfmt::skip]
pub enum ArgType {
    // Plain numbers. The kernel looks at the low 32 bits of `Int` and `UInt` only.
    Int, UInt, Hex, Size, Offset, Dev,
    /// An address whose target is not printed.
    Addr,

    // Descriptors and names.
    Fd,
    /// A descriptor or `AT_FDCWD`.
    DirFd,
    /// A NUL-terminated path.
    Path,
    /// A NUL-terminated string that is not a path.
    Str,
    /// A NULL-terminated array of strings: `argv`.
    StringArray,
    /// The same, printed as a count: the environment.
    EnvArray,

    // Buffers.
    /// Bytes read by the kernel; the next argument is the length.
    BufIn,
    /// Bytes written by the kernel; the next argument is the room, the result the length.
    BufOut,
    /// Array of `struct iovec`, count in the next argument.
    IoVecIn, IoVecOut,
    /// Like `BufOut` with a NUL-terminated path.
    CwdOut,
    /// Like `BufOut` with directory entries.
    DentsOut,

    // Files.
    OpenFlags,
    /// A mode that only counts when the flags before it create a file.
    OpenMode,
    OpenHow, Mode, AccessMode, AtFlags, UnlinkFlags, RenameFlags, Whence,
    FcntlCmd, FcntlArg, FlockOp, FdFlags, FdPairOut, CloseRangeFlags, MemfdFlags,
    Ioctl, OffsetPtr, RwfFlags, SpliceFlags, SyncRangeFlags, Fadvice, FallocMode,
    StatOut, StatxMask, StatxOut, StatfsOut, XattrFlags, MountFlags, UmountFlags,
    InotifyMask, Utimbuf, TimevalPair, TimespecPair,

    // Polling.
    PollFds, FdSet, EpollOp, EpollEvent, EpollEventsOut, EventfdFlags,

    // Memory.
    Prot, MapFlags, MremapFlags, MsyncFlags, Madvise, MlockFlags, MlockallFlags,

    // Processes.
    Pid, CloneFlags, CloneArgs, WaitOptions, WaitStatusOut, IdType, PrctlOp, ArchPrctlOp,
    PidfdFlags, SchedPolicy, SchedParam, SchedParamOut, CpuSet, CpuSetOut, PriorityWhich,
    RusageWho, RusageOut,

    // Signals.
    Signal, SigHow, SigSet, SigSetOut,
    /// Pointer to a pair of pointer and size, as `pselect6` takes it.
    SigSetArg,
    SigAction, SigActionOut, SigInfo, SigInfoOut, SigStack, SigStackOut, SigEvent,

    // Futexes.
    FutexOp,
    /// A timeout or a number, as the operation before it says.
    FutexTimeout,
    FutexWaitV, MembarrierCmd,

    // Time.
    ClockId, TimerFlags, ItimerWhich, Timespec, TimespecOut, Timeval, TimevalOut,
    Itimerval, ItimervalOut, Itimerspec, ItimerspecOut, TimeOut, TmsOut,

    // Identity.
    Uid, Gid, UidOut, Groups, GroupsOut, CapHeader, CapData, CapDataOut, SeccompOp,

    // The machine.
    UtsnameOut, SysinfoOut, Resource, Rlimit, RlimitOut, RandomFlags,

    // Sockets.
    SockDomain, SockType, SockFlags, SockAddr, SockAddrOut,
    /// Pointer to a length that the caller sets and the kernel overwrites.
    LenInOut,
    SockLevel, SockOpt, SockOptIn, SockOptOut, MsgFlags, MsgIn, MsgOut, MmsgIn, MmsgOut,
    ShutdownHow,

    // Single values written.
    IntOut, SizeOut, AddrOut,
}

impl ArgType {
    /// True when the kernel writes what the argument points at, so that it can only be
    /// printed once the call has returned.
    pub const fn is_out(self) -> bool {
        use ArgType::*;
        matches!(
            self,
            BufOut
                | IoVecOut
                | CwdOut
                | DentsOut
                | FdPairOut
                | StatOut
                | StatxOut
                | StatfsOut
                | EpollEventsOut
                | WaitStatusOut
                | SchedParamOut
                | CpuSetOut
                | RusageOut
                | SigSetOut
                | SigActionOut
                | SigInfoOut
                | SigStackOut
                | TimespecOut
                | TimevalOut
                | ItimervalOut
                | ItimerspecOut
                | TimeOut
                | TmsOut
                | UidOut
                | GroupsOut
                | CapDataOut
                | UtsnameOut
                | SysinfoOut
                | RlimitOut
                | SockAddrOut
                | LenInOut
                | SockOptOut
                | MsgOut
                | MmsgOut
                | IntOut
                | SizeOut
                | AddrOut
        )
    }
}

/// What a successful call returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RetType {
    /// Nothing but success.
    Zero,
    Int,
    Fd,
    /// A count of bytes or an offset.
    Size,
    Addr,
    Hex,
    Octal,
    Pid,
    Uid,
    Gid,
    Signal,
    /// The call does not return to where it was made.
    Never,
}

/// An argument of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arg {
    pub name: &'static str,
    pub ty: ArgType,
}

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Syscall {
    pub name: &'static str,
    /// Number on x86-64.
    pub x86_64: u32,
    /// Number on aarch64, where the call exists there.
    pub aarch64: Option<u32>,
    pub family: Family,
    /// At most six.
    pub args: &'static [Arg],
    pub ret: RetType,
    pub level: Level,
    /// For `Partial` what is missing, for `None` "ERRNO: why".
    pub note: &'static str,
}

impl Syscall {
    pub const fn number(&self, arch: Arch) -> Option<u32> {
        match arch {
            Arch::X86_64 => Some(self.x86_64),
            Arch::Aarch64 => self.aarch64,
        }
    }

    /// The errno, as a positive number, that a call with level `None` fails with.
    pub fn unsupported_errno(&self) -> Option<i32> {
        if self.level != Level::None {
            return None;
        }
        let (name, _) = self.note.split_once(':')?;
        crate::errno::errno_from_name(name)
    }
}
