//! Deployments: how many replicas of which revision there shall be. Pure.

pub mod definition;
pub mod deployments;
pub mod effect;
pub mod failures;
pub mod handlers;
mod image;
pub mod invalid;
pub mod population;
pub mod revision;
pub mod rollout;
pub mod scale_in;
pub mod snapshot;
pub mod status;
pub mod subject;

pub use deployments::Deployments;
