//! Rolling updates: which replicas are made and which end in one cycle. Nothing healthy ends before its successor serves.

use super::population::{Population, count};
use super::scale_in::in_order;
use super::snapshot::{DeploymentItem, Replica, Snapshot};
use crate::api::{DeploymentSpec, RoutePhase, WhenNoCapacity};

/// What to change in one cycle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// How many replicas to make.
    pub create: i32,
    /// The revision of which they are made.
    pub revision: i64,
    /// The names of replicas to end.
    pub end: Vec<String>,
}

/// One step from the old revisions to the target. Without old replicas, it scales out or in.
pub fn rolling(snapshot: &Snapshot, spec: &DeploymentSpec, population: &Population<'_>) -> Plan {
    let p = population;
    // Old replicas that never served, and unhealthy ones, serve nobody.
    let serves = |replica: &&&Replica| replica.has_served() && replica.phase() != RoutePhase::Unhealthy;
    let (serving, useless): (Vec<&Replica>, Vec<&Replica>) = p.old.iter().partition(serves);
    let mut end: Vec<&Replica> = in_order(&useless);
    let old_left = count(serving.iter()) + p.planned_old;
    let create = (p.desired - p.all_new()).min(p.desired + p.surge - p.all_new() - old_left).max(0);

    let mut spare = p.available() - p.floor();
    let mut end_spare = |replica: &Replica| {
        if !replica.is_available(snapshot, spec) {
            return true;
        }
        spare -= 1;
        spare >= 0
    };
    let surplus = usize::try_from(p.all_new() - p.desired).unwrap_or(0);
    end.extend(in_order(&p.new).into_iter().take(surplus).filter(|replica| end_spare(replica)));
    end.extend(in_order(&serving).into_iter().filter(|replica| end_spare(replica)));
    if end.is_empty() && spec.strategy.rolling.when_no_capacity == WhenNoCapacity::ReplaceInPlace && is_starved(snapshot, p) {
        end.extend(in_order(&serving).first());
    }
    Plan { create, revision: p.target, end: end.into_iter().map(|replica| replica.name().to_owned()).collect() }
}

/// While a rollout stands still: as many replicas as there shall be. Missing ones are made of the revision that serves.
pub fn paused(snapshot: &Snapshot, item: &DeploymentItem, population: &Population<'_>) -> Plan {
    let (p, spec) = (population, item.spec());
    let revision = item.status().current_revision.unwrap_or(p.target);
    let all: Vec<&Replica> = p.old.iter().chain(&p.new).copied().collect();
    let surplus = usize::try_from(p.counted() - p.desired - p.surge).unwrap_or(0);
    let mut spare = p.available() - p.floor();
    let ends = in_order(&all).into_iter().take(surplus).filter(|replica| {
        let is_available = replica.is_available(snapshot, spec);
        spare -= i32::from(is_available);
        !is_available || spare >= 0
    });
    let create = (p.desired - p.counted()).max(0);
    Plan { create, revision, end: ends.map(|replica| replica.name().to_owned()).collect() }
}

/// Whether the new replicas wait for room, and nothing that would make room is on its way.
fn is_starved(snapshot: &Snapshot, population: &Population<'_>) -> bool {
    let starved = population.new.iter().filter_map(|replica| starving_since(snapshot, replica)).next().is_some();
    starved && population.available_new == count(population.new.iter()) - starving(snapshot, population)
}

/// How many new replicas have waited for room for too long.
pub fn starving(snapshot: &Snapshot, population: &Population<'_>) -> i32 {
    count(population.new.iter().filter(|replica| starving_since(snapshot, replica).is_some()))
}

