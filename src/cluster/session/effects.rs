//! Runs effects. Each may be repeated: creating an object that exists succeeds if the object is ours.

use std::sync::Arc;

use chrono::{SecondsFormat, Utc};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret, Service};
use kube::ResourceExt;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};

use serde_json::json;

use super::pods::{self, PodGroup, PodOptions};
use super::ssh::{self, SshKeys};
use crate::api::*;
use crate::cluster::objects::{exactly, not_found_is_fine, ours};
use crate::cluster::store::identity::{key_of, uid_of};
use crate::cluster::store::world::World;
use crate::cluster::write::{WriteError, Writer};
use crate::lifecycle::{EffectError, Failure};
use crate::session::effect::{Effect, Launch, PodRef};
use crate::session::kernels::service_name;

/// The API server's words for a ResourceQuota that is full, for one whose usage it does not know yet, and for one that is missing.
const QUOTA_REFUSALS: [&str; 3] = ["exceeded quota", "status unknown for quota", "insufficient quota to consume"];

impl From<WriteError> for EffectError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Fenced => Self::Fenced,
            // The object changed. The next cycle decides on its new version.
            WriteError::Conflict(message) | WriteError::Busy(message) => Self::Again(message),
            WriteError::Refused(message) if QUOTA_REFUSALS.iter().any(|words| message.contains(words)) => {
                Self::Failed(Failure::new(Cause::Quota, Reason::NamespaceQuota, message))
            }
            other => Self::Failed(Failure::fault(Reason::EffectFailed, other.to_string())),
        }
    }
}

/// The session that effects belong to.
#[derive(Clone, Debug)]
pub struct EffectContext {
    pub namespace: String,
    /// None when the session is gone and only its pods and kernels are left.
    pub session: Option<Arc<Session>>,
    pub group: Option<Arc<ScalingGroup>>,
    pub group_name: Option<GroupName>,
}

impl EffectContext {
    fn session(&self) -> Result<&Session, EffectError> {
        self.session.as_deref().ok_or_else(|| EffectError::Again("the session is gone".into()))
    }

    fn group_name(&self) -> GroupName {
        self.group_name.clone().unwrap_or_default()
    }
}

/// Runs effects, and puts their results into the stores before the watch reports them.
#[derive(Clone)]
pub struct Effects {
    pub writer: Writer,
    pub world: Arc<World>,
    pub options: Arc<PodOptions>,
}

impl Effects {
    pub async fn run(&self, context: &EffectContext, effect: &Effect) -> Result<(), EffectError> {
        let namespace = &context.namespace;
        match effect {
            Effect::HoldSession => self.hold(context.session()?).await,
            Effect::ReleaseSession => self.release(&context.session()?.metadata).await,
            Effect::ReleaseUnreadable(meta) => self.release(meta).await,
            Effect::DeleteSession => self.delete_session(context.session()?).await,
            Effect::ConfirmServiceName => self.confirm_service_name(context, context.session()?).await,
            Effect::CreateService => self.create_service(context, context.session()?).await,
            Effect::DeleteService => self.delete_service(context, context.session()?).await,
            Effect::CreateSshSecret => self.create_secret(context, context.session()?).await,
            Effect::DeleteSshSecret(name) => self.delete_secret(context, name).await,
            Effect::CreateClaim(template) => self.create_claim(context, context.session()?, template).await,
            Effect::DeleteOrphanedService { session, uid } => {
                self.delete_orphaned_service(namespace, &service_name(session), uid).await
            }
            Effect::Launch(launch) => self.launch(context, context.session()?, launch).await,
            Effect::OpenGate(pod) => Ok(self.annotate_gate("pod-gate", pod, ANNOTATION_GATE, GATE_OPEN).await?),
            Effect::RemindKubelet(pod) => self.remind_kubelet(pod).await,
            Effect::DeletePod { pod, grace } => self.delete_pod(pod, *grace).await,
            Effect::ReleasePod(pod) => self.release_pod(pod).await,
            Effect::RecordKernel(record) => self.record_kernel(context, record).await,
            Effect::DeleteKernel { name, uid } => self.delete_kernel(context, name, uid).await,
            Effect::ConfirmNoPod(name) => self.confirm_no_pod(context, name).await,
        }
    }

    async fn hold(&self, session: &Session) -> Result<(), EffectError> {
        if let Some(held) = self.writer.hold::<Session>("session-finalizer", &session.metadata, FINALIZER_SESSION).await? {
            self.world.upsert_session(Session { metadata: held, ..session.clone() });
        }
        Ok(())
    }

    async fn release(&self, meta: &ObjectMeta) -> Result<(), EffectError> {
        self.writer.release::<Session>("session-finalizer", meta, FINALIZER_SESSION).await
    }

    async fn delete_session(&self, session: &Session) -> Result<(), EffectError> {
        let (namespace, name) = key_of(&session.metadata);
        let params = exactly(session.metadata.uid.clone());
        if let Some(held) = self.writer.delete::<Session>("session-delete", &namespace, &name, params).await? {
            self.world.upsert_session(held);
        }
        Ok(())
    }

