//! Watches every kind into its store. A watch that breaks is started again; an object that cannot be read is left out.

use std::sync::Arc;
use std::time::Duration;

use backon::ExponentialBuilder;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::{
    ConfigMap, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, ResourceQuota, Service,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::core::DeserializeGuard;
use kube::core::object::HasSpec;
use kube::runtime::utils::ResetTimerBackoff;
use kube::runtime::watcher::{self, Event, ExponentialBackoff};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use strum::IntoEnumIterator;
use tokio::task::JoinSet;

use super::store::extract_storage;
use super::store::identity::key_of;
use super::store::pauses::{about_free_volumes, about_tenants, about_volumes};
use super::store::serving::Served;
use super::store::stores::{Stores, Watched};
use super::store::table::{Key, Listing, Table};
use super::store::world::World;
use crate::api::*;
use crate::deployment::Deployments;
use crate::lifecycle::Timing;
use crate::metrics::Metrics;
use crate::route::Routes;
use crate::views::{ClaimView, RuntimeClassView, StorageClassView, VolumeView, extract};

/// Starts all watches. They run as long as the set lives.
pub fn start(client: &Client, world: &Arc<World>, metrics: &Metrics) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for kind in Watched::iter() {
        let source = Source { client: client.clone(), world: world.clone(), metrics: metrics.clone() };
        tasks.spawn(watch_of(kind, source));
    }
    tasks
}

/// Where a watch reads, and where its objects go.
struct Source {
    client: Client,
    world: Arc<World>,
    metrics: Metrics,
}

/// Checks that every kind can be listed. The error names one that cannot.
pub async fn check(client: &Client, timeout: Duration) -> Result<(), String> {
    for kind in Watched::iter() {
        match tokio::time::timeout(timeout, kind.check(client)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(format!("{kind:?}: {error}")),
            Err(_) => return Err(format!("{kind:?}: no answer within {timeout:?}")),
        }
    }
    Ok(())
}

/// The watch of a kind.
fn watch_of(kind: Watched, source: Source) -> BoxFuture<'static, ()> {
    match kind {
        Watched::Session => run(source, SESSIONS),
        Watched::Kernel => run(source, KERNELS),
        Watched::Pod => run(source, PODS),
        Watched::EndpointSlice => run(source, SLICES),
        Watched::Deployment => run(source, DEPLOYMENTS),
        Watched::Route => run(source, ROUTES),
        Watched::ControllerRevision => run(source, REVISIONS),
        Watched::Service => run(source, SERVICES),
        Watched::PodDisruptionBudget => run(source, BUDGETS),
        Watched::TrafficSlice => run(source, TRAFFIC_SLICES),
        Watched::ConfigMap => run(source, DEFINITIONS),
        Watched::Node => run(source, NODES),
        Watched::ResourceQuota => run(source, QUOTAS),
        Watched::ScalingGroup => tenants(source, by_spec(|stores| &mut stores.groups)),
        Watched::Domain => tenants(source, by_spec(|stores| &mut stores.domains)),
        Watched::Project => tenants(source, by_spec(|stores| &mut stores.projects)),
        Watched::User => tenants(source, by_spec(|stores| &mut stores.users)),
        Watched::Keypair => tenants(source, by_spec(|stores| &mut stores.keypairs)),
        Watched::ResourcePolicy => tenants(source, by_spec(|stores| &mut stores.policies)),
        Watched::SessionTemplate => tenants(source, by_spec(|stores| &mut stores.templates)),
        Watched::Namespace => tenants(source, NAMESPACES),
        Watched::PersistentVolumeClaim => tenants(source, CLAIMS),
        Watched::PersistentVolume => tenants(source, VOLUMES),
        Watched::StorageClass => tenants(source, STORAGE_CLASSES),
        Watched::RuntimeClass => tenants(source, RUNTIME_CLASSES),
    }
}

const SESSIONS: Ingest<DeserializeGuard<Session>> = Ingest {
    labelled: None,
    page: PAGE_OF_LARGE,
    table: |stores| &mut stores.sessions,
    apply: apply_session,
    remove: World::remove_session,
    relisted: |world| world.mark_everything(),
};

const KERNELS: Ingest<DeserializeGuard<Kernel>> = Ingest {
    labelled: None,
    page: PAGE,
    table: |stores| &mut stores.kernels,
    apply: apply_kernel,
    remove: World::remove_kernel,
    relisted: |_| {},
};

