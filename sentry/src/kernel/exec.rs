//! execve(2): a process gets a new program.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use runsc_platform::arch::{FpState, Registers};

use crate::errno::{Errno, Error, Result};
use crate::fs::file::File;
use crate::kernel::cred::Credentials;
use crate::kernel::exec_creds::new_credentials;
use crate::kernel::exit::release_memory;
use crate::kernel::group::ExitStatus;
use crate::kernel::signal::{AltStack, Signal};
use crate::kernel::task::Task;
use crate::kernel::wait::Ready;
use crate::loader::{ExecFile, ExecFiles, ExecIds, ExecRequest, ReadAt};
use crate::mm::Mm;
use crate::mm::io::Sink;

/// What to execute, already opened and checked for permission.
pub struct Program {
    pub file: Arc<File>,
    /// As execve(2) was given it; `/dev/fd/N` for execveat(2).
    pub filename: Vec<u8>,
    pub argv: Vec<Vec<u8>>,
    pub envp: Vec<Vec<u8>>,
}

/// Reads an open file for the loader.
struct FileReader(Arc<File>);

impl ReadAt for FileReader {
    fn read_at(&self, offset: u64, dst: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while done < dst.len() {
            let mut sink = Sink::kernel(&mut dst[done..]);
            match self
                .0
                .ops()
                .read_at(&self.0, &mut sink, offset.saturating_add(done as u64))?
            {
                0 => break,
                n => done += n,
            }
        }
        Ok(done)
    }
}

/// Opens interpreters for the loader as the task sees them.
struct TaskFiles<'a>(&'a Task);

impl ExecFiles for TaskFiles<'_> {
    fn open_exec(&self, path: &[u8]) -> Result<ExecFile> {
        exec_file(crate::fs::exec::open_exec(self.0, path)?)
    }
}

fn exec_file(file: Arc<File>) -> Result<ExecFile> {
    Ok(ExecFile {
        mappable: file.ops().mappable(&file).map_err(|_| Errno::EACCES)?,
        reader: Arc::new(FileReader(file.clone())),
        size: file.attr()?.size,
        file: Some(file),
    })
}

/// Replaces the program of the task's process. On success the task's registers are those of the
/// new program's start.
pub async fn exec(task: &Task, program: Program) -> Result<(), Error> {
    let group = task.group().clone();
    let comm = comm_of(&program.filename);
    let mut prepared = crate::loader::prepare(
        &TaskFiles(task),
        ExecRequest {
            file: exec_file(program.file)?,
            filename: &program.filename,
            argv: program.argv,
            envp: program.envp,
            ids: exec_ids(&task.creds(), false),
            no_randomize: false,
        },
    )?;
    let (creds, secure) = new_credentials(task, prepared.file.file.as_deref())?;
    prepared.set_ids(exec_ids(&creds, secure));

    let mm = Mm::new(task.platform(), &task.kernel().memory, mm_limits(task));
    let loaded = prepared.load(&mm)?;

    // From here on the old program cannot be gone back to: other threads end first.
    become_alone(task).await?;
    release_memory(task);
    task.set_mm(Some(mm));
    take_leader_id(task);
    {
        let mut signals = task.signals.lock();
        signals.altstack = AltStack::default();
        let mut actions = group.actions().lock().clone();
        actions.reset_for_exec();
        group.set_actions(actions);
    }
    group.timers.exec();
    group.membarrier.store(0, Ordering::Relaxed);
    let files = task.files();
    let files = if Arc::strong_count(&files) > 2 {
        let own = files.fork();
        task.set_files(Some(own.clone()));
        own
    } else {
        files
    };
    files.close_on_exec();
    task.set_comm(&comm);
    if secure {
        task.pdeathsig.store(0, Ordering::Relaxed);
    }
    group.dumpable.store(i32::from(!secure), Ordering::Relaxed);
    task.set_creds(creds);
    group.did_exec.store(true, Ordering::Relaxed);
    *task.restart.lock() = None;
    *task.regs.lock() = Registers::start(loaded.entry, loaded.stack_pointer);
    *task.start_fp.lock() = Some(FpState::initial());
    Ok(())
}

/// Limits of the process as the memory subsystem wants them.
pub fn mm_limits(task: &Task) -> crate::mm::Limits {
    let limits = task.group().limits.lock();
    crate::mm::Limits {
        address_space: limits.soft(libc::RLIMIT_AS),
        data: limits.soft(libc::RLIMIT_DATA),
        stack: limits.soft(libc::RLIMIT_STACK),
        memlock: limits.soft(libc::RLIMIT_MEMLOCK),
        ..Default::default()
    }
}

fn comm_of(filename: &[u8]) -> Vec<u8> {
    filename
        .rsplit(|b| *b == b'/')
        .next()
        .unwrap_or_default()
        .to_vec()
}

fn exec_ids(creds: &Credentials, secure: bool) -> ExecIds {
    ExecIds {
        uid: creds.ruid.0,
        euid: creds.euid.0,
        gid: creds.rgid.0,
        egid: creds.egid.0,
        secure,
    }
}

/// Ends the other threads and waits until they are gone.
async fn become_alone(task: &Task) -> Result<(), Error> {
    let group = task.group();
    if !group.begin_exec(task.tid()) {
        return Err(Errno::EAGAIN.into());
    }
    let alone = || {
        if group.task_count() == 1 {
            Ok(())
        } else {
            Err(Errno::EAGAIN)
        }
    };
    while task
        .wait_on(&group.task_exits, Ready::all(), None, alone)
        .await
        .is_err()
    {
        if group.must_exit(task.tid()).is_some() {
            group.end_exec();
            let status = ExitStatus::Signaled {
                signal: Signal::SIGKILL,
                core: false,
            };
            task.request_exit(group.must_exit(task.tid()).unwrap_or(status));
            return Err(Errno::EINTR.into());
        }
        // Signals are looked at by the new program: keep the mark out of the way meanwhile.
        task.take_interrupt();
    }
    group.end_exec();
    task.interrupt();
    Ok(())
}

/// The thread that calls execve(2) becomes the main thread.
fn take_leader_id(task: &Task) {
    let (old, pid) = (task.tid(), task.pid());
    if old != pid {
        let mut tree = task.kernel().tree.lock();
        tree.tasks.remove(&old);
        tree.tasks.insert(pid, task.arc());
        task.set_tid(pid);
    }
}
