//! System V IPC: `shm*`, `sem*`, `msg*`.

mod shm;

pub use shm::{shmat, shmctl, shmdt, shmget};
