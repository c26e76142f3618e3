//! poll, select, epoll and the files made for them.

use super::*;
use crate::errno::Restart;
use crate::kernel::signal::send::{send_to_group, send_to_task};
use crate::kernel::signal::{SigInfo, SigSet, Signal};
use crate::kernel::wait::Ready;

const IN: u32 = Ready::IN.bits();

/// struct pollfd.
fn pollfd(fd: u64, events: u32) -> [i32; 2] {
    [fd as i32, events as i32]
}

fn revents(t: &Task, at: u64, i: u64) -> u32 {
    get::<u32>(t, at + 8 * i + 4) >> 16
}

#[test]
fn poll_answers_at_once_waits_and_times_out() {
    let sandbox = Sandbox::new();
    let t = sandbox.process(None);
    let (r, w) = pipe(&t, 0);
    let fds = put(&t, &[pollfd(r, IN), pollfd(99, IN), pollfd(u64::MAX, IN)]);
    // A number that is not open counts; a negative one does not.
    assert_eq!(plain(&t, libc::SYS_poll, [fds, 3, u64::MAX]), Ok(1));
    assert_eq!(
        (revents(&t, fds, 0), revents(&t, fds, 1)),
        (0, Ready::NVAL.bits())
    );
    assert_eq!(plain(&t, libc::SYS_poll, [fds, 1, 0]), Ok(0));
    let start = std::time::Instant::now();
    assert_eq!(plain(&t, libc::SYS_poll, [fds, 1, 20]), Ok(0));
    assert!(start.elapsed().as_millis() >= 20);
    let waiting = spawn(&t, libc::SYS_poll, [fds, 1, u64::MAX]);
    until_waiting(&t);
    let other = sandbox.process(None);
    other.set_files(Some(t.files()));
    write(&other, w, b"x").unwrap();
    assert_eq!(waiting.join().unwrap(), Ok(1));
    assert_eq!(revents(&t, fds, 0), IN);
    assert_eq!(
        plain(&t, libc::SYS_poll, [fds, 5000, 0]),
        Err(Errno::EINVAL)
    );
    assert_eq!(plain(&t, libc::SYS_poll, [8, 1, 0]), Err(Errno::EFAULT));
}

#[test]
fn a_signal_interrupts_poll_which_can_go_on() {
    let sandbox = Sandbox::new();
    let t = sandbox.process(None);
    let (r, w) = pipe(&t, 0);
    let fds = put(&t, &[pollfd(r, IN)]);
    let waiting = spawn(&t, libc::SYS_poll, [fds, 1, 60_000]);
    until_waiting(&t);
    send_to_task(&t, SigInfo::user(Signal::SIGUSR1, 1, 0));
    assert_eq!(waiting.join().unwrap(), Err(Error::Restart(Restart::Block)));
    t.take_interrupt();
    write(&t, w, b"x").unwrap();
    assert_eq!(plain(&t, libc::SYS_restart_syscall, []), Ok(1));
}

#[test]
fn ppoll_lets_a_signal_in_and_puts_the_mask_back() {
    let sandbox = Sandbox::new();
    let t = sandbox.process(None);
    let usr1 = SigSet::of(Signal::SIGUSR1);
    t.signals.lock().blocked = usr1;
    let none = put(&t, &0u64);
    let time = put(&t, &[0u64, 1_000_000]);
    assert_eq!(plain(&t, libc::SYS_ppoll, [0, 0, time, none, 8]), Ok(0));
    assert_eq!(t.signals.lock().blocked, usr1);
    assert_eq!(get::<[u64; 2]>(&t, time), [0, 0]);
    let bad = plain(&t, libc::SYS_ppoll, [0, 0, time, none, 4]);
    assert_eq!(bad, Err(Errno::EINVAL));
    send_to_task(&t, SigInfo::user(Signal::SIGUSR1, 1, 0));
    let hour = put(&t, &[3600u64, 0]);
    let stopped = call(&t, libc::SYS_ppoll, [0, 0, hour, none, 8]);
    assert_eq!(stopped, Err(Error::Restart(Restart::NoHand)));
    // The delivery restores it.
    assert_eq!(t.signals.lock().saved_mask, Some(usr1));
    assert!(get::<[u64; 2]>(&t, hour)[0] >= 3500);
}

