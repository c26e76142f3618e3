//! What a hostile client may send, at the level of frames.

use std::{
    fs,
    io::IoSlice,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::symlink,
    },
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::{
    fs::{CWD, RenameFlags as HostRenameFlags},
    net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags},
};
use tempfile::TempDir;

use super::*;
use crate::{
    client::{Client, channel_pairs},
    protocol::*,
    wire::{RawHow, Reply, Request, TreeItem, WalkOpen},
};

const MOUNT: MountId = MountId(0);

/// A tree that is served, beside things that are not.
fn tree() -> TempDir {
    let dir = TempDir::new().unwrap();
    fs::create_dir_all(dir.path().join("tree/dir")).unwrap();
    fs::write(dir.path().join("tree/dir/file"), "inside").unwrap();
    fs::create_dir(dir.path().join("outside")).unwrap();
    fs::write(dir.path().join("outside/file"), "secret").unwrap();
    symlink("../outside", dir.path().join("tree/up")).unwrap();
    dir
}

fn serve(dir: &Path, channels: usize) -> (Vec<OwnedFd>, Vec<JoinHandle<()>>) {
    let (ours, theirs) = channel_pairs(channels).unwrap();
    let root = fs::File::open(dir).unwrap().into();
    let mount = PlainMount {
        root,
        writes: Writes::Allow,
        devices: Devices::Refuse,
    };
    (ours, spawn_with(vec![mount], HostSockets::All, theirs))
}

fn send(channel: &OwnedFd, frame: &[u8]) {
    assert_eq!(
        rustix::net::send(channel, frame, SendFlags::NOSIGNAL),
        Ok(frame.len())
    );
}

fn receive(channel: &OwnedFd) -> Option<Reply> {
    let mut frame = vec![0; MAX_FRAME];
    let (_, length) = rustix::net::recv(channel, &mut frame[..], RecvFlags::empty()).unwrap();
    (length > 0).then(|| postcard::from_bytes(&frame[..length]).unwrap())
}

fn exchange(channel: &OwnedFd, frame: &[u8]) -> Reply {
    send(channel, frame);
    receive(channel).expect("the channel ended")
}

fn refusal(reply: &Reply) -> i32 {
    match reply {
        Reply::Failed(errno) => errno.raw(),
        Reply::Walk {
            open: WalkOpen::Failed(errno),
            ..
        } => errno.raw(),
        Reply::Walk {
            end: WalkEnd::Failed(errno),
            ..
        } => errno.raw(),
        other => panic!("accepted: {other:?}"),
    }
}

/// One request of each kind about `path`.
fn requests<'a>(mount: MountId, path: &'a [u8]) -> Vec<Request<'a>> {
    let node = NodeRef { mount, path };
    let fine = NodeRef {
        mount,
        path: b"fine",
    };
    let how = RawHow {
        access: Access::Read,
        flags: 0,
    };
    let owner = None;
    let set = SetAttr {
        mode: Some(0),
        ..Default::default()
    };
    vec![
        Request::Walk {
            dir: node,
            names: b"x",
            open: Some(how),
        },
        Request::Walk {
            dir: node,
            names: b"",
            open: Some(how),
        },
        Request::GetAttr(node),
        Request::Open { node, how },
        Request::Create {
            node,
            how,
            mode: 0o600,
            owner,
        },
        Request::MkDir {
            node,
            mode: 0o700,
            owner,
        },
        Request::MkNod {
            node,
            kind: NodeKind::Regular,
            mode: 0o600,
            owner,
        },
        Request::SymLink {
            node,
            target: b"x",
            owner,
        },
        Request::Link {
            from: node,
            to: fine,
        },
        Request::Link {
            from: fine,
            to: node,
        },
        Request::Unlink(node),
        Request::RmDir(node),
        Request::Rename {
            from: node,
            to: fine,
            flags: 0,
        },
        Request::Rename {
            from: fine,
            to: node,
            flags: 0,
        },
        Request::SetAttr { node, set },
        Request::ReadLink(node),
        Request::ReadDir {
            node,
            cookie: 0,
            detail: ReadDirDetail::Names,
        },
        Request::ListTree {
            dir: node,
            names: b"",
            count: 9,
            detail: ReadDirDetail::All,
        },
        Request::ListTree {
            dir: node,
            names: b"x",
            count: 9,
            detail: ReadDirDetail::Names,
        },
        Request::OpenMany {
            dir: node,
            names: b"x",
        },
        Request::StatFs(node),
        Request::GetXattr {
            node,
            name: b"user.x",
        },
        Request::SetXattr {
            node,
            name: b"user.x",
            value: b"",
            mode: XattrMode::Any,
        },
        Request::ListXattr(node),
        Request::RemoveXattr {
            node,
            name: b"user.x",
        },
        Request::Sync {
            node,
            scope: SyncScope::Node,
        },
        Request::Connect {
            node,
            kind: SocketKind::Stream,
        },
        Request::Bind {
            node,
            kind: SocketKind::Datagram,
            mode: 0o600,
            owner,
        },
    ]
}

