//! deploying: takes one step of a rollout, or rolls it back.

use chrono::TimeDelta;

use super::replicas::{carried_out, every_name, missing, on_their_way, recorded, report, wake_at};
use super::{After, Change, Decide, Deployments, Handler, HandlerName, LockId, ROW as BASE, Transitions, Verdict};
use crate::api::{DeploymentPhase, DeploymentStatus, HistoryEntry, HistoryResult, Reason, Rollout, RolloutStep};
use crate::deployment::failures;
use crate::deployment::population::Population;
use crate::deployment::rollout::{made_while_paused, paused, rolling, starving, starving_since};
use crate::deployment::snapshot::{DeploymentItem, Snapshot};
use crate::lifecycle::{Failure, exits};

exits!(Deployments: Ready, Failed);

pub static ROW: Handler = Handler {
    name: HandlerName::Deploying,
    targets: &[DeploymentPhase::Deploying],
    // Success alone stays here: one step of the rollout is done.
    transitions: Transitions { exits: Exit::PHASES, ..Transitions::NONE },
    follows: &[After::Reaching(DeploymentPhase::Deploying)],
    lock: Some(LockId::Deploying),
    decide: Decide::Each(deploy),
    ..BASE
};

fn deploy(snapshot: &Snapshot, item: &DeploymentItem) -> Verdict {
    let status = item.status();
    let Some(target) = status.deploying_revision.or(status.current_revision) else { return Verdict::idle() };
    let population = Population::of(snapshot, item, target);
    let rollout = progressed(snapshot, item, status, &population);
    let change = Change { failures: failures::counted(snapshot, item, target), rollout, ..Change::default() };
    if item.spec().paused && status.deploying_revision.is_some() {
        let failures = failures::counted(snapshot, item, made_while_paused(item, target));
        let change = Change { failures, ..change };
        let plan = paused(snapshot, item, &population);
        let counted = change.failures.as_ref().unwrap_or(&status.failures);
        let wake = failures::next_at(counted, plan.revision, &snapshot.timing, snapshot.now);
        let change = recorded(snapshot, item, &population, plan, &change);
        let message = format!("paused with {} of {} replicas of revision {target}", population.all_new(), population.desired);
        let verdict = Verdict::skipped(Reason::RolloutPaused, message).effects(carried_out(item)).change(change).wake_at(wake);
        return report(snapshot, item, verdict);
    }
    if let Some(verdict) = given_up(snapshot, item, &population, &change) {
        return verdict;
    }
    let plan = rolling(snapshot, item.spec(), &population);
    let change = recorded(snapshot, item, &population, plan, &change);
    if population.is_settled() && change.plan.is_empty() && change.leave.is_empty() {
        let change = Change { completes: true, ..change };
        let verdict = Verdict::success_to(Exit::Ready).because(Reason::ReplicasAvailable, "every replica is available");
        let verdict = verdict.effects(carried_out(item)).change(change);
        // The rollback stays the reason until the next rollout.
        return match rolled_back(status) {
            Some(why) => verdict.because(Reason::RolledBack, why),
            None => verdict,
        };
    }
    let wake = wake_at(snapshot, item, &population, &change).into_iter().chain(deadline(snapshot, item)).min();
    let (reason, message) = explained(snapshot, item, &population, &change);
    let stalled = (reason == Reason::SurgeHasNoCapacity).then_some(reason);
    let change = Change { stalled, ..change };
    report(snapshot, item, Verdict::skipped(reason, message).effects(carried_out(item)).change(change).wake_at(wake))
}

/// The rollout after a new maximum of available replicas, or after a pause began or ended. None if nothing changed.
fn progressed(
    snapshot: &Snapshot,
    item: &DeploymentItem,
    status: &DeploymentStatus,
    population: &Population<'_>,
) -> Option<Rollout> {
    let mut rollout = status.rollout.clone()?;
    let now = snapshot.now;
    match (item.spec().paused && status.deploying_revision.is_some(), rollout.paused_at) {
        (true, None) => (rollout.step, rollout.paused_at) = (RolloutStep::Paused, Some(now)),
        (false, Some(since)) => {
            // Time while paused does not count against the deadline.
            rollout.progressed_at += now - since;
            rollout.paused_at = None;
            if rollout.step == RolloutStep::Paused {
                rollout.step = RolloutStep::Replacing;
            }
        }
        (true, Some(_)) | (false, None) => {}
    }
    if population.available_new > rollout.best {
        (rollout.best, rollout.progressed_at) = (population.available_new, now);
    }
    (Some(&rollout) != status.rollout.as_ref()).then_some(rollout)
}

