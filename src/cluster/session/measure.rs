//! Measures the use of sessions with an idle timeout, by the metrics of their pods (`metrics.k8s.io`) and, where kubelets may be asked, by
//! their traffic. Without such sessions it reads nothing.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use chrono::{TimeDelta, Utc};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::Client;
use serde::Deserialize;

use super::traffic::{Kubelets, Traffic};
use crate::api::{LABEL_SESSION_UID, NodeName, Resources, SessionPhase, SessionUid};
use crate::cluster::store::state::State;
use crate::cluster::store::table::Key;
use crate::cluster::store::world::World;
use crate::session::handlers::HandlerName;
use crate::session::idle::{Usage, is_busy_with, is_used, limit};
use crate::views::requests::amounts;

/// The metrics of pods, as the aggregated API lists them.
#[derive(Deserialize)]
struct PodMetricsList {
    items: Vec<PodMetrics>,
}

#[derive(Deserialize)]
struct PodMetrics {
    metadata: Meta,
    timestamp: String,
    containers: Vec<ContainerMetrics>,
}

#[derive(Deserialize)]
struct Meta {
    name: String,
    namespace: String,
}

#[derive(Deserialize)]
struct ContainerMetrics {
    usage: std::collections::BTreeMap<String, Quantity>,
}

/// The measurement of one pod.
#[derive(Clone, Debug, PartialEq)]
struct PodUsage {
    /// By the clock of the one who measured it; it only shows that a measurement is new.
    timestamp: String,
    used: Resources,
}

/// What was read of all pods at one time.
struct Measurement {
    usage: HashMap<Key, PodUsage>,
    traffic: Traffic,
    at: Instant,
}

impl Default for Measurement {
    fn default() -> Self {
        Self { usage: HashMap::new(), traffic: Traffic::new(), at: Instant::now() }
    }
}

/// A session to measure: its pods with what they request.
struct Measured {
    uid: SessionUid,
    pods: Vec<(Key, Resources)>,
    nodes: BTreeSet<NodeName>,
}

/// Measures until the program ends. Without `kubelets`, traffic is not measured.
pub async fn measure(client: Client, world: Arc<World>, mut kubelets: Option<Kubelets>) {
    let mut known = Measurement::default();
    loop {
        tokio::time::sleep(world.timing.measuring).await;
        let sessions = world.lock().measured();
        if sessions.is_empty() {
            known = Measurement::default();
            continue;
        }
        let usage = match tokio::time::timeout(world.timing.request, read(&client)).await {
            Ok(Ok(usage)) => usage,
            Ok(Err(error)) => {
                tracing::debug!("the use of sessions cannot be measured: {error}");
                continue;
            }
            Err(_) => {
                tracing::debug!("the use of sessions was not measured before the timeout");
                continue;
            }
        };
        let traffic = match &mut kubelets {
            Some(kubelets) => kubelets.read(sessions.iter().flat_map(|session| session.nodes.clone()).collect()).await,
            None => Traffic::new(),
        };
        let now = Measurement { usage, traffic, at: Instant::now() };
        world.set_usage(&sessions, &known, &now);
        known = now;
    }
}

async fn read(client: &Client) -> anyhow::Result<HashMap<Key, PodUsage>> {
    let path = format!("/apis/metrics.k8s.io/v1beta1/pods?labelSelector={LABEL_SESSION_UID}");
    let list: PodMetricsList = client.request(http::Request::get(path).body(vec![])?).await?;
    let usage = |pod: PodMetrics| {
        let mut used = Resources::default();
        pod.containers.iter().for_each(|container| used.add(&amounts(&container.usage)));
        ((pod.metadata.namespace, pod.metadata.name), PodUsage { timestamp: pod.timestamp, used })
    };
    Ok(list.items.into_iter().map(usage).collect())
}

/// Whether a session is used. None if none of its pods shows that it is, and not all have a measurement that is newer than the last.
fn is_session_used(pods: &[(Key, Resources)], before: &Measurement, now: &Measurement) -> Option<bool> {
    let elapsed = now.at.saturating_duration_since(before.at);
    let sent = |key: &Key| now.traffic.get(key)?.checked_sub(*before.traffic.get(key)?);
    if pods.iter().any(|(key, _)| sent(key).is_some_and(|bytes| is_busy_with(bytes, elapsed))) {
        return Some(true);
    }
    let mut used = false;
    for (key, requested) in pods {
        let is_new = |usage: &&PodUsage| before.usage.get(key).is_none_or(|before| before.timestamp != usage.timestamp);
        let usage = now.usage.get(key).filter(is_new)?;
        used |= is_used(requested, &usage.used);
    }
    (!pods.is_empty()).then_some(used)
}

