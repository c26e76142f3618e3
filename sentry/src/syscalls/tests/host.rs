//! Host descriptors as standard files.

use std::os::fd::{AsFd, OwnedFd};

use super::*;
use crate::fs::fdtable::Exec;
use crate::fs::hostfd;
use crate::kernel::signal::Signal;

fn give(sandbox: &Sandbox, t: &Arc<Task>, fd: OwnedFd) -> u64 {
    let file = hostfd::host_file(&sandbox.kernel, fd, None).unwrap();
    t.add_file(file, Exec::Keep).unwrap() as u64
}

#[test]
fn a_host_terminal_serves_the_guest() {
    let sandbox = Sandbox::new();
    let t = sandbox.process(None);
    let host = nix::pty::openpty(None, None).unwrap();
    let slave = host.slave.try_clone().unwrap();
    let (a, b) = (give(&sandbox, &t, slave), give(&sandbox, &t, host.slave));
    let out = room(&t);
    // It is a terminal, though nobody's yet.
    plain(&t, libc::SYS_ioctl, [a, 0x5401, out]).unwrap();
    assert_ne!(get::<[u32; 4]>(&t, out)[3] & libc::ECHO, 0);
    let pgrp = plain(&t, libc::SYS_ioctl, [a, 0x540F, out]);
    assert_eq!(pgrp, Err(Errno::ENOTTY));
    let file = t.file(a as i32).unwrap();
    hostfd::control(&t, &file).unwrap();
    // Both descriptors are one terminal.
    plain(&t, libc::SYS_ioctl, [b, 0x540F, out]).unwrap();
    assert_eq!(get::<i32>(&t, out), t.pid());
    assert_eq!(
        plain(&t, libc::SYS_ioctl, [a, 0x5414, 8]),
        Err(Errno::EFAULT)
    );
    let size = put(&t, &[30u16, 100, 0, 0]);
    plain(&t, libc::SYS_ioctl, [a, 0x5414, size]).unwrap();
    plain(&t, libc::SYS_ioctl, [b, 0x5413, out]).unwrap();
    assert_eq!(get::<[u16; 4]>(&t, out), [30, 100, 0, 0]);
    assert_eq!(
        plain(&t, libc::SYS_ioctl, [a, 0x9999, out]),
        Err(Errno::ENOTTY)
    );

    let reading = spawn(&t, libc::SYS_read, [a, out, 100]);
    until_waiting(&t);
    nix::unistd::write(&host.master, b"typed\n").unwrap();
    assert_eq!(reading.join().unwrap(), Ok(6));
    assert_eq!(bytes(&t, out, 6), b"typed\n");
    write(&t, b, b"shown").unwrap();
    let mut buf = [0; 100];
    let mut seen = Vec::new();
    while !seen.ends_with(b"shown") {
        let n = nix::unistd::read(&host.master, &mut buf).unwrap();
        seen.extend_from_slice(&buf[..n]);
    }
    assert!(hostfd::forward_signal(
        &sandbox.kernel,
        &file,
        Signal::SIGINT
    ));
    assert!(t.group().signals.lock().pending.set().has(Signal::SIGINT));
}

#[test]
fn null_and_files_are_what_they_are() {
    let sandbox = Sandbox::new();
    let t = sandbox.process(None);
    let null = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .unwrap();
    let fd = give(&sandbox, &t, null.into());
    assert_eq!(read(&t, fd), Ok(vec![]));
    assert_eq!(write(&t, fd, b"gone"), Ok(4));
    let fds = put(&t, &[fd as i32, libc::POLLIN.into()]);
    assert_eq!(plain(&t, libc::SYS_poll, [fds, 1, 0]), Ok(1));

    let host = tempfile::tempfile().unwrap();
    host.set_len(5000).unwrap();
    let fd = give(&sandbox, &t, host.as_fd().try_clone_to_owned().unwrap());
    let stat = room(&t);
    plain(&t, libc::SYS_fstat, [fd, stat]).unwrap();
    // st_mode and st_size.
    assert_eq!(get::<u32>(&t, stat + 24) & libc::S_IFMT, libc::S_IFREG);
    assert_eq!(get::<u64>(&t, stat + 48), 5000);
    let end = plain(&t, libc::SYS_lseek, [fd, 0, libc::SEEK_END as u64]);
    assert_eq!(end, Ok(5000));
    let prot = libc::PROT_READ as u64;
    let shared = libc::MAP_SHARED as u64;
    let at = plain(&t, libc::SYS_mmap, [0, 8192, prot, shared, fd, 0]).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&host, b"mapped", 4096).unwrap();
    assert_eq!(bytes(&t, at + 4096, 6), b"mapped");
}
