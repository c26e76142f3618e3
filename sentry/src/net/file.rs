//! A socket as an open file: read, write, poll, ioctl.

use std::any::Any;
use std::sync::Arc;

use super::socket::{Outgoing, Socket};
use crate::errno::{Errno, Result};
use crate::fs::anon::{Anon, anon_path};
use crate::fs::file::{File, FileOps, Positioned, WriteAt};
use crate::fs::inode::OpenFlags;
use crate::kernel::cred::{Gid, Uid};
use crate::kernel::current;
use crate::kernel::task::Task;
use crate::kernel::wait::{Ready, WaitQueue};
use crate::mm::io::{Sink, Source};

struct SocketFile(Arc<dyn Socket>);

/// The socket behind an open file. ENOTSOCK.
pub fn of(file: &File) -> Result<&Arc<dyn Socket>> {
    file.downcast::<SocketFile>()
        .map(|f| &f.0)
        .ok_or(Errno::ENOTSOCK)
}

/// An open file for a socket, which then shows in its stack's tables. `flags`: O_NONBLOCK.
pub fn into_file(socket: Arc<dyn Socket>, flags: OpenFlags) -> Arc<File> {
    let ops = Arc::new(SocketFile(socket.clone()));
    let owner = current::with(|t| t.map(|t| t.with_creds(|c| (c.fsuid, c.fsgid))));
    let (uid, gid) = owner.unwrap_or((Uid(0), Gid(0)));
    let file = File::new(
        ops,
        anon_path(Anon::Socket, uid, gid),
        flags | OpenFlags::RDWR,
    );
    if let Ok(attr) = file.attr() {
        let common = socket.common();
        common.set_place(attr.ino, uid.0);
        common.stack.enter(attr.ino, &socket);
    }
    file
}

impl FileOps for SocketFile {
    fn positioned(&self) -> Positioned {
        Positioned::Stream
    }

    fn read_at(&self, _file: &File, dst: &mut Sink<'_>, _offset: u64) -> Result<usize> {
        // Files that came along are closed, as by a recvmsg(2) without room for them.
        let got = self.0.receive(dst, 0)?;
        super::unix::message::drop_flat(got.files);
        Ok(got.count)
    }

    fn write_at(&self, _file: &File, src: &mut Source<'_>, _at: WriteAt) -> Result<(usize, u64)> {
        let mut out = current::with(|task| Outgoing::from(task, 0));
        Ok((self.0.send(src, &mut out)?, 0))
    }

    fn ready(&self, _file: &File) -> Ready {
        self.0.ready()
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.0.common().queue)
    }

    fn ioctl(&self, task: &Task, _file: &File, cmd: u32, arg: u64) -> Result<u64> {
        match self.0.ioctl(task, cmd, arg) {
            Err(Errno::ENOTTY) => super::ioctl::interface(&*self.0, task, cmd, arg),
            other => other,
        }
    }

    fn release(&self, _file: &File) {
        let common = self.0.common();
        common.stack.leave(common.ino());
        self.0.close();
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
