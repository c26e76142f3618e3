//! Virtual processors: one for each thread that runs guest code.
//!
//! A trap is one KVM_RUN: registers go in and come out through the page shared with KVM
//! (KVM_CAP_SYNC_REGS). FP state stays in the vCPU until another context needs the vCPU or runs on
//! another one.
//!
//! `immediate_exit` and a signal end KVM_RUN at any moment: set before the signal is sent, the word
//! makes a KVM_RUN return that begins after the signal was handled. It is cleared before the
//! reasons to stop are looked at, so none is overlooked.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, Ordering};

use kvm_bindings::{KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, Msrs, kvm_device_attr};
use kvm_bindings::{kvm_msr_entry, kvm_sregs, kvm_vcpu_events, kvm_xcr, kvm_xcrs, kvm_xsave};
use kvm_ioctls::{SyncReg, VcpuExit, VcpuFd};
use parking_lot::Mutex;

use super::Machine;
use super::context::Run;
use super::entries::{Entries, Position, SYSCALL_AT, position};
use super::registers::*;
use super::ring0::{self, Frame, PAGE_FAULT};
use crate::arch::{FpState, Registers};
use crate::common::host_calls::count;
use crate::common::kick::KICK_SIGNAL;
use crate::host;

const MSR_STAR: u32 = 0xc000_0081;
const MSR_LSTAR: u32 = 0xc000_0082;
const MSR_SFMASK: u32 = 0xc000_0084;
/// Flags that SYSCALL clears: TF, IF, DF, IOPL, NT, AC.
const SYSCALL_MASK: u64 = 0x4_7700;
/// Error code of a fetch by ring 3 from a page that is there and not for it.
pub(super) const FETCH_REFUSED: u64 = 0x15;
/// Selector that SYSRET counts from: 8 more for the stack, 16 more for code.
const SYSRET_BASE: u64 = 0x23;
const SELECTOR_RPL: u64 = 3;

/// What a run of guest code came back with. Registers are the guest's.
#[derive(Debug)]
pub(super) enum Exit {
    Syscall,
    Exception {
        vector: u64,
        error: u64,
        cr2: u64,
    },
    /// By [`Vcpu::interrupt`], or for no reason.
    Interrupted,
    /// The host has no memory behind a page that the guest's tables lead to.
    NoMemory,
    /// KVM or our ring 0 did something unexpected.
    Broken(String),
}

/// What only the thread that runs guest code, and those that fetch FP state, need.
struct Inside {
    fd: VcpuFd,
    base: kvm_sregs,
    /// Whose FP state is in it.
    owner: Option<Arc<Run>>,
}

pub(super) struct Vcpu {
    machine: Arc<Machine>,
    index: usize,
    entries: Entries,
    /// Address of its page of entries.
    page: u64,
    inside: Mutex<Inside>,
    /// `kvm_run.immediate_exit`, in a mapping that lives as long as `inside`.
    immediate_exit: *const AtomicU8,
    tgid: i32,
    /// The thread that uses it.
    tid: AtomicI32,
    /// What runs is to make room for others.
    preempt: AtomicBool,
}

// SAFETY: the pointer is to an atomic byte of a mapping owned by the same object.
unsafe impl Send for Vcpu {}
// SAFETY: as above; everything else is synchronised by itself.
unsafe impl Sync for Vcpu {}

fn host_error(error: kvm_ioctls::Error) -> io::Error {
    io::Error::from_raw_os_error(error.errno())
}

/// As above, with the request: for what is told to a user.
fn refused(request: &'static str) -> impl Fn(kvm_ioctls::Error) -> io::Error {
    move |error| io::Error::other(format!("{request}: {}", host_error(error)))
}

