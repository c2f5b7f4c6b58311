//! end-deployments: ends a deployment that is deleted or set to `desiredState: Destroyed`.

use super::{Decide, Handler, HandlerName, ROW as BASE, To, Transitions, Verdict};
use crate::api::{DeploymentDesiredState, DeploymentPhase, Reason};
use crate::deployment::snapshot::{DeploymentItem, Snapshot};

pub static ROW: Handler = Handler {
    name: HandlerName::EndDeployments,
    targets: &[
        DeploymentPhase::Pending,
        DeploymentPhase::Provisioning,
        DeploymentPhase::Ready,
        DeploymentPhase::Scaling,
        DeploymentPhase::Deploying,
        DeploymentPhase::Failed,
    ],
    transitions: Transitions { success: To::phase(DeploymentPhase::Destroying), ..Transitions::NONE },
    decide: Decide::Each(end),
    ..BASE
};

fn end(_: &Snapshot, item: &DeploymentItem) -> Verdict {
    if item.is_deleted() {
        return Verdict::success().because(Reason::Deleted, "the deployment was deleted");
    }
    match item.spec().desired_state {
        DeploymentDesiredState::Running => Verdict::idle(),
        DeploymentDesiredState::Destroyed => {
            Verdict::success().because(Reason::UserRequested, "its user ended it with desiredState: Destroyed")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deployment::handlers::Outcome;
    use crate::deployment::handlers::testing::{Case, leads, snapshot};

    #[test]
    fn a_deployment_ends_when_it_is_deleted_or_its_user_says_so() {
        let ended = |case: Case| end(&snapshot(), &case.running(1, 900).ready().item());
        assert!(matches!(ended(Case::new(1)).outcome, Outcome::Idle));
        assert_eq!(leads(&ROW, &ended(Case::new(1).deleted())), Some(DeploymentPhase::Destroying));
        let destroyed = Case::new(1).spec(|spec| spec.desired_state = DeploymentDesiredState::Destroyed);
        assert_eq!(leads(&ROW, &ended(destroyed)), Some(DeploymentPhase::Destroying));
    }
}
