//! Trees that somebody outside changes while the guest uses them.

use std::fs;
use std::path::Path;

use runsc_gofer::protocol::MountId;
use runsc_gofer::server::Writes;

use super::{at_root, gofer, gofer_fs, me, memory, read_file};
use crate::errno::Errno;
use crate::fs::attrs;
use crate::fs::change::Make;
use crate::fs::goferfs::{GoferFs, Trust};
use crate::fs::inode::{DirEntry, FileType, OpenFlags};
use crate::fs::moment;
use crate::fs::overlay::OverlayFs;
use crate::fs::readdir::read_dir;
use crate::fs::walk::{Base, Ctx, WalkFlags};

const CWD: Base = Base::Cwd;

/// A tree in `dir` that others change; what was seen holds for one call of `step`.
fn shared(dir: &Path) -> Ctx {
    at_root(gofer_fs(dir, Trust::Shared), me())
}

/// Does what one system call does.
fn step<T>(call: impl FnOnce() -> T) -> T {
    moment::begin();
    let result = call();
    moment::end();
    result
}

fn kind(ctx: &Ctx, path: &str) -> Result<FileType, Errno> {
    let place = ctx.lookup(&CWD, path.as_bytes(), WalkFlags::empty())?;
    Ok(place.inode().attr()?.kind)
}

#[test]
fn names_come_go_and_change() {
    let dir = tempfile::tempdir().unwrap();
    let out = |name: &str| dir.path().join(name);
    fs::create_dir_all(out("d/e")).unwrap();
    fs::write(out("d/e/f"), b"one").unwrap();
    let ctx = shared(dir.path());
    let f = "d/e/f";
    assert_eq!(step(|| ctx.read_all(f)).unwrap(), b"one");
    // Gone.
    fs::remove_file(out(f)).unwrap();
    assert_eq!(step(|| ctx.read_all(f)), Err(Errno::ENOENT));
    // Made after a look-up that found nothing.
    fs::write(out(f), b"two").unwrap();
    assert_eq!(step(|| ctx.read_all(f)).unwrap(), b"two");
    // Removed and made again, by which a number may be used again.
    fs::remove_file(out(f)).unwrap();
    fs::write(out(f), b"three").unwrap();
    assert_eq!(step(|| ctx.read_all(f)).unwrap(), b"three");
    // Replaced by a rename.
    fs::write(out("new"), b"four").unwrap();
    fs::rename(out("new"), out(f)).unwrap();
    assert_eq!(step(|| ctx.read_all(f)).unwrap(), b"four");
    assert_eq!(step(|| kind(&ctx, "new")), Err(Errno::ENOENT));
    // Of another type.
    fs::remove_file(out(f)).unwrap();
    fs::create_dir(out(f)).unwrap();
    assert_eq!(step(|| kind(&ctx, f)), Ok(FileType::Dir));
    assert_eq!(step(|| kind(&ctx, "d/e/f/x")), Err(Errno::ENOENT));
    fs::write(out("d/e/f/x"), b"").unwrap();
    assert_eq!(step(|| kind(&ctx, "d/e/f/x")), Ok(FileType::Regular));
    // The directory above is another one.
    fs::remove_dir_all(out("d")).unwrap();
    assert_eq!(step(|| kind(&ctx, "d/e/f")), Err(Errno::ENOENT));
    fs::create_dir_all(out("d/e")).unwrap();
    std::os::unix::fs::symlink("e", out("d/link")).unwrap();
    fs::write(out(f), b"five").unwrap();
    assert_eq!(step(|| ctx.read_all("d/link/f")).unwrap(), b"five");
    fs::remove_file(out("d/link")).unwrap();
    std::os::unix::fs::symlink("nowhere", out("d/link")).unwrap();
    assert_eq!(step(|| ctx.read_all("d/link/f")), Err(Errno::ENOENT));
}

