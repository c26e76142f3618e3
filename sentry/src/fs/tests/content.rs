//! Content of files: sparse files, limits, seals, mappings, copies over a lower file.

use std::os::unix::fs::FileExt;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::{at_root, gofer_fs, me, memory, overlay, read_file, tmpfs};
use crate::errno::Errno;
use crate::fs::attrs;
use crate::fs::file::{File, Seek};
use crate::fs::goferfs::Trust;
use crate::fs::inode::OpenFlags;
use crate::fs::tmpfs::{Options, Seals, Tmpfs, seals_of};
use crate::fs::walk::{Base, WalkFlags};
use crate::kernel::cred::{Credentials, Gid, Uid};
use crate::mm::io::{Sink, Source};
use crate::mm::mappable::{Mappable, MappingOwner, WriteIntent};

fn write_at(file: &File, bytes: &[u8], offset: u64) -> Result<usize, Errno> {
    file.pwrite(&mut Source::kernel(bytes), offset)
}

const RDWR: OpenFlags = OpenFlags::RDWR.union(OpenFlags::CREAT);

/// Reads through a mapping, as a guest would.
fn mapped(map: &dyn Mappable, offset: u64, len: usize) -> Vec<u8> {
    let backing = map.backing(offset, 4096, WriteIntent::Read).unwrap();
    let host = std::fs::File::from(backing.fd.try_clone().unwrap());
    let mut bytes = vec![0; len];
    host.read_exact_at(&mut bytes, backing.offset).unwrap();
    bytes
}

#[test]
fn holes_are_found() {
    let ctx = at_root(tmpfs(), Credentials::root());
    let file = ctx.open_file("f", RDWR, 0o600).unwrap();
    write_at(&file, b"x", 0).unwrap();
    write_at(&file, b"x", 10 << 20).unwrap();
    let seek = |whence, at| file.seek(whence, at);
    assert_eq!(seek(Seek::Data, 0), Ok(0));
    assert_eq!(seek(Seek::Hole, 0), Ok(4096));
    assert_eq!(seek(Seek::Data, 4096), Ok(10 << 20));
    assert_eq!(seek(Seek::Hole, 10 << 20), Ok((10 << 20) + 1));
    assert_eq!(seek(Seek::Data, (10 << 20) + 1), Err(Errno::ENXIO));
    assert_eq!(file.attr().unwrap().blocks, 16);
}

#[test]
fn a_full_file_system_says_so_and_frees() {
    let options = Options {
        size: Some(64 << 10),
        nr_inodes: Some(3),
        ..Options::default()
    };
    let ctx = at_root(
        Tmpfs::mount(memory(), &options).unwrap(),
        Credentials::root(),
    );
    let file = ctx.open_file("f", RDWR, 0o600).unwrap();
    assert_eq!(write_at(&file, &vec![1; 100 << 10], 0), Ok(64 << 10));
    assert_eq!(write_at(&file, &[1], 64 << 10), Err(Errno::ENOSPC));
    attrs::ftruncate(&file, &ctx.creds, 4096).unwrap();
    assert_eq!(write_at(&file, &[1; 4096], 8192), Ok(4096));
    ctx.put("g", b"").unwrap();
    assert_eq!(ctx.put("h", b""), Err(Errno::ENOSPC));
    ctx.unlink(&Base::Cwd, b"g").unwrap();
    ctx.root.mount.fs.root.shrink();
    ctx.put("h", b"").unwrap();
    let free = ctx.root.inode().statfs().unwrap();
    assert_eq!((free.blocks, free.blocks_free), (16, 14));
}

#[test]
fn seals_hold() {
    let fs = Tmpfs::new(memory(), &Options::default());
    let file = fs.memfd(b"m", (Uid(0), Gid(0)), true).unwrap();
    let data = seals_of(&file).unwrap();
    write_at(&file, b"hello", 0).unwrap();
    data.add_seals(Seals::GROW | Seals::SHRINK).unwrap();
    assert_eq!(write_at(&file, b"longer", 0), Err(Errno::EPERM));
    assert_eq!(write_at(&file, b"HELLO", 0), Ok(5));
    let creds = Credentials::root();
    assert_eq!(attrs::ftruncate(&file, &creds, 1), Err(Errno::EPERM));
    data.add_seals(Seals::WRITE | Seals::SEAL).unwrap();
    assert_eq!(write_at(&file, b"x", 0), Err(Errno::EPERM));
    assert_eq!(data.add_seals(Seals::EXEC), Err(Errno::EPERM));
    assert_eq!(data.check_shared_write(), Err(Errno::EPERM));
    assert_eq!(read_file(&file).unwrap(), b"HELLO");
    assert_eq!(file.path().text(file.path()).text, b"/");
    let unsealed = fs.memfd(b"m", (Uid(0), Gid(0)), false).unwrap();
    let data = seals_of(&unsealed).unwrap();
    assert_eq!(data.seals(), Seals::SEAL);
}

#[derive(Default)]
struct Owner(Mutex<Vec<(u64, u64)>>);

impl MappingOwner for Owner {
    fn invalidate(&self, _file: &dyn Mappable, from: u64, to: u64) {
        self.0.lock().push((from, to));
    }
}

