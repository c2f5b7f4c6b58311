//! The census: what the leader knows of sessions, nodes and replicas, counted when Prometheus asks. A series exists as long as what it
//! counts does. Labels are names of scaling groups, resources, phases and reasons, which are few.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Instant;

use chrono::Utc;
use strum::IntoEnumIterator;

use super::store::state::State;
use super::store::world::World;
use crate::api::{Amount, GroupName, ResourceName, SessionPhase, TenantStatus, UNKNOWN_GROUP, whole};
use crate::metrics::{Gauge, Sample};
use crate::provisioner::in_group;
use crate::views::Tenant;

/// Most tenants with gauges of their own.
const MAX_TENANTS: usize = 500;

impl World {
    /// Returns the samples of all gauges; of tenants only on request. Empty until every kind is listed.
    pub fn census(&self, tenants: bool) -> Vec<Sample> {
        let state = self.lock();
        if !state.stores.is_synced() {
            return vec![];
        }
        let mut samples = sessions(&state);
        let silent = state.heartbeats.stale.len();
        samples.push(Sample::new(Gauge::NodesSilent, &[], count(silent)));
        samples.extend(groups(&state));
        samples.extend(replicas(&state));
        drop(state);
        let lags = self.lag.lags(Instant::now()).into_iter();
        samples.extend(lags.map(|(kind, lag)| Sample::new(Gauge::WatchLag, &[("kind", kind)], lag.as_secs_f64())));
        if tenants {
            samples.extend(largest_tenants(self.usage().1));
        }
        samples
    }
}

/// The tenants with the most sessions: what they use and may use.
fn largest_tenants(usage: BTreeMap<Tenant, TenantStatus>) -> Vec<Sample> {
    let sessions = |status: &TenantStatus| status.sessions_running + status.sessions_pending;
    let mut used: Vec<_> = usage.into_iter().filter(|(_, status)| sessions(status) > 0).collect();
    used.sort_by_key(|(tenant, status)| (Reverse(sessions(status)), tenant.clone()));
    let mut samples = vec![];
    for (tenant, status) in used.into_iter().take(MAX_TENANTS) {
        let (kind, name) = tenant.label();
        for resource in status.resources {
            let labels = [("kind", kind.to_owned()), ("name", name.to_owned()), ("resource", resource.resource)];
            let limit = resource.limit.map(|limit| Sample::new(Gauge::TenantLimit, &labels, value(limit.amount())));
            samples.push(Sample::new(Gauge::TenantUsed, &labels, value(resource.used.amount())));
            samples.extend(limit);
        }
    }
    samples
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
        add(Gauge::NodesCordoned, &[], count(own().filter(|node| node.unschedulable).count()));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ResourceUsage;

    #[test]
    fn only_the_largest_tenants_have_gauges_and_an_idle_one_has_none() {
        let resources = vec![ResourceUsage { resource: "cpu".into(), used: "2".into(), limit: Some("1500m".into()) }];
        let status = |sessions| TenantStatus { sessions_running: sessions, sessions_pending: 0, resources: resources.clone() };
        let name = |number: usize| Tenant::Project(format!("p{number:04}").as_str().into());
        let mut usage: BTreeMap<_, _> = (0..2 * MAX_TENANTS).map(|number| (name(number), status(whole(number)))).collect();
        usage.insert(name(9999), status(0));
        let samples = largest_tenants(usage);
        assert_eq!(samples.len(), 2 * MAX_TENANTS);
        let labels = |number: usize| {
            let name = ("name", format!("p{number:04}"));
            [("kind", "project".to_owned()), name, ("resource", "cpu".into())]
        };
        assert_eq!(samples[0], Sample::new(Gauge::TenantUsed, &labels(2 * MAX_TENANTS - 1), 2.0));
        assert_eq!(samples[1], Sample::new(Gauge::TenantLimit, &labels(2 * MAX_TENANTS - 1), 1.5));
    }
}
