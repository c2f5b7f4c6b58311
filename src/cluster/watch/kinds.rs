//! The kinds that are watched, and how their objects get into the world.

use std::sync::Arc;

use futures::future::BoxFuture;
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
use serde::de::DeserializeOwned;

use super::tenants::{Tenants, tenants};
use super::{Ingest, PAGE, PAGE_OF_LARGE, Source, run};
use crate::api::*;
use crate::cluster::store::extract_storage;
use crate::cluster::store::identity::key_of;
use crate::cluster::store::pauses::{about_free_volumes, about_tenants, about_volumes};
use crate::cluster::store::serving::Served;
use crate::cluster::store::stores::{Stores, Watched};
use crate::cluster::store::table::Table;
use crate::cluster::store::world::World;
use crate::deployment::Deployments;
use crate::route::Routes;
use crate::views::{ClaimView, RuntimeClassView, StorageClassView, VolumeView, extract};

/// The watch of a kind.
pub(super) fn watch_of(kind: Watched, source: Source) -> BoxFuture<'static, ()> {
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
