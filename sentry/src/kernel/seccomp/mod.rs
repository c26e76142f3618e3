//! Filters of system calls (seccomp(2)): those of the container's configuration and those that guests
//! install. They are applied to what guests ask the Sentry for; what the Sentry asks the host for is
//! another filter's business (`boot/filter.rs`).
//!
//! A [`Filter`] is a program on top of those that were there before. All are run and the strictest
//! answer counts, unless the answer for a number is "allow" whatever the arguments are: then a bit
//! says so, which is all that most calls of a filtered process cost.

pub mod bpf;
pub mod listener;

use std::sync::{Arc, OnceLock};

use crate::config::SeccompConfig;
use crate::errno::{Errno, Result};
use crate::kernel::group::ExitStatus;
use crate::kernel::signal::send::force;
use crate::kernel::signal::{SigFields, SigInfo, Signal};
use crate::kernel::task::Task;
use bpf::{Data, Program};
use listener::{Heard, Listener};

/// AUDIT_ARCH_X86_64.
pub const ARCH: u32 = 0xc000_003e;

pub const KILL_PROCESS: u32 = 0x8000_0000;
pub const KILL_THREAD: u32 = 0;
pub const TRAP: u32 = 0x0003_0000;
pub const ERRNO: u32 = 0x0005_0000;
pub const USER_NOTIF: u32 = 0x7fc0_0000;
pub const TRACE: u32 = 0x7ff0_0000;
pub const LOG: u32 = 0x7ffc_0000;
pub const ALLOW: u32 = 0x7fff_0000;
const ACTION: u32 = 0xffff_0000;
const DATA: u32 = 0xffff;

/// MAX_ERRNO.
const MAX_ERRNO: u32 = 4095;
/// Numbers that have a bit.
const CACHED: usize = 512;
/// Instructions of all programs of a task, each counted with a few more (MAX_INSNS_PER_PATH).
const MAX_PATH: usize = (1 << 18) / 8;
const PER_PROGRAM: usize = 4;

/// What a task's calls have to pass.
#[derive(Clone, Debug)]
pub enum Seccomp {
    /// read(2), write(2), exit(2), rt_sigreturn(2).
    Strict,
    Filter(Arc<Filter>),
}

impl Seccomp {
    /// The mode in /proc/PID/status.
    pub fn mode(&self) -> u32 {
        match self {
            Seccomp::Strict => 1,
            Seccomp::Filter(_) => 2,
        }
    }

    /// The number of programs.
    pub fn count(&self) -> usize {
        match self {
            Seccomp::Strict => 0,
            Seccomp::Filter(filter) => filter.chain().count(),
        }
    }

    /// Is the call allowed whatever its arguments are?
    pub fn allows(&self, number: u64) -> bool {
        match self {
            Seccomp::Strict => is_strict_call(number),
            Seccomp::Filter(filter) => filter.is_allowed(number),
        }
    }
}

/// A program and those before it.
#[derive(Debug)]
pub struct Filter {
    program: Program,
    before: Option<Arc<Filter>>,
    /// SECCOMP_FILTER_FLAG_LOG.
    log: bool,
    /// SECCOMP_FILTER_FLAG_NEW_LISTENER.
    listener: OnceLock<Heard>,
    /// With those before.
    path_len: usize,
    allowed: [u64; CACHED / 64],
}

impl Filter {
    /// # Errors
    /// ENOMEM if all programs together are too long.
    pub fn new(program: Program, before: Option<Arc<Filter>>, log: bool) -> Result<Arc<Filter>> {
        let path_len = before.as_ref().map_or(0, |b| b.path_len) + program.len() + PER_PROGRAM;
        if path_len - PER_PROGRAM > MAX_PATH {
            return Err(Errno::ENOMEM);
        }
        let mut allowed = before
            .as_ref()
            .map_or([u64::MAX; CACHED / 64], |b| b.allowed);
        for number in 0..CACHED {
            let word = &mut allowed[number / 64];
            let bit = 1 << (number % 64);
            if *word & bit != 0 && program.run_constant(number as i32, ARCH) != Some(ALLOW) {
                *word &= !bit;
            }
        }
        Ok(Arc::new(Filter {
            program,
            before,
            log,
            listener: OnceLock::new(),
            path_len,
            allowed,
        }))
    }

