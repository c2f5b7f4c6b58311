//! Fault tests: operators run through a proxy that disturbs one of their writes, and an oracle checks every version that
//! results. Run them with `make faults`; PLANS=50 runs 50 random plans, PLAN=gang/kill-after/7 one,
//! PATHS=deploy those of the paths of deployments.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod answers;
#[path = "../common/mod.rs"]
mod common;
mod deployments;
mod oracle;
mod paths;
mod plan;
mod proxy;
mod record;
mod rest;
#[path = "../cluster/scene.rs"]
mod scene;
mod serving;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{FutureExt, StreamExt, stream};
use kube::{Client, Config};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use serde_json::json;
use sokovan::operator::Options;
use tokio::sync::watch;

use paths::Path;
use plan::{Fault, Plan, Site};
use proxy::Proxy;
use record::Recording;
use scene::Scene;

/// At rest, nothing is written for this long. It is longer than two long cycles and any pause of [`scene::fast`].
const REST: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(60);

struct Outcome {
    plan: Plan,
    writes: Vec<Site>,
    violations: Vec<String>,
}

async fn stop_requested(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Keeps an operator running through the proxy. Another operator follows one that is killed or loses its lease.
async fn supervise(scene: Arc<Scene>, proxy: Arc<Proxy>, config: Config, mut stop: watch::Receiver<bool>) {
    let mut killed = proxy.killed.subscribe();
    for number in 0.. {
        let options = Options { lease_name: format!("operator-{number}"), ..scene.hasty(&format!("first-{number}")) };
        let mut operator = scene.operator_at(config.clone(), options);
        tokio::select! {
            _ = killed.changed() => match proxy.fault {
                // The rival takes over.
                Fault::Handover(_) => {
                    operator.stop().await;
                    return;
                }
                _ => operator.kill().await,
            },
            // The rival succeeds a paused operator.
            _ = operator.ended(), if !proxy.fault.has_rival() => {}
            () = stop_requested(&mut stop) => {
                operator.stop().await;
                return;
            }
        }
    }
}

/// Runs a second operator that competes for the first one's lease. After a pause, the held requests are sent once the rival
/// leads. In a handover, the rival's own proxy silences its watch, from a few writes before the fault until the rival has
/// led for a while.
async fn rival(scene: Arc<Scene>, proxy: Arc<Proxy>, client: Client, mut stop: watch::Receiver<bool>) {
    let own = match &proxy.fault {
        Fault::Handover(kind) => Fault::HoldWatch(kind.clone()),
        _ => Fault::None,
    };
    let (own, config) = Proxy::start(client, &scene.name, own, 0).await;
    tokio::select! {
        () = proxy.led() => {}
        () = stop_requested(&mut stop) => return,
    }
    let operator = scene.operator_at(config, Options { lease_name: "operator-0".into(), ..scene.hasty("second") });
    let release = async {
        if matches!(proxy.fault, Fault::Handover(_)) {
            proxy.soon.notified().await;
            own.silence();
            own.led().await;
            own.end_silence().await;
            return;
        }
        proxy.paused.notified().await;
        own.led().await;
        proxy.resume();
    };
    tokio::select! {
        () = release => {}
        () = stop_requested(&mut stop) => {}
    }
    stop_requested(&mut stop).await;
    operator.stop().await;
}

/// Waits until nothing has been written for a while and no work remains.
async fn rest(recording: &Recording, proxy: &Proxy) -> Result<(), String> {
    let begun = Instant::now();
    let (mut count, mut since) = (recording.count(), Instant::now());
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        if since.elapsed() > REST && oracle::at_rest(&recording.versions()).is_empty() {
            return Ok(());
        }
        // Without a leader, the cluster is not at rest. This proxy does not see the lease of a rival.
        if recording.count() != count || !(proxy.leads() || proxy.fault.has_rival()) {
            (count, since) = (recording.count(), Instant::now());
        }
        if begun.elapsed() > PATIENCE {
            return Err(format!("not at rest after {PATIENCE:?}: the last write was {} ms ago", since.elapsed().as_millis()));
        }
    }
}

