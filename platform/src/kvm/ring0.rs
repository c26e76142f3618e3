//! The part of the guest that is not the guest's: what runs in ring 0.
//!
//! Each exception has an entry, and so has SYSCALL ([`super::entries`]). All but system calls that
//! are answered in place leave to the host, and do not return: the Sentry sets the registers of ring 3
//! and enters it directly.
//!
//! ```text
//! BASE + 0x1000   GDT                                       read-only
//! BASE + 0x10000  for each vCPU: entries; words and IDT     read-only
//!                 task state, stack                         written by the processor
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

use super::entries::{self, Entries};
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
pub(super) const PAGE_FAULT: u64 = 14;

/// In the second page of a vCPU, behind its words.
const IDT_AT: u64 = PAGE + 0x800;
pub(super) const IDT_LIMIT: u16 = 16 * EXCEPTIONS as u16 - 1;
pub(super) const GDT: u64 = BASE + PAGE;
pub(super) const GDT_LIMIT: u16 = 8 * 16 - 1;
pub(super) const TSS_LIMIT: u32 = 0x67;
/// Selectors.
pub(super) const KERNEL_CS: u16 = 0x08;
pub(super) const KERNEL_SS: u16 = 0x10;
pub(super) const TSS: u16 = 0x40;

/// Where the host's vDSO lies, data first.
pub(super) const VDSO: u64 = BASE + PAGES * PAGE;

/// Page of the first vCPU, and pages for each: entries, words and IDT, task state, stack.
const FIRST_VCPU: u64 = 16;
const EACH: u64 = 4;
const PAGES: u64 = 512;
/// vCPUs there is room for.
pub(super) const MAX_VCPUS: usize = ((PAGES - FIRST_VCPU) / EACH) as usize;

/// Descriptors (Intel SDM vol. 3 §3.4.5): kernel code and data, user data and code, 64 bit. The last
/// one is for the vDSO of a host without RDPID, which takes the limit for the number of its core.
const DESCRIPTORS: [(u16, u64); 5] = [
    (KERNEL_CS, 0x00af_9b00_0000_ffff),
    (KERNEL_SS, 0x00cf_9300_0000_ffff),
    (0x28, 0x00cf_f300_0000_ffff),
    (0x30, 0x00af_fb00_0000_ffff),
    (0x78, 0x0040_f100_0000_0000),
];

/// Addresses of what belongs to a vCPU.
#[derive(Clone, Copy, Debug)]
pub(super) struct Places {
    pub entries: u64,
    pub idt: u64,
    pub task_state: u64,
}

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
        for (selector, descriptor) in DESCRIPTORS {
            ring0.set(GDT - BASE + u64::from(selector), descriptor);
        }
        for page in 0..PAGES {
            let address = ring0.slot.address() + page * PAGE;
            let writable = page >= FIRST_VCPU && page % EACH >= 2;
            if page == 1 || page >= FIRST_VCPU {
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

    /// Prepares the pages of a vCPU.
    pub fn prepare(&self, vcpu: usize, entries: Entries) -> Places {
        let start = Self::first_page(vcpu);
        self.put(start, &entries::page(entries, BASE + start));
        self.set(start + entries::LIMIT_AT as u64, BASE);
        self.put(start + entries::MAP_AT as u64, &entries::map());
        for vector in 0..EXCEPTIONS {
            self.gate(start, vector, entries);
        }
        let offset = Self::task_state(vcpu);
        let stack_top = BASE + offset + 2 * PAGE;
        let apart = BASE + offset + PAGE;
        // RSP0 lies at 4, IST1 at 36 and IST2 behind it, so across words.
        self.set(offset, stack_top << 32);
        self.set(offset + 8, stack_top >> 32);
        self.set(offset + 32, stack_top << 32);
        self.set(offset + 40, stack_top >> 32 | apart << 32);
        self.set(offset + 48, apart >> 32);
        // The bitmap of I/O ports begins behind the end.
        self.set(offset + 96, u64::from(TSS_LIMIT + 1) << 48);
        Places {
            entries: BASE + start,
            idt: BASE + start + IDT_AT,
            task_state: BASE + offset,
        }
    }

    /// Publishes a word for the entries of a vCPU.
    pub fn publish(&self, vcpu: usize, n: usize, value: u64) {
        let at = entries::WORDS_AT + 8 * n.min(entries::WORDS - 1);
        self.set(Self::first_page(vcpu) + at as u64, value);
    }

    /// What the exception `vector` left for the host.
    pub fn frame(&self, vcpu: usize, vector: u64) -> Frame {
        let top = Self::task_state(vcpu) + if is_apart(vector) { 1 } else { 2 } * PAGE;
        let at = |n: u64| word(&self.slot, top - 8 * n).load(Ordering::Relaxed);
        Frame {
            error: if has_error(vector) { at(6) } else { 0 },
            rip: at(5),
            cs: at(4),
            rflags: at(3),
            rsp: at(2),
        }
    }

    fn first_page(vcpu: usize) -> u64 {
        (FIRST_VCPU + EACH * (vcpu.min(MAX_VCPUS - 1)) as u64) * PAGE
    }

    fn task_state(vcpu: usize) -> u64 {
        Self::first_page(vcpu) + 2 * PAGE
    }

    fn gate(&self, start: u64, vector: u64, entries: Entries) {
        const BREAKPOINT: u64 = 3;
        const OVERFLOW: u64 = 4;
        let entry = BASE + start + entries::gate(vector, entries);
        let privilege = if matches!(vector, BREAKPOINT | OVERFLOW) {
            3
        } else {
            0
        };
        let kind = 0x8e | privilege << 5;
        let low = entry & 0xffff
            | u64::from(KERNEL_CS) << 16
            | (1 + u64::from(is_apart(vector))) << 32
            | kind << 40
            | (entry >> 16 & 0xffff) << 48;
        self.set(start + IDT_AT + 16 * vector, low);
        self.set(start + IDT_AT + 16 * vector + 8, entry >> 32);
    }

    /// Whole words.
    fn put(&self, offset: u64, bytes: &[u8]) {
        for (at, word) in (offset..).step_by(8).zip(bytes.chunks_exact(8)) {
            let word = word.iter().rev();
            self.set(at, word.fold(0, |word, byte| word << 8 | u64::from(*byte)));
        }
    }

    fn set(&self, offset: u64, value: u64) {
        word(&self.slot, offset).store(value, Ordering::SeqCst);
    }
}

/// Whether that is the address of a vCPU's entry for SYSCALL.
pub(super) fn is_syscall_entry(addr: u64) -> bool {
    let offset = addr.wrapping_sub(BASE + FIRST_VCPU * PAGE);
    offset < (MAX_VCPUS as u64) * EACH * PAGE
        && offset % (EACH * PAGE) == entries::SYSCALL_AT as u64
}

/// NMI, double fault and machine check can come while another exception has the stack. No exception
/// uses the stack there is: between SYSCALL and SYSRET that is the guest's.
fn is_apart(vector: u64) -> bool {
    matches!(vector, 2 | 8 | 18)
}

fn has_error(vector: u64) -> bool {
    matches!(vector, 8 | 10..=14 | 17 | 21 | 29 | 30)
}
