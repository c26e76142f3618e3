//! Socket options by number, which no crate wraps. All `unsafe` of the network Gofer is here.

use std::os::fd::{AsRawFd, BorrowedFd};

use super::protocol::{MAX_VALUE, OptionName};
use crate::protocol::Errno;

fn last_error() -> Errno {
    let error = std::io::Error::last_os_error();
    Errno(error.raw_os_error().unwrap_or(libc::EIO))
}

/// setsockopt(2).
pub(super) fn set_option(
    socket: BorrowedFd<'_>,
    option: OptionName,
    value: &[u8],
) -> Result<(), Errno> {
    let length = u32::try_from(value.len()).map_err(|_| Errno(libc::EINVAL))?;
    let OptionName { level, name } = option;
    // SAFETY: the call reads `length` bytes of `value`, which has as many.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            value.as_ptr().cast(),
            length,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(last_error()),
    }
}

/// getsockopt(2): at most `room` bytes, and never more than [`MAX_VALUE`].
pub(super) fn option(
    socket: BorrowedFd<'_>,
    option: OptionName,
    room: u32,
) -> Result<Vec<u8>, Errno> {
    let mut value = [0u8; MAX_VALUE];
    let mut length = room.min(MAX_VALUE as u32);
    let OptionName { level, name } = option;
    // SAFETY: the call writes at most `length` bytes to `value`, which has as many, and the length
    // it has written.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            name,
            value.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    match result {
        0 => Ok(value.get(..length as usize).unwrap_or_default().to_vec()),
        _ => Err(last_error()),
    }
}
