//! All I/O with the API server: watches that fill the stores, effects and commits, and the lease.

mod census;
pub mod client;
pub mod commit;
pub mod events;
#[cfg(test)]
mod fake;
pub mod heartbeats;
pub mod install;
pub mod lease;
pub mod objects;
pub mod serving;
pub mod session;
pub mod store;
#[cfg(test)]
mod tests;
pub mod usage;
pub mod watch;
pub mod write;
