//! Kueue's load shape: 5 domains of 6 projects with 500 batch sessions each. The sessions have three sizes, arrive over a
//! minute, wait for their domain's quota, complete and are deleted. Bare pods arrive in the same way, without a quota.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PostParams};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use sokovan::api::{Domain, Keypair, Project, ResourcePolicy, Session, SessionPhase, User};
use tokio::sync::Semaphore;

use crate::objects::{ABSENT, Work, apply, pod, session};
use crate::operator::{Operator, between, each};
use crate::run::{Object, PATIENCE, Run};
use crate::setting;

const DOMAINS: usize = 5;
const PROJECTS: usize = 6;
/// The CPU limit of each project and domain: Kueue's nominal quota of 20 and 100 borrowed.
const LIMIT_CPU: u32 = 120;
/// How many creations, and how many deletions, are in flight at once.
const CONCURRENCY: usize = 64;

/// One size of session, with its number in each project.
struct Class {
    name: &'static str,
    count: usize,
    every: Duration,
    priority: u32,
    work: Work,
}

const CLASSES: [Class; 3] = [
    class("small", 350, 100, 10, "1", &["sim", "run", "200ms"]),
    class("medium", 100, 500, 20, "5", &["sim", "run", "500ms"]),
    class("large", 50, 1200, 30, "20", &["sim", "run", "1s"]),
];

const fn class(
    name: &'static str,
    count: usize,
    every_ms: u64,
    priority: u32,
    cpu: &'static str,
    command: &'static [&'static str],
) -> Class {
    let work = Work { cpu, memory: "16Mi", command };
    Class { name, count, every: Duration::from_millis(every_ms), priority, work }
}

/// The arrival of one session.
struct Arrival {
    at: Duration,
    project: usize,
    class: &'static Class,
    name: String,
}

fn arrivals(percent: usize) -> Vec<Arrival> {
    let mut all = vec![];
    for project in 0..DOMAINS * PROJECTS {
        for class in &CLASSES {
            for number in 0..class.count * percent / 100 {
                let name = format!("{}-{project}-{number}", class.name);
                all.push(Arrival { at: class.every * u32::try_from(number).unwrap(), project, class, name });
            }
        }
    }
    all.sort_by_key(|arrival| arrival.at);
    all
}

pub async fn bench(client: &Client) -> Value {
    let arrivals = arrivals(setting("PERCENT", 100));
    let tenants = stream::iter(0..DOMAINS * PROJECTS).then(|project| tenant(client, project));
    let runs: Vec<Run> = tenants.collect().await;

    let make = |arrival: &Arrival| pod(&arrival.name, arrival.class.work);
    let bare = drive::<Pod>(client, &runs, &arrivals, make, pod_stage).await;
    println!("bare pods: all removed after {:.0} s, {:.1}/s", bare.makespan, arrivals.len() as f64 / bare.makespan);

    let operator = Operator::start().await;
    let before = operator.writes();
    let make = |arrival: &Arrival| {
        let more = json!({"type": "Batch", "accessKey": format!("key-{}", arrival.project),
                          "priority": arrival.class.priority, "ttlSecondsAfterFinished": 0});
        session(&arrival.name, 0, ABSENT, arrival.class.work, &more)
    };
    let sessions = drive::<Session>(client, &runs, &arrivals, make, session_stage).await;
    let after = operator.settled().await;
    let n = arrivals.len() as f64;
    let ratio = sessions.makespan / bare.makespan;
    let (writes, events) = (between(&before, &after, false) / n, between(&before, &after, true) / n);
    println!(
        "sessions: all removed after {:.0} s, {:.1}/s, {ratio:.2} times bare pods",
        sessions.makespan,
        n / sessions.makespan
    );
    println!(
        "{writes:.2} writes and {events:.2} events each, {:.1} CPU s, {:.0} MiB",
        operator.cpu_seconds(),
        operator.peak_mib()
    );
    println!("writes per session: {}", each(&before, &after, n));
    println!("\n| class | sessions, mean s until admitted | bare pods, mean s until started |\n|---|---|---|");
    for class in &CLASSES {
        println!("| {} | {:.1} | {:.1} |", class.name, sessions.waited[class.name], bare.waited[class.name]);
    }
    json!({
        "bench": "queue", "sessions": n, "makespan_s": sessions.makespan, "bare_makespan_s": bare.makespan, "ratio": ratio,
        "sessions_per_s": n / sessions.makespan, "arrived_s": sessions.arrived, "bare_arrived_s": bare.arrived,
        "waited_s": sessions.waited, "bare_waited_s": bare.waited, "writes_per_session": writes,
        "events_per_session": events, "operator_cpu_s": operator.cpu_seconds(), "operator_peak_mib": operator.peak_mib(),
    })
}

/// Creates a project with its namespace, its domain, a user and a keypair. The project and the domain have limits.
async fn tenant(client: &Client, number: usize) -> Run {
    let (domain, project) = (format!("domain-{}", number / PROJECTS), format!("project-{number}"));
    let limits = json!({"limits": {"cpu": LIMIT_CPU}, "unspecified": "Unlimited"});
    apply::<ResourcePolicy>(client, "limited", limits).await;
    apply::<Domain>(client, &domain, json!({"resourcePolicy": "limited"})).await;
    apply::<Project>(client, &project, json!({"domain": domain, "resourcePolicy": "limited"})).await;
    apply::<User>(client, &format!("user-{number}"), json!({"domain": domain})).await;
    apply::<Keypair>(client, &format!("key-{number}"), json!({"user": format!("user-{number}")})).await;
    Run::new(client, &project, &project).await
}

