//! Effects as data: the writes that a decision needs. `cluster::session::effects` performs them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;

use super::kernels::service_name;
use crate::api::{ClaimTemplate, Kernel, KernelTemplate, NodeName, SessionUid};
pub use crate::views::PodRef;

/// One write. Every effect is idempotent, so that it can be repeated after a crash.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Adds our finalizer to the session, so that it cannot vanish while it holds resources.
    HoldSession,
    /// Removes our finalizer, so that the API server removes the session.
    ReleaseSession,
    /// Removes our finalizer from a session that cannot be read, by its metadata alone.
    ReleaseUnreadable(Box<ObjectMeta>),
    /// Deletes the session itself, because its time to live has passed.
    DeleteSession,
    /// Confirms by a read that nobody else has a Service of this session's name.
    ConfirmServiceName,
    /// Creates the Service through which the kernels resolve each other's names.
    CreateService,
    DeleteService,
    /// Creates the SSH key pair that the kernels share.
    CreateSshSecret,
    /// Deletes the SSH key pair of this name. After `--cascade=orphan` the garbage collector does not.
    DeleteSshSecret(String),
    /// Creates the claim that the session's spec describes.
    CreateClaim(Box<ClaimTemplate>),
    /// Deletes the Service of a session that is gone.
    DeleteOrphanedService {
        session: String,
        uid: SessionUid,
    },
    /// Creates the pod of a kernel.
    Launch(Box<Launch>),
    /// Lets a gated pod start.
    OpenGate(PodRef),
    /// Reminds a kubelet that has not seen the open gate of this pod.
    RemindKubelet(PodRef),
    /// Deletes a pod. `grace` is in seconds; None keeps the pod's own.
    DeletePod {
        pod: PodRef,
        grace: Option<i64>,
    },
    /// Removes our finalizer from a pod, once its end is recorded.
    ReleasePod(PodRef),
    /// Writes a kernel's record: creates it, or replaces the version that the decision was based on.
    RecordKernel(Box<Kernel>),
    /// Deletes a kernel of a former allocation.
    DeleteKernel {
        name: String,
        uid: String,
    },
    /// Confirms by a read that there is no pod of this name. Its absence from our stores may be out of date.
    ConfirmNoPod(String),
}

impl Effect {
    /// Returns its name among the sub-steps of the history.
    pub fn name(&self) -> &'static str {
        match self {
            Self::HoldSession => "hold-session",
            Self::ReleaseSession | Self::ReleaseUnreadable(_) => "release-session",
            Self::DeleteSession => "delete-session",
            Self::ConfirmServiceName => "confirm-service-name",
            Self::CreateService => "create-service",
            Self::DeleteService => "delete-service",
            Self::CreateSshSecret => "create-ssh-secret",
            Self::DeleteSshSecret(_) => "delete-ssh-secret",
            Self::CreateClaim(_) => "create-claim",
            Self::DeleteOrphanedService { .. } => "delete-orphaned-service",
            Self::Launch(_) => "launch-kernel",
            Self::OpenGate(_) => "open-gate",
            Self::RemindKubelet(_) => "remind-kubelet",
            Self::DeletePod { .. } => "delete-pod",
            Self::ReleasePod(_) => "release-pod",
            Self::RecordKernel(_) => "record-kernel",
            Self::DeleteKernel { .. } => "delete-kernel",
            Self::ConfirmNoPod(_) => "confirm-no-pod",
        }
    }

    /// Whether it concerns the pod or the record of one kernel alone, which `target` names.
    pub fn is_of_one_kernel(&self) -> bool {
        match self {
            Self::Launch(_)
            | Self::OpenGate(_)
            | Self::RemindKubelet(_)
            | Self::DeletePod { .. }
            | Self::ReleasePod(_)
            | Self::RecordKernel(_)
            | Self::ConfirmNoPod(_) => true,
            Self::HoldSession
            | Self::ReleaseSession
            | Self::ReleaseUnreadable(_)
            | Self::DeleteSession
            | Self::ConfirmServiceName
            | Self::CreateService
            | Self::DeleteService
            | Self::CreateSshSecret
            | Self::DeleteSshSecret(_)
            | Self::CreateClaim(_)
            | Self::DeleteOrphanedService { .. }
            | Self::DeleteKernel { .. } => false,
        }
    }

    /// Returns the object it writes, for the sub-steps of the history. A kernel and its pod share a name.
    pub fn target(&self) -> String {
        match self {
            Self::Launch(launch) => format!("{} on {}", launch.name, launch.node),
            Self::OpenGate(pod) | Self::RemindKubelet(pod) | Self::DeletePod { pod, .. } | Self::ReleasePod(pod) => {
                pod.name.clone()
            }
            Self::RecordKernel(kernel) => kernel.name_any(),
            Self::DeleteKernel { name, .. } | Self::ConfirmNoPod(name) | Self::DeleteSshSecret(name) => name.clone(),
            Self::CreateClaim(template) => template.name.clone(),
            Self::DeleteOrphanedService { session, .. } => service_name(session),
            _ => String::new(),
        }
    }
}

/// A kernel to start, with everything that its pod needs.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// The name of the kernel and its pod.
    pub name: String,
    pub template: KernelTemplate,
    pub index: i32,
    pub local_rank: i32,
    pub hostname: String,
    pub node: NodeName,
    pub generation: i64,
    /// Whether other kernels share its session, so that it has a name among them and the session's SSH keys.
    pub in_gang: bool,
    pub gate: Gate,
}

/// The gate of a kernel: it holds the kernel back until all kernels of its session may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Nothing.
    None,
    /// A gate in the operator's image. All nodes have the images, so only the names are waited for.
    Names,
    /// A gate in the kernel's own image, so that the image is pulled before the gate can run.
    Images,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effects_on_pods_of_one_session_run_in_parallel_and_all_others_in_order() {
        let pod = || PodRef { namespace: "ns".into(), name: "p".into(), uid: "u".into() };
        let delete = || Effect::DeletePod { pod: pod(), grace: None };
        let effects =
            [Effect::CreateService, Effect::OpenGate(pod()), Effect::OpenGate(pod()), delete(), delete(), Effect::ReleaseSession];
        let batches: Vec<usize> = effects.chunk_by(crate::lifecycle::Effect::may_run_with).map(<[Effect]>::len).collect();
        assert_eq!(batches, [1, 2, 2, 1]);
    }
}
