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
}

impl Traffic {
    /// `packets` with `bytes` in all, headers included.
    pub fn add(&self, packets: u64, bytes: u64) {
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
        }
    }
}
