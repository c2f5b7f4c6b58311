//! The state of deployments and routes besides their objects: indexes, assumed writes, and the objects that belong to them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::index::Keys;
use super::overlay::Overlay;
use super::table::Key;
use crate::api::DeploymentUid;
use crate::coordinator::Claims;
use crate::coordinator::marks::HandlerMarks;
use crate::deployment::Deployments;
use crate::deployment::revision::Revision;
use crate::deployment::snapshot::ServiceView;
use crate::lifecycle::Subject;
use crate::route::Routes;

/// The state of one kind besides its store.
pub struct KindState<S: Subject> {
    pub overlay: Overlay<S>,
    pub key_of: HashMap<S::Uid, Key>,
    /// Objects whose statuses the API server refuses, and until when they are left alone.
    pub quarantined: HashMap<S::Uid, DateTime<Utc>>,
}

impl<S: Subject> Default for KindState<S> {
    fn default() -> Self {
        Self { overlay: Overlay::default(), key_of: HashMap::new(), quarantined: HashMap::new() }
    }
}

/// The state of deployments and routes besides their stores.
#[derive(Default)]
pub struct ServingState {
    pub deployments: KindState<Deployments>,
    pub routes: KindState<Routes>,
    pub routes_of: Keys<DeploymentUid>,
    pub sessions_of: Keys<DeploymentUid>,
    pub revisions_of: Keys<DeploymentUid>,
    pub slices_of: Keys<DeploymentUid>,
}

/// The marks and claims of one kind.
pub struct Queue<S: Subject> {
    pub marks: Arc<HandlerMarks<S>>,
    pub claims: Arc<Claims<S>>,
}

impl<S: Subject> Default for Queue<S> {
    fn default() -> Self {
        let marks = Arc::new(HandlerMarks::default());
        Self { claims: Arc::new(Claims::new(marks.clone())), marks }
    }
}

/// A revision, and the deployment that it belongs to.
pub struct RevisionRow {
    pub deployment: DeploymentUid,
    pub revision: Arc<Revision>,
}

/// A Service, and the deployment that it belongs to.
pub struct ServiceRow {
    pub deployment: DeploymentUid,
    pub service: ServiceView,
}

/// A deployment's PodDisruptionBudget.
pub struct BudgetRow {
    pub deployment: DeploymentUid,
    pub min_available: i32,
}

/// An EndpointSlice of a deployment's Service.
pub struct TrafficSlice {
    pub deployment: DeploymentUid,
    pub service: String,
    /// The pods that it lists as ready.
    pub ready: BTreeSet<String>,
}
