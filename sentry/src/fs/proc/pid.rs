//! /proc/PID and /proc/PID/task/TID: which entries there are, and the directories themselves.

use std::sync::Arc;

use super::subject::{OwnerBits, ProcessOwner, Scope, Subject};
use super::{fds, memory, ns, settings, status};
use crate::errno::{Errno, Result};
use crate::fs::file::FileOps;
use crate::fs::inode::{DirEntry, FileType, Inode, MagicTarget, OpenFlags};
use crate::fs::kernfs::{Dir, Entries, Head, Link, Super, Text, list_table, number};
use crate::fs::path::PathRef;

const CLASS_ENTRY: u64 = 1;
const CLASS_DIR: u64 = 2;

type Read = fn(&Subject) -> Result<Vec<u8>>;
type Write = fn(&Subject, &[u8]) -> Result<usize>;
type Open = fn(&Subject, OpenFlags) -> Result<Arc<dyn FileOps>>;
type Place = fn(&Subject) -> Result<PathRef>;
type Sub = fn(&Arc<Super>, &Subject, u64) -> Arc<dyn Inode>;

/// What an entry is made of.
#[derive(Clone, Copy)]
enum Body {
    Text(Read),
    /// Only for those who may look into the process.
    Secret(Read),
    Setting(Read, Write),
    Opened(Open),
    Place(Place),
    Dir(Sub),
}

/// Where an entry appears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum In {
    Both,
    Process,
    Thread,
}

struct Entry {
    name: &'static str,
    perm: u32,
    place: In,
    body: Body,
}

const fn entry(name: &'static str, perm: u32, place: In, body: Body) -> Entry {
    Entry {
        name,
        perm,
        place,
        body,
    }
}

