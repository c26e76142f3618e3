//! A platform without a host: an address space is a table of pages.

use std::any::Any;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use runsc_platform::{
    Access, AddressSpace, Fault, HostOp, Platform, Prot, Retired, VdsoRange, Worker, WorkerId,
    WorkerWaker,
};

use crate::errno::{Errno, Result};
use crate::mm::mappable::{Backing, Mappable, MappingOwner, WriteIntent};
use crate::mm::pages::host_prot;
use crate::mm::*;

pub const LOW: u64 = 0x10000;
pub const HIGH: u64 = 0x7fff_ffff_f000;

/// A page of a fake host address space.
#[derive(Clone)]
pub struct HostPage {
    pub fd: Arc<OwnedFd>,
    pub offset: u64,
    pub prot: Prot,
}

#[derive(Default)]
pub struct FakeSpace {
    pub pages: Mutex<BTreeMap<u64, HostPage>>,
    pub ops: Mutex<Vec<HostOp>>,
    /// While set, operations wait (as if every guest thread ran).
    pub hold: AtomicBool,
    waiting: Mutex<Vec<(HostOp, Option<Retired>)>>,
}

impl FakeSpace {
    fn apply(&self, op: &HostOp) {
        let mut pages = self.pages.lock();
        match op {
            HostOp::Map {
                addr,
                len,
                prot,
                file,
                offset,
                private,
                ..
            } => {
                assert!(!private);
                // Huge sparse mappings are kept by their first pages only.
                for i in 0..(len / PAGE_SIZE).min(1 << 16) {
                    pages.insert(
                        addr + i * PAGE_SIZE,
                        HostPage {
                            fd: file.clone(),
                            offset: offset + i * PAGE_SIZE,
                            prot: *prot,
                        },
                    );
                }
            }
            HostOp::Unmap { addr, len } => {
                let keys: Vec<u64> = pages.range(*addr..addr + len).map(|(&k, _)| k).collect();
                for k in keys {
                    pages.remove(&k);
                }
            }
            HostOp::Protect { addr, len, prot } => {
                for (_, page) in pages.range_mut(*addr..addr + len) {
                    page.prot = *prot;
                }
            }
        }
    }

    pub fn release(&self) {
        self.hold.store(false, Ordering::SeqCst);
        for (op, retired) in self.waiting.lock().drain(..) {
            self.apply(&op);
            drop(retired);
        }
    }
}

impl AddressSpace for FakeSpace {
    fn queue(&self, op: HostOp, retired: Option<Retired>) {
        let (addr, len) = match &op {
            HostOp::Map { addr, len, .. }
            | HostOp::Unmap { addr, len }
            | HostOp::Protect { addr, len, .. } => (*addr, *len),
        };
        assert!(page_aligned(addr) && page_aligned(len) && len > 0, "{op:?}");
        assert!(addr >= LOW && addr + len <= HIGH, "{op:?}");
        self.ops.lock().push(op.clone());
        if self.hold.load(Ordering::SeqCst) {
            self.waiting.lock().push((op, retired));
        } else {
            self.apply(&op);
        }
    }

    fn shoot_down(&self) {}

    fn as_any(&self) -> &dyn Any {
        self
    }
}

pub struct FakePlatform {
    pub vdso: Option<VdsoRange>,
}

impl Platform for FakePlatform {
    fn name(&self) -> &'static str {
        "fake"
    }
    fn user_range(&self) -> (u64, u64) {
        (LOW, HIGH)
    }
    fn vdso(&self) -> Option<VdsoRange> {
        self.vdso
    }
    fn new_address_space(&self) -> Arc<dyn AddressSpace> {
        Arc::new(FakeSpace::default())
    }
    fn new_worker(&self, _id: WorkerId) -> runsc_platform::Result<Box<dyn Worker>> {
        Err(runsc_platform::Error::Gone)
    }
    fn waker(&self, _id: WorkerId) -> Arc<dyn WorkerWaker> {
        struct Nobody;
        impl WorkerWaker for Nobody {
            fn wake(&self) {}
        }
        Arc::new(Nobody)
    }
    fn contexts_are_bound(&self) -> bool {
        false
    }
}

pub fn platform() -> Arc<dyn Platform> {
    let _ = runsc_platform::memory::install_fault_handler();
    Arc::new(FakePlatform { vdso: None })
}

pub fn new_mm() -> Arc<Mm> {
    new_mm_in(&MemoryFile::new().unwrap())
}

pub fn new_mm_in(memory: &Arc<MemoryFile>) -> Arc<Mm> {
    Mm::new(
        &platform(),
        memory,
        Limits {
            may_lock: true,
            ..Limits::default()
        },
    )
}

pub fn space(mm: &Mm) -> &FakeSpace {
    mm.space().as_any().downcast_ref().unwrap()
}

/// Whether the platform says what a fault was.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Tells {
    Nothing,
    Access,
}

/// One guest access of up to a page: faults until it works or is a signal; returns the faults.
fn guest(
    mm: &Mm,
    addr: u64,
    access: Access,
    tells: Tells,
    act: impl Fn(&HostPage, u64),
) -> Result<usize, SignalInfo> {
    for faults in 0..100 {
        let page = space(mm).pages.lock().get(&page_down(addr)).cloned();
        let need = match access {
            Access::Read => Prot::READ | Prot::WRITE | Prot::EXEC,
            Access::Write => Prot::WRITE,
            Access::Execute => Prot::EXEC,
        };
        let code = match &page {
            Some(p) if p.prot.intersects(need) => {
                act(p, p.offset + addr % PAGE_SIZE);
                return Ok(faults);
            }
            Some(_) => 2,
            None => 1,
        };
        mm.handle_fault(&Fault {
            signal: libc::SIGSEGV,
            code,
            addr,
            access: (tells == Tells::Access).then_some(access),
        })?;
    }
    panic!("fault at {addr:#x} does not end");
}

