//! System V IPC: sysvipc(7).

use crate::case::*;
use std::ptr::{null, null_mut};

/// A key of this case's own.
fn own_key(what: i32) -> key_t {
    0x5200_0000 | getpid_now() << 4 | what
}

/// Mode bits of a segment that goes with its last attachment, and of a locked one.
const SHM_DEST: u16 = 0o1000;
const SHM_LOCKED: u16 = 0o2000;
const MSG_COPY: c_int = 0o40000;
const SHM_INFO: c_int = 14;
const SHM_STAT: c_int = 13;
const SHM_STAT_ANY: c_int = 15;

fn shm_stat(id: c_int) -> Outcome<shmid_ds> {
    let mut stat = zeroed::<shmid_ds>();
    gives!(0, shmctl(id, IPC_STAT, &raw mut stat));
    Ok(stat)
}

fn attached(id: c_int) -> Outcome<u64> {
    Ok(shm_stat(id)?.shm_nattch)
}

/// A new segment of that many bytes.
fn segment(size: usize) -> Outcome<c_int> {
    Ok(ok!(shmget(IPC_PRIVATE, size, IPC_CREAT | 0o600)))
}

/// The line of /proc/sysvipc/`kind` about this object, as words.
fn listed(kind: &str, id: c_int) -> Outcome<Option<Vec<i64>>> {
    let text = slurp(&format!("/proc/sysvipc/{kind}"))?;
    let words = |line: &str| -> Vec<i64> {
        let words = line.split_whitespace();
        words.filter_map(|word| word.parse().ok()).collect()
    };
    let lines = text.lines().skip(1).map(words);
    Ok(lines.into_iter().find(|w| w.get(1) == Some(&id.into())))
}

fn null_ds() -> *mut shmid_ds {
    null_mut()
}

fn op(num: u16, change: i16, flags: c_int) -> sembuf {
    sembuf {
        sem_num: num,
        sem_op: change,
        sem_flg: flags as i16,
    }
}

fn semop_now(id: c_int, ops: &[sembuf]) -> Outcome {
    let mut ops = ops.to_vec();
    gives!(0, semop(id, ops.as_mut_ptr(), ops.len()));
    Ok(())
}

/// A new set of that many semaphores.
fn set(count: c_int) -> Outcome<c_int> {
    Ok(ok!(semget(IPC_PRIVATE, count, IPC_CREAT | 0o600)))
}

fn all(id: c_int) -> Outcome<Vec<u16>> {
    let mut stat = zeroed::<semid_ds>();
    gives!(0, semctl(id, 0, IPC_STAT, &raw mut stat));
    let mut values = vec![0u16; stat.sem_nsems as usize];
    gives!(0, semctl(id, 0, GETALL, values.as_mut_ptr()));
    Ok(values)
}

extern "C" fn nothing(_: c_int) {}

fn send(id: c_int, kind: i64, text: &str) -> Outcome {
    let mut message = kind.to_ne_bytes().to_vec();
    message.extend_from_slice(text.as_bytes());
    gives!(0, msgsnd(id, message.as_ptr().cast(), text.len(), 0));
    Ok(())
}

fn receive(id: c_int, kind: i64, flags: c_int) -> Outcome<(i64, String)> {
    let mut buf = [0u64; 16];
    let n = ok!(msgrcv(id, buf.as_mut_ptr().cast(), 120, kind, flags));
    let bytes: Vec<u8> = buf.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let text = String::from_utf8_lossy(&bytes[8..8 + n as usize]).into_owned();
    Ok((buf[0] as i64, text))
}

