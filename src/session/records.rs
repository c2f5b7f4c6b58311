//! Records the ends of kernels, releases ended pods and removes leftovers, independently of the session's phase. Each pod is
//! decided on its own, so that one pod never holds up another.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::effect::{Effect, PodRef};
use super::kernel_state::step_to;
use super::kernels::{KernelState, ssh_secret_name, state_by_pod};
use super::snapshot::Snapshot;
use crate::api::Reason;
use crate::api::{
    DesiredState, FINALIZER_SESSION, Kernel, KernelPhase, KernelStatus, LABEL_GENERATION, MAIN_HOSTNAME, NodeName, Session,
    SessionUid, TerminationMode,
};
use crate::lifecycle::truncate;
use crate::views::{Liveness, MainState, PodView};

/// The largest reason and message of a kernel, in bytes, as in its schema.
const MAX_REASON: usize = 128;
const MAX_MESSAGE: usize = 1024;

/// The objects of one session at the API server. The session itself may be gone.
pub struct Remains {
    pub uid: SessionUid,
    pub namespace: String,
    /// None when the session is gone.
    pub session: Option<Arc<Session>>,
    /// The metadata of a session that cannot be read and is being deleted.
    pub unreadable: Option<ObjectMeta>,
    pub kernels: Vec<Arc<Kernel>>,
    pub pods: Vec<Arc<PodView>>,
    pub liveness: HashMap<NodeName, Liveness>,
    pub snapshot: Snapshot,
}

/// How an allocation relates to its session, which decides whether its pods and kernels are kept.
enum AllocationState {
    /// The session holds this allocation.
    Current,
    /// The session has ended. Live pods are stopped; ended pods stay for their logs.
    Ended,
    /// The session is gone, has ended and is being deleted, or holds another allocation. Everything is removed.
    Leftover,
}

impl Remains {
    fn allocation_state(&self, hostname: &str, generation: i64) -> AllocationState {
        let Some(session) = &self.session else { return AllocationState::Leftover };
        let status = session.status.as_ref();
        let phase = session.phase();
        let is_last = status.is_some_and(|status| {
            status.allocation_generation == generation && status.allocation.iter().any(|a| a.kernel == hostname)
        });
        match is_last {
            false => AllocationState::Leftover,
            true if phase.is_terminal() && session.is_deleted() => AllocationState::Leftover,
            true if phase.is_terminal() => AllocationState::Ended,
            true => AllocationState::Current,
        }
    }

    fn record_of(&self, name: &str) -> Option<&Kernel> {
        self.kernels.iter().find(|kernel| kernel.metadata.name.as_deref() == Some(name)).map(|kernel| &**kernel)
    }

    /// Whether its user ends it without a grace period.
    fn is_forced(&self) -> bool {
        let forced = |session: &Session| {
            let ends = session.is_deleted() || session.spec.desired_state == DesiredState::Terminated;
            ends && session.spec.termination.mode == TerminationMode::Forced
        };
        self.session.as_deref().is_some_and(forced)
    }

    fn now(&self) -> DateTime<Utc> {
        self.snapshot.now
    }

    fn is_gone(&self, pod: &PodView) -> bool {
        pod.node.as_ref().is_some_and(|node| pod.bound && self.liveness.get(node) == Some(&Liveness::Gone))
    }
}

/// Returns the effects of sync-kernels for one session: record ends, release ended pods, remove leftovers.
pub fn sync(remains: &Remains) -> Vec<Effect> {
    let effects = for_pods(remains).into_iter().chain(for_kernels(remains));
    effects.chain(for_unreadable(remains)).collect()
}

/// Releases an unreadable session that is being deleted, once all its pods are gone.
fn for_unreadable(remains: &Remains) -> Option<Effect> {
    let held = |meta: &&ObjectMeta| meta.finalizers.iter().flatten().any(|name| name == FINALIZER_SESSION);
    let meta = remains.unreadable.as_ref().filter(held).filter(|_| remains.pods.is_empty())?;
    Some(Effect::ReleaseUnreadable(Box::new(meta.clone())))
}

fn for_pods(remains: &Remains) -> Vec<Effect> {
    remains.pods.iter().flat_map(|pod| for_pod(remains, pod)).collect()
}

