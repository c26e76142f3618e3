//! `/dev`: null(4), zero, full(4), random(4), tty, pts(4), ptmx, fd links and shm.

use crate::case::*;

fn dev(path: &std::ffi::CStr, flags: c_int) -> Outcome<c_int> {
    Ok(ok!(open(p(path), flags | O_CLOEXEC)))
}

/// A new pseudo-terminal: its master and its slave.
fn pty() -> Outcome<(c_int, c_int)> {
    let master = raw!(open(p(c"/dev/ptmx"), O_RDWR | O_NOCTTY | O_CLOEXEC));
    if master == -1 {
        skip!("/dev/ptmx cannot be opened here: {}", errno_name(errno()));
    }
    let zero: c_int = 0;
    ok!(ioctl(master, TIOCSPTLCK, &raw const zero));
    let mut number: c_int = -1;
    ok!(ioctl(master, TIOCGPTN, &raw mut number));
    let slave = cstring(format!("/dev/pts/{number}"));
    let slave = ok!(open(slave.as_ptr(), O_RDWR | O_NOCTTY | O_CLOEXEC));
    Ok((master, slave))
}

fn attributes(fd: c_int) -> Outcome<termios> {
    let mut t = zeroed::<termios>();
    ok!(tcgetattr(fd, &mut t));
    Ok(t)
}

