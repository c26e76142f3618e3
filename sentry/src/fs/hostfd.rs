//! Open host files that the sandbox was started with: its standard input, output and error.
//!
//! A [`HostFile`] wraps any host descriptor: a regular file, a pipe, a socket, a terminal,
//! /dev/null. It never blocks a worker: the command line opens pipes and terminals anew without
//! blocking where the host allows it; what still can block is asked with poll(2) first (its
//! description is shared with processes outside, so O_NONBLOCK must not be set on it). Readiness arrives through the
//! [`Reactor`](crate::executor::Reactor). Requests to a terminal go to the host; job control is our
//! own ([`crate::fs::tty::job`]).

use std::any::Any;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::stat::{FileStat, fstat};
use parking_lot::Mutex;
use runsc_platform::terminal::{self, Control, When};

use crate::errno::{Errno, Result};
use crate::executor::HostEvents;
use crate::fs::anon::{Anon, Reopen, anon_file};
use crate::fs::file::{File, FileOps, Positioned, Seek, WriteAt};
use crate::fs::inode::{Attr, Dev, FileType, OpenFlags, SetAttr, Timestamp};
use crate::fs::path::PathRef;
use crate::fs::tty::job;
use crate::kernel::Kernel;
use crate::kernel::cred::{Gid, Uid};
use crate::kernel::current;
use crate::kernel::signal::Signal;
use crate::kernel::task::Task;
use crate::kernel::tty::Terminal;
use crate::kernel::wait::{Ready, WaitQueue};
use crate::mm::io::{Sink, Source};
use crate::mm::mappable::{Backing, Mappable, MappingOwner, WriteIntent};

/// A pipe that polls writable takes this much at once.
const PIPE_BUF: usize = libc::PIPE_BUF;
/// Most bytes a call moves through the Sentry.
const CHUNK: usize = 64 * 1024;

/// A terminal of the host, seen as one that controls sessions. The standard files that are the same
/// host terminal share one.
pub struct HostTerminal {
    /// What /dev/tty opens.
    file: Mutex<Weak<HostFile>>,
}

impl Terminal for HostTerminal {
    fn disassociate(&self) {}

    fn device(&self) -> Dev {
        CONSOLE
    }

    fn is_host(&self) -> bool {
        true
    }

    fn open(&self, path: &PathRef, flags: OpenFlags) -> Result<Arc<File>> {
        let ops = self.file.lock().upgrade().ok_or(Errno::EIO)?;
        Ok(File::new(ops, path.clone(), flags))
    }
}

/// The one [`HostTerminal`] of a device number.
fn terminal_of(rdev: Dev) -> Arc<HostTerminal> {
    static KNOWN: Mutex<Vec<(Dev, Weak<HostTerminal>)>> = Mutex::new(Vec::new());
    let mut known = KNOWN.lock();
    known.retain(|(_, t)| t.strong_count() > 0);
    if let Some(t) = known
        .iter()
        .find_map(|(d, t)| t.upgrade().filter(|_| *d == rdev))
    {
        return t;
    }
    let new = Arc::new(HostTerminal {
        file: Mutex::default(),
    });
    known.push((rdev, Arc::downgrade(&new)));
    new
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Positions, never blocks.
    Regular,
    Pipe,
    Socket,
    Terminal,
    /// Another device or descriptor; may block.
    Other,
}

/// See the module documentation.
pub struct HostFile {
    fd: Arc<OwnedFd>,
    kind: Kind,
    /// The description is our own and O_NONBLOCK.
    nonblocking: bool,
    events: Option<Arc<HostEvents>>,
    terminal: Option<Arc<dyn Terminal>>,
    mapping: OnceLock<Arc<HostMapping>>,
    /// Regular files: the position after the last read or write without a jump. A transfer from
    /// there goes by the host's position, which standard output and error may share.
    sequential: AtomicU64,
}

/// /dev/console: the name that a terminal of the host has in the sandbox.
pub const CONSOLE: Dev = Dev::new(5, 1);

