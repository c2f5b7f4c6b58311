//! Scale: 10,000 sessions and 500 gangs of 20 on 1,000 nodes, compared with bare pods. Then a queue of 10,000 sessions that
//! cannot fit.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::ListParams;
use serde_json::{Value, json};
use sokovan::api::{Keypair, LABEL_SESSION, ResourcePolicy, Session};

use crate::objects::{ABSENT, SMALL, Work, apply, pod, session};
use crate::operator::{Operator, between};
use crate::run::{Run, pod_runs, session_runs};
use crate::setting;

/// The CPU of a whole simulated node, so that it does not fit a node that runs anything.
const WHOLE_NODE: Work = Work { cpu: "32", memory: "1Gi", command: &[] };
/// How many sessions that fit are started one after another, to measure whether the queue slows them.
fn probes() -> usize {
    setting("PROBES", 20)
}

pub async fn bench(client: &Client) -> Value {
    let (count, gangs, waiting) = (setting("SESSIONS", 10_000), setting("GANGS", 500), setting("WAITING", 10_000));
    let n = count as f64;
    let run = Run::new(client, "pods", "default").await;
    let pods: Vec<_> = (0..count).map(|number| pod(&format!("bare-{number}"), SMALL)).collect();
    let pods_per_s = n / run.create(&pods, pod_runs).await;
    drop(pods);
    println!("{count} bare pods: {pods_per_s:.1}/s");
    run.delete_all::<Pod>().await;

    let operator = Operator::start().await;
    let before = operator.writes();
    let run = Run::new(client, "sessions", "default").await;
    let sessions: Vec<_> = (0..count).map(|number| session(&format!("s-{number}"), 0, ABSENT, SMALL, &json!({}))).collect();
    let sessions_per_s = n / run.create(&sessions, session_runs).await;
    drop(sessions);
    let ratio = sessions_per_s / pods_per_s;
    let writes = between(&before, &operator.settled().await, false) / n;
    println!(
        "{count} sessions: {sessions_per_s:.1}/s, {ratio:.2} of bare pods, {writes:.2} writes each, {:.0} MiB",
        operator.peak_mib()
    );

    let before = operator.writes();
    let run = Run::new(client, "gangs", "default").await;
    let all: Vec<_> = (0..gangs).map(|number| session(&format!("g-{number}"), 19, ABSENT, SMALL, &json!({}))).collect();
    let kernels_per_s = gangs as f64 * 20.0 / run.create(&all, session_runs).await;
    let gang_ratio = kernels_per_s / pods_per_s;
    let gang_writes = between(&before, &operator.settled().await, false) / gangs.max(1) as f64;
    println!("{gangs} gangs of 20: {kernels_per_s:.1} kernels/s, {gang_ratio:.2} of bare pods, {gang_writes:.1} writes each");

    let alone = probe(client).await;
    let run = Run::new(client, "queue", "default").await;
    let all: Vec<_> = (0..waiting).map(|number| session(&format!("w-{number}"), 0, ABSENT, WHOLE_NODE, &json!({}))).collect();
    let queue = queue(&operator, &run, &all).await;
    let with_queue = probe(client).await;
    let reexplained = explain_again(&run, &all, count + gangs * 20).await;
    println!(
        "a session that fits, median and slowest of {}: {alone} s alone, {with_queue} s while {waiting} others wait",
        probes()
    );
    let (peak, cpu) = (operator.peak_mib(), operator.cpu_seconds());
    println!("operator: peak {peak:.0} MiB, {cpu:.1} CPU s");
    drop(operator);
    let next = Operator::start().await;
    next.quiet().await;
    println!(
        "the next operator, which starts with all of this: peak {:.0} MiB, {:.1} CPU s",
        next.peak_mib(),
        next.cpu_seconds()
    );
    json!({
        "bench": "scale", "sessions": count, "sessions_per_s": sessions_per_s, "pods_per_s": pods_per_s, "ratio": ratio,
        "writes_per_session": writes, "gangs_of_20": gangs, "kernels_per_s": kernels_per_s, "gang_ratio": gang_ratio,
        "writes_per_gang": gang_writes, "queue": queue, "probe_alone_s": alone, "probe_with_queue_s": with_queue, "explained_again": reexplained,
        "operator_peak_mib": peak, "operator_cpu_s": cpu, "starting_peak_mib": next.peak_mib(),
    })
}

