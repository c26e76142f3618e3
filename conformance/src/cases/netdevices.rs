//! The ioctl(2) requests about network interfaces (netdevice(7)). Of the machine's interfaces they
//! count on loopback alone.

use crate::case::*;
use std::ptr::null_mut;

fn u32_of(raw: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]])
}

fn u16_of(raw: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([raw[at], raw[at + 1]])
}

/// struct ifreq for an interface.
fn request_for(link: &str) -> [u8; 40] {
    let mut raw = [0; 40];
    raw[..link.len()].copy_from_slice(link.as_bytes());
    raw
}

fn ioctl_raw(fd: c_int, cmd: u64, request: &mut [u8; 40]) -> c_int {
    raw!(ioctl(fd, cmd as _, request.as_mut_ptr()))
}

pub static CASES: &[Case] = &[
    Case::new(
        "netdevice.get",
        "netdevice(7)",
        "what ioctl(2) tells of loopback, on a unix socket too",
        || {
            let fd = ok!(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
            let tell = |cmd| {
                let mut request = request_for("lo");
                succeeded("ioctl", ioctl_raw(fd, cmd, &mut request))?;
                Ok::<_, Failure>(request)
            };
            eq("index", u32_of(&tell(SIOCGIFINDEX)?, 16), 1)?;
            eq("mtu", u32_of(&tell(SIOCGIFMTU)?, 16), 65536)?;
            eq("metric", u32_of(&tell(SIOCGIFMETRIC)?, 16), 0)?;
            eq("queue", u32_of(&tell(SIOCGIFTXQLEN)?, 16), 1000)?;
            let flags = c_int::from(u16_of(&tell(SIOCGIFFLAGS)?, 16));
            eq("flags", flags & IFF_LOOPBACK, IFF_LOOPBACK)?;
            let hardware = tell(SIOCGIFHWADDR)?;
            eq("hardware", u16_of(&hardware, 16), ARPHRD_LOOPBACK)?;
            eq("address", &hardware[18..24], &[0; 6])?;
            let mut by_index = request_for("");
            by_index[16] = 1;
            succeeded("ioctl", ioctl_raw(fd, SIOCGIFNAME, &mut by_index))?;
            eq("name", &by_index[..3], b"lo\0")?;
            by_index[16..20].copy_from_slice(&99_999u32.to_ne_bytes());
            failed_with(
                "ioctl",
                ioctl_raw(fd, SIOCGIFNAME, &mut by_index),
                &[ENODEV],
            )?;
            let mut unknown = request_for("nosuch0");
            failed_with("ioctl", ioctl_raw(fd, SIOCGIFMTU, &mut unknown), &[ENODEV])?;
            // IPv4's alone, and nobody's.
            for cmd in [SIOCGIFADDR, SIOCGIFNETMASK, 0x8980] {
                failed_with(
                    "ioctl",
                    ioctl_raw(fd, cmd, &mut request_for("lo")),
                    &[ENOTTY],
                )?;
            }
            err!(EFAULT, ioctl(fd, SIOCGIFMTU as _, bad_ptr::<u8>()));
            Ok(())
        },
    ),
    Case::new(
        "netdevice.list",
        "netdevice(7)",
        "SIOCGIFCONF gives whole entries, or how many bytes they are",
        || {
            let fd = ok!(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
            let mut room = [0xaau8; 400];
            let list = |len: c_int, at: *mut u8| {
                let mut conf = [0u64; 2];
                conf[0] = len as u64;
                conf[1] = at as u64;
                ok!(ioctl(fd, SIOCGIFCONF as _, conf.as_mut_ptr()));
                Ok::<_, Failure>(conf[0] as u32)
            };
            let all = list(0, null_mut())?;
            ensure!(all >= 40 && all % 40 == 0, "{all} bytes of entries");
            eq("no room", list(39, room.as_mut_ptr())?, 0)?;
            eq("untouched", room[0], 0xaa)?;
            eq("one", list(79, room.as_mut_ptr())?, 40)?;
            eq("name", &room[..3], b"lo\0")?;
            eq("family", u16_of(&room, 16), AF_INET as u16)?;
            eq("address", &room[20..24], &[127, 0, 0, 1])?;
            eq("the rest", room[40], 0xaa)
        },
    ),
    Case::new(
        "netdevice.set",
        "netdevice(7)",
        "changes need CAP_NET_ADMIN",
        || {
            as_user(|| {
                let fd = ok!(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
                for cmd in [SIOCSIFFLAGS, SIOCSIFMTU, SIOCSIFTXQLEN] {
                    let mut request = request_for("lo");
                    failed_with("ioctl", ioctl_raw(fd, cmd, &mut request), &[EPERM])?;
                }
                Ok(())
            })
        },
    ),
];
