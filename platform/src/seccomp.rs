//! Seccomp filters as data: an allow-list with one reason a rule.
//!
//! A [`Filter`] is a list of [`Rule`]s written with [`rule!`](crate::rule); every process of the
//! sandbox (Sentry, Gofer, stubs) owns one. The same data is compiled and installed here and
//! printed by `runsc-rs debug filters`, so what is shown is what is enforced. Calls of a foreign
//! architecture or of the x32 table never match and meet the filter's default action.
//! Not here: filters that compare the instruction pointer or notify a listener.

use std::{collections::BTreeMap, fmt::Write};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// How much of an argument register counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// The low 32 bits: `int`, `unsigned`, and flags the kernel takes as such.
    U32,
    /// The whole register: `long`, sizes, pointers.
    U64,
}

/// What an argument must satisfy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    Eq(u64),
    Ne(u64),
    Lt(u64),
    Le(u64),
    Gt(u64),
    Ge(u64),
    /// `argument & mask == value`
    MaskedEq {
        mask: u64,
        value: u64,
    },
}

/// One condition on one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArgCheck {
    /// 0 to 5.
    pub index: u8,
    pub width: Width,
    pub check: Check,
}

impl ArgCheck {
    pub const fn new(index: u8, width: Width, check: Check) -> Self {
        Self {
            index,
            width,
            check,
        }
    }

    /// The low 32 bits of argument `index` equal `value`.
    pub const fn eq(index: u8, value: u32) -> Self {
        Self::new(index, Width::U32, Check::Eq(value as u64))
    }

    /// The low 32 bits of argument `index` have none of `bits` set.
    pub const fn without(index: u8, bits: u32) -> Self {
        Self::new(
            index,
            Width::U32,
            Check::MaskedEq {
                mask: bits as u64,
                value: 0,
            },
        )
    }

    /// The low 32 bits of argument `index` have no bit set outside `bits`.
    pub const fn only(index: u8, bits: u32) -> Self {
        Self::new(
            index,
            Width::U32,
            Check::MaskedEq {
                mask: !bits as u64,
                value: 0,
            },
        )
    }

    fn condition(&self) -> Result<SeccompCondition, seccompiler::BackendError> {
        let width = match self.width {
            Width::U32 => SeccompCmpArgLen::Dword,
            Width::U64 => SeccompCmpArgLen::Qword,
        };
        let (operator, value) = match self.check {
            Check::Eq(value) => (SeccompCmpOp::Eq, value),
            Check::Ne(value) => (SeccompCmpOp::Ne, value),
            Check::Lt(value) => (SeccompCmpOp::Lt, value),
            Check::Le(value) => (SeccompCmpOp::Le, value),
            Check::Gt(value) => (SeccompCmpOp::Gt, value),
            Check::Ge(value) => (SeccompCmpOp::Ge, value),
            Check::MaskedEq { mask, value } => (SeccompCmpOp::MaskedEq(mask), value),
        };
        SeccompCondition::new(self.index, width, operator, value)
    }
}

impl std::fmt::Display for ArgCheck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let index = self.index;
        match self.check {
            Check::Eq(value) => write!(f, "arg{index} == {value:#x}"),
            Check::Ne(value) => write!(f, "arg{index} != {value:#x}"),
            Check::Lt(value) => write!(f, "arg{index} < {value:#x}"),
            Check::Le(value) => write!(f, "arg{index} <= {value:#x}"),
            Check::Gt(value) => write!(f, "arg{index} > {value:#x}"),
            Check::Ge(value) => write!(f, "arg{index} >= {value:#x}"),
            Check::MaskedEq { mask, value } => write!(f, "arg{index} & {mask:#x} == {value:#x}"),
        }
    }
}

/// A call that is allowed if all of `args` hold. Several rules for one call are alternatives.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// `libc::SYS_*`
    pub syscall: i64,
    /// The call's name, for people.
    pub name: &'static str,
    pub args: &'static [ArgCheck],
    /// What needs it.
    pub why: &'static str,
}

