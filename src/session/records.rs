//! Records the ends of kernels, releases ended pods and removes leftovers, independently of the session's phase. Each pod is
//! decided on its own, so that one pod never holds up another.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;

use super::effect::{Effect, PodRef};
use super::kernel_state::step_to;
use super::kernels::{KernelState, ssh_secret_name, state_by_pod};
use super::remains::{AllocationState, Remains};
use crate::api::{
    FINALIZER_SESSION, Kernel, KernelPhase, KernelStatus, LABEL_GENERATION, MAIN_HOSTNAME, Reason, Session, SessionPhase,
    SessionUid,
};
use crate::lifecycle::truncate;
use crate::views::{MainState, PodView};

/// The largest reason and message of a kernel, in bytes, as in its schema.
const MAX_REASON: usize = 128;
const MAX_MESSAGE: usize = 1024;

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
    // A pod that was deleted before it was bound, or whose node is gone, will never report its end.
    let never_reports = pod.deleting && (!pod.bound || remains.is_gone(pod));
    let released = pod.held && (pod.ended || never_reports);
    if !remains.is_leaving {
        effects.extend(kernel_end(remains, pod, never_reports));
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
fn kernel_end(remains: &Remains, pod: &PodView, never_reports: bool) -> Option<Effect> {
    let old = remains.recorded_state(pod);
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
    recorded(remains, pod, old, new)
}

/// Records that kernels run, or why they are late. Only people read this, so the records may come late.
pub fn progress(remains: &Remains) -> Vec<Effect> {
    remains.pods.iter().filter_map(|pod| kernel_progress(remains, pod)).collect()
}

fn kernel_progress(remains: &Remains, pod: &PodView) -> Option<Effect> {
    let old = remains.recorded_state(pod);
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
        pod_uid: Some(pod.uid.clone()),
        pod_ip: pod.ip.clone(),
        started_at: old.started_at.or(since),
        ..old.clone()
    };
    recorded(remains, pod, old, new)
}

/// Returns the record with a new state, if that differs from the old one and the kernel may take this step.
fn recorded(remains: &Remains, pod: &PodView, old: KernelStatus, mut new: KernelStatus) -> Option<Effect> {
    // Texts of programs and kubelets have any length. The API server would refuse a text that is too long every time.
    new.reason.iter_mut().for_each(|reason| truncate(reason, MAX_REASON));
    new.message.iter_mut().for_each(|message| truncate(message, MAX_MESSAGE));
    let may_step = step_to(old.phase, new.phase) == new.phase;
    if !may_step || new == old {
        return None;
    }
    let record = remains.record_of(pod)?;
    Some(Effect::RecordKernel(Box::new(Kernel { status: Some(new), ..record })))
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
        pod_uid: Some(pod.uid.clone()),
        pod_ip: pod.ip.clone().or(old.pod_ip.clone()),
        started_at: old.started_at.or(started_at),
        finished_at: finished_at.or(Some(now)),
        exit_code: state.exit_code,
    }
}

/// Ends kernels whose pod is gone without a recorded end, and removes kernels of former allocations.
fn for_kernels(remains: &Remains) -> Vec<Effect> {
    if remains.is_leaving {
        return vec![]; // the garbage collector removes its records
    }
    let absent = remains.session.as_deref().map_or(vec![], |session| absent_kernels(remains, session));
    remains.kernels.iter().flat_map(|kernel| for_kernel(remains, kernel)).chain(absent).collect()
}

/// Records the ends of kernels that have lost their pod before anything was recorded of them.
fn absent_kernels(remains: &Remains, session: &Session) -> Vec<Effect> {
    if !has_launched(session) {
        return vec![];
    }
    let Some(status) = &session.status else { return vec![] };
    let pods = remains.pods.iter().map(|pod| (pod.generation, &pod.kernel));
    let kernels = remains.kernels.iter().map(|kernel| (kernel.spec.allocation_generation, &kernel.spec.hostname));
    let known: HashSet<(i64, &String)> = pods.chain(kernels).collect();
    let absent = status.allocation.iter().filter(|allocated| !known.contains(&(status.allocation_generation, &allocated.kernel)));
    absent.filter_map(|allocated| remains.new_record(&allocated.kernel)).flat_map(|record| gone(remains, &record)).collect()
}

/// Whether the pods of its present allocation have been created.
fn has_launched(session: &Session) -> bool {
    let history = session.status.iter().flat_map(|status| &status.history).rev();
    let mut phases = history.map(|entry| entry.to.as_str());
    let launched = phases.find(|to| [SessionPhase::Scheduled, SessionPhase::Preparing].iter().any(|phase| phase.as_str() == *to));
    launched == Some(SessionPhase::Preparing.as_str())
}

