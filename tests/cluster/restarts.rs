//! The operator is killed and another goes on where it stood: nothing is lost, nothing is done twice.

use serde_json::json;
use sokovan::api::*;
use sokovan::operator::Options;

use crate::scene::{Operator, Scene, gang};

/// An operator under a lease of its own: it need not wait for the killed one's to run out, for that one is gone.
async fn next(scene: &Scene, number: usize) -> Operator {
    let options = scene.options("next");
    scene.operator_with(Options { lease_name: format!("operator-{number}"), ..options }).await
}

/// Kills the operator when the session is first seen in each phase on its way.
async fn killed_in_each_phase(prefix: &str, spec: serde_json::Value, kernels: usize) {
    let scene = Scene::new(prefix).await;
    let mut operator = next(&scene, 0).await;
    scene.submit("one", spec).await;
    let phases = [SessionPhase::Scheduled, SessionPhase::Preparing, SessionPhase::Creating, SessionPhase::Running];
    for (number, phase) in phases.into_iter().enumerate() {
        let reached = move |session: &Session| session.status.is_some() && session.phase() >= phase;
        scene.until("one", phase.as_str(), reached).await;
        operator.kill().await;
        operator = next(&scene, number + 1).await;
    }
    let status = scene.until_phase("one", SessionPhase::Running).await.status.unwrap();
    assert_eq!(status.allocation_generation, 1, "it was allocated once");
    assert_eq!((scene.pods("one").await.len(), scene.kernels("one").await.len()), (kernels, kernels));
    assert!(
        status.history.iter().all(|entry| {
            // That a gang waited for one of its kernels may stand there, but no failure and nothing twice.
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
    assert_eq!(status.result, SessionResult::UserCancelled);
    scene.end(operator).await;
}

#[tokio::test]
async fn a_single_kernel_survives_a_kill_in_each_phase() {
    killed_in_each_phase("kill1", json!({}), 1).await;
}

#[tokio::test]
async fn a_gang_survives_a_kill_in_each_phase() {
    killed_in_each_phase("kill3", gang(), 3).await;
}

#[tokio::test]
async fn what_happened_while_no_operator_ran_is_found_out() {
    let scene = Scene::new("absent").await;
    let operator = next(&scene, 0).await;
    let batch = json!({"type": "Batch", "kernels": [crate::scene::kernel("main", 1, &["sim", "fail", "1500ms"])]});
    scene.submit("batch", batch).await;
    scene.submit("other", json!({})).await;
    scene.until_phase("batch", SessionPhase::Running).await;
    scene.until_phase("other", SessionPhase::Running).await;
    operator.kill().await;
    scene.delete("other").await;
    crate::common::eventually("the batch's pod to end", || async {
        let pod = scene.pods("batch").await.remove(0);
        match pod.status.and_then(|status| status.phase).as_deref() {
            Some("Failed") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let operator = next(&scene, 1).await;
    let status = scene.until_phase("batch", SessionPhase::Terminated).await.status.unwrap();
    assert_eq!((status.result, status.exit_code), (SessionResult::Failure, Some(1)));
    scene.until_gone::<Session>("other").await;
    scene.end(operator).await;
}
