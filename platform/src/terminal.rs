//! Requests to a host terminal (ioctl_tty(2)), for a sandbox whose standard files are one.
//!
//! Only requests that touch the terminal itself: job control is the guest kernel's business.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Size of the kernel's struct termios.
pub const TERMIOS_LEN: usize = 36;
/// Size of struct winsize.
pub const WINSIZE_LEN: usize = 8;

const TCGETS: u32 = 0x5401;
const TCSETS: u32 = 0x5402;
const TCSETSW: u32 = 0x5403;
const TCSETSF: u32 = 0x5404;
const TCSBRK: u32 = 0x5409;
const TCXONC: u32 = 0x540A;
const TCFLSH: u32 = 0x540B;
const TIOCOUTQ: u32 = 0x5411;
const TIOCGWINSZ: u32 = 0x5413;
const TIOCSWINSZ: u32 = 0x5414;
const FIONREAD: u32 = 0x541B;
const TCSBRKP: u32 = 0x5425;

/// When a change of the settings takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// TCSETS.
    Now,
    /// TCSETSW: when the output is written.
    Drain,
    /// TCSETSF: and what was typed ahead is forgotten.
    Flush,
}

/// Requests with a plain number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    Break(i32),
    BreakTime(i32),
    Flow(i32),
    Flush(i32),
}

fn get<const N: usize>(fd: BorrowedFd<'_>, request: u32) -> io::Result<[u8; N]> {
    let mut buf = [0u8; N];
    // SAFETY: each caller pairs a request with a buffer of the size the kernel writes for it.
    let rc = unsafe { libc::ioctl(fd.as_raw_fd(), request as _, buf.as_mut_ptr()) };
    if rc < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(buf)
}

fn set<const N: usize>(fd: BorrowedFd<'_>, request: u32, buf: &[u8; N]) -> io::Result<()> {
    // SAFETY: each caller pairs a request with a buffer of the size the kernel reads for it.
    let rc = unsafe { libc::ioctl(fd.as_raw_fd(), request as _, buf.as_ptr()) };
    if rc < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The settings, as the kernel's struct termios.
pub fn settings(fd: BorrowedFd<'_>) -> io::Result<[u8; TERMIOS_LEN]> {
    get(fd, TCGETS)
}

pub fn set_settings(fd: BorrowedFd<'_>, when: When, termios: &[u8; TERMIOS_LEN]) -> io::Result<()> {
    let request = match when {
        When::Now => TCSETS,
        When::Drain => TCSETSW,
        When::Flush => TCSETSF,
    };
    set(fd, request, termios)
}

/// struct winsize.
pub fn window_size(fd: BorrowedFd<'_>) -> io::Result<[u8; WINSIZE_LEN]> {
    get(fd, TIOCGWINSZ)
}

pub fn set_window_size(fd: BorrowedFd<'_>, size: &[u8; WINSIZE_LEN]) -> io::Result<()> {
    set(fd, TIOCSWINSZ, size)
}

/// FIONREAD: bytes that can be read.
pub fn readable_bytes(fd: BorrowedFd<'_>) -> io::Result<i32> {
    get(fd, FIONREAD).map(i32::from_ne_bytes)
}

/// TIOCOUTQ: bytes not yet written.
pub fn unwritten_bytes(fd: BorrowedFd<'_>) -> io::Result<i32> {
    get(fd, TIOCOUTQ).map(i32::from_ne_bytes)
}

pub fn control(fd: BorrowedFd<'_>, control: Control) -> io::Result<()> {
    let (request, value) = match control {
        Control::Break(v) => (TCSBRK, v),
        Control::BreakTime(v) => (TCSBRKP, v),
        Control::Flow(v) => (TCXONC, v),
        Control::Flush(v) => (TCFLSH, v),
    };
    // SAFETY: these requests take a number and no pointer.
    let rc = unsafe { libc::ioctl(fd.as_raw_fd(), request as _, libc::c_long::from(value)) };
    if rc < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
