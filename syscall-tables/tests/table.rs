//! The table against what others say about the same numbers: the `libc` crate, the machine's
//! kernel headers; and the table's own promises.

use runsc_syscall_tables::errno::{ERRNOS, errno_from_name};
use runsc_syscall_tables::{
    Arch, Level, SYSCALLS, by_name, by_number, errno_name, signal_from_name, signal_name,
};
use std::collections::HashSet;
use std::fs;

macro_rules! constants {
    ($($name:ident)*) => { &[ $((stringify!($name), libc::$name)),* ] };
}

/// What x86-64 and aarch64 both have.
#[rustfmt::skip]
static COMMON: &[(&str, libc::c_long)] = constants! {
    SYS_read SYS_write SYS_close SYS_fstat SYS_lseek SYS_mmap SYS_mprotect SYS_munmap
    SYS_brk SYS_rt_sigaction SYS_rt_sigprocmask SYS_rt_sigreturn SYS_ioctl SYS_pread64
    SYS_pwrite64 SYS_readv SYS_writev SYS_sched_yield SYS_mremap SYS_msync SYS_mincore
    SYS_madvise SYS_shmget SYS_shmat SYS_shmctl SYS_dup SYS_nanosleep SYS_getitimer
    SYS_setitimer SYS_getpid SYS_sendfile SYS_socket SYS_connect SYS_accept SYS_sendto
    SYS_recvfrom SYS_sendmsg SYS_recvmsg SYS_shutdown SYS_bind SYS_listen SYS_getsockname
    SYS_getpeername SYS_socketpair SYS_setsockopt SYS_getsockopt SYS_clone SYS_execve
    SYS_exit SYS_wait4 SYS_kill SYS_uname SYS_semget SYS_semop SYS_semctl SYS_shmdt
    SYS_msgget SYS_msgsnd SYS_msgrcv SYS_msgctl SYS_fcntl SYS_flock SYS_fsync SYS_fdatasync
    SYS_truncate SYS_ftruncate SYS_getcwd SYS_chdir SYS_fchdir SYS_fchmod SYS_fchown
    SYS_umask SYS_gettimeofday SYS_getrusage SYS_sysinfo SYS_times SYS_ptrace SYS_getuid
    SYS_syslog SYS_getgid SYS_setuid SYS_setgid SYS_geteuid SYS_getegid SYS_setpgid
    SYS_getppid SYS_setsid SYS_setreuid SYS_setregid SYS_getgroups SYS_setgroups
    SYS_setresuid SYS_getresuid SYS_setresgid SYS_getresgid SYS_getpgid SYS_setfsuid
    SYS_setfsgid SYS_getsid SYS_capget SYS_capset SYS_rt_sigpending SYS_rt_sigtimedwait
    SYS_rt_sigqueueinfo SYS_rt_sigsuspend SYS_sigaltstack SYS_personality SYS_statfs
    SYS_fstatfs SYS_getpriority SYS_setpriority SYS_sched_setparam SYS_sched_getparam
    SYS_sched_setscheduler SYS_sched_getscheduler SYS_sched_get_priority_max
    SYS_sched_get_priority_min SYS_sched_rr_get_interval SYS_mlock SYS_munlock SYS_mlockall
    SYS_munlockall SYS_vhangup SYS_pivot_root SYS_prctl SYS_adjtimex SYS_chroot SYS_sync
    SYS_acct SYS_settimeofday SYS_mount SYS_umount2 SYS_swapon SYS_swapoff SYS_reboot
    SYS_sethostname SYS_setdomainname SYS_init_module SYS_delete_module SYS_quotactl
    SYS_nfsservctl SYS_gettid SYS_readahead SYS_setxattr SYS_lsetxattr SYS_fsetxattr
    SYS_getxattr SYS_lgetxattr SYS_fgetxattr SYS_listxattr SYS_llistxattr SYS_flistxattr
    SYS_removexattr SYS_lremovexattr SYS_fremovexattr SYS_tkill SYS_futex
    SYS_sched_setaffinity SYS_sched_getaffinity SYS_io_setup SYS_io_destroy SYS_io_getevents
    SYS_io_submit SYS_io_cancel SYS_lookup_dcookie SYS_remap_file_pages SYS_getdents64
    SYS_set_tid_address SYS_restart_syscall SYS_semtimedop SYS_fadvise64 SYS_timer_create
    SYS_timer_settime SYS_timer_gettime SYS_timer_getoverrun SYS_timer_delete
    SYS_clock_settime SYS_clock_gettime SYS_clock_getres SYS_clock_nanosleep SYS_exit_group
    SYS_epoll_ctl SYS_tgkill SYS_mbind SYS_set_mempolicy SYS_get_mempolicy SYS_mq_open
    SYS_mq_unlink SYS_mq_timedsend SYS_mq_timedreceive SYS_mq_notify SYS_mq_getsetattr
    SYS_kexec_load SYS_waitid SYS_add_key SYS_request_key SYS_keyctl SYS_ioprio_set
    SYS_ioprio_get SYS_inotify_add_watch SYS_inotify_rm_watch SYS_migrate_pages SYS_openat
    SYS_mkdirat SYS_mknodat SYS_fchownat SYS_newfstatat SYS_unlinkat SYS_linkat
    SYS_symlinkat SYS_readlinkat SYS_fchmodat SYS_faccessat SYS_pselect6 SYS_ppoll
    SYS_unshare SYS_set_robust_list SYS_get_robust_list SYS_splice SYS_tee SYS_vmsplice
    SYS_move_pages SYS_utimensat SYS_epoll_pwait SYS_timerfd_create SYS_fallocate
    SYS_timerfd_settime SYS_timerfd_gettime SYS_accept4 SYS_signalfd4 SYS_eventfd2
    SYS_epoll_create1 SYS_dup3 SYS_pipe2 SYS_inotify_init1 SYS_preadv SYS_pwritev
    SYS_rt_tgsigqueueinfo SYS_perf_event_open SYS_recvmmsg SYS_fanotify_init
    SYS_fanotify_mark SYS_prlimit64 SYS_name_to_handle_at SYS_open_by_handle_at
    SYS_clock_adjtime SYS_syncfs SYS_sendmmsg SYS_setns SYS_getcpu SYS_process_vm_readv
    SYS_process_vm_writev SYS_kcmp SYS_finit_module SYS_sched_setattr SYS_sched_getattr
    SYS_renameat2 SYS_seccomp SYS_getrandom SYS_memfd_create SYS_kexec_file_load SYS_bpf
    SYS_execveat SYS_userfaultfd SYS_membarrier SYS_mlock2 SYS_copy_file_range SYS_preadv2
    SYS_pwritev2 SYS_pkey_mprotect SYS_pkey_alloc SYS_pkey_free SYS_statx SYS_rseq
    SYS_pidfd_send_signal SYS_io_uring_setup SYS_io_uring_enter SYS_io_uring_register
    SYS_open_tree SYS_move_mount SYS_fsopen SYS_fsconfig SYS_fsmount SYS_fspick
    SYS_pidfd_open SYS_clone3 SYS_close_range SYS_openat2 SYS_pidfd_getfd SYS_faccessat2
    SYS_process_madvise SYS_epoll_pwait2 SYS_mount_setattr SYS_quotactl_fd
    SYS_landlock_create_ruleset SYS_landlock_add_rule SYS_landlock_restrict_self
    SYS_memfd_secret SYS_process_mrelease SYS_futex_waitv SYS_set_mempolicy_home_node
    SYS_mseal
};

