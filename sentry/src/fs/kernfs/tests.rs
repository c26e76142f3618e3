use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::fs::anon::internal_file;
use crate::fs::file::Seek;
use crate::fs::inode::{Names, OpenFlags};
use crate::kernel::cred::CapSet;
use crate::mm::io::{Sink, Source};

fn read(file: &crate::fs::file::File, len: usize) -> Vec<u8> {
    let mut buf = vec![0; len];
    let n = file.read(&mut Sink::kernel(&mut buf)).unwrap();
    buf.truncate(n);
    buf
}

#[test]
fn content_is_made_at_the_start_and_kept_for_what_follows() {
    let sb = Super::new(1, Errno::EPERM);
    let count = Arc::new(AtomicU32::new(0));
    let counter = count.clone();
    let inode = Text::made(Head::new(&sb, 0o444), move || {
        let n = counter.fetch_add(1, Ordering::Relaxed);
        Ok(format!("text {n}\n").into_bytes())
    });
    assert_eq!(inode.attr().unwrap().size, 0);
    let file = internal_file(inode, OpenFlags::empty()).unwrap();
    assert_eq!(read(&file, 4), b"text");
    assert_eq!(read(&file, 100), b" 0\n");
    assert_eq!(read(&file, 100), b"");
    assert_eq!(file.seek(Seek::Set, 0), Ok(0));
    assert_eq!(read(&file, 100), b"text 1\n");
    assert_eq!(file.seek(Seek::End, 0), Err(Errno::EINVAL));
    assert_eq!(file.seek(Seek::Set, 1000), Ok(1000));
    assert_eq!(read(&file, 100), b"");
}

#[test]
fn writes_reach_the_setting_or_fail() {
    let sb = Super::new(1, Errno::EPERM);
    let value = Arc::new(AtomicU32::new(7));
    let (shown, set) = (value.clone(), value);
    let inode = Text::writable(
        Head::new(&sb, 0o644),
        move || Ok(shown.load(Ordering::Relaxed).to_string().into_bytes()),
        move |data| {
            let text = std::str::from_utf8(data).map_err(|_| Errno::EINVAL)?;
            let parsed = text.trim_end().parse().map_err(|_| Errno::EINVAL)?;
            set.store(parsed, Ordering::Relaxed);
            Ok(data.len())
        },
    );
    let file = internal_file(inode, OpenFlags::RDWR).unwrap();
    assert_eq!(file.write(&mut Source::kernel(b"12\n")), Ok(3));
    assert_eq!(file.write(&mut Source::kernel(b"x")), Err(Errno::EINVAL));
    assert_eq!(file.seek(Seek::Set, 0), Ok(0));
    assert_eq!(read(&file, 10), b"12");

    let fixed = Text::fixed(Head::new(&sb, 0o444), "a");
    let file = internal_file(fixed, OpenFlags::RDWR).unwrap();
    assert_eq!(file.write(&mut Source::kernel(b"b")), Err(Errno::EIO));
}

#[test]
fn directories_list_and_look_up() {
    let sb = Super::new(1, Errno::EPERM);
    let dir = StaticDir::new()
        .with("a", Text::fixed(Head::new(&sb, 0o444), "1"))
        .with("b", Link::fixed(Head::new(&sb, 0o777), "a"))
        .with("c", StaticDir::new().build(&sb))
        .build(&sb);
    assert_eq!(dir.attr().unwrap().nlink, 3);
    assert_eq!(dir.names(), Names::Kept);
    let node = crate::fs::inode::NewNode {
        perm: 0o755,
        uid: Uid(0),
        gid: Gid(0),
    };
    assert!(dir.mkdir(b"x", &node).is_err_and(|e| e == Errno::EPERM));
    assert!(dir.lookup(b"x").is_err_and(|e| e == Errno::ENOENT));
    let a = dir.lookup(b"a").unwrap();
    assert!(a.lookup(b"x").is_err_and(|e| e == Errno::ENOTDIR));
    assert_eq!(dir.lookup(b"b").unwrap().readlink().unwrap(), b"a");
    let file = internal_file(dir.clone(), OpenFlags::empty()).unwrap();
    let mut names = Vec::new();
    let mut emit = |e: crate::fs::inode::DirEntry<'_>| {
        names.push((e.name.to_vec(), e.ino, e.next));
        names.len() < 2
    };
    file.ops().readdir(&file, 0, &mut emit).unwrap();
    let mut rest = |e: crate::fs::inode::DirEntry<'_>| {
        names.push((e.name.to_vec(), e.ino, e.next));
        true
    };
    file.ops().readdir(&file, 2, &mut rest).unwrap();
    let seen: Vec<&[u8]> = names.iter().map(|(n, ..)| &n[..]).collect();
    assert_eq!(seen, [b"a", b"b", b"c"]);
    assert_eq!(names[0].1, a.attr().unwrap().ino);
}

#[test]
fn sysctl_rules_ignore_capabilities() {
    let root = Credentials::root();
    let user = Credentials::user(Uid(5), Gid(5), vec![], CapSet::FULL);
    assert_eq!(
        sysctl_access(0o444, &root, Access::WRITE),
        Err(Errno::EACCES)
    );
    assert_eq!(sysctl_access(0o644, &root, Access::WRITE), Ok(()));
    assert_eq!(
        sysctl_access(0o644, &user, Access::WRITE),
        Err(Errno::EACCES)
    );
    assert_eq!(
        sysctl_access(0o600, &user, Access::READ),
        Err(Errno::EACCES)
    );
}

#[test]
fn names_that_are_numbers() {
    let cases = [
        ("1", Some(1)),
        ("0", Some(0)),
        ("01", None),
        ("", None),
        ("+1", None),
        ("-1", None),
        ("1a", None),
        ("99999999999", None),
    ];
    for (name, want) in cases {
        assert_eq!(number(name.as_bytes()), want, "{name}");
    }
}
