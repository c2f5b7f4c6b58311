//! Deployments of replicas, compared with Deployments of apps/v1 behind a Service: until all replicas are endpoints, a rolling
//! updates, many deployments of one replica, and probes that fail. Then the replacement of replicas that end, and the writes while
//! nothing happens.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::apps::v1::Deployment as AppsDeployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher::{self, Event};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use sokovan::api::{Deployment, DeploymentPhase, Health, LABEL_DEPLOYMENT, LABEL_SERVICE, LABEL_SESSION, Route, Session};

use crate::objects::{ABSENT, SMALL, pod, session};
use crate::operator::{Operator, between, each};
use crate::run::{CONCURRENCY, Object, PATIENCE, Run};
use crate::setting;

impl Object for AppsDeployment {}
impl Object for Deployment {}
impl Object for EndpointSlice {}
impl Object for Route {}
impl Object for Service {}

pub async fn bench(client: &Client, replicas: Option<usize>) -> Value {
    let replicas = replicas.unwrap_or(300);
    let (rolled, singles, probes) = (setting("ROLLED", 100), setting("SINGLES", 200), setting("PROBES", 20));

    let run = Run::new(client, "apps", "default").await;
    let apps_s = Apps.until_endpoints(&run, replicas).await;
    run.delete_all::<AppsDeployment>().await;
    run.delete_all::<Pod>().await;
    let mut apps_rolls = vec![];
    for pace in &PACES {
        apps_rolls.push(Apps.roll(&run, rolled, pace).await);
        run.delete_all::<AppsDeployment>().await;
        run.delete_all::<Pod>().await;
    }
    let apps_singles = Apps.singles(&run, singles).await;
    let apps_probes = fail_probes(&run, probes.min(singles)).await;
    run.delete_all::<AppsDeployment>().await;
    run.delete_all::<Service>().await;
    run.delete_all::<Pod>().await;
    println!("apps/v1: {replicas} endpoints in {apps_s:.1} s, {singles} of one: {apps_singles}, failing probes: {apps_probes}");

    let operator = Operator::start().await;
    let before = operator.writes();
    let run = Run::new(client, "serving", "default").await;
    let endpoints_s = Ours.until_endpoints(&run, replicas).await;
    let after = operator.settled().await;
    let n = replicas as f64;
    let (writes, events) = (between(&before, &after, false) / n, between(&before, &after, true) / n);
    println!(
        "{replicas} endpoints in {endpoints_s:.1} s, {:.2} of the rate of apps/v1, {writes:.2} writes each",
        apps_s / endpoints_s
    );
    println!("writes per replica: {}", each(&before, &after, n));

    let mut rolls = vec![];
    for (pace, apps_s) in PACES.iter().zip(apps_rolls) {
        let before = operator.writes();
        let ours_s = Ours.roll(&run, rolled, pace).await;
        let (surge, unavailable, ratio) = (pace.surge, pace.unavailable, ours_s / apps_s);
        println!("{rolled} rolled at {surge}/{unavailable} in {ours_s:.1} s, apps/v1 {apps_s:.1} s, {ratio:.2} times");
        rolls.push(json!({"surge": surge, "unavailable": unavailable, "s": ours_s, "apps_s": apps_s, "time_ratio": ratio}));
        let after = operator.settled().await;
        println!("writes for a replica made and replaced: {}", each(&before, &after, rolled as f64));
    }
    let before = operator.writes();
    let singles_s = Ours.singles(&run, singles).await;
    println!("{singles} deployments of one replica until Available: {singles_s}");
    println!("writes for each: {}", each(&before, &operator.settled().await, singles as f64));
    let failing = fail_probes(&run, probes.min(singles)).await;
    println!("from a failing probe until out of the slice, and from there until Unhealthy: {failing}, apps/v1 {apps_probes}");
    let replaced = replace(&run, probes.min(singles)).await;
    println!("from a replica's end until its replacement is made: {replaced}");

    let quiet = operator.quiet().await;
    let (idle, cpu) = (setting("IDLE_SECONDS", 60), operator.cpu_seconds());
    tokio::time::sleep(Duration::from_secs(idle as u64)).await;
    let later = operator.writes();
    let idle_writes = between(&quiet, &later, false) + between(&quiet, &later, true);
    let idle_cpu = operator.cpu_seconds() - cpu;
    println!("{idle} s with {} routes: {idle_writes} writes, {idle_cpu:.1} CPU s", replicas + PACES.len() * rolled + singles);
    json!({
        "bench": "serving", "replicas": replicas, "endpoints_s": endpoints_s, "apps_endpoints_s": apps_s,
        "endpoints_per_s": n / endpoints_s, "rate_ratio": apps_s / endpoints_s, "writes_per_replica": writes,
        "events_per_replica": events, "rolled": rolled, "rolls": rolls, "failing_probes_s": failing,
        "apps_failing_probes_s": apps_probes, "singles": singles, "singles_s": singles_s, "apps_singles_s": apps_singles,
        "replaced_s": replaced, "idle_seconds": idle, "idle_writes": idle_writes, "idle_cpu_s": idle_cpu,
        "operator_cpu_s": operator.cpu_seconds(), "operator_peak_mib": operator.peak_mib(),
    })
}

