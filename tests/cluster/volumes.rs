//! Volume claims: sessions wait for them and run on the nodes that reach their volumes.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::DeleteParams;
use serde_json::{Value, json};
use sokovan::api::*;

use crate::common::reason_is;
use crate::scene::{Scene, kernel};

fn mounting(read_only: bool) -> Value {
    let mut main = kernel("main", 1, &[]);
    main["volumes"] = json!([{"claimName": "data", "mountPath": "/data", "readOnly": read_only}]);
    json!({"kernels": [main], "priority": 100}) // high enough to be retried for longer than this test takes
}

/// Creates a claim for the volume of this name.
async fn claim(scene: &Scene, mode: &str, volume: &str) {
    scene
        .make_here::<PersistentVolumeClaim>(json!({"metadata": {"name": "data"}, "spec": {
            "accessModes": [mode], "storageClassName": "", "volumeName": volume, "resources": {"requests": {"storage": "1Gi"}},
        }}))
        .await;
}

#[tokio::test]
async fn a_session_waits_for_its_claim_and_runs_where_the_volume_is() {
    let scene = Scene::new("volume").await;
    let operator = scene.operator().await;
    scene.submit("early", mounting(false)).await;
    let status = scene.until("early", "waiting", reason_is("VolumeClaimNotFound")).await.status.unwrap();
    let message = format!("volume claim data does not exist in namespace {}", scene.name);
    assert_eq!(status.message.as_deref(), Some(message.as_str()));
    scene
        .make::<PersistentVolume>(json!({"metadata": {"name": scene.name}, "spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "local": {"path": "/data"},
            "persistentVolumeReclaimPolicy": "Retain", "storageClassName": "",
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": [scene.node_name(2)]}]}]}},
        }}))
        .await;
    claim(&scene, "ReadWriteOnce", &scene.name).await;
    let running = scene.until_phase("early", SessionPhase::Running).await.status.unwrap();
    assert_eq!(running.nodes, Some(scene.node_name(2)));
    // Other sessions follow until that node is full.
    for name in ["second", "third", "fourth"] {
        scene.submit(name, mounting(false)).await;
        let running = scene.until_phase(name, SessionPhase::Running).await.status.unwrap();
        assert_eq!(running.nodes, Some(scene.node_name(2)));
    }
    scene.submit("fifth", mounting(false)).await;
    let reported = scene.until("fifth", "waiting", reason_is("NoAvailableNode")).await.status.unwrap().progress.message.unwrap();
    assert!(reported.contains("2 of 3: cannot reach the volume of claim data; 1 of 3: cpu 0 of 1 needed"), "{reported}");
    let volumes = scene.all::<PersistentVolume>();
    volumes.delete(&scene.name, &DeleteParams::default()).await.unwrap();
    scene.end(operator).await;
}

#[tokio::test]
async fn a_read_only_claim_is_not_mounted_for_writing() {
    let scene = Scene::new("read-only").await;
    let operator = scene.operator().await;
    scene
        .make::<PersistentVolume>(json!({"metadata": {"name": scene.name}, "spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadOnlyMany"], "hostPath": {"path": "/data"}, "storageClassName": "",
        }}))
        .await;
    claim(&scene, "ReadOnlyMany", &scene.name).await;
    scene.submit("writes", mounting(false)).await;
    let status = scene.until("writes", "waiting", reason_is("VolumeReadOnly")).await.status.unwrap();
    assert_eq!(status.message.as_deref(), Some("volume claim data is read-only but mounted for writing"));
    scene.submit("reads", mounting(true)).await;
    scene.until("reads", "placed", |session| session.phase() > SessionPhase::Pending).await;
    scene.remove::<PersistentVolume>().await;
    scene.end(operator).await;
}
