//! What went over an interface.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts what goes over loopback: what is sent is received.
#[derive(Default)]
pub struct Traffic {
    packets: AtomicU64,
    bytes: AtomicU64,
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

/// Bytes of the headers that a packet would have: those of IPv4 and IPv6 with UDP or ICMP.
const HEADERS_V4: u64 = 28;
const HEADERS_V6: u64 = 48;

impl Traffic {
    /// A datagram to an address.
    pub fn datagram(&self, to: std::net::IpAddr, len: usize) {
        let headers = if to.is_ipv4() { HEADERS_V4 } else { HEADERS_V6 };
        self.add(1, headers + len as u64);
    }

    /// A piece of a stream: a segment with timestamps, on IPv4 as most are.
    pub fn segment(&self, len: usize) {
        const HEADERS: u64 = 52;
        self.add(1, HEADERS + len as u64);
    }

    /// `packets` with `bytes` in all, headers included.
    fn add(&self, packets: u64, bytes: u64) {
        self.packets.fetch_add(packets, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn counters(&self) -> Counters {
        let packets = self.packets.load(Ordering::Relaxed);
        let bytes = self.bytes.load(Ordering::Relaxed);
        Counters {
            rx_packets: packets,
            tx_packets: packets,
            rx_bytes: bytes,
            tx_bytes: bytes,
            ..Counters::default()
        }
    }
}
