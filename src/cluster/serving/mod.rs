//! Deployments and routes in the cluster: their host, effects, commits, and the objects that they need.

mod builders;
mod deployment_effects;
mod discovery;
mod host;
mod orphans;
mod route_effects;
mod snapshot;

pub use host::ServingHost;
pub use orphans::remove as remove_orphans;
