//! Listeners (seccomp_unotify(2)): a process that is asked what becomes of others' calls.
//!
//! A filter that was installed with SECCOMP_FILTER_FLAG_NEW_LISTENER has a [`Listener`], which its
//! descriptor ([`ListenerFile`]) leads to. Each call that the filter has asked about is an entry in its
//! table until it is answered, or given up because of a signal. The call's own task waits in [`ask`].

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::bpf::Data;
use crate::errno::{Errno, Error, Restart, Result};
use crate::fs::anon::{Anon, anon_file};
use crate::fs::fdtable::Exec;
use crate::fs::file::{File, FileOps, Positioned};
use crate::fs::inode::OpenFlags;
use crate::kernel::block::Stop;
use crate::kernel::task::Task;
use crate::kernel::wait::{Ready, WaitQueue};
use crate::mm::io::UserMemory;

/// struct seccomp_notif, struct seccomp_notif_resp, struct seccomp_data.
pub const SIZES: [u16; 3] = [NOTIF as u16, 24, 64];
const NOTIF: usize = 80;

const RECV: u32 = 0xC050_2100;
const SEND: u32 = 0xC018_2101;
const ID_VALID: u32 = 0x4008_2102;
/// With the direction that Linux had it declared with first.
const ID_VALID_OLD: u32 = 0x8008_2102;
const ADDFD: u32 = 0x4018_2103;
const SET_FLAGS: u32 = 0x4008_2104;

/// What becomes of a call that was asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is not made and gives this.
    Value(u64),
    /// SECCOMP_USER_NOTIF_FLAG_CONTINUE: it is made.
    Continue,
    /// A signal came before the answer.
    Interrupted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    New,
    /// The listener has received it.
    Sent,
    Answered(Decision),
}

/// A call whose task waits.
#[derive(Debug)]
struct Call {
    tid: i32,
    data: Data,
    stage: Stage,
}

#[derive(Debug, Default)]
struct State {
    calls: BTreeMap<u64, Call>,
    last_id: u64,
    /// The last descriptor is closed.
    closed: bool,
    /// No task has the filter any more.
    deserted: bool,
}

/// See the module documentation.
pub struct Listener {
    /// SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV: who was received waits through signals.
    patient: bool,
    state: Mutex<State>,
    /// The listener's side: something to receive, or nobody left.
    asked: WaitQueue,
    /// The tasks that wait.
    answered: WaitQueue,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.state.lock();
        f.debug_struct("Listener").field("state", &*state).finish()
    }
}

/// What a filter has of its listener: the end of the filter ends it.
#[derive(Debug)]
pub struct Heard(pub Arc<Listener>);

impl Drop for Heard {
    fn drop(&mut self) {
        self.0.state.lock().deserted = true;
        self.0.asked.wake_all();
    }
}

/// The descriptor.
pub struct ListenerFile(Arc<Listener>);

/// A new listener and a descriptor of `task` for it.
///
/// # Errors
/// EMFILE.
pub fn open(task: &Task, patient: bool) -> Result<(Arc<Listener>, i32)> {
    let listener = Arc::new(Listener {
        patient,
        state: Mutex::default(),
        asked: WaitQueue::new(),
        answered: WaitQueue::new(),
    });
    let ops = Arc::new(ListenerFile(listener.clone()));
    let file = anon_file(Anon::Inode("seccomp notify"), ops, OpenFlags::RDWR);
    let fd = task.add_file(file, Exec::Close)?;
    Ok((listener, fd))
}

