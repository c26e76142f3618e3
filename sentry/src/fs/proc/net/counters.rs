//! Counters of the protocols, and how many sockets there are (proc_net(5)).
//!
//! Data inside the sandbox moves through queues, not packets: what counts packets counts what a
//! packet would have carried, and most of what can happen to one never does.

use std::fmt::Write;

use crate::net::Stack;
use crate::net::outside::Domain;
use crate::net::socket::{Kind, Socket};
use crate::net::traffic::Count;

/// Columns of /proc/net/snmp.
const IP: &str = "Forwarding DefaultTTL InReceives InHdrErrors InAddrErrors ForwDatagrams InUnknownProtos \
    InDiscards InDelivers OutRequests OutDiscards OutNoRoutes ReasmTimeout ReasmReqds ReasmOKs \
    ReasmFails FragOKs FragFails FragCreates OutTransmits";
/// As [`IP`].
const ICMP: &str = "InMsgs InErrors InCsumErrors InDestUnreachs InTimeExcds InParmProbs InSrcQuenchs \
    InRedirects InEchos InEchoReps InTimestamps InTimestampReps InAddrMasks InAddrMaskReps \
    OutMsgs OutErrors OutRateLimitGlobal OutRateLimitHost OutDestUnreachs OutTimeExcds \
    OutParmProbs OutSrcQuenchs OutRedirects OutEchos OutEchoReps OutTimestamps \
    OutTimestampReps OutAddrMasks OutAddrMaskReps";
/// As [`IP`].
const TCP: &str = "RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens PassiveOpens AttemptFails EstabResets \
    CurrEstab InSegs OutSegs RetransSegs InErrs OutRsts InCsumErrors";
/// As [`IP`].
const UDP: &str = "InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors \
    IgnoredMulti MemErrors";
/// Columns of /proc/net/netstat.
const TCP_EXT: &str = "SyncookiesSent SyncookiesRecv SyncookiesFailed EmbryonicRsts PruneCalled RcvPruned \
    OfoPruned OutOfWindowIcmps LockDroppedIcmps ArpFilter TW TWRecycled TWKilled PAWSActive \
    PAWSEstab BeyondWindow TSEcrRejected PAWSOldAck PAWSTimewait DelayedACKs DelayedACKLocked \
    DelayedACKLost ListenOverflows ListenDrops TCPHPHits TCPPureAcks TCPHPAcks TCPRenoRecovery \
    TCPSackRecovery TCPSACKReneging TCPSACKReorder TCPRenoReorder TCPTSReorder TCPFullUndo \
    TCPPartialUndo TCPDSACKUndo TCPLossUndo TCPLostRetransmit TCPRenoFailures TCPSackFailures \
    TCPLossFailures TCPFastRetrans TCPSlowStartRetrans TCPTimeouts TCPLossProbes \
    TCPLossProbeRecovery TCPRenoRecoveryFail TCPSackRecoveryFail TCPRcvCollapsed \
    TCPBacklogCoalesce TCPDSACKOldSent TCPDSACKOfoSent TCPDSACKRecv TCPDSACKOfoRecv \
    TCPAbortOnData TCPAbortOnClose TCPAbortOnMemory TCPAbortOnTimeout TCPAbortOnLinger \
    TCPAbortFailed TCPMemoryPressures TCPMemoryPressuresChrono TCPSACKDiscard \
    TCPDSACKIgnoredOld TCPDSACKIgnoredNoUndo TCPSpuriousRTOs TCPMD5NotFound TCPMD5Unexpected \
    TCPMD5Failure TCPSackShifted TCPSackMerged TCPSackShiftFallback TCPBacklogDrop \
    PFMemallocDrop TCPMinTTLDrop TCPDeferAcceptDrop IPReversePathFilter TCPTimeWaitOverflow \
    TCPReqQFullDoCookies TCPReqQFullDrop TCPRetransFail TCPRcvCoalesce TCPOFOQueue TCPOFODrop \
    TCPOFOMerge TCPChallengeACK TCPSYNChallenge TCPFastOpenActive TCPFastOpenActiveFail \
    TCPFastOpenPassive TCPFastOpenPassiveFail TCPFastOpenListenOverflow TCPFastOpenCookieReqd \
    TCPFastOpenBlackhole TCPSpuriousRtxHostQueues BusyPollRxPackets TCPAutoCorking \
    TCPFromZeroWindowAdv TCPToZeroWindowAdv TCPWantZeroWindowAdv TCPSynRetrans TCPOrigDataSent \
    TCPHystartTrainDetect TCPHystartTrainCwnd TCPHystartDelayDetect TCPHystartDelayCwnd \
    TCPACKSkippedSynRecv TCPACKSkippedPAWS TCPACKSkippedSeq TCPACKSkippedFinWait2 \
    TCPACKSkippedTimeWait TCPACKSkippedChallenge TCPWinProbe TCPKeepAlive TCPMTUPFail \
    TCPMTUPSuccess TCPDelivered TCPDeliveredCE TCPAckCompressed TCPZeroWindowDrop TCPRcvQDrop \
    TCPWqueueTooBig TCPFastOpenPassiveAltKey TcpTimeoutRehash TcpDuplicateDataRehash \
    TCPDSACKRecvSegs TCPDSACKIgnoredDubious TCPMigrateReqSuccess TCPMigrateReqFailure \
    TCPPLBRehash TCPAORequired TCPAOBad TCPAOKeyNotFound TCPAOGood TCPAODroppedIcmps";
