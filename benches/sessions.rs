//! Sessions from apply to RUNNING beside bare pods, in the same run on the same cluster of simulated nodes.
//! Run by `make bench`, which gives it a cluster and the operator's binary.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on may panic")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Config, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sokovan::api::*;

const LISTEN: &str = "127.0.0.1:18088";
/// How many requests are under way at once, for pods and sessions alike.
const CONCURRENCY: usize = 32;
const PATIENCE: Duration = Duration::from_secs(900);

struct Operator(Child);

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Operator {
    fn start() -> Self {
        let binary = std::env::var("OPERATOR_BINARY").expect("OPERATOR_BINARY");
        let log = std::fs::File::create(std::env::var("OPERATOR_LOG").unwrap_or("/dev/null".into())).unwrap();
        let child = Command::new(binary)
            .args(["operator", "--listen", LISTEN, "--identity", "bench"])
            .env("RUST_LOG", "warn")
            .stdout(log)
            .stderr(Stdio::inherit())
            .spawn()
            .expect("the operator can be started");
        Self(child)
    }

    fn cpu_seconds(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
        ticks / 100.0
    }

    fn peak_mib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    }

    /// The writes so far, by what was written.
    fn writes(&self) -> BTreeMap<String, f64> {
        let mut text = String::new();
        let mut stream = TcpStream::connect(LISTEN).expect("the operator serves its metrics");
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        stream.read_to_string(&mut text).unwrap();
        let writes = text.lines().filter_map(|line| line.strip_prefix("sokovan_api_writes_total{write=\""));
        writes.filter_map(|line| line.split_once("\"} ")).map(|(what, n)| (what.into(), n.parse().unwrap())).collect()
    }
}

/// Writes between two looks, Events apart.
fn between(before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>, events: bool) -> f64 {
    let counted = after.iter().filter(|(what, _)| (what.as_str() == "event") == events);
    counted.map(|(what, n)| n - before.get(what).copied().unwrap_or(0.0)).sum()
}

struct Run {
    client: Client,
    namespace: String,
}

impl Run {
    async fn new(client: &Client, name: &str) -> Self {
        let namespace = format!("{name}-{:06x}", rand::random::<u32>() & 0xff_ffff);
        let object = json!({"metadata": {"name": namespace, "labels": {LABEL_PROJECT: "default"}}});
        let object: Namespace = serde_json::from_value(object).unwrap();
        Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &object).await.unwrap();
        let run = Self { client: client.clone(), namespace };
        let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> = run.api();
        while accounts.get_opt("default").await.unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        run
    }

    fn api<K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Seconds from the first request until `count` objects are as `done` wants them.
    async fn create<K>(&self, count: usize, object: impl Fn(usize) -> Value, done: impl Fn(&K) -> bool) -> f64
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + DeserializeOwned
            + serde::Serialize
            + std::fmt::Debug
            + Send
            + Sync
            + 'static,
    {
        let api = self.api::<K>();
        let objects: Vec<K> = (0..count).map(|n| serde_json::from_value(object(n)).unwrap()).collect();
        let start = Instant::now();
        let params = PostParams::default();
        let creating = stream::iter(&objects).for_each_concurrent(CONCURRENCY, |object| async {
            api.create(&params, object).await.expect("it can be created");
        });
        let watching = async {
            let mut watch = watcher(api.clone(), watcher::Config::default()).applied_objects().boxed();
            let mut running = std::collections::HashSet::new();
            while running.len() < count {
                let object = watch.try_next().await.expect("a watch").expect("a watch without end");
                if done(&object) {
                    running.insert(object.name_any());
                }
            }
        };
        tokio::time::timeout(PATIENCE, futures::future::join(creating, watching)).await.expect("all of them run in time");
        start.elapsed().as_secs_f64()
    }

    async fn delete_all<K>(&self)
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
    {
        let api = self.api::<K>();
        let grace = DeleteParams::default().grace_period(0);
        api.delete_collection(&grace, &ListParams::default()).await.unwrap();
        // A connection may break under load; what counts is that nothing is left.
        while api.list(&ListParams::default().limit(1)).await.map_or(true, |left| !left.items.is_empty()) {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

fn container() -> Value {
    json!({"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": "100m", "memory": "64Mi"}})
}

fn bare_pod(number: usize) -> Value {
    json!({
        "metadata": {"name": format!("bare-{number}")},
        "spec": {
            "restartPolicy": "Never",
            "tolerations": [{"key": "kwok.x-k8s.io/node", "operator": "Exists"}],
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "sokovan.dev/simulated", "operator": "Exists"}]}]}}},
            "containers": [{"name": "main", "image": "busybox:1", "resources": container()}],
        },
    })
}

