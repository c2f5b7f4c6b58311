//! Tests on a real API server with etcd, scheduler, controllers and simulated nodes. Each test has a scene of its own, so
//! tests run in parallel. Run them with `make cluster`.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../common/mod.rs"]
mod common;

mod attacks;
mod attempts;
mod claims;
mod connect_attacks;
mod coordinator;
mod definitions;
mod disruptions;
mod drift;
mod ending;
mod explained;
mod files;
mod forbidden;
mod gangs;
mod gates;
mod holds;
mod idle;
mod isolation;
mod leadership;
mod lifecycle;
mod memory;
mod oversized;
mod own_claims;
mod permissions;
mod quantities;
mod refusals;
mod removals;
mod replacements;
mod restarts;
mod rollouts;
mod samples;
mod scene;
mod served;
mod serving;
mod serving_attacks;
mod stale;
mod templates;
mod volumes;
mod waiting;
mod warnings;
