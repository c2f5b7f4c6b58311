//! Replicas that fail or seem to: lost nodes, kernels that die, unhealthy replicas in numbers, and the brakes.

use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use sokovan::api::*;

use crate::common::eventually;
use crate::scene::{LONG_AGO, Scene, kernel, node_of};
use crate::served::{deploy, live_routes, set_health, until, until_ready};

async fn names(scene: &Scene) -> Vec<String> {
    let mut names: Vec<String> = live_routes(scene, "web").await.iter().map(ResourceExt::name_any).collect();
    names.sort();
    names
}

async fn until_phases(scene: &Scene, phase: RoutePhase, names: &[String]) {
    eventually(&format!("{names:?} to be {phase}"), || async {
        for name in names {
            let route = scene.api::<Route>().get(name).await.map_err(|error| error.to_string())?;
            if route.phase() != phase {
                return Err(format!("{name} is {}", route.phase()));
            }
        }
        Ok(())
    })
    .await;
}

async fn until_replaced(scene: &Scene, name: &str) {
    eventually("the replica to be replaced", || async {
        let live = names(scene).await;
        if live.iter().any(|other| other == name) { Err(format!("{live:?}")) } else { Ok(()) }
    })
    .await;
    until_ready(scene, "web").await;
}

#[tokio::test]
async fn a_replica_on_a_lost_node_is_replaced_on_another() {
    let scene = Scene::with("lostnode", 4, json!({})).await;
    let operator = scene.operator().await;
    deploy(&scene, "web", json!({"replicas": 3, "spread": "Required"})).await;
    until_ready(&scene, "web").await;
    let lost = names(&scene).await.remove(0);
    let node = node_of(&scene.get(&lost).await.status.expect("a status"), "main1");
    scene.lose_node(&node, LONG_AGO).await;
    until_replaced(&scene, &lost).await;
    for name in names(&scene).await {
        assert_ne!(node_of(&scene.get(&name).await.status.expect("a status"), "main1"), node);
    }
    scene.end(operator).await;
}

#[tokio::test]
async fn a_replica_of_several_kernels_is_replaced_as_a_whole_when_one_dies() {
    let scene = Scene::with("manykernels", 4, json!({})).await;
    let operator = scene.operator().await;
    let kernels = [kernel("main", 1, &[]), kernel("sub", 1, &["sim", "alone"])];
    let template = json!({"clusterMode": "MultiNode", "kernels": kernels});
    deploy(&scene, "web", json!({"replicas": 2, "template": template})).await;
    until_ready(&scene, "web").await;
    let [dying, other] = <[String; 2]>::try_from(names(&scene).await).expect("two replicas");
    let pods = scene.pods(&dying).await;
    let sub = pods.iter().find(|pod| pod.labels()[LABEL_KERNEL] == "sub1").expect("a pod of the sub kernel");
    scene.kill_pod(sub).await;
    until_replaced(&scene, &dying).await;
    assert!(names(&scene).await.contains(&other), "only the replica whose kernel died is replaced");
    scene.end(operator).await;
}

#[tokio::test]
async fn replicas_that_are_unhealthy_for_a_moment_are_not_evicted() {
    let scene = Scene::with("blip", 4, json!({})).await;
    let operator = scene.operator().await;
    deploy(&scene, "web", json!({"replicas": 3, "eviction": {"afterSeconds": 3600}})).await;
    until_ready(&scene, "web").await;
    let before = names(&scene).await;
    for name in &before {
        set_health(&scene, name, false).await;
    }
    until_phases(&scene, RoutePhase::Unhealthy, &before).await;
    until(&scene, "web", "unavailable", |deployment| deployment.status.as_ref().is_some_and(|status| status.available == 0))
        .await;
    for name in &before {
        set_health(&scene, name, true).await;
    }
    let ready = until_ready(&scene, "web").await;
    assert_eq!((names(&scene).await, ready.replicas_made), (before, 3));
    scene.end(operator).await;
}

