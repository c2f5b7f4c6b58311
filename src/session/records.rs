//! What is to be done for a session's kernels and pods, apart from its phases: facts recorded, ended pods let go,
//! leftovers removed. Decided pod by pod, so that one that cannot be settled never holds up another.

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

/// Most bytes of a kernel's reason and message, as its schema has it.
const MAX_REASON: usize = 128;
const MAX_MESSAGE: usize = 1024;

/// All that remains of one session at the API server.
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

/// Whether a session still has a use for something of this allocation.
enum Standing {
    /// It belongs to what the session holds.
    Current,
    /// The session has ended: what runs is stopped, what ended stays for its logs.
    Ended,
    /// The session is gone or being deleted, or holds another allocation: nothing stays.
    Leftover,
}

impl Remains {
    fn standing(&self, hostname: &str, generation: i64) -> Standing {
        let Some(session) = &self.session else { return Standing::Leftover };
        let status = session.status.as_ref();
        let phase = session.phase();
        let same = status.is_some_and(|status| {
            status.allocation_generation == generation && status.allocation.iter().any(|a| a.kernel == hostname)
        });
        match same {
            false => Standing::Leftover,
            true if phase.is_terminal() && session.is_deleted() => Standing::Leftover,
            true if phase.is_terminal() => Standing::Ended,
            true => Standing::Current,
        }
    }

    fn record_of(&self, name: &str) -> Option<&Kernel> {
        self.kernels.iter().find(|kernel| kernel.metadata.name.as_deref() == Some(name)).map(|kernel| &**kernel)
    }