#[test]
fn select_sets_bits_and_tells_the_time_left() {
    let sandbox = Sandbox::new();
    let t = sandbox.process(None);
    let (r, w) = pipe(&t, 0);
    let set = |fds: &[u64]| put(&t, &[fds.iter().fold(0u64, |s, fd| s | 1 << fd), 0]);
    let (reads, writes) = (set(&[r, w]), set(&[w]));
    let time = put(&t, &[5u64, 0]);
    let n = w + 1;
    assert_eq!(
        plain(&t, libc::SYS_select, [n, reads, writes, 0, time]),
        Ok(1)
    );
    assert_eq!((get::<u64>(&t, reads), get::<u64>(&t, writes)), (0, 1 << w));
    let [sec, usec] = get::<[u64; 2]>(&t, time);
    assert!(sec == 4 && usec < 1_000_000 || (sec, usec) == (5, 0));
    write(&t, w, b"x").unwrap();
    let reads = set(&[r]);
    let zero = put(&t, &[0u64, 0]);
    assert_eq!(
        plain(&t, libc::SYS_pselect6, [n, reads, 0, 0, zero, 0]),
        Ok(1)
    );
    let reads = set(&[r, 40]);
    let bad = plain(&t, libc::SYS_select, [41, reads, 0, 0, zero]);
    assert_eq!(bad, Err(Errno::EBADF));
    let bad = plain(&t, libc::SYS_select, [u64::MAX, 0, 0, 0, zero]);
    assert_eq!(bad, Err(Errno::EINVAL));
}

#[test]
fn epoll_by_system_calls() {
    let sandbox = Sandbox::new();
    let t = sandbox.process(None);
    let (r, w) = pipe(&t, 0);
    let ep = plain(&t, libc::SYS_epoll_create1, [libc::EPOLL_CLOEXEC as u64]).unwrap();
    let event = put(&t, &[IN, 0xddcc_bbaa, 0x1122_3344]);
    let add = libc::EPOLL_CTL_ADD as u64;
    let ctl = |op: u64, fd: u64| plain(&t, libc::SYS_epoll_ctl, [ep, op, fd, event]);
    assert_eq!(ctl(add, r), Ok(0));
    assert_eq!(ctl(add, r), Err(Errno::EEXIST));
    assert_eq!(ctl(add, 99), Err(Errno::EBADF));
    assert_eq!(ctl(add, ep), Err(Errno::EINVAL));
    assert_eq!(ctl(libc::EPOLL_CTL_MOD as u64, w), Err(Errno::ENOENT));
    let out = room(&t);
    let wait = |max: u64, ms: u64| plain(&t, libc::SYS_epoll_wait, [ep, out, max, ms]);
    assert_eq!(wait(0, 0), Err(Errno::EINVAL));
    assert_eq!(wait(1, 0), Ok(0));
    assert_eq!(wait(1, 10), Ok(0));
    let waiting = spawn(&t, libc::SYS_epoll_wait, [ep, out, 8, u64::MAX]);
    until_waiting(&t);
    let other = sandbox.process(None);
    other.set_files(Some(t.files()));
    write(&other, w, b"x").unwrap();
    assert_eq!(waiting.join().unwrap(), Ok(1));
    assert_eq!(get::<[u32; 3]>(&t, out), [IN, 0xddcc_bbaa, 0x1122_3344]);
    // A bad address loses nothing.
    let bad = plain(&t, libc::SYS_epoll_wait, [ep, 8, 8, 0]);
    assert_eq!(bad, Err(Errno::EFAULT));
    assert_eq!(wait(8, 0), Ok(1));
    // The descriptor goes, the open file stays: so does the watch.
    plain(&t, libc::SYS_dup2, [r, 50]).unwrap();
    plain(&t, libc::SYS_close, [r]).unwrap();
    assert_eq!(wait(8, 0), Ok(1));
    plain(&t, libc::SYS_close, [50]).unwrap();
    assert_eq!(wait(8, 0), Ok(0));
}

#[test]
fn signals_are_read_from_a_descriptor() {
    let sandbox = Sandbox::new();
    let t = sandbox.process(None);
    let mask = SigSet::of(Signal::SIGUSR1).with(Signal::SIGCHLD);
    t.signals.lock().blocked = mask;
    let set = put(&t, &mask.0);
    let fd = plain(&t, libc::SYS_signalfd4, [u64::MAX, set, 8, 0]).unwrap();
    let fds = put(&t, &[pollfd(fd, IN)]);
    assert_eq!(plain(&t, libc::SYS_poll, [fds, 1, 0]), Ok(0));
    let waiting = spawn(&t, libc::SYS_poll, [fds, 1, u64::MAX]);
    until_waiting(&t);
    send_to_group(t.group(), SigInfo::user(Signal::SIGUSR1, 42, 7));
    assert_eq!(waiting.join().unwrap(), Ok(1));
    let info = read(&t, fd).unwrap();
    assert_eq!(info.len(), 128);
    assert_eq!(info[..4], libc::SIGUSR1.to_ne_bytes());
    assert_eq!(info[12..20], [42, 0, 0, 0, 7, 0, 0, 0]);
    // Another process sees its own signals only.
    send_to_task(&t, SigInfo::user(Signal::SIGCHLD, 1, 0));
    let other = sandbox.process(None);
    other.set_files(Some(t.files()));
    assert_eq!(
        plain(
            &other,
            libc::SYS_poll,
            [put(&other, &[pollfd(fd, IN)]), 1, 0]
        ),
        Ok(0)
    );
    assert_eq!(plain(&t, libc::SYS_poll, [fds, 1, 0]), Ok(1));
}

