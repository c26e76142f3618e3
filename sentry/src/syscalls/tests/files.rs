//! Pipes, FIFOs and inotify through system calls.

use super::*;
use crate::fs::change::Make;
use crate::fs::inode::{Dev, FileType};

#[test]
fn a_pipe_waits_for_room_and_data() {
    let sandbox = Sandbox::new();
    let (t, other) = (sandbox.process(None), sandbox.process(None));
    let (r, w) = pipe(&t, 0);
    other.set_files(Some(t.files()));
    let at = room(&t);
    let reading = spawn(&t, libc::SYS_read, [r, at, 10]);
    until_waiting(&t);
    write(&other, w, b"hello").unwrap();
    assert_eq!(reading.join().unwrap(), Ok(5));
    assert_eq!(bytes(&t, at, 5), b"hello");
    // More than fits: the writer goes on when the reader has read.
    let big = t.mm().mmap(anon(0, 64, RW, libc::MAP_PRIVATE)).unwrap();
    let len = 64 * 4096;
    let writing = spawn(&t, libc::SYS_write, [w, big, len]);
    let mut got = 0;
    while got < len {
        got += read(&other, r).unwrap().len() as u64;
    }
    assert_eq!(writing.join().unwrap(), Ok(len));
    plain(&t, libc::SYS_close, [r]).unwrap();
    assert_eq!(write(&t, w, b"x"), Err(Errno::EPIPE));
    let pending = t.signals.lock().pending.set();
    assert!(pending.has(crate::kernel::signal::Signal::SIGPIPE));
}

#[test]
fn a_bad_address_does_not_lose_what_a_pipe_holds() {
    let sandbox = Sandbox::new();
    let t = sandbox.process(None);
    let (r, w) = pipe(&t, 0);
    write(&t, w, b"precious").unwrap();
    let bad = plain(&t, libc::SYS_read, [r, 8, 100]);
    assert_eq!(bad, Err(Errno::EFAULT));
    assert_eq!(read(&t, r), Ok(b"precious".to_vec()));
}

#[test]
fn opening_a_fifo_waits_for_the_other_side() {
    let sandbox = Sandbox::new();
    let (t, other) = (sandbox.process(None), sandbox.process(None));
    let node = Make::Node(FileType::Fifo, Dev::default());
    ctx(&t).make(&Base::Cwd, b"/fifo", node, 0o600).unwrap();
    let path = |t: &Task| put(t, b"/fifo\0");
    let open = |t: &Arc<Task>, flags: i32| plain(t, libc::SYS_open, [path(t), flags as u64]);
    let nonblock = libc::O_NONBLOCK;
    assert_eq!(open(&t, libc::O_WRONLY | nonblock), Err(Errno::ENXIO));
    let reader = open(&t, libc::O_RDONLY | nonblock).unwrap();
    // No writer has been there: the end of the file, but no hang-up.
    assert_eq!(read(&t, reader), Ok(vec![]));
    let fds = put(&t, &[reader as i32, libc::POLLIN.into()]);
    assert_eq!(plain(&t, libc::SYS_poll, [fds, 1, 0]), Ok(0));
    plain(&t, libc::SYS_close, [reader]).unwrap();

    let opening = spawn(&t, libc::SYS_open, [path(&t), libc::O_RDONLY as u64]);
    until_waiting(&t);
    let writer = open(&other, libc::O_WRONLY).unwrap();
    let reader = opening.join().unwrap().unwrap();
    write(&other, writer, b"through").unwrap();
    assert_eq!(read(&t, reader), Ok(b"through".to_vec()));
    plain(&other, libc::SYS_close, [writer]).unwrap();
    assert_eq!(plain(&t, libc::SYS_poll, [fds, 1, 0]), Ok(1));
}

#[test]
fn inotify_sees_what_happens_in_a_directory() {
    let sandbox = Sandbox::new();
    let t = sandbox.process(None);
    let fd = plain(&t, libc::SYS_inotify_init1, [libc::O_NONBLOCK as u64]).unwrap();
    let root = put(&t, b"/\0");
    let mask = libc::IN_CREATE | libc::IN_CLOSE_WRITE | libc::IN_DELETE;
    let wd = plain(&t, libc::SYS_inotify_add_watch, [fd, root, u64::from(mask)]);
    assert_eq!(wd, Ok(1));
    assert_eq!(read(&t, fd), Err(Errno::EAGAIN));
    let path = put(&t, b"/new\0");
    let flags = (libc::O_CREAT | libc::O_WRONLY) as u64;
    let file = plain(&t, libc::SYS_open, [path, flags, 0o600]).unwrap();
    write(&t, file, b"x").unwrap();
    plain(&t, libc::SYS_close, [file]).unwrap();
    plain(&t, libc::SYS_unlink, [path]).unwrap();
    let raw = read(&t, fd).unwrap();
    let events: Vec<_> = raw
        .chunks_exact(32)
        .map(|e| {
            (
                u32::from_ne_bytes([e[4], e[5], e[6], e[7]]),
                e[16..19].to_vec(),
            )
        })
        .collect();
    let name = b"new".to_vec();
    assert_eq!(
        events,
        [libc::IN_CREATE, libc::IN_CLOSE_WRITE, libc::IN_DELETE].map(|m| (m, name.clone()))
    );
    let rm = |wd: u64| plain(&t, libc::SYS_inotify_rm_watch, [fd, wd]);
    assert_eq!((rm(1), rm(1)), (Ok(0), Err(Errno::EINVAL)));
}
