//! The whole Gofer: own namespaces, own root, dropped privileges, filter on, every operation.
//!
//! Needs a process with one thread, hence no test harness: each case forks. Run as root, every
//! case runs as root and as an ordinary user in a user namespace that maps nothing but its own
//! id. What the machine does not permit is reported as SKIPPED.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test, which clippy cannot tell"
)]

use std::{
    fs,
    io::{Read, Write},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::ExitCode,
};

use nix::{
    sched::{CloneFlags, unshare},
    sys::{
        signal::{Signal, kill},
        wait::{WaitStatus, waitpid},
    },
    unistd::{ForkResult, Gid, Pid, Uid, fork, geteuid, setgroups, setresgid, setresuid},
};
use runsc_gofer::{
    client::channel_pairs,
    server::{self, Devices, KernelFileSystems, MountSource, ServerConfig, Writes},
    *,
};

const NOBODY: u32 = 65534;
const RW: MountId = MountId(0);
const RO: MountId = MountId(1);
const HOST: MountId = MountId(2);
const FILE: MountId = MountId(3);
const DEVICES: MountId = MountId(4);
const RW_DEVICES: MountId = MountId(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum User {
    /// Namespaces made with the caller's own power.
    Root,
    /// An ordinary user in a user namespace.
    Ordinary,
}

/// Forks; `body` runs in the child and its result is the exit code.
fn child(body: impl FnOnce() -> i32) -> Pid {
    // SAFETY: this process has a single thread, so the child may do anything.
    match unsafe { fork() }.expect("fork") {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            let code = body();
            std::process::exit(code)
        }
    }
}

fn status_of(pid: Pid) -> i32 {
    match waitpid(pid, None).expect("waitpid") {
        WaitStatus::Exited(_, code) => code,
        WaitStatus::Signaled(_, signal, _) => 128 + signal as i32,
        other => panic!("{other:?}"),
    }
}

/// What the CLI does before the Gofer: become the user, enter new namespaces.
fn enter(user: User) -> nix::Result<()> {
    let mut flags = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS;
    if user == User::Root {
        return unshare(flags);
    }
    flags |= CloneFlags::CLONE_NEWUSER;
    if geteuid().is_root() {
        let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
        setgroups(&[])?;
        setresgid(gid, gid, gid)?;
        setresuid(uid, uid, uid)?;
        nix::sys::prctl::set_dumpable(true)?;
    }
    let (uid, gid) = (geteuid(), nix::unistd::getegid());
    unshare(flags)?;
    fs::write("/proc/self/setgroups", "deny").expect("setgroups");
    fs::write("/proc/self/uid_map", format!("0 {uid} 1")).expect("uid_map");
    fs::write("/proc/self/gid_map", format!("0 {gid} 1")).expect("gid_map");
    Ok(())
}

/// Whether `user`'s namespaces can be made here.
fn permitted(user: User) -> bool {
    status_of(child(|| i32::from(enter(user).is_err()))) == 0
}

fn source(path: &Path, writes: Writes) -> MountSource {
    MountSource {
        source: path.to_path_buf(),
        writes,
        devices: Devices::Refuse,
        kernel_file_systems: KernelFileSystems::Hide,
    }
}

struct Gofer {
    client: Client,
    /// The process between us and the Gofer.
    keeper: Pid,
    dir: tempfile::TempDir,
}

impl Gofer {
    fn start(user: User) -> Self {
        Self::start_with(user, HostSockets::None)
    }

    fn start_with(user: User, sockets: HostSockets) -> Self {
        let dir = tempfile::TempDir::new().expect("temporary directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        fs::write(dir.path().join("outside"), "outside").unwrap();
        fs::set_permissions(
            dir.path().join("outside"),
            fs::Permissions::from_mode(0o666),
        )
        .unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).unwrap();
        fs::set_permissions(&tree, fs::Permissions::from_mode(0o777)).unwrap();
        let config = ServerConfig {
            mounts: vec![
                source(&tree, Writes::Allow),
                source(&tree, Writes::Refuse),
                source(Path::new("/"), Writes::Refuse),
                source(&dir.path().join("outside"), Writes::Allow),
                MountSource {
                    devices: Devices::Allow,
                    ..source(Path::new("/dev"), Writes::Refuse)
                },
                MountSource {
                    devices: Devices::Allow,
                    ..source(&tree, Writes::Allow)
                },
            ],
            sockets,
            ..Default::default()
        };
        let json = serde_json::to_string(&config).unwrap();
        let config = serde_json::from_str(&json).unwrap();
        let (ours, theirs) = channel_pairs(3).unwrap();
        let mut ours = Some(ours);
        let keeper = child(|| {
            ours.take();
            enter(user).expect("namespaces");
            let gofer = child(|| match server::run(&config, theirs) {
                Ok(()) => 0,
                Err(error) => {
                    eprintln!("{error}");
                    1
                }
            });
            status_of(gofer)
        });
        let client = Client::new(ours.take().unwrap()).unwrap();
        Self {
            client,
            keeper,
            dir,
        }
    }

