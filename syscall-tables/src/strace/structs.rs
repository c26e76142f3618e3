//! Structures in the guest's memory, except those of sockets.
//!
//! Layouts are the kernel's for 64-bit programs, which x86-64 and aarch64 share but for
//! `struct stat` and `struct epoll_event`.

use super::flags::{self, bits, choice};
use super::memory::Record;
use super::printer::Printer;
use super::signal_text;
use crate::signal::signal_name;
use crate::types::Arch;
use std::fmt::Write;

fn time_text(record: &Record<'_>, at: usize, fraction: &str) -> String {
    format!(
        "{{tv_sec={}, {fraction}={}}}",
        record.i64(at),
        record.i64(at + 8)
    )
}

/// `UTIME_NOW` and `UTIME_OMIT` stand in for times.
fn utime_text(record: &Record<'_>, at: usize, fraction: &str) -> String {
    match record.i64(at + 8) {
        0x3fff_ffff if fraction == "tv_nsec" => "UTIME_NOW".to_owned(),
        0x3fff_fffe if fraction == "tv_nsec" => "UTIME_OMIT".to_owned(),
        _ => time_text(record, at, fraction),
    }
}

/// The set of a mask, the complement if that is shorter.
pub(super) fn signal_set_text(mask: u64) -> String {
    let (shown, complement) = if mask.count_ones() > 32 {
        (!mask, "~")
    } else {
        (mask, "")
    };
    let names: Vec<&str> = (1..=64)
        .filter(|signal| shown & (1 << (signal - 1)) != 0)
        .filter_map(signal_name)
        .map(|name| name.strip_prefix("SIG").unwrap_or(name))
        .collect();
    format!("{complement}[{}]", names.join(" "))
}

/// `{si_signo=SIGCHLD, si_code=CLD_EXITED, si_pid=2, si_uid=0, si_status=0}`.
pub(super) fn siginfo_text(info: &Record<'_>) -> String {
    let (signal, code) = (info.i32(0), info.u32(8));
    let codes = match signal {
        17 if code <= 6 && code != 0 => flags::CLD,
        11 if code <= 4 && code != 0 => flags::SEGV,
        _ => flags::SI_CODE,
    };
    let name = flags::one(u64::from(code), codes)
        .map_or_else(|| code.cast_signed().to_string(), str::to_owned);
    let mut text = format!("{{si_signo={}, si_code={name}", signal_text(signal));
    let sender = (info.i32(16), info.u32(20));
    let written = match (signal, code.cast_signed()) {
        (17, 1..=6) => {
            let status = info.i32(24);
            let status = if code == 1 {
                status.to_string()
            } else {
                signal_text(status)
            };
            write!(
                text,
                ", si_pid={}, si_uid={}, si_status={status}",
                sender.0, sender.1
            )
        }
        // SI_USER, SI_TKILL
        (_, 0 | -6) => write!(text, ", si_pid={}, si_uid={}", sender.0, sender.1),
        (_, -1) => write!(
            text,
            ", si_pid={}, si_uid={}, si_value={:#x}",
            sender.0,
            sender.1,
            info.u64(24)
        ),
        (_, -2) => write!(
            text,
            ", si_timerid={}, si_overrun={}, si_value={:#x}",
            info.i32(16),
            info.i32(20),
            info.u64(24)
        ),
        (4 | 5 | 7 | 8 | 11, 1..=0x7f) => write!(text, ", si_addr={:#x}", info.u64(16)),
        _ => Ok(()),
    };
    debug_assert!(written.is_ok(), "writing to a String does not fail");
    text.push('}');
    text
}

