//! All I/O with the API server, in one place: watches into the world, effects and commits out of it, the lease.

mod claims;
pub mod client;
pub mod commit;
mod dependencies;
pub mod effects;
pub mod events;
pub mod extract;
mod extract_storage;
pub mod heartbeats;
pub mod lease;
mod lingering;
pub mod pauses;
pub mod pods;
pub mod requests;
pub mod snapshot;
mod state;
pub mod table;
mod trust;
pub mod unreconciled;
pub mod usage;
pub mod warnings;
pub mod watch;
pub mod world;
pub mod write;
