//! What is brought from a tree that is ours alone before a guest asks for it. That it was shows
//! when the host's files are taken away behind our back.

use std::path::Path;

use super::{at_root, gofer_fs, me, overlay};
use crate::errno::{Errno, Result};
use crate::fs::goferfs::Trust;
use crate::fs::inode::OpenFlags;
use crate::fs::readdir::read_dir;
use crate::fs::walk::{Base, Ctx, WalkFlags};

const DIRS: usize = 40;

/// `d00/sub` to `d39/sub`, each with ten files.
fn tree(at: &Path) {
    for dir in 0..DIRS {
        let sub = at.join(format!("d{dir:02}/sub"));
        std::fs::create_dir_all(&sub).unwrap();
        for file in 0..10 {
            std::fs::write(sub.join(format!("f{file}")), format!("{dir} {file}")).unwrap();
        }
    }
}

fn list(ctx: &Ctx, path: &str) -> Result<Vec<String>> {
    let file = ctx.open_file(path, OpenFlags::DIRECTORY, 0)?;
    let mut names = Vec::new();
    read_dir(&file, 0, &mut |entry| {
        names.push(String::from_utf8_lossy(entry.name).into_owned());
        true
    })?;
    names.retain(|name| !name.starts_with('.'));
    Ok(names)
}

fn size(ctx: &Ctx, path: &str) -> Result<u64> {
    let place = ctx.lookup(&Base::Cwd, path.as_bytes(), WalkFlags::empty())?;
    Ok(place.inode().attr()?.size)
}

/// As find does: each directory is looked at, listed, and gone into.
fn walk(ctx: &Ctx, path: &str, seen: &mut usize, each: &mut dyn FnMut(usize)) {
    size(ctx, path).unwrap();
    let mut names = list(ctx, path).unwrap();
    *seen += 1;
    each(*seen);
    names.retain(|name| !name.starts_with('f'));
    for name in names {
        walk(ctx, &format!("{path}/{name}"), seen, each);
    }
}

#[test]
fn a_walk_of_a_tree_is_seen_coming() {
    let dir = tempfile::tempdir().unwrap();
    tree(dir.path());
    let ctx = at_root(overlay(dir.path()), me());
    let mut seen = 0;
    walk(&ctx, ".", &mut seen, &mut |seen| {
        // By then enough was asked for that the rest is here.
        if seen == 40 {
            for dir in std::fs::read_dir(dir.path()).unwrap() {
                std::fs::remove_dir_all(dir.unwrap().path()).unwrap();
            }
        }
    });
    assert_eq!(seen, 1 + 2 * DIRS);
}

#[test]
fn one_listing_brings_no_others() {
    let dir = tempfile::tempdir().unwrap();
    tree(dir.path());
    let ctx = at_root(overlay(dir.path()), me());
    assert_eq!(list(&ctx, ".").unwrap().len(), DIRS);
    std::fs::remove_dir_all(dir.path().join("d07")).unwrap();
    assert_eq!(list(&ctx, "d07"), Err(Errno::ENOENT));
}

#[test]
fn files_opened_in_a_row_come_open() {
    let dir = tempfile::tempdir().unwrap();
    tree(dir.path());
    let ctx = at_root(overlay(dir.path()), me());
    let names = list(&ctx, "d00/sub").unwrap();
    for (i, name) in names.iter().enumerate() {
        let path = format!("d00/sub/{name}");
        let text = ctx.read_all(&path).unwrap();
        assert_eq!(text, format!("0 {}", &name[1..]).as_bytes());
        // One, then four, then what is left.
        if i == 5 {
            std::fs::remove_dir_all(dir.path().join("d00")).unwrap();
        }
    }
    // The last ones were in no row.
    let names = list(&ctx, "d01/sub").unwrap();
    ctx.read_all(&format!("d01/sub/{}", names[5])).unwrap();
    std::fs::remove_file(dir.path().join(format!("d01/sub/{}", names[8]))).unwrap();
    let gone = ctx.read_all(&format!("d01/sub/{}", names[8]));
    assert_eq!(gone, Err(Errno::ENOENT));
}

#[test]
fn many_looks_into_a_directory_bring_all_of_it() {
    let dir = tempfile::tempdir().unwrap();
    tree(dir.path());
    let ctx = at_root(overlay(dir.path()), me());
    for i in 0..8 {
        assert_eq!(size(&ctx, &format!("d00/sub/none{i}")), Err(Errno::ENOENT));
    }
    // Listed first, looked at afterwards.
    list(&ctx, "d01/sub").unwrap();
    for i in 0..3 {
        assert_eq!(size(&ctx, &format!("d01/sub/f{i}")), Ok(3));
    }
    for sub in ["d00/sub", "d01/sub"] {
        std::fs::remove_dir_all(dir.path().join(sub)).unwrap();
        assert_eq!(size(&ctx, &format!("{sub}/f9")), Ok(3));
        assert_eq!(size(&ctx, &format!("{sub}/other")), Err(Errno::ENOENT));
    }
}

