//! An upgrade from the version before, and a rollback to it, with sessions running and a deployment under load.

use std::collections::BTreeMap;
use std::process::Command;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::json;
use sokovan::api::*;

use crate::common::{Space, eventually, unique};
use crate::leadership::{both_ready, images};
use crate::machine::output_of;
use crate::served::{SHORT, Served};
use crate::{FOREVER, kernel, session, sessions};

/// Runs helm on the release of the kit, and returns its output.
fn helm(arguments: &[&str]) -> String {
    let program = format!("{}/helm", output_of(&["bin"]));
    let config = std::env::var("SOKOVAN_TEST_KUBECONFIG").expect("SOKOVAN_TEST_KUBECONFIG");
    let mut command = Command::new(program);
    command.args(arguments).args(["--kubeconfig", &config, "--namespace", "sokovan-system", "--wait", "--timeout", "5m"]);
    let output = command.output().expect("helm can be run");
    assert!(output.status.success(), "helm {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// The containers of all pods in the namespace: their pod's uid, and how often they were started again.
async fn started(space: &Space) -> BTreeMap<String, (String, i32)> {
    let pods = space.api::<Pod>().list(&ListParams::default()).await.expect("pods can be listed").items;
    let containers = pods.into_iter().flat_map(|pod| {
        let (name, uid) = (pod.name_any(), pod.uid().unwrap_or_default());
        let states = pod.status.and_then(|status| status.container_statuses).unwrap_or_default();
        states.into_iter().map(move |state| (format!("{name}/{}", state.name), (uid.clone(), state.restart_count)))
    });
    containers.collect()
}

async fn statuses(space: &Space, names: &[&String]) -> Vec<SessionStatus> {
    let mut statuses = vec![];
    for name in names {
        statuses.push(space.status(name).await);
    }
    statuses
}

/// A session of this version starts, and ends when it is deleted.
async fn works(space: &Space, prefix: &str) {
    let name = unique(prefix);
    space.create(session(&name, FOREVER, json!({}))).await.expect("the session is accepted");
    space.until_phase(&name, SessionPhase::Running).await;
    space.delete(&name).await;
    space.until_gone::<Session>(&name).await;
}

/// Waits until both replicas run this image and one of them works.
async fn until_replaced(image: &str) {
    both_ready().await;
    eventually("both replicas to run the other version", || async {
        let images = images().await;
        if images.iter().all(|other| other.ends_with(image)) { Ok(()) } else { Err(format!("{images:?}")) }
    })
    .await;
}

#[tokio::test]
#[ignore = "the version before takes minutes to build: run make upgrade"]
async fn an_upgrade_and_a_rollback_restart_nothing_and_lose_nothing() {
    let variable = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name}"));
    let (old, new, chart) = (variable("SOKOVAN_OLD_TAG"), variable("SOKOVAN_NEW_TAG"), variable("SOKOVAN_NEW_CHART"));
    assert_ne!(old, new);
    until_replaced(&old).await;
    let space = sessions().await;
    let [lab, gang, large] = ["lab", "gang", "large"].map(unique);
    let too_large =
        json!([{"role": "main", "image": "busybox:1", "command": ["true"], "resources": {"cpu": "64", "memory": "16Mi"}}]);
    let kernels = json!([kernel("main", 1, FOREVER), kernel("sub", 2, FOREVER)]);
    space.create(session(&lab, FOREVER, json!({}))).await.unwrap();
    space.create(session(&gang, FOREVER, json!({"clusterMode": "MultiNode", "kernels": kernels}))).await.unwrap();
    space.create(session(&large, FOREVER, json!({"kernels": too_large}))).await.unwrap();
    let served = Served::create(2, SHORT, &["/server"]).await;
    served.until_settled().await;
    for name in [&lab, &gang] {
        space.until_phase(name, SessionPhase::Running).await;
    }
    let names = [&lab, &gang];
    let (containers, before) = (started(&space).await, statuses(&space, &names).await);
    let load = served.load(&["--streams", "0"]).await;

    println!("{}", helm(&["upgrade", "sokovan", &chart, "--set", &format!("image.tag={new}")]));
    until_replaced(&new).await;
    assert_eq!(started(&space).await, containers, "the upgrade restarts nothing");
    assert_eq!(statuses(&space, &names).await, before, "the newer version reads what the older wrote, and has nothing to add");
    works(&space, "newer").await;
    let born = unique("born");
    space.create(session(&born, FOREVER, json!({}))).await.unwrap();
    space.until_phase(&born, SessionPhase::Running).await;
    let (containers, names) = (started(&space).await, [&lab, &gang, &born]);
    let before = statuses(&space, &names).await;

    println!("{}", helm(&["rollback", "sokovan"]));
    until_replaced(&old).await;
    assert_eq!(started(&space).await, containers, "the rollback restarts nothing");
    assert_eq!(statuses(&space, &names).await, before, "the older version reads what the newer wrote");
    works(&space, "older").await;

    let report = load.finish().await;
    report.print("upgrade");
    assert!(report.lost_after(0.0).is_empty(), "the deployment served throughout");
    assert_eq!(space.get(&large).await.phase(), SessionPhase::Pending, "the waiting session still waits");
    for name in [&lab, &gang, &large, &born] {
        space.delete(name).await;
        space.until_gone::<Session>(name).await;
    }
    served.remove().await;
}
