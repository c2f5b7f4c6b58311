//! The paths of the fault tests: the sessions they create, their users' actions, and the expected end.

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::ResourceExt;
use kube::api::DeleteParams;
use serde_json::{Value, json};
use sokovan::api::*;

use crate::scene::{LONG_AGO, Scene, gang, kernel, node_of};

pub struct Path {
    pub name: &'static str,
    /// Changes of the scaling group's spec.
    pub group: fn() -> Value,
    pub run: for<'a> fn(&'a Scene) -> BoxFuture<'a, ()>,
}

impl Path {
    /// Whether the path has a deployment.
    pub fn has_deployment(&self) -> bool {
        self.name.starts_with("deploy-")
    }
}

pub static PATHS: [Path; 20] = [
    Path { name: "single", group: || json!({}), run: |scene| Box::pin(single(scene)) },
    Path { name: "gang", group: || json!({}), run: |scene| Box::pin(three(scene)) },
    Path { name: "missed-gate", group: || json!({}), run: |scene| Box::pin(missed_gate(scene)) },
    Path { name: "batch", group: || json!({}), run: |scene| Box::pin(batch(scene)) },
    Path { name: "batch-gang", group: || json!({}), run: |scene| Box::pin(batch_gang(scene)) },
    Path { name: "give-up", group: give_up_soon, run: |scene| Box::pin(give_up(scene)) },
    Path {
        name: "no-image",
        group: || json!({"retry": {"imagePullTimeoutSeconds": 60}}),
        run: |scene| Box::pin(no_image(scene)),
    },
    Path { name: "reset", group: never_starts, run: |scene| Box::pin(reset(scene)) },
    Path { name: "delete-waiting", group: || json!({}), run: |scene| Box::pin(delete_waiting(scene)) },
    Path { name: "delete-early", group: || json!({}), run: |scene| Box::pin(delete_in(scene, SessionPhase::Scheduled, gang())) },
    Path {
        name: "delete-preparing",
        group: || json!({}),
        run: |scene| Box::pin(delete_in(scene, SessionPhase::Preparing, one("never"))),
    },
    Path {
        name: "delete-pulling",
        group: || json!({"retry": {"imagePullTimeoutSeconds": 900}}),
        run: |scene| Box::pin(delete_in(scene, SessionPhase::Pulling, one("no-image"))),
    },
    Path {
        name: "delete-creating",
        group: || json!({}),
        run: |scene| Box::pin(delete_in(scene, SessionPhase::Creating, two("never"))),
    },
    Path { name: "delete-running", group: || json!({}), run: |scene| Box::pin(delete_in(scene, SessionPhase::Running, gang())) },
    Path { name: "delete-ending", group: || json!({}), run: |scene| Box::pin(delete_ending(scene)) },
    Path { name: "node-lost", group: || json!({}), run: |scene| Box::pin(node_lost(scene)) },
    Path { name: "node-away", group: || json!({}), run: |scene| Box::pin(node_away(scene)) },
    Path { name: "disrupted", group: || json!({}), run: |scene| Box::pin(disrupted(scene)) },
    Path { name: "stranger", group: || json!({}), run: |scene| Box::pin(stranger(scene)) },
    Path { name: "crowd", group: || json!({}), run: |scene| Box::pin(crowd(scene)) },
];

fn give_up_soon() -> Value {
    json!({"failUnfit": true, "retry": {"maxAttempts": 2}})
}

fn never_starts() -> Value {
    // Only one reset is allowed. Its steps may fail more often, because a fault may prevent an answer.
    let often = |handler| json!({"handler": handler, "maxAttempts": 50});
    let handlers = ["schedule-sessions", "check-precondition", "start-sessions", "terminate-sessions"].map(often);
    json!({"retry": {"maxAttempts": 1, "creatingTimeoutSeconds": 60, "handlers": handlers}})
}

async fn ask_to_end(scene: &Scene, name: &str) {
    scene.patch_spec(name, json!({"desiredState": "Terminated"})).await.expect("the change is accepted");
}

async fn end(scene: &Scene, name: &str) -> SessionStatus {
    ask_to_end(scene, name).await;
    scene.until_phase(name, SessionPhase::Terminated).await.status.unwrap_or_default()
}

