//! The lease: one leader writes, and a standby takes over.

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use sokovan::api::*;
use sokovan::operator::Ended;

use crate::common::eventually;
use crate::scene::Scene;

async fn holder(scene: &Scene) -> Option<String> {
    let lease = scene.api::<Lease>().get_opt("operator").await.expect("leases can be read")?;
    lease.spec?.holder_identity
}

async fn until_held_by(scene: &Scene, identity: &str) {
    eventually(&format!("{identity} to lead"), || async {
        let holder = holder(scene).await;
        if holder.as_deref() == Some(identity) { Ok(()) } else { Err(format!("{holder:?}")) }
    })
    .await;
}

#[tokio::test]
async fn a_clean_stop_releases_the_lease_to_the_standby() {
    let scene = Scene::new("release").await;
    let first = scene.operator_with(scene.hasty("first")).await;
    until_held_by(&scene, "first").await;
    let second = scene.operator_with(scene.hasty("second")).await;
    scene.submit("one", json!({})).await;
    scene.until_phase("one", SessionPhase::Running).await;
    assert_eq!(holder(&scene).await.as_deref(), Some("first"));
    assert_eq!(first.stop().await, Ended::Stopped);
    assert_ne!(holder(&scene).await.as_deref(), Some("first"), "a clean stop releases the lease at once");
    until_held_by(&scene, "second").await;
    scene.submit("two", json!({})).await;
    scene.until_phase("two", SessionPhase::Running).await;
    scene.end(second).await;
}

#[tokio::test]
async fn a_standby_takes_over_when_a_killed_leaders_lease_expires() {
    let scene = Scene::new("killed").await;
    let first = scene.operator_with(scene.hasty("first")).await;
    until_held_by(&scene, "first").await;
    let second = scene.operator_with(scene.hasty("second")).await;
    first.kill().await;
    scene.submit("one", json!({})).await;
    scene.until_phase("one", SessionPhase::Running).await;
    assert_eq!(holder(&scene).await.as_deref(), Some("second"));
    scene.end(second).await;
}

#[tokio::test]
async fn an_operator_that_loses_the_lease_exits_and_another_takes_over() {
    let scene = Scene::new("lost").await;
    let mut operator = scene.operator_with(scene.hasty("first")).await;
    until_held_by(&scene, "first").await;
    let usurp = Patch::Merge(json!({"spec": {"holderIdentity": "another"}}));
    scene.api::<Lease>().patch("operator", &PatchParams::default(), &usurp).await.unwrap();
    assert_eq!(operator.ended().await, Ended::LostLease);
    scene.submit("one", json!({})).await;
    let next = scene.operator_with(scene.hasty("second")).await;
    scene.until_phase("one", SessionPhase::Running).await;
    scene.end(next).await;
}
