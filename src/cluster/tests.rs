//! Tests of commits, effects, the overlay and the lease on a fake API server, in milliseconds.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::commit::Committer;
use super::fake::{Answer, Fake};
use super::lease::{Candidate, Leadership};
use super::session::effects::{EffectContext, Effects};
use super::session::pods::PodOptions;
use super::store::identity::uid_of;
use super::store::world::{Scope, World};
use super::write::{Fence, Writer, boot_millis};
use crate::api::*;
use crate::coordinator::host::{AfterCommit, Committed};
use crate::coordinator::marks::Mark;
use crate::lifecycle::{EffectError, LeaseTiming, Timing};
use crate::metrics::Metrics;
use crate::session::effect::{Effect, PodRef};
use crate::session::handlers::HandlerName;
use crate::session::handlers::testing::{put, session, session_in};
use crate::session::sessions::Sessions;

/// Returns a writer that holds the lease for a minute, or does not hold it.
fn writer(fake: &Fake, leads: bool) -> Writer {
    let fence = Fence::default();
    if leads {
        fence.open_until(boot_millis() + 60_000);
    }
    Writer::new(fake.client(), fence, Duration::from_millis(50), Metrics::default())
}

fn world_with(session: Session) -> (Arc<World>, Arc<Session>) {
    let world = Arc::new(World::new(Arc::default(), Scope::default()));
    let session = world.upsert_session(session);
    (world, session)
}

/// Returns a pending session of version 1.
fn waiting() -> Session {
    let mut session = session_in(SessionPhase::Pending);
    session.metadata.resource_version = Some("1".into());
    session.metadata.generation = Some(1);
    session
}

fn scheduled(session: &Session) -> SessionStatus {
    let mut next = session.clone();
    put(&mut next, SessionPhase::Scheduled, TimeDelta::zero());
    next.status.expect("a status")
}

/// Commits that a pending session is scheduled. Returns the outcome, the requests, and the phase in the store afterwards.
async fn commit(answers: Vec<Answer>) -> (Committed<Sessions>, Vec<String>, SessionPhase) {
    let fake = Fake::new(answers);
    let (world, session) = world_with(waiting());
    let timing = Arc::new(Timing { coalesce: Duration::from_millis(1), ..Timing::default() });
    let committer = Committer { writer: writer(&fake, true), world: world.clone(), timing };
    let status = scheduled(&session);
    let committed = committer.commit::<Sessions>(&session, &session, status).await;
    let phase = world.lock().session(&uid_of(&session)).expect("it is known").phase();
    (committed, fake.requests(), phase)
}

fn as_json(session: &Session) -> Value {
    serde_json::to_value(session).expect("JSON")
}

const CONFLICT: Answer = Answer::Fail(409, "Conflict", "the object has been modified");

#[tokio::test]
async fn a_commit_is_one_write_and_is_in_the_store_at_once() {
    let (committed, requests, phase) = commit(vec![Answer::Accept(2)]).await;
    assert!(matches!(committed, Committed::Done(_)));
    assert_eq!((requests, phase), (vec!["PUT s/status".to_owned()], SessionPhase::Scheduled));
}

#[tokio::test]
async fn a_conflict_with_a_change_that_matters_drops_the_commit() {
    let mut changed = waiting();
    changed.metadata.resource_version = Some("2".into());
    changed.metadata.generation = Some(2);
    let (committed, _, phase) = commit(vec![CONFLICT, Answer::Object(as_json(&changed))]).await;
    assert!(matches!(committed, Committed::Dropped(_)));
    assert_eq!(phase, SessionPhase::Pending, "nothing is assumed any more");
}

#[tokio::test]
async fn after_a_conflict_with_an_annotation_the_status_is_sent_as_a_patch() {
    let mut annotated = waiting();
    annotated.metadata.resource_version = Some("2".into());
    annotated.metadata.annotations = Some([("a".to_owned(), "b".to_owned())].into());
    let mut written = annotated.clone();
    written.metadata.resource_version = Some("3".into());
    written.status = Some(scheduled(&annotated));
    let answers = vec![CONFLICT, Answer::Object(as_json(&annotated)), Answer::Object(as_json(&written))];
    let (committed, requests, phase) = commit(answers).await;
    assert!(matches!(committed, Committed::Done(_)));
    assert_eq!((requests.last().map(String::as_str), phase), (Some("PATCH s/status"), SessionPhase::Scheduled));
}

