//! Resource limits (getrlimit(2)).

/// Number of resources Linux has (RLIM_NLIMITS).
pub const RLIM_NLIMITS: usize = 16;
pub const RLIM_INFINITY: u64 = u64::MAX;

/// Soft and hard limit, in the unit of the resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    pub soft: u64,
    pub hard: u64,
}

/// The limits of a process, indexed by RLIMIT_*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    table: [Limit; RLIM_NLIMITS],
}

impl Default for Limits {
    /// What a Linux login has.
    fn default() -> Self {
        let both = |v| Limit { soft: v, hard: v };
        let mut table = [both(RLIM_INFINITY); RLIM_NLIMITS];
        let mut set = |r: u32, soft, hard| table[r as usize] = Limit { soft, hard };
        set(libc::RLIMIT_STACK, 8 << 20, RLIM_INFINITY);
        set(libc::RLIMIT_CORE, 0, RLIM_INFINITY);
        set(libc::RLIMIT_NPROC, 65536, 65536);
        set(libc::RLIMIT_NOFILE, 1024, 1 << 20);
        set(libc::RLIMIT_MEMLOCK, 8 << 20, 8 << 20);
        set(libc::RLIMIT_SIGPENDING, 65536, 65536);
        set(libc::RLIMIT_MSGQUEUE, 819_200, 819_200);
        set(libc::RLIMIT_NICE, 0, 0);
        set(libc::RLIMIT_RTPRIO, 0, 0);
        Limits { table }
    }
}

impl Limits {
    /// None for a resource Linux does not have.
    pub fn get(&self, resource: u32) -> Option<Limit> {
        self.table.get(resource as usize).copied()
    }

    pub fn set(&mut self, resource: u32, limit: Limit) {
        if let Some(slot) = self.table.get_mut(resource as usize) {
            *slot = limit;
        }
    }

    /// The soft limit.
    pub fn soft(&self, resource: u32) -> u64 {
        self.get(resource).map_or(RLIM_INFINITY, |l| l.soft)
    }
}
