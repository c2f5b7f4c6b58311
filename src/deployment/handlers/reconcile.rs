//! reconcile: restores what belongs to a deployment besides its replicas, and removes what should not exist.

use super::replicas::state;
use super::{Decide, Handler, HandlerName, LockId, Mode, ROW as BASE, Verdict};
use crate::api::{DeploymentPhase, PlannedReplica};
use crate::deployment::effect::Effect;
use crate::deployment::revision::surplus;
use crate::deployment::snapshot::{DeploymentItem, Snapshot};

pub static ROW: Handler = Handler {
    name: HandlerName::Reconcile,
    targets: &[DeploymentPhase::Provisioning, DeploymentPhase::Ready, DeploymentPhase::Scaling, DeploymentPhase::Deploying],
    mode: Mode::Acts,
    lock: Some(LockId::Reconcile),
    decide: Decide::Each(reconcile),
    ..BASE
};

fn reconcile(snapshot: &Snapshot, item: &DeploymentItem) -> Verdict {
    let effects: Vec<Effect> =
        service(item).into_iter().chain(sessions(item)).chain(revisions(item)).chain(budget(item)).collect();
    if effects.is_empty() {
        return Verdict::idle();
    }
    // A refusal becomes the reason of the status. A later success takes it back.
    let (reason, message) = state(snapshot, item);
    Verdict::success().because(reason, message).effects(effects)
}

/// The Service leads to the port of the newest revision: with a named port, every pod would answer on its own.
fn service(item: &DeploymentItem) -> Option<Effect> {
    let status = item.status();
    let serves = status.current_revision.or(status.deploying_revision);
    let content = serves.and_then(|number| item.revision(number)).map(|revision| revision.content.clone());
    let session = content.or_else(|| item.content.clone().ok())?.session(item.spec()).ok()?;
    let wanted = (item.spec().service.port, session.serving?.port);
    let is_right = item.service.is_some_and(|service| service.is_intact && service.ports == wanted);
    (!is_right).then_some(Effect::ApplyService { port: wanted.0, target_port: wanted.1 })
}

/// A deployment of one replica or none has no budget: a node drain must end.
fn budget(item: &DeploymentItem) -> Option<Effect> {
    let spec = item.spec();
    let unavailable = spec.strategy.rolling.max_unavailable.rounded_down(spec.replicas).max(1);
    let wanted = (spec.replicas >= 2).then(|| (spec.replicas - unavailable).max(0));
    match (item.budget, wanted) {
        (now, Some(min_available)) if now != Some(min_available) => Some(Effect::ApplyBudget { min_available }),
        (Some(_), None) => Some(Effect::DeleteBudget),
        (Some(_) | None, _) => None,
    }
}

/// A replica without a route gets one again.
fn sessions(item: &DeploymentItem) -> impl Iterator<Item = Effect> {
    let revision = item.status().current_revision.unwrap_or(1);
    let route =
        move |(name, _): &(String, String)| Effect::CreateRoute(PlannedReplica { name: name.clone(), revision, ordinal: 0 });
    item.without_route.iter().map(route).collect::<Vec<_>>().into_iter()
}

fn revisions(item: &DeploymentItem) -> impl Iterator<Item = Effect> {
    let status = item.status();
    let of_routes = item.replicas.iter().map(|replica| replica.revision());
    let of_status = [status.current_revision, status.deploying_revision, status.previous_revision, status.failed_revision];
    let wanted = item.wanted_revision().map(|revision| revision.number);
    let in_use: Vec<i64> = of_routes.chain(of_status.into_iter().flatten()).chain(wanted).collect();
    let surplus = surplus(&item.revisions, &in_use, item.spec().revision_history_limit);
    let delete = |revision: &crate::deployment::revision::Revision| Effect::DeleteRevision {
        name: revision.name.clone(),
        uid: revision.uid.clone(),
    };
    surplus.into_iter().map(delete).collect::<Vec<_>>().into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deployment::handlers::testing::{Case, snapshot};

    fn effects(case: Case) -> Vec<Effect> {
        reconcile(&snapshot(), &case.item()).effects
    }

    #[test]
    fn rc_003_a_replica_without_a_route_gets_one() {
        let effects = effects(Case::new(1).running(1, 900).ready().without_route("d-lost"));
        assert!(matches!(&effects[..], [Effect::CreateRoute(planned)] if planned.name == "d-lost"), "{effects:?}");
    }

    #[test]
    fn a_missing_service_and_budget_are_restored() {
        let restored = effects(Case::new(4).running(4, 900).ready().without_service());
        assert_eq!(restored, [Effect::ApplyService { port: 80, target_port: 8080 }, Effect::ApplyBudget { min_available: 3 }],);
        assert_eq!(effects(Case::new(1).running(1, 900).ready()), [], "one replica has no budget: a node drain must end");
    }
}