#[tokio::test]
async fn only_a_quarter_of_the_replicas_is_evicted_at_a_time() {
    let scene = Scene::with("brake", 4, json!({})).await;
    let operator = scene.operator().await;
    // The drain holds the evicted one, and with it the place under the brake.
    let spec = json!({"replicas": 4, "eviction": {"afterSeconds": 60}, "drain": {"delaySeconds": 1800}});
    deploy(&scene, "web", spec).await;
    until_ready(&scene, "web").await;
    let before = names(&scene).await;
    for name in &before {
        set_health(&scene, name, false).await;
    }
    let held = eventually("the others to be held by the brake", || async {
        let routes = live_routes(&scene, "web").await;
        let old = routes.iter().filter(|route| before.contains(&route.name_any()));
        let held: Vec<String> = old
            .filter_map(|route| route.status.as_ref().filter(|status| status.reason == Some(Reason::EvictionHeld)))
            .map(|status| status.message.clone().unwrap_or_default())
            .collect();
        if held.len() == 3 { Ok(held) } else { Err(format!("{held:?}")) }
    })
    .await;
    assert!(held.iter().all(|message| message.contains("under way: 1, and at most 1 may be (25 % of 4 replicas)")), "{held:?}");
    scene.end(operator).await;
}

#[tokio::test]
async fn while_most_nodes_are_not_ready_nothing_is_evicted() {
    // The first node must not count as lost before the third is silent too.
    let scene = Scene::with("outage", 4, json!({"lostAfterSeconds": 3600})).await;
    let operator = scene.operator().await;
    deploy(&scene, "web", json!({"replicas": 4, "spread": "Required", "eviction": {"afterSeconds": 30}})).await;
    until_ready(&scene, "web").await;
    let before = names(&scene).await;
    let mut lost = vec![];
    for name in &before[..3] {
        let node = node_of(&scene.get(name).await.status.expect("a status"), "main1");
        scene.lose_node(&node, &chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true)).await;
        lost.push(node);
    }
    for name in &before[..3] {
        set_health(&scene, name, false).await;
    }
    eventually("the brake to hold the evictions", || async {
        let routes = live_routes(&scene, "web").await;
        let states: Vec<_> = routes
            .iter()
            .filter_map(|route| route.status.as_ref())
            .map(|status| (status.phase, status.health, status.reason, status.message.clone()))
            .collect();
        let held = states.iter().filter(|(.., reason, _)| *reason == Some(Reason::EvictionHeld)).count();
        if held == 3 { Ok(()) } else { Err(format!("{states:?}")) }
    })
    .await;
    assert_eq!(names(&scene).await, before);
    for name in &before {
        set_health(&scene, name, true).await;
    }
    for node in lost {
        scene.bring_back_node(&node).await;
    }
    until_ready(&scene, "web").await;
    scene.end(operator).await;
}

#[tokio::test]
async fn applying_a_manifest_without_replicas_keeps_what_an_autoscaler_set() {
    let scene = Scene::with("hpa", 4, json!({})).await;
    let operator = scene.operator().await;
    let deployment = deploy(&scene, "web", json!({"replicas": 1})).await;
    until_ready(&scene, "web").await;
    let scaled = Patch::Merge(json!({"spec": {"replicas": 8}}));
    let autoscaler = PatchParams { field_manager: Some("autoscaler".into()), ..Default::default() };
    scene.api::<Deployment>().patch_scale("web", &autoscaler, &scaled).await.expect("the scale can be changed");
    until_ready(&scene, "web").await;
    let mut manifest = json!({
        "apiVersion": "sokovan.dev/v1alpha1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": deployment.spec,
    });
    manifest["spec"].as_object_mut().expect("an object").remove("replicas");
    manifest["spec"]["minReadySeconds"] = Value::from(1);
    let apply = PatchParams::apply("author").force();
    scene.api::<Deployment>().patch("web", &apply, &Patch::Apply(&manifest)).await.expect("the manifest can be applied");
    let status = until_ready(&scene, "web").await;
    assert_eq!((status.available, live_routes(&scene, "web").await.len()), (8, 8));
    scene.end(operator).await;
}