    /// Whether its user wants it ended without grace.
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

/// What sync-kernels does for one session: records ends, releases ended pods, removes what no session needs.
pub fn sync(remains: &Remains) -> Vec<Effect> {
    let kept = for_pods(remains).into_iter().chain(for_kernels(remains));
    kept.chain(for_unreadable(remains)).collect()
}

/// A session that cannot be read goes once nothing of it runs.
fn for_unreadable(remains: &Remains) -> Option<Effect> {
    let held = |meta: &&ObjectMeta| meta.finalizers.iter().flatten().any(|name| name == FINALIZER_SESSION);
    let meta = remains.unreadable.as_ref().filter(held).filter(|_| remains.pods.is_empty())?;
    Some(Effect::ReleaseUnreadable(Box::new(meta.clone())))
}

/// What each pod needs.
fn for_pods(remains: &Remains) -> Vec<Effect> {
    remains.pods.iter().flat_map(|pod| for_pod(remains, pod)).collect()
}

fn for_pod(remains: &Remains, pod: &PodView) -> Vec<Effect> {
    let mut effects = vec![];
    let standing = remains.standing(&pod.kernel, pod.generation);
    let record = remains.record_of(&pod.name);
    // A pod that was deleted before any kubelet had it, or whose node is gone, will never report its end.
    let never_reports = pod.deleting && (!pod.bound || remains.is_gone(pod));
    let released = pod.held && (pod.ended || never_reports);
    match record {
        Some(record) => effects.extend(kernel_end(remains, pod, record, never_reports)),
        None if released && !matches!(standing, Standing::Leftover) => {
            effects.push(Effect::ConfirmNoKernel(pod.name.clone()));
        }
        None => {}
    }
    if released {
        effects.push(Effect::ReleasePod(PodRef::from(pod)));
    }
    let unwanted = match standing {
        Standing::Current => false,
        Standing::Ended => pod.is_live(),
        Standing::Leftover => true,
    };
    let patient = pod.deleting && !(remains.is_forced() && pod.is_live() && pod.grace.is_some_and(|grace| grace > 0));
    if unwanted && !patient {
        effects.push(Effect::DeletePod { pod: PodRef::from(pod), grace: grace(remains, pod) });
    } else if pod.deleting && pod.bound && remains.is_gone(pod) {
        effects.push(Effect::DeletePod { pod: PodRef::from(pod), grace: Some(0) });
    }
    effects
}

fn grace(remains: &Remains, pod: &PodView) -> Option<i64> {
    if remains.is_gone(pod) || remains.is_forced() {
        return Some(0); // our finalizer keeps the pod until the kubelet tells that it ended
    }
    remains.session.as_ref().map(|session| session.spec.termination.grace_period_seconds)
}

/// How it ended, if that is not recorded yet.
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
            reason: given_up_for(&old).or(state.reason).or(Some(Reason::PodGone.as_str().into())),
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

/// What people see of kernels that run, or of what holds them up: nothing depends on it, so it may come late.
pub fn progress(remains: &Remains) -> Vec<Effect> {
    remains.pods.iter().filter_map(|pod| on_its_way(remains, pod, remains.record_of(&pod.name)?)).collect()
}

fn on_its_way(remains: &Remains, pod: &PodView, record: &Kernel) -> Option<Effect> {
    let old = record.status.clone().unwrap_or_default();
    let state = state_by_pod(pod, remains.session.as_deref(), remains.snapshot.image_timeout(), remains.now());
    // A kubelet's words change with each of its tries, what they are about does not.
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

/// A record, if it says something new and the kernel may get there from where it stands.
fn recorded(record: &Kernel, old: KernelStatus, mut new: KernelStatus) -> Option<Effect> {
    // What a program or a kubelet says has no bound of ours; a record that is refused for its length would never be made.
    new.reason.iter_mut().for_each(|reason| truncate(reason, MAX_REASON));
    new.message.iter_mut().for_each(|message| truncate(message, MAX_MESSAGE));
    let may = step_to(old.phase, new.phase) == new.phase;
    if !may || new == old {
        return None;
    }
    let version = record.metadata.resource_version.clone();
    Some(Effect::RecordKernel { name: record.metadata.name.clone()?, version, status: Box::new(new) })
}

/// Why a kernel counts as ending though its pod does not tell: a lost node, say.
fn given_up_for(status: &KernelStatus) -> Option<String> {
    status.reason.clone().filter(|_| status.phase == KernelPhase::Terminating)
}

fn ended(old: &KernelStatus, pod: &PodView, state: &KernelState, now: DateTime<Utc>) -> KernelStatus {
    let (started_at, finished_at) = match &pod.main {
        MainState::Ended { started_at, finished_at, .. } => (*started_at, *finished_at),
        _ => (None, None),
    };
    KernelStatus {
        phase: KernelPhase::Terminated,
        reason: given_up_for(old).or(state.reason.clone()),
        message: state.message.clone().filter(|message| !message.is_empty()),
        pod_ip: pod.ip.clone().or(old.pod_ip.clone()),
        started_at: old.started_at.or(started_at),
        finished_at: finished_at.or(Some(now)),
        exit_code: state.exit_code,
    }
}

/// What each kernel record needs: an end, when its pod is gone without one; removal, when it belongs to nothing.
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
    let standing = remains.standing(&kernel.spec.hostname, generation.unwrap_or(kernel.spec.allocation_generation));
    match standing {
        // Where the session is gone, the garbage collector takes its kernels, but not those it has made orphans of.
        Standing::Leftover if remains.session.is_none() && is_orphan(kernel) => orphan_removal(kernel, name),
        Standing::Leftover if remains.session.as_ref().is_some_and(|session| !session.is_deleted()) => {
            let uid = kernel.metadata.uid.clone().filter(|_| kernel.metadata.deletion_timestamp.is_none());
            uid.map(|uid| Effect::DeleteKernel { name, uid }).into_iter().collect()
        }
        Standing::Leftover => vec![],
        _ if status.phase.is_terminal() => vec![],
        // Before its pods are made, a kernel without one is only early.
        Standing::Current if is_before_pods(remains.session.as_deref()) => vec![],
        _ => {
            let new = KernelStatus {
                phase: KernelPhase::Terminated,
                reason: given_up_for(&status).or(Some(Reason::PodGone.as_str().into())),
                message: Some("its pod is gone".into()),
                finished_at: Some(remains.now()),
                ..status
            };
            let version = kernel.metadata.resource_version.clone();
            let gone = Effect::ConfirmNoPod(name.clone());
            vec![gone, Effect::RecordKernel { name, version, status: Box::new(new) }]
        }
    }
}

/// `--cascade=orphan` takes a kernel's owner away.
fn is_orphan(kernel: &Kernel) -> bool {
    !kernel.metadata.owner_references.iter().flatten().any(|owner| owner.uid == kernel.spec.session_uid)
}

/// The main kernel stands for the session, whose Service and key are removed with it.
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
    fn what_a_program_says_at_its_end_is_cut_to_what_a_record_holds() {
        let session = session_in(SessionPhase::Running);
        let said = |text: &str| MainState::Ended {
            exit_code: 1,
            reason: text.into(),
            message: text.into(),
            started_at: None,
            finished_at: None,
        };
        let pod = PodView { ended: true, main: said(&"ä".repeat(4096)), ..pod_of(&session) };
        let effects = for_pods(&remains(Some(&session), Some(kernel_of(&session)), Some(pod)));
        let Effect::RecordKernel { status, .. } = &effects[0] else { panic!("a record") };
        assert!(status.message.as_ref().is_some_and(|message| message.len() <= 1024 && message.len() > 1000));
        assert!(status.reason.as_ref().is_some_and(|reason| reason.len() <= 128));
    }

