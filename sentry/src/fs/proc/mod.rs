//! procfs (proc(5)).
//!
//! [`subject`] says which process an entry is about and who may look; [`pid`] has the table of the
//! entries of a process, whose texts are in [`status`], [`memory`], [`fds`], [`ns`], [`net`] and
//! [`settings`]; [`system`], [`cpuinfo`] and [`sysctl`] have what is not about one process. Names
//! of processes are looked up each time and cached nowhere.
//!
//! Deliberately absent: pagemap, map_files, and what only describes Linux's insides.

mod cpuinfo;
mod fds;
mod memory;
mod net;
mod ns;
mod pid;
mod settings;
mod status;
mod subject;
pub mod sysctl;
mod system;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::errno::{Errno, Result};
use crate::fs::inode::{DirEntry, FileType, Inode};
use crate::fs::kernfs::{Dir, Entries, Head, Link, StaticDir, Super, Text, list_table, number};
use crate::fs::mount::FileSystem;
use crate::kernel::{Kernel, current};
use subject::Subject;

pub use memory::command_line;
pub use status::{mask, ranges};
pub use system::used;
#[cfg(test)]
pub(in crate::fs) use tests::{kernel as test_kernel, kernel_with as test_kernel_with};

/// PROC_SUPER_MAGIC.
const MAGIC: u64 = 0x9fa0;
/// Processes stand behind all lasting entries.
const FIRST_PROCESS: u64 = 256;

type Read = fn(&Arc<Kernel>) -> Result<Vec<u8>>;

const FILES: [(&str, Read); 18] = [
    ("cgroups", crate::fs::cgroup::controllers),
    ("cmdline", system::cmdline),
    ("cpuinfo", system::cpuinfo),
    ("devices", system::devices),
    ("diskstats", system::empty),
    ("filesystems", system::filesystems),
    ("interrupts", system::interrupts),
    ("loadavg", system::loadavg),
    ("locks", system::empty),
    ("meminfo", system::meminfo),
    ("misc", system::empty),
    ("modules", system::empty),
    ("partitions", system::partitions),
    ("stat", system::stat),
    ("swaps", system::swaps),
    ("uptime", system::uptime),
    ("version", system::version),
    ("vmstat", system::vmstat),
];

/// A file below sysvipc: its name, its first line, and the rest.
type Sysvipc = (&'static str, &'static str, fn(&Kernel) -> String);

const SYSVIPC: [Sysvipc; 3] = [
    (
        "msg",
        "       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  cgid      stime      rtime      ctime\n",
        |k| k.ipc.msg.list(),
    ),
    (
        "sem",
        "       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime\n",
        |k| k.ipc.sem.list(),
    ),
    (
        "shm",
        "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      dtime      ctime                   rss                  swap\n",
        |k| k.ipc.shm.list(),
    ),
];

/// A new mount of procfs.
pub fn mount(kernel: &Arc<Kernel>) -> Result<Arc<FileSystem>> {
    let sb = Super::new(MAGIC, Errno::ENOENT);
    let head = Head::new(&sb, 0o555);
    let fixed = fixed(kernel, &sb)?;
    let root = Dir::new(
        head,
        Root {
            kernel: kernel.clone(),
            sb: sb.clone(),
            fixed,
        },
    );
    Ok(FileSystem::new("proc", sb.dev, root, String::new()))
}

/// Everything in the root that is no process.
fn fixed(kernel: &Arc<Kernel>, sb: &Arc<Super>) -> Result<StaticDir> {
    let mut dir = StaticDir::new();
    for (name, read) in FILES {
        let kernel = kernel.clone();
        dir.add(
            name,
            Text::made(Head::new(sb, 0o444), move || read(&kernel)),
        );
    }
    let link = |text| Link::fixed(Head::new(sb, 0o777), text);
    dir.add("mounts", link("self/mounts"));
    dir.add("net", link("self/net"));
    dir.add(
        "self",
        Link::made(Head::new(sb, 0o777), || own(|me| me.pid().to_string())),
    );
    dir.add(
        "thread-self",
        Link::made(Head::new(sb, 0o777), || {
            own(|me| format!("{}/task/{}", me.pid(), me.tid()))
        }),
    );
    dir.add("sys", sysctl::dir(kernel, sb)?);
    let mut sysvipc = StaticDir::new();
    for (name, first, rest) in SYSVIPC {
        let kernel = kernel.clone();
        let text = move || Ok([first.as_bytes(), rest(&kernel).as_bytes()].concat());
        sysvipc.add(name, Text::made(Head::new(sb, 0o444), text));
    }
    dir.add("sysvipc", sysvipc.build(sb));
    Ok(dir)
}

/// A text about whoever asks. ENOENT if nobody does.
fn own(text: impl FnOnce(&crate::kernel::task::Task) -> String) -> Result<Vec<u8>> {
    let me = current::task().ok_or(Errno::ENOENT)?;
    Ok(text(&me).into_bytes())
}

struct Root {
    kernel: Arc<Kernel>,
    sb: Arc<Super>,
    fixed: StaticDir,
}

impl Entries for Root {
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        match number(name) {
            Some(id) => Ok(pid::dir(&self.sb, Subject::find(&self.kernel, id)?)),
            None => self.fixed.lookup(name),
        }
    }

    fn list(&self, pos: u64, emit: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<()> {
        let mut more = true;
        self.fixed.list(pos, &mut |entry| {
            more = emit(entry);
            more
        })?;
        if !more {
            return Ok(());
        }
        for group in self.kernel.tree.groups() {
            let at = FIRST_PROCESS + group.pid() as u64;
            if at < pos {
                continue;
            }
            let Ok(subject) = Subject::find(&self.kernel, group.pid()) else {
                continue;
            };
            let name = group.pid().to_string();
            let one = std::iter::once((name.as_bytes(), pid::dir_ino(&subject), FileType::Dir));
            if !list_table(at, one, pos, emit) {
                break;
            }
        }
        Ok(())
    }

    fn nlink(&self) -> u32 {
        let processes = self.kernel.tree.groups().len();
        self.fixed.nlink() + u32::try_from(processes).unwrap_or(0)
    }
}
