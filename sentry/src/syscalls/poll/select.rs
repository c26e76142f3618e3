//! select(2), pselect(2).

use super::{Watched, deadline_after, finish, install_mask, wait_for, write_remaining};
use crate::errno::{Errno, Result};
use crate::kernel::block::Stop;
use crate::kernel::task::Task;
use crate::kernel::time::MonoTime;
use crate::kernel::wait::Ready;
use crate::syscalls::signal::read_timespec;
use crate::syscalls::{Args, SysResult};

/// What each of the three sets asks for, in the order of the arguments.
const WANTS: [Ready; 3] = [
    Ready::RDNORM
        .union(Ready::RDBAND)
        .union(Ready::IN)
        .union(Ready::HUP)
        .union(Ready::ERR)
        .union(Ready::NVAL),
    Ready::WRBAND
        .union(Ready::WRNORM)
        .union(Ready::OUT)
        .union(Ready::ERR)
        .union(Ready::NVAL),
    Ready::PRI.union(Ready::NVAL),
];

/// fd_set as words.
type Set = Vec<u64>;

fn has(set: &Set, fd: usize) -> bool {
    set.get(fd / 64).is_some_and(|w| w & (1 << (fd % 64)) != 0)
}

fn read_set(t: &Task, addr: u64, words: usize) -> Result<Set> {
    let mut bytes = vec![0u8; words * 8];
    if addr != 0 && words > 0 {
        t.mm().read_bytes(addr, &mut bytes)?;
    }
    let word = |b: &[u8]| b.iter().rev().fold(0u64, |w, b| w << 8 | u64::from(*b));
    Ok(bytes.chunks_exact(8).map(word).collect())
}

async fn select_sets(
    t: &Task,
    n: i32,
    addrs: [u64; 3],
    deadline: Option<MonoTime>,
) -> Result<usize, Stop> {
    let n = usize::try_from(n).map_err(|_| Stop::Failed(Errno::EINVAL))?;
    // Numbers beyond the table are not looked at.
    let n = n.min(t.files().capacity());
    let words = n.div_ceil(64);
    let mut sets = [const { Set::new() }; 3];
    for (set, addr) in sets.iter_mut().zip(addrs) {
        *set = read_set(t, addr, words).map_err(Stop::Failed)?;
    }
    let mut numbers = Vec::new();
    let mut watched = Vec::new();
    let files = t.files();
    for fd in 0..n {
        let mut want = Ready::empty();
        for (set, wants) in sets.iter().zip(WANTS) {
            if has(set, fd) {
                want |= wants;
            }
        }
        if want.is_empty() {
            continue;
        }
        let file = files.get(fd as i32).map_err(Stop::Failed)?;
        numbers.push(fd);
        watched.push(Watched {
            file: Some(file),
            want,
        });
    }
    drop(files);
    let mut results = [const { Set::new() }; 3];
    let count = || {
        let mut bits = 0;
        results = [vec![0; words], vec![0; words], vec![0; words]];
        for (fd, file) in numbers.iter().zip(&watched) {
            let ready = file.ready();
            for ((set, result), wants) in sets.iter().zip(&mut results).zip(WANTS) {
                if has(set, *fd) && ready.intersects(wants) {
                    result[fd / 64] |= 1 << (fd % 64);
                    bits += 1;
                }
            }
        }
        bits
    };
    let bits = wait_for(t, &watched, deadline, count).await?;
    for (result, addr) in results.iter().zip(addrs) {
        if addr != 0 && words > 0 {
            t.mm()
                .write_obj(addr, result.as_slice())
                .map_err(Stop::Failed)?;
        }
    }
    Ok(bits)
}

pub async fn select(t: &Task, a: &Args) -> SysResult {
    let deadline = match a.u64(4) {
        0 => None,
        addr => {
            let [sec, usec]: [i64; 2] = t.mm().read_obj(addr)?;
            // Linux accepts more than a second of microseconds here.
            let (sec, usec) = (u64::try_from(sec), u64::try_from(usec));
            let (Ok(sec), Ok(usec)) = (sec, usec) else {
                return Err(Errno::EINVAL.into());
            };
            let ns = sec
                .saturating_mul(super::NS)
                .saturating_add(usec.saturating_mul(1000));
            Some(deadline_after(ns))
        }
    };
    let addrs = [a.u64(1), a.u64(2), a.u64(3)];
    let result = select_sets(t, a.int(0), addrs, deadline).await;
    write_remaining(t, a.u64(4), deadline, 1000);
    result
        .map(|n| n as u64)
        .map_err(|stop| stop.no_restart(Errno::EINTR))
}

pub async fn pselect6(t: &Task, a: &Args) -> SysResult {
    // The last argument points to the mask's address and size.
    let (mask, size) = match a.u64(5) {
        0 => (0, 0),
        addr => {
            let [mask, size]: [u64; 2] = t.mm().read_obj(addr)?;
            (mask, size)
        }
    };
    let deadline = match a.u64(4) {
        0 => None,
        addr => Some(deadline_after(read_timespec(t, addr)?)),
    };
    install_mask(t, mask, size)?;
    let addrs = [a.u64(1), a.u64(2), a.u64(3)];
    let result = select_sets(t, a.int(0), addrs, deadline).await;
    write_remaining(t, a.u64(4), deadline, 1);
    finish(t, result).map(|n| n as u64)
}
