//! The x86-64 signal frame: `struct rt_sigframe` of the kernel ABI (arch/x86/include/asm/sigframe.h,
//! asm/sigcontext.h), built on the guest's stack and read back by rt_sigreturn(2).

use runsc_platform::arch::{FpState, Registers};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::exception::Exception;
use super::{AltStack, SigAction, SigFields, SigInfo, SigSet};
use crate::errno::{Errno, Result};
use crate::kernel::task::Task;
use crate::mm::io::UserMemory;

/// Bytes below the stack pointer that leaf functions may use (System V ABI).
const RED_ZONE: u64 = 128;
const UC_FP_XSTATE: u64 = 1;
const UC_SIGCONTEXT_SS: u64 = 2;
const UC_STRICT_RESTORE_SS: u64 = 4;
const FP_XSTATE_MAGIC1: u32 = 0x4650_5853;
const FP_XSTATE_MAGIC2: u32 = 0x4650_5845;
/// Where `struct _fpx_sw_bytes` lies in the legacy FXSAVE area.
const FP_SW_OFFSET: usize = 464;
/// Smallest FP state: the legacy area.
const FP_LEGACY: usize = 512;
/// Largest FP state accepted back: AVX-512 needs about 2.7 KiB, AMX 11 KiB.
const FP_MAX: usize = 16 * 1024;
const SA_RESTORER: u64 = 0x0400_0000;
const SS_AUTODISARM: i32 = 1 << 31;

/// struct sigaltstack (stack_t).
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct RawStack {
    pub sp: u64,
    pub flags: i32,
    pub pad: u32,
    pub size: u64,
}

/// struct sigcontext_64.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct SigContext {
    r8: u64,
    r9: u64,
    r10: u64,
    r11: u64,
    r12: u64,
    r13: u64,
    r14: u64,
    r15: u64,
    di: u64,
    si: u64,
    bp: u64,
    bx: u64,
    dx: u64,
    ax: u64,
    cx: u64,
    sp: u64,
    ip: u64,
    flags: u64,
    cs: u16,
    gs: u16,
    fs: u16,
    ss: u16,
    err: u64,
    trapno: u64,
    oldmask: u64,
    cr2: u64,
    fpstate: u64,
    reserved: [u64; 8],
}

/// struct rt_sigframe, without the FP state above it.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct RtSigFrame {
    pretcode: u64,
    uc_flags: u64,
    uc_link: u64,
    uc_stack: RawStack,
    mcontext: SigContext,
    sigmask: u64,
    info: [u8; 128],
}

/// siginfo_t as guests see it.
pub fn encode_info(info: &SigInfo) -> [u8; 128] {
    let mut b = [0u8; 128];
    let mut put = |at: usize, bytes: &[u8]| b[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &info.signal.number().to_ne_bytes());
    put(4, &info.errno.to_ne_bytes());
    put(8, &info.code.to_ne_bytes());
    match info.fields {
        SigFields::Kill { pid, uid } => {
            put(16, &pid.to_ne_bytes());
            put(20, &uid.to_ne_bytes());
        }
        SigFields::Queue { pid, uid, value } => {
            put(16, &pid.to_ne_bytes());
            put(20, &uid.to_ne_bytes());
            put(24, &value.to_ne_bytes());
        }
        SigFields::Timer { id, overrun, value } => {
            put(16, &id.to_ne_bytes());
            put(20, &overrun.to_ne_bytes());
            put(24, &value.to_ne_bytes());
        }
        SigFields::Child {
            pid,
            uid,
            status,
            utime,
            stime,
        } => {
            put(16, &pid.to_ne_bytes());
            put(20, &uid.to_ne_bytes());
            put(24, &status.to_ne_bytes());
            put(32, &utime.to_ne_bytes());
            put(40, &stime.to_ne_bytes());
        }
        SigFields::Fault { addr } => put(16, &addr.to_ne_bytes()),
        SigFields::Poll { band, fd } => {
            put(16, &band.to_ne_bytes());
            put(24, &fd.to_ne_bytes());
        }
        SigFields::Sys { addr, nr, arch } => {
            put(16, &addr.to_ne_bytes());
            put(24, &nr.to_ne_bytes());
            put(28, &arch.to_ne_bytes());
        }
    }
    b
}

