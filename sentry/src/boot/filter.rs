//! What the Sentry may ask the host kernel for: its seccomp allow-list, with a reason each.
//!
//! Deliberately absent: anything that opens, makes or names something on the host (open, socket,
//! connect, execve, mount), and executable mappings of the Sentry's own.

use runsc_gofer::protocol::HostSockets;
use runsc_platform::rule;
use runsc_platform::seccomp::{ArgCheck, Check, Filter, Rule, Width};

const NO_EXEC: ArgCheck = ArgCheck::without(2, libc::PROT_EXEC as u32);

/// The Sentry's filter with `platform`, with a network Gofer or without, and with what it may do with
/// the host's unix sockets.
pub fn sentry(platform: &str, outside: bool, sockets: HostSockets) -> Filter {
    let mut rules = [MEMORY, FILES, RUNTIME, OBJECTS].concat();
    rules.extend(runsc_gofer::filter::client_rules());
    rules.extend_from_slice(match platform {
        "ptrace" => runsc_platform::ptrace::host_calls(),
        "systrap" => runsc_platform::systrap::host_calls(),
        "kvm" => runsc_platform::kvm::host_calls(),
        _ => &[],
    });
    if outside || sockets != HostSockets::None {
        rules.extend_from_slice(SOCKETS);
    }
    if outside {
        rules.extend_from_slice(NETWORK);
    }
    if sockets.creates() {
        rules.push(rule!(
            SYS_listen,
            "listen(2) of guests on unix sockets for the host (--host-uds)"
        ));
    }
    Filter::new("sentry", rules)
}

const MEMORY: &[Rule] = &[
    rule!(
        SYS_mmap,
        [NO_EXEC],
        "windows onto guest memory, the heap, thread stacks"
    ),
    rule!(
        SYS_mprotect,
        [NO_EXEC],
        "the heap of a thread's arena grows"
    ),
    rule!(SYS_munmap, "windows that are no longer used, the heap"),
    rule!(SYS_mremap, "the heap: large blocks grow in place"),
    rule!(SYS_brk, "the heap"),
    rule!(SYS_madvise, "the heap gives memory back"),
    rule!(SYS_mincore, "how much of guest memory is resident"),
    rule!(
        SYS_fallocate,
        "the MemoryFile gives memory back, and fallocate(2) of guests on host files"
    ),
    rule!(
        SYS_ftruncate,
        "the MemoryFile grows; truncation of host files the gofer handed over"
    ),
];

const FILES: &[Rule] = &[
    rule!(SYS_read, "stdio, event descriptors"),
    rule!(SYS_readv, "stdio"),
    rule!(SYS_write, "stdio, logs, the control socket's end"),
    rule!(SYS_writev, "logs"),
    rule!(SYS_pread64, "host files the gofer handed over"),
    rule!(SYS_preadv, "host files into guest memory"),
    rule!(SYS_preadv2, "host files into guest memory"),
    rule!(SYS_pwrite64, "host files the gofer handed over"),
    rule!(SYS_pwritev, "guest memory into host files"),
    rule!(SYS_pwritev2, "guest memory into host files"),
    rule!(
        SYS_lseek,
        "SEEK_DATA and SEEK_HOLE of host files, SEEK_DATA of the MemoryFile, stdio"
    ),
    rule!(SYS_fstat, "attributes of stdio and host files"),
    rule!(
        SYS_newfstatat,
        [ArgCheck::eq(3, libc::AT_EMPTY_PATH as u32)],
        "fstat(3) of newer C libraries"
    ),
    rule!(
        SYS_statx,
        [ArgCheck::eq(2, libc::AT_EMPTY_PATH as u32)],
        "attributes of open host files"
    ),
    rule!(SYS_fstatfs, "the file system behind an open host file"),
    rule!(SYS_fsync, "fsync(2) of guests on host files"),
    rule!(SYS_fdatasync, "fdatasync(2) of guests on host files"),
    rule!(
        SYS_sync_file_range,
        "sync_file_range(2) of guests on host files"
    ),
    rule!(SYS_fchmod, "chmod of open host files"),
    rule!(SYS_fchown, "chown of open host files"),
    rule!(SYS_utimensat, "times of open host files"),
    rule!(
        SYS_fcntl,
        [ArgCheck::eq(1, libc::F_GETFL as u32)],
        "the access mode of stdio"
    ),
    rule!(
        SYS_fcntl,
        [ArgCheck::eq(1, libc::F_DUPFD_CLOEXEC as u32)],
        "a second descriptor for the same host file"
    ),
    rule!(
        SYS_ioctl,
        [ArgCheck::eq(1, libc::TCGETS as u32)],
        "stdio may be a terminal"
    ),
    rule!(
        SYS_ioctl,
        [ArgCheck::eq(1, libc::TCSETS as u32)],
        "a guest sets the terminal on its stdio"
    ),
    rule!(
        SYS_ioctl,
        [ArgCheck::eq(1, libc::TCSETSW as u32)],
        "a guest sets the terminal on its stdio"
    ),
    rule!(
        SYS_ioctl,
        [ArgCheck::eq(1, libc::TCSETSF as u32)],
        "a guest sets the terminal on its stdio"
    ),
    rule!(
        SYS_ioctl,
        [ArgCheck::eq(1, libc::TIOCGWINSZ as u32)],
        "the size of the terminal on stdio"
    ),
    rule!(
        SYS_ioctl,
        [ArgCheck::eq(1, libc::TIOCSWINSZ as u32)],
        "a guest sets the terminal's size"
    ),
    rule!(
        SYS_ioctl,
        [ArgCheck::eq(1, libc::FIONREAD as u32)],
        "bytes waiting on stdio"
    ),
    rule!(
        SYS_ioctl,
        [ArgCheck::eq(1, libc::TIOCOUTQ as u32)],
        "bytes not yet sent on stdio"
    ),
    rule!(
        SYS_ioctl,
        [ArgCheck::eq(1, libc::TCSBRK as u32)],
        "tcdrain(3), tcsendbreak(3) on stdio"
    ),
    rule!(
        SYS_ioctl,
        [ArgCheck::eq(1, libc::TCXONC as u32)],
        "tcflow(3) on stdio"
    ),
    rule!(
        SYS_ioctl,
        [ArgCheck::eq(1, libc::TCFLSH as u32)],
        "tcflush(3) on stdio"
    ),
];

