//! The memory devices (mem(4), null(4), full(4), random(4)): null, zero, full, random, urandom.

use std::any::Any;
use std::sync::{Arc, Weak};

use crate::errno::{Errno, Result};
use crate::fs::device::{Device, DeviceTable};
use crate::fs::file::{File, FileOps, Seek, WriteAt};
use crate::fs::inode::{Dev, FileType, OpenFlags, SetAttr};
use crate::fs::path::PathRef;
use crate::kernel::cred::Cap;
use crate::kernel::task::Task;
use crate::kernel::wait::Ready;
use crate::mm::io::{Sink, Source};
use crate::mm::mappable::{Backing, Mappable, MappingOwner, WriteIntent};

/// Major number of all of them.
const MAJOR: u32 = 1;
/// Most bytes of one read of a random device, as on Linux.
const MAX_RANDOM: usize = 33_554_431;

/// One of the devices; open files have no state of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mem {
    Null,
    Zero,
    Full,
    /// Both random and urandom: the pool is always seeded.
    Random,
}

pub(super) fn register(table: &DeviceTable) {
    let devices = [
        (3, Mem::Null),
        (5, Mem::Zero),
        (7, Mem::Full),
        (8, Mem::Random),
        (9, Mem::Random),
    ];
    for (minor, device) in devices {
        table.register(FileType::Char, Dev::new(MAJOR, minor), Arc::new(device));
    }
}

impl Device for Mem {
    fn driver(&self) -> &'static str {
        "mem"
    }

    fn open(&self, _t: &Task, path: &PathRef, _dev: Dev, flags: OpenFlags) -> Result<Arc<File>> {
        Ok(File::new(Arc::new(*self), path.clone(), flags))
    }
}

impl FileOps for Mem {
    fn read_at(&self, _file: &File, dst: &mut Sink<'_>, _offset: u64) -> Result<usize> {
        match self {
            Mem::Null => Ok(0),
            Mem::Zero | Mem::Full => dst.put_zeros(dst.remaining()),
            Mem::Random => random(dst),
        }
    }

    /// What is written is not even looked at.
    fn write_at(&self, _file: &File, src: &mut Source<'_>, _at: WriteAt) -> Result<(usize, u64)> {
        match self {
            Mem::Null | Mem::Zero => Ok((src.remaining(), 0)),
            Mem::Full if src.remaining() == 0 => Ok((0, 0)),
            Mem::Full => Err(Errno::ENOSPC),
            Mem::Random => mix_in(src),
        }
    }

    fn ready(&self, _file: &File) -> Ready {
        match self {
            // Linux asks for entropy only while the pool is not seeded.
            Mem::Random => Ready::IN | Ready::RDNORM,
            _ => Ready::IN | Ready::OUT | Ready::RDNORM | Ready::WRNORM,
        }
    }

    fn seek(&self, _file: &File, _whence: Seek, _offset: i64, _current: u64) -> Result<u64> {
        Ok(0)
    }

    fn ioctl(&self, task: &Task, _file: &File, cmd: u32, arg: u64) -> Result<u64> {
        match self {
            Mem::Random => random_ioctl(task, cmd, arg),
            _ => Err(Errno::ENOTTY),
        }
    }

    fn mappable(&self, _file: &File) -> Result<Arc<dyn Mappable>> {
        match self {
            Mem::Zero => Ok(Arc::new(ZeroMapping)),
            _ => Err(Errno::ENODEV),
        }
    }

