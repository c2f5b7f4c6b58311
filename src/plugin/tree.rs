//! `tree`: a session, its kernels and their pods.

use std::fmt;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde::Serialize;

use crate::api::{Kernel, LABEL_KERNEL, Reason, Session, SessionPhase};
use crate::lifecycle::printable;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tree {
    name: String,
    phase: SessionPhase,
    reason: Option<Reason>,
    kernels: Vec<Branch>,
    /// Pods whose kernel has no record yet.
    pods: Vec<Leaf>,
    /// Whether the user may list pods.
    pods_visible: bool,
}

#[derive(Serialize)]
struct Branch {
    hostname: String,
    kernel: String,
    attempt: i64,
    phase: String,
    node: String,
    reason: Option<String>,
    pods: Vec<Leaf>,
}

/// A pod.
#[derive(Clone, Serialize)]
pub struct Leaf {
    name: String,
    phase: String,
    ready: bool,
}

pub fn view(session: &Session, kernels: &[Kernel], visible: Option<&[Pod]>) -> Tree {
    let pods = visible.unwrap_or_default();
    let mut kernels: Vec<&Kernel> = kernels.iter().collect();
    kernels.sort_by_key(|kernel| (kernel.spec.allocation_generation, kernel.spec.local_rank));
    let branch = |kernel: &&Kernel| {
        let status = kernel.status.as_ref();
        Branch {
            hostname: kernel.spec.hostname.clone(),
            kernel: kernel.name_any(),
            attempt: kernel.spec.allocation_generation,
            // Without a record of its own, a kernel is in its session's phase.
            phase: status.map_or(session.phase().to_string(), |status| status.phase.to_string()),
            node: kernel.spec.node.0.clone(),
            reason: status.and_then(|status| status.reason.clone()),
            pods: pods.iter().filter(|pod| pod.name_any() == kernel.name_any()).map(leaf).collect(),
        }
    };
    let recorded = |pod: &&Pod| kernels.iter().any(|kernel| kernel.name_any() == pod.name_any());
    Tree {
        name: session.name_any(),
        phase: session.phase(),
        reason: session.status.as_ref().and_then(|status| status.reason),
        kernels: kernels.iter().map(branch).collect(),
        pods: pods.iter().filter(|pod| !recorded(pod)).map(leaf).collect(),
        pods_visible: visible.is_some(),
    }
}

pub fn leaf(pod: &Pod) -> Leaf {
    let status = pod.status.clone().unwrap_or_default();
    let ready = status.conditions.iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let phase = match pod.metadata.deletion_timestamp {
        Some(_) => "Terminating".to_owned(),
        None => status.phase.unwrap_or_else(|| "Unknown".into()),
    };
    let hostname = pod.labels().get(LABEL_KERNEL).cloned().unwrap_or_default();
    Leaf { name: format!("{} ({hostname})", pod.name_any()), phase, ready }
}

impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let because = |reason: Option<&str>| reason.map_or(String::new(), |reason| format!(" ({})", printable(reason)));
        writeln!(f, "session {}  {}{}", self.name, self.phase, because(self.reason.map(Reason::as_str)))?;
        for (index, branch) in self.kernels.iter().enumerate() {
            let last = index + 1 == self.kernels.len() && self.pods.is_empty();
            let (mark, bar) = if last { ("└─", "   ") } else { ("├─", "│  ") };
            let (hostname, attempt) = (&branch.hostname, branch.attempt);
            writeln!(
                f,
                "{mark} kernel {hostname}  {}{} on {}, attempt {attempt}",
                branch.phase,
                because(branch.reason.as_deref()),
                branch.node
            )?;
            for pod in &branch.pods {
                writeln!(f, "{bar}└─ {pod}")?;
            }
        }
        for pod in &self.pods {
            writeln!(f, "└─ {pod}")?;
        }
        if self.pods_visible { Ok(()) } else { writeln!(f, "pods: you may not list them") }
    }
}

impl fmt::Display for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pod {}  {}{}", self.name, self.phase, if self.ready { ", ready" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::session::handlers::testing::{kernel_of, session_in};

    #[test]
    fn a_session_is_shown_with_its_kernels_and_their_pods() {
        let session = session_in(SessionPhase::Pulling);
        let mut failing = kernel_of(&session);
        let status = json!({"phase": "Pulling", "reason": "ImagePullFailed"});
        failing.status = Some(serde_json::from_value(status).expect("a status"));
        let mut unrecorded = kernel_of(&session);
        unrecorded.metadata.name = Some("other".into());
        (unrecorded.spec.hostname, unrecorded.spec.local_rank) = ("sub1".into(), 1);
        let pod = |name: String| {
            json!({
                "metadata": {"name": name, "labels": {LABEL_KERNEL: "main1"}},
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
            })
        };
        let pods = [pod(failing.name_any()), pod("stray".into())].map(|pod| serde_json::from_value(pod).expect("a pod"));
        let name = failing.name_any();
        let kernels = [unrecorded, failing];
        let wanted = [
            "session s  Pulling",
            "├─ kernel main1  Pulling (ImagePullFailed) on node-1, attempt 1",
            &format!("│  └─ pod {name} (main1)  Running, ready"),
            "├─ kernel sub1  Pulling on node-1, attempt 1",
            "└─ pod stray (main1)  Running, ready",
        ];
        assert_eq!(view(&session, &kernels, Some(&pods)).to_string().lines().collect::<Vec<_>>(), wanted);
        let without_pods = view(&session, &kernels, None).to_string();
        let end = "└─ kernel sub1  Pulling on node-1, attempt 1\npods: you may not list them\n";
        assert!(without_pods.ends_with(end), "{without_pods}");
    }
}
