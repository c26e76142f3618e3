//! memfd_create(2) and file seals.

use crate::errno::{Errno, Result};
use crate::fs::fdtable::Exec;
use crate::fs::file::File;
use crate::fs::tmpfs::{Seals, seals_of};
use crate::kernel::task::Task;
use crate::syscalls::{Args, SysResult};

const MFD_CLOEXEC: u32 = 1;
const MFD_ALLOW_SEALING: u32 = 2;
const MFD_NOEXEC_SEAL: u32 = 8;
const MFD_EXEC: u32 = 16;
/// Longest name, without "memfd:" before it.
const NAME_MAX: usize = 249;

pub async fn memfd_create(t: &Task, a: &Args) -> SysResult {
    let flags = a.uint(1);
    let known = MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL | MFD_EXEC;
    let both = MFD_NOEXEC_SEAL | MFD_EXEC;
    if flags & !known != 0 || flags & both == both {
        return Err(Errno::EINVAL.into());
    }
    let name = t.mm().read_cstr(a.u64(0), NAME_MAX + 1).map_err(|e| match e {
        Errno::ENAMETOOLONG => Errno::EINVAL,
        e => e,
    })?;
    let creds = t.creds();
    let sealing = flags & (MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL) != 0;
    let file = t.kernel().memfds.memfd(&name, (creds.fsuid, creds.fsgid), sealing)?;
    if flags & MFD_NOEXEC_SEAL != 0 {
        let perm = crate::fs::inode::SetAttr { perm: Some(0o666), ..Default::default() };
        file.inode().set_attr(&perm)?;
        seals_of(&file)?.add_seals(Seals::EXEC)?;
    }
    let exec = if flags & MFD_CLOEXEC != 0 { Exec::Close } else { Exec::Keep };
    Ok(t.add_file(file, exec)? as u64)
}

/// F_ADD_SEALS of fcntl(2).
pub fn add_seals(file: &File, seals: u32) -> Result<()> {
    let data = seals_of(file)?;
    if !file.flags().writable() {
        return Err(Errno::EPERM);
    }
    data.add_seals(Seals::from_bits(seals).ok_or(Errno::EINVAL)?)
}

/// F_GET_SEALS of fcntl(2).
pub fn get_seals(file: &File) -> Result<u32> {
    Ok(seals_of(file)?.seals().bits())
}
