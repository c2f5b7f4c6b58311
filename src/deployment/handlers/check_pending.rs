//! check-pending: checks a new deployment, and waits until one replica fits.

use super::replicas::{carried_out, report};
use super::{Change, Decide, Deployments, Handler, HandlerName, LockId, Mode, ROW as BASE, To, Transitions, Verdict};
use crate::api::{Cause, DeploymentPhase, FINALIZER_DEPLOYMENT, Failures, Reason};
use crate::deployment::effect::Effect;
use crate::deployment::invalid::Invalid;
use crate::deployment::population::has_failed;
use crate::deployment::revision::next_number;
use crate::deployment::snapshot::{DeploymentItem, Snapshot};
use crate::deployment::status::is_outdated;
use crate::lifecycle::{Failure, Trigger, exits};

exits!(Deployments: Pending, Failed);

pub static ROW: Handler = Handler {
    name: HandlerName::CheckPending,
    targets: &[DeploymentPhase::Pending, DeploymentPhase::Failed],
    transitions: Transitions { success: To::phase(DeploymentPhase::Provisioning), exits: Exit::PHASES, ..Transitions::NONE },
    mode: Mode::Evaluates,
    wakes_on: &[Trigger::CapacityFreed, Trigger::TenancyChanged, Trigger::NodeChanged],
    lock: Some(LockId::Pending),
    decide: Decide::Each(check),
    ..BASE
};

fn check(snapshot: &Snapshot, item: &DeploymentItem) -> Verdict {
    let resolved = item.content.clone().and_then(|content| Ok((content.session(item.spec())?, content)));
    if item.phase() == DeploymentPhase::Failed {
        return failed(snapshot, item, resolved.is_ok());
    }
    let (session, content) = match resolved {
        Ok(resolved) => resolved,
        Err(Invalid(message)) => return Verdict::success_to(Exit::Failed).because(Reason::InvalidTemplate, message),
    };
    if !item.deployment.metadata.finalizers.iter().flatten().any(|name| name == FINALIZER_DEPLOYMENT) {
        return Verdict::idle().effects(vec![Effect::HoldDeployment]);
    }
    if snapshot.group.is_none() {
        let name = snapshot.group_name.as_ref().map_or("for this project and type", |name| name.as_str());
        let message = format!("there is no scaling group {name}");
        return Verdict::failure(Failure::new(Cause::Hold, Reason::ScalingGroupNotFound, message));
    }
    if let Some(refusal) = item.no_room.as_ref().filter(|_| item.spec().replicas > 0) {
        let cause = refusal.cause.unwrap_or(Cause::Hold);
        return Verdict::failure(Failure::new(cause, refusal.reason, refusal.message.clone()));
    }
    let number = item.wanted_revision().map(|revision| revision.number);
    let target_port = session.serving.map_or(0, |serving| serving.port);
    let mut effects = vec![Effect::ApplyService { port: item.spec().service.port, target_port }];
    if number.is_none() {
        effects.push(Effect::CreateRevision { number: next_number(&item.revisions), content: Box::new(content) });
    }
    let deploys = Some(number.unwrap_or_else(|| next_number(&item.revisions)));
    // Earlier failures of the revision do not count against another try.
    let failures = Failures { counted: item.status().failures.counted.clone(), ..Failures::default() };
    let failures = (item.status().failures != failures).then_some(failures);
    Verdict::success().effects(effects).change(Change { deploys, failures, ..Change::default() })
}

/// A failed deployment begins again when its template or the annotation `sokovan.dev/retry` changes. Until then, its replicas end.
fn failed(snapshot: &Snapshot, item: &DeploymentItem, is_valid: bool) -> Verdict {
    let status = item.status();
    let is_same = match item.wanted_revision() {
        Some(wanted) => has_failed(item, status, wanted.number),
        None => !is_valid,
    };
    if !is_same {
        return Verdict::success_to(Exit::Pending);
    }
    let numbers = match status.reason.filter(|_| is_outdated(snapshot, item)) {
        Some(reason) => Verdict::skipped(reason, status.message.clone().unwrap_or_default()),
        None => Verdict::idle(),
    };
    report(snapshot, item, numbers.effects(carried_out(item)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deployment::handlers::testing::{Case, leads, refusal, snapshot};
    use crate::deployment::handlers::{Outcome, Verdict};

    fn checked(case: Case) -> Verdict {
        check(&snapshot(), &case.phase(DeploymentPhase::Pending).item())
    }

    #[test]
    fn cd_001_a_new_deployment_gets_a_revision_and_a_service_and_its_replicas_are_requested() {
        let verdict = checked(Case::new(3).without_revisions());
        assert_eq!(leads(&ROW, &verdict), Some(DeploymentPhase::Provisioning));
        assert!(matches!(&verdict.effects[..], [Effect::ApplyService { .. }, Effect::CreateRevision { number: 1, .. }]));
        assert_eq!(verdict.change.deploys, Some(1));
    }

    #[test]
    fn cd_002_a_deployment_without_room_stays_pending_with_the_reason() {
        let verdict = checked(Case::new(3).no_room(refusal()));
        let Outcome::Failure(failure) = &verdict.outcome else { panic!("it waits: {:?}", verdict.outcome) };
        assert_eq!((failure.cause, failure.reason), (Cause::Capacity, Reason::NoAvailableNode));
        assert!(verdict.effects.is_empty());
        assert_eq!(leads(&ROW, &checked(Case::new(0).no_room(refusal()))), Some(DeploymentPhase::Provisioning));
    }

    #[test]
    fn cd_003_a_deployment_with_an_invalid_image_fails_until_it_changes() {
        let wrong = |case: Case| case.spec(|spec| spec.template.kernels[0].image = "Not/An/Image".into());
        let verdict = checked(wrong(Case::new(1)).without_revisions());
        assert_eq!(leads(&ROW, &verdict), Some(DeploymentPhase::Failed));
        let failed = |case: Case| check(&snapshot(), &case.phase(DeploymentPhase::Failed).item());
        assert!(matches!(failed(wrong(Case::new(1)).without_revisions()).outcome, Outcome::Idle));
        assert_eq!(leads(&ROW, &failed(Case::new(1).without_revisions())), Some(DeploymentPhase::Pending));
    }

    #[test]
    fn a_failed_deployment_ends_its_replicas_and_forgets_its_failures_when_it_is_tried_again() {
        let hopeless = |status: &mut crate::api::DeploymentStatus| {
            (status.current_revision, status.failed_revision) = (None, Some(1));
            status.failures = Failures { revision: 1, count: 5, ..Failures::default() };
        };
        let failed = Case::new(2).provisioning(2).leaving(2).phase(DeploymentPhase::Failed).status(hopeless);
        assert!(matches!(
            check(&snapshot(), &failed.item()).effects[..],
            [Effect::DeleteRoute { .. }, Effect::DeleteRoute { .. }]
        ));
        let again = checked(Case::new(2).status(hopeless));
        assert_eq!(again.change.failures.expect("no failures").count, 0);
    }

    #[test]
    fn a_deployment_is_held_before_anything_of_it_exists() {
        let verdict = checked(Case::new(1).without_finalizer());
        assert_eq!(verdict.effects, [Effect::HoldDeployment]);
        assert!(matches!(verdict.outcome, Outcome::Idle));
    }
}
