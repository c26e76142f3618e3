//! The few host calls no crate wraps. All `unsafe` of the Gofer is here.
//!
//! Nothing here resolves more than one component or follows a symlink; what may be passed is the
//! caller's business.

use std::{
    ffi::CStr,
    os::fd::{AsFd, AsRawFd},
};

use crate::protocol::{Errno, XattrMode};

/// Since Linux 6.13; not in libc yet. The numbers are the same on all architectures.
pub(crate) const SYS_SETXATTRAT: i64 = 463;
pub(crate) const SYS_GETXATTRAT: i64 = 464;
pub(crate) const SYS_LISTXATTRAT: i64 = 465;
pub(crate) const SYS_REMOVEXATTRAT: i64 = 466;

/// Argument block of setxattrat and getxattrat.
#[repr(C)]
struct XattrArgs {
    value: u64,
    size: u32,
    flags: u32,
}

fn check(result: i64) -> Result<usize, Errno> {
    usize::try_from(result).map_err(|_| {
        Errno(
            std::io::Error::last_os_error()
                .raw_os_error()
                .unwrap_or(libc::EIO),
        )
    })
}

fn size_u32(length: usize) -> Result<u32, Errno> {
    u32::try_from(length).map_err(|_| Errno(libc::E2BIG))
}

/// Makes all threads use the main heap: glibc's per-thread heaps cost memory, and read a file of
/// `/proc` by path when they shrink, which the filter would take for an attack. Buffers of frames
/// are mapped one by one, so that pages of them that are never used cost nothing.
pub(super) fn use_one_heap() {
    #[cfg(target_env = "gnu")]
    for (option, value) in [
        (libc::M_ARENA_MAX, 1),
        (libc::M_MMAP_THRESHOLD, crate::protocol::MAX_FRAME as i32),
    ] {
        // SAFETY: sets a number in the allocator; called while the process has one thread.
        unsafe { libc::mallopt(option, value) };
    }
}

/// Changes the mode of the node that the `O_PATH` fd `node` names. Linux 6.6.
pub(super) fn chmod_node(node: impl AsFd, mode: u32) -> Result<(), Errno> {
    let fd = node.as_fd().as_raw_fd();
    let path = c"".as_ptr();
    // SAFETY: the path is a NUL-terminated constant; the call touches no other memory.
    check(unsafe { libc::syscall(libc::SYS_fchmodat2, fd, path, mode, libc::AT_EMPTY_PATH) })?;
    Ok(())
}

/// Reads an extended attribute of `name` in `dir` into `value`; the bytes it takes.
pub(super) fn getxattr(
    dir: impl AsFd,
    name: &CStr,
    attribute: &CStr,
    value: &mut [u8],
) -> Result<usize, Errno> {
    let args = XattrArgs {
        value: value.as_mut_ptr() as u64,
        size: size_u32(value.len())?,
        flags: 0,
    };
    // SAFETY: the names are NUL-terminated, `args` points to `value` and says its length, and
    // both outlive the call.
    check(unsafe {
        libc::syscall(
            SYS_GETXATTRAT,
            dir.as_fd().as_raw_fd(),
            name.as_ptr(),
            libc::AT_SYMLINK_NOFOLLOW,
            attribute.as_ptr(),
            &raw const args,
            size_of::<XattrArgs>(),
        )
    })
}

/// Sets an extended attribute of `name` in `dir`.
pub(super) fn setxattr(
    dir: impl AsFd,
    name: &CStr,
    attribute: &CStr,
    value: &[u8],
    mode: XattrMode,
) -> Result<(), Errno> {
    let flags = match mode {
        XattrMode::Any => 0,
        XattrMode::Create => libc::XATTR_CREATE,
        XattrMode::Replace => libc::XATTR_REPLACE,
    };
    let args = XattrArgs {
        value: value.as_ptr() as u64,
        size: size_u32(value.len())?,
        flags: flags.unsigned_abs(),
    };
    // SAFETY: the names are NUL-terminated, `args` points to `value`, which is only read, and
    // says its length; all outlive the call.
    check(unsafe {
        libc::syscall(
            SYS_SETXATTRAT,
            dir.as_fd().as_raw_fd(),
            name.as_ptr(),
            libc::AT_SYMLINK_NOFOLLOW,
            attribute.as_ptr(),
            &raw const args,
            size_of::<XattrArgs>(),
        )
    })?;
    Ok(())
}

/// Writes the names of the extended attributes of `name` in `dir` into `list`; the bytes used.
pub(super) fn listxattr(dir: impl AsFd, name: &CStr, list: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the name is NUL-terminated; `list` is as long as is said and outlives the call.
    check(unsafe {
        libc::syscall(
            SYS_LISTXATTRAT,
            dir.as_fd().as_raw_fd(),
            name.as_ptr(),
            libc::AT_SYMLINK_NOFOLLOW,
            list.as_mut_ptr(),
            list.len(),
        )
    })
}

/// Removes an extended attribute of `name` in `dir`.
pub(super) fn removexattr(dir: impl AsFd, name: &CStr, attribute: &CStr) -> Result<(), Errno> {
    // SAFETY: the names are NUL-terminated; the call touches no other memory.
    check(unsafe {
        libc::syscall(
            SYS_REMOVEXATTRAT,
            dir.as_fd().as_raw_fd(),
            name.as_ptr(),
            libc::AT_SYMLINK_NOFOLLOW,
            attribute.as_ptr(),
        )
    })?;
    Ok(())
}

/// Adds the attributes `set` (`MOUNT_ATTR_*`) to the mount at `mount`.
pub(super) fn restrict_mount(mount: impl AsFd, set: u64) -> Result<(), Errno> {
    mount_setattr(mount, 0, set)
}

/// Adds the attributes `set` (`MOUNT_ATTR_*`) to the mount at `mount` and all below it.
pub(super) fn restrict_mounts(mount: impl AsFd, set: u64) -> Result<(), Errno> {
    mount_setattr(mount, libc::AT_RECURSIVE, set)
}

fn mount_setattr(mount: impl AsFd, flags: i32, set: u64) -> Result<(), Errno> {
    let attr = libc::mount_attr {
        attr_set: set,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the path is a NUL-terminated constant; `attr` is as long as is said and outlives
    // the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | flags,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    })?;
    Ok(())
}
