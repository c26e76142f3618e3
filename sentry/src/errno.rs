//! Error numbers. Subsystems return [`Errno`]; a system-call handler returns [`Error`], which can
//! also ask for a restart and therefore never reaches the guest as it is.

use std::fmt;

/// A Linux error number (errno(3)), always one of the constants below.
///
/// As wide as what calls give when they succeed: then both travel in the same register, where a
/// result of mixed widths goes through memory and stalls each caller that takes it apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(i64);

/// What subsystems below the system-call layer return.
pub type Result<T, E = Errno> = std::result::Result<T, E>;

macro_rules! errnos {
    ($($name:ident)*) => {
        impl Errno {
            $(pub const $name: Errno = Errno(libc::$name as i64);)*
        }
        fn name(errno: i32) -> &'static str {
            match errno {
                $(libc::$name => stringify!($name),)*
                _ => "E?",
            }
        }
    };
}

errnos! {
    EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG ENOEXEC EBADF ECHILD EAGAIN ENOMEM EACCES EFAULT
    ENOTBLK EBUSY EEXIST EXDEV ENODEV ENOTDIR EISDIR EINVAL ENFILE EMFILE ENOTTY ETXTBSY EFBIG
    ENOSPC ESPIPE EROFS EMLINK EPIPE EDOM ERANGE EDEADLK ENAMETOOLONG ENOLCK ENOSYS ENOTEMPTY
    ELOOP ENOMSG EIDRM ENOSTR ENODATA ETIME ENOSR ENOLINK EPROTO EBADMSG EOVERFLOW ELIBBAD EILSEQ
    EUSERS ENOTSOCK EDESTADDRREQ EMSGSIZE EPROTOTYPE ENOPROTOOPT EPROTONOSUPPORT ESOCKTNOSUPPORT
    EOPNOTSUPP EPFNOSUPPORT EAFNOSUPPORT EADDRINUSE EADDRNOTAVAIL ENETDOWN ENETUNREACH ENETRESET
    ECONNABORTED ECONNRESET ENOBUFS EISCONN ENOTCONN ESHUTDOWN ETIMEDOUT ECONNREFUSED EHOSTDOWN
    EHOSTUNREACH EALREADY EINPROGRESS ESTALE EDQUOT ECANCELED ETOOMANYREFS EOWNERDEAD ENOTRECOVERABLE
}

impl Errno {
    /// From a host error number; values Linux does not define become EIO.
    pub fn from_raw(raw: i32) -> Errno {
        if name(raw) == "E?" {
            Errno::EIO
        } else {
            Errno(i64::from(raw))
        }
    }

    pub fn raw(self) -> i32 {
        self.0 as i32
    }

    /// The value a system call returns for this error.
    pub fn to_return(self) -> u64 {
        -self.0 as u64
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(name(self.raw()))
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(name(self.raw()))
    }
}

impl std::error::Error for Errno {}

impl From<nix::Error> for Errno {
    fn from(e: nix::Error) -> Errno {
        Errno::from_raw(e as i32)
    }
}

impl From<rustix::io::Errno> for Errno {
    fn from(e: rustix::io::Errno) -> Errno {
        Errno::from_raw(e.raw_os_error())
    }
}

impl From<std::io::Error> for Errno {
    fn from(e: std::io::Error) -> Errno {
        e.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
    }
}

/// How an interrupted call goes on after the signal (signal(7), "Interruption of system calls").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i64)]
pub enum Restart {
    /// Restarted if the handler has SA_RESTART, else EINTR (read, write, wait4, flock...).
    Sys,
    /// Restarted only if no handler ran, else EINTR (poll, select, epoll_wait, pause...).
    NoHand,
    /// As `NoHand`; restarted through restart_syscall(2) with the remaining time the task keeps.
    Block,
    /// Always restarted.
    NoIntr,
}

/// What a system-call handler fails with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    Errno(Errno),
    Restart(Restart),
}

impl From<Errno> for Error {
    fn from(e: Errno) -> Error {
        Error::Errno(e)
    }
}

impl From<nix::Error> for Error {
    fn from(e: nix::Error) -> Error {
        Error::Errno(e.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_names() {
        assert_eq!(Errno::ENOENT.raw(), 2);
        assert_eq!(Errno::ENOSYS.to_return(), (-38i64) as u64);
        assert_eq!(Errno::from_raw(11), Errno::EAGAIN);
        assert_eq!(Errno::from_raw(12345), Errno::EIO);
        assert_eq!(format!("{}", Errno::EOWNERDEAD), "EOWNERDEAD");
    }
}
