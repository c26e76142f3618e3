//! Message queues: msgget(2), msgsnd(2), msgrcv(2), msgctl(2).

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use parking_lot::Mutex;

use super::ids::{Entry, Perm, PermWords, READ, Table, WRITE};
use super::now;
use crate::errno::{Errno, Result};
use crate::kernel::cred::{Cap, Credentials};
use crate::kernel::wait::{Ready, WaitQueue};

/// What a message takes beside its text, bytes.
const OVERHEAD: usize = 64;
/// Most bytes of the messages of all queues: they take the Sentry's memory.
const MOST_BYTES: usize = 64 << 20;

/// Settings below /proc/sys/kernel.
pub struct Settings {
    /// Bytes of the largest message.
    pub msgmax: AtomicI64,
    /// Bytes of a new queue.
    pub msgmnb: AtomicI64,
    /// Queues.
    pub msgmni: AtomicI64,
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// At least 1.
    pub kind: i64,
    pub text: Vec<u8>,
}

/// Which message msgrcv(2) takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    Any,
    Kind(i64),
    AllBut(i64),
    /// The first of the lowest kind up to this one.
    UpTo(i64),
    /// A copy of the one in this place (MSG_COPY).
    CopyOf(i64),
}

/// What becomes of a message that is longer than its receiver wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Long {
    /// E2BIG.
    Refuse,
    /// MSG_NOERROR.
    Cut,
}

/// A queue.
pub struct Queue {
    messages: VecDeque<Message>,
    bytes: u64,
    most_bytes: u64,
    lspid: i32,
    lrpid: i32,
    stime: i64,
    rtime: i64,
    ctime: i64,
    wait: Arc<WaitQueue>,
}

impl Queue {
    fn find(&self, want: Want) -> Option<usize> {
        let mut messages = self.messages.iter();
        match want {
            Want::Any => (!self.messages.is_empty()).then_some(0),
            Want::Kind(kind) => messages.position(|m| m.kind == kind),
            Want::AllBut(kind) => messages.position(|m| m.kind != kind),
            Want::UpTo(kind) => {
                let lowest = messages.map(|m| m.kind).min().filter(|k| *k <= kind)?;
                self.messages.iter().position(|m| m.kind == lowest)
            }
            Want::CopyOf(place) => {
                let place = usize::try_from(place).ok()?;
                (place < self.messages.len()).then_some(place)
            }
        }
    }
}

/// What msgctl(2) tells of a queue.
pub struct Stat {
    pub id: i32,
    pub perm: PermWords,
    pub stime: i64,
    pub rtime: i64,
    pub ctime: i64,
    pub bytes: u64,
    pub count: u64,
    pub most_bytes: u64,
    pub lspid: i32,
    pub lrpid: i32,
}

/// What there is in all queues.
pub struct Sums {
    pub queues: usize,
    pub messages: usize,
    pub bytes: u64,
    pub highest: i32,
}

#[derive(Default)]
struct Inner {
    table: Table<Queue>,
    /// Bytes of all messages, with what they take beside.
    held: usize,
}

/// All queues.
pub struct Queues {
    pub settings: Settings,
    inner: Mutex<Inner>,
}

impl Queues {
    pub(super) fn new() -> Queues {
        Queues {
            settings: Settings {
                msgmax: AtomicI64::new(8192),
                msgmnb: AtomicI64::new(16384),
                msgmni: AtomicI64::new(32000),
            },
            inner: Mutex::default(),
        }
    }

    /// msgget(2).
    pub fn get(&self, key: i32, flags: u32, creds: &Credentials) -> Result<i32> {
        let mut inner = self.inner.lock();
        if let Some(id) = inner.table.find(key, flags, creds, |_| Ok(()))? {
            return Ok(id);
        }
        let most = self.settings.msgmni.load(Ordering::Relaxed);
        let most_bytes = self.settings.msgmnb.load(Ordering::Relaxed) as u64;
        inner
            .table
            .add(most, Perm::new(key, flags, creds), |_| Queue {
                messages: VecDeque::new(),
                bytes: 0,
                most_bytes,
                lspid: 0,
                lrpid: 0,
                stime: 0,
                rtime: 0,
                ctime: now(),
                wait: Arc::default(),
            })
    }

    /// Where somebody waits who can neither send nor receive. EINVAL.
    pub fn wait_queue(&self, id: i32) -> Result<Arc<WaitQueue>> {
        Ok(self.inner.lock().table.get(id)?.value.wait.clone())
    }

    /// Sends if there is room, which leaves `message` empty.
    ///
    /// # Errors
    /// EAGAIN, EINVAL, EACCES, ENOMEM.
    pub fn send(
        &self,
        id: i32,
        message: &mut Message,
        pid: i32,
        creds: &Credentials,
    ) -> Result<()> {
        let mut inner = self.inner.lock();
        let Inner { table, held } = &mut *inner;
        let entry = table.get_mut(id)?;
        entry.perm.check(creds, WRITE)?;
        let queue = &mut entry.value;
        let len = message.text.len();
        let fits = queue.bytes + len as u64 <= queue.most_bytes
            && (queue.messages.len() as u64) < queue.most_bytes;
        if !fits {
            return Err(Errno::EAGAIN);
        }
        if *held + len + OVERHEAD > MOST_BYTES {
            return Err(Errno::ENOMEM);
        }
        *held += len + OVERHEAD;
        queue.bytes += len as u64;
        queue.messages.push_back(Message {
            kind: message.kind,
            text: std::mem::take(&mut message.text),
        });
        queue.lspid = pid;
        queue.stime = now();
        queue.wait.wake(Ready::IN);
        Ok(())
    }

