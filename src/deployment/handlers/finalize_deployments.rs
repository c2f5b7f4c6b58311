//! finalize-deployments: sweeps what a destroyed deployment left, and removes it once it was deleted.

use super::destroying::{remains, replicas};
use super::{Decide, Handler, HandlerName, ROW as BASE, Verdict};
use crate::api::{DeploymentPhase, FINALIZER_DEPLOYMENT, TerminationMode};
use crate::deployment::effect::Effect;
use crate::deployment::snapshot::{DeploymentItem, Snapshot};

pub static ROW: Handler = Handler {
    name: HandlerName::FinalizeDeployments,
    targets: &[DeploymentPhase::Destroyed],
    decide: Decide::Each(finalize),
    ..BASE
};

fn finalize(_: &Snapshot, item: &DeploymentItem) -> Verdict {
    let sessions = item.replicas.iter().filter_map(|replica| replica.session.as_ref());
    let alive =
        sessions.filter(|session| !session.phase().is_terminal() && session.spec.termination.mode != TerminationMode::Forced);
    let forced = alive.filter_map(|session| session.metadata.name.clone()).map(|name| Effect::ForceSession { name });
    let mut effects: Vec<Effect> = forced.collect();
    effects.extend(replicas(item));
    if item.replicas.is_empty() && item.without_route.is_empty() {
        effects.extend(remains(item));
        let is_held = item.deployment.metadata.finalizers.iter().flatten().any(|name| name == FINALIZER_DEPLOYMENT);
        if effects.is_empty() && item.is_deleted() && is_held {
            effects.push(Effect::ReleaseDeployment);
        }
    }
    Verdict::idle().effects(effects)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deployment::handlers::testing::{Case, snapshot};

    fn effects(case: Case) -> Vec<Effect> {
        finalize(&snapshot(), &case.phase(DeploymentPhase::Destroyed).item()).effects
    }

    #[test]
    fn a_destroyed_deployment_is_released_once_nothing_of_it_is_left() {
        let clean = || Case::new(1).without_service().without_revisions();
        assert_eq!(effects(clean()), [], "its record is kept");
        assert_eq!(effects(clean().deleted()), [Effect::ReleaseDeployment]);
        assert!(matches!(&effects(clean().running(1, 900).deleted())[..], [Effect::DeleteRoute { .. }]));
    }
}
