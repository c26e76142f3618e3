//! The line discipline (termios(3)): what happens to bytes between the two sides of a
//! pseudo-terminal.
//!
//! [`Line::input`] takes what was typed at the master: it edits lines, echoes and finds signal
//! characters. [`Line::output`] takes what a program writes. Both put what the master reads into
//! one output queue. Pure state, no locks, no waiting. Deliberately absent: parity and baud rates,
//! ECHOPRT, upper-case mapping.

use std::collections::VecDeque;

use crate::kernel::signal::Signal;

/// Bytes of the kernel's struct termios.
pub const TERMIOS_LEN: usize = 36;
/// Bytes of struct winsize.
pub const WINSIZE_LEN: usize = 8;
/// Most bytes of input kept (N_TTY_BUF_SIZE).
pub const INPUT_MAX: usize = 4096;
/// Most bytes of output kept for the master.
pub const OUTPUT_MAX: usize = 16 * 1024;

const NCCS: usize = 19;
/// A control character of 0 is disabled (_POSIX_VDISABLE).
const DISABLED: u8 = 0;

/// struct termios of the kernel ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Termios {
    pub iflag: u32,
    pub oflag: u32,
    pub cflag: u32,
    pub lflag: u32,
    pub line: u8,
    pub cc: [u8; NCCS],
}

impl Default for Termios {
    /// tty_std_termios with a pseudo-terminal's changes.
    fn default() -> Self {
        let mut cc = [0; NCCS];
        for (index, value) in [
            (libc::VINTR, 3),
            (libc::VQUIT, 28),
            (libc::VERASE, 127),
            (libc::VKILL, 21),
            (libc::VEOF, 4),
            (libc::VMIN, 1),
            (libc::VSTART, 17),
            (libc::VSTOP, 19),
            (libc::VSUSP, 26),
            (libc::VREPRINT, 18),
            (libc::VDISCARD, 15),
            (libc::VWERASE, 23),
            (libc::VLNEXT, 22),
        ] {
            cc[index] = value;
        }
        Termios {
            iflag: libc::ICRNL | libc::IXON,
            oflag: libc::OPOST | libc::ONLCR,
            cflag: libc::B38400 | libc::CS8 | libc::CREAD,
            lflag: libc::ISIG
                | libc::ICANON
                | libc::ECHO
                | libc::ECHOE
                | libc::ECHOK
                | libc::ECHOCTL
                | libc::ECHOKE
                | libc::IEXTEN,
            line: 0,
            cc,
        }
    }
}

impl Termios {
    pub fn encode(&self) -> [u8; TERMIOS_LEN] {
        let mut b = [0; TERMIOS_LEN];
        let flags = [self.iflag, self.oflag, self.cflag, self.lflag];
        for (chunk, flag) in b.chunks_exact_mut(4).zip(flags) {
            chunk.copy_from_slice(&flag.to_ne_bytes());
        }
        b[16] = self.line;
        b[17..].copy_from_slice(&self.cc);
        b
    }

    pub fn decode(b: &[u8; TERMIOS_LEN]) -> Termios {
        let flag = |i: usize| u32::from_ne_bytes([b[i], b[i + 1], b[i + 2], b[i + 3]]);
        let mut cc = [0; NCCS];
        cc.copy_from_slice(&b[17..]);
        Termios {
            iflag: flag(0),
            oflag: flag(4),
            cflag: flag(8),
            lflag: flag(12),
            line: b[16],
            cc,
        }
    }

    fn i(&self, flag: u32) -> bool {
        self.iflag & flag != 0
    }
    fn o(&self, flag: u32) -> bool {
        self.oflag & flag != 0
    }
    pub fn l(&self, flag: u32) -> bool {
        self.lflag & flag != 0
    }
    fn is(&self, byte: u8, index: usize) -> bool {
        self.cc[index] != DISABLED && self.cc[index] == byte
    }
}

/// What a read finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Available {
    Nothing,
    /// So many bytes may be read; 0 is an end of file.
    Bytes(usize),
}

