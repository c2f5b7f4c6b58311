//! check-replica: compares the replicas with those that there shall be, and notices a new revision.

use super::replicas::{carried_out, missing, report, state_of, wake_at};
use super::{After, Change, Decide, Deployments, Handler, HandlerName, LockId, ROW as BASE, Transitions, Verdict};
use crate::api::{DeploymentPhase, DeploymentStatus, Reason, Rollout, RolloutStep};
use crate::deployment::effect::Effect;
use crate::deployment::failures;
use crate::deployment::invalid::Invalid;
use crate::deployment::population::{Population, target};
use crate::deployment::revision::next_number;
use crate::deployment::snapshot::{DeploymentItem, Snapshot};
use crate::deployment::status::is_outdated;
use crate::lifecycle::exits;

exits!(Deployments: Scaling, Deploying);

pub static ROW: Handler = Handler {
    name: HandlerName::CheckReplica,
    targets: &[DeploymentPhase::Provisioning, DeploymentPhase::Ready, DeploymentPhase::Scaling, DeploymentPhase::Deploying],
    transitions: Transitions { exits: Exit::PHASES, ..Transitions::NONE },
    follows: &[After::Reaching(DeploymentPhase::Provisioning)],
    lock: Some(LockId::Replica),
    decide: Decide::Each(check),
    ..BASE
};

fn check(snapshot: &Snapshot, item: &DeploymentItem) -> Verdict {
    let status = item.status();
    let valid = item.content.as_ref().map_err(Clone::clone).and_then(|content| content.session(item.spec()).map(|_| content));
    let deploys = status.deploying_revision.or(status.current_revision);
    let target = match (target(item), &valid, deploys) {
        (Some(target), Ok(_), _) => target,
        // The running replicas go on.
        (_, Err(_), Some(deploys)) => deploys,
        (_, Err(Invalid(message)), None) => return Verdict::skipped(Reason::InvalidTemplate, message.clone()),
        // The revision was made in the step before and is not visible yet.
        (None, Ok(_), Some(deploys)) if item.phase() == DeploymentPhase::Provisioning => deploys,
        (None, Ok(content), _) => {
            let revision = Effect::CreateRevision { number: next_number(&item.revisions), content: Box::new((*content).clone()) };
            return Verdict::idle().effects(vec![revision]);
        }
    };
    if deploys != Some(target) {
        return begin(snapshot, item, status, target);
    }
    let change = Change { failures: failures::counted(snapshot, item, target), ..Change::default() };
    let population = Population::of(snapshot, item, target);
    let moves = matches!(item.phase(), DeploymentPhase::Provisioning | DeploymentPhase::Ready);
    let differs = population.counted() != population.desired || population.all_old() > 0;
    if moves && (differs || item.phase() == DeploymentPhase::Provisioning) {
        let (reason, message) = missing(snapshot, item, &population, &change);
        return Verdict::success_to(Exit::Scaling).because(reason, message).change(change);
    }
    let verdict = if change.is_some() {
        Verdict::success().change(change.clone())
    } else if let (Err(Invalid(message)), DeploymentPhase::Ready) = (&valid, item.phase()) {
        Verdict::skipped(Reason::InvalidTemplate, message.clone())
    } else if item.phase() == DeploymentPhase::Ready {
        explain(snapshot, item, &population, &change)
    } else {
        Verdict::idle() // scaling and deploying report
    };
    let wake = wake_at(snapshot, item, &population, &change);
    report(snapshot, item, verdict.effects(carried_out(item)).wake_at(wake))
}

/// Reports the numbers of a deployment that keeps its replicas.
fn explain(snapshot: &Snapshot, item: &DeploymentItem, population: &Population<'_>, change: &Change) -> Verdict {
    if !is_outdated(snapshot, item) {
        return Verdict::idle();
    }
    let (reason, message) = state_of(snapshot, item, population, change);
    Verdict::skipped(reason, message)
}

