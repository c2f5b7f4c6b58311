//! Watches every kind into the world. A watch that breaks is taken up again; an object that cannot be read is left out.

use std::sync::Arc;

use backon::ExponentialBuilder;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, ResourceQuota};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::ListParams;
use kube::core::DeserializeGuard;
use kube::core::object::HasSpec;
use kube::runtime::utils::ResetTimerBackoff;
use kube::runtime::watcher::{self, Event, ExponentialBackoff};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;

use super::pauses::{about_free_volumes, about_tenants, about_volumes};
use super::table::Table;
use super::world::{Inner, World, key_of};
use super::{extract, extract_storage};
use crate::api::*;
use crate::lifecycle::{Reason, Timing};

/// Starts all watches; they run as long as the set lives.
pub fn start(client: &Client, world: &Arc<World>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    tasks.spawn(sessions(client.clone(), world.clone()));
    tasks.spawn(kernels(client.clone(), world.clone()));
    tasks.spawn(pods(client.clone(), world.clone()));
    tasks.spawn(slices(client.clone(), world.clone()));
    tasks.spawn(nodes(client.clone(), world.clone()));
    tasks.spawn(by_spec(client.clone(), world.clone(), |inner| &mut inner.groups));
    tasks.spawn(by_spec(client.clone(), world.clone(), |inner| &mut inner.domains));
    tasks.spawn(by_spec(client.clone(), world.clone(), |inner| &mut inner.projects));
    tasks.spawn(by_spec(client.clone(), world.clone(), |inner| &mut inner.users));
    tasks.spawn(by_spec(client.clone(), world.clone(), |inner| &mut inner.keypairs));
    tasks.spawn(by_spec(client.clone(), world.clone(), |inner| &mut inner.policies));
    tasks.spawn(by_view(client.clone(), world.clone(), |inner| &mut inner.namespaces, extract::project, about_tenants));
    tasks.spawn(by_view(client.clone(), world.clone(), |inner| &mut inner.claims, extract_storage::claim, about_volumes));
    tasks.spawn(by_view(client.clone(), world.clone(), |inner| &mut inner.volumes, extract_storage::volume, about_free_volumes));
    tasks.spawn(by_view(
        client.clone(),
        world.clone(),
        |inner| &mut inner.storage_classes,
        extract_storage::storage_class,
        about_volumes,
    ));
    tasks.spawn(by_view(
        client.clone(),
        world.clone(),
        |inner| &mut inner.runtime_classes,
        extract_storage::runtime_class,
        about_tenants,
    ));
    tasks.spawn(quotas(client.clone(), world.clone()));
    tasks
}

/// Whether every kind can be listed: that the CRDs and our rights are there.
pub async fn check(client: &Client) -> kube::Result<()> {
    can_list::<Session>(client).await?;
    can_list::<Kernel>(client).await?;
    can_list::<Pod>(client).await?;
    can_list::<EndpointSlice>(client).await?;
    can_list::<Node>(client).await?;
    can_list::<ScalingGroup>(client).await?;
    can_list::<Domain>(client).await?;
    can_list::<Project>(client).await?;
    can_list::<User>(client).await?;
    can_list::<Keypair>(client).await?;
    can_list::<ResourcePolicy>(client).await?;
    can_list::<Namespace>(client).await?;
    can_list::<PersistentVolumeClaim>(client).await?;
    can_list::<PersistentVolume>(client).await?;
    can_list::<StorageClass>(client).await?;
    can_list::<RuntimeClass>(client).await?;
    can_list::<ResourceQuota>(client).await
}

async fn can_list<K>(client: &Client) -> kube::Result<()>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    Api::<K>::all(client.clone()).list_metadata(&ListParams::default().limit(1)).await.map(|_| ())
}

/// Those of our own kinds that mean the same as long as their spec does.
async fn by_spec<K>(client: Client, world: Arc<World>, table: fn(&mut Inner) -> &mut Table<Arc<K>>)
where
    K: Resource<DynamicType = ()> + HasSpec<Spec: PartialEq> + Clone + DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
{
    tenants(client, world, table, Arc::new, |old, new| old.spec() == new.spec(), about_tenants).await;
}