/// How many replicas more and fewer than wished a rolling update allows.
struct Pace {
    name: &'static str,
    surge: &'static str,
    unavailable: &'static str,
}

const PACES: [Pace; 2] =
    [Pace { name: "even", surge: "25%", unavailable: "25%" }, Pace { name: "surge", surge: "50%", unavailable: "0%" }];

/// A kind of deployment, with the same replicas as the other.
trait Served {
    type Kind: Object;

    fn deployment(&self, name: &str, replicas: usize, version: &str, pace: &Pace) -> Self::Kind;

    /// The Service, if the benchmark creates it.
    fn service(&self, name: &str) -> Option<Service>;

    fn change_of_image(&self, version: &str) -> Value;

    fn is_available(&self, deployment: &Self::Kind) -> bool;

    /// Whether all replicas are of this version and available.
    fn is_complete(&self, deployment: &Self::Kind, version: i64) -> bool;

    async fn create(&self, run: &Run, name: &str, replicas: usize, pace: &Pace) {
        let params = PostParams::default();
        if let Some(service) = self.service(name) {
            run.api::<Service>().create(&params, &service).await.expect("the Service can be created");
        }
        let deployment = self.deployment(name, replicas, "1", pace);
        run.api::<Self::Kind>().create(&params, &deployment).await.expect("the deployment can be created");
    }

    /// Returns the seconds until a new deployment has as many ready endpoints as replicas.
    async fn until_endpoints(&self, run: &Run, replicas: usize) -> f64 {
        let start = Instant::now();
        let listed = async {
            let mut ready: HashMap<String, usize> = HashMap::new();
            let slices = watcher::Config::default().labels(&format!("{LABEL_SERVICE}=many"));
            until::<EndpointSlice>(run, slices, |slice| {
                ready.insert(slice.name_any(), count_ready(slice));
                ready.values().sum::<usize>() >= replicas
            })
            .await;
        };
        futures::future::join(self.create(run, "many", replicas, &PACES[0]), listed).await;
        start.elapsed().as_secs_f64()
    }

    /// Returns the seconds of a rolling update, from the change until all replicas are new and available.
    async fn roll(&self, run: &Run, replicas: usize, pace: &Pace) -> f64 {
        self.create(run, pace.name, replicas, pace).await;
        self.until_complete(run, pace.name, 1).await;
        let start = Instant::now();
        let change = Patch::Merge(json!({"spec": self.change_of_image("2")}));
        run.api::<Self::Kind>().patch(pace.name, &PatchParams::default(), &change).await.expect("the image can be changed");
        self.until_complete(run, pace.name, 2).await;
        start.elapsed().as_secs_f64()
    }

    async fn until_complete(&self, run: &Run, name: &str, version: i64) {
        let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
        until::<Self::Kind>(run, only, |deployment| self.is_complete(deployment, version)).await;
    }

    /// Creates deployments of one replica. Returns the median and the 95th percentile of the seconds until Available.
    async fn singles(&self, run: &Run, count: usize) -> Value {
        let names: Vec<String> = (0..count).map(|number| format!("one-{number}")).collect();
        let creating = stream::iter(&names).map(async |name| {
            let requested = Instant::now();
            self.create(run, name, 1, &PACES[0]).await;
            (name, requested)
        });
        let creating = creating.buffer_unordered(CONCURRENCY).collect::<HashMap<_, _>>();
        let mut available: HashMap<String, Instant> = HashMap::new();
        let watching = until::<Self::Kind>(run, watcher::Config::default(), |deployment| {
            if deployment.name_any().starts_with("one-") && self.is_available(deployment) {
                available.entry(deployment.name_any()).or_insert_with(Instant::now);
            }
            available.len() == count
        });
        let (created, ()) = futures::future::join(creating, watching).await;
        percentiles(names.iter().map(|name| available[name].duration_since(created[name]).as_secs_f64()).collect())
    }
}

