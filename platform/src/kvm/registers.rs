//! Registers as KVM has them, and as the Sentry does.

use kvm_bindings::{kvm_fpu, kvm_regs, kvm_segment, kvm_sregs};

use super::ring0::{self, Places};
use crate::arch::{FpState, Registers};
use crate::common::xstate::{HEADER_END, LEGACY, MXCSR, MXCSR_MASK, X87_SSE};

/// SCE, LME, LMA, NXE.
const EFER: u64 = 0xd01;
/// PE, MP, ET, NE, WP, AM, PG.
const CR0: u64 = 0x8005_0033;
/// PAE, OSFXSR, OSXMMEXCPT.
const CR4: u64 = 0x620;
const CR4_FSGSBASE: u64 = 1 << 16;
const CR4_OSXSAVE: u64 = 1 << 18;
/// Ring 0 executes nothing of the guest's, and reads and writes nothing: its entries use words, tables
/// and stacks of their own ([`super::entries`]).
const CR4_SMEP: u64 = 1 << 20;
const CR4_SMAP: u64 = 1 << 21;

/// Types of segments (Intel SDM vol. 3 §3.4.5.1, §3.5): accessed and writable, accessed and
/// readable, busy task state.
const DATA: u8 = 3;
const CODE: u8 = 11;
const BUSY_TSS: u8 = 11;
/// What guest code may see in RFLAGS: not RF, which faults set.
const RESUME_FLAG: u64 = 1 << 16;

fn segment(selector: u16, type_: u8, base: u64) -> kvm_segment {
    kvm_segment {
        base,
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        dpl: (selector & 3) as u8,
        db: u8::from(type_ == DATA),
        s: 1,
        l: u8::from(type_ == CODE),
        g: 1,
        ..Default::default()
    }
}

/// What is supported of CPUID leaf 1 (ECX) and leaf 7 (EBX) is switched on. Not UMIP: where the tables
/// lie is no secret, and Linux has answers for programs that ask.
pub(super) fn cr4(leaf_1: u32, leaf_7: u32) -> u64 {
    [
        (leaf_1 >> 26, CR4_OSXSAVE),
        (leaf_7, CR4_FSGSBASE),
        (leaf_7 >> 7, CR4_SMEP),
        (leaf_7 >> 20, CR4_SMAP),
    ]
    .into_iter()
    .filter(|(supported, _)| supported & 1 != 0)
    .fold(CR4, |cr4, (_, bit)| cr4 | bit)
}

/// What stays the same for all guests: 64-bit mode, our tables, the vCPU's task state.
pub(super) fn set_up(sregs: &mut kvm_sregs, places: &Places, cr4: u64) {
    sregs.cr0 = CR0;
    sregs.cr4 = cr4;
    sregs.efer = EFER;
    sregs.gdt.base = ring0::GDT;
    sregs.gdt.limit = ring0::GDT_LIMIT;
    sregs.idt.base = places.idt;
    sregs.idt.limit = ring0::IDT_LIMIT;
    sregs.ldt = kvm_segment {
        unusable: 1,
        ..Default::default()
    };
    sregs.tr = kvm_segment {
        base: places.task_state,
        limit: ring0::TSS_LIMIT,
        selector: ring0::TSS,
        type_: BUSY_TSS,
        present: 1,
        ..Default::default()
    };
    sregs.cs = segment(ring0::KERNEL_CS, CODE, 0);
    sregs.ss = segment(ring0::KERNEL_SS, DATA, 0);
}

pub(super) fn to_general(from: &Registers, to: &mut kvm_regs) {
    *to = kvm_regs {
        rax: from.rax,
        rbx: from.rbx,
        rcx: from.rcx,
        rdx: from.rdx,
        rsi: from.rsi,
        rdi: from.rdi,
        rsp: from.rsp,
        rbp: from.rbp,
        r8: from.r8,
        r9: from.r9,
        r10: from.r10,
        r11: from.r11,
        r12: from.r12,
        r13: from.r13,
        r14: from.r14,
        r15: from.r15,
        rip: from.rip,
        rflags: from.eflags,
    };
}

pub(super) fn from_general(from: &kvm_regs, to: &mut Registers) {
    *to = Registers {
        rax: from.rax,
        rbx: from.rbx,
        rcx: from.rcx,
        rdx: from.rdx,
        rsi: from.rsi,
        rdi: from.rdi,
        rsp: from.rsp,
        rbp: from.rbp,
        r8: from.r8,
        r9: from.r9,
        r10: from.r10,
        r11: from.r11,
        r12: from.r12,
        r13: from.r13,
        r14: from.r14,
        r15: from.r15,
        rip: from.rip,
        eflags: from.rflags & !RESUME_FLAG,
        orig_rax: u64::MAX,
        ..*to
    };
}

