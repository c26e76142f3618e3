//! Every operation over a real directory.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test, helpers included"
)]

mod common;

use std::{
    fs,
    io::{Read, Write},
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink},
    path::Path,
};

use common::{RO, RW, at, errno, serve};
use runsc_gofer::*;

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

fn me() -> Owner {
    Owner {
        uid: nix::unistd::geteuid().as_raw(),
        gid: nix::unistd::getegid().as_raw(),
    }
}

#[test]
fn walk_reports_each_component_and_opens_the_end() {
    let served = serve();
    fs::create_dir_all(served.dir.path().join("a/b")).unwrap();
    fs::write(served.dir.path().join("a/b/file"), "hello").unwrap();
    let names: [&[u8]; 3] = [b"a", b"b", b"file"];
    let walk = served
        .client
        .walk(NodeRef::root(RW), &names, Some(OpenHow::read()))
        .unwrap();
    assert_eq!(walk.end, WalkEnd::Complete);
    assert_eq!(walk.attrs.len(), 3);
    assert!(walk.attrs[0].is_dir() && walk.attrs[1].is_dir() && walk.attrs[2].is_regular());
    let meta = fs::metadata(served.dir.path().join("a/b/file")).unwrap();
    assert_eq!((walk.attrs[2].ino, walk.attrs[2].size), (meta.ino(), 5));
    assert_eq!(walk.attrs[2].mtime.sec, meta.mtime());
    assert_eq!(i64::from(walk.attrs[2].mtime.nsec), meta.mtime_nsec());
    let mut text = String::new();
    fs::File::from(walk.opened.unwrap().unwrap())
        .read_to_string(&mut text)
        .unwrap();
    assert_eq!(text, "hello");

    let walk = served.client.walk(at("a"), &[b"b"], None).unwrap();
    assert_eq!(
        (walk.attrs.len(), walk.end, walk.opened.is_none()),
        (1, WalkEnd::Complete, true)
    );
    let walk = served
        .client
        .walk(at("a/b/file"), &[], Some(OpenHow::read()))
        .unwrap();
    assert!(walk.attrs.is_empty() && walk.opened.unwrap().is_ok());
    let walk = served
        .client
        .walk(at("a"), &[b"b"], Some(OpenHow::read()))
        .unwrap();
    assert_eq!(walk.opened.unwrap().unwrap_err(), Errno(libc::EISDIR));
}

#[test]
fn walk_says_where_it_stopped() {
    let served = serve();
    fs::create_dir_all(served.dir.path().join("a/b")).unwrap();
    fs::write(served.dir.path().join("a/file"), "").unwrap();
    symlink("/etc/passwd", served.dir.path().join("a/link")).unwrap();
    let long = [b'x'; 256];
    let cases: &[(&[&[u8]], usize, WalkEnd)] = &[
        (&[b"a", b"no"], 1, WalkEnd::Missing),
        (&[b"a", b"no", b"more"], 1, WalkEnd::Missing),
        (&[b"a", b"file", b"x"], 2, WalkEnd::NotDirectory),
        (
            &[b"a", b"link"],
            2,
            WalkEnd::Symlink(b"/etc/passwd".to_vec()),
        ),
        (
            &[b"a", b"link", b"x"],
            2,
            WalkEnd::Symlink(b"/etc/passwd".to_vec()),
        ),
        (
            &[b"a", &long],
            1,
            WalkEnd::Failed(Errno(libc::ENAMETOOLONG)),
        ),
    ];
    for (names, reached, end) in cases {
        let walk = served
            .client
            .walk(NodeRef::root(RW), names, Some(OpenHow::read()))
            .unwrap();
        assert_eq!((walk.attrs.len(), &walk.end), (*reached, end), "{names:?}");
        assert!(walk.opened.is_none());
    }
    assert_eq!(
        errno(served.client.walk(at("no"), &[b"x"], None)),
        libc::ENOENT
    );
    assert_eq!(
        errno(served.client.walk(at("a/link"), &[b"x"], None)),
        libc::ENOTDIR
    );
}

