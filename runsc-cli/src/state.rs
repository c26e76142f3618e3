//! What a container has on disk: `ROOT/ID/`, from its creation to its deletion.
//!
//! | file | |
//! |---|---|
//! | `lock` | held with flock(2) by a command that changes the container |
//! | `state.json` | the [`Record`]; replaced as a whole, so that it can be read at any moment |
//! | `reached` | the monitor's note of what has been [`Reached`] since: one byte |
//! | `config.json` | a copy of the configuration |
//! | `control.sock` | where the monitor listens (`crate::link`) |
//! | `alive` | locked, while they live, by all processes that belong to the container |
//!
//! What the record says last is true only while the monitor lives, the process that keeps the
//! sandbox: without it the container is stopped, however it came to that. A process is known by its
//! id and its start time. Commands may be killed at any point: the lock is the kernel's to release,
//! and a directory without `state.json` is what a creation or deletion left that was cut short.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{ErrorKind, Read, Write},
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    fcntl::{Flock, FlockArg},
    unistd::Uid,
};
use serde::{Deserialize, Serialize};

use crate::cgroup::Cgroup;

/// Longest id, as runc has it.
const MAX_ID: usize = 1024;
/// Longest state.json, in bytes.
const MAX_RECORD: u64 = 16 << 20;
/// How long a command waits for another one that changes the same container.
const PATIENCE: Duration = Duration::from_secs(10);
/// What a container's directory holds, in the order of removal: without its record it is no
/// container, and the lock goes last.
const FILES: [&str; 8] = [
    crate::link::SOCKET,
    "config.json.new",
    "config.json",
    "alive",
    "reached",
    "state.json.new",
    "state.json",
    "lock",
];

/// Checks an id by runc's rules.
pub fn check_id(id: &str) -> Result<()> {
    ensure!(!id.is_empty(), "container id: must not be empty");
    ensure!(
        id.len() <= MAX_ID,
        "container id: longer than {MAX_ID} bytes"
    );
    ensure!(
        id != "."
            && id != ".."
            && id
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"_+-.".contains(&b)),
        "container id: {id:?}: only letters, digits and _ + - . are allowed"
    );
    Ok(())
}

/// Why a container that was named is not there.
#[derive(Debug, thiserror::Error)]
#[error("container does not exist")]
pub struct DoesNotExist;

/// The directory for the state of containers.
#[derive(Debug)]
pub struct StateRoot(PathBuf);

impl StateRoot {
    /// Opens the directory the user asked for, or the default one; makes it if need be.
    pub fn open(asked: Option<&Path>) -> Result<Self> {
        let path = asked.map_or_else(default_root, Path::to_path_buf);
        let what = || format!("state directory: {}", path.display());
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.with_context(what)?;
        Self(path).checked()
    }

