//! Runs the handlers: cycles, marks, locks, judgement, commits, and what follows them.

mod cycle;
mod item;
mod judge;
mod locks;
pub mod marks;
mod sync;

pub use cycle::Coordinator;
