//! What keeps a deployment from its desired state: each finding with numbers, since when it holds, and what happens next. Pure.

use chrono::{DateTime, TimeDelta, Utc};
use kube::ResourceExt;

use super::finding::{Finding, Seen};
use super::revisions::{rolled_back, why_rolled_back};
use super::stuck::{no_room, replica, shown};
use super::table::{age, clock};
use crate::api::{ANNOTATION_RETRY, DeploymentPhase, Failures, Health, Reason, Rollout, RolloutStep, Route, RoutePhase};
use crate::deployment::failures;
use crate::lifecycle::{Timing, created_at};

/// Everything that keeps a deployment from its desired state.
pub fn findings(seen: &Seen<'_>) -> Vec<Finding> {
    if seen.status.phase.is_ending() {
        return ending(seen).into_iter().collect();
    }
    let first = [unread_spec, pending, failed].iter().filter_map(|find| find(seen));
    let rest = [restoring, rollout, failing, held, unhealthy, silent, starting, planned].iter().filter_map(|find| find(seen));
    first.chain(no_room(seen)).chain(rolled(seen)).chain(rest).collect()
}

fn unread_spec(seen: &Seen<'_>) -> Option<Finding> {
    let generation = seen.deployment.metadata.generation;
    seen.status.is_outdated(generation).then(|| Finding {
        what: "the operator has not read the last change of the spec yet".into(),
        since: None,
        details: vec![format!("generation {} is read, {} is written", seen.status.observed_generation, generation.unwrap_or(0))],
        next: "it is read as soon as an operator runs".into(),
    })
}

fn pending(seen: &Seen<'_>) -> Option<Finding> {
    let reason = seen.status.reason.filter(|_| seen.status.phase == DeploymentPhase::Pending)?;
    let message = seen.status.message.clone().unwrap_or_default();
    let retry = seen.status.next_attempt_at.filter(|next| *next > seen.now);
    let retry = retry.map_or_else(String::new, |next| format!(", at the latest at {}", clock(next, seen.now)));
    Some(Finding {
        what: format!("none of {} replicas can be placed", seen.desired()),
        since: seen.status.phase_started_at.or_else(|| created_at(seen.deployment)),
        details: vec![format!("{reason}: {message}")],
        next: format!("evaluated on every change{retry}"),
    })
}

fn failed(seen: &Seen<'_>) -> Option<Finding> {
    (seen.status.phase == DeploymentPhase::Failed).then(|| Finding {
        what: "no revision has ever served, and the first one is not tried again".into(),
        since: seen.status.phase_started_at,
        details: seen.status.message.clone().into_iter().collect(),
        next: format!("change the template, or try again: {}", retry_command(seen)),
    })
}

/// The command that tries a failed revision again.
fn retry_command(seen: &Seen<'_>) -> String {
    format!("kubectl annotate --overwrite sdep/{} {ANNOTATION_RETRY}=$(date +%s)", seen.arguments())
}

/// A revision that was rolled back, while the spec still asks for it.
fn rolled(seen: &Seen<'_>) -> Option<Finding> {
    let current = seen.status.current_revision.filter(|_| seen.status.phase != DeploymentPhase::Failed)?;
    let failed = rolled_back(seen.deployment, seen.status, seen.parts.revisions.as_deref())?;
    let (since, why) = why_rolled_back(seen.status, failed);
    let (name, retry) = (seen.arguments(), retry_command(seen));
    Some(Finding {
        what: format!("revision {failed} was rolled back and revision {current} serves"),
        since,
        details: vec![why],
        next: format!(
            "change the template; or set it to revision {current}: kubectl sokovan rollout undo {name}; or try again: {retry}"
        ),
    })
}

/// The current revision, while it is restored after a roll-back.
fn restoring(seen: &Seen<'_>) -> Option<Finding> {
    let rollout = seen.status.rollout.as_ref().filter(|rollout| rollout.step == RolloutStep::RollingBack)?;
    let current = seen.status.current_revision?;
    let (available, desired) = (seen.status.available, seen.desired());
    Some(Finding {
        what: format!("revision {current} is being restored: {available} of {desired} replicas are available"),
        since: Some(rollout.progressed_at),
        details: vec![],
        next: "replicas of the failed revision are drained as replicas of the current one become available".into(),
    })
}