    /// The same, for a command that finds nothing there if it does not exist.
    pub fn find(asked: Option<&Path>) -> Result<Option<Self>> {
        let path = asked.map_or_else(default_root, Path::to_path_buf);
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            _ => Self(path).checked().map(Some),
        }
    }

    fn checked(self) -> Result<Self> {
        let path = std::path::absolute(&self.0)?;
        let what = || format!("state directory: {}", path.display());
        let found = fs::symlink_metadata(&path).with_context(what)?;
        let uid = Uid::effective().as_raw();
        ensure!(found.is_dir(), "{}: not a directory", what());
        ensure!(
            found.uid() == uid,
            "{}: belongs to user {}, not {uid}",
            what(),
            found.uid()
        );
        ensure!(
            found.mode() & 0o022 == 0,
            "{}: mode {:o} lets others write, must be 700",
            what(),
            found.mode() & 0o7777
        );
        Ok(Self(path))
    }

    /// Where it is, for what is kept beside containers.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// All containers, by id. One that is removed meanwhile is left out.
    pub fn containers(&self) -> Result<Vec<Container>> {
        let entries = fs::read_dir(&self.0).with_context(|| self.0.display().to_string())?;
        let mut found = Vec::new();
        for entry in entries.flatten() {
            let name = entry.file_name().into_string().unwrap_or_default();
            if check_id(&name).is_ok()
                && let Some(container) = self.container(&name)?
            {
                found.push(container);
            }
        }
        found.sort_by(|a, b| a.record.id.cmp(&b.record.id));
        Ok(found)
    }

    /// A container as it is now.
    pub fn container(&self, id: &str) -> Result<Option<Container>> {
        check_id(id)?;
        let directory = self.0.join(id);
        Ok(Record::read(&directory)?.map(|record| Container { directory, record }))
    }

    /// Claims the id for a new container, whose record is `record`.
    pub fn create(&self, record: Record) -> Result<Locked> {
        let id = record.id.clone();
        check_id(&id)?;
        let directory = self.0.join(&id);
        loop {
            match DirBuilder::new().mode(0o700).create(&directory) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                    return Err(error).with_context(|| directory.display().to_string());
                }
                _ => {}
            }
            let lock = match claim(&directory)? {
                Claim::Free(lock) => lock,
                Claim::Gone => continue,
                Claim::Held => bail!("container id: {id}: already in use"),
            };
            if directory.join("state.json").exists() {
                bail!("container id: {id}: already in use");
            }
            record.write(&directory)?;
            return Ok(Locked {
                container: Container { directory, record },
                _lock: lock,
            });
        }
    }

    /// A container that no other command changes meanwhile.
    pub fn lock(&self, id: &str) -> Result<Locked> {
        check_id(id)?;
        let directory = self.0.join(id);
        let deadline = Instant::now() + PATIENCE;
        loop {
            if !directory.is_dir() {
                return Err(DoesNotExist.into());
            }
            match claim(&directory)? {
                Claim::Free(lock) => {
                    let Some(record) = Record::read(&directory)? else {
                        // What is left of a creation or deletion is of no use to anybody.
                        remove(&directory);
                        return Err(DoesNotExist.into());
                    };
                    return Ok(Locked {
                        container: Container { directory, record },
                        _lock: lock,
                    });
                }
                Claim::Gone => return Err(DoesNotExist.into()),
                Claim::Held if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Claim::Held => bail!("container id: {id}: another command is busy with it"),
            }
        }
    }
}

fn default_root() -> PathBuf {
    let uid = Uid::effective();
    if uid.is_root() {
        return "/run/runsc-rs".into();
    }
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(dir) if Path::new(&dir).is_absolute() => Path::new(&dir).join("runsc-rs"),
        _ => format!("/tmp/runsc-rs-{uid}").into(),
    }
}

/// A process that cannot be taken for a later one with the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    pub pid: i32,
    /// In clock ticks since boot.
    start: u64,
}

impl ProcessId {
    /// A process that lives now.
    pub fn of(pid: i32) -> Result<Self> {
        let (_, start) = stat(pid).with_context(|| format!("process {pid}"))?;
        Ok(Self { pid, start })
    }

    /// Whether it lives; a zombie does not.
    pub fn is_alive(self) -> bool {
        stat(self.pid)
            .is_ok_and(|(state, start)| start == self.start && !matches!(state, 'Z' | 'X' | 'x'))
    }
}

/// State and start time of a process.
fn stat(pid: i32) -> Result<(char, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name may hold anything, brackets too.
    let (_, rest) = text.rsplit_once(')').context("/proc/PID/stat")?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next().and_then(|field| field.chars().next());
    let start = fields.nth(18).and_then(|field| field.parse().ok());
    state.zip(start).context("/proc/PID/stat")
}

/// What has been reached, as long as the monitor lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    const ALL: [Self; 5] = [
        Self::Creating,
        Self::Created,
        Self::Running,
        Self::Paused,
        Self::Stopped,
    ];

    /// Its byte in the monitor's note.
    fn note(self) -> u8 {
        match self {
            Self::Creating => b'-',
            Self::Created => b'c',
            Self::Running => b'r',
            Self::Paused => b'p',
            Self::Stopped => b's',
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// What `state.json` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    pub oci_version: String,
    pub id: String,
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    /// RFC 3339.
    pub created: String,
    /// User id of whoever created it.
    pub owner: u32,
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// What was reached last: true while the monitor lives.
    pub reached: Status,
    /// The command that creates it.
    pub creator: ProcessId,
    /// The process that keeps the sandbox, the container's on the host.
    pub monitor: Option<ProcessId>,
    /// `--systemd-cgroup` was given.
    #[serde(default)]
    pub systemd_cgroup: bool,
    /// The control group is being made: there may be traces of it.
    #[serde(default)]
    pub cgroup_begun: bool,
    /// The control group of all its processes on the host.
    #[serde(default)]
    pub cgroup: Option<Cgroup>,
}

impl Record {
    fn read(directory: &Path) -> Result<Option<Self>> {
        let path = directory.join("state.json");
        let what = || path.display().to_string();
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(&path);
        let file = match opened {
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                return Ok(None);
            }
            other => other.with_context(what)?,
        };
        let mut text = Vec::new();
        file.take(MAX_RECORD)
            .read_to_end(&mut text)
            .with_context(what)?;
        let mut record: Self = serde_json::from_slice(&text).with_context(what)?;
        if record.monitor.is_some()
            && let Some(reached) = Reached::read(directory)
        {
            record.reached = reached;
        }
        Ok(Some(record))
    }

    /// Replaces what is there.
    pub fn write(&self, directory: &Path) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        replace(&directory.join("state.json"), &text, 0o600)
    }
}

