//! The objects that benchmarks create: bare pods and sessions with equal requests, and tenants.

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use sokovan::api::Session;

/// The request and the command of one container. Without a command it runs until it is deleted.
#[derive(Clone, Copy)]
pub struct Work {
    pub cpu: &'static str,
    pub memory: &'static str,
    pub command: &'static [&'static str],
}

pub const SMALL: Work = Work { cpu: "100m", memory: "64Mi", command: &[] };

pub fn pod(name: &str, work: Work) -> Pod {
    let resources = json!({"cpu": work.cpu, "memory": work.memory});
    let object = json!({
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "tolerations": [{"key": "kwok.x-k8s.io/node", "operator": "Exists"}],
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "sokovan.dev/simulated", "operator": "Exists"}]}]}}},
            "containers": [{"name": "main", "image": "busybox:1", "command": work.command,
                            "resources": {"requests": resources, "limits": resources}}],
        },
    });
    serde_json::from_value(object).unwrap()
}

/// Returns a session with a main kernel and `subs` others. `more` is merged into its spec.
pub fn session(name: &str, subs: usize, work: Work, more: &Value) -> Session {
    let kernel = |role: &str, replicas: usize| json!({"role": role, "replicas": replicas, "image": "busybox:1", "command": work.command, "resources": {"cpu": work.cpu, "memory": work.memory}});
    let mut kernels = vec![kernel("main", 1)];
    if subs > 0 {
        kernels.push(kernel("sub", subs));
    }
    let mut spec = json!({
        "accessKey": "default", "scalingGroup": "default", "clusterMode": "MultiNode",
        "termination": {"gracePeriodSeconds": 0}, "kernels": kernels,
    });
    for (field, value) in more.as_object().into_iter().flatten() {
        spec[field] = value.clone();
    }
    let object = json!({
        "apiVersion": "sokovan.dev/v1alpha1", "kind": "Session", "metadata": {"name": name}, "spec": spec,
    });
    serde_json::from_value(object).unwrap()
}

/// Applies a cluster-scoped object with this spec.
pub async fn apply<K>(client: &Client, name: &str, spec: Value)
where
    K: kube::Resource<DynamicType = (), Scope = kube::core::ClusterResourceScope>
        + Clone
        + serde::de::DeserializeOwned
        + std::fmt::Debug,
{
    let api: Api<K> = Api::all(client.clone());
    let object = json!({"apiVersion": K::api_version(&()), "kind": K::kind(&()), "metadata": {"name": name}, "spec": spec});
    api.patch(name, &PatchParams::apply("bench").force(), &Patch::Apply(object)).await.unwrap();
}
