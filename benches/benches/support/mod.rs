//! A platform that forgets what it is told, and memory to go with it.

use std::any::Any;
use std::sync::Arc;

use runsc_platform::{
    AddressSpace, HostOp, Platform, Retired, VdsoRange, Worker, WorkerId, WorkerWaker,
};
use runsc_sentry::mm::MemoryFile;

/// Address spaces that hold nothing.
pub struct NoPlatform;

struct NoSpace;

struct Nobody;

impl AddressSpace for NoSpace {
    fn queue(&self, _op: HostOp, _retired: Option<Retired>) {}
    fn shoot_down(&self) {}
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl WorkerWaker for Nobody {
    fn wake(&self) {}
}

impl Platform for NoPlatform {
    fn name(&self) -> &'static str {
        "none"
    }
    fn user_range(&self) -> (u64, u64) {
        (0x1_0000, 0x7fff_ffff_f000)
    }
    fn vdso(&self) -> Option<VdsoRange> {
        None
    }
    fn new_address_space(&self) -> Arc<dyn AddressSpace> {
        Arc::new(NoSpace)
    }
    fn new_worker(&self, _id: WorkerId) -> runsc_platform::Result<Box<dyn Worker>> {
        Err(runsc_platform::Error::Gone)
    }
    fn waker(&self, _id: WorkerId) -> Arc<dyn WorkerWaker> {
        Arc::new(Nobody)
    }
    fn contexts_are_bound(&self) -> bool {
        false
    }
}

pub fn memory() -> Arc<MemoryFile> {
    runsc_platform::memory::install_fault_handler().unwrap();
    MemoryFile::new().unwrap()
}