/// The monitor's note of the status. A process that opens nothing any more can change it, and since
/// it is one byte, it is whole at any moment.
#[derive(Debug)]
pub struct Reached(File);

impl Reached {
    /// Begins with [`Status::Creating`].
    pub fn begin(directory: &Path) -> Result<Self> {
        let path = directory.join("reached");
        let opened = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path);
        let reached = Self(opened.with_context(|| path.display().to_string())?);
        reached.set(Status::Creating)?;
        Ok(reached)
    }

    pub fn set(&self, status: Status) -> Result<()> {
        let written = self.0.write_all_at(&[status.note()], 0);
        written.context("status")
    }

    fn read(directory: &Path) -> Option<Status> {
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(directory.join("reached"));
        let mut byte = [0];
        opened.ok()?.read_exact_at(&mut byte, 0).ok()?;
        Status::ALL
            .into_iter()
            .find(|status| status.note() == byte[0])
    }
}

/// What [`Locked::alive`] gives, for a process that comes later.
pub fn hold_alive(directory: &Path) -> Result<OwnedFd> {
    let path = directory.join("alive");
    let file = File::open(&path).with_context(|| path.display().to_string())?;
    // The lock is the description's, whoever has it: nobody unlocks it.
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockShared).context("alive")?;
    Ok(file.into())
}

/// Replaces a file as a whole.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&new)
        .and_then(|mut file| file.write_all(content));
    written
        .and_then(|()| fs::rename(&new, path))
        .with_context(|| path.display().to_string())
}

/// A container as it was when it was looked at.
#[derive(Debug)]
pub struct Container {
    pub directory: PathBuf,
    pub record: Record,
}

impl Container {
    pub fn status(&self) -> Status {
        let alive = |process: Option<ProcessId>| process.is_some_and(ProcessId::is_alive);
        match self.record.reached {
            Status::Creating if self.record.monitor.is_none() => {
                match self.record.creator.is_alive() {
                    true => Status::Creating,
                    false => Status::Stopped,
                }
            }
            reached if alive(self.record.monitor) => reached,
            _ => Status::Stopped,
        }
    }

    /// Whether the command that creates it is still at it. It holds the lock then.
    pub fn is_being_created(&self) -> bool {
        matches!(self.record.reached, Status::Creating | Status::Created)
            && self.record.creator.is_alive()
    }

    /// The process id on the host; 0 if it has none any more.
    pub fn pid(&self) -> i32 {
        let monitor = self.record.monitor.filter(|monitor| monitor.is_alive());
        monitor.map_or(0, |monitor| monitor.pid)
    }
}

/// A container that this command alone changes.
#[derive(Debug)]
pub struct Locked {
    container: Container,
    _lock: Flock<File>,
}

impl std::ops::Deref for Locked {
    type Target = Container;

    fn deref(&self) -> &Container {
        &self.container
    }
}

impl Locked {
    /// Looks again.
    pub fn refresh(&mut self) -> Result<()> {
        self.container.record = Record::read(&self.directory)?.ok_or(DoesNotExist)?;
        Ok(())
    }