    #[test]
    fn what_holds_a_kernel_up_is_recorded_once_and_gone_when_it_runs() {
        let session = session_in(SessionPhase::Pulling);
        let told = |kernel: &Kernel, pod: PodView| {
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
        assert_eq!(told(&kernel, pod_of(&session)), None, "nothing holds it up");
        kernel.status = told(&kernel, failing("ErrImagePull"));
        let status = kernel.status.clone().unwrap();
        assert_eq!((status.phase, status.reason.as_deref()), (KernelPhase::Pulling, Some("ImagePullFailed")));
        assert_eq!(status.message.as_deref(), Some("ErrImagePull: not found"));
        assert_eq!(told(&kernel, failing("ImagePullBackOff")), None, "in other words");
        let running = PodView { main: MainState::Running { since: None }, ..pod_of(&session) };
        let status = told(&kernel, running).unwrap();
        assert_eq!((status.phase, status.reason, status.message), (KernelPhase::Running, None, None));
    }

    #[test]
    fn why_its_image_was_missing_is_not_why_its_pod_is_gone() {
        let session = session_in(SessionPhase::Pulling);
        let mut kernel = kernel_of(&session);
        let held_up = Some("ImagePullFailed".to_owned());
        kernel.status = Some(KernelStatus { phase: KernelPhase::Pulling, reason: held_up, ..KernelStatus::default() });
        let effects = for_kernels(&remains(Some(&session), Some(kernel), None));
        let [_, Effect::RecordKernel { status, .. }] = &effects[..] else { panic!("{effects:?}") };
        assert_eq!(status.reason.as_deref(), Some("PodGone"));
    }

    #[test]
    fn an_exit_code_is_recorded_before_the_pod_is_let_go() {
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
    fn a_pod_whose_kernel_is_not_to_be_seen_is_let_go_only_once_that_is_confirmed() {
        let session = session_in(SessionPhase::Running);
        let pod = PodView { ended: true, held: true, ..pod_of(&session) };
        assert_eq!(names(&for_pods(&remains(Some(&session), None, Some(pod)))), ["confirm-no-kernel", "release-pod"]);
    }

    #[test]
    fn a_finished_pod_stays_for_its_logs_and_a_running_one_of_an_ended_session_goes() {
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
    fn the_orphans_of_a_session_that_is_gone_are_removed_and_the_rest_is_the_garbage_collectors() {
        let session = session_in(SessionPhase::Running);
        let mut kernel = kernel_of(&session);
        let removal = ["delete-ssh-secret", "delete-orphaned-service", "delete-kernel"];
        assert_eq!(names(&for_kernels(&remains(None, Some(kernel.clone()), None))), removal);
        let owner = serde_json::json!([{"apiVersion": "sokovan.dev/v1alpha1", "kind": "Session", "name": "s", "uid": "uid-s"}]);
        kernel.metadata.owner_references = serde_json::from_value(owner).expect("an owner");
        assert!(for_kernels(&remains(None, Some(kernel), None)).is_empty());
    }

    #[test]
    fn a_pod_deleted_before_it_was_bound_is_let_go() {
        let session = session_in(SessionPhase::Terminating);
        let pod = PodView { deleting: true, held: true, bound: false, ..pod_of(&session) };
        let effects = for_pods(&remains(Some(&session), Some(kernel_of(&session)), Some(pod)));
        assert_eq!(names(&effects), ["record-kernel", "release-pod"]);
    }

    #[test]
    fn sk_004_a_kernel_whose_pod_is_gone_has_ended_once_pods_were_made() {
        let scheduled = session_in(SessionPhase::Scheduled);
        assert!(for_kernels(&remains(Some(&scheduled), Some(kernel_of(&scheduled)), None)).is_empty());
        let running = session_in(SessionPhase::Running);
        let effects = for_kernels(&remains(Some(&running), Some(kernel_of(&running)), None));
        assert_eq!(names(&effects), ["confirm-no-pod", "record-kernel"]);
        let Effect::RecordKernel { status, .. } = &effects[1] else { panic!("a record") };
        assert_eq!((status.phase, status.reason.as_deref()), (KernelPhase::Terminated, Some("PodGone")));
    }

    #[test]
    fn an_unreadable_session_that_is_deleted_goes_after_its_pods() {
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
