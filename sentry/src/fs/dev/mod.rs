//! Devices: the memory devices ([`mem`]) and the devtmpfs that names them.
//!
//! What stands behind a device node is found in the container's
//! [`DeviceTable`](crate::fs::device::DeviceTable) by the node's numbers, whatever file system the
//! node is in.

mod devtmpfs;
mod mem;

use std::sync::Arc;

use crate::errno::Result;
use crate::fs::device::DeviceTable;
use crate::fs::file::File;
use crate::fs::notify::{self, Events};
use crate::fs::open::Special;
use crate::kernel::task::Task;
pub use devtmpfs::{DevtmpfsType, mount};

/// Puts the memory devices into a container's table.
pub fn register(table: &DeviceTable) {
    mem::register(table);
}

/// Opens a device node whose permissions are checked. ENXIO if there is no such device.
pub fn open(t: &Task, special: Special) -> Result<Arc<File>> {
    let device = t
        .fs()
        .namespace()
        .devices()
        .get(special.kind, special.rdev)?;
    let file = device.open(t, &special.path, special.rdev, special.flags)?;
    notify::file(&file.path().dentry, Events::OPEN);
    Ok(file)
}
