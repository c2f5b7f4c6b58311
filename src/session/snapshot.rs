//! The input of a handler: its sessions with their kernels, and the state of the cluster at one moment.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::ends::EndCause;
use super::handlers::Settings;
use super::idle::Usage;
use super::kernels::{KernelItem, kernel_name};
use super::template::Problem;
use crate::api::{
    GroupName, HandlerRetry, NodeName, Reason, ResolvedTemplate, RetryPolicy, ScalingGroup, Session, SessionPhase, SessionResult,
    SessionStatus, SessionUid, TryingHandler, UNKNOWN_GROUP,
};
use crate::lifecycle::{self, Timing};
use crate::provisioner::{Ahead, Dependency, EquivalenceClass, Holding, outage};
use crate::views::Tenancy;
use crate::views::{Liveness, NodeView, PodView};

/// The cluster at one moment, for the sessions of one scaling group.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub now: DateTime<Utc>,
    pub timing: Arc<Timing>,
    /// None for sessions whose scaling group does not exist.
    pub group: Option<Arc<ScalingGroup>>,
    /// The scaling group that the sessions name or were assigned to. None if no scaling group accepts them.
    pub group_name: Option<GroupName>,
    pub nodes: Arc<BTreeMap<NodeName, Arc<NodeView>>>,
    pub tenancy: Arc<Tenancy>,
}

/// A session as seen in one snapshot.
#[derive(Clone, Debug)]
pub struct SessionItem {
    pub session: Arc<Session>,
    /// The session at the API server, without deferred commits.
    pub stored: Arc<Session>,
    pub kernels: Vec<KernelItem>,
    /// The sessions it depends on.
    pub dependencies: Vec<(String, Dependency)>,
    /// Whether all its kernels can resolve each other's names.
    pub names_resolve: bool,
    /// Whether a Service publishes the name of any kernel.
    pub is_published: bool,
    /// The number of its pods, of all allocations.
    pub pods_left: usize,
    /// Sessions of one class are equal in everything that the provisioner checks.
    pub class: Arc<EquivalenceClass>,
    /// The resources that it occupies.
    pub holding: Option<Arc<Holding>>,
    /// Its use as it was measured last, if it was.
    pub usage: Option<Usage>,
    /// The kernels of its template, to be recorded when it gets its nodes. None if it has no template, or has recorded it.
    pub template: Option<Result<ResolvedTemplate, Problem>>,
    /// The pending sessions ahead of it, for each of its tenants that limits them.
    pub ahead: Vec<Ahead>,
    /// Whether a dependent session has not recorded its success yet.
    pub is_awaited: bool,
}

/// Whether something outside the session disrupted its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DisruptedStart {
    No,
    /// A pod is being removed, and it is not known yet whether its container started.
    Open,
    Certain,
}

impl SessionItem {
    /// Whether its kernels must not start yet, because they could not resolve each other's names.
    pub fn awaits_names(&self) -> bool {
        self.session.spec.start_together && !self.names_resolve
    }

    pub fn name(&self) -> &str {
        self.session.metadata.name.as_deref().unwrap_or_default()
    }

    pub fn namespace(&self) -> &str {
        self.session.metadata.namespace.as_deref().unwrap_or_default()
    }

    pub fn uid(&self) -> SessionUid {
        SessionUid(self.session.metadata.uid.clone().unwrap_or_default())
    }

    pub fn phase(&self) -> SessionPhase {
        self.session.phase()
    }

    pub fn status(&self) -> SessionStatus {
        self.session.status.clone().unwrap_or_default()
    }

    /// Whether its status was written for an older spec.
    pub fn is_outdated(&self) -> bool {
        self.session.status.as_ref().is_some_and(|status| status.is_outdated(self.session.metadata.generation))
    }

    pub fn is_batch(&self) -> bool {
        self.session.spec.type_ == crate::api::SessionType::Batch
    }

    /// Whether it has several kernels, which start together through gates.
    pub fn is_gang(&self) -> bool {
        self.session.spec.kernels.iter().map(|kernel| i64::from(kernel.replicas)).sum::<i64>() > 1
    }

    /// Returns the name of a kernel of its present allocation, and of the kernel's pod.
    pub fn kernel_name(&self, hostname: &str) -> String {
        let generation = self.session.status.as_ref().map_or(0, |status| status.allocation_generation);
        kernel_name(self.name(), &self.uid().0, hostname, generation)
    }

