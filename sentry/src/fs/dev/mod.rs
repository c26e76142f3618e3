//! Devices: what stands behind character and block device nodes, and the devtmpfs that names them.
//!
//! A device is an object in a registry, found by the numbers of the node that is opened, whatever
//! file system the node is in. [`mem`] holds the memory devices; others (terminals) register theirs
//! with [`register`]. Nodes of numbers nobody registered can be made but not opened.

mod devtmpfs;
mod mem;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use parking_lot::RwLock;

use crate::errno::{Errno, Result};
use crate::fs::file::{File, FileOps};
use crate::fs::inode::{Dev, FileType};
use crate::fs::notify::{self, Events};
use crate::fs::open::Special;
use crate::kernel::task::Task;
pub use devtmpfs::{DevtmpfsType, mount};

/// Something behind a device node.
pub trait Device: Send + Sync {
    /// The driver's name in /proc/devices.
    fn driver(&self) -> &'static str;

    /// Opens the device for `task`; permissions are checked. [`opened`] makes the usual file.
    fn open(&self, task: &Task, special: &Special) -> Result<Arc<File>>;
}

/// Which device numbers an entry stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    block: bool,
    major: u32,
    /// None: all that have no entry of their own.
    minor: Option<u32>,
}

type Table = RwLock<BTreeMap<Key, Arc<dyn Device>>>;

fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut table: BTreeMap<Key, Arc<dyn Device>> = BTreeMap::new();
        for (minor, device) in mem::devices() {
            let key = Key {
                block: false,
                major: mem::MAJOR,
                minor: Some(minor),
            };
            table.insert(key, device);
        }
        RwLock::new(table)
    })
}

/// Makes a character device known.
pub fn register(dev: Dev, device: Arc<dyn Device>) {
    let key = Key {
        block: false,
        major: dev.major,
        minor: Some(dev.minor),
    };
    table().write().insert(key, device);
}

/// Makes all character devices of a major number known that are not registered one by one.
pub fn register_major(major: u32, device: Arc<dyn Device>) {
    let key = Key {
        block: false,
        major,
        minor: None,
    };
    table().write().insert(key, device);
}

/// Drivers of character devices with their major numbers, for /proc/devices.
pub fn drivers() -> Vec<(u32, &'static str)> {
    let mut drivers: Vec<_> = table()
        .read()
        .iter()
        .filter(|(key, _)| !key.block)
        .map(|(key, device)| (key.major, device.driver()))
        .collect();
    drivers.dedup();
    drivers
}

/// Opens a device node. ENXIO if there is no such device.
pub fn open(t: &Task, special: Special) -> Result<Arc<File>> {
    let file = find(special.kind, special.rdev)?.open(t, &special)?;
    notify::file(&file.path().dentry, Events::OPEN);
    Ok(file)
}

fn find(kind: FileType, dev: Dev) -> Result<Arc<dyn Device>> {
    let key = Key {
        block: kind == FileType::Block,
        major: dev.major,
        minor: Some(dev.minor),
    };
    let table = table().read();
    let any = Key { minor: None, ..key };
    let found = table.get(&key).or_else(|| table.get(&any));
    found.cloned().ok_or(Errno::ENXIO)
}

/// The file of a device that is opened where its node is.
pub fn opened(special: &Special, ops: Arc<dyn FileOps>) -> Arc<File> {
    File::new(ops, special.path.clone(), special.flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_found_by_number() {
        let driver = |kind, dev| find(kind, dev).map(|d| d.driver());
        assert_eq!(driver(FileType::Char, Dev::new(1, 3)), Ok("mem"));
        assert_eq!(driver(FileType::Char, Dev::new(1, 1)), Err(Errno::ENXIO));
        assert_eq!(driver(FileType::Block, Dev::new(1, 3)), Err(Errno::ENXIO));
        assert_eq!(driver(FileType::Char, Dev::new(200, 0)), Err(Errno::ENXIO));
        assert!(drivers().contains(&(1, "mem")));
    }
}