/// Begins a rollout, goes on to a third revision, or goes back to the current one.
fn begin(snapshot: &Snapshot, item: &DeploymentItem, status: &DeploymentStatus, target: i64) -> Verdict {
    let message = match status.current_revision {
        Some(current) if current == target => format!("back to revision {target}"),
        Some(current) => format!("revision {target} replaces revision {current}"),
        None => format!("revision {target} is the first to serve"),
    };
    let rollout = Rollout {
        step: RolloutStep::Replacing,
        since: snapshot.now,
        progressed_at: snapshot.now,
        best: 0,
        paused_at: None,
        message: String::new(),
    };
    let change = Change { deploys: Some(target), rollout: Some(rollout), ..Change::default() };
    let verdict = match item.phase() {
        DeploymentPhase::Deploying => Verdict::success(),
        _ => Verdict::success_to(Exit::Deploying),
    };
    verdict.because(Reason::RollingOut, message).change(change)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deployment::handlers::Outcome;
    use crate::deployment::handlers::testing::{Case, leads, snapshot};

    fn checked(case: Case) -> Verdict {
        check(&snapshot(), &case.item())
    }

    #[test]
    fn cr_001_a_deployment_with_its_replicas_stays_as_it_is() {
        let verdict = checked(Case::new(3).running(3, 900).ready());
        assert!(matches!(verdict.outcome, Outcome::Idle), "{:?}", verdict.outcome);
        assert!(verdict.effects.is_empty());
    }

    #[test]
    fn cr_002_cr_003_too_few_or_too_many_replicas_are_scaled() {
        for running in [2, 4] {
            assert_eq!(leads(&ROW, &checked(Case::new(3).running(running, 900).ready())), Some(DeploymentPhase::Scaling));
        }
    }

    #[test]
    fn cr_004_a_replica_in_eviction_does_not_count_and_is_replaced() {
        assert_eq!(leads(&ROW, &checked(Case::new(3).running(2, 900).evicting(1).ready())), Some(DeploymentPhase::Scaling));
        let unhealthy = checked(Case::new(3).running(2, 900).unhealthy(1).ready());
        assert!(leads(&ROW, &unhealthy).is_none(), "it is replaced only once its route is evicted");
    }

    #[test]
    fn rc_001_recorded_numbers_that_differ_from_what_is_seen_are_corrected() {
        let wrong = Case::new(3).running(3, 900).ready().status(|status| status.available = 1);
        assert!(matches!(checked(wrong).outcome, Outcome::Skipped(Reason::ReplicasAvailable, _)));
    }

    #[test]
    fn with_an_invalid_template_what_runs_goes_on_and_is_replaced() {
        let wrong = |case: Case| case.ready().spec(|spec| spec.template.kernels[0].image = "Not/An/Image".into());
        let complete = checked(wrong(Case::new(3).running(3, 900)));
        assert!(matches!(complete.outcome, Outcome::Skipped(Reason::InvalidTemplate, _)), "{:?}", complete.outcome);
        assert_eq!(leads(&ROW, &checked(wrong(Case::new(3).running(2, 900)))), Some(DeploymentPhase::Scaling));
    }

    #[test]
    fn a_changed_template_makes_a_revision_and_then_a_rollout() {
        let image = |spec: &mut crate::api::DeploymentSpec| spec.template.kernels[0].image = "example.com/server:2".into();
        let first = checked(Case::new(3).running(3, 900).ready().spec(image));
        assert!(matches!(&first.effects[..], [Effect::CreateRevision { number: 2, .. }]));
        let second = checked(Case::new(3).running(3, 900).ready().spec(image).with_wanted_revision(2));
        assert_eq!(leads(&ROW, &second), Some(DeploymentPhase::Deploying));
        assert_eq!(second.change.deploys, Some(2));
    }

    #[test]
    fn a_revision_that_was_rolled_back_is_tried_again_only_on_request() {
        let failed = || {
            let image = |spec: &mut crate::api::DeploymentSpec| spec.template.kernels[0].image = "example.com/server:2".into();
            let case = Case::new(3).running(3, 900).ready().spec(image).with_wanted_revision(2);
            case.status(|status| status.failed_revision = Some(2))
        };
        assert!(matches!(checked(failed()).outcome, Outcome::Idle));
        assert_eq!(leads(&ROW, &checked(failed().retry("again"))), Some(DeploymentPhase::Deploying));
    }
}
