//! Deployments as a subject of the engine.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::deployments::Deployments;
use super::effect::Effect;
use super::handlers::{Change, HANDLERS, Handler, HandlerName, LockId};
use super::snapshot::{DeploymentItem, Snapshot};
use super::status;
use crate::api::{Deployment, DeploymentPhase, DeploymentStatus, DeploymentUid, HistoryResult, Reason, UNKNOWN_GROUP};
use crate::lifecycle::{self, ConditionState, Limits, Step, Subject, Timing};

impl Subject for Deployments {
    const NAME: &'static str = "deployment";
    type Phase = DeploymentPhase;
    type HandlerName = HandlerName;
    type Lock = LockId;
    type Uid = DeploymentUid;
    type Object = Deployment;
    type Status = DeploymentStatus;
    type Item = DeploymentItem;
    type Snapshot = Snapshot;
    type Shared = ();
    type Effect = Effect;
    type Change = Change;
    type Settings = ();

    fn table() -> &'static [&'static Handler] {
        HANDLERS
    }

    /// A deployment is tried for ever.
    fn limits(_: &Snapshot, _: &DeploymentItem, _: &Handler) -> Limits {
        Limits { max_attempts: i32::MAX, timeout: None, counts_capacity: false }
    }

    fn is_news(snapshot: &Snapshot, item: &DeploymentItem, change: &Change, _: HistoryResult) -> bool {
        change.is_some() || status::is_outdated(snapshot, item)
    }

    fn is_queued(_: DeploymentPhase) -> bool {
        false
    }

    fn apply(
        status: &mut DeploymentStatus,
        step: &Step<'_, Self>,
        snapshot: &Snapshot,
        item: &DeploymentItem,
    ) -> Option<Duration> {
        status::apply(status, step, snapshot, item);
        None
    }

    fn conditions(status: &DeploymentStatus) -> Vec<ConditionState> {
        status::conditions(status)
    }

    fn bytes_beside_progress(status: &DeploymentStatus) -> usize {
        2048 + 128 * status.planned.len() + 64 * (status.leaving.len() + status.failures.counted.len())
    }

    fn has_ended_badly(status: &DeploymentStatus) -> bool {
        status.phase == DeploymentPhase::Failed || status.reason == Some(Reason::RolledBack)
    }

    fn takes_more(_: Option<&DeploymentStatus>, _: &DeploymentStatus) -> bool {
        false
    }
}

impl lifecycle::Phase for DeploymentPhase {
    fn is_terminal(self) -> bool {
        Self::is_terminal(self)
    }

    fn is_ending(self) -> bool {
        Self::is_ending(self)
    }
}

impl lifecycle::Item<Deployments> for DeploymentItem {
    fn object(&self) -> &Arc<Deployment> {
        &self.deployment
    }

    fn set_object(&mut self, deployment: Arc<Deployment>) {
        self.deployment = deployment;
    }

    fn stored(&self) -> &Arc<Deployment> {
        &self.stored
    }

    fn uid(&self) -> DeploymentUid {
        Self::uid(self)
    }

    fn may_restart(&self) -> bool {
        true
    }
}

impl lifecycle::Snapshot for Snapshot {
    fn now(&self) -> DateTime<Utc> {
        self.now
    }

    fn timing(&self) -> &Timing {
        &self.timing
    }

    fn partition(&self) -> &str {
        self.group.as_ref().and(self.group_name.as_ref()).map_or(UNKNOWN_GROUP, |name| name.as_str())
    }
}

impl lifecycle::Effect for Effect {
    fn name(&self) -> &'static str {
        Self::name(self)
    }

    fn target(&self) -> String {
        Self::target(self)
    }

    fn may_run_with(&self, next: &Self) -> bool {
        self.is_parallel() && std::mem::discriminant(self) == std::mem::discriminant(next)
    }

    fn may_fail_alone(&self) -> bool {
        self.is_parallel()
    }

    fn changes_object(&self) -> bool {
        *self == Self::HoldDeployment
    }
}