const PODS: Ingest<Pod> = Ingest {
    labelled: None,
    page: PAGE_OF_LARGE,
    table: |stores| &mut stores.pods,
    apply: |world, pod| world.upsert_pod(&pod),
    remove: World::remove_pod,
    relisted: |world| world.mark_everything(),
};

const SLICES: Ingest<EndpointSlice> = Ingest {
    labelled: Some(LABEL_SESSION_UID),
    page: PAGE,
    table: |stores| &mut stores.slices,
    apply: |world, slice| world.upsert_slice(&slice),
    remove: World::remove_slice,
    relisted: |_| {},
};

const DEPLOYMENTS: Ingest<DeserializeGuard<Deployment>> = Ingest {
    labelled: None,
    page: PAGE_OF_LARGE,
    table: |stores| &mut stores.deployments,
    apply: apply_object::<Deployments>,
    remove: World::remove_object::<Deployments>,
    relisted: |world| world.deployments.marks.everything(),
};

const ROUTES: Ingest<DeserializeGuard<Route>> = Ingest {
    labelled: None,
    page: PAGE,
    table: |stores| &mut stores.routes,
    apply: apply_object::<Routes>,
    remove: World::remove_object::<Routes>,
    relisted: |world| world.routes.marks.everything(),
};

const REVISIONS: Ingest<ControllerRevision> = Ingest {
    labelled: Some(LABEL_DEPLOYMENT_UID),
    page: PAGE,
    table: |stores| &mut stores.revisions,
    apply: |world, revision| world.upsert_revision(&revision),
    remove: World::remove_revision,
    relisted: |_| {},
};

const SERVICES: Ingest<Service> = Ingest {
    labelled: Some(LABEL_DEPLOYMENT_UID),
    page: PAGE,
    table: |stores| &mut stores.services,
    apply: |world, service| world.upsert_service(&service),
    remove: World::remove_service,
    relisted: |_| {},
};

const BUDGETS: Ingest<PodDisruptionBudget> = Ingest {
    labelled: Some(LABEL_DEPLOYMENT_UID),
    page: PAGE,
    table: |stores| &mut stores.budgets,
    apply: |world, budget| world.upsert_budget(&budget),
    remove: World::remove_budget,
    relisted: |_| {},
};

const TRAFFIC_SLICES: Ingest<EndpointSlice> = Ingest {
    labelled: Some(LABEL_DEPLOYMENT_UID),
    page: PAGE,
    table: |stores| &mut stores.traffic_slices,
    apply: |world, slice| world.upsert_traffic_slice(&slice),
    remove: World::remove_traffic_slice,
    relisted: |_| {},
};

const DEFINITIONS: Ingest<ConfigMap> = Ingest {
    labelled: Some(LABEL_MODEL_DEFINITION),
    page: PAGE_OF_LARGE,
    table: |stores| &mut stores.definitions,
    apply: |world, files| world.upsert_definition(files),
    remove: World::remove_definition,
    relisted: |_| {},
};

const NODES: Ingest<Node> = Ingest {
    labelled: None,
    page: PAGE,
    table: |stores| &mut stores.nodes,
    apply: |world, node| world.upsert_node(&node),
    remove: World::remove_node,
    relisted: |_| {},
};

const QUOTAS: Ingest<ResourceQuota> = Ingest {
    labelled: None,
    page: PAGE,
    table: |stores| &mut stores.quotas,
    apply: apply_quota,
    remove: World::remove_quota,
    relisted: |_| {},
};

const NAMESPACES: Tenants<Namespace, Option<ProjectName>> =
    Tenants { table: |stores| &mut stores.namespaces, view: extract::project, same: PartialEq::eq, fixes: about_tenants };

const CLAIMS: Tenants<PersistentVolumeClaim, ClaimView> =
    Tenants { table: |stores| &mut stores.claims, view: extract_storage::claim, same: PartialEq::eq, fixes: about_volumes };

const VOLUMES: Tenants<PersistentVolume, VolumeView> = Tenants {
    table: |stores| &mut stores.volumes,
    view: extract_storage::volume,
    same: PartialEq::eq,
    fixes: about_free_volumes,
};