fn session(number: usize, subs: usize) -> Value {
    let kernel = |role: &str, replicas: usize| json!({"role": role, "replicas": replicas, "image": "busybox:1", "resources": {"cpu": "100m", "memory": "64Mi"}});
    let mut kernels = vec![kernel("main", 1)];
    if subs > 0 {
        kernels.push(kernel("sub", subs));
    }
    json!({
        "apiVersion": "sokovan.dev/v1alpha1", "kind": "Session", "metadata": {"name": format!("s-{number}")},
        "spec": {"accessKey": "default", "scalingGroup": "default", "clusterMode": "MultiNode",
                 "termination": {"gracePeriodSeconds": 0}, "kernels": kernels},
    })
}

fn is_running(session: &Session) -> bool {
    session.phase() == SessionPhase::Running
}

/// Until the operator has written nothing for a while: what it still owes is done.
async fn quiet(operator: &Operator) {
    let mut last = operator.writes();
    loop {
        tokio::time::sleep(Duration::from_secs(3)).await;
        let now = operator.writes();
        if now == last {
            return;
        }
        last = now;
    }
}

async fn measure(client: &Client, count: usize, idle: Duration) -> Value {
    let pods = Run::new(client, "pods").await;
    let running = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
    let pod_seconds = pods.create::<Pod>(count, bare_pod, running).await;
    pods.delete_all::<Pod>().await;

    let operator = Operator::start();
    wait_ready().await;
    let (before, cpu) = (operator.writes(), operator.cpu_seconds());
    let sessions = Run::new(client, "sessions").await;
    let session_seconds = sessions.create::<Session>(count, |n| session(n, 0), is_running).await;
    let cpu = operator.cpu_seconds() - cpu;
    quiet(&operator).await;
    let after = operator.writes();
    let peak = operator.peak_mib();
    tokio::time::sleep(idle).await;
    let idle_writes = between(&after, &operator.writes(), false) + between(&after, &operator.writes(), true);
    sessions.delete_all::<Session>().await;
    let n = count as f64;
    json!({
        "sessions": count, "sessions_per_s": n / session_seconds, "pods_per_s": n / pod_seconds,
        "ratio": pod_seconds / session_seconds, "writes_per_session": between(&before, &after, false) / n,
        "events_per_session": between(&before, &after, true) / n, "operator_cpu_s": cpu, "operator_peak_mib": peak,
        "idle_seconds": idle.as_secs(), "idle_writes": idle_writes,
    })
}

/// Gangs of three, for their writes alone.
async fn gangs(client: &Client, count: usize) -> Value {
    let operator = Operator::start();
    wait_ready().await;
    let before = operator.writes();
    let run = Run::new(client, "gangs").await;
    let seconds = run.create::<Session>(count, |n| session(n, 2), is_running).await;
    quiet(&operator).await;
    let writes = between(&before, &operator.writes(), false) / count as f64;
    run.delete_all::<Session>().await;
    json!({"gangs_of_3": count, "gangs_per_s": count as f64 / seconds, "writes_per_gang": writes})
}

async fn wait_ready() {
    let start = Instant::now();
    let ready = || {
        let mut stream = TcpStream::connect(LISTEN).ok()?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        text.contains("sokovan_leader 1").then_some(())
    };
    while ready().is_none() {
        assert!(start.elapsed() < PATIENCE, "the operator does not lead");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::main]
async fn main() {
    let counts: Vec<usize> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let counts = if counts.is_empty() { vec![500, 2000] } else { counts };
    let kubeconfig = Kubeconfig::read_from(std::env::var("SOKOVAN_TEST_KUBECONFIG").expect("run by `make bench`")).unwrap();
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    config.default_retry = false;
    let client = Client::try_from(config).unwrap();
    let idle = std::env::var("IDLE_SECONDS").ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(60);
    let mut rows = vec![];
    for count in counts {
        rows.push(measure(&client, count, Duration::from_secs(idle)).await);
    }
    let gangs = gangs(&client, 50).await;
    println!(
        "| N | sessions/s | bare pods/s | ratio | writes/session | events/session | operator CPU s | peak MiB | writes in 60 s idle |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for row in &rows {
        let number = |key: &str| row[key].as_f64().unwrap();
        println!(
            "| {} | {:.1} | {:.1} | {:.2} | {:.2} | {:.2} | {:.1} | {:.0} | {} |",
            row["sessions"],
            number("sessions_per_s"),
            number("pods_per_s"),
            number("ratio"),
            number("writes_per_session"),
            number("events_per_session"),
            number("operator_cpu_s"),
            number("operator_peak_mib"),
            number("idle_writes"),
        );
    }
    println!("\ngangs of 3: {:.2} writes each (6 + 4 per kernel = 18)", gangs["writes_per_gang"].as_f64().unwrap());
    println!("{}", json!({"bench": "sessions", "rows": rows, "gangs": gangs}));
}
