//! The mount namespace of a container, as the boot configuration describes it.

use std::sync::Arc;

use runsc_gofer::protocol::MountId;

use super::BootError;
use crate::config::{
    Atime, BootConfig, CgroupLayout, DevptsOptions, GoferMount, MountConfig,
    MountFlags as ConfigFlags, MountKind, NodeConfig, NodeKind, OverlayKind, TmpfsOptions,
};
use crate::errno::{Errno, Result};
use crate::fs::anon::internal_file;
use crate::fs::change::Make;
use crate::fs::context::FsContext;
use crate::fs::copy::{Copier, Purpose};
use crate::fs::goferfs::{GoferFs, Trust};
use crate::fs::inode::{Dev, FileType, Inode, OpenFlags};
use crate::fs::mount::{FileSystem, Mount, MountFlags, MountNamespace};
use crate::fs::overlay::OverlayFs;
use crate::fs::walk::{Base, Ctx, WalkFlags};
use crate::kernel::Kernel;
use crate::kernel::cred::Credentials;
use crate::mm::io::Source;

/// Memory of the machine in bytes, as sysinfo(2) tells before the filter forbids it.
pub fn memory_total() -> u64 {
    runsc_platform::host::memory_total().unwrap_or(1 << 30)
}

struct Builder<'a> {
    kernel: &'a Arc<Kernel>,
    gofer: &'a Arc<runsc_gofer::client::Client>,
}

/// Builds the tree: root, mounts in order, nodes, masked and read-only paths.
pub fn build(
    kernel: &Arc<Kernel>,
    gofer: &Arc<runsc_gofer::client::Client>,
    config: &BootConfig,
) -> Result<Arc<MountNamespace>, BootError> {
    let b = Builder { kernel, gofer };
    let at = |path: &[u8]| {
        let destination = String::from_utf8_lossy(path).into_owned();
        move |errno| BootError::Mount { destination, errno }
    };
    let root = b
        .gofer_tree(config.root.gofer_mount, config.root.overlay, Trust::Root)
        .map_err(at(b"/"))?;
    let root = Mount::new(root, b"rootfs", MountFlags::RELATIME);
    let namespace = MountNamespace::new(root.clone());
    crate::fs::register_all(kernel, &namespace);
    let fs = FsContext::new(namespace.clone());
    let ctx = Ctx::new(&fs, Arc::new(Credentials::root()));
    for mount in &config.mounts {
        b.mount(&ctx, mount).map_err(at(&mount.destination))?;
    }
    for node in &config.nodes {
        make_node(&ctx, node).map_err(at(&node.path))?;
    }
    for (path, value) in &config.sysctls {
        let whole = format!("/proc/sys/{path}");
        set(&ctx, whole.as_bytes(), value).map_err(|errno| BootError::Guest {
            what: format!("sysctl {path}: {value:?}"),
            errno,
        })?;
    }
    for path in &config.masked_paths {
        b.mask(&ctx, path).map_err(at(path))?;
    }
    // Mount points were made in it until now.
    if config.root.readonly {
        root.set_flags(root.flags() | MountFlags::RDONLY);
    }
    for path in &config.readonly_paths {
        make_readonly(&ctx, path).map_err(at(path))?;
    }
    Ok(namespace)
}