async fn single(scene: &Scene) {
    scene.submit("one", json!({})).await;
    scene.until_phase("one", SessionPhase::Running).await;
    assert_eq!(end(scene, "one").await.result, Some(SessionResult::UserCancelled));
    delete(scene, "one").await;
}

async fn three(scene: &Scene) {
    scene.submit("three", gang()).await;
    scene.until_phase("three", SessionPhase::Running).await;
    assert_eq!(end(scene, "three").await.result, Some(SessionResult::UserCancelled));
}

/// A kubelet misses that its gate was opened.
async fn missed_gate(scene: &Scene) {
    let kernels = [kernel("main", 1, &[]), kernel("sub", 1, &["sim", "misses"])];
    scene.submit("two", json!({"clusterMode": "MultiNode", "kernels": kernels})).await;
    scene.until_phase("two", SessionPhase::Running).await;
    assert_eq!(end(scene, "two").await.result, Some(SessionResult::UserCancelled));
}

async fn batch(scene: &Scene) {
    let spec = |how: &str| json!({"type": "Batch", "kernels": [kernel("main", 1, &["sim", how, "200ms"])]});
    scene.submit("good", spec("run")).await;
    scene.submit("bad", spec("fail")).await;
    for (name, result, code) in [("good", SessionResult::Success, 0), ("bad", SessionResult::Failure, 1)] {
        let status = scene.until_phase(name, SessionPhase::Terminated).await.status.unwrap_or_default();
        assert_eq!((status.result, status.exit_code), (Some(result), Some(code)), "{name}");
    }
}

/// The end of the main kernel ends the session, and the other kernel is killed.
async fn batch_gang(scene: &Scene) {
    let kernels = [kernel("main", 1, &["sim", "run", "200ms"]), kernel("sub", 1, &[])];
    scene.submit("two", json!({"type": "Batch", "clusterMode": "MultiNode", "kernels": kernels})).await;
    let status = scene.until_phase("two", SessionPhase::Terminated).await.status.unwrap_or_default();
    assert_eq!((status.result, status.exit_code), (Some(SessionResult::Success), Some(0)));
}

/// Somebody deletes the pod of a Batch session that runs. It starts again, as often as its spec says.
async fn disrupted(scene: &Scene) {
    scene.submit("again", json!({"type": "Batch", "retry": {"onDisruption": 1}, "kernels": [kernel("main", 1, &[])]})).await;
    for restarts in [0, 1] {
        let runs = |session: &Session| {
            session.phase() == SessionPhase::Running && session.status.as_ref().is_some_and(|status| status.restarts == restarts)
        };
        let generation = scene.until("again", "running", runs).await.status.unwrap_or_default().allocation_generation;
        for pod in scene.pods("again").await.iter().filter(|pod| pod.labels()[LABEL_GENERATION] == generation.to_string()) {
            let _ = scene.api::<Pod>().delete(&pod.name_any(), &DeleteParams::default()).await; // it may be gone
        }
    }
    let status = scene.until_phase("again", SessionPhase::Terminated).await.status.unwrap_or_default();
    assert_eq!((status.result, status.restarts), (Some(SessionResult::Error), 1));
}

/// A request that fits no node: it is tried, loses priority, is tried again and cancelled.
async fn give_up(scene: &Scene) {
    let mut main = kernel("main", 1, &[]);
    main["resources"]["cpu"] = json!(5);
    scene.submit("huge", json!({"kernels": [main], "priority": 5})).await;
    let status = scene.until_phase("huge", SessionPhase::Cancelled).await.status.unwrap_or_default();
    assert_eq!((status.result, status.effective_priority), (Some(SessionResult::Error), Some(0)));
}

async fn no_image(scene: &Scene) {
    scene.submit("two", two("no-image")).await;
    let status = scene.until_phase("two", SessionPhase::Terminated).await.status.unwrap_or_default();
    assert_eq!(status.result, Some(SessionResult::Error));
}

/// One of two kernels never starts: the session is reset once, and then ends.
async fn reset(scene: &Scene) {
    scene.submit("two", two("never")).await;
    let status = scene.until_phase("two", SessionPhase::Terminated).await.status.unwrap_or_default();
    assert_eq!((status.resets, status.result), (1, Some(SessionResult::Error)));
}