    fn gofer_pid(&self) -> Pid {
        let path = format!("/proc/{0}/task/{0}/children", self.keeper);
        let children = fs::read_to_string(path).unwrap();
        Pid::from_raw(children.trim().parse().unwrap())
    }

    /// Closes the channels; the Gofer ends by itself.
    fn finish(self) {
        drop(self.client);
        assert_eq!(status_of(self.keeper), 0, "the gofer's exit status");
    }
}

fn at(path: &str) -> NodeRef<'_> {
    NodeRef::new(RW, path.as_bytes())
}

fn errno<T: std::fmt::Debug>(result: Result<T, Error>) -> i32 {
    match result.expect_err("should fail") {
        Error::Errno(errno) => errno.raw(),
        other => panic!("{other:?}"),
    }
}

/// Each operation at least once, so that none is missing from the filter.
/// A client that can have no more fds open loses the answer, not the connection.
fn descriptors_run_out(user: User) {
    let gofer = Gofer::start(user);
    let client = &gofer.client;
    let how = OpenHow::new(Access::ReadWrite, OpenFlags::empty());
    for name in ["a", "b", "c"] {
        client.create(at(name), how, 0o600, None).unwrap();
    }
    let before = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let limit = |current| {
        let limit = rustix::process::Rlimit { current, ..before };
        rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    };
    // The lowest number that is free, and so how many are taken below it.
    let lowest = std::os::fd::AsRawFd::as_raw_fd(&fs::File::open("/").unwrap());
    limit(Some(u64::try_from(lowest).unwrap()));
    assert_eq!(errno(client.open(at("a"), OpenHow::read())), libc::EMFILE);
    assert_eq!(
        errno(client.open_many(at(""), &[b"a", b"b", b"c"])),
        libc::EMFILE
    );
    assert_eq!(client.getattr(at("a")).unwrap().size, 0);
    limit(before.current);
    let opened = client.open_many(at(""), &[b"a", b"b", b"c"]).unwrap();
    assert_eq!(opened.iter().flatten().count(), 3);
}

