//! One guest thread: its registers, where it is in its life, and its FP state.
//!
//! | phase   | meaning                                         | leaves it by                    |
//! |---------|-------------------------------------------------|---------------------------------|
//! | Rest    | the Sentry has it                               | `resume`                        |
//! | Ready   | to run, in a queue or a worker's hands           | a thread with a vCPU takes it   |
//! | Running | on a vCPU                                       | a trap; or Ready, to make room  |
//! | Stopped | a trap that the Sentry has not been told yet     | `wait` reports it               |
//! | Dead    | dropped                                         | —                               |

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Condvar, Mutex};

use super::answers::Published;
use super::entries::Entries;
use super::kick::Kick;
use super::sched::{Ring, Sched};
use super::space::SpaceCore;
use super::vcpu::{Exit, Vcpu};
use super::worker::current;
use crate::arch::{FpState, Registers};
use crate::common::regs;
use crate::common::xstate::{MXCSR, read_u32};
use crate::{Access, Answers, Context, ContextId, Error, Fault, Kicker, Result, Trap};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Rest,
    Ready,
    Running,
    Stopped,
    Dead,
}

/// Why it stopped.
#[derive(Clone, Debug)]
enum Stop {
    Trap(Trap),
    Broken(String),
}

struct State {
    phase: Phase,
    regs: Registers,
    stop: Stop,
    dropped: bool,
}

/// FP state: here, unless a vCPU has it.
pub(super) struct Fp {
    pub state: FpState,
    pub on: Option<Arc<Vcpu>>,
}

impl Fp {
    pub fn is_on(&self, vcpu: &Arc<Vcpu>) -> bool {
        self.on.as_ref().is_some_and(|on| Arc::ptr_eq(on, vcpu))
    }
}

/// What the threads that run guest code see of a context.
pub(super) struct Run {
    pub id: ContextId,
    space: Arc<SpaceCore>,
    kick: Arc<Kick>,
    /// None: nothing is answered in place.
    answers: Option<Arc<Published>>,
    /// Worker that resumed it last.
    pub home: AtomicUsize,
    state: Mutex<State>,
    /// It does not run any more.
    left: Condvar,
    pub fp: Mutex<Fp>,
}

/// How running a context ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It trapped: to be reported.
    Stopped,
    /// It would go on.
    MakesRoom,
    /// It was dropped.
    Dead,
}

/// So many page faults in a row that nothing comes of are one too many.
const MAX_REPEATS: u32 = 10_000;
/// So often in a row the host may be out of memory.
const MAX_NO_MEMORY: u32 = 8;

impl Run {
    /// Lets it run until it traps, or until `yields` or the vCPU says that it is to make room.
    pub fn execute(self: &Arc<Self>, vcpu: &Arc<Vcpu>, yields: &dyn Fn() -> bool) -> Outcome {
        let mut regs = {
            let mut state = self.state.lock();
            if state.dropped || state.phase != Phase::Ready {
                return Outcome::Dead;
            }
            state.phase = Phase::Running;
            state.regs
        };
        self.kick.runs_on(Some(vcpu.clone()));
        if let Some(answers) = &self.answers {
            answers.runs_on(Some(vcpu.clone()));
        }
        let stop = self.go_on(vcpu, &mut regs, yields);
        if let Some(answers) = &self.answers {
            answers.runs_on(None);
        }
        self.kick.runs_on(None);
        let mut state = self.state.lock();
        state.regs = regs;
        let outcome = match stop {
            _ if state.dropped => {
                state.phase = Phase::Dead;
                Outcome::Dead
            }
            Some(stop) => {
                self.kick.stopped();
                state.stop = stop;
                state.phase = Phase::Stopped;
                Outcome::Stopped
            }
            None => {
                state.phase = Phase::Ready;
                Outcome::MakesRoom
            }
        };
        drop(state);
        self.left.notify_all();
        outcome
    }

    /// None: it makes room.
    fn go_on(
        self: &Arc<Self>,
        vcpu: &Arc<Vcpu>,
        regs: &mut Registers,
        yields: &dyn Fn() -> bool,
    ) -> Option<Stop> {
        let mut root = match (vcpu.switch_to(self), self.space.root()) {
            (Ok(()), Some(root)) => root,
            (Err(error), _) => return Some(Stop::Broken(format!("FP state: {error}"))),
            (_, None) => return Some(Stop::Trap(Trap::Interrupted)),
        };
        let mut no_memory = 0;
        let mut repeats = (0, 0);
        loop {
            vcpu.clear_interrupt();
            if self.kick.is_kicked() {
                return Some(Stop::Trap(Trap::Interrupted));
            }
            if vcpu.take_preempted() || yields() {
                return None;
            }
            let (vector, error, cr2) = match vcpu.run(regs, root.address()) {
                Exit::Syscall => {
                    regs.orig_rax = regs.rax;
                    regs.rax = (-i64::from(libc::ENOSYS)) as u64;
                    return Some(Stop::Trap(Trap::Syscall));
                }
                Exit::Interrupted => continue,
                Exit::NoMemory if no_memory < MAX_NO_MEMORY => {
                    no_memory += 1;
                    self.space.take_all_back();
                    continue;
                }
                Exit::NoMemory => return Some(bus_error(regs.rip)),
                Exit::Broken(what) => return Some(Stop::Broken(what)),
                Exit::Exception { vector, error, cr2 } => (vector, error, cr2),
            };
            if vector != PAGE_FAULT {
                return Some(self.exception(vector, regs));
            }
            if let Err(fault) = self.space.fault(cr2, access(error)) {
                return Some(Stop::Trap(Trap::Fault(fault)));
            }
            root = match self.space.root() {
                Some(root) => root,
                None => return Some(Stop::Trap(Trap::Interrupted)),
            };
            repeats = match repeats {
                (last, n) if last == cr2 => (last, n + 1),
                _ => (cr2, 0),
            };
            if repeats.1 > MAX_REPEATS {
                return Some(bus_error(cr2));
            }
        }
    }

