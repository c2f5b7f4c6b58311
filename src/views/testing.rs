//! Test fixtures: the time, a node and a tenant.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;

use super::{NodeView, Tenancy};
use crate::api::{Amount, Domain, Keypair, Project, Resources, User};

/// The moment of every snapshot in tests: an hour after the epoch.
pub fn now() -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::hours(1)
}

pub fn node(name: &str, cpu: i64) -> NodeView {
    let mut allocatable = Resources::default();
    allocatable.set("cpu", Amount::from_units(cpu));
    allocatable.set("memory", Amount::from_units(64 << 30));
    allocatable.set("pods", Amount::from_units(110));
    NodeView { name: name.into(), allocatable, architecture: "amd64".into(), ready: true, ..NodeView::default() }
}

/// One active tenant: keypair `key` of `user`, namespace `ns` of `project` in `domain`.
pub fn tenancy() -> Tenancy {
    let mut tenancy = Tenancy::default();
    tenancy.namespaces.insert("ns".into(), "project".into());
    let project = serde_json::from_value(json!({"domain": "domain"})).expect("a project");
    tenancy.projects.insert("project".into(), Arc::new(Project::new("project", project)));
    let domain = serde_json::from_value(json!({})).expect("a domain");
    tenancy.domains.insert("domain".into(), Arc::new(Domain::new("domain", domain)));
    let user = serde_json::from_value(json!({"domain": "domain"})).expect("a user");
    tenancy.users.insert("user".into(), Arc::new(User::new("user", user)));
    let keypair = serde_json::from_value(json!({"user": "user"})).expect("a keypair");
    tenancy.keypairs.insert("key".into(), Arc::new(Keypair::new("key", keypair)));
    tenancy
}
