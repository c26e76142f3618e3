//! Pseudo-terminals (pty(7)).
//!
//! A [`Pty`] is one lock around a [`Line`] and what both sides know of each other; each side has a
//! wait queue. [`Master`] and [`Slave`] are the open files. Requests of ioctl(2) are in
//! [`super::requests`]. Deliberately absent: packet mode (TIOCPKT).

use std::any::Any;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::devpts::Devpts;
use super::line::{Available, Line, WINSIZE_LEN};
use super::{PTS_MAJOR, job, requests};
use crate::errno::{Errno, Result};
use crate::executor::TimerHandle;
use crate::fs::file::{File, FileOps, Positioned, WriteAt};
use crate::fs::inode::{Dev, OpenFlags};
use crate::fs::path::PathRef;
use crate::fs::sigio::{Band, Subscribers};
use crate::kernel::Kernel;
use crate::kernel::current;
use crate::kernel::signal::Signal;
use crate::kernel::task::Task;
use crate::kernel::time::MonoTime;
use crate::kernel::tty::Terminal;
use crate::kernel::wait::{Ready, WaitQueue, Waiter};
use crate::mm::io::{Sink, Source};

/// Bytes taken from the guest at once.
const CHUNK: usize = 4096;
/// VTIME's unit, ns.
const DECISECOND: u64 = 100_000_000;

pub(super) struct Inner {
    pub line: Line,
    /// struct winsize.
    pub window: [u8; WINSIZE_LEN],
    /// TIOCSPTLCK: the slave cannot be opened yet.
    pub locked: bool,
    pub master_open: bool,
    slaves: usize,
    slave_was_open: bool,
    /// TIOCEXCL.
    pub exclusive: bool,
    last_input: MonoTime,
    /// A read that VTIME ends, and its alarm.
    alarm: Option<(MonoTime, Option<TimerHandle>)>,
}

/// See the module documentation.
pub struct Pty {
    this: Weak<Pty>,
    index: u32,
    kernel: Weak<Kernel>,
    devpts: Weak<Devpts>,
    pub(super) inner: Mutex<Inner>,
    pub(super) master_queue: WaitQueue,
    pub(super) slave_queue: WaitQueue,
    master_subscribers: Subscribers,
    slave_subscribers: Subscribers,
}

/// Wakes a reader whose VTIME is over.
struct Alarm(Weak<Pty>);

impl Waiter for Alarm {
    fn notify(&self, _: Ready) {
        if let Some(pty) = self.0.upgrade() {
            pty.slave_queue.wake(Ready::IN | Ready::RDNORM);
        }
    }
}

impl Inner {
    /// The slave has something to read.
    fn is_readable(&self) -> bool {
        match self.line.min_and_time() {
            None => self.line.available() != Available::Nothing,
            Some((min, 0)) => self.line.input_len() >= min.max(1),
            Some(_) => self.line.input_len() > 0,
        }
    }
}

impl Pty {
    pub(super) fn new(index: u32, kernel: Weak<Kernel>, devpts: Weak<Devpts>) -> Arc<Pty> {
        Arc::new_cyclic(|this| Pty {
            this: this.clone(),
            index,
            kernel,
            devpts,
            inner: Mutex::new(Inner {
                line: Line::default(),
                window: [0; WINSIZE_LEN],
                locked: true,
                master_open: true,
                slaves: 0,
                slave_was_open: false,
                exclusive: false,
                last_input: MonoTime::now(),
                alarm: None,
            }),
            master_queue: WaitQueue::new(),
            slave_queue: WaitQueue::new(),
            master_subscribers: Subscribers::default(),
            slave_subscribers: Subscribers::default(),
        })
    }

    /// The N of /dev/pts/N.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The master side; its end hangs the terminal up.
    pub fn master(self: &Arc<Self>) -> Arc<Master> {
        Arc::new(Master(self.clone()))
    }

