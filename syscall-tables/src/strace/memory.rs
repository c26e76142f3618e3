//! Reading the guest's memory into small records, and quoting its bytes.

use super::Memory;
use std::fmt::Write;

/// Bytes of a guest structure, read once. Fields beyond the end read as zero.
pub(super) struct Record<'a> {
    bytes: &'a [u8],
}

impl<'a> Record<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Record { bytes }
    }

    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut field = [0; N];
        if let Some(bytes) = at.checked_add(N).and_then(|end| self.bytes.get(at..end)) {
            field.copy_from_slice(bytes);
        }
        field
    }

    pub fn u16(&self, at: usize) -> u16 {
        u16::from_ne_bytes(self.array(at))
    }

    pub fn u32(&self, at: usize) -> u32 {
        u32::from_ne_bytes(self.array(at))
    }

    pub fn i32(&self, at: usize) -> i32 {
        i32::from_ne_bytes(self.array(at))
    }

    pub fn u64(&self, at: usize) -> u64 {
        u64::from_ne_bytes(self.array(at))
    }

    pub fn i64(&self, at: usize) -> i64 {
        i64::from_ne_bytes(self.array(at))
    }

    /// The bytes from `at` to `end`, or what there is of them.
    pub fn slice(&self, at: usize, end: usize) -> &'a [u8] {
        let end = end.min(self.bytes.len());
        self.bytes.get(at..end).unwrap_or(&[])
    }
}

/// As many of `len` bytes at `addr` as can be read.
pub(super) fn read_up_to(mem: &dyn Memory, addr: u64, len: usize) -> Vec<u8> {
    let mut buf = vec![0; len];
    let got = mem.read(addr, &mut buf).min(len);
    buf.truncate(got);
    buf
}

/// All of `len` bytes at `addr`.
pub(super) fn read_exact(mem: &dyn Memory, addr: u64, len: usize) -> Option<Vec<u8>> {
    let buf = read_up_to(mem, addr, len);
    (buf.len() == len).then_some(buf)
}

/// Appends `bytes` in quotes, escaped as C does it: only printable ASCII is left as it is.
pub(super) fn quote(out: &mut String, bytes: &[u8]) {
    out.push('"');
    for (i, &byte) in bytes.iter().enumerate() {
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            b'\x0b' => out.push_str("\\v"),
            b'\x0c' => out.push_str("\\f"),
            b' '..=b'~' => out.push(char::from(byte)),
            _ => {
                // A digit that follows must not be taken for part of the escape.
                let wide = bytes.get(i + 1).is_some_and(u8::is_ascii_digit);
                let written = if wide {
                    write!(out, "\\{byte:03o}")
                } else {
                    write!(out, "\\{byte:o}")
                };
                debug_assert!(written.is_ok(), "writing to a String does not fail");
            }
        }
    }
    out.push('"');
}
