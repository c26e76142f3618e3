//! What went over an interface, and what happened to it: the counters that /proc/net shows.
//!
//! Inside the sandbox data moves through queues. What counts packets counts what packets there would
//! have been: a datagram is one, and so is a piece of a stream.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use super::outside::Domain;

/// Declares the events and the names that they have in /proc/net: the row and the column, or the row
/// alone in snmp6.
macro_rules! counts {
    ($($event:ident $row:literal $column:literal,)*) => {
        /// Something that happens and is counted, by its name in /proc/net.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Count {
            $($event,)*
        }

        impl Count {
            /// All of them with row and column.
            pub const ALL: &[(Count, &str, &str)] = &[$((Count::$event, $row, $column),)*];
        }
    };
}

counts! {
    TcpActiveOpens "Tcp" "ActiveOpens",
    TcpPassiveOpens "Tcp" "PassiveOpens",
    TcpAttemptFails "Tcp" "AttemptFails",
    TcpEstabResets "Tcp" "EstabResets",
    TcpOutRsts "Tcp" "OutRsts",
    TcpListenOverflows "TcpExt" "ListenOverflows",
    TcpListenDrops "TcpExt" "ListenDrops",
    TcpAbortOnClose "TcpExt" "TCPAbortOnClose",
    TcpAbortOnData "TcpExt" "TCPAbortOnData",
    UdpInDatagrams "Udp" "InDatagrams",
    UdpNoPorts "Udp" "NoPorts",
    UdpInErrors "Udp" "InErrors",
    UdpOutDatagrams "Udp" "OutDatagrams",
    UdpRcvbufErrors "Udp" "RcvbufErrors",
    Udp6InDatagrams "Udp6" "InDatagrams",
    Udp6NoPorts "Udp6" "NoPorts",
    Udp6InErrors "Udp6" "InErrors",
    Udp6OutDatagrams "Udp6" "OutDatagrams",
    Udp6RcvbufErrors "Udp6" "RcvbufErrors",
    IcmpInMsgs "Icmp" "InMsgs",
    IcmpInDestUnreachs "Icmp" "InDestUnreachs",
    IcmpInEchos "Icmp" "InEchos",
    IcmpInEchoReps "Icmp" "InEchoReps",
    IcmpOutMsgs "Icmp" "OutMsgs",
    IcmpOutDestUnreachs "Icmp" "OutDestUnreachs",
    IcmpOutEchos "Icmp" "OutEchos",
    IcmpOutEchoReps "Icmp" "OutEchoReps",
    Icmp6InMsgs "Icmp6" "InMsgs",
    Icmp6InDestUnreachs "Icmp6" "InDestUnreachs",
    Icmp6InEchos "Icmp6" "InEchos",
    Icmp6InEchoReplies "Icmp6" "InEchoReplies",
    Icmp6OutMsgs "Icmp6" "OutMsgs",
    Icmp6OutDestUnreachs "Icmp6" "OutDestUnreachs",
    Icmp6OutEchos "Icmp6" "OutEchos",
    Icmp6OutEchoReplies "Icmp6" "OutEchoReplies",
}

/// What is counted of UDP, for both families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Udp {
    Sent,
    Received,
    NoPort,
    /// The receiver had no room.
    Dropped,
}

/// Packets of one protocol of one family and their bytes, headers included.
#[derive(Default)]
struct Packets {
    number: AtomicU64,
    bytes: AtomicU64,
}