fn rollout(seen: &Seen<'_>) -> Option<Finding> {
    let (revision, rollout) = seen.status.deploying_revision.zip(seen.status.rollout.as_ref())?;
    let (new, old): (Vec<&Route>, Vec<&Route>) = seen.counted().partition(|route| route.spec.revision == revision);
    let healthy = new.iter().filter(|route| route.phase() == RoutePhase::Running).count();
    let replaces = seen.status.current_revision.map_or_else(String::new, |current| format!(" replaces revision {current}"));
    let numbers = match seen.parts.routes {
        Some(_) => format!("{healthy} of {} replicas are healthy, still old: {}", seen.desired(), old.len()),
        None => format!("{} of {} replicas are made", seen.status.updated, seen.desired()),
    };
    let progress = age(Some(rollout.progressed_at), seen.now);
    let mut details = vec![format!("last progress {progress} ago; at most {} were available at once", rollout.best)];
    let stuck = seen.stuck(&[RoutePhase::Provisioning, RoutePhase::HealthChecking, RoutePhase::Unhealthy]);
    let stuck: Vec<&Route> = stuck.into_iter().filter(|route| route.spec.revision == revision).collect();
    details.extend(shown(stuck.iter().map(|route| replica(seen, route))));
    Some(Finding {
        what: format!("revision {revision}{replaces}: {numbers}"),
        since: Some(rollout.since),
        details,
        next: rollout_next(seen, rollout),
    })
}

fn rollout_next(seen: &Seen<'_>, rollout: &Rollout) -> String {
    if seen.deployment.spec.paused {
        return format!("the rollout is paused; continue it: kubectl sokovan rollout resume {}", seen.arguments());
    }
    let deadline = rollout.progressed_at + TimeDelta::seconds(seen.deployment.spec.progress_deadline_seconds);
    let outcome = match seen.status.current_revision {
        Some(current) => format!("rolled back to revision {current}"),
        None => "failed".into(),
    };
    format!("{outcome} at {} unless more replicas become available", clock(deadline, seen.now))
}

/// Replicas that ended by themselves.
fn failing(seen: &Seen<'_>) -> Option<Finding> {
    let Failures { revision, count, last_at, message, has_served, .. } = &seen.status.failures;
    let target = seen.status.deploying_revision.or(seen.status.current_revision);
    if *count == 0 || target != Some(*revision) || seen.status.available >= seen.desired() {
        return None;
    }
    let next = match failures::next_at(&seen.status.failures, *revision, &Timing::default(), seen.now) {
        Some(at) => format!("the next replica is made at {}", clock(at, seen.now)),
        None => "each is replaced at once".into(),
    };
    let left = (0..=1000).find(|more| {
        let later = Failures { revision: *revision, count: count + more, has_served: *has_served, ..Failures::default() };
        failures::is_hopeless(&later, *revision, seen.desired())
    });
    let left = left.map_or_else(String::new, |left| format!("; after {left} more the revision fails"));
    Some(Finding {
        what: format!("{count} replicas of revision {revision} failed in a row, the last {} ago", age(*last_at, seen.now)),
        since: None,
        details: vec![message.clone()],
        next: format!("{next}{left}"),
    })
}

/// Unhealthy replicas that the operator does not replace yet.
fn held(seen: &Seen<'_>) -> Option<Finding> {
    let held: Vec<&Route> = seen.stuck(&[RoutePhase::Unhealthy]).into_iter().filter(|route| is_held(route)).collect();
    let first = held.first()?;
    let why = first.status.as_ref().and_then(|status| status.message.clone()).unwrap_or_default();
    Some(Finding {
        what: format!("the eviction of {} of {} replicas is held: {why}", held.len(), seen.desired()),
        since: oldest(&held),
        details: shown(held.iter().map(|route| replica(seen, route))),
        next: "each is replaced as soon as the limit allows it, and stays if it is healthy again before".into(),
    })
}