/// Those of others' kinds that mean the same as long as what is seen of them does.
async fn by_view<K, V>(
    client: Client,
    world: Arc<World>,
    table: fn(&mut Inner) -> &mut Table<V>,
    view: fn(K) -> V,
    ends: fn(&V, Reason) -> bool,
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
    V: Clone + PartialEq + Send + 'static,
{
    tenants(client, world, table, view, V::eq, ends).await;
}

/// The pauses before a watch that broke is taken up again.
fn pauses(timing: &Timing) -> ResetTimerBackoff<ExponentialBackoff> {
    let growing = ExponentialBuilder::default()
        .with_min_delay(timing.watch_backoff)
        .with_max_delay(timing.watch_backoff_max)
        .without_max_times()
        .with_jitter();
    ResetTimerBackoff::new(growing.into(), timing.watch_backoff_max * 4)
}

/// Objects on one page of a list. A page is in memory as a whole, raw and read, so that kinds whose objects may be large are
/// listed in smaller ones.
const PAGE: u32 = 500;
const PAGE_OF_LARGE: u32 = 50;

/// Runs one watch for ever; `take` is given each event.
async fn run<K>(timing: &Timing, api: Api<K>, config: watcher::Config, page: u32, mut take: impl FnMut(Event<K>))
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let mut stream = watch(api, config.page_size(page)).backoff(pauses(timing)).boxed();
    loop {
        match stream.try_next().await {
            Ok(Some(event)) => take(event),
            Ok(None) => return,
            // One that ran out, or whose version is too old by now, is nothing to tell of.
            Err(error @ (watcher::Error::WatchError(_) | watcher::Error::WatchFailed(_))) => {
                tracing::debug!("a watch is taken up again: {error}");
            }
            Err(error) => tracing::warn!("a watch cannot begin: {error}"),
        }
    }
}

async fn sessions(client: Client, world: Arc<World>) {
    run(&world.timing, Api::<DeserializeGuard<Session>>::all(client), watcher::Config::default(), PAGE_OF_LARGE, |event| match event {
        Event::Init => world.lock().sessions.list_begins(),
        Event::InitApply(DeserializeGuard(read)) | Event::Apply(DeserializeGuard(read)) => match read {
            Ok(session) => {
                world.upsert_session(session);
            }
            Err(invalid) => {
                tracing::error!(session = ?invalid.metadata.name, namespace = ?invalid.metadata.namespace, "cannot be read: {}", invalid.error);
                world.unreadable_session(&invalid.metadata);
            }
        },
        Event::Delete(guard) => world.remove_session(guard.meta()),
        Event::InitDone => {
            let gone = world.lock().sessions.list_ends();
            for (namespace, name) in gone {
                let meta = kube::core::ObjectMeta { namespace: Some(namespace), name: Some(name), ..Default::default() };
                world.remove_session(&meta);
            }
            world.mark_everything();
        }
    })
    .await;
}

async fn kernels(client: Client, world: Arc<World>) {
    run(&world.timing, Api::<DeserializeGuard<Kernel>>::all(client), watcher::Config::default(), PAGE, |event| match event {
        Event::Init => world.lock().kernels.list_begins(),
        Event::InitApply(DeserializeGuard(read)) | Event::Apply(DeserializeGuard(read)) => match read {
            Ok(kernel) => {
                world.upsert_kernel(kernel);
            }
            Err(invalid) => tracing::error!(kernel = ?invalid.metadata.name, "cannot be read: {}", invalid.error),
        },
        Event::Delete(guard) => world.remove_kernel(guard.meta()),
        Event::InitDone => {
            let gone = world.lock().kernels.list_ends();
            for (namespace, name) in gone {
                let meta = kube::core::ObjectMeta { namespace: Some(namespace), name: Some(name), ..Default::default() };
                world.remove_kernel(&meta);
            }
        }
    })
    .await;
}

async fn pods(client: Client, world: Arc<World>) {
    run(&world.timing, Api::<Pod>::all(client), watcher::Config::default(), PAGE_OF_LARGE, |event| match event {
        Event::Init => world.lock().pods.list_begins(),
        Event::InitApply(pod) | Event::Apply(pod) => world.upsert_pod(&pod),
        Event::Delete(pod) => {
            world.remove_pod(&key_of(&pod.metadata), extract::version(pod.metadata.resource_version.as_ref()));
        }
        Event::InitDone => {
            let gone = world.lock().pods.list_ends();
            gone.iter().for_each(|key| world.remove_pod(key, 0));
            world.mark_everything();
        }
    })
    .await;
}

