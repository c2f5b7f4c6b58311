//! After a killed operator, another continues from the same state: nothing is lost and nothing is done twice.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use sokovan::api::*;
use sokovan::cluster::session::hooks::{Hook, Hooks};
use sokovan::lifecycle::Timing;
use sokovan::operator::Options;
use tokio::sync::Notify;

use crate::common::{eventually, patience};
use crate::scene::{Operator, Scene, fast, gang};

/// An operator with a lease of its own, so that it need not wait for the killed operator's lease to expire.
async fn next(scene: &Scene, number: usize) -> Operator {
    next_with(scene, number, Hooks::default()).await
}

async fn next_with(scene: &Scene, number: usize, hooks: Hooks) -> Operator {
    let timing = Timing { hook: Duration::from_secs(3600), ..fast() };
    let options = scene.options("next");
    scene.operator_with(Options { lease_name: format!("operator-{number}"), hooks, timing, ..options }).await
}

/// A gate hook that never opens, and a notification when a session reaches it.
fn closed(on: fn(SessionPhase) -> bool) -> (Hooks, Arc<Notify>) {
    let arrived = Arc::new(Notify::new());
    let notify = arrived.clone();
    let run = move |_| {
        notify.notify_one();
        std::future::pending()
    };
    (Hooks { gates: vec![Hook::new("closed", on, run)], notices: vec![] }, arrived)
}

/// Kills the operator before each commit of a session on its way to Running, and while it ends.
async fn killed_before_each_phase(prefix: &str, spec: serde_json::Value, kernels: usize) {
    let scene = Scene::new(prefix).await;
    scene.submit("one", spec).await;
    let phases: [fn(SessionPhase) -> bool; 5] = [
        |to| to == SessionPhase::Scheduled,
        |to| to == SessionPhase::Preparing,
        |to| to == SessionPhase::Prepared,
        |to| to == SessionPhase::Creating,
        |to| to == SessionPhase::Running,
    ];
    for (number, phase) in phases.into_iter().enumerate() {
        let (hooks, arrived) = closed(phase);
        let operator = next_with(&scene, number, hooks).await;
        let reached = tokio::time::timeout(patience(), arrived.notified()).await;
        reached.unwrap_or_else(|_| panic!("the session never reached phase {number}"));
        operator.kill().await;
    }
    let operator = next(&scene, 8).await;
    let status = scene.until_phase("one", SessionPhase::Running).await.status.unwrap();
    assert_eq!(status.allocation_generation, 1, "the session is allocated once");
    assert_eq!(scene.pods("one").await.len(), kernels);
    eventually("each kernel to be recorded once", || async {
        let recorded = scene.kernels("one").await.len();
        if recorded == kernels { Ok(()) } else { Err(format!("{recorded} of {kernels}")) }
    })
    .await;
    assert!(
        status.history.iter().all(|entry| {
            // A gang may have waited for one of its kernels. Failures and repeated steps are errors.
            entry.result == HistoryResult::Skipped || (entry.attempts == 1 && entry.result == HistoryResult::Success)
        }),
        "{:#?}",
        status.history
    );
    scene.patch_spec("one", json!({"desiredState": "Terminated"})).await.unwrap();
    scene.until("one", "ending", |session| session.phase() >= SessionPhase::Terminating).await;
    operator.kill().await;
    let operator = next(&scene, 9).await;
    let status = scene.until_phase("one", SessionPhase::Terminated).await.status.unwrap();
    assert_eq!(status.result, Some(SessionResult::UserCancelled));
    scene.end(operator).await;
}

#[tokio::test]
async fn a_single_kernel_survives_a_kill_before_each_phase() {
    killed_before_each_phase("kill1", json!({}), 1).await;
}

#[tokio::test]
async fn a_gang_survives_a_kill_before_each_phase() {
    killed_before_each_phase("kill3", gang(), 3).await;
}

#[tokio::test]
async fn changes_made_while_no_operator_ran_are_detected() {
    let scene = Scene::new("absent").await;
    let operator = next(&scene, 0).await;
    let batch = json!({"type": "Batch", "kernels": [crate::scene::kernel("main", 1, &["sim", "alone"])]});
    scene.submit("batch", batch).await;
    scene.submit("other", json!({})).await;
    scene.until_phase("batch", SessionPhase::Running).await;
    scene.until_phase("other", SessionPhase::Running).await;
    operator.kill().await;
    scene.delete("other").await;
    scene.kill_pods("batch").await;
    let operator = next(&scene, 1).await;
    let status = scene.until_phase("batch", SessionPhase::Terminated).await.status.unwrap();
    assert_eq!((status.result, status.exit_code), (Some(SessionResult::Failure), Some(137)));
    scene.until_gone::<Session>("other").await;
    scene.end(operator).await;
}