/// See the module documentation.
#[derive(Default)]
pub struct Line {
    pub termios: Termios,
    /// Input that programs may read.
    data: VecDeque<u8>,
    /// Canonical mode: lengths of the complete lines in `data`; a line that EOF ended has no
    /// newline, and with nothing before it is empty.
    lines: VecDeque<usize>,
    /// The line being edited.
    edit: Vec<u8>,
    /// The next byte is taken as it is (VLNEXT).
    literal: bool,
    /// What the master reads.
    output: VecDeque<u8>,
    column: usize,
    /// Column where the edited line began, for erasing.
    edit_column: usize,
    stopped: bool,
}

impl Line {
    fn canonical(&self) -> bool {
        self.termios.l(libc::ICANON)
    }

    /// TCSETS.
    pub fn set_termios(&mut self, new: Termios) {
        let was = self.canonical();
        self.termios = new;
        match (was, self.canonical()) {
            // Whatever was typed can be read at once.
            (true, false) => {
                self.lines.clear();
                let edit = std::mem::take(&mut self.edit);
                self.data.extend(edit);
            }
            (false, true) if !self.data.is_empty() => self.lines.push_back(self.data.len()),
            _ => {}
        }
        if !self.termios.i(libc::IXON) {
            self.stopped = false;
        }
    }

    /// TCFLSH of the input.
    pub fn flush_input(&mut self) {
        self.data.clear();
        self.lines.clear();
        self.edit.clear();
        self.literal = false;
    }

    /// TCFLSH of the output.
    pub fn flush_output(&mut self) {
        self.output.clear();
    }

