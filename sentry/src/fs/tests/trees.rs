//! Trees: renamed lower directories, listings that change while they are read, depth.

use super::{at_root, gofer_fs, me, overlay, tmpfs};
use crate::errno::Errno;
use crate::fs::change::Make;
use crate::fs::goferfs::Trust;
use crate::fs::inode::OpenFlags;
use crate::fs::readdir::read_dir;
use crate::fs::walk::{Base, WalkFlags};
use crate::kernel::cred::Credentials;

const CWD: Base = Base::Cwd;

#[test]
fn lower_directories_move_with_all_they_hold() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("a/b/c")).unwrap();
    std::fs::write(dir.path().join("a/b/c/f"), b"deep").unwrap();
    let ctx = at_root(overlay(dir.path()), me());
    ctx.put("a/b/new", b"new").unwrap();
    ctx.make(&CWD, b"z", Make::Dir, 0o755).unwrap();
    ctx.rename((&CWD, b"a"), (&CWD, b"z/y"), Default::default())
        .unwrap();
    for _ in 0..2 {
        assert_eq!(ctx.read_all("z/y/b/c/f").unwrap(), b"deep");
        assert_eq!(ctx.read_all("z/y/b/new").unwrap(), b"new");
        assert_eq!(ctx.read_all("a/b/c/f"), Err(Errno::ENOENT));
        // Again with nothing cached.
        ctx.root.mount.fs.root.shrink();
    }
    // The old name is free, and new things there do not mix with the lower directory.
    ctx.make(&CWD, b"a", Make::Dir, 0o755).unwrap();
    ctx.rmdir(&CWD, b"a").unwrap();
    ctx.unlink(&CWD, b"z/y/b/c/f").unwrap();
    ctx.rmdir(&CWD, b"z/y/b/c").unwrap();
    assert_eq!(ctx.rmdir(&CWD, b"z/y/b"), Err(Errno::ENOTEMPTY));
    assert!(dir.path().join("a/b/c/f").exists());
}

#[test]
fn removing_while_listing_skips_nothing() {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..500 {
        std::fs::write(dir.path().join(format!("f{i}")), b"").unwrap();
    }
    let systems = [
        overlay(dir.path()),
        gofer_fs(dir.path(), Trust::Layer(u64::MAX)),
        tmpfs(),
    ];
    for (i, fs) in systems.into_iter().enumerate() {
        let ctx = at_root(fs, me());
        if i == 2 {
            for i in 0..500 {
                ctx.put(&format!("f{i}"), b"").unwrap();
            }
        }
        let file = ctx.open_file(".", OpenFlags::DIRECTORY, 0).unwrap();
        let (mut pos, mut removed) = (0, 0);
        loop {
            let mut names = Vec::new();
            read_dir(&file, pos, &mut |e| {
                names.push(e.name.to_vec());
                pos = e.next;
                names.len() < 7
            })
            .unwrap();
            if names.is_empty() {
                break;
            }
            for name in names.iter().filter(|n| !n.starts_with(b".")) {
                ctx.unlink(&CWD, name).unwrap();
                removed += 1;
            }
        }
        assert_eq!(removed, 500, "file system {i}");
    }
}

#[test]
fn renamed_host_directories_are_found_below_their_new_name() {
    let dir = tempfile::tempdir().unwrap();
    let ctx = at_root(gofer_fs(dir.path(), Trust::Layer(u64::MAX)), me());
    ctx.make(&CWD, b"a", Make::Dir, 0o755).unwrap();
    ctx.make(&CWD, b"a/b", Make::Dir, 0o755).unwrap();
    ctx.put("a/b/f", b"1").unwrap();
    let inside = ctx.lookup(&CWD, b"a/b", WalkFlags::empty()).unwrap();
    ctx.rename((&CWD, b"a"), (&CWD, b"c"), Default::default())
        .unwrap();
    let mut ctx = ctx;
    ctx.cwd = inside;
    ctx.put("g", b"2").unwrap();
    assert_eq!(std::fs::read(dir.path().join("c/b/g")).unwrap(), b"2");
    assert_eq!(ctx.read_all("/c/b/f").unwrap(), b"1");
    assert_eq!(ctx.cwd.text(&ctx.root).text, b"/c/b");
}

#[test]
fn a_guest_may_nest_as_deep_as_it_likes() {
    let dir = tempfile::tempdir().unwrap();
    for fs in [tmpfs(), overlay(dir.path())] {
        let mut ctx = at_root(fs, Credentials::root());
        for _ in 0..50_000 {
            ctx.make(&CWD, b"d", Make::Dir, 0o755).unwrap();
            ctx.cwd = ctx.lookup(&CWD, b"d", WalkFlags::empty()).unwrap();
        }
        // Taking it apart must not need a deep stack.
        drop(ctx);
    }
}

#[test]
fn xattrs_of_lower_files_are_kept_and_changed() {
    use crate::fs::attrs::{self, Target};
    use crate::fs::inode::XattrFlags;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("f"), b"").unwrap();
    let ctx = at_root(overlay(dir.path()), me());
    let place = ctx.lookup(&CWD, b"f", WalkFlags::empty()).unwrap();
    let target = Target::Path(&place);
    let get = |name: &[u8]| attrs::get_xattr(target, &ctx.creds, name);
    let set =
        |name: &[u8], value: &[u8], flags| attrs::set_xattr(target, &ctx.creds, name, value, flags);
    assert_eq!(get(b"user.a"), Err(Errno::ENODATA));
    assert_eq!(
        set(b"user.a", b"1", XattrFlags::REPLACE),
        Err(Errno::ENODATA)
    );
    set(b"user.a", b"1", XattrFlags::CREATE).unwrap();
    assert_eq!(set(b"user.a", b"2", XattrFlags::CREATE), Err(Errno::EEXIST));
    assert_eq!(get(b"user.a").unwrap(), b"1");
    assert_eq!(get(b"nonsense"), Err(Errno::EOPNOTSUPP));
    assert_eq!(attrs::list_xattr(target, &ctx.creds).unwrap(), b"user.a\0");
    attrs::remove_xattr(target, &ctx.creds, b"user.a").unwrap();
    assert_eq!(get(b"user.a"), Err(Errno::ENODATA));
}
