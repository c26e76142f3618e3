//! The line in the making: text with a bound, and the shapes that all arguments share.

use super::memory::{quote, read_exact, read_up_to};
use super::{Limits, Memory, error_of};
use crate::types::{Arch, Syscall};
use std::fmt::{self, Write};
use std::ops::Range;

/// Collects one part of a line.
pub(super) struct Printer<'a> {
    out: String,
    pub arch: Arch,
    pub limits: Limits,
    pub row: &'static Syscall,
    pub args: [u64; 6],
    /// What the call returned; `None` before it did, or if it never does.
    pub result: Option<i64>,
    mem: &'a dyn Memory,
}

impl<'a> Printer<'a> {
    pub fn new(
        arch: Arch,
        limits: Limits,
        row: &'static Syscall,
        args: &[u64; 6],
        result: Option<i64>,
        mem: &'a dyn Memory,
    ) -> Self {
        let mut args = *args;
        if arch == Arch::Aarch64 && row.name == "clone" {
            args.swap(3, 4);
        }
        Printer {
            out: String::new(),
            arch,
            limits,
            row,
            args,
            result,
            mem,
        }
    }

    pub fn finish(self) -> String {
        self.out
    }

    pub fn text(&mut self, text: &str) {
        self.out.push_str(text);
    }

    pub fn put(&mut self, text: fmt::Arguments<'_>) {
        let written = self.out.write_fmt(text);
        debug_assert!(written.is_ok(), "writing to a String does not fail");
    }

    /// True once the line is as long as it may be.
    pub fn is_full(&self) -> bool {
        self.out.len() >= self.limits.line
    }

    /// The value of argument `i`; 0 for one that no call has.
    pub fn arg(&self, i: usize) -> u64 {
        self.args.get(i).copied().unwrap_or(0)
    }

    /// The result of a call that succeeded.
    pub fn success(&self) -> Option<u64> {
        self.result
            .filter(|value| error_of(*value).is_none())
            .map(i64::cast_unsigned)
    }

    /// Prints the arguments of `range` that the call uses, with commas between; false if there
    /// was none.
    pub fn args_in(&mut self, range: Range<usize>) -> bool {
        let mut any = false;
        for i in range {
            if self.omits(i) {
                continue;
            }
            if any {
                self.text(", ");
            }
            any = true;
            self.print_arg(i);
        }
        any
    }

    pub fn addr(&mut self, addr: u64) {
        if addr == 0 {
            self.text("NULL")
        } else {
            self.put(format_args!("{addr:#x}"))
        }
    }

    /// All of `len` bytes at `addr`, with `len` at most a few hundred. Prints the address and
    /// gives `None` if they cannot be read.
    pub fn record(&mut self, addr: u64, len: usize) -> Option<Vec<u8>> {
        let bytes = if addr == 0 {
            None
        } else {
            read_exact(self.mem, addr, len)
        };
        if bytes.is_none() {
            self.addr(addr);
        }
        bytes
    }

    /// Like [`Printer::record`], for what the kernel has written: not there if the call failed.
    pub fn out_record(&mut self, addr: u64, len: usize) -> Option<Vec<u8>> {
        if self.success().is_none() {
            self.addr(addr);
            return None;
        }
        self.record(addr, len)
    }

    /// Bytes at `addr`, quoted, with `...` where the limit cut them.
    pub fn buffer(&mut self, addr: u64, len: u64) {
        if addr == 0 {
            return self.text("NULL");
        }
        let shown = usize::try_from(len)
            .unwrap_or(usize::MAX)
            .min(self.limits.string);
        let bytes = read_up_to(self.mem, addr, shown);
        if bytes.is_empty() && len != 0 {
            return self.addr(addr);
        }
        quote(&mut self.out, &bytes);
        if (bytes.len() as u64) < len {
            self.text("...");
        }
    }

    pub fn quoted(&mut self, bytes: &[u8]) {
        quote(&mut self.out, bytes);
    }

    /// A NUL-terminated string of at most `limit` bytes.
    pub fn c_string(&mut self, addr: u64, limit: usize) {
        if addr == 0 {
            return self.text("NULL");
        }
        let bytes = read_up_to(self.mem, addr, limit.saturating_add(1));
        match bytes.iter().position(|byte| *byte == 0) {
            Some(end) => quote(&mut self.out, &bytes[..end]),
            // Unreadable before its end: an address tells more than half a string.
            None if bytes.len() <= limit => self.addr(addr),
            None => {
                quote(&mut self.out, &bytes[..limit]);
                self.text("...");
            }
        }
    }

    /// `[a, b, ...]` of `count` elements of `size` bytes at `addr`, each printed by `print`.
    pub fn array(
        &mut self,
        addr: u64,
        count: u64,
        size: usize,
        mut print: impl FnMut(&mut Self, &[u8]),
    ) {
        if addr == 0 {
            return self.text("NULL");
        }
        let shown = usize::try_from(count)
            .unwrap_or(usize::MAX)
            .min(self.limits.items);
        let bytes = read_up_to(self.mem, addr, shown.saturating_mul(size));
        if shown != 0 && bytes.len() < size {
            return self.addr(addr);
        }
        self.text("[");
        let mut printed = 0;
        for element in bytes.chunks_exact(size.max(1)) {
            if self.is_full() {
                break;
            }
            if printed != 0 {
                self.text(", ");
            }
            printed += 1;
            print(self, element);
        }
        if (printed as u64) < count {
            self.text(if printed == 0 { "..." } else { ", ..." });
        }
        self.text("]");
    }

    /// Raw bytes for what is decoded and not quoted, at most `len`.
    pub fn bytes(&self, addr: u64, len: usize) -> Vec<u8> {
        if addr == 0 {
            Vec::new()
        } else {
            read_up_to(self.mem, addr, len)
        }
    }

    /// The pointers of a NULL-terminated array, at most `limit`, and whether its end was seen.
    pub fn pointers(&self, addr: u64, limit: usize) -> (Vec<u64>, bool) {
        let bytes = self.bytes(addr, limit.saturating_add(1).saturating_mul(8));
        let mut found = Vec::new();
        for word in bytes.chunks_exact(8) {
            match super::memory::Record::new(word).u64(0) {
                0 => return (found, true),
                pointer if found.len() < limit => found.push(pointer),
                _ => break,
            }
        }
        (found, false)
    }
}
