//! What a session asks for, in a form in which equal ones are the same object, so that each is judged once.

use std::collections::{BTreeSet, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use crate::api::{
    AccessKey, Amount, ClusterMode, NodeName, ResourceName, Resources, Session, SessionType, main_first, requested,
};
use crate::views::{ClaimKey, Mount, claims_of, mounts};

/// What is asked of the nodes.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Request {
    pub mode: ClusterMode,
    pub private: bool,
    /// The uid of the deployment whose replica it is.
    pub deployment: Option<String>,
    /// By role, in the order of allocation: main first.
    pub kernels: Vec<KernelRequest>,
}

/// What each kernel of one role asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KernelRequest {
    pub role: String,
    pub replicas: i32,
    /// With the one pod it takes.
    pub resources: Resources,
    pub architecture: Option<String>,
    /// Only these come into question, if any are named.
    pub designated: Vec<NodeName>,
    /// What its claims are bound to must be reached from where it runs.
    pub claims: BTreeSet<ClaimKey>,
}

/// All by which sessions are judged, but for what is each session's own: dependencies, start time, place in the queue.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct EquivalenceClass {
    pub request: Arc<Request>,
    pub access_key: AccessKey,
    pub namespace: String,
    pub type_: SessionType,
    /// What it asks of each of its volume claims.
    pub mounts: Vec<Mount>,
    /// What all its kernels ask for together, pods aside.
    pub total: Resources,
    pub containers: i64,
}

/// Every request and kind there is, once.
#[derive(Debug, Default)]
pub struct EquivalenceClasses {
    requests: HashSet<Arc<Request>>,
    classes: HashSet<Arc<EquivalenceClass>>,
    /// Beyond so many, those of no use any more are let go.
    most: usize,
}

impl EquivalenceClasses {
    /// The kind of a session.
    pub fn of(&mut self, session: &Session) -> Arc<EquivalenceClass> {
        let request = same(&mut self.requests, request_of(session));
        let class = EquivalenceClass {
            access_key: session.spec.access_key.clone(),
            namespace: session.metadata.namespace.clone().unwrap_or_default(),
            type_: session.spec.type_,
            mounts: mounts(session),
            containers: request.kernels.iter().map(|kernel| i64::from(kernel.replicas)).sum(),
            total: requested(session),
            request,
        };
        let class = same(&mut self.classes, class);
        if self.classes.len() > self.most {
            self.classes.retain(|class| Arc::strong_count(class) > 1);
            self.requests.retain(|request| Arc::strong_count(request) > 1);
            self.most = (2 * self.classes.len()).max(1024);
        }
        class
    }
}

fn same<T: Eq + Hash>(known: &mut HashSet<Arc<T>>, new: T) -> Arc<T> {
    if let Some(known) = known.get(&new) {
        return known.clone();
    }
    let new = Arc::new(new);
    known.insert(new.clone());
    new
}

fn request_of(session: &Session) -> Request {
    let spec = &session.spec;
    let namespace = session.metadata.namespace.as_deref().unwrap_or_default();
    let kernels = main_first(&spec.kernels).map(|kernel| {
        let mut resources = Resources::from(&kernel.resources);
        resources.set(ResourceName::Pods, Amount::from_units(1));
        KernelRequest {
            role: kernel.role.clone(),
            replicas: kernel.replicas,
            resources,
            architecture: kernel.architecture.clone(),
            designated: kernel.designated_nodes.clone(),
            claims: claims_of(namespace, kernel),
        }
    });
    Request { mode: spec.cluster_mode, private: spec.private, deployment: session.deployment_uid(), kernels: kernels.collect() }
}