    fn set_attr(&self, file: &File, change: &SetAttr) -> Result<()> {
        if change.size.is_some() {
            return Err(Errno::EINVAL);
        }
        file.inode().set_attr(change)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn random(dst: &mut Sink<'_>) -> Result<usize> {
    let want = dst.remaining().min(MAX_RANDOM);
    let mut buf = vec![0; want.min(64 << 10)];
    let mut done = 0;
    while done < want {
        let n = buf.len().min(want - done);
        runsc_platform::host::random(&mut buf[..n]).map_err(|_| Errno::EIO)?;
        match dst.put(&buf[..n]) {
            Ok(put) => {
                done += put;
                if put < n {
                    break;
                }
            }
            Err(e) if done == 0 => return Err(e),
            Err(_) => break,
        }
    }
    Ok(done)
}

/// The guest's entropy is read, as a fault must be noticed, and thrown away: the host's is enough.
fn mix_in(src: &mut Source<'_>) -> Result<(usize, u64)> {
    let mut buf = [0; 4096];
    let mut done = 0;
    while src.remaining() > 0 {
        match src.take(&mut buf) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if done == 0 => return Err(e),
            Err(_) => break,
        }
    }
    Ok((done, 0))
}

/// linux/random.h.
fn random_ioctl(task: &Task, cmd: u32, arg: u64) -> Result<u64> {
    const RNDGETENTCNT: u32 = 0x8004_5200;
    const RNDADDTOENTCNT: u32 = 0x4004_5201;
    const RNDADDENTROPY: u32 = 0x4008_5203;
    const RNDZAPENTCNT: u32 = 0x5204;
    const RNDCLEARPOOL: u32 = 0x5206;
    const RNDRESEEDCRNG: u32 = 0x5207;
    match cmd {
        RNDGETENTCNT => {
            task.mm().write_obj(arg, &256u32)?;
            Ok(0)
        }
        RNDADDTOENTCNT | RNDADDENTROPY | RNDZAPENTCNT | RNDCLEARPOOL | RNDRESEEDCRNG => {
            if !task.creds().has_cap(Cap::SysAdmin) {
                return Err(Errno::EPERM);
            }
            Ok(0)
        }
        _ => Err(Errno::EINVAL),
    }
}

/// Tells `mm` that it is /dev/zero: mappings of it are anonymous memory.
struct ZeroMapping;

impl Mappable for ZeroMapping {
    fn backing(&self, _offset: u64, _len: u64, _write: WriteIntent) -> Result<Backing> {
        Err(Errno::EFAULT)
    }

    fn add_owner(&self, _owner: Weak<dyn MappingOwner>) {}

    fn remove_owner(&self, _owner: &Weak<dyn MappingOwner>) {}

    fn is_zero_device(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::anon::{Anon, anon_file};

    fn open(mem: Mem) -> Arc<File> {
        anon_file(
            Anon::Host(FileType::Char, "test"),
            Arc::new(mem),
            OpenFlags::RDWR,
        )
    }

    fn read(file: &File, buf: &mut [u8]) -> Result<usize> {
        file.read(&mut Sink::kernel(buf))
    }

    #[test]
    fn devices_are_found_by_number() {
        let table = DeviceTable::default();
        register(&table);
        let driver = |kind, dev| table.get(kind, dev).map(|d| d.driver());
        assert_eq!(driver(FileType::Char, Dev::new(1, 3)), Ok("mem"));
        assert_eq!(driver(FileType::Char, Dev::new(1, 1)), Err(Errno::ENXIO));
        assert_eq!(driver(FileType::Block, Dev::new(1, 3)), Err(Errno::ENXIO));
        assert_eq!(table.drivers(), [(1, "mem")]);
    }

    #[test]
    fn null_swallows_and_is_empty() {
        let null = open(Mem::Null);
        assert_eq!(read(&null, &mut [1; 8]), Ok(0));
        assert_eq!(null.write(&mut Source::kernel(b"abc")), Ok(3));
        assert_eq!(null.seek(Seek::End, 100), Ok(0));
        assert!(
            null.ops()
                .mappable(&null)
                .is_err_and(|e| e == Errno::ENODEV)
        );
    }

    #[test]
    fn zero_and_full_give_zeros() {
        for (mem, written) in [(Mem::Zero, Ok(3)), (Mem::Full, Err(Errno::ENOSPC))] {
            let file = open(mem);
            let mut buf = [1; 100];
            assert_eq!(read(&file, &mut buf), Ok(100));
            assert_eq!(buf, [0; 100]);
            assert_eq!(file.write(&mut Source::kernel(b"abc")), written);
        }
        let zero = open(Mem::Zero);
        assert!(zero.ops().mappable(&zero).unwrap().is_zero_device());
    }

    #[test]
    fn random_fills_any_length() {
        let file = open(Mem::Random);
        for len in [0, 1, 65536, 200_000] {
            let mut buf = vec![0; len];
            assert_eq!(read(&file, &mut buf), Ok(len));
            // The chance of a run of 64 zeros at the end is 2^-512.
            assert!(len < 64 || buf[len - 64..].iter().any(|b| *b != 0));
        }
        assert_eq!(file.write(&mut Source::kernel(&[1; 5000])), Ok(5000));
    }
}