    /// The slave side, without regard to sessions. EIO while locked or without a master.
    pub fn slave(self: &Arc<Self>) -> Result<Arc<Slave>> {
        {
            let mut inner = self.inner.lock();
            if inner.locked || !inner.master_open {
                return Err(Errno::EIO);
            }
            if inner.exclusive && inner.slaves > 0 {
                return Err(Errno::EBUSY);
            }
            inner.slaves += 1;
            inner.slave_was_open = true;
        }
        self.master_queue.wake_all();
        Ok(Arc::new(Slave(self.clone())))
    }

    /// open(2) of the slave: a session leader without a terminal gets this one.
    pub fn open_slave(
        self: &Arc<Self>,
        task: &Task,
        path: &PathRef,
        flags: OpenFlags,
    ) -> Result<Arc<File>> {
        let ops = self.slave()?;
        if !flags.contains(OpenFlags::NOCTTY) && flags.readable() {
            job::acquire_if_free(task, &self.terminal());
        }
        Ok(File::new(ops, path.clone(), flags))
    }

    /// As what controls sessions.
    pub(super) fn terminal(self: &Arc<Self>) -> Arc<dyn Terminal> {
        self.clone()
    }

    pub(super) fn signal_foreground(self: &Arc<Self>, signal: Signal) {
        if let Some(kernel) = self.kernel.upgrade() {
            job::signal_foreground(&kernel, &self.terminal(), signal);
        }
    }

    /// SIGTTIN, SIGTTOU for the current task.
    pub(super) fn check_job(self: &Arc<Self>, signal: Signal) -> Result<()> {
        match current::task() {
            Some(task) => job::check_background(&task, &self.terminal(), signal),
            None => Ok(()),
        }
    }

    fn hang_up(self: &Arc<Self>) {
        {
            let mut inner = self.inner.lock();
            inner.master_open = false;
            inner.line.flush_input();
            inner.line.flush_output();
            inner.alarm = None;
        }
        if let Some(devpts) = self.devpts.upgrade() {
            devpts.remove(self.index);
        }
        self.slave_queue.wake_all();
        if let Some(kernel) = self.kernel.upgrade() {
            job::hang_up(&kernel, &self.terminal());
        }
    }

    /// Is the time of a read that waits for VTIME over? Arms the alarm if not.
    fn time_is_over(&self, inner: &mut Inner, deadline: MonoTime) -> bool {
        if MonoTime::now() >= deadline {
            inner.alarm = None;
            return true;
        }
        if inner.alarm.as_ref().is_none_or(|(d, _)| *d != deadline) {
            let handle = self.kernel.upgrade().map(|kernel| {
                let alarm = Arc::new(Alarm(self.this.clone()));
                kernel.reactor.arm(deadline, alarm)
            });
            inner.alarm = Some((deadline, handle));
        }
        false
    }

    /// Takes input for a slave's read of up to `max` bytes. Empty: end of file, or nothing in time.
    fn take_input(&self, max: usize, nonblocking: bool) -> Result<Vec<u8>> {
        let mut inner = self.inner.lock();
        if !inner.master_open {
            return Ok(Vec::new());
        }
        let have = inner.line.input_len();
        let Some((min, time)) = inner.line.min_and_time() else {
            return match inner.line.available() {
                Available::Nothing => Err(Errno::EAGAIN),
                Available::Bytes(_) => Ok(inner.line.take(max)),
            };
        };
        let enough = match (min, time) {
            (0, 0) => true,
            (0, _) => have > 0,
            (min, _) => have >= min.min(max),
        };
        if enough {
            inner.alarm = None;
            return Ok(inner.line.take(max));
        }
        // MIN 0: a time for the whole read. Else: for the next byte, once there is a first.
        let deadline = match (min, time) {
            (_, 0) => None,
            (0, _) => {
                let running = inner.alarm.as_ref().map(|(d, _)| *d);
                Some(running.unwrap_or_else(|| MonoTime::now().after_ns(time * DECISECOND)))
            }
            _ if have > 0 => Some(inner.last_input.after_ns(time * DECISECOND)),
            _ => None,
        };
        match deadline {
            Some(deadline) if !nonblocking && self.time_is_over(&mut inner, deadline) => {
                Ok(inner.line.take(max))
            }
            _ => Err(Errno::EAGAIN),
        }
    }
}

