//! How long one object alone takes from creation until its pods run, on an idle cluster, and which step takes how much of it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sokovan::api::{Session, SessionPhase};

use crate::operator::Operator;
use crate::run::{PATIENCE, Run, pod_runs, session_runs};
use crate::setting;
use crate::shapes::Shape;

/// The steps of an object alone, in their order. Pods and Jobs have only the steps of pods.
const STEPS: [&str; 6] = ["allocated", "pods created", "pods bound", "pods have addresses", "pods run", "session Running"];

/// A version of an object, as a watch reported it.
enum Seen {
    Session(Box<Session>),
    Pod(Box<Pod>),
}

/// Returns, for each shape, the median milliseconds from creation until its pods run, and at which of them each step was seen.
pub async fn alone(client: &Client, shapes: &[Shape]) -> Value {
    let rounds = setting("ALONE", 15);
    let operator = Operator::start().await;
    let mut rows = serde_json::Map::new();
    for shape in shapes {
        let run = shape.run(client, "alone").await;
        let mut taken: HashMap<&str, Vec<f64>> = HashMap::new();
        for round in 0..rounds {
            let name = format!("a{round}");
            let (seconds, steps) = futures::future::join(started(*shape, &run, &name), steps(&run, *shape)).await;
            taken.entry("in all").or_default().push(seconds * 1000.0);
            for (step, seen) in steps {
                taken.entry(step).or_default().push(seen * 1000.0);
            }
            shape.end(&run).await;
            operator.quiet().await;
        }
        let medians = ["in all"].into_iter().chain(STEPS).filter_map(|step| Some((step, median(taken.get_mut(step)?))));
        rows.insert(shape.name(), json!(medians.collect::<HashMap<_, _>>()));
    }
    Value::Object(rows)
}

/// Creates the object once the watch has begun.
async fn started(shape: Shape, run: &Run, name: &str) -> f64 {
    tokio::time::sleep(WATCH_BEGINS).await;
    shape.start(run, name, 1).await
}

/// How long the watches have to begin.
const WATCH_BEGINS: Duration = Duration::from_millis(500);

/// Returns when each step was seen, in seconds since the creation.
async fn steps(run: &Run, shape: Shape) -> Vec<(&'static str, f64)> {
    let created = Instant::now() + WATCH_BEGINS;
    let sessions = watch::<Session>(run).await.map_ok(|session| Seen::Session(Box::new(session)));
    let pods = watch::<Pod>(run).await.map_ok(|pod| Seen::Pod(Box::new(pod)));
    let mut events = futures::stream::select(sessions.boxed(), pods.boxed());
    let (mut session, mut pods, mut seen) = (None, HashMap::new(), vec![]);
    let last = if shape.is_session() { "session Running" } else { "pods run" };
    let watching = async {
        while !seen.iter().any(|(step, _)| *step == last) {
            match events.try_next().await.expect("the watch works").expect("the watch does not end") {
                Seen::Session(now) => session = Some(*now),
                Seen::Pod(pod) => _ = pods.insert(pod.name_any(), *pod),
            }
            for step in STEPS {
                if !seen.iter().any(|(known, _)| *known == step) && holds(step, shape.pods(), session.as_ref(), &pods) {
                    seen.push((step, created.elapsed().as_secs_f64()));
                }
            }
        }
    };
    tokio::time::timeout(PATIENCE, watching).await.expect("it starts in time");
    seen
}

fn holds(step: &str, count: usize, session: Option<&Session>, pods: &HashMap<String, Pod>) -> bool {
    let all = |is: fn(&Pod) -> bool| pods.len() == count && pods.values().all(is);
    match step {
        "allocated" => session.is_some_and(|session| session.phase() >= SessionPhase::Scheduled),
        "pods created" => all(|_| true),
        "pods bound" => all(|pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some())),
        "pods have addresses" => all(|pod| pod.status.as_ref().is_some_and(|status| status.pod_ip.is_some())),
        "pods run" => all(pod_runs),
        _ => session.is_some_and(session_runs),
    }
}

/// Returns the objects of a kind as they appear and change from now on.
async fn watch<K>(run: &Run) -> impl futures::Stream<Item = kube::Result<K>> + use<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let api = run.api::<K>();
    let version = api.list_metadata(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let events = api.watch(&WatchParams::default(), &version).await.unwrap();
    events.try_filter_map(|event| async move {
        Ok(match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => Some(object),
            _ => None,
        })
    })
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

pub fn print(alone: &Value) {
    println!("\n| alone, ms | {} | in all |\n|{}", STEPS.join(" | "), "---|".repeat(STEPS.len() + 2));
    for (shape, medians) in alone.as_object().into_iter().flatten() {
        let ms = |step: &str| medians[step].as_f64().map_or_else(String::new, |ms| format!("{ms:.0}"));
        let cells: Vec<String> = STEPS.into_iter().chain(["in all"]).map(ms).collect();
        println!("| {shape} | {} |", cells.join(" | "));
    }
}