#[test]
fn open_hands_out_what_it_should() {
    let served = serve();
    let root = served.dir.path();
    fs::write(root.join("file"), "0123").unwrap();
    fs::create_dir(root.join("dir")).unwrap();
    symlink("file", root.join("link")).unwrap();
    nix::unistd::mkfifo(&root.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();

    let how = OpenHow::new(Access::ReadWrite, OpenFlags::APPEND);
    let (fd, attr) = served.client.open(at("file"), how).unwrap();
    assert_eq!(attr.size, 4);
    fs::File::from(fd).write_all(b"45").unwrap();
    assert_eq!(fs::read(root.join("file")).unwrap(), b"012345");
    let how = OpenHow::new(Access::Write, OpenFlags::TRUNC);
    assert_eq!(served.client.open(at("file"), how).unwrap().1.size, 0);

    let open = |path, how| errno(served.client.open(at(path), how));
    assert_eq!(open("dir", OpenHow::read()), libc::EISDIR);
    assert_eq!(
        open("dir", OpenHow::new(Access::Write, OpenFlags::empty())),
        libc::EISDIR
    );
    assert_eq!(open("", OpenHow::read()), libc::EISDIR);
    assert_eq!(open("link", OpenHow::read()), libc::ELOOP);
    assert_eq!(open("fifo", OpenHow::read()), libc::ENXIO);
    assert_eq!(open("socket", OpenHow::read()), libc::ENXIO);
    assert_eq!(open("no", OpenHow::read()), libc::ENOENT);
    let fifo = OpenHow::new(Access::Read, OpenFlags::ALLOW_FIFO);
    assert!(served.client.open(at("fifo"), fifo).is_ok());
    let unknown = OpenHow::new(
        Access::Read,
        OpenFlags::from_bits_retain(libc::O_PATH as u32),
    );
    assert_eq!(open("file", unknown), libc::EINVAL);
}

#[test]
fn devices_are_refused() {
    let (client, _threads) = common::serve_dir(Path::new("/dev"), 1);
    assert_eq!(
        errno(client.open(at("null"), OpenHow::read())),
        libc::EACCES
    );
    let walk = client
        .walk(NodeRef::root(RW), &[b"null"], Some(OpenHow::read()))
        .unwrap();
    assert_eq!(walk.opened.unwrap().unwrap_err(), Errno(libc::EACCES));
    let served = serve();
    let kind = NodeKind::Char { major: 1, minor: 3 };
    assert_eq!(
        errno(served.client.mknod(at("null"), kind, 0o666, None)),
        libc::EPERM
    );
}

#[test]
fn create_gives_mode_and_owner() {
    let served = serve();
    let how = OpenHow::new(Access::ReadWrite, OpenFlags::empty());
    let (fd, attr) = served
        .client
        .create(at("new"), how, 0o6777, Some(me()))
        .unwrap();
    assert_eq!(attr.mode, libc::S_IFREG | 0o6777);
    fs::File::from(fd).write_all(b"x").unwrap();
    assert_eq!(
        errno(served.client.create(at("new"), how, 0o600, None)),
        libc::EEXIST
    );
    assert_eq!(
        errno(served.client.create(at(""), how, 0o600, None)),
        libc::EEXIST
    );
    assert_eq!(
        errno(served.client.create(at("new/x"), how, 0o600, None)),
        libc::ENOTDIR
    );
    assert_eq!(
        errno(served.client.create(at("m"), how, 0o10600, None)),
        libc::EINVAL
    );
    let other = Owner { uid: 12, gid: 34 };
    let result = served.client.create(at("theirs"), how, 0o4711, Some(other));
    if is_root() {
        let attr = result.unwrap().1;
        assert_eq!((attr.uid, attr.gid, attr.mode & 0o7777), (12, 34, 0o4711));
    } else {
        assert_eq!(errno(result), libc::EPERM);
        assert!(!served.dir.path().join("theirs").exists());
    }
    let nobody = Owner {
        uid: u32::MAX,
        gid: 0,
    };
    assert_eq!(
        errno(served.client.create(at("n"), how, 0o600, Some(nobody))),
        libc::EINVAL
    );
    assert!(!served.dir.path().join("n").exists());
}

#[test]
fn directories_nodes_and_links() {
    let served = serve();
    let (client, root) = (&served.client, served.dir.path());
    let attr = client.mkdir(at("d"), 0o1777, Some(me())).unwrap();
    assert_eq!(attr.mode, libc::S_IFDIR | 0o1777);
    assert_eq!(errno(client.mkdir(at("d"), 0o700, None)), libc::EEXIST);
    assert_eq!(errno(client.mkdir(at(""), 0o700, None)), libc::EEXIST);
    for (kind, file_type) in [
        (NodeKind::Regular, libc::S_IFREG),
        (NodeKind::Fifo, libc::S_IFIFO),
        (NodeKind::Socket, libc::S_IFSOCK),
    ] {
        let path = format!("d/{file_type:o}");
        let attr = client.mknod(at(&path), kind, 0o622, Some(me())).unwrap();
        assert_eq!(attr.mode, file_type | 0o622, "{kind:?}");
    }
    assert!(
        fs::metadata(root.join("d/10000"))
            .unwrap()
            .file_type()
            .is_fifo()
    );

    let attr = client
        .symlink(at("d/s"), b"../some where", Some(me()))
        .unwrap();
    assert!(attr.is_symlink());
    assert_eq!(client.readlink(at("d/s")).unwrap(), b"../some where");
    assert_eq!(errno(client.readlink(at("d"))), libc::EINVAL);
    assert_eq!(errno(client.symlink(at("e"), b"", None)), libc::ENOENT);
    let attr = client.link(at("d/100000"), at("hard")).unwrap();
    assert_eq!(attr.nlink, 2);
    // The symlink itself gets another name, not what it leads to.
    assert!(client.link(at("d/s"), at("s2")).unwrap().is_symlink());

    assert_eq!(errno(client.unlink(at("d"))), libc::EISDIR);
    assert_eq!(errno(client.rmdir(at("d"))), libc::ENOTEMPTY);
    assert_eq!(errno(client.rmdir(at("hard"))), libc::ENOTDIR);
    assert_eq!(errno(client.unlink(at(""))), libc::EBUSY);
    assert_eq!(errno(client.rmdir(at(""))), libc::EBUSY);
    for name in ["10000", "100000", "140000", "s"] {
        client.unlink(at(&format!("d/{name}"))).unwrap();
    }
    client.rmdir(at("d")).unwrap();
    assert!(!root.join("d").exists());
}

#[test]
fn renames() {
    let served = serve();
    let (client, root) = (&served.client, served.dir.path());
    fs::create_dir(root.join("d")).unwrap();
    fs::write(root.join("a"), "a").unwrap();
    fs::write(root.join("d/b"), "b").unwrap();
    let none = RenameFlags::empty();
    let result = client.rename(at("a"), at("d/b"), RenameFlags::NOREPLACE);
    assert_eq!(errno(result), libc::EEXIST);
    client
        .rename(at("a"), at("d/b"), RenameFlags::EXCHANGE)
        .unwrap();
    assert_eq!(fs::read(root.join("a")).unwrap(), b"b");
    client.rename(at("a"), at("d/b"), none).unwrap();
    assert_eq!(fs::read(root.join("d/b")).unwrap(), b"b");
    assert!(!root.join("a").exists());
    assert_eq!(errno(client.rename(at("d"), at("d/x"), none)), libc::EINVAL);
    assert_eq!(errno(client.rename(at(""), at("x"), none)), libc::EBUSY);
    let whiteout = RenameFlags::from_bits_retain(libc::RENAME_WHITEOUT);
    assert_eq!(
        errno(client.rename(at("d/b"), at("x"), whiteout)),
        libc::EINVAL
    );
    let elsewhere = NodeRef::new(RO, b"x");
    assert_eq!(
        errno(client.rename(at("d/b"), elsewhere, none)),
        libc::EROFS
    );
    assert_eq!(errno(client.link(elsewhere, at("y"))), libc::EXDEV);
}

#[test]
fn setattr_changes_what_is_asked() {
    let served = serve();
    let (client, root) = (&served.client, served.dir.path());
    fs::write(root.join("f"), "0123456789").unwrap();
    symlink("f", root.join("l")).unwrap();
    let set = |set: SetAttr| client.setattr(at("f"), &set);
    assert_eq!(
        set(SetAttr {
            size: Some(4),
            ..Default::default()
        })
        .unwrap()
        .size,
        4
    );
    assert_eq!(fs::read(root.join("f")).unwrap(), b"0123");
    let attr = set(SetAttr {
        mode: Some(0o4640),
        ..Default::default()
    })
    .unwrap();
    assert_eq!(attr.mode & 0o7777, 0o4640);
    let time = Timestamp {
        sec: 1_000_000_000,
        nsec: 123_456_789,
    };
    let mtime = SetTime::To(time);
    let before = client.getattr(at("f")).unwrap();
    let attr = set(SetAttr {
        mtime,
        ..Default::default()
    })
    .unwrap();
    assert_eq!((attr.mtime, attr.atime), (time, before.atime));
    let attr = set(SetAttr {
        mtime: SetTime::Now,
        atime: mtime,
        ..Default::default()
    })
    .unwrap();
    assert!(attr.mtime.sec > time.sec && attr.atime == time);
    // The symlink's own times, not its target's.
    client
        .setattr(
            at("l"),
            &SetAttr {
                mtime,
                ..Default::default()
            },
        )
        .unwrap();
    assert!(client.getattr(at("f")).unwrap().mtime.sec > time.sec);
    assert_eq!(client.getattr(at("l")).unwrap().mtime, time);
    let result = client.setattr(
        at("l"),
        &SetAttr {
            mode: Some(0o600),
            ..Default::default()
        },
    );
    assert_eq!(errno(result), libc::EOPNOTSUPP);
    let result = client.setattr(
        at("l"),
        &SetAttr {
            size: Some(0),
            ..Default::default()
        },
    );
    assert_eq!(errno(result), libc::EINVAL);

    let bad = SetTime::To(Timestamp {
        sec: 0,
        nsec: 1_000_000_000,
    });
    assert_eq!(
        errno(set(SetAttr {
            atime: bad,
            ..Default::default()
        })),
        libc::EINVAL
    );
    assert_eq!(
        errno(set(SetAttr {
            mode: Some(0o10000),
            ..Default::default()
        })),
        libc::EINVAL
    );
    assert_eq!(
        errno(set(SetAttr {
            uid: Some(u32::MAX),
            ..Default::default()
        })),
        libc::EINVAL
    );
    assert_eq!(
        errno(set(SetAttr {
            size: Some(u64::MAX),
            ..Default::default()
        })),
        libc::EINVAL
    );
    let result = client.setattr(
        at(""),
        &SetAttr {
            size: Some(0),
            ..Default::default()
        },
    );
    assert_eq!(errno(result), libc::EISDIR);
    let attr = client.setattr(
        at(""),
        &SetAttr {
            mode: Some(0o750),
            ..Default::default()
        },
    );
    assert_eq!(attr.unwrap().mode & 0o7777, 0o750);
    if is_root() {
        let attr = set(SetAttr {
            uid: Some(5),
            ..Default::default()
        })
        .unwrap();
        assert_eq!((attr.uid, attr.gid), (5, me().gid));
        // Owner before mode: the set-uid bit that chown clears is kept.
        let both = SetAttr {
            gid: Some(6),
            mode: Some(0o4755),
            ..Default::default()
        };
        assert_eq!(set(both).unwrap().mode & 0o7777, 0o4755);
    }
    // A file nobody may open can still be given another mode.
    fs::set_permissions(root.join("f"), fs::Permissions::from_mode(0o0)).unwrap();
    assert!(
        set(SetAttr {
            mode: Some(0o600),
            ..Default::default()
        })
        .is_ok()
    );
}

#[test]
fn trees_are_listed_in_the_order_of_a_walk() {
    let served = serve();
    let root = served.dir.path();
    for dir in ["a/b/c", "a/d", "e", "f/g"] {
        fs::create_dir_all(root.join(dir)).unwrap();
        fs::write(root.join(dir).join("file"), "text").unwrap();
    }
    symlink("e", root.join("link")).unwrap();
    let list = |dir: &'static str, names: &[&[u8]], count, detail| {
        let dirs = served.client.list_tree(at(dir), names, count, detail);
        let dirs = dirs.unwrap();
        let mut paths: Vec<Vec<u8>> = Vec::new();
        for dir in &dirs {
            let mut path = dir.above.map_or(Vec::new(), |above| paths[above].clone());
            path.push(b'/');
            path.extend_from_slice(&dir.name);
            paths.push(path);
        }
        (dirs, paths)
    };
    // What a walk by the same order gives.
    fn expect(at: &std::path::Path, path: &str, all: &mut Vec<Vec<u8>>) {
        all.push(path.as_bytes().to_vec());
        for entry in fs::read_dir(at).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                let name = entry.file_name().into_string().unwrap();
                expect(&entry.path(), &format!("{path}/{name}"), all);
            }
        }
    }
    let mut all = Vec::new();
    expect(root, "/", &mut all);
    let all: Vec<Vec<u8>> = all.iter().map(|path| path.to_vec()).collect();
    let (dirs, paths) = list("", &[], 100, ReadDirDetail::Directories);
    assert_eq!(
        paths
            .iter()
            .map(|p| p.strip_prefix(b"/").unwrap())
            .collect::<Vec<_>>(),
        all.iter()
            .map(|p| p.strip_prefix(b"/").unwrap())
            .collect::<Vec<_>>()
    );
    for dir in &dirs {
        for entry in dir.listing.from(0) {
            let is_dir = entry.file_type == libc::DT_DIR;
            assert_eq!(entry.known.is_some(), is_dir, "{entry:?}");
        }
    }
    let (dirs, paths) = list("", &[b"f", b"none", b"a"], 100, ReadDirDetail::Attributes);
    assert_eq!(paths.len(), 6, "{paths:?}");
    assert_eq!(paths[..2], [b"/f".to_vec(), b"/f/g".to_vec()]);
    assert_eq!(paths[2], b"/a");
    let file = dirs[1].listing.get(0).unwrap();
    assert_eq!(
        (file.name, file.known.unwrap().attr.size),
        (&b"file"[..], 4)
    );
    let (_, paths) = list("", &[b"a", b"e"], 2, ReadDirDetail::Names);
    assert_eq!(paths.len(), 2);
    assert!(paths[1].starts_with(b"/a/"), "{paths:?}");
    let (dirs, _) = list("a/d", &[], 1, ReadDirDetail::Names);
    assert_eq!(dirs[0].listing.find(b"file"), Some(0));
    let fails = |dir: &'static str, names: &[&[u8]]| {
        errno(
            served
                .client
                .list_tree(at(dir), names, 5, ReadDirDetail::Names),
        )
    };
    assert_eq!(fails("none", &[]), libc::ENOENT);
    assert_eq!(fails("", &[b"none", b"a"]), libc::ENOENT);
    assert_eq!(fails("a/d/file", &[]), libc::ENOTDIR);
    for index in 0..3000 {
        fs::write(root.join(format!("e/with-a-longer-name-{index:05}")), "").unwrap();
    }
    assert_eq!(fails("e", &[]), libc::E2BIG);
    assert_eq!(fails("", &[b"e"]), libc::E2BIG);
    let (_, paths) = list("", &[b"f", b"e", b"a"], 9, ReadDirDetail::Names);
    assert_eq!(paths.len(), 2);
}