    async fn create_service(&self, context: &EffectContext, session: &Session) -> Result<(), EffectError> {
        let service = pods::service(session, &context.group_name());
        let owner = session.metadata.uid.as_deref();
        self.writer.create_ours("service-create", &context.namespace, &service, owner).await.map(|_| ())
    }

    async fn confirm_service_name(&self, context: &EffectContext, session: &Session) -> Result<(), EffectError> {
        let name = service_name(session.metadata.name.as_deref().unwrap_or_default());
        let Some(service) = self.writer.find::<Service>(&context.namespace, &name).await? else { return Ok(()) };
        let own = ours(&service.metadata, session.metadata.uid.as_deref(), "service", &name);
        if own.is_err() {
            self.delete_abandoned_service(&context.namespace, &name).await?;
        }
        own
    }

    /// Deletes a Service of this name whose session is gone. An admin may have removed that session's finalizer.
    async fn delete_abandoned_service(&self, namespace: &str, name: &str) -> Result<(), EffectError> {
        let Some(service) = self.writer.find::<Service>(namespace, name).await? else { return Ok(()) };
        match session_uid(&service.metadata) {
            Some(uid) if !self.world.knows(&uid) => self.delete_orphaned_service(namespace, name, &uid).await,
            Some(_) | None => Ok(()),
        }
    }

    async fn delete_orphaned_service(&self, namespace: &str, name: &str, uid: &SessionUid) -> Result<(), EffectError> {
        let Some(service) = self.writer.find::<Service>(namespace, name).await? else { return Ok(()) };
        if session_uid(&service.metadata).as_ref() != Some(uid) {
            return Ok(());
        }
        self.writer.delete::<Service>("service-delete", namespace, name, exactly(service.metadata.uid)).await.map(|_| ())
    }

    async fn delete_service(&self, context: &EffectContext, session: &Session) -> Result<(), EffectError> {
        let name = service_name(session.metadata.name.as_deref().unwrap_or_default());
        let Some(service) = self.writer.find::<Service>(&context.namespace, &name).await? else { return Ok(()) };
        // After `--cascade=orphan` the Service has no owner. Its label, which only the operator sets, still names the
        // session.
        if session_uid(&service.metadata) != Some(uid_of(session)) {
            ours(&service.metadata, session.metadata.uid.as_deref(), "service", &name)?;
        }
        self.writer
            .delete::<Service>("service-delete", &context.namespace, &name, exactly(service.metadata.uid))
            .await
            .map(|_| ())
    }

    /// Creates the SSH key pair. We may not read Secrets. An existing Secret of this name is ours, because the name has a
    /// hash of the session's uid.
    async fn create_secret(&self, context: &EffectContext, session: &Session) -> Result<(), EffectError> {
        let keys = SshKeys::generate()
            .map_err(|error| EffectError::Failed(Failure::fault(Reason::EffectFailed, format!("no key pair: {error}"))))?;
        let secret = ssh::secret(session, &context.group_name(), &keys);
        let api = self.writer.api::<Secret>(&context.namespace);
        match self.writer.write("secret-create", api.create(&PostParams::default(), &secret)).await {
            Err(WriteError::AlreadyExists) => Ok(()),
            answer => Ok(answer.map(|_| ())?),
        }
    }

    /// Deletes the SSH key pair by its name alone, because we may not read Secrets.
    async fn delete_secret(&self, context: &EffectContext, name: &str) -> Result<(), EffectError> {
        match self
            .writer
            .write("secret-delete", self.writer.api::<Secret>(&context.namespace).delete(name, &DeleteParams::default()))
            .await
        {
            // The admission policy refuses it after somebody has changed the Secret's label. They have to delete it.
            Err(WriteError::Refused(message)) => {
                tracing::warn!(namespace = %context.namespace, secret = name, "the key pair was not deleted: {message}");
                Ok(())
            }
            answer => not_found_is_fine(answer),
        }
    }

    /// Creates a claim. A claim that is kept has no owner, so the label alone shows whose an existing one is.
    async fn create_claim(
        &self,
        context: &EffectContext,
        session: &Session,
        template: &ClaimTemplate,
    ) -> Result<(), EffectError> {
        let claim = pods::claim(session, &context.group_name(), template);
        let api = self.writer.api::<PersistentVolumeClaim>(&context.namespace);
        let error = match self.writer.write("claim-create", api.create(&PostParams::default(), &claim)).await {
            Err(WriteError::AlreadyExists) => match self.writer.find(&context.namespace, &claim.name_any()).await? {
                Some::<PersistentVolumeClaim>(found) if session_uid(&found.metadata) == Some(uid_of(session)) => return Ok(()),
                Some(_) => format!("volume claim {} exists already, and was not created for this session", claim.name_any()),
                None => return Err(EffectError::Again("the volume claim was just deleted".into())),
            },
            answer => return Ok(answer.map(|_| ())?),
        };
        Err(EffectError::Failed(Failure::new(Cause::Hold, Reason::VolumeClaimExists, error)))
    }

