//! Control messages beside the bytes that a socket sends and receives: cmsg(3).

use crate::case::*;
use crate::inet::Address;

/// Level, type and data.
pub type ControlMessage = (c_int, c_int, Vec<u8>);

/// Room for so many bytes, aligned as cmsg(3) asks.
fn aligned(bytes: usize) -> Vec<u64> {
    vec![0; bytes.div_ceil(8)]
}

/// Sends `text` with one control message, to `to` or to the peer; what sendmsg(2) returned.
pub fn send_control(
    fd: c_int,
    text: &[u8],
    to: Option<&Address>,
    (level, kind): (c_int, c_int),
    data: &[u8],
    flags: c_int,
) -> isize {
    let size = data.len() as u32;
    // SAFETY: computes.
    let room = unsafe { CMSG_SPACE(size) } as usize;
    let mut control = aligned(room);
    let mut iov = iovec {
        iov_base: text.as_ptr().cast_mut().cast(),
        iov_len: text.len(),
    };
    let mut message = zeroed::<msghdr>();
    if let Some(to) = to {
        message.msg_name = to.ptr().cast_mut().cast();
        message.msg_namelen = to.len;
    }
    message.msg_iov = &mut iov;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = room as _;
    // SAFETY: there is room for one with this data.
    unsafe {
        let header = CMSG_FIRSTHDR(&message);
        (*header).cmsg_level = level;
        (*header).cmsg_type = kind;
        (*header).cmsg_len = CMSG_LEN(size) as _;
        std::ptr::copy_nonoverlapping(data.as_ptr(), CMSG_DATA(header), data.len());
    }
    raw!(sendmsg(fd, &message, flags))
}

/// Sends one byte with these descriptors; what sendmsg(2) returned.
pub fn send_files(fd: c_int, files: &[c_int], flags: c_int) -> isize {
    let data: Vec<u8> = files.iter().flat_map(|file| file.to_ne_bytes()).collect();
    send_control(fd, b"x", None, (SOL_SOCKET, SCM_RIGHTS), &data, flags)
}

/// Receives at most `max` bytes, and control messages within `room` bytes; with msg_flags. `from`
/// becomes the sender's address.
pub fn receive_control(
    fd: c_int,
    max: usize,
    room: usize,
    from: Option<&mut Address>,
    flags: c_int,
) -> Outcome<(Vec<u8>, Vec<ControlMessage>, c_int)> {
    let mut control = aligned(room);
    let mut bytes = vec![0u8; max];
    let mut iov = iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: max,
    };
    let mut message = zeroed::<msghdr>();
    if let Some(from) = from {
        message.msg_name = (&raw mut from.raw).cast();
        message.msg_namelen = size_of::<sockaddr_storage>() as _;
    }
    message.msg_iov = &mut iov;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = room as _;
    let n = ok!(recvmsg(fd, &mut message, flags));
    bytes.truncate(n as usize);
    let mut found = Vec::new();
    // SAFETY: as the kernel has filled it.
    unsafe {
        let mut header = CMSG_FIRSTHDR(&message);
        while !header.is_null() {
            let len = (*header).cmsg_len as usize - CMSG_LEN(0) as usize;
            let data = std::slice::from_raw_parts(CMSG_DATA(header), len).to_vec();
            found.push(((*header).cmsg_level, (*header).cmsg_type, data));
            header = CMSG_NXTHDR(&message, header);
        }
    }
    Ok((bytes, found, message.msg_flags))
}
