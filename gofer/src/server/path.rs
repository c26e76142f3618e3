//! Names and paths a client sent, once they have been checked.

use crate::protocol::{Errno, MAX_NAME, MAX_PATH, MAX_WALK};

/// One component: not empty, not `.` or `..`, no `/`, no NUL, at most [`MAX_NAME`] bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Name<'a>(&'a [u8]);

impl<'a> Name<'a> {
    pub fn new(bytes: &'a [u8]) -> Result<Self, Errno> {
        if bytes.len() > MAX_NAME {
            return Err(Errno(libc::ENAMETOOLONG));
        }
        let plain = !matches!(bytes, b"" | b"." | b"..");
        if plain && !bytes.iter().any(|byte| matches!(byte, 0 | b'/')) {
            Ok(Self(bytes))
        } else {
            Err(Errno(libc::EINVAL))
        }
    }

    pub fn bytes(self) -> &'a [u8] {
        self.0
    }
}

/// A path below a mount's root: [`Name`]s with single slashes between them, at most
/// [`MAX_PATH`] bytes. Empty for the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RelPath<'a>(&'a [u8]);

impl<'a> RelPath<'a> {
    pub fn new(bytes: &'a [u8]) -> Result<Self, Errno> {
        if bytes.len() > MAX_PATH {
            return Err(Errno(libc::ENAMETOOLONG));
        }
        if !bytes.is_empty() {
            for component in bytes.split(|byte| *byte == b'/') {
                Name::new(component)?;
            }
        }
        Ok(Self(bytes))
    }

    pub fn bytes(self) -> &'a [u8] {
        self.0
    }

    pub fn is_root(self) -> bool {
        self.0.is_empty()
    }

    /// The parent's path and the last component; `None` for the root.
    pub fn split_last(self) -> Option<(RelPath<'a>, Name<'a>)> {
        if self.is_root() {
            return None;
        }
        match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => {
                let (parent, rest) = self.0.split_at(slash);
                Some((Self(parent), Name(rest.get(1..).unwrap_or_default())))
            }
            None => Some((Self(b""), Name(self.0))),
        }
    }
}

/// The components of a walk, joined with `/`. Too long a name is the business of the walk (it
/// reports how far it came); anything else that is no name is not a request.
pub(super) fn walk_names(bytes: &[u8]) -> Result<Vec<&[u8]>, Errno> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let mut names = Vec::new();
    for name in bytes.split(|byte| *byte == b'/') {
        match Name::new(name) {
            Err(Errno(libc::EINVAL)) => return Err(Errno(libc::EINVAL)),
            _ if names.len() == MAX_WALK => return Err(Errno(libc::E2BIG)),
            _ => names.push(name),
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in [&b"a"[..], b"...", b".a", b"a.", b"\xff\x01", &[b'x'; 255]] {
            assert!(Name::new(good).is_ok(), "{good:?}");
        }
        let cases: &[(&[u8], i32)] = &[
            (b"", libc::EINVAL),
            (b".", libc::EINVAL),
            (b"..", libc::EINVAL),
            (b"a/b", libc::EINVAL),
            (b"/", libc::EINVAL),
            (b"a\0", libc::EINVAL),
            (&[b'x'; 256], libc::ENAMETOOLONG),
        ];
        for (bad, errno) in cases {
            assert_eq!(Name::new(bad), Err(Errno(*errno)), "{bad:?}");
        }
    }

    #[test]
    fn paths() {
        for good in [&b""[..], b"a", b"a/b", b"a/.../b"] {
            assert!(RelPath::new(good).is_ok(), "{good:?}");
        }
        for bad in [
            &b"/"[..],
            b"/a",
            b"a/",
            b"a//b",
            b"..",
            b"a/../b",
            b"a/..",
            b"./a",
            b"a\0b",
        ] {
            assert_eq!(RelPath::new(bad), Err(Errno(libc::EINVAL)), "{bad:?}");
        }
        let long = b"a/".repeat(2048);
        assert!(RelPath::new(&long[..4095]).is_ok());
        assert_eq!(
            RelPath::new(&b"a/".repeat(2049)),
            Err(Errno(libc::ENAMETOOLONG))
        );
    }

    #[test]
    fn splitting() {
        let split = |path: &'static [u8]| {
            let path = RelPath::new(path).expect("valid");
            path.split_last()
                .map(|(parent, name)| (parent.bytes(), name.bytes()))
        };
        assert_eq!(split(b""), None);
        assert_eq!(split(b"a"), Some((&b""[..], &b"a"[..])));
        assert_eq!(split(b"a/b/c"), Some((&b"a/b"[..], &b"c"[..])));
    }

    #[test]
    fn walks() {
        assert_eq!(walk_names(b""), Ok(vec![]));
        assert_eq!(walk_names(b"a/b"), Ok(vec![&b"a"[..], b"b"]));
        assert_eq!(walk_names(b"a/../b"), Err(Errno(libc::EINVAL)));
        assert_eq!(walk_names(&[b'x'; 300]).map(|names| names.len()), Ok(1));
        assert_eq!(walk_names(&[b'/'; 300]), Err(Errno(libc::EINVAL)));
        assert_eq!(
            walk_names(&b"a/".repeat(257)[..513]),
            Err(Errno(libc::E2BIG))
        );
    }
}