/// Deletes a session in that phase, or in a later one if the phase is short.
async fn delete_in(scene: &Scene, phase: SessionPhase, spec: Value) {
    scene.submit("one", spec).await;
    scene.until("one", phase.as_str(), |session| session.status.is_some() && session.phase() >= phase).await;
    delete(scene, "one").await;
}

/// A session of one kernel with this fate in the simulated kubelet.
fn one(fate: &str) -> Value {
    json!({"kernels": [kernel("main", 1, &["sim", fate])]})
}

/// A gang of two kernels: the main kernel runs, and the other has this fate in the simulated kubelet.
fn two(fate: &str) -> Value {
    json!({"clusterMode": "MultiNode", "kernels": [kernel("main", 1, &[]), kernel("sub", 1, &["sim", fate])]})
}

async fn delete_waiting(scene: &Scene) {
    scene.submit("one", json!({"dependsOn": ["nobody"]})).await;
    scene.until("one", "waiting with a reason", |session| session.status.is_some()).await;
    delete(scene, "one").await;
}

async fn delete_ending(scene: &Scene) {
    scene.submit("one", json!({})).await;
    scene.until_phase("one", SessionPhase::Running).await;
    ask_to_end(scene, "one").await;
    scene.until("one", "ending", |session| session.phase() >= SessionPhase::Terminating).await;
    delete(scene, "one").await;
}

async fn delete(scene: &Scene, name: &str) {
    scene.delete(name).await;
    scene.until_gone::<Session>(name).await;
}

async fn node_lost(scene: &Scene) {
    scene.submit("three", gang()).await;
    let status = scene.until_phase("three", SessionPhase::Running).await.status.unwrap_or_default();
    let node = status.allocation.last().map(|allocation| allocation.node.0.clone()).unwrap_or_default();
    scene.delete_node_named(&node).await;
    let status = scene.until_phase("three", SessionPhase::Terminated).await.status.unwrap_or_default();
    assert_eq!(status.result, Some(SessionResult::Error));
}

/// A node that does not answer for a long time, and returns after its session has ended.
async fn node_away(scene: &Scene) {
    scene.submit("one", one("alone")).await;
    let status = scene.until_phase("one", SessionPhase::Running).await.status.unwrap_or_default();
    let node = node_of(&status, "main1");
    scene.lose_node(&node, LONG_AGO).await;
    let status = scene.until_phase("one", SessionPhase::Terminated).await.status.unwrap_or_default();
    assert_eq!(status.result, Some(SessionResult::Error));
    scene.bring_back_node(&node).await;
    scene.kill_pods("one").await;
}

/// More sessions than fit at once, so that released resources are allocated again.
async fn crowd(scene: &Scene) {
    let names: Vec<String> = (0..6).map(|number| format!("s{number}")).collect();
    for name in &names {
        let mut main = kernel("main", 1, &["sim", "run", "300ms"]);
        main["resources"]["cpu"] = json!(3);
        scene.submit(name, json!({"type": "Batch", "kernels": [main]})).await;
    }
    for name in &names {
        let status = scene.until_phase(name, SessionPhase::Terminated).await.status.unwrap_or_default();
        assert_eq!(status.result, Some(SessionResult::Success), "{name}");
    }
}

/// A foreign object already has the name that a session needs.
async fn stranger(scene: &Scene) {
    let service = json!({
        "metadata": {"name": "ses-three", "namespace": scene.name},
        "spec": {"clusterIP": "None", "selector": {"app": "other"}, "ports": [{"port": 80}]},
    });
    scene.make_here::<Service>(service).await;
    scene.submit("three", gang()).await;
    scene.until("three", "waiting for the name", crate::common::reason_is("NameTaken")).await;
    assert!(scene.pods("three").await.is_empty());
    scene.api::<Service>().delete("ses-three", &Default::default()).await.expect("the service can be deleted");
    scene.until_phase("three", SessionPhase::Running).await;
    // A kernel that is not seen running in time, as during an outage of the API server, may cause one reset; nothing else may.
    let status = end(scene, "three").await;
    let resets: Vec<_> = status.history.iter().filter(|entry| entry.from != "Pending" && entry.to == "Pending").collect();
    assert!(status.resets <= 1 && resets.iter().all(|entry| entry.handler == "promote-to-running"), "{resets:?}");
}
