//! Carries out effects of deployments. Each may be repeated: what exists already counts as done if it is ours.

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::builders;
use super::host::{CarriedOut, ServingHost};
use crate::api::*;
use crate::cluster::objects::{exactly, not_found_is_fine};
use crate::cluster::store::identity::key_of;
use crate::deployment::Deployments;
use crate::deployment::effect::Effect;
use crate::deployment::revision::Content;
use crate::deployment::snapshot::DeploymentItem;
use crate::lifecycle::{EffectError, Failure};
use crate::route::Routes;

impl CarriedOut for Deployments {
    async fn carry_out(host: &ServingHost, item: &DeploymentItem, effect: &Effect) -> Result<(), EffectError> {
        let deployment = &*item.deployment;
        let (namespace, name) = key_of(&deployment.metadata);
        match effect {
            Effect::HoldDeployment => host.hold_deployment(deployment).await,
            Effect::ReleaseDeployment => {
                let (writer, meta) = (&host.writer, &deployment.metadata);
                writer.release::<Deployment>("deployment-finalizer", meta, FINALIZER_DEPLOYMENT).await
            }
            Effect::CreateRevision { number, content } => host.create_revision(deployment, *number, content).await,
            Effect::DeleteRevision { name, uid } => {
                let params = exactly(Some(uid.clone()));
                host.writer.delete::<ControllerRevision>("revision-delete", &namespace, name, params).await.map(|_| ())
            }
            Effect::ApplyService { port, target_port } => host.apply_service(item, *port, *target_port).await,
            Effect::DeleteService => {
                let Some(service) = host.writer.find::<Service>(&namespace, &name).await? else { return Ok(()) };
                if !belongs(&service.metadata, deployment) {
                    return Ok(());
                }
                let params = exactly(service.metadata.uid);
                host.writer.delete::<Service>("service-delete", &namespace, &name, params).await.map(|_| ())
            }
            Effect::ApplyBudget { min_available } => host.apply_budget(deployment, *min_available).await,
            Effect::DeleteBudget => {
                let Some(budget) = host.writer.find::<PodDisruptionBudget>(&namespace, &name).await? else { return Ok(()) };
                if !belongs(&budget.metadata, deployment) {
                    return Ok(());
                }
                let params = exactly(budget.metadata.uid);
                host.writer.delete::<PodDisruptionBudget>("budget-delete", &namespace, &name, params).await.map(|_| ())
            }
            Effect::CreateRoute(planned) => host.create_route(deployment, planned).await,
            Effect::DeleteRoute { name, uid } => {
                let params = exactly(Some(uid.clone()));
                let held = host.writer.delete::<Route>("route-delete", &namespace, name, params).await?;
                held.into_iter().for_each(|route| _ = host.world.upsert_object::<Routes>(route));
                Ok(())
            }
            Effect::DeleteSession { name, uid } => {
                let params = exactly(Some(uid.clone()));
                let held = host.writer.delete::<Session>("session-delete", &namespace, name, params).await?;
                held.into_iter().for_each(|session| _ = host.world.upsert_session(session));
                Ok(())
            }
            Effect::ForceSession { name } => host.end_session(&namespace, name, None, 0, true).await,
        }
    }
}

impl ServingHost {
    async fn hold_deployment(&self, deployment: &Deployment) -> Result<(), EffectError> {
        let meta = &deployment.metadata;
        if let Some(held) = self.writer.hold::<Deployment>("deployment-finalizer", meta, FINALIZER_DEPLOYMENT).await? {
            self.world.upsert_object::<Deployments>(Deployment { metadata: held, ..deployment.clone() });
        }
        Ok(())
    }

