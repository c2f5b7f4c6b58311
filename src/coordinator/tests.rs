//! The engine on a host of a map: lamps instead of a cluster, in milliseconds.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kube::ResourceExt;
use tokio::sync::Notify;

use super::Coordinator;
use super::cycle::take_lock;
use super::decide::decide;
use super::hooks::{Hook, Hooks, Transition};
use super::host::{AfterCommit, Batch, Committed, Event, EventReason, Host};
use super::locks::Locks;
use super::marks::{HandlerMarks, Mark};
use super::{Claim, Claims};
use crate::api::{Cause, HistoryResult, Reason};
use crate::lifecycle::lamps::{
    BREAK, EXPLODES, LIGHT, Lamp, LampEffect, LampHandler, LampItem, LampPhase, LampStatus, Lamps, NO_POWER, PLUG, Room,
    SHATTERS, WARM, item, lamp, room,
};
use crate::lifecycle::{EffectError, Failure, Handler, Outcome, Subject, Timing, Trigger};
use crate::metrics::{Metrics, RunResult};

/// What the host is to answer next.
enum Answer {
    Conflict,
    Refuse,
    /// The outcome stays unknown until this is notified.
    Unknown(Arc<Notify>),
}

#[derive(Default)]
struct State {
    lamps: BTreeMap<String, Arc<Lamp>>,
    assumed: HashMap<String, Arc<Lamp>>,
    deferred: HashMap<String, AfterCommit<Lamps>>,
    commits: VecDeque<Answer>,
    effects: VecDeque<EffectError>,
    ran: Vec<LampEffect>,
    events: Vec<Event<Lamps>>,
    quarantined: Vec<String>,
    writes: usize,
    power: i64,
    is_busy: bool,
}

struct Map {
    state: Mutex<State>,
    claims: Arc<Claims<Lamps>>,
    timing: Arc<Timing>,
}

impl Map {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds this")
    }

    // Each takes the lock for itself, so that one statement may use several.
    fn writes(&self) -> usize {
        self.lock().writes
    }

    fn events(&self) -> usize {
        self.lock().events.len()
    }

    fn deferrals(&self) -> usize {
        self.lock().deferred.len()
    }

    fn ran(&self) -> usize {
        self.lock().ran.len()
    }

    fn power(&self) -> i64 {
        self.lock().power
    }

    fn status(&self, name: &str) -> LampStatus {
        self.lock().lamps[name].status.clone().expect("a status")
    }

    fn phase(&self, name: &str) -> LampPhase {
        self.status(name).progress.phase
    }

    /// The results in the history of a lamp.
    fn history(&self, name: &str) -> Vec<(String, HistoryResult)> {
        self.status(name).progress.history.into_iter().map(|entry| (entry.handler, entry.result)).collect()
    }
}

impl Host<Lamps> for Map {
    fn claim(&self, handler: &'static Handler<Lamps>, mark: &Mark<String>) -> Vec<Batch<Lamps>> {
        let state = self.lock();
        let mut batch = Batch { snapshot: Room { timing: self.timing.clone(), ..room() }, items: vec![], claims: vec![] };
        for (uid, stored) in state.lamps.iter().filter(|(uid, _)| mark.covers(uid)) {
            let lamp = state.assumed.get(uid).unwrap_or(stored).clone();
            let phase = lamp.status.as_ref().map(|status| status.progress.phase).unwrap_or_default();
            if handler.targets.contains(&phase)
                && let Some(claim) = self.claims.claim_or_wait(uid, handler.name, || Mark::of([uid.clone()]))
            {
                batch.items.push(LampItem { lamp, stored: stored.clone() });
                batch.claims.push(claim);
            }
        }
        if batch.items.is_empty() { vec![] } else { vec![batch] }
    }

    fn claim_one(&self, uid: &String) -> Option<Claim<Lamps>> {
        self.claims.try_claim(uid)
    }