/// The sandbox's view of a host descriptor, for its first process. A terminal is the file at
/// `console`, where there is one, so that ttyname(3) finds it.
///
/// # Errors
/// The host refuses to say what it is, or to watch it.
pub fn host_file(
    kernel: &Arc<Kernel>,
    fd: OwnedFd,
    console: Option<&PathRef>,
) -> Result<Arc<File>> {
    let stat = fstat(&fd)?;
    let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
    let file_type = FileType::from_mode(stat.st_mode).unwrap_or(FileType::Anonymous);
    let kind = match file_type {
        FileType::Regular | FileType::Block | FileType::Dir => Kind::Regular,
        FileType::Fifo => Kind::Pipe,
        FileType::Socket => Kind::Socket,
        FileType::Char if terminal::settings(fd.as_fd()).is_ok() => Kind::Terminal,
        _ => Kind::Other,
    };
    let nonblocking = flags.contains(OFlag::O_NONBLOCK);
    let fd = Arc::new(fd);
    let events = match kind {
        Kind::Regular => None,
        // /dev/null and its like cannot be watched, and are always ready.
        _ => match kernel.reactor.watch(&fd) {
            Ok(events) => Some(events),
            Err(Errno::EPERM) => None,
            Err(e) => return Err(e),
        },
    };
    let terminal = (kind == Kind::Terminal).then(|| terminal_of(Dev::decode(stat.st_rdev)));
    let name = match kind {
        Kind::Terminal => "host:[terminal]",
        Kind::Pipe => "host:[pipe]",
        Kind::Socket => "host:[socket]",
        Kind::Regular => "host:[file]",
        Kind::Other => "host:[device]",
    };
    let ops = Arc::new(HostFile {
        fd,
        kind,
        nonblocking,
        events,
        terminal: terminal.clone().map(|t| t as Arc<dyn Terminal>),
        mapping: OnceLock::new(),
        sequential: AtomicU64::new(0),
    });
    if let Some(terminal) = terminal {
        let mut file = terminal.file.lock();
        if file.strong_count() == 0 {
            *file = Arc::downgrade(&ops);
        }
    }
    let position = match kind {
        Kind::Regular => nix::unistd::lseek(&ops.fd, 0, nix::unistd::Whence::SeekCur).unwrap_or(0),
        _ => 0,
    };
    let position = u64::try_from(position).unwrap_or(0);
    ops.sequential.store(position, Ordering::Relaxed);
    let keep = OFlag::O_ACCMODE | OFlag::O_APPEND;
    let open = OpenFlags::from_bits_truncate((flags & keep).bits());
    let file = match console.filter(|_| kind == Kind::Terminal) {
        Some(console) => File::new(ops.clone(), console.clone(), open),
        None => anon_file(Anon::Host(file_type, name), ops.clone(), open),
    };
    file.inode().extra().set_object(Some(Arc::new(Reopen(ops))));
    file.with_position(|p| *p = position);
    Ok(file)
}

/// Makes the terminal behind `file` the controlling terminal of the session of `task` (the first
/// process of a container with a terminal). ENOTTY if it is none.
pub fn control(task: &Task, file: &File) -> Result<()> {
    let host = file.downcast::<HostFile>().ok_or(Errno::ENOTTY)?;
    let terminal = host.terminal.as_ref().ok_or(Errno::ENOTTY)?;
    job::set_controlling(task, terminal, 0)
}

/// Hands a signal that the host's terminal sent to us (SIGINT, SIGWINCH...) to the foreground
/// groups of the sessions that a host terminal controls. True if there was one.
pub fn forward_signal(kernel: &Kernel, file: &File, signal: Signal) -> bool {
    let terminal = file.downcast::<HostFile>().and_then(|h| h.terminal.clone());
    if let Some(terminal) = &terminal {
        job::signal_foreground(kernel, terminal, signal);
    }
    terminal.is_some()
}

fn dev(raw: u64) -> Dev {
    Dev::decode(raw)
}

fn attr_of(stat: &FileStat) -> Attr {
    let time = |sec: i64, nsec: i64| Timestamp {
        sec,
        nsec: nsec as u32,
    };
    Attr {
        kind: FileType::from_mode(stat.st_mode).unwrap_or(FileType::Anonymous),
        perm: stat.st_mode & 0o7777,
        ino: stat.st_ino,
        dev: dev(stat.st_dev),
        nlink: stat.st_nlink as u32,
        uid: Uid(stat.st_uid),
        gid: Gid(stat.st_gid),
        rdev: dev(stat.st_rdev),
        size: u64::try_from(stat.st_size).unwrap_or(0),
        blocks: u64::try_from(stat.st_blocks).unwrap_or(0),
        blksize: stat.st_blksize as u32,
        atime: time(stat.st_atime, stat.st_atime_nsec),
        mtime: time(stat.st_mtime, stat.st_mtime_nsec),
        ctime: time(stat.st_ctime, stat.st_ctime_nsec),
        btime: None,
    }
}

