//! Random operations, done by our file systems and by the host's: same results, same errors, same
//! tree at the end.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno as HostErrno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::{LinkatFlags, UnlinkatFlags};

use super::{at_root, gofer_fs, me, overlay, read_file, tmpfs};
use crate::errno::{Errno, Result};
use crate::fs::attrs::{self, Target};
use crate::fs::change::{Make, RenameFlags};
use crate::fs::goferfs::Trust;
use crate::fs::inode::{FileType, OpenFlags};
use crate::fs::readdir::read_dir;
use crate::fs::walk::{Base, Ctx, WalkFlags};
use crate::mm::io::{Sink, Source};

struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % below
    }

    fn path(&mut self) -> String {
        let mut path = String::new();
        for i in 0..1 + self.next(3) {
            if i > 0 {
                path.push('/');
            }
            path.push_str(["a", "b", "c", "d", "e"][self.next(5)]);
            match self.next(24) {
                0 => path.push_str("/."),
                1 => path.push_str("/../b"),
                2 => path.push('/'),
                _ => {}
            }
        }
        if self.next(12) == 0 {
            path.push('/');
        }
        path
    }
}

/// What an operation came to, in words.
type Outcome = String;

fn say<T: std::fmt::Debug>(result: Result<T>) -> Outcome {
    match result {
        Ok(value) => format!("{value:?}"),
        Err(e) => format!("{e}"),
    }
}

fn host<T>(result: Result<T, HostErrno>) -> Result<T> {
    result.map_err(Errno::from)
}

struct Host<'a> {
    dir: &'a std::os::fd::OwnedFd,
}

/// Kind, permission bits, links and size; the size of directories is everybody's own business.
fn facts(mode: u32, nlink: u64, size: i64) -> (u32, u64, i64) {
    let dir = mode & libc::S_IFMT == libc::S_IFDIR;
    (mode, nlink, if dir { 0 } else { size })
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Mkdir,
    Rmdir,
    Unlink,
    Create(bool),
    Write(usize, usize),
    Append(usize),
    Truncate(usize),
    Rename(u32),
    Link,
    Symlink(usize),
    Readlink,
    Stat(bool),
    Chmod(u32),
    Read,
    List,
    Punch(usize, usize),
}

const TARGETS: [&str; 6] = ["a", "b/c", "../a", "c/", "d", "../b/./a"];

fn ours(ctx: &Ctx, op: Op, one: &str, two: &str) -> Outcome {
    let cwd = Base::Cwd;
    let at = |path: &str, flags| ctx.lookup(&cwd, path.as_bytes(), flags);
    match op {
        Op::Mkdir => say(ctx.make(&cwd, one.as_bytes(), Make::Dir, 0o777).map(drop)),
        Op::Rmdir => say(ctx.rmdir(&cwd, one.as_bytes())),
        Op::Unlink => say(ctx.unlink(&cwd, one.as_bytes())),
        Op::Create(excl) => {
            let mut flags = OpenFlags::CREAT | OpenFlags::RDWR;
            flags.set(OpenFlags::EXCL, excl);
            say(ctx.open_file(one, flags, 0o666).map(drop))
        }
        Op::Write(offset, len) => say(ctx.open_file(one, OpenFlags::RDWR, 0).and_then(|f| {
            let bytes = vec![len as u8; len];
            f.pwrite(&mut Source::kernel(&bytes), offset as u64)
        })),
        Op::Append(len) => {
            let flags = OpenFlags::WRONLY | OpenFlags::APPEND;
            say(ctx.open_file(one, flags, 0).and_then(|f| {
                let bytes = vec![7; len];
                f.write(&mut Source::kernel(&bytes))
            }))
        }
        Op::Truncate(size) => {
            say(at(one, WalkFlags::FOLLOW)
                .and_then(|p| attrs::truncate(&p, &ctx.creds, size as u64)))
        }
        Op::Rename(flags) => {
            let flags = RenameFlags::from_bits_retain(flags);
            say(ctx.rename((&cwd, one.as_bytes()), (&cwd, two.as_bytes()), flags))
        }
        Op::Link => {
            say(at(one, WalkFlags::empty()).and_then(|p| ctx.link(&p, &cwd, two.as_bytes())))
        }
        Op::Symlink(i) => {
            let what = Make::Symlink(TARGETS[i].as_bytes());
            say(ctx.make(&cwd, one.as_bytes(), what, 0o777).map(drop))
        }
        Op::Readlink => say(at(one, WalkFlags::empty()).and_then(|p| p.inode().readlink())),
        Op::Stat(follow) => {
            let flags = if follow {
                WalkFlags::FOLLOW
            } else {
                WalkFlags::empty()
            };
            say(at(one, flags)
                .and_then(|p| p.inode().attr())
                .map(|a| facts(a.mode(), u64::from(a.nlink), a.size as i64)))
        }
        Op::Chmod(mode) => say(at(one, WalkFlags::FOLLOW)
            .and_then(|p| attrs::chmod(Target::Path(&p), &ctx.creds, mode))),
        Op::Read => say(ctx.open_file(one, OpenFlags::empty(), 0).and_then(|f| {
            let mut some = vec![0; 70_000];
            let n = f.pread(&mut Sink::kernel(&mut some), 0)?;
            some.truncate(n);
            Ok(sum(&some))
        })),
        Op::List => say(ctx
            .open_file(one, OpenFlags::DIRECTORY, 0)
            .and_then(|f| names(&f))),
        Op::Punch(offset, len) => say(ctx.open_file(one, OpenFlags::RDWR, 0).and_then(|f| {
            let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            f.ops().allocate(&f, mode, offset as u64, len as u64)
        })),
    }
}

