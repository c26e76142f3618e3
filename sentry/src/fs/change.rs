//! Calls that change directories: mkdir, mknod, symlink, link, unlink, rmdir, rename; with the
//! checks and their order as in Linux.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::errno::{Errno, Result};
use crate::fs::dentry::{Dentry, lock_two};
use crate::fs::inode::{Attr, Dev, Exchange, FileType, Inode, LookupHint, SocketKind};
use crate::fs::notify::{self, Events};
use crate::fs::path::PathRef;
use crate::fs::perm::{self, Access};
use crate::fs::walk::{Base, Ctx, Last, NAME_MAX, Parent, WalkFlags};
use crate::kernel::cred::Cap;

/// What to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Make<'a> {
    Dir,
    Regular,
    Node(FileType, Dev),
    Symlink(&'a [u8]),
}

impl Make<'_> {
    fn kind(self) -> FileType {
        match self {
            Make::Dir => FileType::Dir,
            Make::Regular => FileType::Regular,
            Make::Node(kind, _) => kind,
            Make::Symlink(_) => FileType::Symlink,
        }
    }
}

bitflags::bitflags! {
    /// Flags of renameat2(2).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct RenameFlags: u32 {
        const NOREPLACE = libc::RENAME_NOREPLACE;
        const EXCHANGE = libc::RENAME_EXCHANGE;
        const WHITEOUT = libc::RENAME_WHITEOUT;
    }
}

/// Held by renames between directories, so that two of them cannot make a circle.
static RENAME: Mutex<()> = Mutex::new(());

fn check_name(name: &[u8]) -> Result<()> {
    if name.len() > NAME_MAX {
        return Err(Errno::ENAMETOOLONG);
    }
    Ok(())
}

impl Ctx {
    /// May something be made in `dir`? Its attributes.
    ///
    /// # Errors
    /// EROFS, EACCES, ENOENT for a directory that was removed.
    pub fn may_create(&self, dir: &PathRef) -> Result<Attr> {
        dir.mount.check_writable()?;
        if dir.dentry.is_deleted() {
            return Err(Errno::ENOENT);
        }
        let attr = dir.inode().attr()?;
        perm::check(dir.inode(), &self.creds, Access::WRITE | Access::EXEC)?;
        Ok(attr)
    }

    fn may_delete(&self, dir: &PathRef, child: &Arc<Dentry>, want_dir: Option<bool>) -> Result<()> {
        perm::check(dir.inode(), &self.creds, Access::WRITE | Access::EXEC)?;
        let dir_attr = dir.inode().attr()?;
        if dir_attr.perm & perm::STICKY != 0 {
            perm::check_sticky(&dir_attr, &child.inode().attr()?, &self.creds)?;
        }
        match want_dir {
            Some(true) if !child.is_dir() => return Err(Errno::ENOTDIR),
            Some(false) if child.is_dir() => return Err(Errno::EISDIR),
            _ => {}
        }
        if dir.dentry.is_deleted() {
            return Err(Errno::ENOENT);
        }
        Ok(())
    }

    /// mkdir(2), mknod(2), symlink(2). `perm` before the umask.
    pub fn make(&self, base: &Base, path: &[u8], what: Make<'_>, perm: u32) -> Result<PathRef> {
        let made = self.make_with(base, path, what.kind(), |dir, attr, name| {
            Ok((self.new_inode(dir, attr, name, what, perm)?, ()))
        });
        Ok(made?.0)
    }

    /// bind(2) to a name, and what [`Inode::bind_socket`] gives. `perm` before the umask.
    pub fn make_socket(
        &self,
        base: &Base,
        path: &[u8],
        kind: SocketKind,
        perm: u32,
    ) -> Result<(PathRef, Option<OwnedFd>)> {
        self.make_with(base, path, FileType::Socket, |dir, attr, name| {
            let node = self.new_node(attr, perm, FileType::Socket);
            dir.bind_socket(name, &node, kind)
        })
    }

    /// Lets `make` make an inode in a directory with these attributes.
    fn make_with<T>(
        &self,
        base: &Base,
        path: &[u8],
        kind: FileType,
        make: impl FnOnce(&Arc<dyn Inode>, &Attr, &[u8]) -> Result<(Arc<dyn Inode>, T)>,
    ) -> Result<(PathRef, T)> {
        let Parent { dir, last } = self.parent(base, path, WalkFlags::empty())?;
        let Last::Name { name, slash } = last else {
            return Err(Errno::EEXIST);
        };
        check_name(&name)?;
        let lock = dir.dentry.lock_dir();
        if dir
            .dentry
            .lookup_locked(&[&name], LookupHint::None)?
            .is_some()
        {
            return Err(Errno::EEXIST);
        }
        if slash && kind != FileType::Dir {
            return Err(Errno::ENOENT);
        }
        let attr = self.may_create(&dir)?;
        let (inode, more) = make(dir.inode(), &attr, &name)?;
        let dentry = dir.dentry.add_child(&name, inode);
        drop(lock);
        notify::entry(&dir.dentry, &name, &dentry, Events::CREATE);
        Ok((PathRef::new(dir.mount.clone(), dentry), more))
    }