    /// An fd that shows, while anybody has it, that something of the container lives.
    pub fn alive(&self) -> Result<OwnedFd> {
        let path = self.directory.join("alive");
        let open = || {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW)
                .open(&path)
        };
        // Made by one description and held by another, through which nobody can write.
        open().with_context(|| path.display().to_string())?;
        hold_alive(&self.directory)
    }

    /// Waits until nothing of the container lives. False if it takes longer than `limit`.
    pub fn wait_until_dead(&self, limit: Duration) -> Result<bool> {
        let deadline = Instant::now() + limit;
        let path = self.directory.join("alive");
        let mut file = match File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
            other => other.with_context(|| path.display().to_string())?,
        };
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(_) => return Ok(true),
                Err((_, errno)) if errno != nix::Error::EWOULDBLOCK => {
                    return Err(errno).with_context(|| path.display().to_string());
                }
                Err(_) if Instant::now() > deadline => return Ok(false),
                Err((back, _)) => file = back,
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Removes the container's directory.
    pub fn remove(self) -> Result<()> {
        remove(&self.directory);
        let gone = !self.directory.exists() || !self.directory.join("state.json").exists();
        ensure!(gone, "{}: cannot be removed", self.directory.display());
        Ok(())
    }
}

fn remove(directory: &Path) {
    for name in FILES {
        let _ = fs::remove_file(directory.join(name));
    }
    // Fails if somebody has just claimed the id again.
    let _ = fs::remove_dir(directory);
}

enum Claim {
    Free(Flock<File>),
    /// Somebody alive has it.
    Held,
    /// It was removed meanwhile.
    Gone,
}

