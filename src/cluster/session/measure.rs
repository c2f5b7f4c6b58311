//! Measures the use of sessions with an idle timeout, by the metrics of their pods (`metrics.k8s.io`). Without such sessions it reads
//! nothing.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{TimeDelta, Utc};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::Client;
use serde::Deserialize;

use crate::api::{LABEL_SESSION_UID, Resources, SessionPhase, SessionUid};
use crate::cluster::store::state::State;
use crate::cluster::store::table::Key;
use crate::cluster::store::world::World;
use crate::session::handlers::HandlerName;
use crate::session::idle::{Usage, is_used, limit};
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

/// A session to measure: its pods with what they request.
struct Measured {
    uid: SessionUid,
    pods: Vec<(Key, Resources)>,
}

/// Measures until the program ends.
pub async fn measure(client: Client, world: Arc<World>) {
    let mut known = HashMap::new();
    loop {
        tokio::time::sleep(world.timing.measuring).await;
        let sessions = world.lock().measured();
        if sessions.is_empty() {
            known.clear();
            continue;
        }
        match tokio::time::timeout(world.timing.request, read(&client)).await {
            Ok(Ok(read)) => {
                world.set_usage(&sessions, &known, &read);
                known = read;
            }
            Ok(Err(error)) => tracing::debug!("the use of sessions cannot be measured: {error}"),
            Err(_) => tracing::debug!("the use of sessions was not measured before the timeout"),
        }
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

/// Whether a session is used. None if not all its pods have a measurement that is newer than the last.
fn is_session_used(pods: &[(Key, Resources)], before: &HashMap<Key, PodUsage>, now: &HashMap<Key, PodUsage>) -> Option<bool> {
    let mut used = false;
    for (key, requested) in pods {
        let usage = now.get(key).filter(|usage| before.get(key).is_none_or(|before| before.timestamp != usage.timestamp))?;
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
            let pods = pods.filter(|(_, pod)| pod.bound && pod.is_live());
            Measured { uid: uid.clone(), pods: pods.map(|(key, pod)| (key.clone(), pod.requests.clone())).collect() }
        };
        limited.map(measured).collect()
    }
}

impl World {
    fn set_usage(&self, sessions: &[Measured], before: &HashMap<Key, PodUsage>, read: &HashMap<Key, PodUsage>) {
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
        let usage = |timestamp: &str, main: i64, sub: i64| -> HashMap<Key, PodUsage> {
            [("main1", main), ("sub1", sub)]
                .map(|(name, milli)| (key(name), PodUsage { timestamp: timestamp.into(), used: cpu(milli) }))
                .into()
        };
        let none = HashMap::new();
        assert_eq!(is_session_used(&pods, &none, &usage("1", 0, 0)), Some(false));
        assert_eq!(is_session_used(&pods, &none, &usage("1", 0, 900)), Some(true), "one kernel works");
        assert_eq!(is_session_used(&pods, &usage("1", 0, 0), &usage("1", 0, 0)), None, "nothing was measured since");
        let mut partial = usage("2", 0, 0);
        partial.remove(&key("sub1"));
        assert_eq!(is_session_used(&pods, &none, &partial), None);
        assert_eq!(is_session_used(&[], &none, &partial), None);
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
