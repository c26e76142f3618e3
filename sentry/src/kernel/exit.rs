//! The end of a task and of a process (exit(2), exit_group(2)).

use std::sync::Arc;

use crate::kernel::group::ExitStatus;
use crate::kernel::task::Task;
use crate::mm::io::UserMemory;

/// Everything that happens when a task ends. Its context is already gone.
pub fn finish(task: &Arc<Task>, status: ExitStatus) {
    let group = task.group().clone();
    let kernel = task.kernel().clone();
    task.end_sem_undo();
    release_memory(task);
    task.set_files(None);
    // Recorded before it leaves, so that the sum never shrinks.
    {
        let mut ended = group.ended_usage.lock();
        *ended = ended.plus(task.usage());
    }
    let tid = task.tid();
    let uid = task.creds().ruid.0;
    let own = group.must_exit(tid).unwrap_or(status);
    if tid == group.pid() {
        group.set_leader_status(own);
    }
    kernel.tree.lock().tasks.remove(&tid);
    if !group.remove_task(task) {
        return;
    }
    let status = group.leader_status().unwrap_or(own);
    group.timers.clear();
    kernel.tree.group_exited(&group, status, uid);
    kernel.process_ended(&group, status);
}

/// Gives the address space back: robust futexes, the cleared tid, the vfork parent (also when
/// execve(2) replaces it).
pub fn release_memory(task: &Task) {
    let addresses = std::mem::take(&mut *task.addresses.lock());
    if let Ok(mm) = task.try_mm() {
        crate::kernel::futex::exit_robust_list(task, &mm, addresses.robust_list);
        // Only worth it if somebody else can see the memory.
        if addresses.clear_child_tid != 0 && Arc::strong_count(&mm) > 1 {
            mm.copy_out(addresses.clear_child_tid, &0u32.to_ne_bytes());
            crate::kernel::futex::wake_address(task.kernel(), &mm, addresses.clear_child_tid, 1);
        }
    }
    let old = task.set_mm(None);
    drop(old);
    if let Some(latch) = task.vfork_parent.lock().take() {
        latch.release();
    }
}
