//! Extended attributes.
//!
//! From Linux 6.13 on the `*xattrat` calls name the node by directory and component. Before, only
//! what can be opened for reading has extended attributes here: regular files and directories;
//! `/proc/self/fd` would serve the rest, but the Gofer sees no `/proc`.

use std::{
    ffi::{CStr, CString},
    os::fd::AsFd,
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::fs::XattrFlags;

use super::{
    lookup::open_plain,
    mounts::{Mounts, Place, Result},
    sys,
};
use crate::protocol::{Errno, MAX_NAME, MAX_XATTR, NodeRef, XattrMode};

/// Set once the kernel has said that it lacks the `*xattrat` calls.
static OLD_KERNEL: AtomicBool = AtomicBool::new(false);

/// Namespaces a client may write; others could mean something to the host (`security.selinux`).
const WRITABLE: [&[u8]; 3] = [b"user.", b"security.capability", b"system.posix_acl_"];

/// Fills a buffer as long as a message has room for.
fn filled(
    new: impl FnOnce(&mut [u8]) -> Result<usize>,
    old: impl FnOnce(&mut [u8]) -> Result<usize>,
) -> Result<Vec<u8>> {
    let buffer = std::cell::RefCell::new(vec![0; MAX_XATTR]);
    let length = either(
        || new(&mut buffer.borrow_mut()),
        || old(&mut buffer.borrow_mut()),
    )
    .map_err(too_big)?;
    let mut bytes = buffer.into_inner();
    bytes.truncate(length);
    Ok(bytes)
}

/// Calls `new` on kernels that have the call, else `old`.
fn either<T>(new: impl FnOnce() -> Result<T>, old: impl FnOnce() -> Result<T>) -> Result<T> {
    if !OLD_KERNEL.load(Ordering::Relaxed) {
        match new() {
            Err(Errno(libc::ENOSYS)) => OLD_KERNEL.store(true, Ordering::Relaxed),
            other => return other,
        }
    }
    old()
}

fn attribute(name: &[u8]) -> Result<CString> {
    if name.is_empty() || name.len() > MAX_NAME {
        return Err(Errno(libc::ERANGE));
    }
    CString::new(name).map_err(|_| Errno(libc::EINVAL))
}

fn writable_attribute(name: &[u8]) -> Result<CString> {
    let checked = attribute(name)?;
    if WRITABLE.iter().any(|prefix| name.starts_with(prefix)) {
        Ok(checked)
    } else {
        Err(Errno(libc::EOPNOTSUPP))
    }
}

fn c_name(place: &Place<'_>) -> Result<CString> {
    CString::new(place.name).map_err(|_| Errno(libc::EINVAL))
}

/// What does not fit a message is `E2BIG`, not the `ERANGE` of a buffer the client chose.
fn too_big(errno: Errno) -> Errno {
    if errno == Errno(libc::ERANGE) {
        Errno(libc::E2BIG)
    } else {
        errno
    }
}

pub(super) fn get(mounts: &Mounts, node: NodeRef<'_>, name: &[u8]) -> Result<Vec<u8>> {
    let (mount, path) = mounts.get(node)?;
    let attribute = attribute(name)?;
    let place = mount.place(path)?;
    let leaf = c_name(&place)?;
    filled(
        |value| sys::getxattr(&place.dir, &leaf, &attribute, value),
        |value| {
            Ok(rustix::fs::fgetxattr(
                open_plain(&place)?.0,
                &attribute,
                value,
            )?)
        },
    )
}

pub(super) fn set(
    mounts: &Mounts,
    node: NodeRef<'_>,
    name: &[u8],
    value: &[u8],
    mode: XattrMode,
) -> Result<()> {
    let (mount, path) = mounts.get_writable(node)?;
    let attribute = writable_attribute(name)?;
    if value.len() > MAX_XATTR {
        return Err(Errno(libc::E2BIG));
    }
    let flags = match mode {
        XattrMode::Any => XattrFlags::empty(),
        XattrMode::Create => XattrFlags::CREATE,
        XattrMode::Replace => XattrFlags::REPLACE,
    };
    let place = mount.place(path)?;
    let leaf = c_name(&place)?;
    either(
        || sys::setxattr(&place.dir, &leaf, &attribute, value, mode),
        || {
            Ok(rustix::fs::fsetxattr(
                open_plain(&place)?.0,
                &attribute,
                value,
                flags,
            )?)
        },
    )
}

pub(super) fn list(mounts: &Mounts, node: NodeRef<'_>) -> Result<Vec<u8>> {
    let (mount, path) = mounts.get(node)?;
    let place = mount.place(path)?;
    let leaf = c_name(&place)?;
    filled(
        |names| sys::listxattr(&place.dir, &leaf, names),
        |names| Ok(rustix::fs::flistxattr(open_plain(&place)?.0, names)?),
    )
}

/// Whether the entry `name` of `dir` has no extended attributes for sure.
pub(super) fn is_plain(dir: impl AsFd, name: &CStr) -> bool {
    let listed = either(
        || sys::listxattr(&dir, name, &mut []),
        || Err(Errno(libc::EOPNOTSUPP)),
    );
    listed == Ok(0)
}

pub(super) fn remove(mounts: &Mounts, node: NodeRef<'_>, name: &[u8]) -> Result<()> {
    let (mount, path) = mounts.get_writable(node)?;
    let attribute = writable_attribute(name)?;
    let place = mount.place(path)?;
    let leaf = c_name(&place)?;
    either(
        || sys::removexattr(&place.dir, &leaf, &attribute),
        || Ok(rustix::fs::fremovexattr(open_plain(&place)?.0, &attribute)?),
    )
}
