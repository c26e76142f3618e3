//! /proc/PID/net: tables of a network without sockets of its own; headings as Linux prints them.

use std::sync::Arc;

use super::subject::{OwnerBits, ProcessOwner, Subject};
use crate::errno::{Errno, Result};
use crate::fs::inode::{DirEntry, FileType, Inode};
use crate::fs::kernfs::{Dir, Entries, Head, Super, Text, list_table};

const CLASS: u64 = 4;

const FILES: [(&str, &str); 15] = [
    (
        "arp",
        "IP address       HW type     Flags       HW address            Mask     Device\n",
    ),
    (
        "dev",
        "Inter-|   Receive                                                |  Transmit\n \
         face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs \
         drop fifo colls carrier compressed\n",
    ),
    ("if_inet6", ""),
    (
        "netlink",
        "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n",
    ),
    (
        "packet",
        "sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n",
    ),
    ("ptype", "Type Device      Function\n"),
    (
        "raw",
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout \
         inode ref pointer drops\n",
    ),
    (
        "route",
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\
         \u{20}                                                      \n",
    ),
    (
        "sockstat",
        "sockets: used 0\nTCP: inuse 0 orphan 0 tw 0 alloc 0 mem 0\nUDP: inuse 0 mem 0\n",
    ),
    (
        "tcp",
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout \
         inode                                                     \n",
    ),
    (
        "tcp6",
        "  sl  local_address                         remote_address                        st \
         tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n",
    ),
    (
        "udp",
        "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout \
         inode ref pointer drops            \n",
    ),
    (
        "udp6",
        "  sl  local_address                         remote_address                        st \
         tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n",
    ),
    (
        "unix",
        "Num       RefCount Protocol Flags    Type St Inode Path\n",
    ),
    (
        "protocols",
        "protocol  size sockets  memory press maxhdr  slab module     cl co di ac io in de sh ss gs se re bi br ha uh gp em\n",
    ),
];

/// The directory with number `ino`.
pub fn dir(sb: &Arc<Super>, subject: &Subject, ino: u64) -> Arc<dyn Inode> {
    let owner = Arc::new(ProcessOwner {
        subject: subject.clone(),
        bits: OwnerBits::Always,
    });
    let head = Head::numbered(sb, ino, 0o555).owned(owner);
    Dir::new(
        head,
        Net {
            sb: sb.clone(),
            subject: subject.clone(),
        },
    )
}

struct Net {
    sb: Arc<Super>,
    subject: Subject,
}

impl Entries for Net {
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        let (index, (_, text)) = FILES
            .iter()
            .enumerate()
            .find(|(_, (entry, _))| entry.as_bytes() == name)
            .ok_or(Errno::ENOENT)?;
        let ino = self.subject.ino(CLASS, index as u64);
        Ok(Text::fixed(Head::numbered(&self.sb, ino, 0o444), *text))
    }

    fn list(&self, pos: u64, emit: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<()> {
        let rows = FILES.iter().enumerate().map(|(index, (name, _))| {
            let ino = self.subject.ino(CLASS, index as u64);
            (name.as_bytes(), ino, FileType::Regular)
        });
        list_table(0, rows, pos, emit);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headings_are_the_hosts() {
        for (name, text) in FILES {
            let Ok(host) = std::fs::read_to_string(format!("/proc/self/net/{name}")) else {
                continue;
            };
            let host: Vec<&str> = host.lines().collect();
            // Not tables with a heading.
            if matches!(name, "if_inet6" | "sockstat") {
                continue;
            }
            for (ours, theirs) in text.lines().zip(host) {
                assert_eq!(ours, theirs, "{name}");
            }
        }
    }
}