fn is_held(route: &Route) -> bool {
    route.status.as_ref().is_some_and(|status| status.reason == Some(Reason::EvictionHeld))
}

fn oldest(routes: &[&Route]) -> Option<DateTime<Utc>> {
    routes.iter().filter_map(|route| route.status.as_ref()?.phase_started_at).min()
}

/// Unhealthy replicas, apart from those of a rollout and those that are held.
fn unhealthy(seen: &Seen<'_>) -> Option<Finding> {
    let all = seen.stuck(&[RoutePhase::Unhealthy]).into_iter();
    let all: Vec<&Route> = all.filter(|route| !is_held(route) && !is_new(seen, route)).collect();
    let since = all.first().and(oldest(&all))?;
    let due = since + TimeDelta::seconds(seen.deployment.spec.eviction.after_seconds);
    let due = if due > seen.now { format!("at {}", clock(due, seen.now)) } else { "now".into() };
    Some(Finding {
        what: format!("{} of {} replicas are unhealthy and get no requests", all.len(), seen.desired()),
        since: Some(since),
        details: shown(all.iter().map(|route| replica(seen, route))),
        next: format!("the first is replaced {due} unless it is healthy again before"),
    })
}

/// Whether a route is of the revision that is being rolled out.
fn is_new(seen: &Seen<'_>, route: &Route) -> bool {
    seen.status.rollout.is_some() && seen.status.deploying_revision == Some(route.spec.revision)
}

/// Replicas on nodes that do not answer.
fn silent(seen: &Seen<'_>) -> Option<Finding> {
    let is_stale = |route: &Route| route.status.as_ref().is_some_and(|status| status.health == Health::Stale);
    let all: Vec<&Route> = seen.counted().filter(|route| route.phase() == RoutePhase::Running && is_stale(route)).collect();
    let limit = Timing::default().stale_replica.as_secs();
    (!all.is_empty()).then(|| Finding {
        what: format!("the nodes of {} of {} replicas do not answer, so their health is unknown", all.len(), seen.desired()),
        since: None,
        details: shown(all.iter().map(|route| replica(seen, route))),
        next: format!("after {limit} s of silence they count as unhealthy"),
    })
}

/// Replicas that start, apart from those of a rollout.
fn starting(seen: &Seen<'_>) -> Option<Finding> {
    let all = seen.stuck(&[RoutePhase::Provisioning, RoutePhase::HealthChecking]).into_iter();
    let all: Vec<&Route> = all.filter(|route| !is_new(seen, route)).collect();
    let check = seen.deployment.spec.model.health_check.clone().unwrap_or_default();
    let limit = check.start_timeout_seconds;
    (!all.is_empty()).then(|| Finding {
        what: format!("{} of {} replicas are starting", all.len(), seen.desired()),
        since: oldest(&all),
        details: shown(all.iter().map(|route| replica(seen, route))),
        next: format!("a replica whose health check does not pass within {limit} s of its container's start is replaced"),
    })
}

/// Replicas that are decided and do not exist yet.
fn planned(seen: &Seen<'_>) -> Option<Finding> {
    let exists = |name: &String| seen.routes().any(|route| route.name_any() == *name);
    let count = seen.status.planned.iter().filter(|planned| !exists(&planned.name)).count();
    (count > 0 && seen.parts.routes.is_some()).then(|| Finding {
        what: format!("{count} of {} replicas are decided and do not exist yet", seen.desired()),
        since: None,
        details: vec![],
        next: "they are created in the next cycle of the operator".into(),
    })
}

fn ending(seen: &Seen<'_>) -> Option<Finding> {
    let left: Vec<&Route> = seen.routes().filter(|route| !route.phase().is_terminal()).collect();
    (seen.status.phase == DeploymentPhase::Destroying).then(|| Finding {
        what: format!("the deployment ends: {} replicas have not ended yet", left.len()),
        since: seen.status.phase_started_at,
        details: shown(left.iter().map(|route| replica(seen, route))),
        next: "it has ended once the pods of all replicas are gone".into(),
    })
}
