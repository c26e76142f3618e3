//! `#!` lines (execve(2), "Interpreter scripts").

use crate::errno::{Errno, Result};

/// Bytes of a file that decide what it is (BINPRM_BUF_SIZE).
pub const HEAD: usize = 256;

/// What a `#!` line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    pub interpreter: Vec<u8>,
    /// All of the rest of the line, as one argument.
    pub argument: Option<Vec<u8>>,
}

/// Parses the first [`HEAD`] bytes of a file (padded with NULs). None: no script.
///
/// # Errors
/// ENOEXEC for a line without an interpreter, or one cut off within its name.
pub fn parse(head: &[u8; HEAD]) -> Result<Option<Script>> {
    if !head.starts_with(b"#!") {
        return Ok(None);
    }
    let blank = |b: &u8| *b == b' ' || *b == b'\t';
    let line = match head.iter().position(|&b| b == b'\n') {
        Some(end) => &head[2..end],
        None => {
            // The line goes on beyond what is read: the interpreter's name at least must be whole.
            let rest = &head[2..HEAD - 1];
            let name = rest.iter().position(|b| !blank(b)).ok_or(Errno::ENOEXEC)?;
            if !rest[name..].iter().any(|b| blank(b) || *b == 0) {
                return Err(Errno::ENOEXEC);
            }
            rest
        }
    };
    // What follows a NUL is not seen.
    let line = line.split(|&b| b == 0).next().unwrap_or_default();
    let start = line.iter().position(|b| !blank(b)).ok_or(Errno::ENOEXEC)?;
    let end = line.iter().rposition(|b| !blank(b)).ok_or(Errno::ENOEXEC)?;
    let line = &line[start..=end];
    let (interpreter, rest) = match line.iter().position(blank) {
        Some(at) => line.split_at(at),
        None => (line, &[][..]),
    };
    let argument = rest
        .iter()
        .position(|b| !blank(b))
        .map(|at| rest[at..].to_vec());
    Ok(Some(Script {
        interpreter: interpreter.to_vec(),
        argument,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &[u8]) -> [u8; HEAD] {
        let mut head = [0; HEAD];
        let n = text.len().min(HEAD);
        head[..n].copy_from_slice(&text[..n]);
        head
    }

    fn parsed(text: &[u8]) -> Result<Option<(String, Option<String>)>> {
        let text_of = |b: Vec<u8>| String::from_utf8(b).unwrap();
        Ok(parse(&head(text))?.map(|s| (text_of(s.interpreter), s.argument.map(text_of))))
    }

    fn script(name: &str, arg: Option<&str>) -> Result<Option<(String, Option<String>)>> {
        Ok(Some((name.into(), arg.map(Into::into))))
    }

    #[test]
    fn lines_are_cut_as_linux_cuts_them() {
        assert_eq!(parsed(b"\x7fELF"), Ok(None));
        assert_eq!(parsed(b"#"), Ok(None));
        assert_eq!(parsed(b"#!/bin/sh\necho"), script("/bin/sh", None));
        assert_eq!(parsed(b"#!/bin/sh"), script("/bin/sh", None));
        assert_eq!(parsed(b"#! \t/bin/sh \t \n"), script("/bin/sh", None));
        assert_eq!(
            parsed(b"#!/usr/bin/env  a b  c \nx"),
            script("/usr/bin/env", Some("a b  c"))
        );
        assert_eq!(parsed(b"#!\n"), Err(Errno::ENOEXEC));
        assert_eq!(parsed(b"#!   \n"), Err(Errno::ENOEXEC));
        assert_eq!(parsed(b"#!"), Err(Errno::ENOEXEC));
    }

    #[test]
    fn a_long_line_needs_a_whole_name() {
        let mut long = b"#!/".to_vec();
        long.resize(300, b'a');
        assert_eq!(parsed(&long), Err(Errno::ENOEXEC));
        long[200] = b' ';
        let (name, arg) = parsed(&long).unwrap().unwrap();
        assert_eq!(name.len(), 198);
        assert_eq!(arg.unwrap().len(), 255 - 201);
    }
}
