//! Path walk: tables of paths and where they lead.

use std::sync::Arc;

use super::{at_root, tmpfs};
use crate::errno::Errno;
use crate::fs::change::Make;
use crate::fs::inode::OpenFlags;
use crate::fs::mount::{Mount, MountFlags};
use crate::fs::walk::{Base, Ctx, WalkFlags};
use crate::kernel::cred::{CapSet, Credentials, Gid, Uid};

const CWD: Base = Base::Cwd;

fn world() -> Ctx {
    let ctx = at_root(tmpfs(), Credentials::root());
    for dir in ["/d", "/d/e", "/m", "/tmp"] {
        ctx.make(&CWD, dir.as_bytes(), Make::Dir, 0o755).unwrap();
    }
    ctx.put("/d/f", b"file").unwrap();
    let links = [
        ("/l", "d"),
        ("/abs", "/d/e"),
        ("/d/up", "../d/f"),
        ("/loop", "loop"),
        ("/dangling", "nowhere"),
        ("/slash", "d/f/"),
        ("/d/out", "../../m"),
    ];
    for (name, to) in links {
        let what = Make::Symlink(to.as_bytes());
        ctx.make(&CWD, name.as_bytes(), what, 0o777).unwrap();
    }
    ctx
}

fn text(ctx: &Ctx, path: &str, flags: WalkFlags) -> String {
    match ctx.lookup(&CWD, path.as_bytes(), flags) {
        Ok(place) => String::from_utf8(place.text(&ctx.root).text).unwrap(),
        Err(e) => e.to_string(),
    }
}

#[test]
fn where_paths_lead() {
    let ctx = world();
    let long = "x".repeat(256);
    let very_long = "a/".repeat(2048);
    let cases = [
        ("", "ENOENT"),
        ("/", "/"),
        ("..", "/"),
        ("/../../d", "/d"),
        ("d/f", "/d/f"),
        ("d/f/", "ENOTDIR"),
        ("d/f/.", "ENOTDIR"),
        ("d/f/..", "ENOTDIR"),
        ("d//e///", "/d/e"),
        ("l", "/d"),
        ("l/", "/d"),
        ("l/../d/./up", "/d/f"),
        ("abs/..", "/d"),
        ("loop", "ELOOP"),
        ("loop/x", "ELOOP"),
        ("dangling", "ENOENT"),
        ("slash", "ENOTDIR"),
        ("missing/x", "ENOENT"),
        (&long, "ENAMETOOLONG"),
        (&very_long, "ENAMETOOLONG"),
        ("d/out", "/m"),
    ];
    for (path, expected) in cases {
        assert_eq!(text(&ctx, path, WalkFlags::FOLLOW), expected, "{path}");
    }
    assert_eq!(text(&ctx, "l", WalkFlags::empty()), "/l");
    assert_eq!(text(&ctx, "l/", WalkFlags::empty()), "/d");
    assert_eq!(text(&ctx, "", WalkFlags::EMPTY), "/");
    assert_eq!(text(&ctx, "l", WalkFlags::DIRECTORY), "ENOTDIR");
}

#[test]
fn forty_links_and_no_more() {
    let ctx = world();
    for i in 0..41 {
        let to = if i == 0 {
            "d".into()
        } else {
            format!("n{}", i - 1)
        };
        let name = format!("n{i}");
        ctx.make(&CWD, name.as_bytes(), Make::Symlink(to.as_bytes()), 0)
            .unwrap();
    }
    assert_eq!(text(&ctx, "n39", WalkFlags::FOLLOW), "/d");
    assert_eq!(text(&ctx, "n40", WalkFlags::FOLLOW), "ELOOP");
}

#[test]
fn scoped_walks() {
    let ctx = world();
    let d = ctx.lookup(&CWD, b"d", WalkFlags::empty()).unwrap();
    let base = Base::At(d);
    let run =
        |path: &str, flags| match ctx.lookup(&base, path.as_bytes(), flags | WalkFlags::FOLLOW) {
            Ok(place) => String::from_utf8(place.text(&ctx.root).text).unwrap(),
            Err(e) => e.to_string(),
        };
    let cases = [
        ("e", WalkFlags::BENEATH, "/d/e"),
        ("e/..", WalkFlags::BENEATH, "/d"),
        ("..", WalkFlags::BENEATH, "EXDEV"),
        ("/d", WalkFlags::BENEATH, "EXDEV"),
        ("up", WalkFlags::BENEATH, "EXDEV"),
        ("..", WalkFlags::IN_ROOT, "/d"),
        ("/e", WalkFlags::IN_ROOT, "/d/e"),
        ("up", WalkFlags::IN_ROOT, "ENOENT"),
        ("up", WalkFlags::NO_SYMLINKS, "ELOOP"),
        ("../l/e", WalkFlags::NO_SYMLINKS, "ELOOP"),
    ];
    for (path, flags, expected) in cases {
        assert_eq!(run(path, flags), expected, "{path} {flags:?}");
    }
}

