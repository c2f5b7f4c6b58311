//! A session's kernels: their names, and the state of each, computed from its allocation, its pod and its recorded end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::ends::{EndCause, end_of, own_deletion};
use super::kernel_state::step_to;
use crate::api::{Kernel, KernelPhase, MAIN_HOSTNAME, NodeName, Reason, Session, SessionPhase, short_hash};
use crate::views::{GateState, Liveness, MainState, PodView};

/// Returns the name of a kernel and its pod. It is never used again, because it carries a hash of session and allocation.
pub fn kernel_name(session: &str, uid: &str, hostname: &str, generation: i64) -> String {
    format!("{session}-{hostname}-{}", short_hash(&format!("{uid}/{generation}")))
}

/// Returns the name of the Service through which a session's kernels resolve each other's names.
pub fn service_name(session: &str) -> String {
    format!("ses-{session}")
}

/// Returns the name of the Secret with a session's SSH key pair.
/// Changes with the files of the Secret. A pod of a newer operator finds no file that an older one did not write.
const SSH_FILES: u32 = 2;

pub fn ssh_secret_name(session: &str, uid: &str) -> String {
    format!("ses-{session}-ssh-{}", short_hash(&format!("{uid}/{SSH_FILES}")))
}

/// A kernel as seen in one snapshot.
#[derive(Clone, Debug)]
pub struct KernelItem {
    /// Role and index.
    pub hostname: String,
    pub node: Option<NodeName>,
    pub liveness: Liveness,
    pub state: KernelState,
    pub pod: Option<Arc<PodView>>,
    pub record: Option<Arc<Kernel>>,
}

impl KernelItem {
    pub fn phase(&self) -> KernelPhase {
        self.state.phase
    }

    /// Whether it has ended or is ending.
    pub fn is_ending(&self) -> bool {
        self.phase().is_terminal() || self.phase() == KernelPhase::Terminating
    }

    /// Whether its record has an end.
    pub fn has_recorded_end(&self) -> bool {
        self.record.as_ref().is_some_and(|record| record.recorded_end().is_some())
    }

    /// Whether its container is known to have started.
    pub fn has_started(&self) -> bool {
        let recorded = self.record.as_ref().and_then(|record| record.status.as_ref()).is_some_and(|s| s.started_at.is_some());
        recorded || self.phase() == KernelPhase::Running || self.pod.as_ref().is_some_and(|pod| pod.has_started())
    }

    pub fn is_main(&self) -> bool {
        self.hostname == MAIN_HOSTNAME
    }

    /// Returns its state for messages: `sub2 on node-1 is Pulling (ImagePullFailed): no such image`.
    pub fn describe(&self) -> String {
        let mut text = self.hostname.clone();
        if let Some(node) = &self.node {
            text.push_str(&format!(" on {node}"));
        }
        text.push_str(&format!(" is {}", self.state.phase));
        if let Some(reason) = &self.state.reason {
            text.push_str(&format!(" ({reason})"));
        }
        if let Some(message) = self.state.message.as_deref().filter(|message| !message.is_empty()) {
            text.push_str(&format!(": {message}"));
        }
        text
    }
}

/// Returns the states of several kernels for messages.
pub fn describe_all<'k>(kernels: impl IntoIterator<Item = &'k KernelItem>) -> String {
    kernels.into_iter().map(KernelItem::describe).collect::<Vec<_>>().join("; ")
}

/// A kernel's phase, and why it is in it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KernelState {
    pub phase: KernelPhase,
    pub reason: Option<String>,
    pub message: Option<String>,
    pub exit_code: Option<i32>,
    /// Set while its image pull fails and is retried: the time at which the pull is given up.
    pub pull_retried_until: Option<DateTime<Utc>>,
}

impl KernelState {
    fn of(phase: KernelPhase) -> Self {
        Self { phase, ..Self::default() }
    }

    /// Returns the cause of its end, if known. Records of older versions have the container's own reason and an exit code.
    pub fn end_cause(&self) -> Option<EndCause> {
        let recorded = self.reason.as_deref().and_then(EndCause::parse);
        recorded.or(self.exit_code.map(|_| EndCause::ExitCode))
    }

    fn because(phase: KernelPhase, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { phase, reason: Some(reason.into()), message: Some(message.into()), ..Self::default() }
    }
}

/// The input from which a kernel's state is computed.
pub struct Evidence<'a> {
    pub session: &'a Session,
    pub allocated: bool,
    pub pod: Option<&'a PodView>,
    pub record: Option<&'a Kernel>,
    /// How long an image pull may fail before it is given up.
    pub image_timeout: Duration,
    pub now: DateTime<Utc>,
}

