//! What kind of machine this is, found out by running a few instructions in it.
//!
//! KVM may leave the walking of page tables to the processor, or keep copies of ours; guests may have
//! the host's time-stamp counter or another one. That is told by no interface, and decides what is
//! worth doing, or right (see [`super::tables`], [`super::ring0`]).

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nix::time::{ClockId, clock_gettime};

use super::Machine;
use super::slots::Slot;
use super::tables::{Copies, Full, Tables, word};
use super::vcpu::{Exit, Vcpu};
use crate::arch::Registers;
use crate::common::PAGE;
use crate::{Prot, VdsoRange, host};

const CODE: u64 = 0x40_0000;
const DATA: u64 = CODE + PAGE;
const STACK_TOP: u64 = DATA + 2 * PAGE;
/// `mov eax, [rdi]; syscall`, and behind it `call rbx; syscall`.
const PROGRAM: u64 = 0x050f_d3ff_050f_078b;
const LOAD: u64 = CODE;
const CALL: u64 = CODE + 4;

/// What was found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Traits {
    pub copies: Copies,
    /// Where guests have it.
    pub vdso: Option<VdsoRange>,
}

struct Probe {
    vcpu: Arc<Vcpu>,
    tables: Tables,
    /// The program, two pages of data that tell their number, and a stack.
    pages: Slot,
}

/// Tries the machine out. Guests cannot run before.
pub(super) fn probe(machine: &Arc<Machine>) -> io::Result<Traits> {
    let mut probe = Probe {
        vcpu: Vcpu::new(machine)?,
        tables: Tables::new(machine)?,
        pages: machine.memory.anonymous(4 * PAGE as usize)?,
    };
    for (n, value) in [(0, PROGRAM), (1, 1), (2, 2)] {
        word(&probe.pages, n * PAGE).store(value, Ordering::SeqCst);
    }
    probe.map(CODE, 0, Prot::READ | Prot::EXEC)?;
    probe.map(DATA, 1, Prot::READ)?;
    probe.map(STACK_TOP - PAGE, 3, Prot::READ | Prot::WRITE)?;
    let vdso = machine.shown_vdso.as_ref().map(|(_, shown)| *shown);
    Ok(Traits {
        vdso: vdso.filter(|vdso| probe.shares_clocks(vdso)),
        copies: probe.copies()?,
    })
}

impl Probe {
    fn map(&mut self, addr: u64, page: u64, prot: Prot) -> io::Result<()> {
        let physical = self.pages.address() + page * PAGE;
        let mapped = self.tables.map(addr, addr + PAGE, physical, prot);
        mapped.map_err(Full::into_error)
    }

    /// Runs the program from `start` to its next call; gives its result.
    fn run(&self, start: u64, root: u64, set: impl Fn(&mut Registers)) -> io::Result<u64> {
        let mut regs = Registers::start(start, STACK_TOP);
        set(&mut regs);
        match self.vcpu.run(&mut regs, root) {
            Exit::Syscall => Ok(regs.rax),
            other => Err(io::Error::other(format!(
                "guest code does not run: {other:?}"
            ))),
        }
    }

    /// An entry is changed that KVM may have copied. With another root the processor forgets what it
    /// knows; a copy stays.
    fn copies(&mut self) -> io::Result<Copies> {
        let load = |regs: &mut Registers| regs.rdi = DATA;
        if self.run(LOAD, self.tables.root().address(), load)? != 1 {
            return Err(io::Error::other("guest memory is not what was mapped"));
        }
        let other = self.tables.other_root().map_err(Full::into_error)?;
        self.map(DATA, 2, Prot::READ)?;
        Ok(match self.run(LOAD, other, load)? {
            2 => Copies::None,
            _ => Copies::Made,
        })
    }

    /// Whether the vDSO, run by a guest, tells a time between two that it tells the host.
    fn shares_clocks(&self, vdso: &VdsoRange) -> bool {
        let image = host::vdso_bytes();
        let symbol = image.and_then(|image| host::vdso_symbol(&image, "__vdso_clock_gettime"));
        let (Some(symbol), Ok(before)) = (symbol, clock_gettime(ClockId::CLOCK_MONOTONIC)) else {
            return false;
        };
        let result = self.run(CALL, self.tables.root().address(), |regs| {
            regs.rbx = vdso.image + symbol;
            regs.rdi = libc::CLOCK_MONOTONIC as u64;
            regs.rsi = STACK_TOP - PAGE;
        });
        let Ok(after) = clock_gettime(ClockId::CLOCK_MONOTONIC) else {
            return false;
        };
        let at = |n: u64| word(&self.pages, 3 * PAGE + 8 * n).load(Ordering::SeqCst) as i64;
        let told = (at(0), at(1));
        let between = (before.tv_sec(), before.tv_nsec()) <= told
            && told <= (after.tv_sec(), after.tv_nsec());
        matches!(result, Ok(0)) && between
    }
}
