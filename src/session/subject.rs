//! Sessions as a subject of the engine.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::effect::Effect;
use super::handlers::{Change, HANDLERS, Handler, HandlerName, LockId, Mode, Settings};
pub use super::sessions::Sessions;
use super::snapshot::{SessionItem, Snapshot};
use super::status;
use crate::api::{HistoryResult, Session, SessionPhase, SessionResult, SessionStatus, SessionUid, Waiting};
use crate::lifecycle::{self, ConditionState, Limits, Step, Subject, Timing, is_over};
use crate::provisioner::LedgerSnapshot;

impl Subject for Sessions {
    const NAME: &'static str = "session";
    type Phase = SessionPhase;
    type HandlerName = HandlerName;
    type Lock = LockId;
    type Uid = SessionUid;
    type Object = Session;
    type Status = SessionStatus;
    type Item = SessionItem;
    type Snapshot = Snapshot;
    type Shared = LedgerSnapshot;
    type Effect = Effect;
    type Change = Change;
    type Settings = Settings;

    fn table() -> &'static [&'static Handler] {
        HANDLERS
    }

    fn limits(snapshot: &Snapshot, item: &SessionItem, handler: &Handler) -> Limits {
        let timeout = match handler.mode {
            Mode::Waits => snapshot.phase_timeout(&item.session, item.phase()),
            Mode::Acts | Mode::Evaluates | Mode::Restarts(_) => snapshot.handler_timeout(&item.session, &handler.settings),
        };
        Limits {
            max_attempts: snapshot.max_attempts(&item.session, handler.settings.retry),
            timeout,
            counts_capacity: snapshot.counts_capacity(),
        }
    }

    fn is_news(snapshot: &Snapshot, item: &SessionItem, change: &Change, result: HistoryResult) -> bool {
        if !change.met_dependencies.is_empty() {
            return true;
        }
        let Some(new) = &change.waiting else { return false };
        let Some(recorded) = item.session.status.as_ref().and_then(|status| status.waiting.as_ref()) else { return true };
        // Blockers with the same reasons are recorded once per pause, for example when two quotas take turns.
        let is_settled = |recorded: &Waiting| {
            let pause = Some(snapshot.timing.wait_backoff);
            recorded.has_the_same_reasons(new) && !is_over(Some(recorded.evaluated_at), pause, snapshot.now)
        };
        !recorded.says_the_same(new) && (result == HistoryResult::Skipped || !is_settled(recorded))
    }

    /// schedule-sessions writes the waiting reasons of a queued session itself.
    fn is_queued(phase: SessionPhase) -> bool {
        phase == SessionPhase::Pending
    }

    fn apply(status: &mut SessionStatus, step: &Step<'_, Self>, snapshot: &Snapshot, item: &SessionItem) -> Option<Duration> {
        status::apply(status, step, snapshot, item)
    }

    fn conditions(status: &SessionStatus) -> Vec<ConditionState> {
        status::conditions(status)
    }

    fn bytes_beside_progress(status: &SessionStatus) -> usize {
        status::bytes_beside_progress(status)
    }

    fn has_ended_badly(status: &SessionStatus) -> bool {
        status.result == Some(SessionResult::Error)
    }

    fn is_leaving(session: &Session) -> bool {
        session.is_leaving()
    }

    fn takes_more(before: Option<&SessionStatus>, next: &SessionStatus) -> bool {
        next.allocation_generation > before.map_or(0, |status| status.allocation_generation)
    }
}

impl lifecycle::Phase for SessionPhase {
    fn is_terminal(self) -> bool {
        Self::is_terminal(self)
    }

    fn is_ending(self) -> bool {
        Self::is_ending(self)
    }
}

impl lifecycle::Item<Sessions> for SessionItem {
    fn object(&self) -> &Arc<Session> {
        &self.session
    }

    fn set_object(&mut self, session: Arc<Session>) {
        self.session = session;
    }

    fn stored(&self) -> &Arc<Session> {
        &self.stored
    }

    fn uid(&self) -> SessionUid {
        Self::uid(self)
    }

    fn may_restart(&self) -> bool {
        !self.runs_unseen()
    }
}

impl lifecycle::Snapshot for Snapshot {
    fn now(&self) -> DateTime<Utc> {
        self.now
    }

    fn timing(&self) -> &Timing {
        &self.timing
    }

    fn partition(&self) -> &str {
        self.group_label()
    }
}