const SEND: u32 = (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as u32;
const RECEIVE: u32 = (libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC) as u32;

/// Sockets that one of the Gofers made.
const SOCKETS: &[Rule] = &[
    rule!(
        SYS_accept4,
        [ArgCheck::eq(
            3,
            (libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) as u32
        )],
        "connections to a socket that a Gofer made"
    ),
    rule!(
        SYS_sendto,
        [
            ArgCheck::only(3, SEND | (libc::MSG_OOB | libc::MSG_MORE) as u32),
            ArgCheck::new(4, Width::U64, Check::Eq(0)),
        ],
        "MSG_OOB and MSG_MORE of guests"
    ),
    rule!(
        SYS_recvfrom,
        [ArgCheck::only(
            3,
            RECEIVE | (libc::MSG_PEEK | libc::MSG_OOB | libc::MSG_TRUNC) as u32
        )],
        "MSG_PEEK, MSG_OOB and MSG_TRUNC of guests"
    ),
    rule!(SYS_shutdown, "shutdown(2) of guests"),
];

/// The network Gofer's sockets.
const NETWORK: &[Rule] = &[
    rule!(SYS_getsockname, "the own end of a connection"),
    rule!(SYS_getpeername, "the other end of a connection"),
    rule!(
        SYS_sendmsg,
        [ArgCheck::only(
            2,
            SEND | (libc::MSG_CONFIRM | libc::MSG_DONTROUTE) as u32
        )],
        "datagrams of guests"
    ),
    rule!(
        SYS_recvmsg,
        [ArgCheck::only(
            2,
            RECEIVE | (libc::MSG_PEEK | libc::MSG_ERRQUEUE | libc::MSG_TRUNC) as u32
        )],
        "datagrams for guests"
    ),
    rule!(
        SYS_setsockopt,
        [
            ArgCheck::eq(1, libc::IPPROTO_TCP as u32),
            ArgCheck::eq(2, libc::TCP_CORK as u32),
        ],
        "TCP_CORK of guests, which web servers set twice for each answer"
    ),
];

const RUNTIME: &[Rule] = &[
    rule!(SYS_futex, "locks and parked threads"),
    rule!(SYS_clock_gettime, "clocks, where the vDSO cannot answer"),
    rule!(SYS_clock_nanosleep, "back-off of contended locks"),
    rule!(
        SYS_getrandom,
        "random numbers for guests and for hash tables"
    ),
    rule!(SYS_sched_yield, "back-off of contended locks"),
    rule!(SYS_getpid, "signals to own threads"),
    rule!(SYS_gettid, "signals to own threads"),
    rule!(SYS_rt_sigprocmask, "the fault handler, thread ends"),
    rule!(
        SYS_rt_sigaction,
        "the fault handler passes an unexpected fault on"
    ),
    rule!(SYS_rt_sigreturn, "returns from the fault handler"),
    rule!(SYS_sigaltstack, "threads end"),
    rule!(SYS_rt_tgsigqueueinfo, "an unexpected fault is raised again"),
    rule!(
        SYS_tgkill,
        [ArgCheck::eq(2, libc::SIGABRT as u32)],
        "abort after a broken invariant"
    ),
    rule!(SYS_restart_syscall, "host calls that a stop interrupted"),
    rule!(
        SYS_membarrier,
        [ArgCheck::eq(0, 1)],
        "membarrier(2) of guests"
    ),
    rule!(SYS_sysinfo, "the default size of a tmpfs, /proc/meminfo"),
    rule!(SYS_exit, "a thread ends"),
    rule!(SYS_exit_group, "the sandbox ends"),
];

const OBJECTS: &[Rule] = &[
    rule!(
        SYS_epoll_wait,
        "the reactor waits for host descriptors and timers"
    ),
    rule!(SYS_epoll_pwait, "the reactor, where there is no epoll_wait"),
    rule!(SYS_epoll_ctl, "the reactor watches a host descriptor"),
    rule!(SYS_timerfd_settime, "the reactor's next deadline"),
    rule!(SYS_sendto, "reports over the control socket"),
    rule!(SYS_recvfrom, "requests over the control socket"),
];