impl HostFile {
    /// What the host says is ready of `want` now.
    fn host_ready(&self, want: PollFlags) -> PollFlags {
        let mut fds = [PollFd::new(self.fd.as_fd(), want)];
        match nix::poll::poll(&mut fds, PollTimeout::ZERO) {
            Ok(_) => fds[0].revents().unwrap_or(PollFlags::empty()),
            Err(_) => PollFlags::empty(),
        }
    }

    /// EAGAIN unless an operation that needs `want` will not block.
    fn check_ready(&self, want: PollFlags) -> Result<()> {
        if self.nonblocking || self.events.is_none() {
            return Ok(());
        }
        let got = self.host_ready(want);
        let any = want | PollFlags::POLLHUP | PollFlags::POLLERR;
        if got.intersects(any) {
            Ok(())
        } else {
            Err(Errno::EAGAIN)
        }
    }

    fn check_job(&self, signal: Signal) -> Result<()> {
        let Some(terminal) = &self.terminal else {
            return Ok(());
        };
        if signal == Signal::SIGTTOU && !self.stops_background_output() {
            return Ok(());
        }
        match current::task() {
            Some(task) => job::check_background(&task, terminal, signal),
            None => Ok(()),
        }
    }

    /// TOSTOP in the settings.
    fn stops_background_output(&self) -> bool {
        terminal::settings(self.fd.as_fd())
            .is_ok_and(|t| u32::from_ne_bytes([t[12], t[13], t[14], t[15]]) & libc::TOSTOP != 0)
    }

    fn read_regular(&self, dst: &mut Sink<'_>, offset: u64) -> Result<usize> {
        let sequential = self.sequential.load(Ordering::Relaxed) == offset;
        let mut total = 0usize;
        while dst.remaining() > 0 {
            let want = dst.remaining();
            let at = (!sequential).then(|| offset.saturating_add(total as u64));
            match dst.put_host(self.fd.as_fd(), at, want) {
                Ok(0) => break,
                Ok(n) => total += n,
                Err(_) if total > 0 => break,
                Err(e) => return Err(e),
            }
        }
        if sequential {
            let after = offset.saturating_add(total as u64);
            self.sequential.store(after, Ordering::Relaxed);
        }
        Ok(total)
    }

    fn write_regular(&self, src: &mut Source<'_>, at: WriteAt) -> Result<(usize, u64)> {
        let want = src.remaining();
        let jump = match at {
            WriteAt::Offset(o) if o != self.sequential.load(Ordering::Relaxed) => Some(o),
            WriteAt::Offset(_) => None,
            WriteAt::End => {
                nix::unistd::lseek(&self.fd, 0, nix::unistd::Whence::SeekEnd)?;
                None
            }
        };
        let n = src.take_host(self.fd.as_fd(), jump, want)?;
        if let Some(offset) = jump {
            return Ok((n, offset.saturating_add(n as u64)));
        }
        let after = nix::unistd::lseek(&self.fd, 0, nix::unistd::Whence::SeekCur)?;
        let after = u64::try_from(after).unwrap_or(0);
        self.sequential.store(after, Ordering::Relaxed);
        Ok((n, after))
    }

    fn read_stream(&self, dst: &mut Sink<'_>) -> Result<usize> {
        self.check_job(Signal::SIGTTIN)?;
        self.check_ready(PollFlags::POLLIN)?;
        let mut buf = vec![0u8; dst.remaining().min(CHUNK)];
        let n = match self.kind {
            Kind::Socket => nix::sys::socket::recv(
                self.fd.as_raw_fd(),
                &mut buf,
                nix::sys::socket::MsgFlags::MSG_DONTWAIT,
            )?,
            // One read(2): a second could block.
            _ => nix::unistd::read(&self.fd, &mut buf)?,
        };
        dst.put(&buf[..n])
    }