    /// Takes a message of which at most `size` bytes are wanted.
    ///
    /// # Errors
    /// EAGAIN if there is none, EINVAL, EACCES, E2BIG.
    pub fn receive(
        &self,
        id: i32,
        want: Want,
        size: usize,
        long: Long,
        pid: i32,
        creds: &Credentials,
    ) -> Result<Message> {
        let mut inner = self.inner.lock();
        let Inner { table, held } = &mut *inner;
        let entry = table.get_mut(id)?;
        entry.perm.check(creds, READ)?;
        let queue = &mut entry.value;
        let at = queue.find(want).ok_or(Errno::EAGAIN)?;
        let found = queue.messages.get(at).ok_or(Errno::EAGAIN)?;
        if found.text.len() > size && long == Long::Refuse {
            return Err(Errno::E2BIG);
        }
        if let Want::CopyOf(_) = want {
            return Ok(found.clone());
        }
        let message = queue.messages.remove(at).ok_or(Errno::EAGAIN)?;
        let len = message.text.len();
        *held = held.saturating_sub(len + OVERHEAD);
        queue.bytes = queue.bytes.saturating_sub(len as u64);
        queue.lrpid = pid;
        queue.rtime = now();
        queue.wait.wake(Ready::OUT);
        Ok(message)
    }

    fn stat_of(entry: &Entry<Queue>) -> Stat {
        let queue = &entry.value;
        Stat {
            id: entry.id,
            perm: entry.perm_words(0),
            stime: queue.stime,
            rtime: queue.rtime,
            ctime: queue.ctime,
            bytes: queue.bytes,
            count: queue.messages.len() as u64,
            most_bytes: queue.most_bytes,
            lspid: queue.lspid,
            lrpid: queue.lrpid,
        }
    }

    /// IPC_STAT.
    pub fn stat(&self, id: i32, creds: &Credentials) -> Result<Stat> {
        let inner = self.inner.lock();
        let entry = inner.table.get(id)?;
        entry.perm.check(creds, READ)?;
        Ok(Self::stat_of(entry))
    }

    /// MSG_STAT, or MSG_STAT_ANY for which nobody's permission counts (`creds` is None).
    pub fn stat_at(&self, index: i32, creds: Option<&Credentials>) -> Result<Stat> {
        let inner = self.inner.lock();
        let entry = inner.table.at(index)?;
        if let Some(creds) = creds {
            entry.perm.check(creds, READ)?;
        }
        Ok(Self::stat_of(entry))
    }

    /// IPC_SET: owner, mode and size. EPERM for a size beyond the setting.
    pub fn set(
        &self,
        id: i32,
        new: &PermWords,
        most_bytes: u64,
        creds: &Credentials,
    ) -> Result<()> {
        let mut inner = self.inner.lock();
        let entry = inner.table.get_mut(id)?;
        entry.perm.check_owner(creds)?;
        let usual = self.settings.msgmnb.load(Ordering::Relaxed) as u64;
        if most_bytes > usual && !creds.has_cap(Cap::SysResource) {
            return Err(Errno::EPERM);
        }
        entry.perm.set(new)?;
        entry.value.most_bytes = most_bytes;
        entry.value.ctime = now();
        // There may be room now, or no longer permission.
        entry.value.wait.wake_all();
        Ok(())
    }

    /// IPC_RMID: who waits finds nothing any more.
    pub fn remove(&self, id: i32, creds: &Credentials) -> Result<()> {
        let mut inner = self.inner.lock();
        inner.table.get(id)?.perm.check_owner(creds)?;
        let Some(gone) = inner.table.remove(id) else {
            return Err(Errno::EINVAL);
        };
        let queue = &gone.value;
        let bytes = queue.bytes as usize + queue.messages.len() * OVERHEAD;
        inner.held = inner.held.saturating_sub(bytes);
        drop(inner);
        queue.wait.wake_all();
        Ok(())
    }

    /// IPC_INFO and MSG_INFO.
    pub fn sums(&self) -> Sums {
        let inner = self.inner.lock();
        let queues = || inner.table.iter().map(|entry| &entry.value);
        Sums {
            queues: inner.table.count(),
            messages: queues().map(|queue| queue.messages.len()).sum(),
            bytes: queues().map(|queue| queue.bytes).sum(),
            highest: inner.table.highest(),
        }
    }

    /// /proc/sysvipc/msg, below its first line.
    pub fn list(&self) -> String {
        let inner = self.inner.lock();
        let line = |entry: &Entry<Queue>| {
            let (perm, queue) = (entry.perm, &entry.value);
            format!(
                "{:10} {:10}  {:4o}  {:10} {:10} {:5} {:5} {:5} {:5} {:5} {:5} {:10} {:10} {:10}\n",
                perm.key,
                entry.id,
                perm.mode,
                queue.bytes,
                queue.messages.len(),
                queue.lspid,
                queue.lrpid,
                perm.uid.0,
                perm.gid.0,
                perm.cuid.0,
                perm.cgid.0,
                queue.stime,
                queue.rtime,
                queue.ctime,
            )
        };
        inner.table.iter().map(line).collect()
    }
}