#[test]
fn what_is_made_meets_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let out = |name: &str| dir.path().join(name);
    let ctx = shared(dir.path());
    let mkdir = |name: &str| ctx.make(&CWD, name.as_bytes(), Make::Dir, 0o755).map(drop);
    step(|| mkdir("d")).unwrap();
    step(|| ctx.put("f", b"inside")).unwrap();
    assert_eq!(fs::read(out("f")).unwrap(), b"inside");
    fs::remove_dir(out("d")).unwrap();
    fs::remove_file(out("f")).unwrap();
    step(|| mkdir("d")).unwrap();
    step(|| ctx.put("f", b"again")).unwrap();
    assert_eq!(fs::read(out("f")).unwrap(), b"again");
    assert!(out("d").is_dir());
    // Both sides at once: what was there counts, unless it must not.
    assert_eq!(step(|| kind(&ctx, "g")), Err(Errno::ENOENT));
    fs::write(out("g"), b"outside").unwrap();
    assert_eq!(step(|| mkdir("g")), Err(Errno::EEXIST));
    moment::begin();
    assert_eq!(kind(&ctx, "h"), Err(Errno::ENOENT));
    fs::write(out("h"), b"outside").unwrap();
    let flags = OpenFlags::CREAT | OpenFlags::RDWR;
    let excl = ctx.open_file("h", flags | OpenFlags::EXCL, 0o644);
    assert_eq!(excl.map(drop), Err(Errno::EEXIST));
    moment::begin();
    assert_eq!(kind(&ctx, "i"), Err(Errno::ENOENT));
    fs::write(out("i"), b"outside").unwrap();
    let file = ctx.open_file("i", flags, 0o644).unwrap();
    moment::end();
    assert_eq!(read_file(&file).unwrap(), b"outside");
    // Removed by both.
    fs::remove_file(out("h")).unwrap();
    assert_eq!(step(|| ctx.unlink(&CWD, b"h")), Err(Errno::ENOENT));
    fs::remove_dir(out("d")).unwrap();
    assert_eq!(step(|| ctx.rmdir(&CWD, b"d")), Err(Errno::ENOENT));
    let rename = || ctx.rename((&CWD, b"f"), (&CWD, b"k"), Default::default());
    fs::rename(out("f"), out("j")).unwrap();
    assert_eq!(step(rename), Err(Errno::ENOENT));
    assert_eq!(step(|| ctx.read_all("j")).unwrap(), b"again");
}

#[test]
fn an_open_file_stays_the_one_that_was_opened() {
    let dir = tempfile::tempdir().unwrap();
    let out = |name: &str| dir.path().join(name);
    fs::write(out("f"), b"old").unwrap();
    let ctx = shared(dir.path());
    let file = step(|| ctx.open_file("f", OpenFlags::RDWR, 0)).unwrap();
    fs::write(out("new"), b"newer").unwrap();
    fs::rename(out("new"), out("f")).unwrap();
    // Changes of the open one do not hit the new one.
    step(|| attrs::chmod(attrs::Target::File(&file), &ctx.creds, 0o600)).unwrap();
    let mode = |name: &str| {
        use std::os::unix::fs::PermissionsExt;
        fs::metadata(out(name)).unwrap().permissions().mode() & 0o777
    };
    assert_ne!(mode("f"), 0o600);
    assert_eq!(read_file(&file).unwrap(), b"old");
    assert_eq!(step(|| file.attr()).unwrap().size, 3);
    assert_eq!(step(|| ctx.read_all("f")).unwrap(), b"newer");
    assert_eq!(step(|| file.attr()).unwrap().nlink, 0);
    assert!(file.path().dentry.is_deleted());
    // What is written into the file itself is seen by both.
    fs::write(out("f"), b"in place").unwrap();
    assert_eq!(step(|| ctx.read_all("f")).unwrap(), b"in place");
    step(|| ctx.put("f", b"from inside")).unwrap();
    assert_eq!(fs::read(out("f")).unwrap(), b"from inside");
}

#[test]
fn a_directory_that_is_gone_is_gone_for_who_stands_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let out = |name: &str| dir.path().join(name);
    fs::create_dir_all(out("d/e")).unwrap();
    let mut ctx = shared(dir.path());
    let place = step(|| ctx.lookup(&CWD, b"d/e", WalkFlags::empty())).unwrap();
    ctx.cwd = place.clone();
    let listed = step(|| ctx.open_file(".", OpenFlags::DIRECTORY, 0)).unwrap();
    fs::remove_dir_all(out("d")).unwrap();
    fs::create_dir_all(out("d/e")).unwrap();
    fs::write(out("d/e/f"), b"other").unwrap();
    assert_eq!(step(|| kind(&ctx, "/d/e/f")), Ok(FileType::Regular));
    assert_eq!(step(|| kind(&ctx, "f")), Err(Errno::ENOENT));
    assert_eq!(step(|| ctx.put("g", b"")), Err(Errno::ENOENT));
    assert_eq!(step(|| place.inode().attr()).unwrap().nlink, 0);
    let mut names = 0;
    let mut count = |e: DirEntry<'_>| {
        names += usize::from(!e.name.starts_with(b"."));
        true
    };
    let listed = step(|| read_dir(&listed, 0, &mut count));
    assert!(matches!(listed, Ok(()) | Err(Errno::ENOENT)));
    assert_eq!(names, 0);
}

