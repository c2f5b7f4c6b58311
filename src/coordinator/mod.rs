//! Runs the handlers: cycles, marks, locks, judgement, commits, and what follows them.

mod cycle;
pub mod hooks;
mod item;
mod judge;
mod linger;
mod locks;
pub mod marks;
pub mod post_processors;
mod recorder;
mod sync;
mod tasks;

pub use cycle::Coordinator;
