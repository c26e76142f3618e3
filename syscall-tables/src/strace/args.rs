//! One argument, by its type; which arguments a call ignores; results with a meaning.

use super::flags::{self, Names, bits, choice, octal, one};
use super::memory::Record;
use super::printer::Printer;
use super::signal_text;
use crate::types::{Arch, ArgType};

/// The low half of a register: what the kernel sees of an `int`.
fn low(value: u64) -> i32 {
    low_unsigned(value).cast_signed()
}

fn low_unsigned(value: u64) -> u32 {
    (value & 0xffff_ffff) as u32
}

impl Printer<'_> {
    /// True for an argument that this call, with its other arguments, does not look at.
    pub fn omits(&self, i: usize) -> bool {
        let Some(arg) = self.row.args.get(i) else {
            return true;
        };
        match (self.row.name, arg.name) {
            // Only 32-bit machines split an offset.
            (_, "pos_h") => true,
            ("open", "mode") => !flags::creates(self.arg(1)),
            ("openat", "mode") => !flags::creates(self.arg(2)),
            // F_GETFD, F_GETFL, F_GETOWN, F_GETSIG, F_GETLEASE, F_GETPIPE_SZ, F_GET_SEALS.
            ("fcntl", "arg") => {
                matches!(
                    low_unsigned(self.arg(1)),
                    1 | 3 | 9 | 11 | 1025 | 1032 | 1034
                )
            }
            ("mremap", "new_address") => self.arg(3) & 6 == 0,
            ("clone", "parent_tid") => self.arg(0) & 0x10_1000 == 0,
            ("clone", "child_tid") => self.arg(0) & 0x120_0000 == 0,
            ("clone", "tls") => self.arg(0) & 0x8_0000 == 0,
            ("futex", _) => self.futex_omits(i),
            ("prctl", _) => i > prctl_args(self.arg(0)),
            ("sendto", "addr" | "addrlen") => self.arg(4) == 0 && self.arg(5) == 0,
            ("membarrier", "cpu_id") => self.arg(1) & 1 == 0,
            _ => false,
        }
    }

    fn futex_omits(&self, i: usize) -> bool {
        match self.arg(1) & 0x7f {
            0 => i > 3,                // WAIT: val, timeout
            1 => i > 2,                // WAKE: val
            3 => i > 4,                // REQUEUE: val, val2, uaddr2
            6 | 13 => i == 2 || i > 3, // LOCK_PI: timeout
            7 | 8 => i > 1,            // UNLOCK_PI, TRYLOCK_PI
            9 => i == 4,               // WAIT_BITSET: val, timeout, bitset
            10 => i == 3 || i == 4,    // WAKE_BITSET: val, bitset
            _ => false,
        }
    }

    fn flag_arg(&mut self, value: u64, names: Names) {
        // All flag arguments but a few are `int`; of those few nothing is lost either, since
        // their callers pass `u64` themselves.
        let text = bits(u64::from(low_unsigned(value)), names);
        self.text(&text);
    }

    fn choice_arg(&mut self, value: u64, names: Names) {
        let text = choice(u64::from(low_unsigned(value)), names);
        self.text(&text);
    }

    pub fn fd(&mut self, value: u64, or_cwd: bool) {
        match low(value) {
            -100 if or_cwd => self.text("AT_FDCWD"),
            fd => self.put(format_args!("{fd}")),
        }
    }

    /// Prints argument `i`, which the row has.
    #[expect(
        clippy::too_many_lines,
        reason = "one line a type, as the enum has them"
    )]
    pub fn print_arg(&mut self, i: usize) {
        let Some(arg) = self.row.args.get(i) else {
            return;
        };
        let value = self.arg(i);
        let next = self.arg(i + 1);
        match arg.ty {
            ArgType::Int => self.put(format_args!("{}", low(value))),
            ArgType::UInt => self.put(format_args!("{}", low_unsigned(value))),
            ArgType::Hex => self.put(format_args!("{value:#x}")),
            ArgType::Size => self.put(format_args!("{value}")),
            ArgType::Offset => self.put(format_args!("{}", value.cast_signed())),
            ArgType::Dev => self.device(value),
            ArgType::Addr => self.addr(value),

            ArgType::Fd => self.fd(value, false),
            ArgType::DirFd => self.fd(value, true),
            ArgType::Path => self.c_string(value, self.limits.path),
            ArgType::Str => self.c_string(value, self.limits.string),
            ArgType::StringArray => self.strings(value),
            ArgType::EnvArray => self.environment(value),

            ArgType::BufIn => self.buffer(value, next),
            ArgType::BufOut => self.out_buffer(value, next),
            ArgType::IoVecIn => self.io_vector(value, next, None),
            ArgType::IoVecOut => self.out_io_vector(value, next),
            ArgType::CwdOut => match self.success() {
                Some(_) => self.c_string(value, self.limits.path),
                None => self.addr(value),
            },
            ArgType::DentsOut => self.directory_entries(value),

            ArgType::OpenFlags => {
                let text = flags::open_flags(u64::from(low_unsigned(value)), self.arch);
                self.text(&text);
            }
            ArgType::OpenMode => self.text(&octal(value & 0xffff)),
            ArgType::Mode => {
                let text = flags::file_mode(value & 0xffff);
                self.text(&text);
            }
            ArgType::OpenHow => self.open_how(value, next),
            ArgType::AccessMode => self.flag_arg(value, flags::ACCESS),
            ArgType::AtFlags if self.row.name == "faccessat2" => {
                self.flag_arg(value, flags::AT_ACCESS);
            }
            ArgType::AtFlags | ArgType::UnlinkFlags => self.flag_arg(value, flags::AT),
            ArgType::RenameFlags => self.flag_arg(value, flags::RENAME),
            ArgType::Whence => self.choice_arg(value, flags::WHENCE),
            ArgType::FcntlCmd => self.choice_arg(value, flags::FCNTL),
            ArgType::FcntlArg => self.fcntl_arg(value),
            ArgType::FlockOp => self.flag_arg(value, flags::FLOCK),
            ArgType::FdFlags => self.flag_arg(value, flags::FD_FLAGS),
            ArgType::FdPairOut => {
                if let Some(bytes) = self.out_record(value, 8) {
                    let pair = Record::new(&bytes);
                    self.put(format_args!("[{}, {}]", pair.i32(0), pair.i32(4)));
                }
            }
            ArgType::CloseRangeFlags => self.flag_arg(value, flags::CLOSE_RANGE),
            ArgType::MemfdFlags => self.flag_arg(value, flags::MEMFD),
            ArgType::Ioctl => self.ioctl(low_unsigned(value)),
            ArgType::OffsetPtr => self.number(value, 8, true),
            ArgType::RwfFlags => self.flag_arg(value, flags::RWF),
            ArgType::SpliceFlags => self.flag_arg(value, flags::SPLICE),
            ArgType::SyncRangeFlags => self.flag_arg(value, flags::SYNC_RANGE),
            ArgType::Fadvice => self.choice_arg(value, flags::FADVICE),
            ArgType::FallocMode => self.flag_arg(value, flags::FALLOC),
            ArgType::StatOut => self.stat(value),
            ArgType::StatxMask => self.flag_arg(value, flags::STATX),
            ArgType::StatxOut => self.statx(value),
            ArgType::StatfsOut => self.statfs(value),
            ArgType::XattrFlags => self.flag_arg(value, flags::XATTR),
            ArgType::MountFlags => self.flag_arg(value, flags::MOUNT),
            ArgType::UmountFlags => self.flag_arg(value, flags::UMOUNT),
            ArgType::InotifyMask => self.flag_arg(value, flags::INOTIFY),
            ArgType::Utimbuf => {
                if let Some(bytes) = self.record(value, 16) {
                    let times = Record::new(&bytes);
                    let (read, written) = (times.i64(0), times.i64(8));
                    self.put(format_args!("{{actime={read}, modtime={written}}}"));
                }
            }
            ArgType::TimevalPair => self.times(value, 2, "tv_usec"),
            ArgType::TimespecPair => self.times(value, 2, "tv_nsec"),

            ArgType::PollFds => self.poll_fds(value, next, false),
            ArgType::FdSet => self.fd_set(value, self.arg(0)),
            ArgType::EpollOp => self.choice_arg(value, flags::EPOLL_OP),
            ArgType::EpollEvent => self.epoll_events(value, 1, false),
            ArgType::EpollEventsOut => match self.success() {
                Some(count) => self.epoll_events(value, count, true),
                None => self.addr(value),
            },
            ArgType::EventfdFlags => self.flag_arg(value, flags::EVENTFD),

            ArgType::Prot => self.flag_arg(value, flags::PROT),
            ArgType::MapFlags => self.flag_arg(value, flags::MAP),
            ArgType::MremapFlags => self.flag_arg(value, flags::MREMAP),
            ArgType::MsyncFlags => self.flag_arg(value, flags::MSYNC),
            ArgType::Madvise => self.choice_arg(value, flags::MADVISE),
            ArgType::MlockFlags => self.flag_arg(value, flags::MLOCK),
            ArgType::MlockallFlags => self.flag_arg(value, flags::MLOCKALL),

            ArgType::Pid => self.put(format_args!("{}", low(value))),
            ArgType::CloneFlags => {
                let text = clone_flags(u64::from(low_unsigned(value)));
                self.text(&text);
            }
            ArgType::CloneArgs => self.clone_args(value, next),
            ArgType::WaitOptions => self.flag_arg(value, flags::WAIT),
            ArgType::WaitStatusOut => self.wait_status(value),
            ArgType::IdType => self.choice_arg(value, flags::ID_TYPE),
            ArgType::PrctlOp => self.choice_arg(value, flags::PRCTL),
            ArgType::ArchPrctlOp => self.choice_arg(value, flags::ARCH_PRCTL),
            ArgType::PidfdFlags => self.flag_arg(value, flags::PIDFD),
            ArgType::SchedPolicy => {
                let policy = u64::from(low_unsigned(value));
                let mut text = choice(policy & !0x4000_0000, flags::POLICY);
                if policy & 0x4000_0000 != 0 {
                    text.push_str("|SCHED_RESET_ON_FORK");
                }
                self.text(&text);
            }
            ArgType::SchedParam => self.number(value, 4, true),
            ArgType::SchedParamOut => self.out_number(value, 4, true),
            ArgType::CpuSet => self.cpu_set(value, self.arg(1)),
            ArgType::CpuSetOut => match self.success() {
                Some(len) => self.cpu_set(value, len),
                None => self.addr(value),
            },
            ArgType::PriorityWhich => self.choice_arg(value, flags::PRIORITY),
            ArgType::RusageWho => self.choice_arg(value, flags::RUSAGE),
            ArgType::RusageOut => self.rusage(value),

            ArgType::Signal => self.text(&signal_text(low(value))),
            ArgType::SigHow => self.choice_arg(value, flags::SIG_HOW),
            ArgType::SigSet => self.signal_set(value),
            ArgType::SigSetOut => match self.success() {
                Some(_) => self.signal_set(value),
                None => self.addr(value),
            },
            ArgType::SigSetArg => self.signal_set_arg(value),
            ArgType::SigAction => self.signal_action(value),
            ArgType::SigActionOut => match self.success() {
                Some(_) => self.signal_action(value),
                None => self.addr(value),
            },
            ArgType::SigInfo => self.signal_info(value),
            ArgType::SigInfoOut => match self.success() {
                Some(_) => self.signal_info(value),
                None => self.addr(value),
            },
            ArgType::SigStack => self.signal_stack(value),
            ArgType::SigStackOut => match self.success() {
                Some(_) => self.signal_stack(value),
                None => self.addr(value),
            },
            ArgType::SigEvent => self.signal_event(value),

            ArgType::FutexOp => {
                let text = futex_op(u64::from(low_unsigned(value)));
                self.text(&text);
            }
            ArgType::FutexTimeout => match self.arg(1) & 0x7f {
                // The slot holds a second count there.
                3 | 4 | 5 | 12 => self.put(format_args!("{}", low_unsigned(value))),
                _ => self.times(value, 1, "tv_nsec"),
            },
            ArgType::FutexWaitV => self.futex_waiters(value, next),
            ArgType::MembarrierCmd => self.choice_arg(value, flags::MEMBARRIER),

            ArgType::ClockId => {
                let clock = low(value);
                match one(u64::from(low_unsigned(value)), flags::CLOCK) {
                    Some(name) => self.text(name),
                    None => self.put(format_args!("{clock}")),
                }
            }
            ArgType::TimerFlags => self.flag_arg(value, flags::TIMER),
            ArgType::ItimerWhich => self.choice_arg(value, flags::ITIMER),
            ArgType::Timespec => self.times(value, 1, "tv_nsec"),
            ArgType::TimespecOut => self.out_times(value, "tv_nsec"),
            ArgType::Timeval => self.times(value, 1, "tv_usec"),
            ArgType::TimevalOut => self.out_times(value, "tv_usec"),
            ArgType::Itimerval => self.timer(value, "tv_usec"),
            ArgType::Itimerspec => self.timer(value, "tv_nsec"),
            ArgType::ItimervalOut => match self.success() {
                Some(_) => self.timer(value, "tv_usec"),
                None => self.addr(value),
            },
            ArgType::ItimerspecOut => match self.success() {
                Some(_) => self.timer(value, "tv_nsec"),
                None => self.addr(value),
            },
            ArgType::TimeOut => self.out_number(value, 8, true),
            ArgType::TmsOut => self.process_times(value),

            ArgType::Uid | ArgType::Gid => self.id(low_unsigned(value)),
            ArgType::UidOut => self.out_number(value, 4, false),
            ArgType::Groups => self.groups(value, self.arg(0)),
            ArgType::GroupsOut => match self.success() {
                // With size 0 only the number of groups is asked for.
                Some(count) if self.arg(0) != 0 => self.groups(value, count),
                _ => self.addr(value),
            },
            ArgType::CapHeader => self.cap_header(value),
            ArgType::CapData => self.cap_data(value),
            ArgType::CapDataOut => match self.success() {
                Some(_) => self.cap_data(value),
                None => self.addr(value),
            },
            ArgType::SeccompOp => self.choice_arg(value, flags::SECCOMP),

            ArgType::UtsnameOut => self.utsname(value),
            ArgType::SysinfoOut => self.sysinfo(value),
            ArgType::Resource => self.choice_arg(value, flags::RESOURCE),
            ArgType::Rlimit => self.rlimit(value),
            ArgType::RlimitOut => match self.success() {
                Some(_) => self.rlimit(value),
                None => self.addr(value),
            },
            ArgType::RandomFlags => self.flag_arg(value, flags::RANDOM),

            ArgType::SockDomain => self.choice_arg(value, flags::DOMAIN),
            ArgType::SockType => {
                let kind = u64::from(low_unsigned(value));
                let mut text = choice(kind & 0xf, flags::SOCK_KIND);
                if kind & !0xf != 0 {
                    text.push('|');
                    text.push_str(&bits(kind & !0xf, flags::SOCK_FLAGS));
                }
                self.text(&text);
            }
            ArgType::SockFlags => self.flag_arg(value, flags::SOCK_FLAGS),
            ArgType::SockAddr => self.socket_address(value, next),
            ArgType::SockAddrOut => self.out_socket_address(value, next),
            ArgType::LenInOut => self.number(value, 4, true),
            ArgType::SockLevel => self.choice_arg(value, flags::SOCK_LEVEL),
            ArgType::SockOpt => self.socket_option(value),
            ArgType::SockOptIn => self.option_value(value, next),
            ArgType::SockOptOut => self.out_option_value(value, next),
            ArgType::MsgFlags => self.flag_arg(value, flags::MSG),
            ArgType::MsgIn => self.message(value, None),
            ArgType::MsgOut => match self.success() {
                Some(received) => self.message(value, Some(received)),
                None => self.addr(value),
            },
            ArgType::MmsgIn => {
                let count = self.success().unwrap_or(next);
                self.messages(value, count, false);
            }
            ArgType::MmsgOut => match self.success() {
                Some(count) => self.messages(value, count, true),
                None => self.addr(value),
            },
            ArgType::ShutdownHow => self.choice_arg(value, flags::SHUTDOWN),

            ArgType::IntOut => self.out_number(value, 4, true),
            ArgType::SizeOut => self.out_number(value, 8, false),
            ArgType::AddrOut => {
                if let Some(bytes) = self.out_record(value, 8) {
                    self.put(format_args!("[{:#x}]", Record::new(&bytes).u64(0)));
                }
            }
        }
    }

    fn out_buffer(&mut self, addr: u64, room: u64) {
        let Some(result) = self.success() else {
            return self.addr(addr);
        };
        // What the result counts: nothing for calls asked for a size only (`getxattr`), and
        // for `syslog` some actions return a state.
        self.buffer(addr, result.min(room));
    }

    fn out_io_vector(&mut self, addr: u64, count: u64) {
        match self.success() {
            Some(read) => self.io_vector(addr, count, Some(read)),
            None => self.addr(addr),
        }
    }

    /// `[5]`: an integer of `size` bytes, 4 or 8, in memory.
    fn number(&mut self, addr: u64, size: usize, signed: bool) {
        if let Some(bytes) = self.record(addr, size) {
            let record = Record::new(&bytes);
            match (size, signed) {
                (4, true) => self.put(format_args!("[{}]", record.i32(0))),
                (4, false) => self.put(format_args!("[{}]", record.u32(0))),
                (_, true) => self.put(format_args!("[{}]", record.i64(0))),
                (_, false) => self.put(format_args!("[{}]", record.u64(0))),
            }
        }
    }

    fn out_number(&mut self, addr: u64, size: usize, signed: bool) {
        match self.success() {
            Some(_) => self.number(addr, size, signed),
            None => self.addr(addr),
        }
    }

    /// Rest of a sleep that was interrupted, or a time asked for.
    fn out_times(&mut self, addr: u64, fraction: &str) {
        // EINTR and its restart codes are the failures that still write.
        let interrupted = matches!(self.result, Some(-4 | -516));
        if self.success().is_some() && self.row.name.ends_with("nanosleep") {
            // Only written when interrupted.
            self.addr(addr);
        } else if self.success().is_some() || interrupted {
            self.times(addr, 1, fraction);
        } else {
            self.addr(addr);
        }
    }

    /// A user or group id, where -1 stands for "unchanged".
    pub fn id(&mut self, id: u32) {
        if id == u32::MAX {
            self.text("-1")
        } else {
            self.put(format_args!("{id}"))
        }
    }

    fn device(&mut self, dev: u64) {
        let major = (dev >> 8) & 0xfff;
        let minor = (dev & 0xff) | ((dev >> 12) & 0xf_ff00);
        self.put(format_args!("makedev({major:#x}, {minor:#x})"));
    }

    fn strings(&mut self, addr: u64) {
        if addr == 0 {
            return self.text("NULL");
        }
        let (pointers, ended) = self.pointers(addr, self.limits.items);
        if pointers.is_empty() && !ended {
            return self.addr(addr);
        }
        self.text("[");
        for (i, pointer) in pointers.iter().enumerate() {
            if i != 0 {
                self.text(", ");
            }
            if self.is_full() {
                self.text("...]");
                return;
            }
            self.c_string(*pointer, self.limits.string);
        }
        self.text(if ended { "]" } else { ", ...]" });
    }

    fn environment(&mut self, addr: u64) {
        // Counting is cheap, so the bound is one for hostile arrays only.
        const MOST: usize = 4096;
        let (pointers, ended) = self.pointers(addr, MOST);
        self.addr(addr);
        let more = if ended { "" } else { " or more" };
        if addr != 0 && (ended || !pointers.is_empty()) {
            self.put(format_args!(" /* {}{more} vars */", pointers.len()));
        }
    }

    fn fcntl_arg(&mut self, value: u64) {
        match low_unsigned(self.arg(1)) {
            2 => self.flag_arg(value, flags::FD_CLOEXEC),
            4 => {
                let text = flags::open_flags(u64::from(low_unsigned(value)), self.arch);
                self.text(&text);
            }
            5..=7 | 36..=38 => self.file_lock(value),
            10 => self.text(&signal_text(low(value))),
            1024 => self.choice_arg(value, flags::LOCK_KIND),
            1033 => self.flag_arg(value, flags::SEALS),
            0 | 8 | 1030 | 1031 => self.put(format_args!("{}", low(value))),
            _ => self.put(format_args!("{value:#x}")),
        }
    }

    fn ioctl(&mut self, request: u32) {
        if let Some(name) = one(u64::from(request), flags::IOCTL) {
            return self.text(name);
        }
        let direction = match request >> 30 {
            0 => "_IOC_NONE",
            1 => "_IOC_WRITE",
            2 => "_IOC_READ",
            _ => "_IOC_READ|_IOC_WRITE",
        };
        let (kind, nr, size) = (
            (request >> 8) & 0xff,
            request & 0xff,
            (request >> 16) & 0x3fff,
        );
        self.put(format_args!(
            "_IOC({direction}, {kind:#x}, {nr:#x}, {size:#x})"
        ));
    }

    /// Prints the result where it says more than a number; false if it does not.
    pub fn special_result(&mut self) -> bool {
        let Some(value) = self.success() else {
            return false;
        };
        match (self.row.name, value) {
            ("poll" | "ppoll" | "select" | "pselect6", 0) => self.text("0 (Timeout)"),
            ("poll" | "ppoll", _) => {
                self.put(format_args!("{} (", value.cast_signed()));
                self.poll_fds(self.arg(0), self.arg(1), true);
                self.text(")");
            }
            ("select" | "pselect6", _) => self.selected(value),
            ("fcntl", _) if low(self.arg(1)) == 3 => {
                let text = flags::open_flags(value, self.arch);
                self.put(format_args!("{value:#x} (flags {text})"));
            }
            ("fcntl", 1..) if low(self.arg(1)) == 1 => {
                let text = bits(value, flags::FD_CLOEXEC);
                self.put(format_args!("{value:#x} (flags {text})"));
            }
            ("fcntl", 1..) if low(self.arg(1)) == 1034 => {
                let text = bits(value, flags::SEALS);
                self.put(format_args!("{value:#x} (seals {text})"));
            }
            _ => return false,
        }
        true
    }

    fn selected(&mut self, ready: u64) {
        self.put(format_args!("{} (", ready.cast_signed()));
        let mut any = false;
        for (i, name) in [(1, "in"), (2, "out"), (3, "except")] {
            if self.arg(i) == 0 {
                continue;
            }
            self.put(format_args!("{}{name} ", if any { ", " } else { "" }));
            any = true;
            self.fd_set(self.arg(i), self.arg(0));
        }
        self.text(")");
    }

    /// `struct epoll_event` has no padding on x86-64.
    pub fn epoll_event_layout(&self) -> (usize, usize) {
        match self.arch {
            Arch::X86_64 => (12, 4),
            Arch::Aarch64 => (16, 8),
        }
    }
}