fn for_pod(remains: &Remains, pod: &PodView) -> Vec<Effect> {
    let mut effects = vec![];
    let allocation = remains.allocation_state(&pod.kernel, pod.generation);
    let record = remains.record_of(&pod.name);
    // A pod that was deleted before it was bound, or whose node is gone, will never report its end.
    let never_reports = pod.deleting && (!pod.bound || remains.is_gone(pod));
    let released = pod.held && (pod.ended || never_reports);
    match record {
        Some(record) => effects.extend(kernel_end(remains, pod, record, never_reports)),
        None if released && !matches!(allocation, AllocationState::Leftover) => {
            effects.push(Effect::ConfirmNoKernel(pod.name.clone()));
        }
        None => {}
    }
    if released {
        effects.push(Effect::ReleasePod(PodRef::from(pod)));
    }
    let unwanted = match allocation {
        AllocationState::Current => false,
        AllocationState::Ended => pod.is_live(),
        AllocationState::Leftover => true,
    };
    let shortens_grace = remains.is_forced() && pod.is_live() && pod.grace.is_some_and(|grace| grace > 0);
    if unwanted && (!pod.deleting || shortens_grace) {
        effects.push(Effect::DeletePod { pod: PodRef::from(pod), grace: grace(remains, pod) });
    } else if pod.deleting && pod.bound && remains.is_gone(pod) {
        effects.push(Effect::DeletePod { pod: PodRef::from(pod), grace: Some(0) });
    }
    effects
}

fn grace(remains: &Remains, pod: &PodView) -> Option<i64> {
    if remains.is_gone(pod) || remains.is_forced() {
        return Some(0); // our finalizer keeps the pod until the kubelet reports its end
    }
    remains.session.as_ref().map(|session| session.spec.termination.grace_period_seconds)
}

/// Records how a kernel ended, unless its end is recorded already.
fn kernel_end(remains: &Remains, pod: &PodView, record: &Kernel, never_reports: bool) -> Option<Effect> {
    let old = record.status.clone().unwrap_or_default();
    if old.phase.is_terminal() {
        return None;
    }
    let state = state_by_pod(pod, remains.session.as_deref(), remains.snapshot.image_timeout(), remains.now());
    let new = if pod.ended || pod.main_end().is_some() {
        ended(&old, pod, &state, remains.now())
    } else if never_reports {
        let ran = old.started_at.is_some() || pod.has_started();
        let phase = if ran { KernelPhase::Terminated } else { KernelPhase::Cancelled };
        KernelStatus {
            phase,
            reason: recorded_reason(&old).or(state.reason).or(Some(Reason::PodGone.as_str().into())),
            message: state.message.or(Some("its pod was deleted and will not report its end".into())),
            finished_at: Some(remains.now()),
            ..old.clone()
        }
    } else if state.phase == KernelPhase::Cancelled {
        KernelStatus {
            phase: KernelPhase::Cancelled,
            reason: state.reason,
            message: state.message,
            finished_at: Some(remains.now()),
            ..old.clone()
        }
    } else {
        return None;
    };
    recorded(record, old, new)
}

/// Records that kernels run, or why they are late. Only people read this, so the records may come late.
pub fn progress(remains: &Remains) -> Vec<Effect> {
    remains.pods.iter().filter_map(|pod| kernel_progress(remains, pod, remains.record_of(&pod.name)?)).collect()
}

fn kernel_progress(remains: &Remains, pod: &PodView, record: &Kernel) -> Option<Effect> {
    let old = record.status.clone().unwrap_or_default();
    let state = state_by_pod(pod, remains.session.as_deref(), remains.snapshot.image_timeout(), remains.now());
    // The kubelet's message changes with each try, the reason does not.
    let held_up = state.phase.is_pre_running() && state.reason.is_some() && state.reason != old.reason;
    let since = match &pod.main {
        MainState::Running { since } if state.phase == KernelPhase::Running => *since,
        _ if held_up => None,
        _ => return None,
    };
    let new = KernelStatus {
        phase: state.phase,
        reason: state.reason,
        message: state.message,
        pod_ip: pod.ip.clone(),
        started_at: old.started_at.or(since),
        ..old.clone()
    };
    recorded(record, old, new)
}

/// Returns the record, if it differs from the old one and the kernel may take this step.
fn recorded(record: &Kernel, old: KernelStatus, mut new: KernelStatus) -> Option<Effect> {
    // Texts of programs and kubelets have any length. The API server would refuse a text that is too long every time.
    new.reason.iter_mut().for_each(|reason| truncate(reason, MAX_REASON));
    new.message.iter_mut().for_each(|message| truncate(message, MAX_MESSAGE));
    let may_step = step_to(old.phase, new.phase) == new.phase;
    if !may_step || new == old {
        return None;
    }
    let version = record.metadata.resource_version.clone();
    Some(Effect::RecordKernel { name: record.metadata.name.clone()?, version, status: Box::new(new) })
}

