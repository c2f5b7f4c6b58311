//! Runs effects. Each may be repeated: creating an object that exists succeeds if the object is ours.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Secret, Service};
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, ResourceExt};
use serde_json::json;

use super::pods::{self, PodOptions, SshKeys};
use crate::api::*;
use crate::cluster::store::identity::{key_of, uid_of};
use crate::cluster::store::world::World;
use crate::cluster::write::{WriteError, Writer};
use crate::lifecycle::{EffectError, Failure};
use crate::session::effect::{Effect, Launch, PodRef};
use crate::session::kernels::service_name;

impl From<WriteError> for EffectError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Fenced => Self::Fenced,
            // The object changed. The next cycle decides on its new version.
            WriteError::Conflict(message) | WriteError::Busy(message) => Self::Again(message),
            WriteError::Refused(message) if message.contains("exceeded quota") => {
                Self::Failed(Failure::new(Cause::Quota, Reason::NamespaceQuota, message))
            }
            other => Self::Failed(Failure::fault(Reason::EffectFailed, other.to_string())),
        }
    }
}

/// The largest number of tries to change finalizers that others change at the same time.
const MAX_CONFLICTS: usize = 8;

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
            Effect::CreateService => self.create_service(context, context.session()?).await,
            Effect::DeleteService => self.delete_service(context, context.session()?).await,
            Effect::CreateSshSecret => self.create_secret(context, context.session()?).await,
            Effect::DeleteSshSecret(name) => self.delete_secret(context, name).await,
            Effect::DeleteOrphanedService { session, uid } => {
                self.delete_orphaned_service(namespace, &service_name(session), uid).await
            }
            Effect::Launch(launch) => self.launch(context, context.session()?, launch).await,
            Effect::OpenGate(pod) => self.open_gate(pod).await,
            Effect::DeletePod { pod, grace } => self.delete_pod(pod, *grace).await,
            Effect::ReleasePod(pod) => self.release_pod(pod).await,
            Effect::RecordKernel { name, version, status } => self.record_kernel(context, name, version, status).await,
            Effect::DeleteKernel { name, uid } => self.delete_kernel(context, name, uid).await,
            Effect::ConfirmNoPod(name) => self.confirm_no_pod(context, name).await,
            Effect::ConfirmNoKernel(name) => self.confirm_no_kernel(context, name).await,
        }
    }

    fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.writer.client.clone(), namespace)
    }

    async fn hold(&self, session: &Session) -> Result<(), EffectError> {
        let hold = |finalizers: &[String]| match finalizers {
            [] => vec![json!({"op": "add", "path": "/metadata/finalizers", "value": [FINALIZER_SESSION]})],
            all if all.iter().any(|name| name == FINALIZER_SESSION) => vec![],
            _ => vec![json!({"op": "add", "path": "/metadata/finalizers/-", "value": FINALIZER_SESSION})],
        };
        if session.finalizers().iter().any(|name| name == FINALIZER_SESSION) {
            return Ok(());
        }
        let held = self.change_finalizers(&session.metadata, hold).await?;
        if held.generation != session.metadata.generation {
            return Err(EffectError::Again("the session changed meanwhile".into()));
        }
        self.world.upsert_session(Session { metadata: held, ..session.clone() });
        Ok(())
    }

    /// Changes only the finalizers, so that it works for an unreadable session, and while others change its other fields.
    /// `patch` returns the operations for the current finalizers.
    async fn change_finalizers(
        &self,
        meta: &ObjectMeta,
        patch: impl Fn(&[String]) -> Vec<serde_json::Value>,
    ) -> Result<ObjectMeta, WriteError> {
        let (namespace, name) = key_of(meta);
        let api = self.api::<Session>(&namespace);
        let mut finalizers = meta.finalizers.clone();
        for _ in 0..MAX_CONFLICTS {
            let mut operations = vec![
                json!({"op": "test", "path": "/metadata/uid", "value": meta.uid}),
                json!({"op": "test", "path": "/metadata/finalizers", "value": finalizers}),
            ];
            operations.extend(patch(finalizers.as_deref().unwrap_or_default()));
            let operations = serde_json::from_value(json!(operations)).unwrap_or_default();
            let json = Patch::Json::<()>(operations);
            match self.writer.write("session-finalizer", api.patch_metadata(&name, &PatchParams::default(), &json)).await {
                Err(error @ (WriteError::Refused(_) | WriteError::Conflict(_))) => {
                    let read = self.writer.read(api.get_metadata(&name)).await?.metadata;
                    if read.uid != meta.uid {
                        return Err(WriteError::NotFound(error.to_string()));
                    }
                    if read.finalizers == finalizers {
                        return Err(error);
                    }
                    finalizers = read.finalizers;
                }
                answer => return answer.map(|changed| changed.metadata),
            }
        }
        Err(WriteError::Busy("the finalizers of the session keep changing".into()))
    }

    async fn release(&self, meta: &ObjectMeta) -> Result<(), EffectError> {
        let release = |finalizers: &[String]| {
            let index = finalizers.iter().position(|name| name == FINALIZER_SESSION);
            index.map(|index| json!({"op": "remove", "path": format!("/metadata/finalizers/{index}")})).into_iter().collect()
        };
        not_found_is_fine(self.change_finalizers(meta, release).await)
    }

    async fn delete_session(&self, session: &Session) -> Result<(), EffectError> {
        let (namespace, name) = key_of(&session.metadata);
        let params = exactly(session.metadata.uid.clone());
        if let Some(held) = self.delete::<Session>("session-delete", &namespace, &name, params).await? {
            self.world.upsert_session(held);
        }
        Ok(())
    }

    async fn create_service(&self, context: &EffectContext, session: &Session) -> Result<(), EffectError> {
        let service = pods::service(session, &context.group_name());
        let created = self.create_ours("service-create", &context.namespace, &service, session.metadata.uid.as_deref()).await;
        if let Err(EffectError::Wait(_)) = &created {
            let name = service_name(session.metadata.name.as_deref().unwrap_or_default());
            self.delete_abandoned_service(&context.namespace, &name).await?;
        }
        created.map(|_| ())
    }

    /// Deletes a Service of this name whose session is gone. An admin may have removed that session's finalizer.
    async fn delete_abandoned_service(&self, namespace: &str, name: &str) -> Result<(), EffectError> {
        let Some(service) = self.find::<Service>(namespace, name).await? else { return Ok(()) };
        match session_uid(&service.metadata) {
            Some(uid) if !self.world.knows(&uid) => self.delete_orphaned_service(namespace, name, &uid).await,
            Some(_) | None => Ok(()),
        }
    }

    async fn delete_orphaned_service(&self, namespace: &str, name: &str, uid: &SessionUid) -> Result<(), EffectError> {
        let Some(service) = self.find::<Service>(namespace, name).await? else { return Ok(()) };
        if session_uid(&service.metadata).as_ref() != Some(uid) {
            return Ok(());
        }
        self.delete::<Service>("service-delete", namespace, name, exactly(service.metadata.uid)).await.map(|_| ())
    }

    async fn delete_service(&self, context: &EffectContext, session: &Session) -> Result<(), EffectError> {
        let name = service_name(session.metadata.name.as_deref().unwrap_or_default());
        let Some(service) = self.find::<Service>(&context.namespace, &name).await? else { return Ok(()) };
        // After `--cascade=orphan` the Service has no owner. Its label, which only the operator sets, still names the
        // session.
        if session_uid(&service.metadata) != Some(uid_of(session)) {
            ours(&service.metadata, session.metadata.uid.as_deref(), "service", &name)?;
        }
        self.delete::<Service>("service-delete", &context.namespace, &name, exactly(service.metadata.uid)).await.map(|_| ())
    }

    /// Creates an object, or returns the existing object of this name if it belongs to `owner`.
    async fn create_ours<K>(
        &self,
        operation: &'static str,
        namespace: &str,
        object: &K,
        owner: Option<&str>,
    ) -> Result<K, EffectError>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + serde::Serialize
            + serde::de::DeserializeOwned
            + std::fmt::Debug,
    {
        let api = self.api::<K>(namespace);
        match self.writer.write(operation, api.create(&PostParams::default(), object)).await {
            Err(WriteError::AlreadyExists) => {
                let name = object.meta().name.clone().unwrap_or_default();
                let existing = self.writer.read(api.get(&name)).await?;
                ours(existing.meta(), owner, &K::kind(&()).to_lowercase(), &name)?;
                Ok(existing)
            }
            answer => Ok(answer?),
        }
    }

    /// Creates the SSH key pair. We may not read Secrets. An existing Secret of this name is ours, because the name has a
    /// hash of the session's uid.
    async fn create_secret(&self, context: &EffectContext, session: &Session) -> Result<(), EffectError> {
        let keys = SshKeys::generate()
            .map_err(|error| EffectError::Failed(Failure::fault(Reason::EffectFailed, format!("no key pair: {error}"))))?;
        let secret = pods::ssh_secret(session, &context.group_name(), &keys);
        let api = self.api::<Secret>(&context.namespace);
        match self.writer.write("secret-create", api.create(&PostParams::default(), &secret)).await {
            Err(WriteError::AlreadyExists) => Ok(()),
            answer => Ok(answer.map(|_| ())?),
        }
    }

    /// Deletes the SSH key pair by its name alone, because we may not read Secrets.
    async fn delete_secret(&self, context: &EffectContext, name: &str) -> Result<(), EffectError> {
        match self
            .writer
            .write("secret-delete", self.api::<Secret>(&context.namespace).delete(name, &DeleteParams::default()))
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

    async fn launch(&self, context: &EffectContext, session: &Session, launch: &Launch) -> Result<(), EffectError> {
        let kernel = self.create_kernel(context, session, launch).await?;
        let pod = pods::pod(session, context.group.as_deref(), &kernel, launch, &self.options);
        if self.world.has_pod(&uid_of(session), &context.namespace, &launch.name) {
            return Ok(());
        }
        let owner = kernel.metadata.uid.as_deref();
        let created = self.create_ours("pod-create", &context.namespace, &pod, owner).await?;
        self.world.upsert_pod(&created);
        Ok(())
    }

    async fn create_kernel(
        &self,
        context: &EffectContext,
        session: &Session,
        launch: &Launch,
    ) -> Result<Arc<Kernel>, EffectError> {
        if let Some(kernel) = self.world.kernel(&context.namespace, &launch.name) {
            ours(&kernel.metadata, session.metadata.uid.as_deref(), "kernel", &launch.name)?;
            return Ok(kernel);
        }
        let kernel = pods::kernel(session, &context.group_name(), launch);
        let owner = session.metadata.uid.as_deref();
        let created = self.create_ours("kernel-create", &context.namespace, &kernel, owner).await?;
        Ok(self.world.upsert_kernel(created))
    }

    async fn open_gate(&self, pod: &PodRef) -> Result<(), EffectError> {
        let patch = json!({"metadata": {"uid": pod.uid, "annotations": {ANNOTATION_GATE: GATE_OPEN}}});
        let api = self.api::<Pod>(&pod.namespace);
        let patched = self.writer.write("pod-gate", api.patch(&pod.name, &PatchParams::default(), &Patch::Merge(&patch))).await?;
        self.world.upsert_pod(&patched);
        Ok(())
    }

    async fn confirm_no_pod(&self, context: &EffectContext, name: &str) -> Result<(), EffectError> {
        let Some(pod) = self.find::<Pod>(&context.namespace, name).await? else { return Ok(()) };
        self.world.upsert_pod(&pod);
        Err(EffectError::Again(format!("pod {name} exists")))
    }

    async fn confirm_no_kernel(&self, context: &EffectContext, name: &str) -> Result<(), EffectError> {
        let Some(kernel) = self.find::<Kernel>(&context.namespace, name).await? else { return Ok(()) };
        self.world.upsert_kernel(kernel);
        Err(EffectError::Again(format!("kernel {name} exists")))
    }

    async fn delete_pod(&self, pod: &PodRef, grace: Option<i64>) -> Result<(), EffectError> {
        let grace = grace.and_then(|seconds| u32::try_from(seconds).ok());
        let params = DeleteParams { grace_period_seconds: grace, ..exactly(Some(pod.uid.clone())) };
        if let Some(held) = self.delete::<Pod>("pod-delete", &pod.namespace, &pod.name, params).await? {
            self.world.upsert_pod(&held);
        }
        Ok(())
    }

    /// Removes only our finalizer, and only from the pod with this uid.
    async fn release_pod(&self, pod: &PodRef) -> Result<(), EffectError> {
        let api = self.api::<Pod>(&pod.namespace);
        let patch = json!({"metadata": {"uid": pod.uid, "$deleteFromPrimitiveList/finalizers": [FINALIZER_POD]}});
        let params = PatchParams::default();
        let released = self.writer.write("pod-finalizer", api.patch(&pod.name, &params, &Patch::Strategic(&patch))).await;
        if let Ok(patched) = &released {
            self.world.upsert_pod(patched);
        }
        not_found_is_fine(released)
    }

    async fn record_kernel(
        &self,
        context: &EffectContext,
        name: &str,
        version: &Option<String>,
        status: &KernelStatus,
    ) -> Result<(), EffectError> {
        let Some(kernel) = self.world.kernel(&context.namespace, name) else { return Ok(()) };
        if kernel.metadata.resource_version != *version {
            return Err(EffectError::Again(format!("kernel {name} changed meanwhile")));
        }
        let mut next = (*kernel).clone();
        next.status = Some(status.clone());
        let api = self.api::<Kernel>(&context.namespace);
        match self.writer.write("kernel-status", api.replace_status(name, &PostParams::default(), &next)).await {
            Ok(written) => {
                self.world.upsert_kernel(written);
                Ok(())
            }
            Err(error) => not_found_is_fine::<()>(Err(error)),
        }
    }

    async fn delete_kernel(&self, context: &EffectContext, name: &str, uid: &str) -> Result<(), EffectError> {
        self.delete::<Kernel>("kernel-delete", &context.namespace, name, exactly(Some(uid.to_owned()))).await.map(|_| ())
    }

    /// Returns the object of this name, if it exists.
    async fn find<K>(&self, namespace: &str, name: &str) -> Result<Option<K>, EffectError>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + serde::de::DeserializeOwned
            + std::fmt::Debug,
    {
        match self.writer.read(self.api::<K>(namespace).get(name)).await {
            Err(WriteError::NotFound(_)) => Ok(None),
            read => Ok(Some(read?)),
        }
    }

    /// Deletes an object. If a finalizer holds it, returns the object, which is being deleted now.
    async fn delete<K>(
        &self,
        operation: &'static str,
        namespace: &str,
        name: &str,
        params: DeleteParams,
    ) -> Result<Option<K>, EffectError>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + serde::de::DeserializeOwned
            + std::fmt::Debug,
    {
        match self.writer.write(operation, self.api::<K>(namespace).delete(name, &params)).await {
            Ok(answer) => Ok(answer.left().filter(|object| !object.finalizers().is_empty())),
            Err(error) => not_found_is_fine::<()>(Err(error)).map(|()| None),
        }
    }
}

