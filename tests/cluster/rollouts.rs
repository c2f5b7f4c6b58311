//! Rolling updates that meet trouble: no room, replicas that never start or soon crash, changes on the way, no leader.

use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use sokovan::api::*;

use crate::common::eventually;
use crate::scene::{Scene, kernel, unhurried};
use crate::served::{change, deploy, image, is_ready, live_routes, until, until_ready};

/// A template whose replicas do what the simulated kubelet is told.
fn command(command: &[&str]) -> Value {
    json!({"template": {"kernels": [kernel("main", 1, command)]}})
}

/// A template whose replicas fill a node of the scene.
fn whole_node(tag: &str) -> Value {
    let mut main = kernel("main", 1, &[]);
    main["image"] = json!(format!("busybox:{tag}"));
    main["resources"]["cpu"] = json!(4);
    json!({"template": {"kernels": [main]}})
}

fn status(deployment: &Deployment) -> DeploymentStatus {
    deployment.status.clone().unwrap_or_default()
}

fn message(status: &DeploymentStatus) -> &str {
    status.message.as_deref().unwrap_or_default()
}

async fn until_current(scene: &Scene, revision: i64) -> DeploymentStatus {
    until(scene, "web", &format!("of revision {revision}"), |deployment| {
        is_ready(deployment) && status(deployment).current_revision == Some(revision)
    })
    .await
}

#[tokio::test]
async fn without_room_the_old_replica_serves_until_the_rollback_and_can_be_replaced_in_place() {
    let scene = Scene::with("rollfull", 1, json!({})).await;
    let operator = scene.operator().await;
    let mut spec = whole_node("1");
    spec["progressDeadlineSeconds"] = json!(360);
    deploy(&scene, "web", spec).await;
    until_ready(&scene, "web").await;
    let old = live_routes(&scene, "web").await.remove(0).name_any();
    change(&scene, "web", whole_node("2")).await;
    let stuck = until(&scene, "web", "without room for its surge", |deployment| {
        assert_eq!(status(deployment).available, 1, "the old replica serves throughout");
        status(deployment).reason == Some(Reason::SurgeHasNoCapacity)
    })
    .await;
    assert!(message(&stuck).contains("no room for 1 more") && message(&stuck).contains("ReplaceInPlace"), "{}", message(&stuck));
    let back = until(&scene, "web", "rolled back", |deployment| {
        assert_eq!(status(deployment).available, 1, "the old replica serves throughout");
        is_ready(deployment) && status(deployment).failed_revision == Some(2)
    })
    .await;
    assert_eq!((back.reason, back.current_revision), (Some(Reason::RolledBack), Some(1)));
    assert_eq!(live_routes(&scene, "web").await.remove(0).name_any(), old);
    let mut spec = whole_node("3");
    spec["strategy"] = json!({"rolling": {"whenNoCapacity": "ReplaceInPlace"}});
    change(&scene, "web", spec).await;
    until_current(&scene, 3).await;
    scene.end(operator).await;
}

#[tokio::test]
async fn replicas_are_replaced_in_place_one_at_a_time() {
    let scene = Scene::with("rollplace", 2, json!({})).await;
    let operator = scene.operator().await;
    let mut spec = whole_node("1");
    (spec["replicas"], spec["drain"]) = (json!(2), json!({"delaySeconds": 120}));
    spec["strategy"] = json!({"rolling": {"maxSurge": 1, "whenNoCapacity": "ReplaceInPlace"}});
    deploy(&scene, "web", spec).await;
    until_ready(&scene, "web").await;
    change(&scene, "web", whole_node("2")).await;
    until(&scene, "web", "of revision 2", |deployment| {
        assert!(status(deployment).available >= 1, "one replica at a time is replaced");
        is_ready(deployment) && status(deployment).current_revision == Some(2)
    })
    .await;
    scene.end(operator).await;
}

