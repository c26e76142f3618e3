//! Tests of the VFS and the disk-like file systems, in one process and without privileges.

mod ahead;
mod compare;
mod content;
mod outside;
mod trees;
mod walks;

use std::sync::Arc;

use runsc_gofer::client::{Client, channel_pairs};
use runsc_gofer::protocol::MountId;
use runsc_gofer::server::{Devices, PlainMount, Writes, spawn_unconfined};

use crate::errno::Result;
use crate::fs::context::FsContext;
use crate::fs::file::File;
use crate::fs::goferfs::{GoferFs, Trust};
use crate::fs::inode::OpenFlags;
use crate::fs::mount::{FileSystem, Mount, MountFlags, MountNamespace};
use crate::fs::overlay::OverlayFs;
use crate::fs::tmpfs::{Options, Tmpfs};
use crate::fs::walk::{Base, Ctx, WalkFlags};
use crate::kernel::cred::{CapSet, Credentials, Gid, Uid};
use crate::mm::MemoryFile;
use crate::mm::io::{Sink, Source};

/// The credentials of the test itself, so that results can be compared with the host's.
fn me() -> Credentials {
    let uid = nix::unistd::geteuid().as_raw();
    let caps = if uid == 0 {
        CapSet::FULL
    } else {
        CapSet::EMPTY
    };
    let groups = nix::unistd::getgroups().unwrap_or_default();
    let groups = groups.into_iter().map(|g| Gid(g.as_raw())).collect();
    Credentials::user(Uid(uid), Gid(nix::unistd::getegid().as_raw()), groups, caps)
}

fn memory() -> Arc<MemoryFile> {
    runsc_platform::memory::install_fault_handler().unwrap();
    MemoryFile::new().unwrap()
}

fn tmpfs() -> Arc<FileSystem> {
    let options = Options {
        uid: Some(nix::unistd::geteuid().as_raw()),
        gid: Some(nix::unistd::getegid().as_raw()),
        mode: Some(0o755),
        ..Options::default()
    };
    Tmpfs::mount(memory(), &options).unwrap()
}

/// A Gofer that serves `path` from threads of this process.
fn gofer(path: &std::path::Path, writes: Writes) -> Arc<Client> {
    let (client, server) = channel_pairs(2).unwrap();
    let root = std::fs::File::open(path).unwrap().into();
    let mount = PlainMount {
        root,
        writes,
        devices: Devices::Refuse,
    };
    drop(spawn_unconfined(vec![mount], server));
    Arc::new(Client::new(client).unwrap())
}

pub(super) fn gofer_fs(path: &std::path::Path, trust: Trust) -> Arc<FileSystem> {
    GoferFs::mount(gofer(path, Writes::Allow), MountId(0), trust).unwrap()
}

fn overlay(path: &std::path::Path) -> Arc<FileSystem> {
    let lower = GoferFs::open(
        gofer(path, Writes::Refuse),
        MountId(0),
        Trust::Layer(u64::MAX),
    )
    .unwrap();
    OverlayFs::mount(memory(), lower, None).unwrap()
}

/// Somebody at the root of `fs`.
fn at_root(fs: Arc<FileSystem>, creds: Credentials) -> Ctx {
    let mount = Mount::new(fs, b"test", MountFlags::empty());
    let context = FsContext::new(MountNamespace::new(mount));
    let mut ctx = Ctx::new(&context, Arc::new(creds));
    ctx.umask = 0o022;
    ctx
}

impl Ctx {
    fn open_file(&self, path: &str, flags: OpenFlags, mode: u32) -> Result<Arc<File>> {
        let walk = WalkFlags::empty();
        self.open(&Base::Cwd, path.as_bytes(), flags, mode, walk)?
            .file()
    }

    fn read_all(&self, path: &str) -> Result<Vec<u8>> {
        read_file(&*self.open_file(path, OpenFlags::empty(), 0)?)
    }

    fn put(&self, path: &str, bytes: &[u8]) -> Result<()> {
        let flags = OpenFlags::CREAT | OpenFlags::WRONLY | OpenFlags::TRUNC;
        let file = self.open_file(path, flags, 0o644)?;
        let mut source = Source::kernel(bytes);
        while source.remaining() > 0 {
            file.write(&mut source)?;
        }
        Ok(())
    }
}

fn read_file(file: &File) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    let mut buffer = [0; 5000];
    loop {
        let n = file.pread(&mut Sink::kernel(&mut buffer), all.len() as u64)?;
        if n == 0 {
            return Ok(all);
        }
        all.extend_from_slice(&buffer[..n]);
    }
}