/// Returns the parameters to delete only the object with this uid, and its dependents in the background.
fn exactly(uid: Option<String>) -> DeleteParams {
    DeleteParams::background().preconditions(Preconditions { uid, resource_version: None })
}

/// Treats NotFound as success: the object to be removed or updated is gone, or another one has its name.
fn not_found_is_fine<T>(answer: Result<T, WriteError>) -> Result<(), EffectError> {
    match answer {
        Ok(_) | Err(WriteError::NotFound(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Returns the uid of the session in an object's label.
fn session_uid(meta: &ObjectMeta) -> Option<SessionUid> {
    meta.labels.as_ref()?.get(LABEL_SESSION_UID).map(|uid| SessionUid(uid.clone()))
}

/// Succeeds if an existing object is ours. Otherwise, or while it is being deleted, the effect has to wait.
fn ours(meta: &kube::core::ObjectMeta, owner: Option<&str>, kind: &str, name: &str) -> Result<(), EffectError> {
    let owned = meta.owner_references.iter().flatten().any(|reference| Some(reference.uid.as_str()) == owner);
    if !owned {
        return Err(EffectError::Wait(format!("the {kind} {name} exists and does not belong to this session")));
    }
    if meta.deletion_timestamp.is_some() {
        return Err(EffectError::Wait(format!("{kind} {name} is being deleted")));
    }
    Ok(())
}
