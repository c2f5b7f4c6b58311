//! The census: what the leader knows of sessions, nodes and replicas, counted when Prometheus asks. A series exists as long as what it
//! counts does. Labels are names of scaling groups, resources, phases and reasons, which are few.

use std::collections::BTreeMap;

use chrono::Utc;
use strum::IntoEnumIterator;

use super::store::state::State;
use super::store::world::World;
use crate::api::{Amount, GroupName, ResourceName, SessionPhase, UNKNOWN_GROUP, whole};
use crate::metrics::{Gauge, Sample};
use crate::provisioner::in_group;

impl World {
    /// Returns the samples of all gauges. Empty until every kind is listed.
    pub fn census(&self) -> Vec<Sample> {
        let state = self.lock();
        if !state.stores.is_synced() {
            return vec![];
        }
        let mut samples = sessions(&state);
        let silent = state.heartbeats.stale.len();
        samples.push(Sample::new(Gauge::NodesSilent, &[], count(silent)));
        samples.extend(groups(&state));
        samples.extend(replicas(&state));
        samples
    }
}

fn sessions(state: &State) -> Vec<Sample> {
    let label = |group: &Option<GroupName>| {
        let existing = group.as_ref().filter(|group| state.group(group).is_some());
        existing.map_or(UNKNOWN_GROUP.to_owned(), ToString::to_string)
    };
    let mut counts: BTreeMap<(String, SessionPhase), usize> = BTreeMap::new();
    for phase in SessionPhase::iter() {
        for (group, _) in state.index.in_phase(phase) {
            *counts.entry((label(group), phase)).or_default() += 1;
        }
    }
    let sample = |((group, phase), number): ((String, SessionPhase), usize)| {
        Sample::new(Gauge::Sessions, &[("group", group), ("phase", phase.to_string())], count(number))
    };
    counts.into_iter().map(sample).collect()
}

/// The queue, the nodes and the resources of each scaling group.
fn groups(state: &State) -> Vec<Sample> {
    let nodes = state.node_views();
    let ledger = state.ledger.snapshot(&state.tenancy());
    let mut samples = vec![];
    for ((_, name), group) in state.stores.groups.iter() {
        let own = || nodes.values().filter(|node| in_group(node, group));
        let status = state.queue_status(group, &Some(name.as_str().into()));
        let mut add = |gauge, labels: &[(&'static str, String)], value| {
            let group = ("group", name.clone());
            samples.push(Sample::new(gauge, &[&[group], labels].concat(), value));
        };
        add(Gauge::Nodes, &[], units(status.nodes));
        add(Gauge::NodesReady, &[], units(status.nodes_ready));
        for waiting in &status.waiting_by_reason {
            let cause = waiting.cause.map_or(String::new(), |cause| format!("{cause:?}"));
            add(Gauge::SessionsPending, &[("reason", waiting.reason.to_string()), ("cause", cause)], units(waiting.sessions));
        }
        let oldest = status.oldest_waiting_since.map_or(0, |since| (Utc::now() - since).num_seconds().max(0));
        add(Gauge::OldestPending, &[], units(oldest));
        let mut resources: BTreeMap<String, (Amount, Amount)> = BTreeMap::new();
        for node in own() {
            let used = |name: &ResourceName| ledger.load(&node.name).map_or(Amount::ZERO, |load| load.used.amount(name));
            for (name, amount) in node.allocatable.iter() {
                let (all, taken) = resources.entry(name.to_string()).or_default();
                (*all, *taken) = (all.saturating_add(amount), taken.saturating_add(used(name)));
            }
        }
        for (resource, (all, taken)) in resources {
            add(Gauge::Allocatable, &[("resource", resource.clone())], value(all));
            add(Gauge::Allocated, &[("resource", resource)], value(taken));
        }
    }
    samples
}

fn replicas(state: &State) -> Vec<Sample> {
    let (mut deployments, mut routes) = (BTreeMap::new(), BTreeMap::new());
    for deployment in state.stores.deployments.values() {
        *deployments.entry(deployment.phase().to_string()).or_insert(0usize) += 1;
    }
    for route in state.stores.routes.values() {
        *routes.entry(route.phase().to_string()).or_insert(0usize) += 1;
    }
    let sample = |gauge| move |(phase, number)| Sample::new(gauge, &[("phase", phase)], count(number));
    deployments.into_iter().map(sample(Gauge::Deployments)).chain(routes.into_iter().map(sample(Gauge::Routes))).collect()
}

fn count(number: usize) -> f64 {
    units(whole(number))
}

/// Counts are far below the 2^53 up to which every whole number is exact.
#[allow(clippy::cast_precision_loss, reason = "metrics are floating-point numbers")]
fn units(number: i64) -> f64 {
    number as f64
}

/// Returns an amount in units of its resource: cores, bytes, devices.
fn value(amount: Amount) -> f64 {
    units(amount.milli()) / 1000.0
}
