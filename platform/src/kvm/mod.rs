//! The kvm platform: guest code runs in ring 3 of a virtual machine.
//!
//! ```text
//! Sentry threads                      the virtual machine
//! ──────────────────────────────────────────────────────────────
//! worker ── KVM_RUN ── its vCPU ──┐   ring 3: guest code, one set of page tables
//! helper ── KVM_RUN ── its vCPU ──┼──         an address space
//! watch (no vCPU)                 ┘   ring 0: one instruction for each kind of trap
//! ```
//!
//! There is one virtual machine a sandbox. A trap is one KVM_RUN, and at most one instruction of
//! ring 0; the thread that was in KVM_RUN handles it, if it is a worker. No process holds guest
//! memory but the Sentry.
//!
//! - [`ring0`], [`entries`], [`answers`]: what of the guest is ours; [`registers`], [`vcpu`]: entering ring 3 and coming back;
//! - [`slots`], [`regions`]: guest-physical memory; [`pages`], [`tables`], [`mappings`], [`space`]:
//!   page tables, made lazily, and address spaces;
//! - [`context`], [`kick`]: one guest thread; [`sched`], [`worker`]: which thread runs it;
//! - [`rules`]: the host calls a Sentry needs for this platform.
//!
//! Everything is made for two kinds of machine, told apart by what they do: where ring 0 runs on
//! the processor and SYSCALL enters it, and where KVM emulates ring 0 and SYSCALL faults ([`probe`]).
//! Process-wide, SIGUSR1 belongs to this platform.

mod answers;
mod context;
mod entries;
mod kick;
mod mappings;
#[cfg(test)]
mod model;
mod pages;
mod probe;
mod regions;
mod registers;
mod ring0;
mod rules;
mod sched;
mod slots;
mod space;
mod tables;
mod vcpu;
mod worker;

use std::io;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Cap, Kvm};
use parking_lot::Mutex;

pub use pages::{Reserved, TableMemory};
pub use rules::host_calls;

use crate::common::xstate::{X87_SSE, XState};
use crate::{AddressSpace, Error, Platform, Result, VdsoRange, Worker, WorkerId, WorkerWaker};
use entries::Entries;
use pages::{Graveyard, OwnFile};
use probe::Traits;
use regions::Regions;
use ring0::Ring0;
use sched::Sched;
use slots::{Memory, Slot};
use space::Space;
use tables::Copies;
use vcpu::Vcpu;
use worker::{KvmWorker, Waker};

/// The device.
pub const DEVICE: &str = "/dev/kvm";
/// KVM_GET_API_VERSION: has been this since Linux 2.6.22.
const API_VERSION: i32 = 12;
/// Areas an address space may have, where the host does not tell its own limit.
const MAX_AREAS: usize = 65530;
/// Three pages that KVM needs on some processors, below our memory.
const TSS_ADDRESS: usize = 0xfffb_d000;

/// How to make the platform.
#[derive(Default)]
pub struct Options {
    /// Workers there will be.
    pub workers: usize,
    /// [`DEVICE`], opened for reading and writing; None: it is opened here.
    pub device: Option<OwnedFd>,
    /// Where page tables lie; None: in a file of our own.
    pub tables: Option<Arc<dyn TableMemory>>,
    pub large_pages: LargePages,
    pub in_ring0: InRing0,
    pub bounds: Bounds,
}

/// What an address space may have of the host. One that would need more starts over with none.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Page tables.
    pub tables: usize,
    /// Slots of files that it has mapped. What KVM keeps for one does not count as the guest's memory.
    pub chunks: usize,
    /// Slots of the virtual machine, if KVM has more. The fewer are left, the fewer may a space have.
    pub slots: usize,
}

impl Default for Bounds {
    /// Enough for twice the memory that the host has.
    fn default() -> Bounds {
        let memory = nix::sys::sysinfo::sysinfo().map_or(0, |info| info.ram_total());
        let pieces = |size: u64| usize::try_from(2 * memory / size).unwrap_or(0);
        Bounds {
            tables: pieces(tables::LARGE_PAGE).max(16 << 10),
            chunks: pieces(regions::LARGE).max(1 << 10),
            slots: usize::MAX,
        }
    }
}

/// Whether ring 0 answers system calls in place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InRing0 {
    /// Where that was measured to be quicker than to leave to the host.
    #[default]
    Measured,
    Always,
    Never,
}

/// Whether guest memory is mapped by pages of 2 MiB where they fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LargePages {
    /// Where the processor walks our tables. Where KVM copies them, mapping something else in place
    /// of such a page costs more than it has saved.
    #[default]
    Natural,
    Always,
    Never,
}