#[test]
fn mounts_cover_and_uncover() {
    let ctx = world();
    let at = ctx.lookup(&CWD, b"m", WalkFlags::empty()).unwrap();
    let mount = Mount::new(tmpfs(), b"none", MountFlags::RDONLY);
    ctx.namespace.attach(&mount, &at).unwrap();
    assert_eq!(text(&ctx, "m/../d", WalkFlags::empty()), "/d");
    assert_eq!(text(&ctx, "m", WalkFlags::NO_XDEV), "EXDEV");
    let place = ctx.lookup(&CWD, b"m", WalkFlags::empty()).unwrap();
    assert!(place.is_mount_root());
    let cases: [(&str, Errno); 2] = [("m/x", Errno::EROFS), ("m", Errno::EEXIST)];
    for (path, expected) in cases {
        let made = ctx.make(&CWD, path.as_bytes(), Make::Dir, 0o755);
        assert_eq!(made.map(drop), Err(expected), "{path}");
    }
    assert_eq!(ctx.rmdir(&CWD, b"m"), Err(Errno::EBUSY));
    let rename = ctx.rename((&CWD, b"m"), (&CWD, b"n"), Default::default());
    assert_eq!(rename, Err(Errno::EBUSY));
    let across = ctx.rename((&CWD, b"d/f"), (&CWD, b"m/f"), Default::default());
    assert_eq!(across, Err(Errno::EXDEV));
    let info = String::from_utf8(ctx.namespace.mountinfo(&ctx.root)).unwrap();
    assert!(info.contains(" / /m ro - tmpfs none "), "{info}");
    drop(mount);
    assert_eq!(
        ctx.namespace.umount(place.clone(), false),
        Err(Errno::EBUSY)
    );
    let again = place.clone();
    drop(place);
    ctx.namespace.umount(again, false).unwrap();
    ctx.rmdir(&CWD, b"m").unwrap();
}

#[test]
fn rights_are_checked_on_the_way() {
    let root = world();
    root.make(&CWD, b"/locked", Make::Dir, 0o700).unwrap();
    root.make(&CWD, b"/locked/in", Make::Dir, 0o777).unwrap();
    let tmp = root.lookup(&CWD, b"/tmp", WalkFlags::empty()).unwrap();
    let change = crate::fs::inode::SetAttr {
        perm: Some(0o1777),
        ..Default::default()
    };
    tmp.inode().set_attr(&change).unwrap();
    root.put("/tmp/roots", b"x").unwrap();
    let mut user = Ctx {
        view: root.view.clone(),
        creds: Arc::new(Credentials::user(Uid(7), Gid(7), vec![], CapSet::EMPTY)),
    };
    let open = |ctx: &Ctx, path: &str, flags| ctx.open_file(path, flags, 0o644).map(drop);
    let create = OpenFlags::CREAT | OpenFlags::WRONLY;
    let cases = [
        ("/locked/in", OpenFlags::empty(), Err(Errno::EACCES)),
        ("/locked/missing", OpenFlags::empty(), Err(Errno::EACCES)),
        ("/d/f", OpenFlags::empty(), Ok(())),
        ("/d/f", OpenFlags::WRONLY, Err(Errno::EACCES)),
        ("/d/f", OpenFlags::NOATIME, Err(Errno::EPERM)),
        ("/d/new", create, Err(Errno::EACCES)),
        ("/tmp/new", create, Ok(())),
        // protected_regular
        ("/tmp/roots", create, Err(Errno::EACCES)),
    ];
    for (path, flags, expected) in cases {
        assert_eq!(open(&user, path, flags), expected, "{path} {flags:?}");
    }
    // A mount without writing counts before the rights only for what is to be cut.
    let mount = &root.root.mount;
    let before = mount.flags();
    mount.set_flags(before | MountFlags::RDONLY);
    let cut = OpenFlags::WRONLY | OpenFlags::TRUNC;
    assert_eq!(open(&user, "/d/f", cut), Err(Errno::EROFS));
    assert_eq!(open(&user, "/d/f", OpenFlags::WRONLY), Err(Errno::EACCES));
    mount.set_flags(before);
    assert_eq!(user.unlink(&CWD, b"/tmp/roots"), Err(Errno::EPERM));
    assert_eq!(user.unlink(&CWD, b"/tmp/new"), Ok(()));
    user.creds = Arc::new(Credentials::root());
    assert_eq!(user.unlink(&CWD, b"/tmp/roots"), Ok(()));
}

#[test]
fn removed_places_say_so() {
    let mut ctx = world();
    ctx.make(&CWD, b"/gone", Make::Dir, 0o755).unwrap();
    ctx.cwd = ctx.lookup(&CWD, b"/gone", WalkFlags::empty()).unwrap();
    ctx.rmdir(&CWD, b"/gone").unwrap();
    assert_eq!(ctx.cwd.cwd_text(&ctx.root), Err(Errno::ENOENT));
    assert_eq!(ctx.cwd.display(&ctx.root), b"/gone (deleted)");
    assert_eq!(
        ctx.make(&CWD, b"x", Make::Dir, 0o755).map(drop),
        Err(Errno::ENOENT)
    );
    assert_eq!(text(&ctx, "..", WalkFlags::empty()), "/");
}
