//! The pure engine, shared by every kind that lives through phases: outcomes, classification, history, matching.
//! Nothing in here knows a client, a task or a clock; `now` is always given.

mod classify;
mod history;

mod matching;
mod outcome;
mod timing;

pub use classify::*;
pub use history::*;

pub use matching::*;
pub use outcome::*;
pub use timing::*;