    fn look_again(&self, uid: &String) -> Option<(Room, LampItem)> {
        let state = self.lock();
        let stored = state.lamps.get(uid)?.clone();
        let lamp = state.assumed.get(uid).unwrap_or(&stored).clone();
        Some((Room { timing: self.timing.clone(), ..room() }, LampItem { lamp, stored }))
    }

    fn shared(&self) -> i64 {
        self.lock().power
    }

    fn keep(&self, shared: i64) {
        self.lock().power = shared;
    }

    async fn run(&self, _: &Room, _: &LampItem, effect: &LampEffect) -> Result<(), EffectError> {
        let mut state = self.lock();
        if *effect == LampEffect::Turn
            && let Some(error) = state.effects.pop_front()
        {
            return Err(error);
        }
        state.ran.push(effect.clone());
        Ok(())
    }

    async fn commit(&self, item: &LampItem, _: &Arc<Lamp>, next: LampStatus) -> Committed<Lamps> {
        let uid = item.lamp.name_any();
        let answer = self.lock().commits.pop_front();
        match answer {
            Some(Answer::Conflict) => return Committed::Dropped("it changed".into()),
            Some(Answer::Refuse) => return Committed::Refused("it is too large".into()),
            Some(Answer::Unknown(known)) => known.notified().await,
            None => {}
        }
        let mut written = (*item.lamp).clone();
        written.status = Some(next);
        let written = Arc::new(written);
        let mut state = self.lock();
        state.writes += 1;
        state.assumed.remove(&uid);
        state.lamps.insert(uid, written.clone());
        Committed::Done(written)
    }

    fn defer(&self, lamp: &Arc<Lamp>, _: &Lamp, after: AfterCommit<Lamps>) {
        let mut state = self.lock();
        state.deferred.entry(lamp.name_any()).or_default().append(after);
        state.assumed.insert(lamp.name_any(), lamp.clone());
    }

    fn deferred(&self, mark: &Mark<String>) -> Vec<String> {
        self.lock().deferred.keys().filter(|uid| mark.covers(uid)).cloned().collect()
    }

    fn is_deferred(&self, uid: &String, handler: LampHandler) -> bool {
        self.lock().deferred.get(uid).is_some_and(|after| after.has_done(handler))
    }

    fn take_deferred(&self, uid: &String) -> Option<AfterCommit<Lamps>> {
        self.lock().deferred.remove(uid)
    }

    fn quarantine(&self, uid: &String, _: Duration) {
        self.lock().quarantined.push(uid.clone());
    }

    fn is_busy(&self) -> bool {
        self.lock().is_busy
    }

    fn publish(&self, event: Event<Lamps>) {
        self.lock().events.push(event);
    }
}

type Engine = Coordinator<Lamps, Map>;

/// An engine with these lamps.
fn engine_with(timing: Timing, hooks: Hooks<Lamps, Map>, lamps: Vec<Lamp>) -> (Arc<Map>, Engine) {
    let (marks, timing) = (Arc::new(HandlerMarks::default()), Arc::new(timing));
    let claims = Arc::new(Claims::new(marks.clone()));
    let lamps = lamps.into_iter().map(|lamp| (lamp.name_any(), Arc::new(lamp))).collect();
    let state = Mutex::new(State { lamps, ..State::default() });
    let map = Arc::new(Map { state, claims, timing: timing.clone() });
    let engine = Coordinator::new(map.clone(), marks, timing, Metrics::default(), hooks);
    (map, engine)
}

fn no_hooks() -> Hooks<Lamps, Map> {
    Hooks { gates: vec![], notices: vec![] }
}

fn engine(lamps: Vec<Lamp>) -> (Arc<Map>, Engine) {
    engine_with(Timing::default(), no_hooks(), lamps)
}

async fn run(engine: &Engine, handler: &'static Handler<Lamps>) {
    assert!(engine.cycle(handler, Mark::all()).await.is_none(), "nothing is left to do");
}

