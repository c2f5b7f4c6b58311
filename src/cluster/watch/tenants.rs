//! Watches the kinds that say who may run what where. A change of them may end the pauses of waiting sessions.

use futures::FutureExt;
use futures::future::BoxFuture;
use kube::Resource;
use kube::core::DeserializeGuard;
use kube::runtime::watcher::{self, Event};
use serde::de::DeserializeOwned;

use super::{PAGE, Source, watch_all};
use crate::api::Reason;
use crate::cluster::store::identity::key_of;
use crate::cluster::store::stores::Stores;
use crate::cluster::store::table::{Key, Listing, Table};
use crate::cluster::store::world::World;
use crate::views::extract;

/// How a kind that says who may run what where gets into the world.
pub(super) struct Tenants<K, V> {
    pub table: fn(&mut Stores) -> &mut Table<V>,
    pub view: fn(K) -> V,
    /// Whether two versions mean the same to waiting sessions.
    pub same: fn(&V, &V) -> bool,
    /// Whether a change may have fixed a failure of this reason. The pause of such a failure ends.
    pub fixes: fn(&V, Reason) -> bool,
}

pub(super) fn tenants<K, V>(source: Source, kind: Tenants<K, V>) -> BoxFuture<'static, ()>
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
