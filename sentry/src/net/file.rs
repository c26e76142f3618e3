//! A socket as an open file: read, write, poll, ioctl.

use std::any::Any;
use std::sync::Arc;

use super::socket::{Outgoing, Socket};
use crate::errno::{Errno, Result};
use crate::fs::anon::{Anon, anon_path};
use crate::fs::file::{File, FileOps, Positioned, WriteAt};
use crate::fs::inode::OpenFlags;
use crate::fs::sigio::{self, Subscribers};
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
    let common = socket.common();
    common.set_file(&file);
    if let Ok(attr) = file.attr() {
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
        // Not even a packet is taken then.
        if dst.remaining() == 0 {
            return Ok(0);
        }
        // Files that came along are closed, as by a recvmsg(2) without room for them.
        let got = self.0.receive(dst, 0)?;
        super::unix::flight::drop_flat(got.files);
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

    fn subscribers(&self) -> Option<&Subscribers> {
        Some(&self.0.common().subscribers)
    }

    fn ioctl(&self, task: &Task, file: &File, cmd: u32, arg: u64) -> Result<u64> {
        const FIOSETOWN: u32 = 0x8901;
        const SIOCSPGRP: u32 = 0x8902;
        const FIOGETOWN: u32 = 0x8903;
        const SIOCGPGRP: u32 = 0x8904;
        match cmd {
            FIOSETOWN | SIOCSPGRP => {
                sigio::set_owner_number(file, task, task.mm().read_obj(arg)?)?;
                return Ok(0);
            }
            FIOGETOWN | SIOCGPGRP => {
                task.mm().write_obj(arg, &sigio::owner_number(file))?;
                return Ok(0);
            }
            _ => {}
        }
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
