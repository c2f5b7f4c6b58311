//! finalize-sessions: removes sessions that have ended, when they were deleted or their time to live is over.

use super::{Decide, Handler, HandlerName, Transitions, Verdict};
use crate::api::{FINALIZER_SESSION, SessionPhase};
use crate::session::effect::Effect;
use crate::session::snapshot::{SessionItem, Snapshot};

pub static ROW: Handler = Handler {
    name: HandlerName::FinalizeSessions,
    targets: &[SessionPhase::Terminated, SessionPhase::Cancelled, SessionPhase::Error],
    transitions: Transitions::NONE,
    lock: None,
    waits: true,
    decide: Decide::Each(finalize),
};

fn finalize(snapshot: &Snapshot, item: &SessionItem) -> Verdict {
    let metadata = &item.session.metadata;
    if item.session.is_deleted() {
        let held = metadata.finalizers.iter().flatten().any(|name| name == FINALIZER_SESSION);
        // Its pods go first; sync-kernels sees to that.
        let effects = if held && item.pods_left == 0 { vec![Effect::ReleaseSession] } else { vec![] };
        return Verdict::idle().effects(effects);
    }
    // What the hook of the transition did not do, since it failed or the operator ended meanwhile.
    let leftover = if item.is_published { vec![Effect::DeleteService] } else { vec![] };
    let finished = item.session.status.as_ref().and_then(|status| status.finished_at).or(item.status_since());
    let due = item.session.spec.ttl_seconds_after_finished.zip(finished).map(|(ttl, finished)| {
        finished + chrono::TimeDelta::from_std(snapshot.timing.configured(i64::from(ttl))).unwrap_or_default()
    });
    match due {
        Some(due) if snapshot.now >= due => Verdict::idle().effects(vec![Effect::DeleteSession]),
        due => Verdict::idle().effects(leftover).wake_at(due),
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use serde_json::json;

    use super::*;
    use crate::session::handlers::testing::{item, now, put, session, snapshot};

    fn ended(ago: i64, change: impl FnOnce(&mut SessionItem, &mut crate::api::Session)) -> Verdict {
        let mut session = session(json!({"ttlSecondsAfterFinished": 60}));
        put(&mut session, SessionPhase::Terminated, TimeDelta::seconds(ago));
        session.metadata.finalizers = Some(vec![FINALIZER_SESSION.into()]);
        let mut item = item(session.clone(), &[]);
        change(&mut item, &mut session);
        item.session = std::sync::Arc::new(session);
        finalize(&snapshot(vec![]), &item)
    }

    #[test]
    fn one_that_has_ended_is_removed_at_the_end_of_its_time_to_live_and_not_before() {
        let early = ended(59, |_, _| ());
        assert!(early.effects.is_empty());
        assert_eq!(early.wake_at, Some(now() + TimeDelta::seconds(1)));
        assert!(matches!(ended(60, |_, _| ()).effects[..], [Effect::DeleteSession]));
        let kept = ended(3000, |_, session| session.spec.ttl_seconds_after_finished = None);
        assert!(kept.effects.is_empty() && kept.wake_at.is_none());
    }

    #[test]
    fn a_deleted_one_is_released_once_its_pods_are_gone() {
        let deleted = |pods: usize| {
            ended(0, |item, session| {
                item.pods_left = pods;
                session.metadata.deletion_timestamp =
                    Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Default::default()));
            })
        };
        assert!(deleted(1).effects.is_empty());
        assert!(matches!(deleted(0).effects[..], [Effect::ReleaseSession]));
    }

    #[test]
    fn a_service_that_is_left_is_removed() {
        assert!(matches!(ended(0, |item, _| item.is_published = true).effects[..], [Effect::DeleteService]));
    }
}
