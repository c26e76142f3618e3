//! pipe(2), pipe(7) and fifo(7).

use crate::case::*;

pub static CASES: &[Case] = &[
    Case::new(
        "pipe.transfer",
        "pipe(2)",
        "what is written comes out, in order",
        || {
            let (r, w) = pipe_pair()?;
            write_all(w, b"abc")?;
            write_all(w, b"def")?;
            eq("first four", read_some(r, 4)?, b"abcd".to_vec())?;
            eq("the rest", read_some(r, 4)?, b"ef".to_vec())
        },
    ),
    Case::new(
        "pipe.flags",
        "pipe2(2)",
        "O_CLOEXEC and O_NONBLOCK are set on both ends",
        || {
            let mut fds = [0; 2];
            ok!(pipe2(fds.as_mut_ptr(), O_CLOEXEC | O_NONBLOCK));
            for fd in fds {
                gives!(FD_CLOEXEC, fcntl(fd, F_GETFD));
                ensure!(
                    ok!(fcntl(fd, F_GETFL)) & O_NONBLOCK != 0,
                    "O_NONBLOCK is not set"
                );
            }
            err!(EINVAL, pipe2(fds.as_mut_ptr(), O_APPEND));
            err!(EFAULT, pipe2(bad_ptr(), 0));
            Ok(())
        },
    ),
    Case::new(
        "pipe.directions",
        "pipe(2)",
        "the ends have one direction each",
        || {
            let (r, w) = pipe_pair()?;
            let mut b = 0u8;
            err!(EBADF, write(r, (&raw const b).cast(), 1));
            err!(EBADF, read(w, (&raw mut b).cast(), 1));
            Ok(())
        },
    ),
    Case::new(
        "pipe.eof",
        "pipe(7)",
        "no writer left: end of file, after the data",
        || {
            let (r, w) = pipe_pair()?;
            write_all(w, b"x")?;
            ok!(close(w));
            eq("data", read_some(r, 4)?.len(), 1)?;
            eq("end of file", read_some(r, 4)?.len(), 0)
        },
    ),
    Case::new(
        "pipe.epipe",
        "pipe(7)",
        "no reader left: EPIPE when SIGPIPE is ignored",
        || {
            let (r, w) = pipe_pair()?;
            ok!(close(r));
            raw!(signal(SIGPIPE, SIG_IGN));
            err!(EPIPE, write(w, c"x".as_ptr().cast(), 1));
            Ok(())
        },
    ),
    Case::new(
        "pipe.sigpipe",
        "pipe(7)",
        "no reader left: SIGPIPE kills the writer",
        || {
            let (r, w) = pipe_pair()?;
            ok!(close(r));
            let pid = child(|| raw!(write(w, c"x".as_ptr().cast(), 1)) as i32)?;
            expect_signal(pid, SIGPIPE)
        },
    ),
    Case::new(
        "pipe.eagain",
        "pipe(7)",
        "O_NONBLOCK: EAGAIN when empty and when full",
        || {
            let mut fds = [0; 2];
            ok!(pipe2(fds.as_mut_ptr(), O_NONBLOCK));
            let mut b = [0u8; 4096];
            err!(EAGAIN, read(fds[0], b.as_mut_ptr().cast(), 1));
            let size = ok!(fcntl(fds[1], F_GETPIPE_SZ)) as usize;
            let mut total = 0;
            loop {
                let n = raw!(write(fds[1], b.as_ptr().cast(), 4096));
                if n < 0 {
                    eq("errno when full", errno(), EAGAIN)?;
                    break;
                }
                total += n as usize;
            }
            eq("bytes that fit", total, size)
        },
    ),
    Case::new(
        "pipe.atomic",
        "pipe(7)",
        "up to PIPE_BUF a nonblocking write is all or nothing",
        || {
            let mut fds = [0; 2];
            ok!(pipe2(fds.as_mut_ptr(), O_NONBLOCK));
            let size = ok!(fcntl(fds[1], F_GETPIPE_SZ)) as usize;
            let fill = vec![1u8; size - 100];
            gives!(size - 100, write(fds[1], fill.as_ptr().cast(), size - 100));
            let b = [2u8; 4096];
            err!(EAGAIN, write(fds[1], b.as_ptr().cast(), 4096));
            let mut n: c_int = 0;
            ok!(ioctl(fds[0], FIONREAD, &raw mut n));
            eq("bytes in the pipe", n as usize, size - 100)
        },
    ),
    Case::new(
        "pipe.partial_write",
        "pipe(7)",
        "beyond PIPE_BUF a nonblocking write may be partial",
        || {
            let mut fds = [0; 2];
            ok!(pipe2(fds.as_mut_ptr(), O_NONBLOCK));
            let size = ok!(fcntl(fds[1], F_GETPIPE_SZ)) as usize;
            let much = vec![1u8; size + 5000];
            gives!(size, write(fds[1], much.as_ptr().cast(), much.len()));
            Ok(())
        },
    ),
    Case::new(
        "pipe.set_size",
        "fcntl(2)",
        "F_SETPIPE_SZ rounds up to a page and takes effect",
        || {
            let (_r, w) = pipe_pair()?;
            let page = page_size() as c_int;
            gives!(page, fcntl(w, F_SETPIPE_SZ, 1));
            gives!(page, fcntl(w, F_GETPIPE_SZ));
            write_all(w, b"data")?;
            ok!(fcntl(w, F_SETPIPE_SZ, 4 * page));
            gives!(4 * page, fcntl(w, F_GETPIPE_SZ));
            err!(EBADF, fcntl(put(c"f", b"")?, F_GETPIPE_SZ));
            Ok(())
        },
    ),
    Case::new(
        "pipe.set_size_busy",
        "fcntl(2)",
        "less than what is inside gives EBUSY",
        || {
            let (_r, w) = pipe_pair()?;
            let page = page_size();
            write_all(w, &vec![0u8; 3 * page])?;
            err!(EBUSY, fcntl(w, F_SETPIPE_SZ, page));
            Ok(())
        },
    ),
    Case::new(
        "pipe.set_size_eperm",
        "fcntl(2)",
        "beyond pipe-max-size needs CAP_SYS_RESOURCE",
        || {
            as_user(|| {
                let (_r, w) = pipe_pair()?;
                let max: c_int = slurp("/proc/sys/fs/pipe-max-size")?
                    .trim()
                    .parse()
                    .unwrap_or(1 << 20);
                err!(EPERM, fcntl(w, F_SETPIPE_SZ, max.saturating_mul(2)));
                Ok(())
            })
        },
    ),
    Case::new(
        "pipe.blocking_transfer",
        "pipe(7)",
        "a large blocking write gets through to a reader",
        || {
            let (r, w) = pipe_pair()?;
            let total = 1 << 20;
            let pid = child(|| {
                raw!(close(r));
                let bytes = vec![b'x'; 1 << 20];
                i32::from(raw!(write(w, bytes.as_ptr().cast(), bytes.len())) != 1 << 20)
            })?;
            ok!(close(w));
            let mut seen = 0;
            loop {
                let part = read_some(r, 65536)?;
                if part.is_empty() {
                    break;
                }
                ensure!(part.iter().all(|b| *b == b'x'), "wrong bytes after {seen}");
                seen += part.len();
            }
            eq("bytes", seen, total)?;
            expect_exit(pid, 0)
        },
    ),
    Case::new(
        "pipe.two_readers",
        "pipe(7)",
        "each byte goes to one reader only",
        || {
            let (r, w) = pipe_pair()?;
            let mut pids = vec![];
            for _ in 0..2 {
                pids.push(child(|| {
                    raw!(close(w));
                    let mut b = 0u8;
                    let mut n = 0;
                    while raw!(read(r, (&raw mut b).cast(), 1)) == 1 {
                        n += 1;
                    }
                    n
                })?);
            }
            write_all(w, &[1u8; 100])?;
            ok!(close(w));
            let mut total = 0;
            for pid in pids {
                let status = wait_for(pid)?;
                ensure!(WIFEXITED(status), "reader: {}", status_text(status));
                total += WEXITSTATUS(status);
            }
            eq("bytes read by both", total, 100)
        },
    ),
    Case::new(
        "fifo.open_blocks",
        "fifo(7)",
        "opening waits for the other end",
        || {
            ok!(mkfifo(p(c"fifo"), 0o600));
            let pid = child(|| {
                let fd = raw!(open(p(c"fifo"), O_WRONLY));
                i32::from(raw!(write(fd, c"hi".as_ptr().cast(), 2)) != 2)
            })?;
            let fd = ok!(open(p(c"fifo"), O_RDONLY));
            eq("data", read_some(fd, 8)?, b"hi".to_vec())?;
            eq("end of file", read_some(fd, 8)?.len(), 0)?;
            expect_exit(pid, 0)
        },
    ),
    Case::new(
        "fifo.rdwr",
        "fifo(7)",
        "Linux opens a FIFO O_RDWR without blocking",
        || {
            ok!(mkfifo(p(c"fifo"), 0o600));
            let fd = ok!(open(p(c"fifo"), O_RDWR));
            write_all(fd, b"x")?;
            eq("data", read_some(fd, 8)?, b"x".to_vec())
        },
    ),
    Case::new(
        "fifo.errors",
        "mkfifo(3)",
        "EEXIST, ENOENT and ENOTDIR",
        || {
            put(c"f", b"")?;
            err!(EEXIST, mkfifo(p(c"f"), 0o600));
            err!(ENOENT, mkfifo(p(c"x/y"), 0o600));
            err!(ENOTDIR, mkfifo(p(c"f/y"), 0o600));
            Ok(())
        },
    ),
    Case::new(
        "pipe.reopen_by_proc",
        "pipe(7)",
        "/proc/self/fd/N opens the same pipe again",
        || {
            let (r, w) = pipe_pair()?;
            let path = cstring(format!("/proc/self/fd/{r}"));
            let again = ok!(open(path.as_ptr(), O_RDONLY | O_NONBLOCK));
            write_all(w, b"x")?;
            eq("data", read_some(again, 4)?, b"x".to_vec())
        },
    ),
    Case::new(
        "pipe.link_text",
        "proc_pid_fd(5)",
        "/proc/self/fd/N of a pipe reads pipe:[inode]",
        || {
            let (r, w) = pipe_pair()?;
            let mut buf = [0u8; 64];
            let path = cstring(format!("/proc/self/fd/{r}"));
            let n = ok!(readlink(path.as_ptr(), buf.as_mut_ptr().cast(), 64)) as usize;
            let want = format!("pipe:[{}]", fstat_of(w)?.st_ino);
            eq(
                "link",
                String::from_utf8_lossy(&buf[..n]).into_owned(),
                want,
            )
        },
    ),
    Case::new(
        "vmsplice.room",
        "vmsplice(2)",
        "a pipe takes what fits; a full one waits, or EAGAIN with SPLICE_F_NONBLOCK",
        || {
            let (r, w) = pipe_pair()?;
            let room = ok!(fcntl(w, F_GETPIPE_SZ)) as usize;
            let pages = map_anon(2 * room)?;
            let iov = iovec {
                iov_base: pages.cast(),
                iov_len: 2 * room,
            };
            gives!(room as isize, vmsplice(w, &iov, 1, 0));
            err!(EAGAIN, vmsplice(w, &iov, 1, SPLICE_F_NONBLOCK));
            read_some(r, 4096)?;
            gives!(4096, vmsplice(w, &iov, 1, SPLICE_F_NONBLOCK));
            let waiting = child(|| (raw!(vmsplice(w, &iov, 1, 0)) != 4096) as i32)?;
            until_asleep(waiting)?;
            read_some(r, 4096)?;
            expect_exit(waiting, 0)
        },
    ),
];
