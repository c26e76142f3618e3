//! futex(2), set_robust_list(2) and what pthreads build on them.
//!
//! `unsafe`: futex words in memory the case mapped, shared between threads and processes.

use crate::case::*;
use std::ptr::{null, null_mut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

const PRIVATE: c_int = FUTEX_PRIVATE_FLAG;

fn wait_raw(word: *const u32, op: c_int, value: u32, time: *const timespec, bits: u32) -> c_long {
    raw!(syscall(
        SYS_futex,
        word,
        op,
        value,
        time,
        null::<u32>(),
        bits
    ))
}

fn wake(word: *const u32, op: c_int, count: c_int) -> Outcome<c_long> {
    Ok(ok!(syscall(
        SYS_futex,
        word,
        op,
        count,
        null::<timespec>(),
        null::<u32>(),
        0
    )))
}

/// Wakes until that many waiters were woken altogether.
fn wake_all(word: *const u32, op: c_int, want: c_long) -> Outcome {
    let mut woken = 0;
    while woken < want {
        woken += wake(word, op, 1)?;
        raw!(sched_yield());
    }
    eq("woken waiters", woken, want)
}

fn word_of(value: u32) -> Arc<AtomicU32> {
    Arc::new(AtomicU32::new(value))
}

fn waiter(word: &Arc<AtomicU32>, op: c_int, bits: u32) -> std::thread::JoinHandle<c_long> {
    let word = Arc::clone(word);
    std::thread::spawn(move || wait_raw(word.as_ptr(), op, 0, null(), bits))
}

fn joined(thread: std::thread::JoinHandle<c_long>) -> Outcome {
    match thread.join() {
        Ok(got) => returned("futex(FUTEX_WAIT) in the waiter", got, 0),
        Err(_) => fail!("the waiting thread panicked"),
    }
}

pub static CASES: &[Case] = &[
    Case::new(
        "futex.value_differs",
        "futex(2)",
        "FUTEX_WAIT on another value gives EAGAIN",
        || {
            let word = word_of(1);
            let got = wait_raw(word.as_ptr(), FUTEX_WAIT, 0, null(), 0);
            failed_with("futex(FUTEX_WAIT, 0) on 1", got, &[EAGAIN])
        },
    ),
    Case::new(
        "futex.timeout",
        "futex(2)",
        "a relative timeout gives ETIMEDOUT, not too early",
        || {
            let word = word_of(0);
            let before = ns(now(CLOCK_MONOTONIC)?);
            let got = wait_raw(word.as_ptr(), FUTEX_WAIT | PRIVATE, 0, &millis(20), 0);
            failed_with("futex(FUTEX_WAIT, 20 ms)", got, &[ETIMEDOUT])?;
            let took = ns(now(CLOCK_MONOTONIC)?) - before;
            ensure!(
                took >= 20_000_000,
                "returned after {took} ns, expected at least 20 ms"
            );
            Ok(())
        },
    ),
    Case::new(
        "futex.absolute_timeout",
        "futex(2)",
        "FUTEX_WAIT_BITSET takes an absolute time",
        || {
            let word = word_of(0);
            for (op, clock) in [
                (FUTEX_WAIT_BITSET, CLOCK_MONOTONIC),
                (FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME, CLOCK_REALTIME),
            ] {
                let mut until = now(clock)?;
                let got = wait_raw(word.as_ptr(), op, 0, &until, u32::MAX);
                failed_with("futex(FUTEX_WAIT_BITSET, past)", got, &[ETIMEDOUT])?;
                let target = ns(until) + 10_000_000;
                until = timespec {
                    tv_sec: target / 1_000_000_000,
                    tv_nsec: target % 1_000_000_000,
                };
                let got = wait_raw(word.as_ptr(), op, 0, &until, u32::MAX);
                failed_with("futex(FUTEX_WAIT_BITSET, soon)", got, &[ETIMEDOUT])?;
                ensure!(
                    ns(now(clock)?) >= target,
                    "returned before the absolute time"
                );
            }
            Ok(())
        },
    ),
    Case::new(
        "futex.wake_none",
        "futex(2)",
        "FUTEX_WAKE without waiters gives 0",
        || {
            let word = word_of(0);
            eq("woken", wake(word.as_ptr(), FUTEX_WAKE, 1)?, 0)
        },
    ),
    Case::new(
        "futex.wake_thread",
        "futex(2)",
        "FUTEX_WAKE wakes a waiting thread",
        || {
            let word = word_of(0);
            let thread = waiter(&word, FUTEX_WAIT | PRIVATE, 0);
            wake_all(word.as_ptr(), FUTEX_WAKE | PRIVATE, 1)?;
            joined(thread)
        },
    ),
    Case::new(
        "futex.wake_many",
        "futex(2)",
        "every waiter is woken exactly once",
        || {
            let word = word_of(0);
            let threads: Vec<_> = (0..8)
                .map(|_| waiter(&word, FUTEX_WAIT | PRIVATE, 0))
                .collect();
            wake_all(word.as_ptr(), FUTEX_WAKE | PRIVATE, 8)?;
            threads.into_iter().try_for_each(joined)
        },
    ),
    Case::new(
        "futex.shared_processes",
        "futex(2)",
        "a shared word works between processes",
        || {
            let word = map_shared(4096)?.cast::<u32>();
            let pid = child(|| i32::from(wait_raw(word, FUTEX_WAIT, 0, null(), 0) != 0))?;
            wake_all(word, FUTEX_WAKE, 1)?;
            expect_exit(pid, 0)
        },
    ),
    Case::new(
        "futex.shared_file",
        "futex(2)",
        "the same file page at two addresses is one futex",
        || {
            let fd = put(c"f", &[0u8; 4096])?;
            let map = || -> Outcome<*mut u32> {
                Ok(ok!(mmap(
                    null_mut(),
                    4096,
                    PROT_READ | PROT_WRITE,
                    MAP_SHARED,
                    fd,
                    0
                ))
                .cast())
            };
            let (a, b) = (map()?, map()?);
            let pid = child(|| i32::from(wait_raw(a, FUTEX_WAIT, 0, null(), 0) != 0))?;
            wake_all(b, FUTEX_WAKE, 1)?;
            expect_exit(pid, 0)
        },
    ),
    Case::new(
        "futex.private_not_inherited",
        "futex(2)",
        "private words of parent and child differ",
        || {
            let word = map_anon(4096)?.cast::<u32>();
            let pid = child(|| i32::from(wait_raw(word, FUTEX_WAIT, 0, null(), 0) != 0))?;
            until_asleep(pid)?;
            eq("woken", wake(word, FUTEX_WAKE, 1)?, 0)?;
            ok!(kill(pid, SIGKILL));
            expect_signal(pid, SIGKILL)
        },
    ),
    Case::new(
        "futex.bitset",
        "futex(2)",
        "FUTEX_WAKE_BITSET wakes matching waiters only",
        || {
            let word = word_of(0);
            let thread = waiter(&word, FUTEX_WAIT_BITSET | PRIVATE, 0b10);
            loop {
                let other = ok!(syscall(
                    SYS_futex,
                    word.as_ptr(),
                    FUTEX_WAKE_BITSET | PRIVATE,
                    1,
                    null::<timespec>(),
                    null::<u32>(),
                    0b01u32
                ));
                eq("woken by another bit", other, 0)?;
                let woken = ok!(syscall(
                    SYS_futex,
                    word.as_ptr(),
                    FUTEX_WAKE_BITSET | PRIVATE,
                    1,
                    null::<timespec>(),
                    null::<u32>(),
                    0b10u32
                ));
                if woken == 1 {
                    return joined(thread);
                }
                raw!(sched_yield());
            }
        },
    ),
    Case::new(
        "futex.requeue",
        "futex(2)",
        "FUTEX_CMP_REQUEUE moves waiters to another word",
        || {
            let (a, b) = (word_of(0), word_of(0));
            let threads: Vec<_> = (0..3)
                .map(|_| waiter(&a, FUTEX_WAIT | PRIVATE, 0))
                .collect();
            let mut moved = 0;
            while moved < 3 {
                let op = FUTEX_CMP_REQUEUE | PRIVATE;
                moved += ok!(syscall(
                    SYS_futex,
                    a.as_ptr(),
                    op,
                    0,
                    10usize,
                    b.as_ptr(),
                    0
                ));
                raw!(sched_yield());
            }
            eq(
                "waiters left on the first word",
                wake(a.as_ptr(), FUTEX_WAKE | PRIVATE, 10)?,
                0,
            )?;
            eq(
                "woken on the second",
                wake(b.as_ptr(), FUTEX_WAKE | PRIVATE, 10)?,
                3,
            )?;
            threads.into_iter().try_for_each(joined)
        },
    ),
    Case::new(
        "futex.requeue_value",
        "futex(2)",
        "FUTEX_CMP_REQUEUE on another value gives EAGAIN",
        || {
            let (a, b) = (word_of(5), word_of(0));
            err!(
                EAGAIN,
                syscall(
                    SYS_futex,
                    a.as_ptr(),
                    FUTEX_CMP_REQUEUE,
                    1,
                    1usize,
                    b.as_ptr(),
                    4
                )
            );
            Ok(())
        },
    ),
    Case::new(
        "futex.wake_op",
        "futex(2)",
        "FUTEX_WAKE_OP changes the second word and compares",
        || {
            let (a, b) = (word_of(0), word_of(5));
            // *b = *b + 3; wake on b if the old value was 5.
            let op: u32 = 1 << 28 | 3 << 12 | 5;
            let got = ok!(syscall(
                SYS_futex,
                a.as_ptr(),
                FUTEX_WAKE_OP,
                1,
                1usize,
                b.as_ptr(),
                op
            ));
            eq("woken", got, 0)?;
            eq("second word", b.load(SeqCst), 8)
        },
    ),
    Case::new(
        "futex.eintr",
        "futex(2)",
        "a handler without SA_RESTART gives EINTR",
        || {
            catch(SIGALRM, 0)?;
            tick(10)?;
            let word = word_of(0);
            let got = wait_raw(word.as_ptr(), FUTEX_WAIT, 0, null(), 0);
            failed_with("futex(FUTEX_WAIT)", got, &[EINTR])
        },
    ),
    Case::new(
        "futex.errors",
        "futex(2)",
        "EINVAL unaligned or bad bits, EFAULT, ENOSYS",
        || {
            let word = word_of(0);
            let odd = (word.as_ptr() as usize + 1) as *const u32;
            failed_with(
                "unaligned",
                wait_raw(odd, FUTEX_WAIT, 0, null(), 0),
                &[EINVAL],
            )?;
            let got = wait_raw(word.as_ptr(), FUTEX_WAIT_BITSET, 0, null(), 0);
            failed_with("bitset 0", got, &[EINVAL])?;
            failed_with(
                "no memory",
                wait_raw(8 as *const u32, FUTEX_WAIT, 0, null(), 0),
                &[EFAULT],
            )?;
            failed_with(
                "op 99",
                wait_raw(word.as_ptr(), 99, 0, null(), 0),
                &[ENOSYS],
            )?;
            let bad = timespec {
                tv_sec: 0,
                tv_nsec: 1_000_000_000,
            };
            let got = wait_raw(word.as_ptr(), FUTEX_WAIT, 0, &bad, 0);
            failed_with("bad nanoseconds", got, &[EINVAL])
        },
    ),
    Case::new(
        "futex.clear_child_tid",
        "set_tid_address(2)",
        "a thread's end clears and wakes its word",
        || {
            extern "C" fn body(_: *mut c_void) -> c_int {
                0
            }
            let at = map_anon(65536)?;
            let word = at.cast::<u32>();
            unsafe { word.write_volatile(1) };
            let flags = CLONE_VM
                | CLONE_FS
                | CLONE_FILES
                | CLONE_SIGHAND
                | CLONE_THREAD
                | CLONE_SYSVSEM
                | CLONE_CHILD_CLEARTID;
            let top: *mut c_void = at.wrapping_add(65536).cast();
            ok!(clone(
                body,
                top,
                flags,
                null_mut(),
                null_mut::<pid_t>(),
                null_mut::<c_void>(),
                word
            ));
            while unsafe { word.read_volatile() } == 1 {
                let got = wait_raw(word, FUTEX_WAIT, 1, null(), 0);
                ensure!(
                    got == 0 || errno() == EAGAIN || errno() == EINTR,
                    "futex: {}",
                    errno_name(errno())
                );
            }
            eq("word", unsafe { word.read_volatile() }, 0)
        },
    ),
    Case::new(
        "robust.owner_died",
        "get_robust_list(2)",
        "a dead owner's lock gets FUTEX_OWNER_DIED",
        || {
            #[repr(C)]
            struct Node {
                next: usize,
                word: u32,
            }
            #[repr(C)]
            struct Head {
                first: usize,
                offset: isize,
                pending: usize,
            }
            let node = map_shared(4096)?.cast::<Node>();
            let pid = child(|| {
                let mut head = Head {
                    first: node as usize,
                    offset: 8,
                    pending: 0,
                };
                unsafe {
                    (*node).next = (&raw const head) as usize;
                    (*node).word = raw!(gettid()) as u32;
                }
                raw!(syscall(
                    SYS_set_robust_list,
                    &raw mut head,
                    size_of::<Head>()
                ));
                raw!(syscall(SYS_exit, 0)) as i32
            })?;
            expect_exit(pid, 0)?;
            let word = unsafe { (&raw const (*node).word).read_volatile() };
            eq("FUTEX_OWNER_DIED bit", word & FUTEX_OWNER_DIED != 0, true)?;
            eq("owner", word & FUTEX_TID_MASK, 0)
        },
    ),
    Case::new(
        "robust.errors",
        "get_robust_list(2)",
        "EINVAL for a size, ESRCH for no thread",
        || {
            let head = [0usize; 3];
            err!(EINVAL, syscall(SYS_set_robust_list, head.as_ptr(), 5usize));
            let (mut at, mut len) = (0usize, 0usize);
            let pid = child(|| 0)?;
            expect_exit(pid, 0)?;
            err!(
                ESRCH,
                syscall(SYS_get_robust_list, pid, &raw mut at, &raw mut len)
            );
            ok!(syscall(SYS_get_robust_list, 0, &raw mut at, &raw mut len));
            eq("length", len, 24)
        },
    ),
    Case::new(
        "futex.mutex_and_condvar",
        "pthreads(7)",
        "a mutex and a condition variable hand over",
        || {
            let pair = Arc::new((std::sync::Mutex::new(0u32), std::sync::Condvar::new()));
            let other = Arc::clone(&pair);
            let thread = std::thread::spawn(move || {
                for turn in 0..500 {
                    let guard = other.0.lock().expect("no panics");
                    let mut guard = other
                        .1
                        .wait_while(guard, |n| *n != 2 * turn + 1)
                        .expect("no panics");
                    *guard += 1;
                    other.1.notify_all();
                }
            });
            for turn in 0..500 {
                let guard = pair.0.lock().expect("no panics");
                let mut guard = pair
                    .1
                    .wait_while(guard, |n| *n != 2 * turn)
                    .expect("no panics");
                *guard += 1;
                pair.1.notify_all();
            }
            ensure!(thread.join().is_ok(), "the thread panicked");
            let last = *pair.0.lock().expect("no panics");
            eq("turns", last, 1000)
        },
    ),
];
