//! The pure part of the engine: what a kind of object is to it, rows of handlers, verdicts, classification, history.
//! It names no kind and knows no client, no task and no clock: `now` is always given.

mod classify;
mod handler;
mod history;
#[cfg(test)]
pub(crate) mod lamps;
mod next_status;
mod subject;
mod timing;
mod verdict;

pub use classify::*;
pub use handler::*;
pub use history::*;
pub use next_status::*;
pub use subject::*;
pub use timing::*;
pub use verdict::*;
