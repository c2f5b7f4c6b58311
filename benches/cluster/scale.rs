//! Many of them: 10,000 sessions and 500 gangs of 20 on 1,000 nodes beside bare pods, then a queue of 10,000 that cannot fit.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use serde_json::{Value, json};
use sokovan::api::Session;

use crate::objects::{SMALL, Work, pod, session};
use crate::operator::{Operator, between};
use crate::run::{Run, pod_runs, session_runs};
use crate::setting;

/// As much as a simulated node has: it fits none on which anything runs.
const WHOLE_NODE: Work = Work { cpu: "32", memory: "1Gi", command: &[] };
/// How many sessions that fit are started one after another, to see whether the queue slows them.
const PROBES: usize = 20;

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
    let sessions: Vec<_> = (0..count).map(|number| session(&format!("s-{number}"), 0, SMALL, &json!({}))).collect();
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
    let all: Vec<_> = (0..gangs).map(|number| session(&format!("g-{number}"), 19, SMALL, &json!({}))).collect();
    let kernels_per_s = gangs as f64 * 20.0 / run.create(&all, session_runs).await;
    let gang_ratio = kernels_per_s / pods_per_s;
    let gang_writes = between(&before, &operator.settled().await, false) / gangs.max(1) as f64;
    println!("{gangs} gangs of 20: {kernels_per_s:.1} kernels/s, {gang_ratio:.2} of bare pods, {gang_writes:.1} writes each");

    let alone = probe(client).await;
    let queue = queue(&operator, &Run::new(client, "queue", "default").await, waiting).await;
    let beside = probe(client).await;
    println!("a session that fits: {alone:.2} s alone, {beside:.2} s beside {waiting} that do not");
    println!("operator: {:.0} MiB at most, {:.1} CPU s", operator.peak_mib(), operator.cpu_seconds());
    json!({
        "bench": "scale", "sessions": count, "sessions_per_s": sessions_per_s, "pods_per_s": pods_per_s, "ratio": ratio,
        "writes_per_session": writes, "gangs_of_20": gangs, "kernels_per_s": kernels_per_s, "gang_ratio": gang_ratio,
        "writes_per_gang": gang_writes, "queue": queue, "probe_alone_s": alone, "probe_beside_queue_s": beside,
        "operator_peak_mib": operator.peak_mib(), "operator_cpu_s": operator.cpu_seconds(),
    })
}

/// Sessions that no node has room for: the verdict each is given, and what they cost from then on.
async fn queue(operator: &Operator, run: &Run, count: usize) -> Value {
    let before = operator.writes();
    let all: Vec<_> = (0..count).map(|number| session(&format!("w-{number}"), 0, WHOLE_NODE, &json!({}))).collect();
    let told = |session: &Session| session.status.as_ref().is_some_and(|status| status.waiting.is_some());
    let seconds = run.create(&all, told).await;
    let after = operator.settled().await;
    let verdicts = between(&before, &after, false) / count.max(1) as f64;
    let (idle, cpu) = (setting("IDLE_SECONDS", 60), operator.cpu_seconds());
    tokio::time::sleep(Duration::from_secs(idle as u64)).await;
    let idle_cpu = operator.cpu_seconds() - cpu;
    let idle_writes = between(&after, &operator.writes(), false);
    println!(
        "{count} that cannot fit: told in {seconds:.0} s, {verdicts:.2} writes each, then {idle_writes} writes and {idle_cpu:.1} CPU s in {idle} s"
    );
    json!({"waiting": count, "told_s": seconds, "writes_each": verdicts, "idle_seconds": idle, "idle_writes": idle_writes, "idle_cpu_s": idle_cpu})
}

/// Seconds from apply to RUNNING of one session, the median of some, one after another.
async fn probe(client: &Client) -> f64 {
    let run = Run::new(client, "probe", "default").await;
    let mut seconds = vec![];
    for number in 0..PROBES {
        seconds.push(run.create(&[session(&format!("p-{number}"), 0, SMALL, &json!({}))], session_runs).await);
    }
    seconds.sort_by(f64::total_cmp);
    seconds[PROBES / 2]
}