/// Asks `listener` about a call of `task`'s and waits for what it says.
pub async fn ask(task: &Task, listener: &Listener, data: Data) -> Decision {
    let id = {
        let mut state = listener.state.lock();
        state.last_id += 1;
        let id = state.last_id;
        let (tid, stage) = (task.tid(), Stage::New);
        state.calls.insert(id, Call { tid, data, stage });
        id
    };
    listener.asked.wake_all();
    let mut postponed = false;
    let decision = loop {
        let answer = || listener.decision(id);
        let waited = task.wait_on(&listener.answered, Ready::all(), None, answer);
        if let Ok(decision) = waited.await {
            break decision;
        }
        let received = || {
            let state = listener.state.lock();
            state.calls.get(&id).is_some_and(|c| c.stage == Stage::Sent)
        };
        if !listener.patient || !received() {
            break Decision::Interrupted;
        }
        // A signal has to wait, unless it is the end. Its mark is put back afterwards.
        postponed |= task.take_interrupt();
        if task.group().must_exit(task.tid()).is_some() {
            break Decision::Interrupted;
        }
    };
    listener.state.lock().calls.remove(&id);
    if postponed {
        task.interrupt();
    }
    decision
}

impl Listener {
    /// EAGAIN until it was decided.
    fn decision(&self, id: u64) -> Result<Decision> {
        let state = self.state.lock();
        match state.calls.get(&id).map(|call| call.stage) {
            Some(Stage::Answered(decision)) => Ok(decision),
            _ if state.closed => Ok(Decision::Value(Errno::ENOSYS.to_return())),
            _ => Err(Errno::EAGAIN),
        }
    }

    /// The first call that nobody has received; it is received now. EAGAIN.
    fn receive(&self) -> Result<(u64, i32, Data)> {
        let mut state = self.state.lock();
        let deserted = state.deserted;
        let mut calls = state.calls.iter_mut();
        match calls.find(|(_, call)| call.stage == Stage::New) {
            Some((id, call)) => {
                call.stage = Stage::Sent;
                Ok((*id, call.tid, call.data))
            }
            None if deserted => Err(Errno::ENOENT),
            None => Err(Errno::EAGAIN),
        }
    }

    /// Works on a call that was received and is not answered. ENOENT, EINPROGRESS.
    fn with_call<T>(&self, id: u64, work: impl FnOnce(&mut Call) -> T) -> Result<T> {
        let mut state = self.state.lock();
        let call = state.calls.get_mut(&id).ok_or(Errno::ENOENT)?;
        match call.stage {
            Stage::Sent => Ok(work(call)),
            _ => Err(Errno::EINPROGRESS),
        }
    }

    fn answer(&self, id: u64, decision: Decision) -> Result<()> {
        self.with_call(id, |call| call.stage = Stage::Answered(decision))?;
        self.answered.wake_all();
        Ok(())
    }
}

impl ListenerFile {
    /// SECCOMP_IOCTL_NOTIF_RECV, the request that waits. None: `request` is another one.
    pub async fn receive(&self, t: &Task, request: u32, arg: u64) -> Option<Result<u64, Error>> {
        if request != RECV {
            return None;
        }
        Some(self.receive_to(t, arg).await)
    }

    async fn receive_to(&self, t: &Task, arg: u64) -> Result<u64, Error> {
        let mut given = [0u8; NOTIF];
        t.mm().read_bytes(arg, &mut given)?;
        if given != [0; NOTIF] {
            return Err(Errno::EINVAL.into());
        }
        let listener = &self.0;
        let receive = || listener.receive();
        let received = t.wait_on(&listener.asked, Ready::all(), None, receive);
        let (id, tid, data) = received.await.map_err(|stop| match stop {
            Stop::Failed(errno) => Error::Errno(errno),
            Stop::Interrupted | Stop::TimedOut => Error::Restart(Restart::Sys),
        })?;
        // It can be answered now.
        listener.asked.wake(Ready::OUT | Ready::WRNORM);
        let mut bytes = Vec::with_capacity(NOTIF);
        bytes.extend(id.to_ne_bytes());
        bytes.extend(tid.to_ne_bytes());
        bytes.extend(0u32.to_ne_bytes());
        bytes.extend(data.nr.to_ne_bytes());
        bytes.extend(data.arch.to_ne_bytes());
        bytes.extend(data.ip.to_ne_bytes());
        bytes.extend(data.args.iter().flat_map(|arg| arg.to_ne_bytes()));
        if t.copy_out(arg, &bytes) < bytes.len() {
            // As if nobody had received it.
            listener.with_call(id, |call| call.stage = Stage::New).ok();
            listener.asked.wake_all();
            return Err(Errno::EFAULT.into());
        }
        Ok(0)
    }