/// Ring 3, with these registers (which were made harmless before) and page tables.
pub(super) fn to_system(from: &Registers, root: u64, to: &mut kvm_sregs) {
    to.cr3 = root;
    to.cs = segment(from.cs as u16, CODE, 0);
    to.ss = segment(from.ss as u16, DATA, 0);
    let data = |selector: u64, base| kvm_segment {
        dpl: 3,
        ..segment(selector as u16, DATA, base)
    };
    to.ds = data(from.ds, 0);
    to.es = data(from.es, 0);
    to.fs = data(from.fs, from.fs_base);
    to.gs = data(from.gs, from.gs_base);
}

/// Code and stack segment are always those of ring 3.
pub(super) fn from_system(from: &kvm_sregs, to: &mut Registers) {
    to.fs_base = from.fs.base;
    to.gs_base = from.gs.base;
    to.ds = u64::from(from.ds.selector);
    to.es = u64::from(from.es.selector);
    to.fs = u64::from(from.fs.selector);
    to.gs = u64::from(from.gs.selector);
}

/// FP state of a processor without XSAVE.
pub(super) fn of_fpu(fpu: &kvm_fpu) -> FpState {
    let mut bytes = vec![0; HEADER_END];
    bytes[0..2].copy_from_slice(&fpu.fcw.to_le_bytes());
    bytes[2..4].copy_from_slice(&fpu.fsw.to_le_bytes());
    bytes[4] = fpu.ftwx;
    bytes[6..8].copy_from_slice(&fpu.last_opcode.to_le_bytes());
    bytes[8..16].copy_from_slice(&fpu.last_ip.to_le_bytes());
    bytes[16..24].copy_from_slice(&fpu.last_dp.to_le_bytes());
    bytes[MXCSR..MXCSR + 4].copy_from_slice(&fpu.mxcsr.to_le_bytes());
    bytes[MXCSR_MASK..MXCSR_MASK + 4].copy_from_slice(&0xffffu32.to_le_bytes());
    bytes[32..160].copy_from_slice(fpu.fpr.as_flattened());
    bytes[160..416].copy_from_slice(fpu.xmm.as_flattened());
    bytes[LEGACY..LEGACY + 8].copy_from_slice(&X87_SSE.to_le_bytes());
    FpState::from_bytes(bytes)
}

/// The reverse, of sanitised bytes in the XSAVE layout.
pub(super) fn to_fpu(bytes: &[u8]) -> kvm_fpu {
    let features = u64::from(bytes[LEGACY]);
    let initial = FpState::initial();
    let x87 = if features & 1 != 0 {
        bytes
    } else {
        initial.as_bytes()
    };
    let sse = if features & 2 != 0 {
        bytes
    } else {
        initial.as_bytes()
    };
    let half = |at: usize| u16::from_le_bytes([x87[at], x87[at + 1]]);
    let mut fpu = kvm_fpu {
        fcw: half(0),
        fsw: half(2),
        ftwx: x87[4],
        last_opcode: half(6),
        last_ip: crate::common::xstate::read_u64(x87, 8),
        last_dp: crate::common::xstate::read_u64(x87, 16),
        mxcsr: crate::common::xstate::read_u32(bytes, MXCSR),
        ..Default::default()
    };
    fpu.fpr.as_flattened_mut().copy_from_slice(&x87[32..160]);
    fpu.xmm.as_flattened_mut().copy_from_slice(&sse[160..416]);
    fpu
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fp_state_survives_the_old_format() {
        let mut bytes = FpState::initial().as_bytes().to_vec();
        for (n, byte) in bytes[32..416].iter_mut().enumerate() {
            *byte = n as u8;
        }
        bytes[4] = 0x81;
        bytes[LEGACY] = 3;
        let back = of_fpu(&to_fpu(&bytes));
        assert_eq!(back.as_bytes()[..24], bytes[..24]);
        assert_eq!(back.as_bytes()[32..416], bytes[32..416]);
        // What is not in use is in its initial state.
        bytes[LEGACY] = 0;
        let back = of_fpu(&to_fpu(&bytes));
        assert_eq!(back.as_bytes()[32..416], [0; 384]);
    }

    #[test]
    fn what_is_supported_is_on() {
        assert_eq!(cr4(0, 0), CR4);
        assert_eq!(cr4(!(1 << 26), !(1 | 1 << 7 | 1 << 20)), CR4);
        assert_eq!(cr4(1 << 26, 1), CR4 | CR4_OSXSAVE | CR4_FSGSBASE);
        assert_eq!(cr4(0, 1 << 7 | 1 << 20), CR4 | 0x30_0000);
    }

    #[test]
    fn registers_survive() {
        let mut regs = Registers::start(0x1234, 0x5678);
        (regs.r11, regs.fs_base, regs.ds) = (7, 0x1000, 0x2b);
        let (mut general, mut system) = (kvm_regs::default(), kvm_sregs::default());
        to_general(&regs, &mut general);
        to_system(&regs, 0, &mut system);
        let mut back = Registers::start(0, 0);
        from_general(&general, &mut back);
        from_system(&system, &mut back);
        assert_eq!(back, regs);
        assert_eq!((system.cs.dpl, system.ss.dpl, system.ds.dpl), (3, 3, 3));
    }
}
