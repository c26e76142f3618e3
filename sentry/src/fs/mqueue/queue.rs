//! One message queue: its messages by priority, who waits, who is to be notified.

use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::{Charge, Size};
use crate::errno::{Errno, Result};
use crate::fs::extra::InodeExtra;
use crate::fs::file::{File, FileOps};
use crate::fs::inode::{Attr, Dev, FileType, Inode, NewNode, OpenFlags, SetAttr, StatFs};
use crate::fs::meta::{Identity, Meta};
use crate::kernel::current;
use crate::kernel::group::ThreadGroup;
use crate::kernel::signal::send::send_to_group;
use crate::kernel::signal::{SigFields, SigInfo, Signal};
use crate::kernel::task::Task;
use crate::kernel::wait::{Ready, WaitQueue};
use crate::mm::io::Sink;

/// st_size of a queue (FILENT_SIZE).
const FILE_SIZE: u64 = 80;
/// si_code of a notification.
const SI_MESGQ: i32 = -3;

/// A message with its priority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub priority: u32,
    pub text: Vec<u8>,
}

/// What mq_notify(2) asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notification {
    /// SIGEV_NONE: only that nobody else can ask.
    Nothing,
    /// SIGEV_SIGNAL; number 0 sends nothing.
    Signal { number: i32, value: u64 },
}

struct Registered {
    owner: Weak<ThreadGroup>,
    pid: i32,
    what: Notification,
}

#[derive(Default)]
struct State {
    by_priority: BTreeMap<u32, VecDeque<Vec<u8>>>,
    count: usize,
    bytes: u64,
    /// Calls that wait for a message: the next one is theirs, and nobody is notified of it.
    receivers: usize,
    notify: Option<Registered>,
}

/// The inode of a queue.
pub struct Queue {
    charge: Charge,
    ino: u64,
    size: Size,
    meta: Mutex<Meta>,
    state: Mutex<State>,
    wait: WaitQueue,
    extra: InodeExtra,
}

impl Queue {
    pub(super) fn new(charge: Charge, ino: u64, new: &NewNode, size: Size) -> Arc<Queue> {
        Arc::new(Queue {
            charge,
            ino,
            size,
            meta: Mutex::new(Meta::new(new, 1)),
            state: Mutex::default(),
            wait: WaitQueue::new(),
            extra: InodeExtra::default(),
        })
    }

    pub(super) fn unlinked(&self) {
        let mut meta = self.meta.lock();
        meta.nlink = 0;
        meta.changed();
    }

    pub fn size(&self) -> Size {
        self.size
    }

    /// Messages that are there.
    pub fn count(&self) -> usize {
        self.state.lock().count
    }

    fn is_full(&self, state: &State) -> bool {
        i64::try_from(state.count).is_ok_and(|count| count >= self.size.messages)
    }

    pub fn wait_queue(&self) -> &WaitQueue {
        &self.wait
    }

    /// Sends in the name of `task`. EAGAIN if the queue is full, ENOMEM.
    pub fn send(&self, message: &Message, task: &Task) -> Result<()> {
        let bytes = message.text.len() as u64;
        let mut state = self.state.lock();
        if self.is_full(&state) {
            return Err(Errno::EAGAIN);
        }
        self.charge.queues.hold(bytes)?;
        let messages = state.by_priority.entry(message.priority).or_default();
        messages.push_back(message.text.clone());
        state.count += 1;
        state.bytes += bytes;
        let notify = match state.count == 1 && state.receivers == 0 {
            true => state.notify.take(),
            false => None,
        };
        drop(state);
        self.meta.lock().modified();
        self.wait.wake(Ready::IN | Ready::RDNORM);
        if let Some(Registered { owner, what, .. }) = notify
            && let Notification::Signal { number, value } = what
            && let (Some(owner), Some(signal)) = (owner.upgrade(), Signal::new(number))
        {
            let info = SigInfo {
                signal,
                code: SI_MESGQ,
                errno: 0,
                fields: SigFields::Queue {
                    pid: task.pid(),
                    uid: task.creds().ruid.0,
                    value,
                },
            };
            send_to_group(&owner, info);
        }
        Ok(())
    }

    /// Takes the oldest message of the highest priority. EAGAIN if there is none.
    pub fn receive(&self) -> Result<Message> {
        let mut state = self.state.lock();
        let mut highest = state.by_priority.last_entry().ok_or(Errno::EAGAIN)?;
        let priority = *highest.key();
        let text = highest.get_mut().pop_front().unwrap_or_default();
        if highest.get().is_empty() {
            highest.remove();
        }
        state.count = state.count.saturating_sub(1);
        state.bytes = state.bytes.saturating_sub(text.len() as u64);
        drop(state);
        self.charge.queues.let_go(text.len() as u64);
        self.meta.lock().changed();
        self.wait.wake(Ready::OUT | Ready::WRNORM);
        Ok(Message { priority, text })
    }

