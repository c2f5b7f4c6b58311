//! The stores: one table for each watched kind.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::ListParams;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use strum::EnumIter;

use super::serving_state::{BudgetRow, RevisionRow, ServiceRow, TrafficSlice};
use super::table::Table;
use crate::api::*;
use crate::deployment::definition::Files;
use crate::views::{ClaimView, ForeignPod, NodeView, PodView, QuotaView, RuntimeClassView, StorageClassView, VolumeView};

/// Declares every watched kind and its store. `watch::start` matches over `Watched`, which has one value for each kind, so a
/// kind without a watch does not compile.
macro_rules! stores {
    ($($watched:ident: $store:ident: $value:ty, of $kind:ty;)+) => {
        /// A watched kind.
        #[derive(Clone, Copy, Debug, EnumIter)]
        pub enum Watched {
            $($watched,)+
        }

        #[derive(Default)]
        pub struct Stores {
            $(pub $store: Table<$value>,)+
        }

        impl Stores {
            /// Whether the first list of every kind is complete.
            pub fn is_synced(&self) -> bool {
                $(self.$store.is_synced())&&+
            }
        }

        impl Watched {
            /// Checks that the kind can be listed: its CRD exists and we may read it.
            pub async fn check(self, client: &Client) -> kube::Result<()> {
                match self {
                    $(Self::$watched => list_one::<$kind>(client).await,)+
                }
            }
        }
    };
}

stores! {
    Session: sessions: Arc<Session>, of Session;
    Kernel: kernels: Arc<Kernel>, of Kernel;
    Deployment: deployments: Arc<Deployment>, of Deployment;
    Route: routes: Arc<Route>, of Route;
    ControllerRevision: revisions: RevisionRow, of ControllerRevision;
    Service: services: ServiceRow, of core::Service;
    PodDisruptionBudget: budgets: BudgetRow, of PodDisruptionBudget;
    TrafficSlice: traffic_slices: TrafficSlice, of EndpointSlice;
    ConfigMap: definitions: Arc<Files>, of core::ConfigMap;
    Pod: pods: PodRow, of core::Pod;
    EndpointSlice: slices: Slice, of EndpointSlice;
    Node: nodes: Arc<NodeView>, of core::Node;
    ScalingGroup: groups: Arc<ScalingGroup>, of ScalingGroup;
    Domain: domains: Arc<Domain>, of Domain;
    Project: projects: Arc<Project>, of Project;
    User: users: Arc<User>, of User;
    Keypair: keypairs: Arc<Keypair>, of Keypair;
    ResourcePolicy: policies: Arc<ResourcePolicy>, of ResourcePolicy;
    SessionTemplate: templates: Arc<SessionTemplate>, of SessionTemplate;
    Namespace: namespaces: Option<ProjectName>, of core::Namespace;
    PersistentVolumeClaim: claims: ClaimView, of core::PersistentVolumeClaim;
    PersistentVolume: volumes: VolumeView, of core::PersistentVolume;
    StorageClass: storage_classes: StorageClassView, of StorageClass;
    RuntimeClass: runtime_classes: RuntimeClassView, of RuntimeClass;
    ResourceQuota: quotas: QuotaView, of core::ResourceQuota;
}

impl Stores {
    /// Returns the number of scaling groups and tenants that cannot be read.
    pub fn unreadable_tenants(&self) -> usize {
        let tenants = [self.domains.unreadable(), self.projects.unreadable(), self.users.unreadable()];
        let rules = [self.groups.unreadable(), self.keypairs.unreadable(), self.policies.unreadable()];
        tenants.into_iter().chain(rules).sum()
    }
}

async fn list_one<K>(client: &Client) -> kube::Result<()>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    Api::<K>::all(client.clone()).list_metadata(&ListParams::default().limit(1)).await.map(|_| ())
}

/// The stored view of a pod.
pub enum PodRow {
    Ours(Arc<PodView>),
    Foreign(ForeignPod),
}

impl PodRow {
    pub fn ours(&self) -> Option<&Arc<PodView>> {
        match self {
            Self::Ours(pod) => Some(pod),
            Self::Foreign(_) => None,
        }
    }
}

/// An EndpointSlice that carries the label of a session.
pub struct Slice {
    pub uid: SessionUid,
    /// The Service it belongs to.
    pub service: String,
    /// The hostnames it lists.
    pub hostnames: BTreeSet<String>,
}