/// Returns a kernel's state: from its recorded end, otherwise from its pod, otherwise from its session's phase.
pub fn state_of(evidence: &Evidence<'_>) -> KernelState {
    if let Some(status) = evidence.record.and_then(Kernel::recorded_end) {
        return KernelState {
            phase: status.phase,
            reason: status.reason.clone(),
            message: status.message.clone(),
            exit_code: status.exit_code,
            pull_retried_until: None,
        };
    }
    // The kernel's node stopped answering, so the kernel is ending, whatever its pod last reported.
    if let Some(status) = evidence.record.and_then(|kernel| kernel.status.as_ref())
        && status.phase == KernelPhase::Terminating
        && evidence.pod.is_some_and(|pod| !pod.ended)
    {
        let (reason, message) = (status.reason.clone(), status.message.clone());
        return KernelState { reason, message, ..KernelState::of(KernelPhase::Terminating) };
    }
    match evidence.pod {
        Some(pod) => {
            let recorded = evidence.record.and_then(|kernel| kernel.status.as_ref()).map(|status| status.phase);
            let observed = state_by_pod(pod, Some(evidence.session), evidence.image_timeout, evidence.now);
            // An observation of the pod that is behind the kernel's record is out of date.
            match recorded {
                Some(recorded) if step_to(recorded, observed.phase) != observed.phase => KernelState::of(recorded),
                _ => observed,
            }
        }
        None if !evidence.allocated => KernelState::of(KernelPhase::Pending),
        None if evidence.session.phase() == SessionPhase::Scheduled => KernelState::of(KernelPhase::Scheduled),
        None => KernelState::because(KernelPhase::Terminated, Reason::PodGone.as_str(), "its pod is gone"),
    }
}

/// Returns a kernel's state from its pod alone.
pub fn state_by_pod(pod: &PodView, session: Option<&Session>, image_timeout: Duration, now: DateTime<Utc>) -> KernelState {
    if let Some(end) = end_of(pod) {
        let ended = pod.ended || pod.main_end().is_some();
        let phase = if ended { KernelPhase::Terminated } else { KernelPhase::Terminating };
        let own = session.and_then(own_deletion).filter(|_| end.cause == EndCause::PodDeleted);
        let (reason, mut message) = own.unwrap_or_else(|| (end.cause.as_str().to_owned(), end.message));
        if let Some((reason, words)) = pod.warning.as_ref().filter(|_| !ended) {
            message = format!("{message}; {reason}: {words}");
        }
        return KernelState { exit_code: end.exit_code.filter(|_| ended), ..KernelState::because(phase, reason, message) };
    }
    if matches!(pod.main, MainState::Running { .. } | MainState::Ended { .. }) {
        return KernelState::of(KernelPhase::Running);
    }
    if let Some((reason, message)) = &pod.image_error {
        return state_by_image_error(pod, reason, message, image_timeout, now);
    }
    let phase = match pod.gate {
        Some(GateState::Running) if !pod.gate_opened => KernelPhase::Prepared,
        Some(GateState::Running | GateState::Passed) => KernelPhase::Creating,
        _ if pod.ready_to_start => KernelPhase::Pulling,
        _ => KernelPhase::Preparing,
    };
    match &pod.main {
        // For example CreateContainerConfigError, when a Secret does not exist.
        MainState::Waiting { reason, message } if !STARTING.contains(&reason.as_str()) => {
            KernelState::because(phase, reason, message)
        }
        _ => match pod.warning.as_ref().filter(|_| phase == KernelPhase::Preparing) {
            Some((reason, message)) => KernelState::because(phase, reason, message),
            None => KernelState::of(phase),
        },
    }
}

/// The reasons of a waiting container that is about to start.
const STARTING: [&str; 3] = ["", "ContainerCreating", "PodInitializing"];

fn state_by_image_error(pod: &PodView, reason: &str, message: &str, timeout: Duration, now: DateTime<Utc>) -> KernelState {
    let is_final = matches!(reason, "InvalidImageName" | "ErrImageNeverPull");
    let until = pod.image_error_since.unwrap_or(now) + chrono::TimeDelta::from_std(timeout).unwrap_or_default();
    let words = format!("{reason}: {message}");
    if is_final || now >= until {
        return KernelState::because(KernelPhase::Cancelled, Reason::ImagePullFailed.as_str(), words);
    }
    KernelState {
        pull_retried_until: Some(until),
        ..KernelState::because(KernelPhase::Pulling, Reason::ImagePullFailed.as_str(), words)
    }
}