pub static CASES: &[Case] = &[
    Case::new(
        "sysv.shmget",
        "shmget(2)",
        "keys, IPC_CREAT, IPC_EXCL, sizes and permissions",
        || {
            let key = own_key(1);
            let new = IPC_CREAT | IPC_EXCL;
            err!(ENOENT, shmget(key, 100, 0));
            err!(EINVAL, shmget(key, 0, new | 0o600));
            err!(EINVAL, shmget(key, usize::MAX, new | 0o600));
            let id = ok!(shmget(key, 5000, new | 0o640));
            err!(EEXIST, shmget(key, 5000, new | 0o600));
            gives!(id, shmget(key, 0, 0));
            gives!(id, shmget(key, 5000, IPC_CREAT | 0o600));
            err!(EINVAL, shmget(key, 5001, 0));
            let stat = shm_stat(id)?;
            eq("size", stat.shm_segsz, 5000)?;
            eq("key", stat.shm_perm.__key, key)?;
            eq("mode", u32::from(stat.shm_perm.mode), 0o640)?;
            let uids = (stat.shm_perm.uid, stat.shm_perm.cuid);
            eq("uids", uids, (raw!(geteuid()), raw!(geteuid())))?;
            eq("pids", (stat.shm_cpid, stat.shm_lpid), (getpid_now(), 0))?;
            eq("attached", stat.shm_nattch, 0)?;
            ensure!(stat.shm_ctime > 0 && stat.shm_atime == 0, "times");
            let row = listed("shm", id)?.unwrap_or_default();
            let want: Vec<i64> = [key.into(), id.into(), 640, 5000].into();
            eq("listed", row.get(..4).unwrap_or_default().to_vec(), want)?;
            eq("columns", row.len(), 16)?;
            gives!(0, shmctl(id, IPC_RMID, null_ds()));
            err!(ENOENT, shmget(key, 100, 0));
            err!(EINVAL, shmctl(id, IPC_RMID, null_ds()));
            eq("listed", listed("shm", id)?, None)?;
            let (a, b) = (segment(1)?, segment(1)?);
            ensure!(a != b, "IPC_PRIVATE gave one segment twice");
            ok!(shmctl(a, IPC_RMID, null_ds()));
            let again = segment(1)?;
            ensure!(again != a, "an identifier came back at once");
            ok!(shmctl(b, IPC_RMID, null_ds()));
            ok!(shmctl(again, IPC_RMID, null_ds()));
            Ok(())
        },
    ),
    Case::new(
        "sysv.shm_shared",
        "shmat(2)",
        "what one process writes another one reads; attachments are counted",
        || {
            let id = segment(8192)?;
            let at = ok!(shmat(id, null(), 0)).cast::<u8>();
            eq("attached", attached(id)?, 1)?;
            let again = ok!(shmat(id, null(), SHM_RDONLY)).cast::<u8>();
            eq("attached", attached(id)?, 2)?;
            unsafe { at.add(5000).write_volatile(7) };
            eq("seen", unsafe { again.add(5000).read_volatile() }, 7)?;
            let (r, w) = pipe_pair()?;
            let pid = child(|| {
                unsafe { at.write_volatile(9) };
                let mut byte = 0u8;
                raw!(read(r, (&raw mut byte).cast(), 1));
                0
            })?;
            eq("after fork", attached(id)?, 4)?;
            eq("lpid", shm_stat(id)?.shm_lpid, getpid_now())?;
            write_all(w, b"x")?;
            expect_exit(pid, 0)?;
            eq("after exit", attached(id)?, 2)?;
            eq("lpid", shm_stat(id)?.shm_lpid, pid)?;
            eq("seen", unsafe { again.read_volatile() }, 9)?;
            ok!(shmdt(again.cast()));
            err!(EINVAL, shmdt(again.cast()));
            err!(EINVAL, shmdt(at.wrapping_add(1).cast()));
            err!(EINVAL, shmdt(at.wrapping_add(4096).cast()));
            eq("after shmdt", attached(id)?, 1)?;
            ok!(munmap(at.cast(), 8192));
            let stat = shm_stat(id)?;
            eq("after munmap", stat.shm_nattch, 0)?;
            ensure!(stat.shm_atime > 0 && stat.shm_dtime > 0, "times");
            // What is in it stays.
            let at = ok!(shmat(id, null(), 0)).cast::<u8>();
            eq("seen", unsafe { at.add(5000).read_volatile() }, 7)?;
            // Without its first page it is still known by where it began.
            ok!(munmap(at.cast(), 4096));
            ok!(shmdt(at.cast()));
            eq("after shmdt", attached(id)?, 0)?;
            ok!(shmctl(id, IPC_RMID, null_ds()));
            Ok(())
        },
    ),
    Case::new(
        "sysv.shm_exec",
        "shmat(2)",
        "execve detaches everything",
        || {
            let id = segment(4096)?;
            ok!(shmat(id, null(), 0));
            let pid = child(|| {
                let args = [p(c"true"), null()];
                raw!(execv(p(c"/bin/true"), args.as_ptr()));
                1
            })?;
            expect_exit(pid, 0)?;
            let (r, w) = pipe_pair()?;
            let pid = child(|| {
                raw!(dup2(r, 0));
                raw!(close(w));
                let args = [p(c"cat"), null()];
                raw!(execv(p(c"/bin/cat"), args.as_ptr()));
                1
            })?;
            // The child's share goes when its program does.
            let comm = format!("/proc/{pid}/comm");
            while slurp(&comm)?.trim() != "cat" {
                raw!(sched_yield());
            }
            eq("attached", attached(id)?, 1)?;
            ok!(close(w));
            expect_exit(pid, 0)?;
            ok!(shmctl(id, IPC_RMID, null_ds()));
            Ok(())
        },
    ),
    Case::new(
        "sysv.shm_removed",
        "shmctl(2)",
        "a removed segment lives until its last attachment goes",
        || {
            let key = own_key(2);
            let id = ok!(shmget(key, 100, IPC_CREAT | 0o600));
            let at = ok!(shmat(id, null(), 0)).cast::<u8>();
            unsafe { at.write_volatile(3) };
            ok!(shmctl(id, IPC_RMID, null_ds()));
            let stat = shm_stat(id)?;
            eq("mode", stat.shm_perm.mode as u16, 0o600 | SHM_DEST)?;
            eq("key", stat.shm_perm.__key, IPC_PRIVATE)?;
            err!(ENOENT, shmget(key, 100, 0));
            let again = ok!(shmat(id, null(), 0)).cast::<u8>();
            eq("seen", unsafe { again.read_volatile() }, 3)?;
            ok!(shmdt(at.cast()));
            eq("attached", attached(id)?, 1)?;
            ok!(shmdt(again.cast()));
            let mut stat = stat;
            err!(EINVAL, shmctl(id, IPC_STAT, &raw mut stat));
            err!(EINVAL, shmat(id, null(), 0));
            Ok(())
        },
    ),
    Case::new(
        "sysv.shmat_places",
        "shmat(2)",
        "addresses, SHM_RND, SHM_REMAP, SHM_RDONLY and SHM_EXEC",
        || {
            let id = segment(5000)?;
            err!(EINVAL, shmat(-1, null(), 0));
            err!(EINVAL, shmat(id, null(), SHM_REMAP));
            let hole = map_anon(16384)?;
            let at = hole.wrapping_add(4096);
            err!(EINVAL, shmat(id, at.cast(), 0));
            err!(EINVAL, shmat(id, at.wrapping_add(10).cast(), 0));
            gives!(
                at,
                shmat(id, at.wrapping_add(10).cast(), SHM_RND | SHM_REMAP)
            );
            unsafe { at.write_volatile(1) };
            ok!(shmdt(at.cast()));
            gives!(at, shmat(id, at.wrapping_add(4095).cast(), SHM_RND));
            let maps = slurp("/proc/self/maps")?;
            let line = format!("{:08x}-{:08x} rw-s", at as usize, at as usize + 8192);
            let line = maps.lines().find(|l| l.starts_with(&line)).unwrap_or("");
            ensure!(line.ends_with("/SYSV00000000 (deleted)"), "{line:?}");
            ensure!(line.contains(&format!(" 00:01 {id} ")), "{line:?}");
            ok!(shmdt(at.cast()));
            let at = ok!(shmat(id, null(), SHM_RDONLY));
            err!(EACCES, mprotect(at, 4096, PROT_READ | PROT_WRITE));
            ok!(shmdt(at));
            let pid = child(|| {
                let at = raw!(shmat(id, null(), SHM_RDONLY)).cast::<u8>();
                unsafe { at.write_volatile(1) };
                0
            })?;
            expect_signal(pid, SIGSEGV)?;
            let high = (1usize << 47) as *const c_void;
            err_any!([ENOMEM, EINVAL], shmat(id, high, 0));
            ok!(shmctl(id, IPC_RMID, null_ds()));
            // Whoever has no privileges needs the permission.
            let id = ok!(shmget(IPC_PRIVATE, 4096, IPC_CREAT | 0o700));
            let at = ok!(shmat(id, null(), SHM_EXEC));
            ok!(shmdt(at));
            ok!(shmctl(id, IPC_RMID, null_ds()));
            Ok(())
        },
    ),
    Case::new(
        "sysv.shm_permissions",
        "shmctl(2)",
        "modes decide who attaches and reads, ownership who changes",
        || {
            need_root()?;
            let key = own_key(3);
            let id = ok!(shmget(key, 100, IPC_CREAT | 0o604));
            as_user(|| {
                gives!(id, shmget(key, 100, 0o004));
                err!(EACCES, shmget(key, 100, 0o006));
                err!(EACCES, shmat(id, null(), 0));
                err!(EACCES, shmat(id, null(), SHM_RDONLY | SHM_EXEC));
                let at = ok!(shmat(id, null(), SHM_RDONLY));
                ok!(shmdt(at));
                let mut stat = shm_stat(id)?;
                err!(EPERM, shmctl(id, IPC_SET, &raw mut stat));
                err!(EPERM, shmctl(id, IPC_RMID, null_ds()));
                err!(EPERM, shmctl(id, SHM_LOCK, null_ds()));
                Ok(())
            })?;
            let mut stat = shm_stat(id)?;
            stat.shm_perm.mode = 0o7600;
            stat.shm_perm.uid = NOBODY;
            stat.shm_perm.gid = u32::MAX;
            err!(EINVAL, shmctl(id, IPC_SET, &raw mut stat));
            stat.shm_perm.gid = NOBODY;
            ok!(shmctl(id, IPC_SET, &raw mut stat));
            err!(EFAULT, shmctl(id, IPC_SET, bad_ptr()));
            let stat = shm_stat(id)?;
            eq("mode", stat.shm_perm.mode as u16, 0o600)?;
            eq(
                "owner",
                (stat.shm_perm.uid, stat.shm_perm.cuid),
                (NOBODY, 0),
            )?;
            as_user(|| {
                let at = ok!(shmat(id, null(), 0));
                ok!(shmdt(at));
                ok!(shmctl(id, IPC_RMID, null_ds()));
                Ok(())
            })
        },
    ),
    Case::new(
        "sysv.shm_commands",
        "shmctl(2)",
        "IPC_INFO, SHM_INFO, SHM_STAT, SHM_STAT_ANY, SHM_LOCK and their errors",
        || {
            let id = segment(8192)?;
            let mut info = [0u64; 9];
            let highest = ok!(shmctl(id, IPC_INFO, info.as_mut_ptr().cast()));
            eq("shmmin", info[1], 1)?;
            let most = slurp("/proc/sys/kernel/shmmni")?;
            eq("shmmni", info[2].to_string(), most.trim().to_string())?;
            let max = slurp("/proc/sys/kernel/shmmax")?;
            eq("shmmax", info[0].to_string(), max.trim().to_string())?;
            ensure!(highest >= id & 0x7fff, "highest index");
            let mut sums = [0u64; 6];
            ok!(shmctl(0, SHM_INFO, sums.as_mut_ptr().cast()));
            ensure!(sums[0] as u32 >= 1 && sums[1] >= 2, "{sums:?}");
            let mut stat = zeroed::<shmid_ds>();
            gives!(id, shmctl(id & 0x7fff, SHM_STAT, &raw mut stat));
            eq("size", stat.shm_segsz, 8192)?;
            gives!(id, shmctl(id & 0x7fff, SHM_STAT_ANY, &raw mut stat));
            err!(EINVAL, shmctl(32767, SHM_STAT, &raw mut stat));
            err!(EFAULT, shmctl(id, IPC_STAT, bad_ptr()));
            err!(EINVAL, shmctl(id, 99, &raw mut stat));
            err!(EINVAL, shmctl(-1, IPC_STAT, &raw mut stat));
            ok!(shmctl(id, SHM_LOCK, null_ds()));
            eq(
                "mode",
                shm_stat(id)?.shm_perm.mode as u16,
                0o600 | SHM_LOCKED,
            )?;
            ok!(shmctl(id, SHM_UNLOCK, null_ds()));
            eq("mode", shm_stat(id)?.shm_perm.mode as u16, 0o600)?;
            ok!(shmctl(id, IPC_RMID, null_ds()));
            Ok(())
        },
    ),
    Case::new(
        "sysv.semget",
        "semctl(2)",
        "keys and sizes of sets, values, and who changed them",
        || {
            let key = own_key(4);
            err!(ENOENT, semget(key, 3, 0));
            err!(EINVAL, semget(key, 0, IPC_CREAT | 0o600));
            err!(EINVAL, semget(key, -1, IPC_CREAT | 0o600));
            err!(EINVAL, semget(key, 32001, IPC_CREAT | 0o600));
            let id = ok!(semget(key, 3, IPC_CREAT | IPC_EXCL | 0o640));
            err!(EEXIST, semget(key, 3, IPC_CREAT | IPC_EXCL | 0o640));
            gives!(id, semget(key, 0, 0));
            err!(EINVAL, semget(key, 4, 0));
            gives!(0, semctl(id, 1, GETPID));
            gives!(0, semctl(id, 1, SETVAL, 7));
            gives!(7, semctl(id, 1, GETVAL));
            gives!(getpid_now(), semctl(id, 1, GETPID));
            let mut values = [1u16, 2, 3];
            gives!(0, semctl(id, 0, SETALL, values.as_mut_ptr()));
            values = [0; 3];
            gives!(0, semctl(id, 0, GETALL, values.as_mut_ptr()));
            eq("values", values, [1, 2, 3])?;
            values[2] = 32768;
            err!(ERANGE, semctl(id, 0, SETALL, values.as_mut_ptr()));
            err!(ERANGE, semctl(id, 0, SETVAL, 32768));
            err!(ERANGE, semctl(id, 0, SETVAL, -1));
            err!(EINVAL, semctl(id, 3, GETVAL));
            err!(EINVAL, semctl(id, -1, SETVAL, 1));
            err!(EINVAL, semctl(id, 0, 99));
            err!(EFAULT, semctl(id, 0, GETALL, bad_ptr::<u16>()));
            let mut stat = zeroed::<semid_ds>();
            gives!(0, semctl(id, 0, IPC_STAT, &raw mut stat));
            eq("count", stat.sem_nsems, 3)?;
            eq("mode", stat.sem_perm.mode, 0o640)?;
            eq("otime", stat.sem_otime, 0)?;
            gives!(id, semctl(id & 0x7fff, 0, SEM_STAT, &raw mut stat));
            stat.sem_perm.mode = 0o600;
            gives!(0, semctl(id, 0, IPC_SET, &raw mut stat));
            let row = listed("sem", id)?.unwrap_or_default();
            let want: Vec<i64> = [key.into(), id.into(), 600, 3].into();
            eq("listed", row.get(..4).unwrap_or_default().to_vec(), want)?;
            let mut info = [0i32; 10];
            ok!(semctl(0, 0, SEM_INFO, info.as_mut_ptr()));
            ensure!(info[7] >= 1 && info[9] >= 3, "{info:?}");
            ok!(semctl(0, 0, IPC_INFO, info.as_mut_ptr()));
            eq(
                "limits",
                (info[1], info[4], info[5], info[8]),
                (32000, 32000, 500, 32767),
            )?;
            gives!(0, semctl(id, 0, IPC_RMID));
            err!(EINVAL, semctl(id, 0, GETVAL));
            Ok(())
        },
    ),
    Case::new(
        "sysv.semop",
        "semop(2)",
        "all operations of a call or none",
        || {
            let id = set(3)?;
            let up = op(0, 2, 0);
            semop_now(id, &[up, op(1, 1, 0)])?;
            eq("values", all(id)?, vec![2, 1, 0])?;
            err!(
                EAGAIN,
                semop(id, [op(0, -1, 0), op(1, -2, IPC_NOWAIT)].as_mut_ptr(), 2)
            );
            eq("values", all(id)?, vec![2, 1, 0])?;
            err!(EAGAIN, semop(id, [op(0, 0, IPC_NOWAIT)].as_mut_ptr(), 1));
            // Of one semaphore twice: the second sees what the first did.
            semop_now(id, &[op(0, -2, 0), op(0, 0, IPC_NOWAIT), op(0, 5, 0)])?;
            eq("values", all(id)?, vec![5, 1, 0])?;
            err!(EFBIG, semop(id, [op(3, 1, 0)].as_mut_ptr(), 1));
            err!(ERANGE, semop(id, [op(0, 32767, 0)].as_mut_ptr(), 1));
            err!(EINVAL, semop(id, [up].as_mut_ptr(), 0));
            err!(EINVAL, semop(-1, [up].as_mut_ptr(), 1));
            err!(E2BIG, semop(id, [up].as_mut_ptr(), 501));
            err!(EFAULT, semop(id, bad_ptr(), 1));
            let soon = millis(20);
            let mut down = [op(2, -1, 0)];
            err!(
                EAGAIN,
                syscall(
                    SYS_semtimedop,
                    id,
                    down.as_mut_ptr(),
                    1usize,
                    &raw const soon
                )
            );
            let bad = timespec {
                tv_sec: 0,
                tv_nsec: -1,
            };
            err!(
                EINVAL,
                syscall(
                    SYS_semtimedop,
                    id,
                    down.as_mut_ptr(),
                    1usize,
                    &raw const bad
                )
            );
            gives!(0, semctl(id, 0, IPC_RMID));
            err!(EINVAL, semop(id, [up].as_mut_ptr(), 1));
            Ok(())
        },
    ),
    Case::new(
        "sysv.sem_waits",
        "semop(2)",
        "sleepers are counted, served at once, and told of removal and signals",
        || {
            let id = set(2)?;
            let sleeps = |ops: &[sembuf], want: i32| {
                let mut ops = ops.to_vec();
                child(move || {
                    let result = raw!(semop(id, ops.as_mut_ptr(), ops.len()));
                    let seen = if result == 0 { 0 } else { errno() };
                    i32::from(seen != want)
                })
            };
            let until = |num: c_int, cmd: c_int, count: c_int| -> Outcome {
                while ok!(semctl(id, num, cmd)) != count {
                    raw!(sched_yield());
                }
                Ok(())
            };
            let more = sleeps(&[op(0, -2, 0)], 0)?;
            until(0, GETNCNT, 1)?;
            gives!(0, semctl(id, 1, SETVAL, 1));
            let zero = sleeps(&[op(1, 0, 0)], 0)?;
            until(1, GETZCNT, 1)?;
            eq("others", ok!(semctl(id, 0, GETZCNT)), 0)?;
            semop_now(id, &[op(0, 1, 0)])?;
            eq("still asleep", ok!(semctl(id, 0, GETNCNT)), 1)?;
            // What it waits for is its own before anybody else can look.
            semop_now(id, &[op(0, 1, 0)])?;
            eq("handed over", ok!(semctl(id, 0, GETVAL)), 0)?;
            eq("whose", ok!(semctl(id, 0, GETPID)), more)?;
            expect_exit(more, 0)?;
            semop_now(id, &[op(1, -1, 0)])?;
            expect_exit(zero, 0)?;
            let killed = sleeps(&[op(0, -1, 0)], 0)?;
            until(0, GETNCNT, 1)?;
            ok!(kill(killed, SIGKILL));
            expect_signal(killed, SIGKILL)?;
            until(0, GETNCNT, 0)?;
            let interrupted = child(|| {
                let handler = nothing as *const () as usize;
                let mut action = zeroed::<sigaction>();
                action.sa_sigaction = handler;
                action.sa_flags = SA_RESTART;
                raw!(sigaction(SIGUSR1, &raw const action, null_mut()));
                let mut down = op(0, -1, 0);
                let result = raw!(semop(id, &raw mut down, 1));
                i32::from(result != -1 || errno() != EINTR)
            })?;
            until(0, GETNCNT, 1)?;
            ok!(kill(interrupted, SIGUSR1));
            expect_exit(interrupted, 0)?;
            let told = sleeps(&[op(0, -1, 0)], EIDRM)?;
            until(0, GETNCNT, 1)?;
            gives!(0, semctl(id, 0, IPC_RMID));
            expect_exit(told, 0)
        },
    ),
    Case::new(
        "sysv.sem_undo",
        "semop(2)",
        "SEM_UNDO takes back at the end of a process, not of a thread or program",
        || {
            let id = set(2)?;
            semop_now(id, &[op(0, 5, 0)])?;
            let pid = child(|| {
                let taken = semop_now(id, &[op(0, -3, SEM_UNDO), op(1, 2, SEM_UNDO)]);
                // A thread shares what is to be undone, and does not undo it at its end.
                let thread = std::thread::spawn(move || {
                    semop_now(id, &[op(0, -1, SEM_UNDO)]).is_ok() && all(id) == Ok(vec![1, 2])
                });
                let thread = thread.join().unwrap_or(false);
                i32::from(taken.is_err() || !thread || all(id) != Ok(vec![1, 2]))
            })?;
            expect_exit(pid, 0)?;
            eq("undone", all(id)?, vec![5, 0])?;
            eq("by", ok!(semctl(id, 0, GETPID)), pid)?;
            // SETVAL forgets what was to be undone.
            let pid = child(|| {
                let taken = semop_now(id, &[op(0, -3, SEM_UNDO)]);
                raw!(semctl(id, 0, SETVAL, 1));
                i32::from(taken.is_err())
            })?;
            expect_exit(pid, 0)?;
            eq("set", all(id)?, vec![1, 0])?;
            let (r, w) = pipe_pair()?;
            let pid = child(|| {
                let taken = semop_now(id, &[op(0, -1, SEM_UNDO)]);
                raw!(dup2(r, 0));
                let args = [p(c"cat"), null()];
                raw!(execv(p(c"/bin/cat"), args.as_ptr()));
                i32::from(taken.is_err())
            })?;
            let comm = format!("/proc/{pid}/comm");
            while slurp(&comm)?.trim() != "cat" {
                raw!(sched_yield());
            }
            eq("by the program before", all(id)?, vec![0, 0])?;
            // Who sleeps gets what the end of the process gives back.
            let sleeper = child(|| {
                raw!(close(w));
                i32::from(semop_now(id, &[op(0, -1, 0)]).is_err())
            })?;
            while ok!(semctl(id, 0, GETNCNT)) != 1 {
                raw!(sched_yield());
            }
            ok!(close(w));
            expect_exit(pid, 0)?;
            expect_exit(sleeper, 0)?;
            eq("taken", all(id)?, vec![0, 0])?;
            gives!(0, semctl(id, 0, IPC_RMID));
            Ok(())
        },
    ),
    Case::new(
        "sysv.sem_permissions",
        "semctl(2)",
        "reading and changing a set take permission",
        || {
            need_root()?;
            let id = ok!(semget(IPC_PRIVATE, 1, 0o604));
            as_user(|| {
                gives!(0, semctl(id, 0, GETVAL));
                err!(EACCES, semctl(id, 0, SETVAL, 1));
                err!(EACCES, semop(id, [op(0, 1, 0)].as_mut_ptr(), 1));
                gives!(0, semop(id, [op(0, 0, 0)].as_mut_ptr(), 1));
                err!(EPERM, semctl(id, 0, IPC_RMID));
                Ok(())
            })?;
            gives!(0, semctl(id, 0, IPC_RMID));
            Ok(())
        },
    ),
    Case::new(
        "sysv.msg_kinds",
        "msgrcv(2)",
        "which message is taken, MSG_EXCEPT, MSG_NOERROR and MSG_COPY",
        || {
            let id = ok!(msgget(IPC_PRIVATE, 0o600));
            for (kind, text) in [(5, "a"), (3, "bb"), (5, "ccc"), (2, ""), (3, "d"), (9, "e")] {
                send(id, kind, text)?;
            }
            eq("kind 3", receive(id, 3, 0)?, (3, "bb".to_string()))?;
            eq("up to 4", receive(id, -4, 0)?, (2, String::new()))?;
            eq("up to 6", receive(id, -6, 0)?, (3, "d".to_string()))?;
            eq("but 5", receive(id, 5, MSG_EXCEPT)?, (9, "e".to_string()))?;
            eq("any", receive(id, 0, 0)?, (5, "a".to_string()))?;
            let mut buf = [0u64; 4];
            let at = buf.as_mut_ptr().cast();
            err!(ENOMSG, msgrcv(id, at, 8, 7, IPC_NOWAIT));
            err!(ENOMSG, msgrcv(id, at, 8, -4, IPC_NOWAIT));
            err!(EINVAL, msgrcv(id, at, 8, 0, MSG_COPY));
            err!(
                EINVAL,
                msgrcv(id, at, 8, 0, MSG_COPY | MSG_EXCEPT | IPC_NOWAIT)
            );
            let copied = raw!(msgrcv(id, at, 8, 0, MSG_COPY | IPC_NOWAIT));
            ensure!(copied == 3 || errno() == ENOSYS, "MSG_COPY gave {copied}");
            if copied == 3 {
                err!(ENOMSG, msgrcv(id, at, 8, 1, MSG_COPY | IPC_NOWAIT));
            }
            err!(E2BIG, msgrcv(id, at, 2, 0, 0));
            gives!(2, msgrcv(id, at, 2, 0, MSG_NOERROR));
            err!(ENOMSG, msgrcv(id, at, 8, 0, IPC_NOWAIT));
            err!(EINVAL, msgrcv(id, at, usize::MAX, 0, 0));
            gives!(0, msgctl(id, IPC_RMID, null_mut()));
            err!(EINVAL, msgrcv(id, at, 8, 0, 0));
            Ok(())
        },
    ),
    Case::new(
        "sysv.msg_queue",
        "msgctl(2)",
        "keys, what a queue tells of itself, its size, and errors",
        || {
            let key = own_key(5);
            err!(ENOENT, msgget(key, 0));
            let id = ok!(msgget(key, IPC_CREAT | IPC_EXCL | 0o600));
            err!(EEXIST, msgget(key, IPC_CREAT | IPC_EXCL | 0o600));
            gives!(id, msgget(key, 0));
            send(id, 1, "four")?;
            let mut stat = zeroed::<msqid_ds>();
            gives!(0, msgctl(id, IPC_STAT, &raw mut stat));
            eq("count", stat.msg_qnum, 1)?;
            eq("bytes", stat.__msg_cbytes, 4)?;
            eq("pids", (stat.msg_lspid, stat.msg_lrpid), (getpid_now(), 0))?;
            let row = listed("msg", id)?.unwrap_or_default();
            let want: Vec<i64> = [key.into(), id.into(), 600, 4, 1, getpid_now().into()].into();
            eq("listed", row.get(..6).unwrap_or_default().to_vec(), want)?;
            let most = slurp("/proc/sys/kernel/msgmnb")?;
            eq("size", stat.msg_qbytes.to_string(), most.trim().to_string())?;
            stat.msg_qbytes = 6;
            gives!(0, msgctl(id, IPC_SET, &raw mut stat));
            let three = [1u64, 0];
            err!(EAGAIN, msgsnd(id, three.as_ptr().cast(), 3, IPC_NOWAIT));
            gives!(0, msgsnd(id, three.as_ptr().cast(), 2, IPC_NOWAIT));
            let zero = [0u64, 0];
            err!(EINVAL, msgsnd(id, zero.as_ptr().cast(), 1, 0));
            err!(EINVAL, msgsnd(id, three.as_ptr().cast(), usize::MAX, 0));
            err!(EINVAL, msgsnd(-1, three.as_ptr().cast(), 1, 0));
            err!(EFAULT, msgsnd(id, bad_ptr(), 1, 0));
            err!(EFAULT, msgctl(id, IPC_STAT, bad_ptr()));
            let mut info = [0i32; 8];
            ok!(msgctl(id, MSG_INFO, info.as_mut_ptr().cast()));
            ensure!(info[0] >= 1 && info[1] >= 2 && info[6] >= 6, "{info:?}");
            gives!(id, msgctl(id & 0x7fff, MSG_STAT, &raw mut stat));
            if is_root() {
                as_user(|| {
                    err!(EACCES, msgget(key, 0o400));
                    err!(EACCES, msgsnd(id, three.as_ptr().cast(), 1, IPC_NOWAIT));
                    err!(EPERM, msgctl(id, IPC_RMID, null_mut()));
                    Ok(())
                })?;
            }
            gives!(0, msgctl(id, IPC_RMID, null_mut()));
            Ok(())
        },
    ),
    Case::new(
        "sysv.msg_waits",
        "msgsnd(2)",
        "who waits for a message or for room is woken, and told of removal",
        || {
            let id = ok!(msgget(IPC_PRIVATE, 0o600));
            let receiver =
                child(|| i32::from(receive(id, 7, 0) != Ok((7, "for you".to_string()))))?;
            until_asleep(receiver)?;
            send(id, 6, "not for you")?;
            send(id, 7, "for you")?;
            expect_exit(receiver, 0)?;
            eq(
                "the other",
                receive(id, 0, 0)?,
                (6, "not for you".to_string()),
            )?;
            let mut stat = zeroed::<msqid_ds>();
            gives!(0, msgctl(id, IPC_STAT, &raw mut stat));
            stat.msg_qbytes = 4;
            gives!(0, msgctl(id, IPC_SET, &raw mut stat));
            send(id, 1, "full")?;
            let sender = child(|| i32::from(send(id, 2, "next").is_err()))?;
            until_asleep(sender)?;
            eq("first", receive(id, 0, 0)?, (1, "full".to_string()))?;
            expect_exit(sender, 0)?;
            eq("second", receive(id, 0, 0)?, (2, "next".to_string()))?;
            let told = child(|| {
                let mut buf = [0u64; 2];
                let got = raw!(msgrcv(id, buf.as_mut_ptr().cast(), 8, 0, 0));
                i32::from(got != -1 || errno() != EIDRM)
            })?;
            until_asleep(told)?;
            gives!(0, msgctl(id, IPC_RMID, null_mut()));
            expect_exit(told, 0)
        },
    ),
];