struct Apps;

impl Served for Apps {
    type Kind = AppsDeployment;

    fn deployment(&self, name: &str, replicas: usize, version: &str, pace: &Pace) -> AppsDeployment {
        let mut spec = json!(pod(name, SMALL).spec);
        spec["restartPolicy"] = json!("Always"); // a Deployment allows no other
        spec["containers"][0]["image"] = json!(image(version));
        let object = json!({
            "metadata": {"name": name},
            "spec": {
                "replicas": replicas, "selector": {"matchLabels": {"app": name}},
                "strategy": {"rollingUpdate": {"maxSurge": pace.surge, "maxUnavailable": pace.unavailable}},
                "template": {"metadata": {"labels": {"app": name}}, "spec": spec},
            },
        });
        serde_json::from_value(object).unwrap()
    }

    fn service(&self, name: &str) -> Option<Service> {
        let ports = json!([{"port": 80, "targetPort": 8080}]);
        let object = json!({"metadata": {"name": name}, "spec": {"selector": {"app": name}, "ports": ports}});
        Some(serde_json::from_value(object).unwrap())
    }

    fn change_of_image(&self, version: &str) -> Value {
        let spec = json!(self.deployment("", 1, version, &PACES[0]).spec);
        json!({"template": {"spec": {"containers": spec["template"]["spec"]["containers"]}}})
    }

    fn is_available(&self, deployment: &AppsDeployment) -> bool {
        deployment.status.as_ref().is_some_and(|status| status.available_replicas.unwrap_or_default() >= 1)
    }

    fn is_complete(&self, deployment: &AppsDeployment, version: i64) -> bool {
        let replicas = deployment.spec.as_ref().and_then(|spec| spec.replicas);
        deployment.metadata.generation == Some(version)
            && deployment.status.as_ref().is_some_and(|status| {
                status.observed_generation == Some(version)
                    && [status.replicas, status.updated_replicas, status.available_replicas].iter().all(|n| *n == replicas)
            })
    }
}

struct Ours;

impl Served for Ours {
    type Kind = Deployment;

    fn deployment(&self, name: &str, replicas: usize, version: &str, pace: &Pace) -> Deployment {
        let mut template =
            json!(session(name, 0, ABSENT, SMALL, &json!({"type": "Inference", "clusterMode": "SingleNode"})).spec);
        template["kernels"][0]["image"] = json!(image(version));
        let object = json!({
            "apiVersion": "sokovan.dev/v1alpha1", "kind": "Deployment", "metadata": {"name": name},
            "spec": {
                "replicas": replicas, "template": template, "model": {"port": 8080},
                "strategy": {"rolling": {"maxSurge": pace.surge, "maxUnavailable": pace.unavailable}},
                // As with apps/v1, nothing waits for requests.
                "drain": {"delaySeconds": 0, "timeoutSeconds": 0},
            },
        });
        serde_json::from_value(object).unwrap()
    }

    fn service(&self, _: &str) -> Option<Service> {
        None
    }

    fn change_of_image(&self, version: &str) -> Value {
        let kernels = json!(self.deployment("", 1, version, &PACES[0]).spec.template.kernels);
        json!({"template": {"kernels": kernels}})
    }

    fn is_available(&self, deployment: &Deployment) -> bool {
        deployment.status.as_ref().is_some_and(|status| status.available >= 1)
    }

    fn is_complete(&self, deployment: &Deployment, version: i64) -> bool {
        let desired = deployment.spec.replicas;
        deployment.status.as_ref().is_some_and(|status| {
            status.phase == DeploymentPhase::Ready
                && status.current_revision == Some(version)
                && (status.available, status.updated) == (desired, desired)
        })
    }
}

fn image(version: &str) -> String {
    format!("busybox:{version}")
}

fn count_ready(slice: &EndpointSlice) -> usize {
    let is_ready = |ready: Option<bool>| ready == Some(true);
    slice.endpoints.iter().flatten().filter(|endpoint| is_ready(endpoint.conditions.as_ref().and_then(|is| is.ready))).count()
}

