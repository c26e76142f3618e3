//! inotify(7).

use crate::case::*;
use std::ffi::CStr;

#[derive(Debug, PartialEq, Eq, Clone)]
struct Seen {
    wd: c_int,
    mask: u32,
    cookie: bool,
    name: String,
}

fn watcher() -> Outcome<c_int> {
    Ok(ok!(inotify_init1(IN_NONBLOCK | IN_CLOEXEC)))
}

fn watch(fd: c_int, path: &CStr, mask: u32) -> Outcome<c_int> {
    Ok(ok!(inotify_add_watch(fd, p(path), mask)))
}

/// All events that wait now.
fn events(fd: c_int) -> Outcome<Vec<Seen>> {
    let mut found = Vec::new();
    let mut buf = [0u8; 4096];
    loop {
        let n = raw!(read(fd, buf.as_mut_ptr().cast(), buf.len()));
        if n == -1 {
            eq(
                "errno at the end",
                errno_name(errno()),
                "EAGAIN".to_string(),
            )?;
            return Ok(found);
        }
        let (n, mut at) = (n as usize, 0);
        let word = |at: usize| u32::from_ne_bytes([buf[at], buf[at + 1], buf[at + 2], buf[at + 3]]);
        while at + 16 <= n {
            let len = word(at + 12) as usize;
            let name = &buf[at + 16..at + 16 + len];
            let end = name.iter().position(|b| *b == 0).unwrap_or(len);
            found.push(Seen {
                wd: word(at) as c_int,
                mask: word(at + 4),
                cookie: word(at + 8) != 0,
                name: String::from_utf8_lossy(&name[..end]).into_owned(),
            });
            at += 16 + len;
        }
    }
}

/// Masks and names only.
fn brief(fd: c_int) -> Outcome<Vec<(u32, String)>> {
    Ok(events(fd)?.into_iter().map(|e| (e.mask, e.name)).collect())
}

fn named(mask: u32, name: &str) -> (u32, String) {
    (mask, name.to_string())
}