#[tokio::test]
async fn old_replicas_that_can_never_start_make_room_without_waiting_for_a_deadline() {
    let scene = Scene::with("rolldead", 2, unhurried()).await;
    let operator = scene.operator().await;
    let mut spec = command(&["sim", "no-image"]);
    spec["replicas"] = json!(2);
    deploy(&scene, "web", spec).await;
    until(&scene, "web", "starting", |deployment| status(deployment).replicas == 2).await;
    change(&scene, "web", image("2")).await;
    let ready = until_current(&scene, 2).await;
    assert_eq!((ready.failed_revision, ready.failures.count), (None, 0));
    scene.end(operator).await;
}

#[tokio::test]
async fn replicas_that_serve_for_a_moment_and_crash_do_not_extend_the_deadline() {
    let scene = Scene::with("rollcrash", 4, json!({})).await;
    let operator = scene.operator().await;
    deploy(&scene, "web", json!({"replicas": 2, "progressDeadlineSeconds": 420})).await;
    until_ready(&scene, "web").await;
    let mut crashing = command(&["sim", "fail", "600ms"]);
    // They must serve for longer than they live: otherwise two that serve at once are a finished rollout.
    crashing["minReadySeconds"] = json!(120);
    change(&scene, "web", crashing).await;
    let back = until(&scene, "web", "rolled back", |deployment| {
        let status = status(deployment);
        assert_ne!(status.current_revision, Some(2), "a revision that crashes does not become the current one");
        is_ready(deployment) && status.failed_revision == Some(2)
    })
    .await;
    let made = back.replicas_made;
    assert_eq!((back.current_revision, back.reason), (Some(1), Some(Reason::RolledBack)));
    // Another change of the deployment does not make it try the failed revision again.
    change(&scene, "web", json!({"replicas": 3})).await;
    let scaled = until_ready(&scene, "web").await;
    assert_eq!((scaled.current_revision, scaled.replicas_made), (Some(1), made + 1));
    scene.end(operator).await;
}

#[tokio::test]
async fn a_changed_template_is_not_ready_before_its_replicas_serve_and_a_third_revision_takes_over() {
    let scene = Scene::with("rollthird", 4, unhurried()).await;
    let operator = scene.operator().await;
    deploy(&scene, "web", json!({"replicas": 3, "strategy": {"rolling": {"maxSurge": 1}}})).await;
    until_ready(&scene, "web").await;
    change(&scene, "web", command(&["sim", "never"])).await;
    let rolling = until(&scene, "web", "rolling to revision 2", |deployment| {
        status(deployment).deploying_revision == Some(2) && status(deployment).replicas_made == 4
    })
    .await;
    assert_eq!((rolling.phase, rolling.available, rolling.current_revision), (DeploymentPhase::Deploying, 3, Some(1)));
    change(&scene, "web", image("3")).await;
    until_current(&scene, 3).await;
    assert!(live_routes(&scene, "web").await.iter().all(|route| route.spec.revision == 3));
    scene.end(operator).await;
}

#[tokio::test]
async fn a_reverted_rollout_keeps_the_replicas_that_it_had_not_replaced() {
    let scene = Scene::with("rollback", 4, unhurried()).await;
    let operator = scene.operator().await;
    deploy(&scene, "web", json!({"replicas": 3, "strategy": {"rolling": {"maxSurge": 1}}})).await;
    until_ready(&scene, "web").await;
    let names = || async {
        let mut names: Vec<String> = live_routes(&scene, "web").await.iter().map(ResourceExt::name_any).collect();
        names.sort();
        names
    };
    let before = names().await;
    change(&scene, "web", command(&["sim", "never"])).await;
    until(&scene, "web", "rolling", |deployment| status(deployment).deploying_revision == Some(2)).await;
    change(&scene, "web", json!({"template": {"kernels": [kernel("main", 1, &[])]}})).await;
    until_current(&scene, 1).await;
    assert_eq!(names().await, before);
    scene.end(operator).await;
}

