//! Extracts the fields of pods, nodes and namespaces that decisions need.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};
use k8s_openapi::api::core::v1::{ContainerStatus, Namespace, Node, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};

use super::requests::{amounts, requests};
use crate::api::{
    ANNOTATION_GATE, ANNOTATION_GATE_REMINDED, CONTAINER_GATE, CONTAINER_GATE_COPY, CONTAINER_MAIN, FINALIZER_POD, GATE_OPEN,
    GroupName, LABEL_GENERATION, LABEL_GROUP, LABEL_KERNEL, LABEL_PROJECT, LABEL_SESSION_UID, LABEL_TRAFFIC, NodeName,
    ProjectName, SessionUid, TRAFFIC_ON,
};
use crate::views::ClaimKey;
use crate::views::{Disruption, GateState, Images, MainState, NodeView, PodView, Taint};
use crate::views::{ForeignPod, Lifetime};

/// The view of a pod that is stored.
pub enum Extracted {
    /// A pod of a session.
    Ours(Box<PodView>),
    /// A foreign pod on a node.
    Foreign(ForeignPod),
    /// A foreign pod that is on no node or has ended. It is not stored.
    Nothing,
}

pub fn time(time: Option<&Time>) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_millis(time?.0.as_millisecond())
}

/// Returns the resource version as a number, or 0 if it is not numeric.
pub fn version(text: Option<&String>) -> u64 {
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

pub fn pod(pod: &Pod) -> Extracted {
    let labels = pod.metadata.labels.as_ref();
    let Some(uid) = labels.and_then(|labels| labels.get(LABEL_SESSION_UID)).filter(|_| is_of_a_session(pod)) else {
        return foreign(pod);
    };
    let label = |name: &str| labels.and_then(|labels| labels.get(name)).cloned().unwrap_or_default();
    let empty = Default::default();
    let status = pod.status.as_ref().unwrap_or(&empty);
    let main = status.container_statuses.iter().flatten().find(|status| status.name == CONTAINER_MAIN);
    let copy = status.init_container_statuses.iter().flatten().find(|status| status.name == CONTAINER_GATE_COPY);
    let gate = status.init_container_statuses.iter().flatten().find(|status| status.name == CONTAINER_GATE);
    let spec = pod.spec.as_ref();
    let has_gate = spec.iter().flat_map(|spec| spec.init_containers.iter().flatten()).any(|c| c.name == CONTAINER_GATE);
    let annotation = |name: &str| pod.metadata.annotations.as_ref().and_then(|annotations| annotations.get(name));
    let bound = spec.and_then(|spec| spec.node_name.clone());
    Extracted::Ours(Box::new(PodView {
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        name: pod.metadata.name.clone().unwrap_or_default(),
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        session_uid: SessionUid(uid.clone()),
        owner_uid: pod.metadata.owner_references.iter().flatten().find(|o| o.controller == Some(true)).map(|o| o.uid.clone()),
        group: GroupName(label(LABEL_GROUP)),
        kernel: label(LABEL_KERNEL),
        generation: label(LABEL_GENERATION).parse().unwrap_or(0),
        bound: bound.is_some(),
        node: bound.or_else(|| spec.and_then(pinned_to)).map(NodeName),
        requests: requests(pod),
        claims: claims(pod),
        warning: None,
        deleting: pod.metadata.deletion_timestamp.is_some(),
        deletion_requested_at: deletion_requested_at(pod),
        // The deletion is the last change of a generation.
        reported_before_deletion: pod.metadata.deletion_timestamp.is_some()
            && status.observed_generation.zip(pod.metadata.generation).is_some_and(|(observed, last)| observed < last),
        disruption: condition(pod, "DisruptionTarget")
            .filter(|c| c.status == "True")
            .map(|c| Disruption { reason: c.reason.clone().unwrap_or_default(), message: c.message.clone().unwrap_or_default() }),
        other_finalizers: pod.metadata.finalizers.iter().flatten().filter(|name| *name != FINALIZER_POD).cloned().collect(),
        grace: pod.metadata.deletion_grace_period_seconds,
        held: pod.metadata.finalizers.iter().flatten().any(|name| name == FINALIZER_POD),
        gate: has_gate.then(|| gate.map_or(GateState::Waiting, gate_state)),
        gate_opened: annotation(ANNOTATION_GATE).is_some_and(|value| value == GATE_OPEN),
        gate_reminded_at: annotation(ANNOTATION_GATE_REMINDED)
            .and_then(|time| Some(DateTime::parse_from_rfc3339(time).ok()?.to_utc())),
        main: main.map(main_state).unwrap_or_default(),
        ready_to_start: condition(pod, "PodReadyToStartContainers").is_some_and(|c| c.status == "True"),
        ended: has_ended(pod),
        has_sidecar: status.container_statuses.iter().flatten().any(|status| status.name != CONTAINER_MAIN && is_running(status)),
        unschedulable: condition(pod, "PodScheduled")
            .filter(|c| c.status == "False" && c.reason.as_deref() == Some("Unschedulable"))
            .and_then(|c| Some((time(c.last_transition_time.as_ref())?, c.message.clone().unwrap_or_default()))),
        image_error: [copy, gate, main].into_iter().flatten().find_map(image_error),
        image_error_since: None,
        ip: status.pod_ip.clone(),
        containers_ready: condition(pod, "ContainersReady").is_some_and(|c| c.status == "True"),
        ready_since: condition(pod, "Ready").filter(|c| c.status == "True").and_then(|c| time(c.last_transition_time.as_ref())),
        traffic: labels.and_then(|labels| labels.get(LABEL_TRAFFIC)).map(|traffic| traffic == TRAFFIC_ON),
        created_at: time(pod.metadata.creation_timestamp.as_ref()),
        reason: status.reason.clone(),
        message: status.message.clone(),
        resource_version: version(pod.metadata.resource_version.as_ref()),
    }))
}

/// Returns when the deletion was requested. The deletion timestamp is the end of the grace period.
fn deletion_requested_at(pod: &Pod) -> Option<DateTime<Utc>> {
    let due = time(pod.metadata.deletion_timestamp.as_ref())?;
    Some(due - chrono::TimeDelta::seconds(pod.metadata.deletion_grace_period_seconds.unwrap_or(0)))
}

/// Whether a session or, from an older version, a kernel owns the pod, or the pod has our finalizer. A label alone does not
/// make a pod ours.
fn is_of_a_session(pod: &Pod) -> bool {
    let owners = pod.metadata.owner_references.iter().flatten();
    let is_owner = |owner: &OwnerReference| {
        owner.controller == Some(true)
            && matches!(owner.kind.as_str(), "Session" | "Kernel")
            && owner.api_version.starts_with("sokovan.dev/")
    };
    owners.into_iter().any(is_owner) || pod.metadata.finalizers.iter().flatten().any(|name| name == FINALIZER_POD)
}

fn foreign(pod: &Pod) -> Extracted {
    let spec = pod.spec.as_ref();
    match spec.and_then(|spec| spec.node_name.clone()) {
        Some(node) if !has_ended(pod) => Extracted::Foreign(ForeignPod {
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            node: NodeName(node),
            requests: requests(pod),
            claims: claims(pod),
            claimed_lifetime: lifetime(pod),
            lifetime: lifetime(pod),
        }),
        _ => Extracted::Nothing,
    }
}

/// Returns the volume claims that a pod mounts.
fn claims(pod: &Pod) -> BTreeSet<ClaimKey> {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let names = volumes.filter_map(|volume| Some(volume.persistent_volume_claim.as_ref()?.claim_name.clone()));
    names.map(|name| ClaimKey { namespace: namespace.clone(), name }).collect()
}

fn lifetime(pod: &Pod) -> Lifetime {
    let mut owners = pod.metadata.owner_references.iter().flatten().filter(|owner| owner.controller == Some(true));
    if !owners.any(|owner| matches!((owner.api_version.as_str(), owner.kind.as_str()), ("apps/v1", "DaemonSet") | ("v1", "Node")))
    {
        return Lifetime::Transient;
    }
    // While such a pod is replaced, there may be two of them for a while.
    let ready = condition(pod, "Ready").is_some_and(|condition| condition.status == "True");
    if ready && pod.metadata.deletion_timestamp.is_none() { Lifetime::Permanent } else { Lifetime::NodeBound }
}

fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a k8s_openapi::api::core::v1::PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == type_)
}