#[tokio::test]
async fn a_write_of_unknown_outcome_is_sent_again_and_found_done() {
    let mut written = waiting();
    written.metadata.resource_version = Some("2".into());
    written.status = Some(scheduled(&written));
    let (committed, requests, phase) = commit(vec![Answer::Never, CONFLICT, Answer::Object(as_json(&written))]).await;
    assert!(matches!(committed, Committed::Done(_)), "the first write was done, its answer lost");
    assert_eq!(requests, ["PUT s/status", "PUT s/status", "GET sessions/s"]);
    assert_eq!(phase, SessionPhase::Scheduled);
}

#[tokio::test]
async fn a_status_that_is_too_large_is_refused_and_not_sent_again() {
    let (committed, requests, phase) = commit(vec![Answer::Fail(413, "RequestEntityTooLarge", "too large")]).await;
    assert!(matches!(committed, Committed::Refused(_)));
    assert_eq!((requests.len(), phase), (1, SessionPhase::Pending));
}

#[tokio::test]
async fn without_the_lease_a_commit_is_not_sent_and_its_allocation_stays_reserved() {
    let fake = Fake::default();
    let (world, session) = world_with(waiting());
    let committer = Committer { writer: writer(&fake, false), world: world.clone(), timing: Arc::default() };
    let write = committer.commit::<Sessions>(&session, &session, scheduled(&session));
    assert!(tokio::time::timeout(Duration::from_millis(50), write).await.is_err(), "the process ends, or leads again");
    assert!(fake.requests().is_empty());
    assert_eq!(world.lock().session(&uid_of(&session)).expect("it is known").phase(), SessionPhase::Scheduled);
}

#[tokio::test]
async fn sc_co_023_a_session_that_changes_its_phase_renews_the_usage_of_its_tenants() {
    let (world, session) = world_with(waiting());
    let renewed = || async { tokio::time::timeout(Duration::from_millis(10), world.usage_to_publish()).await.is_ok() };
    while renewed().await {}
    let mut next = (*session).clone();
    next.metadata.resource_version = Some("2".into());
    next.status = Some(scheduled(&session));
    world.upsert_session(next);
    assert!(renewed().await);
}

#[tokio::test]
async fn sc_co_024_a_change_that_no_decision_depends_on_renews_no_usage() {
    let (world, session) = world_with(waiting());
    let renewed = || async { tokio::time::timeout(Duration::from_millis(10), world.usage_to_publish()).await.is_ok() };
    while renewed().await {}
    let mut next = (*session).clone();
    next.metadata.resource_version = Some("2".into());
    next.metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
    world.upsert_session(next);
    assert!(!renewed().await);
}

/// Defers a commit that makes the session Prepared.
fn defer(world: &World, session: &Session) {
    let mut next = session.clone();
    put(&mut next, SessionPhase::Preparing, TimeDelta::zero());
    let results = vec![(HandlerName::CheckPrecondition, HistoryResult::Success)];
    world.defer(&Arc::new(next), session, AfterCommit { results, ..AfterCommit::default() });
}

#[test]
fn a_deferred_commit_counts_until_somebody_changes_the_session() {
    let (world, session) = world_with(waiting());
    let uid = uid_of(&session);
    defer(&world, &session);
    let phase = || world.lock().session(&uid).expect("it is known").phase();
    assert_eq!(phase(), SessionPhase::Preparing);
    assert!(world.is_deferred(&uid, HandlerName::CheckPrecondition) && !world.is_deferred(&uid, HandlerName::StartSessions));
    let mut labelled = (*session).clone();
    labelled.metadata.resource_version = Some("2".into());
    labelled.metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
    let labelled = world.upsert_session(labelled);
    assert_eq!(phase(), SessionPhase::Preparing, "a label changes no decision");
    assert_eq!(world.lock().session(&uid).expect("it is known").metadata.labels, labelled.metadata.labels);
    let mut ended = (*labelled).clone();
    ended.metadata.resource_version = Some("3".into());
    ended.metadata.generation = Some(2);
    world.upsert_session(ended);
    assert_eq!((phase(), world.deferred(&Mark::all()).len()), (SessionPhase::Pending, 0), "it would hide the change");
}

#[test]
fn a_deferred_commit_of_a_claimed_session_is_left_to_its_handler() {
    let (world, session) = world_with(waiting());
    let uid = uid_of(&session);
    defer(&world, &session);
    let _claim = world.claim_one(&uid).expect("it is free");
    let mut ended = (*session).clone();
    ended.metadata.resource_version = Some("2".into());
    ended.metadata.generation = Some(2);
    world.upsert_session(ended);
    assert!(world.take_deferred(&uid).is_some(), "its commit will conflict");
}