/// The virtual machine, and what is the same for all of it.
struct Machine {
    memory: Arc<Memory>,
    graveyard: Arc<Graveyard>,
    table_memory: Arc<dyn TableMemory>,
    large_pages: LargePages,
    in_ring0: InRing0,
    bounds: Bounds,
    traits: OnceLock<Traits>,
    /// The host's vDSO, and where it is shown.
    shown_vdso: Option<(Slot, VdsoRange)>,
    regions: Arc<Regions>,
    ring0: Ring0,
    cpuid: CpuId,
    cr4: u64,
    /// XSAVE is the guest's to use because we switch it on; where KVM does not support that, what
    /// the processor has switched on is.
    has_xsave: bool,
    /// KVM gives the FP state in the XSAVE layout.
    save_xsave: bool,
    xstate: XState,
    max_areas: usize,
    vcpus: AtomicUsize,
}

fn host(what: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Host { what, source }
}

fn kvm_error(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> Error {
    move |error| Error::Host {
        what,
        source: io::Error::from_raw_os_error(error.errno()),
    }
}

fn too_old(what: &str) -> Error {
    Error::Host {
        what: DEVICE,
        source: io::Error::new(io::ErrorKind::Unsupported, format!("{what} is missing")),
    }
}

impl Machine {
    fn new(options: Options) -> Result<Arc<Machine>> {
        let kvm = match options.device {
            // SAFETY: the descriptor is ours, and given up here. If it is not of that device, the
            // next call says so.
            Some(fd) => unsafe { Kvm::from_raw_fd(fd.into_raw_fd()) },
            None => Kvm::new().map_err(kvm_error(DEVICE))?,
        };
        if kvm.get_api_version() != API_VERSION {
            return Err(too_old("version 12 of its interface"));
        }
        let needed = [
            (Cap::SyncRegs, "KVM_CAP_SYNC_REGS"),
            (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
            (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
            (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
            (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
        ];
        for (capability, name) in needed {
            if !kvm.check_extension(capability) {
                return Err(too_old(name));
            }
        }
        let cpuid = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(kvm_error("KVM_GET_SUPPORTED_CPUID"))?;
        let vm = kvm.create_vm().map_err(kvm_error("KVM_CREATE_VM"))?;
        vm.set_tss_address(TSS_ADDRESS)
            .map_err(kvm_error("KVM_SET_TSS_ADDR"))?;
        let leaf = |function, index| {
            let entries = cpuid.as_slice().iter();
            let mut found = entries.filter(|e| e.function == function && e.index == index);
            found.next().copied().unwrap_or_default()
        };
        let has_xsave = leaf(1, 0).ecx & 1 << 26 != 0;
        let cr4 = registers::cr4(leaf(1, 0).ecx, leaf(7, 0).ebx);
        let mut xstate = XState::of_processor();
        let save_xsave = kvm.check_extension(Cap::Xsave);
        xstate.features &= match save_xsave {
            true => u64::from(leaf(0xd, 0).eax) | X87_SSE,
            false => X87_SSE,
        };
        let address_bits = leaf(0x8000_0008, 0).eax & 0xff;
        let memory = Arc::new(Memory::new(
            vm,
            kvm.get_nr_memslots().min(options.bounds.slots),
            address_bits,
        ));
        let ring0 = Ring0::new(&memory).map_err(host("the pages of ring 0"))?;
        // Without it guests ask for the time by system calls.
        let shown_vdso = crate::host::vdso_range().and_then(|range| {
            let slot = memory.vdso(&range).ok()?;
            let shown = ring0.show_vdso(&range, &slot);
            Some((slot, shown))
        });
        let table_memory = match options.tables {
            Some(tables) => tables,
            None => Arc::new(OwnFile::new().map_err(host("a file for page tables"))?),
        };
        let machine = Arc::new(Machine {
            graveyard: Arc::default(),
            table_memory,
            large_pages: options.large_pages,
            in_ring0: options.in_ring0,
            bounds: options.bounds,
            traits: OnceLock::new(),
            shown_vdso,
            regions: Arc::new(Regions::new(&memory)),
            memory,
            ring0,
            cpuid,
            cr4,
            has_xsave,
            save_xsave,
            xstate,
            max_areas: max_areas(),
            vcpus: AtomicUsize::new(0),
        });
        let traits = probe::probe(&machine).map_err(host("trying the virtual machine"))?;
        machine.traits.get_or_init(|| traits);
        Ok(machine)
    }

    /// Until it is known, the worse is taken for true.
    fn copies(&self) -> Copies {
        self.traits.get().map_or(Copies::Made, |found| found.copies)
    }

    /// What vCPUs of guests begin with.
    fn entries(&self) -> Entries {
        match self.in_ring0 {
            InRing0::Measured => self
                .traits
                .get()
                .map_or(Entries::Leave, |found| found.entries),
            InRing0::Always => Entries::Answer,
            InRing0::Never => Entries::Leave,
        }
    }

    /// Where guests have the host's vDSO, if its clocks are right for them.
    fn vdso(&self) -> Option<VdsoRange> {
        self.traits.get().and_then(|found| found.vdso)
    }

    fn large_pages(&self) -> bool {
        match self.large_pages {
            LargePages::Natural => self.copies() == Copies::None,
            LargePages::Always => true,
            LargePages::Never => false,
        }
    }

    /// The number of the next vCPU.
    fn next_vcpu(&self) -> io::Result<usize> {
        let index = self.vcpus.fetch_add(1, Ordering::Relaxed);
        if index >= ring0::MAX_VCPUS {
            return Err(io::Error::other("there are too many vCPUs"));
        }
        Ok(index)
    }
}

/// What other platforms are held to by the host: its limit for mappings of a process.
fn max_areas() -> usize {
    let limit = std::fs::read_to_string("/proc/sys/vm/max_map_count");
    let limit = limit.ok().and_then(|text| text.trim().parse().ok());
    limit.unwrap_or(MAX_AREAS)
}

/// The platform. Make it, and all workers, before the Sentry's seccomp filter is installed.
pub struct KvmPlatform {
    sched: Arc<Sched>,
    /// For workers to come. Made with the platform, so that it is not found out later that the host has
    /// no more.
    vcpus: Mutex<Vec<Arc<Vcpu>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl KvmPlatform {
    /// Makes the virtual machine, and the threads that run guest code beside the workers.
    pub fn new(options: Options) -> Result<KvmPlatform> {
        kick::install_handler().map_err(host("sigaction"))?;
        let workers = options.workers.max(1);
        let machine = Machine::new(options)?;
        let vcpus: io::Result<Vec<_>> = (0..workers).map(|_| Vcpu::new(&machine)).collect();
        let vcpus = vcpus.map_err(host("vCPUs for workers"))?;
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        // With every worker busy in the Sentry, there is one for each core.
        let (sched, threads) = Sched::start(&machine, workers, cores.clamp(1, 16))
            .map_err(host("threads for vCPUs"))?;
        Ok(KvmPlatform {
            sched,
            vcpus: Mutex::new(vcpus),
            threads: Mutex::new(threads),
        })
    }
}

impl Drop for KvmPlatform {
    fn drop(&mut self) {
        self.sched.end();
        for thread in self.threads.lock().drain(..) {
            // It has nothing to say.
            let _ = thread.join();
        }
    }
}

impl Platform for KvmPlatform {
    fn name(&self) -> &'static str {
        "kvm"
    }

    fn user_range(&self) -> (u64, u64) {
        space::USER
    }

    fn vdso(&self) -> Option<VdsoRange> {
        self.sched.machine.vdso()
    }

    fn new_address_space(&self) -> Arc<dyn AddressSpace> {
        Arc::new(Space::new(&self.sched.machine))
    }

    fn new_worker(&self, id: WorkerId) -> Result<Box<dyn Worker>> {
        let vcpu = self.vcpus.lock().pop();
        let vcpu = match vcpu {
            Some(vcpu) => vcpu,
            None => Vcpu::new(&self.sched.machine).map_err(host("a vCPU for a worker"))?,
        };
        Ok(Box::new(KvmWorker::new(id, &self.sched, vcpu)))
    }

    fn waker(&self, id: WorkerId) -> Arc<dyn WorkerWaker> {
        Arc::new(Waker {
            worker: id.0,
            sched: self.sched.clone(),
        })
    }

    fn contexts_are_bound(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// There is room for so many vCPUs. Workers are made when it is too late for another platform.
    #[test]
    fn a_machine_has_vcpus_for_its_workers() {
        if let Err(error) = std::fs::File::options().read(true).write(true).open(DEVICE) {
            use std::io::Write;
            // Not eprintln: the test harness would swallow it for a test that passes.
            let _ = writeln!(std::io::stderr(), "SKIPPED: {DEVICE}: {error}");
            return;
        }
        let with = |workers| {
            KvmPlatform::new(Options {
                workers,
                ..Default::default()
            })
        };
        let error = with(ring0::MAX_VCPUS).err().unwrap().to_string();
        assert_eq!(error, "vCPUs for workers: there are too many vCPUs");
        let platform = with(2).unwrap();
        assert_eq!(platform.vcpus.lock().len(), 2);
        let _worker = platform.new_worker(WorkerId(0)).unwrap();
        assert_eq!(platform.vcpus.lock().len(), 1);
    }

    /// What is not that device, or an old one, is refused with a reason.
    #[test]
    fn another_device_is_refused() {
        let device = std::fs::File::open("/dev/null").unwrap();
        let options = Options {
            device: Some(device.into()),
            ..Default::default()
        };
        let error = KvmPlatform::new(options).err().unwrap().to_string();
        assert_eq!(error, "/dev/kvm: version 12 of its interface is missing");
    }
}
