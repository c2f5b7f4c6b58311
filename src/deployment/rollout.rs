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
    let (serving, useless): (Vec<&Replica>, Vec<&Replica>) = p.old.iter().partition(|replica| may_serve(replica));
    let mut end: Vec<&Replica> = in_order(&useless);
    let old_left = count(serving.iter()) + p.planned_old;
    let create = (p.desired - p.all_new()).min(p.desired + p.surge - p.all_new() - old_left).max(0);

    let mut spare = Spare::of(p);
    let surplus = usize::try_from(p.all_new() - p.desired).unwrap_or(0);
    end.extend(in_order(&p.new).into_iter().filter(|replica| spare.may_end(snapshot, spec, replica)).take(surplus));
    end.extend(in_order(&serving).into_iter().filter(|replica| spare.may_end(snapshot, spec, replica)));
    if end.is_empty() && spec.strategy.rolling.when_no_capacity == WhenNoCapacity::ReplaceInPlace && is_starved(snapshot, p) {
        end.extend(in_order(&serving).first());
    }
    Plan { create, revision: p.target, end: end.into_iter().map(|replica| replica.name().to_owned()).collect() }
}

/// While a rollout stands still: as many replicas as there shall be. Missing ones are made of the revision that serves.
pub fn paused(snapshot: &Snapshot, item: &DeploymentItem, population: &Population<'_>) -> Plan {
    let (p, spec) = (population, item.spec());
    let all: Vec<&Replica> = p.old.iter().chain(&p.new).copied().collect();
    let surplus = usize::try_from(p.counted() - p.desired - p.surge).unwrap_or(0);
    let mut spare = Spare::of(p);
    let ends = in_order(&all).into_iter().filter(|replica| spare.may_end(snapshot, spec, replica)).take(surplus);
    let create = (p.desired - p.counted()).max(0);
    Plan { create, revision: made_while_paused(item, p.target), end: ends.map(|replica| replica.name().to_owned()).collect() }
}

/// The revision of the replicas that are made while a rollout is paused.
pub fn made_while_paused(item: &DeploymentItem, target: i64) -> i64 {
    item.status().current_revision.unwrap_or(target)
}

/// Whether a replica serves, or did and may do so again.
fn may_serve(replica: &Replica) -> bool {
    replica.has_served() && replica.phase() != RoutePhase::Unhealthy
}

/// How many replicas may end in one step.
struct Spare {
    /// Available replicas above the floor.
    available: i32,
    /// Whether one more may end that is not available at the moment.
    one_more: bool,
}

impl Spare {
    fn of(population: &Population<'_>) -> Self {
        let available = population.available() - population.floor();
        Self { available, one_more: available >= 0 }
    }

    /// Whether this replica may end too. One that runs and is not listed may come back at any time, so while too few are
    /// available, as in an outage of the network, none of them ends.
    fn may_end(&mut self, snapshot: &Snapshot, spec: &DeploymentSpec, replica: &Replica) -> bool {
        if !may_serve(replica) {
            return true;
        }
        if self.available > 0 {
            self.available -= 1;
            return true;
        }
        !replica.is_available(snapshot, spec) && std::mem::take(&mut self.one_more)
    }
}

/// Whether the new replicas wait for room. While fewer than the floor are available, an old one has made room already, and its
/// successor does not serve yet.
fn is_starved(snapshot: &Snapshot, population: &Population<'_>) -> bool {
    let starved = population.new.iter().any(|replica| starving_since(snapshot, replica).is_some());
    let others_serve = population.available_new == count(population.new.iter()) - starving(snapshot, population);
    starved && others_serve && population.available() >= population.floor()
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
    fn one_old_replica_at_a_time_makes_room_in_place() {
        let in_place = |case: Case| {
            case.spec(|spec| {
                strategy(1, 0)(spec);
                spec.strategy.rolling.when_no_capacity = WhenNoCapacity::ReplaceInPlace;
            })
        };
        assert_eq!(plan(in_place(Case::new(2).running(2, 900).of(2).starving(1, 61)), 2).end.len(), 1);
        let leaving = Case::new(2).running(2, 900).leaving(1).of(2).starving(1, 62);
        assert_eq!(plan(in_place(leaving), 2).end.len(), 0, "the room of the first is not taken yet");
    }

    #[test]
    fn while_too_few_replicas_are_listed_none_that_runs_ends() {
        let outage = plan(Case::new(3).unlisted(3).of(2).running(1, 5).spec(strategy(1, 0)), 2);
        assert_eq!(outage.end.len(), 0);
        let without_weight = plan(Case::new(3).running(2, 900).unlisted(1).of(2).running(1, 5).spec(strategy(1, 0)), 2);
        assert_eq!(without_weight.end.len(), 1, "three serve, so the one that does not may end");
    }

    #[test]
    fn a_replica_that_must_stay_does_not_keep_another_from_ending() {
        let scale_in = plan(Case::new(2).unlisted(1).running(2, 900), 1);
        assert_eq!(scale_in.end.len(), 1, "the one without requests ends, and the two that serve stay");
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
