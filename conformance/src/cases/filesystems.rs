//! What programs count on from the file systems a container has: tmpfs(5), the writable root
//! (overlay), sticky /tmp, and consistency between names, descriptors and mappings.

use crate::case::*;
use std::ffi::CStr;

/// A directory of our own on the tmpfs of `/dev/shm`, removed by the callback's end.
fn on_tmpfs(body: impl FnOnce() -> Outcome) -> Outcome {
    let path = cstring(format!("/dev/shm/conformance-{}", getpid_now()));
    if raw!(mkdir(path.as_ptr(), 0o755)) == -1 {
        skip!("/dev/shm is not writable here: {}", errno_name(errno()));
    }
    ok!(chdir(path.as_ptr()));
    let outcome = body();
    raw!(chdir(p(c"/")));
    let _ = std::fs::remove_dir_all(path.to_string_lossy().as_ref());
    outcome
}

/// A file of the root file system that a distribution always has.
fn system_file() -> Outcome<&'static CStr> {
    for path in [c"/etc/passwd", c"/etc/os-release", c"/etc/hosts"] {
        if raw!(access(p(path), R_OK)) == 0 {
            return Ok(path);
        }
    }
    skip!("none of the usual files of /etc is here")
}

pub static CASES: &[Case] = &[
    Case::new("tmpfs.type", "tmpfs(5)", "statfs tells TMPFS_MAGIC", || {
        on_tmpfs(|| {
            let mut fs = zeroed::<statfs>();
            ok!(statfs(p(c"."), &mut fs));
            eq("f_type", fs.f_type, TMPFS_MAGIC)
        })
    }),
    Case::new(
        "tmpfs.files",
        "tmpfs(5)",
        "create, write, link, rename, truncate and unlink",
        || {
            on_tmpfs(|| {
                let fd = put(c"f", b"hello")?;
                ok!(link(p(c"f"), p(c"g")));
                ok!(rename(p(c"f"), p(c"h")));
                eq("content", slurp("g")?, "hello".to_string())?;
                eq("links", fstat_of(fd)?.st_nlink, 2)?;
                ok!(ftruncate(fd, 2));
                eq("content", slurp("h")?, "he".to_string())?;
                ok!(unlink(p(c"g")));
                ok!(unlink(p(c"h")));
                eq("links", fstat_of(fd)?.st_nlink, 0)
            })
        },
    ),
    Case::new(
        "tmpfs.directory_links",
        "tmpfs(5)",
        "a directory counts its subdirectories",
        || {
            on_tmpfs(|| {
                mkdir_at(c"d")?;
                mkdir_at(c"d/e")?;
                eq("links", stat_of(c"d")?.st_nlink, 3)?;
                ok!(rename(p(c"d/e"), p(c"e")));
                eq("links", stat_of(c"d")?.st_nlink, 2)
            })
        },
    ),
    Case::new(
        "tmpfs.punch_hole",
        "tmpfs(5)",
        "fallocate and holes work and give blocks back",
        || {
            on_tmpfs(|| {
                let fd = put(c"f", &vec![1u8; 1 << 20])?;
                let before = fstat_of(fd)?.st_blocks;
                ok!(fallocate(
                    fd,
                    FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                    0,
                    1 << 19
                ));
                let after = fstat_of(fd)?.st_blocks;
                ensure!(after < before, "blocks {before} before, {after} after");
                eq("size", fstat_of(fd)?.st_size, 1 << 20)
            })
        },
    ),
    Case::new(
        "tmpfs.mmap_write",
        "tmpfs(5)",
        "a shared mapping writes the file",
        || {
            on_tmpfs(|| {
                let fd = put(c"f", &[0u8; 8192])?;
                let prot = PROT_READ | PROT_WRITE;
                let at =
                    ok!(mmap(std::ptr::null_mut(), 8192, prot, MAP_SHARED, fd, 0)).cast::<u8>();
                unsafe { at.add(5000).write_volatile(b'!') };
                let mut b = 0u8;
                gives!(1, pread(fd, (&raw mut b).cast(), 1, 5000));
                eq("byte", b, b'!')
            })
        },
    ),
    Case::new(
        "tmpfs.across",
        "rename(2)",
        "rename and link between file systems give EXDEV",
        || {
            put(c"f", b"")?;
            let mut cwd = [0 as c_char; 4096];
            ensure!(
                !raw!(getcwd(cwd.as_mut_ptr(), 4096)).is_null(),
                "getcwd failed"
            );
            let from = unsafe { CStr::from_ptr(cwd.as_ptr()) }
                .to_string_lossy()
                .into_owned();
            let device = stat_of(c".")?.st_dev;
            on_tmpfs(|| {
                if stat_of(c".")?.st_dev == device {
                    skip!("the scratch directory is on this file system, too");
                }
                let from = cstring(format!("{from}/f"));
                err!(EXDEV, rename(from.as_ptr(), p(c"f")));
                err!(EXDEV, link(from.as_ptr(), p(c"f")));
                Ok(())
            })
        },
    ),
    Case::new(
        "tmpfs.whiteout_names",
        "tmpfs(5)",
        "odd names are names: spaces, bytes above 127",
        || {
            on_tmpfs(|| {
                for name in [&b"a b"[..], b"\xff\xfe", b"...", b".hidden", b"new\nline"] {
                    let name = cstring(name);
                    put(&name, b"x")?;
                    ok!(unlink(name.as_ptr()));
                }
                Ok(())
            })
        },
    ),
    Case::new(
        "tmpfs.seek_data",
        "lseek(2)",
        "SEEK_HOLE and SEEK_DATA find holes",
        || {
            on_tmpfs(|| {
                let fd = put(c"f", b"")?;
                gives!(1, pwrite(fd, c"x".as_ptr().cast(), 1, 1 << 20));
                let page = page_size() as off_t;
                gives!((1 << 20) / page * page, lseek(fd, 0, SEEK_DATA));
                gives!(0, lseek(fd, 0, SEEK_HOLE));
                Ok(())
            })
        },
    ),
    Case::new(
        "root.tmp_sticky",
        "hier(7)",
        "/tmp is there, sticky and writable for all",
        || eq_octal("mode", stat_of(c"/tmp")?.st_mode & 0o7777, 0o1777),
    ),
    Case::new(
        "root.dotdot",
        "path_resolution(7)",
        "the root is its own parent",
        || {
            let (a, b) = (stat_of(c"/")?, stat_of(c"/..")?);
            eq(
                "device and inode",
                (a.st_dev, a.st_ino),
                (b.st_dev, b.st_ino),
            )
        },
    ),
    Case::new(
        "root.stable_identity",
        "stat(2)",
        "device and inode of a file stay the same",
        || {
            let path = system_file()?;
            let a = stat_of(path)?;
            let fd = ok!(open(p(path), O_RDONLY));
            let b = fstat_of(fd)?;
            eq(
                "device and inode",
                (a.st_dev, a.st_ino),
                (b.st_dev, b.st_ino),
            )?;
            in_child(|| {
                let c = stat_of(path)?;
                eq(
                    "seen by a child",
                    (c.st_dev, c.st_ino),
                    (a.st_dev, a.st_ino),
                )
            })
        },
    ),
    Case::new(
        "root.protected_from_users",
        "path_resolution(7)",
        "a user cannot change system files",
        || {
            let path = system_file()?;
            as_user(|| {
                err!(EACCES, open(p(path), O_WRONLY));
                err!(
                    EACCES,
                    open(p(c"/etc/conformance-new"), O_RDWR | O_CREAT, 0o644)
                );
                err!(EACCES, unlink(p(path)));
                err!(EACCES, mkdir(p(c"/conformance-new"), 0o755));
                err!(EPERM, chmod(p(path), 0o777));
                Ok(())
            })
        },
    ),
    Case::new(
        "root.copy_and_map",
        "mmap(2)",
        "a mapped program equals what read gives",
        || {
            let fd = ok!(open(p(c"/proc/self/exe"), O_RDONLY));
            let len = fstat_of(fd)?.st_size as usize;
            let at = ok!(mmap(
                std::ptr::null_mut(),
                len,
                PROT_READ,
                MAP_PRIVATE,
                fd,
                0
            ))
            .cast::<u8>();
            let mut offset = 0;
            while offset < len {
                let part = read_some(fd, 1 << 16)?;
                ensure!(!part.is_empty(), "end of file at {offset} of {len}");
                let mapped = unsafe { std::slice::from_raw_parts(at.add(offset), part.len()) };
                ensure!(
                    part == mapped,
                    "file and mapping differ near offset {offset}"
                );
                offset += part.len();
            }
            Ok(())
        },
    ),
    Case::new(
        "scratch.big_file",
        "write(2)",
        "20 MB are written and read back",
        || {
            let fd = put(c"f", b"")?;
            let block: Vec<u8> = (0..1 << 20).map(|i| (i % 251) as u8).collect();
            for _ in 0..20 {
                write_all(fd, &block)?;
            }
            eq("size", fstat_of(fd)?.st_size, 20 << 20)?;
            for i in 0..20 {
                let mut seen = vec![0u8; 1 << 20];
                gives!(
                    1 << 20,
                    pread(fd, seen.as_mut_ptr().cast(), 1 << 20, i << 20)
                );
                ensure!(seen == block, "block {i} differs");
            }
            Ok(())
        },
    ),
    Case::new(
        "scratch.many_files",
        "open(2)",
        "a thousand files live in one directory",
        || {
            for i in 0..1000 {
                ok!(close(put(
                    &cstring(format!("f{i}")),
                    i.to_string().as_bytes()
                )?));
            }
            for i in (0..1000).step_by(7) {
                eq("content", slurp(&format!("f{i}"))?, i.to_string())?;
                ok!(unlink(cstring(format!("f{i}")).as_ptr()));
            }
            let left = std::fs::read_dir(".").map(|d| d.count()).unwrap_or(0);
            eq("files left", left, 1000 - 1000usize.div_ceil(7))
        },
    ),
    Case::new(
        "scratch.deep_path",
        "path_resolution(7)",
        "directories nest beyond PATH_MAX by chdir",
        || {
            let name = cstring("d".repeat(200));
            for _ in 0..30 {
                ok!(mkdir(name.as_ptr(), 0o755));
                ok!(chdir(name.as_ptr()));
            }
            put(c"f", b"deep")?;
            let fd = ok!(open(p(c"f"), O_RDONLY));
            eq("content", read_some(fd, 8)?, b"deep".to_vec())?;
            let mut buf = [0 as c_char; 4096];
            err!(
                ENAMETOOLONG,
                syscall(SYS_getcwd, buf.as_mut_ptr(), 4096usize)
            );
            ok!(unlink(p(c"f")));
            for _ in 0..30 {
                ok!(chdir(p(c"..")));
                ok!(rmdir(name.as_ptr()));
            }
            Ok(())
        },
    ),
    Case::new(
        "scratch.replace_while_open",
        "rename(2)",
        "an open file outlives its replacement",
        || {
            let old = put(c"f", b"old")?;
            put(c"new", b"new")?;
            ok!(rename(p(c"new"), p(c"f")));
            eq("by descriptor", read_some(old, 8)?, b"old".to_vec())?;
            eq("by name", slurp("f")?, "new".to_string())
        },
    ),
    Case::new(
        "scratch.two_writers",
        "open(2)",
        "O_APPEND writes of two processes do not mix",
        || {
            ok!(close(put(c"f", b"")?));
            let mut pids = vec![];
            for letter in [b'a', b'b'] {
                pids.push(child(|| {
                    let fd = raw!(open(p(c"f"), O_WRONLY | O_APPEND));
                    let line = [letter; 100];
                    (0..100)
                        .filter(|_| raw!(write(fd, line.as_ptr().cast(), 100)) != 100)
                        .count() as i32
                })?);
            }
            for pid in pids {
                expect_exit(pid, 0)?;
            }
            let all = slurp("f")?;
            eq("size", all.len(), 20_000)?;
            let whole = all
                .as_bytes()
                .chunks(100)
                .all(|c| c.iter().all(|b| *b == c[0]));
            ensure!(whole, "the lines of the two writers are mixed");
            Ok(())
        },
    ),
];
