//! Test fixtures of the provisioner: nodes, tenants and waiting sessions.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta};
use serde_json::{Value, json};

use super::{
    Ahead, Candidate, Decision, Dependency, EquivalenceClass, EquivalenceClasses, LedgerSnapshot, Refusal, Scope, provision,
};
use crate::api::*;
use crate::views::NodeView;
use crate::views::Tenancy;
use crate::views::testing::tenancy;

/// A scaling group with nodes and one active tenant: keypair `key` of `user`, namespace `ns` of `project` in `domain`.
pub struct Setup {
    pub group: ScalingGroup,
    pub nodes: BTreeMap<NodeName, Arc<NodeView>>,
    pub tenancy: Tenancy,
    pub ledger: LedgerSnapshot,
    classes: EquivalenceClasses,
}

/// Further properties of all waiting sessions.
#[derive(Default)]
pub struct Extra<'e> {
    pub dependencies: &'e [(String, Dependency)],
    pub avoided: &'e [NodeName],
    pub ahead: &'e [Ahead],
    /// The names of sessions that recently reported that no node has enough free resources.
    pub reported: &'e [&'e str],
}

/// Returns a node with these resources and 110 pods.
pub fn node(name: &str, resources: &[(&str, i64)]) -> NodeView {
    let mut allocatable = Resources::default();
    allocatable.set("pods", Amount::from_units(110));
    resources.iter().for_each(|(resource, units)| allocatable.set(*resource, Amount::from_units(*units)));
    NodeView { name: name.into(), allocatable, architecture: "amd64".into(), ready: true, ..NodeView::default() }
}

/// Returns a waiting session. Its position in the list of a run decides its age: the first is the oldest.
pub fn waiting(name: &str, spec: Value) -> Session {
    let mut full = json!({"accessKey": "key", "clusterMode": "MultiNode", "kernels": [kernel(&[("cpu", 1)])]});
    if let (Some(full), Some(spec)) = (full.as_object_mut(), spec.as_object()) {
        full.extend(spec.clone());
    }
    let mut session = Session::new(name, serde_json::from_value(full).expect("a session's spec"));
    session.metadata.namespace = Some("ns".into());
    session
}

pub fn kernel(resources: &[(&str, i64)]) -> Value {
    let resources: BTreeMap<_, _> = resources.iter().copied().collect();
    json!({"image": "i", "resources": resources})
}

impl Setup {
    pub fn new(group: Value, nodes: Vec<NodeView>) -> Self {
        let spec = serde_json::from_value(group).expect("a group's spec");
        Self {
            group: ScalingGroup::new("default", spec),
            nodes: nodes.into_iter().map(|node| (node.name.clone(), Arc::new(node))).collect(),
            tenancy: tenancy(),
            ledger: LedgerSnapshot::default(),
            classes: EquivalenceClasses::default(),
        }
    }

    /// Adds another keypair of the same user.
    pub fn keypair(&mut self, name: &str) {
        let keypair = serde_json::from_value(json!({"user": "user"})).expect("a keypair");
        self.tenancy.keypairs.insert(name.into(), Arc::new(Keypair::new(name, keypair)));
    }

    /// Sets the policy of the keypair `key`.
    pub fn limit(&mut self, policy: Value) {
        let policy = serde_json::from_value(policy).expect("a policy");
        self.tenancy.policies.insert("policy".into(), Arc::new(ResourcePolicy::new("policy", policy)));
        let keypair = serde_json::from_value(json!({"user": "user", "resourcePolicy": "policy"})).expect("a keypair");
        self.tenancy.keypairs.insert("key".into(), Arc::new(Keypair::new("key", keypair)));
    }

    /// Runs one cycle.
    pub fn run_with(&mut self, sessions: &[Session], extra: &Extra<'_>) -> Vec<Decision> {
        let classes: Vec<Arc<EquivalenceClass>> = sessions.iter().map(|session| self.classes.of(session)).collect();
        let mut queue = vec![];
        for (n, (session, class)) in sessions.iter().zip(&classes).enumerate() {
            let candidate = Candidate {
                class,
                name: ("ns", session.metadata.name.as_deref().unwrap_or_default()),
                priority: session.spec.priority,
                created_at: Some(DateTime::UNIX_EPOCH + TimeDelta::seconds(i64::try_from(n).unwrap_or(0))),
                starts_at: session.spec.starts_at,
                suspended: session.spec.suspend,
                dependencies: extra.dependencies,
                avoided: extra.avoided.iter().collect(),
                ahead: extra.ahead,
                template_problem: None,
                recently_reported: session.metadata.name.as_deref().is_some_and(|name| extra.reported.contains(&name)),
            };
            queue.push(candidate);
        }
        let name = GroupName::from("default");
        let now = DateTime::UNIX_EPOCH + TimeDelta::hours(1);
        let scope = Scope::new(now, &name, &self.group, &self.nodes, &self.tenancy);
        provision(&scope, &mut self.ledger, &queue)
    }

    /// Returns the nodes of each session's kernels; none if the session was refused.
    pub fn run(&mut self, sessions: &[Session]) -> Vec<Vec<String>> {
        self.run_with(sessions, &Extra::default()).iter().map(nodes_of).collect()
    }

    pub fn refusals(&mut self, sessions: &[Session]) -> Vec<Option<Arc<Refusal>>> {
        self.run_with(sessions, &Extra::default()).iter().map(refusal).collect()
    }
}

pub fn nodes_of(decision: &Decision) -> Vec<String> {
    match decision {
        Decision::Placed(allocation) => allocation.iter().map(|place| place.node.0.clone()).collect(),
        Decision::Refused(_) => vec![],
    }
}

pub fn refusal(decision: &Decision) -> Option<Arc<Refusal>> {
    match decision {
        Decision::Placed(_) => None,
        Decision::Refused(refusal) => Some(refusal.clone()),
    }
}
