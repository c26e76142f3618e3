//! What kind of machine this is, found out by running a few instructions in it.
//!
//! KVM may leave the walking of page tables to the processor, or keep copies of ours. That is told
//! by no interface, and decides what is worth doing (see [`super::tables`]).

use std::io;
use std::sync::Arc;

use super::Machine;
use super::tables::{Copies, Full, Tables, word};
use super::vcpu::{Exit, Vcpu};
use crate::Prot;
use crate::arch::Registers;
use crate::common::PAGE;

const CODE: u64 = 0x40_0000;
const DATA: u64 = CODE + PAGE;
/// `mov eax, [rdi]; syscall`
const LOAD_AND_CALL: u64 = 0x050f_078b;

/// What was found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Traits {
    pub copies: Copies,
}

pub(super) fn probe(machine: &Arc<Machine>) -> io::Result<Traits> {
    let full = |full| match full {
        Full::Memory(error) => error,
        Full::Tables => io::ErrorKind::OutOfMemory.into(),
    };
    let vcpu = Vcpu::new(machine)?;
    // Code, and two pages of data that tell their number.
    let pages = machine.memory.anonymous(3 * PAGE as usize)?;
    let at = |n: u64| pages.address() + n * PAGE;
    for (n, value) in [(0, LOAD_AND_CALL), (1, 1), (2, 2)] {
        word(&pages, n * PAGE).store(value, std::sync::atomic::Ordering::SeqCst);
    }
    let mut tables = Tables::new(machine)?;
    let code = Prot::READ | Prot::EXEC;
    tables.map(CODE, CODE + PAGE, at(0), code).map_err(full)?;
    tables
        .map(DATA, DATA + PAGE, at(1), Prot::READ)
        .map_err(full)?;
    let call = |root: u64| {
        let mut regs = Registers::start(CODE, 0);
        regs.rdi = DATA;
        match vcpu.run(&mut regs, root) {
            Exit::Syscall => Ok(regs.rax),
            other => Err(io::Error::other(format!(
                "guest code does not run: {other:?}"
            ))),
        }
    };
    let root = tables.root().address();
    if call(root)? != 1 {
        return Err(io::Error::other("guest memory is not what was mapped"));
    }
    // The processor forgets what it knows of an entry with the root; a copy stays.
    let other = tables.other_root().map_err(full)?;
    tables
        .map(DATA, DATA + PAGE, at(2), Prot::READ)
        .map_err(full)?;
    let copies = match call(other)? {
        2 => Copies::None,
        _ => Copies::Made,
    };
    Ok(Traits { copies })
}
