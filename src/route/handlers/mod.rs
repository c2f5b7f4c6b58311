//! The handlers of routes: one file each with its row and its rule, and the table that lists them.

mod check_running;
mod end_routes;
mod evict;
mod finalize_routes;
mod health_check;
mod provision;
mod service_discovery_sync;
mod terminate;
#[cfg(test)]
pub(crate) mod testing;

use super::routes::Routes;
use crate::api::{Health, RoutePhase, Traffic};
use crate::lifecycle::{self, handlers};

pub type Handler = lifecycle::Handler<Routes>;
pub type Verdict = lifecycle::Verdict<Routes>;
pub type Outcome = lifecycle::Outcome<Routes>;
pub type Transitions = lifecycle::Transitions<Routes>;
pub type Decide = lifecycle::Decide<Routes>;
pub type Mode = lifecycle::Mode<Routes>;
pub type After = lifecycle::After<Routes>;
pub type To = lifecycle::To<RoutePhase>;

/// Two handlers with the same lock never run at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LockId {
    Terminating,
}

/// How often the creation of a session may fail in a row.
pub const MAX_ATTEMPTS: i32 = 5;

/// The changes that a verdict makes in a route's status, apart from its progress.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change {
    pub health: Option<Health>,
    pub traffic: Option<Traffic>,
    /// The replica ends by itself.
    pub failed: bool,
}

handlers! {
    Routes:
    provision => Provision,
    health_check => HealthCheck,
    check_running => CheckRunning,
    evict => Evict,
    terminate => Terminate,
    service_discovery_sync => ServiceDiscoverySync,
    end_routes => EndRoutes,
    finalize_routes => FinalizeRoutes,
}

/// The parts of a row that most handlers of routes share.
const ROW: Handler = Handler::base(HandlerName::Provision);

impl Verdict {
    /// Records that the replica ends by itself.
    pub fn failed(mut self) -> Self {
        self.change.failed = true;
        self
    }

    pub fn health(mut self, health: Health) -> Self {
        self.change.health = Some(health);
        self
    }

    pub fn traffic(mut self, traffic: Traffic) -> Self {
        self.change.traffic = Some(traffic);
        self
    }
}
