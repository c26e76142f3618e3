//! What a monitor may ask the host kernel for: its seccomp allow-list, with a reason each.
//!
//! Installed when the sandbox waits for its first program, before anything of the guest's reaches the
//! monitor. It opens nothing by name, executes nothing and makes no socket; its log, its note of the
//! status and the files of its control group are open already. Anything else kills it, and with it
//! the sandbox.

use runsc_platform::{
    process::DEVOURER_FLAGS,
    rule,
    seccomp::{ArgCheck, Filter, RUNTIME, Rule},
};

const NO_EXEC: ArgCheck = ArgCheck::without(2, libc::PROT_EXEC as u32);

/// The monitor's filter.
pub fn monitor() -> Filter {
    Filter::new(
        "monitor",
        [TALK, KEEP, OUT_OF_MEMORY, OWN, RUNTIME].concat(),
    )
}

const TALK: &[Rule] = &[
    rule!(SYS_poll, "waiting for whatever comes"),
    rule!(
        SYS_ppoll,
        "waiting for whatever comes, where there is no poll"
    ),
    rule!(
        SYS_accept4,
        [ArgCheck::eq(3, libc::SOCK_CLOEXEC as u32)],
        "commands that connect"
    ),
    rule!(
        SYS_getsockopt,
        [
            ArgCheck::eq(1, libc::SOL_SOCKET as u32),
            ArgCheck::eq(2, libc::SO_PEERCRED as u32)
        ],
        "whose they are"
    ),
    rule!(SYS_geteuid, "whether they are its own user's"),
    rule!(
        SYS_setsockopt,
        [
            ArgCheck::eq(1, libc::SOL_SOCKET as u32),
            ArgCheck::eq(2, libc::SO_SNDTIMEO as u32)
        ],
        "how long one that does not listen may hold it up"
    ),
    rule!(
        SYS_recvmsg,
        [ArgCheck::eq(2, libc::MSG_CMSG_CLOEXEC as u32)],
        "what commands ask and the Sentry answers"
    ),
    rule!(
        SYS_sendmsg,
        [ArgCheck::eq(2, libc::MSG_NOSIGNAL as u32)],
        "what the Sentry is asked and commands are told"
    ),
    rule!(SYS_shutdown, "one that does not listen"),
    rule!(SYS_close, "connections that ended, fds passed on"),
];

const KEEP: &[Rule] = &[
    rule!(SYS_read, "signals; why a child was not executed"),
    rule!(SYS_write, "the log, stderr"),
    rule!(SYS_pwrite64, "its note of the status"),
    rule!(
        SYS_waitid,
        [ArgCheck::eq(0, libc::P_PIDFD)],
        "how its children ended"
    ),
    rule!(
        SYS_kill,
        [ArgCheck::eq(1, libc::SIGKILL as u32)],
        "the end of its children"
    ),
    rule!(
        SYS_prctl,
        [ArgCheck::eq(0, libc::PR_SET_PDEATHSIG as u32)],
        "living on without the command that created it; children that do not"
    ),
    rule!(
        SYS_ioctl,
        [ArgCheck::eq(1, libc::TIOCGPGRP as u32)],
        "whether it is its terminal's foreground"
    ),
    rule!(SYS_getpgrp, "whether it is its terminal's foreground"),
    rule!(
        SYS_getpgid,
        "whether it is its terminal's foreground, where there is no getpgrp"
    ),
];

const OUT_OF_MEMORY: &[Rule] = &[
    rule!(SYS_pread64, "what its control group uses, and its limits"),
    rule!(
        SYS_clone,
        [ArgCheck::eq(0, DEVOURER_FLAGS)],
        "a process for the host to kill; no threads"
    ),
];

const OWN: &[Rule] = &[
    rule!(SYS_mprotect, [NO_EXEC], "the heap; never executable"),
    rule!(SYS_getrandom, "hash tables"),
];

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    const MARK: &str = "RUNSC_RS_TEST_OF_THE_MONITORS_FILTER";

    /// What a process under the filter tries to do. The first may be done.
    const DEEDS: [(&str, fn()); 6] = [
        ("nothing", || {}),
        ("open a file", || drop(std::fs::File::open("/dev/null"))),
        ("make a socket", || {
            drop(std::net::UdpSocket::bind("127.0.0.1:0"))
        }),
        ("execute a program", || {
            drop(std::process::Command::new("true").status())
        }),
        ("start a thread", || {
            drop(std::thread::spawn(|| ()).join());
        }),
        ("stop a process", || {
            let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGTERM);
        }),
    ];

    /// This test runs itself again, since the filter stays.
    #[test]
    fn anything_else_is_the_end() {
        if let Ok(name) = std::env::var(MARK) {
            let deed = DEEDS.iter().find(|(deed, _)| *deed == name);
            monitor().install().unwrap();
            deed.unwrap().1();
            std::process::exit(42);
        }
        for (deed, _) in DEEDS {
            let status = std::process::Command::new(std::env::current_exe().unwrap())
                .args([
                    "--exact",
                    "sandbox::filter::tests::anything_else_is_the_end",
                ])
                .env(MARK, deed)
                .stdout(std::process::Stdio::null())
                .status()
                .unwrap();
            let expected = match deed {
                "nothing" => (Some(42), None),
                _ => (None, Some(libc::SIGSYS)),
            };
            assert_eq!((status.code(), status.signal()), expected, "{deed}");
        }
    }
}
