//! A run in a namespace of its own: creates objects, waits for a condition, deletes them.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;
use sokovan::api::{LABEL_PROJECT, Session, SessionPhase};

/// How many requests are in flight at once, for pods and sessions alike.
pub const CONCURRENCY: usize = 32;
/// The timeout of every wait: about half as long again as the longest run took.
pub const PATIENCE: Duration = Duration::from_secs(5400);

/// A namespaced kind whose objects are created and watched.
pub trait Object:
    Resource<Scope = NamespaceResourceScope, DynamicType = ()>
    + Clone
    + DeserializeOwned
    + serde::Serialize
    + std::fmt::Debug
    + Send
    + Sync
    + 'static
{
}
impl Object for Pod {}
impl Object for Session {}
impl Object for Job {}

pub struct Run {
    pub client: Client,
    pub namespace: String,
}

impl Run {
    /// Creates a namespace of the project and waits for its service account.
    pub async fn new(client: &Client, name: &str, project: &str) -> Self {
        let namespace = format!("{name}-{:06x}", rand::random::<u32>() & 0xff_ffff);
        let object = json!({"metadata": {"name": namespace, "labels": {LABEL_PROJECT: project}}});
        let object: Namespace = serde_json::from_value(object).unwrap();
        Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &object).await.unwrap();
        let run = Self { client: client.clone(), namespace };
        while run.api::<ServiceAccount>().get_opt("default").await.unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        run
    }

    pub fn api<K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Creates the objects, and returns the seconds from the first request until `done` is true for all.
    pub async fn create<K: Object>(&self, objects: &[K], done: impl Fn(&K) -> bool) -> f64 {
        self.timed(self.create_all(objects), self.until_all(objects, done)).await
    }

    /// Returns the seconds that both take together.
    pub async fn timed(&self, creating: impl Future<Output = ()>, done: impl Future<Output = ()>) -> f64 {
        let start = Instant::now();
        futures::future::join(creating, done).await;
        start.elapsed().as_secs_f64()
    }

    pub async fn create_all<K: Object>(&self, objects: &[K]) {
        let (api, params) = (self.api::<K>(), PostParams::default());
        let creating = stream::iter(objects).for_each_concurrent(CONCURRENCY, |object| async {
            api.create(&params, object).await.expect("the object can be created");
        });
        creating.await;
    }

    /// Waits until so many pods run, of whatever names.
    pub async fn until_pods_run(&self, count: usize) {
        self.until_count(count, |_: &Pod| true, pod_runs).await;
    }

    /// Waits until `done` is true for all objects.
    pub async fn until_all<K: Object>(&self, objects: &[K], done: impl Fn(&K) -> bool) {
        let names: HashSet<String> = objects.iter().map(ResourceExt::name_any).collect();
        self.until_count(names.len(), |object: &K| names.contains(&object.name_any()), done).await;
    }

    async fn until_count<K: Object>(&self, count: usize, counts: impl Fn(&K) -> bool, done: impl Fn(&K) -> bool) {
        let watching = async {
            let mut watch = watcher(self.api::<K>(), watcher::Config::default()).applied_objects().boxed();
            let mut reached = HashSet::new();
            while reached.len() < count {
                let object = watch.try_next().await.expect("the watch works").expect("the watch does not end");
                if counts(&object) && done(&object) {
                    reached.insert(object.name_any());
                }
            }
        };
        tokio::time::timeout(PATIENCE, watching).await.expect("all are done in time");
    }

    /// Deletes all objects of a kind, and returns the seconds until none is left.
    pub async fn delete_all<K: Object>(&self) -> f64 {
        let api = self.api::<K>();
        let start = Instant::now();
        let grace = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::background() };
        let all = api.list_metadata(&ListParams::default()).await.unwrap().items;
        let deleting = stream::iter(&all).for_each_concurrent(CONCURRENCY, |object| async {
            let _ = api.delete(&object.name_any(), &grace).await;
        });
        deleting.await;
        // A request may fail under load. The loop ends only when no object is left.
        while api.list_metadata(&ListParams::default().limit(1)).await.map_or(true, |left| !left.items.is_empty()) {
            assert!(start.elapsed() < PATIENCE, "objects are left after the timeout");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        start.elapsed().as_secs_f64()
    }
}

pub fn pod_runs(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
}

pub fn session_runs(session: &Session) -> bool {
    session.phase() == SessionPhase::Running
}
