//! System V IPC: `shm*`, `sem*`, `msg*`.

mod sem;
mod shm;

pub use sem::{semctl, semget, semop, semtimedop};
pub use shm::{shmat, shmctl, shmdt, shmget};