#[test]
fn hard_links_made_outside_and_taken_away() {
    let dir = tempfile::tempdir().unwrap();
    let out = |name: &str| dir.path().join(name);
    fs::write(out("a"), b"one").unwrap();
    fs::hard_link(out("a"), out("b")).unwrap();
    let ctx = shared(dir.path());
    let inode =
        |name: &str| step(|| ctx.lookup(&CWD, name.as_bytes(), WalkFlags::empty())).unwrap();
    let (a, b) = (inode("a"), inode("b"));
    assert!(std::sync::Arc::ptr_eq(a.inode(), b.inode()));
    fs::remove_file(out("a")).unwrap();
    assert_eq!(step(|| kind(&ctx, "a")), Err(Errno::ENOENT));
    assert_eq!(step(|| ctx.read_all("b")).unwrap(), b"one");
    assert_eq!(step(|| b.inode().attr()).unwrap().nlink, 1);
    step(|| ctx.unlink(&CWD, b"b")).unwrap();
    assert!(!out("b").exists());
}

/// A layer of which nothing that was seen holds any longer.
#[test]
fn layers_below_are_looked_at_again() {
    let dir = tempfile::tempdir().unwrap();
    let out = |name: &str| dir.path().join(name);
    fs::create_dir_all(out("d/e")).unwrap();
    for i in 0..20 {
        fs::write(out("d/e").join(format!("f{i}")), b"old").unwrap();
    }
    let client = gofer(dir.path(), Writes::Refuse);
    let lower = GoferFs::open(client, MountId(0), Trust::Layer(0)).unwrap();
    let ctx = at_root(OverlayFs::mount(memory(), lower, None).unwrap(), me());
    let list = || {
        let dir = step(|| ctx.open_file("d/e", OpenFlags::DIRECTORY, 0)).unwrap();
        let mut count = 0;
        step(|| {
            read_dir(&dir, 0, &mut |_| {
                count += 1;
                true
            })
        })
        .unwrap();
        count - 2
    };
    assert_eq!(list(), 20);
    for i in 0..20 {
        assert_eq!(step(|| ctx.read_all(&format!("d/e/f{i}"))).unwrap(), b"old");
    }
    assert_eq!(step(|| kind(&ctx, "d/e/new")), Err(Errno::ENOENT));
    fs::write(out("d/e/new"), b"new").unwrap();
    fs::remove_file(out("d/e/f0")).unwrap();
    fs::write(out("d/e/f1"), b"written in place").unwrap();
    fs::write(out("over"), b"renamed").unwrap();
    fs::rename(out("over"), out("d/e/f2")).unwrap();
    assert_eq!(list(), 20);
    assert_eq!(step(|| ctx.read_all("d/e/new")).unwrap(), b"new");
    assert_eq!(step(|| ctx.read_all("d/e/f0")), Err(Errno::ENOENT));
    assert_eq!(
        step(|| ctx.read_all("d/e/f1")).unwrap(),
        b"written in place"
    );
    assert_eq!(step(|| ctx.read_all("d/e/f2")).unwrap(), b"renamed");
    // What the guest has changed is its own.
    step(|| ctx.put("d/e/f3", b"own")).unwrap();
    step(|| ctx.unlink(&CWD, b"d/e/f4")).unwrap();
    fs::write(out("d/e/f3"), b"theirs").unwrap();
    fs::write(out("d/e/f4"), b"theirs").unwrap();
    assert_eq!(step(|| ctx.read_all("d/e/f3")).unwrap(), b"own");
    assert_eq!(step(|| ctx.read_all("d/e/f4")), Err(Errno::ENOENT));
    fs::remove_dir_all(out("d")).unwrap();
    assert_eq!(step(|| ctx.read_all("d/e/f3")).unwrap(), b"own");
    assert_eq!(step(|| ctx.read_all("d/e/f5")), Err(Errno::ENOENT));
}

#[test]
fn one_call_asks_once() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), b"").unwrap();
    let ctx = shared(dir.path());
    moment::begin();
    assert_eq!(kind(&ctx, "f"), Ok(FileType::Regular));
    fs::remove_file(dir.path().join("f")).unwrap();
    assert_eq!(kind(&ctx, "f"), Ok(FileType::Regular));
    moment::begin();
    assert_eq!(kind(&ctx, "f"), Err(Errno::ENOENT));
    moment::end();
}