/// Tries to lock a container's directory.
fn claim(directory: &Path) -> Result<Claim> {
    let path = directory.join("lock");
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&path);
    let file = match opened {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Claim::Gone),
        other => other.with_context(|| path.display().to_string())?,
    };
    let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => lock,
        Err((_, nix::Error::EWOULDBLOCK)) => return Ok(Claim::Held),
        Err((_, errno)) => return Err(errno).with_context(|| path.display().to_string()),
    };
    // Locked, but is it still the file of that name?
    let current = fs::symlink_metadata(&path)
        .map(|found| (found.dev(), found.ino()))
        .ok();
    let mine = lock.metadata().map(|found| (found.dev(), found.ino())).ok();
    Ok(if current == mine && mine.is_some() {
        Claim::Free(lock)
    } else {
        Claim::Gone
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> (tempfile::TempDir, StateRoot) {
        let dir = tempfile::tempdir().unwrap();
        let root = StateRoot::open(Some(&dir.path().join("root"))).unwrap();
        (dir, root)
    }

    fn record(id: &str) -> Record {
        Record {
            oci_version: "1.0.2".into(),
            id: id.into(),
            bundle: "/b".into(),
            rootfs: "/b/rootfs".into(),
            created: "2020-01-01T00:00:00Z".into(),
            owner: 0,
            annotations: BTreeMap::new(),
            reached: Status::Creating,
            creator: ProcessId::of(std::process::id() as i32).unwrap(),
            monitor: None,
            systemd_cgroup: false,
            cgroup_begun: false,
            cgroup: None,
        }
    }

    #[test]
    fn ids_follow_runc() {
        for id in ["a", "A-b_c.d+9", "..a", "0", "-", &"x".repeat(1024)] {
            assert!(check_id(id).is_ok(), "{id}");
        }
        for id in [
            "",
            ".",
            "..",
            "a/b",
            "a b",
            "é",
            "a\n",
            "a:b",
            &"x".repeat(1025),
        ] {
            assert!(check_id(id).is_err(), "{id}");
        }
    }

    #[test]
    fn an_id_is_claimed_once_and_leaves_nothing() {
        let (_dir, root) = root();
        let first = root.create(record("c")).unwrap();
        let error = root.create(record("c")).unwrap_err();
        assert_eq!(error.to_string(), "container id: c: already in use");
        assert_eq!(first.status(), Status::Creating);
        drop(first);
        let error = root.create(record("c")).unwrap_err();
        assert_eq!(error.to_string(), "container id: c: already in use");
        root.lock("c").unwrap().remove().unwrap();
        assert!(root.container("c").unwrap().is_none());
        assert_eq!(fs::read_dir(&root.0).unwrap().count(), 0);
        assert!(root.lock("c").unwrap_err().is::<DoesNotExist>());
    }

    #[test]
    fn what_was_cut_short_is_taken_over_or_removed() {
        let (_dir, root) = root();
        fs::create_dir(root.0.join("empty")).unwrap();
        for id in ["old", "older"] {
            fs::create_dir(root.0.join(id)).unwrap();
            fs::write(root.0.join(id).join("lock"), "").unwrap();
            fs::write(root.0.join(id).join("state.json.new"), "{").unwrap();
            fs::write(root.0.join(id).join("config.json.new"), "{").unwrap();
        }
        assert!(root.containers().unwrap().is_empty());
        root.create(record("old")).unwrap();
        for id in ["older", "empty"] {
            assert!(root.lock(id).unwrap_err().is::<DoesNotExist>(), "{id}");
            assert!(!root.0.join(id).exists(), "{id}");
        }
        let ids: Vec<_> = root.containers().unwrap();
        assert_eq!(ids.len(), 1);
    }

    #[test]
    fn the_status_is_that_of_the_processes() {
        let (_dir, root) = root();
        let mut child = std::process::Command::new("sleep")
            .arg("100")
            .spawn()
            .unwrap();
        let mut record = record("c");
        let monitor = ProcessId::of(child.id() as i32).unwrap();
        record.monitor = Some(monitor);
        record.reached = Status::Running;
        let locked = root.create(record.clone()).unwrap();
        assert_eq!(
            (locked.status(), locked.pid()),
            (Status::Running, monitor.pid)
        );
        // Another process of the same number is another process.
        let start = monitor.start + 1;
        record.monitor = Some(ProcessId { start, ..monitor });
        record.write(&locked.directory).unwrap();
        let seen = root.container("c").unwrap().unwrap();
        assert_eq!((seen.status(), seen.pid()), (Status::Stopped, 0));
        child.kill().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while locked.status() != Status::Stopped {
            assert!(Instant::now() < deadline, "a zombie is not alive");
            std::thread::yield_now();
        }
        child.wait().unwrap();
        record.monitor = None;
        record.reached = Status::Creating;
        record.creator = monitor;
        record.write(&locked.directory).unwrap();
        let seen = root.container("c").unwrap().unwrap();
        assert_eq!(seen.status(), Status::Stopped, "whoever created it is gone");
    }

    #[test]
    fn the_monitors_note_counts_once_it_is_known() {
        let (_dir, root) = root();
        let mut record = record("c");
        let locked = root.create(record.clone()).unwrap();
        let note = Reached::begin(&locked.directory).unwrap();
        let status = || root.container("c").unwrap().unwrap().record.reached;
        note.set(Status::Running).unwrap();
        assert_eq!(status(), Status::Creating, "left behind by another one");
        record.monitor = Some(record.creator);
        record.write(&locked.directory).unwrap();
        for reached in Status::ALL {
            note.set(reached).unwrap();
            assert_eq!(status(), reached);
        }
        let path = locked.directory.join("reached");
        for text in ["", "?"] {
            fs::write(&path, text).unwrap();
            assert_eq!(status(), Status::Creating, "{text:?}: what the record says");
        }
        locked.remove().unwrap();
        assert_eq!(fs::read_dir(&root.0).unwrap().count(), 0);
    }

    #[test]
    fn what_lives_is_waited_for() {
        let (_dir, root) = root();
        let locked = root.create(record("c")).unwrap();
        assert!(locked.wait_until_dead(Duration::ZERO).unwrap());
        let alive = locked.alive().unwrap();
        let second = alive.try_clone().unwrap();
        drop(alive);
        assert!(!locked.wait_until_dead(Duration::ZERO).unwrap());
        drop(second);
        assert!(locked.wait_until_dead(Duration::ZERO).unwrap());
    }

    #[test]
    fn hostile_records_are_errors() {
        let (_dir, root) = root();
        let locked = root.create(record("c")).unwrap();
        let path = locked.directory.join("state.json");
        for text in ["", "{}", "[1]", "{\"id\": 3}"] {
            fs::write(&path, text).unwrap();
            assert!(root.container("c").is_err(), "{text}");
        }
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(root.container("c").is_err());
    }

    #[test]
    fn a_directory_open_to_others_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let error = StateRoot::open(Some(dir.path())).unwrap_err().to_string();
        assert!(error.contains("mode 777"), "{error}");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/root", &link).unwrap();
        assert!(StateRoot::open(Some(&link)).is_err());
    }
}