fn every_operation(user: User) {
    let gofer = Gofer::start(user);
    let client = &gofer.client;
    let root = Owner { uid: 0, gid: 0 };
    let how = OpenHow::new(Access::ReadWrite, OpenFlags::empty());
    let (fd, attr) = client.create(at("f"), how, 0o4750, Some(root)).unwrap();
    assert_eq!((attr.uid, attr.gid, attr.mode & 0o7777), (0, 0, 0o4750));
    fs::File::from(fd).write_all(b"text").unwrap();
    assert_eq!(
        client.mkdir(at("d"), 0o3777, Some(root)).unwrap().mode & 0o7777,
        0o3777
    );
    client
        .mknod(at("fifo"), NodeKind::Fifo, 0o600, Some(root))
        .unwrap();
    client
        .mknod(at("sock"), NodeKind::Socket, 0o600, None)
        .unwrap();
    client.symlink(at("l"), b"../outside", Some(root)).unwrap();
    assert_eq!(client.readlink(at("l")).unwrap(), b"../outside");
    client.link(at("f"), at("d/f2")).unwrap();
    client
        .rename(at("d/f2"), at("d/f3"), RenameFlags::NOREPLACE)
        .unwrap();
    client
        .rename(at("d/f3"), at("f"), RenameFlags::EXCHANGE)
        .unwrap();
    let set = SetAttr {
        mode: Some(0o600),
        uid: Some(0),
        gid: Some(0),
        size: Some(2),
        atime: SetTime::Now,
        mtime: SetTime::To(Timestamp { sec: 1, nsec: 2 }),
    };
    let attr = client.setattr(at("f"), &set).unwrap();
    assert_eq!(
        (attr.size, attr.mtime.nsec, attr.mode & 0o7777),
        (2, 2, 0o600)
    );
    let walk = client
        .walk(NodeRef::root(RW), &[b"d", b"f3"], Some(OpenHow::read()))
        .unwrap();
    let mut text = String::new();
    fs::File::from(walk.opened.unwrap().unwrap())
        .read_to_string(&mut text)
        .unwrap();
    assert_eq!(text, "te");
    assert_eq!(client.getattr(at("d/f3")).unwrap().nlink, 2);
    let mut names: Vec<_> = client
        .readdir_all(at(""), ReadDirDetail::Attributes)
        .unwrap()
        .into_iter()
        .map(|entry| String::from_utf8(entry.name).unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["d", "f", "fifo", "l", "sock"]);
    let tree = client.list_tree(at(""), &[], 9, ReadDirDetail::All);
    assert_eq!(tree.unwrap().len(), 2);
    let opened = client.open_many(at("d"), &[b"f3"]).unwrap();
    assert!(opened[0].is_some());
    client.statfs(at("f")).unwrap();
    for scope in [SyncScope::Node, SyncScope::FileSystem] {
        client.sync(at("d"), scope).unwrap();
    }
    match client.setxattr(at("f"), b"user.x", b"y", XattrMode::Any) {
        Err(Error::Errno(Errno(libc::EOPNOTSUPP))) => {}
        other => {
            other.unwrap();
            assert_eq!(client.getxattr(at("f"), b"user.x").unwrap(), b"y");
            assert_eq!(client.listxattr(at("f")).unwrap(), b"user.x\0");
            client.removexattr(at("f"), b"user.x").unwrap();
        }
    }
    // More than a piece, so the server seeks.
    for index in 0..1500 {
        client
            .mknod(
                at(&format!("d/{index:0200}")),
                NodeKind::Regular,
                0o600,
                None,
            )
            .unwrap();
    }
    assert_eq!(
        client
            .readdir_all(at("d"), ReadDirDetail::Names)
            .unwrap()
            .len(),
        1501
    );
    client.unlink(at("l")).unwrap();
    client.mkdir(at("e"), 0o700, None).unwrap();
    client.rmdir(at("e")).unwrap();
    gofer.finish();
}

/// Connecting to the host's unix sockets and making some for it, as far as that is permitted.
fn sockets_of_the_host(user: User) {
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
    let open = [HostSockets::Open, HostSockets::All];
    let create = [HostSockets::Create, HostSockets::All];
    for sockets in [
        HostSockets::None,
        HostSockets::Open,
        HostSockets::Create,
        HostSockets::All,
    ] {
        let gofer = Gofer::start_with(user, sockets);
        let client = &gofer.client;
        let tree = gofer.dir.path().join("tree");
        client.mkdir(at("d"), 0o777, None).unwrap();
        let listener = UnixListener::bind(tree.join("d/s")).unwrap();
        let mailbox = UnixDatagram::bind(tree.join("m")).unwrap();
        for path in ["d/s", "m"] {
            let everybody = fs::Permissions::from_mode(0o666);
            fs::set_permissions(tree.join(path), everybody).unwrap();
        }
        symlink("d/s", tree.join("link")).unwrap();
        fs::write(tree.join("file"), "").unwrap();
        // Also in a tree that is for reading only.
        for mount in [RW, RO] {
            let to = |path: &'static str| NodeRef::new(mount, path.as_bytes());
            let connected = client.connect(to("d/s"), SocketKind::Stream);
            if open.contains(&sockets) {
                let mut ours = UnixStream::from(connected.unwrap());
                ours.write_all(b"hello").unwrap();
                drop(ours);
                let (mut theirs, _) = listener.accept().unwrap();
                let mut text = String::new();
                theirs.read_to_string(&mut text).unwrap();
                assert_eq!(text, "hello");
                let ours = client.connect(to("m"), SocketKind::Datagram).unwrap();
                UnixDatagram::from(ours).send(b"letter").unwrap();
                let mut letter = [0; 9];
                assert_eq!(mailbox.recv(&mut letter).unwrap(), 6);
                let wrong = client.connect(to("m"), SocketKind::SeqPacket);
                assert_eq!(errno(wrong), libc::EPROTOTYPE);
            } else {
                assert_eq!(errno(connected), libc::ECONNREFUSED);
            }
            for path in ["link", "file", "d", ""] {
                let refused = client.connect(to(path), SocketKind::Stream);
                assert_eq!(errno(refused), libc::ECONNREFUSED, "{path}");
            }
            if open.contains(&sockets) {
                let missing = client.connect(to("d/none"), SocketKind::Stream);
                assert_eq!(errno(missing), libc::ENOENT);
            }
        }
        let root = Some(Owner { uid: 0, gid: 0 });
        let made = client.bind(at("d/own"), SocketKind::Stream, 0o640, root);
        let (socket, attr) = made.unwrap();
        assert_eq!(attr.mode, libc::S_IFSOCK | 0o640);
        assert_eq!(socket.is_some(), create.contains(&sockets));
        if let Some(socket) = socket {
            let own = || UnixStream::connect(tree.join("d/own"));
            assert_eq!(own().unwrap_err().raw_os_error(), Some(libc::ECONNREFUSED));
            rustix::net::listen(&socket, 1).unwrap();
            let _from_outside = own().unwrap();
            rustix::net::accept(&socket).unwrap();
        }
        let taken = client.bind(at("d/own"), SocketKind::Stream, 0o600, None);
        assert_eq!(errno(taken), libc::EEXIST);
        let read_only = NodeRef::new(RO, b"x");
        let refused = client.bind(read_only, SocketKind::Stream, 0o600, None);
        assert_eq!(errno(refused), libc::EROFS);
        client.unlink(at("d/own")).unwrap();
        gofer.finish();
    }
}

