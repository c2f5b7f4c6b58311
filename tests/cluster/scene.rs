//! A scene for each test: nodes, a scaling group, tenants, a namespace, and an operator for only these.
#![allow(dead_code, reason = "each test program uses its own part")]

use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use sokovan::api::*;
use sokovan::cluster::session::hooks::Hooks;
use sokovan::cluster::session::pods::PodOptions;
use sokovan::cluster::store::world::Scope;
use sokovan::lifecycle::{LeaseTiming, Timing};
use sokovan::operator::{self, Ended, Options};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::common::{self, Space, eventually, unique};

/// Timing for tests: minutes become seconds, and pauses are short.
pub fn fast() -> Timing {
    let millis = Duration::from_millis;
    Timing {
        short_cycle: millis(100),
        long_cycle: Duration::from_secs(2),
        long_cycle_initial: Duration::from_secs(1),
        fault_backoff: millis(50),
        fault_backoff_max: millis(400),
        watch_backoff: millis(50),
        watch_backoff_max: millis(400),
        wait_backoff: millis(500),
        wait_backoff_max: Duration::from_secs(2),
        unschedulable: Duration::from_secs(2),
        deferral: millis(100),
        kernel_progress: millis(50),
        held_up: millis(500),
        late: millis(500),
        missed_gate: millis(500),
        warnings_again: Duration::from_secs(1),
        stale_replica: Duration::from_secs(3),
        flapping: Duration::from_secs(10),
        drain_slack: millis(500),
        replacement_backoff: millis(200),
        replacement_backoff_max: Duration::from_secs(2),
        stable_replica: Duration::from_secs(5),
        surge_capacity: Duration::from_secs(1),
        deployment_numbers: millis(50),
        usage: millis(300),
        measuring: millis(200),
        unmeasured: Duration::from_secs(5),
        scale: 60,
        lease: LeaseTiming { renew: millis(500), retry: millis(200), ..Timing::default().lease },
        ..Timing::default()
    }
}

/// The same with a short lease, which expires when the API server does not answer for three seconds.
pub fn hasty() -> Timing {
    let seconds = Duration::from_secs;
    let lease = LeaseTiming { duration: seconds(4), request: seconds(2), margin: seconds(1), ..fast().lease };
    Timing { lease, ..fast() }
}

/// The same without long cycles, so that sessions are evaluated only after a change.
pub fn patient() -> Timing {
    let hour = Duration::from_secs(3600);
    Timing { long_cycle: hour, long_cycle_initial: hour, wait_backoff: hour, wait_backoff_max: hour, ..fast() }
}

pub struct Scene {
    pub space: Space,
    pub name: String,
}

/// An operator of a scene.
pub struct Operator {
    stop: watch::Sender<bool>,
    task: JoinHandle<Ended>,
}

impl Operator {
    /// Stops the operator and waits until it has exited.
    pub async fn stop(self) -> Ended {
        self.stop.send_replace(true);
        self.task.await.expect("the operator does not panic")
    }

    /// Waits until the operator exits by itself.
    pub async fn ended(&mut self) -> Ended {
        (&mut self.task).await.expect("the operator does not panic")
    }

    /// Kills the operator as SIGKILL does: it stops in the middle of its work and does not release its lease.
    pub async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

impl std::ops::Deref for Scene {
    type Target = Space;
    fn deref(&self) -> &Space {
        &self.space
    }
}

impl Scene {
    /// Creates a scene with three nodes of 4 cores and 16 GiB each.
    pub async fn new(prefix: &str) -> Self {
        Self::with(prefix, 3, json!({})).await
    }

    pub async fn with(prefix: &str, nodes: usize, group: Value) -> Self {
        let client = common::client().await;
        let name = unique(prefix);
        let scene = Self { space: Space { client, namespace: name.clone() }, name };
        scene.tenant(group).await;
        for number in 1..=nodes {
            scene.node(number).await;
        }
        scene.nodes_ready(nodes).await;
        scene
    }

