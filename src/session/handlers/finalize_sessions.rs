//! finalize-sessions: removes ended sessions that were deleted or whose time to live has passed.

use super::{Decide, Handler, HandlerName, Mode, Settings, Transitions, Verdict};
use crate::api::{FINALIZER_SESSION, SessionPhase};
use crate::lifecycle::{CommitMode, Reason, Trigger, is_over, over_at};
use crate::session::effect::Effect;
use crate::session::kernels::ssh_secret_name;
use crate::session::snapshot::{MAX_WAIT_FOR_DEPENDENTS, SessionItem, Snapshot, deleted_at};

pub static ROW: Handler = Handler {
    name: HandlerName::FinalizeSessions,
    targets: &[SessionPhase::Terminated, SessionPhase::Cancelled, SessionPhase::Error],
    transitions: Transitions::NONE,
    mode: Mode::Waits,
    follows: &[],
    commit: CommitMode::Now,
    wakes_on: &[Trigger::DependentChanged],
    lock: None,
    overview: None,
    trace: None,
    settings: Settings::NONE,
    decide: Decide::Each(finalize),
};

/// The finalizer that a deletion with `--cascade=orphan` sets.
const FINALIZER_ORPHAN: &str = "orphan";

fn finalize(snapshot: &Snapshot, item: &SessionItem) -> Verdict {
    if item.session.is_deleted() {
        return remove(snapshot, item);
    }
    // The notify hook deletes the Service. It may have failed, or the operator may have stopped before it.
    let leftover = if item.is_published { vec![Effect::DeleteService] } else { vec![] };
    let finished = item.session.status.as_ref().and_then(|status| status.finished_at).or(item.phase_started_at());
    let due = item.session.spec.ttl_seconds_after_finished.zip(finished).map(|(ttl, finished)| {
        finished + chrono::TimeDelta::from_std(snapshot.timing.configured(i64::from(ttl))).unwrap_or_default()
    });
    match due {
        // Dependent sessions record its success first.
        Some(due) if item.is_awaited && (due..due + MAX_WAIT_FOR_DEPENDENTS).contains(&snapshot.now) => Verdict::idle(),
        Some(due) if snapshot.now >= due => Verdict::idle().effects(vec![Effect::DeleteSession]),
        due => Verdict::idle().effects(leftover).wake_at(due),
    }
}

/// Releases a deleted session, once sync-kernels has removed its pods and dependent sessions have recorded its success.
fn remove(snapshot: &Snapshot, item: &SessionItem) -> Verdict {
    let finalizers = || item.session.metadata.finalizers.iter().flatten();
    let held = finalizers().any(|name| name == FINALIZER_SESSION);
    if held && item.is_awaited {
        return Verdict::idle();
    }
    if held && item.pods_left == 0 {
        // The garbage collector removes what the session owns, unless it leaves orphans.
        let orphans = item.is_gang() && finalizers().any(|name| name == FINALIZER_ORPHAN);
        let secret = orphans.then(|| Effect::DeleteSshSecret(ssh_secret_name(item.name(), &item.uid().0)));
        return Verdict::idle().effects(secret.into_iter().chain([Effect::ReleaseSession]).collect());
    }
    // A deletion that does not finish would look stuck without a reason, so the finalizers that hold it are named.
    let since = deleted_at(&item.session);
    if !is_over(since, Some(snapshot.timing.held_up), snapshot.now) {
        return Verdict::idle().wake_at(over_at(since, Some(snapshot.timing.held_up)));
    }
    let keepers = if held { pods_kept_by_others(item) } else { vec![keeper("the session", finalizers())] };
    if keepers.is_empty() { Verdict::idle() } else { Verdict::skipped(Reason::DeletionHeld, keepers.join("; ")) }
}

/// Returns a message like `pod s-main1-1234 is kept by the finalizer other.dev/x, which is not the operator's`.
fn keeper<'f>(object: &str, finalizers: impl Iterator<Item = &'f String>) -> String {
    let names = finalizers.map(String::as_str).collect::<Vec<_>>().join(", ");
    format!("{object} is kept by the finalizer {names}, which is not the operator's")
}

fn pods_kept_by_others(item: &SessionItem) -> Vec<String> {
    let pods = item.kernels.iter().filter_map(|kernel| kernel.pod.as_deref());
    let kept = pods.filter(|pod| pod.deleting && pod.ended && !pod.held && !pod.other_finalizers.is_empty());
    kept.take(MAX_NAMED).map(|pod| keeper(&format!("pod {}", pod.name), pod.other_finalizers.iter())).collect()
}

/// The largest number of pods named in one message.
const MAX_NAMED: usize = 4;

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
    fn an_ended_session_is_removed_when_its_time_to_live_has_passed_and_not_before() {
        let early = ended(59, |_, _| ());
        assert!(early.effects.is_empty());
        assert_eq!(early.wake_at, Some(now() + TimeDelta::seconds(1)));
        assert!(matches!(ended(60, |_, _| ()).effects[..], [Effect::DeleteSession]));
        let kept = ended(3000, |_, session| session.spec.ttl_seconds_after_finished = None);
        assert!(kept.effects.is_empty() && kept.wake_at.is_none());
    }

    #[test]
    fn a_deleted_session_is_released_once_its_pods_are_gone() {
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
    fn a_leftover_service_is_removed() {
        assert!(matches!(ended(0, |item, _| item.is_published = true).effects[..], [Effect::DeleteService]));
    }
}