impl Terminal for Pty {
    fn disassociate(&self) {}

    fn device(&self) -> Dev {
        Dev::new(PTS_MAJOR, self.index)
    }

    fn open(&self, path: &PathRef, flags: OpenFlags) -> Result<Arc<File>> {
        let pty = self.this.upgrade().ok_or(Errno::EIO)?;
        Ok(File::new(pty.slave()?, path.clone(), flags))
    }
}

/// The open master.
pub struct Master(pub(super) Arc<Pty>);

/// An open slave.
pub struct Slave(pub(super) Arc<Pty>);

impl FileOps for Master {
    fn positioned(&self) -> Positioned {
        Positioned::Stream
    }

    fn read_at(&self, _file: &File, dst: &mut Sink<'_>, _offset: u64) -> Result<usize> {
        if dst.remaining() == 0 {
            return Ok(0);
        }
        let data = {
            let mut inner = self.0.inner.lock();
            let data = inner.line.take_output(dst.remaining());
            if data.is_empty() {
                let left = inner.slave_was_open && inner.slaves == 0;
                return Err(if left { Errno::EIO } else { Errno::EAGAIN });
            }
            data
        };
        self.0.slave_queue.wake(Ready::OUT | Ready::WRNORM);
        dst.put(&data)
    }

    fn write_at(&self, _file: &File, src: &mut Source<'_>, _at: WriteAt) -> Result<(usize, u64)> {
        let mut total = 0;
        while src.remaining() > 0 {
            let room = self.0.inner.lock().line.input_room();
            if room == 0 {
                break;
            }
            let mut buf = vec![0u8; src.remaining().min(room).min(CHUNK)];
            let n = match src.take(&mut buf) {
                Ok(n) => n,
                Err(_) if total > 0 => break,
                Err(e) => return Err(e),
            };
            let (signals, readable, echo) = {
                let mut inner = self.0.inner.lock();
                inner.last_input = MonoTime::now();
                let signals = inner.line.input(&buf[..n]);
                (signals, inner.is_readable(), inner.line.output_len() > 0)
            };
            total += n;
            self.0.slave_queue.wake_all();
            self.0.master_queue.wake(Ready::IN | Ready::RDNORM);
            if readable {
                self.0.slave_subscribers.tell(Band::In);
            }
            if echo {
                self.0.master_subscribers.tell(Band::In);
            }
            for signal in signals {
                self.0.signal_foreground(signal);
            }
            if n < buf.len() {
                break;
            }
        }
        if total == 0 && src.remaining() > 0 {
            return Err(Errno::EAGAIN);
        }
        Ok((total, 0))
    }

