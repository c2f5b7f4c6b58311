//! Places sessions on nodes: a ledger of used resources, and the pipeline that allocates the free ones. Pure.

mod ahead;
mod candidate;
mod equivalence_class;
mod holding;
mod ledger;
mod ledger_snapshot;
mod nodes;
mod pipeline;
mod plan;
mod pool;
mod refusal;
mod scope;
mod selectors;
mod sequencers;
#[cfg(test)]
pub(crate) mod testing;
pub mod validators;

pub use ahead::Ahead;
pub use candidate::{Candidate, Dependency};
pub use equivalence_class::*;
pub use holding::{Holding, Load, Occupied};
pub use ledger::*;
pub use ledger_snapshot::{LedgerSnapshot, Own};
pub use nodes::{in_group, outage};
pub use pipeline::*;
pub use refusal::*;
pub use scope::Scope;