/// The progress of an object.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Waiting,
    Admitted,
    /// The benchmark deletes the object.
    Finished,
}

fn session_stage(session: &Session) -> Stage {
    // The operator removes finished sessions.
    if session.phase() == SessionPhase::Pending { Stage::Waiting } else { Stage::Admitted }
}

fn pod_stage(pod: &Pod) -> Stage {
    match pod.status.as_ref().and_then(|status| status.phase.as_deref()) {
        Some("Succeeded" | "Failed") => Stage::Finished,
        Some("Running") => Stage::Admitted,
        _ => Stage::Waiting,
    }
}

struct Driven {
    /// Seconds from the first arrival until the last object is removed.
    makespan: f64,
    /// Seconds until the last object was created. It is later than planned if creation is the bottleneck.
    arrived: f64,
    /// Mean seconds from creation until admission, by class.
    waited: HashMap<&'static str, f64>,
}

#[derive(Default)]
struct Seen {
    created: Option<Instant>,
    admitted: Option<Instant>,
    finished: bool,
    gone: bool,
}

async fn drive<K: Object>(
    client: &Client,
    runs: &[Run],
    arrivals: &[Arrival],
    make: impl Fn(&Arrival) -> K,
    stage: impl Fn(&K) -> Stage,
) -> Driven {
    let start = Instant::now();
    let creating = async {
        let params = PostParams::default();
        let create = |arrival: &Arrival| {
            let (api, object, at) = (runs[arrival.project].api::<K>(), make(arrival), arrival.at);
            let (params, name) = (&params, arrival.name.clone());
            async move {
                tokio::time::sleep_until((start + at).into()).await;
                // The wait begins with the request, so that no object is seen before its creation.
                let requested = Instant::now();
                api.create(params, &object).await.expect("the object can be created");
                (name, requested)
            }
        };
        let created: Vec<_> = stream::iter(arrivals).map(create).buffer_unordered(CONCURRENCY).collect().await;
        (created, start.elapsed().as_secs_f64())
    };
    let watching = watch(client, arrivals.len(), stage);
    let ((created, arrived), mut seen) =
        tokio::time::timeout(PATIENCE, futures::future::join(creating, watching)).await.expect("all objects are removed in time");
    let makespan = start.elapsed().as_secs_f64();
    for (name, requested) in created {
        seen.entry(name).or_default().created = Some(requested);
    }
    let waited = CLASSES.iter().map(|class| (class.name, waited(class, &seen))).collect();
    Driven { makespan, arrived, waited }
}

fn waited(class: &Class, seen: &HashMap<String, Seen>) -> f64 {
    let of_class = seen.iter().filter(|(name, _)| name.starts_with(class.name));
    let waits = of_class.filter_map(|(_, seen)| Some(seen.admitted?.duration_since(seen.created?).as_secs_f64()));
    let waits: Vec<f64> = waits.collect();
    waits.iter().sum::<f64>() / waits.len().max(1) as f64
}

/// Waits until `count` objects were created and removed. Deletes finished objects.
async fn watch<K: Object>(client: &Client, count: usize, stage: impl Fn(&K) -> Stage) -> HashMap<String, Seen> {
    let mut events = kube::runtime::watcher(Api::<K>::all(client.clone()), watcher::Config::default()).boxed();
    let mut seen: HashMap<String, Seen> = HashMap::new();
    let (mut gone, mut listed) = (0, Vec::new());
    let deletions = Arc::new(Semaphore::new(CONCURRENCY));
    while gone < count {
        match events.try_next().await.expect("the watch works").expect("the watch does not end") {
            Event::Init => listed.clear(),
            Event::InitDone => {
                // After a broken watch, the new list contains only the remaining objects.
                for (_, entry) in seen.iter_mut().filter(|(name, entry)| !entry.gone && !listed.contains(*name)) {
                    entry.gone = true;
                    gone += 1;
                }
            }
            Event::Delete(object) => {
                let entry = seen.entry(object.name_any()).or_default();
                gone += usize::from(!std::mem::replace(&mut entry.gone, true));
            }
            event @ (Event::Apply(_) | Event::InitApply(_)) => {
                let initial = matches!(event, Event::InitApply(_));
                let (Event::Apply(object) | Event::InitApply(object)) = event else { continue };
                if initial {
                    listed.push(object.name_any());
                }
                let entry = seen.entry(object.name_any()).or_default();
                let stage = stage(&object);
                if stage >= Stage::Admitted {
                    entry.admitted.get_or_insert_with(Instant::now);
                }
                if stage == Stage::Finished && !std::mem::replace(&mut entry.finished, true) {
                    delete(client, object, Arc::clone(&deletions));
                }
            }
        }
    }
    seen
}

fn delete<K: Object>(client: &Client, object: K, deletions: Arc<Semaphore>) {
    let api: Api<K> = Api::namespaced(client.clone(), &object.namespace().unwrap());
    tokio::spawn(async move {
        let _permit = deletions.acquire().await.unwrap();
        let _ = api.delete(&object.name_any(), &DeleteParams::default().grace_period(0)).await;
    });
}