async fn slices(client: Client, world: Arc<World>) {
    let config = watcher::Config::default().labels(LABEL_SESSION_UID);
    run(&world.timing, Api::<EndpointSlice>::all(client), config, PAGE, |event| match event {
        Event::Init => world.lock().slices.list_begins(),
        Event::InitApply(slice) | Event::Apply(slice) => world.upsert_slice(&slice),
        Event::Delete(slice) => world.remove_slice(&key_of(&slice.metadata)),
        Event::InitDone => {
            let gone = world.lock().slices.list_ends();
            gone.iter().for_each(|key| world.remove_slice(key));
        }
    })
    .await;
}

/// A quota that changes may let in sessions whose pods it refused.
async fn quotas(client: Client, world: Arc<World>) {
    run(&world.timing, Api::<ResourceQuota>::all(client), watcher::Config::default(), PAGE, |event| match event {
        Event::Init => world.lock().quotas.list_begins(),
        Event::InitApply(quota) | Event::Apply(quota) => {
            let (key, version) = (key_of(&quota.metadata), extract::version(quota.metadata.resource_version.as_ref()));
            world.upsert_quota(key, version, extract_storage::quota(quota));
        }
        Event::Delete(quota) => world.remove_quota(&key_of(&quota.metadata)),
        Event::InitDone => {
            let gone = world.lock().quotas.list_ends();
            gone.iter().for_each(|key| world.remove_quota(key));
        }
    })
    .await;
}

async fn nodes(client: Client, world: Arc<World>) {
    run(&world.timing, Api::<Node>::all(client), watcher::Config::default(), PAGE, |event| match event {
        Event::Init => world.lock().nodes.list_begins(),
        Event::InitApply(node) | Event::Apply(node) => world.upsert_node(&node),
        Event::Delete(node) => {
            world.remove_node(&key_of(&node.metadata), extract::version(node.metadata.resource_version.as_ref()));
        }
        Event::InitDone => {
            let gone = world.lock().nodes.list_ends();
            gone.iter().for_each(|key| world.remove_node(key, 0));
        }
    })
    .await;
}

/// The small kinds that say who may run what where.
/// `same` tells whether two versions of one mean the same to waiting sessions; statuses, which we write, mean nothing. `ends`
/// tells which failures a change may have fixed: their pauses end.
async fn tenants<K, V>(
    client: Client,
    world: Arc<World>,
    table: fn(&mut Inner) -> &mut Table<V>,
    extract: fn(K) -> V,
    same: fn(&V, &V) -> bool,
    ends: fn(&V, Reason) -> bool,
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
    V: Clone + Send + 'static,
{
    run(&world.timing, Api::<DeserializeGuard<K>>::all(client), watcher::Config::default(), PAGE, |event| {
        let mut inner = world.lock();
        let mut fixed = None;
        let rows = table(&mut inner);
        let changed = match event {
            Event::Init => {
                rows.list_begins();
                false
            }
            Event::InitApply(guard) | Event::Apply(guard) => {
                let key = key_of(guard.meta());
                let version = extract::version(guard.meta().resource_version.as_ref());
                match guard.0 {
                    Ok(object) => {
                        let value = extract(object);
                        let same = rows.get(&key).is_some_and(|old| same(old, &value));
                        let changed = rows.upsert(key.clone(), version, value) && !same;
                        fixed = changed.then_some(key);
                        changed
                    }
                    Err(invalid) => {
                        tracing::error!(kind = %K::kind(&()), name = ?invalid.metadata.name, "cannot be read: {}", invalid.error);
                        rows.cannot_read(key);
                        false
                    }
                }
            }
            Event::Delete(guard) => rows.remove(&key_of(guard.meta()), 0).is_some(),
            Event::InitDone => {
                let gone = rows.list_ends();
                for key in &gone {
                    rows.remove(key, 0);
                }
                true
            }
        };
        inner.tenancy = None;
        if let Some(key) = fixed {
            let namespace = Some(key.0.as_str()).filter(|namespace| !namespace.is_empty());
            if let Some(value) = table(&mut inner).get(&key).cloned() {
                inner.end_pauses(&world.marks, namespace, |reason| ends(&value, reason));
            }
        }
        if changed {
            world.tenancy_changed(inner);
        }
    })
    .await;
}
