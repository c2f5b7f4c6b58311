//! Sequencers: each orders the waiting sessions of one priority. One file each, listed here.

mod drf;
mod fifo;
mod lifo;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap, HashMap};

use super::candidate::Candidate;
use super::ledger_snapshot::LedgerSnapshot;
use super::scope::Scope;
use crate::api::{AccessKey, SequencerName};

/// Orders the sessions of one priority: the smallest share comes first, then the smallest rank.
pub struct Sequencer {
    /// The share of a session's keypair. It is computed again after each session of the keypair.
    pub share: Option<fn(&Scope<'_>, &LedgerSnapshot, &Candidate<'_>) -> f64>,
    pub rank: fn(&Candidate<'_>) -> i64,
}

/// To add a sequencer, add its file, its name in the API and a line here.
pub fn sequencer(name: SequencerName) -> &'static Sequencer {
    match name {
        SequencerName::Fifo => &fifo::SEQUENCER,
        SequencerName::Lifo => &lifo::SEQUENCER,
        SequencerName::Drf => &drf::SEQUENCER,
    }
}

/// The sessions of one keypair and priority; if the sequencer has no shares, of all keypairs.
struct Lane<'q> {
    share: f64,
    /// In reverse order: the next session is last.
    turns: Vec<Turn<'q>>,
}

/// A session's sort keys and its index in the queue. Sorting these is faster than sorting candidates.
struct Turn<'q> {
    rank: i64,
    name: (&'q str, &'q str),
    index: usize,
}

/// The order of the queue: the highest effective priority first, then the sequencer's order, then the name. Shares include
/// the cycle's own allocations.
pub struct Sequence<'q> {
    sequencer: &'static Sequencer,
    queue: &'q [Candidate<'q>],
    /// By priority, the highest last.
    bands: Vec<Vec<Lane<'q>>>,
    /// The lanes of the highest band, the next one on top.
    lanes: BinaryHeap<Lane<'q>>,
    /// The lane of the previous session. Its share may have grown, so it is not in the heap.
    last: Option<Lane<'q>>,
}

impl<'q> Sequence<'q> {
    pub fn new(scope: &Scope<'_>, queue: &'q [Candidate<'q>]) -> Self {
        let sequencer = sequencer(scope.group.spec.sequencer);
        let mut bands: BTreeMap<i32, HashMap<Option<&AccessKey>, Lane<'q>>> = BTreeMap::new();
        for (index, candidate) in queue.iter().enumerate() {
            let owner = sequencer.share.map(|_| &candidate.class.access_key);
            let lane = bands.entry(candidate.priority).or_default().entry(owner);
            let lane = lane.or_insert_with(|| Lane { share: 0.0, turns: vec![] });
            lane.turns.push(Turn { rank: (sequencer.rank)(candidate), name: candidate.name, index });
        }
        let sorted = |mut lane: Lane<'q>| {
            lane.turns.sort_unstable_by(|a, b| (b.rank, b.name).cmp(&(a.rank, a.name)));
            lane
        };
        let bands = bands.into_values().map(|lanes| lanes.into_values().map(sorted).collect()).collect();
        Self { sequencer, queue, bands, lanes: BinaryHeap::new(), last: None }
    }

    /// Returns the index of the next session in the queue.
    pub fn next(&mut self, scope: &Scope<'_>, ledger: &LedgerSnapshot) -> Option<usize> {
        if let Some(lane) = self.last.take().filter(|lane| !lane.turns.is_empty()) {
            let lane = self.with_share(scope, ledger, lane);
            self.lanes.push(lane);
        }
        if self.lanes.is_empty() {
            let band = self.bands.pop()?;
            self.lanes = band.into_iter().map(|lane| self.with_share(scope, ledger, lane)).collect();
        }
        let mut lane = self.lanes.pop()?;
        let turn = lane.turns.pop()?;
        self.last = Some(lane);
        Some(turn.index)
    }

    /// Computes the current share of a lane.
    fn with_share(&self, scope: &Scope<'_>, ledger: &LedgerSnapshot, lane: Lane<'q>) -> Lane<'q> {
        let next = lane.turns.last().map(|turn| &self.queue[turn.index]);
        let share = self.sequencer.share.zip(next).map_or(0.0, |(share, next)| share(scope, ledger, next));
        Lane { share, ..lane }
    }
}

impl Ord for Lane<'_> {
    /// A `BinaryHeap` pops the greatest element, so the lane that comes first is the greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        let next = |lane: &Self| lane.turns.last().map(|turn| (turn.rank, turn.name));
        other.share.total_cmp(&self.share).then_with(|| next(other).cmp(&next(self)))
    }
}