/// When a rollout without progress is rolled back. Without a revision that serves, there is nothing to go back to.
fn deadline(snapshot: &Snapshot, item: &DeploymentItem) -> Option<chrono::DateTime<chrono::Utc>> {
    let status = item.deployment.status.as_ref().filter(|status| status.current_revision.is_some())?;
    let rollout = status.rollout.as_ref()?;
    let limit = TimeDelta::from_std(snapshot.timing.configured(item.spec().progress_deadline_seconds)).ok()?;
    Some(rollout.progressed_at + limit)
}

/// Rolls back a revision that made no progress for too long, or whose replicas all failed.
fn given_up(snapshot: &Snapshot, item: &DeploymentItem, population: &Population<'_>, change: &Change) -> Option<Verdict> {
    let status = item.status();
    let revision = status.deploying_revision?;
    let failures = change.failures.as_ref().unwrap_or(&status.failures);
    let late = change.rollout.is_none() && deadline(snapshot, item).is_some_and(|deadline| deadline <= snapshot.now);
    let hopeless = failures::is_hopeless(failures, revision, population.desired);
    let why = match (hopeless, late) {
        (true, _) => format!("{} replicas failed in a row: {}", failures.count, failures.message),
        (false, true) => {
            let seconds = item.spec().progress_deadline_seconds;
            let (_, message) = explained(snapshot, item, population, change);
            format!("no progress for {seconds} s: {message}")
        }
        (false, false) => return None,
    };
    let step = RolloutStep::RollingBack;
    let rollout = change.rollout.clone().or(status.rollout.clone()).map(|rollout| Rollout { step, ..rollout });
    let change = Change { rolls_back: true, rollout, ..change.clone() };
    Some(match status.current_revision {
        Some(current) => {
            let message = format!("revision {revision} failed and revision {current} is restored: {why}");
            // A failure, so that its Event is a warning.
            Verdict::failure(Failure::fault(Reason::RolledBack, message)).change(change)
        }
        None => {
            let change = Change { leave: every_name(population), ..change };
            Verdict::success_to(Exit::Failed).because(Reason::ReplicasFailing, why).change(change)
        }
    })
}

/// Why the rollout is being rolled back, if it is.
fn rolled_back(status: &DeploymentStatus) -> Option<String> {
    status.rollout.as_ref().filter(|rollout| rollout.step == RolloutStep::RollingBack)?;
    let failed = |entry: &&HistoryEntry| entry.result == HistoryResult::NeedRetry && entry.error_code == Some(Reason::RolledBack);
    Some(status.history.iter().rev().find(failed).map(|entry| entry.message.clone()).unwrap_or_default())
}