/// What is outside the mounts is out of reach; what is to be hidden is hidden.
fn the_view(user: User) {
    let gofer = Gofer::start(user);
    let client = &gofer.client;
    let tree = gofer.dir.path().join("tree");
    symlink("/etc/passwd", tree.join("abs")).unwrap();
    symlink("../outside", tree.join("up")).unwrap();
    for link in ["abs", "up"] {
        assert_eq!(errno(client.open(at(link), OpenHow::read())), libc::ELOOP);
    }
    fs::create_dir(gofer.dir.path().join("elsewhere")).unwrap();
    fs::write(gofer.dir.path().join("elsewhere/file"), "").unwrap();
    symlink("../elsewhere", tree.join("dir")).unwrap();
    symlink("elsewhere", tree.join("dangling")).unwrap();
    let walk = client
        .walk(at(""), &[b"dir", b"file"], Some(OpenHow::read()))
        .unwrap();
    assert_eq!(
        (walk.attrs.len(), walk.end),
        (1, WalkEnd::Symlink(b"../elsewhere".to_vec()))
    );
    let walk = client
        .walk(at("dir"), &[b"file"], Some(OpenHow::read()))
        .unwrap();
    assert_eq!(
        (walk.attrs.len(), walk.end),
        (0, WalkEnd::Failed(Errno(libc::ELOOP)))
    );
    assert_eq!(errno(client.getattr(at("dir/file"))), libc::ELOOP);
    assert_eq!(errno(client.readlink(at("dir/file"))), libc::ENOTDIR);
    // Deeper than the host takes in one path.
    let deep = "d".repeat(200);
    let mut parent: std::os::fd::OwnedFd = fs::File::open(&tree).unwrap().into();
    for _ in 0..25 {
        use rustix::fs::{Mode, OFlags, mkdirat, openat};
        mkdirat(&parent, &deep, Mode::RWXU | Mode::RWXG | Mode::RWXO).unwrap();
        parent = openat(&parent, &deep, OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    for count in [19, 20, 21, 25] {
        let names = vec![deep.as_bytes(); count];
        let walk = client.walk(at(""), &names, None).unwrap();
        assert_eq!((walk.attrs.len(), walk.end), (count, WalkEnd::Complete));
    }
    for path in ["../outside", "/etc/passwd", "..", "d/../../outside"] {
        assert_eq!(errno(client.open(at(path), OpenHow::read())), libc::EINVAL);
    }
    // The same tree, read-only.
    let write = OpenHow::new(Access::Write, OpenFlags::empty());
    assert_eq!(
        errno(client.create(NodeRef::new(RO, b"x"), write, 0o600, None)),
        libc::EROFS
    );
    // A single file.
    let outside = NodeRef::root(FILE);
    let (fd, attr) = client.open(outside, write).unwrap();
    assert_eq!(attr.size, 7);
    fs::File::from(fd).write_all(b"O").unwrap();
    assert_eq!(
        fs::read(gofer.dir.path().join("outside")).unwrap(),
        b"Outside"
    );
    assert!(client.getattr(outside).unwrap().is_regular());
    let smaller = SetAttr {
        size: Some(3),
        ..Default::default()
    };
    assert_eq!(client.setattr(outside, &smaller).unwrap().size, 3);
    let walk = client.walk(outside, &[], Some(OpenHow::read())).unwrap();
    assert!(walk.opened.unwrap().is_ok());
    assert_eq!(errno(client.walk(outside, &[b"x"], None)), libc::ENOTDIR);
    assert_eq!(
        errno(client.open(NodeRef::new(FILE, b"x"), write)),
        libc::ENOTDIR
    );
    assert_eq!(errno(client.unlink(outside)), libc::EBUSY);
    // The host's root, without the windows into its kernel.
    let exe = std::env::current_exe().unwrap();
    let exe: PathBuf = exe.strip_prefix("/").unwrap().to_path_buf();
    let exe = NodeRef::new(HOST, exe.as_os_str().as_encoded_bytes());
    if user == User::Root {
        let (fd, _) = client.open(exe, OpenHow::read()).unwrap();
        // Programs can be mapped executable.
        let map = maps_executable(&fs::File::from(fd));
        assert!(map, "mmap PROT_EXEC");
    }
    assert_eq!(
        errno(client.create(NodeRef::new(HOST, b"x"), write, 0o600, None)),
        libc::EROFS
    );
    for hidden in ["proc", "sys"] {
        let node = NodeRef::new(HOST, hidden.as_bytes());
        assert_eq!(
            client.readdir_all(node, ReadDirDetail::Names).unwrap(),
            [],
            "{hidden}"
        );
    }
    let null = NodeRef::new(HOST, b"dev/null");
    assert_eq!(errno(client.open(null, OpenHow::read())), libc::EACCES);
    // Devices where they are allowed; that the mount is read-only does not concern them.
    let (fd, attr) = client.open(NodeRef::new(DEVICES, b"null"), write).unwrap();
    assert_eq!((attr.rdev_major, attr.rdev_minor), (1, 3));
    fs::File::from(fd).write_all(b"gone").unwrap();
    let kind = NodeKind::Char { major: 1, minor: 5 };
    let zero = NodeRef::new(RW_DEVICES, b"zero");
    let made = client.mknod(zero, kind, 0o666, None);
    match user {
        User::Root => {
            assert_eq!(made.unwrap().rdev_minor, 5);
            assert!(client.open(zero, OpenHow::read()).is_ok());
            // The same node through the mount that refuses devices.
            assert_eq!(
                errno(client.open(at("zero"), OpenHow::read())),
                libc::EACCES
            );
        }
        User::Ordinary => assert_eq!(errno(made), libc::EPERM),
    }
    if user == User::Root {
        let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", gofer.gofer_pid())).unwrap();
        let outside: Vec<_> = mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(4))
            .filter(|point| {
                let inner = ["/0", "/1", "/2", "/3/file", "/4", "/5"];
                *point != "/"
                    && !inner
                        .iter()
                        .any(|mount| Path::new(point).starts_with(mount))
            })
            .collect();
        assert!(
            outside.is_empty(),
            "the old root is still there: {outside:?}"
        );
    }
    gofer.finish();
}

fn maps_executable(file: &fs::File) -> bool {
    use nix::sys::mman::{MapFlags, ProtFlags, mmap};
    let length = std::num::NonZeroUsize::new(4096).unwrap();
    let prot = ProtFlags::PROT_READ | ProtFlags::PROT_EXEC;
    // SAFETY: a fresh private mapping at an address the kernel chooses, never touched.
    unsafe { mmap(None, length, prot, MapFlags::MAP_PRIVATE, file, 0) }.is_ok()
}

/// What the process may still do.
fn privileges(user: User) {
    let gofer = Gofer::start(user);
    // An answer means that the set-up is over.
    gofer.client.getattr(at("")).unwrap();
    let pid = gofer.gofer_pid();
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().to_string()
        };
        let kept = [0, 1, 2, 3, 4, 27, 31]
            .iter()
            .fold(0u64, |mask, bit| mask | 1 << bit);
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
            let have = u64::from_str_radix(&field(set), 16).unwrap();
            assert_eq!(have & !kept, 0, "{set} {have:x}");
        }
        assert_eq!(field("NoNewPrivs:"), "1");
        assert_eq!(field("Seccomp:"), "2");
        assert_eq!(field("Tgid:"), pid.to_string());
    }
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .unwrap();
    let numbers: Vec<_> = files.split_whitespace().skip(3).take(2).collect();
    assert_eq!(numbers[0], numbers[1]);
    gofer.finish();
}

