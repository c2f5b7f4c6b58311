//! All I/O with the API server: watches into the stores, effects and commits out of them, the lease.

pub mod client;
pub mod events;
#[cfg(test)]
mod fake;
pub mod heartbeats;
pub mod lease;
pub mod session;
pub mod store;
#[cfg(test)]
mod tests;
pub mod unreconciled;
pub mod usage;
pub mod watch;
pub mod write;