const STORAGE_CLASSES: Tenants<StorageClass, StorageClassView> = Tenants {
    table: |stores| &mut stores.storage_classes,
    view: extract_storage::storage_class,
    same: PartialEq::eq,
    fixes: about_volumes,
};

const RUNTIME_CLASSES: Tenants<RuntimeClass, RuntimeClassView> = Tenants {
    table: |stores| &mut stores.runtime_classes,
    view: extract_storage::runtime_class,
    same: PartialEq::eq,
    fixes: about_tenants,
};

/// A kind of ours whose meaning is its spec. Statuses, which we write, mean nothing.
fn by_spec<K>(table: fn(&mut Stores) -> &mut Table<Arc<K>>) -> Tenants<K, Arc<K>>
where
    K: HasSpec<Spec: PartialEq>,
{
    Tenants { table, view: Arc::new, same: |old, new| old.spec() == new.spec(), fixes: about_tenants }
}

/// The pauses before a watch that broke is started again.
fn pauses(timing: &Timing) -> ResetTimerBackoff<ExponentialBackoff> {
    let growing = ExponentialBuilder::default()
        .with_min_delay(timing.watch_backoff)
        .with_max_delay(timing.watch_backoff_max)
        .without_max_times()
        .with_jitter();
    ResetTimerBackoff::new(growing.into(), timing.watch_backoff_max * 4)
}

/// Objects on one page of a list. A page is in memory as a whole, raw and decoded, so kinds with large objects use smaller pages.
const PAGE: u32 = 500;
const PAGE_OF_LARGE: u32 = 50;

/// Runs one watch. Never returns. `take` gets each event.
async fn watch_all<K>(source: &Source, config: watcher::Config, page: u32, mut take: impl FnMut(&World, Event<K>))
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let (api, kind) = (Api::<K>::all(source.client.clone()), K::kind(&()));
    let (world, restarted) = (&source.world, || source.metrics.watch_restarted(&kind));
    let mut stream = watch(api, config.page_size(page)).backoff(pauses(&world.timing)).boxed();
    loop {
        match stream.try_next().await {
            Ok(Some(event)) => {
                match &event {
                    Event::Init => {}
                    Event::InitDone => world.lag.listed(&kind),
                    Event::InitApply(object) | Event::Apply(object) | Event::Delete(object) => {
                        world.lag.seen(&kind, extract::version(object.meta().resource_version.as_ref()));
                    }
                }
                take(world, event);
            }
            Ok(None) => return,
            // A watch that timed out, or whose version is too old, is normal.
            Err(error @ (watcher::Error::WatchError(_) | watcher::Error::WatchFailed(_))) => {
                tracing::debug!(%kind, "the watch is started again: {error}");
                restarted();
            }
            Err(error) => {
                tracing::warn!(%kind, "the watch cannot start: {error}");
                restarted();
            }
        }
    }
}

/// How the objects of a kind get into the world.
struct Ingest<K> {
    /// Only objects with this label.
    labelled: Option<&'static str>,
    /// Objects on one page of a list.
    page: u32,
    table: fn(&mut Stores) -> &mut dyn Listing,
    apply: fn(&World, K),
    /// Removes the object of a key, as of a version. Version 0 means: whatever is there.
    remove: fn(&World, &Key, u64),
    /// Called after a complete list.
    relisted: fn(&World),
}

fn run<K>(source: Source, ingest: Ingest<K>) -> BoxFuture<'static, ()>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let mut config = watcher::Config::default();
    if let Some(label) = ingest.labelled {
        config = config.labels(label);
    }
    let watch = async move {
        watch_all(&source, config, ingest.page, |world, event| match event {
            Event::Init => (ingest.table)(&mut world.lock().stores).list_begins(),
            Event::InitApply(object) | Event::Apply(object) => (ingest.apply)(world, object),
            Event::Delete(object) => {
                let version = extract::version(object.meta().resource_version.as_ref());
                (ingest.remove)(world, &key_of(object.meta()), version);
            }
            Event::InitDone => {
                let gone = (ingest.table)(&mut world.lock().stores).list_ends();
                gone.iter().for_each(|key| (ingest.remove)(world, key, 0));
                (ingest.relisted)(world);
            }
        })
        .await;
    };
    watch.boxed()
}

