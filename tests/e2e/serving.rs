//! Deployments on a real node: requests through the Service of a deployment while its replicas come, go and hang.

use std::io::{BufRead, BufReader};
use std::process::Child;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use k8s_openapi::api::apps::v1::Deployment as AppsDeployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde::Deserialize;
use serde_json::{Value, json};
use sokovan::api::*;

use crate::common::{Space, client, eventually, unique};
use crate::leadership::{NAMESPACE, both_ready};
use crate::machine::{operators, output_of, signal_operators, spawn};
use crate::sessions;

/// Streams last up to 20 s. They end within the delay and the 5 s between the request to stop and SIGTERM.
const PATIENT: Drain = Drain { delay_seconds: 18, timeout_seconds: 10 };
pub const SHORT: Drain = Drain { delay_seconds: 3, timeout_seconds: 10 };
/// How long kube-proxy may take to apply a change of the endpoints.
const PROXY: f64 = 2.0;

/// One deployment in the first tenant's namespace.
pub struct Served {
    pub space: Space,
    pub name: String,
}

/// A deployment of the kit's test server. Its manifest leaves out `replicas`.
pub fn manifest(name: &str, drain: Drain, command: &[&str]) -> Value {
    json!({
        "apiVersion": "sokovan.dev/v1alpha1", "kind": "Deployment",
        "metadata": {"name": name, "namespace": "sessions"},
        "spec": {
            "template": {
                "type": "Inference", "accessKey": "default", "scalingGroup": "default",
                "kernels": [{
                    "role": "main", "replicas": 1, "image": "server:1", "command": command,
                    // The limit equals the request, and a throttled server would lose requests by itself.
                    "resources": {"cpu": "100m", "memory": "32Mi"},
                }],
            },
            "model": {
                "port": 8080,
                "healthCheck": {"type": "HTTP", "intervalSeconds": 1, "timeoutSeconds": 1, "failureThreshold": 2},
            },
            "drain": drain,
            "eviction": {"afterSeconds": 3},
        },
    })
}

impl Served {
    pub async fn create(replicas: i32, drain: Drain, command: &[&str]) -> Self {
        let served = Self { space: sessions().await, name: unique("serve") };
        let mut object = manifest(&served.name, drain, command);
        object["spec"]["replicas"] = json!(replicas);
        let object: Deployment = serde_json::from_value(object).unwrap();
        served.api().create(&PostParams::default(), &object).await.expect("the deployment is accepted");
        served
    }

    pub fn api(&self) -> Api<Deployment> {
        self.space.api()
    }

    pub async fn change(&self, spec: Value) {
        let patch = Patch::Merge(json!({ "spec": spec }));
        self.api().patch(&self.name, &PatchParams::default(), &patch).await.expect("the spec can be changed");
    }

    /// Waits until the deployment has settled: all replicas are available and those that leave are gone.
    pub async fn until_settled(&self) {
        eventually("the deployment to be settled", || async {
            let deployment = self.api().get(&self.name).await.map_err(|error| error.to_string())?;
            let status = deployment.status.clone().unwrap_or_default();
            let is_current = Some(status.observed_generation) == deployment.metadata.generation;
            let is_ready = status.phase == DeploymentPhase::Ready && status.deploying_revision.is_none();
            // The records of replicas that failed stay.
            let routes: Vec<Route> = self.routes().await.into_iter().filter(|route| !route.phase().is_terminal()).collect();
            let counts = [status.available, i32::try_from(routes.len()).unwrap()];
            if is_current && is_ready && counts == [deployment.spec.replicas; 2] {
                return Ok(());
            }
            let phases: Vec<_> = routes.iter().map(|route| (route.name_any(), route.phase())).collect();
            let message = status.message.clone().unwrap_or_default();
            Err(format!("{} {} of {}: {message} {phases:?}", status.phase, status.available, deployment.spec.replicas))
        })
        .await;
    }

    async fn routes(&self) -> Vec<Route> {
        let ours = ListParams::default().labels(&format!("{LABEL_DEPLOYMENT}={}", self.name));
        self.space.api::<Route>().list(&ours).await.expect("routes can be listed").items
    }

    /// The names of the replicas, without those that leave or have ended.
    pub async fn names(&self) -> Vec<String> {
        let routes = self.routes().await;
        let live = routes.iter().filter(|route| !route.phase().is_ending() && route.metadata.deletion_timestamp.is_none());
        live.map(ResourceExt::name_any).collect()
    }

    /// The names of the pods that get requests.
    pub async fn endpoints(&self) -> Vec<String> {
        let ours = ListParams::default().labels(&format!("{LABEL_SERVICE}={}", self.name));
        let slices = self.space.api::<EndpointSlice>().list(&ours).await.expect("slices can be listed").items;
        let endpoints = slices.into_iter().flat_map(|slice| slice.endpoints.unwrap_or_default());
        let ready = endpoints.filter(|endpoint| endpoint.conditions.as_ref().is_some_and(|is| is.ready == Some(true)));
        ready.filter_map(|endpoint| endpoint.target_ref?.name).collect()
    }