#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
static X86_64: &[(&str, libc::c_long)] = constants! {
    SYS_open SYS_stat SYS_lstat SYS_poll SYS_access SYS_pipe SYS_select SYS_dup2 SYS_pause
    SYS_alarm SYS_fork SYS_vfork SYS_getdents SYS_rename SYS_mkdir SYS_rmdir SYS_creat
    SYS_link SYS_unlink SYS_symlink SYS_readlink SYS_chmod SYS_chown SYS_lchown
    SYS_getrlimit SYS_getpgrp SYS_utime SYS_mknod SYS_uselib SYS_ustat SYS_sysfs
    SYS_modify_ldt SYS__sysctl SYS_arch_prctl SYS_setrlimit SYS_iopl SYS_ioperm SYS_getpmsg
    SYS_putpmsg SYS_afs_syscall SYS_tuxcall SYS_security SYS_time SYS_set_thread_area
    SYS_get_thread_area SYS_epoll_create SYS_epoll_ctl_old SYS_epoll_wait_old SYS_epoll_wait
    SYS_utimes SYS_vserver SYS_inotify_init SYS_futimesat SYS_renameat SYS_sync_file_range
    SYS_signalfd SYS_eventfd SYS_fchmodat2
};

#[cfg(not(target_arch = "x86_64"))]
static X86_64: &[(&str, libc::c_long)] = &[];

