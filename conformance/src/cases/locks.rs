//! flock(2), POSIX record locks and open file description locks of fcntl(2).

use crate::case::*;

fn lock(kind: c_int, start: off_t, len: off_t) -> libc::flock {
    let mut l = zeroed::<libc::flock>();
    l.l_type = kind as c_short;
    l.l_whence = SEEK_SET as c_short;
    l.l_start = start;
    l.l_len = len;
    l
}

/// What a child sees when it asks for this lock: the type that stands in its way, and whose.
fn asked_by_child(kind: c_int, start: off_t, len: off_t, want: (c_int, pid_t)) -> Outcome {
    in_child(|| {
        let fd = ok!(open(p(c"f"), O_RDWR));
        let mut l = lock(kind, start, len);
        ok!(fcntl(fd, F_GETLK, &raw mut l));
        eq(
            "F_GETLK type and pid",
            (c_int::from(l.l_type), l.l_pid),
            want,
        )
    })
}

pub static CASES: &[Case] = &[
    Case::new(
        "flock.exclusive",
        "flock(2)",
        "a second open file description gets EWOULDBLOCK",
        || {
            let a = put(c"f", b"")?;
            let b = ok!(open(p(c"f"), O_RDWR));
            ok!(flock(a, LOCK_EX));
            err!(EWOULDBLOCK, flock(b, LOCK_EX | LOCK_NB));
            err!(EWOULDBLOCK, flock(b, LOCK_SH | LOCK_NB));
            ok!(flock(a, LOCK_UN));
            ok!(flock(b, LOCK_EX | LOCK_NB));
            Ok(())
        },
    ),
    Case::new(
        "flock.shared",
        "flock(2)",
        "shared locks live side by side",
        || {
            let a = put(c"f", b"")?;
            let b = ok!(open(p(c"f"), O_RDONLY));
            ok!(flock(a, LOCK_SH));
            ok!(flock(b, LOCK_SH | LOCK_NB));
            err!(EWOULDBLOCK, flock(a, LOCK_EX | LOCK_NB));
            Ok(())
        },
    ),
    Case::new(
        "flock.dup_and_fork",
        "flock(2)",
        "the lock belongs to the open file description",
        || {
            let a = put(c"f", b"")?;
            ok!(flock(a, LOCK_EX));
            let dup_fd = ok!(dup(a));
            ok!(flock(dup_fd, LOCK_EX | LOCK_NB));
            in_child(|| {
                ok!(flock(a, LOCK_EX | LOCK_NB));
                Ok(())
            })?;
            ok!(close(a));
            let b = ok!(open(p(c"f"), O_RDWR));
            err!(EWOULDBLOCK, flock(b, LOCK_EX | LOCK_NB));
            ok!(close(dup_fd));
            ok!(flock(b, LOCK_EX | LOCK_NB));
            Ok(())
        },
    ),
    Case::new(
        "flock.blocks",
        "flock(2)",
        "flock waits until the holder is gone",
        || {
            let a = put(c"f", b"")?;
            ok!(flock(a, LOCK_EX));
            let released = map_shared(4096)?;
            let pid = child(|| {
                raw!(close(a));
                let b = raw!(open(p(c"f"), O_RDWR));
                let got = raw!(flock(b, LOCK_EX));
                i32::from(got != 0 || unsafe { released.read_volatile() } != 1)
            })?;
            until_asleep(pid)?;
            unsafe { released.write_volatile(1) };
            ok!(flock(a, LOCK_UN));
            expect_exit(pid, 0)
        },
    ),
    Case::new("flock.errors", "flock(2)", "EBADF and EINVAL", || {
        let a = put(c"f", b"")?;
        err!(EBADF, flock(-1, LOCK_EX));
        err!(EINVAL, flock(a, 0));
        err!(EINVAL, flock(a, LOCK_SH | LOCK_EX));
        Ok(())
    }),
    Case::new(
        "posix_lock.conflict",
        "fcntl(2)",
        "another process gets EAGAIN, and sees the holder",
        || {
            let fd = put(c"f", b"")?;
            ok!(fcntl(fd, F_SETLK, &lock(F_WRLCK, 10, 10)));
            let me = raw!(getpid());
            in_child(|| {
                let fd = ok!(open(p(c"f"), O_RDWR));
                err_any!([EAGAIN, EACCES], fcntl(fd, F_SETLK, &lock(F_RDLCK, 15, 1)));
                ok!(fcntl(fd, F_SETLK, &lock(F_WRLCK, 20, 1)));
                Ok(())
            })?;
            asked_by_child(F_RDLCK, 0, 0, (F_WRLCK, me))?;
            asked_by_child(F_WRLCK, 0, 10, (F_UNLCK, 0))
        },
    ),
    Case::new(
        "posix_lock.own_never_conflict",
        "fcntl(2)",
        "a process replaces its own locks",
        || {
            let fd = put(c"f", b"")?;
            ok!(fcntl(fd, F_SETLK, &lock(F_WRLCK, 0, 100)));
            ok!(fcntl(fd, F_SETLK, &lock(F_RDLCK, 0, 50)));
            let me = raw!(getpid());
            asked_by_child(F_WRLCK, 0, 50, (F_RDLCK, me))?;
            asked_by_child(F_RDLCK, 0, 50, (F_UNLCK, 0))?;
            asked_by_child(F_RDLCK, 50, 50, (F_WRLCK, me))
        },
    ),
    Case::new(
        "posix_lock.split",
        "fcntl(2)",
        "unlocking the middle leaves two locks",
        || {
            let fd = put(c"f", b"")?;
            ok!(fcntl(fd, F_SETLK, &lock(F_WRLCK, 0, 30)));
            ok!(fcntl(fd, F_SETLK, &lock(F_UNLCK, 10, 10)));
            let me = raw!(getpid());
            asked_by_child(F_WRLCK, 0, 10, (F_WRLCK, me))?;
            asked_by_child(F_WRLCK, 10, 10, (F_UNLCK, 0))?;
            asked_by_child(F_WRLCK, 20, 10, (F_WRLCK, me))
        },
    ),
    Case::new(
        "posix_lock.close_drops_all",
        "fcntl(2)",
        "closing any descriptor of a file drops them",
        || {
            let fd = put(c"f", b"")?;
            ok!(fcntl(fd, F_SETLK, &lock(F_WRLCK, 0, 0)));
            let other = ok!(open(p(c"f"), O_RDONLY));
            ok!(close(other));
            asked_by_child(F_WRLCK, 0, 0, (F_UNLCK, 0))
        },
    ),
    Case::new(
        "posix_lock.not_inherited",
        "fork(2)",
        "a child does not inherit record locks",
        || {
            let fd = put(c"f", b"")?;
            ok!(fcntl(fd, F_SETLK, &lock(F_WRLCK, 0, 0)));
            in_child(|| {
                err_any!([EAGAIN, EACCES], fcntl(fd, F_SETLK, &lock(F_WRLCK, 0, 0)));
                Ok(())
            })
        },
    ),
    Case::new(
        "posix_lock.gone_with_process",
        "fcntl(2)",
        "locks go when their process ends",
        || {
            put(c"f", b"")?;
            in_child(|| {
                let fd = ok!(open(p(c"f"), O_RDWR));
                ok!(fcntl(fd, F_SETLK, &lock(F_WRLCK, 0, 0)));
                Ok(())
            })?;
            asked_by_child(F_WRLCK, 0, 0, (F_UNLCK, 0))
        },
    ),
    Case::new(
        "posix_lock.setlkw_waits",
        "fcntl(2)",
        "F_SETLKW waits for the holder",
        || {
            let fd = put(c"f", b"")?;
            ok!(fcntl(fd, F_SETLK, &lock(F_WRLCK, 0, 0)));
            let released = map_shared(4096)?;
            let pid = child(|| {
                let fd = raw!(open(p(c"f"), O_RDWR));
                let got = raw!(fcntl(fd, F_SETLKW, &lock(F_WRLCK, 0, 0)));
                i32::from(got != 0 || unsafe { released.read_volatile() } != 1)
            })?;
            until_asleep(pid)?;
            unsafe { released.write_volatile(1) };
            ok!(fcntl(fd, F_SETLK, &lock(F_UNLCK, 0, 0)));
            expect_exit(pid, 0)
        },
    ),
    Case::new(
        "posix_lock.deadlock",
        "fcntl(2)",
        "a cycle of waiting processes gives EDEADLK",
        || {
            let fd = put(c"f", b"")?;
            ok!(fcntl(fd, F_SETLK, &lock(F_WRLCK, 0, 1)));
            let (r, w) = pipe_pair()?;
            let pid = child(|| {
                raw!(fcntl(fd, F_SETLK, &lock(F_WRLCK, 1, 1)));
                raw!(write(w, c"1".as_ptr().cast(), 1));
                let got = raw!(fcntl(fd, F_SETLKW, &lock(F_WRLCK, 0, 1)));
                i32::from(got == -1 && errno() == EDEADLK)
            })?;
            eq("the child is there", read_some(r, 1)?, b"1".to_vec())?;
            // Whichever of the two closes the cycle is refused; the other one gets its lock.
            let got = raw!(fcntl(fd, F_SETLKW, &lock(F_WRLCK, 1, 1)));
            let why = errno();
            ensure!(
                got == 0 || why == EDEADLK,
                "F_SETLKW: expected EDEADLK, got {}",
                errno_name(why)
            );
            ok!(fcntl(fd, F_SETLK, &lock(F_UNLCK, 0, 0)));
            expect_exit(pid, i32::from(got == 0))
        },
    ),
    Case::new(
        "posix_lock.errors",
        "fcntl(2)",
        "EBADF by access mode, EINVAL, EFAULT",
        || {
            put(c"f", b"")?;
            let fd = ok!(open(p(c"f"), O_RDONLY));
            err!(EBADF, fcntl(fd, F_SETLK, &lock(F_WRLCK, 0, 0)));
            let fd = ok!(open(p(c"f"), O_WRONLY));
            err!(EBADF, fcntl(fd, F_SETLK, &lock(F_RDLCK, 0, 0)));
            err!(EINVAL, fcntl(fd, F_SETLK, &lock(99, 0, 0)));
            err!(EINVAL, fcntl(fd, F_SETLK, &lock(F_WRLCK, -5, 1)));
            err!(EFAULT, fcntl(fd, F_SETLK, bad_ptr::<u8>()));
            Ok(())
        },
    ),
    Case::new(
        "ofd_lock.conflict",
        "fcntl(2)",
        "two open file descriptions of a process conflict",
        || {
            let a = put(c"f", b"")?;
            let b = ok!(open(p(c"f"), O_RDWR));
            ok!(fcntl(a, F_OFD_SETLK, &lock(F_WRLCK, 0, 0)));
            err!(EAGAIN, fcntl(b, F_OFD_SETLK, &lock(F_RDLCK, 5, 1)));
            let mut l = lock(F_RDLCK, 0, 0);
            ok!(fcntl(b, F_OFD_GETLK, &raw mut l));
            eq(
                "type and pid",
                (c_int::from(l.l_type), l.l_pid),
                (F_WRLCK, -1),
            )?;
            ok!(close(a));
            ok!(fcntl(b, F_OFD_SETLK, &lock(F_WRLCK, 0, 0)));
            Ok(())
        },
    ),
    Case::new("ofd_lock.pid_einval", "fcntl(2)", "l_pid must be 0", || {
        let a = put(c"f", b"")?;
        let mut l = lock(F_WRLCK, 0, 0);
        l.l_pid = 1;
        err!(EINVAL, fcntl(a, F_OFD_SETLK, &raw const l));
        Ok(())
    }),
];