fn names(file: &crate::fs::file::File) -> Result<Vec<String>> {
    let mut names = Vec::new();
    let mut pos = 0;
    loop {
        // In small pieces, as getdents does.
        let before = names.len();
        read_dir(file, pos, &mut |e| {
            names.push(String::from_utf8_lossy(e.name).into_owned());
            pos = e.next;
            names.len() < before + 2
        })?;
        if names.len() == before {
            break;
        }
    }
    names.sort();
    Ok(names)
}

fn sum(bytes: &[u8]) -> (usize, u64) {
    let mix = |h: u64, b: &u8| h.wrapping_mul(31).wrapping_add(u64::from(*b));
    (bytes.len(), bytes.iter().fold(0, mix))
}

impl Host<'_> {
    fn open(&self, path: &str, flags: OFlag) -> Result<std::os::fd::OwnedFd> {
        host(openat(self.dir, path, flags, Mode::from_bits_retain(0o644)))
    }

    fn run(&self, op: Op, one: &str, two: &str) -> Outcome {
        let dir = self.dir;
        let stat = |flags| host(nix::sys::stat::fstatat(dir, one, flags));
        match op {
            Op::Mkdir => say(host(nix::sys::stat::mkdirat(
                dir,
                one,
                Mode::from_bits_retain(0o755),
            ))),
            Op::Rmdir => say(host(nix::unistd::unlinkat(
                dir,
                one,
                UnlinkatFlags::RemoveDir,
            ))),
            Op::Unlink => say(host(nix::unistd::unlinkat(
                dir,
                one,
                UnlinkatFlags::NoRemoveDir,
            ))),
            Op::Create(excl) => {
                let mut flags = OFlag::O_CREAT | OFlag::O_RDWR;
                flags.set(OFlag::O_EXCL, excl);
                say(self.open(one, flags).map(drop))
            }
            Op::Write(offset, len) => say(self.open(one, OFlag::O_RDWR).and_then(|f| {
                host(nix::sys::uio::pwrite(
                    f,
                    &vec![len as u8; len],
                    offset as i64,
                ))
            })),
            Op::Append(len) => say(self
                .open(one, OFlag::O_WRONLY | OFlag::O_APPEND)
                .and_then(|f| host(nix::unistd::write(f, &vec![7; len])))),
            Op::Truncate(size) => {
                let opened = self.open(one, OFlag::O_PATH);
                say(opened.and_then(|f| {
                    let st = host(nix::sys::stat::fstat(&f))?;
                    match st.st_mode & libc::S_IFMT {
                        libc::S_IFDIR => Err(Errno::EISDIR),
                        libc::S_IFREG => {
                            let f = self.open(one, OFlag::O_WRONLY)?;
                            host(nix::unistd::ftruncate(f, size as i64))
                        }
                        _ => Err(Errno::EINVAL),
                    }
                }))
            }
            Op::Rename(flags) => {
                let flags = nix::fcntl::RenameFlags::from_bits_retain(flags);
                say(host(nix::fcntl::renameat2(dir, one, dir, two, flags)))
            }
            Op::Link => say(host(nix::unistd::linkat(
                dir,
                one,
                dir,
                two,
                LinkatFlags::empty(),
            ))),
            Op::Symlink(i) => say(host(nix::unistd::symlinkat(TARGETS[i], dir, one))),
            Op::Readlink => {
                say(host(nix::fcntl::readlinkat(dir, one)).map(|text| text.as_bytes().to_vec()))
            }
            Op::Stat(follow) => {
                let flags = if follow {
                    AtFlags::empty()
                } else {
                    AtFlags::AT_SYMLINK_NOFOLLOW
                };
                say(stat(flags).map(|s| facts(s.st_mode, s.st_nlink, s.st_size)))
            }
            Op::Chmod(mode) => say(host(nix::sys::stat::fchmodat(
                dir,
                one,
                Mode::from_bits_retain(mode),
                nix::sys::stat::FchmodatFlags::FollowSymlink,
            ))),
            Op::Read => say(self.open(one, OFlag::O_RDONLY).and_then(|f| {
                let mut some = vec![0; 70_000];
                let n = host(nix::sys::uio::pread(f, &mut some, 0))?;
                some.truncate(n);
                Ok(sum(&some))
            })),
            Op::List => say(self.open(one, OFlag::O_DIRECTORY).and_then(|f| {
                let mut names = Vec::new();
                for entry in host(nix::dir::Dir::from_fd(f))?.iter() {
                    names.push(host(entry)?.file_name().to_string_lossy().into_owned());
                }
                names.sort();
                Ok(names)
            })),
            Op::Punch(offset, len) => say(self.open(one, OFlag::O_RDWR).and_then(|f| {
                use nix::fcntl::FallocateFlags as F;
                let mode = F::FALLOC_FL_PUNCH_HOLE | F::FALLOC_FL_KEEP_SIZE;
                host(nix::fcntl::fallocate(f, mode, offset as i64, len as i64))
            })),
        }
    }
}

