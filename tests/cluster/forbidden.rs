//! Policies that temporarily forbid operations on a scene's pods.

use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

use crate::common::eventually;
use crate::scene::Scene;

impl Scene {
    /// Makes the API server refuse to delete a pod.
    pub async fn forbid_deletion(&self, pod: &str) {
        self.forbid("DELETE", &format!("oldObject.metadata.name != '{pod}'")).await;
        let pods = self.api::<Pod>();
        let trial = DeleteParams { dry_run: true, ..DeleteParams::default() };
        eventually("the deletion to be refused", || async {
            if pods.delete(pod, &trial).await.is_err() { Ok(()) } else { Err("not yet".into()) }
        })
        .await;
    }

    /// Makes the API server refuse to change pods with this name prefix.
    pub async fn forbid_changes(&self, prefix: &str) {
        self.forbid("UPDATE", &format!("!oldObject.metadata.name.startsWith('{prefix}')")).await;
        let (pods, name) = (self.api::<Pod>(), format!("{prefix}trial"));
        let container = json!({"name": "c", "image": "busybox:1"});
        self.make_here::<Pod>(json!({"metadata": {"name": name}, "spec": {"schedulerName": "none", "containers": [container]}}))
            .await;
        let trial = PatchParams { dry_run: true, ..PatchParams::default() };
        let change = Patch::Merge(json!({"metadata": {"labels": {"changed": "yes"}}}));
        eventually("the change to be refused", || async {
            if pods.patch(&name, &trial, &change).await.is_err() { Ok(()) } else { Err("not yet".into()) }
        })
        .await;
        pods.delete(&name, &DeleteParams::default()).await.expect("the pod can be deleted");
    }

    /// Refuses an operation on pods unless the condition holds.
    async fn forbid(&self, operation: &str, condition: &str) {
        let rules = json!([{"apiGroups": [""], "apiVersions": ["v1"], "operations": [operation], "resources": ["pods"]}]);
        self.make::<ValidatingAdmissionPolicy>(json!({"metadata": {"name": self.name}, "spec": {
            "matchConstraints": {
                "resourceRules": rules,
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": self.name}},
            },
            "validations": [{"expression": condition}],
        }}))
        .await;
        self.make::<ValidatingAdmissionPolicyBinding>(json!({
            "metadata": {"name": self.name}, "spec": {"policyName": self.name, "validationActions": ["Deny"]},
        }))
        .await;
    }

    /// Removes the policy.
    pub async fn allow(&self) {
        self.remove::<ValidatingAdmissionPolicyBinding>().await;
        self.remove::<ValidatingAdmissionPolicy>().await;
    }
}
