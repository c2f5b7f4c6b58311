//! Publishes what tenants use: gathered for a while, and only what differs from what stands there.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Debug;
use std::sync::Arc;

use kube::api::{Patch, PatchParams};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::world::World;
use super::write::{WriteError, Writer};
use crate::api::*;
use crate::session::tenancy::{Tenancy, Tenant};

/// Publishes for ever.
pub async fn publish(world: Arc<World>, writer: Writer) {
    // An operator of some scaling groups tells of those tenants whose sessions it has seen.
    let mut ours: HashSet<Tenant> = HashSet::new();
    loop {
        world.usage_to_publish().await;
        tokio::time::sleep(world.timing.usage).await;
        let (tenancy, usage) = world.usage();
        let changed = changed(&tenancy, usage, world.is_whole(), &mut ours);
        for (tenant, status) in changed {
            match write(&writer, &tenant, &status).await {
                Ok(()) | Err(WriteError::NotFound(_)) => {}
                Err(error) => {
                    tracing::warn!(%tenant, "its usage could not be written: {error}");
                    world.mark_usage();
                }
            }
        }
    }
}

/// Those whose status says something else than it should.
fn changed(
    tenancy: &Tenancy,
    usage: BTreeMap<Tenant, TenantStatus>,
    whole: bool,
    ours: &mut HashSet<Tenant>,
) -> Vec<(Tenant, TenantStatus)> {
    let told = usage.into_iter().filter(|(tenant, status)| {
        let used = status.sessions_running + status.sessions_pending > 0;
        if used {
            ours.insert(tenant.clone());
        }
        let mine = used || whole || ours.contains(tenant);
        // One that uses nothing and was never told of needs no status.
        mine && match published(tenancy, tenant) {
            None => *status != TenantStatus::default(),
            Some(old) => old != *status,
        }
    });
    told.collect()
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
    match tenant {
        Tenant::Keypair(name) => patch::<Keypair>(writer, &name.0, status).await,
        Tenant::User(name) => patch::<User>(writer, &name.0, status).await,
        Tenant::Project(name) => patch::<Project>(writer, &name.0, status).await,
        Tenant::Domain(name) => patch::<Domain>(writer, &name.0, status).await,
    }
}

async fn patch<K>(writer: &Writer, name: &str, status: &TenantStatus) -> Result<(), WriteError>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let api: Api<K> = Api::all(writer.client.clone());
    // An empty list would be left out of the status, and what stood there would stay.
    let mut value = json!({"status": status});
    value["status"]["resources"] = json!(status.resources);
    writer.write("usage-status", api.patch_status(name, &PatchParams::default(), &Patch::Merge(&value))).await.map(|_| ())
}