impl Printer<'_> {
    /// `count` times, in brackets if there are more than one.
    pub fn times(&mut self, addr: u64, count: usize, fraction: &str) {
        let Some(bytes) = self.record(addr, 16 * count) else {
            return;
        };
        let record = Record::new(&bytes);
        if count == 1 {
            return self.text(&time_text(&record, 0, fraction));
        }
        let (first, second) = (
            utime_text(&record, 0, fraction),
            utime_text(&record, 16, fraction),
        );
        self.put(format_args!("[{first}, {second}]"));
    }

    pub fn timer(&mut self, addr: u64, fraction: &str) {
        let Some(bytes) = self.record(addr, 32) else {
            return;
        };
        let record = Record::new(&bytes);
        let (interval, value) = (
            time_text(&record, 0, fraction),
            time_text(&record, 16, fraction),
        );
        self.put(format_args!("{{it_interval={interval}, it_value={value}}}"));
    }

    pub fn process_times(&mut self, addr: u64) {
        let Some(bytes) = self.out_record(addr, 32) else {
            return;
        };
        let t = Record::new(&bytes);
        self.put(format_args!(
            "{{tms_utime={}, tms_stime={}, tms_cutime={}, tms_cstime={}}}",
            t.i64(0),
            t.i64(8),
            t.i64(16),
            t.i64(24)
        ));
    }

    pub fn stat(&mut self, addr: u64) {
        let (len, mode_at) = match self.arch {
            Arch::X86_64 => (144, 24),
            Arch::Aarch64 => (128, 16),
        };
        let Some(bytes) = self.out_record(addr, len) else {
            return;
        };
        let stat = Record::new(&bytes);
        let mode = u64::from(stat.u32(mode_at));
        let size_or_device = match mode & 0o170_000 {
            0o020_000 | 0o060_000 => {
                // st_rdev, 40 on x86-64 and 32 on aarch64.
                let dev = stat.u64(if self.arch == Arch::X86_64 { 40 } else { 32 });
                let (major, minor) = ((dev >> 8) & 0xfff, (dev & 0xff) | ((dev >> 12) & 0xf_ff00));
                format!("st_rdev=makedev({major:#x}, {minor:#x})")
            }
            _ => format!("st_size={}", stat.i64(48)),
        };
        self.put(format_args!(
            "{{st_mode={}, {size_or_device}, ...}}",
            flags::file_mode(mode)
        ));
    }

    pub fn statx(&mut self, addr: u64) {
        let Some(bytes) = self.out_record(addr, 256) else {
            return;
        };
        let stat = Record::new(&bytes);
        let mask = bits(u64::from(stat.u32(0)), flags::STATX);
        let mode = flags::file_mode(u64::from(stat.u16(28)));
        let size = stat.u64(40);
        self.put(format_args!(
            "{{stx_mask={mask}, stx_mode={mode}, stx_size={size}, ...}}"
        ));
    }

    pub fn statfs(&mut self, addr: u64) {
        let Some(bytes) = self.out_record(addr, 120) else {
            return;
        };
        let stat = Record::new(&bytes);
        let kind = choice(stat.u64(0), flags::FS_MAGIC);
        self.put(format_args!(
            "{{f_type={kind}, f_bsize={}, f_blocks={}, f_bfree={}, f_bavail={}, ...}}",
            stat.u64(8),
            stat.u64(16),
            stat.u64(24),
            stat.u64(32)
        ));
    }

    pub fn open_how(&mut self, addr: u64, size: u64) {
        if size < 24 {
            return self.addr(addr);
        }
        let Some(bytes) = self.record(addr, 24) else {
            return;
        };
        let how = Record::new(&bytes);
        let open = flags::open_flags(how.u64(0), self.arch);
        self.put(format_args!("{{flags={open}"));
        if flags::creates(how.u64(0)) {
            self.put(format_args!(", mode={}", flags::octal(how.u64(8))));
        }
        self.put(format_args!(
            ", resolve={}}}",
            bits(how.u64(16), flags::RESOLVE)
        ));
    }

    pub fn file_lock(&mut self, addr: u64) {
        let Some(bytes) = self.record(addr, 32) else {
            return;
        };
        let lock = Record::new(&bytes);
        let kind = choice(u64::from(lock.u16(0)), flags::LOCK_KIND);
        let whence = choice(u64::from(lock.u16(2)), flags::WHENCE);
        let (start, len) = (lock.i64(8), lock.i64(16));
        self.put(format_args!(
            "{{l_type={kind}, l_whence={whence}, l_start={start}, l_len={len}}}"
        ));
    }

    /// Buffers one after the other; with `done` only so many bytes of them have a meaning.
    pub fn io_vector(&mut self, addr: u64, count: u64, done: Option<u64>) {
        let mut left = done;
        self.array(addr, count, 16, |printer, element| {
            let iov = Record::new(element);
            let (base, len) = (iov.u64(0), iov.u64(8));
            let shown = left.map_or(len, |left| left.min(len));
            left = left.map(|left| left - shown);
            printer.text("{iov_base=");
            printer.buffer(base, shown);
            printer.put(format_args!(", iov_len={len}}}"));
        });
    }

    /// `0x7f.. /* 12 entries */`.
    pub fn directory_entries(&mut self, addr: u64) {
        const MOST: usize = 64 * 1024;
        self.addr(addr);
        let Some(written) = self.success() else {
            return;
        };
        let len = usize::try_from(written).unwrap_or(usize::MAX);
        let bytes = self.bytes(addr, len.min(MOST));
        let (mut at, mut entries) = (0, 0);
        // d_reclen is at 16 in both `linux_dirent` and `linux_dirent64`.
        while at + 18 < bytes.len() {
            let step = usize::from(Record::new(&bytes).u16(at + 16));
            if step == 0 {
                break;
            }
            at += step;
            entries += 1;
        }
        let more = if len > MOST { " or more" } else { "" };
        self.put(format_args!(" /* {entries}{more} entries */"));
    }

    pub fn poll_fds(&mut self, addr: u64, count: u64, after: bool) {
        let count = count & 0xffff_ffff;
        if !after {
            return self.array(addr, count, 8, |printer, element| {
                let entry = Record::new(element);
                let events = bits(u64::from(entry.u16(4)), flags::POLL);
                printer.put(format_args!("{{fd={}, events={events}}}", entry.i32(0)));
            });
        }
        let shown = usize::try_from(count)
            .unwrap_or(usize::MAX)
            .min(self.limits.items);
        let bytes = self.bytes(addr, shown.saturating_mul(8));
        let ready: Vec<String> = bytes
            .chunks_exact(8)
            .map(Record::new)
            .filter(|entry| entry.u16(6) != 0)
            .map(|entry| {
                let events = bits(u64::from(entry.u16(6)), flags::POLL);
                format!("{{fd={}, revents={events}}}", entry.i32(0))
            })
            .collect();
        self.put(format_args!("[{}]", ready.join(", ")));
    }

    pub fn fd_set(&mut self, addr: u64, nfds: u64) {
        self.bit_set(addr, (nfds & 0xffff_ffff).min(1024));
    }

    pub fn cpu_set(&mut self, addr: u64, len: u64) {
        self.bit_set(addr, len.min(128) * 8);
    }

    /// `[0 1 5]`: the bits set among the first `count` at `addr`.
    fn bit_set(&mut self, addr: u64, count: u64) {
        let count = usize::try_from(count).unwrap_or(0);
        let Some(bytes) = self.record(addr, count.div_ceil(64) * 8) else {
            return;
        };
        let set = |i: &usize| {
            bytes
                .get(i / 8)
                .is_some_and(|byte| byte & (1 << (i % 8)) != 0)
        };
        let all: Vec<usize> = (0..count).filter(set).collect();
        let shown: Vec<String> = all
            .iter()
            .take(self.limits.items)
            .map(usize::to_string)
            .collect();
        let more = if shown.len() < all.len() { " ..." } else { "" };
        self.put(format_args!("[{}{more}]", shown.join(" ")));
    }

    pub fn epoll_events(&mut self, addr: u64, count: u64, list: bool) {
        let (size, data_at) = self.epoll_event_layout();
        let print = |printer: &mut Self, element: &[u8]| {
            let event = Record::new(element);
            let events = bits(u64::from(event.u32(0)), flags::EPOLL);
            printer.put(format_args!(
                "{{events={events}, data={:#x}}}",
                event.u64(data_at)
            ));
        };
        if list {
            self.array(addr, count, size, print);
        } else if let Some(bytes) = self.record(addr, size) {
            print(self, &bytes);
        }
    }

    pub fn clone_args(&mut self, addr: u64, size: u64) {
        if size < 64 {
            return self.addr(addr);
        }
        let Some(bytes) = self.record(addr, 64) else {
            return;
        };
        let args = Record::new(&bytes);
        let signal = i32::try_from(args.u64(32)).map_or_else(|_| "?".to_owned(), signal_text);
        self.put(format_args!("{{flags={}", bits(args.u64(0), flags::CLONE)));
        for (name, at) in [("pidfd", 8), ("child_tid", 16), ("parent_tid", 24)] {
            if args.u64(at) != 0 {
                self.put(format_args!(", {name}={:#x}", args.u64(at)));
            }
        }
        self.put(format_args!(", exit_signal={signal}, stack="));
        self.addr(args.u64(40));
        self.put(format_args!(", stack_size={:#x}", args.u64(48)));
        if args.u64(56) != 0 {
            self.put(format_args!(", tls={:#x}", args.u64(56)));
        }
        self.text("}");
    }

    pub fn wait_status(&mut self, addr: u64) {
        // 0 is WNOHANG with nobody to report.
        if self.success().unwrap_or(0) == 0 {
            return self.addr(addr);
        }
        let Some(bytes) = self.record(addr, 4) else {
            return;
        };
        let status = Record::new(&bytes).i32(0);
        let signal = status & 0x7f;
        match (signal, (status >> 8) & 0xff) {
            (0, code) => {
                self.put(format_args!(
                    "[{{WIFEXITED(s) && WEXITSTATUS(s) == {code}}}]"
                ));
            }
            (0x7f, _) if status == 0xffff => self.text("[{WIFCONTINUED(s)}]"),
            (0x7f, stop) => {
                let name = signal_text(stop);
                self.put(format_args!("[{{WIFSTOPPED(s) && WSTOPSIG(s) == {name}}}]"));
            }
            _ => {
                let core = if status & 0x80 != 0 {
                    " && WCOREDUMP(s)"
                } else {
                    ""
                };
                let name = signal_text(signal);
                self.put(format_args!(
                    "[{{WIFSIGNALED(s) && WTERMSIG(s) == {name}{core}}}]"
                ));
            }
        }
    }

    pub fn rusage(&mut self, addr: u64) {
        let Some(bytes) = self.out_record(addr, 144) else {
            return;
        };
        let usage = Record::new(&bytes);
        let (user, system) = (
            time_text(&usage, 0, "tv_usec"),
            time_text(&usage, 16, "tv_usec"),
        );
        self.put(format_args!(
            "{{ru_utime={user}, ru_stime={system}, ru_maxrss={}, ...}}",
            usage.i64(32)
        ));
    }

    pub fn signal_set(&mut self, addr: u64) {
        let Some(bytes) = self.record(addr, 8) else {
            return;
        };
        self.text(&signal_set_text(Record::new(&bytes).u64(0)));
    }

    pub fn signal_set_arg(&mut self, addr: u64) {
        let Some(bytes) = self.record(addr, 16) else {
            return;
        };
        let pair = Record::new(&bytes);
        self.text("{sigmask=");
        self.signal_set(pair.u64(0));
        self.put(format_args!(", sigsetsize={}}}", pair.u64(8)));
    }

    pub fn signal_action(&mut self, addr: u64) {
        let Some(bytes) = self.record(addr, 32) else {
            return;
        };
        let action = Record::new(&bytes);
        let handler = match action.u64(0) {
            0 => "SIG_DFL".to_owned(),
            1 => "SIG_IGN".to_owned(),
            address => format!("{address:#x}"),
        };
        let mask = signal_set_text(action.u64(24));
        let flag_bits = action.u64(8);
        self.put(format_args!(
            "{{sa_handler={handler}, sa_mask={mask}, sa_flags={}",
            bits(flag_bits, flags::SA)
        ));
        if flag_bits & 0x0400_0000 != 0 {
            self.put(format_args!(", sa_restorer={:#x}", action.u64(16)));
        }
        self.text("}");
    }

    pub fn signal_info(&mut self, addr: u64) {
        let Some(bytes) = self.record(addr, 128) else {
            return;
        };
        self.text(&siginfo_text(&Record::new(&bytes)));
    }

    pub fn signal_stack(&mut self, addr: u64) {
        let Some(bytes) = self.record(addr, 24) else {
            return;
        };
        let stack = Record::new(&bytes);
        self.text("{ss_sp=");
        self.addr(stack.u64(0));
        let state = bits(u64::from(stack.u32(8)), flags::SS);
        self.put(format_args!(
            ", ss_flags={state}, ss_size={}}}",
            stack.u64(16)
        ));
    }

    pub fn signal_event(&mut self, addr: u64) {
        let Some(bytes) = self.record(addr, 64) else {
            return;
        };
        let event = Record::new(&bytes);
        self.put(format_args!(
            "{{sigev_value={:#x}, sigev_signo={}, sigev_notify={}}}",
            event.u64(0),
            signal_text(event.i32(8)),
            choice(u64::from(event.u32(12)), flags::NOTIFY)
        ));
    }

    pub fn futex_waiters(&mut self, addr: u64, count: u64) {
        self.array(addr, count & 0xffff_ffff, 24, |printer, element| {
            let waiter = Record::new(element);
            printer.put(format_args!(
                "{{val={:#x}, uaddr={:#x}, flags={:#x}}}",
                waiter.u64(0),
                waiter.u64(8),
                waiter.u32(16)
            ));
        });
    }

    pub fn groups(&mut self, addr: u64, count: u64) {
        self.array(addr, count & 0xffff_ffff, 4, |printer, element| {
            printer.id(Record::new(element).u32(0));
        });
    }

    pub fn cap_header(&mut self, addr: u64) {
        let Some(bytes) = self.record(addr, 8) else {
            return;
        };
        let header = Record::new(&bytes);
        let version = choice(u64::from(header.u32(0)), flags::CAP_VERSION);
        self.put(format_args!("{{version={version}, pid={}}}", header.i32(4)));
    }

    /// Three masks, of 64 bits from version 2 on: two structures, low halves first.
    pub fn cap_data(&mut self, addr: u64) {
        let Some(bytes) = self.record(addr, 24) else {
            return;
        };
        let data = Record::new(&bytes);
        let mask = |at: usize| u64::from(data.u32(at)) | (u64::from(data.u32(at + 12)) << 32);
        self.put(format_args!(
            "{{effective={:#x}, permitted={:#x}, inheritable={:#x}}}",
            mask(0),
            mask(4),
            mask(8)
        ));
    }

    pub fn utsname(&mut self, addr: u64) {
        const FIELDS: [&str; 6] = [
            "sysname",
            "nodename",
            "release",
            "version",
            "machine",
            "domainname",
        ];
        let Some(bytes) = self.out_record(addr, 65 * FIELDS.len()) else {
            return;
        };
        self.text("{");
        for (i, (name, field)) in FIELDS.iter().zip(bytes.chunks_exact(65)).enumerate() {
            let end = field
                .iter()
                .position(|byte| *byte == 0)
                .unwrap_or(field.len());
            self.put(format_args!("{}{name}=", if i == 0 { "" } else { ", " }));
            self.quoted(&field[..end]);
        }
        self.text("}");
    }

    pub fn sysinfo(&mut self, addr: u64) {
        let Some(bytes) = self.out_record(addr, 112) else {
            return;
        };
        let info = Record::new(&bytes);
        self.put(format_args!(
            "{{uptime={}, loads=[{}, {}, {}], totalram={}, freeram={}, ..., procs={}, mem_unit={}}}",
            info.i64(0),
            info.u64(8),
            info.u64(16),
            info.u64(24),
            info.u64(32),
            info.u64(40),
            info.u16(80),
            info.u32(104)
        ));
    }

    pub fn rlimit(&mut self, addr: u64) {
        fn value(limit: u64) -> String {
            match limit {
                u64::MAX => "RLIM64_INFINITY".to_owned(),
                kilobytes if limit != 0 && limit.is_multiple_of(1024) => {
                    format!("{}*1024", kilobytes / 1024)
                }
                _ => limit.to_string(),
            }
        }
        let Some(bytes) = self.record(addr, 16) else {
            return;
        };
        let limit = Record::new(&bytes);
        let (soft, hard) = (value(limit.u64(0)), value(limit.u64(8)));
        self.put(format_args!("{{rlim_cur={soft}, rlim_max={hard}}}"));
    }
}
