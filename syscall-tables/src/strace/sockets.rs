//! Socket addresses, options and messages in the guest's memory.

use super::flags::{self, bits, choice};
use super::memory::Record;
use super::printer::Printer;
use std::net::{Ipv4Addr, Ipv6Addr};

/// The size of `struct sockaddr_storage`; no address is longer.
const ADDRESS_MAX: u64 = 128;

impl Printer<'_> {
    pub fn socket_address(&mut self, addr: u64, len: u64) {
        // The length is an `int`, and the kernel refuses one beyond the maximum.
        let len = (len & 0xffff_ffff).min(ADDRESS_MAX);
        let size = usize::try_from(len).unwrap_or(0);
        if size < 2 {
            return self.addr(addr);
        }
        let Some(bytes) = self.record(addr, size) else {
            return;
        };
        let address = Record::new(&bytes);
        let family = address.u16(0);
        self.put(format_args!(
            "{{sa_family={}",
            choice(u64::from(family), flags::DOMAIN)
        ));
        match family {
            1 => self.unix_path(address.slice(2, size)),
            2 if size >= 8 => {
                let port = u16::from_be(address.u16(2));
                let host = Ipv4Addr::from(u32::from_be(address.u32(4)));
                self.put(format_args!(
                    ", sin_port=htons({port}), sin_addr=inet_addr(\"{host}\")"
                ));
            }
            10 if size >= 24 => {
                let port = u16::from_be(address.u16(2));
                let host = address.slice(8, 24);
                let host = <[u8; 16]>::try_from(host).map_or(Ipv6Addr::UNSPECIFIED, Ipv6Addr::from);
                self.put(format_args!(
                    ", sin6_port=htons({port}), sin6_addr=\"{host}\""
                ));
            }
            16 if size >= 12 => {
                let (port, groups) = (address.u32(4), address.u32(8));
                self.put(format_args!(", nl_pid={port}, nl_groups={groups:#x}"));
            }
            _ if size > 2 => {
                self.text(", sa_data=");
                self.quoted(address.slice(2, size));
            }
            _ => {}
        }
        self.text("}");
    }

    /// A path ends at its NUL; an abstract name begins with one and is printed with `@`.
    fn unix_path(&mut self, path: &[u8]) {
        match path.split_first() {
            None => {}
            Some((0, [])) => self.text(", sun_path=@\"\""),
            Some((0, name)) => {
                self.text(", sun_path=@");
                self.quoted(name);
            }
            Some(_) => {
                let end = path
                    .iter()
                    .position(|byte| *byte == 0)
                    .unwrap_or(path.len());
                self.text(", sun_path=");
                self.quoted(&path[..end]);
            }
        }
    }

    /// An address whose length the kernel has written to `len_ptr`.
    pub fn out_socket_address(&mut self, addr: u64, len_ptr: u64) {
        let len = self.bytes(len_ptr, 4);
        if self.success().is_none() || addr == 0 || len.len() < 4 {
            return self.addr(addr);
        }
        self.socket_address(addr, u64::from(Record::new(&len).u32(0)));
    }

    pub fn socket_option(&mut self, option: u64) {
        let names = match self.arg(1) & 0xffff_ffff {
            1 => flags::SO,
            6 => flags::TCP,
            _ => return self.put(format_args!("{}", option & 0xffff_ffff)),
        };
        let text = choice(option & 0xffff_ffff, names);
        self.text(&text);
    }

    pub fn option_value(&mut self, addr: u64, len: u64) {
        if len & 0xffff_ffff != 4 {
            return self.buffer(addr, len & 0xffff_ffff);
        }
        if let Some(bytes) = self.record(addr, 4) {
            self.put(format_args!("[{}]", Record::new(&bytes).i32(0)));
        }
    }

    pub fn out_option_value(&mut self, addr: u64, len_ptr: u64) {
        let len = self.bytes(len_ptr, 4);
        if self.success().is_none() || len.len() < 4 {
            return self.addr(addr);
        }
        self.option_value(addr, u64::from(Record::new(&len).u32(0)));
    }

    /// `struct msghdr`; with `received` its buffers hold only so many bytes.
    pub fn message(&mut self, addr: u64, received: Option<u64>) {
        if let Some(bytes) = self.record(addr, 56) {
            self.message_header(&Record::new(&bytes), received);
        }
    }

    fn message_header(&mut self, header: &Record<'_>, received: Option<u64>) {
        let name_len = header.u32(8);
        self.text("{msg_name=");
        self.socket_address(header.u64(0), u64::from(name_len));
        self.put(format_args!(", msg_namelen={name_len}, msg_iov="));
        self.io_vector(header.u64(16), header.u64(24), received);
        self.put(format_args!(", msg_iovlen={}", header.u64(24)));
        if header.u64(40) != 0 {
            self.text(", msg_control=");
            self.control(header.u64(32), header.u64(40));
        }
        let message_flags = bits(u64::from(header.u32(48)), flags::MSG);
        self.put(format_args!(
            ", msg_controllen={}, msg_flags={message_flags}}}",
            header.u64(40)
        ));
    }

    /// Control messages: descriptors and credentials are spelled out.
    fn control(&mut self, addr: u64, len: u64) {
        const MOST: u64 = 4096;
        let wanted = usize::try_from(len.min(MOST)).unwrap_or(0);
        let Some(bytes) = self.record(addr, wanted) else {
            return;
        };
        let (mut at, mut count) = (0, 0);
        self.text("[");
        while at + 16 <= bytes.len() && count < self.limits.items && !self.is_full() {
            let header = Record::new(&bytes[at..]);
            let size = usize::try_from(header.u64(0)).unwrap_or(usize::MAX);
            if size < 16 {
                break;
            }
            let level = choice(u64::from(header.u32(8)), flags::SOCK_LEVEL);
            let kind = match header.u32(8) {
                1 => choice(u64::from(header.u32(12)), flags::SCM),
                _ => header.u32(12).to_string(),
            };
            self.put(format_args!(
                "{}{{cmsg_len={}, cmsg_level={level}, cmsg_type={kind}",
                if count == 0 { "" } else { ", " },
                header.u64(0)
            ));
            let data = header.slice(16, size);
            match (header.u32(8), header.u32(12)) {
                (1, 1) => {
                    let fds: Vec<String> = data
                        .chunks_exact(4)
                        .take(self.limits.items)
                        .map(|fd| Record::new(fd).i32(0).to_string())
                        .collect();
                    self.put(format_args!(", cmsg_data=[{}]", fds.join(", ")));
                }
                (1, 2) => {
                    let who = Record::new(data);
                    let (pid, uid, gid) = (who.i32(0), who.u32(4), who.u32(8));
                    self.put(format_args!(
                        ", cmsg_data={{pid={pid}, uid={uid}, gid={gid}}}"
                    ));
                }
                _ => {}
            }
            self.text("}");
            count += 1;
            // The next header begins at a multiple of 8.
            at = match size
                .checked_next_multiple_of(8)
                .and_then(|step| at.checked_add(step))
            {
                Some(next) => next,
                None => break,
            };
        }
        self.text("]");
    }

    pub fn messages(&mut self, addr: u64, count: u64, received: bool) {
        self.array(addr, count & 0xffff_ffff, 64, |printer, element| {
            let entry = Record::new(element);
            let len = entry.u32(56);
            printer.text("{msg_hdr=");
            printer.message_header(&entry, received.then_some(u64::from(len)));
            printer.put(format_args!(", msg_len={len}}}"));
        });
    }
}