impl Packets {
    fn add(&self, number: u64, bytes: u64) {
        self.number.fetch_add(number, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn get(&self) -> (u64, u64) {
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        (get(&self.number), get(&self.bytes))
    }
}

/// Counts what goes over loopback (what is sent is received), and what happens to sockets.
pub struct Traffic {
    /// IPv4 and IPv6.
    segments: [Packets; 2],
    datagrams: [Packets; 2],
    counts: [AtomicU64; Count::ALL.len()],
}

impl Default for Traffic {
    fn default() -> Self {
        Traffic {
            segments: Default::default(),
            datagrams: Default::default(),
            counts: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

/// Totals since the start, in the words of ip-link(8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub rx_packets: u64,
    pub tx_packets: u64,
    pub rx_bytes: u64,
    pub tx_bytes: u64,
    pub rx_errors: u64,
    pub tx_errors: u64,
    pub rx_dropped: u64,
    pub tx_dropped: u64,
}

impl std::ops::Add for Counters {
    type Output = Counters;

    fn add(self, other: Counters) -> Counters {
        Counters {
            rx_packets: self.rx_packets.wrapping_add(other.rx_packets),
            tx_packets: self.tx_packets.wrapping_add(other.tx_packets),
            rx_bytes: self.rx_bytes.wrapping_add(other.rx_bytes),
            tx_bytes: self.tx_bytes.wrapping_add(other.tx_bytes),
            rx_errors: self.rx_errors.wrapping_add(other.rx_errors),
            tx_errors: self.tx_errors.wrapping_add(other.tx_errors),
            rx_dropped: self.rx_dropped.wrapping_add(other.rx_dropped),
            tx_dropped: self.tx_dropped.wrapping_add(other.tx_dropped),
        }
    }
}

/// Bytes of the headers that a packet of UDP or ICMP would have, by family.
const DATAGRAM: [u64; 2] = [28, 48];
/// The same for a segment with timestamps.
const SEGMENT: [u64; 2] = [52, 72];

fn family(ip: IpAddr) -> Domain {
    if ip.is_ipv4() { Domain::V4 } else { Domain::V6 }
}

impl Traffic {
    /// A datagram to an address.
    pub fn datagram(&self, to: IpAddr, len: usize) {
        let of = family(to) as usize;
        self.datagrams[of].add(1, DATAGRAM[of] + len as u64);
    }

    /// A piece of a stream.
    pub fn segment(&self, of: Domain, len: usize) {
        self.segments(of, 1, len);
    }

    /// Segments that carry `len` bytes together.
    pub fn segments(&self, of: Domain, number: u64, len: usize) {
        let bytes = number * SEGMENT[of as usize] + len as u64;
        self.segments[of as usize].add(number, bytes);
    }

    pub fn count(&self, event: Count) {
        self.counts[event as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Something happened to a datagram from or to an address.
    pub fn udp(&self, ip: IpAddr, event: Udp) {
        use Count::*;
        let [sent, received, no_port, dropped, error] = match family(ip) {
            Domain::V4 => [
                UdpOutDatagrams,
                UdpInDatagrams,
                UdpNoPorts,
                UdpRcvbufErrors,
                UdpInErrors,
            ],
            Domain::V6 => [
                Udp6OutDatagrams,
                Udp6InDatagrams,
                Udp6NoPorts,
                Udp6RcvbufErrors,
                Udp6InErrors,
            ],
        };
        match event {
            Udp::Sent => self.count(sent),
            Udp::Received => self.count(received),
            Udp::NoPort => self.count(no_port),
            Udp::Dropped => {
                self.count(dropped);
                self.count(error);
            }
        }
    }

    /// A datagram of `len` bytes found nobody, and its sender was told.
    pub fn unreachable(&self, to: IpAddr, len: usize) {
        use Count::*;
        self.datagram(to, len);
        self.udp(to, Udp::NoPort);
        let of = family(to) as usize;
        // What the message repeats is cut to fit.
        let repeated = (DATAGRAM[of] + len as u64).min([548, 1232][of]);
        self.datagram(to, repeated as usize);
        let events = match family(to) {
            Domain::V4 => [
                IcmpOutMsgs,
                IcmpOutDestUnreachs,
                IcmpInMsgs,
                IcmpInDestUnreachs,
            ],
            Domain::V6 => [
                Icmp6OutMsgs,
                Icmp6OutDestUnreachs,
                Icmp6InMsgs,
                Icmp6InDestUnreachs,
            ],
        };
        events.into_iter().for_each(|event| self.count(event));
    }

    /// An echo request of `len` bytes was answered.
    pub fn echo(&self, to: IpAddr, len: usize) {
        use Count::*;
        // Their header is part of what programs give.
        let data = len.saturating_sub(8);
        self.datagram(to, data);
        self.datagram(to, data);
        let (messages, events) = match family(to) {
            Domain::V4 => (
                [IcmpOutMsgs, IcmpInMsgs],
                [IcmpOutEchos, IcmpInEchos, IcmpOutEchoReps, IcmpInEchoReps],
            ),
            Domain::V6 => (
                [Icmp6OutMsgs, Icmp6InMsgs],
                [
                    Icmp6OutEchos,
                    Icmp6InEchos,
                    Icmp6OutEchoReplies,
                    Icmp6InEchoReplies,
                ],
            ),
        };
        let twice = messages.into_iter().chain(messages);
        twice.chain(events).for_each(|event| self.count(event));
    }

    /// How often something happened.
    pub fn happened(&self, event: Count) -> u64 {
        self.counts[event as usize].load(Ordering::Relaxed)
    }

    /// Segments of both families.
    pub fn all_segments(&self) -> u64 {
        self.segments.iter().map(|p| p.get().0).sum()
    }

    /// Packets of a family and their bytes.
    pub fn of_family(&self, of: Domain) -> (u64, u64) {
        let (segments, datagrams) = (&self.segments[of as usize], &self.datagrams[of as usize]);
        let (a, b) = (segments.get(), datagrams.get());
        (a.0 + b.0, a.1 + b.1)
    }

    pub fn counters(&self) -> Counters {
        let (a, b) = (self.of_family(Domain::V4), self.of_family(Domain::V6));
        let (packets, bytes) = (a.0 + b.0, a.1 + b.1);
        Counters {
            rx_packets: packets,
            tx_packets: packets,
            rx_bytes: bytes,
            tx_bytes: bytes,
            ..Counters::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_told_apart() {
        let traffic = Traffic::default();
        let ip = |text: &str| text.parse().unwrap();
        traffic.unreachable(ip("127.0.0.1"), 10);
        traffic.udp(ip("::1"), Udp::Dropped);
        traffic.echo(ip("::1"), 64);
        traffic.segments(Domain::V4, 3, 0);
        let counted: Vec<_> = Count::ALL
            .iter()
            .filter(|(event, ..)| traffic.happened(*event) > 0)
            .map(|(event, ..)| (*event, traffic.happened(*event)))
            .collect();
        use Count::*;
        let expected = [
            (UdpNoPorts, 1),
            (Udp6InErrors, 1),
            (Udp6RcvbufErrors, 1),
            (IcmpInMsgs, 1),
            (IcmpInDestUnreachs, 1),
            (IcmpOutMsgs, 1),
            (IcmpOutDestUnreachs, 1),
            (Icmp6InMsgs, 2),
            (Icmp6InEchos, 1),
            (Icmp6InEchoReplies, 1),
            (Icmp6OutMsgs, 2),
            (Icmp6OutEchos, 1),
            (Icmp6OutEchoReplies, 1),
        ];
        assert_eq!(counted, expected);
        assert_eq!(traffic.of_family(Domain::V4), (5, 38 + 28 + 38 + 3 * 52));
        assert_eq!(traffic.of_family(Domain::V6), (2, 2 * (48 + 56)));
        assert_eq!(traffic.all_segments(), 3);
        assert_eq!(traffic.counters().rx_packets, 7);
    }
}