fn pick(random: &mut Random) -> Op {
    let sizes = [0, 1, 10, 4095, 4096, 5000, 16_384, 20_000, 65_537];
    match random.next(22) {
        0..3 => Op::Mkdir,
        3 => Op::Rmdir,
        4 => Op::Unlink,
        5 | 6 => Op::Create(random.next(2) == 0),
        7..10 => Op::Write(sizes[random.next(9)], sizes[1 + random.next(8)]),
        10 => Op::Append(sizes[1 + random.next(8)]),
        11 => Op::Truncate(sizes[random.next(9)]),
        12..15 => {
            Op::Rename([0, 0, 0, libc::RENAME_NOREPLACE, libc::RENAME_EXCHANGE][random.next(5)])
        }
        15 => Op::Link,
        16 => Op::Symlink(random.next(TARGETS.len())),
        17 => Op::Readlink,
        18 => Op::Stat(random.next(2) == 0),
        19 => Op::Chmod([0o755, 0o700, 0o644, 0o4755, 0o1777][random.next(5)]),
        20 => {
            if random.next(2) == 0 {
                Op::Read
            } else {
                Op::Punch(sizes[random.next(9)], sizes[1 + random.next(8)])
            }
        }
        _ => Op::List,
    }
}

/// Compares the trees below the current directory of `ctx` and below `dir`.
fn same_tree(ctx: &Ctx, dir: &Path, below: &str, seed: u64) {
    let listed = ours(ctx, Op::List, below, "");
    let root = std::fs::File::open(dir).unwrap().into();
    let host = Host { dir: &root };
    assert_eq!(
        listed,
        host.run(Op::List, below, ""),
        "seed {seed}: {below}"
    );
    let file = ctx.open_file(below, OpenFlags::DIRECTORY, 0).unwrap();
    for name in names(&file).unwrap() {
        if name == "." || name == ".." {
            continue;
        }
        let path = format!("{below}/{name}");
        for op in [Op::Stat(false), Op::Readlink] {
            let (us, them) = (ours(ctx, op, &path, ""), host.run(op, &path, ""));
            assert_eq!(us, them, "seed {seed}: {op:?} {path}");
        }
        let place = ctx.lookup(&Base::Cwd, path.as_bytes(), WalkFlags::empty());
        match place.unwrap().inode().kind() {
            FileType::Dir => same_tree(ctx, dir, &path, seed),
            FileType::Regular => {
                let bytes = read_file(&ctx.open_file(&path, OpenFlags::empty(), 0).unwrap());
                let expected = std::fs::read(dir.join(&path)).unwrap();
                assert_eq!(sum(&bytes.unwrap()), sum(&expected), "seed {seed}: {path}");
            }
            _ => {}
        }
    }
}