/// Is `sp` on the alternate stack?
pub fn on_altstack(stack: &AltStack, sp: u64) -> bool {
    stack.flags & libc::SS_DISABLE == 0 && sp > stack.sp && sp - stack.sp <= stack.size
}

/// Pushes the frame of a handler and points the registers at it.
///
/// # Errors
/// EFAULT if the stack cannot take it.
pub fn push(task: &Task, info: &SigInfo, action: &SigAction) -> Result<()> {
    if action.flags & SA_RESTORER == 0 {
        return Err(Errno::EFAULT);
    }
    let mm = task.try_mm()?;
    let mut regs = *task.regs.lock();
    let (altstack, mask, exception) = {
        let s = task.signals.lock();
        (s.altstack, s.saved_mask.unwrap_or(s.blocked), s.exception)
    };
    let mut sp = regs.rsp.wrapping_sub(RED_ZONE);
    let already = on_altstack(&altstack, regs.rsp) && altstack.flags & SS_AUTODISARM == 0;
    let switch = action.flags & libc::SA_ONSTACK as u64 != 0
        && altstack.flags & libc::SS_DISABLE == 0
        && !already;
    if switch {
        sp = altstack.sp.wrapping_add(altstack.size);
    }
    let fp = match task.with_context(|c| c.get().fp_state()) {
        Some(Ok(fp)) => fp,
        _ => FpState::initial(),
    };
    let fp_bytes = fp_frame(&fp);
    let fp_at = sp.checked_sub(fp_bytes.len() as u64).ok_or(Errno::EFAULT)? & !63;
    let frame_len = size_of::<RtSigFrame>() as u64;
    // As after a call: 16-byte aligned plus the return address.
    let at = (fp_at.checked_sub(frame_len).ok_or(Errno::EFAULT)? & !15)
        .checked_sub(8)
        .ok_or(Errno::EFAULT)?;
    if (already || switch) && at <= altstack.sp {
        return Err(Errno::EFAULT);
    }
    let mut frame = RtSigFrame::new_zeroed();
    frame.pretcode = action.restorer;
    frame.uc_flags = UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS;
    frame.uc_stack = RawStack {
        sp: altstack.sp,
        flags: altstack.flags,
        pad: 0,
        size: altstack.size,
    };
    frame.mcontext = save(&regs, mask, &exception, fp_at);
    frame.sigmask = mask.0;
    frame.info = encode_info(info);
    if mm.copy_out(fp_at, &fp_bytes) != fp_bytes.len()
        || mm.copy_out(at, frame.as_bytes()) != frame.as_bytes().len()
    {
        return Err(Errno::EFAULT);
    }
    if altstack.flags & SS_AUTODISARM != 0 && switch {
        task.signals.lock().altstack = AltStack::default();
    }
    regs.rdi = info.signal.number() as u64;
    regs.rsi = at + std::mem::offset_of!(RtSigFrame, info) as u64;
    regs.rdx = at + std::mem::offset_of!(RtSigFrame, uc_flags) as u64;
    regs.rax = 0;
    regs.rip = action.handler;
    regs.rsp = at;
    // No direction, no single step, no resume flag; and no call to restart.
    regs.eflags &= !(0x400 | 0x100 | 0x10000);
    regs.orig_rax = u64::MAX;
    *task.regs.lock() = regs;
    Ok(())
}

fn save(regs: &Registers, mask: SigSet, exception: &Exception, fpstate: u64) -> SigContext {
    SigContext {
        r8: regs.r8,
        r9: regs.r9,
        r10: regs.r10,
        r11: regs.r11,
        r12: regs.r12,
        r13: regs.r13,
        r14: regs.r14,
        r15: regs.r15,
        di: regs.rdi,
        si: regs.rsi,
        bp: regs.rbp,
        bx: regs.rbx,
        dx: regs.rdx,
        ax: regs.rax,
        cx: regs.rcx,
        sp: regs.rsp,
        ip: regs.rip,
        flags: regs.eflags,
        cs: regs.cs as u16,
        gs: 0,
        fs: 0,
        ss: regs.ss as u16,
        err: exception.error,
        trapno: exception.vector,
        oldmask: mask.0,
        cr2: exception.address,
        fpstate,
        reserved: [0; 8],
    }
}

