//! Routes as a subject of the engine.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::effect::Effect;
use super::handlers::{Change, HANDLERS, Handler, HandlerName, LockId, MAX_ATTEMPTS};
use super::health::Replica;
use super::routes::Routes;
use super::snapshot::{RouteItem, Snapshot};
use crate::api::{
    FINALIZER_ROUTE, Health, HistoryResult, Reason, Route, RoutePhase, RouteStatus, RouteUid, Traffic, UNKNOWN_GROUP,
};
use crate::lifecycle::{self, ConditionState, Limits, Step, Subject, Timing};

/// The changes to an unhealthy state that a route remembers.
const MAX_UNHEALTHY_TIMES: usize = 8;

impl Subject for Routes {
    const NAME: &'static str = "route";
    type Phase = RoutePhase;
    type HandlerName = HandlerName;
    type Lock = LockId;
    type Uid = RouteUid;
    type Object = Route;
    type Status = RouteStatus;
    type Item = RouteItem;
    type Snapshot = Snapshot;
    type Shared = ();
    type Effect = Effect;
    type Change = Change;
    type Settings = ();

    fn table() -> &'static [&'static Handler] {
        HANDLERS
    }

    fn limits(_: &Snapshot, _: &RouteItem, _: &Handler) -> Limits {
        Limits { max_attempts: MAX_ATTEMPTS, timeout: None, counts_capacity: false }
    }

    fn is_news(_: &Snapshot, item: &RouteItem, change: &Change, _: HistoryResult) -> bool {
        let status = item.route.status.as_ref();
        let health = status.map(|status| status.health).unwrap_or_default();
        let traffic = status.map(|status| status.traffic).unwrap_or_default();
        change.health.is_some_and(|new| new != health) || change.traffic.is_some_and(|new| new != traffic)
    }

    fn is_queued(_: RoutePhase) -> bool {
        false
    }

    fn apply(status: &mut RouteStatus, step: &Step<'_, Self>, snapshot: &Snapshot, item: &RouteItem) -> Option<Duration> {
        if status.session_uid.is_none() {
            status.session_uid = item.session.as_ref().and_then(|session| session.metadata.uid.clone());
        }
        status.address = item.address().or(status.address.take());
        if let Some(health) = step.change.health {
            status.health = health;
        }
        if let Some(traffic) = step.change.traffic {
            status.traffic = traffic;
        }
        status.failed |= step.change.failed;
        match step.to.map(|to| to.phase) {
            Some(RoutePhase::Running) => {
                status.served_at = status.served_at.or(Some(snapshot.now));
                status.health = Health::Healthy;
                status.traffic = if item.is_in_traffic() { Traffic::In } else { Traffic::Out };
            }
            Some(RoutePhase::Unhealthy) => {
                status.health = Health::Unhealthy;
                status.became_unhealthy_at.push(snapshot.now);
                let excess = status.became_unhealthy_at.len().saturating_sub(MAX_UNHEALTHY_TIMES);
                status.became_unhealthy_at.drain(..excess);
            }
            Some(RoutePhase::Evicting | RoutePhase::Terminating) => status.traffic = Traffic::Out,
            Some(RoutePhase::Terminated | RoutePhase::Failed) => {
                status.traffic = Traffic::Out;
                status.failed |= step.to.is_some_and(|to| to.phase == RoutePhase::Failed);
                status.ended_at = Some(snapshot.now);
            }
            Some(RoutePhase::Provisioning | RoutePhase::HealthChecking) | None => {}
        }
        None
    }

    fn conditions(status: &RouteStatus) -> Vec<ConditionState> {
        let ready = status.phase == RoutePhase::Running && status.health == Health::Healthy;
        vec![ConditionState { type_: "Ready", holds: Some(ready), shows_delay: false, is_explained: !ready }]
    }

    fn bytes_beside_progress(_: &RouteStatus) -> usize {
        1024
    }

    fn has_ended_badly(status: &RouteStatus) -> bool {
        let is_alone = status.phase == RoutePhase::Evicting && status.reason == Some(Reason::NoHealthyReplica);
        status.failed || is_alone
    }

    fn is_leaving(route: &Route) -> bool {
        let is_deleted = route.metadata.deletion_timestamp.is_some();
        is_deleted
            && route.phase().is_terminal()
            && route.metadata.finalizers.iter().flatten().all(|name| name == FINALIZER_ROUTE)
    }

    fn takes_more(_: Option<&RouteStatus>, _: &RouteStatus) -> bool {
        false
    }
}

impl lifecycle::Phase for RoutePhase {
    fn is_terminal(self) -> bool {
        Self::is_terminal(self)
    }

    fn is_ending(self) -> bool {
        Self::is_ending(self)
    }
}

impl lifecycle::Item<Routes> for RouteItem {
    fn object(&self) -> &Arc<Route> {
        &self.route
    }

    fn set_object(&mut self, route: Arc<Route>) {
        self.route = route;
    }

    fn stored(&self) -> &Arc<Route> {
        &self.stored
    }

    fn uid(&self) -> RouteUid {
        Self::uid(self)
    }

    fn may_restart(&self) -> bool {
        self.replica() == Replica::Absent
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

    fn may_run_with(&self, _: &Self) -> bool {
        false
    }

    fn may_fail_alone(&self) -> bool {
        false
    }

    fn changes_object(&self) -> bool {
        false
    }
}