    fn send(&self, t: &Task, arg: u64) -> Result<u64> {
        const CONTINUE: u32 = 1;
        let [id, val, rest] = t.mm().read_obj::<[u64; 3]>(arg)?;
        let (error, flags) = (rest as u32 as i32, (rest >> 32) as u32);
        if flags & !CONTINUE != 0 || flags == CONTINUE && (error != 0 || val != 0) {
            return Err(Errno::EINVAL);
        }
        let decision = match (flags, error) {
            (CONTINUE, _) => Decision::Continue,
            (_, 0) => Decision::Value(val),
            (_, error) => Decision::Value(i64::from(error) as u64),
        };
        self.0.answer(id, decision)?;
        Ok(0)
    }

    fn is_valid(&self, t: &Task, arg: u64) -> Result<u64> {
        let id = t.mm().read_obj::<u64>(arg)?;
        match self.0.with_call(id, |_| ()) {
            Ok(()) => Ok(0),
            Err(_) => Err(Errno::ENOENT),
        }
    }

    /// Gives the task that waits a descriptor of `t`'s.
    fn add_fd(&self, t: &Task, arg: u64) -> Result<u64> {
        const SETFD: u32 = 1;
        const AND_SEND: u32 = 2;
        let [id, flags_source, new] = t.mm().read_obj::<[u64; 3]>(arg)?;
        let (flags, source) = (flags_source as u32, (flags_source >> 32) as i32);
        let (new, new_flags) = (new as u32 as i32, (new >> 32) as i32);
        if new_flags & !libc::O_CLOEXEC != 0
            || flags & !(SETFD | AND_SEND) != 0
            || new != 0 && flags & SETFD == 0
        {
            return Err(Errno::EINVAL);
        }
        let file = t.file(source)?;
        let tid = self.0.with_call(id, |call| call.tid)?;
        let target = t.kernel().tree.task(tid).ok_or(Errno::ENOENT)?;
        let exec = match new_flags & libc::O_CLOEXEC {
            0 => Exec::Keep,
            _ => Exec::Close,
        };
        let fd = if flags & SETFD == 0 {
            target.add_file(file, exec)?
        } else {
            let limit = target.group().limits.lock().soft(libc::RLIMIT_NOFILE);
            target.try_files()?.set(new, file, exec, limit)?;
            new
        };
        let fd = u64::try_from(fd).map_err(|_| Errno::EBADF)?;
        if flags & AND_SEND != 0 {
            self.0.answer(id, Decision::Value(fd))?;
        }
        Ok(fd)
    }
}

impl FileOps for ListenerFile {
    fn positioned(&self) -> Positioned {
        Positioned::Stream
    }

    fn ready(&self, _file: &File) -> Ready {
        let state = self.0.state.lock();
        let any = |stage| state.calls.values().any(|call| call.stage == stage);
        let mut ready = Ready::empty();
        if any(Stage::New) {
            ready |= Ready::IN | Ready::RDNORM;
        }
        if any(Stage::Sent) {
            ready |= Ready::OUT | Ready::WRNORM;
        }
        if state.deserted {
            ready |= Ready::HUP;
        }
        ready
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.0.asked)
    }

    fn ioctl(&self, t: &Task, _file: &File, request: u32, arg: u64) -> Result<u64> {
        const SYNC_WAKE_UP: u64 = 1;
        match request {
            SEND => self.send(t, arg),
            ID_VALID | ID_VALID_OLD => self.is_valid(t, arg),
            ADDFD => self.add_fd(t, arg),
            // A hint to the scheduler.
            SET_FLAGS if arg & !SYNC_WAKE_UP == 0 => Ok(0),
            _ => Err(Errno::EINVAL),
        }
    }

    fn release(&self, _file: &File) {
        self.0.state.lock().closed = true;
        self.0.answered.wake_all();
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