/// Returns the node of each allocated kernel, by the kernel's hostname.
pub fn allocated_nodes(session: &Session) -> BTreeMap<&str, &NodeName> {
    session
        .status
        .iter()
        .flat_map(|status| &status.allocation)
        .map(|allocation| (allocation.kernel.as_str(), &allocation.node))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::KernelStatus;
    use crate::api::{KernelTemplate, expand};

    fn template(role: &str, replicas: i32) -> KernelTemplate {
        serde_json::from_value(serde_json::json!({
            "role": role, "replicas": replicas, "image": "i", "resources": {"cpu": 1, "memory": "1Gi"}
        }))
        .expect("a template")
    }

    fn pod() -> PodView {
        PodView { created_at: Some(DateTime::UNIX_EPOCH), ..PodView::default() }
    }

    fn phase(pod: &PodView, seconds: i64) -> KernelPhase {
        state_by_pod(pod, None, Duration::from_secs(120), DateTime::UNIX_EPOCH + chrono::TimeDelta::seconds(seconds)).phase
    }

    #[test]
    fn main_comes_first_and_hostnames_are_role_and_index() {
        let kernels = [template("sub", 2), template("main", 1)];
        let slots = expand(&kernels);
        let names: Vec<_> = slots.iter().map(|slot| (slot.hostname.as_str(), slot.local_rank)).collect();
        assert_eq!(names, [("main1", 0), ("sub1", 1), ("sub2", 2)]);
    }

    #[test]
    fn kernel_names_differ_between_sessions_and_generations() {
        let name = kernel_name("s", "uid-1", "main1", 1);
        assert_ne!(name, kernel_name("s", "uid-1", "main1", 2));
        assert_ne!(name, kernel_name("s", "uid-2", "main1", 1));
        assert_eq!(name, kernel_name("s", "uid-1", "main1", 1));
        assert!(kernel_name(&"s".repeat(40), "u", "abcdefghijklmno12", 1).len() <= 63 + 4);
    }

    #[test]
    fn a_pod_maps_to_each_kernel_phase() {
        assert_eq!(phase(&pod(), 0), KernelPhase::Preparing);
        let pulling = PodView { ready_to_start: true, ..pod() };
        assert_eq!(phase(&pulling, 0), KernelPhase::Pulling);
        let gated = PodView { gate: Some(GateState::Running), ready_to_start: true, ..pod() };
        assert_eq!(phase(&gated, 0), KernelPhase::Prepared);
        assert_eq!(phase(&PodView { gate_opened: true, ..gated }, 0), KernelPhase::Creating);
        let main = MainState::Waiting { reason: "CreateContainerConfigError".into(), message: "no secret".into() };
        let state = state_by_pod(&PodView { main, ready_to_start: true, ..pod() }, None, Duration::ZERO, DateTime::UNIX_EPOCH);
        assert_eq!((state.phase, state.message.as_deref()), (KernelPhase::Pulling, Some("no secret")));
        let running = PodView { main: MainState::Running { since: None }, ..pod() };
        assert_eq!(phase(&running, 0), KernelPhase::Running);
        assert_eq!(phase(&PodView { deleting: true, ..running.clone() }, 0), KernelPhase::Terminating);
        let (reason, message) = (String::new(), String::new());
        let main = MainState::Ended { exit_code: 0, reason, message, started_at: None, finished_at: None };
        let exited = PodView { main, ..running.clone() };
        assert_eq!(phase(&exited, 0), KernelPhase::Running, "until the kubelet reports the end of the pod, too");
        assert_eq!(
            phase(&PodView { has_sidecar: true, ..exited }, 0),
            KernelPhase::Terminated,
            "a container besides the main one does not matter"
        );
        assert_eq!(phase(&PodView { ended: true, ..running }, 0), KernelPhase::Terminated);
    }

    #[test]
    fn image_errors_are_retried_until_the_timeout_and_invalid_names_are_given_up_at_once() {
        let failing = PodView {
            image_error: Some(("ErrImagePull".into(), "no".into())),
            image_error_since: Some(DateTime::UNIX_EPOCH),
            created_at: Some(DateTime::UNIX_EPOCH - chrono::TimeDelta::hours(1)),
            ..pod()
        };
        assert_eq!(phase(&failing, 119), KernelPhase::Pulling);
        assert_eq!(phase(&failing, 120), KernelPhase::Cancelled);
        let invalid = PodView { image_error: Some(("InvalidImageName".into(), "no".into())), ..pod() };
        assert_eq!(phase(&invalid, 0), KernelPhase::Cancelled);
    }

    #[test]
    fn a_recorded_end_outranks_the_pod() {
        let mut kernel = Kernel::new(
            "k",
            serde_json::from_value(serde_json::json!({
                "session": "s", "sessionUid": "u", "role": "main", "index": 1, "localRank": 0, "hostname": "main1",
                "allocationGeneration": 1, "scalingGroup": "g", "node": "n", "image": "i", "resources": {}
            }))
            .expect("a spec"),
        );
        kernel.status = Some(KernelStatus { phase: KernelPhase::Terminated, exit_code: Some(3), ..KernelStatus::default() });
        let running = PodView { main: MainState::Running { since: None }, ..pod() };
        let state = state_of(&Evidence {
            session: &crate::session::handlers::testing::session_in(SessionPhase::Running),
            allocated: true,
            pod: Some(&running),
            record: Some(&kernel),
            image_timeout: Duration::ZERO,
            now: DateTime::UNIX_EPOCH,
        });
        assert_eq!((state.phase, state.exit_code), (KernelPhase::Terminated, Some(3)));
    }
}
