//! INET_DIAG_REQ_BYTECODE: the filter programs of ss(8).
//!
//! A program is a row of struct inet_diag_bc_op (code, yes, no): a condition that holds goes on
//! `yes` bytes further, else `no`, some with operands behind them. The socket is shown if the
//! program ends exactly at its end. Jumps go forwards only, so every run ends; [`check`] makes sure
//! that none leads between two operations.

use std::net::{IpAddr, SocketAddr};

use super::inet::Subject;
use crate::errno::{Errno, Result};
use crate::net::netlink::message::u32_at;

/// sizeof(struct inet_diag_bc_op).
const OP: usize = 4;
/// Longest program, as Linux's attribute lengths have it.
const LONGEST: usize = u16::MAX as usize;

// INET_DIAG_BC_*.
const NOP: u8 = 0;
const JMP: u8 = 1;
const S_GE: u8 = 2;
const S_LE: u8 = 3;
const D_GE: u8 = 4;
const D_LE: u8 = 5;
const AUTO: u8 = 6;
const S_COND: u8 = 7;
const D_COND: u8 = 8;
const DEV_COND: u8 = 9;
const MARK_COND: u8 = 10;
const S_EQ: u8 = 11;
const D_EQ: u8 = 12;

struct Op {
    code: u8,
    yes: usize,
    no: usize,
}

fn op(code: &[u8], at: usize) -> Option<Op> {
    let raw = code.get(at..)?.first_chunk::<OP>()?;
    Some(Op {
        code: raw[0],
        yes: raw[1].into(),
        no: u16::from_ne_bytes([raw[2], raw[3]]).into(),
    })
}

/// The condition of an address and a port (struct inet_diag_hostcond).
struct Host<'a> {
    family: u8,
    prefix_len: u8,
    /// -1: any.
    port: i32,
    address: &'a [u8],
}

fn host(code: &[u8], at: usize) -> Option<Host<'_>> {
    let raw = code.get(at + OP..)?;
    let [family, prefix_len, ..] = *raw else {
        return None;
    };
    let size = match i32::from(family) {
        libc::AF_INET => 4,
        libc::AF_INET6 => 16,
        libc::AF_UNSPEC => 0,
        _ => return None,
    };
    (usize::from(prefix_len) <= size * 8).then_some(())?;
    Some(Host {
        family,
        prefix_len,
        port: u32_at(raw, 4)? as i32,
        address: raw.get(8..8 + size)?,
    })
}

/// Bytes of an operation with its operands. None: it is none.
fn size(code: &[u8], at: usize) -> Option<usize> {
    let size = match op(code, at)?.code {
        NOP | JMP | AUTO => OP,
        S_GE | S_LE | D_GE | D_LE | S_EQ | D_EQ | DEV_COND => 2 * OP,
        S_COND | D_COND => OP + 8 + host(code, at)?.address.len(),
        MARK_COND => OP + 8,
        _ => return None,
    };
    (code.len() - at >= size).then_some(size)
}

/// # Errors
/// EINVAL if it is no program, or could run out of one.
pub fn check(code: &[u8]) -> Result<()> {
    if code.is_empty() || code.len() > LONGEST {
        return Err(Errno::EINVAL);
    }
    let len = code.len();
    // Where operations begin, by a walk along `yes`, as Linux walks.
    let mut starts = vec![false; len + 1];
    let mut at = 0;
    while at < len {
        let (Some(op), Some(size)) = (op(code, at), size(code, at)) else {
            return Err(Errno::EINVAL);
        };
        starts[at] = true;
        if op.yes < size || op.yes % OP != 0 || at + op.yes > len {
            return Err(Errno::EINVAL);
        }
        at += op.yes;
    }
    starts[len] = true;
    let mut at = 0;
    while let Some(op) = op(code, at) {
        if op.code != NOP {
            let to = at + op.no;
            // Further than the end says no; elsewhere an operation begins.
            let ends = to == len + OP;
            if op.no < OP || op.no % OP != 0 || !(ends || to <= len && starts[to]) {
                return Err(Errno::EINVAL);
            }
        }
        at += op.yes;
    }
    Ok(())
}

fn address_matches(about: SocketAddr, host: &Host<'_>) -> bool {
    if host.port != -1 && host.port != i32::from(about.port()) {
        return false;
    }
    let own = match (about.ip(), i32::from(host.family)) {
        (_, libc::AF_UNSPEC) => return true,
        (IpAddr::V4(ip), libc::AF_INET) => ip.octets().to_vec(),
        (IpAddr::V6(ip), libc::AF_INET6) => ip.octets().to_vec(),
        // An IPv4 connection of an IPv6 socket.
        (IpAddr::V6(ip), libc::AF_INET) => match ip.to_ipv4_mapped() {
            Some(ip) => ip.octets().to_vec(),
            None => return false,
        },
        _ => return host.prefix_len == 0,
    };
    let whole = usize::from(host.prefix_len / 8);
    let bits = host.prefix_len % 8;
    if own.get(..whole) != host.address.get(..whole) {
        return false;
    }
    let mask = !(0xff_u8 >> bits);
    match (own.get(whole), host.address.get(whole)) {
        (Some(a), Some(b)) => (a ^ b) & mask == 0,
        _ => true,
    }
}

