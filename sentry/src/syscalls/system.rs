//! The system as a whole: names, limits, usage, randomness.

use zerocopy::{Immutable, IntoBytes};

use crate::errno::{Errno, Result};
use crate::kernel::cred::Cap;
use crate::kernel::group::Usage;
use crate::kernel::limits::{Limit, RLIM_NLIMITS};
use crate::kernel::task::Task;
use crate::kernel::time::uptime_ns;
use crate::kernel::{UTS_MACHINE, UTS_RELEASE, UTS_SYSNAME, UTS_VERSION};
use crate::mm::io::{Segment, Sink};
use crate::syscalls::{Args, SysResult};

/// Bytes of a field of struct utsname, and the longest name in it.
const UTS_FIELD: usize = 65;
const HOST_NAME_MAX: usize = 64;

pub async fn uname(t: &Task, a: &Args) -> SysResult {
    let mut buf = [0u8; 6 * UTS_FIELD];
    {
        let uts = t.kernel().uts.read();
        let fields: [&[u8]; 6] = [
            UTS_SYSNAME.as_bytes(),
            &uts.nodename,
            UTS_RELEASE.as_bytes(),
            UTS_VERSION.as_bytes(),
            UTS_MACHINE.as_bytes(),
            &uts.domainname,
        ];
        for (slot, text) in buf.chunks_exact_mut(UTS_FIELD).zip(fields) {
            let n = text.len().min(UTS_FIELD - 1);
            slot[..n].copy_from_slice(&text[..n]);
        }
    }
    t.mm().write_bytes(a.u64(0), &buf)?;
    Ok(0)
}

fn read_name(t: &Task, a: &Args) -> Result<Vec<u8>> {
    if !t.creds().has_cap(Cap::SysAdmin) {
        return Err(Errno::EPERM);
    }
    let len = usize::try_from(a.int(1)).map_err(|_| Errno::EINVAL)?;
    if len > HOST_NAME_MAX {
        return Err(Errno::EINVAL);
    }
    let mut name = vec![0u8; len];
    t.mm().read_bytes(a.u64(0), &mut name)?;
    Ok(name)
}

pub async fn sethostname(t: &Task, a: &Args) -> SysResult {
    let name = read_name(t, a)?;
    t.kernel().uts.write().nodename = name;
    Ok(0)
}

pub async fn setdomainname(t: &Task, a: &Args) -> SysResult {
    let name = read_name(t, a)?;
    t.kernel().uts.write().domainname = name;
    Ok(0)
}

/// struct sysinfo.
#[repr(C)]
#[derive(IntoBytes, Immutable)]
struct RawSysinfo {
    uptime: i64,
    loads: [u64; 3],
    totalram: u64,
    freeram: u64,
    sharedram: u64,
    bufferram: u64,
    totalswap: u64,
    freeswap: u64,
    procs: u16,
    pad: [u8; 6],
    totalhigh: u64,
    freehigh: u64,
    mem_unit: u32,
    pad2: u32,
}

pub async fn sysinfo(t: &Task, a: &Args) -> SysResult {
    let kernel = t.kernel();
    let total = kernel.memory_total();
    let info = RawSysinfo {
        uptime: (uptime_ns() / 1_000_000_000) as i64,
        loads: [0; 3],
        totalram: total,
        freeram: kernel.memory_free(),
        sharedram: 0,
        bufferram: 0,
        totalswap: 0,
        freeswap: 0,
        procs: u16::try_from(kernel.tree.lock().tasks.len()).unwrap_or(u16::MAX),
        pad: [0; 6],
        totalhigh: 0,
        freehigh: 0,
        mem_unit: 1,
        pad2: 0,
    };
    t.mm().write_obj(a.u64(0), &info)?;
    Ok(0)
}

pub async fn getrlimit(t: &Task, a: &Args) -> SysResult {
    let limit = t
        .group()
        .limits
        .lock()
        .get(a.uint(0))
        .ok_or(Errno::EINVAL)?;
    t.mm().write_obj(a.u64(1), &[limit.soft, limit.hard])?;
    Ok(0)
}

pub async fn setrlimit(t: &Task, a: &Args) -> SysResult {
    let [soft, hard]: [u64; 2] = t.mm().read_obj(a.u64(1))?;
    change_limit(t, t, a.uint(0), Limit { soft, hard })?;
    Ok(0)
}

pub async fn prlimit64(t: &Task, a: &Args) -> SysResult {
    let target = match a.int(0) {
        0 => t.arc(),
        pid => t.kernel().tree.task(pid).ok_or(Errno::ESRCH)?,
    };
    if !std::ptr::eq(&*target, t) {
        let (me, them) = (t.creds(), target.creds());
        let same = [them.ruid, them.euid, them.suid]
            .iter()
            .all(|u| *u == me.ruid)
            && [them.rgid, them.egid, them.sgid]
                .iter()
                .all(|g| *g == me.rgid);
        if !same && !me.has_cap(Cap::SysResource) {
            return Err(Errno::EPERM.into());
        }
    }
    let resource = a.uint(1);
    let old = target
        .group()
        .limits
        .lock()
        .get(resource)
        .ok_or(Errno::EINVAL)?;
    if a.u64(2) != 0 {
        let [soft, hard]: [u64; 2] = t.mm().read_obj(a.u64(2))?;
        change_limit(t, &target, resource, Limit { soft, hard })?;
    }
    if a.u64(3) != 0 {
        t.mm().write_obj(a.u64(3), &[old.soft, old.hard])?;
    }
    Ok(0)
}

