//! RTM_GETMULTICAST: the groups that each link is in; RTM_GETNSID: no other namespace has a number.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Answer, Asker, head, octets};
use crate::errno::Errno;
use crate::net::interfaces::{Interfaces, Link};
use crate::net::netlink::message::Request;
use crate::net::netlink::reply::Batch;

const RTM_GETMULTICAST: u16 = libc::RTM_GETMULTICAST;
const IFA_F_PERMANENT: u8 = libc::IFA_F_PERMANENT as u8;
const RTM_NEWNSID: u16 = libc::RTM_NEWNSID;
const NETNSA_NSID: u16 = 1;
const NETNSA_PID: u16 = 2;

impl Interfaces {
    /// The groups that a link is in whatever programs ask for: that of all hosts, and those of
    /// neighbours that look for one of its addresses.
    pub fn groups(&self, link: &Link) -> Vec<IpAddr> {
        let mut groups: Vec<IpAddr> = vec![Ipv4Addr::new(224, 0, 0, 1).into()];
        let no_neighbours = (libc::IFF_LOOPBACK | libc::IFF_NOARP) as u32;
        if link.flags & no_neighbours == 0 {
            let own = self.addresses.iter().filter(|a| a.link == link.index);
            for address in own {
                let IpAddr::V6(ip) = address.ip else { continue };
                let [.., a, b] = ip.segments();
                let a = 0xff00 | a & 0xff;
                let solicited = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, a, b);
                if !groups.contains(&solicited.into()) {
                    groups.push(solicited.into());
                }
            }
        }
        for scope in [0xff02, 0xff01] {
            groups.push(Ipv6Addr::new(scope, 0, 0, 0, 0, 0, 0, 1).into());
        }
        groups
    }
}

pub fn dump_multicast(asker: &Asker<'_>, request: &Request<'_>, batch: &mut Batch) -> Answer {
    let [family, ..] = head::<8>(asker, request, "Invalid header for address dump request")?;
    let interfaces = asker.stack.interfaces.read();
    for link in &interfaces.links {
        for group in interfaces.groups(link) {
            if !super::wants(family, group) {
                continue;
            }
            let bits = if group.is_ipv4() { 32 } else { 128 };
            batch.put(RTM_GETMULTICAST, |w| {
                w.bytes(&[family, bits, IFA_F_PERMANENT, libc::RT_SCOPE_UNIVERSE]);
                w.bytes(&link.index.to_ne_bytes());
                w.attr(libc::IFA_MULTICAST, &octets(group));
                // Valid for ever.
                w.nest(libc::IFA_CACHEINFO, |w| {
                    w.bytes(&[0xff; 8]);
                    w.bytes(&[0; 8]);
                });
            });
        }
    }
    Ok(())
}

/// The number of a process's namespace, which is the asker's own and so has none.
pub fn get_namespace(asker: &Asker<'_>, request: &Request<'_>, batch: &mut Batch) -> Answer {
    head::<4>(asker, request, "Invalid header")?;
    let pid = request.attrs(4).u32(NETNSA_PID).ok_or(Errno::EINVAL)?;
    let known = asker
        .task
        .kernel()
        .tree
        .lock()
        .node(pid.cast_signed())
        .is_some();
    if !known {
        return Err(Errno::ESRCH.into());
    }
    batch.put(RTM_NEWNSID, |w| {
        w.bytes(&[0; 4]);
        w.attr_u32(NETNSA_NSID, u32::MAX);
    });
    Ok(())
}
