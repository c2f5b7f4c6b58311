//! Deployments and routes on a real API server: replicas, traffic, rollouts, evictions, ends.

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::json;
use sokovan::api::*;

use crate::common::eventually;
use crate::scene::{Scene, kernel};
use crate::served::{change, deploy, endpoints, image, is_ready, live_routes, routes, set_health, until, until_ready};

#[tokio::test]
async fn cd_001_sc_001_sd_001_a_deployment_runs_replicas_behind_its_service() {
    let scene = Scene::with("deploy", 4, json!({})).await;
    let operator = scene.operator().await;
    deploy(&scene, "web", json!({"replicas": 3})).await;
    let status = until_ready(&scene, "web").await;
    assert_eq!((status.replicas, status.ready, status.available, status.updated), (3, 3, 3, 3));
    assert_eq!((status.current_revision, status.replicas_ready.as_deref()), (Some(1), Some("3/3")));
    assert_eq!(status.url.as_deref(), Some(format!("http://web.{}.svc:80", scene.name).as_str()));
    let service = scene.api::<Service>().get("web").await.expect("a service").spec.expect("a spec");
    assert_eq!(service.selector.expect("a selector")[LABEL_TRAFFIC], "on");
    assert_eq!(endpoints(&scene, "web").await.len(), 3);
    for route in routes(&scene, "web").await {
        let status = route.status.clone().expect("a status");
        assert_eq!((status.phase, status.health, status.traffic), (RoutePhase::Running, Health::Healthy, Traffic::In));
        let session = scene.get(&route.name_any()).await;
        assert_eq!(session.metadata.uid, status.session_uid, "the session has the name of its route");
        let pod = scene.pods(&route.name_any()).await.remove(0);
        let main = &pod.spec.as_ref().expect("a spec").containers[0];
        assert!(main.readiness_probe.as_ref().is_some_and(|probe| probe.tcp_socket.is_some()), "a TCP check by default");
        assert_eq!(status.address, Some(format!("{}:8080", pod.status.and_then(|s| s.pod_ip).expect("an address"))));
    }
    let budget = scene.api::<PodDisruptionBudget>().get("web").await.expect("a budget").spec.expect("a spec");
    assert_eq!(budget.min_available, Some(k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(2)));
    scene.end(operator).await;
}

#[tokio::test]
async fn cd_002_sc_004_a_deployment_without_room_waits_and_says_why() {
    let scene = Scene::with("noroom", 0, json!({})).await;
    let operator = scene.operator().await;
    deploy(&scene, "web", json!({"replicas": 2})).await;
    let waits = until(&scene, "web", "waiting for a node", |deployment| {
        deployment.status.as_ref().is_some_and(|status| status.reason.is_some())
    })
    .await;
    assert_eq!((waits.phase, waits.replicas), (DeploymentPhase::Pending, 0));
    assert!(routes(&scene, "web").await.is_empty(), "nothing is made that cannot run");
    scene.node(0).await;
    until_ready(&scene, "web").await;
    change(&scene, "web", json!({"replicas": 40})).await;
    let partial = until(&scene, "web", "partly scaled out", |deployment| {
        deployment.status.as_ref().is_some_and(|status| {
            status.reason == Some(Reason::NoAvailableNode) && status.message.as_ref().is_some_and(|m| m.contains("no room for"))
        })
    })
    .await;
    assert!(partial.available >= 2 && partial.available < 40);
    scene.end(operator).await;
}

#[tokio::test]
async fn cd_003_an_invalid_image_is_reported_with_its_field_and_a_corrected_one_starts() {
    let scene = Scene::with("invalid", 1, json!({})).await;
    let operator = scene.operator().await;
    deploy(&scene, "web", image("-invalid")).await;
    let failed = until(&scene, "web", "failed", |deployment| deployment.phase() == DeploymentPhase::Failed).await;
    assert_eq!(failed.reason, Some(Reason::InvalidTemplate));
    assert!(failed.message.as_ref().expect("a message").starts_with("spec.template.kernels: the image of role main"));
    change(&scene, "web", image("1")).await;
    until_ready(&scene, "web").await;
    scene.end(operator).await;
}

