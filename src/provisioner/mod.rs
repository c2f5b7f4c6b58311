//! Who gets which agents: a ledger of what is taken, and the pipeline that gives the rest away. Pure.

mod agents;
mod candidate;
mod kind;
mod ledger;
mod pipeline;
mod plan;
mod pool;
mod refusal;
mod room;
mod selectors;
mod sequencers;
#[cfg(test)]
pub(crate) mod testing;
pub mod validators;

pub use agents::in_group;
pub use candidate::{Candidate, Dependency};
pub use kind::*;
pub use ledger::*;
pub use pipeline::*;
pub use refusal::*;
pub use room::{Own, Room};
pub use validators::Ahead;
