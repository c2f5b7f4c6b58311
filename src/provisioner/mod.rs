//! Who gets which agents: a ledger of what is taken, and the placement of one session after another on it. Pure.

mod agents;
mod ledger;
mod place;

pub use agents::*;
pub use ledger::*;
pub use place::*;
