//! What stands in an inode: stat(2), statx(2), chmod(2), chown(2), truncate(2), getdents64(2),
//! statfs(2) and extended attributes.

use crate::case::*;
use std::collections::BTreeSet;
use std::ffi::CStr;

fn statx_of(dir: c_int, path: &CStr, flags: c_int, mask: c_uint) -> Outcome<statx> {
    let mut st = zeroed::<statx>();
    ok!(statx(dir, p(path), flags, mask, &mut st));
    Ok(st)
}

/// Names and types a directory stream gives, read with this buffer size.
fn entries(fd: c_int, size: usize) -> Outcome<Vec<(String, u8)>> {
    let mut found = Vec::new();
    let mut buf = vec![0u8; size];
    loop {
        let n = ok!(syscall(SYS_getdents64, fd, buf.as_mut_ptr(), size)) as usize;
        if n == 0 {
            return Ok(found);
        }
        let mut at = 0;
        while at < n {
            let reclen = u16::from_ne_bytes([buf[at + 16], buf[at + 17]]) as usize;
            ensure!(
                reclen >= 20 && at + reclen <= n,
                "bad d_reclen {reclen} at {at} of {n}"
            );
            let kind = buf[at + 18];
            let name = &buf[at + 19..at + reclen];
            let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
            found.push((String::from_utf8_lossy(&name[..end]).into_owned(), kind));
            at += reclen;
        }
    }
}

fn set(path: &CStr, name: &CStr, value: &[u8], flags: c_int) -> c_int {
    raw!(setxattr(
        p(path),
        p(name),
        value.as_ptr().cast(),
        value.len(),
        flags
    ))
}

/// A file with `user.a` set, or a skip where user attributes are not supported.
fn with_xattr() -> Outcome {
    put(c"f", b"")?;
    if set(c"f", c"user.a", b"value", 0) == -1 && errno() == EOPNOTSUPP {
        skip!("the scratch file system has no user xattrs");
    }
    succeeded("setxattr(f, user.a)", set(c"f", c"user.a", b"value", 0)).map(drop)
}

fn get(path: &CStr, name: &CStr) -> Outcome<Vec<u8>> {
    let mut buf = vec![0u8; 256];
    let n = ok!(getxattr(
        p(path),
        p(name),
        buf.as_mut_ptr().cast(),
        buf.len()
    ));
    buf.truncate(n as usize);
    Ok(buf)
}

