//! destroying: drains the replicas of an ending deployment, then removes what else belongs to it.

use super::replicas::delete_route;
use super::{Decide, Handler, HandlerName, LockId, ROW as BASE, To, Transitions, Verdict};
use crate::api::DeploymentPhase;
use crate::deployment::effect::Effect;
use crate::deployment::snapshot::{DeploymentItem, Snapshot};

pub static ROW: Handler = Handler {
    name: HandlerName::Destroying,
    targets: &[DeploymentPhase::Destroying],
    transitions: Transitions { success: To::phase(DeploymentPhase::Destroyed), ..Transitions::NONE },
    lock: Some(LockId::Destroying),
    decide: Decide::Each(destroy),
    ..BASE
};

fn destroy(_: &Snapshot, item: &DeploymentItem) -> Verdict {
    if item.spec().force {
        return Verdict::success();
    }
    if !item.replicas.is_empty() || !item.without_route.is_empty() {
        return Verdict::idle().effects(replicas(item));
    }
    match remains(item) {
        effects if effects.is_empty() => Verdict::success(),
        effects => Verdict::idle().effects(effects),
    }
}

/// Ends every replica, each with its drain.
pub fn replicas(item: &DeploymentItem) -> Vec<Effect> {
    let routes = item.replicas.iter().filter(|replica| !replica.is_deleted()).map(delete_route);
    let sessions = item.without_route.iter();
    let sessions = sessions.map(|(name, uid)| Effect::DeleteSession { name: name.clone(), uid: uid.clone() });
    routes.chain(sessions).collect()
}

/// Removes what belongs to a deployment besides its replicas.
pub fn remains(item: &DeploymentItem) -> Vec<Effect> {
    let service = item.service.map(|_| Effect::DeleteService);
    let budget = item.budget.map(|_| Effect::DeleteBudget);
    let revisions = item.revisions.iter();
    let revisions = revisions.map(|revision| Effect::DeleteRevision { name: revision.name.clone(), uid: revision.uid.clone() });
    service.into_iter().chain(budget).chain(revisions).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deployment::handlers::Outcome;
    use crate::deployment::handlers::testing::{Case, leads, snapshot};

    fn destroyed(case: Case) -> Verdict {
        destroy(&snapshot(), &case.phase(DeploymentPhase::Destroying).item())
    }

    #[test]
    fn dd_001_a_deployment_ends_its_replicas_then_removes_the_rest_and_is_destroyed() {
        let first = destroyed(Case::new(2).running(2, 900));
        assert!(first.effects.iter().all(|effect| matches!(effect, Effect::DeleteRoute { .. })) && first.effects.len() == 2);
        let second = destroyed(Case::new(2));
        assert!(matches!(&second.effects[..], [Effect::DeleteService, Effect::DeleteRevision { .. }]), "{:?}", second.effects);
        let third = destroyed(Case::new(2).without_service().without_revisions());
        assert_eq!(leads(&ROW, &third), Some(DeploymentPhase::Destroyed));
    }

    #[test]
    fn dd_002_a_deployment_waits_for_replicas_that_are_ending() {
        let verdict = destroyed(Case::new(2).terminating(1));
        assert!(matches!(verdict.outcome, Outcome::Idle) && verdict.effects.is_empty(), "they are deleted already");
    }

    #[test]
    fn dd_003_a_forced_deployment_is_destroyed_at_once() {
        let verdict = destroyed(Case::new(2).running(2, 900).spec(|spec| spec.force = true));
        assert_eq!(leads(&ROW, &verdict), Some(DeploymentPhase::Destroyed));
    }
}
