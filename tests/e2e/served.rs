//! A deployment of the kit's test server on a real node, and a client that sends it requests and counts those that are lost.

use std::io::{BufRead, BufReader};
use std::process::Child;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde::Deserialize;
use serde_json::{Value, json};
use sokovan::api::*;

use crate::common::{Space, eventually, unique};
use crate::machine::{output_of, spawn};
use crate::sessions;

/// Streams last up to 20 s. They end within the delay and the 5 s between the request to stop and SIGTERM.
pub const PATIENT: Drain = Drain { delay_seconds: 18, timeout_seconds: 10 };
pub const SHORT: Drain = Drain { delay_seconds: 3, timeout_seconds: 10 };
/// How long kube-proxy may take to apply a change of the endpoints.
pub const PROXY: f64 = 2.0;

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

    pub async fn routes(&self) -> Vec<Route> {
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

    pub async fn until_endpoint(&self, pod: &str, wanted: bool) {
        eventually(&format!("{pod} to {} the endpoints", if wanted { "join" } else { "leave" }), || async {
            let listed = self.endpoints().await;
            if listed.iter().any(|name| name == pod) == wanted { Ok(()) } else { Err(format!("{listed:?}")) }
        })
        .await;
    }

    pub async fn pod_of(&self, replica: &str) -> String {
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

    pub async fn load(&self, options: &[&str]) -> Load {
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
pub struct Load {
    client: Child,
    lines: Receiver<String>,
}

#[derive(Deserialize, Debug)]
pub struct Report {
    /// The time of the first answer, in seconds since 1970.
    pub first: f64,
    /// The number of complete answers by kind of request.
    pub answered: std::collections::BTreeMap<String, usize>,
    /// The number of complete answers by replica.
    pub hosts: std::collections::BTreeMap<String, usize>,
    pub lost: Vec<Loss>,
}

#[derive(Deserialize, Debug)]
pub struct Loss {
    pub kind: String,
    host: String,
    started: f64,
    ended: f64,
    error: String,
}

impl Load {
    /// Starts the client and waits for its first answer.
    pub async fn start(url: &str, options: &[&str]) -> Self {
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

    pub async fn until_answered_by(&self, replica: &str) {
        self.line(&format!("an answer of {replica}"), |line| line == format!("answered {replica}")).await;
    }

    /// Waits for the next line of this kind and skips the others.
    async fn line(&self, what: &str, is_wanted: impl Fn(&str) -> bool) -> String {
        eventually(what, || async { self.lines.try_iter().find(|line| is_wanted(line)).ok_or_else(|| "not yet".to_owned()) })
            .await
    }

    /// Stops the requests. The client prints its report when its input ends.
    pub async fn finish(mut self) -> Report {
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
    pub fn print(&self, test: &str) {
        println!("{test}: answered {:?} by {:?}, lost {}", self.answered, self.hosts, self.lost.len());
        for loss in &self.lost {
            let (started, took) = (loss.started - self.first, loss.ended - loss.started);
            println!("  lost {} at {started:.3} s after {took:.3} s by {}: {}", loss.kind, loss.host, loss.error);
        }
    }

    /// The requests that were lost and had begun after this time.
    pub fn lost_after(&self, time: f64) -> Vec<&Loss> {
        self.lost.iter().filter(|loss| loss.started > time).collect()
    }
}

pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64()
}
