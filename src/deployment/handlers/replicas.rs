//! What the handlers of deployments share: carrying out what is planned, planning the next replicas, explaining what is missing.

use chrono::TimeDelta;

use super::{Change, Outcome, Verdict};
use crate::api::{PlannedReplica, Reason, RoutePhase, replica_name};
use crate::deployment::effect::Effect;
use crate::deployment::failures;
use crate::deployment::population::{Population, count};
use crate::deployment::rollout::Plan;
use crate::deployment::snapshot::{DeploymentItem, Replica, Snapshot};

/// The most replicas that one cycle makes, before and after the revision has served.
const BATCH: i32 = 10;
const BATCH_ONCE_SERVED: i32 = 100;
/// The most replicas that one cycle ends.
const MAX_ENDS: usize = 100;
/// How many failed replicas are kept for their logs.
const KEPT_FAILED: usize = 3;

/// The effects of what is committed: replicas to make, replicas to end, and ended ones to remove.
pub fn carried_out(item: &DeploymentItem) -> Vec<Effect> {
    let status = item.status();
    let missing = status.planned.iter().filter(|planned| !item.replicas.iter().any(|replica| replica.name() == planned.name));
    let create = missing.cloned().map(Effect::CreateRoute);
    let leaving = item.replicas.iter().filter(|replica| status.leaving.iter().any(|name| name == replica.name()));
    let ended = ended(item);
    let delete = leaving.chain(ended).filter(|replica| !replica.is_deleted()).map(delete_route);
    create.chain(delete).collect()
}

/// The names of all replicas that are counted.
pub fn every_name(population: &Population<'_>) -> Vec<String> {
    population.new.iter().chain(&population.old).map(|replica| replica.name().to_owned()).collect()
}

pub fn delete_route(replica: &Replica) -> Effect {
    Effect::DeleteRoute { name: replica.name().to_owned(), uid: replica.route.metadata.uid.clone().unwrap_or_default() }
}

/// Ended replicas that are not kept: those that left, and failed ones except the newest, once their failure is counted.
fn ended(item: &DeploymentItem) -> impl Iterator<Item = &Replica> {
    let counted = &item.status().failures.counted;
    let mut failed: Vec<&Replica> = item.replicas.iter().filter(|replica| is_failed(replica)).collect();
    failed.sort_by_key(|replica| std::cmp::Reverse(replica.route.spec.ordinal));
    let surplus: Vec<&Replica> = failed.into_iter().skip(KEPT_FAILED).collect();
    let left = item.replicas.iter().filter(|replica| replica.phase() == RoutePhase::Terminated && !is_failed(replica));
    left.chain(surplus.into_iter().filter(move |replica| counted.iter().any(|name| name == replica.name())))
}

fn is_failed(replica: &Replica) -> bool {
    replica.phase().is_terminal() && replica.route.status.as_ref().is_some_and(|status| status.failed)
}

/// A plan as the status records it: limited to one batch, and held back while replicas of its revision fail.
pub fn recorded(snapshot: &Snapshot, item: &DeploymentItem, population: &Population<'_>, plan: Plan, change: &Change) -> Change {
    let status = item.status();
    let failures = change.failures.as_ref().unwrap_or(&status.failures);
    let batch = if failures.has_served && failures.revision == plan.revision { BATCH_ONCE_SERVED } else { BATCH };
    let waits = failures::next_at(failures, plan.revision, &snapshot.timing, snapshot.now).is_some();
    let planned = population.planned_new + population.planned_old;
    let create = if waits { 0 } else { plan.create.min(batch - planned).max(0) };
    let used = item.replicas.iter().map(|replica| replica.route.spec.ordinal + 1).max().unwrap_or(0);
    let first = used.max(status.replicas_made);
    let planned = (0..i64::from(create)).map(|offset| {
        let (revision, ordinal) = (plan.revision, first + offset);
        PlannedReplica { name: replica_name(item.name(), &item.uid().0, revision, ordinal), revision, ordinal }
    });
    let mut leave = plan.end;
    leave.truncate(MAX_ENDS);
    Change { plan: planned.collect(), leave, ..change.clone() }
}

/// Reason and message of a deployment as its replicas are now.
pub fn state(snapshot: &Snapshot, item: &DeploymentItem) -> (Reason, String) {
    let status = item.status();
    let target = status.deploying_revision.or(status.current_revision).unwrap_or_default();
    state_of(snapshot, item, &Population::of(snapshot, item, target), &Change::default())
}