/// Returns the node to which the operator's affinity pins a pod.
fn pinned_to(spec: &PodSpec) -> Option<String> {
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    let field = terms.first()?.match_fields.as_ref()?.iter().find(|field| field.key == "metadata.name")?;
    field.values.as_ref()?.first().cloned()
}

fn gate_state(status: &ContainerStatus) -> GateState {
    match status.state.as_ref() {
        Some(state) if state.running.is_some() => GateState::Running,
        Some(state) if state.terminated.as_ref().is_some_and(|end| end.exit_code == 0) => GateState::Passed,
        _ => GateState::Waiting,
    }
}

fn is_running(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|state| state.running.is_some())
}

fn main_state(status: &ContainerStatus) -> MainState {
    let Some(state) = status.state.as_ref() else { return MainState::Unknown };
    if let Some(running) = &state.running {
        return MainState::Running { since: time(running.started_at.as_ref()) };
    }
    if let Some(end) = &state.terminated {
        return MainState::Ended {
            exit_code: end.exit_code,
            reason: end.reason.clone().unwrap_or_default(),
            message: end.message.clone().unwrap_or_default(),
            started_at: time(end.started_at.as_ref()),
            finished_at: time(end.finished_at.as_ref()),
        };
    }
    let waiting = state.waiting.clone().unwrap_or_default();
    MainState::Waiting { reason: waiting.reason.unwrap_or_default(), message: waiting.message.unwrap_or_default() }
}

