//! End-to-end tests of the installed chart, on a real node with kubelet and containerd. They run one after another, because
//! some of them stop the kubelet or kill the operator. Run them with `make e2e`, as root.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../common/mod.rs"]
mod common;

mod autoscaling;
mod failures;
mod idle;
mod leadership;
mod machine;
mod plugin;
mod prometheus;
mod served;
mod serving;
mod sessions;
mod traffic;
mod unreadable;
mod upgrade;

use k8s_openapi::api::core::v1::Pod;
use kube::api::LogParams;
use serde_json::{Value, json};

use common::Space;

/// The first tenant's namespace, which the chart creates.
pub async fn sessions() -> Space {
    Space { client: common::client().await, namespace: "sessions".into() }
}

/// A session of the first tenant that runs a shell command in busybox. `spec` overrides these defaults.
pub fn session(name: &str, command: &str, spec: Value) -> Value {
    let mut full = json!({
        "accessKey": "default", "scalingGroup": "default", "termination": {"gracePeriodSeconds": 1},
        "kernels": [kernel("main", 1, command)],
    });
    full.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    json!({
        "apiVersion": "sokovan.dev/v1alpha1", "kind": "Session",
        "metadata": {"name": name, "namespace": "sessions"}, "spec": full,
    })
}

pub fn kernel(role: &str, replicas: i32, command: &str) -> Value {
    json!({
        "role": role, "replicas": replicas, "image": "busybox:1", "command": ["sh", "-c", command],
        "resources": {"cpu": "20m", "memory": "16Mi"},
    })
}

/// A command that runs until SIGTERM, and then stops at once.
pub const FOREVER: &str = "trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done";

pub async fn logs(space: &Space, pod: &Pod) -> String {
    let name = pod.metadata.name.as_deref().unwrap();
    let main = LogParams { container: Some("main".into()), ..LogParams::default() };
    space.api::<Pod>().logs(name, &main).await.unwrap_or_else(|error| error.to_string())
}
