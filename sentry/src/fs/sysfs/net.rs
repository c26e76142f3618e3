//! /sys/class/net: links to /sys/devices/virtual/net, where each interface has a directory. Both are
//! looked up anew each time, for interfaces come and go with the container's network.

use std::sync::Arc;

use crate::errno::{Errno, Result};
use crate::fs::inode::{DirEntry, FileType, Inode};
use crate::fs::kernfs::{Dir, Entries, Head, Link, StaticDir, Super, Text, list_table};
use crate::kernel::Kernel;
use crate::net::Stack;
use crate::net::interfaces;
use crate::net::traffic::Counters;

/// Numbers of the inodes of interfaces, by index, stand behind all lasting ones.
const FIRST: u64 = 1 << 32;
const EACH: u64 = 256;

/// The text of an attribute. None: the file is there and cannot be read (EINVAL).
type Read = fn(&interfaces::Link) -> Option<String>;

/// A counter's number.
type Count = fn(Counters) -> u64;

fn hex(bytes: &[u8]) -> String {
    let bytes: Vec<String> = bytes.iter().map(|b| format!("{b:02x}")).collect();
    bytes.join(":")
}

/// Flags that sysfs shows: those that are set, not those that tell a state.
fn set_flags(link: &interfaces::Link) -> u32 {
    link.flags & !(libc::IFF_RUNNING as u32) & 0xffff
}

const FILES: [(&str, Read); 27] = [
    ("addr_assign_type", |_| Some("0".to_owned())),
    ("addr_len", |l| Some(l.hardware.len().to_string())),
    ("address", |l| Some(hex(&l.hardware))),
    ("broadcast", |l| Some(hex(&l.hardware_broadcast))),
    ("carrier", |l| Some(u8::from(l.has_carrier()).to_string())),
    ("carrier_changes", |_| Some("0".to_owned())),
    ("dev_id", |_| Some("0x0".to_owned())),
    ("dev_port", |_| Some("0".to_owned())),
    ("dormant", |_| Some("0".to_owned())),
    ("duplex", |_| None),
    ("flags", |l| Some(format!("{:#x}", set_flags(l)))),
    ("gro_flush_timeout", |_| Some("0".to_owned())),
    ("ifalias", |_| Some(String::new())),
    ("ifindex", |l| Some(l.index.to_string())),
    ("iflink", |l| Some(l.lower.unwrap_or(l.index).to_string())),
    ("link_mode", |_| Some("0".to_owned())),
    ("mtu", |l| Some(l.mtu.to_string())),
    ("napi_defer_hard_irqs", |_| Some("0".to_owned())),
    ("netdev_group", |_| Some("0".to_owned())),
    ("operstate", |l| Some(state(l).to_owned())),
    ("proto_down", |_| Some("0".to_owned())),
    ("speed", |_| None),
    ("testing", |_| Some("0".to_owned())),
    ("threaded", |_| Some("0".to_owned())),
    ("tx_queue_len", |l| Some(l.tx_queue_len.to_string())),
    ("type", |l| Some(l.kind.to_string())),
    ("uevent", |l| {
        Some(format!("INTERFACE={}\nIFINDEX={}", l.name, l.index))
    }),
];

const STATISTICS: [(&str, Count); 24] = [
    ("collisions", |_| 0),
    ("multicast", |_| 0),
    ("rx_bytes", |n| n.rx_bytes),
    ("rx_compressed", |_| 0),
    ("rx_crc_errors", |_| 0),
    ("rx_dropped", |n| n.rx_dropped),
    ("rx_errors", |n| n.rx_errors),
    ("rx_fifo_errors", |_| 0),
    ("rx_frame_errors", |_| 0),
    ("rx_length_errors", |_| 0),
    ("rx_missed_errors", |_| 0),
    ("rx_nohandler", |_| 0),
    ("rx_over_errors", |_| 0),
    ("rx_packets", |n| n.rx_packets),
    ("tx_aborted_errors", |_| 0),
    ("tx_bytes", |n| n.tx_bytes),
    ("tx_carrier_errors", |_| 0),
    ("tx_compressed", |_| 0),
    ("tx_dropped", |n| n.tx_dropped),
    ("tx_errors", |n| n.tx_errors),
    ("tx_fifo_errors", |_| 0),
    ("tx_heartbeat_errors", |_| 0),
    ("tx_packets", |n| n.tx_packets),
    ("tx_window_errors", |_| 0),
];

fn state(link: &interfaces::Link) -> &'static str {
    match link.oper_state() {
        2 => "down",
        6 => "up",
        _ => "unknown",
    }
}

/// What the directories of interfaces hold for each.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Directory,
    Link,
}

struct Links {
    sb: Arc<Super>,
    stack: Arc<Stack>,
    what: What,
}

/// /sys/class/net.
pub fn class(kernel: &Arc<Kernel>, sb: &Arc<Super>) -> Arc<dyn Inode> {
    make(kernel, sb, What::Link)
}

