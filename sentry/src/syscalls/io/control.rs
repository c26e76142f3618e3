//! ioctl(2): the requests every file knows; the rest is the file's.

use super::super::{Args, SysResult};
use crate::errno::{Errno, Error, Restart};
use crate::fs::fdtable::Exec;
use crate::fs::inode::{FileType, OpenFlags};
use crate::fs::sigio;
use crate::kernel::seccomp::listener::ListenerFile;
use crate::kernel::task::Task;

const FIONCLEX: u32 = 0x5450;
const FIOCLEX: u32 = 0x5451;
const FIONBIO: u32 = 0x5421;
const FIOASYNC: u32 = 0x5452;
const FIONREAD: u32 = 0x541B;
const FIOQSIZE: u32 = 0x5460;
const FIGETBSZ: u32 = 2;

pub async fn ioctl(t: &Task, a: &Args) -> SysResult {
    let (fd, request, arg) = (a.int(0), a.uint(1), a.u64(2));
    let file = t.file(fd)?;
    let kind = file.inode().kind();
    match request {
        FIOCLEX => t.files().set_exec(fd, Exec::Close)?,
        FIONCLEX => t.files().set_exec(fd, Exec::Keep)?,
        FIONBIO => {
            let on: i32 = t.mm().read_obj(arg)?;
            let mut flags = file.flags();
            flags.set(OpenFlags::NONBLOCK, on != 0);
            file.set_flags(flags);
        }
        FIOASYNC => {
            let on = t.mm().read_obj::<i32>(arg)? != 0;
            let mut flags = file.flags();
            if flags.contains(OpenFlags::ASYNC) != on && !sigio::set_async(t, &file, fd, on) {
                return Err(Errno::ENOTTY.into());
            }
            flags.set(OpenFlags::ASYNC, on);
            file.set_flags(flags);
        }
        FIONREAD if kind == FileType::Regular => {
            let left = file.attr()?.size.saturating_sub(file.position());
            t.mm()
                .write_obj(arg, &i32::try_from(left).unwrap_or(i32::MAX))?;
        }
        FIOQSIZE if matches!(kind, FileType::Regular | FileType::Dir | FileType::Symlink) => {
            t.mm().write_obj(arg, &file.attr()?.size)?;
        }
        FIGETBSZ if matches!(kind, FileType::Regular | FileType::Dir) => {
            let size = i32::try_from(file.attr()?.blksize).unwrap_or(4096);
            t.mm().write_obj(arg, &size)?;
        }
        _ if matches!(kind, FileType::Regular | FileType::Dir) => {
            return match file.ops().ioctl(t, &file, request, arg) {
                Err(Errno::EINVAL) => Err(Errno::ENOTTY.into()),
                other => Ok(other?),
            };
        }
        _ => {
            if let Some(listener) = file.downcast::<ListenerFile>()
                && let Some(done) = listener.receive(t, request, arg).await
            {
                return done;
            }
            return match file.ops().ioctl(t, &file, request, arg) {
                // A background process at its terminal: it got SIGTTOU and tries again after that.
                Err(Errno::EAGAIN) if t.interrupted() => Err(Error::Restart(Restart::Sys)),
                other => Ok(other?),
            };
        }
    }
    Ok(0)
}
