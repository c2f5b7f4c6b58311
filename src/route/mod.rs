//! Routes: the replicas of deployments as entries in the traffic. Pure.

pub mod effect;
pub mod handlers;
pub mod health;
pub mod routes;
pub mod snapshot;
pub mod subject;

pub use routes::Routes;