async fn run(path: &'static Path, plan: Plan, client: &Client) -> Outcome {
    let scene = Arc::new(Scene::with("fault", 3, (path.group)()).await);
    let recording = Recording::start(&scene.space.client, &scene.name).await;
    let (proxy, through) = Proxy::start(client.clone(), &scene.name, plan.fault.clone(), plan.at).await;
    let (stop, stopping) = watch::channel(false);
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(supervise(scene.clone(), proxy.clone(), through, stopping.clone()));
    if plan.fault.has_rival() {
        tasks.spawn(rival(scene.clone(), proxy.clone(), client.clone(), stopping));
    }
    let finished = {
        let scene = scene.clone();
        tokio::spawn(async move { (path.run)(&scene).await }).await
    };
    let mut violations = vec![];
    if let Err(panic) = finished {
        let panic = panic.into_panic();
        let message = panic.downcast_ref::<String>().cloned().or(panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        violations.push(format!("the path failed: {}", message.unwrap_or_default()));
    }
    violations.extend(rest(&recording, &proxy).await.err());
    stop.send_replace(true);
    proxy.resume();
    while tasks.join_next().await.is_some() {}
    if tokio::time::timeout(PATIENCE, proxy.landed()).await.is_err() {
        violations.push("a held request was never sent".into());
    }
    violations.extend(proxy.violations());
    violations.extend(oracle::violations(&recording.versions()));
    if !violations.is_empty() {
        violations.extend(oracle::last_sessions(&recording.versions()));
        violations.extend(serving::last_objects(&recording.versions()));
    }
    scene.clear_all().await;
    Outcome { plan, writes: proxy.writes(), violations }
}

async fn run_all(plans: Vec<Plan>, client: &Client) -> Vec<Outcome> {
    let parallel = number("SIDE_BY_SIDE").unwrap_or(12);
    let total = plans.len();
    let running = plans.into_iter().map(|plan| {
        let path = paths().find(|path| path.name == plan.path).expect("a known path");
        run(path, plan, client)
    });
    let mut done = vec![];
    let mut running = stream::iter(running).buffer_unordered(parallel);
    while let Some(outcome) = running.next().boxed().await {
        for violation in &outcome.violations {
            println!("VIOLATION in {}: {violation}", outcome.plan);
        }
        done.push(outcome);
        if done.len() % 25 == 0 {
            println!("{} of {total} plans", done.len());
        }
    }
    done
}

/// Returns the paths of sessions and of deployments whose name contains PATHS, if set.
fn paths() -> impl Iterator<Item = &'static Path> {
    let part = std::env::var("PATHS").unwrap_or_default();
    paths::PATHS.iter().chain(&deployments::PATHS).filter(move |path| path.name.contains(&part))
}

/// Returns every fault at every write of every path.
fn every_plan(lengths: &BTreeMap<&'static str, usize>) -> Vec<Plan> {
    let mut plans = vec![];
    for path in paths() {
        for fault in Fault::all(path.has_deployment()) {
            plans.extend((1..=lengths[path.name]).map(|at| Plan { path: path.name, fault: fault.clone(), at }));
        }
    }
    plans
}

/// The number of restart rounds when only some plans run.
const FEW_ROUNDS: usize = 2;

/// Returns the rounds of restarts. A round runs every path at once and restarts the API server when the first path reaches
/// its n-th write. There is a round for every n, or as many as RESTARTS asks for.
fn restart_rounds(lengths: &BTreeMap<&'static str, usize>) -> Vec<Vec<Plan>> {
    let longest = lengths.values().copied().max().unwrap_or(0);
    let round = |at| paths().map(move |path| Plan { path: path.name, fault: Fault::Restart, at });
    let mut rounds: Vec<Vec<Plan>> = (1..=longest).map(|at| round(at).collect()).collect();
    rounds.iter_mut().for_each(|round| round.retain(is_named));
    rounds.retain(|round| !round.is_empty());
    if let Some(count) = number("RESTARTS").or(number("PLANS").map(|_| FEW_ROUNDS)) {
        rounds.shuffle(&mut rand::rng());
        rounds.truncate(count);
    }
    rounds
}