#[tokio::test]
async fn sc_co_008_a_step_is_one_write_with_phase_history_condition_and_event() {
    let (map, engine) = engine(vec![lamp("a", 60, LampPhase::Warm)]);
    map.lock().power = 10;
    run(&engine, &LIGHT).await;
    let progress = map.status("a").progress;
    assert_eq!((progress.phase, map.writes(), map.power()), (LampPhase::Lit, 1, 9));
    let entry = progress.history.last().expect("an entry");
    assert_eq!((entry.from.as_str(), entry.to.as_str(), entry.attempts), ("Warm", "Lit", 1));
    assert_eq!(progress.conditions[0].type_, "Bright");
    let event = map.lock().events.pop().expect("an Event");
    assert_eq!((event.reason, event.note().as_str(), event.warning), (EventReason::Reached(LampPhase::Lit), "Warm → Lit", false));
    assert!(!map.claims.is_claimed(&"a".to_owned()));
}

#[tokio::test]
async fn a_deferred_step_is_written_with_the_next_one_and_history_lists_both() {
    let (map, engine) = engine(vec![lamp("a", 60, LampPhase::Off)]);
    run(&engine, &PLUG).await;
    assert_eq!((map.phase("a"), map.writes()), (LampPhase::Off, 0), "it is not written yet");
    assert!(engine.marks.is_marked(LampHandler::Warm), "it counts all the same");
    assert!(map.lock().events.is_empty());
    run(&engine, &PLUG).await;
    assert_eq!(map.lock().ran, [LampEffect::Plug, LampEffect::Turn], "its effects are not repeated");
    run(&engine, &WARM).await;
    assert_eq!((map.phase("a"), map.writes()), (LampPhase::Warm, 1));
    let both = [("Plug".to_owned(), HistoryResult::Success), ("Warm".to_owned(), HistoryResult::Success)];
    assert_eq!(map.history("a"), both);
    assert!(map.status("a").progress.history.iter().all(|entry| entry.steps.is_empty()), "nothing failed");
    let notes: Vec<String> = map.lock().events.iter().map(Event::note).collect();
    assert_eq!(notes, ["Off → Plugged → Warm"], "one Event for the one write");
    assert!(map.lock().deferred.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_deferred_step_that_nothing_follows_is_written_by_itself() {
    let (map, engine) = engine(vec![lamp("a", 60, LampPhase::Off)]);
    run(&engine, &PLUG).await;
    let claim = map.claim_one(&"a".to_owned()).expect("it is free");
    engine.commit_deferred("a".into()).await;
    assert_eq!(map.writes(), 0, "another handler is at work");
    drop(claim);
    engine.commit_deferred("a".into()).await;
    assert_eq!((map.phase("a"), map.writes()), (LampPhase::Plugged, 1));
    engine.commit_deferred("a".into()).await;
    assert_eq!(map.writes(), 1, "once");
}

#[tokio::test]
async fn the_steps_of_an_object_that_is_leaving_are_written_only_if_it_takes_long() {
    let mut leaving = lamp("a", 60, LampPhase::Warm);
    leaving.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Default::default()));
    let (map, engine) = engine(vec![leaving]);
    run(&engine, &LIGHT).await;
    assert_eq!((map.writes(), map.deferrals()), (0, 1), "LIGHT is never deferred otherwise");
    engine.commit_deferred("a".into()).await;
    assert_eq!((map.writes(), map.phase("a")), (1, LampPhase::Lit), "it has taken long");
}

#[tokio::test]
async fn a_conflict_counts_no_attempt_and_evaluates_the_object_again() {
    let (map, engine) = engine(vec![lamp("a", 60, LampPhase::Warm)]);
    map.lock().commits.push_back(Answer::Conflict);
    run(&engine, &LIGHT).await;
    assert_eq!((map.phase("a"), map.history("a")), (LampPhase::Warm, vec![]));
    assert!(map.lock().events.is_empty());
    assert!(engine.marks.take(LampHandler::Light).urgent.contains("a"));
    run(&engine, &LIGHT).await;
    assert_eq!(map.phase("a"), LampPhase::Lit);
}