    /// TCXONC.
    pub fn set_stopped(&mut self, stopped: bool) {
        self.stopped = stopped;
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// FIONREAD.
    pub fn input_len(&self) -> usize {
        if self.canonical() {
            self.lines.iter().sum()
        } else {
            self.data.len()
        }
    }

    pub fn output_len(&self) -> usize {
        self.output.len()
    }

    /// Room for what the master writes.
    pub fn input_room(&self) -> usize {
        let used = self.data.len() + self.edit.len();
        // In canonical mode a full buffer still takes what ends or edits the line.
        if self.canonical() && self.lines.is_empty() {
            return INPUT_MAX;
        }
        INPUT_MAX.saturating_sub(used)
    }

    pub fn output_room(&self) -> usize {
        if self.stopped {
            0
        } else {
            OUTPUT_MAX.saturating_sub(self.output.len())
        }
    }

    /// What can be read without regard to VMIN.
    pub fn available(&self) -> Available {
        if self.canonical() {
            match self.lines.front() {
                Some(n) => Available::Bytes(*n),
                None => Available::Nothing,
            }
        } else if self.data.is_empty() {
            Available::Nothing
        } else {
            Available::Bytes(self.data.len())
        }
    }

    /// VMIN and VTIME, None in canonical mode.
    pub fn min_and_time(&self) -> Option<(usize, u64)> {
        (!self.canonical()).then(|| {
            (
                usize::from(self.termios.cc[libc::VMIN]),
                u64::from(self.termios.cc[libc::VTIME]),
            )
        })
    }

    /// Takes up to `max` bytes, in canonical mode of one line.
    pub fn take(&mut self, max: usize) -> Vec<u8> {
        let n = match (self.canonical(), self.lines.front_mut()) {
            (true, None) => return Vec::new(),
            (true, Some(line)) => {
                let n = max.min(*line);
                *line -= n;
                if *line == 0 {
                    self.lines.pop_front();
                }
                n
            }
            (false, _) => max.min(self.data.len()),
        };
        self.data.drain(..n).collect()
    }

    /// Takes up to `max` bytes for the master.
    pub fn take_output(&mut self, max: usize) -> Vec<u8> {
        let n = max.min(self.output.len());
        self.output.drain(..n).collect()
    }

    /// Takes what a program writes: as much as there is room for; the bytes taken.
    pub fn output(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        for &byte in bytes {
            // The longest a byte becomes is a tab's eight.
            if self.output_room() < 8 {
                break;
            }
            self.put(byte);
            taken += 1;
        }
        taken
    }

    /// One byte to the master, by the rules of OPOST.
    fn put(&mut self, byte: u8) {
        if !self.termios.o(libc::OPOST) {
            self.output.push_back(byte);
            return;
        }
        match byte {
            b'\n' => {
                if self.termios.o(libc::ONLCR) {
                    self.output.push_back(b'\r');
                }
                if self.termios.o(libc::ONLCR) || self.termios.o(libc::ONLRET) {
                    self.column = 0;
                }
                self.output.push_back(b'\n');
            }
            b'\r' if self.termios.o(libc::ONOCR) && self.column == 0 => {}
            b'\r' if self.termios.o(libc::OCRNL) => {
                if self.termios.o(libc::ONLRET) {
                    self.column = 0;
                }
                self.output.push_back(b'\n');
            }
            b'\r' => {
                self.column = 0;
                self.output.push_back(b'\r');
            }
            b'\t' => {
                let spaces = 8 - self.column % 8;
                self.column += spaces;
                if self.termios.oflag & libc::TABDLY == libc::TAB3 {
                    self.output.extend(std::iter::repeat_n(b' ', spaces));
                } else {
                    self.output.push_back(b'\t');
                }
            }
            8 => {
                self.column = self.column.saturating_sub(1);
                self.output.push_back(8);
            }
            _ => {
                if byte >= 32 && byte != 127 && !self.continues(byte) {
                    self.column += 1;
                }
                self.output.push_back(byte);
            }
        }
    }

    /// A further byte of a UTF-8 character.
    fn continues(&self, byte: u8) -> bool {
        self.termios.i(libc::IUTF8) && byte & 0xC0 == 0x80
    }

    /// Takes what was typed; the signals to send to the foreground group.
    pub fn input(&mut self, bytes: &[u8]) -> Vec<Signal> {
        let mut signals = Vec::new();
        for &byte in bytes {
            self.input_byte(byte, &mut signals);
        }
        signals
    }

    fn input_byte(&mut self, byte: u8, signals: &mut Vec<Signal>) {
        let t = self.termios;
        let mut byte = byte;
        if t.i(libc::ISTRIP) {
            byte &= 0x7f;
        }
        if std::mem::take(&mut self.literal) {
            self.store(byte);
            return;
        }
        if t.i(libc::IXON) {
            if t.is(byte, libc::VSTOP) {
                self.stopped = true;
                return;
            }
            if t.is(byte, libc::VSTART) {
                self.stopped = false;
                return;
            }
            if self.stopped && t.i(libc::IXANY) {
                self.stopped = false;
            }
        }
        if t.l(libc::ISIG) {
            let signal = [
                (libc::VINTR, Signal::SIGINT),
                (libc::VQUIT, Signal::SIGQUIT),
                (libc::VSUSP, Signal::SIGTSTP),
            ]
            .into_iter()
            .find(|(index, _)| t.is(byte, *index));
            if let Some((_, signal)) = signal {
                if !t.l(libc::NOFLSH) {
                    self.flush_input();
                    self.output.clear();
                }
                self.stopped = false;
                self.echo(byte);
                signals.push(signal);
                return;
            }
        }
        match byte {
            b'\r' if t.i(libc::IGNCR) => return,
            b'\r' if t.i(libc::ICRNL) => byte = b'\n',
            b'\n' if t.i(libc::INLCR) => byte = b'\r',
            _ => {}
        }
        if !self.canonical() {
            if self.data.len() < INPUT_MAX {
                self.echo(byte);
                self.data.push_back(byte);
            }
            return;
        }
        self.edit_byte(byte);
    }

    fn edit_byte(&mut self, byte: u8) {
        let t = self.termios;
        let extended = t.l(libc::IEXTEN);
        if t.is(byte, libc::VERASE) {
            self.erase_char();
        } else if extended && t.is(byte, libc::VWERASE) {
            self.erase_word();
        } else if t.is(byte, libc::VKILL) {
            self.kill(byte);
        } else if extended && t.is(byte, libc::VLNEXT) {
            self.literal = true;
            if t.l(libc::ECHO) && t.l(libc::ECHOCTL) {
                self.echo_raw(b"^\x08");
            }
        } else if extended && t.is(byte, libc::VREPRINT) && t.l(libc::ECHO) {
            self.echo(byte);
            self.put(b'\n');
            for b in self.edit.clone() {
                self.echo(b);
            }
        } else if t.is(byte, libc::VEOF) {
            self.end_line();
        } else if byte == b'\n' || t.is(byte, libc::VEOL) || (extended && t.is(byte, libc::VEOL2)) {
            if t.l(libc::ECHO) || (byte == b'\n' && t.l(libc::ECHONL)) {
                if byte == b'\n' {
                    self.put(b'\n');
                } else {
                    self.echo(byte);
                }
            }
            self.edit.push(byte);
            self.end_line();
        } else {
            self.store(byte);
        }
    }

    /// A byte without a meaning.
    fn store(&mut self, byte: u8) {
        if self.data.len() + self.edit.len() >= INPUT_MAX - 1 {
            if self.termios.i(libc::IMAXBEL) {
                self.put(7);
            }
            return;
        }
        if !self.canonical() {
            self.echo(byte);
            self.data.push_back(byte);
            return;
        }
        if self.edit.is_empty() {
            self.edit_column = self.column;
        }
        self.echo(byte);
        self.edit.push(byte);
    }

    fn end_line(&mut self) {
        self.lines.push_back(self.edit.len());
        let edit = std::mem::take(&mut self.edit);
        self.data.extend(edit);
    }

    fn echo(&mut self, byte: u8) {
        if !self.termios.l(libc::ECHO) || self.output.len() >= OUTPUT_MAX {
            return;
        }
        if self.termios.l(libc::ECHOCTL) && (byte < 32 || byte == 127) && !b"\t\n".contains(&byte) {
            self.put(b'^');
            self.put(byte ^ 0x40);
        } else {
            self.put(byte);
        }
    }

    fn echo_raw(&mut self, bytes: &[u8]) {
        for &b in bytes {
            self.put(b);
        }
    }

    /// Columns a byte of the edited line takes, for one that begins at `column`.
    fn width(&self, byte: u8, column: usize) -> usize {
        match byte {
            b'\t' => 8 - column % 8,
            0..32 | 127 if self.termios.l(libc::ECHOCTL) => 2,
            0..32 | 127 => 0,
            _ if self.continues(byte) => 0,
            _ => 1,
        }
    }

    fn edit_width(&self) -> usize {
        let start = self.edit_column;
        let end = self
            .edit
            .iter()
            .fold(start, |column, b| column + self.width(*b, column));
        end - start
    }

    /// Removes the last character of the edited line and its echo. False: there is none.
    fn erase_char(&mut self) -> bool {
        let before = self.edit_width();
        let Some(mut last) = self.edit.pop() else {
            return false;
        };
        while self.continues(last) {
            match self.edit.pop() {
                Some(b) => last = b,
                None => break,
            }
        }
        if self.termios.l(libc::ECHO) {
            if self.termios.l(libc::ECHOE) {
                let gone = before.saturating_sub(self.edit_width());
                for _ in 0..gone {
                    if last == b'\t' {
                        self.echo_raw(b"\x08");
                    } else {
                        self.echo_raw(b"\x08 \x08");
                    }
                }
            } else {
                self.echo(self.termios.cc[libc::VERASE]);
            }
        }
        true
    }

    fn erase_word(&mut self) {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b >= 0x80;
        while self.edit.last().is_some_and(|b| !word(*b)) {
            self.erase_char();
        }
        while self.edit.last().is_some_and(|b| word(*b)) {
            self.erase_char();
        }
    }

    fn kill(&mut self, byte: u8) {
        let t = self.termios;
        if t.l(libc::ECHO) && t.l(libc::ECHOK) && t.l(libc::ECHOKE) && t.l(libc::ECHOE) {
            while self.erase_char() {}
            return;
        }
        self.edit.clear();
        if t.l(libc::ECHO) {
            self.echo(byte);
            if t.l(libc::ECHOK) {
                self.put(b'\n');
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(bytes: &[u8]) -> (Line, String) {
        let mut line = Line::default();
        line.input(bytes);
        let shown = shown(&mut line);
        (line, shown)
    }

    fn shown(line: &mut Line) -> String {
        String::from_utf8(line.take_output(OUTPUT_MAX)).unwrap()
    }

    #[test]
    fn lines_are_edited_and_echoed() {
        for (keys, echo, line) in [
            (&b"hi\r"[..], "hi\r\n", &b"hi\n"[..]),
            (b"ab\x7fc\n", "ab\x08 \x08c\r\n", b"ac\n"),
            (
                b"one two\x17\n",
                "one two\x08 \x08\x08 \x08\x08 \x08\r\n",
                b"one \n",
            ),
            (
                b"bad\x15ok\n",
                "bad\x08 \x08\x08 \x08\x08 \x08ok\r\n",
                b"ok\n",
            ),
            (b"\x01\x7fx\n", "^A\x08 \x08\x08 \x08x\r\n", b"x\n"),
            (b"\x16\x03\n", "^\x08^C\r\n", b"\x03\n"),
            (b"\x7f\n", "\r\n", b"\n"),
        ] {
            let (mut l, shown) = typed(keys);
            assert_eq!(shown, echo, "{keys:?}");
            assert_eq!(l.take(100), line, "{keys:?}");
        }
    }

    #[test]
    fn a_read_gets_one_line_and_eof_is_empty() {
        let (mut l, _) = typed(b"one\ntwo\nthr");
        assert_eq!(l.available(), Available::Bytes(4));
        assert_eq!(l.take(2), b"on");
        assert_eq!(l.take(100), b"e\n");
        assert_eq!(l.take(100), b"two\n");
        assert_eq!(l.available(), Available::Nothing);
        l.input(b"\x04");
        assert_eq!(l.take(100), b"thr");
        l.input(b"\x04");
        assert_eq!(l.available(), Available::Bytes(0));
        assert!(l.take(100).is_empty());
        assert_eq!(l.available(), Available::Nothing);
    }

    #[test]
    fn signals_flush_and_stop_characters_stop() {
        let mut l = Line::default();
        assert_eq!(l.input(b"abc\x03"), [Signal::SIGINT]);
        assert_eq!(l.input(b"\x1a\x1c"), [Signal::SIGTSTP, Signal::SIGQUIT]);
        l.input(b"\n");
        assert_eq!(l.take(10), b"\n");
        l.flush_output();
        l.input(b"\x13");
        assert_eq!((l.is_stopped(), l.output(b"x")), (true, 0));
        l.input(b"\x11");
        assert_eq!(l.output(b"x"), 1);
    }

    #[test]
    fn raw_mode_passes_everything() {
        let mut l = Line::default();
        l.input(b"typed ahead");
        let raw = Termios {
            iflag: 0,
            oflag: 0,
            lflag: 0,
            ..l.termios
        };
        l.flush_output();
        l.set_termios(raw);
        assert!(l.input(b"\x03\r\x7f\x04").is_empty());
        assert_eq!(l.take(100), b"typed ahead\x03\r\x7f\x04");
        assert_eq!(l.output(b"a\nb"), 3);
        assert_eq!(shown(&mut l), "a\nb");
        assert_eq!(Termios::decode(&raw.encode()), raw);
    }

    #[test]
    fn output_is_processed_and_bounded() {
        let mut l = Line::default();
        l.termios.oflag |= libc::TAB3;
        l.output(b"ab\tc\n\td");
        assert_eq!(shown(&mut l), "ab      c\r\n        d");
        let taken = l.output(&vec![b'x'; 100_000]);
        assert!(taken < OUTPUT_MAX && taken > OUTPUT_MAX - 16);
    }

    #[test]
    fn characters_of_several_bytes_are_erased_at_once() {
        let mut l = Line::default();
        l.termios.iflag |= libc::IUTF8;
        l.input("aü\x7f\n".as_bytes());
        assert_eq!(shown(&mut l), "aü\x08 \x08\r\n");
        assert_eq!(l.take(100), b"a\n");
    }

    #[test]
    fn a_line_that_is_too_long_loses_its_end() {
        let mut l = Line::default();
        l.input(&vec![b'x'; 5000]);
        l.input(b"\n");
        assert_eq!(l.take(10_000).len(), 4096);
    }
}
