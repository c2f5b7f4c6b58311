//! The objects that benchmarks create: bare pods and sessions with equal requests, and tenants.

use k8s_openapi::api::batch::v1::Job;
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

/// An image, by which nodes report it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Image(pub &'static str);

/// Every simulated node reports this image (kit/stages.yaml), and none reports the other.
pub const PRESENT: Image = Image("sim.test/present:1");
pub const ABSENT: Image = Image("busybox:1");

pub const SMALL: Work = Work { cpu: "100m", memory: "64Mi", command: &[] };

pub fn pod(name: &str, work: Work) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": name}, "spec": pod_spec(work)})).unwrap()
}

/// Returns a plain Job that runs so many pods at once.
pub fn job(name: &str, pods: usize, work: Work) -> Job {
    let template = json!({"spec": pod_spec(work)});
    let spec = json!({"parallelism": pods, "completions": pods, "backoffLimit": 0, "template": template});
    serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
}

fn pod_spec(work: Work) -> Value {
    let resources = json!({"cpu": work.cpu, "memory": work.memory});
    json!({
        "restartPolicy": "Never",
        "tolerations": [{"key": "kwok.x-k8s.io/node", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "sokovan.dev/simulated", "operator": "Exists"}]}]}}},
        "containers": [{"name": "main", "image": PRESENT.0, "command": work.command,
                        "resources": {"requests": resources, "limits": resources}}],
    })
}

/// Returns a session with a main kernel and `subs` others. `more` is merged into its spec.
pub fn session(name: &str, subs: usize, image: Image, work: Work, more: &Value) -> Session {
    let kernel = |role: &str, replicas: usize| json!({"role": role, "replicas": replicas, "image": image.0, "command": work.command, "resources": {"cpu": work.cpu, "memory": work.memory}});
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
