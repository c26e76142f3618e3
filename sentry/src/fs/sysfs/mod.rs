//! sysfs: the little of it that programs ask for and that is true in the sandbox: processors, one
//! memory node, settings of memory, network interfaces ([`net`]), empty directories elsewhere.

mod net;

use std::sync::Arc;

use crate::errno::{Errno, Result};
use crate::fs::inode::Inode;
use crate::fs::kernfs::{Head, Link, StaticDir, Super, Text};
use crate::fs::mount::FileSystem;
use crate::fs::proc::{mask, ranges};
use crate::kernel::Kernel;

/// SYSFS_MAGIC.
const MAGIC: u64 = 0x6265_6572;

struct Tree {
    sb: Arc<Super>,
    cpus: usize,
    possible: usize,
}

/// A new mount of sysfs.
pub fn mount(kernel: &Arc<Kernel>) -> Result<Arc<FileSystem>> {
    let tree = Tree {
        sb: Super::new(MAGIC, Errno::EPERM),
        cpus: kernel.cpus().max(1),
        possible: kernel.possible_cpus().max(kernel.cpus()).max(1),
    };
    let root = tree.root(kernel);
    Ok(FileSystem::new("sysfs", tree.sb.dev, root, String::new()))
}

impl Tree {
    /// A file that never changes; sysfs says a page for the size of any.
    fn file(&self, text: impl Into<String>) -> Arc<dyn Inode> {
        let mut text: String = text.into();
        text.push('\n');
        Text::fixed(Head::new(&self.sb, 0o444).sized(4096), text)
    }

    fn dir(&self, dir: StaticDir) -> Arc<dyn Inode> {
        dir.build_with(Head::new(&self.sb, 0o755))
    }

    fn empty(&self) -> Arc<dyn Inode> {
        self.dir(StaticDir::new())
    }

    fn link(&self, target: &'static str) -> Arc<dyn Inode> {
        Link::fixed(Head::new(&self.sb, 0o777), target)
    }

    fn root(&self, kernel: &Arc<Kernel>) -> Arc<dyn Inode> {
        // The root has the first number.
        let head = Head::new(&self.sb, 0o755);
        let fs = StaticDir::new().with("cgroup", self.empty());
        let bus = StaticDir::new().with("cpu", self.empty());
        let class = ["block", "mem", "misc", "tty"]
            .into_iter()
            .fold(StaticDir::new(), |dir, name| dir.with(name, self.empty()))
            .with("net", net::class(kernel, &self.sb));
        let dev = StaticDir::new()
            .with("block", self.empty())
            .with("char", self.empty());
        StaticDir::new()
            .with("block", self.empty())
            .with("bus", self.dir(bus))
            .with("class", self.dir(class))
            .with("dev", self.dir(dev))
            .with("devices", self.devices(kernel))
            .with("firmware", self.empty())
            .with("fs", self.dir(fs))
            .with("kernel", self.kernel())
            .with("module", self.empty())
            .with("power", self.empty())
            .build_with(head)
    }

    fn devices(&self, kernel: &Arc<Kernel>) -> Arc<dyn Inode> {
        let node = StaticDir::new()
            .with("has_cpu", self.file("0"))
            .with("has_memory", self.file("0"))
            .with("has_normal_memory", self.file("0"))
            .with("node0", self.node(kernel))
            .with("online", self.file("0"))
            .with("possible", self.file("0"));
        let system = StaticDir::new()
            .with("cpu", self.cpus(kernel))
            .with("node", self.dir(node));
        let virtual_ = StaticDir::new().with("net", net::devices(kernel, &self.sb));
        let dir = StaticDir::new()
            .with("system", self.dir(system))
            .with("virtual", self.dir(virtual_));
        self.dir(dir)
    }

    fn all(&self) -> u64 {
        u64::MAX >> (64 - self.cpus.min(64))
    }

    fn node(&self, kernel: &Arc<Kernel>) -> Arc<dyn Inode> {
        let shared = kernel.clone();
        let meminfo = Text::made(Head::new(&self.sb, 0o444).sized(4096), move || {
            let total = shared.memory_total();
            let used = shared.memory.used().min(total);
            let rows = [
                ("MemTotal", total),
                ("MemFree", shared.memory_free()),
                ("MemUsed", used),
            ];
            let line = |(name, bytes): (&str, u64)| {
                let label = format!("{name}:");
                format!("Node 0 {label:<15} {:>8} kB\n", bytes / 1024)
            };
            Ok(rows.map(line).concat().into_bytes())
        });
        let dir = StaticDir::new()
            .with("cpulist", self.file(ranges(0..self.cpus)))
            .with("cpumap", self.file(mask(self.all(), self.cpus)))
            .with("distance", self.file("10"))
            .with("meminfo", meminfo);
        let dir = (0..self.cpus).fold(dir, |dir, cpu| {
            let target = format!("../../cpu/cpu{cpu}");
            let link = Link::made(Head::new(&self.sb, 0o777), move || {
                Ok(target.clone().into_bytes())
            });
            dir.with(&format!("cpu{cpu}"), link)
        });
        self.dir(dir)
    }

