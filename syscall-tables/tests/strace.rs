//! Lines as strace prints them, and guests that want the printer to fail.

use runsc_syscall_tables::strace::{Limits, Memory, Strace, signal_delivery, task_end};
use runsc_syscall_tables::{Arch, SYSCALLS, by_name};

/// A guest whose memory is one stretch at `BASE`; all around it is unmapped.
struct Guest(Vec<u8>);

const BASE: u64 = 0x10000;

impl Memory for Guest {
    fn read(&self, addr: u64, buf: &mut [u8]) -> usize {
        let Some(start) = addr
            .checked_sub(BASE)
            .and_then(|at| usize::try_from(at).ok())
        else {
            return 0;
        };
        let Some(there) = self.0.get(start..) else {
            return 0;
        };
        let len = there.len().min(buf.len());
        buf[..len].copy_from_slice(&there[..len]);
        len
    }
}

impl Guest {
    fn empty() -> Self {
        Guest(Vec::new())
    }

    /// Appends at a multiple of 8 and returns the address.
    fn put(&mut self, bytes: &[u8]) -> u64 {
        self.0.resize(self.0.len().next_multiple_of(8), 0);
        let addr = BASE + self.0.len() as u64;
        self.0.extend_from_slice(bytes);
        addr
    }

    fn words(&mut self, words: &[u64]) -> u64 {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        self.put(&bytes)
    }

    fn ints(&mut self, ints: &[i32]) -> u64 {
        let bytes: Vec<u8> = ints.iter().flat_map(|int| int.to_ne_bytes()).collect();
        self.put(&bytes)
    }

    /// The two parts of a line, with `|` where one ends.
    fn line(&self, name: &str, args: &[u64], result: Option<i64>) -> String {
        self.line_with(Limits::default(), name, args, result)
    }

    fn line_with(&self, limits: Limits, name: &str, args: &[u64], result: Option<i64>) -> String {
        let strace = Strace::new(Arch::X86_64, limits);
        let nr = u64::from(by_name(name).expect("a call of the table").x86_64);
        let mut all = [0xdead_beef_dead_beef; 6];
        all[..args.len()].copy_from_slice(args);
        let enter = strace.enter(nr, &all, self);
        format!("{enter}|{}", strace.exit(nr, &all, result, self))
    }
}

const CWD: u64 = -100_i32 as u32 as u64;

#[test]
fn names_and_flags_are_printed_on_entry() {
    let mut guest = Guest::empty();
    let path = guest.put(b"/etc/ld.so.cache\0");
    assert_eq!(
        guest.line("openat", &[CWD, path, 0o2000000], Some(3)),
        r#"openat(AT_FDCWD, "/etc/ld.so.cache", O_RDONLY|O_CLOEXEC|) = 3"#
    );
    assert_eq!(
        guest.line("openat", &[CWD, path, 0o1102, 0o644], Some(-2)),
        r#"openat(AT_FDCWD, "/etc/ld.so.cache", O_RDWR|O_CREAT|O_TRUNC, 0644|) = -1 ENOENT (No such file or directory)"#
    );
    assert_eq!(
        guest.line("access", &[path, 4], Some(0)),
        r#"access("/etc/ld.so.cache", R_OK|) = 0"#
    );
    assert_eq!(
        guest.line(
            "mmap",
            &[0, 8192, 3, 0x22, u64::MAX, 0],
            Some(0x7f00_0000_0000)
        ),
        "mmap(NULL, 8192, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0x0|) = 0x7f0000000000"
    );
    assert_eq!(guest.line("umask", &[0o22], Some(2)), "umask(022|) = 02");
    assert_eq!(guest.line("getpid", &[], Some(7)), "getpid(|) = 7");
}

#[test]
fn what_the_kernel_writes_is_printed_on_exit() {
    let mut guest = Guest::empty();
    let buf = guest.put(b"root:x:0:0\n\0\x1b[2J");
    assert_eq!(
        guest.line("read", &[3, buf, 4096], Some(11)),
        r#"read(3, |"root:x:0:0\n", 4096) = 11"#
    );
    assert_eq!(
        guest.line("read", &[3, buf, 4096], Some(0)),
        r#"read(3, |"", 4096) = 0"#
    );
    assert_eq!(
        guest.line("read", &[3, buf, 4096], Some(-11)),
        "read(3, |0x10000, 4096) = -1 EAGAIN (Resource temporarily unavailable)"
    );
    // Nothing of the guest reaches a terminal unescaped.
    assert_eq!(
        guest.line("write", &[1, buf, 16], Some(16)),
        r#"write(1, "root:x:0:0\n\0\33[2J", 16|) = 16"#
    );
    let fds = guest.ints(&[3, 4]);
    assert_eq!(
        guest.line("pipe2", &[fds, 0o2000000], Some(0)),
        "pipe2(|[3, 4], O_CLOEXEC) = 0"
    );
}

