//! What somebody else changes or takes of a deployment: it is restored, or the deployment says what is in its way.

use k8s_openapi::api::core::v1::{ResourceQuota, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::json;
use sokovan::api::*;

use crate::common::eventually;
use crate::scene::Scene;
use crate::served::{deploy, endpoints, until, until_ready};

async fn until_endpoints(scene: &Scene, count: usize) {
    eventually(&format!("{count} endpoints"), || async {
        let listed = endpoints(scene, "web").await;
        if listed.len() == count { Ok(()) } else { Err(format!("{listed:?}")) }
    })
    .await;
}

#[tokio::test]
async fn a_changed_service_or_budget_is_restored() {
    let scene = Scene::with("drift", 2, json!({})).await;
    let operator = scene.operator().await;
    deploy(&scene, "web", json!({"replicas": 2})).await;
    until_ready(&scene, "web").await;
    let (services, budgets) = (scene.api::<Service>(), scene.api::<PodDisruptionBudget>());
    let away =
        json!({"spec": {"selector": {LABEL_DEPLOYMENT: null, "app": "x"}, "type": "NodePort", "externalIPs": ["192.0.2.1"]}});
    services.patch("web", &PatchParams::default(), &Patch::Merge(away)).await.expect("the service can be changed");
    eventually("the service to be restored", || async {
        let spec = services.get("web").await.map_err(|error| error.to_string())?.spec.unwrap_or_default();
        let selector = spec.selector.clone().unwrap_or_default();
        let is_restored = selector.len() == 2 && selector.get(LABEL_DEPLOYMENT).is_some_and(|name| name == "web");
        let is_internal = spec.type_.as_deref() == Some("ClusterIP") && spec.external_ips.is_none();
        if is_restored && is_internal { Ok(()) } else { Err(format!("{spec:?}")) }
    })
    .await;
    until_endpoints(&scene, 2).await;
    let other = json!({"spec": {"minAvailable": null, "maxUnavailable": 1}});
    budgets.patch("web", &PatchParams::default(), &Patch::Merge(other)).await.expect("the budget can be changed");
    eventually("the budget to be restored", || async {
        let spec = budgets.get("web").await.map_err(|error| error.to_string())?.spec.unwrap_or_default();
        if spec.min_available.is_some() && spec.max_unavailable.is_none() { Ok(()) } else { Err(format!("{spec:?}")) }
    })
    .await;
    services.delete("web", &DeleteParams::default()).await.expect("the service can be deleted");
    until_endpoints(&scene, 2).await;
    let settled = until_ready(&scene, "web").await;
    assert_eq!(settled.reason, Some(Reason::ReplicasAvailable));
    scene.end(operator).await;
}

#[tokio::test]
async fn a_deployment_says_that_its_budgets_name_is_taken() {
    let scene = Scene::with("taken", 2, json!({})).await;
    let operator = scene.operator().await;
    let theirs = json!({"metadata": {"name": "web"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "x"}}}});
    scene.make_here::<PodDisruptionBudget>(theirs).await;
    deploy(&scene, "web", json!({"replicas": 2})).await;
    let told = until(&scene, "web", "told of the name", |deployment| {
        deployment.status.as_ref().is_some_and(|status| status.reason == Some(Reason::NameTaken) && status.available == 2)
    })
    .await;
    let message = told.message.clone().unwrap_or_default();
    assert!(message.contains("the poddisruptionbudget web exists and does not belong to this object"), "{message}");
    scene.api::<PodDisruptionBudget>().delete("web", &DeleteParams::default()).await.expect("theirs can be deleted");
    until(&scene, "web", "well again", |deployment| {
        deployment.status.as_ref().is_some_and(|status| status.reason == Some(Reason::ReplicasAvailable))
    })
    .await;
    scene.end(operator).await;
}

/// Waits until the usage of a ResourceQuota is known. The quota controller counts objects of a new kind only once it knows the kind, and
/// looks again only at a quota that changes.
async fn counted(scene: &Scene, quota: &str) {
    let quotas = &scene.api::<ResourceQuota>();
    let mut changes = 100;
    eventually("the usage of the quota", || {
        changes += 1;
        let change = Patch::Merge(json!({"spec": {"hard": {"pods": changes.to_string()}}}));
        async move {
            let seen = quotas.get(quota).await.map_err(|error| error.to_string())?;
            let used = seen.status.clone().and_then(|status| status.used).unwrap_or_default();
            if used.contains_key("count/sessions.sokovan.dev") {
                return Ok(());
            }
            quotas.patch(quota, &PatchParams::default(), &change).await.map_err(|error| error.to_string())?;
            Err(format!("{:?}", seen.status))
        }
    })
    .await;
}

#[tokio::test]
async fn a_replica_whose_session_is_refused_says_why() {
    let scene = Scene::with("refused", 2, json!({})).await;
    let operator = scene.operator().await;
    let none = json!({"metadata": {"name": "none"}, "spec": {"hard": {"count/sessions.sokovan.dev": "0"}}});
    scene.make_here::<ResourceQuota>(none).await;
    counted(&scene, "none").await;
    deploy(&scene, "web", json!({"replicas": 1})).await;
    eventually("the route to be told of the refusal", || async {
        let routes = scene.api::<Route>().list(&ListParams::default()).await.map_err(|error| error.to_string())?.items;
        let told: Vec<String> = routes
            .iter()
            .filter_map(|route| route.status.as_ref())
            .map(|status| format!("{:?} {:?}", status.reason, status.message))
            .collect();
        if told.iter().any(|told| told.contains("exceeded quota: none")) { Ok(()) } else { Err(format!("{told:?}")) }
    })
    .await;
    scene.api::<ResourceQuota>().delete("none", &DeleteParams::default()).await.expect("the quota can be deleted");
    until_ready(&scene, "web").await;
    scene.end(operator).await;
}
