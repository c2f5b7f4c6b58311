//! scaling: makes missing replicas and ends those that are too many.

use super::replicas::{carried_out, every_name, missing, recorded, report, wake_at};
use super::{After, Change, Decide, Deployments, Handler, HandlerName, LockId, ROW as BASE, To, Transitions, Verdict};
use crate::api::{DeploymentPhase, Reason};
use crate::deployment::failures;
use crate::deployment::population::Population;
use crate::deployment::rollout::rolling;
use crate::deployment::snapshot::{DeploymentItem, Snapshot};
use crate::lifecycle::exits;

exits!(Deployments: Failed);

pub static ROW: Handler = Handler {
    name: HandlerName::Scaling,
    targets: &[DeploymentPhase::Scaling],
    transitions: Transitions { success: To::phase(DeploymentPhase::Ready), exits: Exit::PHASES, ..Transitions::NONE },
    follows: &[After::Reaching(DeploymentPhase::Scaling)],
    lock: Some(LockId::Scaling),
    decide: Decide::Each(scale),
    ..BASE
};

fn scale(snapshot: &Snapshot, item: &DeploymentItem) -> Verdict {
    let status = item.status();
    let Some(target) = status.deploying_revision.or(status.current_revision) else { return Verdict::idle() };
    let population = Population::of(snapshot, item, target);
    let change = Change { failures: failures::counted(snapshot, item, target), ..Change::default() };
    let failed = change.failures.as_ref().unwrap_or(&status.failures);
    if status.current_revision.is_none() && failures::is_hopeless(failed, target, population.desired) {
        let message = format!("{} replicas failed in a row, and none ever served: {}", failed.count, failed.message);
        let change = Change { rolls_back: true, leave: every_name(&population), ..change };
        return Verdict::success_to(Exit::Failed).because(Reason::ReplicasFailing, message).change(change);
    }
    let plan = rolling(snapshot, item.spec(), &population);
    let change = recorded(snapshot, item, &population, plan, &change);
    let wake = wake_at(snapshot, item, &population, &change);
    let effects = carried_out(item);
    if population.is_settled() && change.plan.is_empty() && change.leave.is_empty() {
        let change = Change { completes: true, ..change };
        let verdict = Verdict::success().because(Reason::ReplicasAvailable, "every replica is available");
        return verdict.effects(effects).change(change).wake_at(wake);
    }
    let (reason, message) = missing(snapshot, item, &population, &change);
    report(snapshot, item, Verdict::skipped(reason, message).effects(effects).change(change).wake_at(wake))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Failures;
    use crate::deployment::handlers::Outcome;
    use crate::deployment::handlers::testing::{Case, leads, now, snapshot};

    fn scaled(case: Case) -> Verdict {
        scale(&snapshot(), &case.phase(DeploymentPhase::Scaling).item())
    }

    #[test]
    fn sc_001_missing_replicas_are_made() {
        let verdict = scaled(Case::new(3).running(1, 900));
        assert_eq!(verdict.change.plan.len(), 2);
        assert!(verdict.effects.is_empty(), "a replica is made once the status that counts it is written");
        let next = scaled(Case::new(3).running(1, 900).planned(1, 2));
        assert_eq!((next.change.plan.len(), next.effects.len()), (0, 2));
    }

    #[test]
    fn sc_002_superfluous_replicas_end() {
        let verdict = scaled(Case::new(1).running(3, 900));
        assert_eq!((verdict.change.leave.len(), verdict.effects.len()), (2, 0));
        let next = scaled(Case::new(1).running(3, 900).leaving(2));
        assert_eq!((next.change.leave.len(), next.effects.len()), (0, 2));
    }

    #[test]
    fn sc_003_a_large_change_is_made_in_batches_that_grow_once_the_revision_has_served() {
        assert_eq!(scaled(Case::new(500)).change.plan.len(), 10);
        let served = |status: &mut crate::api::DeploymentStatus| {
            status.failures = Failures { revision: 1, has_served: true, ..Failures::default() };
        };
        assert_eq!(scaled(Case::new(500).running(1, 900).status(served)).change.plan.len(), 100);
    }

    #[test]
    fn sc_004_a_deployment_says_for_how_many_replicas_there_is_no_room() {
        let verdict = scaled(Case::new(10).running(3, 900).starving(7, 5));
        let Outcome::Skipped(reason, message) = &verdict.outcome else { panic!("it waits: {:?}", verdict.outcome) };
        assert_eq!(*reason, Reason::NoAvailableNode);
        assert!(message.starts_with("3 of 10 replicas are available; no room for 7: session d-"), "{message}");
        assert!(verdict.change.plan.is_empty() && verdict.change.leave.is_empty());
    }

    #[test]
    fn a_lower_wish_counts_at_once_although_replicas_still_wait() {
        assert_eq!(scaled(Case::new(4).running(3, 900).starving(7, 5)).change.leave.len(), 6);
    }

    #[test]
    fn a_deployment_is_ready_once_every_replica_is_available() {
        assert_eq!(leads(&ROW, &scaled(Case::new(3).running(3, 900))), Some(DeploymentPhase::Ready));
        assert_eq!(leads(&ROW, &scaled(Case::new(3).running(2, 900).provisioning(1))), None);
    }

    #[test]
    fn a_revision_that_never_served_fails_and_ends_its_replicas() {
        let hopeless = |status: &mut crate::api::DeploymentStatus| {
            (status.current_revision, status.deploying_revision) = (None, Some(1));
            status.failures = Failures { revision: 1, count: 5, last_at: Some(now()), ..Failures::default() };
        };
        assert_eq!(leads(&ROW, &scaled(Case::new(3).status(hopeless))), Some(DeploymentPhase::Failed));
    }

    #[test]
    fn a_failing_replica_is_replaced_after_a_pause() {
        let failing = |count| {
            scaled(Case::new(3).running(2, 100).status(|status| {
                status.failures = Failures { revision: 1, count, last_at: Some(now()), has_served: true, ..Failures::default() };
            }))
        };
        assert_eq!(failing(1).change.plan.len(), 1);
        let paused = failing(3);
        assert!(paused.change.plan.is_empty() && paused.wake_at.is_some());
        assert!(matches!(paused.outcome, Outcome::Skipped(Reason::ReplicasFailing, _)));
    }
}