impl State {
    /// Returns the running sessions with an idle timeout.
    fn measured(&self) -> Vec<Measured> {
        let tenancy = self.tenancy();
        let running = self.index.in_phase(SessionPhase::Running).map(|(_, uid)| uid);
        let limited = running.filter(|uid| self.session(uid).is_some_and(|session| limit(&tenancy, session).is_some()));
        let measured = |uid: &SessionUid| {
            let pods = self.index.pods_of.of(uid).filter_map(|key| Some((key, self.our_pod(key)?)));
            let pods: Vec<_> = pods.filter(|(_, pod)| pod.bound && pod.is_live()).collect();
            Measured {
                uid: uid.clone(),
                nodes: pods.iter().filter_map(|(_, pod)| pod.node.clone()).collect(),
                pods: pods.into_iter().map(|(key, pod)| (key.clone(), pod.requests.clone())).collect(),
            }
        };
        limited.map(measured).collect()
    }
}

impl World {
    fn set_usage(&self, sessions: &[Measured], before: &Measurement, read: &Measurement) {
        let gap = TimeDelta::from_std(self.timing.unmeasured).unwrap_or_default();
        let now = Utc::now();
        let mut state = self.lock();
        let mut known = std::mem::take(&mut state.usage_of);
        for session in sessions {
            let last = known.remove(&session.uid);
            let usage = is_session_used(&session.pods, before, read).map(|used| Usage::after(last, now, used, gap)).or(last);
            state.usage_of.extend(usage.map(|usage| (session.uid.clone(), usage)));
        }
        drop(state);
        sessions.iter().for_each(|session| self.marks.handlers.at(HandlerName::ExpireIdle, &session.uid, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Amount;

    fn cpu(milli: i64) -> Resources {
        let mut resources = Resources::default();
        resources.set("cpu", Amount::from_milli(milli));
        resources
    }

    #[test]
    fn a_session_is_measured_when_all_its_pods_have_new_measurements() {
        let key = |name: &str| ("ns".to_owned(), name.to_owned());
        let pods = vec![(key("main1"), cpu(1000)), (key("sub1"), cpu(1000))];
        let start = Instant::now();
        let usage = |timestamp: &str, main: i64, sub: i64| Measurement {
            usage: [("main1", main), ("sub1", sub)]
                .map(|(name, milli)| (key(name), PodUsage { timestamp: timestamp.into(), used: cpu(milli) }))
                .into(),
            traffic: Traffic::new(),
            at: start,
        };
        let none = Measurement::default();
        assert_eq!(is_session_used(&pods, &none, &usage("1", 0, 0)), Some(false));
        assert_eq!(is_session_used(&pods, &none, &usage("1", 0, 900)), Some(true), "one kernel works");
        assert_eq!(is_session_used(&pods, &usage("1", 0, 0), &usage("1", 0, 0)), None, "nothing was measured since");
        let mut partial = usage("2", 0, 0);
        partial.usage.remove(&key("sub1"));
        assert_eq!(is_session_used(&pods, &none, &partial), None);
        assert_eq!(is_session_used(&[], &none, &partial), None);

        let after = |seconds, bytes| Measurement {
            traffic: [(key("sub1"), bytes)].into(),
            at: start + std::time::Duration::from_secs(seconds),
            ..usage("1", 0, 0)
        };
        assert_eq!(is_session_used(&pods, &after(0, 5), &after(60, 1_000_005)), Some(true), "one kernel downloads");
        assert_eq!(is_session_used(&pods, &after(0, 5), &after(60, 1000)), None, "a little traffic says nothing");
        assert_eq!(is_session_used(&pods, &usage("1", 0, 0), &after(60, 1_000_000)), None, "the rate is not known yet");
    }

    #[test]
    fn the_answer_of_the_metrics_api_is_read() {
        let answer = serde_json::json!({"kind": "PodMetricsList", "items": [{
            "metadata": {"name": "s-main1", "namespace": "ns", "labels": {}}, "timestamp": "2026-01-01T00:00:00Z", "window": "15s",
            "containers": [{"name": "main", "usage": {"cpu": "12345678n", "memory": "10Mi"}}],
        }]});
        let list: PodMetricsList = serde_json::from_value(answer).expect("a list");
        let used = amounts(&list.items[0].containers[0].usage);
        assert_eq!(used.get("cpu"), Amount::from_milli(13));
    }
}
