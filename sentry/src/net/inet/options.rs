//! Levels IPPROTO_IP, IPPROTO_IPV6 and IPPROTO_TCP of getsockopt(2) and setsockopt(2): numbers that
//! are kept and told again, each a row with its default and its range. What has an effect is asked
//! for by whoever heeds it.

use std::ops::RangeInclusive;

use super::Settings;
use crate::errno::{Errno, Result};
use crate::net::inet::tcp::defer_seconds;
use crate::net::options::int;

/// How an option's value is given and told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Number,
    /// Anything but 0 is 1.
    Flag,
}

struct Row {
    level: i32,
    name: i32,
    form: Form,
    default: i32,
    range: RangeInclusive<i32>,
    /// What a value outside the range gives.
    errno: Errno,
}

const fn number(level: i32, name: i32, default: i32, range: RangeInclusive<i32>) -> Row {
    Row {
        level,
        name,
        form: Form::Number,
        default,
        range,
        errno: Errno::EINVAL,
    }
}

const fn flag(level: i32, name: i32, default: i32) -> Row {
    Row {
        level,
        name,
        form: Form::Flag,
        default,
        range: i32::MIN..=i32::MAX,
        errno: Errno::EINVAL,
    }
}

const IP: i32 = libc::IPPROTO_IP;
const IPV6: i32 = libc::IPPROTO_IPV6;
const TCP: i32 = libc::IPPROTO_TCP;
/// linux/in.h and linux/in6.h, not all in libc.
const IP_BIND_ADDRESS_NO_PORT: i32 = 24;
const IPV6_AUTOFLOWLABEL: i32 = 70;
const IPV6_RECVORIGDSTADDR: i32 = 74;
const UDP: i32 = libc::IPPROTO_UDP;
const MAX: i32 = i32::MAX;

const ROWS: &[Row] = &[
    number(IP, libc::IP_TOS, 0, 0..=255),
    number(IP, libc::IP_TTL, 64, 1..=255),
    number(IP, libc::IP_MTU_DISCOVER, 1, 0..=5),
    number(IP, libc::IP_MULTICAST_TTL, 1, 0..=255),
    number(IP, libc::IP_MINTTL, 0, 0..=255),
    flag(IP, libc::IP_MULTICAST_LOOP, 1),
    flag(IP, libc::IP_MULTICAST_ALL, 1),
    flag(IP, libc::IP_RECVERR, 0),
    flag(IP, libc::IP_RECVOPTS, 0),
    flag(IP, libc::IP_RETOPTS, 0),
    flag(IP, libc::IP_RECVTOS, 0),
    flag(IP, libc::IP_RECVTTL, 0),
    flag(IP, libc::IP_PKTINFO, 0),
    flag(IP, libc::IP_RECVORIGDSTADDR, 0),
    flag(IP, libc::IP_FREEBIND, 0),
    flag(IP, IP_BIND_ADDRESS_NO_PORT, 0),
    flag(IPV6, libc::IPV6_V6ONLY, 0),
    flag(IPV6, libc::IPV6_RECVPKTINFO, 0),
    flag(IPV6, libc::IPV6_RECVHOPLIMIT, 0),
    flag(IPV6, libc::IPV6_RECVTCLASS, 0),
    // What these ask for never comes.
    flag(IPV6, libc::IPV6_RECVRTHDR, 0),
    flag(IPV6, libc::IPV6_RECVHOPOPTS, 0),
    flag(IPV6, libc::IPV6_RECVDSTOPTS, 0),
    flag(IPV6, libc::IPV6_RECVPATHMTU, 0),
    flag(IPV6, libc::IPV6_RECVERR, 0),
    flag(IPV6, libc::IPV6_MULTICAST_LOOP, 1),
    flag(IPV6, libc::IPV6_DONTFRAG, 0),
    flag(IPV6, IPV6_AUTOFLOWLABEL, 1),
    number(IPV6, libc::IPV6_TCLASS, 0, -1..=255),
    number(IPV6, libc::IPV6_UNICAST_HOPS, 64, -1..=255),
    number(IPV6, libc::IPV6_MULTICAST_HOPS, 1, -1..=255),
    number(IPV6, libc::IPV6_MTU_DISCOVER, 1, 0..=5),
    number(IPV6, libc::IPV6_MULTICAST_IF, 0, 0..=MAX),
    flag(IPV6, IPV6_RECVORIGDSTADDR, 0),
    flag(IPV6, libc::IPV6_MULTICAST_ALL, 1),
    flag(UDP, libc::UDP_CORK, 0),
    flag(UDP, libc::UDP_GRO, 0),
    number(UDP, libc::UDP_SEGMENT, 0, 0..=65535),
    flag(TCP, libc::TCP_NODELAY, 0),
    flag(TCP, libc::TCP_CORK, 0),
    flag(TCP, libc::TCP_QUICKACK, 1),
    number(TCP, libc::TCP_KEEPIDLE, 7200, 1..=32767),
    number(TCP, libc::TCP_KEEPINTVL, 75, 1..=32767),
    number(TCP, libc::TCP_KEEPCNT, 9, 1..=127),
    number(TCP, libc::TCP_SYNCNT, 6, 1..=127),
    number(TCP, libc::TCP_LINGER2, 60, i32::MIN..=MAX),
    number(TCP, libc::TCP_DEFER_ACCEPT, 0, i32::MIN..=MAX),
    number(TCP, libc::TCP_USER_TIMEOUT, 0, 0..=MAX),
    number(TCP, libc::TCP_NOTSENT_LOWAT, -1, i32::MIN..=MAX),
    number(TCP, libc::TCP_FASTOPEN, 0, 0..=MAX),
    number(TCP, libc::TCP_WINDOW_CLAMP, 0, 0..=MAX),
    flag(TCP, libc::TCP_FASTOPEN_CONNECT, 0),
];