/// /sys/devices/virtual/net.
pub fn devices(kernel: &Arc<Kernel>, sb: &Arc<Super>) -> Arc<dyn Inode> {
    make(kernel, sb, What::Directory)
}

fn make(kernel: &Arc<Kernel>, sb: &Arc<Super>, what: What) -> Arc<dyn Inode> {
    let links = Links {
        sb: sb.clone(),
        stack: kernel.net.clone(),
        what,
    };
    Dir::new(Head::new(sb, 0o755), links)
}

fn ino(link: u32, entry: u64) -> u64 {
    FIRST + u64::from(link) * EACH + entry
}

impl Links {
    fn number(&self, link: u32) -> u64 {
        ino(link, u64::from(self.what == What::Link))
    }

    /// The directory of one interface.
    fn directory(&self, link: &interfaces::Link) -> Arc<dyn Inode> {
        let index = link.index;
        let head = |entry: usize, perm| {
            Head::numbered(&self.sb, ino(index, 2 + entry as u64), perm).sized(4096)
        };
        let mut dir = StaticDir::new();
        for (i, (name, read)) in FILES.into_iter().enumerate() {
            let stack = self.stack.clone();
            let file = Text::made(head(i, 0o444), move || {
                let interfaces = stack.interfaces.read();
                let link = interfaces.link(index).ok_or(Errno::ENODEV)?;
                let mut text = read(link).ok_or(Errno::EINVAL)?;
                if !text.is_empty() {
                    text.push('\n');
                }
                Ok(text.into_bytes())
            });
            dir.add(name, file);
        }
        let mut statistics = StaticDir::new();
        for (i, (name, count)) in STATISTICS.into_iter().enumerate() {
            let stack = self.stack.clone();
            let file = Text::made(head(FILES.len() + i, 0o444), move || {
                stack.refresh();
                Ok(format!("{}\n", count(stack.counters(index))).into_bytes())
            });
            statistics.add(name, file);
        }
        let last = FILES.len() + STATISTICS.len();
        let subsystem = Link::fixed(head(last, 0o777), "../../../../class/net");
        dir.with("statistics", statistics.build_with(head(last + 1, 0o755)))
            .with("subsystem", subsystem)
            .build_with(Head::numbered(&self.sb, self.number(index), 0o755))
    }
}

impl Entries for Links {
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        let name = std::str::from_utf8(name).map_err(|_| Errno::ENOENT)?;
        let link = self.stack.interfaces.read().link_named(name).cloned();
        let link = link.ok_or(Errno::ENOENT)?;
        if self.what == What::Directory {
            return Ok(self.directory(&link));
        }
        let target = format!("../../devices/virtual/net/{}", link.name);
        let head = Head::numbered(&self.sb, self.number(link.index), 0o777);
        Ok(Link::made(head, move || Ok(target.clone().into_bytes())))
    }

    fn list(&self, pos: u64, emit: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<()> {
        let links = self.stack.interfaces.read().links.clone();
        let kind = match self.what {
            What::Directory => FileType::Dir,
            What::Link => FileType::Symlink,
        };
        let rows = links
            .iter()
            .map(|l| (l.name.as_bytes(), self.number(l.index), kind));
        list_table(0, rows, pos, emit);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_linuxs() {
        let host = std::path::Path::new("/sys/class/net/lo");
        if !host.exists() {
            return;
        }
        let read = |name: &str| std::fs::read_to_string(host.join(name)).ok();
        let lo = interfaces::Interfaces::default().links.remove(0);
        for (name, text) in FILES {
            let line = |t: String| if t.is_empty() { t } else { t + "\n" };
            assert_eq!(text(&lo).map(line), read(name), "{name}");
        }
        for (name, count) in STATISTICS {
            assert!(read(&format!("statistics/{name}")).is_some(), "{name}");
            assert_eq!(count(Counters::default()), 0);
        }
    }

    #[test]
    fn interfaces_come_and_go() {
        let kernel = crate::fs::proc::test_kernel();
        let sb = Super::new(1, Errno::EPERM);
        let links = Links {
            sb,
            stack: kernel.net.clone(),
            what: What::Directory,
        };
        let found = |name: &[u8]| links.lookup(name).map(drop);
        assert_eq!(found(b"lo"), Ok(()));
        assert_eq!(found(b"eth0"), Err(Errno::ENOENT));
        let mut eth = interfaces::Interfaces::default().links.remove(0);
        eth.name = "eth0".to_owned();
        eth.index = 7;
        kernel.net.interfaces.write().links.push(eth);
        assert_eq!(found(b"eth0"), Ok(()));
        let mut names = Vec::new();
        links
            .list(0, &mut |e| {
                names.push((e.name.to_vec(), e.ino));
                true
            })
            .unwrap();
        assert_eq!(
            names,
            [(b"lo".to_vec(), ino(1, 0)), (b"eth0".to_vec(), ino(7, 0))]
        );
    }
}
