//! Carries out effects. Each may be repeated: what exists already counts as done if it is ours.

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
            // The object changed under us; the next cycle sees it as it is.
            WriteError::Conflict(message) | WriteError::Busy(message) => Self::Again(message),
            WriteError::Refused(message) if message.contains("exceeded quota") => {
                Self::Failed(Failure::new(Cause::Quota, Reason::NamespaceQuota, message))
            }
            other => Self::Failed(Failure::fault(Reason::EffectFailed, other.to_string())),
        }
    }
}

/// Most times that finalizers are changed again at once, because somebody else changed them.
const MAX_CONFLICTS: usize = 8;

/// The session that effects belong to.
#[derive(Clone, Debug)]
pub struct EffectContext {
    pub namespace: String,
    /// None when the session is gone and only its remains are dealt with.
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

/// Carries out effects, and lets the world know of what it made before the watch does.
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

    /// Changes the finalizers alone, so that it works for a session that cannot be read, and however often others change the
    /// rest of it. `patch` makes the change from the finalizers as they are.
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
                done => return done.map(|changed| changed.metadata),
            }
        }
        Err(WriteError::Busy("the finalizers of the session change all the time".into()))
    }

    async fn release(&self, meta: &ObjectMeta) -> Result<(), EffectError> {
        let release = |finalizers: &[String]| {
            let ours = finalizers.iter().position(|name| name == FINALIZER_SESSION);
            ours.map(|at| json!({"op": "remove", "path": format!("/metadata/finalizers/{at}")})).into_iter().collect()
        };
        gone_is_fine(self.change_finalizers(meta, release).await)
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
        let made = self.create_ours("service-create", &context.namespace, &service, session.metadata.uid.as_deref()).await;
        if let Err(EffectError::Wait(_)) = &made {
            self.clear_the_name(&context.namespace, &service_name(session.metadata.name.as_deref().unwrap_or_default())).await?;
        }
        made.map(|_| ())
    }

    /// A Service that a session left behind, whose finalizer an admin took off, gives its name back.
    async fn clear_the_name(&self, namespace: &str, name: &str) -> Result<(), EffectError> {
        let Some(there) = self.find::<Service>(namespace, name).await? else { return Ok(()) };
        match session_uid(&there.metadata) {
            Some(uid) if !self.world.knows(&uid) => self.delete_orphaned_service(namespace, name, &uid).await,
            Some(_) | None => Ok(()),
        }
    }

    async fn delete_orphaned_service(&self, namespace: &str, name: &str, uid: &SessionUid) -> Result<(), EffectError> {
        let Some(there) = self.find::<Service>(namespace, name).await? else { return Ok(()) };
        if session_uid(&there.metadata).as_ref() != Some(uid) {
            return Ok(());
        }
        self.delete::<Service>("service-delete", namespace, name, exactly(there.metadata.uid)).await.map(|_| ())
    }

    async fn delete_service(&self, context: &EffectContext, session: &Session) -> Result<(), EffectError> {
        let name = service_name(session.metadata.name.as_deref().unwrap_or_default());
        let Some(there) = self.find::<Service>(&context.namespace, &name).await? else { return Ok(()) };
        // After `--cascade=orphan` it has no owner any more; its label, which only the operator sets, still names the session.
        if session_uid(&there.metadata) != Some(uid_of(session)) {
            ours(&there.metadata, session.metadata.uid.as_deref(), "service", &name)?;
        }
        self.delete::<Service>("service-delete", &context.namespace, &name, exactly(there.metadata.uid)).await.map(|_| ())
    }

    /// Creates an object; one of that name that exists already is as good, if it is `owner`'s.
    async fn create_ours<K>(&self, what: &'static str, namespace: &str, object: &K, owner: Option<&str>) -> Result<K, EffectError>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + serde::Serialize
            + serde::de::DeserializeOwned
            + std::fmt::Debug,
    {
        let api = self.api::<K>(namespace);
        match self.writer.write(what, api.create(&PostParams::default(), object)).await {
            Err(WriteError::AlreadyExists) => {
                let name = object.meta().name.clone().unwrap_or_default();
                let there = self.writer.read(api.get(&name)).await?;
                ours(there.meta(), owner, &K::kind(&()).to_lowercase(), &name)?;
                Ok(there)
            }
            done => Ok(done?),
        }
    }

    /// We may not read secrets; its name has the session's uid in it, so that one of that name is ours.
    async fn create_secret(&self, context: &EffectContext, session: &Session) -> Result<(), EffectError> {
        let keys = SshKeys::generate()
            .map_err(|error| EffectError::Failed(Failure::fault(Reason::EffectFailed, format!("no key pair: {error}"))))?;
        let secret = pods::ssh_secret(session, &context.group_name(), &keys);
        let api = self.api::<Secret>(&context.namespace);
        match self.writer.write("secret-create", api.create(&PostParams::default(), &secret)).await {
            Err(WriteError::AlreadyExists) => Ok(()),
            done => Ok(done.map(|_| ())?),
        }
    }

    /// By its name alone: secrets are never read. The name has a hash of the session's uid in it.
    async fn delete_secret(&self, context: &EffectContext, name: &str) -> Result<(), EffectError> {
        match self
            .writer
            .write("secret-delete", self.api::<Secret>(&context.namespace).delete(name, &DeleteParams::default()))
            .await
        {
            // Somebody changed its label, so that it does not pass for a session's any more: it is theirs to remove.
            Err(WriteError::Refused(message)) => {
                tracing::warn!(namespace = %context.namespace, secret = name, "the key pair is left: {message}");
                Ok(())
            }
            done => gone_is_fine(done),
        }
    }

    async fn launch(&self, context: &EffectContext, session: &Session, launch: &Launch) -> Result<(), EffectError> {
        let kernel = self.create_kernel(context, session, launch).await?;
        let pod = pods::pod(session, context.group.as_deref(), &kernel, launch, &self.options);
        if self.world.has_pod(&uid_of(session), &context.namespace, &launch.name) {
            return Ok(());
        }
        let owner = kernel.metadata.uid.as_deref();
        let made = self.create_ours("pod-create", &context.namespace, &pod, owner).await?;
        self.world.upsert_pod(&made);
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
        let made = self.create_ours("kernel-create", &context.namespace, &kernel, owner).await?;
        Ok(self.world.upsert_kernel(made))
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
        Err(EffectError::Again(format!("pod {name} is there")))
    }

    async fn confirm_no_kernel(&self, context: &EffectContext, name: &str) -> Result<(), EffectError> {
        let Some(kernel) = self.find::<Kernel>(&context.namespace, name).await? else { return Ok(()) };
        self.world.upsert_kernel(kernel);
        Err(EffectError::Again(format!("kernel {name} is there")))
    }

    async fn delete_pod(&self, pod: &PodRef, grace: Option<i64>) -> Result<(), EffectError> {
        let grace = grace.and_then(|seconds| u32::try_from(seconds).ok());
        let params = DeleteParams { grace_period_seconds: grace, ..exactly(Some(pod.uid.clone())) };
        if let Some(held) = self.delete::<Pod>("pod-delete", &pod.namespace, &pod.name, params).await? {
            self.world.upsert_pod(&held);
        }
        Ok(())
    }

    /// Only our finalizer goes, and only from that very pod.
    async fn release_pod(&self, pod: &PodRef) -> Result<(), EffectError> {
        let api = self.api::<Pod>(&pod.namespace);
        let patch = json!({"metadata": {"uid": pod.uid, "$deleteFromPrimitiveList/finalizers": [FINALIZER_POD]}});
        let params = PatchParams::default();
        let released = self.writer.write("pod-finalizer", api.patch(&pod.name, &params, &Patch::Strategic(&patch))).await;
        if let Ok(patched) = &released {
            self.world.upsert_pod(patched);
        }
        gone_is_fine(released)
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
            Err(error) => gone_is_fine::<()>(Err(error)),
        }
    }

    async fn delete_kernel(&self, context: &EffectContext, name: &str, uid: &str) -> Result<(), EffectError> {
        self.delete::<Kernel>("kernel-delete", &context.namespace, name, exactly(Some(uid.to_owned()))).await.map(|_| ())
    }

    /// The object of this name, if it is there.
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

    /// Deletes an object. One that a finalizer holds is still there, and deleted from now on: that is what comes back.
    async fn delete<K>(
        &self,
        what: &'static str,
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
        match self.writer.write(what, self.api::<K>(namespace).delete(name, &params)).await {
            Ok(answer) => Ok(answer.left().filter(|object| !object.finalizers().is_empty())),
            Err(error) => gone_is_fine::<()>(Err(error)).map(|()| None),
        }
    }
}