fn find(level: i32, name: i32) -> Option<usize> {
    ROWS.iter().position(|r| r.level == level && r.name == name)
}

/// The numbers of one socket.
#[derive(Clone, Debug)]
pub struct Values {
    values: [i32; ROWS.len()],
    /// Bits of the rows that were set.
    set: u64,
}

const _: () = assert!(ROWS.len() <= u64::BITS as usize);

impl Default for Values {
    fn default() -> Self {
        Values {
            values: std::array::from_fn(|i| ROWS[i].default),
            set: 0,
        }
    }
}

impl Values {
    /// Those of a new socket.
    pub fn new(settings: &Settings) -> Values {
        let mut values = Values::default();
        if let Some(index) = find(IPV6, libc::IPV6_V6ONLY) {
            values.values[index] = settings.bindv6only as i32;
        }
        values
    }

    /// A value; 0 for one that has no row.
    pub fn get(&self, level: i32, name: i32) -> i32 {
        find(level, name).map_or(0, |i| self.values[i])
    }

    pub fn on(&self, level: i32, name: i32) -> bool {
        self.get(level, name) != 0
    }

    /// Sets one of the rows. As on Linux a byte is enough for what is small.
    ///
    /// # Errors
    /// ENOPROTOOPT if there is no such row, EINVAL.
    pub fn set(&mut self, level: i32, name: i32, value: &[u8]) -> Result<()> {
        let index = find(level, name).ok_or(Errno::ENOPROTOOPT)?;
        let row = &ROWS[index];
        let v = match value {
            [byte, ..] if level == IP && value.len() < 4 => i32::from(*byte),
            _ => int(value)?,
        };
        // -1: the default again.
        let v = match name {
            libc::IP_TTL | libc::IP_MULTICAST_TTL if level == IP && v == -1 => row.default,
            libc::IPV6_UNICAST_HOPS | libc::IPV6_MULTICAST_HOPS if level == IPV6 && v == -1 => {
                row.default
            }
            libc::IPV6_TCLASS if level == IPV6 && v == -1 => 0,
            libc::IP_TOS if level == IP => v & 0xff,
            libc::TCP_DEFER_ACCEPT if level == TCP => defer_seconds(v),
            libc::TCP_LINGER2 if level == TCP => v.max(0),
            _ => v,
        };
        if !row.range.contains(&v) {
            return Err(row.errno);
        }
        self.set |= 1 << index;
        self.values[index] = match row.form {
            Form::Number => v,
            Form::Flag => i32::from(v != 0),
        };
        Ok(())
    }

    /// The value as getsockopt(2) tells it: a byte, if there is no room for more. What was not set
    /// may be a setting of all sockets.
    ///
    /// # Errors
    /// ENOPROTOOPT.
    pub fn told(&self, settings: &Settings, level: i32, name: i32, room: usize) -> Result<Vec<u8>> {
        let index = find(level, name).ok_or(Errno::ENOPROTOOPT)?;
        let v = match (level, name) {
            _ if self.set & 1 << index != 0 => self.values[index],
            (TCP, libc::TCP_KEEPIDLE) => settings.tcp_keepalive_time as i32,
            (TCP, libc::TCP_KEEPINTVL) => settings.tcp_keepalive_intvl as i32,
            (TCP, libc::TCP_KEEPCNT) => settings.tcp_keepalive_probes as i32,
            (TCP, libc::TCP_LINGER2) => settings.tcp_fin_timeout as i32,
            _ => self.values[index],
        };
        if level == IP && room < 4 && (0..=255).contains(&v) {
            return Ok(vec![v as u8]);
        }
        Ok(v.to_ne_bytes().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_defaults_and_ranges() {
        let mut values = Values::default();
        assert_eq!(values.get(IP, libc::IP_TTL), 64);
        assert_eq!(values.set(IP, libc::IP_TTL, &[9]), Ok(()));
        assert_eq!(
            values.told(&Settings::default(), IP, libc::IP_TTL, 1),
            Ok(vec![9])
        );
        let zero = 0i32.to_ne_bytes();
        assert_eq!(values.set(IP, libc::IP_TTL, &zero), Err(Errno::EINVAL));
        let many = 7i32.to_ne_bytes();
        assert_eq!(values.set(TCP, libc::TCP_NODELAY, &many), Ok(()));
        assert_eq!(values.get(TCP, libc::TCP_NODELAY), 1);
        assert_eq!(values.set(TCP, libc::TCP_NODELAY, &[1]), Err(Errno::EINVAL));
        assert_eq!(values.set(TCP, 9999, &many), Err(Errno::ENOPROTOOPT));
    }
}