/// In Linux's order (fs/proc/base.c).
static ENTRIES: &[Entry] = &[
    entry("task", 0o555, In::Process, Body::Dir(tasks)),
    entry(
        "fd",
        0o500,
        In::Both,
        Body::Dir(|sb, s, ino| fds::dir(sb, s, fds::Kind::Links, ino)),
    ),
    entry(
        "fdinfo",
        0o555,
        In::Both,
        Body::Dir(|sb, s, ino| fds::dir(sb, s, fds::Kind::Info, ino)),
    ),
    entry("ns", 0o511, In::Both, Body::Dir(ns::dir)),
    entry("net", 0o555, In::Both, Body::Dir(super::net::dir)),
    entry(
        "environ",
        0o400,
        In::Both,
        Body::Opened(memory::open_environ),
    ),
    entry("auxv", 0o400, In::Both, Body::Opened(memory::open_auxv)),
    entry("status", 0o444, In::Both, Body::Text(status::status)),
    entry(
        "personality",
        0o400,
        In::Both,
        Body::Secret(|_| Ok(b"00000000\n".to_vec())),
    ),
    entry("limits", 0o444, In::Both, Body::Text(settings::limits)),
    entry(
        "comm",
        0o644,
        In::Both,
        Body::Setting(settings::comm, settings::set_comm),
    ),
    entry("syscall", 0o400, In::Both, Body::Secret(settings::syscall)),
    entry(
        "cmdline",
        0o444,
        In::Both,
        Body::Opened(memory::open_cmdline),
    ),
    entry("stat", 0o444, In::Both, Body::Text(status::stat)),
    entry("statm", 0o444, In::Both, Body::Text(status::statm)),
    entry("maps", 0o444, In::Both, Body::Opened(memory::open_maps)),
    entry(
        "children",
        0o444,
        In::Thread,
        Body::Text(settings::children),
    ),
    entry("mem", 0o600, In::Both, Body::Opened(memory::open_mem)),
    entry(
        "cwd",
        0o777,
        In::Both,
        Body::Place(|s| Ok(s.task()?.fs().cwd())),
    ),
    entry(
        "root",
        0o777,
        In::Both,
        Body::Place(|s| Ok(s.task()?.fs().root())),
    ),
    entry("exe", 0o777, In::Both, Body::Place(exe)),
    entry("mounts", 0o444, In::Both, Body::Text(settings::mounts)),
    entry(
        "mountinfo",
        0o444,
        In::Both,
        Body::Text(settings::mountinfo),
    ),
    entry(
        "mountstats",
        0o400,
        In::Process,
        Body::Text(settings::mountstats),
    ),
    entry(
        "clear_refs",
        0o200,
        In::Process,
        Body::Setting(|_| Err(Errno::EINVAL), settings::clear_refs),
    ),
    entry("smaps", 0o444, In::Both, Body::Opened(memory::open_smaps)),
    entry(
        "smaps_rollup",
        0o444,
        In::Both,
        Body::Opened(memory::open_rollup),
    ),
    entry(
        "wchan",
        0o444,
        In::Both,
        Body::Text(|s| s.group().map(|_| b"0".to_vec())),
    ),
    entry(
        "stack",
        0o400,
        In::Both,
        Body::Secret(|s| s.group().map(|_| Vec::new())),
    ),
    entry(
        "schedstat",
        0o444,
        In::Both,
        Body::Text(settings::schedstat),
    ),
    entry(
        "cgroup",
        0o444,
        In::Both,
        Body::Text(|s| s.group().map(|_| crate::fs::cgroup::membership(&s.kernel))),
    ),
    entry(
        "cpuset",
        0o444,
        In::Both,
        Body::Text(|s| s.group().map(|_| b"/\n".to_vec())),
    ),
    entry(
        "oom_score",
        0o444,
        In::Both,
        Body::Text(settings::oom_score),
    ),
    entry(
        "oom_adj",
        0o644,
        In::Both,
        Body::Setting(settings::oom_adj, settings::set_oom_adj),
    ),
    entry(
        "oom_score_adj",
        0o644,
        In::Both,
        Body::Setting(settings::oom_score_adj, settings::set_oom_score_adj),
    ),
    entry(
        "loginuid",
        0o644,
        In::Both,
        Body::Setting(settings::unset_id, settings::refuse),
    ),
    entry("sessionid", 0o444, In::Both, Body::Text(settings::unset_id)),
    entry(
        "coredump_filter",
        0o644,
        In::Process,
        Body::Setting(settings::coredump_filter, settings::accept),
    ),
    entry("io", 0o400, In::Both, Body::Secret(settings::io)),
    entry(
        "uid_map",
        0o644,
        In::Both,
        Body::Setting(settings::id_map, settings::refuse),
    ),
    entry(
        "gid_map",
        0o644,
        In::Both,
        Body::Setting(settings::id_map, settings::refuse),
    ),
    entry(
        "projid_map",
        0o644,
        In::Both,
        Body::Setting(settings::id_map, settings::refuse),
    ),
    entry(
        "setgroups",
        0o644,
        In::Both,
        Body::Setting(settings::setgroups, settings::refuse),
    ),
    entry(
        "timers",
        0o444,
        In::Process,
        Body::Text(|s| s.group().map(|_| Vec::new())),
    ),
    entry(
        "timerslack_ns",
        0o666,
        In::Process,
        Body::Setting(settings::timer_slack, settings::set_timer_slack),
    ),
];

fn exe(subject: &Subject) -> Result<PathRef> {
    let mm = subject.mm().map_err(|_| Errno::ENOENT)?;
    Ok(mm.exe().ok_or(Errno::ENOENT)?.path().clone())
}

fn make(sb: &Arc<Super>, subject: &Subject, index: usize, entry: &Entry) -> Arc<dyn Inode> {
    let ino = subject.ino(CLASS_ENTRY, index as u64);
    let bits = match entry.perm {
        0o555 if matches!(entry.body, Body::Dir(_)) => OwnerBits::Always,
        _ => OwnerBits::Private,
    };
    let owner = Arc::new(ProcessOwner {
        subject: subject.clone(),
        bits,
    });
    let head = Head::numbered(sb, ino, entry.perm).owned(owner);
    let s = subject.clone();
    match entry.body {
        Body::Text(read) => Text::made(head, move || read(&s)),
        Body::Secret(read) => Text::made(head, move || {
            s.check_look()?;
            read(&s)
        }),
        Body::Setting(read, write) => {
            let writer = s.clone();
            Text::writable(head, move || read(&s), move |data| write(&writer, data))
        }
        Body::Opened(open) => Text::opened(head, move |flags| open(&s, flags)),
        Body::Place(place) => Link::magic(head, move || {
            s.check_look()?;
            place(&s).map(MagicTarget::Path).map_err(|e| match e {
                // A zombie is nowhere.
                Errno::ESRCH => Errno::ENOENT,
                e => e,
            })
        }),
        Body::Dir(make) => make(sb, subject, ino),
    }
}

