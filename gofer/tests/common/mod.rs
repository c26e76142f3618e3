//! A server over a temporary directory, in threads of the test.

#![allow(dead_code, reason = "not every test uses everything")]

use std::{os::fd::OwnedFd, path::Path, thread::JoinHandle};

use runsc_gofer::{
    Client, Error, MountId, NodeRef,
    client::channel_pairs,
    server::{Devices, PlainMount, Writes, spawn_unconfined},
};
use tempfile::TempDir;

pub const RW: MountId = MountId(0);
pub const RO: MountId = MountId(1);

/// The same directory twice: writable as [`RW`], read-only as [`RO`].
pub struct Served {
    pub dir: TempDir,
    pub client: Client,
    pub threads: Vec<JoinHandle<()>>,
}

pub fn serve() -> Served {
    let dir = TempDir::new().expect("temporary directory");
    let (client, threads) = serve_dir(dir.path(), 2);
    Served {
        dir,
        client,
        threads,
    }
}

pub fn serve_dir(dir: &Path, channels: usize) -> (Client, Vec<JoinHandle<()>>) {
    let (ours, theirs) = channel_pairs(channels).expect("socketpair");
    let mount = |writes| PlainMount {
        root: open_dir(dir),
        writes,
        devices: Devices::Refuse,
    };
    let threads = spawn_unconfined(vec![mount(Writes::Allow), mount(Writes::Refuse)], theirs);
    (Client::new(ours).expect("client"), threads)
}

fn open_dir(dir: &Path) -> OwnedFd {
    std::fs::File::open(dir).expect("open directory").into()
}

pub fn at(path: &str) -> NodeRef<'_> {
    NodeRef::new(RW, path.as_bytes())
}

pub fn errno<T: std::fmt::Debug>(result: Result<T, Error>) -> i32 {
    match result.expect_err("should fail") {
        Error::Errno(errno) => errno.raw(),
        other => panic!("{other:?}"),
    }
}
