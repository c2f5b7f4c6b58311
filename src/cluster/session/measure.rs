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

/// The measurements of all pods at one time.
struct Measurement {
    usage: HashMap<Key, PodUsage>,
    /// None if kubelets are not asked.
    traffic: Option<Traffic>,
    at: Instant,
}

impl Default for Measurement {
    fn default() -> Self {
        Self { usage: HashMap::new(), traffic: None, at: Instant::now() }
    }
}

/// A session to measure.
struct Measured {
    uid: SessionUid,
    pods: Vec<MeasuredPod>,
}

struct MeasuredPod {
    key: Key,
    requested: Resources,
    node: Option<NodeName>,
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
        let read = tokio::time::timeout(world.timing.request, read(&client)).await;
        let usage = match read.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer before the timeout"))) {
            Ok(usage) => usage,
            Err(error) => {
                tracing::debug!("the use of sessions cannot be measured: {error}");
                continue;
            }
        };
        let pods = sessions.iter().flat_map(|session| &session.pods);
        let nodes: BTreeSet<NodeName> = pods.filter_map(|pod| pod.node.clone()).collect();
        let traffic = match &mut kubelets {
            Some(kubelets) => Some(kubelets.read(nodes).await),
            None => None,
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

/// Whether a session is used. None if no pod shows that it is, and not all pods have a measurement that is newer than the last.
fn is_session_used(pods: &[MeasuredPod], before: &Measurement, now: &Measurement) -> Option<bool> {
    let used: Vec<Option<bool>> = pods.iter().map(|pod| is_pod_used(pod, before, now)).collect();
    match used.contains(&Some(true)) {
        true => Some(true),
        false => (!pods.is_empty() && !used.contains(&None)).then_some(false),
    }
}

fn is_pod_used(pod: &MeasuredPod, before: &Measurement, now: &Measurement) -> Option<bool> {
    let is_new = |usage: &&PodUsage| before.usage.get(&pod.key).is_none_or(|before| before.timestamp != usage.timestamp);
    let computes = now.usage.get(&pod.key).filter(is_new).map(|usage| is_used(&pod.requested, &usage.used));
    match [computes, transfers(pod, before, now)] {
        [Some(true), _] | [_, Some(true)] => Some(true),
        [Some(false), Some(false)] => Some(false),
        [None, _] | [_, None] => None,
    }
}

/// Whether a pod sends or receives much. None if its node did not answer twice.
fn transfers(pod: &MeasuredPod, before: &Measurement, now: &Measurement) -> Option<bool> {
    let Some(current) = &now.traffic else { return Some(false) };
    let last = before.traffic.as_ref()?;
    let node = pod.node.as_ref()?;
    if !current.answered.contains(node) || !last.answered.contains(node) {
        return None;
    }
    let bytes = |traffic: &Traffic| traffic.bytes.get(&pod.key).copied();
    let (Some(sent), Some(known)) = (bytes(current), bytes(last)) else {
        // A pod in its node's network has no traffic of its own. One that is new has no rate yet.
        return bytes(current).is_none().then_some(false);
    };
    Some(is_busy_with(sent.saturating_sub(known), now.at.saturating_duration_since(before.at)))
}

impl State {
    /// Returns the running sessions with an idle timeout.
    fn measured(&self) -> Vec<Measured> {
        let tenancy = self.tenancy();
        let running = self.index.in_phase(SessionPhase::Running).map(|(_, uid)| uid);
        let limited = running.filter(|uid| self.session(uid).is_some_and(|session| limit(&tenancy, session).is_some()));
        let measured = |uid: &SessionUid| {
            let pods = self.index.pods_of.of(uid).filter_map(|key| Some((key, self.our_pod(key)?)));
            let pods = pods.filter(|(_, pod)| pod.bound && pod.is_live());
            let pods = pods.map(|(key, pod)| {
                let (key, requested, node) = (key.clone(), pod.requests.clone(), pod.node.clone());
                MeasuredPod { key, requested, node }
            });
            Measured { uid: uid.clone(), pods: pods.collect() }
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
        let pod = |name: &str| MeasuredPod { key: key(name), requested: cpu(1000), node: Some("node-1".into()) };
        let pods = vec![pod("main1"), pod("sub1")];
        let start = Instant::now();
        let usage = |timestamp: &str, main: i64, sub: i64| Measurement {
            usage: [("main1", main), ("sub1", sub)]
                .map(|(name, milli)| (key(name), PodUsage { timestamp: timestamp.into(), used: cpu(milli) }))
                .into(),
            traffic: None,
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

        let with_traffic = |seconds, timestamp: &str, answered: &[&str], bytes: u64| Measurement {
            traffic: Some(Traffic {
                bytes: [(key("main1"), 7), (key("sub1"), bytes)].into(),
                answered: answered.iter().map(|node| (*node).into()).collect(),
            }),
            at: start + std::time::Duration::from_secs(seconds),
            ..usage(timestamp, 0, 0)
        };
        let first = with_traffic(0, "1", &["node-1"], 5);
        let after = |answered: &[&str], bytes| with_traffic(60, "2", answered, bytes);
        assert_eq!(is_session_used(&pods, &first, &after(&["node-1"], 1_000_005)), Some(true), "one kernel downloads");
        assert_eq!(is_session_used(&pods, &first, &after(&["node-1"], 1000)), Some(false), "a little traffic is no use");
        assert_eq!(is_session_used(&pods, &usage("1", 0, 0), &after(&["node-1"], 0)), None, "the rate is not known yet");
        assert_eq!(is_session_used(&pods, &first, &after(&[], 5)), None, "a kubelet that does not answer ends nobody");
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
