//! open(2): flags, the last component, and what has to hold before a file is open.

use std::sync::Arc;

use crate::errno::{Errno, Result};
use crate::fs::anon::Reopen;
use crate::fs::dentry::Dentry;
use crate::fs::file::File;
use crate::fs::inode::{Dev, FileType, NewNode, OpenFlags, SetAttr};
use crate::fs::mount::MountFlags;
use crate::fs::notify::{self, Events};
use crate::fs::path::PathRef;
use crate::fs::perm::{self, Access};
use crate::fs::walk::{Base, Ctx, Last, Walk, WalkFlags};

/// What open(2) came to.
pub enum Opened {
    File(Arc<File>),
    /// A FIFO or device: permissions are checked, the object behind it is opened by others.
    Special(Special),
}

/// A FIFO or device node about to be opened.
#[derive(Clone)]
pub struct Special {
    pub path: PathRef,
    pub flags: OpenFlags,
    pub kind: FileType,
    pub rdev: Dev,
}

impl Opened {
    /// For callers that cannot open special files.
    pub fn file(self) -> Result<Arc<File>> {
        match self {
            Opened::File(file) => Ok(file),
            Opened::Special(_) => Err(Errno::ENXIO),
        }
    }
}

/// Checks and completes flags as Linux does before it walks. openat2(2) has refused unknown bits.
///
/// # Errors
/// EINVAL.
pub fn prepare_flags(flags: OpenFlags) -> Result<OpenFlags> {
    if flags.contains(OpenFlags::PATH) {
        return Ok(flags
            & (OpenFlags::PATH | OpenFlags::DIRECTORY | OpenFlags::NOFOLLOW | OpenFlags::CLOEXEC));
    }
    let mut flags = flags;
    if flags.contains(OpenFlags::TMPFILE) {
        if !flags.contains(OpenFlags::DIRECTORY) || flags.contains(OpenFlags::CREAT) {
            return Err(Errno::EINVAL);
        }
        if !flags.writable() {
            return Err(Errno::EINVAL);
        }
    } else if flags.contains(OpenFlags::CREAT | OpenFlags::DIRECTORY) {
        return Err(Errno::EINVAL);
    }
    if flags.contains(OpenFlags::SYNC) {
        flags |= OpenFlags::DSYNC;
    }
    Ok(flags)
}

fn wanted(flags: OpenFlags) -> Access {
    let mut want = match flags.bits() & libc::O_ACCMODE {
        libc::O_RDONLY => Access::READ,
        libc::O_WRONLY => Access::WRITE,
        _ => Access::READ | Access::WRITE,
    };
    if flags.contains(OpenFlags::TRUNC) {
        want |= Access::WRITE;
    }
    want
}

impl Ctx {
    /// open(2). `perm` are the permission bits of a new file, before the umask.
    pub fn open(
        &self,
        base: &Base,
        path: &[u8],
        flags: OpenFlags,
        perm: u32,
        walk: WalkFlags,
    ) -> Result<Opened> {
        let flags = prepare_flags(flags)?;
        let mut how = walk;
        if !flags.contains(OpenFlags::NOFOLLOW)
            && !flags.contains(OpenFlags::CREAT | OpenFlags::EXCL)
        {
            how |= WalkFlags::FOLLOW;
        }
        if flags.contains(OpenFlags::DIRECTORY) {
            how |= WalkFlags::DIRECTORY;
        } else if !flags.contains(OpenFlags::PATH) && !flags.writable() {
            how |= WalkFlags::OPEN_READ;
        }
        if flags.contains(OpenFlags::TMPFILE) {
            let dir = self.lookup(base, path, how)?;
            return self.open_tmpfile(&dir, flags, perm).map(Opened::File);
        }
        if how.contains(WalkFlags::CACHED) && flags.intersects(OpenFlags::CREAT | OpenFlags::TRUNC)
        {
            return Err(Errno::EAGAIN);
        }
        if flags.contains(OpenFlags::CREAT) {
            return self.open_create(self.walk(base, path, how)?, flags, perm, how);
        }
        let place = self.lookup(base, path, how)?;
        self.open_place(place, flags, Fresh::No)
    }

