//! The kinds of file systems that mount(2) knows.

use std::sync::Arc;

use crate::errno::Result;
use crate::fs::mount::{FileSystem, FileSystemType, MountNamespace};
use crate::fs::{dev, proc, sysfs, tmpfs};
use crate::kernel::Kernel;

/// A kind without options of its own.
struct Simple {
    name: &'static str,
    kernel: Arc<Kernel>,
    make: fn(&Arc<Kernel>) -> Result<Arc<FileSystem>>,
}

impl FileSystemType for Simple {
    fn name(&self) -> &'static str {
        self.name
    }

    fn mount(&self, _source: &[u8], _data: &[u8]) -> Result<Arc<FileSystem>> {
        (self.make)(&self.kernel)
    }
}

/// Makes the devices of a container and the kinds of file systems it can mount by itself known to
/// its namespace.
pub fn register_all(kernel: &Arc<Kernel>, namespace: &Arc<MountNamespace>) {
    dev::register(namespace.devices());
    let simple = |name, make| {
        let kernel = kernel.clone();
        namespace.register(Arc::new(Simple { name, kernel, make }));
    };
    simple("proc", proc::mount);
    simple("sysfs", sysfs::mount);
    simple("mqueue", crate::fs::mqueue::mount);
    let memory = kernel.memory.clone();
    namespace.register(Arc::new(dev::DevtmpfsType {
        memory: memory.clone(),
    }));
    namespace.register(Arc::new(tmpfs::TmpfsType { memory }));
    crate::fs::tty::register(kernel, namespace);
}