#[test]
fn what_was_brought_goes_when_we_change_something() {
    let dir = tempfile::tempdir().unwrap();
    tree(dir.path());
    let ctx = at_root(gofer_fs(dir.path(), Trust::Layer(u64::MAX)), me());
    let mut seen = 0;
    let mut at = None;
    let names = list(&ctx, ".").unwrap();
    for name in &names {
        list(&ctx, name).unwrap();
        seen += 1;
        // Brought, not yet asked for.
        if seen == 20 {
            at = names.get(21).cloned();
            let new = format!("{}/sub/new", names[21]);
            ctx.put(&new, b"text").unwrap();
            std::fs::remove_dir_all(dir.path().join(&names[22])).unwrap();
        }
        if seen == 22 {
            break;
        }
    }
    let at = at.unwrap();
    let files = list(&ctx, &format!("{at}/sub")).unwrap();
    assert_eq!(files.len(), 11);
    assert_eq!(size(&ctx, &format!("{at}/sub/new")), Ok(4));
    // It would have been here still.
    assert_eq!(list(&ctx, &names[22]), Err(Errno::ENOENT));
    // Files that were opened ahead are opened again.
    let sub = format!("{}/sub", names[30]);
    let files = list(&ctx, &sub).unwrap();
    for name in &files[..3] {
        ctx.read_all(&format!("{sub}/{name}")).unwrap();
    }
    let last = format!("{sub}/{}", files[4]);
    ctx.put("another", b"").unwrap();
    std::fs::write(dir.path().join(&last), "changed").unwrap();
    std::fs::rename(dir.path().join(&last), dir.path().join("moved")).unwrap();
    std::fs::write(dir.path().join(&last), "fresh").unwrap();
    assert_eq!(ctx.read_all(&last).unwrap(), b"fresh");
}

#[test]
fn trees_that_others_change_are_asked_about_each_time() {
    let dir = tempfile::tempdir().unwrap();
    tree(dir.path());
    let ctx = at_root(gofer_fs(dir.path(), Trust::Shared), me());
    let names = list(&ctx, ".").unwrap();
    for name in &names[..30] {
        list(&ctx, name).unwrap();
        std::fs::create_dir(dir.path().join(name).join("more")).unwrap();
        assert_eq!(list(&ctx, name).unwrap().len(), 2);
        size(&ctx, &format!("{name}/more")).unwrap();
    }
    std::fs::remove_dir_all(dir.path().join(&names[31])).unwrap();
    assert_eq!(list(&ctx, &names[31]), Err(Errno::ENOENT));
}

#[test]
fn looks_into_one_directory_after_the_other_bring_the_next() {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..DIRS * 5 {
        let sub = dir.path().join(format!("d{:02}", i / 5));
        std::fs::create_dir_all(&sub).unwrap();
        std::fs::write(sub.join(format!("f{}", i % 5)), "text").unwrap();
    }
    let ctx = at_root(overlay(dir.path()), me());
    let names = list(&ctx, ".").unwrap();
    for (i, name) in names.iter().enumerate() {
        for file in 0..5 {
            assert_eq!(size(&ctx, &format!("{name}/f{file}")), Ok(4), "{i}");
        }
        assert_eq!(size(&ctx, &format!("{name}/none")), Err(Errno::ENOENT));
        if i == 20 {
            for name in &names {
                std::fs::remove_dir_all(dir.path().join(name)).unwrap();
            }
        }
    }
}

#[test]
fn what_has_no_extended_attributes_is_asked_about_once() {
    use crate::fs::attrs::{self, Target};
    let dir = tempfile::tempdir().unwrap();
    for i in 0..10 {
        std::fs::write(dir.path().join(format!("f{i}")), "text").unwrap();
    }
    let host = |name: &str| dir.path().join(name);
    let ctx = at_root(gofer_fs(dir.path(), Trust::Layer(u64::MAX)), me());
    let get = |name: &str| {
        let place = ctx.lookup(&Base::Cwd, name.as_bytes(), WalkFlags::empty())?;
        attrs::get_xattr(Target::Path(&place), &ctx.creds, b"user.a")
    };
    list(&ctx, ".").unwrap();
    for i in 0..9 {
        assert_eq!(get(&format!("f{i}")), Err(Errno::ENODATA));
    }
    // Known by now, unless the host is too old to tell (getxattrat(2) is from Linux 6.13).
    let release = nix::sys::utsname::uname().unwrap();
    let release = release.release().to_string_lossy().into_owned();
    let mut numbers = release.split('.').map_while(|n| n.parse::<u32>().ok());
    if (numbers.next(), numbers.next()) >= (Some(6), Some(13)) {
        std::fs::remove_file(host("f9")).unwrap();
        assert_eq!(get("f9"), Err(Errno::ENODATA));
    }
    // What we set is seen.
    let place = ctx.lookup(&Base::Cwd, b"f3", WalkFlags::empty()).unwrap();
    let flags = crate::fs::inode::XattrFlags::empty();
    attrs::set_xattr(Target::Path(&place), &ctx.creds, b"user.a", b"1", flags).unwrap();
    assert_eq!(get("f3").unwrap(), b"1");
    list(&ctx, ".").unwrap();
    for i in 0..9 {
        assert_eq!(get(&format!("f{i}")).is_ok(), i == 3, "{i}");
    }
}