/// Writes a [`Rule`]: `rule!(SYS_close, "why")`, `rule!(SYS_mmap, [ArgCheck::without(..)], "why")`,
/// or with a number that libc does not have: `rule!(getxattrat = 464, "why")`.
#[macro_export]
macro_rules! rule {
    ($name:ident = $number:expr, $why:expr) => {
        $crate::seccomp::Rule {
            syscall: $number,
            name: stringify!($name),
            args: &[],
            why: $why,
        }
    };
    ($name:ident, [$($arg:expr),* $(,)?], $why:expr) => {
        $crate::seccomp::Rule {
            syscall: ::libc::$name,
            name: stringify!($name),
            args: const { &[$($arg),*] },
            why: $why,
        }
    };
    ($name:ident, $why:expr) => {
        $crate::rule!($name, [], $why)
    };
}

/// What any process of ours does between its own calls, whatever it is for: memory that is never
/// executable, locks, the time, the ways to an end.
pub const RUNTIME: &[Rule] = &[
    rule!(
        SYS_mmap,
        [ArgCheck::without(2, libc::PROT_EXEC as u32)],
        "memory, never executable"
    ),
    rule!(SYS_munmap, "memory"),
    rule!(SYS_mremap, "memory"),
    rule!(SYS_madvise, "giving back memory; the end of a thread"),
    rule!(SYS_brk, "memory"),
    rule!(SYS_futex, "locks"),
    rule!(SYS_clock_gettime, "clocks, where the vDSO cannot answer"),
    rule!(
        SYS_fcntl,
        [ArgCheck::eq(1, libc::F_GETFD as u32)],
        "closing fds in debug builds"
    ),
    rule!(SYS_sigaltstack, "a thread's stack guard and its end"),
    rule!(
        SYS_rt_sigprocmask,
        "a thread's first steps and its end; abort"
    ),
    rule!(
        SYS_rt_sigaction,
        "passing a fatal fault on to its default action"
    ),
    rule!(SYS_rt_sigreturn, "return from signal handlers"),
    rule!(SYS_gettid, "abort"),
    rule!(SYS_getpid, "abort"),
    rule!(SYS_tgkill, [ArgCheck::eq(2, libc::SIGABRT as u32)], "abort"),
    rule!(SYS_restart_syscall, "a stopped and continued process"),
    rule!(SYS_exit_group, "the end"),
];

/// What happens to a call that no rule allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Otherwise {
    KillProcess,
    /// SIGSYS to the calling thread.
    Trap,
    Errno(u16),
}

/// Why a filter could not be compiled or installed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("seccomp filter {name}: {source}")]
    Compile {
        name: &'static str,
        source: seccompiler::BackendError,
    },
    #[error("seccomp filter {name}: {source}")]
    Install {
        name: &'static str,
        source: seccompiler::Error,
    },
}

/// An allow-list for one process.
#[derive(Debug, Clone)]
pub struct Filter {
    pub name: &'static str,
    pub rules: Vec<Rule>,
    pub otherwise: Otherwise,
}

impl Filter {
    /// A filter that kills the process on every call that `rules` do not allow.
    pub fn new(name: &'static str, rules: Vec<Rule>) -> Self {
        Self {
            name,
            rules,
            otherwise: Otherwise::KillProcess,
        }
    }

    /// The filter as a BPF program.
    ///
    /// # Errors
    /// An argument index above 5, or more rules than a program can hold.
    pub fn compile(&self) -> Result<BpfProgram, Error> {
        self.try_compile().map_err(|source| Error::Compile {
            name: self.name,
            source,
        })
    }

    fn try_compile(&self) -> Result<BpfProgram, seccompiler::BackendError> {
        let mut by_call: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
        for rule in self.rules.iter().filter(|rule| !rule.args.is_empty()) {
            let conditions = rule
                .args
                .iter()
                .map(ArgCheck::condition)
                .collect::<Result<_, _>>()?;
            by_call
                .entry(rule.syscall)
                .or_default()
                .push(SeccompRule::new(conditions)?);
        }
        // To the compiler an empty list of alternatives means "any arguments".
        for rule in self.rules.iter().filter(|rule| rule.args.is_empty()) {
            by_call.insert(rule.syscall, Vec::new());
        }
        let otherwise = match self.otherwise {
            Otherwise::KillProcess => SeccompAction::KillProcess,
            Otherwise::Trap => SeccompAction::Trap,
            Otherwise::Errno(errno) => SeccompAction::Errno(errno.into()),
        };
        let arch = TargetArch::try_from(std::env::consts::ARCH)?;
        SeccompFilter::new(by_call, otherwise, SeccompAction::Allow, arch)?.try_into()
    }

