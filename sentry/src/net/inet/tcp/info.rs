//! What is told of a connection: its state, TCP_INFO.

use super::{Phase, Tcp};

/// Largest segment over loopback, and that of a socket without a connection.
pub(super) const LOOPBACK_MSS: u32 = 65483;
pub(super) const DEFAULT_MSS: u32 = 536;

/// States as in /proc/net/tcp (net/tcp_states.h).
pub(super) const ESTABLISHED: u8 = 1;
const SYN_SENT: u8 = 2;
const FIN_WAIT2: u8 = 5;
pub(super) const CLOSE: u8 = 7;
const CLOSE_WAIT: u8 = 8;
pub(super) const LISTEN: u8 = 10;

impl Tcp {
    pub(super) fn state_number(&self) -> u8 {
        let fin = self.inbox.lock().fin;
        let state = self.state.lock();
        match &state.phase {
            Phase::Closed | Phase::Done => CLOSE,
            Phase::Listening(_) => LISTEN,
            Phase::Connecting(_) | Phase::Reaching(_) => SYN_SENT,
            Phase::Outside(_) if state.shut_write => FIN_WAIT2,
            Phase::Outside(_) => ESTABLISHED,
            Phase::Connected(_) => match (state.shut_write, fin) {
                (false, false) => ESTABLISHED,
                (true, false) => FIN_WAIT2,
                (false, true) => CLOSE_WAIT,
                (true, true) => CLOSE,
            },
        }
    }

    /// Bytes and backlog of a listener's queue.
    pub(super) fn backlog(&self) -> Option<(u32, u32)> {
        match &self.state.lock().phase {
            Phase::Listening(l) => Some((l.pending.len() as u32, l.backlog as u32)),
            _ => None,
        }
    }

    /// struct tcp_info: the state, and figures of a connection that loses and delays nothing.
    pub(super) fn tcp_info(&self) -> Vec<u8> {
        let mut raw = vec![0u8; 248];
        let mut put = |at: usize, v: u32| raw[at..at + 4].copy_from_slice(&v.to_ne_bytes());
        let mss = self.mss();
        put(8, 200_000); // tcpi_rto, microseconds
        put(12, 40_000); // tcpi_ato
        put(16, mss);
        put(20, mss);
        if let Some((pending, backlog)) = self.backlog() {
            put(24, pending); // tcpi_unacked
            put(28, backlog); // tcpi_sacked
        }
        put(60, 65535); // tcpi_pmtu
        put(64, 65483); // tcpi_rcv_ssthresh
        put(68, 20); // tcpi_rtt
        put(72, 10); // tcpi_rttvar
        put(76, 0x7fff_ffff); // tcpi_snd_ssthresh
        put(80, 10); // tcpi_snd_cwnd
        put(84, mss); // tcpi_advmss
        put(88, 3); // tcpi_reordering
        put(96, self.inbox.lock().capacity as u32); // tcpi_rcv_space
        let received = self.inbox.lock().received();
        let peer = self.link().and_then(|link| link.peer.upgrade());
        let sent = peer.map_or(0, |peer| peer.inbox.lock().received());
        // Who connected has its SYN acknowledged as well.
        let acked = sent + u64::from(!self.charged && sent > 0);
        let mut put = |at: usize, v: u64| raw[at..at + 8].copy_from_slice(&v.to_ne_bytes());
        put(120, acked); // tcpi_bytes_acked
        put(128, received); // tcpi_bytes_received
        put(200, sent); // tcpi_bytes_sent
        raw[0] = self.state_number();
        raw
    }

    pub(super) fn mss(&self) -> u32 {
        match self.link() {
            Some(_) => LOOPBACK_MSS,
            None => DEFAULT_MSS,
        }
    }
}