    async fn launch(&self, context: &EffectContext, session: &Session, launch: &Launch) -> Result<(), EffectError> {
        if self.world.has_pod(&uid_of(session), &context.namespace, &launch.name) {
            return Ok(());
        }
        let group = PodGroup { name: &context.group_name(), group: context.group.as_deref() };
        let pod = pods::pod(session, group, launch, &self.options);
        let owner = session.metadata.uid.as_deref();
        let created = self.writer.create_ours("pod-create", &context.namespace, &pod, owner).await?;
        self.world.upsert_pod(&created);
        Ok(())
    }

    /// A reminder that fails holds nothing up. The kernel is reminded again later.
    async fn remind_kubelet(&self, pod: &PodRef) -> Result<(), EffectError> {
        let now = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
        tracing::info!(pod = %pod.name, namespace = %pod.namespace, "reminding its kubelet that its gate is open");
        match self.annotate_gate("pod-gate-reminder", pod, ANNOTATION_GATE_REMINDED, &now).await {
            Ok(()) => Ok(()),
            Err(WriteError::Fenced) => Err(EffectError::Fenced),
            Err(error) => {
                tracing::warn!(pod = %pod.name, namespace = %pod.namespace, "its kubelet could not be reminded: {error}");
                Ok(())
            }
        }
    }

    async fn annotate_gate(&self, site: &'static str, pod: &PodRef, annotation: &str, value: &str) -> Result<(), WriteError> {
        let patch = json!({"metadata": {"uid": pod.uid, "annotations": {annotation: value}}});
        let api = self.writer.api::<Pod>(&pod.namespace);
        let patched = self.writer.write(site, api.patch(&pod.name, &PatchParams::default(), &Patch::Merge(&patch))).await?;
        self.world.upsert_pod(&patched);
        Ok(())
    }

    async fn confirm_no_pod(&self, context: &EffectContext, name: &str) -> Result<(), EffectError> {
        let Some(pod) = self.writer.find::<Pod>(&context.namespace, name).await? else { return Ok(()) };
        self.world.upsert_pod(&pod);
        Err(EffectError::Again(format!("pod {name} exists")))
    }

    async fn delete_pod(&self, pod: &PodRef, grace: Option<i64>) -> Result<(), EffectError> {
        let grace = grace.and_then(|seconds| u32::try_from(seconds).ok());
        let params = DeleteParams { grace_period_seconds: grace, ..exactly(Some(pod.uid.clone())) };
        if let Some(held) = self.writer.delete::<Pod>("pod-delete", &pod.namespace, &pod.name, params).await? {
            self.world.upsert_pod(&held);
        }
        Ok(())
    }

    /// Removes our finalizer from the pod with this uid, and the label by which an autoscaler finds the replicas of a deployment. An
    /// HPA would count a pod that succeeded and is kept for its logs as one that uses all of its CPU, and never scale in.
    async fn release_pod(&self, pod: &PodRef) -> Result<(), EffectError> {
        let api = self.writer.api::<Pod>(&pod.namespace);
        let labels = json!({LABEL_DEPLOYMENT: null});
        let patch =
            json!({"metadata": {"uid": pod.uid, "labels": labels, "$deleteFromPrimitiveList/finalizers": [FINALIZER_POD]}});
        let params = PatchParams::default();
        let released = self.writer.write("pod-finalizer", api.patch(&pod.name, &params, &Patch::Strategic(&patch))).await;
        if let Ok(patched) = &released {
            self.world.upsert_pod(patched);
            self.world.pod_released(pod);
        }
        not_found_is_fine(released)
    }

    async fn record_kernel(&self, context: &EffectContext, record: &Kernel) -> Result<(), EffectError> {
        let name = record.name_any();
        let known = self.world.kernel(&context.namespace, &name);
        if known.as_ref().and_then(|known| known.metadata.resource_version.clone()) != record.metadata.resource_version {
            return Err(EffectError::Again(format!("kernel {name} changed meanwhile")));
        }
        if known.is_some() {
            let api = self.writer.api::<Kernel>(&context.namespace);
            return match self.writer.write("kernel-update", api.replace(&name, &PostParams::default(), record)).await {
                Ok(written) => {
                    self.world.upsert_kernel(written);
                    Ok(())
                }
                Err(error) => not_found_is_fine::<()>(Err(error)),
            };
        }
        let owner = Some(record.spec.session_uid.as_str());
        let created = self.writer.create_ours("kernel-create", &context.namespace, record, owner).await?;
        let is_as_wanted = created.status == record.status;
        self.world.upsert_kernel(created);
        // No watch has reported the record that was there already. The next decision knows it.
        if is_as_wanted { Ok(()) } else { Err(EffectError::Again(format!("kernel {name} exists"))) }
    }

    async fn delete_kernel(&self, context: &EffectContext, name: &str, uid: &str) -> Result<(), EffectError> {
        self.writer.delete::<Kernel>("kernel-delete", &context.namespace, name, exactly(Some(uid.to_owned()))).await.map(|_| ())
    }
}

/// Returns the uid of the session in an object's label.
fn session_uid(meta: &ObjectMeta) -> Option<SessionUid> {
    meta.labels.as_ref()?.get(LABEL_SESSION_UID).map(|uid| SessionUid(uid.clone()))
}