    async fn until_endpoint(&self, pod: &str, wanted: bool) {
        eventually(&format!("{pod} to {} the endpoints", if wanted { "join" } else { "leave" }), || async {
            let listed = self.endpoints().await;
            if listed.iter().any(|name| name == pod) == wanted { Ok(()) } else { Err(format!("{listed:?}")) }
        })
        .await;
    }

    async fn pod_of(&self, replica: &str) -> String {
        eventually(&format!("a pod of {replica}"), || async {
            self.space.pods(replica).await.first().map(ResourceExt::name_any).ok_or_else(|| "none".to_owned())
        })
        .await
    }

    /// Sends a request to one replica, whether or not it gets requests through the Service.
    pub async fn post(&self, pod: &str, path: &str) {
        let path = format!("/api/v1/namespaces/{}/pods/{pod}:8080/proxy{path}", self.space.namespace);
        let request = http::Request::post(path).body(vec![]).unwrap();
        self.space.client.request_text(request).await.expect("the replica answers");
    }

    /// Waits for the Service and returns its address within the cluster.
    pub async fn url(&self) -> String {
        eventually("the Service", || async {
            let service = self.space.api::<Service>().get(&self.name).await.map_err(|error| error.to_string())?;
            let address = service.spec.and_then(|spec| spec.cluster_ip).filter(|address| !address.is_empty());
            address.map(|address| format!("http://{address}")).ok_or_else(|| "no address yet".into())
        })
        .await
    }

    async fn load(&self, options: &[&str]) -> Load {
        Load::start(&self.url().await, options).await
    }

    pub async fn remove(self) {
        self.change(json!({"force": true})).await;
        self.api().delete(&self.name, &DeleteParams::default()).await.expect("the deployment can be deleted");
        self.space.until_gone::<Deployment>(&self.name).await;
        eventually("its replicas to be gone", || async {
            let left = self.routes().await.len();
            if left == 0 { Ok(()) } else { Err(format!("{left} routes")) }
        })
        .await;
    }
}

/// A client within the cluster's network that sends requests until it is finished.
struct Load {
    client: Child,
    lines: Receiver<String>,
}

#[derive(Deserialize, Debug)]
struct Report {
    /// The time of the first answer, in seconds since 1970.
    first: f64,
    /// The number of complete answers by kind of request.
    answered: std::collections::BTreeMap<String, usize>,
    /// The number of complete answers by replica.
    hosts: std::collections::BTreeMap<String, usize>,
    lost: Vec<Loss>,
}

#[derive(Deserialize, Debug)]
struct Loss {
    kind: String,
    host: String,
    started: f64,
    ended: f64,
    error: String,
}

impl Load {
    /// Starts the client and waits for its first answer.
    async fn start(url: &str, options: &[&str]) -> Self {
        let program = format!("{}/server", output_of(&["bin"]));
        let arguments = ["exec", &program, "load", "--url", url].into_iter().chain(options.iter().copied());
        let mut client = spawn(&arguments.collect::<Vec<_>>());
        let output = BufReader::new(client.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let load = Self { client, lines };
        load.line("the first answer", |line| line.starts_with("answered ")).await;
        load
    }

    async fn until_answered_by(&self, replica: &str) {
        self.line(&format!("an answer of {replica}"), |line| line == format!("answered {replica}")).await;
    }

    /// Waits for the next line of this kind and skips the others.
    async fn line(&self, what: &str, is_wanted: impl Fn(&str) -> bool) -> String {
        eventually(what, || async { self.lines.try_iter().find(|line| is_wanted(line)).ok_or_else(|| "not yet".to_owned()) })
            .await
    }

    /// Stops the requests. The client prints its report when its input ends.
    async fn finish(mut self) -> Report {
        drop(self.client.stdin.take());
        let report = self.line("the report of the client", |line| line.starts_with('{')).await;
        serde_json::from_str(&report).unwrap_or_else(|error| panic!("{error}: {report}"))
    }
}

/// A client that outlives a failed test would keep the cluster busy.
impl Drop for Load {
    fn drop(&mut self) {
        drop(self.client.stdin.take());
        let _ = self.client.wait();
    }
}

impl Report {
    fn print(&self, test: &str) {
        println!("{test}: answered {:?} by {:?}, lost {}", self.answered, self.hosts, self.lost.len());
        for loss in &self.lost {
            let (started, took) = (loss.started - self.first, loss.ended - loss.started);
            println!("  lost {} at {started:.3} s after {took:.3} s by {}: {}", loss.kind, loss.host, loss.error);
        }
    }

