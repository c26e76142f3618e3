//! What kind of machine this is, found out by running a few instructions in it.
//!
//! KVM may leave the walking of page tables to the processor, or keep copies of ours; guests may have
//! the host's time-stamp counter or another one. That is told by no interface, and decides what is
//! worth doing, or right (see [`super::tables`], [`super::ring0`]).

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use nix::unistd::{SysconfVar, sysconf};

use super::Machine;
use super::entries::{Entries, VALID};
use super::slots::Slot;
use super::tables::{Copies, Full, Tables, word};
use super::vcpu::{Exit, Vcpu};
use crate::arch::Registers;
use crate::common::PAGE;
use crate::{Answer, Prot, VdsoRange, host};

const CODE: u64 = 0x40_0000;
const DATA: u64 = CODE + PAGE;
const STACK_TOP: u64 = DATA + 2 * PAGE;
/// `mov eax, [rdi]; syscall`, and behind it `call rbx; syscall`.
const PROGRAM: u64 = 0x050f_d3ff_050f_078b;
const LOAD: u64 = CODE;
const CALL: u64 = CODE + 4;

/// `2: mov eax, 39; syscall; dec ebx; jnz 2b; mov eax, 500; syscall`
const ASK_PROGRAM: [u8; 24] = [
    0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0xff, 0xcb, 0x75, 0xf5, 0xb8, 0xf4, 0x01, 0, 0, 0x0f, 0x05, 0,
    0, 0, 0, 0, 0,
];
const ASK: u64 = CODE + 64;
const ASKED: u64 = 500;
/// Calls to be answered, in one run. Few: emulated, they take long.
const TIMES: u32 = 4;
/// An answer has to take so many times less than to leave.
const MARGIN: u32 = 4;
/// Of so many runs the quickest counts.
const RUNS: u32 = 3;

/// So often may a run be interrupted.
const INTERRUPTS: u32 = 100;

/// What was found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Traits {
    pub copies: Copies,
    pub entries: Entries,
    /// Where guests have it.
    pub vdso: Option<VdsoRange>,
}

struct Probe {
    vcpu: Arc<Vcpu>,
    /// Another one, whose entries answer.
    answering: Arc<Vcpu>,
    tables: Tables,
    /// The program, two pages of data that tell their number, and a stack.
    pages: Slot,
}

/// Tries the machine out. Guests cannot run before.
pub(super) fn probe(machine: &Arc<Machine>) -> io::Result<Traits> {
    let mut probe = Probe {
        vcpu: Vcpu::with_entries(machine, Entries::Leave)?,
        answering: Vcpu::with_entries(machine, Entries::Answer)?,
        tables: Tables::new(machine)?,
        pages: machine.memory.anonymous(4 * PAGE as usize)?,
    };
    for (n, value) in [(0, PROGRAM), (1, 1), (2, 2)] {
        word(&probe.pages, n * PAGE).store(value, Ordering::SeqCst);
    }
    for (at, bytes) in (ASK - CODE..).step_by(8).zip(ASK_PROGRAM.chunks_exact(8)) {
        let value = bytes
            .iter()
            .rev()
            .fold(0, |word, byte| word << 8 | u64::from(*byte));
        word(&probe.pages, at).store(value, Ordering::SeqCst);
    }
    probe.map(CODE, 0, Prot::READ | Prot::EXEC)?;
    probe.map(DATA, 1, Prot::READ)?;
    probe.map(STACK_TOP - PAGE, 3, Prot::READ | Prot::WRITE)?;
    let vdso = machine.shown_vdso.as_ref().map(|(_, shown)| *shown);
    Ok(Traits {
        vdso: vdso.filter(|vdso| probe.shares_clocks(vdso) && probe.names_a_core(vdso)),
        entries: probe.entries()?,
        copies: probe.copies()?,
    })
}

/// Runs the program from `start` to its next call; gives its result, or its number.
fn run(vcpu: &Vcpu, start: u64, root: u64, set: impl Fn(&mut Registers)) -> io::Result<u64> {
    let mut regs = Registers::start(start, STACK_TOP);
    set(&mut regs);
    for _ in 0..INTERRUPTS {
        match vcpu.run(&mut regs, root) {
            Exit::Syscall => return Ok(regs.rax),
            // By a debugger, or the end of a stop; it goes on.
            Exit::Interrupted => {}
            other => {
                let told = format!("guest code does not run: {other:?}");
                return Err(io::Error::other(told));
            }
        }
    }
    Err(io::ErrorKind::Interrupted.into())
}