/// As [`TCP_EXT`].
const IP_EXT: &str = "InNoRoutes InTruncatedPkts InMcastPkts OutMcastPkts InBcastPkts OutBcastPkts InOctets \
    OutOctets InMcastOctets OutMcastOctets InBcastOctets OutBcastOctets InCsumErrors \
    InNoECTPkts InECT1Pkts InECT0Pkts InCEPkts ReasmOverlaps";
/// Rows of /proc/net/snmp6.
const SNMP6: &str = "Ip6InReceives Ip6InHdrErrors Ip6InTooBigErrors Ip6InNoRoutes Ip6InAddrErrors \
    Ip6InUnknownProtos Ip6InTruncatedPkts Ip6InDiscards Ip6InDelivers Ip6OutForwDatagrams \
    Ip6OutRequests Ip6OutDiscards Ip6OutNoRoutes Ip6ReasmTimeout Ip6ReasmReqds Ip6ReasmOKs \
    Ip6ReasmFails Ip6FragOKs Ip6FragFails Ip6FragCreates Ip6InMcastPkts Ip6OutMcastPkts \
    Ip6InOctets Ip6OutOctets Ip6InMcastOctets Ip6OutMcastOctets Ip6InBcastOctets \
    Ip6OutBcastOctets Ip6InNoECTPkts Ip6InECT1Pkts Ip6InECT0Pkts Ip6InCEPkts Ip6OutTransmits \
    Icmp6InMsgs Icmp6InErrors Icmp6OutMsgs Icmp6OutErrors Icmp6InCsumErrors \
    Icmp6OutRateLimitHost Icmp6InDestUnreachs Icmp6InPktTooBigs Icmp6InTimeExcds \
    Icmp6InParmProblems Icmp6InEchos Icmp6InEchoReplies Icmp6InGroupMembQueries \
    Icmp6InGroupMembResponses Icmp6InGroupMembReductions Icmp6InRouterSolicits \
    Icmp6InRouterAdvertisements Icmp6InNeighborSolicits Icmp6InNeighborAdvertisements \
    Icmp6InRedirects Icmp6InMLDv2Reports Icmp6OutDestUnreachs Icmp6OutPktTooBigs \
    Icmp6OutTimeExcds Icmp6OutParmProblems Icmp6OutEchos Icmp6OutEchoReplies \
    Icmp6OutGroupMembQueries Icmp6OutGroupMembResponses Icmp6OutGroupMembReductions \
    Icmp6OutRouterSolicits Icmp6OutRouterAdvertisements Icmp6OutNeighborSolicits \
    Icmp6OutNeighborAdvertisements Icmp6OutRedirects Icmp6OutMLDv2Reports \
    Udp6InDatagrams Udp6NoPorts Udp6InErrors \
    Udp6OutDatagrams Udp6RcvbufErrors Udp6SndbufErrors Udp6InCsumErrors Udp6IgnoredMulti \
    Udp6MemErrors UdpLite6InDatagrams UdpLite6NoPorts UdpLite6InErrors UdpLite6OutDatagrams \
    UdpLite6RcvbufErrors UdpLite6SndbufErrors UdpLite6InCsumErrors UdpLite6MemErrors";