    fn new_inode(
        &self,
        dir: &Arc<dyn Inode>,
        attr: &Attr,
        name: &[u8],
        what: Make<'_>,
        perm: u32,
    ) -> Result<Arc<dyn Inode>> {
        match what {
            Make::Dir => {
                let node = self.new_node(attr, perm & 0o1777, FileType::Dir);
                dir.mkdir(name, &node)
            }
            Make::Regular => {
                let node = self.new_node(attr, perm, FileType::Regular);
                dir.create(name, &node)
            }
            Make::Node(kind, rdev) => {
                let device = matches!(kind, FileType::Char | FileType::Block);
                // A whiteout (0:0) needs no privilege.
                if device && rdev != Dev::default() && !self.creds.has_cap(Cap::Mknod) {
                    return Err(Errno::EPERM);
                }
                let node = self.new_node(attr, perm, kind);
                dir.mknod(name, &node, kind, rdev)
            }
            Make::Symlink(target) => {
                let mut node = self.new_node(attr, 0o777, FileType::Symlink);
                node.perm = 0o777;
                dir.symlink(name, &node, target)
            }
        }
    }

    /// link(2): a further name for `old`.
    pub fn link(&self, old: &PathRef, base: &Base, path: &[u8]) -> Result<()> {
        let Parent { dir, last } = self.parent(base, path, WalkFlags::empty())?;
        let Last::Name { name, slash } = last else {
            return Err(Errno::EEXIST);
        };
        check_name(&name)?;
        let lock = dir.dentry.lock_dir();
        if dir
            .dentry
            .lookup_locked(&[&name], LookupHint::None)?
            .is_some()
        {
            return Err(Errno::EEXIST);
        }
        if slash {
            return Err(Errno::ENOENT);
        }
        if !Arc::ptr_eq(&old.mount, &dir.mount) {
            return Err(Errno::EXDEV);
        }
        dir.mount.check_writable()?;
        perm::check_hardlink(old.inode(), &self.creds)?;
        self.may_create(&dir)?;
        if old.dentry.is_dir() {
            return Err(Errno::EPERM);
        }
        if old.inode().attr()?.nlink == 0 && !old.inode().extra().is_linkable() {
            return Err(Errno::ENOENT);
        }
        dir.inode().link(&name, old.inode())?;
        let dentry = dir.dentry.add_child(&name, old.inode().clone());
        drop(lock);
        notify::entry(&dir.dentry, &name, &dentry, Events::CREATE);
        notify::itself(&dentry, Events::ATTRIB);
        Ok(())
    }

    /// unlink(2).
    pub fn unlink(&self, base: &Base, path: &[u8]) -> Result<()> {
        let Parent { dir, last } = self.parent(base, path, WalkFlags::empty())?;
        let Last::Name { name, slash } = last else {
            return Err(Errno::EISDIR);
        };
        check_name(&name)?;
        dir.mount.check_writable()?;
        let lock = dir.dentry.lock_dir();
        let child = dir
            .dentry
            .lookup_locked(&[&name], LookupHint::None)?
            .ok_or(Errno::ENOENT)?;
        if slash {
            return Err(if child.is_dir() {
                Errno::EISDIR
            } else {
                Errno::ENOTDIR
            });
        }
        self.may_delete(&dir, &child, Some(false))?;
        if child.is_mount_point() {
            return Err(Errno::EBUSY);
        }
        dir.inode().unlink(&name, child.inode())?;
        dir.dentry.remove_child(&child);
        drop(lock);
        self.removed(&dir, &name, &child);
        Ok(())
    }

    /// rmdir(2).
    pub fn rmdir(&self, base: &Base, path: &[u8]) -> Result<()> {
        let Parent { dir, last } = self.parent(base, path, WalkFlags::empty())?;
        let name = match last {
            Last::Name { name, .. } => name,
            Last::Dot => return Err(Errno::EINVAL),
            Last::DotDot => return Err(Errno::ENOTEMPTY),
            Last::Nothing => return Err(Errno::EBUSY),
        };
        check_name(&name)?;
        dir.mount.check_writable()?;
        let lock = dir.dentry.lock_dir();
        let child = dir
            .dentry
            .lookup_locked(&[&name], LookupHint::None)?
            .ok_or(Errno::ENOENT)?;
        self.may_delete(&dir, &child, Some(true))?;
        if child.is_mount_point() {
            return Err(Errno::EBUSY);
        }
        {
            // Nothing may be made in it meanwhile.
            let _child = child.lock_dir();
            dir.inode().rmdir(&name, child.inode())?;
            dir.dentry.remove_child(&child);
        }
        drop(lock);
        self.removed(&dir, &name, &child);
        Ok(())
    }