#[test]
fn paths_that_are_none_are_refused_by_every_operation() {
    let dir = tree();
    let (channels, _) = serve(&dir.path().join("tree"), 1);
    let long = b"a/".repeat(2050);
    let paths: [&[u8]; 10] = [
        b"..",
        b"../outside/file",
        b"dir/../../outside/file",
        b"/etc/passwd",
        b"/",
        b"./dir",
        b"dir//file",
        b"dir/",
        b"dir/file\0x",
        &long,
    ];
    for path in paths {
        for request in requests(MOUNT, path) {
            let frame = postcard::to_stdvec(&request).unwrap();
            let errno = refusal(&exchange(&channels[0], &frame));
            let right = if path.len() > 4096 {
                libc::ENAMETOOLONG
            } else {
                libc::EINVAL
            };
            assert_eq!(errno, right, "{request:?}");
        }
    }
    for names in [&b".."[..], b"dir/../..", b"dir//file", b"/", b"a\0"] {
        let dir = NodeRef::root(MOUNT);
        let walk = Request::Walk {
            dir,
            names,
            open: None,
        };
        let list = Request::ListTree {
            dir,
            names,
            count: u32::MAX,
            detail: ReadDirDetail::Names,
        };
        for request in [walk, list, Request::OpenMany { dir, names }] {
            let frame = postcard::to_stdvec(&request).unwrap();
            assert_eq!(
                refusal(&exchange(&channels[0], &frame)),
                libc::EINVAL,
                "{request:?}"
            );
        }
    }
}

#[test]
fn what_takes_many_names_follows_no_symlink_and_opens_files_only() {
    let dir = tree();
    let root = dir.path().join("tree");
    symlink("../../outside", root.join("dir/up")).unwrap();
    rustix::fs::mkfifoat(CWD, root.join("fifo"), 0o600.into()).unwrap();
    let (channels, _) = serve(&root, 1);
    let client = Client::new(channels).unwrap();
    let at = NodeRef::root(MOUNT);
    let listed = client
        .list_tree(at, &[], u32::MAX, ReadDirDetail::Attributes)
        .unwrap();
    let names: Vec<_> = listed.iter().map(|dir| &dir.name[..]).collect();
    assert_eq!(names, [&b""[..], b"dir"]);
    for name in [&b"up"[..], b"fifo", b"dir/file"] {
        let names = [&b"dir"[..], name];
        let first = client.list_tree(at, &names[1..], 9, ReadDirDetail::Names);
        assert!(first.is_err(), "{name:?}");
    }
    let long = [b'x'; 256];
    let names = [&b"up"[..], b"fifo", b"dir", b"none", &long];
    let opened = client.open_many(at, &names).unwrap();
    assert!(opened.iter().all(Option::is_none), "{opened:?}");
    let opened = client.open_many(NodeRef::new(MOUNT, b"dir"), &[b"up", b"file"]);
    let opened: Vec<_> = opened.unwrap().iter().map(Option::is_some).collect();
    assert_eq!(opened, [false, true]);
    let many = [&b"a"[..]; MAX_OPEN + 1];
    let errno = client.open_many(at, &many).unwrap_err().errno();
    assert_eq!(errno, libc::E2BIG);
}

