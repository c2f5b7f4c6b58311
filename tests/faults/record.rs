//! Records every version of a plan's objects, in the order of their resource versions.

use std::sync::{Arc, Mutex};

use chrono::{DateTime, Utc};
use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{WatchEvent, WatchParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use sokovan::api::{Deployment, Kernel, Route, Session};
use tokio::task::JoinSet;

use crate::common::eventually;

#[derive(Clone, Debug)]
pub enum Object {
    Session(Box<Session>),
    Kernel(Box<Kernel>),
    Pod(Box<Pod>),
    Deployment(Box<Deployment>),
    Route(Box<Route>),
    Service(Box<Service>),
    Slice(Box<EndpointSlice>),
    Budget(Box<PodDisruptionBudget>),
    Revision(Box<ControllerRevision>),
}

#[derive(Clone, Debug)]
pub struct Version {
    pub number: u64,
    /// When the watch reported it.
    pub seen: DateTime<Utc>,
    pub deleted: bool,
    pub object: Object,
}

pub struct Recording {
    versions: Arc<Mutex<Vec<Version>>>,
    _watches: JoinSet<()>,
}

impl Recording {
    /// Starts to record. The namespace must be empty.
    pub async fn start(client: &Client, namespace: &str) -> Self {
        let versions = Arc::default();
        let mut watches = JoinSet::new();
        follow::<Session>(client, namespace, &versions, &mut watches, |s| Object::Session(Box::new(s))).await;
        follow::<Kernel>(client, namespace, &versions, &mut watches, |k| Object::Kernel(Box::new(k))).await;
        follow::<Pod>(client, namespace, &versions, &mut watches, |p| Object::Pod(Box::new(p))).await;
        follow::<Deployment>(client, namespace, &versions, &mut watches, |d| Object::Deployment(Box::new(d))).await;
        follow::<Route>(client, namespace, &versions, &mut watches, |r| Object::Route(Box::new(r))).await;
        follow::<Service>(client, namespace, &versions, &mut watches, |s| Object::Service(Box::new(s))).await;
        follow::<EndpointSlice>(client, namespace, &versions, &mut watches, |s| Object::Slice(Box::new(s))).await;
        follow::<PodDisruptionBudget>(client, namespace, &versions, &mut watches, |b| Object::Budget(Box::new(b))).await;
        follow::<ControllerRevision>(client, namespace, &versions, &mut watches, |r| Object::Revision(Box::new(r))).await;
        Self { versions, _watches: watches }
    }

    pub fn versions(&self) -> Vec<Version> {
        let mut versions = self.versions.lock().expect("no panic").clone();
        versions.sort_by_key(|version| version.number);
        versions
    }

    pub fn count(&self) -> usize {
        self.versions.lock().expect("no panic").len()
    }
}

async fn follow<K>(
    client: &Client,
    namespace: &str,
    versions: &Arc<Mutex<Vec<Version>>>,
    watches: &mut JoinSet<()>,
    wrap: fn(K) -> Object,
) where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    // A cluster that has just started may not answer yet.
    let list = eventually("a first list", || async { api.list(&Default::default()).await.map_err(|e| e.to_string()) }).await;
    let start = list.metadata.resource_version.unwrap_or_default();
    let events = api.watch(&WatchParams::default().timeout(290), &start).await.expect("a watch");
    let versions = versions.clone();
    watches.spawn(async move {
        let mut events = std::pin::pin!(events);
        while let Some(Ok(event)) = events.next().await {
            let (object, deleted) = match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => (object, false),
                WatchEvent::Deleted(object) => (object, true),
                _ => continue,
            };
            let number = object.resource_version().and_then(|version| version.parse().ok()).unwrap_or_default();
            versions.lock().expect("no panic").push(Version { number, seen: Utc::now(), deleted, object: wrap(object) });
        }
    });
}