pub static CASES: &[Case] = &[
    Case::new(
        "dev.null",
        "null(4)",
        "reads end of file, swallows writes",
        || {
            let fd = dev(c"/dev/null", O_RDWR)?;
            let mut b = [1u8; 4];
            gives!(0, read(fd, b.as_mut_ptr().cast(), 4));
            gives!(4, write(fd, b.as_ptr().cast(), 4));
            let st = fstat_of(fd)?;
            eq_octal("type", st.st_mode & S_IFMT, S_IFCHR)?;
            eq("device", (major(st.st_rdev), minor(st.st_rdev)), (1, 3))?;
            gives!(0, lseek(fd, 100, SEEK_SET));
            Ok(())
        },
    ),
    Case::new(
        "dev.zero",
        "zero(4)",
        "reads zeroes, maps as zero memory",
        || {
            let fd = dev(c"/dev/zero", O_RDWR)?;
            let mut b = [1u8; 5000];
            gives!(5000, read(fd, b.as_mut_ptr().cast(), 5000));
            ensure!(b.iter().all(|x| *x == 0), "not all zeroes");
            let prot = PROT_READ | PROT_WRITE;
            let at = ok!(mmap(std::ptr::null_mut(), 4096, prot, MAP_PRIVATE, fd, 0)).cast::<u8>();
            unsafe { at.write_volatile(unsafe { at.read_volatile() } + 1) };
            eq("byte", unsafe { at.read_volatile() }, 1)
        },
    ),
    Case::new(
        "dev.full",
        "full(4)",
        "writes give ENOSPC, reads zeroes",
        || {
            let fd = dev(c"/dev/full", O_RDWR)?;
            let mut b = [1u8; 4];
            err!(ENOSPC, write(fd, b.as_ptr().cast(), 4));
            gives!(4, read(fd, b.as_mut_ptr().cast(), 4));
            eq("bytes", b, [0; 4])
        },
    ),
    Case::new(
        "dev.random",
        "random(4)",
        "random and urandom give different bytes",
        || {
            for path in [c"/dev/random", c"/dev/urandom"] {
                let fd = dev(path, O_RDWR)?;
                let (a, b) = (read_some(fd, 64)?, read_some(fd, 64)?);
                ensure!(
                    a.len() == 64 && b.len() == 64 && a != b,
                    "{path:?} repeats itself"
                );
                write_all(fd, b"some entropy")?;
            }
            Ok(())
        },
    ),
    Case::new(
        "dev.fd_links",
        "proc_pid_fd(5)",
        "/dev/fd, /dev/stdin and friends lead to /proc",
        || {
            let fd = put(c"f", b"abc")?;
            eq(
                "through /dev/fd",
                slurp(&format!("/dev/fd/{fd}"))?,
                "abc".to_string(),
            )?;
            for (path, want) in [
                ("/dev/fd", "/proc/self/fd"),
                ("/dev/stdin", "/proc/self/fd/0"),
                ("/dev/stdout", "/proc/self/fd/1"),
                ("/dev/stderr", "/proc/self/fd/2"),
            ] {
                let seen = std::fs::read_link(path).unwrap_or_default();
                eq(path, seen.to_string_lossy().as_ref(), want)?;
            }
            Ok(())
        },
    ),
    Case::new(
        "dev.shm",
        "shm_overview(7)",
        "/dev/shm is a sticky tmpfs",
        || {
            let mut fs = zeroed::<statfs>();
            ok!(statfs(p(c"/dev/shm"), &mut fs));
            eq("f_type", fs.f_type, TMPFS_MAGIC)?;
            eq_octal("mode", stat_of(c"/dev/shm")?.st_mode & 0o7777, 0o1777)
        },
    ),
    Case::new(
        "dev.shm_open",
        "shm_open(3)",
        "a shared memory object is named, mapped and unlinked",
        || {
            let name = cstring(format!("/conformance-{}", getpid_now()));
            let fd = ok!(shm_open(name.as_ptr(), O_RDWR | O_CREAT | O_EXCL, 0o600));
            let gone = raw!(shm_unlink(name.as_ptr()));
            eq("shm_unlink", gone, 0)?;
            ok!(ftruncate(fd, 4096));
            let prot = PROT_READ | PROT_WRITE;
            let at = ok!(mmap(std::ptr::null_mut(), 4096, prot, MAP_SHARED, fd, 0)).cast::<u8>();
            let pid = child(|| {
                unsafe { at.write_volatile(3) };
                0
            })?;
            expect_exit(pid, 0)?;
            eq("byte", unsafe { at.read_volatile() }, 3)?;
            err!(ENOENT, shm_open(name.as_ptr(), O_RDWR, 0));
            Ok(())
        },
    ),
    Case::new(
        "tty.no_controlling",
        "tty(4)",
        "/dev/tty without a controlling terminal gives ENXIO",
        || {
            in_child(|| {
                ok!(setsid());
                err!(ENXIO, open(p(c"/dev/tty"), O_RDWR));
                Ok(())
            })
        },
    ),
    Case::new(
        "pty.transfer",
        "pty(7)",
        "what one side writes the other reads; NL becomes CR NL",
        || {
            let (master, slave) = pty()?;
            write_all(slave, b"hi\n")?;
            eq("at the master", read_some(master, 16)?, b"hi\r\n".to_vec())?;
            write_all(master, b"line\n")?;
            eq("at the slave", read_some(slave, 16)?, b"line\n".to_vec())?;
            eq("echo", read_some(master, 16)?, b"line\r\n".to_vec())
        },
    ),
    Case::new(
        "pty.canonical",
        "termios(3)",
        "canonical mode: lines, erase and end of file",
        || {
            let (master, slave) = pty()?;
            write_all(master, b"abx\x7fc\n")?;
            eq("edited line", read_some(slave, 16)?, b"abc\n".to_vec())?;
            write_all(master, b"\x04")?;
            eq("end of file", read_some(slave, 16)?.len(), 0)
        },
    ),
    Case::new(
        "pty.raw",
        "termios(3)",
        "raw mode passes every byte at once",
        || {
            let (master, slave) = pty()?;
            let mut t = attributes(slave)?;
            raw!(cfmakeraw(&mut t));
            ok!(tcsetattr(slave, TCSANOW, &t));
            write_all(master, b"\x03\x04\r")?;
            eq("bytes", read_some(slave, 16)?, b"\x03\x04\r".to_vec())?;
            ensure!(
                attributes(slave)?.c_lflag & (ICANON | ECHO) == 0,
                "raw mode is not told"
            );
            Ok(())
        },
    ),
    Case::new(
        "pty.winsize",
        "tty_ioctl(4)",
        "the window size is shared by both sides",
        || {
            let (master, slave) = pty()?;
            let size = winsize {
                ws_row: 33,
                ws_col: 77,
                ws_xpixel: 0,
                ws_ypixel: 0,
            };
            ok!(ioctl(master, TIOCSWINSZ, &raw const size));
            let mut seen = zeroed::<winsize>();
            ok!(ioctl(slave, TIOCGWINSZ, &raw mut seen));
            eq("size", (seen.ws_row, seen.ws_col), (33, 77))?;
            gives!(1, isatty(slave));
            Ok(())
        },
    ),
    Case::new(
        "pty.controlling_interrupt",
        "credentials(7)",
        "Ctrl-C at the master gives SIGINT to the group",
        || {
            let (master, slave) = pty()?;
            let (r, w) = pipe_pair()?;
            let pid = child(|| {
                raw!(setsid());
                if raw!(ioctl(slave, TIOCSCTTY, 0)) != 0 {
                    return 9;
                }
                raw!(write(w, c"x".as_ptr().cast(), 1));
                loop {
                    raw!(pause());
                }
            })?;
            ok!(close(w));
            eq("the child is ready", read_some(r, 1)?.len(), 1)?;
            write_all(master, b"\x03")?;
            expect_signal(pid, SIGINT)
        },
    ),
    Case::new(
        "pty.hangup",
        "pty(7)",
        "closing the master: SIGHUP, and EOF or EIO at the slave",
        || {
            let (master, slave) = pty()?;
            let (r, w) = pipe_pair()?;
            let pid = child(|| {
                raw!(close(master));
                raw!(setsid());
                if raw!(ioctl(slave, TIOCSCTTY, 0)) != 0 {
                    return 9;
                }
                raw!(write(w, c"x".as_ptr().cast(), 1));
                loop {
                    raw!(pause());
                }
            })?;
            ok!(close(w));
            eq("the child is ready", read_some(r, 1)?.len(), 1)?;
            ok!(close(master));
            expect_signal(pid, SIGHUP)
        },
    ),
    Case::new(
        "pty.foreground_group",
        "tcsetpgrp(3)",
        "TIOCGPGRP tells the foreground group; ENOTTY for others",
        || {
            let (_master, slave) = pty()?;
            err!(ENOTTY, tcgetpgrp(slave));
            in_child(|| {
                let me = ok!(setsid());
                ok!(ioctl(slave, TIOCSCTTY, 0));
                gives!(me, tcgetpgrp(slave));
                gives!(me, tcgetsid(slave));
                let fd = ok!(open(p(c"/dev/tty"), O_RDWR));
                gives!(me, tcgetpgrp(fd));
                Ok(())
            })
        },
    ),
    Case::new(
        "pty.slave_gone",
        "pty(7)",
        "reading the master after the slave closed gives EIO",
        || {
            let (master, slave) = pty()?;
            ok!(close(slave));
            let mut b = [0u8; 4];
            err!(EIO, read(master, b.as_mut_ptr().cast(), 4));
            Ok(())
        },
    ),
];
