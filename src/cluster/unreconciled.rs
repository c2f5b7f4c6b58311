//! Sets a condition on deployments and routes: this version serves them but does not reconcile them.

use std::sync::Arc;

use chrono::Utc;
use futures::TryStreamExt;
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::task::JoinSet;

use super::write::Writer;
use crate::api::{Condition, ConditionStatus, Deployment, Route};

/// An object with conditions in its status.
pub trait Conditions {
    fn conditions(&self) -> &[Condition];
}

impl Conditions for Deployment {
    fn conditions(&self) -> &[Condition] {
        self.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default()
    }
}

impl Conditions for Route {
    fn conditions(&self) -> &[Condition] {
        self.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default()
    }
}

/// Starts a task for each kind that is not reconciled.
pub fn start(tasks: &mut JoinSet<()>, client: &Client, writer: &Arc<Writer>) {
    tasks.spawn(watch_kind::<Deployment>(client.clone(), writer.clone()));
    tasks.spawn(watch_kind::<Route>(client.clone(), writer.clone()));
}

async fn watch_kind<K>(client: Client, writer: Arc<Writer>)
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Conditions
        + Clone
        + DeserializeOwned
        + std::fmt::Debug
        + Send
        + Sync
        + 'static,
{
    let objects = watcher(Api::<K>::all(client.clone()), watcher::Config::default()).default_backoff().applied_objects();
    let mut objects = std::pin::pin!(objects);
    loop {
        match objects.try_next().await {
            Ok(Some(object)) => {
                if let Err(error) = set_condition(&client, &writer, &object).await {
                    tracing::debug!(kind = %K::kind(&()), name = %object.name_any(), "the condition was not set: {error}");
                }
            }
            Ok(None) => return,
            Err(error) => tracing::debug!("the watch is restarted: {error}"),
        }
    }
}

async fn set_condition<K>(client: &Client, writer: &Writer, object: &K) -> Result<(), super::write::WriteError>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Conditions
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    let generation = object.meta().generation.unwrap_or_default();
    if object.conditions().iter().any(|c| c.type_ == "Reconciled" && c.observed_generation == generation) {
        return Ok(());
    }
    let condition = Condition {
        type_: "Reconciled".into(),
        status: ConditionStatus::False,
        reason: "NotSupported".into(),
        message: format!("this version of the operator does not reconcile objects of kind {}", K::kind(&())),
        observed_generation: generation,
        last_transition_time: Utc::now(),
    };
    let patch = json!({
        "metadata": {"uid": object.meta().uid, "resourceVersion": object.meta().resource_version},
        "status": {"conditions": [condition]},
    });
    let api = Api::<K>::namespaced(client.clone(), &object.namespace().unwrap_or_default());
    let (name, params) = (object.name_any(), PatchParams::default());
    writer.write("unreconciled-status", api.patch_status(&name, &params, &Patch::Merge(&patch))).await.map(|_| ())
}