#[test]
fn many_files_are_opened_at_once() {
    let served = serve();
    fs::create_dir(served.dir.path().join("d")).unwrap();
    for index in 0..MAX_OPEN {
        let path = served.dir.path().join(format!("d/{index}"));
        fs::write(path, index.to_string()).unwrap();
    }
    fs::remove_file(served.dir.path().join("d/3")).unwrap();
    let names: Vec<String> = (0..MAX_OPEN).map(|index| index.to_string()).collect();
    let names: Vec<&[u8]> = names.iter().map(|name| name.as_bytes()).collect();
    let opened = served.client.open_many(at("d"), &names).unwrap();
    for (name, opened) in names.iter().zip(opened) {
        let Some((fd, attr)) = opened else {
            assert_eq!(name, b"3");
            continue;
        };
        let mut text = String::new();
        fs::File::from(fd).read_to_string(&mut text).unwrap();
        assert_eq!(text.as_bytes(), *name);
        assert_eq!(attr.size, text.len() as u64);
    }
    assert!(served.client.open_many(at("d"), &[]).unwrap().is_empty());
    assert_eq!(
        errno(served.client.open_many(at("x"), &[b"0"])),
        libc::ENOENT
    );
}

#[test]
fn readdir_over_many_entries() {
    let served = serve();
    let root = served.dir.path();
    for index in 0..5000 {
        fs::write(root.join(format!("file-with-a-longer-name-{index:05}")), "").unwrap();
    }
    fs::create_dir(root.join("dir")).unwrap();
    symlink("target", root.join("link")).unwrap();
    for detail in [ReadDirDetail::Names, ReadDirDetail::Attributes] {
        let mut entries = served.client.readdir_all(at(""), detail).unwrap();
        assert_eq!(entries.len(), 5002);
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        entries.dedup_by(|a, b| a.name == b.name);
        assert_eq!(entries.len(), 5002);
        assert_eq!(entries[0].name, b"dir");
        assert_eq!(entries[0].file_type, libc::DT_DIR);
        assert_eq!(entries[1].file_type, libc::DT_REG);
        assert_eq!(entries[5001].file_type, libc::DT_LNK);
        let link = &entries[5001];
        assert_eq!(link.attr.is_some(), detail == ReadDirDetail::Attributes);
        assert_eq!(link.target.is_some(), detail == ReadDirDetail::Attributes);
        for entry in &entries {
            if let Some(attr) = entry.attr {
                assert_eq!(attr.ino, entry.ino);
            }
        }
    }
    // Pieces fetched one by one over any channel give the same.
    let (mut names, mut cookie, mut trips) = (Vec::new(), 0, 0);
    loop {
        let chunk = served
            .client
            .readdir(at(""), cookie, ReadDirDetail::Names)
            .unwrap();
        // Another directory in between makes the server forget its place.
        served
            .client
            .readdir(at("dir"), 0, ReadDirDetail::Names)
            .unwrap();
        cookie = chunk.entries.last().map_or(cookie, |entry| entry.cookie);
        names.extend(chunk.entries.into_iter().map(|entry| entry.name));
        trips += 1;
        if chunk.end {
            break;
        }
    }
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 5002);
    assert!(trips <= 6, "{trips} trips");
    assert_eq!(
        errno(served.client.readdir_all(at("link"), ReadDirDetail::Names)),
        libc::ENOTDIR
    );
    assert_eq!(
        errno(served.client.readdir(at("no"), 0, ReadDirDetail::Names)),
        libc::ENOENT
    );
    assert_eq!(
        errno(
            served
                .client
                .readdir(at(""), u64::MAX, ReadDirDetail::Names)
        ),
        libc::EINVAL
    );
}