    fn write_stream(&self, src: &mut Source<'_>) -> Result<usize> {
        self.check_job(Signal::SIGTTOU)?;
        let mut total = 0;
        while src.remaining() > 0 {
            if let Err(e) = self.check_ready(PollFlags::POLLOUT) {
                return if total > 0 { Ok(total) } else { Err(e) };
            }
            // Without O_NONBLOCK only so much is sure not to block.
            let most = match self.kind {
                _ if self.nonblocking => CHUNK,
                Kind::Socket => CHUNK,
                Kind::Terminal => 256,
                _ => PIPE_BUF,
            };
            let mut buf = vec![0u8; src.remaining().min(most)];
            let n = src.peek(&mut buf)?;
            let put = match self.kind {
                Kind::Socket => nix::sys::socket::send(
                    self.fd.as_raw_fd(),
                    &buf[..n],
                    nix::sys::socket::MsgFlags::MSG_DONTWAIT
                        | nix::sys::socket::MsgFlags::MSG_NOSIGNAL,
                ),
                _ => nix::unistd::write(&self.fd, &buf[..n]),
            };
            match put {
                Ok(put) => {
                    src.skip(put);
                    total += put;
                    if put < n {
                        break;
                    }
                }
                Err(_) if total > 0 => break,
                Err(e) => return Err(e.into()),
            }
        }
        Ok(total)
    }

    fn terminal_ioctl(&self, task: &Task, cmd: u32, arg: u64) -> Result<u64> {
        let fd = self.fd.as_fd();
        let mm = task.mm();
        match cmd {
            0x5401 => mm.write_bytes(arg, &terminal::settings(fd)?)?,
            0x5402..=0x5404 => {
                self.check_change()?;
                let mut termios = [0u8; terminal::TERMIOS_LEN];
                mm.read_bytes(arg, &mut termios)?;
                let when = match cmd {
                    0x5402 => When::Now,
                    0x5403 => When::Drain,
                    _ => When::Flush,
                };
                terminal::set_settings(fd, when, &termios)?;
            }
            0x5413 => mm.write_bytes(arg, &terminal::window_size(fd)?)?,
            0x5414 => {
                let mut size = [0u8; terminal::WINSIZE_LEN];
                mm.read_bytes(arg, &mut size)?;
                let old = terminal::window_size(fd)?;
                terminal::set_window_size(fd, &size)?;
                if let Some(terminal) = &self.terminal
                    && old != size
                {
                    job::signal_foreground(task.kernel(), terminal, Signal::SIGWINCH);
                }
            }
            0x5411 => mm.write_obj(arg, &terminal::unwritten_bytes(fd)?)?,
            0x5409 | 0x5425 | 0x540A | 0x540B => {
                self.check_change()?;
                let value = i32::try_from(arg as i64).map_err(|_| Errno::EINVAL)?;
                let control = match cmd {
                    // A drain (tcdrain(3)) or a break would block: there is nothing to wait for
                    // on a terminal without a wire.
                    0x5409 | 0x5425 => return Ok(0),
                    0x540A if (0..=3).contains(&value) => Control::Flow(value),
                    0x540B if (0..=2).contains(&value) => Control::Flush(value),
                    _ => return Err(Errno::EINVAL),
                };
                terminal::control(fd, control)?;
            }
            _ => return Err(Errno::ENOTTY),
        }
        Ok(0)
    }

    /// Settings are changed from the foreground only.
    fn check_change(&self) -> Result<()> {
        match (&self.terminal, current::task()) {
            (Some(terminal), Some(task)) => job::check_background(&task, terminal, Signal::SIGTTOU),
            _ => Ok(()),
        }
    }
}

impl FileOps for HostFile {
    fn positioned(&self) -> Positioned {
        if self.kind == Kind::Regular {
            Positioned::Yes
        } else {
            Positioned::Stream
        }
    }

    fn read_at(&self, _file: &File, dst: &mut Sink<'_>, offset: u64) -> Result<usize> {
        if dst.remaining() == 0 {
            return Ok(0);
        }
        if self.kind == Kind::Regular {
            return self.read_regular(dst, offset);
        }
        self.read_stream(dst)
    }