    /// Whether a kernel may run on a node that does not answer, so that nobody can observe or stop it.
    pub fn runs_unseen(&self) -> bool {
        self.kernels.iter().any(|kernel| self.may_run(kernel) && kernel.liveness != Liveness::Alive)
    }

    /// Whether a kernel's container may run: its pod was bound, and no closed gate holds it.
    pub fn may_run(&self, kernel: &KernelItem) -> bool {
        let ungated = |pod: &PodView| pod.is_live() && pod.bound && (!self.is_gang() || pod.gate_opened);
        kernel.pod.as_deref().is_some_and(ungated)
    }

    /// Whether kernels end or have ended. detect-termination then decides on the session.
    pub fn has_ending_kernels(&self) -> bool {
        self.kernels.iter().any(KernelItem::is_ending)
    }

    /// Returns the reason of its end: the end cause of one of its kernels. A program may exit because another kernel ended,
    /// so any other cause outranks an exit.
    pub fn reason_of_end(&self) -> Reason {
        let causes = || self.kernels.iter().filter(|kernel| kernel.is_ending()).filter_map(|kernel| kernel.state.end_cause());
        let named = causes().find(|cause| !matches!(cause, EndCause::ExitCode | EndCause::PodGone)).or_else(|| causes().next());
        named.map_or(Reason::AbnormalTermination, EndCause::reason)
    }

    /// Whether something outside the session ended kernels before any of the user's containers started. Such a session
    /// returns to the queue (docs/lifecycle.md#interrupted-before-the-start).
    pub fn disrupted_start(&self) -> DisruptedStart {
        let disrupted =
            |kernel: &&KernelItem| kernel.is_ending() && kernel.state.end_cause().is_some_and(EndCause::is_disruption);
        let kernels: Vec<&KernelItem> = self.kernels.iter().filter(disrupted).collect();
        let opened = |kernel: &KernelItem| kernel.pod.as_ref().is_some_and(|pod| pod.gate_opened);
        // A node that does not answer cannot report whether a container had started there.
        let unknown = |kernel: &&KernelItem| {
            let lost = matches!(kernel.state.end_cause(), Some(EndCause::NodeLost | EndCause::StaleKernel));
            !self.is_gang() && (lost || kernel.liveness.is_lost())
        };
        if kernels.iter().any(unknown) {
            return DisruptedStart::No;
        }
        if kernels.is_empty() || self.kernels.iter().any(|kernel| kernel.has_started() || (self.is_gang() && opened(kernel))) {
            return DisruptedStart::No;
        }
        // Without a gate, a container may have started unseen until the kubelet reports how the pod ended.
        if self.is_gang() || kernels.iter().all(|kernel| kernel.phase().is_terminal()) {
            DisruptedStart::Certain
        } else {
            DisruptedStart::Open
        }
    }

    /// Returns the dependencies that have ended with Success and are not recorded yet.
    pub fn newly_met(&self) -> impl Iterator<Item = String> {
        let success =
            |state: &Dependency| matches!(state, Dependency::Is(phase, Some(SessionResult::Success)) if phase.is_terminal());
        self.dependencies.iter().filter(move |(_, state)| success(state)).map(|(name, _)| name.clone())
    }

    /// Returns its effective priority.
    pub fn priority(&self) -> i32 {
        self.session.priority()
    }

    /// Returns the next time at which a kernel's state changes without an event: its node becomes lost, or its image pull
    /// is given up.
    pub fn changes_at(&self) -> Option<DateTime<Utc>> {
        let lost_at = |kernel: &KernelItem| match kernel.liveness {
            Liveness::Doubtful { lost_at } => lost_at,
            _ => None,
        };
        self.kernels.iter().flat_map(|kernel| [lost_at(kernel), kernel.state.pull_retried_until]).flatten().min()
    }

    /// Returns when it entered its phase. A session without a status entered Pending when it was created.
    pub fn phase_started_at(&self) -> Option<DateTime<Utc>> {
        self.session.status.as_ref().and_then(|status| status.phase_started_at).or_else(|| self.created_at())
    }

    pub fn created_at(&self) -> Option<DateTime<Utc>> {
        lifecycle::created_at(&*self.session)
    }
}

/// How long the removal of a session waits for the sessions that depend on it.
pub const MAX_WAIT_FOR_DEPENDENTS: chrono::TimeDelta = chrono::TimeDelta::minutes(5);

/// Returns when the deletion of a session was requested.
pub fn deleted_at(session: &Session) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_millis(session.metadata.deletion_timestamp.as_ref()?.0.as_millisecond())
}