/// The FP state with the software-reserved bytes that say how long it is.
fn fp_frame(fp: &FpState) -> Vec<u8> {
    let mut bytes = fp.as_bytes().to_vec();
    if bytes.len() < FP_LEGACY + 64 {
        bytes.resize(FP_LEGACY + 64, 0);
    }
    let size = bytes.len() as u32;
    let xfeatures: [u8; 8] = bytes[FP_LEGACY..FP_LEGACY + 8]
        .try_into()
        .unwrap_or_default();
    // Legacy x87 and SSE are always there.
    let features = u64::from_ne_bytes(xfeatures) | 3;
    let sw = &mut bytes[FP_SW_OFFSET..FP_LEGACY];
    sw.fill(0);
    sw[0..4].copy_from_slice(&FP_XSTATE_MAGIC1.to_ne_bytes());
    sw[4..8].copy_from_slice(&(size + 4).to_ne_bytes());
    sw[8..16].copy_from_slice(&features.to_ne_bytes());
    sw[16..20].copy_from_slice(&size.to_ne_bytes());
    bytes.extend_from_slice(&FP_XSTATE_MAGIC2.to_ne_bytes());
    bytes
}

/// rt_sigreturn(2): registers, FP state, mask and alternate stack as the frame says.
///
/// # Errors
/// EFAULT if the frame cannot be read: the caller forces SIGSEGV.
pub fn pop(task: &Task) -> Result<()> {
    let mm = task.mm();
    let mut regs = *task.regs.lock();
    let at = regs.rsp.wrapping_sub(8);
    let frame: RtSigFrame = mm.read_obj(at)?;
    let c = &frame.mcontext;
    regs.r8 = c.r8;
    regs.r9 = c.r9;
    regs.r10 = c.r10;
    regs.r11 = c.r11;
    regs.r12 = c.r12;
    regs.r13 = c.r13;
    regs.r14 = c.r14;
    regs.r15 = c.r15;
    regs.rdi = c.di;
    regs.rsi = c.si;
    regs.rbp = c.bp;
    regs.rbx = c.bx;
    regs.rdx = c.dx;
    regs.rax = c.ax;
    regs.rcx = c.cx;
    regs.rsp = c.sp;
    regs.rip = c.ip;
    // The arithmetic flags, DF, TF, AC and RF; the platform sanitises too.
    const FLAGS: u64 = 0x5_0dd5;
    regs.eflags = regs.eflags & !FLAGS | c.flags & FLAGS;
    regs.orig_rax = u64::MAX;
    let fp = if c.fpstate == 0 {
        FpState::initial()
    } else {
        read_fp(&mm, c.fpstate)?
    };
    *task.regs.lock() = regs;
    // Hostile FP contents are sanitised by the platform.
    if let Some(Err(_)) = task.with_context(|ctx| ctx.get().set_fp_state(&fp)) {
        return Err(Errno::EFAULT);
    }
    let mut signals = task.signals.lock();
    signals.blocked = SigSet(frame.sigmask).minus(SigSet::UNBLOCKABLE);
    let s = frame.uc_stack;
    if !on_altstack(&signals.altstack, regs.rsp) {
        signals.altstack = AltStack {
            sp: s.sp,
            flags: s.flags & (libc::SS_DISABLE | SS_AUTODISARM),
            size: s.size,
        };
    }
    drop(signals);
    // Signals that the new mask lets through.
    task.interrupt();
    Ok(())
}

fn read_fp(mm: &crate::mm::Mm, at: u64) -> Result<FpState> {
    let mut bytes = vec![0u8; FP_LEGACY];
    mm.read_bytes(at, &mut bytes)?;
    let word = |b: &[u8], i: usize| u32::from_ne_bytes(b[i..i + 4].try_into().unwrap_or_default());
    let size = word(&bytes, FP_SW_OFFSET + 16) as usize;
    if word(&bytes, FP_SW_OFFSET) == FP_XSTATE_MAGIC1 && (FP_LEGACY + 64..=FP_MAX).contains(&size) {
        let mut rest = vec![0u8; size - FP_LEGACY];
        mm.read_bytes(
            at.checked_add(FP_LEGACY as u64).ok_or(Errno::EFAULT)?,
            &mut rest,
        )?;
        bytes.extend_from_slice(&rest);
    }
    Ok(FpState::from_bytes(bytes))
}
