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
];
