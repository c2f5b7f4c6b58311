//! Compares sessions with Jobs through Kueue, with the same shapes in one run. Kueue is built from its Go module and runs as a process of this machine,
//! with the defaults of its own manifests, but without a limit on its requests.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use k8s_openapi::ByteString;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::latency::alone;
use crate::run::{PATIENCE, Run};
use crate::sessions::{measure, print};
use crate::shapes::{MAIN, Shape};

pub const QUEUE: &str = "bench";
pub const QUEUE_LABEL: &str = "kueue.x-k8s.io/queue-name";
const WEBHOOK_PORT: u16 = 19443;

/// Kueue reads the certificate of its metrics at a fixed path of /etc. It gets an /etc of its own, so that nothing else sees the file.
const WITH_CERTIFICATES: &str = r#"
own=$(mktemp -d) from=$1; shift
mount -t tmpfs none "$own" && mkdir "$own/upper" "$own/work"
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$own/upper,workdir=$own/work" /etc
mkdir -p /etc/kueue/metrics/certs && cp "$from/tls.crt" "$from/tls.key" /etc/kueue/metrics/certs/
exec "$@"
"#;

const THEIRS: [Shape; 3] = [Shape::Kueue(1), Shape::Kueue(10), Shape::Pod];

pub async fn bench(client: &Client, pods: usize) -> Value {
    let mut rows = vec![];
    // Without Kueue, whose webhooks would see plain Jobs, too.
    for shape in MAIN {
        rows.push(measure(client, shape, (pods / shape.pods()).max(1)).await);
    }
    let mut medians = alone(client, &MAIN).await;
    let kueue = Kueue::start(client).await;
    for shape in THEIRS {
        rows.push(measure(client, shape, (pods / shape.pods()).max(1)).await);
    }
    let theirs = alone(client, &THEIRS[..2]).await;
    drop(kueue);
    medians.as_object_mut().unwrap().extend(theirs.as_object().unwrap().clone());
    print(&rows, &medians);
    json!({"bench": "peers", "rows": rows, "alone_ms": medians})
}

struct Kueue(Child);