/// How many arguments follow `prctl`'s first.
fn prctl_args(option: u64) -> usize {
    match option {
        // What only asks: dumpable, keepcaps, timing, seccomp, securebits, timer slack.
        3 | 7 | 13 | 21 | 27 | 30 => 0,
        1 | 2 | 4 | 8 | 14 | 15 | 16 | 23..=26 | 28 | 29 | 36 | 37 | 40 | 0x5961_6d61 => 1,
        22 => 2,
        _ => 4,
    }
}

/// `CLONE_VM|SIGCHLD`: the low byte is the signal sent at the end.
fn clone_flags(value: u64) -> String {
    let signal = (value & 0x7f) as i32;
    let high = value & !0x7f;
    match (high, signal) {
        (0, 0) => "0".to_owned(),
        (0, _) => signal_text(signal),
        (_, 0) => bits(high, flags::CLONE),
        _ => format!("{}|{}", bits(high, flags::CLONE), signal_text(signal)),
    }
}

fn futex_op(value: u64) -> String {
    let mut text = choice(value & 0x7f, flags::FUTEX);
    if value & 0x80 != 0 {
        text.push_str("_PRIVATE");
    }
    if value & 0x100 != 0 {
        text.push_str("|FUTEX_CLOCK_REALTIME");
    }
    if value & !0x1ff != 0 {
        text.push_str(&format!("|{:#x}", value & !0x1ff));
    }
    text
}
