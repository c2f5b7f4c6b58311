//! What a decision wants done at the API server, as data. `cluster::effects` carries it out.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::kernels::service_name;
use crate::api::{KernelStatus, KernelTemplate, NodeName, SessionUid};

/// One thing to be done. Each is idempotent: a crash before or after it is repaired by doing it again.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Puts our finalizer on the session, so that it cannot vanish while it holds something.
    HoldSession,
    /// Takes it off again: the session goes.
    ReleaseSession,
    /// Takes it off one that cannot be read, by its metadata alone.
    ReleaseUnreadable(Box<ObjectMeta>),
    /// Deletes the session itself (its time to live is over).
    DeleteSession,
    /// Makes the Service by whose name the kernels reach each other.
    CreateService,
    /// Takes it away again.
    DeleteService,
    /// Makes the SSH key pair that the kernels share.
    CreateSshSecret,
    /// Deletes the SSH key pair of this name: after `--cascade=orphan` the garbage collector leaves it.
    DeleteSshSecret(String),
    /// Deletes the Service of a session that is gone.
    DeleteOrphanedService { session: String, uid: SessionUid },
    /// Makes a kernel and its pod.
    Launch(Box<Launch>),
    /// Lets a gated pod start.
    OpenGate(PodRef),
    /// Deletes a pod; `grace` in seconds, by its own if none.
    DeletePod { pod: PodRef, grace: Option<i64> },
    /// Takes our finalizer off a pod, once its end is recorded.
    ReleasePod(PodRef),
    /// Writes the facts of a kernel, unless its record changed from the version they were decided on.
    RecordKernel { name: String, version: Option<String>, status: Box<KernelStatus> },
    /// Deletes a kernel of an allocation that was given up.
    DeleteKernel { name: String, uid: String },
    /// Makes sure that the pod of this name, which is not to be seen, is gone indeed: what is seen may be old.
    ConfirmNoPod(String),
    /// The same for a kernel.
    ConfirmNoKernel(String),
}

impl Effect {
    /// Its name in the history's steps.
    pub fn name(&self) -> &'static str {
        match self {
            Self::HoldSession => "hold-session",
            Self::ReleaseSession | Self::ReleaseUnreadable(_) => "release-session",
            Self::DeleteSession => "delete-session",
            Self::CreateService => "create-service",
            Self::DeleteService => "delete-service",
            Self::CreateSshSecret => "create-ssh-secret",
            Self::DeleteSshSecret(_) => "delete-ssh-secret",
            Self::DeleteOrphanedService { .. } => "delete-orphaned-service",
            Self::Launch(_) => "launch-kernel",
            Self::OpenGate(_) => "open-gate",
            Self::DeletePod { .. } => "delete-pod",
            Self::ReleasePod(_) => "release-pod",
            Self::RecordKernel { .. } => "record-kernel",
            Self::DeleteKernel { .. } => "delete-kernel",
            Self::ConfirmNoPod(_) => "confirm-no-pod",
            Self::ConfirmNoKernel(_) => "confirm-no-kernel",
        }
    }

    /// What it is about, for the history's steps: a kernel and its pod have one name.
    pub fn target(&self) -> String {
        match self {
            Self::Launch(launch) => format!("{} on {}", launch.name, launch.node),
            Self::OpenGate(pod) | Self::DeletePod { pod, .. } | Self::ReleasePod(pod) => pod.name.clone(),
            Self::RecordKernel { name, .. } | Self::DeleteKernel { name, .. } => name.clone(),
            Self::ConfirmNoPod(name) | Self::ConfirmNoKernel(name) | Self::DeleteSshSecret(name) => name.clone(),
            Self::DeleteOrphanedService { session, .. } => service_name(session),
            _ => String::new(),
        }
    }
}

/// Which pod, and that very one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRef {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

impl From<&crate::views::PodView> for PodRef {
    fn from(pod: &crate::views::PodView) -> Self {
        Self { namespace: pod.namespace.clone(), name: pod.name.clone(), uid: pod.uid.clone() }
    }
}

/// A kernel to be made, with all that its pod needs to know.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// Of the kernel and its pod.
    pub name: String,
    pub template: KernelTemplate,
    pub index: i32,
    pub local_rank: i32,
    pub hostname: String,
    pub node: NodeName,
    pub generation: i64,
    /// Whether it waits for the whole session.
    pub gated: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_of_one_session_are_worked_on_side_by_side_and_everything_else_in_order() {
        let pod = || PodRef { namespace: "ns".into(), name: "p".into(), uid: "u".into() };
        let delete = || Effect::DeletePod { pod: pod(), grace: None };
        let effects =
            [Effect::CreateService, Effect::OpenGate(pod()), Effect::OpenGate(pod()), delete(), delete(), Effect::ReleaseSession];
        let groups: Vec<usize> = effects.chunk_by(crate::lifecycle::Effect::may_run_with).map(<[Effect]>::len).collect();
        assert_eq!(groups, [1, 2, 2, 1]);
    }
}