#[tokio::test]
async fn a_refused_status_sets_its_object_aside_and_an_event_says_so() {
    let (map, engine) = engine(vec![lamp("a", 60, LampPhase::Warm), lamp("b", 60, LampPhase::Warm)]);
    map.lock().commits.push_back(Answer::Refuse);
    run(&engine, &LIGHT).await;
    assert_eq!((map.phase("a"), map.phase("b")), (LampPhase::Warm, LampPhase::Lit));
    assert_eq!(map.lock().quarantined, ["a"]);
    let refused = EventReason::Reason(Reason::StatusRefused);
    assert!(map.lock().events.iter().any(|event| event.reason == refused && event.warning && event.object.name_any() == "a"));
}

#[tokio::test(start_paused = true)]
async fn a_write_of_unknown_outcome_stops_no_cycle_and_keeps_its_claim() {
    let (map, engine) = engine(vec![lamp("a", 60, LampPhase::Warm)]);
    let known = Arc::new(Notify::new());
    map.lock().commits.push_back(Answer::Unknown(known.clone()));
    let rest = engine.cycle(&LIGHT, Mark::all()).await.expect("the write is not done");
    map.lock().lamps.insert("b".into(), Arc::new(lamp("b", 60, LampPhase::Warm)));
    run(&engine, &LIGHT).await;
    assert_eq!((map.phase("a"), map.phase("b")), (LampPhase::Warm, LampPhase::Lit));
    assert!(map.claims.is_claimed(&"a".to_owned()));
    assert!(!engine.marks.is_marked(LampHandler::Light));
    known.notify_one();
    rest.await;
    assert_eq!(map.phase("a"), LampPhase::Lit);
    assert!(engine.marks.take(LampHandler::Light).covers(&"a".to_owned()), "the cycle in between waited for it");
}

#[tokio::test]
async fn without_the_lease_nothing_is_recorded_and_the_object_is_tried_again() {
    let (map, engine) = engine(vec![lamp("a", 60, LampPhase::Off)]);
    map.lock().effects.push_back(EffectError::Fenced);
    run(&engine, &PLUG).await;
    assert_eq!((map.writes(), map.deferrals()), (0, 0));
    run(&engine, &PLUG).await;
    assert_eq!(map.deferrals(), 1);
}

#[tokio::test]
async fn an_effect_that_fails_is_an_attempt_and_too_many_are_given_up() {
    let (map, engine) = engine(vec![lamp("a", 60, LampPhase::Off)]);
    for attempt in 1..=3 {
        map.lock().effects.push_back(EffectError::Failed(Failure::fault(Reason::EffectFailed, "no socket")));
        let urgent = Mark::urgent("a".to_owned());
        assert!(engine.cycle(&PLUG, urgent).await.is_none());
        let progress = map.status("a").progress;
        let last = progress.history.iter().rfind(|entry| entry.handler == "Plug").expect("an entry");
        let (result, attempts) = if attempt < 3 { (HistoryResult::NeedRetry, attempt) } else { (HistoryResult::GiveUp, 1) };
        assert_eq!((last.result, last.attempts, last.cause), (result, attempts, Some(Cause::Fault)));
        let steps: Vec<_> = last.steps.iter().map(|step| (step.name.as_str(), step.error_code)).collect();
        assert_eq!(steps, [("plug", None), ("turn", Some(Reason::EffectFailed))]);
        match attempt {
            3 => assert_eq!((progress.phase, progress.reason), (LampPhase::Fading, Some(Reason::ExceededMaxRetries))),
            _ => assert_eq!((progress.phase, progress.next_attempt_at.is_some()), (LampPhase::Off, true)),
        }
    }
    let warnings = map.lock().events.iter().filter(|event| event.warning).count();
    assert_eq!(warnings, 2, "equal failures are one Event; the last leads on");
}

