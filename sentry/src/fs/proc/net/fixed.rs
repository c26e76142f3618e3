//! Files about parts that the sandbox does not have, or that never change: what they hold in a new
//! network namespace on Linux.

use std::fmt::Write;

use crate::net::Stack;

/// Counters of IPsec, which there is not.
const XFRM: &str = "XfrmInError XfrmInBufferError XfrmInHdrError XfrmInNoStates \
    XfrmInStateProtoError XfrmInStateModeError XfrmInStateSeqError XfrmInStateExpired \
    XfrmInStateMismatch XfrmInStateInvalid XfrmInTmplMismatch XfrmInNoPols XfrmInPolBlock \
    XfrmInPolError XfrmOutError XfrmOutBundleGenError XfrmOutBundleCheckError XfrmOutNoStates \
    XfrmOutStateProtoError XfrmOutStateModeError XfrmOutStateSeqError XfrmOutStateExpired \
    XfrmOutPolBlock XfrmOutPolDead XfrmOutPolError XfrmFwdHdrError XfrmOutStateInvalid \
    XfrmAcquireError";
/// Columns of /proc/net/softnet_stat.
const SOFTNET: usize = 15;

pub fn xfrm_stat(_: &Stack) -> String {
    let rows = XFRM.split(' ').map(|name| format!("{name:<24}\t0\n"));
    rows.collect()
}

/// Nothing goes through a queue of packets on any processor.
pub fn softnet_stat(_: &Stack) -> String {
    let row = vec!["00000000"; SOFTNET].join(" ");
    format!("{row}\n")
}

/// Ticks and microseconds of packet schedulers: a clock of 64 ns a tick, timers of one.
pub fn psched(_: &Stack) -> String {
    "000003e8 00000040 000f4240 3b9aca00\n".to_owned()
}

/// Who takes packets from an interface.
pub fn ptype(_: &Stack) -> String {
    let mut text = String::new();
    for (kind, function) in [
        (0x0800, "ip_rcv"),
        (0x0806, "arp_rcv"),
        (0x86dd, "ipv6_rcv"),
    ] {
        let _ = writeln!(text, "{kind:04x}          {function}");
    }
    text
}
