//! open(2), openat2(2), creat(2), close(2), close_range(2) and the O_* flags.

use crate::case::*;
use std::ffi::CStr;

const RW_CREATE: c_int = O_RDWR | O_CREAT;

fn openat2_raw(dir: c_int, path: &CStr, flags: u64, mode: u64, resolve: u64) -> c_long {
    let how = [flags, mode, resolve];
    raw!(syscall(SYS_openat2, dir, p(path), how.as_ptr(), 24usize))
}

fn openat2_is(path: &CStr, resolve: u64, want: i32) -> Outcome {
    let got = openat2_raw(AT_FDCWD, path, O_RDONLY as u64, 0, resolve);
    let call = format!("openat2({path:?}, O_RDONLY, resolve={resolve:#x})");
    if want == 0 {
        succeeded(&call, got).map(drop)
    } else {
        failed_with(&call, got, &[want])
    }
}

pub static CASES: &[Case] = &[
    Case::new(
        "open.enoent",
        "open(2)",
        "a missing file without O_CREAT gives ENOENT",
        || {
            err!(ENOENT, open(p(c"missing"), O_RDONLY));
            Ok(())
        },
    ),
    Case::new(
        "open.empty_path",
        "path_resolution(7)",
        "an empty pathname gives ENOENT",
        || {
            err!(ENOENT, open(p(c""), O_RDONLY));
            Ok(())
        },
    ),
    Case::new(
        "open.enotdir_component",
        "open(2)",
        "a file as a path component gives ENOTDIR",
        || {
            put(c"f", b"")?;
            err!(ENOTDIR, open(p(c"f/x"), O_RDONLY));
            Ok(())
        },
    ),
    Case::new(
        "open.o_directory",
        "open(2)",
        "O_DIRECTORY on a regular file gives ENOTDIR",
        || {
            put(c"f", b"")?;
            err!(ENOTDIR, open(p(c"f"), O_RDONLY | O_DIRECTORY));
            Ok(())
        },
    ),
    Case::new(
        "open.eisdir",
        "open(2)",
        "a directory opened for writing gives EISDIR",
        || {
            mkdir_at(c"d")?;
            err!(EISDIR, open(p(c"d"), O_WRONLY));
            err!(EISDIR, open(p(c"d"), O_RDWR));
            Ok(())
        },
    ),
    Case::new(
        "open.creat_on_directory",
        "open(2)",
        "O_CREAT on a directory gives EISDIR",
        || {
            mkdir_at(c"d")?;
            err!(EISDIR, open(p(c"d"), O_RDONLY | O_CREAT, 0o644));
            Ok(())
        },
    ),
    Case::new(
        "open.excl",
        "open(2)",
        "O_CREAT|O_EXCL on an existing file gives EEXIST",
        || {
            put(c"f", b"")?;
            err!(EEXIST, open(p(c"f"), RW_CREATE | O_EXCL, 0o644));
            Ok(())
        },
    ),
    Case::new(
        "open.excl_symlink",
        "open(2)",
        "O_EXCL does not follow a dangling symlink",
        || {
            ok!(symlink(p(c"nowhere"), p(c"l")));
            err!(EEXIST, open(p(c"l"), RW_CREATE | O_EXCL, 0o644));
            err!(ENOENT, access(p(c"nowhere"), F_OK));
            Ok(())
        },
    ),
    Case::new(
        "open.creat_through_symlink",
        "open(2)",
        "O_CREAT follows a dangling symlink",
        || {
            ok!(symlink(p(c"target"), p(c"l")));
            ok!(open(p(c"l"), RW_CREATE, 0o644));
            ok!(access(p(c"target"), F_OK));
            Ok(())
        },
    ),
    Case::new(
        "open.nofollow",
        "open(2)",
        "O_NOFOLLOW on a symbolic link gives ELOOP",
        || {
            put(c"f", b"")?;
            ok!(symlink(p(c"f"), p(c"l")));
            err!(ELOOP, open(p(c"l"), O_RDONLY | O_NOFOLLOW));
            Ok(())
        },
    ),
    Case::new(
        "open.nofollow_path",
        "open(2)",
        "O_PATH|O_NOFOLLOW opens the link itself",
        || {
            ok!(symlink(p(c"f"), p(c"l")));
            let fd = ok!(open(p(c"l"), O_PATH | O_NOFOLLOW));
            eq_octal(
                "type of the opened link",
                fstat_of(fd)?.st_mode & S_IFMT,
                S_IFLNK,
            )
        },
    ),
    Case::new(
        "open.eloop",
        "open(2)",
        "a symbolic link to itself gives ELOOP",
        || {
            ok!(symlink(p(c"l"), p(c"l")));
            err!(ELOOP, open(p(c"l"), O_RDONLY));
            Ok(())
        },
    ),
    Case::new(
        "open.many_links",
        "path_resolution(7)",
        "40 links resolve, 41 give ELOOP",
        || {
            put(c"l0", b"")?;
            for i in 1..=41 {
                let (from, to) = (cstring(format!("l{i}")), cstring(format!("l{}", i - 1)));
                ok!(symlink(to.as_ptr(), from.as_ptr()));
            }
            ok!(open(p(c"l40"), O_RDONLY));
            err!(ELOOP, open(p(c"l41"), O_RDONLY));
            Ok(())
        },
    ),
    Case::new(
        "open.enametoolong",
        "open(2)",
        "256 bytes of file name give ENAMETOOLONG",
        || {
            let name = cstring("n".repeat(256));
            err!(ENAMETOOLONG, open(name.as_ptr(), RW_CREATE, 0o644));
            ok!(open(cstring("n".repeat(255)).as_ptr(), RW_CREATE, 0o644));
            Ok(())
        },
    ),
    Case::new(
        "open.path_max",
        "path_resolution(7)",
        "4096 bytes of path give ENAMETOOLONG",
        || {
            put(c"f", b"")?;
            // 4094 bytes and the terminating zero still fit.
            let fits = cstring(format!("{}f", "./".repeat(2046)));
            ok!(open(fits.as_ptr(), O_RDONLY));
            let long = cstring(format!("{}f", ".".to_string() + &"/".repeat(4094)));
            err!(ENAMETOOLONG, open(long.as_ptr(), O_RDONLY));
            Ok(())
        },
    ),
    Case::new(
        "open.efault",
        "open(2)",
        "a bad pathname pointer gives EFAULT",
        || {
            err!(EFAULT, open(bad_ptr::<c_char>(), O_RDONLY));
            Ok(())
        },
    ),
    Case::new("open.trunc", "open(2)", "O_TRUNC empties the file", || {
        put(c"f", b"hello")?;
        let fd = ok!(open(p(c"f"), O_WRONLY | O_TRUNC));
        eq("size", fstat_of(fd)?.st_size, 0)
    }),
    Case::new(
        "open.append",
        "open(2)",
        "O_APPEND writes at the end whatever the offset",
        || {
            put(c"f", b"hello")?;
            let fd = ok!(open(p(c"f"), O_RDWR | O_APPEND));
            gives!(0, lseek(fd, 0, SEEK_SET));
            write_all(fd, b"!")?;
            gives!(6, lseek(fd, 0, SEEK_CUR));
            eq("content", slurp("f")?, "hello!".to_string())
        },
    ),
    Case::new(
        "open.append_pwrite",
        "pwrite(2)",
        "on O_APPEND pwrite appends (BUGS)",
        || {
            put(c"f", b"hello")?;
            let fd = ok!(open(p(c"f"), O_RDWR | O_APPEND));
            gives!(1, pwrite(fd, c"!".as_ptr().cast(), 1, 0));
            eq("content", slurp("f")?, "hello!".to_string())
        },
    ),
    Case::new(
        "open.umask",
        "open(2)",
        "the mode of a new file is mode & ~umask",
        || {
            raw!(umask(0o027));
            let fd = ok!(open(p(c"f"), RW_CREATE, 0o666));
            eq_octal("mode", fstat_of(fd)?.st_mode & 0o7777, 0o640)
        },
    ),
    Case::new(
        "open.mode_not_applied",
        "open(2)",
        "the mode does not limit the new descriptor",
        || {
            let fd = ok!(open(p(c"f"), RW_CREATE, 0o000));
            write_all(fd, b"x")
        },
    ),
    Case::new(
        "open.lowest_fd",
        "open(2)",
        "the lowest free descriptor is returned",
        || {
            put(c"f", b"")?;
            let a = ok!(open(p(c"f"), O_RDONLY));
            let b = ok!(open(p(c"f"), O_RDONLY));
            ensure!(b > a, "second descriptor {b} is not above the first {a}");
            ok!(close(a));
            gives!(a, open(p(c"f"), O_RDONLY));
            Ok(())
        },
    ),
    Case::new(
        "open.cloexec",
        "open(2)",
        "O_CLOEXEC sets FD_CLOEXEC, its absence does not",
        || {
            put(c"f", b"")?;
            let fd = ok!(open(p(c"f"), O_RDONLY | O_CLOEXEC));
            gives!(FD_CLOEXEC, fcntl(fd, F_GETFD));
            let fd = ok!(open(p(c"f"), O_RDONLY));
            gives!(0, fcntl(fd, F_GETFD));
            Ok(())
        },
    ),
    Case::new(
        "open.ebadf_modes",
        "read(2)",
        "reading O_WRONLY or writing O_RDONLY gives EBADF",
        || {
            put(c"f", b"x")?;
            let mut b = 0u8;
            let fd = ok!(open(p(c"f"), O_WRONLY));
            err!(EBADF, read(fd, (&raw mut b).cast(), 1));
            let fd = ok!(open(p(c"f"), O_RDONLY));
            err!(EBADF, write(fd, (&raw const b).cast(), 1));
            Ok(())
        },
    ),
    Case::new(
        "open.o_path",
        "open(2)",
        "an O_PATH descriptor cannot be read, but fstat works",
        || {
            put(c"f", b"abc")?;
            let fd = ok!(open(p(c"f"), O_PATH));
            let mut b = 0u8;
            err!(EBADF, read(fd, (&raw mut b).cast(), 1));
            err!(EBADF, fchmod(fd, 0o600));
            err!(EBADF, ioctl(fd, FIONREAD, &raw mut b));
            eq("size", fstat_of(fd)?.st_size, 3)
        },
    ),
    Case::new(
        "open.dirfd",
        "openat(2)",
        "a relative path starts at dirfd",
        || {
            mkdir_at(c"d")?;
            let dir = ok!(open(p(c"d"), O_RDONLY | O_DIRECTORY));
            ok!(openat(dir, p(c"f"), RW_CREATE, 0o644));
            ok!(access(p(c"d/f"), F_OK));
            Ok(())
        },
    ),
    Case::new(
        "open.dirfd_ebadf",
        "openat(2)",
        "a bad dirfd gives EBADF for a relative path only",
        || {
            err!(EBADF, openat(-1, p(c"f"), O_RDONLY));
            ok!(openat(-1, p(c"/"), O_RDONLY));
            Ok(())
        },
    ),
    Case::new(
        "open.dirfd_enotdir",
        "openat(2)",
        "a file as dirfd gives ENOTDIR",
        || {
            let fd = put(c"f", b"")?;
            err!(ENOTDIR, openat(fd, p(c"x"), O_RDONLY));
            Ok(())
        },
    ),
    Case::new(
        "open.tmpfile",
        "open(2)",
        "O_TMPFILE makes a nameless file that linkat can name",
        || {
            let fd = raw!(open(p(c"."), O_TMPFILE | O_RDWR, 0o600));
            if fd == -1 && errno() == EOPNOTSUPP {
                skip!("the scratch file system has no O_TMPFILE");
            }
            succeeded("open(., O_TMPFILE)", fd)?;
            eq("links", fstat_of(fd)?.st_nlink, 0)?;
            write_all(fd, b"x")?;
            let link = cstring(format!("/proc/self/fd/{fd}"));
            ok!(linkat(
                AT_FDCWD,
                link.as_ptr(),
                AT_FDCWD,
                p(c"named"),
                AT_SYMLINK_FOLLOW
            ));
            eq("content", slurp("named")?, "x".to_string())
        },
    ),
    Case::new(
        "open.tmpfile_rdonly",
        "open(2)",
        "O_TMPFILE without write access gives EINVAL",
        || {
            err!(EINVAL, open(p(c"."), O_TMPFILE | O_RDONLY, 0o600));
            Ok(())
        },
    ),
    Case::new(
        "open.eacces",
        "open(2)",
        "a file without permission gives EACCES",
        || {
            put(c"f", b"")?;
            ok!(chmod(p(c"f"), 0o000));
            as_user(|| {
                err!(EACCES, open(p(c"f"), O_RDONLY));
                err!(EACCES, open(p(c"f"), O_WRONLY));
                Ok(())
            })
        },
    ),
    Case::new(
        "open.eacces_search",
        "open(2)",
        "a directory without search permission gives EACCES",
        || {
            mkdir_at(c"d")?;
            put(c"d/f", b"")?;
            ok!(chmod(p(c"d"), 0o600));
            as_user(|| {
                err!(EACCES, open(p(c"d/f"), O_RDONLY));
                Ok(())
            })
        },
    ),
    Case::new(
        "open.eacces_create",
        "open(2)",
        "creating in an unwritable directory gives EACCES",
        || {
            mkdir_at(c"d")?;
            ok!(chmod(p(c"d"), 0o555));
            as_user(|| {
                err!(EACCES, open(p(c"d/f"), RW_CREATE, 0o644));
                Ok(())
            })
        },
    ),
    Case::new(
        "open.emfile",
        "open(2)",
        "beyond RLIMIT_NOFILE gives EMFILE",
        || {
            let next = ok!(open(p(c"."), O_RDONLY));
            let limit = rlimit {
                rlim_cur: next as u64 + 1,
                rlim_max: next as u64 + 1,
            };
            ok!(setrlimit(RLIMIT_NOFILE, &limit));
            err!(EMFILE, open(p(c"."), O_RDONLY));
            Ok(())
        },
    ),
    Case::new(
        "open.etxtbsy",
        "open(2)",
        "a running program opened for writing gives ETXTBSY",
        || {
            let status = std::fs::copy("/proc/self/exe", "prog");
            ensure!(status.is_ok(), "copying /proc/self/exe: {status:?}");
            ok!(chmod(p(c"prog"), 0o755));
            // A vforked child reports through exec's close-on-exec pipe that it runs the copy.
            let (r, w) = pipe_pair()?;
            let (hold_r, hold_w) = pipe_pair()?;
            let pid = child(|| {
                raw!(dup2(hold_r, 0));
                raw!(fcntl(0, F_SETFD, 0));
                let argv = [
                    c"prog".as_ptr(),
                    c"helper".as_ptr(),
                    c"wait".as_ptr(),
                    std::ptr::null(),
                ];
                raw!(execv(p(c"prog"), argv.as_ptr()));
                1
            })?;
            ok!(close(w));
            eq("bytes before exec", read_some(r, 1)?.len(), 0)?;
            err!(ETXTBSY, open(p(c"prog"), O_WRONLY));
            ok!(close(hold_w));
            wait_for(pid).map(drop)
        },
    ),
    Case::new(
        "open.write_while_exec",
        "execve(2)",
        "a program open for writing gives ETXTBSY",
        || {
            put(c"prog", b"#!/bin/sh\n")?;
            ok!(chmod(p(c"prog"), 0o755));
            let argv = [c"prog".as_ptr(), std::ptr::null()];
            err!(ETXTBSY, execv(p(c"prog"), argv.as_ptr()));
            Ok(())
        },
    ),
    Case::new(
        "open.trailing_slash",
        "path_resolution(7)",
        "a file name with a trailing slash fails",
        || {
            put(c"f", b"")?;
            err!(ENOTDIR, open(p(c"f/"), O_RDONLY));
            err!(EISDIR, open(p(c"new/"), RW_CREATE, 0o644));
            Ok(())
        },
    ),
    Case::new(
        "open.fifo_enxio",
        "open(2)",
        "O_WRONLY|O_NONBLOCK on a readerless FIFO gives ENXIO",
        || {
            ok!(mkfifo(p(c"fifo"), 0o600));
            err!(ENXIO, open(p(c"fifo"), O_WRONLY | O_NONBLOCK));
            ok!(open(p(c"fifo"), O_RDONLY | O_NONBLOCK));
            ok!(open(p(c"fifo"), O_WRONLY | O_NONBLOCK));
            Ok(())
        },
    ),
    Case::new(
        "open.socket_enxio",
        "open(2)",
        "opening a socket file gives ENXIO",
        || {
            let fd = ok!(socket(AF_UNIX, SOCK_STREAM, 0));
            let mut addr = zeroed::<sockaddr_un>();
            addr.sun_family = AF_UNIX as u16;
            addr.sun_path[0] = b's' as c_char;
            ok!(bind(
                fd,
                (&raw const addr).cast(),
                size_of::<sockaddr_un>() as u32
            ));
            err!(ENXIO, open(p(c"s"), O_RDWR));
            Ok(())
        },
    ),
    Case::new(
        "open.noatime",
        "open(2)",
        "O_NOATIME on a foreign file gives EPERM",
        || {
            need_root()?;
            put(c"f", b"")?;
            as_user(|| {
                err!(EPERM, open(p(c"f"), O_RDONLY | O_NOATIME));
                Ok(())
            })
        },
    ),
    Case::new(
        "open.getfl",
        "fcntl(2)",
        "F_GETFL tells the access mode and status flags",
        || {
            let fd = ok!(open(
                p(c"f"),
                O_WRONLY | O_CREAT | O_APPEND | O_NONBLOCK,
                0o644
            ));
            let flags = ok!(fcntl(fd, F_GETFL)) & !O_LARGEFILE & !0o100000;
            eq_octal(
                "F_GETFL",
                flags as u32,
                (O_WRONLY | O_APPEND | O_NONBLOCK) as u32,
            )
        },
    ),
    Case::new(
        "open.close_ebadf",
        "close(2)",
        "closing a closed descriptor gives EBADF",
        || {
            let fd = put(c"f", b"")?;
            ok!(close(fd));
            err!(EBADF, close(fd));
            err!(EBADF, close(-1));
            Ok(())
        },
    ),
    Case::new(
        "open.close_range",
        "close_range(2)",
        "close_range closes just that range",
        || {
            let fd = put(c"f", b"")?;
            let base = ok!(fcntl(fd, F_DUPFD, 100));
            for i in 1..=3 {
                gives!(base + i, dup2(fd, base + i));
            }
            ok!(syscall(SYS_close_range, base + 1, base + 2, 0));
            ok!(fcntl(base, F_GETFD));
            err!(EBADF, fcntl(base + 1, F_GETFD));
            err!(EBADF, fcntl(base + 2, F_GETFD));
            ok!(fcntl(base + 3, F_GETFD));
            Ok(())
        },
    ),
    Case::new(
        "open.close_range_cloexec",
        "close_range(2)",
        "CLOSE_RANGE_CLOEXEC only marks",
        || {
            let fd = put(c"f", b"")?;
            let high = ok!(fcntl(fd, F_DUPFD, 100));
            ok!(syscall(SYS_close_range, high, high, CLOSE_RANGE_CLOEXEC));
            gives!(FD_CLOEXEC, fcntl(high, F_GETFD));
            Ok(())
        },
    ),
    Case::new(
        "open.close_range_einval",
        "close_range(2)",
        "first > last or unknown flags give EINVAL",
        || {
            err!(EINVAL, syscall(SYS_close_range, 200, 100, 0));
            err!(EINVAL, syscall(SYS_close_range, 100, 200, 1 << 20));
            Ok(())
        },
    ),
    Case::new(
        "openat2.unknown_flags",
        "openat2(2)",
        "unknown flags, unlike open, give EINVAL",
        || {
            put(c"f", b"")?;
            let got = openat2_raw(AT_FDCWD, c"f", 1 << 40, 0, 0);
            failed_with("openat2(flags=1<<40)", got, &[EINVAL])?;
            openat2_is(c"f", 1 << 30, EINVAL)?;
            let got = openat2_raw(AT_FDCWD, c"f", O_RDONLY as u64, 0o644, 0);
            failed_with("openat2(mode without O_CREAT)", got, &[EINVAL])
        },
    ),
    Case::new(
        "openat2.size",
        "openat2(2)",
        "a short size gives EINVAL, unknown bytes E2BIG",
        || {
            put(c"f", b"")?;
            let how = [O_RDONLY as u64, 0, 0, 1];
            err!(
                EINVAL,
                syscall(SYS_openat2, AT_FDCWD, p(c"f"), how.as_ptr(), 23usize)
            );
            err!(
                E2BIG,
                syscall(SYS_openat2, AT_FDCWD, p(c"f"), how.as_ptr(), 32usize)
            );
            let how = [O_RDONLY as u64, 0, 0, 0];
            ok!(syscall(
                SYS_openat2,
                AT_FDCWD,
                p(c"f"),
                how.as_ptr(),
                32usize
            ));
            Ok(())
        },
    ),
    Case::new(
        "openat2.beneath",
        "openat2(2)",
        "RESOLVE_BENEATH refuses to leave with EXDEV",
        || {
            put(c"f", b"")?;
            mkdir_at(c"d")?;
            ok!(symlink(p(c"/"), p(c"abs")));
            openat2_is(c"d/../f", RESOLVE_BENEATH, 0)?;
            openat2_is(c"../x", RESOLVE_BENEATH, EXDEV)?;
            openat2_is(c"/", RESOLVE_BENEATH, EXDEV)?;
            openat2_is(c"abs", RESOLVE_BENEATH, EXDEV)
        },
    ),
    Case::new(
        "openat2.in_root",
        "openat2(2)",
        "RESOLVE_IN_ROOT takes dirfd for the root",
        || {
            put(c"f", b"")?;
            ok!(symlink(p(c"/f"), p(c"abs")));
            openat2_is(c"/f", RESOLVE_IN_ROOT, 0)?;
            openat2_is(c"../../f", RESOLVE_IN_ROOT, 0)?;
            openat2_is(c"abs", RESOLVE_IN_ROOT, 0)?;
            openat2_is(c"/etc", RESOLVE_IN_ROOT, ENOENT)
        },
    ),
    Case::new(
        "openat2.no_symlinks",
        "openat2(2)",
        "RESOLVE_NO_SYMLINKS gives ELOOP on any link",
        || {
            mkdir_at(c"d")?;
            put(c"d/f", b"")?;
            ok!(symlink(p(c"d"), p(c"l")));
            openat2_is(c"d/f", RESOLVE_NO_SYMLINKS, 0)?;
            openat2_is(c"l/f", RESOLVE_NO_SYMLINKS, ELOOP)
        },
    ),
    Case::new(
        "openat2.no_magiclinks",
        "openat2(2)",
        "RESOLVE_NO_MAGICLINKS refuses /proc links",
        || {
            let fd = put(c"f", b"")?;
            let link = cstring(format!("/proc/self/fd/{fd}"));
            openat2_is(&link, 0, 0)?;
            openat2_is(&link, RESOLVE_NO_MAGICLINKS, ELOOP)
        },
    ),
];