/// What the rollout waits for, with numbers.
fn explained(snapshot: &Snapshot, item: &DeploymentItem, population: &Population<'_>, change: &Change) -> (Reason, String) {
    let (all, available) = (population.desired, population.available_new);
    let summary = format!("{available} of {all} replicas of revision {} are available", population.target);
    if let Some(why) = rolled_back(item.status()) {
        return (Reason::RolledBack, format!("{summary}; {why}"));
    }
    let no_room = population.new.iter().find_map(|replica| Some((replica.name(), starving_since(snapshot, replica)?)));
    if let Some((name, message)) = no_room {
        let count = starving(snapshot, population);
        let remedy = "add nodes, or set strategy.rolling.whenNoCapacity to ReplaceInPlace";
        return (Reason::SurgeHasNoCapacity, format!("{summary}; no room for {count} more: {remedy}: session {name}: {message}"));
    }
    match missing(snapshot, item, population, change) {
        (Reason::ReplicasNotAvailable, _) => {
            let starting = on_their_way(population);
            let old = population.all_old();
            let trouble = population.new.iter().find_map(|replica| replica.trouble());
            let trouble = trouble.map(|trouble| format!("; {trouble}")).unwrap_or_default();
            (Reason::RollingOut, format!("{summary}, starting: {starting}, still old: {old}{trouble}"))
        }
        (reason, message) => (reason, format!("revision {}: {message}", population.target)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{DeploymentSpec, Failures, Share};
    use crate::deployment::handlers::Outcome;
    use crate::deployment::handlers::testing::{Case, leads, now, snapshot};

    /// A rollout of revision 2, without progress for so many seconds.
    fn rolling_out(case: Case, seconds: i64) -> Case {
        case.phase(DeploymentPhase::Deploying).deploying(2, seconds).spec(|spec| {
            spec.strategy.rolling.max_surge = Share::Count(1);
        })
    }

    fn deployed(case: Case) -> Verdict {
        deploy(&snapshot(), &case.item())
    }

    #[test]
    fn the_current_revision_changes_only_once_every_new_replica_is_available() {
        let almost = deployed(rolling_out(Case::new(2).of(2).running(1, 900).provisioning(1), 5));
        assert!(leads(&ROW, &almost).is_none() && !almost.change.completes);
        let done = deployed(rolling_out(Case::new(2).of(2).running(2, 900), 5));
        assert_eq!(leads(&ROW, &done), Some(DeploymentPhase::Ready));
        assert!(done.change.completes);
    }

    #[test]
    fn a_rollout_without_progress_is_rolled_back_at_its_deadline() {
        let slow = || Case::new(2).running(2, 9000).of(2).provisioning(1);
        assert!(!deployed(rolling_out(slow(), 3599)).change.rolls_back);
        let late = deployed(rolling_out(slow(), 3600));
        assert!(late.change.rolls_back && leads(&ROW, &late).is_none(), "the current revision is still to be restored");
        let Outcome::Failure(failure) = &late.outcome else { panic!("it failed: {:?}", late.outcome) };
        assert_eq!(failure.reason, Reason::RolledBack);
        let message = &failure.message;
        assert!(message.starts_with("revision 2 failed and revision 1 is restored: no progress for 3600 s"), "{message}");
    }

    #[test]
    fn a_rollout_names_the_trouble_of_a_replica_that_does_not_start() {
        let verdict = deployed(rolling_out(Case::new(1).running(1, 9000).of(2).pulling_in_vain(1), 30));
        let Outcome::Skipped(Reason::RollingOut, message) = &verdict.outcome else { panic!("it waits: {:?}", verdict.outcome) };
        assert!(message.contains("still old: 1; d-") && message.ends_with(": ImagePullFailed: no such image"), "{message}");
    }

    #[test]
    fn replicas_that_crash_again_and_again_do_not_reset_the_deadline() {
        let crashing = Case::new(2).running(2, 9000).of(2).running(1, 20);
        let seen = rolling_out(crashing, 3600).status(|status| {
            status.rollout.as_mut().expect("a rollout").best = 1;
        });
        assert!(deployed(seen).change.rolls_back);
    }

    #[test]
    fn time_while_paused_does_not_count_against_the_deadline() {
        let case = || rolling_out(Case::new(2).running(2, 9000).of(2).provisioning(1), 4000);
        let paused = deployed(case().spec(|spec: &mut DeploymentSpec| spec.paused = true));
        assert_eq!(paused.change.rollout.as_ref().and_then(|rollout| rollout.paused_at), Some(now()));
        assert!(!paused.change.rolls_back);
        let resumed = deployed(case().status(|status| {
            status.rollout.as_mut().expect("a rollout").paused_at = Some(now() - TimeDelta::seconds(3000));
        }));
        assert!(!resumed.change.rolls_back, "1000 s without a pause");
    }

    #[test]
    fn a_revision_whose_replicas_all_fail_is_rolled_back_without_waiting_for_the_deadline() {
        let hopeless = rolling_out(Case::new(2).running(2, 9000), 60).status(|status| {
            status.failures = Failures { revision: 2, count: 5, last_at: Some(now()), ..Failures::default() };
        });
        assert!(deployed(hopeless).change.rolls_back);
    }

    #[test]
    fn a_surge_without_capacity_is_told_after_a_minute_with_its_remedies() {
        let young = deployed(rolling_out(Case::new(1).running(1, 9000).of(2).starving(1, 59), 59));
        assert_eq!(young.change.stalled, None);
        let stuck = deployed(rolling_out(Case::new(1).running(1, 9000).of(2).starving(1, 61), 61));
        let Outcome::Skipped(reason, message) = &stuck.outcome else { panic!("it waits: {:?}", stuck.outcome) };
        assert_eq!((*reason, stuck.change.stalled), (Reason::SurgeHasNoCapacity, Some(Reason::SurgeHasNoCapacity)));
        assert!(message.contains("no room for 1 more: add nodes, or set strategy.rolling.whenNoCapacity"), "{message}");
    }
}
