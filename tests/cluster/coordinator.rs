//! The coordinator on a real API server: hooks, commits with their history, Events, parallel scaling groups, metrics.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::TryStreamExt;
use k8s_openapi::api::core::v1::{ResourceQuota, Service};
use k8s_openapi::api::events::v1::Event;
use kube::api::{ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use sokovan::api::*;
use sokovan::cluster::session::hooks::{Hook, Hooks, Transition};
use sokovan::cluster::store::world::Scope;
use sokovan::lifecycle::Timing;
use sokovan::operator::Options;

use crate::common::{eventually, path, reason_is, unique};
use crate::scene::{Operator, Scene, fast, gang, kernel, unhurried};

/// The phases for which a hook has run.
type Phases = Arc<Mutex<Vec<SessionPhase>>>;

/// A hook that records its phases. It fails for the session `kept` and never returns for `silent`.
fn recording(on: fn(SessionPhase) -> bool) -> (Hook, Phases) {
    let phases = Phases::default();
    let recorded = phases.clone();
    let run = move |transition: Transition| {
        recorded.lock().unwrap().push(transition.to);
        async move {
            match transition.item.name() {
                "kept" => Err("as planned".to_owned()),
                "silent" => std::future::pending().await,
                _ => Ok(()),
            }
        }
    };
    (Hook::new("hearing", on, run), phases)
}

async fn until_recorded(recorded: &Phases, phases: &[SessionPhase]) {
    eventually(&format!("{phases:?} to be recorded"), || async {
        let recorded = recorded.lock().unwrap().clone();
        if recorded.len() >= phases.len() { Ok(()) } else { Err(format!("{recorded:?}")) }
    })
    .await;
    assert_eq!(*recorded.lock().unwrap(), phases);
}

fn to_running(to: SessionPhase) -> bool {
    to == SessionPhase::Running
}

async fn with_hooks(scene: &Scene, hooks: Hooks) -> Operator {
    scene.operator_with(Options { hooks, ..scene.options(&unique("operator")) }).await
}

#[tokio::test]
async fn sc_co_005_a_gate_hook_runs_for_each_session_before_running() {
    let scene = Scene::new("gate").await;
    let (gate, recorded) = recording(to_running);
    let operator = with_hooks(&scene, Hooks { gates: vec![gate], notices: vec![] }).await;
    for name in ["one", "two"] {
        scene.submit(name, json!({})).await;
        scene.until_phase(name, SessionPhase::Running).await;
    }
    assert_eq!(*recorded.lock().unwrap(), [SessionPhase::Running; 2]);
    scene.end(operator).await;
}

#[tokio::test]
async fn sc_co_006_a_failing_gate_hook_holds_only_its_session() {
    let scene = Scene::with("closed", 3, unhurried()).await;
    let (gate, _) = recording(to_running);
    let hooks = Hooks { gates: vec![gate], notices: vec![] };
    let timing = Timing { hook: Duration::from_millis(200), ..fast() };
    let operator = scene.operator_with(Options { hooks, timing, ..scene.options("gate") }).await;
    for name in ["kept", "silent", "passes"] {
        scene.submit(name, json!({})).await;
    }
    scene.until_phase("passes", SessionPhase::Running).await;
    for (name, why) in [("kept", "as planned"), ("silent", "no answer within 0.2 s")] {
        let kept = scene.until(name, "held by its hook", reason_is("HookFailed")).await.status.unwrap();
        assert_eq!(kept.phase, SessionPhase::Creating);
        let last = kept.history.last().unwrap();
        let words = format!("hook hearing keeps it from Running: {why}");
        assert!(last.message.contains(&words), "{}", last.message);
        assert_eq!(last.steps.last().map(|step| step.name.as_str()), Some("gate-hook"));
    }
    scene.end(operator).await;
}

#[tokio::test]
async fn sc_co_007_without_a_hook_every_session_passes() {
    let scene = Scene::new("nohook").await;
    let operator = with_hooks(&scene, Hooks { gates: vec![], notices: vec![] }).await;
    scene.submit("one", json!({})).await;
    scene.until_phase("one", SessionPhase::Running).await;
    scene.end(operator).await;
}

#[tokio::test]
async fn he_003_a_failing_notify_hook_changes_nothing() {
    let scene = Scene::new("notify").await;
    let (notice, recorded) = recording(to_running);
    let operator = with_hooks(&scene, Hooks { gates: vec![], notices: vec![notice] }).await;
    scene.submit("kept", json!({})).await;
    let before = scene.until_phase("kept", SessionPhase::Running).await.status.unwrap();
    until_recorded(&recorded, &[SessionPhase::Running]).await;
    scene.submit("other", json!({})).await;
    scene.until_phase("other", SessionPhase::Running).await;
    let after = scene.status("kept").await;
    assert_eq!((after.phase, after.reason, after.progress.history), (SessionPhase::Running, None, before.progress.history));
    scene.end(operator).await;
}

#[tokio::test]
async fn notify_hooks_run_once_for_each_phase_even_when_its_commit_is_deferred() {
    let scene = Scene::with("hears", 1, unhurried()).await;
    let (every, recorded) = recording(|_| true);
    let operator = with_hooks(&scene, Hooks { gates: vec![], notices: vec![every] }).await;
    scene.submit("one", json!({"kernels": [kernel("main", 1, &["sim", "no-image"])]})).await;
    scene.until_phase("one", SessionPhase::Pulling).await;
    let passed = [SessionPhase::Scheduled, SessionPhase::Preparing, SessionPhase::Pulling];
    until_recorded(&recorded, &passed).await;
    scene.end(operator).await;
    assert_eq!(*recorded.lock().unwrap(), passed, "no phase twice");
}

#[tokio::test]
async fn he_002_ending_a_session_releases_its_resources_and_removes_its_service() {
    let scene = Scene::new("cleans").await;
    let operator = scene.operator().await;
    scene.submit("three", gang()).await;
    let running = scene.until_phase("three", SessionPhase::Running).await.status.unwrap();
    assert_eq!(running.occupied.get("cpu").map(|cpu| cpu.amount()), Some(Amount::from_units(3)));
    scene.patch_spec("three", json!({"desiredState": "Terminated"})).await.expect("the change is accepted");
    let ended = scene.until_phase("three", SessionPhase::Terminated).await.status.unwrap();
    assert!(ended.occupied.is_empty());
    scene.until_gone::<Service>("ses-three").await;
    let keypairs = scene.all::<Keypair>();
    eventually("the keypair to be free again", || async {
        let status = keypairs.get(&scene.name).await.map_err(|error| error.to_string())?.status.unwrap_or_default();
        let used = status.resources.iter().any(|usage| usage.used.amount() != Amount::ZERO);
        if status.sessions_running == 0 && !used { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    scene.end(operator).await;
}

#[tokio::test]
async fn sc_co_008_every_version_of_a_session_has_a_phase_and_a_history_that_agree() {
    let scene = Scene::new("atomic").await;
    let sessions: Api<Session> = scene.api();
    let versions = sessions.watch(&WatchParams::default(), "0").await.expect("a watch");
    let operator = scene.operator().await;
    for name in ["one", "two"] {
        scene.submit(name, json!({})).await;
        scene.until_phase(name, SessionPhase::Running).await;
    }
    let mut versions = std::pin::pin!(versions);
    let (mut seen, mut running) = (0, 0);
    while running < 2 {
        let Some(event) = versions.try_next().await.expect("the watch continues") else { break };
        let (WatchEvent::Added(session) | WatchEvent::Modified(session)) = event else { continue };
        let Some(status) = session.status else { continue };
        let last = status.history.last().expect("a status has a history");
        assert_eq!(last.to, status.phase.as_str());
        assert_eq!(status.allocation.is_empty(), status.phase == SessionPhase::Pending);
        seen += 1;
        running += usize::from(status.phase == SessionPhase::Running);
    }
    assert!(seen >= 4 && running == 2, "{seen} versions, {running} of them running");
    scene.end(operator).await;
}

/// Returns the phases that an Event names, from the first to the last, and the session's creation id. None if the phase stayed.
fn transition(event: &Event) -> Option<(Vec<String>, String)> {
    let annotation = |name: &str| event.metadata.annotations.as_ref().and_then(|all| all.get(name)).cloned();
    let (from, to) = (annotation("sokovan.dev/from")?, annotation("sokovan.dev/to")?);
    let phases = event.note.as_deref()?.split(": ").next()?.split(" → ").map(str::to_owned).collect::<Vec<_>>();
    let agree = from != to && phases.first() == Some(&from) && phases.last() == Some(&to);
    agree.then_some((phases, annotation("sokovan.dev/creation-id")?))
}

#[tokio::test]
async fn sc_co_010_each_commit_publishes_one_event_that_names_every_transition() {
    let scene = Scene::new("events").await;
    let versions = scene.api::<Session>().watch(&WatchParams::default(), "0").await.expect("a watch");
    let operator = scene.operator().await;
    let mut named = scene.session("two", json!({}));
    named["metadata"]["annotations"] = json!({"sokovan.dev/creation-id": "c2"});
    let one = scene.submit("one", json!({})).await.metadata.uid.unwrap();
    let two = scene.create(named).await.expect("the session is accepted").metadata.uid.unwrap();
    let mut passed = HashMap::new();
    for name in ["one", "two"] {
        scene.until_phase(name, SessionPhase::Running).await;
        scene.patch_spec(name, json!({"desiredState": "Terminated"})).await.expect("the change is accepted");
        passed.insert(name, path(&scene.until_phase(name, SessionPhase::Terminated).await.status.unwrap()));
    }
    // The phases of each session at the API server, one for each commit that moved it.
    let mut committed: HashMap<String, Vec<String>> = HashMap::new();
    let mut versions = std::pin::pin!(versions);
    while committed.values().filter(|phases| phases.last().is_some_and(|last| last == "Terminated")).count() < 2 {
        let Some(event) = versions.try_next().await.expect("the watch continues") else { break };
        let (WatchEvent::Added(session) | WatchEvent::Modified(session)) = event else { continue };
        let phases = committed.entry(session.name_any()).or_default();
        phases.push(session.phase().as_str().to_owned());
        phases.dedup();
    }
    for (name, uid, creation) in [("one", &one, one.as_str()), ("two", &two, "c2")] {
        eventually("exactly one Event for each commit", || async {
            let about = ListParams::default().fields(&format!("regarding.uid={uid}"));
            let mut events = scene.api::<Event>().list(&about).await.map_err(|error| error.to_string())?.items;
            events.sort_by_key(|event| event.event_time.as_ref().map(|time| time.0));
            let published: Vec<_> = events.iter().filter_map(transition).collect();
            let ends: Vec<_> = published.iter().map(|(phases, _)| phases[phases.len() - 1].clone()).collect();
            let steps = published.iter().flat_map(|(phases, _)| &phases[1..]);
            let whole = steps.eq(&passed[name][1..]) && ends == committed[name][1..];
            let is_right = whole && published.iter().all(|(_, given)| given == creation);
            if is_right { Ok(()) } else { Err(format!("{published:?} instead of {:?}, {:?}", passed[name], committed[name])) }
        })
        .await;
    }
    scene.end(operator).await;
}

#[tokio::test]
async fn sc_co_011_two_scaling_groups_are_processed_in_parallel() {
    let scene = Scene::new("two").await;
    let other = unique("gpu");
    let spec = serde_json::to_value(
        Api::<ScalingGroup>::all(scene.client.clone()).get(&scene.name).await.expect("the scene's scaling group").spec,
    );
    scene.make::<ScalingGroup>(json!({"metadata": {"name": other}, "spec": spec.unwrap()})).await;
    let groups = vec![scene.name.clone().into(), other.clone().into()];
    // The handler holds its lock at the gate, which opens only once a session of each scaling group has reached it.
    let both = Arc::new(tokio::sync::Barrier::new(2));
    let run = move |_| {
        let both = both.clone();
        async move {
            both.wait().await;
            Ok(())
        }
    };
    let gate = Hook::new("barrier", |to| to == SessionPhase::Scheduled, run);
    let hooks = Hooks { gates: vec![gate], notices: vec![] };
    scene.submit("default", json!({})).await;
    scene.submit("gpu", json!({"scalingGroup": other})).await;
    let operator = scene.operator_with(Options { scope: Scope { groups }, hooks, ..scene.options("both") }).await;
    for (name, group) in [("default", &scene.name), ("gpu", &other)] {
        let status = scene.until_phase(name, SessionPhase::Running).await.status.unwrap();
        assert_eq!(status.scaling_group.as_ref().map(|group| group.as_str()), Some(group.as_str()));
        assert!(status.history.iter().all(|entry| entry.error_code.is_none()), "{:?}", status.history);
    }
    scene.end(operator).await;
}

#[tokio::test]
async fn sc_co_016_metrics_count_cycles_requests_and_commits_by_handler_scaling_group_and_result() {
    let scene = Scene::new("measured").await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let operator = scene.operator_with(Options { listen: Some(free), ..scene.options("measured") }).await;
    scene.submit("one", json!({})).await;
    scene.until_phase("one", SessionPhase::Running).await;
    let metrics = move || {
        let mut answer = String::new();
        let mut connection = std::net::TcpStream::connect(free)?;
        connection.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
        connection.read_to_string(&mut answer).map(|_| answer)
    };
    let answer = tokio::task::spawn_blocking(metrics).await.expect("no panic").expect("the operator answers");
    let group = &scene.name;
    for handler in ["schedule-sessions", "sweep-stale-kernels"] {
        for series in [
            format!("sokovan_handler_runs_total{{handler=\"{handler}\",group=\"{group}\",result=\"success\"}}"),
            format!("sokovan_handler_items_total{{handler=\"{handler}\",group=\"{group}\"}}"),
            format!("sokovan_cycle_seconds_count{{handler=\"{handler}\"}}"),
        ] {
            assert!(answer.contains(&series), "{series} is not in {answer}");
        }
    }
    for series in [
        "sokovan_api_requests_total{verb=\"update\",code=\"200\"}".to_owned(),
        "sokovan_api_requests_total{verb=\"watch\",code=\"200\"}".to_owned(),
        "sokovan_commits_total{kind=\"session\",result=\"written\"}".to_owned(),
        "sokovan_watch_lag_seconds{kind=\"Session\"}".to_owned(),
        "\nsokovan_lease_transitions{} ".to_owned(),
        format!("sokovan_tenant_used{{kind=\"keypair\",name=\"{group}\",resource=\"cpu\"}}"),
    ] {
        assert!(answer.contains(&series), "{series} is not in {answer}");
    }
    scene.end(operator).await;
}

#[tokio::test]
async fn st_003_a_session_without_its_image_is_pulling() {
    let scene = Scene::with("pulling", 1, unhurried()).await;
    let operator = scene.operator().await;
    scene.submit("one", json!({"kernels": [kernel("main", 1, &["sim", "no-image"])]})).await;
    let pulling = |session: &Session| session.phase() == SessionPhase::Pulling && reason_is("ImagePullFailed")(session);
    let status = scene.until("one", "pulling with its reason", pulling).await.status.unwrap();
    assert!(status.message.as_deref().is_some_and(|message| message.contains("main1 on")), "{:?}", status.message);
    scene.end(operator).await;
}

fn pods(count: i32) -> serde_json::Value {
    json!({"metadata": {"name": "pods"}, "spec": {"hard": {"pods": count.to_string()}}})
}

/// Creates a ResourceQuota of `count` pods and waits until it is in force.
async fn pod_quota(scene: &Scene, count: i32) -> Api<ResourceQuota> {
    let quotas: Api<ResourceQuota> = scene.api();
    quotas.create(&PostParams::default(), &serde_json::from_value(pods(count)).unwrap()).await.expect("a quota");
    eventually("the quota to be in force", || async {
        let quota = quotas.get("pods").await.map_err(|error| error.to_string())?;
        let hard = quota.status.and_then(|status| status.hard).unwrap_or_default();
        if hard.contains_key("pods") { Ok(()) } else { Err("not yet".into()) }
    })
    .await;
    quotas
}

#[tokio::test]
async fn st_006_one_refused_kernel_returns_the_whole_session_to_the_queue() {
    let scene = Scene::new("partial").await;
    let quotas = pod_quota(&scene, 2).await;
    let operator = scene.operator().await;
    scene.submit("three", gang()).await;
    // Kubernetes may exceed the quota while it recounts deleted pods. The gang then runs at its second attempt.
    let refused =
        |entry: &HistoryEntry| entry.error_code.map(|reason| reason.as_str()) == Some("NamespaceQuota") && entry.to == "Pending";
    let was_refused = |session: &Session| session.status.as_ref().is_some_and(|status| status.history.iter().any(refused));
    let status = scene.until("three", "refused by the ResourceQuota", was_refused).await.status.unwrap();
    assert_eq!(status.history.iter().find(|entry| refused(entry)).and_then(|entry| entry.cause), Some(Cause::Quota));
    assert!(status.phase != SessionPhase::Pending || status.allocation.is_empty(), "a waiting session holds no nodes");
    quotas.patch("pods", &PatchParams::default(), &Patch::Merge(pods(10))).await.expect("a larger quota");
    let status = scene.until_phase("three", SessionPhase::Running).await.status.unwrap();
    assert_eq!((status.resets, status.refusals), (0, 0));
    scene.end(operator).await;
}

#[tokio::test]
async fn st_006_one_kernel_that_cannot_start_keeps_the_whole_session_from_starting() {
    let often = json!({"retry": {"handlers": [{"handler": "start-sessions", "maxAttempts": 100}]}});
    let scene = Scene::with("closed", 3, often).await;
    scene.forbid_changes("three-sub1-").await;
    let operator = scene.operator().await;
    scene.submit("three", gang()).await;
    let status = scene.until("three", "held by a kernel that does not start", reason_is("EffectFailed")).await.status.unwrap();
    assert_eq!(status.phase, SessionPhase::Prepared);
    assert!(status.message.as_deref().is_some_and(|message| message.contains("three-sub1-")), "{:?}", status.message);
    scene.allow().await;
    let status = scene.until_phase("three", SessionPhase::Running).await.status.unwrap();
    assert_eq!((status.resets, scene.pods("three").await.len()), (0, 3));
    scene.end(operator).await;
}

#[tokio::test]
async fn a_resource_quota_for_one_gang_lets_two_gangs_run_in_turn() {
    let scene = Scene::new("oneofus").await;
    pod_quota(&scene, 4).await;
    let operator = scene.operator().await;
    for name in ["one", "other"] {
        scene.submit(name, gang()).await;
    }
    let first = eventually("one of the gangs to run", || async {
        for name in ["one", "other"] {
            if scene.status(name).await.phase == SessionPhase::Running {
                return Ok(name);
            }
        }
        Err("neither".to_owned())
    })
    .await;
    scene.delete(first).await;
    scene.until_phase(if first == "one" { "other" } else { "one" }, SessionPhase::Running).await;
    scene.end(operator).await;
}

#[tokio::test]
async fn the_status_of_a_keypair_shows_its_usage_and_limits() {
    let scene = Scene::new("usage").await;
    let keypairs = scene.all::<Keypair>();
    let policy = json!({"metadata": {"name": scene.name}, "spec": {"limits": {"cpu": 1}}});
    scene.make::<ResourcePolicy>(policy).await;
    let limited = Patch::Merge(json!({"spec": {"resourcePolicy": scene.name}}));
    keypairs.patch(&scene.name, &PatchParams::default(), &limited).await.expect("the keypair can be limited");
    let operator = scene.operator().await;
    scene.submit("one", json!({})).await;
    scene.until_phase("one", SessionPhase::Running).await;
    scene.submit("two", json!({})).await;
    scene.until("two", "refused", reason_is("QuotaExceeded")).await;
    eventually("the keypair's status to show its usage", || async {
        let status = keypairs.get(&scene.name).await.map_err(|error| error.to_string())?.status.unwrap_or_default();
        let cpu = status.resources.iter().find(|usage| usage.resource == "cpu");
        let shown = cpu.map(|usage| (usage.used.0.as_str(), usage.limit.as_ref().map(|limit| limit.0.as_str())));
        let right = (status.sessions_running, status.sessions_pending) == (1, 1) && shown == Some(("1", Some("1")));
        if right { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    scene.end(operator).await;
}