    fn ready(&self, _file: &File) -> Ready {
        let inner = self.0.inner.lock();
        let mut ready = Ready::empty();
        if inner.line.output_len() > 0 {
            ready |= Ready::IN | Ready::RDNORM;
        }
        if inner.line.input_room() > 0 {
            ready |= Ready::OUT | Ready::WRNORM;
        }
        if inner.slave_was_open && inner.slaves == 0 {
            ready |= Ready::HUP;
        }
        ready
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.0.master_queue)
    }

    fn subscribers(&self) -> Option<&Subscribers> {
        Some(&self.0.master_subscribers)
    }

    fn default_owner(&self, task: &Task) -> Option<(i32, i32)> {
        Some(job::async_owner(task, &self.0.terminal()))
    }

    fn ioctl(&self, task: &Task, _file: &File, cmd: u32, arg: u64) -> Result<u64> {
        requests::master(&self.0, task, cmd, arg)
    }

    fn release(&self, _file: &File) {
        self.0.hang_up();
    }

    fn fdinfo(&self, _file: &File) -> String {
        format!("tty-index:\t{}\n", self.0.index)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl FileOps for Slave {
    fn positioned(&self) -> Positioned {
        Positioned::Stream
    }

    fn read_at(&self, file: &File, dst: &mut Sink<'_>, _offset: u64) -> Result<usize> {
        if dst.remaining() == 0 {
            return Ok(0);
        }
        self.0.check_job(Signal::SIGTTIN)?;
        let data = self.0.take_input(dst.remaining(), file.nonblocking())?;
        self.0.master_queue.wake(Ready::OUT | Ready::WRNORM);
        if data.is_empty() {
            return Ok(0);
        }
        dst.put(&data)
    }

    fn write_at(&self, _file: &File, src: &mut Source<'_>, _at: WriteAt) -> Result<(usize, u64)> {
        let stops = {
            let inner = self.0.inner.lock();
            inner.line.termios.l(libc::TOSTOP)
        };
        if stops {
            self.0.check_job(Signal::SIGTTOU)?;
        }
        let mut total = 0;
        while src.remaining() > 0 {
            if !self.0.inner.lock().master_open {
                return if total > 0 {
                    Ok((total, 0))
                } else {
                    Err(Errno::EIO)
                };
            }
            let mut buf = vec![0u8; src.remaining().min(CHUNK)];
            let n = match src.peek(&mut buf) {
                Ok(n) => n,
                Err(_) if total > 0 => break,
                Err(e) => return Err(e),
            };
            let taken = self.0.inner.lock().line.output(&buf[..n]);
            src.skip(taken);
            total += taken;
            if taken > 0 {
                self.0.master_queue.wake(Ready::IN | Ready::RDNORM);
                self.0.master_subscribers.tell(Band::In);
            }
            if taken < buf.len() {
                break;
            }
        }
        if total == 0 && src.remaining() > 0 {
            return Err(Errno::EAGAIN);
        }
        Ok((total, 0))
    }

    fn ready(&self, _file: &File) -> Ready {
        let inner = self.0.inner.lock();
        if !inner.master_open {
            return Ready::IN
                | Ready::OUT
                | Ready::ERR
                | Ready::HUP
                | Ready::RDNORM
                | Ready::WRNORM;
        }
        let mut ready = Ready::empty();
        if inner.is_readable() {
            ready |= Ready::IN | Ready::RDNORM;
        }
        if inner.line.output_room() >= 256 {
            ready |= Ready::OUT | Ready::WRNORM;
        }
        ready
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.0.slave_queue)
    }

    fn subscribers(&self) -> Option<&Subscribers> {
        Some(&self.0.slave_subscribers)
    }

    fn default_owner(&self, task: &Task) -> Option<(i32, i32)> {
        Some(job::async_owner(task, &self.0.terminal()))
    }

    fn ioctl(&self, task: &Task, _file: &File, cmd: u32, arg: u64) -> Result<u64> {
        requests::slave(&self.0, task, cmd, arg)
    }

    fn sync(&self, _file: &File) -> Result<()> {
        Err(Errno::EINVAL)
    }

    fn release(&self, _file: &File) {
        {
            let mut inner = self.0.inner.lock();
            inner.slaves -= 1;
            if inner.slaves == 0 {
                inner.exclusive = false;
            }
        }
        self.0.master_queue.wake_all();
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::anon::{Anon, anon_file};
    use crate::fs::tty::line::Termios;
    use crate::kernel::cred::Uid;

    fn open(ops: Arc<dyn FileOps>) -> Arc<File> {
        anon_file(Anon::Inode("test"), ops, OpenFlags::RDWR)
    }

    fn new() -> (Arc<Pty>, Arc<File>, Arc<File>) {
        let devpts = Devpts::with_kernel(Weak::new());
        let pty = devpts.create(Uid(0), crate::kernel::cred::Gid(0)).unwrap();
        let master = open(pty.master());
        assert_eq!(pty.slave().err(), Some(Errno::EIO));
        pty.inner.lock().locked = false;
        let slave = open(pty.slave().unwrap());
        (pty, master, slave)
    }

    fn read(file: &File) -> Result<String> {
        let mut buf = [0u8; 1000];
        let n = file.read(&mut Sink::kernel(&mut buf))?;
        Ok(String::from_utf8_lossy(&buf[..n]).into_owned())
    }

    fn write(file: &File, data: &[u8]) -> Result<usize> {
        file.write(&mut Source::kernel(data))
    }

    #[test]
    fn a_line_goes_there_and_its_answer_back() {
        let (_pty, master, slave) = new();
        assert_eq!(read(&slave), Err(Errno::EAGAIN));
        write(&master, b"ls\r").unwrap();
        assert!(slave.ready().contains(Ready::IN));
        assert_eq!(read(&slave), Ok("ls\n".into()));
        write(&slave, b"file\n").unwrap();
        assert_eq!(read(&master), Ok("ls\r\nfile\r\n".into()));
        assert_eq!(read(&master), Err(Errno::EAGAIN));
        write(&master, b"\x04").unwrap();
        assert_eq!(read(&slave), Ok("".into()));
    }

    #[test]
    fn closing_either_side_is_seen() {
        let (pty, master, slave) = new();
        write(&slave, b"bye").unwrap();
        drop(slave);
        assert!(master.ready().contains(Ready::HUP | Ready::IN));
        assert_eq!(read(&master), Ok("bye".into()));
        assert_eq!(read(&master), Err(Errno::EIO));
        let slave = open(pty.slave().unwrap());
        assert_eq!(read(&master), Err(Errno::EAGAIN));
        drop(master);
        assert!(slave.ready().contains(Ready::HUP | Ready::ERR | Ready::IN));
        assert_eq!(read(&slave), Ok("".into()));
        assert_eq!(write(&slave, b"x"), Err(Errno::EIO));
        assert_eq!(pty.slave().err(), Some(Errno::EIO));
    }

    #[test]
    fn raw_reads_wait_for_min_or_time() {
        let (pty, master, slave) = new();
        let raw = |min: u8, time: u8| {
            let mut termios = Termios {
                lflag: 0,
                ..Termios::default()
            };
            termios.cc[libc::VMIN] = min;
            termios.cc[libc::VTIME] = time;
            pty.inner.lock().line.set_termios(termios);
        };
        raw(3, 0);
        write(&master, b"ab").unwrap();
        assert_eq!(read(&slave), Err(Errno::EAGAIN));
        assert!(!slave.ready().contains(Ready::IN));
        write(&master, b"c").unwrap();
        assert_eq!(read(&slave), Ok("abc".into()));
        raw(0, 0);
        assert_eq!(read(&slave), Ok("".into()));
        raw(0, 1);
        assert_eq!(read(&slave), Err(Errno::EAGAIN));
        let alarm = pty.inner.lock().alarm.as_ref().map(|(d, _)| *d).unwrap();
        while MonoTime::now() < alarm {
            std::thread::yield_now();
        }
        assert_eq!(read(&slave), Ok("".into()));
        assert!(pty.inner.lock().alarm.is_none());
    }

    #[test]
    fn a_slave_that_is_not_read_blocks() {
        let (_pty, master, slave) = new();
        let big = vec![b'x'; 100_000];
        let n = write(&slave, &big).unwrap();
        assert!(n < big.len());
        assert_eq!(write(&slave, b"x"), Err(Errno::EAGAIN));
        assert!(!slave.ready().contains(Ready::OUT));
        let mut got = 0;
        while let Ok(text) = read(&master) {
            got += text.len();
        }
        assert_eq!(got, n);
        assert!(slave.ready().contains(Ready::OUT));
    }
}
