//! The part of the guest that is not the guest's: what runs in ring 0.
//!
//! It is one page of two-byte entries, `out imm8, al`: that leaves to the host, and the port tells
//! which entry it was. Each exception has one, and so has SYSCALL. Nothing ever returns through
//! ring 0: the Sentry sets the registers of ring 3 and enters it directly.
//!
//! ```text
//! BASE            code: 32 exceptions, SYSCALL             read-only
//! BASE + 0x1000   IDT, GDT                                  read-only
//! BASE + 0x10000  for each vCPU: task state, stack          written by the processor
//! BASE + 0x200000 the host's vDSO and its data              read-only, the guest's
//! ```
//!
//! All but the vDSO belongs to ring 0 in the page tables (no U bit on the way), so guest code can
//! read none of it. The task state allows no I/O port (its bitmap lies beyond its limit), and the flags
//! the Sentry sets give no I/O privilege.
//!
//! Where SYSCALL cannot leave ring 3 (page-table based nesting), fetching the entry faults, with the
//! registers a system call has; [`super::vcpu`] takes that for one.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::slots::{Memory, Slot};
use super::tables::{kernel_entry, kernel_page, user_entry, user_page, word};
use crate::common::PAGE;
use crate::{Prot, VdsoRange};

/// Where ring 0's gigabyte begins; guest memory ends there.
pub(super) const BASE: u64 = 0x7fff_c000_0000;
/// Exceptions: the vectors that the processor has reserved.
pub(super) const EXCEPTIONS: u64 = 32;
/// Port of the entry for SYSCALL.
pub(super) const SYSCALL_PORT: u16 = 0x40;
/// Address of the entry for SYSCALL.
pub(super) const SYSCALL_ENTRY: u64 = BASE + 4 * EXCEPTIONS;

pub(super) const IDT: u64 = BASE + PAGE;
pub(super) const IDT_LIMIT: u16 = 16 * EXCEPTIONS as u16 - 1;
pub(super) const GDT: u64 = IDT + 0x800;
pub(super) const GDT_LIMIT: u16 = 8 * 10 - 1;
pub(super) const TSS_LIMIT: u32 = 0x67;
/// Selectors.
pub(super) const KERNEL_CS: u16 = 0x08;
pub(super) const KERNEL_SS: u16 = 0x10;
pub(super) const TSS: u16 = 0x40;

/// Where the host's vDSO lies, data first.
pub(super) const VDSO: u64 = BASE + PAGES * PAGE;

/// Page of the first vCPU, and pages for each: task state and stack.
const FIRST_VCPU: u64 = 16;
const PAGES: u64 = 512;
/// vCPUs there is room for.
pub(super) const MAX_VCPUS: usize = ((PAGES - FIRST_VCPU) / 2) as usize;

/// Descriptors (Intel SDM vol. 3 §3.4.5): kernel code and data, user data and code, 64 bit.
const DESCRIPTORS: [(u16, u64); 4] = [
    (KERNEL_CS, 0x00af_9b00_0000_ffff),
    (KERNEL_SS, 0x00cf_9300_0000_ffff),
    (0x28, 0x00cf_f300_0000_ffff),
    (0x30, 0x00af_fb00_0000_ffff),
];

pub(super) struct Ring0 {
    /// The pages, and behind them their page table, the page directory, and the vDSO's page table.
    slot: Slot,
}

/// What an exception left on the stack of its vCPU.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub error: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
}

impl Ring0 {
    pub fn new(memory: &Arc<Memory>) -> io::Result<Ring0> {
        let slot = memory.anonymous(((PAGES + 3) * PAGE) as usize)?;
        let ring0 = Ring0 { slot };
        for vector in 0..EXCEPTIONS {
            ring0.entry(4 * vector, vector as u16);
            ring0.gate(vector);
        }
        ring0.entry(SYSCALL_ENTRY - BASE, SYSCALL_PORT);
        for (selector, descriptor) in DESCRIPTORS {
            ring0.set(GDT - BASE + u64::from(selector), descriptor);
        }
        for page in 0..PAGES {
            let address = ring0.slot.address() + page * PAGE;
            let writable = page >= FIRST_VCPU;
            if page < 2 || writable {
                ring0.set(PAGES * PAGE + page * 8, kernel_page(address, writable));
            }
        }
        let table = ring0.slot.address() + PAGES * PAGE;
        ring0.set((PAGES + 1) * PAGE, kernel_entry(table));
        Ok(ring0)
    }