#[tokio::test]
async fn a_fault_pauses_its_handler_until_its_time_and_an_urgent_mark_ends_the_pause() {
    let (map, engine) = engine(vec![lamp("a", 60, LampPhase::Off)]);
    map.lock().effects.push_back(EffectError::Failed(Failure::fault(Reason::EffectFailed, "no socket")));
    run(&engine, &PLUG).await;
    assert_eq!(map.ran(), 1, "the first effect only");
    run(&engine, &PLUG).await;
    assert_eq!(map.ran(), 1, "it is paused");
    assert!(engine.cycle(&PLUG, Mark::urgent("a".to_owned())).await.is_none());
    assert_eq!(map.ran(), 3);
}

#[tokio::test]
async fn an_effect_that_passes_by_itself_is_tried_again_and_a_taken_name_is_a_skip() {
    let (map, engine) = engine(vec![lamp("a", 60, LampPhase::Off)]);
    map.lock().effects.push_back(EffectError::Again("busy".into()));
    run(&engine, &PLUG).await;
    assert_eq!((map.writes(), map.history("a")), (0, vec![]));
    map.lock().effects.push_back(EffectError::Wait("another socket is in the way".into()));
    run(&engine, &PLUG).await;
    assert_eq!(map.history("a"), [("Plug".to_owned(), HistoryResult::Skipped)]);
    let progress = map.status("a").progress;
    assert_eq!((progress.reason, progress.attempts), (Some(Reason::NameTaken), 0));
}

#[tokio::test]
async fn waiting_for_capacity_is_recorded_once_and_counts_no_attempt() {
    let (map, engine) = engine(vec![lamp("a", NO_POWER, LampPhase::Off)]);
    for _ in 0..5 {
        run(&engine, &PLUG).await;
    }
    let progress = map.status("a").progress;
    assert_eq!((map.writes(), progress.phase, progress.reason), (1, LampPhase::Off, Some(Reason::NoAvailableNode)));
    assert_eq!(map.events(), 1);
}

#[tokio::test(start_paused = true)]
async fn objects_not_begun_by_the_deadline_are_marked_again() {
    let never = Hook::new("never", |to| to == LampPhase::Lit, |_| std::future::pending());
    let timing = Timing { lock_lifetime: Duration::from_millis(30), hook: Duration::from_secs(3600), ..Timing::default() };
    let lamps = (0..40).map(|number| lamp(&format!("{number:02}"), 60, LampPhase::Warm)).collect();
    let (map, engine) = engine_with(timing, Hooks { gates: vec![never], notices: vec![] }, lamps);
    let rest = engine.cycle(&LIGHT, Mark::all()).await.expect("the gates never answer");
    let mut rest = std::pin::pin!(rest);
    let left = || engine.marks.is_marked(LampHandler::Light);
    while !left() {
        tokio::select! {
            () = &mut rest => panic!("the gates never answer"),
            () = tokio::time::sleep(Duration::from_millis(1)) => {}
        }
    }
    let mark = engine.marks.take(LampHandler::Light);
    assert_eq!((mark.urgent.len(), map.writes()), (8, 0), "32 at once have begun");
}

#[tokio::test]
async fn what_takes_more_is_dropped_after_the_deadline() {
    let timing = Timing { lock_lifetime: Duration::from_millis(50), hook: Duration::from_secs(10), ..Timing::default() };
    let slow = |_| async {
        tokio::time::sleep(Duration::from_millis(80)).await;
        Ok(())
    };
    let gate = Hook::new("slow", |to| to == LampPhase::Lit, slow);
    let (map, engine) = engine_with(timing, Hooks { gates: vec![gate], notices: vec![] }, vec![lamp("a", 60, LampPhase::Warm)]);
    engine.cycle(&LIGHT, Mark::all()).await.expect("it is late").await;
    assert_eq!((map.phase("a"), map.writes()), (LampPhase::Warm, 0), "later cycles did not see what it took");
    assert!(engine.marks.take(LampHandler::Light).urgent.contains("a"));
}