pub fn state_of(snapshot: &Snapshot, item: &DeploymentItem, population: &Population<'_>, change: &Change) -> (Reason, String) {
    match population.is_settled() {
        true => (Reason::ReplicasAvailable, "every replica is available".to_owned()),
        false => missing(snapshot, item, population, change),
    }
}

/// Why not every replica is available, with numbers.
pub fn missing(snapshot: &Snapshot, item: &DeploymentItem, population: &Population<'_>, change: &Change) -> (Reason, String) {
    let status = item.status();
    let failures = change.failures.as_ref().unwrap_or(&status.failures);
    let summary = format!("{} of {} replicas are available", population.available(), population.desired);
    let waiting: Vec<(&&Replica, String)> =
        population.new.iter().filter_map(|replica| Some((replica, replica.waits_for_capacity()?.1))).collect();
    if let Some((first, message)) = waiting.first() {
        let (count, name) = (waiting.len(), first.name());
        return (Reason::NoAvailableNode, format!("{summary}; no room for {count}: session {name}: {message}"));
    }
    if let Some(next) = failures::next_at(failures, population.target, &snapshot.timing, snapshot.now) {
        let (count, why) = (failures.count, &failures.message);
        let next = next.format("%H:%M:%S");
        return (Reason::ReplicasFailing, format!("{summary}; {count} failed in a row, the next one starts at {next}: {why}"));
    }
    if population.counted() > population.desired && population.available() >= population.desired {
        let (all, desired) = (population.counted(), population.desired);
        return (Reason::ReplicasNotAvailable, format!("{all} replicas exist, and {desired} are wanted"));
    }
    let unhealthy = population.new.iter().chain(&population.old).find(|replica| replica.phase() == RoutePhase::Unhealthy);
    if let Some(replica) = unhealthy {
        let why = replica.route.status.as_ref().and_then(|status| status.message.clone()).unwrap_or_default();
        return (Reason::ReplicasNotAvailable, format!("{summary}; {} is unhealthy: {why}", replica.name()));
    }
    (Reason::ReplicasNotAvailable, summary)
}

/// A verdict that only reports. It is not repeated more often than once per `Timing::deployment_numbers`, so that numbers that
/// change all the time are written together.
pub fn report(snapshot: &Snapshot, item: &DeploymentItem, verdict: Verdict) -> Verdict {
    let Outcome::Skipped(..) = &verdict.outcome else { return verdict };
    let last = item.deployment.status.as_ref().and_then(|status| status.history.last()).map(|last| last.updated_at);
    let pace = TimeDelta::from_std(snapshot.timing.deployment_numbers).unwrap_or_default();
    match last.map(|last| last + pace).filter(|next| *next > snapshot.now) {
        Some(next) if !verdict.change.is_some() => {
            let earlier = verdict.wake_at.map_or(next, |wake| wake.min(next));
            Verdict { outcome: Outcome::Idle, ..verdict }.wake_at(Some(earlier))
        }
        Some(_) | None => verdict,
    }
}

/// When something becomes due that no object announces: the end of a pause, or of the time that a replica must have been ready.
pub fn wake_at(
    snapshot: &Snapshot,
    item: &DeploymentItem,
    population: &Population<'_>,
    change: &Change,
) -> Option<chrono::DateTime<chrono::Utc>> {
    let status = item.status();
    let failures = change.failures.as_ref().unwrap_or(&status.failures);
    let pause = failures::next_at(failures, population.target, &snapshot.timing, snapshot.now);
    let all = population.new.iter().chain(&population.old);
    let ready = all.filter_map(|replica| replica.available_at(snapshot, item.spec())).filter(|at| *at > snapshot.now);
    let starve = TimeDelta::from_std(snapshot.timing.surge_capacity).unwrap_or_default() + TimeDelta::milliseconds(1);
    let starving = population.new.iter().filter_map(|replica| Some(replica.waits_for_capacity()?.0 + starve));
    pause.into_iter().chain(ready).chain(starving.filter(|at| *at > snapshot.now)).min()
}

/// How many replicas are on their way to be ready.
pub fn on_their_way(population: &Population<'_>) -> i32 {
    count(
        population.new.iter().filter(|replica| matches!(replica.phase(), RoutePhase::Provisioning | RoutePhase::HealthChecking)),
    )
}
