//! Sokovan: compute sessions and inference deployments on Kubernetes. ARCHITECTURE.md is the map.

pub mod api;
pub mod lifecycle;
pub mod provisioner;
pub mod session;