fn change_limit(t: &Task, target: &Task, resource: u32, new: Limit) -> Result<()> {
    if resource as usize >= RLIM_NLIMITS || new.soft > new.hard {
        return Err(Errno::EINVAL);
    }
    /// fs.nr_open.
    const NR_OPEN: u64 = 1 << 20;
    if resource == libc::RLIMIT_NOFILE && new.hard > NR_OPEN {
        return Err(Errno::EPERM);
    }
    {
        let mut limits = target.group().limits.lock();
        let old = limits.get(resource).ok_or(Errno::EINVAL)?;
        if new.hard > old.hard && !t.creds().has_cap(Cap::SysResource) {
            return Err(Errno::EPERM);
        }
        limits.set(resource, new);
    }
    if resource == libc::RLIMIT_CPU {
        target.group().timers.set_cpu_limit(new.soft);
    }
    if let Ok(mm) = target.try_mm() {
        mm.set_limits(crate::kernel::exec::mm_limits(target));
    }
    Ok(())
}

/// struct rusage: two timevals and fourteen longs.
pub fn write_rusage(t: &Task, addr: u64, usage: &Usage) -> Result<()> {
    let us = |ns: u64| (ns / 1_000_000_000, ns % 1_000_000_000 / 1000);
    let ((us_, uu), (ss, su)) = (us(usage.user_ns), us(usage.system_ns));
    let mut raw = [0u64; 18];
    raw[..5].copy_from_slice(&[us_, uu, ss, su, usage.max_rss_kib]);
    raw[8] = usage.minor_faults;
    raw[9] = usage.major_faults;
    raw[16] = usage.voluntary_switches;
    raw[17] = usage.involuntary_switches;
    t.mm().write_obj(addr, &raw)
}

pub async fn getrusage(t: &Task, a: &Args) -> SysResult {
    let usage = match a.int(0) {
        libc::RUSAGE_SELF => {
            let mut usage = t.group().usage();
            usage.max_rss_kib = t.mm().totals().rss_peak / 1024;
            usage
        }
        libc::RUSAGE_THREAD => t.usage(),
        libc::RUSAGE_CHILDREN => t
            .kernel()
            .tree
            .lock()
            .node(t.pid())
            .map(|n| n.children_usage)
            .unwrap_or_default(),
        _ => return Err(Errno::EINVAL.into()),
    };
    write_rusage(t, a.u64(1), &usage)?;
    Ok(0)
}

pub async fn getrandom(t: &Task, a: &Args) -> SysResult {
    const NONBLOCK: u32 = 1;
    const RANDOM: u32 = 2;
    const INSECURE: u32 = 4;
    let flags = a.uint(2);
    if flags & !(NONBLOCK | RANDOM | INSECURE) != 0
        || flags & (RANDOM | INSECURE) == RANDOM | INSECURE
    {
        return Err(Errno::EINVAL.into());
    }
    let len = a.len(1).min(i32::MAX as usize);
    let segments = [Segment {
        addr: a.u64(0),
        len,
    }];
    let mut sink = Sink::user(t, &segments);
    let mut done = 0;
    let mut chunk = [0u8; 4096];
    while done < len {
        let n = (len - done).min(chunk.len());
        runsc_platform::host::random(&mut chunk[..n]).map_err(Errno::from)?;
        match sink.put(&chunk[..n]) {
            Ok(put) => {
                done += put;
                if put < n {
                    break;
                }
            }
            Err(e) if done == 0 => return Err(e.into()),
            Err(_) => break,
        }
    }
    Ok(done as u64)
}

/// Which CPU a thread runs on is the host's affair; all are told the first.
pub async fn getcpu(t: &Task, a: &Args) -> SysResult {
    for addr in [a.u64(0), a.u64(1)] {
        if addr != 0 {
            t.mm().write_obj(addr, &0u32)?;
        }
    }
    Ok(0)
}

/// The kernel log is empty.
pub async fn syslog(t: &Task, a: &Args) -> SysResult {
    const READ_ALL: i32 = 3;
    const SIZE_BUFFER: i32 = 10;
    let action = a.int(0);
    if !(0..=SIZE_BUFFER).contains(&action) {
        return Err(Errno::EINVAL.into());
    }
    if action != READ_ALL && action != SIZE_BUFFER && !t.creds().has_cap(Cap::Syslog) {
        return Err(Errno::EPERM.into());
    }
    if (2..=4).contains(&action) && (a.u64(1) == 0 || a.int(2) < 0) {
        return Err(Errno::EINVAL.into());
    }
    Ok(0)
}
