//! Equivalence classes: sessions with equal requests share one object, so that each class is validated and planned once per
//! cycle.

use std::collections::{BTreeSet, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use crate::api::{
    AccessKey, Amount, ClusterMode, NodeName, ResourceName, Resources, Session, SessionType, Spread, main_first, requested,
};
use crate::views::{ClaimKey, Mount, claims_of, mounts};

/// The part of a session's spec that decides on which nodes it fits.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Request {
    pub mode: ClusterMode,
    pub private: bool,
    /// The uid of the deployment whose replica the session is.
    pub deployment: Option<String>,
    /// Whether it avoids nodes that run other replicas.
    pub spread: Spread,
    /// By role, in the order of allocation: main first.
    pub kernels: Vec<KernelRequest>,
}

/// The request of each kernel of one role.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KernelRequest {
    pub role: String,
    pub replicas: i32,
    /// Includes the one pod of the kernel.
    pub resources: Resources,
    pub architecture: Option<String>,
    /// If not empty, only these nodes may run the kernel.
    pub designated: Vec<NodeName>,
    /// The kernel must run on a node that can reach the volumes of these claims.
    pub claims: BTreeSet<ClaimKey>,
}

/// Everything that decides about a session, except what each session has for itself: dependencies, start time and its place
/// in the queue.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct EquivalenceClass {
    pub request: Arc<Request>,
    pub access_key: AccessKey,
    pub namespace: String,
    pub type_: SessionType,
    pub mounts: Vec<Mount>,
    pub service_account: Option<String>,
    /// The sum of all kernels' requests, without the resource `pods`.
    pub total: Resources,
    pub containers: i64,
}

/// Holds each request and each class once.
#[derive(Debug, Default)]
pub struct EquivalenceClasses {
    requests: HashSet<Arc<Request>>,
    classes: HashSet<Arc<EquivalenceClass>>,
    /// Above this many classes, unused ones are removed.
    capacity: usize,
}

impl EquivalenceClasses {
    /// Returns the class of a session. Equal sessions get the same object.
    pub fn of(&mut self, session: &Session) -> Arc<EquivalenceClass> {
        let request = interned(&mut self.requests, request_of(session));
        let class = EquivalenceClass {
            access_key: session.spec.access_key.clone(),
            namespace: session.metadata.namespace.clone().unwrap_or_default(),
            type_: session.spec.type_,
            mounts: mounts(session),
            service_account: session.spec.service_account_name.clone(),
            containers: request.kernels.iter().map(|kernel| i64::from(kernel.replicas)).sum(),
            total: requested(session),
            request,
        };
        let class = interned(&mut self.classes, class);
        if self.classes.len() > self.capacity {
            self.classes.retain(|class| Arc::strong_count(class) > 1);
            self.requests.retain(|request| Arc::strong_count(request) > 1);
            self.capacity = (2 * self.classes.len()).max(1024);
        }
        class
    }
}

fn interned<T: Eq + Hash>(known: &mut HashSet<Arc<T>>, new: T) -> Arc<T> {
    if let Some(known) = known.get(&new) {
        return known.clone();
    }
    let new = Arc::new(new);
    known.insert(new.clone());
    new
}

fn request_of(session: &Session) -> Request {
    let spec = &session.spec;
    let kernels = main_first(&spec.kernels).map(|kernel| {
        let mut resources = Resources::from(&kernel.resources);
        resources.set(ResourceName::Pods, Amount::from_units(1));
        KernelRequest {
            role: kernel.role.clone(),
            replicas: kernel.replicas,
            resources,
            architecture: kernel.architecture.clone(),
            designated: kernel.designated_nodes.clone(),
            claims: claims_of(session, kernel),
        }
    });
    Request {
        mode: spec.cluster_mode,
        private: spec.private,
        deployment: session.deployment_uid().cloned(),
        spread: spec.serving.as_ref().map(|serving| serving.spread).unwrap_or_default(),
        kernels: kernels.collect(),
    }
}