/// Returns the reason why a kernel counts as ending without a report of its pod, for example a lost node.
fn recorded_reason(status: &KernelStatus) -> Option<String> {
    status.reason.clone().filter(|_| status.phase == KernelPhase::Terminating)
}

fn ended(old: &KernelStatus, pod: &PodView, state: &KernelState, now: DateTime<Utc>) -> KernelStatus {
    let (started_at, finished_at) = match &pod.main {
        MainState::Ended { started_at, finished_at, .. } => (*started_at, *finished_at),
        _ => (None, None),
    };
    KernelStatus {
        phase: KernelPhase::Terminated,
        reason: recorded_reason(old).or(state.reason.clone()),
        message: state.message.clone().filter(|message| !message.is_empty()),
        pod_ip: pod.ip.clone().or(old.pod_ip.clone()),
        started_at: old.started_at.or(started_at),
        finished_at: finished_at.or(Some(now)),
        exit_code: state.exit_code,
    }
}

/// Ends kernels whose pod is gone without a recorded end, and removes kernels of former allocations.
fn for_kernels(remains: &Remains) -> Vec<Effect> {
    remains.kernels.iter().flat_map(|kernel| for_kernel(remains, kernel)).collect()
}

fn for_kernel(remains: &Remains, kernel: &Kernel) -> Vec<Effect> {
    let name = kernel.metadata.name.clone().unwrap_or_default();
    if remains.pods.iter().any(|pod| pod.name == name) {
        return vec![];
    }
    let status = kernel.status.clone().unwrap_or_default();
    let generation = kernel.metadata.labels.as_ref().and_then(|labels| labels.get(LABEL_GENERATION)?.parse().ok());
    let generation = generation.unwrap_or(kernel.spec.allocation_generation);
    match remains.allocation_state(&kernel.spec.hostname, generation) {
        // The garbage collector removes the kernels of a session that is gone, except orphans.
        AllocationState::Leftover if remains.session.is_none() && is_orphan(kernel) => orphan_removal(kernel, name),
        AllocationState::Leftover if remains.session.as_ref().is_some_and(|session| !session.is_deleted()) => {
            let uid = kernel.metadata.uid.clone().filter(|_| kernel.metadata.deletion_timestamp.is_none());
            uid.map(|uid| Effect::DeleteKernel { name, uid }).into_iter().collect()
        }
        AllocationState::Leftover => vec![],
        _ if status.phase.is_terminal() => vec![],
        // A Scheduled session has no pods yet, so a missing pod is no end.
        AllocationState::Current if is_before_pods(remains.session.as_deref()) => vec![],
        _ => {
            let new = KernelStatus {
                phase: KernelPhase::Terminated,
                reason: recorded_reason(&status).or(Some(Reason::PodGone.as_str().into())),
                message: Some("its pod is gone".into()),
                finished_at: Some(remains.now()),
                ..status
            };
            let version = kernel.metadata.resource_version.clone();
            let confirmation = Effect::ConfirmNoPod(name.clone());
            vec![confirmation, Effect::RecordKernel { name, version, status: Box::new(new) }]
        }
    }
}

/// Whether the kernel has lost its owner, as `kubectl delete --cascade=orphan` makes it.
fn is_orphan(kernel: &Kernel) -> bool {
    !kernel.metadata.owner_references.iter().flatten().any(|owner| owner.uid == kernel.spec.session_uid)
}

/// Removes an orphaned kernel. The removal of the main kernel includes the Service and the SSH key pair of its session.
fn orphan_removal(kernel: &Kernel, name: String) -> Vec<Effect> {
    let Some(uid) = kernel.metadata.uid.clone().filter(|_| kernel.metadata.deletion_timestamp.is_none()) else { return vec![] };
    let mut effects = vec![];
    if kernel.spec.hostname == MAIN_HOSTNAME {
        let session = kernel.spec.session.clone();
        effects.push(Effect::DeleteSshSecret(ssh_secret_name(&session, &kernel.spec.session_uid)));
        effects.push(Effect::DeleteOrphanedService { session, uid: SessionUid(kernel.spec.session_uid.clone()) });
    }
    effects.push(Effect::DeleteKernel { name, uid });
    effects
}