impl lifecycle::Effect for Effect {
    fn name(&self) -> &'static str {
        Self::name(self)
    }

    fn target(&self) -> String {
        Self::target(self)
    }

    /// Kernels of one session are created, started or deleted in parallel.
    fn may_run_with(&self, next: &Self) -> bool {
        matches!(
            (self, next),
            (Self::Launch(_), Self::Launch(_))
                | (Self::OpenGate(_), Self::OpenGate(_))
                | (Self::RemindKubelet(_), Self::RemindKubelet(_))
                | (Self::DeletePod { .. }, Self::DeletePod { .. })
        )
    }

    /// A pod that cannot be deleted does not stop the deletion of the others.
    fn may_fail_alone(&self) -> bool {
        matches!(self, Self::DeletePod { .. })
    }

    fn changes_object(&self) -> bool {
        *self == Self::HoldSession
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use serde_json::json;

    use super::*;
    use crate::api::{Cause, HistoryEntry, Reason};
    use crate::lifecycle::{Classified, Effects, Failure, HandlerName as _, To, classify, next_status};
    use crate::provisioner::{Blocker, Refusal};
    use crate::session::handlers::testing::{group, item, now, put, session, session_in, snapshot};
    use crate::session::handlers::{Decide, Outcome, RESET, Verdict};
    use crate::session::waiting::waiting;

    /// Returns a session with `attempts` failures of a handler, the first of them `ago`.
    fn tried(handler: HandlerName, phase: SessionPhase, attempts: i32, ago: TimeDelta) -> SessionItem {
        let mut session = session_in(phase);
        let entry = HistoryEntry {
            handler: handler.as_str().into(),
            result: HistoryResult::NeedRetry,
            from: phase.as_str().into(),
            to: phase.as_str().into(),
            error_code: Some(Reason::EffectFailed),
            cause: Some(Cause::Fault),
            message: "it failed".into(),
            attempts,
            created_at: now() - ago,
            updated_at: now() - ago,
            steps: vec![],
        };
        if let Some(status) = &mut session.status {
            status.phase_started_at = Some(now() - ago);
            status.history = if attempts > 0 { vec![entry] } else { vec![] };
        }
        item(session, &[])
    }

    fn classified(
        snapshot: &Snapshot,
        handler: HandlerName,
        item: &SessionItem,
        outcome: Outcome,
    ) -> Option<Classified<SessionPhase>> {
        let verdict = Verdict { outcome, ..Verdict::default() };
        classify(Sessions::row(handler).expect("a row"), snapshot, item, &verdict, Effects::None)
    }

    fn failed(
        handler: HandlerName,
        phase: SessionPhase,
        attempts: i32,
        ago: TimeDelta,
    ) -> (HistoryResult, Option<To<SessionPhase>>) {
        let failure = Outcome::Failure(Failure::fault(Reason::EffectFailed, "it failed"));
        let classified = classified(&snapshot(vec![]), handler, &tried(handler, phase, attempts, ago), failure).expect("news");
        (classified.result, classified.to)
    }

    #[test]
    fn fc_001_a_first_failure_is_retried() {
        let minute = TimeDelta::minutes(1);
        let (result, to) = failed(HandlerName::CheckPrecondition, SessionPhase::Scheduled, 0, minute);
        assert_eq!((result, to), (HistoryResult::NeedRetry, None));
        let (result, to) = failed(HandlerName::CheckPrecondition, SessionPhase::Scheduled, 4, minute);
        assert_eq!((result, to), (HistoryResult::NeedRetry, None), "five failures in a row are allowed");
    }

    #[test]
    fn fc_002_a_phase_that_takes_too_long_expires() {
        let late = TimeDelta::minutes(16);
        for phase in [SessionPhase::Preparing, SessionPhase::Pulling] {
            let swept = failed(HandlerName::SweepSessions, phase, 0, late);
            assert_eq!(swept, (HistoryResult::Expired, To::phase(SessionPhase::Terminating)), "{phase}");
        }
        let reset = failed(HandlerName::PromoteToRunning, SessionPhase::Creating, 0, TimeDelta::minutes(11));
        assert_eq!(reset, (HistoryResult::Expired, RESET));
        let recorded = failed(HandlerName::PromoteToPrepared, SessionPhase::Pulling, 0, late);
        assert_eq!(recorded, (HistoryResult::Expired, None), "it is only recorded: sweep-sessions ends the session");
    }

    #[test]
    fn fc_003_the_sixth_failure_in_a_row_gives_up() {
        let minute = TimeDelta::minutes(1);
        for (handler, phase, to) in [
            (HandlerName::ScheduleSessions, SessionPhase::Pending, To::phase(SessionPhase::Deprioritizing)),
            (HandlerName::CheckPrecondition, SessionPhase::Scheduled, To::phase(SessionPhase::Terminating)),
            (HandlerName::StartSessions, SessionPhase::Prepared, RESET),
            (HandlerName::TerminateSessions, SessionPhase::Terminating, To::phase(SessionPhase::Terminated)),
        ] {
            assert_eq!(failed(handler, phase, 5, minute), (HistoryResult::GiveUp, to), "{handler}");
        }
    }

    #[test]
    fn a_session_pending_for_longer_than_the_pending_timeout_expires() {
        let mut world = snapshot(vec![]);
        world.group = Some(std::sync::Arc::new(group(json!({"pendingTimeoutSeconds": 60}))));
        let handler = Sessions::row(HandlerName::SweepSessions).expect("a row");
        let swept = |minutes| {
            let item = tried(HandlerName::ScheduleSessions, SessionPhase::Pending, 0, TimeDelta::minutes(minutes));
            let Decide::Each(sweep) = handler.decide else { panic!("it decides one session at a time") };
            classify(handler, &world, &item, &sweep(&world, &item), Effects::None)
        };
        assert_eq!(swept(1), None, "the time must exceed the timeout");
        let cancelled = Classified { result: HistoryResult::Expired, to: To::phase(SessionPhase::Cancelled) };
        assert_eq!(swept(2), Some(cancelled));
    }

    #[test]
    fn waits_for_a_quota_never_count_as_attempts_even_if_the_scaling_group_counts_capacity() {
        let handler = HandlerName::ScheduleSessions;
        let mut world = snapshot(vec![]);
        world.group = Some(std::sync::Arc::new(group(json!({"retry": {"countCapacity": true}}))));
        let result_after = |cause| {
            let mut item = tried(handler, SessionPhase::Pending, 5, TimeDelta::minutes(15));
            let mut session = (*item.session).clone();
            session.status.iter_mut().flat_map(|status| &mut status.history).for_each(|entry| entry.cause = Some(cause));
            item.session = std::sync::Arc::new(session);
            let full = Outcome::Failure(Failure::new(Cause::Capacity, Reason::NoAvailableNode, "full"));
            classified(&world, handler, &item, full).map(|classified| classified.result)
        };
        assert_eq!(result_after(Cause::Quota), Some(HistoryResult::NeedRetry));
        assert_eq!(result_after(Cause::Capacity), Some(HistoryResult::GiveUp));
    }

    #[test]
    fn a_scaling_group_limits_single_handlers_and_a_session_tightens_the_limits() {
        let handler = HandlerName::StartSessions;
        let mut world = snapshot(vec![]);
        let limits = json!({"retry": {"handlers": [{"handler": "start-sessions", "maxAttempts": 2, "timeoutSeconds": 30}]}});
        world.group = Some(std::sync::Arc::new(group(limits)));
        let failure = || Outcome::Failure(Failure::fault(Reason::EffectFailed, "it failed"));
        let result = |world: &Snapshot, item: &SessionItem| {
            classified(world, handler, item, failure()).map(|classified| classified.result)
        };
        let second = TimeDelta::seconds(1);
        let tried = |attempts, ago| tried(handler, SessionPhase::Prepared, attempts, ago);
        assert_eq!(result(&world, &tried(1, second)), Some(HistoryResult::NeedRetry));
        assert_eq!(result(&world, &tried(2, second)), Some(HistoryResult::GiveUp));
        assert_eq!(result(&world, &tried(1, second * 31)), Some(HistoryResult::Expired));
        let mut strict = tried(1, second);
        let mut own = session(json!({"retry": {"maxAttempts": 1}}));
        own.status = strict.session.status.clone();
        strict.session = std::sync::Arc::new(own);
        assert_eq!(result(&world, &strict), Some(HistoryResult::GiveUp));
        let mut hasty = tried(1, second * 20);
        let mut own = session(json!({"retry": {"timeoutSeconds": 10}}));
        own.status = hasty.session.status.clone();
        assert_eq!(result(&world, &hasty), Some(HistoryResult::NeedRetry));
        hasty.session = std::sync::Arc::new(own);
        assert_eq!(result(&world, &hasty), Some(HistoryResult::Expired));
    }

    #[test]
    fn sc_co_019_a_skip_is_recorded_once_and_changes_no_status() {
        let skip = || Outcome::Skipped(Reason::NotYetDue, "not before noon".into());
        let mut waiting = tried(HandlerName::ScheduleSessions, SessionPhase::Pending, 0, TimeDelta::minutes(1));
        let first = classified(&snapshot(vec![]), HandlerName::ScheduleSessions, &waiting, skip());
        assert_eq!(first, Some(Classified { result: HistoryResult::Skipped, to: None }));
        let mut session = (*waiting.session).clone();
        put(&mut session, SessionPhase::Pending, TimeDelta::minutes(1));
        let step = Step {
            handler: HandlerName::ScheduleSessions,
            result: HistoryResult::Skipped,
            to: None,
            failure: None,
            skip: Some((Reason::NotYetDue, "not before noon")),
            reason: None,
            change: &Change::default(),
            steps: vec![],
        };
        let status = next_status::<Sessions>(&snapshot(vec![]), &item(session.clone(), &[]), step);
        let last = status.history.last().expect("an entry");
        assert_eq!((last.from.as_str(), last.to.as_str(), last.result), ("Pending", "Pending", HistoryResult::Skipped));
        assert_eq!((status.phase, status.attempts), (SessionPhase::Pending, 0));
        session.status = Some(status);
        waiting.session = std::sync::Arc::new(session);
        assert_eq!(
            classified(&snapshot(vec![]), HandlerName::ScheduleSessions, &waiting, skip()),
            None,
            "an equal skip is not written again"
        );
    }

    #[test]
    fn a_wait_for_capacity_is_recorded_again_only_after_its_pause() {
        let full = || Outcome::Failure(Failure::new(Cause::Capacity, Reason::NoAvailableNode, "full"));
        let mut waiting = tried(HandlerName::ScheduleSessions, SessionPhase::Pending, 1, TimeDelta::seconds(10));
        let mut session = (*waiting.session).clone();
        let set = |session: &mut Session, next: TimeDelta| {
            let status = session.status.as_mut().expect("a status");
            status.history[0].error_code = Some(Reason::NoAvailableNode);
            status.history[0].cause = Some(Cause::Capacity);
            status.history[0].attempts = 50;
            status.next_attempt_at = Some(now() + next);
        };
        set(&mut session, TimeDelta::seconds(50));
        waiting.session = std::sync::Arc::new(session.clone());
        assert_eq!(classified(&snapshot(vec![]), HandlerName::ScheduleSessions, &waiting, full()), None);
        set(&mut session, TimeDelta::zero());
        waiting.session = std::sync::Arc::new(session);
        let again = classified(&snapshot(vec![]), HandlerName::ScheduleSessions, &waiting, full());
        assert_eq!(again, Some(Classified { result: HistoryResult::NeedRetry, to: None }), "never given up");
    }

    #[test]
    fn quotas_that_take_turns_are_recorded_once_per_pause_and_another_reason_at_once() {
        let report = |reason: Reason, object: &str, ago: TimeDelta| {
            let blocker = Blocker::new("quota", Cause::Quota, reason, "over").of(object);
            waiting(&Refusal::of(vec![blocker]).expect("a refusal"), now() - ago)
        };
        let minute = TimeDelta::seconds(61);
        let written = |ago: TimeDelta, reason: Reason, object: &str| {
            let mut item = tried(HandlerName::ScheduleSessions, SessionPhase::Pending, 1, ago);
            let mut session = (*item.session).clone();
            let status = session.status.as_mut().expect("a status");
            status.history[0].error_code = Some(Reason::QuotaExceeded);
            status.history[0].cause = Some(Cause::Quota);
            status.next_attempt_at = Some(now() + minute);
            status.waiting = Some(report(Reason::QuotaExceeded, "project a", ago));
            item.session = std::sync::Arc::new(session);
            let change = Change { waiting: Some(report(reason, object, TimeDelta::zero())), ..Change::default() };
            let over = Outcome::Failure(Failure::new(Cause::Quota, reason, "over"));
            {
                let verdict = Verdict { outcome: over, change, ..Verdict::default() };
                let row = Sessions::row(HandlerName::ScheduleSessions).expect("a row");
                classify(row, &snapshot(vec![]), &item, &verdict, Effects::None).is_some()
            }
        };
        let recent = TimeDelta::seconds(5);
        assert!(!written(recent, Reason::QuotaExceeded, "project a"));
        assert!(!written(recent, Reason::QuotaExceeded, "domain b"), "the quotas take turns");
        assert!(written(recent, Reason::ConcurrencyExceeded, "project a"));
        assert!(!written(minute, Reason::QuotaExceeded, "project a"));
        assert!(written(minute, Reason::QuotaExceeded, "domain b"));
    }
}
