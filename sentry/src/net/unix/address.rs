//! Addresses of unix sockets, and the names that are not in the file system.

use std::collections::BTreeMap;
use std::sync::Weak;

use super::Unix;
use crate::errno::{Errno, Result};
use crate::net::socket::{Kind, Name};

/// sizeof(sun_path).
const PATH_MAX: usize = 108;

/// What a socket is bound to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Address {
    /// A name in the file system, as bind(2) was given it.
    Path(Vec<u8>),
    /// A name of its own kind, without the leading NUL.
    Abstract(Vec<u8>),
}

impl Address {
    /// From struct sockaddr_un. None: only a family (autobind, or disconnect).
    ///
    /// # Errors
    /// EINVAL for another family or a length that does not fit.
    pub fn decode(raw: &[u8]) -> Result<Option<Address>> {
        let [a, b, path @ ..] = raw else {
            return Err(Errno::EINVAL);
        };
        if i32::from(u16::from_ne_bytes([*a, *b])) != libc::AF_UNIX || path.len() > PATH_MAX {
            return Err(Errno::EINVAL);
        }
        Ok(match path {
            [] => None,
            [0, name @ ..] => Some(Address::Abstract(name.to_vec())),
            _ => {
                let end = path.iter().position(|b| *b == 0).unwrap_or(path.len());
                Some(Address::Path(path[..end].to_vec()))
            }
        })
    }

    /// As [`encode`](Self::encode).
    pub fn name(address: Option<&Address>) -> Name {
        // decode() lets nothing longer in.
        Name::new(&Self::encode(address)).unwrap_or(Name::EMPTY)
    }

    /// struct sockaddr_un, for `None` the family alone.
    pub fn encode(address: Option<&Address>) -> Vec<u8> {
        let mut raw = (libc::AF_UNIX as u16).to_ne_bytes().to_vec();
        match address {
            None => {}
            Some(Address::Path(path)) => {
                raw.extend_from_slice(path);
                raw.push(0);
            }
            Some(Address::Abstract(name)) => {
                raw.push(0);
                raw.extend_from_slice(name);
            }
        }
        raw
    }
}

/// Abstract names of a network namespace. Each type of socket has names of its own.
#[derive(Default)]
pub struct Names {
    taken: BTreeMap<(Kind, Vec<u8>), Weak<Unix>>,
    /// Where the search for a free name goes on.
    next: u32,
}

impl Names {
    /// Binds an abstract name. EADDRINUSE.
    pub(super) fn claim(&mut self, kind: Kind, name: &[u8], socket: Weak<Unix>) -> Result<()> {
        let key = (kind, name.to_vec());
        if self.taken.get(&key).is_some_and(|s| s.strong_count() > 0) {
            return Err(Errno::EADDRINUSE);
        }
        self.taken.insert(key, socket);
        Ok(())
    }

    /// Binds a free name of five digits (unix(7), "Autobind feature").
    pub(super) fn claim_any(&mut self, kind: Kind, socket: &Weak<Unix>) -> Result<Address> {
        for _ in 0..1 << 20 {
            let name = format!("{:05x}", self.next & 0xF_FFFF);
            self.next = self.next.wrapping_add(1);
            if self.claim(kind, name.as_bytes(), socket.clone()).is_ok() {
                return Ok(Address::Abstract(name.into_bytes()));
            }
        }
        Err(Errno::ENOSPC)
    }

    /// Gives a name back, if it is this socket's.
    pub(super) fn release(&mut self, kind: Kind, name: &[u8], socket: &Weak<Unix>) {
        let key = (kind, name.to_vec());
        if self.taken.get(&key).is_some_and(|s| s.ptr_eq(socket)) {
            self.taken.remove(&key);
        }
    }

    /// The socket with an abstract name. ECONNREFUSED.
    pub fn find(&self, kind: Kind, name: &[u8]) -> Result<std::sync::Arc<Unix>> {
        let found = self.taken.get(&(kind, name.to_vec()));
        found.and_then(Weak::upgrade).ok_or(Errno::ECONNREFUSED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_round_trip() {
        for (raw, address) in [
            (&b"\x01\0"[..], None),
            (b"\x01\0/tmp/s\0", Some(Address::Path(b"/tmp/s".to_vec()))),
            (b"\x01\0\0a\0b", Some(Address::Abstract(b"a\0b".to_vec()))),
        ] {
            assert_eq!(Address::decode(raw), Ok(address.clone()));
            assert_eq!(Address::encode(address.as_ref()), raw);
        }
        assert_eq!(Address::decode(b"\x02\0xx"), Err(Errno::EINVAL));
        assert_eq!(Address::decode(b"\x01"), Err(Errno::EINVAL));
        assert_eq!(Address::decode(&[1; 120]), Err(Errno::EINVAL));
    }
}