    /// Sets `no_new_privs` and puts every thread of the process under the filter, for good.
    ///
    /// # Errors
    /// See [`Filter::compile`]; or the kernel refuses, e.g. because a thread is already under a
    /// filter that this one does not descend from.
    pub fn install(&self) -> Result<(), Error> {
        let program = self.compile()?;
        seccompiler::apply_filter_all_threads(&program).map_err(|source| Error::Install {
            name: self.name,
            source,
        })
    }

    /// The filter for people: a line each rule, sorted by name, with its conditions and reason.
    pub fn describe(&self) -> String {
        let mut rules: Vec<&Rule> = self.rules.iter().collect();
        rules.sort_by_key(|rule| rule.name);
        let calls = rules.chunk_by(|a, b| a.syscall == b.syscall).count();
        let otherwise = match self.otherwise {
            Otherwise::KillProcess => "kills the process".to_string(),
            Otherwise::Trap => "raises SIGSYS".to_string(),
            Otherwise::Errno(errno) => format!("fails with errno {errno}"),
        };
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}: {calls} calls; any other {otherwise}", self.name);
        for rule in rules {
            let name = rule.name.strip_prefix("SYS_").unwrap_or(rule.name);
            let checks: Vec<String> = rule.args.iter().map(ArgCheck::to_string).collect();
            let _ = writeln!(text, "  {name}({})  # {}", checks.join(", "), rule.why);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::process::abort;

    use nix::{
        sys::{
            signal::Signal,
            wait::{WaitStatus, waitpid},
        },
        unistd::{ForkResult, fork},
    };

    use super::*;

    /// What a child may need to leave; nothing else.
    fn filter(extra: &[Rule]) -> Filter {
        let mut rules = vec![
            rule!(SYS_exit_group, "the child ends"),
            rule!(SYS_rt_sigreturn, "signal handlers return"),
            rule!(SYS_write, [ArgCheck::eq(0, 2)], "messages"),
        ];
        rules.extend_from_slice(extra);
        Filter::new("test", rules)
    }

    fn syscall(number: i64, args: [u64; 3]) -> i64 {
        // SAFETY: the tests make only calls that touch no memory of the process.
        unsafe { libc::syscall(number, args[0], args[1], args[2]) }
    }

    /// Runs `body` in a child under `filter`; its end is the child's exit code or signal.
    fn under(filter: &Filter, body: impl FnOnce() -> i32) -> WaitStatus {
        // SAFETY: the child only makes system calls and ends with _exit.
        match unsafe { fork() }.expect("fork") {
            ForkResult::Child => {
                if filter.install().is_err() {
                    abort();
                }
                let code = body();
                // SAFETY: ends the child without running the parent's exit handlers.
                unsafe { libc::_exit(code) }
            }
            ForkResult::Parent { child } => waitpid(child, None).expect("waitpid"),
        }
    }

    fn killed(status: WaitStatus) -> bool {
        matches!(status, WaitStatus::Signaled(_, Signal::SIGSYS, _))
    }

    fn exited(status: WaitStatus, code: i32) -> bool {
        matches!(status, WaitStatus::Exited(_, c) if c == code)
    }

    #[test]
    fn a_call_that_is_not_listed_kills() {
        let status = under(&filter(&[]), || {
            i32::from(syscall(libc::SYS_getppid, [0; 3]) < 0)
        });
        assert!(killed(status), "{status:?}");
    }

    #[test]
    fn a_listed_call_passes() {
        let allow = [rule!(SYS_getppid, "test")];
        let status = under(&filter(&allow), || {
            i32::from(syscall(libc::SYS_getppid, [0; 3]) <= 0)
        });
        assert!(exited(status, 0), "{status:?}");
    }

    #[test]
    fn arguments_are_checked() {
        // lseek on a bad fd: EBADF when allowed, death otherwise.
        const EQ: ArgCheck = ArgCheck::eq(2, 1);
        const LOW: ArgCheck = ArgCheck::new(1, Width::U64, Check::Lt(0x1_0000_0001));
        let cases: &[(&'static [ArgCheck], [u64; 3], bool)] = &[
            (const { &[EQ] }, [999, 0, 1], true),
            (const { &[EQ] }, [999, 0, 2], false),
            // The upper half of a 32-bit argument does not count.
            (const { &[EQ] }, [999, 0, 0xffff_0000_0000_0001], true),
            (const { &[LOW] }, [999, 0x1_0000_0000, 0], true),
            (const { &[LOW] }, [999, 0x1_0000_0001, 0], false),
            (const { &[EQ, LOW] }, [999, 0, 1], true),
            (const { &[EQ, LOW] }, [999, 0x1_0000_0001, 1], false),
            (
                const { &[ArgCheck::without(2, 0b10)] },
                [999, 0, 0b101],
                true,
            ),
            (
                const { &[ArgCheck::without(2, 0b10)] },
                [999, 0, 0b111],
                false,
            ),
            (const { &[ArgCheck::only(2, 0b11)] }, [999, 0, 0b11], true),
            (const { &[ArgCheck::only(2, 0b11)] }, [999, 0, 0b100], false),
        ];
        for (checks, args, allowed) in cases {
            let rule = Rule {
                syscall: libc::SYS_lseek,
                name: "lseek",
                args: checks,
                why: "test",
            };
            let status = under(&filter(&[rule]), || {
                i32::from(syscall(libc::SYS_lseek, *args) != -1)
            });
            let right = if *allowed {
                exited(status, 0)
            } else {
                killed(status)
            };
            assert!(right, "{checks:?} {args:?}: {status:?}");
        }
    }

    #[test]
    fn rules_of_one_call_are_alternatives() {
        let two = [
            rule!(SYS_lseek, [ArgCheck::eq(2, 1)], "one"),
            rule!(SYS_lseek, [ArgCheck::eq(2, 2)], "other"),
        ];
        for (whence, allowed) in [(0, false), (1, true), (2, true)] {
            let status = under(&filter(&two), || {
                i32::from(syscall(libc::SYS_lseek, [999, 0, whence]) != -1)
            });
            let right = if allowed {
                exited(status, 0)
            } else {
                killed(status)
            };
            assert!(right, "{whence}: {status:?}");
        }
        let mut any = two.to_vec();
        any.insert(1, rule!(SYS_lseek, "any"));
        let status = under(&filter(&any), || {
            i32::from(syscall(libc::SYS_lseek, [999, 0, 0]) != -1)
        });
        assert!(exited(status, 0), "{status:?}");
    }

    #[test]
    fn every_thread_is_covered() {
        let extra = [
            rule!(SYS_futex, "the threads meet"),
            rule!(SYS_sched_yield, "the threads meet"),
        ];
        let go = std::sync::atomic::AtomicBool::new(false);
        // SAFETY: the child makes a thread, which glibc supports after fork of a test thread,
        // and otherwise only system calls.
        let status = match unsafe { fork() }.expect("fork") {
            ForkResult::Child => std::thread::scope(|scope| {
                scope.spawn(|| {
                    while !go.load(std::sync::atomic::Ordering::Acquire) {
                        std::hint::spin_loop();
                    }
                    syscall(libc::SYS_getppid, [0; 3]);
                    // SAFETY: as above.
                    unsafe { libc::_exit(7) }
                });
                if filter(&extra).install().is_err() {
                    abort();
                }
                go.store(true, std::sync::atomic::Ordering::Release);
                loop {
                    std::hint::spin_loop();
                }
            }),
            ForkResult::Parent { child } => waitpid(child, None).expect("waitpid"),
        };
        assert!(killed(status), "{status:?}");
    }

    #[test]
    fn other_defaults() {
        let errno = Filter {
            otherwise: Otherwise::Errno(38),
            ..filter(&[])
        };
        let status = under(&errno, || {
            let failed = syscall(libc::SYS_getppid, [0; 3]) == -1;
            i32::from(!failed || std::io::Error::last_os_error().raw_os_error() != Some(38))
        });
        assert!(exited(status, 0), "{status:?}");
    }

    #[test]
    fn describe_shows_each_rule_with_its_reason() {
        let text = filter(&[rule!(getxattrat = 464, "attributes")]).describe();
        assert!(
            text.starts_with("test: 4 calls; any other kills the process\n"),
            "{text}"
        );
        assert!(
            text.contains("  write(arg0 == 0x2)  # messages\n"),
            "{text}"
        );
        assert!(text.contains("  getxattrat()  # attributes\n"), "{text}");
    }

    #[test]
    fn a_wrong_index_is_refused() {
        let rule = Rule {
            syscall: libc::SYS_lseek,
            name: "lseek",
            args: const { &[ArgCheck::eq(6, 0)] },
            why: "test",
        };
        assert!(matches!(
            filter(&[rule]).compile(),
            Err(Error::Compile { name: "test", .. })
        ));
    }
}