    /// Guest-physical address of the page directory that all address spaces share.
    pub fn directory(&self) -> u64 {
        self.slot.address() + (PAGES + 1) * PAGE
    }

    /// Shows guests the pages of `vdso`, which `slot` leads to; gives where they have them.
    pub fn show_vdso(&self, vdso: &VdsoRange, slot: &Slot) -> VdsoRange {
        for at in (0..slot.len().min(PAGES * PAGE)).step_by(PAGE as usize) {
            let prot = match vdso.start + at >= vdso.image {
                true => Prot::READ | Prot::EXEC,
                false => Prot::READ,
            };
            let entry = user_page(slot.address() + at, prot);
            self.set((PAGES + 2) * PAGE + at / PAGE * 8, entry);
        }
        let table = self.slot.address() + (PAGES + 2) * PAGE;
        self.set((PAGES + 1) * PAGE + 8, user_entry(table));
        let place = |addr: u64| VDSO + (addr - vdso.start);
        VdsoRange {
            start: VDSO,
            end: place(vdso.end),
            image: place(vdso.image),
        }
    }

    /// Prepares the pages of a vCPU; gives the address of its task state.
    pub fn prepare(&self, vcpu: usize) -> u64 {
        let offset = Self::task_state(vcpu);
        let stack_top = BASE + offset + 2 * PAGE;
        // RSP0 lies at 4, so across two words; IST1 at 36, for what must not trust the stack.
        self.set(offset, stack_top << 32);
        self.set(offset + 8, stack_top >> 32);
        let apart = BASE + offset + PAGE;
        self.set(offset + 32, apart << 32);
        self.set(offset + 40, apart >> 32);
        // The bitmap of I/O ports begins behind the end.
        self.set(offset + 96, u64::from(TSS_LIMIT + 1) << 48);
        BASE + offset
    }

    /// What the exception `vector` left for the host.
    pub fn frame(&self, vcpu: usize, vector: u64) -> Frame {
        let top = Self::task_state(vcpu) + if uses_ist(vector) { 1 } else { 2 } * PAGE;
        let at = |n: u64| word(&self.slot, top - 8 * n).load(Ordering::Relaxed);
        Frame {
            error: if has_error(vector) { at(6) } else { 0 },
            rip: at(5),
            cs: at(4),
            rflags: at(3),
            rsp: at(2),
        }
    }

    fn task_state(vcpu: usize) -> u64 {
        (FIRST_VCPU + 2 * (vcpu.min(MAX_VCPUS - 1)) as u64) * PAGE
    }

    /// `out port, al; hlt`.
    fn entry(&self, offset: u64, port: u16) {
        let code = 0x90f4_00e6 | u64::from(port) << 8;
        let (at, shift) = (offset & !7, 8 * (offset & 7));
        let word = word(&self.slot, at);
        word.store(
            word.load(Ordering::Relaxed) | code << shift,
            Ordering::Relaxed,
        );
    }

    fn gate(&self, vector: u64) {
        const BREAKPOINT: u64 = 3;
        const OVERFLOW: u64 = 4;
        let entry = BASE + 4 * vector;
        let privilege = if matches!(vector, BREAKPOINT | OVERFLOW) {
            3
        } else {
            0
        };
        let kind = 0x8e | privilege << 5;
        let low = entry & 0xffff
            | u64::from(KERNEL_CS) << 16
            | u64::from(uses_ist(vector)) << 32
            | kind << 40
            | (entry >> 16 & 0xffff) << 48;
        self.set(IDT - BASE + 16 * vector, low);
        self.set(IDT - BASE + 16 * vector + 8, entry >> 32);
    }

    fn set(&self, offset: u64, value: u64) {
        word(&self.slot, offset).store(value, Ordering::SeqCst);
    }
}

/// NMI, double fault and machine check can come while the stack is the guest's.
fn uses_ist(vector: u64) -> bool {
    matches!(vector, 2 | 8 | 18)
}

fn has_error(vector: u64) -> bool {
    matches!(vector, 8 | 10..=14 | 17 | 21 | 29 | 30)
}
