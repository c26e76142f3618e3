//! System V IPC: `shm*`, `sem*`, `msg*`.

mod msg;
mod sem;
mod shm;

pub use msg::{msgctl, msgget, msgrcv, msgsnd};
pub use sem::{semctl, semget, semop, semtimedop};
pub use shm::{shmat, shmctl, shmdt, shmget};
