//! Pseudo-terminals and job control through system calls.

use super::*;
use crate::errno::Restart;
use crate::kernel::signal::Signal;

const TIOCSCTTY: u64 = 0x540E;
const TIOCGPGRP: u64 = 0x540F;
const TIOCSPGRP: u64 = 0x5410;
const TIOCGWINSZ: u64 = 0x5413;
const TIOCSWINSZ: u64 = 0x5414;
const TIOCNOTTY: u64 = 0x5422;
const TIOCGSID: u64 = 0x5429;
const TIOCGPTN: u64 = 0x8004_5430;
const TIOCSPTLCK: u64 = 0x4004_5431;

fn open(t: &Arc<Task>, path: &str, flags: i32) -> Result<u64> {
    let path = put(t, [path.as_bytes(), b"\0"].concat().as_slice());
    plain(t, libc::SYS_open, [path, flags as u64])
}

fn ioctl(t: &Arc<Task>, fd: u64, cmd: u64, arg: u64) -> Result<u64> {
    plain(t, libc::SYS_ioctl, [fd, cmd, arg])
}

fn pending(t: &Task, signal: Signal) -> bool {
    let own = t.signals.lock().pending.set();
    own.union(t.group().signals.lock().pending.set())
        .has(signal)
}

/// A session leader with a terminal: its task, the master, the slave.
fn session(sandbox: &Sandbox) -> (Arc<Task>, u64, u64) {
    let t = sandbox.process(None);
    for (path, kind) in [("/dev", "devtmpfs"), ("/dev/pts", "devpts")] {
        let at = put(&t, [path.as_bytes(), b"\0"].concat().as_slice());
        let kind = put(&t, [kind.as_bytes(), b"\0"].concat().as_slice());
        let _ = plain(&t, libc::SYS_mkdir, [at, 0o755]);
        plain(&t, libc::SYS_mount, [kind, at, kind, 0, 0]).unwrap();
    }
    let master = open(&t, "/dev/ptmx", libc::O_RDWR | libc::O_NOCTTY).unwrap();
    let number = room(&t);
    ioctl(&t, master, TIOCGPTN, number).unwrap();
    assert_eq!(get::<u32>(&t, number), 0);
    assert_eq!(open(&t, "/dev/pts/0", libc::O_RDWR), Err(Errno::EIO));
    ioctl(&t, master, TIOCSPTLCK, put(&t, &0i32)).unwrap();
    assert_eq!(open(&t, "/dev/tty", libc::O_RDWR), Err(Errno::ENXIO));
    let slave = open(&t, "/dev/pts/0", libc::O_RDWR).unwrap();
    (t, master, slave)
}

#[test]
fn a_shell_gets_a_terminal_and_its_signals() {
    let sandbox = Sandbox::new();
    let (t, master, slave) = session(&sandbox);
    let out = room(&t);
    ioctl(&t, slave, TIOCGSID, out).unwrap();
    assert_eq!(get::<i32>(&t, out), t.pid());
    ioctl(&t, slave, TIOCGPGRP, out).unwrap();
    assert_eq!(get::<i32>(&t, out), t.pid());
    let tty = open(&t, "/dev/tty", libc::O_RDWR).unwrap();
    write(&t, tty, b"prompt$ ").unwrap();
    assert_eq!(read(&t, master), Ok(b"prompt$ ".to_vec()));
    write(&t, master, b"exit\r").unwrap();
    assert_eq!(read(&t, slave), Ok(b"exit\n".to_vec()));
    write(&t, master, b"\x03").unwrap();
    assert!(pending(&t, Signal::SIGINT));
    // SIGWINCH is ignored by default: block it to see it.
    t.signals.lock().blocked = crate::kernel::signal::SigSet::of(Signal::SIGWINCH);
    let size = put(&t, &[24u16, 80, 0, 0]);
    ioctl(&t, master, TIOCSWINSZ, size).unwrap();
    assert!(pending(&t, Signal::SIGWINCH));
    ioctl(&t, tty, TIOCGWINSZ, out).unwrap();
    assert_eq!(get::<[u16; 4]>(&t, out), [24, 80, 0, 0]);
    plain(&t, libc::SYS_close, [master]).unwrap();
    assert!(pending(&t, Signal::SIGHUP));
    assert_eq!(read(&t, slave), Ok(vec![]));
    assert_eq!(write(&t, slave, b"x"), Err(Errno::EIO));
    assert_eq!(open(&t, "/dev/tty", libc::O_RDWR), Err(Errno::ENXIO));
}