impl PartialOrd for Lane<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Lane<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Lane<'_> {}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::provisioner::testing::{Extra, Setup, node, refusal, waiting};

    /// Returns the names of the sessions that get one of two free cores.
    fn placed(group: Value, specs: &[(&str, Value)], prepare: impl Fn(&mut Setup)) -> Vec<String> {
        let mut setup = Setup::new(group, vec![node("a", &[("cpu", 2)])]);
        setup.keypair("other");
        prepare(&mut setup);
        let sessions: Vec<_> = specs.iter().map(|(name, spec)| waiting(name, spec.clone())).collect();
        let nodes = setup.run(&sessions);
        specs.iter().zip(nodes).filter(|(_, nodes)| !nodes.is_empty()).map(|((name, _), _)| (*name).to_owned()).collect()
    }

    #[test]
    fn the_highest_priority_comes_first_with_every_sequencer() {
        let specs = [("low", json!({})), ("high", json!({"priority": 50})), ("mid", json!({"priority": 20}))];
        for sequencer in ["FIFO", "LIFO", "DRF"] {
            assert_eq!(placed(json!({"sequencer": sequencer}), &specs, |_| ()), ["high", "mid"], "{sequencer}");
        }
    }

    #[test]
    fn within_a_priority_fifo_takes_the_oldest_and_lifo_the_newest() {
        let specs = [("1", json!({})), ("2", json!({})), ("3", json!({}))];
        assert_eq!(placed(json!({"sequencer": "FIFO"}), &specs, |_| ()), ["1", "2"]);
        assert_eq!(placed(json!({"sequencer": "LIFO"}), &specs, |_| ()), ["2", "3"]);
    }

    #[test]
    fn drf_prefers_the_owner_with_the_smaller_dominant_share() {
        use crate::provisioner::Holding;
        use crate::views::Tenant;
        let occupy = |setup: &mut Setup| {
            let mut used = crate::api::Resources::default();
            used.set("cpu", crate::api::Amount::from_units(1));
            let holding = Holding { nodes: [("elsewhere".into(), (used, 1))].into(), ..Holding::default() };
            setup.ledger.take(&[Tenant::Keypair("key".into())], &holding);
        };
        let own = |name| (name, json!({}));
        let others = |name| (name, json!({"accessKey": "other"}));
        let specs = [own("1"), own("2"), others("3"), others("4")];
        let three = [own("1"), others("3"), others("4")];
        assert_eq!(placed(json!({"sequencer": "DRF"}), &three, occupy), ["1", "3"], "3 first, then equal shares: by age");
        let occupy_all = |setup: &mut Setup| {
            occupy(setup);
            occupy(setup);
        };
        assert_eq!(placed(json!({"sequencer": "DRF"}), &specs, occupy_all), ["3", "4"]);
        assert_eq!(placed(json!({"sequencer": "DRF"}), &specs[..2], |_| ()), ["1", "2"], "equal shares: by age");
    }

    #[test]
    fn drf_counts_allocations_of_the_same_cycle() {
        let own = |name| (name, json!({}));
        let others = |name| (name, json!({"accessKey": "other"}));
        let specs = [own("1"), own("2"), own("3"), others("4"), others("5")];
        assert_eq!(placed(json!({"sequencer": "DRF"}), &specs, |_| ()), ["1", "4"], "one core each");
        assert_eq!(placed(json!({"sequencer": "FIFO"}), &specs, |_| ()), ["1", "2"]);
    }

    #[test]
    fn a_session_over_quota_or_too_large_does_not_block_lower_priorities() {
        let over_quota = ("over", json!({"accessKey": "other", "priority": 60}));
        let unfit = ("unfit", json!({"priority": 50, "kernels": [crate::provisioner::testing::kernel(&[("cpu", 64)])]}));
        let limit = |setup: &mut Setup| {
            let policy = serde_json::from_value(json!({"limits": {"cpu": 0}})).expect("a policy");
            setup.tenancy.policies.insert("none".into(), std::sync::Arc::new(crate::api::ResourcePolicy::new("none", policy)));
            let keypair = serde_json::from_value(json!({"user": "user", "resourcePolicy": "none"})).expect("a keypair");
            setup.tenancy.keypairs.insert("other".into(), std::sync::Arc::new(crate::api::Keypair::new("other", keypair)));
        };
        let specs = [over_quota, unfit, ("modest", json!({}))];
        assert_eq!(placed(json!({"topPriorityOnly": true}), &specs, limit), ["modest"]);
    }

    #[test]
    fn top_priority_only_blocks_lower_priorities_while_a_higher_one_waits() {
        let huge = json!({"priority": 50, "kernels": [crate::provisioner::testing::kernel(&[("cpu", 2)])]});
        let specs = [("small", json!({})), ("full", json!({"priority": 50})), ("huge", huge)];
        assert_eq!(placed(json!({}), &specs, |_| ()), ["small", "full"], "later sessions pass one that does not fit");
        assert_eq!(placed(json!({"topPriorityOnly": true}), &specs, |_| ()), ["full"]);
    }

    #[test]
    fn a_session_that_waits_for_a_time_or_a_dependency_does_not_block_lower_priorities() {
        use crate::lifecycle::Reason::{BehindPriority, DependencyMissing, NotYetDue};
        let later = json!({"priority": 50, "startsAt": "2999-01-01T00:00:00Z"});
        let sessions = [waiting("later", later), waiting("first", json!({"priority": 30})), waiting("low", json!({}))];
        let mut setup = Setup::new(json!({"topPriorityOnly": true}), vec![node("a", &[("cpu", 2)])]);
        let reasons = |decisions: Vec<crate::provisioner::Decision>| {
            decisions.iter().map(|decision| refusal(decision).map(|refusal| refusal.reason)).collect::<Vec<_>>()
        };
        let decisions = setup.run_with(&sessions, &Extra::default());
        assert_eq!(reasons(decisions), [Some(NotYetDue), None, Some(BehindPriority)]);
        let dependencies = [("other".to_owned(), crate::provisioner::Dependency::Missing)];
        let decisions = setup.run_with(&sessions[1..], &Extra { dependencies: &dependencies, ..Extra::default() });
        assert_eq!(reasons(decisions), [Some(DependencyMissing); 2], "neither blocks the other");
    }
}