fn is_before_pods(session: Option<&Session>) -> bool {
    session.is_some_and(|session| session.phase() == crate::api::SessionPhase::Scheduled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::SessionPhase;
    use crate::session::handlers::testing::{kernel_of, pod_of, session_in, snapshot};

    fn remains(session: Option<&Session>, kernel: Option<Kernel>, pod: Option<PodView>) -> Remains {
        Remains {
            uid: SessionUid("uid-s".into()),
            namespace: "ns".into(),
            unreadable: None,
            session: session.cloned().map(Arc::new),
            kernels: kernel.into_iter().map(Arc::new).collect(),
            pods: pod.into_iter().map(Arc::new).collect(),
            liveness: HashMap::from([("node-1".into(), Liveness::Alive)]),
            snapshot: Snapshot { now: DateTime::UNIX_EPOCH, ..snapshot(vec![]) },
        }
    }

    fn names(effects: &[Effect]) -> Vec<&'static str> {
        effects.iter().map(Effect::name).collect()
    }

    #[test]
    fn the_last_message_of_a_program_is_truncated_to_the_limit_of_a_record() {
        let session = session_in(SessionPhase::Running);
        let ended_with = |text: &str| MainState::Ended {
            exit_code: 1,
            reason: text.into(),
            message: text.into(),
            started_at: None,
            finished_at: None,
        };
        let pod = PodView { ended: true, main: ended_with(&"ä".repeat(4096)), ..pod_of(&session) };
        let effects = for_pods(&remains(Some(&session), Some(kernel_of(&session)), Some(pod)));
        let Effect::RecordKernel { status, .. } = &effects[0] else { panic!("a record") };
        assert!(status.message.as_ref().is_some_and(|message| message.len() <= 1024 && message.len() > 1000));
        assert!(status.reason.as_ref().is_some_and(|reason| reason.len() <= 128));
    }

    #[test]
    fn the_reason_why_a_kernel_is_late_is_recorded_once_and_removed_when_it_runs() {
        let session = session_in(SessionPhase::Pulling);
        let record = |kernel: &Kernel, pod: PodView| {
            let remains = remains(Some(&session), Some(kernel.clone()), Some(pod));
            assert!(for_pods(&remains).is_empty());
            match progress(&remains).pop() {
                Some(Effect::RecordKernel { status, .. }) => Some(*status),
                other => {
                    assert_eq!(other, None);
                    None
                }
            }
        };
        let failing = |word: &str| PodView { image_error: Some((word.into(), "not found".into())), ..pod_of(&session) };
        let mut kernel = kernel_of(&session);
        assert_eq!(record(&kernel, pod_of(&session)), None, "the kernel is not late");
        kernel.status = record(&kernel, failing("ErrImagePull"));
        let status = kernel.status.clone().unwrap();
        assert_eq!((status.phase, status.reason.as_deref()), (KernelPhase::Pulling, Some("ImagePullFailed")));
        assert_eq!(status.message.as_deref(), Some("ErrImagePull: not found"));
        assert_eq!(record(&kernel, failing("ImagePullBackOff")), None, "the reason is the same");
        let running = PodView { main: MainState::Running { since: None }, ..pod_of(&session) };
        let status = record(&kernel, running).unwrap();
        assert_eq!((status.phase, status.reason, status.message), (KernelPhase::Running, None, None));
    }

    #[test]
    fn a_vanished_pod_is_recorded_as_pod_gone_and_not_with_an_earlier_reason() {
        let session = session_in(SessionPhase::Pulling);
        let mut kernel = kernel_of(&session);
        let held_up = Some("ImagePullFailed".to_owned());
        kernel.status = Some(KernelStatus { phase: KernelPhase::Pulling, reason: held_up, ..KernelStatus::default() });
        let effects = for_kernels(&remains(Some(&session), Some(kernel), None));
        let [_, Effect::RecordKernel { status, .. }] = &effects[..] else { panic!("{effects:?}") };
        assert_eq!(status.reason.as_deref(), Some("PodGone"));
    }

    #[test]
    fn an_exit_code_is_recorded_before_the_pod_is_released() {
        let session = session_in(SessionPhase::Running);
        let main = MainState::Ended {
            exit_code: 3,
            reason: "Error".into(),
            message: String::new(),
            started_at: None,
            finished_at: None,
        };
        let pod = PodView { ended: true, held: true, main, ..pod_of(&session) };
        let effects = for_pods(&remains(Some(&session), Some(kernel_of(&session)), Some(pod)));
        assert_eq!(names(&effects), ["record-kernel", "release-pod"]);
        let Effect::RecordKernel { status, .. } = &effects[0] else { panic!("no record") };
        assert_eq!((status.phase, status.exit_code), (KernelPhase::Terminated, Some(3)));
    }

    #[test]
    fn a_pod_without_a_kernel_is_released_only_after_a_read_confirms_that_there_is_none() {
        let session = session_in(SessionPhase::Running);
        let pod = PodView { ended: true, held: true, ..pod_of(&session) };
        assert_eq!(names(&for_pods(&remains(Some(&session), None, Some(pod)))), ["confirm-no-kernel", "release-pod"]);
    }

    #[test]
    fn an_ended_pod_stays_for_its_logs_and_a_running_pod_of_an_ended_session_is_deleted() {
        let session = session_in(SessionPhase::Terminated);
        let ended = PodView { ended: true, ..pod_of(&session) };
        assert!(names(&for_pods(&remains(Some(&session), None, Some(ended)))).is_empty());
        let running = pod_of(&session);
        assert_eq!(names(&for_pods(&remains(Some(&session), None, Some(running)))), ["delete-pod"]);
    }

    #[test]
    fn pods_of_an_older_allocation_or_of_no_session_are_removed() {
        let session = session_in(SessionPhase::Preparing);
        let older = PodView { generation: 0, ..pod_of(&session) };
        assert_eq!(names(&for_pods(&remains(Some(&session), None, Some(older.clone())))), ["delete-pod"]);
        assert_eq!(names(&for_pods(&remains(None, None, Some(older)))), ["delete-pod"]);
    }

    #[test]
    fn orphans_of_a_session_that_is_gone_are_removed_and_other_kernels_are_left_to_the_garbage_collector() {
        let session = session_in(SessionPhase::Running);
        let mut kernel = kernel_of(&session);
        let removal = ["delete-ssh-secret", "delete-orphaned-service", "delete-kernel"];
        assert_eq!(names(&for_kernels(&remains(None, Some(kernel.clone()), None))), removal);
        let owner = serde_json::json!([{"apiVersion": "sokovan.dev/v1alpha1", "kind": "Session", "name": "s", "uid": "uid-s"}]);
        kernel.metadata.owner_references = serde_json::from_value(owner).expect("an owner");
        assert!(for_kernels(&remains(None, Some(kernel), None)).is_empty());
    }

    #[test]
    fn a_pod_deleted_before_it_was_bound_is_released() {
        let session = session_in(SessionPhase::Terminating);
        let pod = PodView { deleting: true, held: true, bound: false, ..pod_of(&session) };
        let effects = for_pods(&remains(Some(&session), Some(kernel_of(&session)), Some(pod)));
        assert_eq!(names(&effects), ["record-kernel", "release-pod"]);
    }

    #[test]
    fn sk_004_a_kernel_without_a_pod_has_ended_unless_the_session_is_still_scheduled() {
        let scheduled = session_in(SessionPhase::Scheduled);
        assert!(for_kernels(&remains(Some(&scheduled), Some(kernel_of(&scheduled)), None)).is_empty());
        let running = session_in(SessionPhase::Running);
        let effects = for_kernels(&remains(Some(&running), Some(kernel_of(&running)), None));
        assert_eq!(names(&effects), ["confirm-no-pod", "record-kernel"]);
        let Effect::RecordKernel { status, .. } = &effects[1] else { panic!("a record") };
        assert_eq!((status.phase, status.reason.as_deref()), (KernelPhase::Terminated, Some("PodGone")));
    }

    #[test]
    fn a_deleted_unreadable_session_is_released_after_its_pods_are_gone() {
        let session = session_in(SessionPhase::Running);
        let meta = ObjectMeta { finalizers: Some(vec![FINALIZER_SESSION.into()]), ..session.metadata.clone() };
        let mut left = remains(None, None, Some(pod_of(&session)));
        left.unreadable = Some(meta.clone());
        assert!(matches!(for_pods(&left)[..], [Effect::DeletePod { .. }]), "{:?}", for_pods(&left));
        assert_eq!(for_unreadable(&left), None);
        left.pods.clear();
        assert_eq!(for_unreadable(&left), Some(Effect::ReleaseUnreadable(Box::new(meta.clone()))));
        let released = ObjectMeta { finalizers: None, ..meta.clone() };
        left.unreadable = Some(released);
        assert_eq!(for_unreadable(&left), None);
    }
}