/// Records that a kernel's pod is gone, once a read has confirmed it.
fn gone(remains: &Remains, record: &Kernel) -> Vec<Effect> {
    let status = record.status.clone().unwrap_or_default();
    let new = KernelStatus {
        phase: KernelPhase::Terminated,
        reason: recorded_reason(&status).or(Some(Reason::PodGone.as_str().into())),
        message: Some("its pod is gone".into()),
        finished_at: Some(remains.now()),
        ..status
    };
    let confirmation = Effect::ConfirmNoPod(record.name_any());
    vec![confirmation, Effect::RecordKernel(Box::new(Kernel { status: Some(new), ..record.clone() }))]
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
        _ => gone(remains, kernel),
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
    session.is_some_and(|session| session.phase() == SessionPhase::Scheduled)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use super::*;
    use crate::session::handlers::testing::{kernel_of, pod_of, session_in, snapshot};
    use crate::session::snapshot::Snapshot;
    use crate::views::Liveness;

    fn remains(session: Option<&Session>, kernel: Option<Kernel>, pod: Option<PodView>) -> Remains {
        Remains {
            uid: SessionUid("uid-s".into()),
            namespace: "ns".into(),
            unreadable: None,
            is_leaving: session.is_some_and(Session::is_leaving),
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

    fn recorded_status(effect: &Effect) -> KernelStatus {
        let Effect::RecordKernel(kernel) = effect else { panic!("no record: {effect:?}") };
        kernel.status.clone().expect("a state")
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
        let status = recorded_status(&effects[0]);
        assert!(status.message.as_ref().is_some_and(|message| message.len() <= 1024 && message.len() > 1000));
        assert!(status.reason.as_ref().is_some_and(|reason| reason.len() <= 128));
    }

    #[test]
    fn the_reason_why_a_kernel_is_late_is_recorded_once_and_removed_when_it_runs() {
        let session = session_in(SessionPhase::Pulling);
        let record = |kernel: &Kernel, pod: PodView| {
            let remains = remains(Some(&session), Some(kernel.clone()), Some(pod));
            assert!(for_pods(&remains).is_empty());
            progress(&remains).pop().map(|effect| recorded_status(&effect))
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
        assert_eq!(names(&effects), ["confirm-no-pod", "record-kernel"]);
        let status = recorded_status(&effects[1]);
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
        let status = recorded_status(&effects[0]);
        assert_eq!((status.phase, status.exit_code), (KernelPhase::Terminated, Some(3)));
    }

    #[test]
    fn a_kernel_is_recorded_with_one_write_when_it_runs_and_its_end_even_if_nothing_was_recorded_before() {
        let session = session_in(SessionPhase::Running);
        let starting = remains(Some(&session), None, Some(pod_of(&session)));
        assert!(progress(&starting).is_empty(), "nothing is to be said yet");
        let running = PodView { main: MainState::Running { since: None }, ..pod_of(&session) };
        let effects = progress(&remains(Some(&session), None, Some(running)));
        let [Effect::RecordKernel(kernel)] = &effects[..] else { panic!("{effects:?}") };
        assert_eq!(kernel.metadata.resource_version, None, "it is created");
        assert_eq!((kernel.name_any(), &kernel.spec.node), (pod_of(&session).name, &"node-1".into()));
        let status = recorded_status(&effects[0]);
        assert_eq!((status.phase, status.pod_uid.as_deref()), (KernelPhase::Running, Some("uid-pod")));
        let ended = PodView { ended: true, held: true, ..pod_of(&session) };
        let effects = for_pods(&remains(Some(&session), None, Some(ended.clone())));
        assert_eq!(names(&effects), ["record-kernel", "release-pod"]);
        let older = PodView { generation: 0, ..ended };
        let effects = for_pods(&remains(Some(&session), None, Some(older)));
        assert_eq!(names(&effects), ["release-pod", "delete-pod"], "a former allocation is not recorded again");
    }

    #[test]
    fn the_end_of_a_deleted_session_is_not_recorded_in_kernels_that_are_removed_with_it() {
        let mut session = session_in(SessionPhase::Running);
        session.metadata.finalizers = Some(vec![FINALIZER_SESSION.into()]);
        session.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Default::default()));
        let ended = PodView { ended: true, held: true, ..pod_of(&session) };
        let effects = |session: &Session| names(&sync(&remains(Some(session), Some(kernel_of(session)), Some(ended.clone()))));
        assert_eq!(effects(&session), ["record-kernel", "release-pod"], "its exit code may decide its result");
        session.status.get_or_insert_default().result = Some(crate::api::SessionResult::UserCancelled);
        assert_eq!(effects(&session), ["release-pod"]);
        session.metadata.finalizers.get_or_insert_default().push("orphan".into());
        assert_eq!(effects(&session), ["record-kernel", "release-pod"], "somebody else keeps it");
    }

    #[test]
    fn a_kernel_that_loses_its_pod_before_anything_was_recorded_is_recorded_as_gone() {
        let mut session = session_in(SessionPhase::Pulling);
        let entry = |to: &str| {
            let at = DateTime::UNIX_EPOCH;
            let entry = serde_json::json!({"handler": "x", "result": "Success", "from": "x", "to": to, "attempts": 1,
                                           "createdAt": at, "updatedAt": at});
            serde_json::from_value::<crate::api::HistoryEntry>(entry).expect("an entry")
        };
        let effects = |session: &Session| names(&for_kernels(&remains(Some(session), None, None)));
        assert!(effects(&session).is_empty(), "its pods were never created");
        session.status.get_or_insert_default().history = vec![entry("Scheduled"), entry("Preparing"), entry("Pulling")];
        assert_eq!(effects(&session), ["confirm-no-pod", "record-kernel"]);
        session.status.get_or_insert_default().history.push(entry("Scheduled"));
        assert!(effects(&session).is_empty(), "the pods of its new allocation are not created yet");
    }

    #[test]
    fn an_ended_pod_stays_for_its_logs_and_a_running_pod_of_an_ended_session_is_deleted() {
        let session = session_in(SessionPhase::Terminated);
        let ended = PodView { ended: true, ..pod_of(&session) };
        let mut record = kernel_of(&session);
        record.status = Some(KernelStatus { phase: KernelPhase::Terminated, ..KernelStatus::default() });
        assert!(names(&for_pods(&remains(Some(&session), Some(record), Some(ended)))).is_empty());
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
        let status = recorded_status(&effects[1]);
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