    fn removed(&self, dir: &PathRef, name: &[u8], child: &Arc<Dentry>) {
        notify::unlinked(child);
        notify::entry(&dir.dentry, name, child, Events::DELETE);
    }

    /// rename(2), renameat2(2).
    pub fn rename(
        &self,
        old: (&Base, &[u8]),
        new: (&Base, &[u8]),
        flags: RenameFlags,
    ) -> Result<()> {
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        if exchange && flags.intersects(RenameFlags::NOREPLACE | RenameFlags::WHITEOUT) {
            return Err(Errno::EINVAL);
        }
        if flags.contains(RenameFlags::WHITEOUT) {
            return Err(Errno::EINVAL);
        }
        let from = self.parent(old.0, old.1, WalkFlags::empty())?;
        let to = self.parent(new.0, new.1, WalkFlags::empty())?;
        if !Arc::ptr_eq(&from.dir.mount, &to.dir.mount) {
            return Err(Errno::EXDEV);
        }
        let Last::Name {
            name: old_name,
            slash: old_slash,
        } = from.last
        else {
            return Err(Errno::EBUSY);
        };
        let Last::Name {
            name: new_name,
            slash: new_slash,
        } = to.last
        else {
            return Err(if flags.contains(RenameFlags::NOREPLACE) {
                Errno::EEXIST
            } else {
                Errno::EBUSY
            });
        };
        check_name(&old_name)?;
        check_name(&new_name)?;
        from.dir.mount.check_writable()?;
        let (old_dir, new_dir) = (&from.dir.dentry, &to.dir.dentry);
        let same_dir = Arc::ptr_eq(old_dir, new_dir);
        let _rename = (!same_dir).then(|| RENAME.lock());
        let locks = lock_two(old_dir, new_dir);
        let child = old_dir
            .lookup_locked(&[&old_name], LookupHint::None)?
            .ok_or(Errno::ENOENT)?;
        let target = new_dir.lookup_locked(&[&new_name], LookupHint::None)?;
        if flags.contains(RenameFlags::NOREPLACE) && target.is_some() {
            return Err(Errno::EEXIST);
        }
        if exchange {
            let target = target.as_ref().ok_or(Errno::ENOENT)?;
            if !target.is_dir() && new_slash {
                return Err(Errno::ENOTDIR);
            }
        }
        if !child.is_dir() && (old_slash || (!exchange && new_slash)) {
            return Err(Errno::ENOTDIR);
        }
        if child.is_dir() && child.is_ancestor_of(new_dir) {
            return Err(Errno::EINVAL);
        }
        if let Some(target) = &target
            && target.is_dir()
            && !same_dir
            && target.is_ancestor_of(old_dir)
        {
            return Err(if exchange {
                Errno::EINVAL
            } else {
                Errno::ENOTEMPTY
            });
        }
        if let Some(target) = &target
            && Arc::ptr_eq(target.inode(), child.inode())
        {
            return Ok(());
        }
        self.may_delete(&from.dir, &child, None)?;
        match &target {
            None => {
                self.may_create(&to.dir)?;
            }
            Some(target) if exchange => self.may_delete(&to.dir, target, None)?,
            Some(target) => self.may_delete(&to.dir, target, Some(child.is_dir()))?,
        }
        if !same_dir {
            let moved = [Some(&child), target.as_ref().filter(|_| exchange)];
            for dir in moved.into_iter().flatten().filter(|d| d.is_dir()) {
                perm::check(dir.inode(), &self.creds, Access::WRITE)?;
            }
        }
        if child.is_mount_point() || target.as_ref().is_some_and(|t| t.is_mount_point()) {
            return Err(Errno::EBUSY);
        }
        let how = if exchange {
            Exchange::Yes
        } else {
            Exchange::No
        };
        {
            // Nothing may be made in a directory that is about to be replaced.
            let replaced = target.as_ref().filter(|t| t.is_dir() && !exchange);
            let _replaced = replaced.map(|t| t.lock_dir());
            old_dir.inode().rename(
                &old_name,
                child.inode(),
                new_dir.inode(),
                &new_name,
                target.as_ref().map(|t| t.inode()),
                how,
            )?;
            match &target {
                Some(target) if exchange => old_dir.exchange_children(&child, new_dir, target),
                _ => old_dir.move_child(&child, new_dir, &new_name),
            }
        }
        drop(locks);
        notify::moved((old_dir, &old_name), (new_dir, &new_name), &child);
        if let Some(target) = &target {
            if exchange {
                notify::moved((new_dir, &new_name), (old_dir, &old_name), target);
            } else {
                notify::unlinked(target);
            }
        }
        Ok(())
    }
}
