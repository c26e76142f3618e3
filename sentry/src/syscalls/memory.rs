//! Memory: mmap(2) and what changes mappings, locking, and the NUMA calls of a machine with one
//! node.

use crate::errno::Errno;
use crate::fs::mount::MountFlags;
use crate::kernel::task::Task;
use crate::mm::{MapFile, MapRequest, PAGE_SIZE, page_aligned, page_up};
use crate::syscalls::{Args, SysResult};

pub async fn mmap(t: &Task, a: &Args) -> SysResult {
    let (flags, offset) = (a.int(3), a.u64(5));
    if !page_aligned(offset) {
        return Err(Errno::EINVAL.into());
    }
    let file = if flags & libc::MAP_ANONYMOUS == 0 {
        let file = t.file(a.int(4))?;
        let (readable, writable) = (file.flags().readable(), file.flags().writable());
        Some(MapFile {
            mappable: file.ops().mappable(&file),
            readable,
            writable,
            noexec: file.path().mount.flags().contains(MountFlags::NOEXEC),
            file: Some(file),
        })
    } else {
        None
    };
    Ok(t.mm().mmap(MapRequest {
        addr: a.u64(0),
        len: a.u64(1),
        prot: a.int(2),
        flags,
        file,
        offset,
    })?)
}

pub async fn mprotect(t: &Task, a: &Args) -> SysResult {
    t.with_mm(|mm| mm.mprotect(a.u64(0), a.u64(1), a.int(2)))?;
    Ok(0)
}

pub async fn pkey_mprotect(t: &Task, a: &Args) -> SysResult {
    if a.int(3) != -1 {
        return Err(Errno::EINVAL.into());
    }
    mprotect(t, a).await
}

pub async fn munmap(t: &Task, a: &Args) -> SysResult {
    t.with_mm(|mm| mm.munmap(a.u64(0), a.u64(1)))?;
    Ok(0)
}

pub async fn brk(t: &Task, a: &Args) -> SysResult {
    Ok(t.mm().brk(a.u64(0)))
}

pub async fn mremap(t: &Task, a: &Args) -> SysResult {
    Ok(t.mm()
        .mremap(a.u64(0), a.u64(1), a.u64(2), a.int(3), a.u64(4))?)
}

pub async fn msync(t: &Task, a: &Args) -> SysResult {
    t.mm().msync(a.u64(0), a.u64(1), a.int(2))?;
    Ok(0)
}

pub async fn madvise(t: &Task, a: &Args) -> SysResult {
    t.mm().madvise(a.u64(0), a.u64(1), a.int(2))?;
    Ok(0)
}

pub async fn mincore(t: &Task, a: &Args) -> SysResult {
    const AT_ONCE: u64 = 4096 * PAGE_SIZE;
    let (start, vec) = (a.u64(0), a.u64(2));
    if !page_aligned(start) {
        return Err(Errno::EINVAL.into());
    }
    let mm = t.mm();
    let (_, high) = mm.user_range();
    let len = page_up(a.u64(1)).ok_or(Errno::ENOMEM)?;
    if start > high || len > high - start {
        return Err(Errno::ENOMEM.into());
    }
    if vec.checked_add(len / PAGE_SIZE).is_none_or(|e| e > high) {
        return Err(Errno::EFAULT.into());
    }
    let mut done = 0;
    while done < len {
        let resident = mm.mincore(start + done, (len - done).min(AT_ONCE))?;
        mm.write_bytes(vec + done / PAGE_SIZE, &resident)?;
        done += resident.len() as u64 * PAGE_SIZE;
    }
    Ok(0)
}

pub async fn mlock(t: &Task, a: &Args) -> SysResult {
    t.mm().mlock(a.u64(0), a.u64(1), 0)?;
    Ok(0)
}

pub async fn mlock2(t: &Task, a: &Args) -> SysResult {
    t.mm().mlock(a.u64(0), a.u64(1), a.int(2))?;
    Ok(0)
}

pub async fn munlock(t: &Task, a: &Args) -> SysResult {
    t.mm().munlock(a.u64(0), a.u64(1))?;
    Ok(0)
}

pub async fn mlockall(t: &Task, a: &Args) -> SysResult {
    t.mm().mlockall(a.int(0))?;
    Ok(0)
}

pub async fn munlockall(t: &Task, _a: &Args) -> SysResult {
    t.mm().munlockall()?;
    Ok(0)
}

