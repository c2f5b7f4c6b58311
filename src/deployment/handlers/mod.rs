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
use super::snapshot::{DeploymentItem, Snapshot};
use crate::api::{DeploymentPhase, Failures, PlannedReplica, Reason, Rollout};
use crate::lifecycle::{self, CommitMode};

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

/// Declares the names of all handlers and the table of their rows. To add a handler, add its file, its `mod` and a line below.
macro_rules! handlers {
    ($($module:ident => $name:ident,)+) => {
        /// The name of a handler, as history entries, metrics and marks use it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, strum::Display, strum::IntoStaticStr)]
        #[strum(serialize_all = "kebab-case")]
        pub enum HandlerName {
            $($name,)+
        }

        /// The rows of all handlers.
        pub static HANDLERS: &[&Handler] = &[$(&$module::ROW,)+];
    };
}

handlers! {
    check_pending => CheckPending,
    check_replica => CheckReplica,
    scaling => Scaling,
    deploying => Deploying,
    reconcile => Reconcile,
    destroying => Destroying,
    end_deployments => EndDeployments,
    finalize_deployments => FinalizeDeployments,
}

impl lifecycle::HandlerName for HandlerName {
    fn as_str(self) -> &'static str {
        self.into()
    }
}

/// The parts of a row that most handlers of deployments share.
const ROW: Handler = Handler {
    name: HandlerName::CheckPending,
    targets: &[],
    transitions: Transitions::NONE,
    mode: Mode::Waits,
    follows: &[],
    commit: CommitMode::Now,
    wakes_on: &[],
    lock: None,
    overview: None,
    trace: None,
    settings: (),
    decide: Decide::Each(idle),
};

fn idle(_: &Snapshot, _: &DeploymentItem) -> Verdict {
    Verdict::idle()
}

impl Verdict {
    fn change(mut self, change: Change) -> Self {
        self.change = change;
        self
    }
}

/// Declares the exits of a handler: an enum for its verdicts, and the list for its row.
macro_rules! exits {
    ($($phase:ident),+) => {
        #[derive(Clone, Copy)]
        enum Exit {
            $($phase,)+
        }

        impl Exit {
            const PHASES: &[$crate::api::DeploymentPhase] = &[$($crate::api::DeploymentPhase::$phase,)+];
        }

        impl $crate::lifecycle::Exit<$crate::deployment::Deployments> for Exit {
            fn phase(self) -> $crate::api::DeploymentPhase {
                match self {
                    $(Self::$phase => $crate::api::DeploymentPhase::$phase,)+
                }
            }
        }
    };
}
use exits;
