//! Selectors: each chooses one of the nodes that take a kernel. One file each, listed here.

mod concentrated;
mod dispersed;
mod legacy;
mod roundrobin;

use super::pool::{Choice, Index, Pool};
use crate::api::SelectorStrategy;

/// Returns the chosen node, or None if no node takes the kernel.
pub type Select = fn(&Pool<'_>, &Choice<'_>) -> Option<Index>;

/// To add a selector, add its file, its name in the API and a line here.
pub fn selector(strategy: SelectorStrategy) -> Select {
    match strategy {
        SelectorStrategy::Concentrated => concentrated::select,
        SelectorStrategy::Dispersed => dispersed::select,
        SelectorStrategy::Legacy => legacy::select,
        SelectorStrategy::RoundRobin => roundrobin::select,
    }
}
