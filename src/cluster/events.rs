//! Sends Events in the background from a bounded queue. Events that do not fit are dropped and counted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event as ApiEvent;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Resource, ResourceExt};
use tokio::sync::mpsc;

use super::write::Writer;
use crate::api::{ANNOTATION_CREATION_ID, Reason};
use crate::coordinator::host::{Event, EventReason};
use crate::lifecycle::{Phase, Subject, Timing, truncate};
use crate::metrics::Metrics;

/// The largest number of queued Events.
const QUEUE: usize = 20_000;
/// The sender slows down when more Events than this are queued and new ones arrive.
const BUSY: usize = 50;
/// The largest creation id in an Event, in bytes. Admission refuses longer ones.
const MAX_CREATION_ID: usize = 128;
/// The largest note that the API server accepts, in bytes.
const MAX_NOTE: usize = 1000;

/// An Event on an object of any kind, ready to be sent.
struct Queued {
    regarding: ObjectReference,
    annotations: BTreeMap<String, String>,
    action: &'static str,
    warning: bool,
    reason: &'static str,
    note: String,
}

/// The entry of the queue.
#[derive(Clone)]
pub struct Events {
    queue: mpsc::Sender<Queued>,
    metrics: Metrics,
}

impl Events {
    /// Returns the entry of the queue, and the task that sends. The task ends with the last copy of the entry.
    pub fn new(writer: Writer, identity: String, timing: Arc<Timing>) -> (Self, impl Future<Output = ()>) {
        let (queue, queued) = mpsc::channel(QUEUE);
        let events = Self { queue, metrics: writer.metrics.clone() };
        (events, send_all(writer, identity, timing, queued))
    }

    /// Queues an Event. One that does not fit is dropped and counted.
    pub fn send<S: Subject>(&self, event: Event<S>) {
        if self.queue.try_send(queued(event)).is_err() {
            self.metrics.dropped_event();
        }
    }
}

/// Sends slowly enough that Events never delay the work, and faster while there is little work.
async fn send_all(writer: Writer, identity: String, timing: Arc<Timing>, mut queue: mpsc::Receiver<Queued>) {
    let mut number = 0u64;
    let mut last_arrival = Instant::now();
    while let Some(queued) = queue.recv().await {
        number += 1;
        let before = queue.len();
        let namespace = queued.regarding.namespace.clone().unwrap_or_default();
        let event = api_event(queued, &identity, number);
        let api: Api<ApiEvent> = Api::namespaced(writer.client.clone(), &namespace);
        if let Err(error) = writer.write("event", api.create(&PostParams::default(), &event)).await {
            tracing::debug!(name = %event.name_any(), %namespace, "an Event was not sent: {error}");
        }
        // Events that arrive while this one is sent show that the operator is busy.
        if queue.len() > before {
            last_arrival = Instant::now();
        }
        let is_busy = queue.len() > BUSY && last_arrival.elapsed() < timing.busy_over;
        tokio::time::sleep(if is_busy { timing.busy_pace } else { timing.event_pace }).await;
        if queue.len() > before {
            last_arrival = Instant::now();
        }
    }
}

fn queued<S: Subject>(event: Event<S>) -> Queued {
    let meta = event.object.meta();
    let uid = meta.uid.clone().unwrap_or_default();
    let mut creation_id = event.object.annotations().get(ANNOTATION_CREATION_ID).cloned().unwrap_or_default();
    truncate(&mut creation_id, MAX_CREATION_ID);
    let mut note = event.note();
    truncate(&mut note, MAX_NOTE);
    let annotations = [
        ("sokovan.dev/from", event.from.as_str().to_owned()),
        ("sokovan.dev/to", event.to().as_str().to_owned()),
        (ANNOTATION_CREATION_ID, if creation_id.is_empty() { uid.clone() } else { creation_id }),
    ];
    Queued {
        regarding: ObjectReference {
            api_version: Some(S::Object::api_version(&()).into()),
            kind: Some(S::Object::kind(&()).into()),
            name: meta.name.clone(),
            namespace: meta.namespace.clone(),
            uid: Some(uid),
            ..ObjectReference::default()
        },
        annotations: annotations.map(|(name, value)| (name.to_owned(), value)).into(),
        action: event.action,
        warning: event.warning,
        reason: match event.reason {
            EventReason::Reason(reason) => Reason::as_str(reason),
            EventReason::Reached(phase) => phase.as_str(),
        },
        note,
    }
}

fn api_event(queued: Queued, identity: &str, number: u64) -> ApiEvent {
    let now = Timestamp::now();
    let name = format!("{}.{:x}{number:x}", queued.regarding.name.as_deref().unwrap_or_default(), now.as_microsecond());
    ApiEvent {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: queued.regarding.namespace.clone(),
            annotations: Some(queued.annotations),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(now)),
        action: Some(queued.action.into()),
        reason: Some(queued.reason.into()),
        note: Some(queued.note),
        type_: Some(if queued.warning { "Warning" } else { "Normal" }.into()),
        reporting_controller: Some("sokovan.dev/operator".into()),
        reporting_instance: Some(identity.into()),
        regarding: Some(queued.regarding),
        ..ApiEvent::default()
    }
}