#[test]
fn mappings_see_writes_and_are_told_of_truncation() {
    let ctx = at_root(tmpfs(), Credentials::root());
    let file = ctx.open_file("f", RDWR, 0o600).unwrap();
    write_at(&file, &vec![5; 9000], 0).unwrap();
    let map = file.ops().mappable(&file).unwrap();
    let owner = Arc::new(Owner::default());
    let weak: Weak<dyn MappingOwner> = Arc::downgrade(&(owner.clone() as Arc<dyn MappingOwner>));
    map.add_owner(weak);
    assert_eq!(mapped(&*map, 8192, 4), [5; 4]);
    write_at(&file, b"abc", 8192).unwrap();
    assert_eq!(mapped(&*map, 8192, 4), [b'a', b'b', b'c', 5]);
    attrs::ftruncate(&file, &ctx.creds, 100).unwrap();
    assert_eq!(*owner.0.lock(), [(4096, u64::MAX)]);
    let gone = map.backing(4096, 4096, WriteIntent::Read);
    assert_eq!(gone.map(drop), Err(Errno::EFAULT));
    attrs::ftruncate(&file, &ctx.creds, 5000).unwrap();
    assert_eq!(mapped(&*map, 0, 101)[99..], [5, 0]);
}

#[test]
fn everybody_sees_what_is_written_over_a_lower_file() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("f"), vec![b'l'; 300_000]).unwrap();
    let ctx = at_root(overlay(dir.path()), me());
    let early = ctx.open_file("f", OpenFlags::empty(), 0).unwrap();
    let map = early.ops().mappable(&early).unwrap();
    let owner = Arc::new(Owner::default());
    let weak: Weak<dyn MappingOwner> = Arc::downgrade(&(owner.clone() as Arc<dyn MappingOwner>));
    map.add_owner(weak);
    assert_eq!(mapped(&*map, 4096, 1), b"l");
    let ino = early.attr().unwrap().ino;
    let writer = ctx.open_file("f", OpenFlags::RDWR, 0).unwrap();
    assert_eq!(write_at(&writer, b"upper", 4096), Ok(5));
    // Told once, when the file stopped being the lower one.
    assert_eq!(*owner.0.lock(), [(0, u64::MAX)]);
    assert_eq!(mapped(&*map, 4096, 6), b"upperl");
    let mut some = [0; 8];
    early.pread(&mut Sink::kernel(&mut some), 4094).unwrap();
    assert_eq!(&some, b"llupperl");
    assert_eq!(read_file(&early).unwrap().len(), 300_000);
    assert_eq!(ctx.read_all("f").unwrap()[299_999], b'l');
    assert_eq!(early.attr().unwrap().ino, ino);
    let lower = std::fs::read(dir.path().join("f")).unwrap();
    assert!(lower.iter().all(|b| *b == b'l'));
    // What was not written is not held twice.
    assert!(ctx.root.inode().statfs().unwrap().blocks_free > 0);
}

#[test]
fn hard_links_of_lower_files_stay_one_file() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("one"), b"lower").unwrap();
    std::fs::hard_link(dir.path().join("one"), dir.path().join("two")).unwrap();
    let ctx = at_root(overlay(dir.path()), me());
    ctx.put("one", b"upper").unwrap();
    ctx.root.mount.fs.root.shrink();
    assert_eq!(ctx.read_all("two").unwrap(), b"upper");
    ctx.unlink(&Base::Cwd, b"one").unwrap();
    ctx.root.mount.fs.root.shrink();
    let two = ctx.lookup(&Base::Cwd, b"two", WalkFlags::empty()).unwrap();
    assert_eq!(two.inode().attr().unwrap().nlink, 1);
    assert_eq!(ctx.read_all("two").unwrap(), b"upper");
}

#[test]
fn unlinked_host_files_go_on_working() {
    let dir = tempfile::tempdir().unwrap();
    for trust in [Trust::Layer(u64::MAX), Trust::Shared] {
        let ctx = at_root(gofer_fs(dir.path(), trust), me());
        let file = ctx.open_file("f", RDWR, 0o600).unwrap();
        write_at(&file, b"before", 0).unwrap();
        ctx.unlink(&Base::Cwd, b"f").unwrap();
        assert!(!dir.path().join("f").exists());
        write_at(&file, b"AFTER", 0).unwrap();
        assert_eq!(read_file(&file).unwrap(), b"AFTERe");
        attrs::ftruncate(&file, &ctx.creds, 2).unwrap();
        let attr = file.attr().unwrap();
        assert_eq!((attr.size, attr.nlink), (2, 0));
    }
}

#[test]
fn running_programs_are_not_written() {
    let ctx = at_root(tmpfs(), Credentials::root());
    ctx.put("p", b"#!").unwrap();
    let place = ctx.lookup(&Base::Cwd, b"p", WalkFlags::empty()).unwrap();
    let running = crate::fs::open::open_for_exec(place.clone(), OpenFlags::empty()).unwrap();
    assert_eq!(ctx.put("p", b"x"), Err(Errno::ETXTBSY));
    drop(running);
    let writer = ctx.open_file("p", OpenFlags::WRONLY, 0).unwrap();
    let busy = crate::fs::open::open_for_exec(place, OpenFlags::empty());
    assert_eq!(busy.map(drop), Err(Errno::ETXTBSY));
    drop(writer);
}