#[tokio::test]
async fn a_paused_rollout_makes_and_ends_nothing_until_it_is_resumed() {
    let scene = Scene::with("rollpause", 4, json!({})).await;
    let operator = scene.operator().await;
    deploy(&scene, "web", json!({"replicas": 2, "paused": true})).await;
    until_ready(&scene, "web").await;
    change(&scene, "web", image("2")).await;
    let paused = until(&scene, "web", "paused", |deployment| {
        status(deployment).rollout.is_some_and(|rollout| rollout.step == RolloutStep::Paused)
    })
    .await;
    assert_eq!((paused.phase, paused.replicas_made, paused.available), (DeploymentPhase::Deploying, 2, 2));
    let scaled = Patch::Merge(json!({"spec": {"replicas": 3}}));
    scene.api::<Deployment>().patch_scale("web", &PatchParams::default(), &scaled).await.expect("kubectl scale");
    let grown = until(&scene, "web", "scaled out", |deployment| status(deployment).available == 3).await;
    assert_eq!((grown.current_revision, grown.failed_revision), (Some(1), None));
    assert!(live_routes(&scene, "web").await.iter().all(|route| route.spec.revision == 1), "a pause holds the new revision");
    change(&scene, "web", json!({"paused": false})).await;
    until_current(&scene, 2).await;
    scene.end(operator).await;
}

#[tokio::test]
async fn the_clock_of_a_server_starts_with_its_container_and_not_with_the_pull_of_its_image() {
    let scene = Scene::with("rollpull", 2, unhurried()).await;
    let operator = scene.operator().await;
    let mut spec = command(&["sim", "no-image"]);
    spec["model"] = json!({"healthCheck": {"type": "TCP", "startTimeoutSeconds": 60}});
    deploy(&scene, "web", spec).await;
    let name = eventually("a replica", || async {
        live_routes(&scene, "web").await.first().map(ResourceExt::name_any).ok_or_else(|| "none yet".to_owned())
    })
    .await;
    scene.until_phase(&name, SessionPhase::Pulling).await;
    // Another session takes longer than the start timeout, which is 1 s in this scene.
    scene.submit("other", json!({"type": "Batch", "kernels": [kernel("main", 1, &["sim", "run", "2s"])]})).await;
    scene.until_phase("other", SessionPhase::Terminated).await;
    let route = scene.api::<Route>().get(&name).await.expect("the replica is still there");
    assert_eq!(route.phase(), RoutePhase::Provisioning);
    let web = scene.api::<Deployment>().get("web").await.expect("the deployment");
    assert_eq!((status(&web).failures.count, status(&web).replicas_made), (0, 1));
    scene.end(operator).await;
}

#[tokio::test]
async fn a_rollout_goes_on_where_it_stood_when_its_leader_is_killed() {
    let scene = Scene::with("rollkill", 4, unhurried()).await;
    let operator = scene.operator_with(scene.hasty("first")).await;
    deploy(&scene, "web", json!({"replicas": 3, "strategy": {"rolling": {"maxSurge": 1}}})).await;
    until_ready(&scene, "web").await;
    change(&scene, "web", command(&["sim", "never"])).await;
    let before = until(&scene, "web", "rolling", |deployment| status(deployment).replicas_made == 4).await;
    operator.kill().await;
    // Nobody leads until the killed one's lease expires.
    let operator = scene.operator_with(scene.hasty("second")).await;
    // A change is proof that the successor has looked at the deployment.
    change(&scene, "web", json!({"progressDeadlineSeconds": 3000})).await;
    let after = until(&scene, "web", "observed again", |deployment| {
        Some(status(deployment).observed_generation) == deployment.metadata.generation
    })
    .await;
    assert_eq!((after.replicas_made, after.available), (4, 3), "the surge is not made twice");
    let clock = |status: &DeploymentStatus| status.rollout.as_ref().map(|rollout| (rollout.since, rollout.progressed_at));
    assert_eq!(clock(&after), clock(&before), "the clock goes on");
    change(&scene, "web", image("3")).await;
    until_current(&scene, 3).await;
    scene.end(operator).await;
}