/// Killing the Gofer is noticed at once and for good; killing its parent ends it.
fn death(user: User) {
    let gofer = Gofer::start(user);
    gofer.client.getattr(at("")).unwrap();
    kill(gofer.gofer_pid(), Signal::SIGKILL).unwrap();
    gofer.client.wait_disconnected();
    assert_eq!(gofer.client.getattr(at("")), Err(Error::Disconnected));
    assert_eq!(status_of(gofer.keeper), 128 + 9);

    let gofer = Gofer::start(user);
    gofer.client.getattr(at("")).unwrap();
    kill(gofer.keeper, Signal::SIGKILL).unwrap();
    gofer.client.wait_disconnected();
    assert_eq!(gofer.client.getattr(at("")), Err(Error::Disconnected));
    status_of(gofer.keeper);
}

/// A set-up that fails says at what and why.
fn errors_name_stage_and_path(user: User) {
    let (read, write) = nix::unistd::pipe().unwrap();
    let keeper = child(|| {
        enter(user).expect("namespaces");
        let mounts = vec![source(Path::new("/no/such/place"), Writes::Refuse)];
        let error = server::run(
            &ServerConfig {
                mounts,
                ..Default::default()
            },
            vec![],
        )
        .expect_err("should fail");
        fs::File::from(write.try_clone().unwrap())
            .write_all(error.to_string().as_bytes())
            .unwrap();
        0
    });
    drop(write);
    let mut text = String::new();
    fs::File::from(read).read_to_string(&mut text).unwrap();
    assert_eq!(
        text,
        "gofer: find /no/such/place: No such file or directory (os error 2)"
    );
    assert_eq!(status_of(keeper), 0);
}