#[test]
fn numbers_are_those_of_libc() {
    for (constant, number) in COMMON.iter().chain(X86_64) {
        let name = constant.trim_start_matches("SYS_");
        let row = by_name(name).unwrap_or_else(|| panic!("no row for {name}"));
        let ours = row.number(Arch::HOST).map(libc::c_long::from);
        assert_eq!(ours, Some(*number), "{name}");
    }
}

/// `(name, number)` of the `#define __NR_...` lines of a header.
fn header(path: &str) -> Option<Vec<(String, u32)>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            eprintln!("skipped: {path}: {error}");
            return None;
        }
    };
    let numbers = text.lines().filter_map(|line| {
        let mut words = line.strip_prefix("#define __NR")?.split_whitespace();
        let name = words.next()?;
        let number = words.next()?.parse().ok()?;
        // __NR_read, but also __NR3264_lseek, the 64-bit choice of two calls.
        let name = name
            .strip_prefix('_')
            .or_else(|| name.strip_prefix("3264_"))?;
        Some((name.to_owned(), number))
    });
    Some(numbers.collect())
}

fn check_header(path: &str, arch: Arch, rename: fn(&str) -> &str) {
    let Some(numbers) = header(path) else { return };
    assert!(numbers.len() > 250, "{path} was not understood");
    for (name, number) in numbers {
        let name = rename(&name);
        // Not calls: the end of the list, and the range for architectures. Not for 64 bits: the
        // calls with 64-bit times that 32-bit machines have.
        if matches!(name, "syscalls" | "arch_specific_syscall") || (403..424).contains(&number) {
            continue;
        }
        let row = by_number(arch, number.into());
        assert_eq!(
            row.map(|row| row.name),
            Some(name),
            "number {number} on {}",
            arch.name()
        );
    }
}

#[test]
fn x86_64_numbers_are_those_of_the_kernel_headers() {
    check_header(
        "/usr/include/x86_64-linux-gnu/asm/unistd_64.h",
        Arch::X86_64,
        |name| name,
    );
}

#[test]
fn aarch64_numbers_are_those_of_the_generic_header() {
    check_header(
        "/usr/include/asm-generic/unistd.h",
        Arch::Aarch64,
        |name| match name {
            "fstatat" => "newfstatat",
            "sync_file_range2" => "sync_file_range",
            other => other,
        },
    );
}

#[test]
fn every_row_is_unique_and_in_order() {
    let names: HashSet<&str> = SYSCALLS.iter().map(|row| row.name).collect();
    assert_eq!(names.len(), SYSCALLS.len());
    assert!(
        SYSCALLS
            .windows(2)
            .all(|pair| pair[0].x86_64 < pair[1].x86_64)
    );
    let aarch64: Vec<u32> = SYSCALLS.iter().filter_map(|row| row.aarch64).collect();
    assert_eq!(aarch64.iter().collect::<HashSet<_>>().len(), aarch64.len());
}

#[test]
fn no_number_of_linux_6_18_is_left_out() {
    for number in (0..=336).chain(424..=469) {
        assert!(by_number(Arch::X86_64, number).is_some(), "x86-64 {number}");
    }
    // 439 on: one number for all architectures. 453 is x86's shadow stack.
    for number in (424..=469).filter(|number| by_number(Arch::Aarch64, *number).is_none()) {
        assert_eq!(number, 453, "aarch64 {number}");
    }
    for number in [
        337,
        423,
        470,
        511,
        512,
        u64::from(u32::MAX),
        1 << 32,
        u64::MAX,
    ] {
        assert!(by_number(Arch::X86_64, number).is_none(), "x86-64 {number}");
        assert!(
            by_number(Arch::Aarch64, number).is_none(),
            "aarch64 {number}"
        );
    }
}