/// A row of names and one of numbers; those that are not in `known` are zero.
fn pair(text: &mut String, label: &str, names: &str, known: &[(&str, i64)]) {
    let _ = writeln!(text, "{label}: {names}");
    let _ = write!(text, "{label}:");
    for name in names.split(' ') {
        let value = known.iter().find(|(n, _)| *n == name).map_or(0, |k| k.1);
        let _ = write!(text, " {value}");
    }
    text.push('\n');
}

/// TCP_ESTABLISHED and TCP_CLOSE_WAIT: what counts as a connection.
fn is_established(state: u8) -> bool {
    matches!(state, 1 | 8)
}

fn of_protocol(stack: &Stack, protocol: i32) -> usize {
    let is = |s: &std::sync::Arc<dyn Socket>| {
        let common = s.common();
        let inet = matches!(common.family, libc::AF_INET | libc::AF_INET6);
        inet && common.protocol == protocol && is_established(s.info().state)
    };
    stack.sockets().iter().filter(|s| is(s)).count()
}

/// What is counted of a row.
fn counted(stack: &Stack, row: &str) -> Vec<(&'static str, i64)> {
    let all = Count::ALL.iter().filter(|(_, of, _)| *of == row);
    all.map(|(event, _, column)| (*column, stack.loopback.happened(*event) as i64))
        .collect()
}