#[test]
fn a_listed_tree_is_bounded() {
    let dir = tree();
    let mut at = dir.path().join("tree/deep");
    fs::create_dir(&at).unwrap();
    for _ in 0..200 {
        at.push("d");
        fs::create_dir(&at).unwrap();
    }
    let wide = dir.path().join("tree/wide");
    for i in 0..2000 {
        fs::create_dir_all(wide.join(format!("{i}"))).unwrap();
    }
    let (channels, _) = serve(&dir.path().join("tree"), 1);
    for names in [&b""[..], b"deep", b"wide"] {
        for count in [0, 1, 7, u32::MAX] {
            let request = Request::ListTree {
                dir: NodeRef::root(MOUNT),
                names,
                count,
                detail: ReadDirDetail::Names,
            };
            send(&channels[0], &postcard::to_stdvec(&request).unwrap());
            let mut frame = vec![0; 2 * MAX_FRAME];
            let (_, length) =
                rustix::net::recv(&channels[0], &mut frame[..], RecvFlags::empty()).unwrap();
            assert!(length <= MAX_FRAME);
            let (reply, mut body) = postcard::take_from_bytes(&frame[..length]).unwrap();
            assert!(matches!(reply, Reply::Tree), "{reply:?}");
            let mut dirs = 0;
            while !body.is_empty() {
                let (item, rest) = postcard::take_from_bytes(body).unwrap();
                dirs += u32::from(matches!(item, TreeItem::Directory { .. }));
                body = rest;
            }
            assert!((1..=count.clamp(1, MAX_TREE)).contains(&dirs), "{dirs}");
        }
    }
}

#[test]
fn unknown_mounts_are_refused_by_every_operation() {
    let dir = tree();
    let (channels, _) = serve(&dir.path().join("tree"), 1);
    for mount in [1, u32::MAX] {
        for request in requests(MountId(mount), b"dir") {
            let frame = postcard::to_stdvec(&request).unwrap();
            assert_eq!(
                refusal(&exchange(&channels[0], &frame)),
                libc::EINVAL,
                "{request:?}"
            );
        }
    }
}

#[test]
fn no_operation_goes_through_a_symlink() {
    let dir = tree();
    let (channels, _) = serve(&dir.path().join("tree"), 1);
    let before = fs::metadata(dir.path().join("outside/file")).unwrap();
    for path in [&b"up/file"[..], b"up/new"] {
        for request in requests(MOUNT, path) {
            let frame = postcard::to_stdvec(&request).unwrap();
            let errno = refusal(&exchange(&channels[0], &frame));
            // From a name that does not exist: which end is looked at first is not our concern.
            let expected = [libc::ELOOP, libc::ENOTDIR, libc::ENOENT];
            assert!(expected.contains(&errno), "{request:?}: {errno}");
        }
    }
    let after = fs::metadata(dir.path().join("outside/file")).unwrap();
    assert_eq!(before.permissions(), after.permissions());
    assert_eq!(fs::read_dir(dir.path().join("outside")).unwrap().count(), 1);
}

#[test]
fn frames_that_are_too_long_or_too_short() {
    let dir = tree();
    let (channels, _) = serve(&dir.path().join("tree"), 1);
    let channel = &channels[0];
    for length in [MAX_FRAME + 1, 2 * MAX_FRAME] {
        assert_eq!(
            refusal(&exchange(channel, &vec![0; length])),
            libc::EMSGSIZE
        );
    }
    for request in requests(MOUNT, b"dir/file") {
        let mut frame = postcard::to_stdvec(&request).unwrap();
        for cut in 1..frame.len() {
            assert_eq!(
                refusal(&exchange(channel, &frame[..cut])),
                libc::EBADMSG,
                "{request:?}"
            );
        }
        frame.push(0);
        assert_eq!(
            refusal(&exchange(channel, &frame)),
            libc::EBADMSG,
            "{request:?}"
        );
    }
}