#[test]
fn a_pidfd_is_readable_when_the_process_has_ended() {
    let sandbox = Sandbox::new();
    let t = sandbox.process(None);
    let child = sandbox.process(Some(&t));
    let fd = crate::fs::pidfd::install(&t, child.group()).unwrap();
    let (group, nonblock) = crate::fs::pidfd::group_of(&t, fd).unwrap();
    assert!(Arc::ptr_eq(&group, child.group()) && !nonblock);
    let fds = put(&t, &[pollfd(fd as u64, IN)]);
    assert_eq!(plain(&t, libc::SYS_poll, [fds, 1, 0]), Ok(0));
    let waiting = spawn(&t, libc::SYS_poll, [fds, 1, u64::MAX]);
    until_waiting(&t);
    child.group().remove_task(&child);
    let tree = &sandbox.kernel.tree;
    tree.group_exited(child.group(), ExitStatus::Exited(0), 0);
    assert_eq!(waiting.join().unwrap(), Ok(1));
    let (r, _) = pipe(&t, 0);
    let other = crate::fs::pidfd::group_of(&t, r as i32);
    assert_eq!(other.err(), Some(Errno::EBADF));
}

#[test]
fn timers_and_counters_by_system_calls() {
    let sandbox = Sandbox::new();
    let t = sandbox.process(None);
    let monotonic = libc::CLOCK_MONOTONIC as u64;
    let fd = plain(&t, libc::SYS_timerfd_create, [monotonic, 0]).unwrap();
    let tai = plain(&t, libc::SYS_timerfd_create, [libc::CLOCK_TAI as u64, 0]);
    assert_eq!(tai, Err(Errno::EINVAL));
    // struct itimerspec: interval, value.
    let spec = put(&t, &[0u64, 0, 0, 5_000_000]);
    plain(&t, libc::SYS_timerfd_settime, [fd, 0, spec, 0]).unwrap();
    assert_eq!(read(&t, fd), Ok(1u64.to_ne_bytes().to_vec()));
    let (r, _) = pipe(&t, 0);
    let bad = plain(&t, libc::SYS_timerfd_settime, [r, 0, spec, 0]);
    assert_eq!(bad, Err(Errno::EINVAL));

    let nonblock = libc::EFD_NONBLOCK as u64;
    let fd = plain(&t, libc::SYS_eventfd2, [3, nonblock]).unwrap();
    assert_eq!(read(&t, fd), Ok(3u64.to_ne_bytes().to_vec()));
    assert_eq!(read(&t, fd), Err(Errno::EAGAIN));
    assert_eq!(plain(&t, libc::SYS_eventfd2, [3, 2]), Err(Errno::EINVAL));
}

#[test]
fn no_wake_is_lost_between_threads() {
    use crate::fs::epoll::Interest;
    const EACH: u64 = 2000;
    let sandbox = Sandbox::new();
    let t = sandbox.process(None);
    let ep = plain(&t, libc::SYS_epoll_create1, [0]).unwrap();
    let modes = [Interest::empty(), Interest::ET, Interest::ONESHOT];
    let mut fds = Vec::new();
    for mode in modes {
        let nonblock = libc::EFD_NONBLOCK as u64;
        let fd = plain(&t, libc::SYS_eventfd2, [0, nonblock]).unwrap();
        let event = put(&t, &[IN | mode.bits(), fd as u32, 0]);
        let add = libc::EPOLL_CTL_ADD as u64;
        plain(&t, libc::SYS_epoll_ctl, [ep, add, fd, event]).unwrap();
        fds.push((fd, event));
    }
    let writers: Vec<_> = fds
        .iter()
        .map(|(fd, _)| {
            let (fd, other) = (*fd, sandbox.process(None));
            other.set_files(Some(t.files()));
            std::thread::spawn(move || {
                let one = put(&other, &1u64);
                for _ in 0..EACH {
                    plain(&other, libc::SYS_write, [fd, one, 8]).unwrap();
                }
            })
        })
        .collect();
    let (out, count) = (room(&t), room(&t));
    let mut sum = 0;
    while sum < EACH * 3 {
        let n = plain(&t, libc::SYS_epoll_wait, [ep, out, 8, 20_000]).unwrap();
        assert!(n > 0, "nothing for 20 seconds at {sum}");
        for i in 0..n {
            let [_, fd, _]: [u32; 3] = get(&t, out + 12 * i);
            let fd = u64::from(fd);
            if plain(&t, libc::SYS_read, [fd, count, 8]).is_ok() {
                sum += get::<u64>(&t, count);
            }
            if fd == fds[2].0 {
                let again = libc::EPOLL_CTL_MOD as u64;
                plain(&t, libc::SYS_epoll_ctl, [ep, again, fd, fds[2].1]).unwrap();
            }
        }
    }
    assert_eq!(sum, EACH * 3);
    for writer in writers {
        writer.join().unwrap();
    }
}
