//! Publishes the usage of tenants and the queues of scaling groups in their statuses. Changes are gathered for a while, and
//! only statuses that differ are written.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Debug;
use std::sync::Arc;

use kube::api::{Patch, PatchParams};
use kube::{Api, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::store::world::World;
use super::write::{WriteError, Writer};
use crate::api::*;
use crate::metrics::Metrics;
use crate::views::{Tenancy, Tenant};

/// Publishes usage and queues. Never returns.
pub async fn publish(world: Arc<World>, writer: Writer) {
    // An operator of some scaling groups publishes the tenants whose sessions it has seen.
    let mut ours: HashSet<Tenant> = HashSet::new();
    loop {
        world.usage_to_publish().await;
        tokio::time::sleep(world.timing.usage).await;
        world.forget_deleted_groups(&writer.metrics);
        let (tenancy, usage) = world.usage();
        let changed = changed(&tenancy, usage, world.manages_all_groups(), &mut ours);
        for (tenant, status) in changed {
            retry(&world, &tenant.to_string(), write(&writer, &tenant, &status).await);
        }
        for (group, status) in world.changed_groups() {
            let lists = json!({
                "waitingByPriority": status.waiting_by_priority, "waitingByReason": status.waiting_by_reason,
                "oldestWaitingSince": status.oldest_waiting_since,
            });
            retry(&world, group.as_str(), patch::<ScalingGroup, _>(&writer, &group.0, &status, lists).await);
        }
    }
}

impl World {
    /// Removes the metric series of deleted scaling groups, and the series of unknown ones when no session names any.
    /// It compares instead of waiting for a watch event, because a relist reports no deletion. A cycle that began before the
    /// deletion may add the series again; the next comparison removes it.
    fn forget_deleted_groups(&self, metrics: &Metrics) {
        let state = self.lock();
        let exists = |group: &GroupName| state.group(group).is_some();
        let all_exist = state.index.populated_groups().all(|group| group.as_ref().is_some_and(exists));
        let mut forgotten = metrics.partitions();
        forgotten.retain(|label| match label.as_str() {
            UNKNOWN_GROUP => all_exist,
            group => !exists(&group.into()),
        });
        drop(state);
        forgotten.iter().for_each(|label| metrics.forget(label));
    }
}

/// Schedules another try if a status could not be written.
fn retry(world: &World, object: &str, written: Result<(), WriteError>) {
    match written {
        Ok(()) | Err(WriteError::NotFound(_)) => {}
        Err(error) => {
            tracing::warn!(object, "the usage in its status could not be written: {error}");
            world.mark_usage();
        }
    }
}

/// Returns the tenants whose published status differs, with the new status.
fn changed(
    tenancy: &Tenancy,
    usage: BTreeMap<Tenant, TenantStatus>,
    all_groups: bool,
    ours: &mut HashSet<Tenant>,
) -> Vec<(Tenant, TenantStatus)> {
    let differing = usage.into_iter().filter(|(tenant, status)| {
        let used = status.sessions_running + status.sessions_pending > 0;
        if used {
            ours.insert(tenant.clone());
        }
        let is_ours = used || all_groups || ours.contains(tenant);
        // A tenant without usage needs no status, unless it has one already.
        is_ours
            && match published(tenancy, tenant) {
                None => *status != TenantStatus::default(),
                Some(old) => old != *status,
            }
    });
    differing.collect()
}

fn published(tenancy: &Tenancy, tenant: &Tenant) -> Option<TenantStatus> {
    match tenant {
        Tenant::Keypair(name) => tenancy.keypairs.get(name).and_then(|object| object.status.clone()),
        Tenant::User(name) => tenancy.users.get(name).and_then(|object| object.status.clone()),
        Tenant::Project(name) => tenancy.projects.get(name).and_then(|object| object.status.clone()),
        Tenant::Domain(name) => tenancy.domains.get(name).and_then(|object| object.status.clone()),
    }
}

async fn write(writer: &Writer, tenant: &Tenant, status: &TenantStatus) -> Result<(), WriteError> {
    let lists = json!({"resources": status.resources});
    match tenant {
        Tenant::Keypair(name) => patch::<Keypair, _>(writer, &name.0, status, lists).await,
        Tenant::User(name) => patch::<User, _>(writer, &name.0, status, lists).await,
        Tenant::Project(name) => patch::<Project, _>(writer, &name.0, status, lists).await,
        Tenant::Domain(name) => patch::<Domain, _>(writer, &name.0, status, lists).await,
    }
}

/// Patches a status. `may_be_empty` repeats the fields that serialization leaves out when they are empty, because a merge
/// patch would otherwise keep their old values.
async fn patch<K, S>(writer: &Writer, name: &str, status: &S, may_be_empty: Value) -> Result<(), WriteError>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    S: Serialize,
{
    let api: Api<K> = Api::all(writer.client.clone());
    let mut value = json!({"status": status});
    if let (Some(status), Value::Object(fields)) = (value["status"].as_object_mut(), may_be_empty) {
        status.extend(fields);
    }
    writer.write("usage-status", api.patch_status(name, &PatchParams::default(), &Patch::Merge(&value))).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::store::world::Scope;
    use crate::lifecycle::HandlerName as _;
    use crate::metrics::{Run, RunResult};
    use crate::session::handlers::HandlerName;
    use crate::session::handlers::testing::group;

    #[test]
    fn series_of_a_deleted_scaling_group_are_removed_even_if_a_late_cycle_adds_them_again() {
        let world = World::new(Arc::default(), Scope::default());
        let metrics = Metrics::default();
        let key = |name: &str| (String::new(), name.to_owned());
        let ran = |name: &str| {
            let (handler, result) = (HandlerName::ScheduleSessions, RunResult::Success);
            metrics.ran(&Run { handler: handler.as_str(), partition: name.into(), items: 1, result });
        };
        for name in ["deleted", "relisted", "kept"] {
            world.lock().stores.groups.upsert(key(name), 1, Arc::new(group(json!({}))));
            ran(name);
        }
        world.forget_deleted_groups(&metrics);
        assert_eq!(metrics.partitions().len(), 3, "all exist");
        world.lock().stores.groups.remove(&key("deleted"), 0);
        world.forget_deleted_groups(&metrics);
        assert_eq!(metrics.partitions(), ["kept", "relisted"].map(String::from).into());
        ran("deleted");
        world.lock().stores.groups.remove(&key("relisted"), 0);
        world.forget_deleted_groups(&metrics);
        assert_eq!(metrics.partitions(), ["kept"].map(String::from).into());
    }
}