    /// The API of a cluster-scoped kind, or of a kind in all namespaces.
    pub fn all<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = ()>,
    {
        Api::all(self.client.clone())
    }

    pub async fn make<K>(&self, object: Value)
    where
        K: kube::Resource<DynamicType = ()> + serde::Serialize + serde::de::DeserializeOwned + Clone + std::fmt::Debug,
    {
        let object: K = serde_json::from_value(object).expect("a valid object");
        self.all::<K>().create(&PostParams::default(), &object).await.expect("the object can be created");
    }

    /// Creates an object in the scene's namespace.
    pub async fn make_here<K>(&self, object: Value)
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + serde::Serialize
            + serde::de::DeserializeOwned
            + Clone
            + std::fmt::Debug,
    {
        let object: K = serde_json::from_value(object).expect("a valid object");
        self.api::<K>().create(&PostParams::default(), &object).await.expect("the object can be created");
    }

    /// Grants a user rights in the scene's namespace. A label distinguishes them from the chart's.
    pub async fn grant(&self, user: &str, rules: Value) {
        let name = unique("right");
        self.make_here::<Role>(json!({"metadata": {"name": name, "namespace": self.name}, "rules": rules})).await;
        self.make_here::<RoleBinding>(json!({
            "metadata": {"name": name, "namespace": self.name, "labels": {"scene": self.name}},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [{"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}],
        }))
        .await;
    }

    async fn tenant(&self, group: Value) {
        let name = &self.name;
        let mut spec = json!({
            "nodeSelector": {"scene": name},
            "pod": {"tolerations": [{"key": "kwok.x-k8s.io/node", "operator": "Exists"}]},
        });
        merge(&mut spec, group);
        self.make::<ScalingGroup>(json!({"metadata": {"name": name}, "spec": spec})).await;
        self.make::<Domain>(json!({"metadata": {"name": name}, "spec": {}})).await;
        self.make::<Project>(json!({"metadata": {"name": name}, "spec": {"domain": name}})).await;
        self.make::<User>(json!({"metadata": {"name": name}, "spec": {"domain": name}})).await;
        self.make::<Keypair>(json!({"metadata": {"name": name}, "spec": {"user": name}})).await;
        self.make::<Namespace>(json!({"metadata": {"name": name, "labels": {LABEL_PROJECT: name}}})).await;
        eventually("the namespace's service account", || async {
            let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> = self.api();
            accounts.get("default").await.map(|_| ()).map_err(|error| error.to_string())
        })
        .await;
    }

    pub fn node_name(&self, number: usize) -> String {
        format!("{}-{number}", self.name)
    }

    pub async fn node(&self, number: usize) {
        let name = self.node_name(number);
        self.make::<Node>(json!({
            "metadata": {
                "name": name, "annotations": {KUBELET: "fake"},
                "labels": {"kubernetes.io/hostname": name, "kubernetes.io/arch": "amd64", "scene": self.name},
            },
            "spec": {"taints": [{"key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule"}]},
            "status": {
                "allocatable": {"cpu": "4", "memory": "16Gi", "pods": "110"},
                "capacity": {"cpu": "4", "memory": "16Gi", "pods": "110"},
            },
        }))
        .await;
    }

    async fn nodes_ready(&self, count: usize) {
        let ours = ListParams::default().labels(&format!("scene={}", self.name));
        eventually("the nodes to be ready", || async {
            let nodes = self.all::<Node>().list(&ours).await.map_err(|error| error.to_string())?;
            let ready = nodes.items.iter().filter(|node| sokovan::views::extract::node(node).ready).count();
            if ready == count { Ok(()) } else { Err(format!("{ready} of {count}")) }
        })
        .await;
    }

    pub fn options(&self, identity: &str) -> Options {
        Options {
            identity: identity.into(),
            lease_namespace: self.name.clone(),
            lease_name: "operator".into(),
            scope: Scope { groups: vec![self.name.clone().into()] },
            timing: fast(),
            pods: PodOptions { gate_image: "sokovan:test".into(), cluster_domain: "cluster.local".into(), cluster_dns: None },
            hooks: Hooks::default(),
            listen: None,
            tenant_metrics: true,
            statistics_account: None,
        }
    }

    /// Options with a short lease.
    pub fn hasty(&self, identity: &str) -> Options {
        Options { timing: hasty(), ..self.options(identity) }
    }

    pub async fn operator(&self) -> Operator {
        self.operator_with(self.options(&unique("operator"))).await
    }

    pub async fn operator_with(&self, options: Options) -> Operator {
        self.operator_at(common::config().await, options)
    }

    /// Starts an operator with its own way to reach the API server.
    pub fn operator_at(&self, config: kube::Config, options: Options) -> Operator {
        let (stop, stopping) = watch::channel(false);
        let task = tokio::spawn(async move { operator::run(config, options, stopping).await.expect("the operator runs") });
        Operator { stop, task }
    }

    /// A session of this scene: one kernel with one core that runs until the session ends. `spec` overrides these defaults.
    pub fn session(&self, name: &str, spec: Value) -> Value {
        let mut full = json!({
            "accessKey": self.name, "scalingGroup": self.name, "termination": {"gracePeriodSeconds": 1},
            "kernels": [kernel("main", 1, &[])],
        });
        merge(&mut full, spec);
        json!({
            "apiVersion": "sokovan.dev/v1alpha1", "kind": "Session",
            "metadata": {"name": name, "namespace": self.name}, "spec": full,
        })
    }

    pub async fn submit(&self, name: &str, spec: Value) -> Session {
        self.create(self.session(name, spec)).await.expect("the session is accepted")
    }

    pub async fn delete_node(&self, number: usize) {
        self.delete_node_named(&self.node_name(number)).await;
    }

    pub async fn delete_node_named(&self, name: &str) {
        self.all::<Node>().delete(name, &DeleteParams::default()).await.expect("the node is deleted");
    }

    /// Makes a node stop answering, as if since the given time.
    pub async fn lose_node(&self, name: &str, since: &str) {
        self.set_kubelet(name, Value::Null).await; // no kubelet reports that the node is ready
        let (nodes, params) = (self.all::<Node>(), PatchParams::default());
        let lost = json!({"status": {"conditions": [
            {"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown", "lastTransitionTime": since}
        ]}});
        eventually("the node to be lost", || async {
            nodes.patch_status(name, &params, &Patch::Strategic(&lost)).await.map_err(|error| error.to_string())?;
            tokio::time::sleep(Duration::from_millis(200)).await;
            let node = nodes.get(name).await.map_err(|error| error.to_string())?;
            if sokovan::views::extract::node(&node).ready { Err("the node is ready again".into()) } else { Ok(()) }
        })
        .await;
    }

    /// Makes a lost node answer again.
    pub async fn bring_back_node(&self, name: &str) {
        self.set_kubelet(name, json!("fake")).await;
    }

    /// Ends the pods of a session that runs `sim alone`, as their kubelet would.
    pub async fn kill_pods(&self, session: &str) {
        for pod in self.pods(session).await {
            self.kill_pod(&pod).await;
        }
    }

    pub async fn kill_pod(&self, pod: &Pod) {
        let ended = json!({"status": {"phase": "Failed", "containerStatuses": [{
            "name": "main", "image": "busybox:1", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": 137, "reason": "Error"}},
        }]}});
        let patched = self.api::<Pod>().patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(&ended)).await;
        patched.expect("the pod's status can be written");
    }

    async fn set_kubelet(&self, node: &str, kubelet: Value) {
        let patch = Patch::Merge(json!({"metadata": {"annotations": {KUBELET: kubelet}}}));
        self.all::<Node>().patch(node, &PatchParams::default(), &patch).await.expect("the node can be changed");
    }

    /// Stops the operator and removes the objects that could disturb other tests. The namespace is removed with the cluster.
    pub async fn end(self, operator: Operator) {
        assert_eq!(operator.stop().await, Ended::Stopped);
        self.clear().await;
    }

    pub async fn clear(&self) {
        let ours = ListParams::default().labels(&format!("scene={}", self.name));
        let nodes = self.all::<Node>().delete_collection(&DeleteParams::default(), &ours).await;
        nodes.expect("the nodes can be deleted");
        self.remove::<ScalingGroup>().await;
        self.remove::<Domain>().await;
        self.remove::<Project>().await;
        self.remove::<User>().await;
        self.remove::<Keypair>().await;
        self.forget_sessions().await;
    }

    /// Deletes the sessions and everything they own, without their operator, because lists of other tests would include them.
    async fn forget_sessions(&self) {
        self.forget::<Deployment>().await;
        self.forget::<Route>().await;
        self.forget::<Session>().await;
    }

    /// Removes the namespace too, with everything in it. Thousands of plans would otherwise fill the API server.
    pub async fn clear_all(&self) {
        self.clear().await;
        self.forget::<Pod>().await;
        self.forget::<Kernel>().await;
        self.remove::<Namespace>().await;
    }

    async fn forget<K>(&self)
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + serde::de::DeserializeOwned
            + Clone
            + std::fmt::Debug,
    {
        let objects = self.api::<K>();
        for object in objects.list(&ListParams::default()).await.expect("objects can be listed") {
            let name = object.name_any();
            let released = Patch::Merge(json!({"metadata": {"finalizers": null}}));
            // Another test run may remove the object at the same time.
            let _ = objects.patch_metadata(&name, &PatchParams::default(), &released).await;
            let _ = objects.delete(&name, &DeleteParams::background()).await;
        }
    }

    pub async fn remove<K>(&self)
    where
        K: kube::Resource<DynamicType = ()> + serde::de::DeserializeOwned + Clone + std::fmt::Debug,
    {
        self.all::<K>().delete(&self.name, &DeleteParams::default()).await.expect("the object can be deleted");
    }
}

/// The annotation of a node with a simulated kubelet.
const KUBELET: &str = "kwok.x-k8s.io/node";

/// A time so long ago that a node silent since then is lost at once.
pub const LONG_AGO: &str = "2020-01-01T00:00:00Z";

/// A scaling group without timeouts: no session ends or is reset for taking too long.
pub fn unhurried() -> Value {
    let day = 86_400;
    json!({"retry": {
        "preparingTimeoutSeconds": day, "pullingTimeoutSeconds": day, "creatingTimeoutSeconds": day, "imagePullTimeoutSeconds": day,
    }})
}

/// Returns the node of a kernel.
pub fn node_of(status: &SessionStatus, kernel: &str) -> String {
    let found = status.allocation.iter().find(|allocation| allocation.kernel == kernel);
    found.map(|allocation| allocation.node.0.clone()).expect("an allocated kernel")
}

/// A kernel of a session's spec. `command` is one that the simulated kubelet understands.
pub fn kernel(role: &str, replicas: i32, command: &[&str]) -> Value {
    json!({
        "role": role, "replicas": replicas, "image": "busybox:1", "command": command,
        "resources": {"cpu": 1, "memory": "1Gi"},
    })
}

/// A Kernel object that no user may create.
pub fn forged_kernel() -> Value {
    json!({"metadata": {}, "spec": {
        "session": "x", "sessionUid": "u", "role": "main", "index": 1, "localRank": 0, "hostname": "main1",
        "allocationGeneration": 1, "scalingGroup": "g", "node": "n", "image": "i", "resources": {},
    }})
}

/// A gang of main1, sub1 and sub2 that may use several nodes.
pub fn gang() -> Value {
    json!({"clusterMode": "MultiNode", "kernels": [kernel("main", 1, &[]), kernel("sub", 2, &[])]})
}

pub fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}