fn apply_session(world: &World, DeserializeGuard(read): DeserializeGuard<Session>) {
    match read {
        Ok(session) => {
            world.upsert_session(session);
        }
        Err(invalid) => {
            let (name, namespace) = (&invalid.metadata.name, &invalid.metadata.namespace);
            tracing::error!(session = ?name, ?namespace, "cannot be read: {}", invalid.error);
            world.unreadable_session(&invalid.metadata);
        }
    }
}

fn apply_object<S: Served>(world: &World, DeserializeGuard(read): DeserializeGuard<S::Object>)
where
    S::Object: DeserializeOwned,
{
    match read {
        Ok(object) => {
            world.upsert_object::<S>(object);
        }
        Err(invalid) => {
            let (name, namespace) = (&invalid.metadata.name, &invalid.metadata.namespace);
            tracing::error!(kind = S::NAME, ?name, ?namespace, "cannot be read: {}", invalid.error);
            S::store_mut(&mut world.lock().stores).cannot_read(key_of(&invalid.metadata));
        }
    }
}

fn apply_kernel(world: &World, DeserializeGuard(read): DeserializeGuard<Kernel>) {
    match read {
        Ok(kernel) => {
            world.upsert_kernel(kernel);
        }
        Err(invalid) => tracing::error!(kernel = ?invalid.metadata.name, "cannot be read: {}", invalid.error),
    }
}

fn apply_quota(world: &World, quota: ResourceQuota) {
    let version = extract::version(quota.metadata.resource_version.as_ref());
    world.upsert_quota(key_of(&quota.metadata), version, extract_storage::quota(quota));
}

/// How a kind that says who may run what where gets into the world.
struct Tenants<K, V> {
    table: fn(&mut Stores) -> &mut Table<V>,
    view: fn(K) -> V,
    /// Whether two versions mean the same to waiting sessions.
    same: fn(&V, &V) -> bool,
    /// Whether a change may have fixed a failure of this reason. The pause of such a failure ends.
    fixes: fn(&V, Reason) -> bool,
}

fn tenants<K, V>(source: Source, kind: Tenants<K, V>) -> BoxFuture<'static, ()>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
    V: Clone + Send + 'static,
{
    let watch = async move {
        watch_all(&source, watcher::Config::default(), PAGE, |world, event| kind.take(world, event)).await;
    };
    watch.boxed()
}

impl<K, V> Tenants<K, V>
where
    K: Resource<DynamicType = ()>,
    V: Clone,
{
    fn take(&self, world: &World, event: Event<DeserializeGuard<K>>) {
        let mut state = world.lock();
        let rows = (self.table)(&mut state.stores);
        let mut changed_key = None;
        let changed = match event {
            Event::Init => {
                rows.list_begins();
                false
            }
            Event::InitApply(guard) | Event::Apply(guard) => {
                changed_key = self.apply(rows, guard);
                changed_key.is_some()
            }
            Event::Delete(guard) => rows.remove(&key_of(guard.meta()), 0).is_some(),
            Event::InitDone => {
                for key in rows.list_ends() {
                    rows.remove(&key, 0);
                }
                true
            }
        };
        let value = changed_key.as_ref().and_then(|key| (self.table)(&mut state.stores).get(key).cloned());
        if let (Some((namespace, _)), Some(value)) = (changed_key, value) {
            let namespace = Some(namespace.as_str()).filter(|namespace| !namespace.is_empty());
            state.end_pauses(&world.marks.handlers, namespace, |reason| (self.fixes)(&value, reason));
        }
        if changed {
            world.tenancy_changed(state);
        } else {
            state.tenancy_changed(); // statuses and unreadable objects are part of it
        }
    }

    /// Takes an object in. Returns its key if its meaning changed.
    fn apply(&self, rows: &mut Table<V>, guard: DeserializeGuard<K>) -> Option<Key> {
        let key = key_of(guard.meta());
        let version = extract::version(guard.meta().resource_version.as_ref());
        match guard.0 {
            Ok(object) => {
                let value = (self.view)(object);
                let same = rows.get(&key).is_some_and(|old| (self.same)(old, &value));
                (rows.upsert(key.clone(), version, value) && !same).then_some(key)
            }
            Err(invalid) => {
                let kind = K::kind(&());
                tracing::error!(%kind, name = ?invalid.metadata.name, "cannot be read: {}", invalid.error);
                rows.cannot_read(key);
                None
            }
        }
    }
}
