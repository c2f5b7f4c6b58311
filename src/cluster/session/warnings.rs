//! Reads the kubelet's Warning Events of pods that make no progress. Only Events report a failing mount; no status does.
//! They are read for the few pods that stay silent for some seconds.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Event;
use kube::api::ListParams;
use kube::{Api, Client};

use crate::cluster::store::stores::PodRow;
use crate::cluster::store::world::World;
use crate::lifecycle::{printable, truncate};
use crate::views::{MainState, PodView};

/// The largest number of pods whose Events are read in one round.
const MAX_PODS: usize = 16;
/// The largest number of concurrent reads.
const CONCURRENCY: usize = 4;
/// The largest number of Events read of one pod.
const MAX_EVENTS: u32 = 50;
/// The largest message kept of one Event, in bytes.
const MAX_MESSAGE: usize = 400;

/// Reads the warnings of silent pods. Never returns.
pub async fn look(client: Client, world: Arc<World>) {
    let mut recently_read: HashMap<String, Instant> = HashMap::new();
    loop {
        tokio::time::sleep(world.timing.held_up).await;
        let interval = world.timing.warnings_again;
        recently_read.retain(|_, at| at.elapsed() < interval);
        let mut silent = world.silent_pods();
        silent.retain(|pod| !recently_read.contains_key(&pod.uid));
        silent.truncate(MAX_PODS);
        let now = Instant::now();
        recently_read.extend(silent.iter().map(|pod| (pod.uid.clone(), now)));
        let reads = silent.into_iter().map(|pod| read_warning(&client, &world, pod));
        futures::stream::iter(reads).for_each_concurrent(CONCURRENCY, |read| read).await;
    }
}

async fn read_warning(client: &Client, world: &World, pod: Arc<PodView>) {
    let events: Api<Event> = Api::namespaced(client.clone(), &pod.namespace);
    let params = ListParams::default().fields(&format!("involvedObject.uid={},type=Warning", pod.uid)).limit(MAX_EVENTS);
    match tokio::time::timeout(world.timing.request, events.list(&params)).await {
        Ok(Ok(list)) => world.set_warning(&pod, latest(list.items)),
        Ok(Err(error)) => {
            tracing::debug!(pod = %pod.name, namespace = %pod.namespace, "the pod's Events cannot be read: {error}")
        }
        Err(_) => {
            tracing::debug!(pod = %pod.name, namespace = %pod.namespace, "the pod's Events were not read before the timeout")
        }
    }
}

/// Returns the reason and the message of the latest Event.
fn latest(events: Vec<Event>) -> Option<(String, String)> {
    let time = |event: &Event| {
        let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref()).map(|time| time.0);
        let last = event.last_timestamp.as_ref().map(|time| time.0);
        series.or(last).or(event.event_time.as_ref().map(|time| time.0))
    };
    let event = events.into_iter().max_by_key(time)?;
    let mut message = printable(&event.message.unwrap_or_default());
    truncate(&mut message, MAX_MESSAGE);
    Some((event.reason.unwrap_or_default(), message))
}

/// Whether a pod has made no progress for longer than `limit`, and its status does not say why.
fn is_silent(pod: &PodView, limit: Duration) -> bool {
    let waits = match &pod.main {
        MainState::Unknown => true,
        MainState::Waiting { reason, .. } => matches!(reason.as_str(), "" | "ContainerCreating" | "PodInitializing"),
        MainState::Running { .. } | MainState::Ended { .. } => pod.deleting,
    };
    let since = if pod.deleting { pod.deletion_requested_at } else { pod.created_at };
    let limit = limit + Duration::from_secs(pod.grace.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(0));
    let is_late = since.is_none_or(|since| (Utc::now() - since).to_std().is_ok_and(|age| age > limit));
    // A pod with a sandbox has its volumes and its network, and the status of a container says why it waits.
    let is_stuck = pod.deleting || !pod.ready_to_start;
    pod.bound && !pod.ended && is_stuck && pod.image_error.is_none() && waits && is_late
}

impl World {
    fn silent_pods(&self) -> Vec<Arc<PodView>> {
        let limit = self.timing.held_up;
        let state = self.lock();
        let ours = state.stores.pods.values().filter_map(PodRow::ours);
        ours.filter(|pod| is_silent(pod, limit)).cloned().collect()
    }

    fn set_warning(&self, pod: &PodView, warning: Option<(String, String)>) {
        let key = (pod.namespace.clone(), pod.name.clone());
        let mut state = self.lock();
        let changed = state.our_pod(&key).filter(|current| current.uid == pod.uid && current.warning != warning);
        let Some(current) = changed else { return };
        let with_warning = PodView { warning, ..(**current).clone() };
        state.stores.pods.replace(&key, PodRow::Ours(Arc::new(with_warning)));
        drop(state);
        self.mark_related(&pod.session_uid);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_that_waits_for_too_long_without_a_reason_is_silent() {
        let old = Some(Utc::now() - chrono::TimeDelta::seconds(60));
        let limit = Duration::from_secs(5);
        let pod = PodView { bound: true, created_at: old, ..PodView::default() };
        let waiting = |reason: &str| MainState::Waiting { reason: reason.into(), message: String::new() };
        assert!(is_silent(&pod, limit));
        assert!(is_silent(&PodView { main: waiting("ContainerCreating"), ..pod.clone() }, limit));
        assert!(
            !is_silent(&PodView { main: waiting("CreateContainerConfigError"), ..pod.clone() }, limit),
            "its status says why"
        );
        assert!(!is_silent(&PodView { created_at: Some(Utc::now()), ..pod.clone() }, limit));
        assert!(!is_silent(&PodView { ready_to_start: true, ..pod.clone() }, limit), "it pulls its image or waits at its gate");
        let running = MainState::Running { since: None };
        assert!(!is_silent(&PodView { main: running.clone(), ..pod.clone() }, limit));
        let stuck = PodView { main: running, deleting: true, deletion_requested_at: old, grace: Some(30), ..pod };
        assert!(is_silent(&stuck, limit));
        assert!(!is_silent(&PodView { grace: Some(90), ..stuck }, limit), "within its grace period");
    }

    #[test]
    fn the_message_of_the_latest_event_is_one_line() {
        let event = |reason: &str, at: &str| -> Event {
            serde_json::from_value(json!({
                "metadata": {"name": reason}, "involvedObject": {}, "reason": reason, "message": "a\nb", "lastTimestamp": at,
            }))
            .expect("an Event")
        };
        let events = vec![event("FailedMount", "2026-01-01T00:02:00Z"), event("Other", "2026-01-01T00:01:00Z")];
        assert_eq!(latest(events), Some(("FailedMount".into(), "a b".into())));
        assert_eq!(latest(vec![]), None);
    }
}