/// The filter kills what the Gofer has no business with.
fn the_filter(_: User) {
    let under = |call: fn()| {
        status_of(child(|| {
            runsc_gofer::filter::gofer(HostSockets::None)
                .install()
                .expect("install");
            call();
            0
        }))
    };
    let killed = 128 + Signal::SIGSYS as i32;
    assert_eq!(under(|| drop(fs::File::open("/etc/passwd"))), killed);
    assert_eq!(
        under(|| drop(std::net::TcpListener::bind("127.0.0.1:0"))),
        killed
    );
    assert_eq!(
        under(|| drop(std::os::unix::net::UnixStream::pair())),
        killed
    );
    assert_eq!(
        under(|| _ = nix::unistd::execv(c"/bin/true", &[c"true"])),
        killed
    );
    assert_eq!(
        under(|| _ = nix::unistd::write(std::io::stdout(), b"x")),
        killed
    );
    assert_eq!(under(|| drop(std::hint::black_box(vec![0u8; 1 << 22]))), 0);
}

/// Without the calls of newer kernels (`fchmodat2`, `*xattrat`) the older ones serve.
fn older_kernels(_: User) {
    let dir = tempfile::TempDir::new().unwrap();
    fs::write(dir.path().join("f"), "").unwrap();
    symlink("f", dir.path().join("l")).unwrap();
    nix::unistd::mkfifo(&dir.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let (ours, theirs) = channel_pairs(1).unwrap();
    let mount = server::PlainMount {
        root: fs::File::open(dir.path()).unwrap().into(),
        writes: Writes::Allow,
        devices: Devices::Refuse,
    };
    let _threads = server::spawn_unconfined(vec![mount], theirs);
    let client = Client::new(ours).unwrap();
    let mut filter = runsc_gofer::filter::gofer(HostSockets::None);
    filter.rules.extend(runsc_gofer::filter::client_rules());
    filter
        .rules
        .retain(|rule| rule.name != "SYS_fchmodat2" && !rule.name.ends_with("xattrat"));
    filter.otherwise = runsc_platform::seccomp::Otherwise::Errno(libc::ENOSYS as u16);
    filter.install().unwrap();

    let mode = |path| {
        client.setattr(
            at(path),
            &SetAttr {
                mode: Some(0o4711),
                ..Default::default()
            },
        )
    };
    assert_eq!(mode("f").unwrap().mode & 0o7777, 0o4711);
    assert_eq!(mode("").unwrap().mode & 0o7777, 0o4711);
    assert_eq!(errno(mode("l")), libc::EOPNOTSUPP);
    assert_eq!(errno(mode("fifo")), libc::EOPNOTSUPP);
    if client
        .setxattr(at("f"), b"user.x", b"y", XattrMode::Create)
        .is_ok()
    {
        assert_eq!(
            errno(client.setxattr(at("f"), b"user.x", b"y", XattrMode::Create)),
            libc::EEXIST
        );
        client
            .setxattr(at(""), b"user.x", b"root", XattrMode::Any)
            .unwrap();
        assert_eq!(client.getxattr(at(""), b"user.x").unwrap(), b"root");
        assert_eq!(client.getxattr(at("f"), b"user.x").unwrap(), b"y");
        assert_eq!(client.listxattr(at("f")).unwrap(), b"user.x\0");
        client.removexattr(at("f"), b"user.x").unwrap();
        assert_eq!(errno(client.getxattr(at("f"), b"user.x")), libc::ENODATA);
        assert_eq!(
            errno(client.getxattr(at("fifo"), b"user.x")),
            libc::EOPNOTSUPP
        );
    } else {
        println!("SKIPPED: the temporary directory's file system has no user attributes");
    }
    // The client's errors above came from the fallbacks, not from a call the filter lacks.
    assert!(!client.is_dead());
}

/// Runs a network Gofer in new namespaces; `ask` is the Sentry, outside of them. The exit status.
fn with_network_gofer(user: User, ask: impl FnOnce(&network::Client, Pid)) -> i32 {
    let (ends, channels) = network::client::pairs().unwrap();
    let (reader, writer) = nix::unistd::pipe().unwrap();
    let mut ends = Some(ends);
    let keeper = child(|| {
        ends.take();
        enter(user).expect("namespaces");
        let gofer = child(|| match network::server::run(&channels) {
            Ok(()) => 0,
            Err(error) => {
                eprintln!("{error}");
                1
            }
        });
        nix::unistd::write(&writer, &gofer.as_raw().to_ne_bytes()).unwrap();
        // Perhaps after the Gofer has looked, which has to notice.
        network::raise_loopback().unwrap();
        status_of(gofer)
    });
    drop(writer);
    let client = network::Client::new(ends.take().unwrap());
    nix::unistd::read(&reader, &mut [0; 4]).unwrap();
    let path = format!("/proc/{keeper}/task/{keeper}/children");
    let children = fs::read_to_string(path).unwrap();
    let pid = Pid::from_raw(children.trim().parse().unwrap());
    ask(&client, pid);
    drop(client);
    status_of(keeper)
}

/// The confined process can do all that it is asked for, and has no more rights than it needs.
fn the_network(user: User) {
    use network::{Endpoint, Family, Kind, Step, options};
    let status = with_network_gofer(user, |client, pid| {
        while !client
            .view()
            .unwrap()
            .links
            .iter()
            .any(|l| l.flags & 1 != 0)
        {
            assert!(client.wait_for_change());
        }
        let low = Endpoint {
            ip: std::net::Ipv4Addr::LOCALHOST.into(),
            port: 80,
            scope: 0,
        };
        let steps = vec![Step::Bind(low), Step::Listen(1)];
        let (listener, done) = client.open(Family::V4, Kind::Tcp, steps).unwrap();
        done.ok().unwrap();
        let steps = vec![Step::Connect(low)];
        let (socket, _) = client.open(Family::V4, Kind::Tcp, steps).unwrap();
        let listener = std::net::TcpListener::from(listener);
        listener.set_nonblocking(false).unwrap();
        listener.accept().unwrap();
        drop(socket);
        for family in [Family::V4, Family::V6] {
            for kind in [Kind::Tcp, Kind::Udp] {
                let (socket, _) = client.open(family, kind, vec![]).unwrap();
                for (option, access) in options::OPTIONS {
                    let fd = std::os::fd::AsFd::as_fd(&socket);
                    let done = client.carry_out(fd, vec![Step::Get(*option, 16)]).unwrap();
                    if *access == options::Access::Both {
                        let value = done.values.first().cloned().unwrap_or_default();
                        let steps = vec![Step::Set(*option, value), Step::Disconnect];
                        client.carry_out(fd, steps).unwrap();
                    }
                }
            }
            // Permitted or not, that is the namespace's affair: the process lives on.
            let _ = client.open(family, Kind::Ping, vec![]);
        }
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().to_string()
        };
        let bind_service = 1u64 << 10;
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
            let have = u64::from_str_radix(&field(set), 16).unwrap();
            assert_eq!(have & !bind_service, 0, "{set} {have:x}");
        }
        assert_eq!(field("Uid:"), NOBODY.to_string());
        assert_eq!(field("NoNewPrivs:"), "1");
        assert_eq!(field("Seccomp:"), "2");
        let root = fs::read_dir(format!("/proc/{pid}/root")).unwrap();
        let names: Vec<_> = root.map(|entry| entry.unwrap().file_name()).collect();
        assert!(
            names
                .iter()
                .all(|name| name.to_string_lossy().starts_with("empty-"))
        );
    });
    assert_eq!(status, 0);
}

