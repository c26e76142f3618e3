//! Error queues (ip(7), IP_RECVERR): what became of packets that were sent, told to who asks with
//! MSG_ERRQUEUE.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::address;
use crate::errno::Errno;
use crate::kernel::time::clock_ns;
use crate::net::buffer::{Charge, Pool};
use crate::net::outside::Domain;
use crate::net::socket::Extra;

/// SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6.
const ORIGIN_ICMP: u8 = 2;
const ORIGIN_ICMP6: u8 = 3;
/// As much of a packet as a message of ICMP quotes, less the packet's own headers.
const QUOTED_V4: usize = 576 - 20 - 8 - 20 - 8;
const QUOTED_V6: usize = 1280 - 40 - 8 - 40 - 8;
/// What a report takes up besides its bytes.
const OVERHEAD: usize = 256;

/// A packet that did not arrive.
#[derive(Clone, Debug)]
pub struct Report {
    pub errno: Errno,
    /// Type and code of the message of ICMP.
    pub kind: u8,
    pub code: u8,
    /// Where the packet went, and who complained.
    pub to: SocketAddr,
    pub offender: IpAddr,
    /// Since the epoch, ns.
    pub time_ns: u64,
    /// The packet's first bytes.
    pub quoted: Vec<u8>,
}

impl Report {
    /// Nobody has the port of the sandbox's own address that a datagram went to.
    pub fn port_unreachable(to: SocketAddr, data: &[u8]) -> Report {
        let (kind, code, room) = match to.ip() {
            IpAddr::V4(_) => (3, 3, QUOTED_V4),
            IpAddr::V6(_) => (1, 4, QUOTED_V6),
        };
        Report {
            errno: Errno::ECONNREFUSED,
            kind,
            code,
            to,
            offender: to.ip(),
            time_ns: clock_ns(nix::time::ClockId::CLOCK_REALTIME),
            quoted: data[..data.len().min(room)].to_vec(),
        }
    }

    fn cost(&self) -> usize {
        self.quoted.len() + OVERHEAD
    }

    /// The control message: struct sock_extended_err and the offender's address.
    pub fn extra(&self, domain: Domain) -> Extra {
        let mut data = self.errno.raw().to_ne_bytes().to_vec();
        let origin = match self.offender {
            IpAddr::V4(_) => ORIGIN_ICMP,
            IpAddr::V6(_) => ORIGIN_ICMP6,
        };
        data.extend([origin, self.kind, self.code, 0]);
        data.extend([0; 8]);
        data.extend(address::encode(domain, SocketAddr::new(self.offender, 0)).bytes());
        let (level, kind) = match domain {
            Domain::V4 => (libc::IPPROTO_IP, libc::IP_RECVERR),
            Domain::V6 => (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
        };
        Extra { level, kind, data }
    }
}

/// See the module documentation.
#[derive(Default)]
pub struct Errors {
    reports: VecDeque<(Report, Charge)>,
    cost: usize,
}

impl Errors {
    /// Takes note, within `limit` bytes and what the pool has; what goes beyond is lost.
    pub fn push(&mut self, report: Report, limit: usize, pool: &Arc<Pool>) {
        let cost = report.cost();
        if self.cost + cost < limit
            && let Some(charge) = pool.charged(cost)
        {
            self.cost += cost;
            self.reports.push_back((report, charge));
        }
    }

    /// The first one, and the error that the socket has from then on: that of the next.
    pub fn pop(&mut self) -> Option<(Report, Option<Errno>)> {
        let (report, _charge) = self.reports.pop_front()?;
        self.cost -= report.cost();
        Some((report, self.reports.front().map(|next| next.0.errno)))
    }

    pub fn is_empty(&self) -> bool {
        self.reports.is_empty()
    }

    pub fn clear(&mut self) {
        *self = Errors::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_bounded_and_told_in_order() {
        let mut errors = Errors::default();
        let pool = Arc::new(Pool::default());
        let to = |port| SocketAddr::new([127, 0, 0, 1].into(), port);
        for port in 1..=100 {
            errors.push(Report::port_unreachable(to(port), &[7; 2000]), 4096, &pool);
        }
        assert_eq!(pool.held(), errors.cost);
        let mut ports = Vec::new();
        while let Some((report, next)) = errors.pop() {
            assert_eq!(report.quoted.len(), 520);
            assert_eq!(next.is_none(), errors.is_empty());
            ports.push(report.to.port());
        }
        assert_eq!(ports, [1, 2, 3, 4, 5]);
        assert_eq!((errors.cost, pool.held()), (0, 0));
    }
}
