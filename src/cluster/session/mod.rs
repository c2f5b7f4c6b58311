//! All I/O for sessions: their host, snapshots, effects, commits and pods.

pub mod effects;
mod environment;
pub mod hooks;
pub mod host;
pub mod kernel_tasks;
pub mod measure;
mod parts;
pub mod pods;
mod snapshot;
mod ssh;
pub mod traffic;
mod user_volumes;
pub mod warnings;