#[test]
fn background_processes_are_stopped_at_the_terminal() {
    let sandbox = Sandbox::new();
    let (t, master, slave) = session(&sandbox);
    let job = sandbox.process(Some(&t));
    job.set_files(Some(t.files()));
    sandbox
        .kernel
        .tree
        .lock()
        .nodes
        .get_mut(&job.pid())
        .unwrap()
        .pgid = job.pid();
    write(&t, master, b"input\r").unwrap();
    let at = room(&job);
    let stopped = call(&job, libc::SYS_read, [slave, at, 10]);
    assert_eq!(stopped, Err(Error::Restart(Restart::Sys)));
    assert!(pending(&job, Signal::SIGTTIN) && !pending(&t, Signal::SIGTTIN));
    job.take_interrupt();
    // Output is allowed without TOSTOP; taking the foreground is not.
    assert_eq!(write(&job, slave, b"out"), Ok(3));
    let own = put(&job, &job.pid());
    let stopped = call(&job, libc::SYS_ioctl, [slave, TIOCSPGRP, own]);
    assert_eq!(stopped, Err(Error::Restart(Restart::Sys)));
    assert!(pending(&job, Signal::SIGTTOU));
    job.take_interrupt();
    // The shell gives it the foreground.
    ioctl(&t, slave, TIOCSPGRP, put(&t, &job.pid())).unwrap();
    assert_eq!(read(&job, slave), Ok(b"input\n".to_vec()));
    // The shell's own group is in the background now, and orphaned; a shell blocks the signal.
    let take_back = |pgid: i32| ioctl(&t, slave, TIOCSPGRP, put(&t, &pgid));
    assert_eq!(take_back(t.pid()), Err(Errno::EIO));
    t.signals.lock().blocked = crate::kernel::signal::SigSet::of(Signal::SIGTTOU);
    assert_eq!(take_back(9999), Err(Errno::ESRCH));
    let stranger = sandbox.process(None);
    assert_eq!(take_back(stranger.pid()), Err(Errno::EPERM));
    assert_eq!(take_back(t.pid()), Ok(0));
}

#[test]
fn only_a_leader_without_one_takes_a_terminal() {
    let sandbox = Sandbox::new();
    let (t, master, slave) = session(&sandbox);
    let other = sandbox.process(None);
    other.set_files(Some(t.files()));
    let out = room(&other);
    assert_eq!(ioctl(&other, slave, TIOCGPGRP, out), Err(Errno::ENOTTY));
    other.set_creds(Credentials::user(
        crate::kernel::cred::Uid(1),
        crate::kernel::cred::Gid(1),
        Vec::new(),
        crate::kernel::cred::CapSet::EMPTY,
    ));
    assert_eq!(ioctl(&other, slave, TIOCSCTTY, 1), Err(Errno::EPERM));
    assert_eq!(ioctl(&t, slave, TIOCSCTTY, 0), Ok(0));
    assert_eq!(ioctl(&t, slave, TIOCNOTTY, 0), Ok(0));
    assert!(pending(&t, Signal::SIGHUP));
    assert_eq!(ioctl(&other, slave, TIOCSCTTY, 0), Ok(0));
    ioctl(&other, slave, TIOCGPGRP, out).unwrap();
    assert_eq!(get::<i32>(&other, out), other.pid());
    assert_eq!(ioctl(&t, slave, TIOCNOTTY, 0), Err(Errno::ENOTTY));
    // The master may ask whatever its session is.
    ioctl(&t, master, TIOCGSID, room(&t)).unwrap();
}