pub static CASES: &[Case] = &[
    Case::new(
        "inotify.create_delete",
        "inotify(7)",
        "files and directories come and go",
        || {
            let fd = watcher()?;
            watch(fd, c".", IN_CREATE | IN_DELETE)?;
            put(c"f", b"")?;
            mkdir_at(c"d")?;
            ok!(unlink(p(c"f")));
            ok!(rmdir(p(c"d")));
            eq(
                "events",
                brief(fd)?,
                vec![
                    named(IN_CREATE, "f"),
                    named(IN_CREATE | IN_ISDIR, "d"),
                    named(IN_DELETE, "f"),
                    named(IN_DELETE | IN_ISDIR, "d"),
                ],
            )
        },
    ),
    Case::new(
        "inotify.file_life",
        "inotify(7)",
        "open, modify, access and close of a watched file",
        || {
            ok!(close(put(c"f", b"abc")?));
            let fd = watcher()?;
            watch(
                fd,
                c"f",
                IN_OPEN | IN_ACCESS | IN_MODIFY | IN_CLOSE_WRITE | IN_CLOSE_NOWRITE,
            )?;
            let file = ok!(open(p(c"f"), O_RDWR));
            read_some(file, 1)?;
            write_all(file, b"x")?;
            ok!(close(file));
            ok!(close(ok!(open(p(c"f"), O_RDONLY))));
            let masks: Vec<u32> = events(fd)?.into_iter().map(|e| e.mask).collect();
            eq(
                "masks",
                masks,
                vec![
                    IN_OPEN,
                    IN_ACCESS,
                    IN_MODIFY,
                    IN_CLOSE_WRITE,
                    IN_OPEN,
                    IN_CLOSE_NOWRITE,
                ],
            )
        },
    ),
    Case::new(
        "inotify.move_cookie",
        "inotify(7)",
        "a rename gives MOVED_FROM and MOVED_TO with a cookie",
        || {
            put(c"a", b"")?;
            let fd = watcher()?;
            watch(fd, c".", IN_MOVE)?;
            ok!(rename(p(c"a"), p(c"b")));
            let seen = events(fd)?;
            eq(
                "masks",
                seen.iter()
                    .map(|e| (e.mask, e.name.as_str(), e.cookie))
                    .collect::<Vec<_>>(),
                vec![(IN_MOVED_FROM, "a", true), (IN_MOVED_TO, "b", true)],
            )
        },
    ),
    Case::new(
        "inotify.delete_self",
        "inotify(7)",
        "the last link gone: IN_DELETE_SELF and IN_IGNORED",
        || {
            ok!(close(put(c"f", b"")?));
            let fd = watcher()?;
            let wd = watch(fd, c"f", IN_DELETE_SELF)?;
            ok!(unlink(p(c"f")));
            let masks: Vec<u32> = events(fd)?.into_iter().map(|e| e.mask).collect();
            eq("masks", masks, vec![IN_DELETE_SELF, IN_IGNORED])?;
            err!(EINVAL, inotify_rm_watch(fd, wd));
            Ok(())
        },
    ),
    Case::new(
        "inotify.last_link",
        "inotify(7)",
        "the number of links changes, then the file is gone",
        || {
            ok!(close(put(c"f", b"")?));
            let fd = watcher()?;
            watch(fd, c"f", IN_ALL_EVENTS)?;
            ok!(unlink(p(c"f")));
            let masks: Vec<u32> = events(fd)?.into_iter().map(|e| e.mask).collect();
            eq("masks", masks, vec![IN_ATTRIB, IN_DELETE_SELF, IN_IGNORED])
        },
    ),
    Case::new(
        "inotify.excl_unlink",
        "inotify(7)",
        "events of an unlinked file reach its directory's watch without IN_EXCL_UNLINK only",
        || {
            let file = put(c"f", b"")?;
            let (all, some) = (watcher()?, watcher()?);
            watch(all, c".", IN_MODIFY)?;
            watch(some, c".", IN_MODIFY | IN_EXCL_UNLINK)?;
            write_all(file, b"x")?;
            ok!(unlink(p(c"f")));
            eq("before", brief(all)?, vec![named(IN_MODIFY, "f")])?;
            eq("before", brief(some)?, vec![named(IN_MODIFY, "f")])?;
            write_all(file, b"y")?;
            eq("after", brief(all)?, vec![named(IN_MODIFY, "f")])?;
            eq("after", brief(some)?, vec![])
        },
    ),
    Case::new(
        "inotify.attrib",
        "inotify(7)",
        "chmod, utimes and unlink of a link give IN_ATTRIB",
        || {
            put(c"f", b"")?;
            let fd = watcher()?;
            watch(fd, c"f", IN_ATTRIB)?;
            ok!(chmod(p(c"f"), 0o600));
            eq("events after chmod", brief(fd)?, vec![named(IN_ATTRIB, "")])?;
            ok!(utimensat(AT_FDCWD, p(c"f"), std::ptr::null(), 0));
            eq(
                "events after utimensat",
                brief(fd)?,
                vec![named(IN_ATTRIB, "")],
            )
        },
    ),
    Case::new(
        "inotify.rm_watch",
        "inotify_rm_watch(2)",
        "a removed watch gives IN_IGNORED; EINVAL",
        || {
            let fd = watcher()?;
            let wd = watch(fd, c".", IN_CREATE)?;
            ok!(inotify_rm_watch(fd, wd));
            put(c"f", b"")?;
            eq("events", brief(fd)?, vec![named(IN_IGNORED, "")])?;
            err!(EINVAL, inotify_rm_watch(fd, wd));
            err!(EBADF, inotify_rm_watch(-1, wd));
            err!(EINVAL, inotify_rm_watch(pipe_pair()?.0, wd));
            Ok(())
        },
    ),
    Case::new(
        "inotify.same_watch",
        "inotify_add_watch(2)",
        "a second watch replaces the mask, IN_MASK_ADD adds",
        || {
            let fd = watcher()?;
            let wd = watch(fd, c".", IN_CREATE)?;
            eq("descriptor", watch(fd, c".", IN_DELETE)?, wd)?;
            put(c"f", b"")?;
            eq("events", brief(fd)?, vec![])?;
            eq("descriptor", watch(fd, c".", IN_CREATE | IN_MASK_ADD)?, wd)?;
            put(c"g", b"")?;
            ok!(unlink(p(c"g")));
            eq(
                "events",
                brief(fd)?,
                vec![named(IN_CREATE, "g"), named(IN_DELETE, "g")],
            )?;
            err!(
                EEXIST,
                inotify_add_watch(fd, p(c"."), IN_CREATE | IN_MASK_CREATE)
            );
            Ok(())
        },
    ),
    Case::new(
        "inotify.coalesce",
        "inotify(7)",
        "equal successive events become one",
        || {
            let file = put(c"f", b"")?;
            let fd = watcher()?;
            watch(fd, c"f", IN_MODIFY)?;
            for _ in 0..5 {
                write_all(file, b"x")?;
            }
            eq("events", brief(fd)?, vec![named(IN_MODIFY, "")])
        },
    ),
    Case::new(
        "inotify.oneshot",
        "inotify(7)",
        "IN_ONESHOT removes the watch after one event",
        || {
            let fd = watcher()?;
            watch(fd, c".", IN_CREATE | IN_ONESHOT)?;
            put(c"f", b"")?;
            put(c"g", b"")?;
            eq(
                "events",
                brief(fd)?,
                vec![named(IN_CREATE, "f"), named(IN_IGNORED, "")],
            )
        },
    ),
    Case::new(
        "inotify.errors",
        "inotify_add_watch(2)",
        "EINVAL, ENOENT, EBADF, ENOTDIR, EFAULT, EACCES",
        || {
            let fd = watcher()?;
            put(c"f", b"")?;
            err!(EINVAL, inotify_init1(1 << 20));
            err!(EINVAL, inotify_add_watch(fd, p(c"f"), 0));
            err!(ENOENT, inotify_add_watch(fd, p(c"x"), IN_CREATE));
            err!(
                ENOTDIR,
                inotify_add_watch(fd, p(c"f"), IN_CREATE | IN_ONLYDIR)
            );
            err!(EBADF, inotify_add_watch(-1, p(c"f"), IN_CREATE));
            err!(
                EINVAL,
                inotify_add_watch(pipe_pair()?.0, p(c"f"), IN_CREATE)
            );
            err!(
                EFAULT,
                inotify_add_watch(fd, bad_ptr::<c_char>(), IN_CREATE)
            );
            ok!(chmod(p(c"f"), 0o000));
            as_user(|| {
                err!(EACCES, inotify_add_watch(fd, p(c"f"), IN_CREATE));
                Ok(())
            })
        },
    ),
    Case::new(
        "inotify.short_buffer",
        "inotify(7)",
        "a buffer too small for the next event gives EINVAL",
        || {
            let fd = watcher()?;
            watch(fd, c".", IN_CREATE)?;
            put(c"some-name", b"")?;
            let mut b = [0u8; 16];
            err!(EINVAL, read(fd, b.as_mut_ptr().cast(), 16));
            eq("events", brief(fd)?, vec![named(IN_CREATE, "some-name")])
        },
    ),
    Case::new(
        "inotify.poll_and_fionread",
        "inotify(7)",
        "readable with events; FIONREAD tells bytes",
        || {
            let fd = watcher()?;
            watch(fd, c".", IN_CREATE)?;
            let mut fds = [pollfd {
                fd,
                events: POLLIN,
                revents: 0,
            }];
            gives!(0, poll(fds.as_mut_ptr(), 1, 0));
            put(c"f", b"")?;
            gives!(1, poll(fds.as_mut_ptr(), 1, 0));
            let mut n: c_int = 0;
            ok!(ioctl(fd, FIONREAD, &raw mut n));
            eq("bytes", n, 32)
        },
    ),
    Case::new(
        "inotify.wakes_reader",
        "inotify(7)",
        "a blocked reader is woken by another process",
        || {
            let fd = ok!(inotify_init1(IN_CLOEXEC));
            watch(fd, c".", IN_CREATE)?;
            let me = getpid_now();
            let pid = child(|| {
                let asleep = until_asleep(me);
                i32::from(asleep.is_err() || put(c"f", b"").is_err())
            })?;
            eq("bytes", read_some(fd, 4096)?.len(), 32)?;
            expect_exit(pid, 0)
        },
    ),
];
