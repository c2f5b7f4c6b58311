//! Watches every kind into its store. A watch that breaks is started again; an object that cannot be read is left out.

mod kinds;
mod tenants;

use std::sync::Arc;
use std::time::Duration;

use backon::ExponentialBuilder;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt};
use kube::runtime::utils::ResetTimerBackoff;
use kube::runtime::watcher::{self, Event, ExponentialBackoff};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use strum::IntoEnumIterator;
use tokio::task::JoinSet;

use super::store::identity::key_of;
use super::store::stores::{Stores, Watched};
use super::store::table::{Key, Listing};
use super::store::world::World;
use crate::lifecycle::Timing;
use crate::metrics::Metrics;
use crate::views::extract;

/// Starts all watches. They run as long as the set lives.
pub fn start(client: &Client, world: &Arc<World>, metrics: &Metrics) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for kind in Watched::iter() {
        let source = Source { client: client.clone(), world: world.clone(), metrics: metrics.clone() };
        tasks.spawn(kinds::watch_of(kind, source));
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
