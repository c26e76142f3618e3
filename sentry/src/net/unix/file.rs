//! A socket as an open file: read, write, poll, ioctl.

use std::any::Any;
use std::sync::Arc;

use super::{Kind, Message, Outgoing, Peek, Rights, Ucred, Unix};
use crate::errno::{Errno, Result};
use crate::fs::file::{File, FileOps, Positioned, WriteAt};
use crate::kernel::current;
use crate::kernel::task::Task;
use crate::kernel::wait::{Ready, WaitQueue};
use crate::mm::io::{Sink, Source};

/// The operations of an open socket.
pub struct SocketFile(pub(super) Arc<Unix>);

impl FileOps for SocketFile {
    fn positioned(&self) -> Positioned {
        Positioned::Stream
    }

    fn read_at(&self, _file: &File, dst: &mut Sink<'_>, _offset: u64) -> Result<usize> {
        // Files that came along are closed, as by a recvmsg(2) without room for them.
        let got = self.0.receive(dst, Peek::No)?;
        super::message::drop_flat(got.files);
        Ok(got.count)
    }

    fn write_at(&self, _file: &File, src: &mut Source<'_>, _at: WriteAt) -> Result<(usize, u64)> {
        let creds = current::with(|task| task.map_or(Ucred::NOBODY, Ucred::of));
        let mut out = Outgoing {
            creds,
            rights: Rights::default(),
        };
        if self.0.kind() == Kind::Stream {
            if src.remaining() == 0 {
                return Ok((0, 0));
            }
            return self.0.send_stream(src, &mut out).map(|n| (n, 0));
        }
        let target = self.0.packet_target(None)?;
        self.0.check_packet_len(src.remaining())?;
        let mut data = vec![0u8; src.remaining()];
        // The bytes stay in `src` until they are sent: the call may be tried again.
        if !data.is_empty() && src.peek(&mut data)? < data.len() {
            return Err(Errno::EFAULT);
        }
        let n = data.len();
        let mut message = Some(Message {
            data,
            start: 0,
            from: self.0.address(),
            creds,
            rights: Rights::default(),
        });
        self.0.send_packet(&target, &mut message)?;
        src.skip(n);
        Ok((n, 0))
    }

    fn ready(&self, _file: &File) -> Ready {
        self.0.ready()
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(self.0.queue())
    }

    fn ioctl(&self, task: &Task, _file: &File, cmd: u32, arg: u64) -> Result<u64> {
        const FIONREAD: u32 = 0x541B;
        const TIOCOUTQ: u32 = 0x5411;
        let n = match cmd {
            FIONREAD if self.0.is_listening() => return Err(Errno::EINVAL),
            FIONREAD => self.0.readable_bytes(),
            TIOCOUTQ => self.0.unread_bytes(),
            _ => return Err(Errno::ENOTTY),
        };
        task.mm()
            .write_obj(arg, &i32::try_from(n).unwrap_or(i32::MAX))?;
        Ok(0)
    }

    fn release(&self, _file: &File) {
        self.0.close();
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