/// Whether the plan is the one that PLAN names, if set, and its name contains ONLY, if set.
fn is_named(plan: &Plan) -> bool {
    let variable = |name| std::env::var(name).ok();
    let plan = plan.to_string();
    variable("PLAN").is_none_or(|name| name == plan) && variable("ONLY").is_none_or(|part| plan.contains(&part))
}

/// Returns the number in an environment variable.
fn number(name: &str) -> Option<usize> {
    std::env::var(name).ok()?.parse().ok()
}

/// Returns the chosen plans: one, some, or all. FROM=3000 skips the first 3000, to continue an interrupted run.
fn chosen(all: Vec<Plan>) -> Vec<Plan> {
    let from = number("FROM").unwrap_or(0);
    let mut plans: Vec<Plan> = all.into_iter().skip(from).filter(is_named).collect();
    if let Some(count) = number("PLANS") {
        let seed = number("SEED").unwrap_or_else(|| rand::random::<u16>().into());
        println!("SEED={seed}");
        plans.shuffle(&mut rand::rngs::StdRng::seed_from_u64(seed as u64));
        plans.truncate(count);
    }
    plans
}

#[tokio::main]
async fn main() {
    if std::env::args().any(|argument| argument == "--list") {
        return; // `cargo test -- --list` asks every test program
    }
    let mut config = common::config_of("SOKOVAN_STRUCK_KUBECONFIG").await;
    config.default_retry = false;
    let client = Client::try_from(config).unwrap();
    let begun = Instant::now();
    let undisturbed = paths().map(|path| Plan { path: path.name, fault: Fault::None, at: 0 }).collect();
    let first = run_all(undisturbed, &client).await;
    let mut lengths = BTreeMap::new();
    for outcome in &first {
        lengths.insert(outcome.plan.path, outcome.writes.len());
        println!("{}: {} writes", outcome.plan.path, outcome.writes.len());
        if std::env::var_os("SITES").is_some() {
            outcome.writes.iter().enumerate().for_each(|(number, site)| println!("  {} {site}", number + 1));
        }
    }
    let mut plans = chosen(every_plan(&lengths));
    if std::env::var_os("FAIL_FAST").is_some() && first.iter().any(|outcome| !outcome.violations.is_empty()) {
        plans.clear();
    }
    println!("{} plans", plans.len());
    let mut done = run_all(plans, &client).await;
    for round in restart_rounds(&lengths) {
        proxy::next_round().await;
        done.extend(run_all(round, &client).await);
    }
    let mut by_kind: BTreeMap<String, usize> = BTreeMap::new();
    let mut sites: BTreeSet<(&str, &Site)> = BTreeSet::new();
    let mut missed = 0;
    for outcome in &done {
        *by_kind.entry(outcome.plan.fault.to_string()).or_default() += 1;
        match outcome.writes.get(outcome.plan.at - 1) {
            Some(site) => _ = sites.insert((outcome.plan.path, site)),
            None => missed += 1,
        }
    }
    let bad: Vec<String> = first.iter().chain(&done).filter(|o| !o.violations.is_empty()).map(|o| o.plan.to_string()).collect();
    println!("violated: {bad:?}");
    println!(
        "{}",
        json!({
            "bench": "faults", "plans": done.len(), "by_kind": by_kind, "violations": bad.len(),
            "write_sites": sites.len(), "not_struck": missed, "seconds": begun.elapsed().as_secs(),
        })
    );
    std::process::exit(i32::from(!bad.is_empty()));
}