#[test]
fn lookup_finds_the_row_itself() {
    for row in SYSCALLS {
        assert_eq!(by_name(row.name), Some(row));
        for arch in Arch::ALL {
            if let Some(number) = row.number(*arch) {
                assert_eq!(by_number(*arch, number.into()), Some(row));
            }
        }
    }
    assert_eq!(by_name("no_such_call"), None);
}

#[test]
fn notes_say_what_their_level_promises() {
    for row in SYSCALLS {
        let name = row.name;
        assert!(row.args.len() <= 6, "{name}");
        match row.level {
            Level::Full => assert_eq!(row.unsupported_errno(), None, "{name}"),
            Level::Partial => assert!(!row.note.is_empty(), "{name}"),
            Level::None => {
                let errno = row
                    .unsupported_errno()
                    .unwrap_or_else(|| panic!("{name}: no errno"));
                let prefix = format!("{}: ", errno_name(errno).unwrap());
                assert!(row.note.starts_with(&prefix), "{name}");
            }
        }
        let printable = |text: &str| text.chars().all(|c| c == ' ' || c.is_ascii_graphic());
        assert!(printable(row.note) && printable(row.name), "{name}");
    }
}

/// What the Sentry's dispatch does with the macro: one match arm a row, by number and family.
#[test]
fn the_macro_generates_a_dispatch() {
    macro_rules! dispatch {
        ($( $x86:literal, $aarch64:tt, $family:ident, $name:ident ( $($arg:ident : $ty:ident),* )
            -> $ret:ident, $level:ident, $note:literal; )*) => {
            fn dispatch(number: u64) -> Option<(&'static str, &'static str, usize)> {
                match number {
                    $( $x86 => {
                        let args: &[&str] = &[ $( stringify!($arg) ),* ];
                        Some((stringify!($family), stringify!($name), args.len()))
                    } )*
                    _ => None,
                }
            }
        };
    }
    runsc_syscall_tables::for_each_syscall!(dispatch);

    assert_eq!(dispatch(0), Some(("io", "read", 3)));
    assert_eq!(dispatch(39), Some(("process", "getpid", 0)));
    assert_eq!(dispatch(400), None);
}

#[test]
fn errnos_are_those_of_libc() {
    assert!(ERRNOS.windows(2).all(|pair| pair[0].0 < pair[1].0));
    for (name, number) in [
        ("EPERM", libc::EPERM),
        ("EAGAIN", libc::EAGAIN),
        ("EWOULDBLOCK", libc::EWOULDBLOCK),
        ("EDEADLK", libc::EDEADLK),
        ("ENOSYS", libc::ENOSYS),
        ("ELOOP", libc::ELOOP),
        ("ENOTSUP", libc::ENOTSUP),
        ("EADDRINUSE", libc::EADDRINUSE),
        ("EHWPOISON", libc::EHWPOISON),
    ] {
        assert_eq!(errno_from_name(name), Some(number), "{name}");
    }
    for (number, name, message) in ERRNOS {
        assert_eq!(errno_name(*number), Some(*name));
        if cfg!(target_env = "gnu") {
            let system = std::io::Error::from_raw_os_error(*number).to_string();
            assert_eq!(system, format!("{message} (os error {number})"));
        }
    }
    assert_eq!(errno_name(0), None);
    assert_eq!(errno_name(-1), None);
}

#[test]
fn signals_have_names() {
    for (number, name) in [
        (libc::SIGHUP, "SIGHUP"),
        (libc::SIGKILL, "SIGKILL"),
        (libc::SIGSEGV, "SIGSEGV"),
        (libc::SIGCHLD, "SIGCHLD"),
        (libc::SIGWINCH, "SIGWINCH"),
        (libc::SIGSYS, "SIGSYS"),
        (32, "SIGRTMIN"),
        (33, "SIGRT_1"),
        (64, "SIGRT_32"),
    ] {
        assert_eq!(signal_name(number), Some(name));
        assert_eq!(signal_from_name(name), Some(number));
    }
    assert_eq!(signal_from_name("term"), Some(15));
    assert_eq!(signal_from_name("9"), Some(9));
    for bad in [0, 65, -1, i32::MIN, i32::MAX] {
        assert_eq!(signal_name(bad), None);
    }
}