#[test]
fn statfs_and_sync() {
    let served = serve();
    fs::write(served.dir.path().join("f"), "x").unwrap();
    symlink("f", served.dir.path().join("l")).unwrap();
    let statfs = served.client.statfs(at("f")).unwrap();
    assert!(statfs.block_size > 0 && statfs.blocks >= statfs.blocks_free && statfs.magic != 0);
    for scope in [SyncScope::Node, SyncScope::FileSystem] {
        served.client.sync(at("f"), scope).unwrap();
        served.client.sync(at(""), scope).unwrap();
    }
    assert_eq!(
        errno(served.client.sync(at("l"), SyncScope::Node)),
        libc::EOPNOTSUPP
    );
}

#[test]
fn extended_attributes() {
    let served = serve();
    let client = &served.client;
    fs::write(served.dir.path().join("f"), "").unwrap();
    symlink("f", served.dir.path().join("l")).unwrap();
    let name = b"user.colour";
    match client.setxattr(at("f"), name, b"blue", XattrMode::Create) {
        Err(Error::Errno(Errno(libc::EOPNOTSUPP))) => {
            println!("SKIPPED: the temporary directory's file system has no user attributes");
            return;
        }
        other => other.unwrap(),
    }
    assert_eq!(client.getxattr(at("f"), name).unwrap(), b"blue");
    assert_eq!(client.listxattr(at("f")).unwrap(), b"user.colour\0");
    assert_eq!(
        errno(client.setxattr(at("f"), name, b"", XattrMode::Create)),
        libc::EEXIST
    );
    client
        .setxattr(at("f"), name, b"", XattrMode::Replace)
        .unwrap();
    assert_eq!(client.getxattr(at("f"), name).unwrap(), b"");
    // Not through the symlink.
    assert_eq!(errno(client.getxattr(at("l"), name)), libc::ENODATA);
    client
        .setxattr(at(""), name, b"root", XattrMode::Any)
        .unwrap();
    assert_eq!(client.getxattr(at(""), name).unwrap(), b"root");
    let plain = |detail| {
        let dirs = client.list_tree(at(""), &[], 1, detail).unwrap();
        let listing = &dirs[0].listing;
        let entry = |name| listing.get(listing.find(name)?)?.known;
        (entry(b"f").unwrap().plain, entry(b"l").unwrap().plain)
    };
    assert_eq!(plain(ReadDirDetail::Attributes), (false, false));
    // Kernels before 6.13 cannot tell.
    let (file, link) = plain(ReadDirDetail::All);
    assert!(!file);
    client.removexattr(at("f"), name).unwrap();
    assert_eq!(plain(ReadDirDetail::All), (link, link));
    assert_eq!(errno(client.removexattr(at("f"), name)), libc::ENODATA);
    let refused = client.setxattr(at("f"), b"security.selinux", b"x", XattrMode::Any);
    assert_eq!(errno(refused), libc::EOPNOTSUPP);
    let big = vec![0; MAX_XATTR + 1];
    assert_eq!(
        errno(client.setxattr(at("f"), name, &big, XattrMode::Any)),
        libc::E2BIG
    );
    assert_eq!(errno(client.getxattr(at("f"), b"")), libc::ERANGE);
    assert_eq!(errno(client.getxattr(at("f"), b"user.\0")), libc::EINVAL);
}