/// The guest's time-stamp counter is to be the host's: no offset (KVM_VCPU_TSC_CTRL, Linux 5.16).
fn share_tsc(fd: &VcpuFd) -> io::Result<()> {
    const KVM_SET_DEVICE_ATTR: u64 = 0x4018_aee1;
    let offset = 0u64;
    let attr = kvm_device_attr {
        group: KVM_VCPU_TSC_CTRL,
        attr: u64::from(KVM_VCPU_TSC_OFFSET),
        addr: &raw const offset as u64,
        ..Default::default()
    };
    // SAFETY: the kernel reads both structures, which are valid.
    let rc = unsafe { libc::ioctl(fd.as_raw_fd(), KVM_SET_DEVICE_ATTR as _, &raw const attr) };
    match rc {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

impl Vcpu {
    /// A vCPU for the calling thread, until another one [takes](Vcpu::is_mine) it.
    pub fn new(machine: &Arc<Machine>) -> io::Result<Arc<Vcpu>> {
        Vcpu::with_entries(machine, machine.entries())
    }

    pub fn with_entries(machine: &Arc<Machine>, entries: Entries) -> io::Result<Arc<Vcpu>> {
        let index = machine.next_vcpu()?;
        let mut fd = machine
            .memory
            .vm
            .create_vcpu(index as u64)
            .map_err(refused("KVM_CREATE_VCPU"))?;
        fd.set_cpuid2(&machine.cpuid)
            .map_err(refused("KVM_SET_CPUID2"))?;
        let mut base = fd.get_sregs().map_err(refused("KVM_GET_SREGS"))?;
        let places = machine.ring0.prepare(index, entries);
        set_up(&mut base, &places, machine.cr4);
        fd.set_sregs(&base).map_err(refused("KVM_SET_SREGS"))?;
        if machine.has_xsave {
            let mut xcrs = kvm_xcrs {
                nr_xcrs: 1,
                ..Default::default()
            };
            xcrs.xcrs[0] = kvm_xcr {
                value: machine.xstate.features,
                ..Default::default()
            };
            fd.set_xcrs(&xcrs).map_err(refused("KVM_SET_XCRS"))?;
        }
        let msr = |index, data| kvm_msr_entry {
            index,
            data,
            ..Default::default()
        };
        let msrs = [
            msr(
                MSR_STAR,
                SYSRET_BASE << 48 | u64::from(ring0::KERNEL_CS) << 32,
            ),
            msr(MSR_LSTAR, places.entries + SYSCALL_AT as u64),
            msr(MSR_SFMASK, SYSCALL_MASK),
        ];
        let set = Msrs::from_entries(&msrs)
            .ok()
            .and_then(|msrs| fd.set_msrs(&msrs).ok());
        if set != Some(msrs.len()) {
            return Err(io::Error::other(
                "KVM_SET_MSRS: not all of those for SYSCALL",
            ));
        }
        // Failing, guests have a time of their own, and are not shown the host's clocks.
        let _ = share_tsc(&fd);
        fd.set_sync_valid_reg(SyncReg::Register);
        fd.set_sync_valid_reg(SyncReg::SystemRegister);
        fd.set_sync_valid_reg(SyncReg::VcpuEvents);
        let immediate_exit = (&raw mut fd.get_kvm_run().immediate_exit).cast();
        Ok(Arc::new(Vcpu {
            machine: machine.clone(),
            index,
            entries,
            page: places.entries,
            inside: Mutex::new(Inside {
                fd,
                base,
                owner: None,
            }),
            immediate_exit,
            tgid: std::process::id() as i32,
            tid: AtomicI32::new(host::gettid()),
            preempt: AtomicBool::new(false),
        }))
    }

    /// The calling thread uses it from now on; nothing has run on it yet.
    pub fn is_mine(&self) {
        self.tid.store(host::gettid(), Ordering::SeqCst);
    }

    /// Makes the current or next run of guest code come back soon. From any thread, while this
    /// vCPU's thread cannot end: it runs a context or looks for one.
    pub fn interrupt(&self) {
        self.immediate().store(1, Ordering::SeqCst);
        let tid = self.tid.load(Ordering::SeqCst);
        if tid == host::gettid() {
            return;
        }
        count();
        // SAFETY: no memory is passed.
        unsafe { libc::syscall(libc::SYS_tgkill, self.tgid, tid, KICK_SIGNAL) };
    }

    /// See [`super::ring0::Ring0::publish`].
    pub fn publish(&self, n: usize, word: u64) {
        self.machine.ring0.publish(self.index, n, word);
    }

    pub fn preempt(&self) {
        self.preempt.store(true, Ordering::SeqCst);
        self.interrupt();
    }

    pub fn take_preempted(&self) -> bool {
        self.preempt.swap(false, Ordering::SeqCst)
    }

    /// To be called before looking for reasons not to run.
    pub fn clear_interrupt(&self) {
        self.immediate().store(0, Ordering::SeqCst);
    }

    fn immediate(&self) -> &AtomicU8 {
        // SAFETY: points into the mapping of `kvm_run`, which `inside` keeps.
        unsafe { &*self.immediate_exit }
    }

    /// Gets ready for a context: its FP state goes in.
    pub fn switch_to(self: &Arc<Self>, run: &Arc<Run>) -> io::Result<()> {
        let mut inside = self.inside.lock();
        let owned = inside.owner.as_ref().is_some_and(|o| Arc::ptr_eq(o, run));
        if owned && run.fp.lock().is_on(self) {
            return Ok(());
        }
        // First this one's, so that nobody who waits for it waits for us.
        if let Some(old) = inside.owner.take() {
            let mut fp = old.fp.lock();
            if fp.is_on(self) {
                fp.state = self.save(&inside.fd)?;
                fp.on = None;
            }
        }
        loop {
            let mut fp = run.fp.lock();
            let Some(other) = fp.on.clone() else {
                self.load(&inside.fd, &fp.state)?;
                fp.on = Some(self.clone());
                break;
            };
            drop(fp);
            other.give_back(run)?;
        }
        inside.owner = Some(run.clone());
        Ok(())
    }

    /// The FP state of a context at rest is to be in `run.fp.state`, if this vCPU has it.
    pub fn give_back(self: &Arc<Self>, run: &Run) -> io::Result<()> {
        // Its thread holds the lock while it runs another context, but has given this one's state
        // back before.
        let Some(inside) = self.inside.try_lock() else {
            std::thread::yield_now();
            return Ok(());
        };
        let mut fp = run.fp.lock();
        if fp.is_on(self) {
            fp.state = self.save(&inside.fd)?;
            fp.on = None;
        }
        Ok(())
    }

    fn save(&self, fd: &VcpuFd) -> io::Result<FpState> {
        count();
        if !self.machine.save_xsave {
            return Ok(of_fpu(&fd.get_fpu().map_err(host_error)?));
        }
        let area = fd.get_xsave().map_err(host_error)?;
        let bytes = area.region.iter().flat_map(|word| word.to_le_bytes());
        let bytes = bytes.take(self.machine.xstate.size).collect();
        Ok(FpState::from_bytes(bytes))
    }

    fn load(&self, fd: &VcpuFd, state: &FpState) -> io::Result<()> {
        let bytes = self.machine.xstate.sanitise(state.as_bytes());
        count();
        if !self.machine.save_xsave {
            return fd.set_fpu(&to_fpu(&bytes)).map_err(host_error);
        }
        let mut area = kvm_xsave::default();
        for (word, bytes) in area.region.iter_mut().zip(bytes.chunks_exact(4)) {
            *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        // SAFETY: no features are enabled whose state is larger than this structure.
        unsafe { fd.set_xsave(&area) }.map_err(host_error)
    }

    /// Runs guest code with these registers in the address space `root`, once.
    pub fn run(&self, regs: &mut Registers, root: u64) -> Exit {
        let mut inside = self.inside.lock();
        let Inside { fd, base, .. } = &mut *inside;
        let sync = fd.sync_regs_mut();
        to_general(regs, &mut sync.regs);
        sync.sregs = *base;
        to_system(regs, root, &mut sync.sregs);
        // An exception on its way when KVM_RUN was interrupted would reach the next guest. It is
        // raised again by the instruction that did.
        let stale = sync.events.exception.injected != 0 || sync.events.interrupt.injected != 0;
        if stale {
            sync.events = kvm_vcpu_events::default();
            fd.set_sync_dirty_reg(SyncReg::VcpuEvents);
        }
        fd.set_sync_dirty_reg(SyncReg::Register);
        fd.set_sync_dirty_reg(SyncReg::SystemRegister);
        count();
        let port = match fd.run() {
            Ok(VcpuExit::IoOut(port, _)) => Ok(port),
            Ok(VcpuExit::Intr) => Err(Exit::Interrupted),
            Ok(other) => Err(Exit::Broken(format!("{other:?}"))),
            Err(error) => Err(match error.errno() {
                libc::EINTR | libc::EAGAIN => Exit::Interrupted,
                libc::EFAULT => Exit::NoMemory,
                _ => Exit::Broken(error.to_string()),
            }),
        };
        let sync = fd.sync_regs();
        let in_ring3 = u64::from(sync.sregs.cs.selector) & SELECTOR_RPL == SELECTOR_RPL;
        from_general(&sync.regs, regs);
        from_system(&sync.sregs, regs);
        match port {
            Ok(port) if port == ring0::SYSCALL_PORT => {
                regs.eflags = regs.r11;
                regs.rip = regs.rcx;
                Exit::Syscall
            }
            Ok(port) if u64::from(port) < ring0::EXCEPTIONS && !in_ring3 => {
                let vector = u64::from(port);
                let frame = self.machine.ring0.frame(self.index, vector);
                self.exception(vector, frame, sync.sregs.cr2, regs)
            }
            Ok(port) => Exit::Broken(format!("a write to port {port:#x}")),
            // On the way to the host the guest has no registers of its own.
            Err(Exit::Interrupted) if !in_ring3 => self.between(sync.sregs.cr2, regs),
            Err(Exit::NoMemory) if !in_ring3 => {
                Exit::Broken(format!("no memory for ring 0 at {:#x}", regs.rip))
            }
            Err(exit) => exit,
        }
    }

    fn exception(&self, vector: u64, frame: Frame, cr2: u64, regs: &mut Registers) -> Exit {
        if frame.cs & SELECTOR_RPL != SELECTOR_RPL {
            return Exit::Broken(format!("exception {vector} in ring 0: {frame:x?}"));
        }
        regs.rip = frame.rip;
        regs.rsp = frame.rsp;
        regs.eflags = frame.rflags;
        // Not only of this vCPU: on another one it may have been interrupted between SYSCALL, which led
        // there, and the fault.
        let entered = vector == PAGE_FAULT
            && frame.error == FETCH_REFUSED
            && ring0::is_syscall_entry(frame.rip)
            && cr2 == frame.rip;
        if entered {
            regs.rip = regs.rcx;
            regs.eflags = regs.r11;
            return Exit::Syscall;
        }
        Exit::Exception {
            vector,
            error: frame.error,
            cr2,
        }
    }

    /// KVM_RUN was interrupted within an entry: what that has not done yet is carried out here.
    fn between(&self, cr2: u64, regs: &mut Registers) -> Exit {
        let offset = regs.rip.wrapping_sub(self.page);
        let Some(position) = position(offset, self.entries) else {
            return Exit::Broken(format!("interrupted in ring 0 at {:#x}", regs.rip));
        };
        if let Position::Exception(vector) = position {
            let frame = self.machine.ring0.frame(self.index, vector);
            return self.exception(vector, frame, cr2, regs);
        }
        regs.eflags = regs.r11;
        regs.rip = regs.rcx;
        match position {
            Position::Answered => Exit::Interrupted,
            Position::AnsweredFault => {
                regs.rsp = self.machine.ring0.frame(self.index, PAGE_FAULT).rsp;
                Exit::Interrupted
            }
            _ => Exit::Syscall,
        }
    }
}
