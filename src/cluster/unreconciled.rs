//! Deployments and routes are served but not reconciled by this version: each is told so, once, in its status.

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

/// Whose conditions tell.
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

/// Starts telling them.
pub fn start(tasks: &mut JoinSet<()>, client: &Client, writer: &Arc<Writer>) {
    tasks.spawn(tell_all::<Deployment>(client.clone(), writer.clone()));
    tasks.spawn(tell_all::<Route>(client.clone(), writer.clone()));
}

async fn tell_all<K>(client: Client, writer: Arc<Writer>)
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
                if let Err(error) = tell(&client, &writer, &object).await {
                    tracing::debug!(kind = %K::kind(&()), name = %object.name_any(), "{error}");
                }
            }
            Ok(None) => return,
            Err(error) => tracing::debug!("a watch is taken up again: {error}"),
        }
    }
}

async fn tell<K>(client: &Client, writer: &Writer, object: &K) -> Result<(), super::write::WriteError>
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
