//! Guest-physical memory: slots of the virtual machine over mappings of ours.
//!
//! A slot names a range of guest-physical addresses and the host mapping behind it. Removing one
//! makes KVM forget everything it derived from that range, shadow page tables included, for all
//! guests: it is correct and slow, so what is likely to be needed again is kept (see
//! [`super::regions`]), and page tables are given back many at a time (see [`super::tables`]).
//!
//! Numbers and addresses are given out here and used again after the removal.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kvm_bindings::{KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;
use memmap2::MmapMut;
use parking_lot::Mutex;

use crate::VdsoRange;
use crate::common::host_calls::count;
use crate::memory::{AccessFault, Window};

/// Below are the interrupt controllers of the machine, which we do not have, and the three pages
/// that some processors need for real mode.
const FIRST_ADDRESS: u64 = 1 << 32;
/// Ranges are powers of two, at least this long.
const SMALLEST: u64 = 1 << 16;

/// The virtual machine and what of its physical memory is in use.
pub(super) struct Memory {
    pub vm: VmFd,
    used: Mutex<Used>,
    /// How many slots there may still be.
    left: AtomicUsize,
}

struct Used {
    next_id: u32,
    max_ids: u32,
    free_ids: Vec<u32>,
    next_address: u64,
    end_address: u64,
    /// By the logarithm of their length.
    free_addresses: [Vec<u64>; 64],
}

/// What is mapped in a slot.
enum Backing {
    Anonymous(MmapMut),
    File(Window),
    /// Pages of the process that it does not give up, to be read: address and length.
    Fixed(u64, u64),
}

/// A slot. Its guest-physical range is gone when it is dropped.
pub(super) struct Slot {
    memory: Arc<Memory>,
    backing: Backing,
    id: u32,
    address: u64,
    len: u64,
}

impl Memory {
    pub fn new(vm: VmFd, max_slots: usize, address_bits: u32) -> Memory {
        Memory {
            vm,
            left: AtomicUsize::new(max_slots),
            used: Mutex::new(Used {
                next_id: 0,
                max_ids: u32::try_from(max_slots).unwrap_or(u32::MAX),
                free_ids: Vec::new(),
                next_address: FIRST_ADDRESS,
                end_address: 1 << address_bits.clamp(33, 46),
                free_addresses: [const { Vec::new() }; 64],
            }),
        }
    }

    /// Zeroed memory of the Sentry's.
    pub fn anonymous(self: &Arc<Self>, len: usize) -> io::Result<Slot> {
        count();
        self.add(Backing::Anonymous(MmapMut::map_anon(len)?))
    }

    /// A range of a file, which may be shorter.
    pub fn file(
        self: &Arc<Self>,
        fd: BorrowedFd<'_>,
        offset: u64,
        len: usize,
        writable: bool,
    ) -> io::Result<Slot> {
        count();
        self.add(Backing::File(Window::map(fd, offset, len, writable)?))
    }