    fn write_at(&self, _file: &File, src: &mut Source<'_>, at: WriteAt) -> Result<(usize, u64)> {
        if self.kind != Kind::Regular {
            return self.write_stream(src).map(|n| (n, 0));
        }
        self.write_regular(src, at)
    }

    fn seek(&self, _file: &File, whence: Seek, offset: i64, _current: u64) -> Result<u64> {
        use nix::unistd::Whence;
        let whence = match whence {
            Seek::Set => Whence::SeekSet,
            Seek::Cur => Whence::SeekCur,
            Seek::End => Whence::SeekEnd,
            Seek::Data => Whence::SeekData,
            Seek::Hole => Whence::SeekHole,
        };
        let at = nix::unistd::lseek(&self.fd, offset, whence)?;
        let at = u64::try_from(at).map_err(|_| Errno::EOVERFLOW)?;
        self.sequential.store(at, Ordering::Relaxed);
        Ok(at)
    }

    fn ready(&self, _file: &File) -> Ready {
        if self.events.is_none() {
            return Ready::IN | Ready::OUT | Ready::RDNORM | Ready::WRNORM;
        }
        let want = PollFlags::POLLIN | PollFlags::POLLOUT | PollFlags::POLLPRI;
        let rdhup = PollFlags::from_bits_retain(Ready::RDHUP.bits() as i16);
        let got = self.host_ready(want | rdhup);
        let mut ready = Ready::from_bits_truncate(u32::from(got.bits() as u16));
        if ready.contains(Ready::IN) {
            ready |= Ready::RDNORM;
        }
        if ready.contains(Ready::OUT) {
            ready |= Ready::WRNORM;
        }
        ready
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        self.events.as_ref().map(|e| &*e.queue)
    }

    fn ioctl(&self, task: &Task, _file: &File, cmd: u32, arg: u64) -> Result<u64> {
        if cmd == 0x541B {
            let n = terminal::readable_bytes(self.fd.as_fd())?;
            task.mm().write_obj(arg, &n)?;
            return Ok(0);
        }
        let Some(terminal) = &self.terminal else {
            return Err(Errno::ENOTTY);
        };
        match job::ioctl(task, terminal, cmd, arg) {
            Some(done) => done,
            None => self.terminal_ioctl(task, cmd, arg),
        }
    }

    fn mappable(&self, _file: &File) -> Result<Arc<dyn Mappable>> {
        if self.kind != Kind::Regular {
            return Err(Errno::ENODEV);
        }
        let fd = self.fd.clone();
        Ok(self
            .mapping
            .get_or_init(|| Arc::new(HostMapping { fd }))
            .clone())
    }

    fn sync(&self, _file: &File) -> Result<()> {
        Ok(nix::unistd::fsync(&self.fd)?)
    }

    fn set_attr(&self, file: &File, change: &SetAttr) -> Result<()> {
        let Some(size) = change.size else {
            return file.inode().set_attr(change);
        };
        if self.kind != Kind::Regular {
            return Err(Errno::EINVAL);
        }
        let size = i64::try_from(size).map_err(|_| Errno::EFBIG)?;
        Ok(nix::unistd::ftruncate(&self.fd, size)?)
    }

