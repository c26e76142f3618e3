//! What cases about internet sockets share: addresses, options, servers on loopback.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::case::*;
use crate::control::{ControlMessage, receive_control, send_control};

/// sockaddr_in or sockaddr_in6.
#[derive(Clone, Copy)]
pub struct Address {
    pub(crate) raw: sockaddr_storage,
    pub len: socklen_t,
}

impl Address {
    pub fn v4(ip: [u8; 4], port: u16) -> Address {
        let mut raw = zeroed::<sockaddr_storage>();
        let addr = sockaddr_in {
            sin_family: AF_INET as u16,
            sin_port: port.to_be(),
            sin_addr: in_addr {
                s_addr: u32::from(Ipv4Addr::from(ip)).to_be(),
            },
            sin_zero: [0; 8],
        };
        unsafe { (&raw mut raw).cast::<sockaddr_in>().write(addr) };
        Address { raw, len: 16 }
    }

    pub fn v6(ip: Ipv6Addr, port: u16) -> Address {
        let mut raw = zeroed::<sockaddr_storage>();
        let mut addr = zeroed::<sockaddr_in6>();
        addr.sin6_family = AF_INET6 as u16;
        addr.sin6_port = port.to_be();
        addr.sin6_addr.s6_addr = ip.octets();
        unsafe { (&raw mut raw).cast::<sockaddr_in6>().write(addr) };
        Address { raw, len: 28 }
    }

    pub fn local(port: u16) -> Address {
        Address::v4([127, 0, 0, 1], port)
    }

    /// Only a family, AF_UNSPEC.
    pub fn unspecified() -> Address {
        Address {
            raw: zeroed(),
            len: 16,
        }
    }

    pub fn ptr(&self) -> *const sockaddr {
        (&raw const self.raw).cast()
    }

    pub fn port(&self) -> u16 {
        // In the same place in both.
        let raw: sockaddr_in = unsafe { (&raw const self.raw).cast::<sockaddr_in>().read() };
        u16::from_be(raw.sin_port)
    }

    /// As text, like `127.0.0.1` or `::1`.
    pub fn ip(&self) -> String {
        if i32::from(self.raw.ss_family) == AF_INET6 {
            let raw = unsafe { (&raw const self.raw).cast::<sockaddr_in6>().read() };
            Ipv6Addr::from(raw.sin6_addr.s6_addr).to_string()
        } else {
            let raw = unsafe { (&raw const self.raw).cast::<sockaddr_in>().read() };
            Ipv4Addr::from(u32::from_be(raw.sin_addr.s_addr)).to_string()
        }
    }
}

fn told(call: impl FnOnce(*mut sockaddr, *mut socklen_t) -> c_int) -> Outcome<Address> {
    let mut address = Address::unspecified();
    address.len = 128;
    let value = call((&raw mut address.raw).cast(), &raw mut address.len);
    succeeded("get a name", value)?;
    Ok(address)
}

pub fn name_of(fd: c_int) -> Outcome<Address> {
    told(|a, l| raw!(getsockname(fd, a, l)))
}

pub fn peer_of(fd: c_int) -> Outcome<Address> {
    told(|a, l| raw!(getpeername(fd, a, l)))
}

pub fn new_tcp() -> Outcome<c_int> {
    Ok(ok!(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)))
}

pub fn new_udp() -> Outcome<c_int> {
    Ok(ok!(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)))
}

pub fn bind_to(fd: c_int, to: Address) -> c_int {
    raw!(bind(fd, to.ptr(), to.len))
}

pub fn connect_to(fd: c_int, to: Address) -> c_int {
    raw!(connect(fd, to.ptr(), to.len))
}

/// A listener on a free port of 127.0.0.1, and its address.
pub fn tcp_listener(backlog: c_int) -> Outcome<(c_int, Address)> {
    let fd = new_tcp()?;
    succeeded("bind", bind_to(fd, Address::local(0)))?;
    ok!(listen(fd, backlog));
    Ok((fd, name_of(fd)?))
}

pub fn accept_one(fd: c_int) -> Outcome<c_int> {
    Ok(ok!(accept4(
        fd,
        std::ptr::null_mut(),
        std::ptr::null_mut(),
        SOCK_CLOEXEC
    )))
}

