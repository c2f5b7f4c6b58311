//! Ways in which one session or tenant could harm others, or prevent an admin from helping.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use k8s_openapi::api::core::v1::{Secret, Service};
use k8s_openapi::api::events::v1::Event;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PropagationPolicy};
use serde_json::json;
use sokovan::api::*;

use crate::attempts::{accepted, lift};
use crate::common::eventually;
use crate::scene::{Scene, gang, kernel};

#[tokio::test]
async fn a_session_that_is_patched_in_a_loop_ends_while_the_loop_runs() {
    let scene = Scene::with("touched", 1, json!({})).await;
    let operator = scene.operator().await;
    scene.submit("busy", json!({})).await;
    let done = Arc::new(AtomicBool::new(false));
    let touch = |thread: usize| {
        let (sessions, done) = (scene.api::<Session>(), done.clone());
        tokio::spawn(async move {
            let mut touched = 0;
            while !done.load(Ordering::Relaxed) {
                let patch = Patch::Merge(json!({"metadata": {"annotations": {"touched": format!("{thread}-{touched}")}}}));
                touched += u32::from(sessions.patch_metadata("busy", &PatchParams::default(), &patch).await.is_ok());
            }
            touched
        })
    };
    let threads: Vec<_> = (0..12).map(touch).collect();
    scene.until_phase("busy", SessionPhase::Running).await;
    scene.delete("busy").await;
    scene.until_gone::<Session>("busy").await;
    done.store(true, Ordering::Relaxed);
    let mut touched = 0;
    for thread in threads {
        touched += thread.await.expect("the loop does not panic");
    }
    assert!(touched > 20, "the session was patched only {touched} times");
    scene.end(operator).await;
}

/// Creates a session that is just small enough for etcd, but too large once it has a status.
async fn unwritable(scene: &Scene) {
    let mut main = kernel("main", 1, &[]);
    main["args"] = json!(vec!["\u{1F600}".repeat(16_384); 22]);
    let mut session = scene.session("ghost", json!({"kernels": [main]}));
    session["metadata"]["finalizers"] = json!([FINALIZER_SESSION]);
    let mut pad = 135_000;
    eventually("a session of the right size", || {
        session["metadata"]["annotations"] = json!({"pad": "x".repeat(pad)});
        pad -= 400;
        let attempt = scene.create(session.clone());
        async move { attempt.await.map(|_| ()).map_err(|error| error.to_string()) }
    })
    .await;
    // An update takes a few bytes more than a creation. It still has no room for a status.
    let smaller = Patch::Merge(json!({"metadata": {"annotations": {"pad": "x".repeat(pad + 200)}}}));
    scene.api::<Session>().patch_metadata("ghost", &PatchParams::default(), &smaller).await.expect("a smaller session");
}

#[tokio::test]
async fn a_session_with_an_unwritable_status_delays_no_other_and_an_admin_can_remove_it() {
    let scene = Scene::with("unwritable", 2, json!({})).await;
    lift(&scene, "sound").await;
    accepted("a large session", || async {
        let mut main = kernel("main", 1, &[]);
        main["args"] = json!(vec!["x".repeat(16_384); 20]);
        crate::attempts::try_to_make::<Session>(&scene.space, &scene.session("large", json!({"kernels": [main]}))).await
    })
    .await;
    let operator = scene.operator().await;
    unwritable(&scene).await;
    eventually("an Event about the refused status", || async {
        let about = ListParams::default().fields("regarding.name=ghost,reason=StatusRefused");
        let events = scene.api::<Event>().list(&about).await.map_err(|error| error.to_string())?;
        let note = events.items.first().and_then(|event| event.note.clone()).ok_or("none yet")?;
        if note.contains("too large") { Ok(()) } else { Err(note) }
    })
    .await;
    // No other session waits for it, and it holds no resources.
    for n in 0..3 {
        scene.submit(&format!("other-{n}"), json!({})).await;
        scene.until_phase(&format!("other-{n}"), SessionPhase::Running).await;
    }
    assert_eq!(scene.get("ghost").await.phase(), SessionPhase::Pending);
    let sessions = scene.api::<Session>();
    let released = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    sessions.patch_metadata("ghost", &PatchParams::default(), &released).await.expect("an admin may release it");
    sessions.delete("ghost", &DeleteParams::default()).await.expect("and delete it");
    scene.until_gone::<Session>("ghost").await;
    scene.end(operator).await;
}

#[tokio::test]
async fn objects_orphaned_by_a_deleted_session_are_removed_and_its_name_is_free() {
    let scene = Scene::new("orphans").await;
    let operator = scene.operator().await;
    scene.submit("orph", gang()).await;
    scene.until_phase("orph", SessionPhase::Running).await;
    let orphan = DeleteParams { propagation_policy: Some(PropagationPolicy::Orphan), ..DeleteParams::default() };
    scene.api::<Session>().delete("orph", &orphan).await.expect("the session can be deleted");
    scene.until_gone::<Session>("orph").await;
    eventually("nothing to be left", || async {
        let all = ListParams::default().labels(&format!("{LABEL_SESSION}=orph"));
        let error = |error: kube::Error| error.to_string();
        let kernels = scene.api::<Kernel>().list(&all).await.map_err(error)?.items.len();
        let services = scene.api::<Service>().list(&all).await.map_err(error)?.items.len();
        let secrets = scene.api::<Secret>().list(&all).await.map_err(error)?.items.len();
        let pods = scene.pods("orph").await.len();
        if kernels + services + secrets + pods == 0 {
            return Ok(());
        }
        Err(format!("{kernels} kernels, {services} Services, {secrets} Secrets, {pods} pods"))
    })
    .await;
    scene.submit("orph", gang()).await;
    scene.until_phase("orph", SessionPhase::Running).await;
    scene.end(operator).await;
}

#[tokio::test]
async fn the_service_of_a_released_session_does_not_block_a_new_session_of_that_name() {
    let scene = Scene::new("left").await;
    let operator = scene.operator().await;
    scene.submit("left", gang()).await;
    scene.until_phase("left", SessionPhase::Running).await;
    operator.stop().await;
    let sessions = scene.api::<Session>();
    let orphan = DeleteParams { propagation_policy: Some(PropagationPolicy::Orphan), ..DeleteParams::default() };
    sessions.delete("left", &orphan).await.expect("the session can be deleted");
    let released = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    sessions.patch_metadata("left", &PatchParams::default(), &released).await.expect("an admin may release it");
    scene.until_gone::<Session>("left").await;
    let operator = scene.operator().await;
    let new = scene.submit("left", gang()).await;
    scene.until("left", "running", |session| session.phase() == SessionPhase::Running && session.uid() == new.uid()).await;
    scene.end(operator).await;
}