/// Measures sessions that fit no node: the writes until each has its waiting reason, and the cost from then on.
async fn queue(operator: &Operator, run: &Run, all: &[Session]) -> Value {
    let (before, count) = (operator.writes(), all.len());
    let seconds = run.create(all, |session| waits_for(session, "NoAvailableNode")).await;
    let after = operator.settled().await;
    let writes = between(&before, &after, false) / count.max(1) as f64;
    let (idle, cpu) = (setting("IDLE_SECONDS", 60), operator.cpu_seconds());
    tokio::time::sleep(Duration::from_secs(idle as u64)).await;
    let idle_cpu = operator.cpu_seconds() - cpu;
    let idle_writes = between(&after, &operator.writes(), false);
    println!(
        "{count} that cannot fit: all have a reason after {seconds:.0} s, {writes:.2} writes each, then {idle_writes} writes and {idle_cpu:.1} CPU s in {idle} s"
    );
    json!({"waiting": count, "explained_s": seconds, "writes_each": writes, "idle_seconds": idle, "idle_writes": idle_writes, "idle_cpu_s": idle_cpu})
}

/// Gives all waiting sessions another reason at once, by a limit that only the probes and the small sessions satisfy.
async fn explain_again(run: &Run, all: &[Session], small: usize) -> Value {
    let limits = json!({"limits": {"cpu": (small + 3 * probes()).div_ceil(10) + 1}, "unspecified": "Unlimited"});
    apply::<ResourcePolicy>(&run.client, "tight", limits).await;
    let start = Instant::now();
    apply::<Keypair>(&run.client, "default", json!({"resourcePolicy": "tight"})).await;
    let explained = async {
        run.until_all(all, |session| waits_for(session, "QuotaExceeded")).await;
        start.elapsed().as_secs_f64()
    };
    let (explained, meanwhile) = futures::future::join(explained, probe(&run.client)).await;
    println!("{} have their new reason after {explained:.0} s; a session that fits takes {meanwhile} s meanwhile", all.len());
    json!({"explained_s": explained, "probe_s": meanwhile})
}

fn waits_for(session: &Session, reason: &str) -> bool {
    session.status.as_ref().is_some_and(|status| status.reason.map(|reason| reason.as_str()) == Some(reason))
}

/// Starts sessions one after another. Returns the median and the longest time in seconds from creation to Running, and prints
/// the status of the slowest session if it took much longer than the median.
async fn probe(client: &Client) -> Value {
    let run = Run::new(client, "probe", "default").await;
    let mut took = vec![];
    for number in 0..probes() {
        took.push((run.create(&[session(&format!("p-{number}"), 0, ABSENT, SMALL, &json!({}))], session_runs).await, number));
    }
    took.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (median, (slowest, which)) = (took[took.len() / 2].0, took[took.len() - 1]);
    if slowest > 10.0 * median {
        let name = format!("p-{which}");
        let slow = run.api::<Session>().get(&name).await.unwrap();
        let pods = run.api::<Pod>().list(&ListParams::default().labels(&format!("{LABEL_SESSION}={name}"))).await.unwrap();
        println!("{name} took {slowest:.3} s: {}", json!({"created": slow.metadata.creation_timestamp, "status": slow.status}));
        println!("{}", json!(pods.items.iter().map(|pod| (&pod.metadata.creation_timestamp, &pod.status)).collect::<Vec<_>>()));
    }
    let rounded = |seconds: f64| (seconds * 1000.0).round() / 1000.0;
    json!([rounded(median), rounded(slowest)])
}