fn compare(ctx: &mut Ctx, dir: &Path, seed: u64, steps: usize) {
    // One level down, so that `..` of the top has somewhere to go.
    let base = dir.join("base");
    let _ = std::fs::create_dir(&base);
    let _ = ctx.make(&Base::Cwd, b"base", Make::Dir, 0o755);
    ctx.cwd = ctx.lookup(&Base::Cwd, b"base", WalkFlags::empty()).unwrap();
    let fd = std::fs::File::open(&base).unwrap().into();
    let host = Host { dir: &fd };
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    for step in 0..steps {
        let op = pick(&mut random);
        let (one, two) = (random.path(), random.path());
        if step.is_multiple_of(97) {
            ctx.root.mount.fs.root.shrink();
        }
        let us = ours(ctx, op, &one, &two);
        let them = host.run(op, &one, &two);
        assert_eq!(us, them, "seed {seed}, step {step}: {op:?} {one} {two}");
    }
    same_tree(ctx, &base, ".", seed);
}

fn with_host_umask(test: impl FnOnce()) {
    nix::sys::stat::umask(Mode::from_bits_retain(0o022));
    test();
}

#[test]
fn tmpfs_behaves_as_the_host() {
    with_host_umask(|| {
        for seed in 1..40 {
            let dir = tempfile::tempdir().unwrap();
            compare(&mut at_root(tmpfs(), me()), dir.path(), seed, 600);
        }
    });
}

/// Some files, directories, links to begin with.
fn populate(dir: &Path, seed: u64) {
    let mut ctx = at_root(tmpfs(), me());
    compare(&mut ctx, dir, seed, 400);
}

fn copy_tree(from: &Path, to: &Path) {
    let done = std::process::Command::new("cp")
        .arg("-a")
        .arg(from.join("."))
        .arg(to)
        .status();
    assert!(done.unwrap().success());
}

#[test]
fn overlay_behaves_as_the_host_and_leaves_the_lower_tree_alone() {
    with_host_umask(|| {
        for seed in 100..130 {
            let dirs: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
            let [lower, untouched, host] = [0, 1, 2].map(|i| dirs[i].path());
            populate(lower, seed);
            copy_tree(lower, untouched);
            copy_tree(lower, host);
            compare(&mut at_root(overlay(lower), me()), host, seed + 1000, 600);
            // The lower tree is as it was.
            let mut check = at_root(gofer_fs(lower, Trust::Layer(u64::MAX)), me());
            check.cwd = check
                .lookup(&Base::Cwd, b"base", WalkFlags::empty())
                .unwrap();
            same_tree(&check, &untouched.join("base"), ".", seed);
        }
    });
}

#[test]
fn goferfs_behaves_as_the_host() {
    with_host_umask(|| {
        for (seed, trust) in (200..220).zip([Trust::Layer(u64::MAX), Trust::Shared].iter().cycle())
        {
            let (served, host) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let mut ctx = at_root(gofer_fs(served.path(), *trust), me());
            compare(&mut ctx, host.path(), seed, 500);
        }
    });
}