    /// Somebody waits for a message from now on, as long as the value lives.
    pub fn receiver(&self) -> Receiver<'_> {
        self.state.lock().receivers += 1;
        Receiver(self)
    }

    /// mq_notify(2): asks for a notification (EBUSY if somebody has), or (None) no longer.
    pub fn notify(&self, task: &Task, what: Option<Notification>) -> Result<()> {
        let group = task.group();
        let mut state = self.state.lock();
        match (what, &state.notify) {
            (Some(_), Some(other)) if other.owner.strong_count() > 0 => return Err(Errno::EBUSY),
            (Some(what), _) => {
                state.notify = Some(Registered {
                    owner: Arc::downgrade(group),
                    pid: group.pid(),
                    what,
                });
            }
            (None, _) => forget(&mut state, group),
        }
        drop(state);
        self.meta.lock().changed();
        Ok(())
    }

    /// What the file of a queue says.
    fn text(&self) -> String {
        let state = self.state.lock();
        let registered = state.notify.as_ref();
        let (kind, signal) = match registered.map(|registered| registered.what) {
            None => (0, 0),
            Some(Notification::Nothing) => (libc::SIGEV_NONE, 0),
            Some(Notification::Signal { number, .. }) => (libc::SIGEV_SIGNAL, number),
        };
        let pid = registered.map_or(0, |registered| registered.pid);
        let bytes = state.bytes;
        format!("QSIZE:{bytes:<10} NOTIFY:{kind:<5} SIGNO:{signal:<5} NOTIFY_PID:{pid:<6}\n")
    }
}

/// `group` is no longer to be notified.
fn forget(state: &mut State, group: &Arc<ThreadGroup>) {
    let is_his = |registered: &Registered| {
        let owner = registered.owner.upgrade();
        owner.is_some_and(|owner| Arc::ptr_eq(&owner, group))
    };
    if state.notify.as_ref().is_some_and(is_his) {
        state.notify = None;
    }
}

/// See [`Queue::receiver`].
pub struct Receiver<'a>(&'a Queue);

impl Drop for Receiver<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.receivers = state.receivers.saturating_sub(1);
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.charge.queues.let_go(self.state.get_mut().bytes);
    }
}

impl Inode for Queue {
    fn attr(&self) -> Result<Attr> {
        Ok(self.meta.lock().attr(Identity {
            kind: FileType::Regular,
            ino: self.ino,
            dev: self.charge.queues.dev,
            rdev: Dev::default(),
            size: FILE_SIZE,
            blocks: 0,
        }))
    }

    fn kind(&self) -> FileType {
        FileType::Regular
    }

    fn set_attr(&self, change: &SetAttr) -> Result<()> {
        self.meta.lock().apply(change);
        Ok(())
    }

    fn open(self: Arc<Self>, _flags: OpenFlags) -> Result<Arc<dyn FileOps>> {
        Ok(Arc::new(Open(self)))
    }

    fn statfs(&self) -> Result<StatFs> {
        self.charge.queues.statfs()
    }

    fn accessed(&self, strict: bool) {
        self.meta.lock().accessed(strict);
    }

    fn extra(&self) -> &InodeExtra {
        &self.extra
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// An open queue. What can be read is its state; the messages have calls of their own.
pub struct Open(Arc<Queue>);

impl Open {
    pub fn queue(&self) -> &Arc<Queue> {
        &self.0
    }
}

impl FileOps for Open {
    fn read_at(&self, _file: &File, dst: &mut Sink<'_>, offset: u64) -> Result<usize> {
        let text = self.0.text();
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        match text.as_bytes().get(start..) {
            None | Some([]) => Ok(0),
            Some(rest) => dst.put(rest),
        }
    }

    fn ready(&self, _file: &File) -> Ready {
        let state = self.0.state.lock();
        let mut ready = Ready::empty();
        if state.count > 0 {
            ready |= Ready::IN | Ready::RDNORM;
        }
        if !self.0.is_full(&state) {
            ready |= Ready::OUT | Ready::WRNORM;
        }
        ready
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.0.wait)
    }

    /// A process that closes any of its descriptors of the queue is no longer to be notified.
    fn flush(&self, _file: &File) -> Result<()> {
        current::with(|task| {
            if let Some(task) = task {
                forget(&mut self.0.state.lock(), task.group());
            }
        });
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