impl Builder<'_> {
    /// A tree of the Gofer, under an overlay in memory if asked for, else of this trust.
    fn gofer_tree(
        &self,
        mount: GoferMount,
        overlay: OverlayKind,
        trust: Trust,
    ) -> Result<Arc<FileSystem>> {
        let (client, id) = (self.gofer.clone(), MountId(mount));
        match overlay {
            OverlayKind::None => GoferFs::mount(client, id, trust),
            OverlayKind::Memory => {
                let lower = GoferFs::open(client, id, Trust::LAYER)?;
                OverlayFs::mount(
                    self.kernel.memory.clone(),
                    lower,
                    Some(self.kernel.memory_total() / 2),
                )
            }
        }
    }

    fn mount(&self, ctx: &Ctx, m: &MountConfig) -> Result<()> {
        if m.kind == MountKind::Cgroup && self.kernel.resources.limits().layout == CgroupLayout::V1
        {
            return self.cgroup_v1(ctx, m);
        }
        let mut kind = m.kind.clone();
        if let MountKind::Tmpfs(options) = &mut kind
            && options.mode.is_none()
            && let Ok(covered) = ctx.lookup(&Base::Cwd, &m.destination, WalkFlags::FOLLOW)
        {
            // Without a mode, a tmpfs looks like the directory that it covers, as under runc.
            options.mode = Some(covered.inode().attr()?.perm);
        }
        let fs = match &kind {
            MountKind::Proc => crate::fs::proc::mount(self.kernel)?,
            MountKind::Sysfs => crate::fs::sysfs::mount(self.kernel)?,
            MountKind::Tmpfs(options) => self.tmpfs(options)?,
            MountKind::Mqueue => crate::fs::mqueue::mount(self.kernel)?,
            MountKind::Devtmpfs => crate::fs::dev::mount(self.kernel)?,
            MountKind::Devpts(options) => ctx
                .namespace
                .file_system_type(b"devpts")?
                .mount(b"devpts", devpts_data(options).as_bytes())?,
            MountKind::Cgroup => crate::fs::cgroup::mount_v2(self.kernel),
            MountKind::Bind {
                gofer_mount,
                overlay,
                ..
            } => self.gofer_tree(*gofer_mount, *overlay, Trust::Shared)?,
        };
        let is_dir = fs.root.is_dir();
        if m.make_mount_point {
            make_mount_point(ctx, &m.destination, is_dir)?;
        }
        let place = ctx.lookup(&Base::Cwd, &m.destination, WalkFlags::FOLLOW)?;
        if let MountKind::Tmpfs(TmpfsOptions { copy_up: true, .. }) = &kind {
            copy_up(place.inode(), fs.root.inode(), &m.destination)?;
        }
        let mount = Mount::new(fs, &m.source, flags(&m.flags));
        ctx.namespace.attach(&mount, &place)
    }

    /// A tmpfs with a mount for each hierarchy.
    fn cgroup_v1(&self, ctx: &Ctx, m: &MountConfig) -> Result<()> {
        use crate::fs::cgroup;
        make_mount_point(ctx, &m.destination, true)?;
        let place = ctx.lookup(&Base::Cwd, &m.destination, WalkFlags::FOLLOW)?;
        let options = TmpfsOptions {
            mode: Some(0o755),
            ..Default::default()
        };
        let top = Mount::new(self.tmpfs(&options)?, b"tmpfs", MountFlags::empty());
        ctx.namespace.attach(&top, &place)?;
        let at = |name: &str| [&m.destination, "/".as_bytes(), name.as_bytes()].concat();
        for hierarchy in cgroup::HIERARCHIES {
            let path = at(hierarchy.name);
            make_dirs(ctx, &path)?;
            let place = ctx.lookup(&Base::Cwd, &path, WalkFlags::FOLLOW)?;
            let fs = cgroup::mount_v1(self.kernel, hierarchy);
            let mount = Mount::new(fs, b"cgroup", flags(&m.flags));
            ctx.namespace.attach(&mount, &place)?;
        }
        for (alias, target) in cgroup::ALIASES {
            let link = Make::Symlink(target.as_bytes());
            ctx.make(&Base::Cwd, &at(alias), link, 0o777)?;
        }
        top.set_flags(flags(&m.flags));
        Ok(())
    }

    fn tmpfs(&self, o: &TmpfsOptions) -> Result<Arc<FileSystem>> {
        let options = crate::fs::tmpfs::Options {
            size: o.size,
            nr_inodes: o.nr_inodes,
            mode: o.mode,
            uid: o.uid,
            gid: o.gid,
        };
        crate::fs::tmpfs::Tmpfs::mount(self.kernel.memory.clone(), &options)
    }

    fn mask(&self, ctx: &Ctx, path: &[u8]) -> Result<()> {
        let place = match ctx.lookup(&Base::Cwd, path, WalkFlags::FOLLOW) {
            Ok(place) => place,
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
            Err(e) => return Err(e),
        };
        if place.dentry.is_dir() {
            let fs = self.tmpfs(&TmpfsOptions {
                size: Some(0),
                mode: Some(0o755),
                ..Default::default()
            })?;
            return ctx
                .namespace
                .attach(&Mount::new(fs, b"tmpfs", MountFlags::RDONLY), &place);
        }
        let null = ctx.lookup(&Base::Cwd, b"/dev/null", WalkFlags::FOLLOW)?;
        ctx.namespace.bind(&null, &place, false)
    }
}

/// The options as mount(2) takes them.
fn devpts_data(o: &DevptsOptions) -> String {
    let octal = |name: &str, value: Option<u32>| value.map(|v| format!("{name}={v:o}"));
    let decimal = |name: &str, value: Option<u32>| value.map(|v| format!("{name}={v}"));
    let given = [
        octal("mode", o.mode),
        octal("ptmxmode", o.ptmx_mode),
        decimal("uid", o.uid),
        decimal("gid", o.gid),
        decimal("max", o.max),
    ];
    given.into_iter().flatten().collect::<Vec<_>>().join(",")
}

fn flags(c: &ConfigFlags) -> MountFlags {
    let mut flags = match c.atime {
        Atime::Relative => MountFlags::RELATIME,
        Atime::Strict => MountFlags::empty(),
        Atime::Never => MountFlags::NOATIME,
    };
    flags.set(MountFlags::RDONLY, c.readonly);
    flags.set(MountFlags::NOSUID, c.nosuid);
    flags.set(MountFlags::NODEV, c.nodev);
    flags.set(MountFlags::NOEXEC, c.noexec);
    flags
}

