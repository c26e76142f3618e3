//! Names: rename(2), link(2), symlink(2), unlink(2), mkdir(2), rmdir(2), chdir(2), mknod(2).

use crate::case::*;
use std::ffi::CStr;
use std::ptr::null_mut;

fn inode(path: &CStr) -> Outcome<u64> {
    Ok(stat_of(path)?.st_ino)
}

fn renameat2(from: &CStr, to: &CStr, flags: u32) -> c_long {
    raw!(syscall(
        SYS_renameat2,
        AT_FDCWD,
        p(from),
        AT_FDCWD,
        p(to),
        flags
    ))
}

/// Skips on file systems that know no rename flags.
fn rename_flag(from: &CStr, to: &CStr, flags: u32) -> Outcome {
    let got = renameat2(from, to, flags);
    if got == -1 && errno() == EINVAL {
        skip!("the scratch file system does not know this renameat2 flag");
    }
    succeeded("renameat2(from, to, flags)", got).map(drop)
}

pub static CASES: &[Case] = &[
    Case::new(
        "rename.file",
        "rename(2)",
        "rename moves the inode to the new name",
        || {
            put(c"a", b"x")?;
            let was = inode(c"a")?;
            ok!(rename(p(c"a"), p(c"b")));
            err!(ENOENT, access(p(c"a"), F_OK));
            eq("inode", inode(c"b")?, was)
        },
    ),
    Case::new(
        "rename.replaces",
        "rename(2)",
        "an existing target is replaced",
        || {
            put(c"a", b"new")?;
            let old = put(c"b", b"old!")?;
            ok!(rename(p(c"a"), p(c"b")));
            eq("content", slurp("b")?, "new".to_string())?;
            eq("links of the replaced file", fstat_of(old)?.st_nlink, 0)?;
            eq("its size", fstat_of(old)?.st_size, 4)
        },
    ),
    Case::new(
        "rename.same_file",
        "rename(2)",
        "two links to one file: rename does nothing",
        || {
            put(c"a", b"x")?;
            ok!(link(p(c"a"), p(c"b")));
            ok!(rename(p(c"a"), p(c"b")));
            ok!(access(p(c"a"), F_OK));
            ok!(access(p(c"b"), F_OK));
            Ok(())
        },
    ),
    Case::new(
        "rename.enoent",
        "rename(2)",
        "a missing source gives ENOENT",
        || {
            err!(ENOENT, rename(p(c"missing"), p(c"b")));
            put(c"a", b"")?;
            err!(ENOENT, rename(p(c"a"), p(c"nodir/b")));
            err!(ENOENT, rename(p(c""), p(c"b")));
            Ok(())
        },
    ),
    Case::new(
        "rename.enotempty",
        "rename(2)",
        "a non-empty target directory gives ENOTEMPTY",
        || {
            mkdir_at(c"a")?;
            mkdir_at(c"b")?;
            put(c"b/f", b"")?;
            err_any!([ENOTEMPTY, EEXIST], rename(p(c"a"), p(c"b")));
            ok!(unlink(p(c"b/f")));
            ok!(rename(p(c"a"), p(c"b")));
            Ok(())
        },
    ),
    Case::new(
        "rename.eisdir",
        "rename(2)",
        "a file over a directory gives EISDIR",
        || {
            put(c"a", b"")?;
            mkdir_at(c"d")?;
            err!(EISDIR, rename(p(c"a"), p(c"d")));
            Ok(())
        },
    ),
    Case::new(
        "rename.enotdir",
        "rename(2)",
        "a directory over a file gives ENOTDIR",
        || {
            put(c"a", b"")?;
            mkdir_at(c"d")?;
            err!(ENOTDIR, rename(p(c"d"), p(c"a")));
            Ok(())
        },
    ),
    Case::new(
        "rename.into_itself",
        "rename(2)",
        "a directory into its own subtree gives EINVAL",
        || {
            mkdir_at(c"d")?;
            mkdir_at(c"d/e")?;
            err!(EINVAL, rename(p(c"d"), p(c"d/e/f")));
            err!(ENOTEMPTY, rename(p(c"d/e"), p(c"d")));
            Ok(())
        },
    ),
    Case::new(
        "rename.dot",
        "rename(2)",
        "renaming . or .. gives EBUSY",
        || {
            mkdir_at(c"d")?;
            err_any!([EBUSY, EINVAL], rename(p(c"d/."), p(c"e")));
            err_any!([EBUSY, EINVAL], rename(p(c"d/.."), p(c"e")));
            Ok(())
        },
    ),
    Case::new(
        "rename.directory_links",
        "rename(2)",
        "moving a directory moves its .. link",
        || {
            mkdir_at(c"a")?;
            mkdir_at(c"b")?;
            mkdir_at(c"a/d")?;
            ok!(rename(p(c"a/d"), p(c"b/d")));
            eq("inode of b/d/..", inode(c"b/d/..")?, inode(c"b")?)
        },
    ),
    Case::new(
        "rename.symlink_itself",
        "rename(2)",
        "a symbolic link is renamed, not followed",
        || {
            put(c"f", b"")?;
            ok!(symlink(p(c"f"), p(c"l")));
            ok!(rename(p(c"l"), p(c"m")));
            ok!(access(p(c"f"), F_OK));
            eq_octal("type", stat_of(c"m")?.st_mode & S_IFMT, S_IFLNK)
        },
    ),
    Case::new(
        "rename.noreplace",
        "renameat2(2)",
        "RENAME_NOREPLACE gives EEXIST",
        || {
            put(c"a", b"")?;
            put(c"b", b"")?;
            let got = renameat2(c"a", c"b", RENAME_NOREPLACE);
            if got == -1 && errno() == EINVAL {
                skip!("the scratch file system does not know RENAME_NOREPLACE");
            }
            failed_with("renameat2(a, b, RENAME_NOREPLACE)", got, &[EEXIST])?;
            rename_flag(c"a", c"c", RENAME_NOREPLACE)
        },
    ),
    Case::new(
        "rename.exchange",
        "renameat2(2)",
        "RENAME_EXCHANGE swaps the two names",
        || {
            put(c"a", b"")?;
            mkdir_at(c"b")?;
            let (a, b) = (inode(c"a")?, inode(c"b")?);
            rename_flag(c"a", c"b", RENAME_EXCHANGE)?;
            eq("inodes", (inode(c"a")?, inode(c"b")?), (b, a))
        },
    ),
    Case::new(
        "rename.exchange_enoent",
        "renameat2(2)",
        "RENAME_EXCHANGE needs both names",
        || {
            put(c"a", b"")?;
            let got = renameat2(c"a", c"missing", RENAME_EXCHANGE);
            failed_with("renameat2(a, missing, RENAME_EXCHANGE)", got, &[ENOENT])
        },
    ),
    Case::new(
        "rename.flags_einval",
        "renameat2(2)",
        "unknown or contradictory flags give EINVAL",
        || {
            put(c"a", b"")?;
            let got = renameat2(c"a", c"b", 1 << 10);
            failed_with("renameat2(flags=1<<10)", got, &[EINVAL])?;
            let got = renameat2(c"a", c"b", RENAME_NOREPLACE | RENAME_EXCHANGE);
            failed_with("renameat2(NOREPLACE|EXCHANGE)", got, &[EINVAL])
        },
    ),
    Case::new(
        "rename.eacces",
        "rename(2)",
        "an unwritable directory gives EACCES",
        || {
            mkdir_at(c"d")?;
            put(c"d/a", b"")?;
            ok!(chmod(p(c"d"), 0o555));
            as_user(|| {
                err!(EACCES, rename(p(c"d/a"), p(c"d/b")));
                Ok(())
            })
        },
    ),
    Case::new(
        "rename.sticky",
        "rename(2)",
        "a sticky directory protects foreign files with EPERM",
        || {
            need_root()?;
            mkdir_at(c"d")?;
            ok!(chmod(p(c"d"), 0o1777));
            put(c"d/a", b"")?;
            as_user(|| {
                err_any!([EPERM, EACCES], rename(p(c"d/a"), p(c"d/b")));
                err_any!([EPERM, EACCES], unlink(p(c"d/a")));
                Ok(())
            })
        },
    ),
    Case::new(
        "link.count",
        "link(2)",
        "a hard link raises st_nlink and shares the inode",
        || {
            let fd = put(c"a", b"")?;
            ok!(link(p(c"a"), p(c"b")));
            eq("links", fstat_of(fd)?.st_nlink, 2)?;
            eq("inode", inode(c"a")?, inode(c"b")?)?;
            ok!(unlink(p(c"a")));
            eq("links after unlink", fstat_of(fd)?.st_nlink, 1)
        },
    ),
    Case::new(
        "link.eexist",
        "link(2)",
        "an existing new path gives EEXIST",
        || {
            put(c"a", b"")?;
            put(c"b", b"")?;
            err!(EEXIST, link(p(c"a"), p(c"b")));
            err!(ENOENT, link(p(c"missing"), p(c"c")));
            Ok(())
        },
    ),
    Case::new(
        "link.directory",
        "link(2)",
        "a directory cannot be linked: EPERM",
        || {
            mkdir_at(c"d")?;
            err!(EPERM, link(p(c"d"), p(c"e")));
            Ok(())
        },
    ),
    Case::new(
        "link.no_follow",
        "linkat(2)",
        "link does not follow, AT_SYMLINK_FOLLOW does",
        || {
            put(c"f", b"")?;
            ok!(symlink(p(c"f"), p(c"l")));
            ok!(link(p(c"l"), p(c"hard")));
            eq_octal("type", stat_of(c"hard")?.st_mode & S_IFMT, S_IFLNK)?;
            ok!(linkat(
                AT_FDCWD,
                p(c"l"),
                AT_FDCWD,
                p(c"hard2"),
                AT_SYMLINK_FOLLOW
            ));
            eq("inode", inode(c"hard2")?, inode(c"f")?)
        },
    ),
    Case::new(
        "link.flags_einval",
        "linkat(2)",
        "unknown flags give EINVAL",
        || {
            put(c"f", b"")?;
            err!(
                EINVAL,
                linkat(AT_FDCWD, p(c"f"), AT_FDCWD, p(c"g"), AT_REMOVEDIR)
            );
            Ok(())
        },
    ),
    Case::new(
        "symlink.readlink",
        "readlink(2)",
        "the contents come back, unterminated and cut",
        || {
            ok!(symlink(p(c"some/where"), p(c"l")));
            let mut buf = [b'#' as c_char; 32];
            gives!(10, readlink(p(c"l"), buf.as_mut_ptr(), 32));
            eq("byte after the contents", buf[10], b'#' as c_char)?;
            gives!(4, readlink(p(c"l"), buf.as_mut_ptr(), 4));
            eq("st_size", stat_of(c"l")?.st_size, 10)
        },
    ),
    Case::new(
        "symlink.readlink_einval",
        "readlink(2)",
        "not a link, or bufsiz 0, gives EINVAL",
        || {
            put(c"f", b"")?;
            ok!(symlink(p(c"f"), p(c"l")));
            let mut buf = [0 as c_char; 8];
            err!(EINVAL, readlink(p(c"f"), buf.as_mut_ptr(), 8));
            err!(EINVAL, readlink(p(c"l"), buf.as_mut_ptr(), 0));
            err!(ENOENT, readlink(p(c"missing"), buf.as_mut_ptr(), 8));
            err!(EFAULT, readlink(p(c"l"), bad_ptr(), 8));
            Ok(())
        },
    ),
    Case::new(
        "symlink.eexist",
        "symlink(2)",
        "an existing name gives EEXIST, an empty target ENOENT",
        || {
            put(c"f", b"")?;
            err!(EEXIST, symlink(p(c"x"), p(c"f")));
            err!(ENOENT, symlink(p(c""), p(c"l")));
            Ok(())
        },
    ),
    Case::new(
        "symlink.mode",
        "symlink(7)",
        "a symbolic link has mode 0777",
        || {
            raw!(umask(0o077));
            ok!(symlink(p(c"x"), p(c"l")));
            eq_octal("mode", stat_of(c"l")?.st_mode, S_IFLNK | 0o777)
        },
    ),
    Case::new(
        "symlink.relative_to_link",
        "path_resolution(7)",
        "a relative target starts at the link",
        || {
            mkdir_at(c"d")?;
            put(c"d/f", b"in d")?;
            put(c"f", b"outside")?;
            ok!(symlink(p(c"f"), p(c"d/l")));
            eq("content", slurp("d/l")?, "in d".to_string())
        },
    ),
    Case::new(
        "symlink.dotdot_after_link",
        "path_resolution(7)",
        "l/.. is the target's parent",
        || {
            mkdir_at(c"a")?;
            mkdir_at(c"a/b")?;
            ok!(symlink(p(c"a/b"), p(c"l")));
            let mut st = zeroed::<libc::stat>();
            ok!(stat(p(c"l/.."), &mut st));
            eq("inode of l/..", st.st_ino, inode(c"a")?)
        },
    ),
    Case::new(
        "unlink.still_open",
        "unlink(2)",
        "an unlinked open file stays usable",
        || {
            let fd = put(c"f", b"hello")?;
            ok!(unlink(p(c"f")));
            err!(ENOENT, access(p(c"f"), F_OK));
            eq("content", read_some(fd, 10)?, b"hello".to_vec())?;
            eq("links", fstat_of(fd)?.st_nlink, 0)
        },
    ),
    Case::new(
        "unlink.errors",
        "unlink(2)",
        "ENOENT, ENOTDIR and EISDIR",
        || {
            put(c"f", b"")?;
            mkdir_at(c"d")?;
            err!(ENOENT, unlink(p(c"missing")));
            err!(ENOTDIR, unlink(p(c"f/x")));
            err!(EISDIR, unlink(p(c"d")));
            err!(ENOENT, unlink(p(c"")));
            Ok(())
        },
    ),
    Case::new(
        "unlink.at_removedir",
        "unlinkat(2)",
        "AT_REMOVEDIR removes directories only",
        || {
            put(c"f", b"")?;
            mkdir_at(c"d")?;
            err!(ENOTDIR, unlinkat(AT_FDCWD, p(c"f"), AT_REMOVEDIR));
            err!(EINVAL, unlinkat(AT_FDCWD, p(c"d"), 1));
            ok!(unlinkat(AT_FDCWD, p(c"d"), AT_REMOVEDIR));
            Ok(())
        },
    ),
    Case::new(
        "unlink.link_not_target",
        "unlink(2)",
        "a symbolic link is removed, not its target",
        || {
            put(c"f", b"")?;
            ok!(symlink(p(c"f"), p(c"l")));
            ok!(unlink(p(c"l")));
            ok!(access(p(c"f"), F_OK));
            Ok(())
        },
    ),
    Case::new(
        "mkdir.mode",
        "mkdir(2)",
        "the mode is mode & ~umask & 01777",
        || {
            raw!(umask(0o022));
            ok!(mkdir(p(c"d"), 0o777));
            eq_octal("mode", stat_of(c"d")?.st_mode, S_IFDIR | 0o755)?;
            ok!(mkdir(p(c"e"), 0o1777));
            eq_octal("sticky mode", stat_of(c"e")?.st_mode, S_IFDIR | 0o1755)
        },
    ),
    Case::new(
        "mkdir.errors",
        "mkdir(2)",
        "EEXIST, ENOENT and ENOTDIR",
        || {
            put(c"f", b"")?;
            mkdir_at(c"d")?;
            err!(EEXIST, mkdir(p(c"d"), 0o755));
            err!(EEXIST, mkdir(p(c"f"), 0o755));
            err!(EEXIST, mkdir(p(c"/"), 0o755));
            err!(ENOENT, mkdir(p(c"x/y"), 0o755));
            err!(ENOTDIR, mkdir(p(c"f/y"), 0o755));
            ok!(symlink(p(c"nowhere"), p(c"l")));
            err!(EEXIST, mkdir(p(c"l"), 0o755));
            Ok(())
        },
    ),
    Case::new(
        "mkdir.trailing_slash",
        "path_resolution(7)",
        "mkdir takes a trailing slash",
        || {
            ok!(mkdir(p(c"d/"), 0o755));
            ok!(rmdir(p(c"d/")));
            Ok(())
        },
    ),
    Case::new(
        "mkdir.setgid_inherited",
        "mkdir(2)",
        "a set-group-ID parent hands down group and bit",
        || {
            mkdir_at(c"d")?;
            ok!(chmod(p(c"d"), 0o2755));
            ok!(mkdir(p(c"d/e"), 0o755));
            eq_octal("mode", stat_of(c"d/e")?.st_mode & 0o7777, 0o2755)?;
            eq("gid", stat_of(c"d/e")?.st_gid, stat_of(c"d")?.st_gid)
        },
    ),
    Case::new(
        "rmdir.errors",
        "rmdir(2)",
        "ENOTEMPTY, ENOTDIR, ENOENT, EINVAL for a final dot",
        || {
            mkdir_at(c"d")?;
            put(c"d/f", b"")?;
            err_any!([ENOTEMPTY, EEXIST], rmdir(p(c"d")));
            err!(ENOTDIR, rmdir(p(c"d/f")));
            err!(ENOENT, rmdir(p(c"x")));
            err!(EINVAL, rmdir(p(c"d/.")));
            err_any!([ENOTEMPTY, EEXIST], rmdir(p(c"d/..")));
            Ok(())
        },
    ),
    Case::new(
        "rmdir.parent_links",
        "rmdir(2)",
        "st_nlink of the parent follows its subdirectories",
        || {
            mkdir_at(c"p")?;
            let before = stat_of(c"p")?.st_nlink;
            if before != 2 {
                skip!("this file system does not count directory links");
            }
            mkdir_at(c"p/d")?;
            eq("links with a subdirectory", stat_of(c"p")?.st_nlink, 3)?;
            ok!(rmdir(p(c"p/d")));
            eq("links without", stat_of(c"p")?.st_nlink, 2)
        },
    ),
    Case::new(
        "rmdir.current",
        "getcwd(2)",
        "a removed working directory gives ENOENT",
        || {
            mkdir_at(c"d")?;
            ok!(chdir(p(c"d")));
            ok!(rmdir(p(c"../d")));
            let mut buf = [0 as c_char; 4096];
            err!(ENOENT, syscall(SYS_getcwd, buf.as_mut_ptr(), 4096usize));
            err!(ENOENT, open(p(c"new"), O_RDWR | O_CREAT, 0o644));
            ok!(stat(p(c"."), &mut zeroed::<libc::stat>()));
            Ok(())
        },
    ),
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