impl Drop for Kueue {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn path(variable: &str) -> PathBuf {
    std::env::var(variable).unwrap_or_else(|_| panic!("kit/bench sets {variable}")).into()
}

fn documents(file: PathBuf) -> Vec<Value> {
    let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let documents = serde_yaml::Deserializer::from_str(&text).map(|document| Value::deserialize(document).unwrap());
    documents.filter(|document| !document.is_null()).collect()
}

async fn apply(client: &Client, namespace: Option<&str>, object: Value) {
    let (group, version) = match object["apiVersion"].as_str().unwrap().split_once('/') {
        Some((group, version)) => (group, version),
        None => ("", object["apiVersion"].as_str().unwrap()),
    };
    let kind = GroupVersionKind::gvk(group, version, object["kind"].as_str().unwrap());
    let resource = ApiResource::from_gvk(&kind);
    let api: Api<DynamicObject> = match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let object: DynamicObject = serde_json::from_value(object).unwrap();
    let params = PatchParams::apply("bench").force();
    let start = Instant::now();
    // A kind or a webhook that is new is not there at once.
    while let Err(error) = api.patch(&object.name_any(), &params, &Patch::Apply(&object)).await {
        assert!(start.elapsed() < Duration::from_secs(120), "{}: {error}", object.name_any());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

impl Kueue {
    /// Installs Kueue and waits until it admits.
    async fn start(client: &Client) -> Self {
        let manifests = path("KUEUE_MANIFESTS");
        for file in std::fs::read_dir(manifests.join("crd/bases")).unwrap() {
            for crd in documents(file.unwrap().path()) {
                apply(client, None, crd).await;
            }
        }
        let config = path("KUEUE_CONFIG");
        let certificates = config.parent().unwrap().to_owned();
        let settings = json!({
            "apiVersion": "config.kueue.x-k8s.io/v1beta2", "kind": "Configuration",
            "health": {"healthProbeBindAddress": "127.0.0.1:18481"}, "metrics": {"bindAddress": "127.0.0.1:18443"},
            "webhook": {"port": WEBHOOK_PORT, "certDir": certificates}, "internalCertManagement": {"enable": false},
            "leaderElection": {"leaderElect": false}, "clientConnection": {"qps": 1000, "burst": 2000},
            "controller": {"groupKindConcurrency": {
                "Job.batch": 5, "Pod": 5, "Workload.kueue.x-k8s.io": 5, "LocalQueue.kueue.x-k8s.io": 1,
                "ClusterQueue.kueue.x-k8s.io": 1, "ResourceFlavor.kueue.x-k8s.io": 1,
            }},
            "integrations": {"frameworks": ["batch/job"]},
        });
        std::fs::write(&config, serde_yaml::to_string(&settings).unwrap()).unwrap();
        let log = std::fs::File::create(certificates.join("kueue.log")).unwrap();
        let child = Command::new("unshare")
            .args(["--mount", "sh", "-ec", WITH_CERTIFICATES, "sh"])
            .arg(&certificates)
            .arg(path("KUEUE_BINARY"))
            .arg(format!("--config={}", config.display()))
            .arg("--feature-gates=VisibilityOnDemand=false")
            .stdout(log.try_clone().unwrap())
            .stderr(Stdio::from(log))
            .spawn()
            .expect("Kueue can be started");
        let kueue = Self(child);
        let authority = ByteString(std::fs::read(certificates.join("ca.crt")).unwrap());
        for webhooks in documents(manifests.join("webhook/manifests.yaml")) {
            apply(client, None, reachable(webhooks, &json!(authority))).await;
        }
        let group = |name: &str| json!({"name": name, "nominalQuota": "1000000Gi"});
        let flavor = json!({"name": QUEUE, "resources": [group("cpu"), group("memory")]});
        for (kind, spec) in [
            ("ResourceFlavor", json!({})),
            (
                "ClusterQueue",
                json!({"namespaceSelector": {}, "resourceGroups": [{"coveredResources": ["cpu", "memory"], "flavors": [flavor]}]}),
            ),
        ] {
            apply(
                client,
                None,
                json!({"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": kind, "metadata": {"name": QUEUE}, "spec": spec}),
            )
            .await;
        }
        let first = Shape::Kueue(1).run(client, "first").await;
        let seconds = tokio::time::timeout(PATIENCE, Shape::Kueue(1).start(&first, "first", 1)).await.expect("Kueue admits");
        eprintln!("Kueue admitted its first Job after {seconds:.1} s");
        Shape::Kueue(1).end(&first).await;
        kueue
    }
}

/// Returns the webhooks of Jobs and of Kueue's own kinds, at the address of this process.
fn reachable(mut configuration: Value, authority: &Value) -> Value {
    let is_used = |webhook: &Value| {
        let groups = webhook["rules"].as_array().unwrap().iter().flat_map(|rule| rule["apiGroups"].as_array().unwrap());
        groups.clone().all(|group| ["batch", "kueue.x-k8s.io"].contains(&group.as_str().unwrap()))
    };
    let webhooks = configuration["webhooks"].as_array_mut().unwrap();
    webhooks.retain(is_used);
    for webhook in webhooks {
        let path = webhook["clientConfig"]["service"]["path"].as_str().unwrap();
        let url = format!("https://127.0.0.1:{WEBHOOK_PORT}{path}");
        webhook["clientConfig"] = json!({"url": url, "caBundle": authority});
    }
    configuration
}

/// Creates the queue of a namespace.
pub async fn queue_in(run: &Run) {
    let queue = json!({
        "apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "LocalQueue", "metadata": {"name": QUEUE},
        "spec": {"clusterQueue": QUEUE},
    });
    apply(&run.client, Some(&run.namespace), queue).await;
}
