//! Sokovan: compute sessions and inference deployments on Kubernetes. ARCHITECTURE.md is the map.

pub mod api;
pub mod cluster;
pub mod coordinator;
pub mod deployment;
pub mod http;
pub mod lifecycle;
pub mod metrics;
pub mod operator;
pub mod plugin;
pub mod provisioner;
pub mod route;
pub mod session;
pub mod views;