#[tokio::test]
async fn sc_co_014_a_panic_fails_its_object_and_no_other() {
    let lamps = vec![lamp("a", EXPLODES, LampPhase::Off), lamp("b", 60, LampPhase::Warm), lamp("c", 60, LampPhase::Off)];
    let (map, engine) = engine(lamps);
    run(&engine, &PLUG).await;
    run(&engine, &LIGHT).await;
    assert_eq!(map.ran(), 2, "c, which has the same handler, is plugged in and turned");
    let progress = map.status("a").progress;
    assert_eq!((progress.phase, progress.reason), (LampPhase::Off, Some(Reason::HandlerPanicked)));
    assert_eq!(map.phase("b"), LampPhase::Lit);
    let batch = Batch { snapshot: room(), items: vec![item(lamp("d", EXPLODES, LampPhase::Off))], claims: vec![] };
    let (verdicts, result) = decide(&PLUG, &batch, None);
    assert!(matches!(verdicts[0].outcome, Outcome::Failure(_)) && result == RunResult::Panicked);
}

#[tokio::test]
async fn a_handler_that_panics_after_another_step_takes_nothing_of_that_step_away() {
    let (map, engine) = engine(vec![lamp("a", SHATTERS, LampPhase::Off)]);
    for _ in 0..3 {
        map.lock().effects.push_back(EffectError::Failed(Failure::fault(Reason::EffectFailed, "no socket")));
        assert!(engine.cycle(&PLUG, Mark::urgent("a".to_owned())).await.is_none());
    }
    assert_eq!(map.phase("a"), LampPhase::Fading);
}

#[test]
fn cp_006_dp_003_empty_input_gives_an_empty_result() {
    for handler in Lamps::table() {
        let batch = Batch { snapshot: room(), items: vec![], claims: vec![] };
        let (verdicts, result) = decide(handler, &batch, Some(&mut 0));
        assert!(verdicts.is_empty() && result == RunResult::Success, "{}", handler.name);
    }
}

#[tokio::test(start_paused = true)]
async fn dl_003_a_handler_that_waits_for_its_lock_too_long_is_marked_for_the_next_cycle() {
    let (locks, marks, lifetime) = (Locks::<Lamps>::default(), HandlerMarks::default(), Duration::from_secs(30));
    let mark = || Mark::of(["one".to_owned()]);
    let (held, given) = take_lock(&locks, &marks, &PLUG, mark(), lifetime).await.expect("it is free");
    assert!(given == mark() && !marks.is_marked(PLUG.name));
    let asked = tokio::time::Instant::now();
    assert!(take_lock(&locks, &marks, &PLUG, mark(), lifetime).await.is_none());
    assert_eq!(asked.elapsed().as_secs(), 30);
    assert_eq!(marks.take(PLUG.name), mark());
    drop(held);
}

#[test]
fn sc_co_020_objects_that_reach_a_phase_mark_its_handlers_once() {
    let marks = HandlerMarks::<Lamps>::default();
    for uid in ["a", "b"] {
        marks.object(&uid.to_owned(), LampPhase::Plugged);
    }
    assert_eq!(marks.take(LampHandler::Warm), Mark::of(["a".to_owned(), "b".to_owned()]));
    assert!(!marks.is_marked(LampHandler::Plug) && !marks.is_marked(LampHandler::Light));
    marks.trigger(Trigger::CapacityFreed, Mark::all());
    assert_eq!(marks.take(LampHandler::Plug), Mark::all(), "it wakes on freed capacity");
    assert!(!marks.is_marked(LampHandler::Light), "it does not");
}