/// The directory of a process or thread.
pub fn dir(sb: &Arc<Super>, subject: Subject) -> Arc<dyn Inode> {
    let head = Head::numbered(sb, dir_ino(&subject), 0o555).owned(Arc::new(ProcessOwner {
        subject: subject.clone(),
        bits: OwnerBits::Always,
    }));
    Dir::new(
        head,
        Process {
            sb: sb.clone(),
            subject,
        },
    )
}

/// The number of that directory.
pub fn dir_ino(subject: &Subject) -> u64 {
    subject.ino(CLASS_DIR, 0)
}

struct Process {
    sb: Arc<Super>,
    subject: Subject,
}

impl Process {
    fn entries(&self) -> impl Iterator<Item = (usize, &'static Entry)> {
        let here = match self.subject.scope {
            Scope::Process => In::Process,
            Scope::Thread => In::Thread,
        };
        let shown = move |e: &Entry| e.place == In::Both || e.place == here;
        ENTRIES.iter().enumerate().filter(move |(_, e)| shown(e))
    }

    /// ENOENT once the process or thread is gone.
    fn alive(&self) -> Result<()> {
        let group = self.subject.group().map_err(|_| Errno::ENOENT)?;
        let there = self.subject.tid == self.subject.pid
            || group.tasks().iter().any(|t| t.tid() == self.subject.tid);
        if there { Ok(()) } else { Err(Errno::ENOENT) }
    }
}

impl Entries for Process {
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        self.alive()?;
        self.entries()
            .find(|(_, e)| e.name.as_bytes() == name)
            .map(|(index, e)| make(&self.sb, &self.subject, index, e))
            .ok_or(Errno::ENOENT)
    }

    fn list(&self, pos: u64, emit: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<()> {
        self.alive()?;
        let rows = self.entries().map(|(index, e)| {
            let kind = match e.body {
                Body::Dir(_) => FileType::Dir,
                Body::Place(_) => FileType::Symlink,
                _ => FileType::Regular,
            };
            (
                e.name.as_bytes(),
                self.subject.ino(CLASS_ENTRY, index as u64),
                kind,
            )
        });
        list_table(0, rows, pos, emit);
        Ok(())
    }

    fn nlink(&self) -> u32 {
        let dirs = self
            .entries()
            .filter(|(_, e)| matches!(e.body, Body::Dir(_)));
        2 + u32::try_from(dirs.count()).unwrap_or(0)
    }
}

/// /proc/PID/task.
fn tasks(sb: &Arc<Super>, subject: &Subject, ino: u64) -> Arc<dyn Inode> {
    let head = Head::numbered(sb, ino, 0o555).owned(Arc::new(ProcessOwner {
        subject: subject.clone(),
        bits: OwnerBits::Always,
    }));
    Dir::new(
        head,
        Tasks {
            sb: sb.clone(),
            subject: subject.clone(),
        },
    )
}

struct Tasks {
    sb: Arc<Super>,
    subject: Subject,
}

impl Tasks {
    /// The ids of the living threads and of a main thread that has ended, ascending.
    fn ids(&self) -> Result<Vec<i32>> {
        let group = self.subject.group().map_err(|_| Errno::ENOENT)?;
        let mut ids: Vec<i32> = group.tasks().iter().map(|t| t.tid()).collect();
        ids.push(self.subject.pid);
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }
}

impl Entries for Tasks {
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        let tid = number(name).ok_or(Errno::ENOENT)?;
        Ok(dir(&self.sb, self.subject.thread(tid)?))
    }

    fn list(&self, pos: u64, emit: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<()> {
        for tid in self.ids()? {
            let Ok(thread) = self.subject.thread(tid) else {
                continue;
            };
            let name = tid.to_string();
            let one = std::iter::once((name.as_bytes(), dir_ino(&thread), FileType::Dir));
            if !list_table(tid as u64, one, pos, emit) {
                break;
            }
        }
        Ok(())
    }

    fn nlink(&self) -> u32 {
        let count = self.ids().map_or(0, |ids| ids.len());
        2 + u32::try_from(count).unwrap_or(0)
    }
}
