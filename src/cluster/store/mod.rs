//! The watched state of the cluster: stores by kind, indexes, the overlay of assumed writes, and the ledger.

mod assumed_writes;
mod dependencies;
pub mod extract_storage;
pub mod heartbeats;
pub mod identity;
mod index;
pub mod lag;
pub mod marks;
mod overlay;
pub mod pauses;
pub mod quota_admission;
pub mod serving;
pub mod serving_state;
pub mod state;
pub mod stores;
pub mod table;
mod trust;
pub mod world;