    /// The requests that were lost and had begun after this time.
    fn lost_after(&self, time: f64) -> Vec<&Loss> {
        self.lost.iter().filter(|loss| loss.started > time).collect()
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64()
}

#[tokio::test]
async fn the_first_request_is_answered_soon_after_a_deployment_is_applied() {
    let applied = now();
    let served = Served::create(1, SHORT, &["/server"]).await;
    let report = served.load(&["--streams", "0"]).await.finish().await;
    println!("from apply to the first answer: {:.1} s", report.first - applied);
    served.remove().await;
}

#[tokio::test]
async fn a_rolling_update_loses_no_request() {
    let served = Served::create(2, PATIENT, &["/server"]).await;
    served.until_settled().await;
    let before = served.names().await;
    let load = served.load(&["--streams", "3"]).await;
    served.change(json!({"model": {"startCommand": ["/server", "--start-after", "2s"]}})).await;
    served.until_settled().await;
    let after = served.names().await;
    let report = load.finish().await;
    report.print("rolling update");
    assert!(after.iter().all(|name| !before.contains(name)), "every replica was replaced");
    assert!(before.iter().chain(&after).all(|name| report.hosts.contains_key(name)), "old and new replicas answered");
    assert!(report.answered["stream"] > 0 && report.answered["fresh"] > 0 && report.answered["kept"] > 0);
    assert!(report.lost.is_empty(), "{} requests were lost", report.lost.len());
    served.remove().await;
}

#[tokio::test]
async fn a_scale_in_loses_no_request() {
    let served = Served::create(4, PATIENT, &["/server"]).await;
    served.until_settled().await;
    let load = served.load(&["--streams", "3"]).await;
    served.change(json!({"replicas": 1})).await;
    served.until_settled().await;
    let report = load.finish().await;
    report.print("scale-in from 4 to 1");
    assert!(report.answered["stream"] > 0 && report.answered["fresh"] > 0 && report.answered["kept"] > 0);
    assert!(report.lost.is_empty(), "{} requests were lost", report.lost.len());
    served.remove().await;
}

#[tokio::test]
async fn a_hung_replica_leaves_the_traffic_and_is_replaced() {
    let served = Served::create(2, SHORT, &["/server"]).await;
    served.until_settled().await;
    let load = served.load(&["--streams", "0"]).await;
    let before = served.names().await;
    let hung = before[0].clone();
    let pod = served.pod_of(&hung).await;
    let began = now();
    served.post(&pod, "/hang").await;
    served.until_endpoint(&pod, false).await;
    let left = now();
    let successor = eventually("the replica to be replaced", || async {
        let names = served.names().await;
        let successor = names.iter().find(|name| !before.contains(name)).filter(|_| !names.contains(&hung));
        successor.cloned().ok_or_else(|| format!("{names:?}"))
    })
    .await;
    load.until_answered_by(&successor).await;
    let replaced = now();
    served.until_settled().await;
    let report = load.finish().await;
    report.print("hung replica");
    println!("out of the traffic after {:.1} s, its successor answered after {:.1} s", left - began, replaced - began);
    assert!(report.lost_after(left + PROXY).is_empty(), "lost after the replica left: {:?}", report.lost_after(left + PROXY));
    served.remove().await;
}

#[tokio::test]
async fn replicas_join_and_leave_the_traffic_while_no_operator_runs() {
    both_ready().await;
    let served = Served::create(2, SHORT, &["/server", "--start-after", "30s"]).await;
    served.until_settled().await;
    let before = served.names().await;
    let load = served.load(&["--streams", "0"]).await;
    served.change(json!({"replicas": 3})).await;
    let started = eventually("a third replica", || async {
        served.names().await.into_iter().find(|name| !before.contains(name)).ok_or_else(|| "none yet".to_owned())
    })
    .await;
    let started_pod = served.pod_of(&started).await;
    eventually("its server to be started", || async {
        let pod = served.space.api::<Pod>().get(&started_pod).await.map_err(|error| error.to_string())?;
        let phase = pod.status.and_then(|status| status.phase).unwrap_or_default();
        if phase == "Running" { Ok(()) } else { Err(phase) }
    })
    .await;

    scale_operators(0).await;
    eventually("no operator to run", || async {
        // The kubelet may start one again before it sees the change.
        signal_operators("KILL");
        let left = operators();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    assert!(!served.endpoints().await.contains(&started_pod), "the started replica does not listen yet");
    let hung_pod = served.pod_of(&before[0]).await;
    let began = now();
    served.post(&hung_pod, "/hang").await;
    served.until_endpoint(&hung_pod, false).await;
    let left = now();
    served.until_endpoint(&started_pod, true).await;
    let joined = now();
    load.until_answered_by(&started).await;
    assert!(operators().is_empty(), "no operator ran meanwhile");
    let report = load.finish().await;
    report.print("no operator");
    println!("out of the traffic after {:.1} s, the started one in it after {:.1} s", left - began, joined - began);
    assert!(report.lost_after(left + PROXY).is_empty(), "lost after the replica left: {:?}", report.lost_after(left + PROXY));

    scale_operators(2).await;
    both_ready().await;
    served.until_settled().await;
    assert!(!served.names().await.contains(&before[0]), "the hung replica was replaced afterwards");
    served.remove().await;
}

async fn scale_operators(replicas: i32) {
    let deployments: Api<AppsDeployment> = Api::namespaced(client().await, NAMESPACE);
    let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
    deployments.patch_scale("sokovan-operator", &PatchParams::default(), &patch).await.expect("the operator can be scaled");
}
