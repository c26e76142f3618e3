//! Around names: chdir(2), chroot(2), mknod(2), access(2), utimensat(2), fsync(2), umask(2).

use crate::case::*;
use std::ffi::CStr;
use std::ptr::null_mut;

pub static CASES: &[Case] = &[
    Case::new(
        "chdir.getcwd",
        "getcwd(2)",
        "chdir moves and getcwd tells, links resolved",
        || {
            mkdir_at(c"d")?;
            ok!(symlink(p(c"d"), p(c"l")));
            ok!(chdir(p(c"l")));
            let mut buf = [0u8; 4096];
            let n = ok!(syscall(SYS_getcwd, buf.as_mut_ptr(), 4096usize)) as usize;
            ensure!(
                buf[..n].ends_with(b"/d\0"),
                "getcwd: {:?}",
                String::from_utf8_lossy(&buf[..n])
            );
            err!(ERANGE, syscall(SYS_getcwd, buf.as_mut_ptr(), n - 1));
            Ok(())
        },
    ),
    Case::new(
        "chdir.errors",
        "chdir(2)",
        "ENOENT, ENOTDIR, EFAULT, EBADF for fchdir",
        || {
            put(c"f", b"")?;
            err!(ENOENT, chdir(p(c"x")));
            err!(ENOTDIR, chdir(p(c"f")));
            err!(EFAULT, chdir(bad_ptr::<c_char>()));
            err!(EBADF, fchdir(-1));
            let fd = ok!(open(p(c"f"), O_RDONLY));
            err!(ENOTDIR, fchdir(fd));
            Ok(())
        },
    ),
    Case::new(
        "chdir.fork_private",
        "fork(2)",
        "a child's chdir does not move the parent",
        || {
            mkdir_at(c"d")?;
            put(c"f", b"")?;
            let pid = child(|| raw!(chdir(p(c"d"))))?;
            expect_exit(pid, 0)?;
            ok!(access(p(c"f"), F_OK));
            Ok(())
        },
    ),
    Case::new(
        "chroot.eperm",
        "chroot(2)",
        "chroot without CAP_SYS_CHROOT gives EPERM",
        || {
            as_user(|| {
                err!(EPERM, chroot(p(c".")));
                Ok(())
            })
        },
    ),
    Case::new(
        "chroot.root_is_its_own_parent",
        "chroot(2)",
        "after chroot, / and /.. are the new root",
        || {
            need_cap(18, "CAP_SYS_CHROOT")?;
            put(c"f", b"")?;
            ok!(chroot(p(c".")));
            ok!(access(p(c"/f"), F_OK));
            ok!(chdir(p(c"/")));
            ok!(access(p(c"../../f"), F_OK));
            ok!(access(p(c"/../f"), F_OK));
            Ok(())
        },
    ),
    Case::new(
        "mknod.fifo_and_file",
        "mknod(2)",
        "an ordinary user makes FIFOs and files",
        || {
            open_dir(c"d")?;
            as_user(|| {
                ok!(mknod(p(c"d/fifo"), S_IFIFO | 0o644, 0));
                eq_octal("type", stat_of(c"d/fifo")?.st_mode & S_IFMT, S_IFIFO)?;
                ok!(mknod(p(c"d/file"), 0o600, 0));
                eq_octal("type", stat_of(c"d/file")?.st_mode, S_IFREG | 0o600)?;
                err!(EEXIST, mknod(p(c"d/file"), S_IFREG | 0o600, 0));
                Ok(())
            })
        },
    ),
    Case::new(
        "mknod.eperm",
        "mknod(2)",
        "a device node without CAP_MKNOD gives EPERM",
        || {
            open_dir(c"d")?;
            as_user(|| {
                err!(EPERM, mknod(p(c"d/null"), S_IFCHR | 0o666, makedev(1, 3)));
                Ok(())
            })
        },
    ),
    Case::new(
        "mknod.directory_einval",
        "mknod(2)",
        "S_IFDIR gives EPERM, nonsense EINVAL",
        || {
            err!(EPERM, mknod(p(c"d"), S_IFDIR | 0o755, 0));
            err!(EINVAL, mknod(p(c"d"), 0o170000 | 0o755, 0));
            Ok(())
        },
    ),
    Case::new(
        "access.modes",
        "access(2)",
        "access checks F, R, W and X",
        || {
            put(c"f", b"")?;
            ok!(chmod(p(c"f"), 0o500));
            as_user(|| {
                let mine = stat_of(c"f")?.st_uid == raw!(getuid());
                ok!(access(p(c"f"), F_OK));
                err!(EACCES, access(p(c"f"), W_OK));
                if mine {
                    ok!(access(p(c"f"), R_OK | X_OK));
                } else {
                    err!(EACCES, access(p(c"f"), R_OK));
                }
                err!(EINVAL, access(p(c"f"), 8));
                Ok(())
            })
        },
    ),
    Case::new(
        "access.root_execute",
        "access(2)",
        "root may not execute a file without any x bit",
        || {
            need_cap(1, "CAP_DAC_OVERRIDE")?;
            put(c"f", b"")?;
            ok!(chmod(p(c"f"), 0o000));
            ok!(access(p(c"f"), R_OK | W_OK));
            err!(EACCES, access(p(c"f"), X_OK));
            ok!(chmod(p(c"f"), 0o001));
            ok!(access(p(c"f"), X_OK));
            Ok(())
        },
    ),
    Case::new(
        "access.real_uid",
        "access(2)",
        "access uses the real uid, AT_EACCESS the effective",
        || {
            need_cap(7, "CAP_SETUID")?;
            put(c"f", b"")?;
            ok!(chmod(p(c"f"), 0o600));
            in_child(|| {
                ok!(setresuid(NOBODY, 0, 0));
                err!(EACCES, access(p(c"f"), R_OK));
                ok!(syscall(SYS_faccessat2, AT_FDCWD, p(c"f"), R_OK, AT_EACCESS));
                Ok(())
            })
        },
    ),
    Case::new(
        "access.faccessat2_flags",
        "faccessat2(2)",
        "unknown flags give EINVAL",
        || {
            put(c"f", b"")?;
            err!(
                EINVAL,
                syscall(SYS_faccessat2, AT_FDCWD, p(c"f"), F_OK, 1 << 20)
            );
            ok!(symlink(p(c"nowhere"), p(c"l")));
            ok!(syscall(
                SYS_faccessat2,
                AT_FDCWD,
                p(c"l"),
                F_OK,
                AT_SYMLINK_NOFOLLOW
            ));
            Ok(())
        },
    ),
    Case::new(
        "realpath.proc_fd",
        "proc_pid_fd(5)",
        "/proc/self/fd/N names the path of a file",
        || {
            let fd = put(c"f", b"")?;
            let link = cstring(format!("/proc/self/fd/{fd}"));
            let mut buf = [0u8; 4096];
            let n = ok!(readlink(link.as_ptr(), buf.as_mut_ptr().cast(), 4096)) as usize;
            let mut cwd = [0 as c_char; 4096];
            ensure!(
                !raw!(getcwd(cwd.as_mut_ptr(), 4096)).is_null(),
                "getcwd failed"
            );
            let cwd = unsafe { CStr::from_ptr(cwd.as_ptr()) }
                .to_string_lossy()
                .into_owned();
            let seen = String::from_utf8_lossy(&buf[..n]).into_owned();
            eq("link", seen, format!("{cwd}/f"))?;
            ok!(unlink(p(c"f")));
            let n = ok!(readlink(link.as_ptr(), buf.as_mut_ptr().cast(), 4096)) as usize;
            eq(
                "after unlink",
                String::from_utf8_lossy(&buf[..n]).into_owned(),
                format!("{cwd}/f (deleted)"),
            )
        },
    ),
    Case::new(
        "umask.returns_old",
        "umask(2)",
        "umask returns the old mask and keeps 0777",
        || {
            raw!(umask(0o022));
            gives_mask(0o7027, 0o022)?;
            gives_mask(0, 0o027)
        },
    ),
    Case::new(
        "umask.inherited",
        "umask(2)",
        "a child inherits the mask, its change stays its own",
        || {
            raw!(umask(0o013));
            let pid = child(|| {
                let seen = raw!(umask(0));
                i32::from(seen != 0o013)
            })?;
            expect_exit(pid, 0)?;
            gives_mask(0, 0o013)
        },
    ),
    Case::new(
        "sync.fsync",
        "fsync(2)",
        "fsync works on files and directories, EINVAL on pipes",
        || {
            let fd = put(c"f", b"x")?;
            ok!(fsync(fd));
            ok!(fdatasync(fd));
            ok!(fsync(ok!(open(p(c"."), O_RDONLY))));
            err!(EINVAL, fsync(pipe_pair()?.1));
            err!(EBADF, fsync(-1));
            ok!(syncfs(fd));
            Ok(())
        },
    ),
    Case::new(
        "utime.set",
        "utimensat(2)",
        "times are set to the nanosecond or left alone",
        || {
            put(c"f", b"")?;
            let times = [
                timespec {
                    tv_sec: 1000,
                    tv_nsec: 5,
                },
                timespec {
                    tv_sec: 2000,
                    tv_nsec: 7,
                },
            ];
            ok!(utimensat(AT_FDCWD, p(c"f"), times.as_ptr(), 0));
            let st = stat_of(c"f")?;
            eq("atime", (st.st_atime, st.st_atime_nsec), (1000, 5))?;
            eq("mtime", (st.st_mtime, st.st_mtime_nsec), (2000, 7))?;
            let omit = timespec {
                tv_sec: 0,
                tv_nsec: UTIME_OMIT,
            };
            let times = [
                omit,
                timespec {
                    tv_sec: 3000,
                    tv_nsec: 0,
                },
            ];
            ok!(utimensat(AT_FDCWD, p(c"f"), times.as_ptr(), 0));
            let st = stat_of(c"f")?;
            eq("atime, mtime", (st.st_atime, st.st_mtime), (1000, 3000))
        },
    ),
    Case::new(
        "utime.now",
        "utimensat(2)",
        "UTIME_NOW and NULL mean the current time",
        || {
            put(c"f", b"")?;
            let old = [timespec {
                tv_sec: 1,
                tv_nsec: 0,
            }; 2];
            ok!(utimensat(AT_FDCWD, p(c"f"), old.as_ptr(), 0));
            let before = now(CLOCK_REALTIME_COARSE)?.tv_sec;
            ok!(utimensat(AT_FDCWD, p(c"f"), std::ptr::null(), 0));
            let st = stat_of(c"f")?;
            ensure!(
                st.st_mtime >= before && st.st_atime >= before,
                "mtime {} < {before}",
                st.st_mtime
            );
            Ok(())
        },
    ),
    Case::new(
        "utime.errors",
        "utimensat(2)",
        "EINVAL for bad nanoseconds, EACCES/EPERM for others",
        || {
            put(c"f", b"")?;
            let bad = [timespec {
                tv_sec: 1,
                tv_nsec: 1_000_000_000,
            }; 2];
            err!(EINVAL, utimensat(AT_FDCWD, p(c"f"), bad.as_ptr(), 0));
            err!(ENOENT, utimensat(AT_FDCWD, p(c"x"), std::ptr::null(), 0));
            err!(EBADF, futimens(-1, std::ptr::null()));
            if is_root() {
                as_user(|| {
                    err!(EACCES, utimensat(AT_FDCWD, p(c"f"), std::ptr::null(), 0));
                    let set = [timespec {
                        tv_sec: 1,
                        tv_nsec: 0,
                    }; 2];
                    err!(EPERM, utimensat(AT_FDCWD, p(c"f"), set.as_ptr(), 0));
                    Ok(())
                })?;
            }
            Ok(())
        },
    ),
    Case::new(
        "utime.symlink",
        "utimensat(2)",
        "AT_SYMLINK_NOFOLLOW sets the link's own times",
        || {
            put(c"f", b"")?;
            ok!(symlink(p(c"f"), p(c"l")));
            let times = [timespec {
                tv_sec: 1234,
                tv_nsec: 0,
            }; 2];
            ok!(utimensat(
                AT_FDCWD,
                p(c"l"),
                times.as_ptr(),
                AT_SYMLINK_NOFOLLOW
            ));
            eq("link's mtime", stat_of(c"l")?.st_mtime, 1234)?;
            ensure!(
                stat_of(c"f")?.st_mtime != 1234,
                "the target's mtime changed, too"
            );
            Ok(())
        },
    ),
    Case::new(
        "realpath.dot_components",
        "path_resolution(7)",
        "., .. and // resolve as written",
        || {
            mkdir_at(c"d")?;
            put(c"f", b"")?;
            ok!(access(p(c".//d/.././f"), F_OK));
            err!(ENOENT, access(p(c"missing/../f"), F_OK));
            err!(ENOTDIR, access(p(c"f/../f"), F_OK));
            err!(ENOTDIR, access(p(c"f/."), F_OK));
            ok!(access(p(c"/../../.."), F_OK));
            Ok(())
        },
    ),
    Case::new(
        "chdir.getcwd_efault",
        "getcwd(2)",
        "a bad buffer gives EFAULT",
        || {
            err!(EFAULT, syscall(SYS_getcwd, bad_ptr::<c_char>(), 4096usize));
            err!(ERANGE, syscall(SYS_getcwd, null_mut::<c_char>(), 0usize));
            Ok(())
        },
    ),
];

fn gives_mask(new: mode_t, want: u32) -> Outcome {
    eq_octal("the old mask", raw!(umask(new)), want)
}