/// Fills a new tmpfs with what it is going to cover.
fn copy_up(from: &Arc<dyn Inode>, to: &Arc<dyn Inode>, path: &[u8]) -> Result<()> {
    let mut first = None;
    let mut problem = |path: &[u8], errno| {
        log::warn!("tmpcopyup: {}: {errno}", String::from_utf8_lossy(path));
        // A socket is nobody's any more.
        first = first.or((errno != Errno::EOPNOTSUPP).then_some(errno));
    };
    let mut copier = Copier::new(Purpose::Guest, &mut problem);
    copier.contents(from, to, path);
    copier.finish();
    first.map_or(Ok(()), Err)
}

/// Writes a text to a file that is there.
fn set(ctx: &Ctx, path: &[u8], text: &str) -> Result<()> {
    let place = ctx.lookup(&Base::Cwd, path, WalkFlags::FOLLOW)?;
    let flags = OpenFlags::WRONLY;
    let file = internal_file(place.inode().clone(), flags)?;
    file.write(&mut Source::kernel(text.as_bytes())).map(drop)
}

/// mkdir -p.
pub fn make_dirs(ctx: &Ctx, path: &[u8]) -> Result<()> {
    let mut end = 0;
    while end < path.len() {
        end = path[end + 1..]
            .iter()
            .position(|b| *b == b'/')
            .map_or(path.len(), |n| end + 1 + n);
        match ctx.make(&Base::Cwd, &path[..end], Make::Dir, 0o755) {
            Ok(_) | Err(Errno::EEXIST) => {}
            // A read-only tree where it exists already.
            Err(e) => match ctx.lookup(
                &Base::Cwd,
                &path[..end],
                WalkFlags::FOLLOW | WalkFlags::DIRECTORY,
            ) {
                Ok(_) => {}
                Err(_) => return Err(e),
            },
        }
    }
    Ok(())
}

/// The path without its last name, unless that is the root.
fn parent(path: &[u8]) -> Option<&[u8]> {
    let slash = path.iter().rposition(|b| *b == b'/')?;
    path.get(..slash).filter(|above| !above.is_empty())
}

fn make_mount_point(ctx: &Ctx, path: &[u8], is_dir: bool) -> Result<()> {
    if ctx.lookup(&Base::Cwd, path, WalkFlags::FOLLOW).is_ok() {
        return Ok(());
    }
    if is_dir {
        return make_dirs(ctx, path);
    }
    if let Some(above) = parent(path) {
        make_dirs(ctx, above)?;
    }
    ctx.make(
        &Base::Cwd,
        path,
        Make::Node(FileType::Regular, Dev::default()),
        0o644,
    )
    .map(|_| ())
}

fn make_node(ctx: &Ctx, node: &NodeConfig) -> Result<()> {
    let (what, perm, owner) = match &node.kind {
        NodeKind::Symlink { target } => (Make::Symlink(target), 0o777, None),
        NodeKind::Char {
            major,
            minor,
            mode,
            uid,
            gid,
        } => (
            Make::Node(FileType::Char, Dev::new(*major, *minor)),
            *mode,
            Some((*uid, *gid)),
        ),
        NodeKind::Block {
            major,
            minor,
            mode,
            uid,
            gid,
        } => (
            Make::Node(FileType::Block, Dev::new(*major, *minor)),
            *mode,
            Some((*uid, *gid)),
        ),
        NodeKind::Fifo { mode, uid, gid } => (
            Make::Node(FileType::Fifo, Dev::default()),
            *mode,
            Some((*uid, *gid)),
        ),
    };
    let make = || ctx.make(&Base::Cwd, &node.path, what, perm);
    let made = match (make(), parent(&node.path)) {
        // Among all devices of a host some lie deeper.
        (Err(Errno::ENOENT), Some(above)) => {
            make_dirs(ctx, above)?;
            make()
        }
        (made, _) => made,
    };
    let place = match made {
        Ok(place) => place,
        Err(Errno::EEXIST) => return Ok(()),
        Err(e) => return Err(e),
    };
    if let Some((uid, gid)) = owner {
        use crate::fs::inode::SetAttr;
        use crate::kernel::cred::{Gid, Uid};
        place.inode().set_attr(&SetAttr {
            uid: Some(Uid(uid)),
            gid: Some(Gid(gid)),
            perm: Some(perm),
            ..Default::default()
        })?;
    }
    Ok(())
}

fn make_readonly(ctx: &Ctx, path: &[u8]) -> Result<()> {
    let place = match ctx.lookup(&Base::Cwd, path, WalkFlags::FOLLOW) {
        Ok(place) => place,
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
        Err(e) => return Err(e),
    };
    ctx.namespace.bind(&place, &place, true)?;
    let covered = ctx.lookup(&Base::Cwd, path, WalkFlags::FOLLOW)?;
    covered
        .mount
        .set_flags(covered.mount.flags() | MountFlags::RDONLY);
    Ok(())
}