fn image_error(status: &ContainerStatus) -> Option<(String, String)> {
    const ERRORS: [&str; 5] = ["ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"];
    let waiting = status.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.clone().filter(|reason| ERRORS.contains(&reason.as_str()))?;
    Some((reason, waiting.message.clone().unwrap_or_default()))
}

/// Whether the pod has ended: its phase is Succeeded or Failed.
pub fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Returns when the node last reported its condition Ready, by the node's clock.
pub fn heartbeat(node: &Node) -> Option<DateTime<Utc>> {
    let conditions = node.status.as_ref()?.conditions.iter().flatten();
    time(conditions.into_iter().find(|condition| condition.type_ == "Ready")?.last_heartbeat_time.as_ref())
}

/// How long a new node takes to become ready for the first time.
const JOINING: TimeDelta = TimeDelta::minutes(5);

pub fn node(node: &Node) -> NodeView {
    let empty = Default::default();
    let status = node.status.as_ref().unwrap_or(&empty);
    let ready = status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready");
    let is_ready = ready.is_some_and(|condition| condition.status == "True");
    let created = time(node.metadata.creation_timestamp.as_ref());
    let since = time(ready.and_then(|condition| condition.last_transition_time.as_ref())).or(created);
    let labels = node.metadata.labels.clone().unwrap_or_default();
    let architecture = labels.get("kubernetes.io/arch").cloned();
    let info = status.node_info.as_ref().map(|info| info.architecture.clone());
    NodeView {
        name: NodeName(node.metadata.name.clone().unwrap_or_default()),
        allocatable: amounts(status.allocatable.iter().flatten()),
        architecture: architecture.or(info).unwrap_or_default(),
        labels,
        taints: node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).map(taint).collect(),
        unschedulable: node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false),
        ready: is_ready,
        not_ready_since: if is_ready { None } else { since },
        back_since: since.filter(|since| is_ready && created.is_some_and(|created| *since > created + JOINING)),
        stale: false,
        images: Images::reported(status.images.as_deref().unwrap_or_default()),
    }
}

fn taint(taint: &k8s_openapi::api::core::v1::Taint) -> Taint {
    Taint { key: taint.key.clone(), value: taint.value.clone().unwrap_or_default(), effect: taint.effect.clone() }
}

/// Returns the project that a namespace's label names.
pub fn project(namespace: Namespace) -> Option<ProjectName> {
    namespace.metadata.labels?.remove(LABEL_PROJECT).map(ProjectName)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_of_a_daemon_set_is_permanent_unless_it_is_being_replaced() {
        let lifetime_of = |kind: &str, ready: &str, deleted: Option<&str>| {
            let api_version = if kind == "Node" { "v1" } else { "apps/v1" };
            let owner = json!([{"apiVersion": api_version, "kind": kind, "name": "d", "uid": "u", "controller": true}]);
            let found: Pod = serde_json::from_value(json!({
                "metadata": {"name": "p", "ownerReferences": owner, "deletionTimestamp": deleted},
                "spec": {"nodeName": "n", "containers": [{"name": "c"}]},
                "status": {"conditions": [{"type": "Ready", "status": ready}]}
            }))
            .expect("a pod");
            let Extracted::Foreign(found) = pod(&found) else { panic!("foreign") };
            found.lifetime
        };
        assert_eq!(lifetime_of("DaemonSet", "True", None), Lifetime::Permanent);
        assert_eq!(lifetime_of("Node", "True", None), Lifetime::Permanent);
        assert_eq!(lifetime_of("DaemonSet", "False", None), Lifetime::NodeBound, "it is not ready yet");
        let deleted = Some("2026-01-01T00:00:00Z");
        assert_eq!(lifetime_of("DaemonSet", "True", deleted), Lifetime::NodeBound, "it is being deleted");
        assert_eq!(lifetime_of("Job", "True", None), Lifetime::Transient);
    }

    #[test]
    fn an_exited_main_container_is_the_end_once_the_pod_has_ended_or_while_another_container_runs() {
        let exited = json!({"name": "main", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                            "state": {"terminated": {"exitCode": 3}}});
        let beside = json!({"name": "log-shipper", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                            "state": {"running": {}}});
        let ended = |phase: &str, containers: &[&serde_json::Value]| {
            let labels = json!({LABEL_SESSION_UID: "u"});
            let ours = [FINALIZER_POD];
            let status = json!({"phase": phase, "containerStatuses": containers});
            let parsed = serde_json::from_value(
                json!({"metadata": {"name": "p", "labels": labels, "finalizers": ours}, "status": status}),
            );
            let Extracted::Ours(view) = pod(&parsed.expect("a pod")) else { panic!("ours") };
            view.main_end().is_some()
        };
        assert!(!ended("Running", &[&exited]), "the kubelet reports the pod's end a little later");
        assert!(ended("Failed", &[&exited]));
        assert!(ended("Running", &[&exited, &beside]));
    }
}
