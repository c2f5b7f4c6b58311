//! The handlers of deployments: one file each with its row and its rule, and the table that lists them.

mod check_pending;
mod check_replica;
mod deploying;
mod destroying;
mod end_deployments;
mod finalize_deployments;
mod reconcile;
mod replicas;
mod scaling;
#[cfg(test)]
pub(crate) mod testing;

use super::deployments::Deployments;
use crate::api::{DeploymentPhase, Failures, PlannedReplica, Reason, Rollout};
use crate::lifecycle::{self, handlers};

pub type Handler = lifecycle::Handler<Deployments>;
pub type Verdict = lifecycle::Verdict<Deployments>;
pub type Outcome = lifecycle::Outcome<Deployments>;
pub type Transitions = lifecycle::Transitions<Deployments>;
pub type Decide = lifecycle::Decide<Deployments>;
pub type Mode = lifecycle::Mode<Deployments>;
pub type After = lifecycle::After<Deployments>;
pub type To = lifecycle::To<DeploymentPhase>;

/// Two handlers with the same lock never run at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LockId {
    Pending,
    Replica,
    Scaling,
    Deploying,
    Reconcile,
    Destroying,
}

/// The changes that a verdict makes in a deployment's status, apart from its progress.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Change {
    /// The revision that all replicas shall have from now on.
    pub deploys: Option<i64>,
    /// The revision that is being deployed serves.
    pub completes: bool,
    /// The revision that is being deployed failed.
    pub rolls_back: bool,
    pub rollout: Option<Rollout>,
    /// Why the rollout makes no progress.
    pub stalled: Option<Reason>,
    /// Replicas to make.
    pub plan: Vec<PlannedReplica>,
    /// Replicas to end.
    pub leave: Vec<String>,
    pub failures: Option<Failures>,
}

impl Change {
    /// Whether it changes more than numbers.
    pub fn is_some(&self) -> bool {
        *self != Self { stalled: self.stalled, ..Self::default() }
    }
}

handlers! {
    Deployments:
    check_pending => CheckPending,
    check_replica => CheckReplica,
    scaling => Scaling,
    deploying => Deploying,
    reconcile => Reconcile,
    destroying => Destroying,
    end_deployments => EndDeployments,
    finalize_deployments => FinalizeDeployments,
}

/// The parts of a row that most handlers of deployments share.
const ROW: Handler = Handler::base(HandlerName::CheckPending);

impl Verdict {
    fn change(mut self, change: Change) -> Self {
        self.change = change;
        self
    }
}