/// Kinds of sockets and options that are not on the list kill it, whoever asks.
fn the_network_filter(_: User) {
    use nix::sys::socket::{AddressFamily, SockProtocol, SockType, setsockopt, socket, sockopt};
    let under = |call: fn()| {
        status_of(child(|| {
            network::filter().install().expect("install");
            call();
            0
        }))
    };
    let killed = 128 + Signal::SIGSYS as i32;
    assert_eq!(
        under(|| {
            let tcp = socket(
                AddressFamily::Inet,
                SockType::Stream,
                made_so(),
                SockProtocol::Tcp,
            );
            setsockopt(&tcp.unwrap(), sockopt::TcpNoDelay, &true).unwrap();
        }),
        0
    );
    for call in [
        || {
            drop(socket(
                AddressFamily::Inet,
                SockType::Raw,
                made_so(),
                SockProtocol::Tcp,
            ))
        },
        || {
            drop(socket(
                AddressFamily::Packet,
                SockType::Datagram,
                made_so(),
                None,
            ))
        },
        || {
            drop(socket(
                AddressFamily::Unix,
                SockType::Stream,
                made_so(),
                None,
            ))
        },
        || {
            drop(socket(
                AddressFamily::Netlink,
                SockType::Raw,
                made_so(),
                None,
            ))
        },
        || {
            let tcp = socket(
                AddressFamily::Inet,
                SockType::Stream,
                made_so(),
                SockProtocol::Tcp,
            );
            let _ = setsockopt(&tcp.unwrap(), sockopt::Mark, &1);
        },
        || drop(fs::File::open("/etc/passwd")),
        || _ = nix::unistd::execv(c"/bin/true", &[c"true"]),
        || _ = unshare(CloneFlags::CLONE_NEWNET),
    ] {
        assert_eq!(under(call), killed);
    }
}

fn made_so() -> nix::sys::socket::SockFlag {
    use nix::sys::socket::SockFlag;
    SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK
}

fn main() -> ExitCode {
    type Case = (&'static str, fn(User));
    let cases: &[Case] = &[
        ("every_operation", every_operation),
        ("sockets_of_the_host", sockets_of_the_host),
        ("descriptors_run_out", descriptors_run_out),
        ("the_view", the_view),
        ("privileges", privileges),
        ("death", death),
        ("errors_name_stage_and_path", errors_name_stage_and_path),
        ("the_filter", the_filter),
        ("older_kernels", older_kernels),
        ("the_network", the_network),
        ("the_network_filter", the_network_filter),
    ];
    let mut failed = 0;
    for user in [User::Root, User::Ordinary] {
        if !permitted(user) {
            println!("SKIPPED as {user:?}: this machine does not permit the namespaces");
            continue;
        }
        for (name, case) in cases {
            let pid = child(|| {
                case(user);
                0
            });
            let code = status_of(pid);
            println!(
                "test {name} as {user:?} ... {}",
                if code == 0 { "ok" } else { "FAILED" }
            );
            failed += i32::from(code != 0);
        }
    }
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