#[tokio::test]
async fn cr_002_cr_003_sc_002_a_deployment_follows_its_scale() {
    let scene = Scene::with("scale", 4, json!({})).await;
    let operator = scene.operator().await;
    deploy(&scene, "web", json!({"replicas": 1})).await;
    until_ready(&scene, "web").await;
    let scaled = Patch::Merge(json!({"spec": {"replicas": 4}}));
    scene.api::<Deployment>().patch_scale("web", &PatchParams::default(), &scaled).await.expect("kubectl scale");
    until_ready(&scene, "web").await;
    let cheap = live_routes(&scene, "web").await.remove(1).name_any();
    let cost = Patch::Merge(json!({"metadata": {"annotations": {ANNOTATION_DELETION_COST: "-5"}}}));
    scene.api::<Route>().patch(&cheap, &PatchParams::default(), &cost).await.expect("routes can be annotated");
    change(&scene, "web", json!({"replicas": 3})).await;
    until_ready(&scene, "web").await;
    scene.until_gone::<Route>(&cheap).await;
    assert_eq!(live_routes(&scene, "web").await.len(), 3);
    scene.until_gone::<Session>(&cheap).await;
    change(&scene, "web", json!({"replicas": 0})).await;
    until_ready(&scene, "web").await;
    // A replica that leaves no longer counts, even before the slices are without it.
    eventually("no endpoint to be left", || async {
        let left = endpoints(&scene, "web").await;
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    scene.end(operator).await;
}

#[tokio::test]
async fn a_rolling_update_replaces_every_replica_and_never_falls_below_its_floor() {
    let scene = Scene::with("roll", 4, json!({})).await;
    let operator = scene.operator().await;
    deploy(&scene, "web", json!({"replicas": 3, "strategy": {"rolling": {"maxSurge": 1}}})).await;
    until_ready(&scene, "web").await;
    let before: Vec<String> = live_routes(&scene, "web").await.iter().map(ResourceExt::name_any).collect();
    change(&scene, "web", image("2")).await;
    let least = std::cell::Cell::new(3);
    let status = until(&scene, "web", "of revision 2", |deployment| {
        let status = deployment.status.clone().unwrap_or_default();
        least.set(least.get().min(status.available));
        is_ready(deployment) && status.current_revision == Some(2)
    })
    .await;
    assert_eq!((least.get(), status.previous_revision, status.updated), (3, Some(1), 3));
    let after: Vec<Route> = live_routes(&scene, "web").await;
    assert!(after.iter().all(|route| route.spec.revision == 2 && !before.contains(&route.name_any())));
    // Equal content takes its old revision again.
    change(&scene, "web", image("1")).await;
    until(&scene, "web", "of revision 1", |deployment| {
        is_ready(deployment) && deployment.status.as_ref().is_some_and(|status| status.current_revision == Some(1))
    })
    .await;
    let revisions = scene.api::<ControllerRevision>().list(&ListParams::default()).await.expect("revisions").items;
    assert_eq!(revisions.len(), 2);
    scene.end(operator).await;
}

#[tokio::test]
async fn an_autoscaler_does_not_see_the_pod_of_a_replica_that_has_ended() {
    let scene = Scene::with("ended", 4, json!({})).await;
    let operator = scene.operator().await;
    deploy(&scene, "web", json!({"replicas": 2})).await;
    until_ready(&scene, "web").await;
    let ended = live_routes(&scene, "web").await.remove(0).name_any();
    let pod = scene.pods(&ended).await.remove(0).name_any();
    let state = json!({"terminated": {"exitCode": 0, "reason": "Completed"}});
    let main = json!({"name": "main", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state});
    let succeeded = Patch::Strategic(json!({"status": {"phase": "Succeeded", "containerStatuses": [main]}}));
    scene.api::<Pod>().patch_status(&pod, &PatchParams::default(), &succeeded).await.expect("the status can be written");
    let scale = scene.api::<Deployment>().get_scale("web").await.expect("the scale").status.expect("a status");
    let selected = ListParams::default().labels(&scale.selector.expect("a selector"));
    eventually("the scale to select exactly the pods that run", || async {
        let pods = scene.api::<Pod>().list(&selected).await.map_err(|error| error.to_string())?.items;
        let phase = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default();
        let phases: Vec<String> = pods.iter().map(phase).collect();
        if phases == ["Running", "Running"] { Ok(()) } else { Err(format!("{phases:?}")) }
    })
    .await;
    assert_eq!(scene.pods(&ended).await.len(), 1, "the pod is kept for its logs");
    scene.end(operator).await;
}

#[tokio::test]
async fn a_revision_that_cannot_start_is_rolled_back_and_not_tried_again() {
    let scene = Scene::with("rollback", 4, json!({})).await;
    let operator = scene.operator().await;
    deploy(&scene, "web", json!({"replicas": 2, "progressDeadlineSeconds": 300})).await;
    until_ready(&scene, "web").await;
    let broken = json!({"template": {"kernels": [kernel("main", 1, &["sim", "no-image"])]}});
    change(&scene, "web", broken).await;
    let status = until(&scene, "web", "rolled back", |deployment| {
        let status = deployment.status.clone().unwrap_or_default();
        status.failed_revision == Some(2) && status.phase == DeploymentPhase::Ready
    })
    .await;
    assert_eq!((status.current_revision, status.reason, status.available), (Some(1), Some(Reason::RolledBack), 2));
    let deployment = scene.api::<Deployment>().get("web").await.expect("the deployment");
    let mut conditions = deployment.status.iter().flat_map(|status| &status.conditions);
    let available = conditions.find(|condition| condition.type_ == "Available").expect("the condition Available");
    assert_eq!(available.status, ConditionStatus::True);
    scene.end(operator).await;
}

#[tokio::test]
async fn a_first_revision_that_cannot_start_fails_with_the_last_message_and_at_most_eight_sessions() {
    let scene = Scene::with("hopeless", 4, json!({})).await;
    let operator = scene.operator().await;
    let broken = json!({"replicas": 3, "template": {"kernels": [kernel("main", 1, &["sim", "no-image"])]}});
    deploy(&scene, "web", broken).await;
    let status = until(&scene, "web", "failed", |deployment| deployment.phase() == DeploymentPhase::Failed).await;
    assert_eq!(status.reason, Some(Reason::ReplicasFailing));
    assert!(status.replicas_made <= 8, "{} replicas were made", status.replicas_made);
    eventually("its replicas to end", || async {
        let live = live_routes(&scene, "web").await.len();
        if live == 0 { Ok(()) } else { Err(format!("{live} live")) }
    })
    .await;
    assert!(status.message.as_ref().is_some_and(|message| message.contains("none ever served")), "{:?}", status.message);
    change(&scene, "web", image("2")).await;
    until_ready(&scene, "web").await;
    scene.end(operator).await;
}

#[tokio::test]
async fn rr_002_re_001_an_unhealthy_replica_leaves_the_traffic_and_is_replaced() {
    let scene = Scene::with("evict", 4, json!({})).await;
    let operator = scene.operator().await;
    deploy(&scene, "web", json!({"replicas": 2})).await;
    until_ready(&scene, "web").await;
    let sick = live_routes(&scene, "web").await.remove(0).name_any();
    set_health(&scene, &sick, false).await;
    eventually("the replica to be unhealthy", || async {
        let route = scene.api::<Route>().get(&sick).await.map_err(|error| error.to_string())?;
        if route.phase() == RoutePhase::Unhealthy { Ok(()) } else { Err(route.phase().to_string()) }
    })
    .await;
    set_health(&scene, &sick, true).await;
    until_ready(&scene, "web").await;
    set_health(&scene, &sick, false).await;
    eventually("the replica to be replaced", || async {
        let live = live_routes(&scene, "web").await;
        let replaced = live.len() == 2 && live.iter().all(|route| route.name_any() != sick);
        if replaced { Ok(()) } else { Err(format!("{:?}", live.iter().map(|r| (r.name_any(), r.phase())).collect::<Vec<_>>())) }
    })
    .await;
    until_ready(&scene, "web").await;
    scene.end(operator).await;
}

#[tokio::test]
async fn a_replica_deleted_by_hand_as_route_session_or_pod_is_replaced() {
    let scene = Scene::with("replace", 4, json!({})).await;
    let operator = scene.operator().await;
    deploy(&scene, "web", json!({"replicas": 3})).await;
    until_ready(&scene, "web").await;
    let names: Vec<String> = live_routes(&scene, "web").await.iter().map(ResourceExt::name_any).collect();
    let params = DeleteParams::default();
    scene.api::<Route>().delete(&names[0], &params).await.expect("the route is deleted");
    scene.delete(&names[1]).await;
    let pod = scene.pods(&names[2]).await.remove(0).name_any();
    scene.api::<Pod>().delete(&pod, &params).await.expect("the pod is deleted");
    eventually("every replica to be replaced", || async {
        let live = live_routes(&scene, "web").await;
        let replaced = live.len() == 3 && live.iter().all(|route| !names.contains(&route.name_any()));
        if replaced { Ok(()) } else { Err(format!("{:?}", live.iter().map(|r| (r.name_any(), r.phase())).collect::<Vec<_>>())) }
    })
    .await;
    until_ready(&scene, "web").await;
    scene.end(operator).await;
}

#[tokio::test]
async fn rt_002_sd_002_a_leaving_replica_is_out_of_the_traffic_for_its_delay_before_its_pod_is_deleted() {
    let scene = Scene::with("drain", 2, json!({})).await;
    let operator = scene.operator().await;
    deploy(&scene, "web", json!({"replicas": 1, "drain": {"delaySeconds": 120, "timeoutSeconds": 1}})).await;
    until_ready(&scene, "web").await;
    let leaving = live_routes(&scene, "web").await.remove(0).name_any();
    let pod = scene.pods(&leaving).await.remove(0).name_any();
    change(&scene, "web", json!({"replicas": 0})).await;
    eventually("the pod to leave the traffic", || async {
        let labels = scene.api::<Pod>().get(&pod).await.map_err(|error| error.to_string())?.metadata.labels;
        let traffic = labels.and_then(|labels| labels.get(LABEL_TRAFFIC).cloned());
        if traffic.as_deref() == Some(TRAFFIC_OFF) { Ok(()) } else { Err(format!("{traffic:?}")) }
    })
    .await;
    let left = tokio::time::Instant::now();
    eventually("the endpoints to be without it", || async {
        let listed = endpoints(&scene, "web").await;
        if listed.is_empty() { Ok(()) } else { Err(format!("{listed:?}")) }
    })
    .await;
    eventually("the pod to be deleted", || async {
        let pod = scene.api::<Pod>().get_opt(&pod).await.map_err(|error| error.to_string())?;
        let is_deleted = pod.is_none_or(|pod| pod.metadata.deletion_timestamp.is_some());
        if is_deleted { Ok(()) } else { Err("it still runs".into()) }
    })
    .await;
    let waited = left.elapsed();
    assert!(waited.as_millis() >= 1800, "deleted {waited:?} after it left the traffic, and the delay is 2 s");
    scene.until_gone::<Route>(&leaving).await;
    scene.end(operator).await;
}

#[tokio::test]
async fn rr_004_sd_003_a_replica_without_weight_gets_no_requests_and_keeps_running() {
    let scene = Scene::with("weight", 2, json!({})).await;
    let operator = scene.operator().await;
    deploy(&scene, "web", json!({"replicas": 2})).await;
    until_ready(&scene, "web").await;
    let name = live_routes(&scene, "web").await.remove(0).name_any();
    let weight = |weight: i32| Patch::Merge(json!({"spec": {"weight": weight}}));
    scene.api::<Route>().patch(&name, &PatchParams::default(), &weight(0)).await.expect("the weight can be changed");
    let listed = |count: usize| {
        let scene = &scene;
        async move {
            eventually("the endpoints to follow", || async {
                let listed = endpoints(scene, "web").await.len();
                if listed == count { Ok(()) } else { Err(format!("{listed} endpoints")) }
            })
            .await;
        }
    };
    listed(1).await;
    assert_eq!(live_routes(&scene, "web").await.len(), 2);
    scene.api::<Route>().patch(&name, &PatchParams::default(), &weight(50)).await.expect("the weight can be changed");
    listed(2).await;
    scene.end(operator).await;
}

#[tokio::test]
async fn dd_001_a_deleted_deployment_drains_its_replicas_and_leaves_nothing() {
    let scene = Scene::with("destroy", 2, json!({})).await;
    let operator = scene.operator().await;
    deploy(&scene, "web", json!({"replicas": 2})).await;
    until_ready(&scene, "web").await;
    scene.api::<Deployment>().delete("web", &DeleteParams::default()).await.expect("it is deleted");
    scene.until_gone::<Deployment>("web").await;
    assert!(routes(&scene, "web").await.is_empty());
    scene.until_gone::<Service>("web").await;
    scene.until_gone::<PodDisruptionBudget>("web").await;
    eventually("its sessions to be gone", || async {
        let left = scene.api::<Session>().list(&ListParams::default()).await.map_err(|error| error.to_string())?.items;
        if left.is_empty() { Ok(()) } else { Err(format!("{} sessions", left.len())) }
    })
    .await;
    scene.end(operator).await;
}

#[tokio::test]
async fn dd_003_a_forced_deployment_is_destroyed_at_once_and_swept_afterwards() {
    let scene = Scene::with("force", 2, json!({})).await;
    let operator = scene.operator().await;
    deploy(&scene, "web", json!({"replicas": 2, "drain": {"delaySeconds": 3600}})).await;
    until_ready(&scene, "web").await;
    change(&scene, "web", json!({"desiredState": "Destroyed", "force": true})).await;
    until(&scene, "web", "destroyed", |deployment| deployment.phase() == DeploymentPhase::Destroyed).await;
    eventually("its routes to be swept", || async {
        let left = routes(&scene, "web").await.len();
        if left == 0 { Ok(()) } else { Err(format!("{left} routes")) }
    })
    .await;
    scene.end(operator).await;
}

#[tokio::test]
async fn rc_002_a_session_without_its_deployment_is_ended() {
    let scene = Scene::with("orphans", 2, json!({})).await;
    let operator = scene.operator().await;
    deploy(&scene, "web", json!({"replicas": 1})).await;
    until_ready(&scene, "web").await;
    let name = live_routes(&scene, "web").await.remove(0).name_any();
    assert_eq!(operator.stop().await, sokovan::operator::Ended::Stopped);
    let (orphan, released) = (DeleteParams::orphan(), Patch::Merge(json!({"metadata": {"finalizers": null}})));
    for finalizers_go in [false, true] {
        if finalizers_go {
            let _ = scene.api::<Route>().patch_metadata(&name, &PatchParams::default(), &released).await;
            let _ = scene.api::<Deployment>().patch_metadata("web", &PatchParams::default(), &released).await;
        } else {
            scene.api::<Route>().delete(&name, &orphan).await.expect("the route is deleted");
            scene.api::<Deployment>().delete("web", &orphan).await.expect("the deployment is deleted");
            eventually("the garbage collector to orphan the session", || async {
                let owners = scene.get(&name).await.metadata.owner_references.unwrap_or_default();
                if owners.is_empty() { Ok(()) } else { Err(format!("{owners:?}")) }
            })
            .await;
        }
    }
    scene.until_gone::<Deployment>("web").await;
    scene.until_gone::<Route>(&name).await;
    let operator = scene.operator().await;
    scene.until_gone::<Session>(&name).await;
    scene.end(operator).await;
}

#[tokio::test]
async fn an_idle_operator_writes_nothing_to_a_ready_deployment() {
    let scene = Scene::with("dquiet", 2, json!({})).await;
    let operator = scene.operator().await;
    deploy(&scene, "web", json!({"replicas": 3})).await;
    until_ready(&scene, "web").await;
    let versions = || async {
        let deployment = scene.api::<Deployment>().get("web").await.expect("the deployment").metadata.resource_version;
        let routes = routes(&scene, "web").await.into_iter().map(|route| (route.name_any(), route.metadata.resource_version));
        let service = scene.api::<Service>().get("web").await.expect("the service").metadata.resource_version;
        let budget = scene.api::<PodDisruptionBudget>().get("web").await.expect("the budget").metadata.generation;
        (deployment, routes.collect::<Vec<_>>(), service, budget)
    };
    // The numbers of the last replica are written a moment after it became available.
    scene.submit("first", json!({"type": "Batch", "kernels": [kernel("main", 1, &["sim", "run", "2s"])]})).await;
    scene.until_phase("first", SessionPhase::Terminated).await;
    let before = versions().await;
    // The session takes several long cycles to run to its end.
    scene.submit("other", json!({"type": "Batch", "kernels": [kernel("main", 1, &["sim", "run", "5s"])]})).await;
    scene.until_phase("other", SessionPhase::Terminated).await;
    assert_eq!(versions().await, before);
    scene.end(operator).await;
}
