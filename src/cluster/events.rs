//! Events on sessions, sent behind the work: a bounded queue, a steady pace, and what does not fit is counted.

use std::sync::Arc;
use std::time::Instant;

use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::PostParams;
use kube::{Resource, ResourceExt};
use serde_json::json;
use tokio::sync::mpsc;

use super::write::Writer;
use crate::api::{ANNOTATION_CREATION_ID, Session, SessionPhase};
use crate::lifecycle::Timing;
use crate::metrics::Metrics;

/// Most events waiting to be sent.
const QUEUE: usize = 20_000;
/// So many waiting are a rush.
const BUSY: usize = 50;

/// Most bytes of a creation id in an Event; admission refuses longer ones.
const MAX_CREATION_ID: usize = 128;

/// What an event tells.
pub struct Told {
    pub session: Arc<Session>,
    pub action: &'static str,
    /// Whether it tells of something wrong.
    pub warning: bool,
    pub reason: String,
    pub note: String,
    pub from: SessionPhase,
    pub to: SessionPhase,
}

/// Takes events for sending.
#[derive(Clone)]
pub struct Events {
    queue: mpsc::Sender<Told>,
    metrics: Metrics,
}

impl Events {
    /// The sender, and the task that sends. The task ends with the last sender.
    pub fn new(writer: Writer, identity: String, timing: Arc<Timing>) -> (Self, impl Future<Output = ()>) {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let events = Self { queue, metrics: writer.metrics.clone() };
        (events, send_all(writer, identity, timing, waiting))
    }

    /// Queues a batch; what finds no room is dropped and counted.
    pub fn send(&self, batch: Vec<Told>) {
        for told in batch {
            if self.queue.try_send(told).is_err() {
                self.metrics.dropped_event();
            }
        }
    }
}

/// At a pace at which they never slow the work they tell of: faster while little is going on.
async fn send_all(writer: Writer, identity: String, timing: Arc<Timing>, mut waiting: mpsc::Receiver<Told>) {
    let mut number = 0u64;
    let mut last_came = Instant::now();
    while let Some(told) = waiting.recv().await {
        number += 1;
        let came = waiting.len();
        match event(&told, &identity, number) {
            Err(error) => tracing::warn!("an event could not be built: {error}"),
            Ok(event) => {
                let namespace = told.session.namespace().unwrap_or_default();
                let api: Api<Event> = Api::namespaced(writer.client.clone(), &namespace);
                if let Err(error) = writer.write("event", api.create(&PostParams::default(), &event)).await {
                    tracing::debug!(session = %told.session.name_any(), "an event was not sent: {error}");
                }
            }
        }
        // What came while this one was sent tells whether a rush is on.
        if waiting.len() > came {
            last_came = Instant::now();
        }
        let busy = waiting.len() > BUSY && last_came.elapsed() < timing.busy_over;
        tokio::time::sleep(if busy { timing.busy_pace } else { timing.event_pace }).await;
        if waiting.len() > came {
            last_came = Instant::now();
        }
    }
}

fn event(told: &Told, identity: &str, number: u64) -> serde_json::Result<Event> {
    let session = &told.session;
    let warning = told.warning;
    let mut note = told.note.clone();
    crate::lifecycle::truncate(&mut note, 1000);
    let mut creation_id = session.annotations().get(ANNOTATION_CREATION_ID).cloned().unwrap_or_default();
    crate::lifecycle::truncate(&mut creation_id, MAX_CREATION_ID);
    let now = chrono::Utc::now();
    let uid = session.metadata.uid.clone().unwrap_or_default();
    serde_json::from_value(json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event",
        "metadata": {
            "name": format!("{}.{:x}{number:x}", session.name_any(), now.timestamp_micros()),
            "namespace": session.namespace(),
            "annotations": {
                "sokovan.dev/from": told.from.as_str(), "sokovan.dev/to": told.to.as_str(),
                ANNOTATION_CREATION_ID: if creation_id.is_empty() { &uid } else { &creation_id },
            },
        },
        "eventTime": now.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string(),
        "action": told.action, "reason": told.reason, "note": note,
        "type": if warning { "Warning" } else { "Normal" },
        "reportingController": "sokovan.dev/operator", "reportingInstance": identity,
        "regarding": {
            "apiVersion": Session::api_version(&()), "kind": Session::kind(&()),
            "name": session.name_any(), "namespace": session.namespace(), "uid": uid,
        },
    }))
}
