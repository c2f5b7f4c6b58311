//! Sokovan: compute sessions and inference deployments on Kubernetes. ARCHITECTURE.md is the map.

pub mod api;
#[cfg(feature = "operator")]
pub mod cluster;
#[cfg(feature = "operator")]
pub mod coordinator;
pub mod deployment;
#[cfg(feature = "operator")]
pub mod http;
pub mod lifecycle;
#[cfg(feature = "operator")]
pub mod logging;
#[cfg(feature = "operator")]
pub mod metrics;
#[cfg(feature = "operator")]
pub mod operator;
#[cfg(feature = "plugin")]
pub mod plugin;
pub mod provisioner;
pub mod route;
pub mod session;
pub mod views;