const MPOL_DEFAULT: u32 = 0;
/// First mode number that does not exist (MPOL_WEIGHTED_INTERLEAVE is 6).
const MPOL_MAX: u32 = 7;
const MPOL_LOCAL: u32 = 4;
const MPOL_MODE_FLAGS: u32 = 0b111 << 13;
const MPOL_MF_VALID: u32 = 0b111;
const MPOL_F_NODE: u64 = 1;
const MPOL_F_ADDR: u64 = 2;
const MPOL_F_MEMS_ALLOWED: u64 = 4;
/// Most bits of a node mask that Linux reads.
const MAX_NODE_BITS: u64 = PAGE_SIZE * 8;

/// Checks a policy for a machine whose only node is 0.
fn check_policy(t: &Task, mode: u32, mask: u64, bits: u64) -> Result<(), Errno> {
    let mode = mode & !MPOL_MODE_FLAGS;
    if mode >= MPOL_MAX {
        return Err(Errno::EINVAL);
    }
    // The kernel takes one bit fewer than it is told.
    let bits = bits.saturating_sub(1);
    let mut nodes = 0;
    if mask != 0 && bits > 0 {
        if bits > MAX_NODE_BITS {
            return Err(Errno::EINVAL);
        }
        for word in 0..bits.div_ceil(64) {
            let mut value: u64 = t.mm().read_obj(mask.wrapping_add(word * 8))?;
            let left = bits - word * 64;
            if left < 64 {
                value &= (1 << left) - 1;
            }
            if word == 0 {
                nodes = value;
            } else if value != 0 {
                return Err(Errno::EINVAL);
            }
        }
    }
    let takes_none = mode == MPOL_DEFAULT || mode == MPOL_LOCAL;
    if nodes & !1 != 0 || takes_none && nodes != 0 {
        return Err(Errno::EINVAL);
    }
    // MPOL_PREFERRED without nodes means local.
    if !takes_none && mode != 1 && nodes == 0 {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

pub async fn mbind(t: &Task, a: &Args) -> SysResult {
    let (start, len, flags) = (a.u64(0), a.u64(1), a.uint(5));
    if flags & !MPOL_MF_VALID != 0 || !page_aligned(start) {
        return Err(Errno::EINVAL.into());
    }
    let end = page_up(len).and_then(|l| start.checked_add(l));
    let end = end.ok_or(Errno::EINVAL)?;
    check_policy(t, a.uint(2), a.u64(3), a.u64(4))?;
    if end > start && !t.mm().is_mapped(start, end) {
        return Err(Errno::EFAULT.into());
    }
    Ok(0)
}

pub async fn set_mempolicy(t: &Task, a: &Args) -> SysResult {
    check_policy(t, a.uint(0), a.u64(1), a.u64(2))?;
    Ok(0)
}

pub async fn get_mempolicy(t: &Task, a: &Args) -> SysResult {
    let (mode, mask, bits, addr, flags) = (a.u64(0), a.u64(1), a.u64(2), a.u64(3), a.u64(4));
    if flags & !(MPOL_F_NODE | MPOL_F_ADDR | MPOL_F_MEMS_ALLOWED) != 0 {
        return Err(Errno::EINVAL.into());
    }
    // One node, one bit.
    if mask != 0 && bits < 1 {
        return Err(Errno::EINVAL.into());
    }
    let mut nodes = 0u64;
    if flags & MPOL_F_MEMS_ALLOWED != 0 {
        if flags & (MPOL_F_NODE | MPOL_F_ADDR) != 0 {
            return Err(Errno::EINVAL.into());
        }
        nodes = 1;
    } else if flags & MPOL_F_ADDR != 0 {
        if !t.mm().is_mapped(addr, addr.saturating_add(1)) {
            return Err(Errno::EFAULT.into());
        }
    } else if addr != 0 || flags & MPOL_F_NODE != 0 {
        // Without an address the node is that of an interleave policy, which nobody has.
        return Err(Errno::EINVAL.into());
    }
    let mm = t.mm();
    if mode != 0 {
        // The default policy is 0, and so is the node.
        mm.write_obj(mode, &0i32)?;
    }
    if mask != 0 {
        let words = bits.min(MAX_NODE_BITS).div_ceil(64);
        for word in 0..words {
            let value = if word == 0 { nodes } else { 0 };
            mm.write_obj(mask.wrapping_add(word * 8), &value)?;
        }
    }
    Ok(0)
}