/// A client, and the server's end of its connection.
pub fn tcp_pair() -> Outcome<(c_int, c_int)> {
    let (server, address) = tcp_listener(1)?;
    let client = new_tcp()?;
    succeeded("connect", connect_to(client, address))?;
    let peer = accept_one(server)?;
    ok!(close(server));
    Ok((client, peer))
}

/// A UDP socket on a free port of 127.0.0.1, and its address.
pub fn udp_bound() -> Outcome<(c_int, Address)> {
    let fd = new_udp()?;
    succeeded("bind", bind_to(fd, Address::local(0)))?;
    Ok((fd, name_of(fd)?))
}

pub fn set_int(fd: c_int, level: c_int, name: c_int, value: c_int) -> c_int {
    raw!(setsockopt(fd, level, name, (&raw const value).cast(), 4))
}

pub fn set_on(fd: c_int, level: c_int, name: c_int) -> Outcome {
    succeeded("setsockopt", set_int(fd, level, name, 1))?;
    Ok(())
}

pub fn get_int(fd: c_int, level: c_int, name: c_int) -> Outcome<c_int> {
    let mut value: c_int = -1;
    let mut len = 4;
    ok!(getsockopt(
        fd,
        level,
        name,
        (&raw mut value).cast(),
        &mut len
    ));
    Ok(value)
}

pub fn socket_error(fd: c_int) -> Outcome<c_int> {
    get_int(fd, SOL_SOCKET, SO_ERROR)
}

/// What poll(2) shows of a socket, waiting up to ten seconds for one of `events`.
pub fn poll_for(fd: c_int, events: c_short) -> Outcome<c_short> {
    let mut fds = [pollfd {
        fd,
        events,
        revents: 0,
    }];
    ok!(poll(fds.as_mut_ptr(), 1, 10_000));
    Ok(fds[0].revents)
}

/// As [`poll_for`], without waiting.
pub fn poll_now(fd: c_int, events: c_short) -> Outcome<c_short> {
    let mut fds = [pollfd {
        fd,
        events,
        revents: 0,
    }];
    ok!(poll(fds.as_mut_ptr(), 1, 0));
    Ok(fds[0].revents)
}

pub fn send_text(fd: c_int, text: &[u8], flags: c_int) -> isize {
    raw!(send(fd, text.as_ptr().cast(), text.len(), flags))
}

pub fn send_to(fd: c_int, text: &[u8], to: Address) -> isize {
    raw!(sendto(
        fd,
        text.as_ptr().cast(),
        text.len(),
        0,
        to.ptr(),
        to.len
    ))
}

pub fn receive(fd: c_int, max: usize, flags: c_int) -> Outcome<Vec<u8>> {
    let mut buf = vec![0u8; max];
    let n = ok!(recv(fd, buf.as_mut_ptr().cast(), max, flags));
    buf.truncate(n as usize);
    Ok(buf)
}

pub fn nonblocking(fd: c_int) -> Outcome {
    ok!(fcntl(fd, F_SETFL, O_NONBLOCK));
    Ok(())
}

/// A datagram's bytes, control messages, msg_flags and address.
pub type Message = (Vec<u8>, Vec<ControlMessage>, c_int, Address);

pub fn receive_message(fd: c_int, max: usize, flags: c_int) -> Outcome<Message> {
    let mut from = Address::unspecified();
    let (bytes, found, told) = receive_control(fd, max, 512, Some(&mut from), flags)?;
    Ok((bytes, found, told, from))
}

/// The data of a control message.
pub fn control_of(message: &Message, level: c_int, kind: c_int) -> Outcome<Vec<u8>> {
    let found = message.1.iter().find(|m| (m.0, m.1) == (level, kind));
    match found {
        Some(m) => Ok(m.2.clone()),
        None => fail!("no control message {level}/{kind} in {:?}", message.1),
    }
}

/// Sends with one control message; what sendmsg(2) returned.
pub fn send_with(fd: c_int, text: &[u8], to: Address, kind: (c_int, c_int), data: &[u8]) -> isize {
    send_control(fd, text, Some(&to), kind, data, 0)
}

pub fn set_bytes(fd: c_int, level: c_int, name: c_int, value: &[u8]) -> c_int {
    let (at, len) = (value.as_ptr().cast(), value.len() as socklen_t);
    raw!(setsockopt(fd, level, name, at, len))
}