    /// As Linux tells it (arch/x86/kernel/traps.c has the table in its handlers).
    fn exception(self: &Arc<Self>, vector: u64, regs: &mut Registers) -> Stop {
        const SI_KERNEL: i32 = 0x80;
        const FPE_INTDIV: i32 = 1;
        const TRAP_BRKPT: i32 = 1;
        const TRAP_TRACE: i32 = 2;
        const ILL_ILLOPN: i32 = 2;
        const BUS_ADRALN: i32 = 1;
        /// `int n`.
        const INT: u8 = 0xcd;
        /// `int1`.
        const ICEBP: [u8; 1] = [0xf1];
        const TRAP_FLAG: u64 = 1 << 8;
        // Some machines stop before it and others behind.
        let is_at = |at| self.space.code(at, 1) == ICEBP;
        if vector == 1 && regs.eflags & TRAP_FLAG == 0 && !is_at(regs.rip.wrapping_sub(1)) {
            regs.rip += u64::from(is_at(regs.rip));
        }
        let is_icebp = || regs.eflags & TRAP_FLAG == 0 && is_at(regs.rip.wrapping_sub(1));
        let (signal, code, addr) = match vector {
            0 => (libc::SIGFPE, FPE_INTDIV, regs.rip),
            1 if is_icebp() => (libc::SIGTRAP, TRAP_BRKPT, regs.rip),
            1 => (libc::SIGTRAP, TRAP_TRACE, regs.rip),
            3 => (libc::SIGTRAP, SI_KERNEL, 0),
            // Some machines raise this one for a gate that ring 3 may not use.
            6 if self.space.code(regs.rip, 1) == [INT] => (libc::SIGSEGV, SI_KERNEL, 0),
            6 => (libc::SIGILL, ILL_ILLOPN, regs.rip),
            11 | 12 => (libc::SIGBUS, SI_KERNEL, 0),
            16 | 19 => (libc::SIGFPE, self.fp_code(vector), regs.rip),
            17 => (libc::SIGBUS, BUS_ADRALN, 0),
            2 | 8 | 18 => return Stop::Broken(format!("exception {vector} at {:#x}", regs.rip)),
            _ => (libc::SIGSEGV, SI_KERNEL, 0),
        };
        Stop::Trap(Trap::Fault(Fault {
            signal,
            code,
            addr,
            access: None,
        }))
    }

    /// si_code of a floating-point exception: the first that is raised and not masked.
    fn fp_code(self: &Arc<Self>, vector: u64) -> i32 {
        let Ok(state) = self.fp_state() else {
            return 0;
        };
        let bytes = state.as_bytes();
        let raised = match vector {
            16 => {
                let (control, status) = (read_u32(bytes, 0) & 0xffff, read_u32(bytes, 0) >> 16);
                status & !control
            }
            _ => {
                let mxcsr = read_u32(bytes, MXCSR);
                mxcsr & !(mxcsr >> 7)
            }
        };
        // FPE_FLTINV, FLTDIV, FLTOVF, FLTUND (also for denormals), FLTRES.
        let codes = [(0x01, 7), (0x04, 3), (0x08, 4), (0x12, 5), (0x20, 6)];
        let found = codes.iter().find(|(bits, _)| raised & bits != 0);
        found.map_or(0, |(_, code)| *code)
    }

    /// Only while it does not run.
    fn fp_state(&self) -> Result<FpState> {
        loop {
            let fp = self.fp.lock();
            let Some(on) = fp.on.clone() else {
                return Ok(fp.state.clone());
            };
            drop(fp);
            on.give_back(self).map_err(|source| Error::Host {
                what: "FP state of a vCPU",
                source,
            })?;
        }
    }

    /// It is to be reported now: not if it was dropped meanwhile.
    pub fn claim(&self) -> bool {
        let mut state = self.state.lock();
        let claimed = state.phase == Phase::Stopped && !state.dropped;
        if claimed {
            state.phase = Phase::Rest;
        }
        claimed
    }
}