    /// A copy of a range of a file, made page by page when written.
    pub fn copy(self: &Arc<Self>, fd: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<Slot> {
        count();
        self.add(Backing::File(Window::map_copy(fd, offset, len)?))
    }

    /// Makes KVM forget everything it derived from any slot, page tables included, for all guests:
    /// that is what the removal of a slot does, whichever it is.
    pub fn forget_all(self: &Arc<Self>) -> io::Result<()> {
        drop(self.anonymous(crate::common::PAGE as usize)?);
        Ok(())
    }

    /// How many slots there may be besides those there are.
    pub fn left(&self) -> usize {
        self.left.load(Ordering::Relaxed)
    }

    /// The vDSO of this process, with its data.
    pub fn vdso(self: &Arc<Self>, range: &VdsoRange) -> io::Result<Slot> {
        self.add(Backing::Fixed(range.start, range.end - range.start))
    }

    fn add(self: &Arc<Self>, backing: Backing) -> io::Result<Slot> {
        let (host, len) = backing.place();
        let (id, address) = self.used.lock().take(len)?;
        self.left.fetch_sub(1, Ordering::Relaxed);
        let flags = match backing {
            Backing::Fixed(..) => KVM_MEM_READONLY,
            _ => 0,
        };
        let slot = Slot {
            memory: self.clone(),
            backing,
            id,
            address,
            len,
        };
        // On failure the drop gives the numbers back; removing what is not there does nothing.
        self.set(id, flags, (address, len), host)?;
        Ok(slot)
    }

    fn set(&self, slot: u32, flags: u32, range: (u64, u64), host: u64) -> io::Result<()> {
        let region = kvm_userspace_memory_region {
            slot,
            flags,
            guest_phys_addr: range.0,
            memory_size: range.1,
            userspace_addr: host,
        };
        count();
        // SAFETY: the mapping outlives the slot (`Slot` owns both), and the only memory of ours in
        // it that is not guest memory, page tables and ring-0 pages, is accessed as such.
        unsafe { self.vm.set_user_memory_region(region) }
            .map_err(|error| io::Error::from_raw_os_error(error.errno()))
    }
}

impl Used {
    fn take(&mut self, len: u64) -> io::Result<(u32, u64)> {
        let size = len.max(SMALLEST).next_power_of_two();
        let free = &mut self.free_addresses[size.trailing_zeros() as usize];
        let address = match free.pop() {
            Some(address) => address,
            None => {
                let address = self.next_address.next_multiple_of(size);
                let end = address.checked_add(size);
                let end = end.filter(|&end| end <= self.end_address);
                self.next_address = end.ok_or(io::ErrorKind::OutOfMemory)?;
                address
            }
        };
        let id = self.free_ids.pop().or_else(|| {
            let id = self.next_id;
            (id < self.max_ids).then(|| {
                self.next_id += 1;
                id
            })
        });
        match id {
            Some(id) => Ok((id, address)),
            None => {
                self.free_addresses[size.trailing_zeros() as usize].push(address);
                Err(io::ErrorKind::OutOfMemory.into())
            }
        }
    }

    fn give_back(&mut self, id: u32, address: u64, len: u64) {
        let size = len.max(SMALLEST).next_power_of_two();
        self.free_ids.push(id);
        self.free_addresses[size.trailing_zeros() as usize].push(address);
    }
}

impl Backing {
    fn place(&self) -> (u64, u64) {
        match self {
            Backing::Anonymous(memory) => (memory.as_ptr() as u64, memory.len() as u64),
            Backing::File(window) => (window.address() as u64, window.len() as u64),
            Backing::Fixed(address, len) => (*address, *len),
        }
    }
}

impl Slot {
    /// Guest-physical address of the first byte.
    pub fn address(&self) -> u64 {
        self.address
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    /// Address of the first byte in this process.
    pub fn host(&self) -> u64 {
        self.backing.place().0
    }

    /// Whether there is memory at an offset: makes the host find it, if there can be.
    pub fn touch(&self, offset: u64) -> Result<u8, AccessFault> {
        match &self.backing {
            Backing::File(window) => window.load_u8(offset as usize),
            Backing::Anonymous(_) | Backing::Fixed(..) => Ok(0),
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // An error leaves the slot without memory behind it, which faults; its number is lost.
        if self.memory.set(self.id, 0, (self.address, 0), 0).is_ok() {
            let mut used = self.memory.used.lock();
            used.give_back(self.id, self.address, self.len);
            self.memory.left.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_addresses_are_bounded_and_used_again() {
        let mut used = Used {
            next_id: 0,
            max_ids: 3,
            free_ids: Vec::new(),
            next_address: FIRST_ADDRESS,
            end_address: FIRST_ADDRESS + (4 << 20),
            free_addresses: [const { Vec::new() }; 64],
        };
        let small = used.take(4096).unwrap();
        let large = used.take(1 << 20).unwrap();
        assert_eq!(large, (1, FIRST_ADDRESS + (1 << 20)));
        assert!(used.take(4 << 20).is_err(), "no such range is left");
        used.take(4096).unwrap();
        assert!(used.take(4096).is_err(), "no number is left");
        used.give_back(small.0, small.1, 4096);
        assert_eq!(used.take(8192).unwrap(), small);
    }
}
