//! Sessions and gangs compared with bare pods and plain Jobs: rate, API server CPU, writes, latency alone, ends.

use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::latency::{self, alone};
use crate::operator::{ApiServer, Operator, between, each};
use crate::setting;
use crate::shapes::{ALL, MAIN, Shape, row};

/// Measures each shape with about so many pods.
pub async fn bench(client: &Client, counts: Vec<usize>) -> Value {
    let mut rows = vec![];
    for pods in counts {
        for shape in ALL {
            rows.push(measure(client, shape, (pods / shape.pods()).max(1)).await);
        }
    }
    let alone = alone(client, &MAIN).await;
    without_policies(client).await;
    let mut bare = measure(client, Shape::Pod, setting("FOREIGN", 1000)).await;
    bare["shape"] = json!("bare pods, without the chart's policies");
    rows.push(bare);
    print(&rows, &alone);
    json!({"bench": "sessions", "rows": rows, "alone_ms": alone})
}

pub async fn measure(client: &Client, shape: Shape, count: usize) -> Value {
    let n = count as f64;
    let server = ApiServer::find();
    let operator = if shape.is_session() { Some(Operator::start().await) } else { None };
    let run = shape.run(client, "shapes").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (began, cpu) = (operator.as_ref().map(Operator::writes), server.cpu_seconds());
    let own_cpu = operator.as_ref().map(Operator::cpu_seconds);
    let seconds = shape.start(&run, "s", count).await;
    let until_running = server.cpu_seconds() - cpu;
    let written = match &operator {
        Some(operator) => Some(operator.quiet().await),
        None => {
            tokio::time::sleep(Duration::from_secs(3)).await;
            None
        }
    };
    let in_all = server.cpu_seconds() - cpu;
    let mut figures = json!({
        "api_server_ms_until_running": until_running * 1000.0 / n, "api_server_ms": in_all * 1000.0 / n,
    });
    if let (Some(operator), Some(before), Some(after), Some(own_cpu)) = (&operator, &began, &written, own_cpu) {
        figures["operator_ms"] = json!((operator.cpu_seconds() - own_cpu) * 1000.0 / n);
        figures["operator_peak_mib"] = json!(operator.peak_mib());
        figures["writes"] = json!(between(before, after, false) / n);
        figures["events"] = json!(between(before, after, true) / n);
        figures["writes_by_kind"] = json!(each(before, after, n));
        let idle = setting("IDLE_SECONDS", 10);
        tokio::time::sleep(Duration::from_secs(idle as u64)).await;
        let later = operator.writes();
        figures["idle_writes"] = json!(between(after, &later, false) + between(after, &later, true));
    }
    let cpu = server.cpu_seconds();
    let ended = shape.end(&run).await;
    figures["ends_per_s"] = json!(n / ended);
    figures["api_server_ms_per_end"] = json!((server.cpu_seconds() - cpu) * 1000.0 / n);
    if let (Some(operator), Some(before)) = (&operator, &written) {
        figures["writes_per_end"] = json!(each(before, &operator.quiet().await, n));
    }
    let row = row(shape, count, seconds, figures);
    eprintln!("{row}");
    row
}

/// Removes the bindings of the chart's policies, so that they are not evaluated any more.
async fn without_policies(client: &Client) {
    let bindings = Api::<ValidatingAdmissionPolicyBinding>::all(client.clone());
    let ours = ListParams::default().labels("app.kubernetes.io/name=sokovan");
    bindings.delete_collection(&DeleteParams::default(), &ours).await.unwrap();
    while !bindings.list(&ours).await.unwrap().items.is_empty() {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

pub fn print(rows: &[Value], alone: &Value) {
    println!(
        "| shape | objects | pods/s | objects/s | API server ms, until running | in all | writes | events | operator ms | ends/s | API server ms per end |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    for row in rows {
        let number = |key: &str| row[key].as_f64().map_or_else(String::new, |value| format!("{value:.1}"));
        let numbers = ["pods_per_s", "objects_per_s", "api_server_ms_until_running", "api_server_ms", "writes", "events"];
        let ends = ["operator_ms", "ends_per_s", "api_server_ms_per_end"];
        let cells: Vec<String> = numbers.into_iter().chain(ends).map(number).collect();
        println!("| {} | {} | {} |", row["shape"].as_str().unwrap(), row["objects"], cells.join(" | "));
    }
    latency::print(alone);
}
