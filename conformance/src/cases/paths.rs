//! Names: rename(2), renameat2(2), link(2), symlink(2), unlink(2), mkdir(2), rmdir(2).

use crate::case::*;
use std::ffi::CStr;

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
];
