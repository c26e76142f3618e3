//! What /proc/sys/net sets and sockets go by.

use std::sync::Arc;

use super::ports::Range;

/// Keys of /proc/sys/net, with Linux's names. Numbers are within the bounds that a write is checked
/// for.
#[derive(Clone, Debug)]
pub struct Settings {
    /// ip_local_port_range.
    pub local_ports: (u16, u16),
    /// ip_local_reserved_ports: ranges, in order and apart.
    pub reserved_ports: Arc<[(u16, u16)]>,
    /// ip_unprivileged_port_start.
    pub unprivileged_port: u16,
    /// ping_group_range.
    pub ping_groups: (u32, u32),
    /// core/somaxconn.
    pub somaxconn: i64,
    /// Least, at first, most; bytes.
    pub tcp_rmem: [i64; 3],
    pub tcp_wmem: [i64; 3],
    /// Seconds, seconds and a number.
    pub tcp_keepalive_time: i64,
    pub tcp_keepalive_intvl: i64,
    pub tcp_keepalive_probes: i64,
    /// Seconds.
    pub tcp_fin_timeout: i64,
    pub icmp_echo_ignore_all: i64,
    pub ip_nonlocal_bind: i64,
    pub ip6_nonlocal_bind: i64,
    pub bindv6only: i64,
    /// ipv6/conf/{all,default,lo}/disable_ipv6, where loopback is the Sentry's alone.
    pub ipv6_off: [i64; 3],
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            local_ports: (32768, 60999),
            reserved_ports: Arc::new([]),
            unprivileged_port: 1024,
            ping_groups: (0, u32::MAX - 1),
            somaxconn: 4096,
            tcp_rmem: [4096, 131_072, 6_291_456],
            tcp_wmem: [4096, 16384, 4_194_304],
            tcp_keepalive_time: 7200,
            tcp_keepalive_intvl: 75,
            tcp_keepalive_probes: 9,
            tcp_fin_timeout: 60,
            icmp_echo_ignore_all: 0,
            ip_nonlocal_bind: 0,
            ip6_nonlocal_bind: 0,
            bindv6only: 0,
            ipv6_off: [0; 3],
        }
    }
}

impl Settings {
    /// Ports that are picked for who asks for none in particular.
    pub fn range(&self) -> Range {
        Range {
            low: self.local_ports.0,
            high: self.local_ports.1,
            reserved: self.reserved_ports.clone(),
        }
    }

    /// What listen(2) gets of the backlog that it asks for. Less than 0 is a lot.
    pub fn backlog(&self, asked: i32) -> i32 {
        let most = i32::try_from(self.somaxconn).unwrap_or(i32::MAX);
        if asked < 0 { most } else { asked.min(most) }
    }
}