#[test]
fn a_commit_deferred_on_an_older_session_evaluates_it_again() {
    let (world, old) = world_with(waiting());
    let mut newer = (*old).clone();
    newer.metadata.resource_version = Some("2".into());
    newer.metadata.generation = Some(2);
    world.upsert_session(newer);
    world.marks.handlers.take(HandlerName::ScheduleSessions);
    defer(&world, &old);
    assert!(world.deferred(&Mark::all()).is_empty());
    assert!(world.marks.handlers.take(HandlerName::ScheduleSessions).covers(&uid_of(&old)));
}

/// Runs one effect for a session of three kernels.
async fn run(effect: Effect, answers: Vec<Answer>) -> (Result<(), EffectError>, Vec<String>) {
    let fake = Fake::new(answers);
    let (world, session) = world_with(waiting());
    let options = PodOptions { gate_image: "gate".into(), cluster_domain: "cluster.local".into(), cluster_dns: None };
    let effects = Effects { writer: writer(&fake, true), world, options: Arc::new(options) };
    let context =
        EffectContext { namespace: "ns".into(), session: Some(session), group: None, group_name: Some("default".into()) };
    (effects.run(&context, &effect).await, fake.requests())
}

fn service(owner: &str) -> Value {
    let owners = json!([{"apiVersion": "sokovan.dev/v1alpha1", "kind": "Session", "name": "s", "uid": owner}]);
    json!({"metadata": {"name": "ses-s", "namespace": "ns", "uid": "uid-service", "labels": {"sokovan.dev/session-uid": "uid-s"}, "ownerReferences": owners}})
}

const EXISTS: Answer = Answer::Fail(409, "AlreadyExists", "it exists");

#[tokio::test]
async fn creating_an_object_that_exists_succeeds_only_if_the_object_is_ours() {
    let (ours, _) = run(Effect::CreateService, vec![EXISTS, Answer::Object(service("uid-s"))]).await;
    assert!(ours.is_ok());
    let mut forged = service("uid-s");
    forged["metadata"]["labels"] = json!({});
    let (forged, _) = run(Effect::CreateService, vec![EXISTS, Answer::Object(forged.clone()), Answer::Object(forged)]).await;
    assert!(matches!(forged, Err(EffectError::Wait(_))), "anybody may write any owner");
    let foreign = vec![EXISTS, Answer::Object(service("other")), Answer::Object(service("other"))];
    let (foreign, _) = run(Effect::CreateService, foreign).await;
    assert!(matches!(foreign, Err(EffectError::Wait(_))));
    let mut leaving = service("uid-s");
    leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let leaving = vec![EXISTS, Answer::Object(leaving.clone()), Answer::Object(leaving)];
    assert!(matches!(run(Effect::CreateService, leaving).await.0, Err(EffectError::Wait(_))));
}

#[tokio::test]
async fn a_full_resource_quota_is_a_failure_of_cause_quota_and_other_refusals_are_faults() {
    let create = |message| run(Effect::CreateService, vec![Answer::Fail(403, "Forbidden", message)]);
    for refusal in ["exceeded quota: pods", "status unknown for quota: pods", "insufficient quota to consume: pods"] {
        let Err(EffectError::Failed(failure)) = create(refusal).await.0 else { panic!("a failure") };
        assert_eq!((failure.cause, failure.reason), (Cause::Quota, Reason::NamespaceQuota));
    }
    let Err(EffectError::Failed(failure)) = create("not allowed").await.0 else { panic!("a failure") };
    assert_eq!((failure.cause, failure.reason), (Cause::Fault, Reason::EffectFailed));
}

#[tokio::test]
async fn deleting_an_object_that_is_gone_succeeds_and_a_busy_server_is_asked_again() {
    let pod = || PodRef { namespace: "ns".into(), name: "p".into(), uid: "u".into() };
    let delete = || Effect::DeletePod { pod: pod(), grace: Some(0) };
    let (gone, requests) = run(delete(), vec![Answer::Fail(404, "NotFound", "no such pod")]).await;
    assert!(gone.is_ok() && requests == ["DELETE pods/p"]);
    let (busy, _) = run(delete(), vec![Answer::Fail(429, "TooManyRequests", "later")]).await;
    assert!(matches!(busy, Err(EffectError::Again(_))));
    let (silent, _) = run(delete(), vec![Answer::Never]).await;
    assert!(matches!(silent, Err(EffectError::Failed(_))), "an unknown outcome is tried again");
}

#[tokio::test]
async fn an_absence_is_confirmed_by_a_read() {
    let confirm = || Effect::ConfirmNoPod("p".into());
    assert!(run(confirm(), vec![Answer::Fail(404, "NotFound", "no such pod")]).await.0.is_ok());
    let there = json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": {"containers": []}});
    assert!(matches!(run(confirm(), vec![Answer::Object(there)]).await.0, Err(EffectError::Again(_))));
}