/// Delete this very object, and its dependents behind it.
fn exactly(uid: Option<String>) -> DeleteParams {
    DeleteParams::background().preconditions(Preconditions { uid, resource_version: None })
}

/// What was to go and is gone already, or was replaced by another, is done with.
fn gone_is_fine<T>(done: Result<T, WriteError>) -> Result<(), EffectError> {
    match done {
        Ok(_) | Err(WriteError::NotFound(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The session that an object is labelled with.
fn session_uid(meta: &ObjectMeta) -> Option<SessionUid> {
    meta.labels.as_ref()?.get(LABEL_SESSION_UID).map(|uid| SessionUid(uid.clone()))
}

/// "Already exists" is success only for what we own; what is going, or a stranger's, is waited for.
fn ours(meta: &kube::core::ObjectMeta, owner: Option<&str>, kind: &str, name: &str) -> Result<(), EffectError> {
    let owned = meta.owner_references.iter().flatten().any(|reference| Some(reference.uid.as_str()) == owner);
    if !owned {
        return Err(EffectError::Wait(format!("a {kind} {name} that is not this session's is in the way")));
    }
    if meta.deletion_timestamp.is_some() {
        return Err(EffectError::Wait(format!("{kind} {name} is being deleted")));
    }
    Ok(())
}
