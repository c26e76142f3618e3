//! /proc/PID/net: what there is in the network (proc_net(5)), in Linux's formats: tables of
//! [`sockets`] and of [`interfaces`], [`counters`].

mod counters;
mod fixed;
mod interfaces;
mod sockets;
mod trie;

use std::sync::Arc;

use super::subject::{OwnerBits, ProcessOwner, Subject};
use crate::errno::{Errno, Result};
use crate::fs::inode::{DirEntry, FileType, Inode};
use crate::fs::kernfs::{Dir, Entries, Head, Super, Text, list_table};
use crate::net::Stack;

const CLASS: u64 = 4;

/// The lines of a file behind its heading.
type Rows = fn(&Stack) -> String;

/// What there is none of.
fn nothing(_: &Stack) -> String {
    String::new()
}

/// Name, heading, and what makes the rest.
const FILES: &[(&str, &str, Rows)] = &[
    ("anycast6", "", nothing),
    (
        "arp",
        "IP address       HW type     Flags       HW address            Mask     Device\n",
        interfaces::arp,
    ),
    (
        "dev",
        "Inter-|   Receive                                                |  Transmit\n \
         face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs \
         drop fifo colls carrier compressed\n",
        interfaces::dev,
    ),
    ("dev_mcast", "", nothing),
    ("fib_trie", "", trie::fib_trie),
    ("fib_triestat", "", trie::fib_triestat),
    (
        "icmp",
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout \
         inode ref pointer drops             \n",
        sockets::icmp,
    ),
    (
        "icmp6",
        "  sl  local_address                         remote_address                        st \
         tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n",
        sockets::icmp6,
    ),
    ("if_inet6", "", interfaces::if_inet6),
    (
        "igmp",
        "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n",
        interfaces::igmp,
    ),
    ("igmp6", "", interfaces::igmp6),
    (
        "ip6_flowlabel",
        "Label S Owner  Users  Linger Expires  Dst                              Opt\n",
        nothing,
    ),
    ("ipv6_route", "", interfaces::ipv6_route),
    (
        "mcfilter",
        "Idx Device        MCA        SRC    INC    EXC\n",
        nothing,
    ),
    (
        "mcfilter6",
        "Idx Device                Multicast Address                   Source Address    INC    EXC\n",
        nothing,
    ),
    (
        "netlink",
        "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n",
        sockets::netlink,
    ),
    ("netstat", "", counters::netstat),
    (
        "packet",
        "sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n",
        nothing,
    ),
    (
        "protocols",
        "protocol  size sockets  memory press maxhdr  slab module     cl co di ac io in de sh ss gs se re bi br ha uh gp em\n",
        sockets::protocols,
    ),
    ("psched", "", fixed::psched),
    ("ptype", "Type Device      Function\n", fixed::ptype),
    (
        "raw",
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout \
         inode ref pointer drops\n",
        nothing,
    ),
    (
        "raw6",
        "  sl  local_address                         remote_address                        st \
         tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n",
        nothing,
    ),
    (
        "route",
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\
         \u{20}                                                      \n",
        interfaces::route,
    ),
    ("rt6_stats", "", interfaces::rt6_stats),
    (
        "rt_cache",
        "Iface\tDestination\tGateway \tFlags\t\tRefCnt\tUse\tMetric\tSource\t\tMTU\tWindow\tIRTT\tTOS\tHHRef\tHHUptod\tSpecDst                          \n",
        nothing,
    ),
    ("snmp", "", counters::snmp),
    ("snmp6", "", counters::snmp6),
    ("sockstat", "", counters::sockstat),
    ("sockstat6", "", counters::sockstat6),
    ("softnet_stat", "", fixed::softnet_stat),
    (
        "tcp",
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout \
         inode                                                     \n",
        sockets::tcp,
    ),
    (
        "tcp6",
        "  sl  local_address                         remote_address                        st \
         tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n",
        sockets::tcp6,
    ),
    (
        "udp",
        "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout \
         inode ref pointer drops            \n",
        sockets::udp,
    ),
    (
        "udp6",
        "  sl  local_address                         remote_address                        st \
         tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n",
        sockets::udp6,
    ),
    (
        "udplite",
        "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout \
         inode ref pointer drops            \n",
        nothing,
    ),
    (
        "udplite6",
        "  sl  local_address                         remote_address                        st \
         tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n",
        nothing,
    ),
    (
        "unix",
        "Num       RefCount Protocol Flags    Type St Inode Path\n",
        sockets::unix,
    ),
    ("xfrm_stat", "", fixed::xfrm_stat),
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
        let (index, (_, heading, rows)) = FILES
            .iter()
            .enumerate()
            .find(|(_, (entry, ..))| entry.as_bytes() == name)
            .ok_or(Errno::ENOENT)?;
        let ino = self.subject.ino(CLASS, index as u64);
        let stack = self.subject.kernel.net.clone();
        let head = Head::numbered(&self.sb, ino, 0o444);
        Ok(Text::made(head, move || {
            Ok(format!("{heading}{}", rows(&stack)).into_bytes())
        }))
    }

    fn list(&self, pos: u64, emit: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<()> {
        let rows = FILES.iter().enumerate().map(|(index, (name, ..))| {
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
        for (name, text, _) in FILES {
            let Ok(host) = std::fs::read_to_string(format!("/proc/self/net/{name}")) else {
                continue;
            };
            let host: Vec<&str> = host.lines().collect();
            for (ours, theirs) in text.lines().zip(host) {
                assert_eq!(ours, theirs, "{name}");
            }
        }
    }
}