#[test]
fn strings_are_cut_at_the_limit() {
    let mut guest = Guest::empty();
    let text = guest.put(&[b'a'; 100]);
    let cut = format!(r#"write(1, "{}"..., 100|) = 100"#, "a".repeat(64));
    assert_eq!(guest.line("write", &[1, text, 100], Some(100)), cut);
    let limits = Limits {
        string: 3,
        path: 4,
        ..Limits::default()
    };
    assert_eq!(
        guest.line_with(limits, "write", &[1, text, 100], Some(100)),
        r#"write(1, "aaa"..., 100|) = 100"#
    );
    assert_eq!(
        guest.line_with(limits, "chdir", &[text], Some(-36)),
        r#"chdir("aaaa"...|) = -1 ENAMETOOLONG (File name too long)"#
    );
    // A string that runs into unmapped memory is an address.
    assert_eq!(
        guest.line("chdir", &[text], Some(-14)),
        "chdir(0x10000|) = -1 EFAULT (Bad address)"
    );
    assert_eq!(
        guest.line("chdir", &[0], Some(-14)),
        "chdir(NULL|) = -1 EFAULT (Bad address)"
    );
}

#[test]
fn an_escape_before_a_digit_is_not_ambiguous() {
    let mut guest = Guest::empty();
    let text = guest.put(b"\x011\x7f\xff\"\\");
    assert_eq!(
        guest.line("write", &[1, text, 6], Some(6)),
        r#"write(1, "\0011\177\377\"\\", 6|) = 6"#
    );
}

#[test]
fn programs_and_their_ends() {
    let mut guest = Guest::empty();
    let program = guest.put(b"/bin/true\0");
    let first = guest.put(b"true\0");
    let argv = guest.words(&[first, program, 0]);
    let env = guest.words(&[first, first, first, 0]);
    assert_eq!(
        guest.line("execve", &[program, argv, env], Some(0)),
        format!(r#"execve("/bin/true", ["true", "/bin/true"], {env:#x} /* 3 vars */|) = 0"#)
    );
    assert_eq!(guest.line("exit_group", &[3], None), "exit_group(3|) = ?");
    let status = guest.ints(&[0x0300]);
    assert_eq!(
        guest.line("wait4", &[u64::MAX, status, 1, 0], Some(9)),
        "wait4(-1, |[{WIFEXITED(s) && WEXITSTATUS(s) == 3}], WNOHANG, NULL) = 9"
    );
    let status = guest.ints(&[0x8b]);
    assert_eq!(
        guest.line("wait4", &[u64::MAX, status, 0, 0], Some(9)),
        "wait4(-1, |[{WIFSIGNALED(s) && WTERMSIG(s) == SIGSEGV && WCOREDUMP(s)}], 0, NULL) = 9"
    );
    assert_eq!(
        guest.line("wait4", &[u64::MAX, status, 0, 0], Some(-512)),
        format!(
            "wait4(-1, |{status:#x}, 0, NULL) = ? ERESTARTSYS (To be restarted if SA_RESTART is set)"
        )
    );
    assert_eq!(
        guest.line("clone", &[0x120_0011, 0, 0, 0x1234, 0], Some(9)),
        "clone(CLONE_CHILD_CLEARTID|CLONE_CHILD_SETTID|SIGCHLD, NULL, 0x1234|) = 9"
    );
    let thread = guest.words(&[0x3d_0f00, 0, 0x20, 0x30, 0, 0x7000, 0x1000, 0x99]);
    assert_eq!(
        guest.line("clone3", &[thread, 88], Some(10)),
        "clone3({flags=CLONE_VM|CLONE_FS|CLONE_FILES|CLONE_SIGHAND|CLONE_THREAD|CLONE_SYSVSEM|\
         CLONE_SETTLS|CLONE_PARENT_SETTID|CLONE_CHILD_CLEARTID, child_tid=0x20, parent_tid=0x30, \
         exit_signal=0, stack=0x7000, stack_size=0x1000, tls=0x99}, 88|) = 10"
    );
}

#[test]
fn signals() {
    let mut guest = Guest::empty();
    let action = guest.words(&[1, 0x1400_0000, 0x5000, 1 << 16]);
    let set = guest.words(&[1 << 1 | 1 << 16]);
    let full = guest.words(&[!(1 << 8)]);
    assert_eq!(
        guest.line("rt_sigaction", &[13, action, 0, 8], Some(0)),
        "rt_sigaction(SIGPIPE, {sa_handler=SIG_IGN, sa_mask=[CHLD], \
         sa_flags=SA_RESTORER|SA_RESTART, sa_restorer=0x5000}, |NULL, 8) = 0"
    );
    assert_eq!(
        guest.line("rt_sigprocmask", &[0, set, full, 8], Some(0)),
        "rt_sigprocmask(SIG_BLOCK, [INT CHLD], |~[KILL], 8) = 0"
    );
    assert_eq!(
        guest.line("kill", &[5, 9], Some(0)),
        "kill(5, SIGKILL|) = 0"
    );

    let mut info = [0; 128];
    info[0..4].copy_from_slice(&17_i32.to_ne_bytes());
    info[8..12].copy_from_slice(&1_i32.to_ne_bytes());
    info[16..20].copy_from_slice(&5_i32.to_ne_bytes());
    info[24..28].copy_from_slice(&2_i32.to_ne_bytes());
    assert_eq!(
        signal_delivery(&info),
        "--- SIGCHLD {si_signo=SIGCHLD, si_code=CLD_EXITED, si_pid=5, si_uid=0, si_status=2} ---"
    );
    assert_eq!(task_end(0x0100), "+++ exited with 1 +++");
    assert_eq!(task_end(0x8b), "+++ killed by SIGSEGV (core dumped) +++");
}

#[test]
fn arguments_that_do_not_count_are_left_out() {
    let mut guest = Guest::empty();
    let time = guest.words(&[1, 500]);
    assert_eq!(
        guest.line("futex", &[8, 0x81, 1], Some(1)),
        "futex(0x8, FUTEX_WAKE_PRIVATE, 1|) = 1"
    );
    assert_eq!(
        guest.line("futex", &[8, 0x80, 2, time], Some(-110)),
        "futex(0x8, FUTEX_WAIT_PRIVATE, 2, {tv_sec=1, tv_nsec=500}|) = -1 ETIMEDOUT (Connection timed out)"
    );
    assert_eq!(
        guest.line("futex", &[8, 0x189, 2, 0, 0, 0xffff_ffff], Some(0)),
        "futex(0x8, FUTEX_WAIT_BITSET_PRIVATE|FUTEX_CLOCK_REALTIME, 2, NULL, 0xffffffff|) = 0"
    );
    assert_eq!(
        guest.line("fcntl", &[3, 3], Some(0o102002)),
        "fcntl(3, F_GETFL|) = 0x8402 (flags O_RDWR|O_APPEND|O_LARGEFILE)"
    );
    assert_eq!(
        guest.line("fcntl", &[3, 2, 1], Some(0)),
        "fcntl(3, F_SETFD, FD_CLOEXEC|) = 0"
    );
    assert_eq!(
        guest.line("mremap", &[0x1000, 4096, 8192, 1], Some(0x2000)),
        "mremap(0x1000, 4096, 8192, MREMAP_MAYMOVE|) = 0x2000"
    );
    assert_eq!(
        guest.line("prctl", &[38, 1, 0, 0, 0], Some(0)),
        "prctl(PR_SET_NO_NEW_PRIVS, 0x1, 0x0, 0x0, 0x0|) = 0"
    );
}

#[test]
fn waiting_and_time() {
    let mut guest = Guest::empty();
    let fds = guest.put(&[3, 0, 0, 0, 1, 0, 1, 0, 4, 0, 0, 0, 4, 0, 0, 0]);
    assert_eq!(
        guest.line("poll", &[fds, 2, 100], Some(1)),
        "poll([{fd=3, events=POLLIN}, {fd=4, events=POLLOUT}], 2, 100|) = 1 ([{fd=3, revents=POLLIN}])"
    );
    let set = guest.words(&[0b101000]);
    assert_eq!(
        guest.line("select", &[6, set, 0, 0, 0], Some(2)),
        "select(6, [3 5], NULL, NULL, NULL|) = 2 (in [3 5])"
    );
    assert_eq!(
        guest.line("select", &[6, set, 0, 0, 0], Some(0)),
        "select(6, [3 5], NULL, NULL, NULL|) = 0 (Timeout)"
    );
    let event = guest.put(&[1, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(
        guest.line("epoll_wait", &[5, event, 10, u64::MAX], Some(1)),
        "epoll_wait(5, |[{events=EPOLLIN, data=0x7}], 10, -1) = 1"
    );
    let time = guest.words(&[2, 5]);
    assert_eq!(
        guest.line("clock_gettime", &[1, time], Some(0)),
        "clock_gettime(CLOCK_MONOTONIC, |{tv_sec=2, tv_nsec=5}) = 0"
    );
    assert_eq!(
        guest.line("nanosleep", &[time, time], Some(-4)),
        "nanosleep({tv_sec=2, tv_nsec=5}, |{tv_sec=2, tv_nsec=5}) = -1 EINTR (Interrupted system call)"
    );
}

#[test]
fn files_and_limits() {
    let mut guest = Guest::empty();
    let mut stat = vec![0_u8; 144];
    stat[24..28].copy_from_slice(&0o100_644_u32.to_ne_bytes());
    stat[48..56].copy_from_slice(&1234_u64.to_ne_bytes());
    let stat = guest.put(&stat);
    assert_eq!(
        guest.line("fstat", &[3, stat], Some(0)),
        "fstat(3, |{st_mode=S_IFREG|0644, st_size=1234, ...}) = 0"
    );
    assert_eq!(
        guest.line("fstat", &[3, stat], Some(-9)),
        format!("fstat(3, |{stat:#x}) = -1 EBADF (Bad file descriptor)")
    );
    let limit = guest.words(&[8 << 20, u64::MAX]);
    assert_eq!(
        guest.line("prlimit64", &[0, 3, 0, limit], Some(0)),
        "prlimit64(0, RLIMIT_STACK, NULL, |{rlim_cur=8192*1024, rlim_max=RLIM64_INFINITY}) = 0"
    );
    let text = guest.put(b"hello world");
    let iov = guest.words(&[text, 6, text + 6, 100]);
    assert_eq!(
        guest.line("readv", &[3, iov, 2], Some(11)),
        r#"readv(3, |[{iov_base="hello ", iov_len=6}, {iov_base="world", iov_len=100}], 2) = 11"#
    );
    assert_eq!(
        guest.line("ioctl", &[1, 0x5413, 0x99], Some(-25)),
        "ioctl(1, TIOCGWINSZ, 0x99|) = -1 ENOTTY (Inappropriate ioctl for device)"
    );
    assert_eq!(
        guest.line("ioctl", &[1, 0xc010_4142, 0], Some(0)),
        "ioctl(1, _IOC(_IOC_READ|_IOC_WRITE, 0x41, 0x42, 0x10), NULL|) = 0"
    );
}

#[test]
fn sockets() {
    let mut guest = Guest::empty();
    let fds = guest.ints(&[3, 4]);
    assert_eq!(
        guest.line("socketpair", &[1, 0o2000001, 0, fds], Some(0)),
        "socketpair(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC, 0, |[3, 4]) = 0"
    );
    let inet = guest.put(&[2, 0, 0, 80, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(
        guest.line("connect", &[3, inet, 16], Some(-111)),
        r#"connect(3, {sa_family=AF_INET, sin_port=htons(80), sin_addr=inet_addr("127.0.0.1")}, 16|) = -1 ECONNREFUSED (Connection refused)"#
    );
    let unix = guest.put(b"\x01\0/run/x\0");
    let name = guest.put(b"\x01\0\0abc");
    assert_eq!(
        guest.line("bind", &[3, unix, 110], Some(0)),
        format!("bind(3, {unix:#x}, 110|) = 0"),
        "an address that is not all there"
    );
    assert_eq!(
        guest.line("bind", &[3, unix, 9], Some(0)),
        r#"bind(3, {sa_family=AF_UNIX, sun_path="/run/x"}, 9|) = 0"#
    );
    assert_eq!(
        guest.line("bind", &[3, name, 6], Some(0)),
        r#"bind(3, {sa_family=AF_UNIX, sun_path=@"abc"}, 6|) = 0"#
    );
    let text = guest.put(b"x");
    let iov = guest.words(&[text, 1]);
    let mut rights = vec![
        20_u8, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0,
    ];
    rights.resize(24, 0);
    let control = guest.put(&rights);
    let message = guest.words(&[0, 0, iov, 1, control, 24, 0]);
    assert_eq!(
        guest.line("sendmsg", &[3, message, 0x4000], Some(1)),
        r#"sendmsg(3, {msg_name=NULL, msg_namelen=0, msg_iov=[{iov_base="x", iov_len=1}], msg_iovlen=1, msg_control=[{cmsg_len=20, cmsg_level=SOL_SOCKET, cmsg_type=SCM_RIGHTS, cmsg_data=[7]}], msg_controllen=24, msg_flags=0}, MSG_NOSIGNAL|) = 1"#
    );
}

#[test]
fn numbers_that_no_call_has() {
    let strace = Strace::new(Arch::X86_64, Limits::default());
    let guest = Guest::empty();
    assert_eq!(
        strace.enter(999, &[1, 2, 3, 4, 5, 6], &guest),
        "syscall_0x3e7(0x1, 0x2, 0x3, 0x4, 0x5, 0x6"
    );
    assert_eq!(
        strace.exit(999, &[0; 6], Some(-38), &guest),
        ") = -1 ENOSYS (Function not implemented)"
    );
}

/// `clone`'s last two arguments change places on aarch64, `O_DIRECTORY` has another bit.
#[test]
fn aarch64_differs_where_linux_does() {
    let strace = Strace::new(Arch::Aarch64, Limits::default());
    let guest = Guest(b"/\0".to_vec());
    let clone = strace.enter(220, &[0x128_0000, 0, 0, 0x71, 0xc1, 0], &guest);
    assert_eq!(
        clone,
        "clone(CLONE_SETTLS|CLONE_CHILD_CLEARTID|CLONE_CHILD_SETTID, NULL, 0xc1, 0x71"
    );
    let open = strace.enter(56, &[CWD, BASE, 0o40000, 0, 0, 0], &guest);
    assert_eq!(open, r#"openat(AT_FDCWD, "/", O_RDONLY|O_DIRECTORY"#);
}

/// Memory that has something to say everywhere, and never the same twice.
struct Hostile(std::cell::Cell<u64>);

impl Hostile {
    /// xorshift64*, from a fixed seed: a failure can be repeated.
    fn next(&self) -> u64 {
        let mut x = self.0.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.0.set(x);
        x.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn value(&self) -> u64 {
        let interesting = [
            0,
            1,
            2,
            16,
            64,
            4096,
            0xffff_ffff,
            u64::MAX,
            i64::MAX as u64,
            1 << 63,
            BASE,
        ];
        match self.next() % 4 {
            0 => interesting[(self.next() % interesting.len() as u64) as usize],
            1 => self.next() % 300,
            2 => self.next() & 0xffff_ffff,
            _ => self.next(),
        }
    }
}

impl Memory for Hostile {
    fn read(&self, _addr: u64, buf: &mut [u8]) -> usize {
        let mode = self.next() % 4;
        for chunk in buf.chunks_mut(8) {
            let word = if mode == 0 { self.next() } else { self.value() };
            chunk.copy_from_slice(&word.to_ne_bytes()[..chunk.len()]);
        }
        match self.next() % 4 {
            // A memory that lies about what it did.
            0 => usize::MAX,
            1 => (self.next() % (buf.len() as u64 + 1)) as usize,
            _ => buf.len(),
        }
    }
}

#[test]
fn hostile_guests_get_short_printable_lines() {
    let hostile = Hostile(std::cell::Cell::new(0x9e37_79b9_7f4a_7c15));
    let small = Limits {
        string: 0,
        path: 0,
        items: 0,
        line: 0,
    };
    let huge = Limits {
        string: usize::MAX,
        path: usize::MAX,
        items: usize::MAX,
        line: usize::MAX,
    };
    // One element over the limit is allowed, and what is quoted may be four times as long.
    let longest = Limits::default().line + 4 * 4096;
    for arch in Arch::ALL {
        for row in SYSCALLS {
            let Some(nr) = row.number(*arch) else {
                continue;
            };
            for round in 0..200 {
                let limits = match round % 20 {
                    0 => small,
                    _ => Limits::default(),
                };
                let strace = Strace::new(*arch, limits);
                let args: [u64; 6] = std::array::from_fn(|_| hostile.value());
                let result = match hostile.next() % 4 {
                    0 => None,
                    1 => Some(-((hostile.next() % 600) as i64)),
                    _ => Some(hostile.value() as i64),
                };
                let enter = strace.enter(nr.into(), &args, &hostile);
                let exit = strace.exit(nr.into(), &args, result, &hostile);
                for part in [&enter, &exit] {
                    assert!(
                        part.bytes().all(|byte| (b' '..=b'~').contains(&byte)),
                        "{part:?}"
                    );
                    assert!(part.len() <= longest, "{}: {} bytes", row.name, part.len());
                }
                assert!(enter.starts_with(row.name));
                assert!(exit.contains(") = "));
            }
            let strace = Strace::new(*arch, huge);
            let args: [u64; 6] = std::array::from_fn(|_| hostile.value());
            strace.enter(nr.into(), &args, &hostile);
        }
    }
}
