//! What /proc and getrusage show of an address space.

use std::fmt::Write;
use std::sync::Arc;

use runsc_platform::Prot;

use crate::fs::file::File;
use crate::mm::pages::Held;
use crate::mm::types::{Layout, Totals, VmaInfo, VmaName, VmaUse};
use crate::mm::vma::{Source, Vma, VmaFlags};
use crate::mm::{Inner, Mm};

impl Mm {
    /// The lines of /proc/PID/maps.
    pub fn maps(&self) -> Vec<VmaInfo> {
        let inner = self.inner.read();
        inner.vmas.iter().map(|(s, v)| inner.info(s, v)).collect()
    }

    /// Memory use of the VMA at `start`, for smaps.
    pub fn vma_use(&self, start: u64) -> VmaUse {
        let inner = self.inner.read();
        match inner.vmas.find(start) {
            Some((s, vma)) => inner.usage(s, vma),
            None => VmaUse::default(),
        }
    }

    /// Sizes for status and statm. Asks the host what is resident: not for hot paths.
    pub fn totals(&self) -> Totals {
        let mut inner = self.inner.write();
        let sums = inner.vmas.sums();
        let mut totals = Totals {
            vm: sums.vm,
            vm_peak: sums.vm_peak,
            data: sums.data,
            stack: sums.stack,
            exec: sums.exec,
            locked: sums.locked,
            ..Totals::default()
        };
        for (start, vma) in inner.vmas.iter() {
            let used = inner.usage(start, vma);
            totals.rss_anon += used.anonymous;
            match &vma.source {
                Source::File(map) if map.nameless => totals.rss_shmem += used.rss - used.anonymous,
                _ => totals.rss_file += used.rss - used.anonymous,
            }
        }
        let text_end = inner.layout.end_code;
        let text = text_end.saturating_sub(inner.layout.start_code);
        totals.lib = sums.exec.saturating_sub(text);
        totals.rss = totals.rss_anon + totals.rss_file + totals.rss_shmem;
        inner.rss_peak = inner.rss_peak.max(totals.rss);
        totals.rss_peak = inner.rss_peak;
        totals
    }

    /// True if all of `[start, end)` is mapped, whatever the protection.
    pub fn is_mapped(&self, start: u64, end: u64) -> bool {
        self.inner.read().vmas.covers(start, end)
    }

    /// Bytes mapped (VmSize).
    pub fn vm_size(&self) -> u64 {
        self.inner.read().vmas.sums().vm
    }

    pub fn layout(&self) -> Layout {
        self.inner.read().layout.clone()
    }

    /// PR_SET_MM and the loader.
    pub fn set_layout(&self, change: impl FnOnce(&mut Layout)) {
        change(&mut self.inner.write().layout);
    }

    /// The program, for /proc/PID/exe.
    pub fn exe(&self) -> Option<Arc<File>> {
        self.inner.read().exe.clone()
    }

    pub fn set_exe(&self, file: Option<Arc<File>>) {
        let old = std::mem::replace(&mut self.inner.write().exe, file);
        drop(old);
    }

    /// PR_SET_DUMPABLE's value.
    pub fn dumpable(&self) -> u32 {
        self.inner.read().dumpable
    }

    pub fn set_dumpable(&self, value: u32) {
        self.inner.write().dumpable = value;
    }
}

impl Inner {
    fn info(&self, start: u64, vma: &Vma) -> VmaInfo {
        let (file, offset) = match &vma.source {
            Source::File(map) => (map.file.clone(), map.offset),
            _ => (None, 0),
        };
        VmaInfo {
            start,
            end: vma.end,
            prot: vma.prot,
            shared: vma.shared(),
            offset,
            file,
            name: self.name(start, vma),
            vm_flags: vm_flags(vma),
            locked: vma.flags.contains(VmaFlags::LOCKED),
        }
    }

    fn name(&self, start: u64, vma: &Vma) -> VmaName {
        match &vma.source {
            Source::Vvar => VmaName::Vvar,
            Source::Vdso { .. } => VmaName::Vdso,
            Source::File(map) => map.mappable.shown_as().unwrap_or(VmaName::None),
            Source::Anon { name } => {
                let l = &self.layout;
                if l.start_brk < l.brk && start <= l.brk && vma.end >= l.start_brk {
                    VmaName::Heap
                } else if start <= l.start_stack && l.start_stack < vma.end {
                    VmaName::Stack
                } else {
                    name.clone().map_or(VmaName::None, VmaName::Anon)
                }
            }
        }
    }

    /// What is resident: exactly for the MemoryFile, what is mapped for host files.
    fn usage(&self, start: u64, vma: &Vma) -> VmaUse {
        let mut used = VmaUse::default();
        if vma.is_special() {
            return used;
        }
        for (s, piece) in self.pages.overlapping(start, vma.end) {
            let (from, to) = (s.max(start), piece.end.min(vma.end));
            let (fd, offset) = piece.held.place();
            let offset = offset + (from - s);
            let bytes = if Arc::ptr_eq(fd, self.memory.fd()) {
                self.memory.resident(offset, offset + (to - from))
            } else {
                to - from
            };
            used.rss += bytes;
            match piece.held {
                Held::Private { .. } => used.anonymous += bytes,
                Held::Object { .. } => used.shared += bytes,
            }
        }
        used
    }
}

/// The VmFlags line of smaps.
fn vm_flags(vma: &Vma) -> String {
    let mut text = String::new();
    let mut put = |on: bool, code: &str| {
        if on {
            let _ = write!(text, "{code} ");
        }
    };
    let f = |flag| vma.flags.contains(flag);
    put(vma.prot.contains(Prot::READ), "rd");
    put(vma.prot.contains(Prot::WRITE), "wr");
    put(vma.prot.contains(Prot::EXEC), "ex");
    put(vma.shared(), "sh");
    put(true, "mr");
    put(f(VmaFlags::MAYWRITE), "mw");
    put(f(VmaFlags::MAYEXEC), "me");
    put(vma.shared() && f(VmaFlags::MAYWRITE), "ms");
    put(f(VmaFlags::GROWSDOWN), "gd");
    put(f(VmaFlags::LOCKED), "lo");
    put(f(VmaFlags::SEQ_READ), "sr");
    put(f(VmaFlags::RAND_READ), "rr");
    put(f(VmaFlags::DONTFORK), "dc");
    put(f(VmaFlags::NORESERVE), "nr");
    put(f(VmaFlags::LOCKONFAULT), "lf");
    put(f(VmaFlags::WIPEONFORK), "wf");
    put(f(VmaFlags::DONTDUMP), "dd");
    put(f(VmaFlags::HUGEPAGE), "hg");
    put(f(VmaFlags::NOHUGEPAGE), "nh");
    text.truncate(text.trim_end().len());
    text
}
