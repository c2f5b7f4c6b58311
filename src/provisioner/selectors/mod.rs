//! Which of the agents that take a kernel gets it: one strategy a file, and the one place that lists them.

mod concentrated;
mod dispersed;
mod legacy;
mod roundrobin;

use super::pool::{Index, Pool, Wish};
use crate::api::SelectorStrategy;

/// What a strategy chooses for.
pub struct Choice<'c> {
    pub wish: &'c Wish,
    /// Agents of which the session has something already.
    pub mine: &'c [Index],
    /// Agents that are not to be chosen.
    pub but: &'c [Index],
    /// Whether the kernels of one deployment are to be spread.
    pub spread: bool,
}

/// A strategy: the agent it chooses, if any takes the kernel.
pub type Select = fn(&Pool<'_>, &Choice<'_>) -> Option<Index>;

/// To add one: its file, its name in the API, and a line here.
pub fn selector(strategy: SelectorStrategy) -> Select {
    match strategy {
        SelectorStrategy::Concentrated => concentrated::select,
        SelectorStrategy::Dispersed => dispersed::select,
        SelectorStrategy::Legacy => legacy::select,
        SelectorStrategy::RoundRobin => roundrobin::select,
    }
}
