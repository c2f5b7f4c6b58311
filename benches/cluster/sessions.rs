//! Sessions from creation to Running, compared with bare pods, and the writes of sessions and gangs of three.

use std::time::Duration;

use kube::Client;
use serde_json::{Value, json};

use crate::objects::{SMALL, pod, session};
use crate::operator::{Operator, between};
use crate::run::{Run, pod_runs, session_runs};
use crate::setting;

pub async fn bench(client: &Client, counts: Vec<usize>) -> Value {
    let mut rows = vec![];
    for count in counts {
        rows.push(measure(client, count).await);
    }
    let gangs = gangs(client, 50).await;
    print(&rows, &gangs);
    json!({"bench": "sessions", "rows": rows, "gangs": gangs})
}

async fn measure(client: &Client, count: usize) -> Value {
    let n = count as f64;
    let run = Run::new(client, "pods", "default").await;
    let pods: Vec<_> = (0..count).map(|number| pod(&format!("bare-{number}"), SMALL)).collect();
    let pod_seconds = run.create(&pods, pod_runs).await;
    let pods_gone = run.delete_all::<k8s_openapi::api::core::v1::Pod>().await;

    let operator = Operator::start().await;
    let (before, cpu) = (operator.writes(), operator.cpu_seconds());
    let run = Run::new(client, "sessions", "default").await;
    let sessions: Vec<_> = (0..count).map(|number| session(&format!("s-{number}"), 0, SMALL, &json!({}))).collect();
    let session_seconds = run.create(&sessions, session_runs).await;
    let cpu = operator.cpu_seconds() - cpu;
    let after = operator.quiet().await;
    let idle = setting("IDLE_SECONDS", 60);
    tokio::time::sleep(Duration::from_secs(idle as u64)).await;
    let later = operator.writes();
    let peak = operator.peak_mib();
    let sessions_gone = run.delete_all::<sokovan::api::Session>().await;
    json!({
        "sessions": count, "sessions_per_s": n / session_seconds, "pods_per_s": n / pod_seconds,
        "ratio": pod_seconds / session_seconds, "writes_per_session": between(&before, &after, false) / n,
        "events_per_session": between(&before, &after, true) / n, "operator_cpu_s": cpu, "operator_peak_mib": peak,
        "idle_seconds": idle, "idle_writes": between(&after, &later, false) + between(&after, &later, true),
        "sessions_gone_per_s": n / sessions_gone, "pods_gone_per_s": n / pods_gone,
    })
}

/// Measures the writes of gangs of three.
async fn gangs(client: &Client, count: usize) -> Value {
    let operator = Operator::start().await;
    let before = operator.writes();
    let run = Run::new(client, "gangs", "default").await;
    let gangs: Vec<_> = (0..count).map(|number| session(&format!("g-{number}"), 2, SMALL, &json!({}))).collect();
    let seconds = run.create(&gangs, session_runs).await;
    let writes = between(&before, &operator.quiet().await, false) / count as f64;
    run.delete_all::<sokovan::api::Session>().await;
    json!({"gangs_of_3": count, "gangs_per_s": count as f64 / seconds, "writes_per_gang": writes})
}

fn print(rows: &[Value], gangs: &Value) {
    println!(
        "| N | sessions/s | bare pods/s | ratio | writes/session | events/session | operator CPU s | peak MiB | writes while idle | gone/s, sessions | pods |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    for row in rows {
        let number = |key: &str| row[key].as_f64().unwrap();
        println!(
            "| {} | {:.1} | {:.1} | {:.2} | {:.2} | {:.2} | {:.1} | {:.0} | {} | {:.1} | {:.1} |",
            row["sessions"],
            number("sessions_per_s"),
            number("pods_per_s"),
            number("ratio"),
            number("writes_per_session"),
            number("events_per_session"),
            number("operator_cpu_s"),
            number("operator_peak_mib"),
            number("idle_writes"),
            number("sessions_gone_per_s"),
            number("pods_gone_per_s"),
        );
    }
    println!("\ngangs of 3: {:.2} writes each (6 + 4 per kernel = 18)", gangs["writes_per_gang"].as_f64().unwrap());
}