    fn attr(&self, file: &File) -> Result<Option<Attr>> {
        // A terminal with a name is that node.
        if self.kind == Kind::Terminal && file.path().dentry.parent().is_some() {
            return Ok(None);
        }
        Ok(Some(attr_of(&fstat(&self.fd)?)))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A mapped host file. The host alone truncates it; a fault behind its end is the host's SIGBUS.
struct HostMapping {
    fd: Arc<OwnedFd>,
}

impl Mappable for HostMapping {
    fn backing(&self, offset: u64, len: u64, _write: WriteIntent) -> Result<Backing> {
        let size = u64::try_from(fstat(&self.fd)?.st_size).unwrap_or(0);
        let end = size.checked_next_multiple_of(4096).ok_or(Errno::EFAULT)?;
        let left = end.saturating_sub(offset);
        if left == 0 {
            return Err(Errno::EFAULT);
        }
        Ok(Backing {
            fd: self.fd.clone(),
            offset,
            len: len.min(left),
            keep: None,
        })
    }

    fn add_owner(&self, _owner: Weak<dyn MappingOwner>) {}

    fn remove_owner(&self, _owner: &Weak<dyn MappingOwner>) {}

    fn sync(&self, _offset: u64, _len: u64) -> Result<()> {
        Ok(nix::unistd::fdatasync(&self.fd)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek as _, SeekFrom, Write};

    fn regular(fd: &std::fs::File) -> HostFile {
        HostFile {
            fd: Arc::new(fd.try_clone().unwrap().into()),
            kind: Kind::Regular,
            nonblocking: false,
            events: None,
            terminal: None,
            mapping: OnceLock::new(),
            sequential: AtomicU64::new(0),
        }
    }

    fn open(ops: HostFile, flags: OpenFlags) -> Arc<File> {
        anon_file(Anon::Host(FileType::Regular, "test"), Arc::new(ops), flags)
    }

    #[test]
    fn output_and_error_in_one_host_file_do_not_overwrite_each_other() {
        let mut host = tempfile::tempfile().unwrap();
        let out = open(regular(&host), OpenFlags::WRONLY);
        let err = open(regular(&host), OpenFlags::WRONLY);
        for (file, text) in [(&out, "one "), (&err, "two "), (&out, "three")] {
            let mut src = Source::kernel(text.as_bytes());
            assert_eq!(file.write(&mut src), Ok(text.len()));
        }
        assert_eq!(out.pwrite(&mut Source::kernel(b"ONE"), 0), Ok(3));
        let mut text = String::new();
        host.seek(SeekFrom::Start(0)).unwrap();
        host.read_to_string(&mut text).unwrap();
        assert_eq!(text, "ONE two three");
    }

    #[test]
    fn reads_go_by_position_or_offset() {
        let mut host = tempfile::tempfile().unwrap();
        host.write_all(b"0123456789").unwrap();
        host.seek(SeekFrom::Start(0)).unwrap();
        let file = open(regular(&host), OpenFlags::RDWR);
        let mut buf = [0u8; 4];
        assert_eq!(file.read(&mut Sink::kernel(&mut buf)), Ok(4));
        assert_eq!(&buf, b"0123");
        assert_eq!(file.pread(&mut Sink::kernel(&mut buf), 6), Ok(4));
        assert_eq!(&buf, b"6789");
        assert_eq!(file.read(&mut Sink::kernel(&mut buf)), Ok(4));
        assert_eq!(&buf, b"4567");
        assert_eq!(file.seek(Seek::End, -1), Ok(9));
        assert_eq!(file.read(&mut Sink::kernel(&mut buf)), Ok(1));
        assert_eq!(buf[0], b'9');
    }

    #[test]
    fn a_pipe_never_blocks() {
        let reactor = crate::executor::Reactor::new().unwrap();
        let (r, w) = nix::unistd::pipe().unwrap();
        let stream = |fd: OwnedFd| {
            let fd = Arc::new(fd);
            let events = reactor.watch(&fd).unwrap();
            HostFile {
                fd,
                kind: Kind::Pipe,
                nonblocking: false,
                events: Some(events),
                terminal: None,
                mapping: OnceLock::new(),
                sequential: AtomicU64::new(0),
            }
        };
        let reader = open(stream(r), OpenFlags::empty());
        let writer = open(stream(w), OpenFlags::WRONLY);
        let mut buf = [0u8; 8];
        assert_eq!(reader.read(&mut Sink::kernel(&mut buf)), Err(Errno::EAGAIN));
        assert!(!reader.ready().contains(Ready::IN) && writer.ready().contains(Ready::OUT));
        let big = vec![7u8; 200_000];
        let written = writer.write(&mut Source::kernel(&big)).unwrap();
        assert!((4096..200_000).contains(&written), "{written}");
        assert_eq!(writer.write(&mut Source::kernel(&big)), Err(Errno::EAGAIN));
        assert!(reader.ready().contains(Ready::IN | Ready::RDNORM));
        assert_eq!(reader.read(&mut Sink::kernel(&mut buf)), Ok(8));
        assert_eq!(reader.seek(Seek::Set, 0), Err(Errno::ESPIPE));
        drop(reader);
        assert_eq!(writer.write(&mut Source::kernel(b"x")), Err(Errno::EPIPE));
    }
}
