use super::super::message::Requests;
use super::*;
use crate::net::interfaces::Interfaces;

#[test]
fn requests_without_a_body_or_of_no_type_are_told_apart() {
    for (kind, once, dump) in [
        (libc::RTM_GETLINK, true, true),
        (libc::RTM_NEWLINK, true, false),
        (libc::RTM_GETRULE, false, true),
        (libc::RTM_GETQDISC, false, true),
        (libc::RTM_NEWROUTE, false, false),
        (RTM_MAX, false, false),
    ] {
        let (o, d) = handlers(kind);
        assert_eq!((o.is_some(), d.is_some()), (once, dump), "{kind}");
    }
    assert_eq!(Requests(&[]).count(), 0);
}

#[test]
fn loopback_implies_what_linux_lists() {
    let table: Vec<String> = Interfaces::default()
        .tables()
        .iter()
        .map(|r| format!("{}/{} {} {}", r.destination, r.prefix_len, r.kind, r.scope))
        .collect();
    // As `ip route show table all` in a new namespace.
    let host = [
        "127.0.0.0/8 2 254",
        "127.0.0.1/32 2 254",
        "127.255.255.255/32 3 253",
        "::1/128 2 0",
    ];
    assert_eq!(table, host);
}

#[test]
fn ways() {
    let mut table = Interfaces::default();
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let route =
        |to: &str, prefix_len, gateway: Option<&str>, metric| crate::net::interfaces::Route {
            destination: ip(to),
            prefix_len,
            gateway: gateway.map(ip),
            source: None,
            link: 2,
            metric,
            table: libc::RT_TABLE_MAIN,
            protocol: libc::RTPROT_BOOT,
            scope: 0,
            kind: libc::RTN_UNICAST,
        };
    table.addresses.push(crate::net::interfaces::Address {
        link: 2,
        ip: ip("10.1.0.5"),
        prefix_len: 16,
        broadcast: None,
        scope: 0,
        flags: 0,
    });
    table.routes = vec![
        route("0.0.0.0", 0, Some("10.1.0.1"), 0),
        route("10.1.0.0", 16, None, 0),
        route("10.2.0.0", 16, Some("10.1.0.3"), 10),
        route("10.2.0.0", 16, Some("10.1.0.2"), 5),
    ];
    for (to, gateway, kind, source) in [
        ("127.0.0.1", None, libc::RTN_LOCAL, "127.0.0.1"),
        ("127.8.0.1", None, libc::RTN_LOCAL, "127.0.0.1"),
        ("127.255.255.255", None, libc::RTN_BROADCAST, "127.0.0.1"),
        ("::1", None, libc::RTN_LOCAL, "::1"),
        ("10.1.0.5", None, libc::RTN_LOCAL, "10.1.0.5"),
        ("10.1.255.255", None, libc::RTN_BROADCAST, "10.1.0.5"),
        ("10.1.0.6", None, libc::RTN_UNICAST, "10.1.0.5"),
        ("10.2.0.6", Some("10.1.0.2"), libc::RTN_UNICAST, "10.1.0.5"),
        ("8.8.8.8", Some("10.1.0.1"), libc::RTN_UNICAST, "10.1.0.5"),
    ] {
        let way = table.route_to(ip(to)).unwrap();
        assert_eq!((way.kind, way.gateway), (kind, gateway.map(ip)), "{to}");
        assert_eq!(table.source_for(&way, ip(to)), Some(ip(source)), "{to}");
    }
    assert_eq!(Interfaces::default().route_to(ip("10.0.0.1")), None);
    assert_eq!(table.route_to(ip("2001::1")), None);
}