    /// A revision of this number that exists must have the same content. Otherwise our view is old, and it is decided again.
    async fn create_revision(&self, deployment: &Deployment, number: i64, content: &Content) -> Result<(), EffectError> {
        let revision = builders::revision(deployment, number, content).map_err(invalid)?;
        let (namespace, owner) = (key_of(&deployment.metadata).0, deployment.metadata.uid.as_deref());
        let created = self.writer.create_ours("revision-create", &namespace, &revision, owner).await?;
        self.world.upsert_revision(&created);
        match created.data == revision.data {
            true => Ok(()),
            false => Err(EffectError::Again(format!("revision {number} exists with other content"))),
        }
    }

    async fn apply_service(&self, item: &DeploymentItem, port: i32, target_port: i32) -> Result<(), EffectError> {
        let deployment = &*item.deployment;
        let (namespace, name) = key_of(&deployment.metadata);
        let service = builders::service(deployment, port, target_port);
        let owner = deployment.metadata.uid.as_deref();
        let mut created = self.writer.create_ours("service-create", &namespace, &service, owner).await?;
        let restored = builders::restored(&created, &service).map_err(invalid)?;
        if !restored.0.is_empty() {
            let (api, params) = (self.writer.api::<Service>(&namespace), PatchParams::default());
            created = self.writer.write("service-patch", api.patch(&name, &params, &Patch::Json::<()>(restored))).await?;
        }
        self.world.upsert_service(&created);
        Ok(())
    }

    async fn apply_budget(&self, deployment: &Deployment, min_available: i32) -> Result<(), EffectError> {
        let (namespace, name) = key_of(&deployment.metadata);
        let budget = builders::budget(deployment, min_available);
        let owner = deployment.metadata.uid.as_deref();
        let mut created = self.writer.create_ours("budget-create", &namespace, &budget, owner).await?;
        let limit = |budget: &PodDisruptionBudget| budget.spec.as_ref().and_then(|spec| spec.min_available.clone());
        if limit(&created) != limit(&budget) {
            let limits = json!({"minAvailable": min_available, "maxUnavailable": null});
            let patch = json!({"metadata": {"uid": created.metadata.uid}, "spec": limits});
            let api = self.writer.api::<PodDisruptionBudget>(&namespace);
            let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
            created = self.writer.write("budget-patch", api.patch(&name, &params, &patch)).await?;
        }
        self.world.upsert_budget(&created);
        Ok(())
    }

    async fn create_route(&self, deployment: &Deployment, planned: &PlannedReplica) -> Result<(), EffectError> {
        let route = builders::route(deployment, planned);
        let (namespace, owner) = (key_of(&deployment.metadata).0, deployment.metadata.uid.as_deref());
        let created = self.writer.create_ours("route-create", &namespace, &route, owner).await?;
        self.world.upsert_object::<Routes>(created);
        Ok(())
    }

    /// Tells a session to end. `uid` excludes a later session of the same name.
    pub(super) async fn end_session(
        &self,
        namespace: &str,
        name: &str,
        uid: Option<&String>,
        grace: i64,
        forced: bool,
    ) -> Result<(), EffectError> {
        let mode = if forced { TerminationMode::Forced } else { TerminationMode::Graceful };
        let patch = json!({
            "metadata": {"uid": uid},
            "spec": {
                "desiredState": DesiredState::Terminated,
                "termination": {"mode": mode, "gracePeriodSeconds": grace},
            },
        });
        let api = self.writer.api::<Session>(namespace);
        let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
        let patched = self.writer.write("session-end", api.patch(name, &params, &patch)).await;
        if let Ok(session) = &patched {
            self.world.upsert_session(session.clone());
        }
        not_found_is_fine(patched)
    }
}

fn invalid(error: serde_json::Error) -> EffectError {
    EffectError::Failed(Failure::fault(Reason::EffectFailed, error.to_string()))
}

fn belongs(meta: &kube::core::ObjectMeta, deployment: &Deployment) -> bool {
    let uid = deployment.metadata.uid.as_ref();
    meta.labels.as_ref().and_then(|labels| labels.get(LABEL_DEPLOYMENT_UID)) == uid
}