/// Since when, if a replica has waited for room for too long. Returns its session's message.
pub fn starving_since(snapshot: &Snapshot, replica: &Replica) -> Option<String> {
    let (since, message) = replica.waits_for_capacity()?;
    let long = chrono::TimeDelta::from_std(snapshot.timing.surge_capacity).unwrap_or_default();
    (snapshot.now - since > long).then_some(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deployment::handlers::testing::{Case, snapshot};

    fn plan(case: Case, target: i64) -> Plan {
        let item = case.item();
        rolling(&snapshot(), item.spec(), &Population::of(&snapshot(), &item, target))
    }

    fn strategy(surge: i32, unavailable: i32) -> impl Fn(&mut DeploymentSpec) {
        move |spec| {
            spec.strategy.rolling.max_surge = crate::api::Share::Count(surge);
            spec.strategy.rolling.max_unavailable = crate::api::Share::Count(unavailable);
        }
    }

    #[test]
    fn a_surge_comes_before_any_old_replica_ends() {
        let first = plan(Case::new(3).running(3, 900).spec(strategy(1, 0)), 2);
        assert_eq!((first.create, first.end.len()), (1, 0));
        let second = plan(Case::new(3).running(3, 900).of(2).running(1, 5).spec(strategy(1, 0)), 2);
        assert_eq!((second.create, second.end.len()), (0, 1));
    }

    #[test]
    fn without_any_limit_one_replica_may_be_missing() {
        let first = plan(Case::new(3).running(3, 900).spec(strategy(0, 0)), 2);
        assert_eq!((first.create, first.end.len()), (0, 1));
    }

    #[test]
    fn old_replicas_that_never_served_end_first_and_make_room() {
        let first = plan(Case::new(3).provisioning(3).spec(strategy(0, 0)), 2);
        assert_eq!((first.create, first.end.len()), (3, 3));
    }

    #[test]
    fn a_planned_replica_counts_before_it_exists() {
        let first = plan(Case::new(3).running(3, 900).planned(2, 1).spec(strategy(1, 0)), 2);
        assert_eq!(first.create, 0);
    }

    #[test]
    fn a_leaving_replica_serves_nobody_any_more() {
        let leaving = plan(Case::new(3).running(3, 900).leaving(1).of(2).running(1, 5).spec(strategy(1, 0)), 2);
        assert_eq!((leaving.create, leaving.end.len()), (1, 0), "two old and one new are the floor");
    }

    #[test]
    fn a_third_revision_ends_what_the_second_has_within_the_floor() {
        let case = Case::new(4).running(3, 900).of(2).running(1, 5).of(3);
        let third = plan(case.spec(strategy(1, 0)), 3);
        assert_eq!((third.create, third.end.len()), (1, 0));
        let third = plan(Case::new(4).running(3, 900).of(2).provisioning(2).of(3).spec(strategy(1, 1)), 3);
        assert_eq!((third.create, third.end.len()), (2, 2), "those that never served");
    }

    #[test]
    fn a_revert_keeps_the_replicas_of_the_current_revision() {
        let revert = plan(Case::new(3).running(2, 900).of(2).running(2, 5).spec(strategy(1, 0)), 1);
        assert_eq!(revert.create, 0, "three old and new serve, and one more would exceed the surge");
        assert_eq!(revert.end.len(), 1);
    }

    #[test]
    fn sc_002_the_least_useful_replicas_end_first_when_it_scales_in() {
        let case = Case::new(1).running(2, 900).unhealthy(1).provisioning(1);
        let names: Vec<String> = case.item().replicas.iter().map(|replica| replica.name().to_owned()).collect();
        let plan = plan(case, 1);
        assert_eq!(plan.create, 0);
        assert_eq!(plan.end, [names[3].clone(), names[2].clone(), names[1].clone()], "without a node, unhealthy, the newest");
    }

    #[test]
    fn a_full_cluster_keeps_the_old_replica_unless_it_may_be_replaced_in_place() {
        let full = || Case::new(1).running(1, 900).of(2).starving(1, 61);
        let kept = plan(full().spec(strategy(1, 0)), 2);
        assert_eq!((kept.create, kept.end.len()), (0, 0));
        let in_place = full().spec(|spec| {
            strategy(1, 0)(spec);
            spec.strategy.rolling.when_no_capacity = WhenNoCapacity::ReplaceInPlace;
        });
        assert_eq!(plan(in_place, 2).end.len(), 1);
    }

    #[test]
    fn a_paused_rollout_replaces_what_ends_and_follows_the_number_of_replicas() {
        let plan = |case: Case| {
            let item = case.item();
            paused(&snapshot(), &item, &Population::of(&snapshot(), &item, 2))
        };
        let more = plan(Case::new(4).running(2, 900).of(2).running(1, 5).spec(strategy(1, 0)));
        assert_eq!((more.create, more.revision), (1, 1), "of the revision that serves");
        assert_eq!(plan(Case::new(2).running(3, 900).of(2).running(1, 5).spec(strategy(1, 0))).end.len(), 1);
    }
}