    fn open_create(
        &self,
        mut walk: Walk<'_>,
        flags: OpenFlags,
        perm: u32,
        how: WalkFlags,
    ) -> Result<Opened> {
        loop {
            let name = match walk.to_last()? {
                Last::Name { slash: true, .. } => return Err(Errno::EISDIR),
                Last::Name { name, .. } => name,
                // A magic link led here.
                Last::Nothing if !walk.at.dentry.is_dir() => break,
                _ if flags.contains(OpenFlags::EXCL) => return Err(Errno::EEXIST),
                _ => return Err(Errno::EISDIR),
            };
            let child = match walk.lookup(&name)? {
                Some(child) => child,
                None => match self.create_file(&walk.at, &name, flags, perm)? {
                    Made::New(opened) => return Ok(opened),
                    Made::There(child) => child,
                },
            };
            if flags.contains(OpenFlags::EXCL) {
                return Err(Errno::EEXIST);
            }
            if child.inode().kind() == FileType::Symlink {
                if !how.contains(WalkFlags::FOLLOW) {
                    return Err(Errno::ELOOP);
                }
                walk.follow(&child, true)?;
                continue;
            }
            let dir = walk.at.inode().attr()?;
            walk.enter(child)?;
            if walk.at.dentry.is_dir() {
                return Err(Errno::EISDIR);
            }
            if dir.perm & perm::STICKY != 0 {
                perm::check_create_existing(&dir, &walk.at.inode().attr()?, &self.creds)?;
            }
            break;
        }
        walk.check_end()?;
        self.open_place(walk.at, flags, Fresh::No)
    }

    /// Makes and opens the missing `name`, or says who was faster.
    fn create_file(&self, dir: &PathRef, name: &[u8], flags: OpenFlags, perm: u32) -> Result<Made> {
        let dentry = {
            let _lock = dir.dentry.lock_dir();
            if let Some(there) = dir.dentry.lookup_locked(&[name], Default::default())? {
                return Ok(Made::There(there));
            }
            let attr = self.may_create(dir)?;
            let node = self.new_node(&attr, perm, FileType::Regular);
            match dir.inode().create(name, &node) {
                Ok(inode) => dir.dentry.add_child(name, inode),
                // Somebody outside was faster.
                Err(Errno::EEXIST) => {
                    let there = dir.dentry.look_anew(name)?;
                    return there.map(Made::There).ok_or(Errno::EEXIST);
                }
                Err(e) => return Err(e),
            }
        };
        notify::entry(&dir.dentry, name, &dentry, Events::CREATE);
        let place = PathRef::new(dir.mount.clone(), dentry);
        let flags = flags - OpenFlags::TRUNC;
        self.open_place(place, flags, Fresh::Yes).map(Made::New)
    }

    /// Owner and permission bits of something new in a directory with attributes `dir`.
    pub fn new_node(&self, dir: &crate::fs::inode::Attr, perm: u32, kind: FileType) -> NewNode {
        let perm = perm & 0o7777 & !self.umask;
        let (gid, perm) = perm::inherit(dir, &self.creds, perm, kind);
        NewNode {
            perm,
            uid: self.creds.fsuid,
            gid,
        }
    }

    fn open_tmpfile(&self, dir: &PathRef, flags: OpenFlags, perm: u32) -> Result<Arc<File>> {
        let attr = self.may_create(dir)?;
        let node = self.new_node(&attr, perm, FileType::Regular);
        let inode = dir.inode().tmpfile(&node)?;
        if !flags.contains(OpenFlags::EXCL) {
            inode.extra().set_linkable();
        }
        let name = format!("#{}", inode.attr()?.ino);
        let dentry = Dentry::unlinked(inode, name.as_bytes(), Some(dir.dentry.clone()));
        let place = PathRef::new(dir.mount.clone(), dentry);
        let flags = flags - (OpenFlags::TMPFILE | OpenFlags::DIRECTORY);
        self.open_place(place, flags, Fresh::Yes)?.file()
    }

