//! The replicas of a deployment by revision, and the numbers that follow from them.

use super::revision::Revision;
use super::snapshot::{DeploymentItem, Replica, Snapshot};
use crate::api::{ANNOTATION_RETRY, DeploymentStatus, RoutePhase};

/// The replicas of a deployment, as one revision replaces the others.
#[derive(Debug)]
pub struct Population<'i> {
    /// The revision that all replicas shall have.
    pub target: i64,
    pub desired: i32,
    pub surge: i32,
    pub unavailable: i32,
    /// Counted replicas of the target.
    pub new: Vec<&'i Replica>,
    /// Counted replicas of other revisions.
    pub old: Vec<&'i Replica>,
    /// Replicas of the target that are decided and not there yet.
    pub planned_new: i32,
    /// The same of other revisions.
    pub planned_old: i32,
    /// Available replicas among them.
    pub available_new: i32,
    pub available_old: i32,
}

impl<'i> Population<'i> {
    pub fn of(snapshot: &Snapshot, item: &'i DeploymentItem, target: i64) -> Self {
        Self::with_status(snapshot, item, item.status(), target)
    }

    /// The same as a new status of the deployment counts them.
    pub fn with_status(snapshot: &Snapshot, item: &'i DeploymentItem, status: &DeploymentStatus, target: i64) -> Self {
        let spec = item.spec();
        let rolling = &spec.strategy.rolling;
        let desired = spec.replicas;
        let surge = rolling.max_surge.rounded_up(desired);
        let unavailable = rolling.max_unavailable.rounded_down(desired);
        let counted = item.replicas.iter().filter(|replica| replica.is_counted(status));
        let (new, old): (Vec<_>, Vec<_>) = counted.partition(|replica| replica.revision() == target);
        let available = |replicas: &[&Replica]| count(replicas.iter().filter(|r| r.is_available(snapshot, spec)));
        let (planned_new, planned_old) = planned(item, status, target);
        Self {
            available_new: available(&new),
            available_old: available(&old),
            unavailable: if surge == 0 && unavailable == 0 { 1 } else { unavailable },
            target,
            desired,
            surge,
            new,
            old,
            planned_new,
            planned_old,
        }
    }

    /// Replicas of the target, planned ones included.
    pub fn all_new(&self) -> i32 {
        count(self.new.iter()) + self.planned_new
    }

    /// Replicas of other revisions, planned ones included.
    pub fn all_old(&self) -> i32 {
        count(self.old.iter()) + self.planned_old
    }

    pub fn counted(&self) -> i32 {
        self.all_new() + self.all_old()
    }

    pub fn available(&self) -> i32 {
        self.available_new + self.available_old
    }

    /// The available replicas that there must be at any time.
    pub fn floor(&self) -> i32 {
        (self.desired - self.unavailable).max(0)
    }

    /// The numbers that a status shows.
    pub fn summary(&self) -> Summary {
        Summary { counted: self.counted(), available: self.available(), updated: self.all_new() }
    }

    /// Whether every replica is of the target and available, and there is no other.
    pub fn is_settled(&self) -> bool {
        self.all_old() == 0 && self.all_new() == self.desired && self.available_new == self.desired
    }
}

/// The numbers that a status shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    pub counted: i32,
    pub available: i32,
    /// Replicas of the target.
    pub updated: i32,
}

pub fn count<T>(items: impl Iterator<Item = T>) -> i32 {
    i32::try_from(items.count()).unwrap_or(i32::MAX)
}

/// Planned replicas without a route yet: of the target, and of other revisions.
fn planned(item: &DeploymentItem, status: &DeploymentStatus, target: i64) -> (i32, i32) {
    let missing = status.planned.iter().filter(|planned| !item.replicas.iter().any(|replica| replica.name() == planned.name));
    let (new, old): (Vec<_>, Vec<_>) = missing.partition(|planned| planned.revision == target);
    (count(new.iter()), count(old.iter()))
}

/// Healthy replicas, whether or not clients can reach them yet.
pub fn ready(item: &DeploymentItem) -> i32 {
    count(item.replicas.iter().filter(|replica| replica.phase() == RoutePhase::Running && !replica.is_deleted()))
}

/// The revision that all replicas shall have: that of the spec, unless it was rolled back.
pub fn target(item: &DeploymentItem) -> Option<i64> {
    let status = item.status();
    let wanted = item.wanted_revision().map(|Revision { number, .. }| *number)?;
    match status.current_revision {
        Some(current) if has_failed(item, status, wanted) => Some(current),
        Some(_) | None => Some(wanted),
    }
}

/// Whether a revision was rolled back and is not to be tried again.
pub fn has_failed(item: &DeploymentItem, status: &DeploymentStatus, revision: i64) -> bool {
    status.failed_revision == Some(revision) && status.failed_retry == retry_mark(item)
}

/// The value by which a user asks for another try of a failed revision.
pub fn retry_mark(item: &DeploymentItem) -> Option<String> {
    item.deployment.metadata.annotations.as_ref()?.get(ANNOTATION_RETRY).cloned()
}