#[test]
fn an_empty_frame_ends_its_channel_only() {
    let dir = tree();
    let (channels, threads) = serve(&dir.path().join("tree"), 2);
    send(&channels[0], b"");
    assert!(receive(&channels[0]).is_none());
    let frame = postcard::to_stdvec(&Request::GetAttr(NodeRef::root(MOUNT))).unwrap();
    assert!(matches!(exchange(&channels[1], &frame), Reply::Attr(_)));
    drop(channels);
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn fds_are_not_taken() {
    let dir = tree();
    let (channels, _) = serve(&dir.path().join("tree"), 1);
    let frame = postcard::to_stdvec(&Request::GetAttr(NodeRef::root(MOUNT))).unwrap();
    for count in [1, 2, 250] {
        let (read, write) = rustix::pipe::pipe().unwrap();
        let fds = vec![write.as_fd(); count];
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(250))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        let slices = [IoSlice::new(&frame)];
        rustix::net::sendmsg(&channels[0], &slices, &mut control, SendFlags::NOSIGNAL).unwrap();
        assert!(matches!(receive(&channels[0]), Some(Reply::Attr(_))));
        control.clear();
        drop(write);
        // End of file: nobody else holds the other end.
        assert_eq!(rustix::io::read(&read, &mut [0u8; 1]), Ok(0));
    }
}

/// Numbers that are the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

#[test]
fn random_bytes_are_answered() {
    let dir = tree();
    let (channels, threads) = serve(&dir.path().join("tree"), 1);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..20_000 {
        let length = 1 + random.below(200);
        let frame: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
        exchange(&channels[0], &frame);
    }
    drop(channels);
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
}

#[test]
fn damaged_requests_are_answered_and_stay_inside() {
    let dir = tree();
    let (channels, threads) = serve(&dir.path().join("tree"), 1);
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let paths: [&[u8]; 5] = [b"", b"dir", b"dir/file", b"up/file", b"new"];
    let pieces: [&[u8]; 6] = [b"..", b"/", b"\0", b"up", b"dir", b"file"];
    for _ in 0..10_000 {
        let path = paths[random.below(paths.len())];
        let all = requests(MOUNT, path);
        let mut frame = postcard::to_stdvec(&all[random.below(all.len())]).unwrap();
        for _ in 0..random.below(4) {
            let at = random.below(frame.len());
            if random.below(2) == 0 {
                frame[at] = random.next() as u8;
            } else {
                let piece = pieces[random.below(pieces.len())];
                let end = (at + piece.len()).min(frame.len());
                frame.splice(at..end, piece.iter().copied());
            }
        }
        exchange(&channels[0], &frame);
    }
    drop(channels);
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
    assert_eq!(
        fs::read(dir.path().join("outside/file")).unwrap(),
        b"secret"
    );
    assert_eq!(fs::read_dir(dir.path().join("outside")).unwrap().count(), 1);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
}

/// A directory that turns into a symlink and back while it is being walked through.
#[test]
fn a_swapped_symlink_leads_nowhere() {
    let dir = tree();
    let tree = dir.path().join("tree");
    let (channels, _) = serve(&tree, 1);
    let client = Client::new(channels).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let (a, b) = (tree.join("dir"), tree.join("up"));
                rustix::fs::renameat_with(CWD, a, CWD, b, HostRenameFlags::EXCHANGE).unwrap();
            }
        });
        let (mut inside, mut stopped) = (0, 0);
        let node = |path| NodeRef::new(MOUNT, path);
        for round in 0.. {
            let walk = client
                .walk(node(b""), &[b"dir", b"file"], Some(OpenHow::read()))
                .unwrap();
            let walked = walk.opened.and_then(Result::ok);
            let opened = client
                .open(node(b"dir/file"), OpenHow::read())
                .ok()
                .map(|(fd, _)| fd);
            for fd in [walked, opened] {
                match fd {
                    Some(fd) => {
                        let mut text = [0; 6];
                        rustix::io::read(fd, &mut text).unwrap();
                        assert_eq!(&text, b"inside");
                        inside += 1;
                    }
                    None => stopped += 1,
                }
            }
            let _ = client.mkdir(node(b"dir/made"), 0o700, None);
            let _ = client.rename(node(b"dir/made"), node(b"dir/moved"), RenameFlags::empty());
            let set = SetAttr {
                mode: Some(0o777),
                ..Default::default()
            };
            let _ = client.setattr(node(b"dir/file"), &set);
            let _ = client.rmdir(node(b"dir/moved"));
            if round > 500 && inside > 0 && stopped > 0 {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    let outside = dir.path().join("outside");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(outside.join("file")).unwrap());
    assert_eq!(mode & 0o111, 0);
}