    /// How many there are may change; the directories stay.
    fn online(&self, kernel: &Arc<Kernel>) -> Arc<dyn Inode> {
        let kernel = kernel.clone();
        Text::made(Head::new(&self.sb, 0o444).sized(4096), move || {
            Ok(format!("{}\n", ranges(0..kernel.cpus())).into_bytes())
        })
    }

    fn cpus(&self, kernel: &Arc<Kernel>) -> Arc<dyn Inode> {
        let dir = (0..self.cpus).fold(StaticDir::new(), |dir, cpu| {
            dir.with(&format!("cpu{cpu}"), self.cpu(cpu))
        });
        let dir = dir
            .with("isolated", self.file(""))
            .with(
                "kernel_max",
                self.file(self.possible.saturating_sub(1).to_string()),
            )
            .with("offline", self.file(""))
            .with("online", self.online(kernel))
            .with("possible", self.file(ranges(0..self.possible)))
            .with("present", self.online(kernel));
        self.dir(dir)
    }

    /// Cores of one socket without siblings.
    fn cpu(&self, cpu: usize) -> Arc<dyn Inode> {
        let own = (mask(1 << cpu.min(63), self.cpus), cpu.to_string());
        let all = (mask(self.all(), self.cpus), ranges(0..self.cpus));
        let mut topology = StaticDir::new()
            .with("core_id", self.file(cpu.to_string()))
            .with("die_id", self.file("0"))
            .with("physical_package_id", self.file("0"));
        let sets = [
            ("core_cpus", &own),
            ("core_siblings", &all),
            ("die_cpus", &all),
            ("package_cpus", &all),
            ("thread_siblings", &own),
        ];
        for (name, (bits, list)) in sets {
            topology.add(name, self.file(bits.clone()));
            topology.add(&format!("{name}_list"), self.file(list.clone()));
        }
        let dir = StaticDir::new()
            .with("node0", self.link("../../node/node0"))
            .with("online", self.file("1"))
            .with("topology", self.dir(topology));
        self.dir(dir)
    }

    fn kernel(&self) -> Arc<dyn Inode> {
        let huge = StaticDir::new()
            .with(
                "defrag",
                self.file("always defer defer+madvise [madvise] never"),
            )
            .with("enabled", self.file("always [madvise] never"))
            .with("hpage_pmd_size", self.file("2097152"))
            .with(
                "shmem_enabled",
                self.file("always within_size advise [never] deny force"),
            )
            .with("use_zero_page", self.file("1"));
        let mm = StaticDir::new()
            .with("hugepages", self.empty())
            .with("transparent_hugepage", self.dir(huge));
        let dir = StaticDir::new()
            .with("address_bits", self.file("64"))
            .with("cpu_byteorder", self.file("little"))
            .with("debug", self.empty())
            .with("mm", self.dir(mm))
            .with("security", self.empty())
            .with("tracing", self.empty())
            .with("uevent_seqnum", self.file("0"));
        self.dir(dir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::anon::internal_file;
    use crate::fs::inode::OpenFlags;
    use crate::fs::mount::FileSystem;
    use crate::mm::io::Sink;

    fn walk(fs: &FileSystem, path: &str) -> Arc<dyn Inode> {
        let root = fs.root.inode().clone();
        path.split('/')
            .fold(root, |dir, name| dir.lookup(name.as_bytes()).unwrap())
    }

    fn read(fs: &FileSystem, path: &str) -> String {
        let file = internal_file(walk(fs, path), OpenFlags::empty()).unwrap();
        let mut buf = vec![0; 4096];
        let n = file.read(&mut Sink::kernel(&mut buf)).unwrap();
        String::from_utf8(buf[..n].to_vec()).unwrap()
    }

    #[test]
    fn processors_and_memory() {
        let kernel = crate::fs::proc::test_kernel();
        let fs = mount(&kernel).unwrap();
        assert_eq!(read(&fs, "devices/system/cpu/online"), "0-2\n");
        let topology = "devices/system/cpu/cpu1/topology";
        assert_eq!(read(&fs, &format!("{topology}/thread_siblings")), "2\n");
        assert_eq!(
            read(&fs, &format!("{topology}/core_siblings_list")),
            "0-2\n"
        );
        assert_eq!(read(&fs, "devices/system/node/node0/cpumap"), "7\n");
        assert_eq!(walk(&fs, "fs/cgroup").attr().unwrap().nlink, 2);
        let host = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/defrag");
        if let Ok(host) = host {
            let words = |text: &str| text.replace(['[', ']'], "");
            assert_eq!(
                words(&read(&fs, "kernel/mm/transparent_hugepage/defrag")),
                words(&host)
            );
        }
    }
}