pub static CASES: &[Case] = &[
    Case::new(
        "stat.errors",
        "stat(2)",
        "ENOENT, ENOTDIR, EFAULT and EBADF",
        || {
            put(c"f", b"")?;
            let mut st = zeroed::<libc::stat>();
            err!(ENOENT, stat(p(c"x"), &mut st));
            err!(ENOENT, stat(p(c""), &mut st));
            err!(ENOTDIR, stat(p(c"f/x"), &mut st));
            err!(
                EFAULT,
                syscall(SYS_newfstatat, AT_FDCWD, p(c"f"), bad_ptr::<u8>(), 0)
            );
            err!(EBADF, fstat(-1, &mut st));
            err!(EINVAL, fstatat(AT_FDCWD, p(c"f"), &mut st, 1 << 20));
            Ok(())
        },
    ),
    Case::new(
        "stat.fields",
        "stat(2)",
        "type, mode, links, owner, size and block size",
        || {
            put(c"f", b"12345")?;
            let st = stat_of(c"f")?;
            eq_octal("mode", st.st_mode, S_IFREG | 0o644)?;
            eq("links", st.st_nlink, 1)?;
            eq(
                "owner",
                (st.st_uid, st.st_gid),
                (raw!(geteuid()), raw!(getegid())),
            )?;
            eq("size", st.st_size, 5)?;
            ensure!(st.st_blksize >= 512, "st_blksize {}", st.st_blksize);
            Ok(())
        },
    ),
    Case::new(
        "stat.empty_path",
        "fstatat(2)",
        "AT_EMPTY_PATH with an empty path is fstat",
        || {
            let fd = put(c"f", b"123")?;
            let mut st = zeroed::<libc::stat>();
            ok!(fstatat(fd, p(c""), &mut st, AT_EMPTY_PATH));
            eq("size", st.st_size, 3)?;
            err!(ENOENT, fstatat(fd, p(c""), &mut st, 0));
            Ok(())
        },
    ),
    Case::new(
        "stat.pipe_and_socket",
        "fstat(2)",
        "pipes are FIFOs, sockets are sockets",
        || {
            let (r, _) = pipe_pair()?;
            eq_octal("pipe", fstat_of(r)?.st_mode & S_IFMT, S_IFIFO)?;
            let (a, _) = socket_pair(SOCK_STREAM)?;
            eq_octal("socket", fstat_of(a)?.st_mode & S_IFMT, S_IFSOCK)
        },
    ),
    Case::new(
        "stat.times_move",
        "inode(7)",
        "writing moves mtime and ctime, chmod only ctime",
        || {
            let fd = put(c"f", b"")?;
            let old = [timespec {
                tv_sec: 1000,
                tv_nsec: 0,
            }; 2];
            ok!(futimens(fd, old.as_ptr()));
            write_all(fd, b"x")?;
            let st = fstat_of(fd)?;
            ensure!(
                st.st_mtime > 1000 && st.st_ctime > 1000,
                "write left mtime {}",
                st.st_mtime
            );
            ok!(futimens(fd, old.as_ptr()));
            ok!(fchmod(fd, 0o600));
            eq("mtime after chmod", fstat_of(fd)?.st_mtime, 1000)
        },
    ),
    Case::new(
        "stat.directory_mtime",
        "inode(7)",
        "a new entry moves the directory's mtime",
        || {
            mkdir_at(c"d")?;
            let old = [timespec {
                tv_sec: 1000,
                tv_nsec: 0,
            }; 2];
            for step in 0..3 {
                ok!(utimensat(AT_FDCWD, p(c"d"), old.as_ptr(), 0));
                match step {
                    0 => drop(put(c"d/f", b"")?),
                    1 => drop(ok!(rename(p(c"d/f"), p(c"d/g")))),
                    _ => drop(ok!(unlink(p(c"d/g")))),
                }
                ensure!(
                    stat_of(c"d")?.st_mtime > 1000,
                    "step {step} left the mtime alone"
                );
            }
            Ok(())
        },
    ),
    Case::new(
        "stat.sparse_blocks",
        "inode(7)",
        "st_blocks counts what is allocated",
        || {
            let fd = put(c"f", b"")?;
            ok!(ftruncate(fd, 16 << 20));
            let st = fstat_of(fd)?;
            eq("size", st.st_size, 16 << 20)?;
            ensure!(
                st.st_blocks * 512 < 1 << 20,
                "a hole has {} blocks",
                st.st_blocks
            );
            Ok(())
        },
    ),
    Case::new(
        "statx.basic",
        "statx(2)",
        "STATX_BASIC_STATS gives what stat gives",
        || {
            put(c"f", b"12345")?;
            let (sx, st) = (
                statx_of(AT_FDCWD, c"f", 0, STATX_BASIC_STATS)?,
                stat_of(c"f")?,
            );
            eq("mask", sx.stx_mask & STATX_BASIC_STATS, STATX_BASIC_STATS)?;
            eq("inode", sx.stx_ino, st.st_ino)?;
            eq("mode", u32::from(sx.stx_mode), st.st_mode)?;
            eq("size", sx.stx_size, 5)?;
            eq("mtime", sx.stx_mtime.tv_sec, st.st_mtime)?;
            eq(
                "device",
                makedev(sx.stx_dev_major, sx.stx_dev_minor),
                st.st_dev,
            )
        },
    ),
    Case::new(
        "statx.errors",
        "statx(2)",
        "EINVAL for a reserved mask, ENOENT, EBADF, EFAULT",
        || {
            put(c"f", b"")?;
            let mut st = zeroed::<statx>();
            err!(EINVAL, statx(AT_FDCWD, p(c"f"), 0, 0x8000_0000, &mut st));
            err!(
                EINVAL,
                statx(AT_FDCWD, p(c"f"), AT_STATX_SYNC_TYPE, 0, &mut st)
            );
            err!(ENOENT, statx(AT_FDCWD, p(c""), 0, 0, &mut st));
            err!(EBADF, statx(-1, p(c"f"), 0, 0, &mut st));
            err!(
                EFAULT,
                syscall(SYS_statx, AT_FDCWD, p(c"f"), 0, 0, bad_ptr::<u8>())
            );
            Ok(())
        },
    ),
    Case::new(
        "statx.nofollow",
        "statx(2)",
        "AT_SYMLINK_NOFOLLOW describes the link",
        || {
            put(c"f", b"")?;
            ok!(symlink(p(c"f"), p(c"l")));
            let sx = statx_of(AT_FDCWD, c"l", AT_SYMLINK_NOFOLLOW, STATX_TYPE)?;
            eq_octal("link", u32::from(sx.stx_mode) & S_IFMT, S_IFLNK)?;
            let sx = statx_of(AT_FDCWD, c"l", 0, STATX_TYPE)?;
            eq_octal("target", u32::from(sx.stx_mode) & S_IFMT, S_IFREG)
        },
    ),
    Case::new(
        "statx.mount_root",
        "statx(2)",
        "STATX_ATTR_MOUNT_ROOT is set for / and not below",
        || {
            mkdir_at(c"d")?;
            let root = statx_of(AT_FDCWD, c"/proc", 0, STATX_BASIC_STATS)?;
            let bit = STATX_ATTR_MOUNT_ROOT as u64;
            if root.stx_attributes_mask & bit == 0 {
                skip!("this kernel does not tell mount roots");
            }
            ensure!(
                root.stx_attributes & bit != 0,
                "/proc is not shown as a mount root"
            );
            let sx = statx_of(AT_FDCWD, c"d", 0, STATX_BASIC_STATS)?;
            ensure!(
                sx.stx_attributes & bit == 0,
                "a fresh directory is shown as a mount root"
            );
            Ok(())
        },
    ),
    Case::new(
        "chmod.bits",
        "chmod(2)",
        "all of 07777 is kept for the owner",
        || {
            put(c"f", b"")?;
            mkdir_at(c"d")?;
            for mode in [0o000, 0o644, 0o4755, 0o2755, 0o1777] {
                ok!(chmod(p(c"d"), mode));
                eq_octal("mode", stat_of(c"d")?.st_mode & 0o7777, mode)?;
            }
            ok!(chmod(p(c"f"), 0o4711));
            eq_octal("mode", stat_of(c"f")?.st_mode & 0o7777, 0o4711)
        },
    ),
    Case::new(
        "chmod.errors",
        "chmod(2)",
        "ENOENT, ENOTDIR, EBADF and EPERM for a foreign file",
        || {
            let fd = put(c"f", b"")?;
            err!(ENOENT, chmod(p(c"x"), 0o644));
            err!(ENOTDIR, chmod(p(c"f/x"), 0o644));
            ok!(close(fd));
            err!(EBADF, fchmod(fd, 0o644));
            if is_root() {
                as_user(|| {
                    err!(EPERM, chmod(p(c"f"), 0o777));
                    Ok(())
                })?;
            }
            Ok(())
        },
    ),
    Case::new(
        "chmod.follows_links",
        "chmod(2)",
        "chmod acts on a link's target",
        || {
            put(c"f", b"")?;
            ok!(symlink(p(c"f"), p(c"l")));
            ok!(chmod(p(c"l"), 0o600));
            eq_octal("mode", stat_of(c"f")?.st_mode & 0o7777, 0o600)
        },
    ),
    Case::new(
        "chmod.fchmodat_dirfd",
        "fchmodat(2)",
        "a relative path starts at dirfd",
        || {
            mkdir_at(c"d")?;
            put(c"d/f", b"")?;
            let dir = ok!(open(p(c"d"), O_PATH | O_DIRECTORY));
            ok!(fchmodat(dir, p(c"f"), 0o640, 0));
            eq_octal("mode", stat_of(c"d/f")?.st_mode & 0o7777, 0o640)
        },
    ),
    Case::new(
        "chown.eperm",
        "chown(2)",
        "an ordinary user cannot give a file away",
        || {
            open_dir(c"d")?;
            as_user(|| {
                put(c"d/f", b"")?;
                err!(EPERM, chown(p(c"d/f"), 0, u32::MAX));
                err!(EPERM, chown(p(c"d/f"), raw!(getuid()) + 1, u32::MAX));
                ok!(chown(p(c"d/f"), raw!(getuid()), raw!(getgid())));
                ok!(chown(p(c"d/f"), u32::MAX, u32::MAX));
                Ok(())
            })
        },
    ),
    Case::new(
        "chown.root",
        "chown(2)",
        "root changes owner and group, -1 leaves one alone",
        || {
            need_cap(0, "CAP_CHOWN")?;
            put(c"f", b"")?;
            ok!(chown(p(c"f"), 1234, 2345));
            ok!(chown(p(c"f"), u32::MAX, 99));
            let st = stat_of(c"f")?;
            eq("owner", (st.st_uid, st.st_gid), (1234, 99))
        },
    ),
    Case::new(
        "chown.lchown",
        "lchown(2)",
        "lchown changes the link, chown its target",
        || {
            need_cap(0, "CAP_CHOWN")?;
            put(c"f", b"")?;
            ok!(symlink(p(c"f"), p(c"l")));
            ok!(lchown(p(c"l"), 5, 6));
            eq("link", stat_of(c"l")?.st_uid, 5)?;
            eq("target", stat_of(c"f")?.st_uid, raw!(geteuid()))
        },
    ),
    Case::new(
        "chown.clears_suid",
        "chown(2)",
        "chown clears set-user-ID and set-group-ID",
        || {
            open_dir(c"d")?;
            as_user(|| {
                put(c"d/f", b"")?;
                ok!(chmod(p(c"d/f"), 0o6755));
                ok!(chown(p(c"d/f"), raw!(getuid()), raw!(getgid())));
                eq_octal("mode", stat_of(c"d/f")?.st_mode & 0o7777, 0o755)
            })
        },
    ),
    Case::new(
        "chown.write_clears_suid",
        "write(2)",
        "an unprivileged write clears set-user-ID",
        || {
            open_dir(c"d")?;
            as_user(|| {
                let fd = put(c"d/f", b"")?;
                ok!(fchmod(fd, 0o4755));
                write_all(fd, b"x")?;
                eq_octal("mode", fstat_of(fd)?.st_mode & 0o7777, 0o755)
            })
        },
    ),
    Case::new(
        "truncate.grow_and_shrink",
        "truncate(2)",
        "growing reads zeroes, shrinking loses",
        || {
            let fd = put(c"f", b"abcdef")?;
            ok!(truncate(p(c"f"), 3));
            ok!(ftruncate(fd, 6));
            eq("content", read_some(fd, 10)?, b"abc\0\0\0".to_vec())?;
            gives!(6, lseek(fd, 0, SEEK_CUR));
            Ok(())
        },
    ),
    Case::new(
        "truncate.errors",
        "truncate(2)",
        "EINVAL, EISDIR, ENOENT, EBADF, EFBIG",
        || {
            put(c"f", b"")?;
            mkdir_at(c"d")?;
            err!(EINVAL, truncate(p(c"f"), -1));
            err!(EISDIR, truncate(p(c"d"), 0));
            err!(ENOENT, truncate(p(c"x"), 0));
            let fd = ok!(open(p(c"f"), O_RDONLY));
            err!(EINVAL, ftruncate(fd, 0));
            err!(EINVAL, ftruncate(pipe_pair()?.1, 0));
            err!(EBADF, ftruncate(-1, 0));
            Ok(())
        },
    ),
    Case::new(
        "truncate.fsize",
        "setrlimit(2)",
        "beyond RLIMIT_FSIZE: SIGXFSZ and EFBIG",
        || {
            let fd = put(c"f", b"")?;
            raw!(signal(SIGXFSZ, SIG_IGN));
            let limit = rlimit {
                rlim_cur: 100,
                rlim_max: 100,
            };
            ok!(setrlimit(RLIMIT_FSIZE, &limit));
            err!(EFBIG, ftruncate(fd, 101));
            let bytes = [0u8; 200];
            gives!(100, write(fd, bytes.as_ptr().cast(), 200));
            err!(EFBIG, write(fd, bytes.as_ptr().cast(), 1));
            raw!(signal(SIGXFSZ, SIG_DFL));
            let pid = child(|| raw!(ftruncate(fd, 101)))?;
            expect_signal(pid, SIGXFSZ)
        },
    ),
    Case::new(
        "getdents.all_names",
        "getdents64(2)",
        "every name comes once, with . and ..",
        || {
            mkdir_at(c"d")?;
            let mut want: BTreeSet<String> = [".".to_string(), "..".to_string()].into();
            for i in 0..300 {
                let name = format!("entry-{i}");
                put(&cstring(format!("d/{name}")), b"").map(|fd| raw!(close(fd)))?;
                want.insert(name);
            }
            let fd = ok!(open(p(c"d"), O_RDONLY | O_DIRECTORY));
            let seen = entries(fd, 1024)?;
            eq("entries", seen.len(), want.len())?;
            eq("names", seen.into_iter().map(|e| e.0).collect(), want)
        },
    ),
    Case::new(
        "getdents.types",
        "getdents64(2)",
        "d_type tells file, directory, link and FIFO",
        || {
            put(c"f", b"")?;
            mkdir_at(c"d")?;
            ok!(symlink(p(c"f"), p(c"l")));
            ok!(mkfifo(p(c"p"), 0o600));
            let seen = entries(ok!(open(p(c"."), O_RDONLY)), 4096)?;
            for (name, want) in [("f", DT_REG), ("d", DT_DIR), ("l", DT_LNK), ("p", DT_FIFO)] {
                let kind = seen.iter().find(|e| e.0 == name).map(|e| e.1);
                ensure!(
                    kind == Some(want) || kind == Some(DT_UNKNOWN),
                    "{name}: d_type {kind:?}"
                );
            }
            Ok(())
        },
    ),
    Case::new(
        "getdents.errors",
        "getdents64(2)",
        "ENOTDIR, EBADF and EINVAL for a small buffer",
        || {
            let fd = put(c"f", b"")?;
            let mut buf = [0u8; 512];
            err!(
                ENOTDIR,
                syscall(SYS_getdents64, fd, buf.as_mut_ptr(), 512usize)
            );
            err!(
                EBADF,
                syscall(SYS_getdents64, -1, buf.as_mut_ptr(), 512usize)
            );
            let dir = ok!(open(p(c"."), O_RDONLY));
            err!(
                EINVAL,
                syscall(SYS_getdents64, dir, buf.as_mut_ptr(), 8usize)
            );
            err!(
                EFAULT,
                syscall(SYS_getdents64, dir, bad_ptr::<u8>(), 512usize)
            );
            Ok(())
        },
    ),
    Case::new(
        "getdents.removed",
        "getdents64(2)",
        "a removed directory gives ENOENT",
        || {
            mkdir_at(c"d")?;
            let fd = ok!(open(p(c"d"), O_RDONLY));
            ok!(rmdir(p(c"d")));
            let mut buf = [0u8; 512];
            err!(
                ENOENT,
                syscall(SYS_getdents64, fd, buf.as_mut_ptr(), 512usize)
            );
            Ok(())
        },
    ),
    Case::new(
        "getdents.rewind",
        "lseek(2)",
        "lseek to 0 starts a directory again",
        || {
            put(c"f", b"")?;
            let fd = ok!(open(p(c"."), O_RDONLY));
            let first = entries(fd, 4096)?.len();
            eq("entries at the end", entries(fd, 4096)?.len(), 0)?;
            put(c"g", b"")?;
            gives!(0, lseek(fd, 0, SEEK_SET));
            eq("entries after lseek", entries(fd, 4096)?.len(), first + 1)
        },
    ),
    Case::new(
        "getdents.remove_while_reading",
        "readdir(3)",
        "deleting while reading loses no name",
        || {
            mkdir_at(c"d")?;
            for i in 0..100 {
                put(&cstring(format!("d/{i}")), b"").map(|fd| raw!(close(fd)))?;
            }
            let fd = ok!(open(p(c"d"), O_RDONLY));
            let mut buf = [0u8; 512];
            loop {
                let n = ok!(syscall(SYS_getdents64, fd, buf.as_mut_ptr(), 512usize)) as usize;
                let mut at = 0;
                while at < n {
                    let name = unsafe { CStr::from_ptr(buf[at + 19..].as_ptr().cast()) };
                    if !name.to_bytes().starts_with(b".") {
                        let path = cstring(format!("d/{}", name.to_string_lossy()));
                        ok!(unlink(path.as_ptr()));
                    }
                    at += u16::from_ne_bytes([buf[at + 16], buf[at + 17]]) as usize;
                }
                if n == 0 {
                    break;
                }
            }
            ok!(rmdir(p(c"d")));
            Ok(())
        },
    ),
    Case::new(
        "statfs.fields",
        "statfs(2)",
        "statfs tells block size and name length",
        || {
            let mut fs = zeroed::<statfs>();
            ok!(statfs(p(c"."), &mut fs));
            ensure!(fs.f_bsize > 0, "f_bsize {}", fs.f_bsize);
            eq("f_namelen", fs.f_namelen, 255)?;
            ok!(fstatfs(ok!(open(p(c"."), O_RDONLY)), &mut fs));
            err!(ENOENT, statfs(p(c"x"), &mut fs));
            err!(EBADF, fstatfs(-1, &mut fs));
            Ok(())
        },
    ),
    Case::new(
        "statfs.proc_magic",
        "statfs(2)",
        "/proc has the proc file system's magic number",
        || {
            let mut fs = zeroed::<statfs>();
            ok!(statfs(p(c"/proc"), &mut fs));
            eq("f_type", fs.f_type, PROC_SUPER_MAGIC)
        },
    ),
    Case::new(
        "xattr.set_and_get",
        "setxattr(2)",
        "a value comes back, replaced by the next",
        || {
            with_xattr()?;
            eq("user.a", get(c"f", c"user.a")?, b"value".to_vec())?;
            ok!(setxattr(p(c"f"), p(c"user.a"), c"xy".as_ptr().cast(), 2, 0));
            eq("user.a", get(c"f", c"user.a")?, b"xy".to_vec())
        },
    ),
    Case::new(
        "xattr.create_replace",
        "setxattr(2)",
        "XATTR_CREATE EEXIST, XATTR_REPLACE ENODATA",
        || {
            with_xattr()?;
            failed_with(
                "XATTR_CREATE",
                set(c"f", c"user.a", b"", XATTR_CREATE),
                &[EEXIST],
            )?;
            failed_with(
                "XATTR_REPLACE",
                set(c"f", c"user.b", b"", XATTR_REPLACE),
                &[ENODATA],
            )?;
            failed_with("unknown flag", set(c"f", c"user.b", b"", 8), &[EINVAL])
        },
    ),
    Case::new(
        "xattr.sizes",
        "getxattr(2)",
        "size 0 asks for the length, too small gives ERANGE",
        || {
            with_xattr()?;
            let mut buf = [0u8; 8];
            gives!(
                5,
                getxattr(p(c"f"), p(c"user.a"), buf.as_mut_ptr().cast(), 0)
            );
            err!(
                ERANGE,
                getxattr(p(c"f"), p(c"user.a"), buf.as_mut_ptr().cast(), 4)
            );
            err!(
                ENODATA,
                getxattr(p(c"f"), p(c"user.b"), buf.as_mut_ptr().cast(), 8)
            );
            Ok(())
        },
    ),
    Case::new(
        "xattr.list",
        "listxattr(2)",
        "listxattr names them, NUL-terminated",
        || {
            with_xattr()?;
            ok!(setxattr(p(c"f"), p(c"user.b"), c"".as_ptr().cast(), 0, 0));
            let mut buf = [0u8; 256];
            let n = ok!(listxattr(p(c"f"), buf.as_mut_ptr().cast(), 256)) as usize;
            let names: BTreeSet<&[u8]> = buf[..n].split(|b| *b == 0).collect();
            for name in [&b"user.a"[..], b"user.b"] {
                ensure!(
                    names.contains(name),
                    "{:?} is not listed",
                    String::from_utf8_lossy(name)
                );
            }
            err!(ERANGE, listxattr(p(c"f"), buf.as_mut_ptr().cast(), 3));
            Ok(())
        },
    ),
    Case::new(
        "xattr.remove",
        "removexattr(2)",
        "removexattr removes, then ENODATA",
        || {
            with_xattr()?;
            ok!(removexattr(p(c"f"), p(c"user.a")));
            err!(ENODATA, removexattr(p(c"f"), p(c"user.a")));
            Ok(())
        },
    ),
    Case::new(
        "xattr.bad_names",
        "xattr(7)",
        "unknown namespaces EOPNOTSUPP, empty names ERANGE",
        || {
            with_xattr()?;
            failed_with(
                "namespace nope.",
                set(c"f", c"nope.a", b"", 0),
                &[EOPNOTSUPP],
            )?;
            failed_with("no name", set(c"f", c"user.", b"", 0), &[EINVAL])?;
            failed_with("empty", set(c"f", c"", b"", 0), &[ERANGE])?;
            let long = cstring(format!("user.{}", "n".repeat(251)));
            failed_with("256 bytes", set(c"f", &long, b"", 0), &[ERANGE])
        },
    ),
    Case::new(
        "xattr.symlink_user",
        "xattr(7)",
        "user attributes are refused on symbolic links",
        || {
            with_xattr()?;
            ok!(symlink(p(c"f"), p(c"l")));
            err!(
                EPERM,
                lsetxattr(p(c"l"), p(c"user.a"), c"".as_ptr().cast(), 0, 0)
            );
            Ok(())
        },
    ),
    Case::new(
        "xattr.trusted_hidden",
        "xattr(7)",
        "trusted attributes need CAP_SYS_ADMIN",
        || {
            open_dir(c"d")?;
            as_user(|| {
                put(c"d/f", b"")?;
                let got = set(c"d/f", c"trusted.a", b"", 0);
                failed_with("setxattr(trusted.a)", got, &[EPERM])
            })
        },
    ),
    Case::new(
        "xattr.fd",
        "fgetxattr(2)",
        "the calls for descriptors see the same attributes",
        || {
            with_xattr()?;
            let fd = ok!(open(p(c"f"), O_RDONLY));
            let mut buf = [0u8; 8];
            gives!(5, fgetxattr(fd, p(c"user.a"), buf.as_mut_ptr().cast(), 8));
            ok!(fremovexattr(fd, p(c"user.a")));
            err!(
                ENODATA,
                getxattr(p(c"f"), p(c"user.a"), buf.as_mut_ptr().cast(), 8)
            );
            err!(
                EBADF,
                fgetxattr(-1, p(c"user.a"), buf.as_mut_ptr().cast(), 8)
            );
            Ok(())
        },
    ),
];
