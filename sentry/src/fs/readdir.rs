//! Reading a directory through its open file: the file system's entries with `.` and `..` before
//! them.

use crate::errno::Result;
use crate::fs::file::File;
use crate::fs::inode::{DirEntry, FileType};
use crate::fs::mount::MountFlags;

/// Emits entries from position `pos` on until `emit` says no. Positions 0 and 1 are `.` and `..`;
/// those of the file system are shifted by two.
pub fn read_dir(file: &File, pos: u64, emit: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<()> {
    let place = file.path();
    if pos == 0 {
        let go_on = emit(DirEntry {
            name: b".",
            ino: file.inode().attr()?.ino,
            kind: Some(FileType::Dir),
            next: 1,
        });
        if !go_on {
            return Ok(());
        }
    }
    if pos <= 1 {
        let below = place.below_mounts().unwrap_or_else(|| place.clone());
        let parent = below
            .dentry
            .parent()
            .unwrap_or_else(|| below.dentry.clone());
        let go_on = emit(DirEntry {
            name: b"..",
            ino: parent.inode().attr()?.ino,
            kind: Some(FileType::Dir),
            next: 2,
        });
        if !go_on {
            return Ok(());
        }
    }
    file.ops()
        .readdir(file, pos.saturating_sub(2), &mut |entry| {
            emit(DirEntry {
                next: entry.next.saturating_add(2),
                ..entry
            })
        })?;
    let mount = place.mount.flags();
    if !mount.intersects(MountFlags::NOATIME | MountFlags::NODIRATIME) && !place.mount.is_readonly()
    {
        file.inode().accessed(!mount.contains(MountFlags::RELATIME));
    }
    Ok(())
}