fn holds(code: &[u8], at: usize, op: &Op, about: &Subject) -> bool {
    // The operand of a port is in the `no` of the next word.
    let port = code.get(at + OP + 2..).and_then(<[u8]>::first_chunk);
    let port = port.map_or(0, |p| u16::from_ne_bytes(*p));
    let (local, peer) = (about.local.port(), about.peer.port());
    let word = |n: usize| u32_at(code, at + OP + 4 * n).unwrap_or(0);
    match op.code {
        NOP => true,
        S_EQ => local == port,
        S_GE => local >= port,
        S_LE => local <= port,
        D_EQ => peer == port,
        D_GE => peer >= port,
        D_LE => peer <= port,
        AUTO => about.auto_port,
        S_COND | D_COND => host(code, at).is_some_and(|h| {
            let side = if op.code == S_COND {
                about.local
            } else {
                about.peer
            };
            address_matches(side, &h)
        }),
        DEV_COND => word(0) == about.link,
        MARK_COND => about.mark & word(1) == word(0),
        // JMP
        _ => false,
    }
}

/// Whether a checked program shows a socket.
pub fn run(code: &[u8], about: &Subject) -> bool {
    let mut at = 0;
    while at < code.len() {
        let Some(op) = op(code, at) else {
            return false;
        };
        let step = if holds(code, at, &op, about) {
            op.yes
        } else {
            op.no
        };
        if step == 0 {
            return false;
        }
        at += step;
    }
    at == code.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(local: &str, peer: &str) -> Subject {
        Subject {
            local: local.parse().unwrap(),
            peer: peer.parse().unwrap(),
            link: 0,
            mark: 0,
            auto_port: false,
        }
    }

    fn op(code: u8, yes: u8, no: u16) -> Vec<u8> {
        let no = no.to_ne_bytes();
        vec![code, yes, no[0], no[1]]
    }

    /// sport OP port, as ss(8) writes it.
    fn port(code: u8, port: u16) -> Vec<u8> {
        [op(code, 8, 12), op(NOP, 0, port)].concat()
    }

    #[test]
    fn programs_that_ss_writes() {
        let socket = about("127.0.0.1:80", "10.0.0.7:4000");
        let address = |code, ip: [u8; 4], prefix, port: i32| {
            let len = 4 + 8 + 4;
            [
                op(code, len, u16::from(len) + 4),
                vec![2, prefix, 0, 0],
                port.to_ne_bytes().to_vec(),
                ip.to_vec(),
            ]
            .concat()
        };
        for (code, shown) in [
            (port(S_EQ, 80), true),
            (port(S_EQ, 81), false),
            (port(S_GE, 80), true),
            (port(S_LE, 79), false),
            (port(D_EQ, 4000), true),
            (port(D_GE, 4001), false),
            // Both of two.
            (
                [op(S_EQ, 8, 20), op(NOP, 0, 80), port(D_LE, 4000)].concat(),
                true,
            ),
            (
                [op(S_EQ, 8, 20), op(NOP, 0, 81), port(D_LE, 4000)].concat(),
                false,
            ),
            (address(S_COND, [127, 0, 0, 0], 8, -1), true),
            (address(S_COND, [127, 0, 0, 1], 32, 80), true),
            (address(S_COND, [127, 0, 0, 1], 32, 81), false),
            (address(D_COND, [10, 0, 0, 6], 31, -1), true),
            (address(D_COND, [10, 0, 0, 4], 31, -1), false),
            (op(AUTO, 4, 8), false),
            // Either: a jump over the other one.
            (
                [
                    op(S_EQ, 8, 12),
                    op(NOP, 0, 80),
                    op(JMP, 4, 12),
                    port(S_EQ, 81),
                ]
                .concat(),
                true,
            ),
        ] {
            assert_eq!(check(&code), Ok(()), "{code:?}");
            assert_eq!(run(&code, &socket), shown, "{code:?}");
        }
    }

    #[test]
    fn what_is_no_program_is_refused() {
        for code in [
            vec![],
            op(99, 4, 8),
            // Never gets on, runs over the end, into the middle of an operation.
            op(AUTO, 0, 8),
            op(AUTO, 8, 8),
            op(AUTO, 4, 16),
            op(AUTO, 4, 0),
            op(AUTO, 3, 8),
            [op(JMP, 4, 8), port(S_EQ, 1)].concat(),
            // Operands cut off.
            op(S_EQ, 8, 12),
            [op(S_COND, 12, 16), vec![2, 0, 0, 0, 0, 0, 0, 0]].concat(),
            [
                op(S_COND, 16, 20),
                vec![2, 33, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            ]
            .concat(),
            [op(S_COND, 16, 20), vec![7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]].concat(),
        ] {
            assert_eq!(check(&code), Err(Errno::EINVAL), "{code:?}");
        }
    }
}