    /// Opens what is at `place`. `flags` have been through [`prepare_flags`].
    pub fn open_place(&self, place: PathRef, flags: OpenFlags, fresh: Fresh) -> Result<Opened> {
        if flags.contains(OpenFlags::PATH) {
            let ops = Arc::new(PathOnly);
            return Ok(Opened::File(File::new(ops, place, flags)));
        }
        let inode = place.inode();
        let kind = inode.kind();
        let want = wanted(flags);
        let writes = want.contains(Access::WRITE);
        match kind {
            FileType::Symlink => return Err(Errno::ELOOP),
            FileType::Dir if writes => return Err(Errno::EISDIR),
            FileType::Char | FileType::Block if place.mount.flags().contains(MountFlags::NODEV) => {
                return Err(Errno::EACCES);
            }
            _ => {}
        }
        if let Some(reopen) = inode.extra().object::<Reopen>() {
            return Ok(Opened::File(File::new(reopen.0.clone(), place, flags)));
        }
        if fresh == Fresh::No {
            // What will be cut is claimed for writing before permissions count.
            if kind == FileType::Regular && flags.contains(OpenFlags::TRUNC) {
                place.mount.check_writable()?;
            }
            perm::check(inode, &self.creds, want)?;
            if flags.contains(OpenFlags::NOATIME) && !perm::is_owner(&inode.attr()?, &self.creds) {
                return Err(Errno::EPERM);
            }
        }
        match kind {
            FileType::Socket | FileType::Anonymous => return Err(Errno::ENXIO),
            FileType::Fifo | FileType::Char | FileType::Block => {
                return Ok(Opened::Special(Special {
                    rdev: inode.attr()?.rdev,
                    path: place,
                    flags,
                    kind,
                }));
            }
            _ => {}
        }
        if writes {
            place.mount.check_writable()?;
        }
        let file = open_plain(place, flags)?;
        if flags.contains(OpenFlags::TRUNC) && kind == FileType::Regular {
            file.ops().set_attr(
                &file,
                &SetAttr {
                    size: Some(0),
                    ..SetAttr::default()
                },
            )?;
            file.inode().drop_file_caps();
            notify::file(&file.path().dentry, Events::MODIFY);
        }
        notify::file(&file.path().dentry, Events::OPEN);
        Ok(Opened::File(file))
    }
}

/// Opens a regular file or directory without any check but ETXTBSY.
pub fn open_plain(place: PathRef, flags: OpenFlags) -> Result<Arc<File>> {
    let inode = place.inode();
    let counts = flags.writable() && inode.kind() == FileType::Regular;
    if counts {
        inode.extra().get_write()?;
    }
    let ops = match inode.clone().open(flags) {
        Ok(ops) => ops,
        Err(e) => {
            if counts {
                inode.extra().put_write();
            }
            return Err(e);
        }
    };
    Ok(if counts {
        File::new_writer(ops, place, flags)
    } else {
        File::new(ops, place, flags)
    })
}

/// Opens a program: nobody may write it while this description lives. ETXTBSY.
pub fn open_for_exec(place: PathRef, flags: OpenFlags) -> Result<Arc<File>> {
    let inode = place.inode().clone();
    inode.extra().deny_write()?;
    match inode.clone().open(flags) {
        Ok(ops) => Ok(File::new_program(ops, place, flags)),
        Err(e) => {
            inode.extra().allow_write();
            Err(e)
        }
    }
}

enum Made {
    New(Opened),
    There(Arc<Dentry>),
}

/// Whether the file was just made by this open: then its permission bits do not matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fresh {
    No,
    Yes,
}

/// The operations of an O_PATH descriptor: none.
pub struct PathOnly;

impl crate::fs::file::FileOps for PathOnly {
    fn read_at(&self, _: &File, _: &mut crate::mm::io::Sink<'_>, _: u64) -> Result<usize> {
        Err(Errno::EBADF)
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}