pub fn guest_read(mm: &Mm, addr: u64, dst: &mut [u8]) -> Result<usize, SignalInfo> {
    let out = std::cell::RefCell::new(dst);
    guest(mm, addr, Access::Read, Tells::Nothing, |page, offset| {
        let mut out = out.borrow_mut();
        let n = nix::sys::uio::pread(page.fd.as_fd(), &mut out, offset as i64).unwrap();
        out[n..].fill(0);
    })
}

pub fn guest_write(mm: &Mm, addr: u64, src: &[u8]) -> Result<usize, SignalInfo> {
    guest(mm, addr, Access::Write, Tells::Nothing, |page, offset| {
        nix::sys::uio::pwrite(page.fd.as_fd(), src, offset as i64).unwrap();
    })
}

pub fn guest_exec(mm: &Mm, addr: u64) -> Result<usize, SignalInfo> {
    guest(mm, addr, Access::Execute, Tells::Nothing, |_, _| {})
}

pub fn peek(mm: &Mm, addr: u64) -> u8 {
    let mut b = [0];
    guest_read(mm, addr, &mut b).unwrap();
    b[0]
}

pub fn poke(mm: &Mm, addr: u64, byte: u8) {
    guest_write(mm, addr, &[byte]).unwrap();
}

/// The host maps exactly what the page map says, as the VMAs say.
pub fn check_invariant(mm: &Mm) {
    let inner = mm.inner.read();
    let mut expected = BTreeMap::new();
    for (s, piece) in inner.pages.iter() {
        let (fd, offset) = piece.held.place();
        for at in (s..piece.end).step_by(PAGE_SIZE as usize).take(1 << 16) {
            let (_, vma) = inner.vmas.find(at).expect("memory without a VMA");
            expected.insert(
                at,
                (
                    Arc::as_ptr(fd) as usize,
                    offset + (at - s),
                    host_prot(vma, &piece.held),
                ),
            );
        }
    }
    let actual: BTreeMap<u64, _> = space(mm)
        .pages
        .lock()
        .iter()
        .map(|(&a, p)| (a, (Arc::as_ptr(&p.fd) as usize, p.offset, p.prot)))
        .collect();
    let wrong = expected
        .iter()
        .map(|(a, p)| (a, Some(p), actual.get(a)))
        .chain(actual.iter().map(|(a, p)| (a, expected.get(a), Some(p))))
        .find(|(_, e, a)| e != a);
    assert_eq!(wrong, None, "address, expected, mapped");
}

/// A file in a memfd of its own, as if it were a host file.
pub struct TestFile {
    pub fd: Arc<OwnedFd>,
    pub size: Mutex<u64>,
    pub owners: Mutex<Vec<Weak<dyn MappingOwner>>>,
}

impl TestFile {
    pub fn new(data: &[u8]) -> Arc<TestFile> {
        let fd =
            nix::sys::memfd::memfd_create(c"test", nix::sys::memfd::MFdFlags::empty()).unwrap();
        assert_eq!(nix::sys::uio::pwrite(&fd, data, 0).unwrap(), data.len());
        Arc::new(TestFile {
            fd: Arc::new(fd),
            size: Mutex::new(data.len() as u64),
            owners: Mutex::new(Vec::new()),
        })
    }

    pub fn truncate(&self, size: u64) {
        nix::unistd::ftruncate(&*self.fd, size as i64).unwrap();
        let old = std::mem::replace(&mut *self.size.lock(), size);
        let owners: Vec<_> = self.owners.lock().clone();
        for owner in owners.iter().filter_map(Weak::upgrade) {
            owner.invalidate(self, page_up(size).unwrap(), page_up(old).unwrap());
        }
    }
}

impl Mappable for TestFile {
    fn backing(&self, offset: u64, len: u64, _write: WriteIntent) -> Result<Backing> {
        let end = page_up(*self.size.lock()).unwrap();
        if offset >= end {
            return Err(Errno::EFAULT);
        }
        Ok(Backing {
            fd: self.fd.clone(),
            offset,
            len: len.min(end - offset),
            keep: None,
        })
    }
    fn add_owner(&self, owner: Weak<dyn MappingOwner>) {
        self.owners.lock().push(owner);
    }
    fn remove_owner(&self, owner: &Weak<dyn MappingOwner>) {
        let mut owners = self.owners.lock();
        let at = owners.iter().position(|o| o.ptr_eq(owner)).unwrap();
        owners.remove(at);
    }
}

pub fn map_file(file: &Arc<TestFile>) -> MapFile {
    MapFile {
        mappable: Ok(file.clone()),
        file: None,
        readable: true,
        writable: true,
        noexec: false,
    }
}

pub const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
pub const RO: i32 = libc::PROT_READ;

pub fn anon(addr: u64, pages: u64, prot: i32, flags: i32) -> MapRequest {
    MapRequest {
        addr,
        len: pages * PAGE_SIZE,
        prot,
        flags: libc::MAP_ANONYMOUS | flags,
        file: None,
        offset: 0,
    }
}

pub fn of_file(file: &Arc<TestFile>, pages: u64, prot: i32, flags: i32) -> MapRequest {
    MapRequest {
        addr: 0,
        len: pages * PAGE_SIZE,
        prot,
        flags,
        file: Some(map_file(file)),
        offset: 0,
    }
}
