//! Which of the nodes that take a kernel gets it: one strategy a file, and the one place that lists them.

mod concentrated;
mod dispersed;
mod legacy;
mod roundrobin;

use super::pool::{Choice, Index, Pool};
use crate::api::SelectorStrategy;

/// A strategy: the node it chooses, if any takes the kernel.
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
