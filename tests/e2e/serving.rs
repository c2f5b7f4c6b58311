//! Deployments on a real node: requests through the Service of a deployment while its replicas come, go and hang.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment as AppsDeployment;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{EvictParams, Patch, PatchParams};
use serde_json::json;

use crate::common::{client, eventually};
use crate::leadership::{NAMESPACE, both_ready};
use crate::machine::{operators, signal_operators};
use crate::served::{PATIENT, PROXY, SHORT, Served, now};

/// How long the requests go on without an operator, in seconds.
const NO_OPERATOR: f64 = 60.0;

#[tokio::test]
async fn the_first_request_is_answered_soon_after_a_deployment_is_applied() {
    let applied = now();
    let served = Served::create(1, SHORT, &["/server"]).await;
    let report = served.load(&["--streams", "0"]).await.finish().await;
    println!("from apply to the first answer: {:.1} s", report.first - applied);
    served.remove().await;
}

#[tokio::test]
async fn a_rolling_update_loses_no_request() {
    let served = Served::create(2, PATIENT, &["/server"]).await;
    served.until_settled().await;
    let before = served.names().await;
    let load = served.load(&["--streams", "3"]).await;
    served.change(json!({"model": {"startCommand": ["/server", "--start-after", "2s"]}})).await;
    served.until_settled().await;
    let after = served.names().await;
    let report = load.finish().await;
    report.print("rolling update");
    assert!(after.iter().all(|name| !before.contains(name)), "every replica was replaced");
    assert!(before.iter().chain(&after).all(|name| report.hosts.contains_key(name)), "old and new replicas answered");
    assert!(report.answered["stream"] > 0 && report.answered["fresh"] > 0 && report.answered["kept"] > 0);
    assert!(report.lost.is_empty(), "{} requests were lost", report.lost.len());
    served.remove().await;
}

#[tokio::test]
async fn a_scale_in_loses_no_request() {
    let served = Served::create(4, PATIENT, &["/server"]).await;
    served.until_settled().await;
    let load = served.load(&["--streams", "3"]).await;
    served.change(json!({"replicas": 1})).await;
    served.until_settled().await;
    let report = load.finish().await;
    report.print("scale-in from 4 to 1");
    assert!(report.answered["stream"] > 0 && report.answered["fresh"] > 0 && report.answered["kept"] > 0);
    assert!(report.lost.is_empty(), "{} requests were lost", report.lost.len());
    served.remove().await;
}

#[tokio::test]
async fn the_evictions_of_a_node_drain_lose_no_request() {
    let served = Served::create(2, SHORT, &["/server"]).await;
    served.until_settled().await;
    let before = served.names().await;
    let load = served.load(&["--streams", "0"]).await;
    // `kubectl drain` does this for each pod of a node: it repeats what the budget refuses.
    let pods = served.space.api::<Pod>();
    for replica in &before {
        let pod = served.pod_of(replica).await;
        eventually("the budget to allow the eviction", || async {
            pods.evict(&pod, &EvictParams::default()).await.map_err(|error| error.to_string())
        })
        .await;
    }
    eventually("both replicas to be replaced", || async {
        let names = served.names().await;
        if names.iter().any(|name| before.contains(name)) { Err(format!("{names:?}")) } else { Ok(()) }
    })
    .await;
    served.until_settled().await;
    let report = load.finish().await;
    report.print("evictions of a node drain");
    assert!(report.lost.is_empty(), "{} requests were lost", report.lost.len());
    served.remove().await;
}

#[tokio::test]
async fn a_hung_replica_leaves_the_traffic_and_is_replaced() {
    let served = Served::create(2, SHORT, &["/server"]).await;
    served.until_settled().await;
    let load = served.load(&["--streams", "0"]).await;
    let before = served.names().await;
    let hung = before[0].clone();
    let pod = served.pod_of(&hung).await;
    let began = now();
    served.post(&pod, "/hang").await;
    served.until_endpoint(&pod, false).await;
    let left = now();
    let successor = eventually("the replica to be replaced", || async {
        let names = served.names().await;
        let successor = names.iter().find(|name| !before.contains(name)).filter(|_| !names.contains(&hung));
        successor.cloned().ok_or_else(|| format!("{names:?}"))
    })
    .await;
    load.until_answered_by(&successor).await;
    let replaced = now();
    served.until_settled().await;
    let report = load.finish().await;
    report.print("hung replica");
    println!("out of the traffic after {:.1} s, its successor answered after {:.1} s", left - began, replaced - began);
    assert!(report.lost_after(left + PROXY).is_empty(), "lost after the replica left: {:?}", report.lost_after(left + PROXY));
    served.remove().await;
}

#[tokio::test]
async fn replicas_join_and_leave_the_traffic_while_no_operator_runs() {
    both_ready().await;
    let served = Served::create(2, SHORT, &["/server", "--start-after", "30s"]).await;
    served.until_settled().await;
    let before = served.names().await;
    let load = served.load(&["--streams", "0"]).await;
    served.change(json!({"replicas": 3})).await;
    let started = eventually("a third replica", || async {
        served.names().await.into_iter().find(|name| !before.contains(name)).ok_or_else(|| "none yet".to_owned())
    })
    .await;
    let started_pod = served.pod_of(&started).await;
    eventually("its server to be started", || async {
        let pod = served.space.api::<Pod>().get(&started_pod).await.map_err(|error| error.to_string())?;
        let phase = pod.status.and_then(|status| status.phase).unwrap_or_default();
        if phase == "Running" { Ok(()) } else { Err(phase) }
    })
    .await;

    scale_operators(0).await;
    eventually("no operator to run", || async {
        // The kubelet may start one again before it sees the change.
        signal_operators("KILL");
        let left = operators();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    assert!(!served.endpoints().await.contains(&started_pod), "the started replica does not listen yet");
    let killed = now();
    let hung_pod = served.pod_of(&before[0]).await;
    let began = now();
    served.post(&hung_pod, "/hang").await;
    served.until_endpoint(&hung_pod, false).await;
    let left = now();
    served.until_endpoint(&started_pod, true).await;
    let joined = now();
    load.until_answered_by(&started).await;
    let rest = NO_OPERATOR - (now() - killed);
    tokio::time::sleep(Duration::from_secs_f64(rest.max(0.0))).await; // the scenario itself: nothing else ends it
    assert!(operators().is_empty(), "no operator ran meanwhile");
    let report = load.finish().await;
    report.print("no operator");
    println!("out of the traffic after {:.1} s, the started one in it after {:.1} s", left - began, joined - began);
    assert!(report.lost_after(left + PROXY).is_empty(), "lost after the replica left: {:?}", report.lost_after(left + PROXY));

    scale_operators(2).await;
    both_ready().await;
    served.until_settled().await;
    assert!(!served.names().await.contains(&before[0]), "the hung replica was replaced afterwards");
    served.remove().await;
}

async fn scale_operators(replicas: i32) {
    let deployments: Api<AppsDeployment> = Api::namespaced(client().await, NAMESPACE);
    let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
    deployments.patch_scale("sokovan-operator", &PatchParams::default(), &patch).await.expect("the operator can be scaled");
}