    /// The filter of a container's configuration.
    pub fn of_config(config: &SeccompConfig) -> Result<Arc<Filter>> {
        Filter::new(Program::new(&config.program)?, None, config.log)
    }

    /// `listener` is asked about what this program wants to have asked. Only a new filter gets one.
    pub fn set_listener(&self, listener: Arc<Listener>) {
        // A second one cannot be: the caller made the filter.
        let _ = self.listener.set(Heard(listener));
    }

    /// Whether one of its programs has a listener.
    pub fn has_listener(&self) -> bool {
        self.chain().any(|filter| filter.listener.get().is_some())
    }

    fn chain(&self) -> impl Iterator<Item = &Filter> {
        std::iter::successors(Some(self), |f| f.before.as_deref())
    }

    fn is_allowed(&self, number: u64) -> bool {
        let number = number as usize;
        number < CACHED && self.allowed[number / 64] & 1 << (number % 64) != 0
    }

    /// Is `other` this one or one before it?
    pub(crate) fn descends_from(&self, other: Option<&Arc<Filter>>) -> bool {
        match other {
            None => true,
            Some(other) => self.chain().any(|f| std::ptr::eq(f, &**other)),
        }
    }

    /// The strictest answer, and the filter that gave it.
    fn run(&self, data: &Data) -> (u32, Option<&Filter>) {
        let mut strictest = (ALLOW, None);
        for filter in self.chain() {
            let answer = filter.program.run(data);
            // Linux orders the actions as signed numbers.
            if ((answer & ACTION) as i32) < ((strictest.0 & ACTION) as i32) {
                strictest = (answer, Some(filter));
            }
        }
        strictest
    }
}

impl Drop for Filter {
    /// A long chain is taken apart without recursion.
    fn drop(&mut self) {
        let mut next = self.before.take();
        while let Some(filter) = next {
            next = Arc::into_inner(filter).and_then(|mut f| f.before.take());
        }
    }
}

fn is_strict_call(number: u64) -> bool {
    let calls = [
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_exit,
        libc::SYS_rt_sigreturn,
    ];
    calls.iter().any(|call| *call as u64 == number)
}

/// What becomes of a call that is not made.
#[derive(Clone, Debug)]
pub enum Refused {
    /// It gives this: an errno, any number up to the greatest, or zero.
    Value(u64),
    /// This one is to be asked.
    Asked(Arc<Listener>),
    /// The task has a signal, or ends: its registers are as they have to be.
    Handled,
}

/// Lets a filtered task's call pass, or carries out what its filters say instead.
pub fn check(task: &Task, seccomp: &Seccomp, data: &Data) -> Result<(), Refused> {
    if seccomp.allows(data.nr as u32 as u64) {
        return Ok(());
    }
    let (answer, filter) = match seccomp {
        Seccomp::Strict => {
            kill(task, Signal::SIGKILL, Whom::Task);
            return Err(Refused::Handled);
        }
        Seccomp::Filter(filter) => filter.run(data),
    };
    let action = answer & ACTION;
    let log = filter.is_some_and(|f| f.log);
    if action == LOG || log && action != ALLOW {
        let pid = task.pid();
        log::info!("seccomp: process {pid}: call {}: {answer:#x}", data.nr);
    }
    match action {
        ALLOW | LOG => Ok(()),
        ERRNO => {
            let errno = (answer & DATA).min(MAX_ERRNO);
            Err(Refused::Value(u64::from(errno).wrapping_neg()))
        }
        // Nobody traces.
        TRACE => Err(Refused::Value(Errno::ENOSYS.to_return())),
        USER_NOTIF => Err(match filter.and_then(|f| f.listener.get()) {
            Some(Heard(listener)) => Refused::Asked(listener.clone()),
            None => Refused::Value(Errno::ENOSYS.to_return()),
        }),
        TRAP => {
            trap(task, data, answer & DATA);
            Err(Refused::Handled)
        }
        KILL_THREAD => {
            kill(task, Signal::SIGSYS, Whom::Task);
            Err(Refused::Handled)
        }
        _ => {
            kill(task, Signal::SIGSYS, Whom::Process);
            Err(Refused::Handled)
        }
    }
}