/// Makes the main pods of deployments of one replica fail their probe, one after another, as a kubelet would report it. Returns the
/// seconds until the endpoint is not ready, and those from there until the route is recorded as Unhealthy, if there are routes.
async fn fail_probes(run: &Run, count: usize) -> Value {
    let (mut out, mut recorded) = (vec![], vec![]);
    for number in 0..count {
        let deployment = format!("one-{number}");
        let slices = watcher::Config::default().labels(&format!("{LABEL_SERVICE}={deployment}"));
        let mut pod = None;
        until::<EndpointSlice>(run, slices.clone(), |slice| {
            pod = slice.endpoints.iter().flatten().find_map(|endpoint| endpoint.target_ref.as_ref()?.name.clone());
            count_ready(slice) == 1
        })
        .await;
        let pod = pod.expect("a ready endpoint has a pod");
        let routes = watcher::Config::default().labels(&format!("{LABEL_DEPLOYMENT}={deployment}"));
        let listed = run.api::<Route>().list(&ListParams::default().labels(&format!("{LABEL_DEPLOYMENT}={deployment}"))).await;
        let has_route = !listed.expect("routes can be listed").items.is_empty();

        let left = async {
            until::<EndpointSlice>(run, slices.clone(), |slice| count_ready(slice) == 0).await;
            Instant::now()
        };
        let unhealthy = async {
            let is_unhealthy = |route: &Route| route.status.as_ref().is_some_and(|status| status.health == Health::Unhealthy);
            if has_route {
                until::<Route>(run, routes, is_unhealthy).await;
            }
            Instant::now()
        };
        let start = Instant::now();
        let (left, unhealthy, ()) = futures::join!(left, unhealthy, report_ready(run, &pod, false));
        out.push(left.duration_since(start).as_secs_f64());
        if has_route {
            recorded.push(unhealthy.saturating_duration_since(left).as_secs_f64());
        }
        let back = until::<EndpointSlice>(run, slices, |slice| count_ready(slice) == 1);
        futures::join!(back, report_ready(run, &pod, true));
    }
    json!({"out": percentiles(out), "recorded": (!recorded.is_empty()).then(|| percentiles(recorded))})
}

async fn report_ready(run: &Run, pod: &str, ready: bool) {
    let status = if ready { "True" } else { "False" };
    let conditions = json!([{"type": "ContainersReady", "status": status}, {"type": "Ready", "status": status}]);
    let change = Patch::Strategic(json!({"status": {"conditions": conditions}}));
    run.api::<Pod>().patch_status(pod, &PatchParams::default(), &change).await.expect("the pod's status can be changed");
}

/// Ends replicas of different deployments one after another, by the removal of their pods. Returns the seconds from the end of
/// the session until its successor exists. A second replacement in the same deployment would be delayed on purpose.
async fn replace(run: &Run, count: usize) -> Value {
    let mut took = vec![];
    for number in 0..count {
        let deployment = format!("one-{number}");
        let ours = format!("{LABEL_DEPLOYMENT}={deployment}");
        let old = run.api::<Session>().list(&ListParams::default().labels(&ours)).await.unwrap().items.remove(0).name_any();
        let of_old = ListParams::default().labels(&format!("{LABEL_SESSION}={old}"));
        let pod = run.api::<Pod>().list(&of_old).await.unwrap().items.remove(0).name_any();
        let (mut ended, mut replaced) = (None, None);
        let watching = until::<Session>(run, watcher::Config::default().labels(&ours), |session| {
            if session.name_any() != old {
                replaced.get_or_insert_with(Instant::now);
            } else if session.phase().is_ending() {
                ended.get_or_insert_with(Instant::now);
            }
            ended.is_some() && replaced.is_some()
        });
        let grace = DeleteParams::default().grace_period(0);
        let deleting = async { run.api::<Pod>().delete(&pod, &grace).await.expect("the pod can be deleted") };
        futures::future::join(watching, deleting).await;
        let (ended, replaced): (Instant, Instant) = (ended.unwrap(), replaced.unwrap());
        took.push(replaced.saturating_duration_since(ended).as_secs_f64());
    }
    percentiles(took)
}

/// Watches objects until `done` is true after one of them.
async fn until<K: Object>(run: &Run, config: watcher::Config, mut done: impl FnMut(&K) -> bool) {
    let watching = async {
        let mut events = kube::runtime::watcher(run.api::<K>(), config).boxed();
        loop {
            let event = events.try_next().await.expect("the watch works").expect("the watch does not end");
            if let Event::Apply(object) | Event::InitApply(object) = event
                && done(&object)
            {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, watching).await.expect("it happens in time");
}

/// The median, the 95th percentile and the largest of some seconds.
fn percentiles(mut seconds: Vec<f64>) -> Value {
    seconds.sort_by(f64::total_cmp);
    let at = |percent: usize| ((seconds[(seconds.len() * percent).div_ceil(100).max(1) - 1]) * 1000.0).round() / 1000.0;
    json!({"p50": at(50), "p95": at(95), "max": at(100)})
}