#[test]
fn sc_co_021_a_phase_without_a_handler_marks_none() {
    let marks = HandlerMarks::<Lamps>::default();
    marks.object(&"a".to_owned(), LampPhase::Broken);
    assert!(Lamps::table().iter().all(|handler| !marks.is_marked(handler.name)));
}

#[tokio::test]
async fn sc_co_022_where_nothing_is_decided_nothing_is_marked_or_written() {
    let (map, engine) = engine(vec![lamp("a", 60, LampPhase::Lit)]);
    run(&engine, &BREAK).await;
    assert_eq!((map.writes(), map.events()), (0, 0));
    assert!(Lamps::table().iter().all(|handler| !engine.marks.is_marked(handler.name)));
}

#[tokio::test]
async fn sc_co_025_everything_that_follows_a_commit_runs_although_one_notice_panics() {
    let heard = Arc::new(Mutex::new(vec![]));
    let hears = heard.clone();
    let panics = Hook::new("panics", |_| true, |_: Transition<Lamps, Map>| async { panic!("as planned") });
    let hear = Hook::new(
        "hears",
        |_| true,
        move |transition: Transition<Lamps, Map>| {
            hears.lock().expect("a list").push(transition.to);
            async { Ok(()) }
        },
    );
    let hooks = Hooks { gates: vec![], notices: vec![panics, hear] };
    let (map, engine) = engine_with(Timing::default(), hooks, vec![lamp("a", 60, LampPhase::Warm)]);
    run(&engine, &LIGHT).await;
    assert_eq!(*heard.lock().expect("a list"), [LampPhase::Lit]);
    assert_eq!((map.phase("a"), map.events()), (LampPhase::Lit, 1));
    assert!(engine.metrics.text().contains("result=\"success\""));
}

#[tokio::test]
async fn a_gate_that_fails_keeps_its_object_and_only_it() {
    let gate = |transition: Transition<Lamps, Map>| async move {
        if transition.item.lamp.name_any() == "a" { Err("as planned".to_owned()) } else { Ok(()) }
    };
    let hooks = Hooks { gates: vec![Hook::new("fuse", |to| to == LampPhase::Lit, gate)], notices: vec![] };
    let lamps = vec![lamp("a", 60, LampPhase::Warm), lamp("b", 60, LampPhase::Warm)];
    let (map, engine) = engine_with(Timing::default(), hooks, lamps);
    run(&engine, &LIGHT).await;
    assert_eq!((map.phase("a"), map.phase("b")), (LampPhase::Warm, LampPhase::Lit));
    assert_eq!(map.status("a").progress.reason, Some(Reason::HookFailed));
}

#[test]
fn a_claim_frees_itself_and_marks_who_waited_for_it() {
    let marks = Arc::new(HandlerMarks::<Lamps>::default());
    let claims = Arc::new(Claims::new(marks.clone()));
    let uid = "a".to_owned();
    let claim = claims.try_claim(&uid).expect("it is free");
    assert!(claims.try_claim(&uid).is_none());
    assert!(claims.claim_or_wait(&uid, LampHandler::Warm, || Mark::urgent(uid.clone())).is_none());
    assert!(!marks.is_marked(LampHandler::Warm));
    drop(claim);
    assert_eq!(marks.take(LampHandler::Warm), Mark::urgent(uid.clone()));
    assert!(!claims.is_claimed(&uid));
}

#[tokio::test]
async fn a_changed_spec_that_asks_for_nothing_is_observed_in_a_deferred_write() {
    let mut changed = lamp("a", 60, LampPhase::Lit);
    changed.metadata.generation = Some(2);
    let (map, engine) = engine(vec![changed]);
    run(&engine, &BREAK).await;
    assert_eq!(map.writes(), 0);
    engine.commit_deferred("a".into()).await;
    assert_eq!((map.status("a").progress.observed_generation, map.writes()), (2, 1));
    assert_eq!(map.history("a"), []);
}