fn bus_error(addr: u64) -> Stop {
    Stop::Trap(Trap::Fault(Fault {
        signal: libc::SIGBUS,
        code: libc::BUS_ADRERR,
        addr,
        access: None,
    }))
}

const PAGE_FAULT: u64 = 14;

/// From the error code of a page fault.
fn access(error: u64) -> Access {
    const WRITE: u64 = 1 << 1;
    const FETCH: u64 = 1 << 4;
    match error {
        _ if error & FETCH != 0 => Access::Execute,
        _ if error & WRITE != 0 => Access::Write,
        _ => Access::Read,
    }
}

pub(super) struct KvmContext {
    run: Arc<Run>,
    sched: Arc<Sched>,
}

impl KvmContext {
    pub fn new(sched: &Arc<Sched>, space: &Arc<SpaceCore>, home: usize) -> Result<KvmContext> {
        let kick = Arc::new(Kick::default());
        space.enter(&kick)?;
        let answers = match sched.machine.entries() {
            Entries::Answer => Some(Arc::new(Published::new())),
            Entries::Leave => None,
        };
        let run = Run {
            id: sched.next_context(),
            space: space.clone(),
            kick,
            answers,
            home: AtomicUsize::new(home),
            state: Mutex::new(State {
                phase: Phase::Rest,
                regs: Registers::default(),
                stop: Stop::Trap(Trap::Interrupted),
                dropped: false,
            }),
            left: Condvar::new(),
            fp: Mutex::new(Fp {
                state: FpState::initial(),
                on: None,
            }),
        };
        Ok(KvmContext {
            run: Arc::new(run),
            sched: sched.clone(),
        })
    }

    fn at_rest(&self) -> Result<()> {
        if self.sched.has_ended() {
            return Err(Error::Gone);
        }
        match self.run.state.lock().phase {
            Phase::Rest => Ok(()),
            _ => Err(Error::Host {
                what: "a context was used while it runs",
                source: std::io::Error::from_raw_os_error(libc::EBUSY),
            }),
        }
    }
}

impl Context for KvmContext {
    fn id(&self) -> ContextId {
        self.run.id
    }

    fn resume(&mut self, regs: &Registers) -> Result<()> {
        self.at_rest()?;
        let (clean, fault) = regs::sanitise(regs);
        let stop = loop {
            self.run.space.flush()?;
            if let Some(fault) = fault {
                break Some(Trap::Fault(fault));
            }
            if !self.run.kick.start() {
                break Some(Trap::Interrupted);
            }
            if !self.run.space.changes.pending() {
                break None;
            }
            self.run.kick.not_started();
        };
        let home = current().unwrap_or(self.run.home.load(Ordering::Relaxed));
        self.run.home.store(home, Ordering::Relaxed);
        let mut state = self.run.state.lock();
        state.regs = clean;
        match stop {
            Some(trap) => {
                state.stop = Stop::Trap(trap);
                state.phase = Phase::Stopped;
                drop(state);
                self.sched.report(self.run.clone());
            }
            None => {
                state.phase = Phase::Ready;
                drop(state);
                self.sched.resumed(self.run.clone(), home);
            }
        }
        Ok(())
    }

    fn trap(&mut self, regs: &mut Registers) -> Result<Trap> {
        self.at_rest()?;
        let state = self.run.state.lock();
        match &state.stop {
            Stop::Trap(trap) => {
                *regs = state.regs;
                Ok(*trap)
            }
            Stop::Broken(what) => Err(Error::Host {
                what: "KVM_RUN",
                source: std::io::Error::other(what.clone()),
            }),
        }
    }

    fn flush(&mut self) -> Result<()> {
        self.at_rest()?;
        self.run.space.flush()
    }

    fn fp_state(&mut self) -> Result<FpState> {
        self.at_rest()?;
        self.run.fp_state()
    }

    fn set_fp_state(&mut self, state: &FpState) -> Result<()> {
        self.at_rest()?;
        let mut fp = self.run.fp.lock();
        fp.state = FpState::from_bytes(self.sched.machine.xstate.sanitise(state.as_bytes()));
        fp.on = None;
        Ok(())
    }

    fn kicker(&self) -> Arc<dyn Kicker> {
        self.run.kick.clone()
    }

    fn answers(&self) -> Option<Arc<dyn Answers>> {
        let answers = self.run.answers.clone()?;
        Some(answers)
    }
}

impl Drop for KvmContext {
    fn drop(&mut self) {
        let mut state = self.run.state.lock();
        state.dropped = true;
        if state.phase == Phase::Running {
            drop(state);
            self.run.kick.kick();
            state = self.run.state.lock();
            while state.phase == Phase::Running {
                self.run.left.wait(&mut state);
            }
        }
        state.phase = Phase::Dead;
        drop(state);
        self.run.fp.lock().on = None;
        self.sched.forget(&self.run);
        self.run.space.leave();
        if current().is_none() {
            let home = self.run.home.load(Ordering::Relaxed);
            self.sched.ring(home, Ring::Wake);
        }
    }
}
