//! Device nodes: which object stands behind which number.
//!
//! A [`Device`] registers itself in the [`DeviceTable`] that all mount namespaces of a container
//! share; open(2) of a node looks it up. A node without a device fails with ENXIO.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::errno::{Errno, Result};
use crate::fs::file::File;
use crate::fs::inode::{Dev, FileType, OpenFlags};
use crate::fs::path::PathRef;
use crate::kernel::task::Task;

/// Something a device node stands for.
pub trait Device: Send + Sync {
    /// The driver's name in /proc/devices; empty: not shown there.
    fn driver(&self) -> &'static str {
        ""
    }

    /// Opens it for `t` through the node at `path` (which need not be what fstat shows: /dev/ptmx).
    fn open(&self, t: &Task, path: &PathRef, dev: Dev, flags: OpenFlags) -> Result<Arc<File>>;
}

/// See the module documentation.
#[derive(Default)]
pub struct DeviceTable {
    exact: RwLock<HashMap<(FileType, Dev), Arc<dyn Device>>>,
    majors: RwLock<HashMap<(FileType, u32), Arc<dyn Device>>>,
}

impl DeviceTable {
    /// One number.
    pub fn register(&self, kind: FileType, dev: Dev, device: Arc<dyn Device>) {
        self.exact.write().insert((kind, dev), device);
    }

    /// All minors of a major number that are not registered alone.
    pub fn register_major(&self, kind: FileType, major: u32, device: Arc<dyn Device>) {
        self.majors.write().insert((kind, major), device);
    }

    /// ENXIO if there is none.
    pub fn get(&self, kind: FileType, dev: Dev) -> Result<Arc<dyn Device>> {
        if let Some(device) = self.exact.read().get(&(kind, dev)) {
            return Ok(device.clone());
        }
        let majors = self.majors.read();
        majors.get(&(kind, dev.major)).cloned().ok_or(Errno::ENXIO)
    }

    /// Majors and names of the drivers of character devices, in order.
    pub fn drivers(&self) -> Vec<(u32, &'static str)> {
        let exact = self.exact.read();
        let majors = self.majors.read();
        let exact = exact.iter().map(|((kind, dev), d)| (*kind, dev.major, d));
        let majors = majors.iter().map(|((kind, major), d)| (*kind, *major, d));
        let mut drivers: Vec<_> = exact
            .chain(majors)
            .map(|(kind, major, device)| (kind, major, device.driver()))
            .filter(|(kind, _, name)| *kind == FileType::Char && !name.is_empty())
            .map(|(_, major, name)| (major, name))
            .collect();
        drivers.sort_unstable();
        drivers.dedup();
        drivers
    }
}