/// Messages of ICMP by type: those that there were.
fn messages(icmp: &[(&'static str, i64)]) -> String {
    const TYPES: [(&str, &str); 6] = [
        ("InType0", "InEchoReps"),
        ("InType3", "InDestUnreachs"),
        ("InType8", "InEchos"),
        ("OutType0", "OutEchoReps"),
        ("OutType3", "OutDestUnreachs"),
        ("OutType8", "OutEchos"),
    ];
    let number = |column: &str| icmp.iter().find(|c| c.0 == column).map_or(0, |c| c.1);
    let shown = TYPES.iter().map(|(name, column)| (*name, number(column)));
    let shown: Vec<(&str, i64)> = shown.filter(|(_, n)| *n > 0).collect();
    if shown.is_empty() {
        return String::new();
    }
    let names: Vec<&str> = shown.iter().map(|(name, _)| *name).collect();
    let mut text = String::new();
    pair(&mut text, "IcmpMsg", &names.join(" "), &shown);
    text
}

pub fn snmp(stack: &Stack) -> String {
    let packets = stack.loopback.of_family(Domain::V4).0 as i64;
    let segments = stack.loopback.all_segments() as i64;
    let established = of_protocol(stack, libc::IPPROTO_TCP) as i64;
    let mut text = String::new();
    let ip = [
        // Not a router.
        ("Forwarding", 2),
        ("DefaultTTL", 64),
        ("InReceives", packets),
        ("InDelivers", packets),
        ("OutRequests", packets),
        ("OutTransmits", packets),
    ];
    pair(&mut text, "Ip", IP, &ip);
    let icmp = counted(stack, "Icmp");
    pair(&mut text, "Icmp", ICMP, &icmp);
    text += &messages(&icmp);
    let mut tcp = counted(stack, "Tcp");
    tcp.extend([
        ("RtoAlgorithm", 1),
        ("RtoMin", 200),
        ("RtoMax", 120_000),
        ("MaxConn", -1),
        ("CurrEstab", established),
        ("InSegs", segments),
        ("OutSegs", segments),
    ]);
    pair(&mut text, "Tcp", TCP, &tcp);
    pair(&mut text, "Udp", UDP, &counted(stack, "Udp"));
    pair(&mut text, "UdpLite", UDP, &[]);
    text
}

pub fn netstat(stack: &Stack) -> String {
    let (packets, octets) = stack.loopback.of_family(Domain::V4);
    let mut text = String::new();
    pair(&mut text, "TcpExt", TCP_EXT, &counted(stack, "TcpExt"));
    let ip = [
        ("InOctets", octets as i64),
        ("OutOctets", octets as i64),
        ("InNoECTPkts", packets as i64),
    ];
    pair(&mut text, "IpExt", IP_EXT, &ip);
    text
}

pub fn snmp6(stack: &Stack) -> String {
    let (packets, octets) = stack.loopback.of_family(Domain::V6);
    let mut known: Vec<(String, u64)> = Vec::new();
    for row in [
        "InReceives",
        "InDelivers",
        "OutRequests",
        "InNoECTPkts",
        "OutTransmits",
    ] {
        known.push((format!("Ip6{row}"), packets));
    }
    for row in ["InOctets", "OutOctets"] {
        known.push((format!("Ip6{row}"), octets));
    }
    for row in ["Icmp6", "Udp6"] {
        let counted = counted(stack, row).into_iter();
        known.extend(counted.map(|(column, n)| (format!("{row}{column}"), n as u64)));
    }
    let row = |name: &str| {
        let value = known.iter().find(|(n, _)| n == name).map_or(0, |k| k.1);
        format!("{name:<32}\t{value}\n")
    };
    SNMP6.split(' ').map(row).collect()
}

/// How many sockets of a family are in a state that holds a port, and the pages of what they hold.
fn in_use(stack: &Stack, family: i32, kind: Kind) -> (usize, usize) {
    const CLOSE: u8 = 7;
    const PAGE: usize = 4096;
    let (mut number, mut bytes) = (0, 0);
    for socket in stack.sockets() {
        let common = socket.common();
        let echo = matches!(common.protocol, libc::IPPROTO_ICMP | libc::IPPROTO_ICMPV6);
        if common.family != family || common.kind != kind || echo {
            continue;
        }
        let info = socket.info();
        bytes += info.receive_queue as usize;
        let holds = match kind {
            Kind::Stream => info.state != CLOSE,
            _ => super::sockets::port(&info) != 0,
        };
        number += usize::from(holds);
    }
    (number, bytes.div_ceil(PAGE))
}

pub fn sockstat(stack: &Stack) -> String {
    let used = stack.sockets().len();
    let of = |family, kind| in_use(stack, family, kind);
    let (tcp, mut tcp_pages) = of(libc::AF_INET, Kind::Stream);
    let (udp, mut udp_pages) = of(libc::AF_INET, Kind::Datagram);
    let (tcp6, more) = of(libc::AF_INET6, Kind::Stream);
    tcp_pages += more;
    udp_pages += of(libc::AF_INET6, Kind::Datagram).1;
    let lingering = stack.lingering();
    let all = tcp + tcp6;
    format!(
        "sockets: used {used}\nTCP: inuse {tcp} orphan 0 tw {lingering} alloc {all} mem {tcp_pages}\n\
         UDP: inuse {udp} mem {udp_pages}\nUDPLITE: inuse 0\nRAW: inuse 0\n\
         FRAG: inuse 0 memory 0\n"
    )
}

pub fn sockstat6(stack: &Stack) -> String {
    let [tcp, udp] = [Kind::Stream, Kind::Datagram].map(|k| in_use(stack, libc::AF_INET6, k).0);
    format!(
        "TCP6: inuse {tcp}\nUDP6: inuse {udp}\nUDPLITE6: inuse 0\nRAW6: inuse 0\n\
         FRAG6: inuse 0 memory 0\n"
    )
}