#[test]
fn read_only_mounts_do_not_change() {
    let served = serve();
    let client = &served.client;
    fs::write(served.dir.path().join("f"), "x").unwrap();
    let f = NodeRef::new(RO, b"f");
    let n = NodeRef::new(RO, b"n");
    let write = OpenHow::new(Access::Write, OpenFlags::empty());
    let trunc = OpenHow::new(Access::Read, OpenFlags::TRUNC);
    let walk = |how| {
        client
            .walk(NodeRef::root(RO), &[b"f"], Some(how))
            .unwrap()
            .opened
            .unwrap()
    };
    let refused = [
        errno(client.open(f, write)),
        errno(client.open(f, trunc)),
        walk(write).unwrap_err().raw(),
        walk(trunc).unwrap_err().raw(),
        errno(client.create(n, OpenHow::read(), 0o600, None)),
        errno(client.mkdir(n, 0o700, None)),
        errno(client.mknod(n, NodeKind::Fifo, 0o600, None)),
        errno(client.symlink(n, b"x", None)),
        errno(client.link(f, n)),
        errno(client.unlink(f)),
        errno(client.rmdir(f)),
        errno(client.rename(f, n, RenameFlags::empty())),
        errno(client.setattr(f, &SetAttr::default())),
        errno(client.setxattr(f, b"user.x", b"x", XattrMode::Any)),
        errno(client.removexattr(f, b"user.x")),
    ];
    assert_eq!(refused, [libc::EROFS; 15]);
    assert!(client.open(f, OpenHow::read()).is_ok());
    assert_eq!(fs::read(served.dir.path().join("f")).unwrap(), b"x");
}
