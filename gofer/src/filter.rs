//! What the Gofer may ask the host kernel for: its seccomp allow-list, with a reason each.
//!
//! Installed by `server::run` after all set-up, before the first request. Anything else kills the
//! process. Also here: what the client's calls cost the Sentry's own list.

use runsc_platform::{
    rule,
    seccomp::{ArgCheck, Filter, RUNTIME, Rule},
};

use crate::{protocol::HostSockets, server::sys};

const NO_EXEC: ArgCheck = ArgCheck::without(2, libc::PROT_EXEC as u32);

/// The Gofer's filter. `sockets`: what it may do with those of the host.
pub fn gofer(sockets: HostSockets) -> Filter {
    let mut rules = [REQUESTS, LOOKUP, CHANGE, XATTR, THREADS, RUNTIME].concat();
    if sockets != HostSockets::None {
        rules.extend_from_slice(SOCKETS);
    }
    if sockets.opens() {
        rules.push(rule!(SYS_connect, "unix sockets of the host (--host-uds)"));
    }
    if sockets.creates() {
        rules.push(rule!(SYS_bind, "unix sockets for the host (--host-uds)"));
    }
    Filter::new("gofer", rules)
}

/// What [`crate::Client`] needs in the Sentry, beyond what any threaded program does.
pub fn client_rules() -> Vec<Rule> {
    CLIENT.to_vec()
}

const CLIENT: &[Rule] = &[
    rule!(
        SYS_sendmsg,
        [ArgCheck::eq(2, libc::MSG_NOSIGNAL as u32)],
        "gofer requests"
    ),
    rule!(
        SYS_recvmsg,
        [ArgCheck::eq(2, libc::MSG_CMSG_CLOEXEC as u32)],
        "gofer replies"
    ),
    rule!(SYS_poll, "waiting for the gofer's end"),
    rule!(
        SYS_ppoll,
        "waiting for the gofer's end, where there is no poll"
    ),
    rule!(SYS_close, "fds the gofer handed over"),
    rule!(
        SYS_fcntl,
        [ArgCheck::eq(1, libc::F_GETFD as u32)],
        "closing fds in debug builds"
    ),
];

const REQUESTS: &[Rule] = &[
    rule!(
        SYS_recvfrom,
        [ArgCheck::eq(3, libc::MSG_TRUNC as u32)],
        "requests; no fd is taken"
    ),
    rule!(
        SYS_sendmsg,
        [ArgCheck::eq(2, libc::MSG_NOSIGNAL as u32)],
        "replies, with an fd"
    ),
];

const LOOKUP: &[Rule] = &[
    rule!(
        SYS_openat2,
        "every open: beneath a mount's root, no symlinks; its flags are in memory"
    ),
    rule!(SYS_statx, "attributes"),
    rule!(SYS_readlinkat, "link targets"),
    rule!(SYS_getdents64, "reading directories"),
    rule!(
        SYS_lseek,
        [ArgCheck::eq(2, libc::SEEK_SET as u32)],
        "going on in a directory"
    ),
    rule!(SYS_fstatfs, "statfs"),
    rule!(SYS_fsync, "sync of a file or directory"),
    rule!(SYS_syncfs, "sync of a file system"),
    rule!(SYS_close, "what a request opened"),
];

const CHANGE: &[Rule] = &[
    rule!(SYS_mkdirat, "mkdir"),
    rule!(SYS_mknodat, "mknod"),
    rule!(SYS_symlinkat, "symlink"),
    rule!(
        SYS_linkat,
        [ArgCheck::eq(4, 0)],
        "link, never following a symlink"
    ),
    rule!(
        SYS_unlinkat,
        [ArgCheck::only(2, libc::AT_REMOVEDIR as u32)],
        "unlink, rmdir"
    ),
    rule!(
        SYS_renameat2,
        [ArgCheck::only(
            4,
            libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE
        )],
        "rename, no whiteouts"
    ),
    rule!(
        SYS_fchownat,
        [ArgCheck::eq(4, libc::AT_EMPTY_PATH as u32)],
        "owner of an open node"
    ),
    rule!(
        SYS_fchmodat2,
        [ArgCheck::eq(3, libc::AT_EMPTY_PATH as u32)],
        "mode of an open node"
    ),
    rule!(
        SYS_fchmodat,
        "mode, before Linux 6.6, on mounts that follow no symlink"
    ),
    rule!(SYS_fchmod, "mode, before Linux 6.6"),
    rule!(
        SYS_utimensat,
        [ArgCheck::eq(3, libc::AT_EMPTY_PATH as u32)],
        "times of an open node"
    ),
    rule!(
        SYS_utimensat,
        [ArgCheck::eq(3, libc::AT_SYMLINK_NOFOLLOW as u32)],
        "times, before Linux 5.8"
    ),
    rule!(SYS_ftruncate, "size"),
];

const XATTR: &[Rule] = &[
    rule!(getxattrat = sys::SYS_GETXATTRAT, "extended attributes"),
    rule!(setxattrat = sys::SYS_SETXATTRAT, "extended attributes"),
    rule!(listxattrat = sys::SYS_LISTXATTRAT, "extended attributes"),
    rule!(
        removexattrat = sys::SYS_REMOVEXATTRAT,
        "extended attributes"
    ),
    rule!(SYS_fgetxattr, "extended attributes, before Linux 6.13"),
    rule!(SYS_fsetxattr, "extended attributes, before Linux 6.13"),
    rule!(SYS_flistxattr, "extended attributes, before Linux 6.13"),
    rule!(SYS_fremovexattr, "extended attributes, before Linux 6.13"),
];

const SOCKETS: &[Rule] = &[
    rule!(
        SYS_socket,
        [ArgCheck::eq(0, libc::AF_UNIX as u32), ArgCheck::eq(2, 0)],
        "unix sockets that the Sentry gets (--host-uds)"
    ),
    rule!(
        SYS_fchdir,
        "the directory of a unix socket, whose address is one component (--host-uds)"
    ),
];

const THREADS: &[Rule] = &[
    rule!(
        SYS_mprotect,
        [NO_EXEC],
        "growing a thread's heap; never executable"
    ),
    rule!(SYS_set_robust_list, "a thread's first steps"),
    rule!(SYS_rseq, "a thread's first steps and its end"),
    rule!(SYS_sched_getaffinity, "a thread's stack guard"),
    rule!(SYS_write, [ArgCheck::eq(0, 2)], "messages to stderr"),
    rule!(SYS_exit, "the end of a thread"),
];