const LEASE: LeaseTiming = LeaseTiming {
    duration: Duration::from_millis(1500),
    renew: Duration::from_millis(10),
    retry: Duration::from_millis(50),
    request: Duration::from_millis(200),
    margin: Duration::from_millis(100),
};

fn lease(holder: &str, version: u32) -> Answer {
    let meta = json!({"name": "l", "namespace": "n", "resourceVersion": version.to_string()});
    Answer::Object(json!({"metadata": meta, "spec": {"holderIdentity": holder}}))
}

/// Starts a candidate on this API server. Returns its fence, its leadership, and the sender of its stop signal.
fn candidate(fake: &Fake) -> (Fence, watch::Receiver<Leadership>, watch::Sender<bool>) {
    let fence = Fence::default();
    let candidate = Candidate::new(fake.client(), "n", "l", "me", LEASE, fence.clone(), Metrics::default());
    let (leads, leadership) = watch::channel(Leadership::Standby);
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(candidate.run(leads, stopped));
    (fence, leadership, stop)
}

#[tokio::test]
async fn a_candidate_creates_the_lease_and_loses_it_when_another_takes_it() {
    let taken = [Answer::Fail(404, "NotFound", "no lease"), lease("me", 1), CONFLICT, lease("other", 2)];
    let fake = Fake::new(taken);
    let (fence, mut leadership, _stop) = candidate(&fake);
    leadership.wait_for(|now| *now == Leadership::Leading).await.expect("it runs");
    leadership.wait_for(|now| *now == Leadership::Lost).await.expect("it runs");
    assert!(fence.remaining().is_none());
    assert_eq!(fake.requests(), ["GET leases/l", "POST n/leases", "PUT leases/l", "GET leases/l"]);
}

#[tokio::test]
async fn a_leader_keeps_the_lease_when_the_answer_to_a_renewal_is_lost() {
    let fake =
        Fake::new([Answer::Fail(404, "NotFound", ""), lease("me", 1), Answer::Never, CONFLICT, lease("me", 2), lease("me", 3)]);
    let (fence, mut leadership, stop) = candidate(&fake);
    leadership.wait_for(|now| *now == Leadership::Leading).await.expect("it runs");
    while fake.requests().len() < 6 {
        assert!(fence.remaining().is_some(), "it leads all the time");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(*leadership.borrow(), Leadership::Leading);
    stop.send(true).expect("it runs");
}

#[tokio::test]
async fn writes_end_before_a_lease_that_cannot_be_renewed_expires() {
    let silence = std::iter::repeat_with(|| Answer::Never).take(100);
    let fake = Fake::new([Answer::Fail(404, "NotFound", ""), lease("me", 1)].into_iter().chain(silence));
    let (fence, mut leadership, _stop) = candidate(&fake);
    leadership.wait_for(|now| *now == Leadership::Leading).await.expect("it runs");
    let left = fence.remaining().expect("it may write");
    assert!(left <= LEASE.duration - LEASE.margin, "{left:?}");
    leadership.wait_for(|now| *now == Leadership::Lost).await.expect("it runs");
    assert!(fence.remaining().is_none());
}

#[tokio::test]
async fn a_standby_takes_a_lease_that_has_not_changed_for_its_duration_regardless_of_the_holders_clock() {
    let unchanged = std::iter::repeat_with(|| lease("other", 7)).take(100);
    let fake = Fake::new([lease("other", 6)].into_iter().chain(unchanged));
    let (_, mut leadership, _stop) = candidate(&fake);
    leadership.wait_for(|now| *now == Leadership::Leading).await.expect("it runs");
    let reads = fake.requests().iter().filter(|request| request.starts_with("GET")).count();
    assert!(reads > 2, "it watched the lease for its duration: {reads} reads");
}

#[tokio::test]
async fn an_operator_that_stops_releases_its_lease() {
    let fake = Fake::new([Answer::Fail(404, "NotFound", ""), lease("me", 1), lease("", 2)]);
    let (fence, mut leadership, stop) = candidate(&fake);
    leadership.wait_for(|now| *now == Leadership::Leading).await.expect("it runs");
    stop.send(true).expect("it runs");
    while fake.requests().len() < 3 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(fence.remaining().is_none());
    assert_eq!(fake.requests()[2], "PUT leases/l");
}

#[test]
fn a_session_without_nodes_holds_no_resources() {
    let (world, _) = world_with(session(json!({})));
    assert!(world.lock().index.holding().is_empty());
}
