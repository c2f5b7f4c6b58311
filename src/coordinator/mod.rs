//! The engine: cycles of handlers, steps of objects, commits, marks, locks and hooks. It names no kind; a host carries out what
//! it decides.

mod claims;
mod commit;
mod cycle;
mod decide;
mod deferred;
mod engine;
mod event;
pub mod hooks;
pub mod host;
mod locks;
pub mod marks;
mod recorder;
mod step;
#[cfg(test)]
mod tests;

pub use claims::{Claim, Claims};
pub use deferred::yield_to_work;
pub use engine::Coordinator;