impl Snapshot {
    pub fn liveness(&self, node: &NodeName) -> Liveness {
        match self.nodes.get(node) {
            None => Liveness::Gone,
            Some(node) => match node.liveness(self.lost_after(), self.now) {
                Liveness::Lost if self.is_outage() => Liveness::Doubtful { lost_at: None },
                liveness => liveness,
            },
        }
    }

    /// Whether most nodes of the scaling group are not ready. Ending every session would be the worst answer.
    fn is_outage(&self) -> bool {
        let nodes = self.nodes.values().map(Arc::as_ref);
        self.group.as_ref().is_some_and(|group| outage(nodes, group, self.lost_after(), self.now).is_some())
    }

    fn lost_after(&self) -> Duration {
        let default = crate::api::ScalingGroupSpec::lost_after_default();
        self.timing.configured(self.group.as_ref().map_or(default, |group| group.spec.lost_after_seconds))
    }

    /// Returns how long an image pull may fail before it is given up.
    pub fn image_timeout(&self) -> Duration {
        self.timing.configured(self.retry().image_pull_timeout_seconds)
    }

    fn retry(&self) -> Cow<'_, RetryPolicy> {
        self.group.as_ref().map_or_else(|| Cow::Owned(RetryPolicy::default()), |group| Cow::Borrowed(&group.spec.retry))
    }

    /// Returns the attempts that a handler may fail in a row for this session. Without a handler, the scaling group's
    /// general limit applies.
    pub fn max_attempts(&self, session: &Session, handler: Option<TryingHandler>) -> i32 {
        let retry = self.retry();
        let for_handler = handler.and_then(|handler| handler_retry(&retry, handler)).and_then(|entry| entry.max_attempts);
        let group = for_handler.unwrap_or(retry.max_attempts);
        tightened(group, session.spec.retry.as_ref().and_then(|retry| retry.max_attempts))
    }

    /// Returns how long a handler with these settings may retry. None if the scaling group sets no limit.
    pub fn handler_timeout(&self, session: &Session, settings: &Settings) -> Option<Duration> {
        let group = handler_retry(&self.retry(), settings.retry?).and_then(|entry| entry.timeout_seconds)?;
        Some(self.timing.configured(tightened(group, own_timeout(session).filter(|_| settings.tightened_by_session))))
    }

    /// Whether waiting for capacity counts as an attempt in this scaling group.
    pub fn counts_capacity(&self) -> bool {
        self.group.as_ref().is_some_and(|group| group.spec.retry.count_capacity)
    }

    /// Returns the scaling group's label in metrics. Users can write any name into a session, so only existing scaling
    /// groups get series of their own.
    pub fn group_label(&self) -> &str {
        match (&self.group, &self.group_name) {
            (Some(_), Some(name)) => name.as_str(),
            _ => UNKNOWN_GROUP,
        }
    }

    /// Returns the scaling group's name for messages.
    pub fn group_text(&self) -> &str {
        self.group_name.as_ref().map_or("none", GroupName::as_str)
    }

    /// Returns how long a session may be pending in this scaling group. None if there is no limit.
    pub fn pending_timeout(&self) -> Option<Duration> {
        let seconds = self.group.as_ref()?.spec.pending_timeout_seconds?;
        Some(self.timing.configured(seconds))
    }

    /// Returns how long this session may be in a phase. None if there is no limit.
    pub fn phase_timeout(&self, session: &Session, phase: SessionPhase) -> Option<Duration> {
        let retry = self.retry();
        let group = match phase {
            SessionPhase::Pending => return self.pending_timeout(),
            SessionPhase::Preparing => retry.preparing_timeout_seconds,
            SessionPhase::Pulling => retry.pulling_timeout_seconds,
            SessionPhase::Creating => retry.creating_timeout_seconds,
            _ => return None,
        };
        Some(self.timing.configured(tightened(group, own_timeout(session))))
    }
}

fn own_timeout(session: &Session) -> Option<i64> {
    session.spec.retry.as_ref()?.timeout_seconds
}

/// Returns the scaling group's limit, or the session's own limit if that is lower.
fn tightened<N: Ord>(group: N, own: Option<N>) -> N {
    match own {
        Some(own) => own.min(group),
        None => group,
    }
}

/// Returns the scaling group's entry for one handler.
fn handler_retry(retry: &RetryPolicy, handler: TryingHandler) -> Option<&HandlerRetry> {
    retry.handlers.iter().find(|entry| entry.handler == handler)
}