impl Probe {
    fn map(&mut self, addr: u64, page: u64, prot: Prot) -> io::Result<()> {
        let physical = self.pages.address() + page * PAGE;
        let mapped = self.tables.map(addr, addr + PAGE, physical, prot);
        mapped.map_err(Full::into_error)
    }

    /// Answers pay if one takes little of what it takes to leave; then what the longer entry adds to
    /// calls that are not answered is little as well.
    fn entries(&self) -> io::Result<Entries> {
        let root = self.tables.root().address();
        let time = |vcpu: &Vcpu, times: u32| -> io::Result<(Duration, u64)> {
            let mut best = (Duration::MAX, 0);
            for _ in 0..RUNS {
                let start = Instant::now();
                let number = run(vcpu, ASK, root, |regs| regs.rbx = times.into())?;
                best = best.min((start.elapsed(), number));
            }
            Ok(best)
        };
        self.answering.publish(Answer::Getpid as usize, VALID | 1);
        let (leaving, _) = time(&self.vcpu, 1)?;
        let (one, told) = time(&self.answering, 1)?;
        let (more, told_again) = time(&self.answering, 1 + TIMES)?;
        let answered = more.saturating_sub(one) / TIMES;
        let pays = (told, told_again) == (ASKED, ASKED) && answered * MARGIN < leaving;
        Ok(if pays {
            Entries::Answer
        } else {
            Entries::Leave
        })
    }

    /// An entry is changed that KVM may have copied. With another root the processor forgets what it
    /// knows; a copy stays.
    fn copies(&mut self) -> io::Result<Copies> {
        let load = |regs: &mut Registers| regs.rdi = DATA;
        if run(&self.vcpu, LOAD, self.tables.root().address(), load)? != 1 {
            return Err(io::Error::other("guest memory is not what was mapped"));
        }
        let other = self.tables.other_root().map_err(Full::into_error)?;
        self.map(DATA, 2, Prot::READ)?;
        Ok(match run(&self.vcpu, LOAD, other, load)? {
            2 => Copies::None,
            _ => Copies::Made,
        })
    }

    /// Calls a function of the vDSO with two arguments.
    fn call(&self, vdso: &VdsoRange, name: &str, first: u64, second: u64) -> Option<u64> {
        let symbol = host::vdso_symbol(&host::vdso_bytes()?, name)?;
        let root = self.tables.root().address();
        let result = run(&self.vcpu, CALL, root, |regs| {
            regs.rbx = vdso.image + symbol;
            (regs.rdi, regs.rsi) = (first, second);
        });
        result.ok()
    }

    /// What guest code left at the bottom of the stack.
    fn left(&self, n: u64) -> u64 {
        word(&self.pages, 3 * PAGE + 8 * n).load(Ordering::SeqCst)
    }

    /// Whether the vDSO, run by a guest, knows a core that there is. It asks the processor, in ways
    /// that KVM may answer for itself.
    fn names_a_core(&self, vdso: &VdsoRange) -> bool {
        let bottom = STACK_TOP - PAGE;
        let result = self.call(vdso, "__vdso_getcpu", bottom, 0);
        let cores = sysconf(SysconfVar::_NPROCESSORS_CONF);
        let cores = cores.ok().flatten().unwrap_or(1);
        result == Some(0) && ((self.left(0) & 0xffff_ffff) as i64) < cores
    }

    /// Whether the vDSO, run by a guest, tells a time between two that it tells the host.
    fn shares_clocks(&self, vdso: &VdsoRange) -> bool {
        let Ok(before) = clock_gettime(ClockId::CLOCK_MONOTONIC) else {
            return false;
        };
        let clock = libc::CLOCK_MONOTONIC as u64;
        let result = self.call(vdso, "__vdso_clock_gettime", clock, STACK_TOP - PAGE);
        let Ok(after) = clock_gettime(ClockId::CLOCK_MONOTONIC) else {
            return false;
        };
        let told = (self.left(0) as i64, self.left(1) as i64);
        let between = (before.tv_sec(), before.tv_nsec()) <= told
            && told <= (after.tv_sec(), after.tv_nsec());
        result == Some(0) && between
    }
}
