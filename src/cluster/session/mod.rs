//! All I/O for sessions: their host, snapshots, effects, commits and pods.

pub mod effects;
pub mod hooks;
pub mod host;
pub mod kernel_tasks;
pub mod pods;
mod snapshot;
pub mod warnings;
