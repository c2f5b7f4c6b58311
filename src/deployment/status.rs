//! Applies a step to a deployment's status, apart from its progress: numbers, revisions, planned and leaving replicas. Pure.

use super::deployments::Deployments;
use super::population::{self, Population};
use super::snapshot::{DeploymentItem, Snapshot};
use crate::api::{DeploymentPhase, DeploymentStatus, LABEL_DEPLOYMENT};
use crate::lifecycle::{ConditionState, Step};

/// Applies a step.
pub fn apply(status: &mut DeploymentStatus, step: &Step<'_, Deployments>, snapshot: &Snapshot, item: &DeploymentItem) {
    let change = step.change;
    status.planned.retain(|planned| !item.replicas.iter().any(|replica| replica.name() == planned.name));
    status.leaving.retain(|name| item.replicas.iter().any(|replica| replica.name() == name && !replica.is_deleted()));
    if let Some(failures) = &change.failures {
        status.failures = failures.clone();
    }
    revisions(status, step, item);
    status.replicas_made = change.plan.iter().map(|planned| planned.ordinal + 1).max().unwrap_or(0).max(status.replicas_made);
    status.planned.extend(change.plan.iter().cloned());
    status.leaving.extend(change.leave.iter().cloned());
    if status.phase.is_ending() || status.phase == DeploymentPhase::Failed {
        status.planned.clear();
    }
    numbers(status, snapshot, item);
}

fn revisions(status: &mut DeploymentStatus, step: &Step<'_, Deployments>, item: &DeploymentItem) {
    let change = step.change;
    if let Some(rollout) = &change.rollout {
        status.rollout = Some(rollout.clone());
    }
    if let Some(revision) = change.deploys {
        status.deploying_revision = Some(revision).filter(|revision| status.current_revision != Some(*revision));
        status.failed_revision = status.failed_revision.filter(|failed| *failed != revision);
    }
    if change.rolls_back {
        status.failed_revision = status.deploying_revision.take();
        status.failed_retry = population::retry_mark(item);
    }
    if change.completes
        && let Some(deployed) = status.deploying_revision.take()
        && status.current_revision != Some(deployed)
    {
        status.previous_revision = status.current_revision.replace(deployed);
        // The template changed since the last failure.
        (status.failed_revision, status.failed_retry) = (None, None);
    }
    if change.completes {
        status.rollout = None;
    }
    status.stalled = change.stalled;
}

/// The numbers of the status, with every replica that is decided.
pub fn numbers(status: &mut DeploymentStatus, snapshot: &Snapshot, item: &DeploymentItem) {
    let target = status.deploying_revision.or(status.current_revision).unwrap_or_default();
    let population = Population::with_status(snapshot, item, status, target);
    let (shown, floor) = (population.summary(), population.floor());
    let desired = if status.phase.is_ending() { 0 } else { item.spec().replicas };
    status.min_available = if desired == 0 { 0 } else { floor.max(1) };
    status.desired_replicas = desired;
    status.replicas = shown.counted.min(desired);
    status.selector = Some(format!("{LABEL_DEPLOYMENT}={}", item.name()));
    status.ready = population::ready(item);
    status.available = shown.available;
    status.updated = shown.updated;
    status.replicas_ready = Some(format!("{}/{desired}", shown.available));
    let namespace = item.deployment.metadata.namespace.as_deref().unwrap_or_default();
    let url = format!("http://{}.{namespace}.svc:{}", item.name(), item.spec().service.port);
    status.url = (status.phase != DeploymentPhase::Destroyed).then_some(url);
    status.scaling_group = status.scaling_group.take().or_else(|| snapshot.group_name.clone());
}

/// Whether the numbers of the status are no longer what is seen.
pub fn is_outdated(snapshot: &Snapshot, item: &DeploymentItem) -> bool {
    let before = item.status();
    let mut next = before.clone();
    numbers(&mut next, snapshot, item);
    next != *before
}

/// The conditions as phase and numbers imply them.
pub fn conditions(status: &DeploymentStatus) -> Vec<ConditionState> {
    // The reason of the status says why something does not hold.
    let state = |type_, holds: bool| ConditionState { type_, holds: Some(holds), shows_delay: false, is_explained: !holds };
    let ending = status.phase.is_ending();
    vec![
        state("Available", !ending && status.available >= status.min_available),
        state("Progressing", !ending && status.stalled.is_none() && status.phase != DeploymentPhase::Failed),
        state("Reconciled", status.phase != DeploymentPhase::Failed),
    ]
}