/// SIGSYS, with the registers as they were before the call but for the instruction pointer.
fn trap(task: &Task, data: &Data, errno: u32) {
    const SYS_SECCOMP: i32 = 1;
    {
        let mut regs = task.regs.lock();
        regs.rax = regs.orig_rax;
    }
    let fields = SigFields::Sys {
        addr: data.ip,
        nr: data.nr,
        arch: data.arch,
    };
    let info = SigInfo {
        signal: Signal::SIGSYS,
        code: SYS_SECCOMP,
        errno: errno as i32,
        fields,
    };
    force(task, info);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whom {
    Task,
    Process,
}

fn kill(task: &Task, signal: Signal, whom: Whom) {
    let status = ExitStatus::Signaled {
        signal,
        core: false,
    };
    let group = task.group();
    if whom == Whom::Process || group.task_count() == 1 {
        group.begin_exit(status);
    } else {
        task.request_exit(status);
    }
}

/// SECCOMP_FILTER_FLAG_TSYNC: gives all threads of `task`'s process the filter. The id of one that
/// has another, if one has. The caller holds the group's `filters`.
pub fn synchronize(task: &Task, filter: &Arc<Filter>) -> Result<(), i32> {
    let others: Vec<_> = task.group().tasks();
    for other in &others {
        let fits = match other.seccomp() {
            None => true,
            Some(Seccomp::Strict) => false,
            Some(Seccomp::Filter(theirs)) => filter.descends_from(Some(&theirs)),
        };
        if !fits && other.tid() != task.tid() {
            return Err(other.tid());
        }
    }
    let no_new_privs = task.creds().no_new_privs;
    for other in &others {
        other.set_seccomp(Some(Seccomp::Filter(filter.clone())));
        if no_new_privs && !other.creds().no_new_privs {
            let creds = (*other.creds()).clone();
            other.set_creds(crate::kernel::cred::Credentials {
                no_new_privs,
                ..creds
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::bpf::Insn;
    use super::*;

    const RET: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

    fn always(answer: u32) -> Program {
        let (jt, jf) = (0, 0);
        Program::new(&[Insn {
            code: RET,
            jt,
            jf,
            k: answer,
        }])
        .unwrap()
    }

    fn answer(programs: &[u32]) -> u32 {
        let filter = programs.iter().fold(None, |before, answer| {
            Some(Filter::new(always(*answer), before, false).unwrap())
        });
        let data = Data {
            nr: 1,
            arch: ARCH,
            ip: 0,
            args: [0; 6],
        };
        filter.unwrap().run(&data).0
    }

    #[test]
    fn the_strictest_answer_counts() {
        assert_eq!(answer(&[ALLOW, LOG]), LOG);
        assert_eq!(answer(&[ERRNO | 1, TRACE, ALLOW]), ERRNO | 1);
        assert_eq!(answer(&[TRAP, ERRNO]), TRAP);
        assert_eq!(answer(&[TRAP, KILL_THREAD, ALLOW]), KILL_THREAD);
        assert_eq!(answer(&[KILL_THREAD, KILL_PROCESS]), KILL_PROCESS);
        // Of two of a kind the one installed last.
        assert_eq!(answer(&[ERRNO | 1, ERRNO | 2]), ERRNO | 2);
    }

    #[test]
    fn bits_are_those_that_all_allow() {
        let allow = Filter::new(always(ALLOW), None, false).unwrap();
        assert!(allow.is_allowed(0) && allow.is_allowed(511) && !allow.is_allowed(512));
        let log = Filter::new(always(LOG), Some(allow), false).unwrap();
        assert!(!log.is_allowed(0));
        let again = Filter::new(always(ALLOW), Some(log), false).unwrap();
        assert!(!again.is_allowed(0), "what one has refused stays refused");
    }

    #[test]
    fn a_path_has_a_greatest_length() {
        let long = || {
            let insn = Insn {
                code: RET,
                jt: 0,
                jf: 0,
                k: ALLOW,
            };
            Program::new(&[insn; bpf::MAX_LEN]).unwrap()
        };
        let mut filter = None;
        let mut count = 0;
        while let Ok(next) = Filter::new(long(), filter.clone(), false) {
            filter = Some(next);
            count += 1;
        }
        assert_eq!(count, 7);
        // Short ones make a long chain, which is dropped without recursion.
        let mut filter = None;
        while let Ok(next) = Filter::new(always(ALLOW), filter.clone(), false) {
            filter = Some(next);
        }
        assert!(filter.as_ref().unwrap().chain().count() > 6000);
        drop(filter);
    }
}
