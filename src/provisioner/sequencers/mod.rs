//! In which order waiting sessions are looked at: one sequencer a file, and the one place that lists them.

mod drf;
mod fifo;
mod lifo;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap, HashMap};

use super::candidate::Candidate;
use super::ledger_snapshot::LedgerSnapshot;
use super::scope::Scope;
use crate::api::{AccessKey, SequencerName};

/// A sequencer: the order of sessions of one priority, the smallest share and then the smallest rank first.
pub struct Sequencer {
    /// The share of a session's owner, computed again after each of the owner's sessions.
    pub share: Option<fn(&Scope<'_>, &LedgerSnapshot, &Candidate<'_>) -> f64>,
    pub rank: fn(&Candidate<'_>) -> i64,
}

/// To add one: its file, its name in the API, and a line here.
pub fn sequencer(name: SequencerName) -> &'static Sequencer {
    match name {
        SequencerName::Fifo => &fifo::SEQUENCER,
        SequencerName::Lifo => &lifo::SEQUENCER,
        SequencerName::Drf => &drf::SEQUENCER,
    }
}

/// The sessions of one owner and priority, in their order; without shares, those of all owners.
struct Lane<'q> {
    share: f64,
    /// The next of them comes last.
    turns: Vec<Turn<'q>>,
}

/// A session's turn: what it is compared by, next to its place in the queue, so that sorting touches nothing else.
struct Turn<'q> {
    rank: i64,
    name: (&'q str, &'q str),
    at: usize,
}

/// The order of the queue: highest effective priority first, then as the sequencer has it, then by name. Shares count what
/// the cycle itself has given away.
pub struct Sequence<'q> {
    sequencer: &'static Sequencer,
    queue: &'q [Candidate<'q>],
    /// By priority, the highest last.
    bands: Vec<Vec<Lane<'q>>>,
    /// The lanes of the highest band, the next one first.
    lanes: BinaryHeap<Lane<'q>>,
    /// The lane that came last: its owner's share may have grown since.
    last: Option<Lane<'q>>,
}

impl<'q> Sequence<'q> {
    pub fn new(scope: &Scope<'_>, queue: &'q [Candidate<'q>]) -> Self {
        let sequencer = sequencer(scope.group.spec.sequencer);
        let mut bands: BTreeMap<i32, HashMap<Option<&AccessKey>, Lane<'q>>> = BTreeMap::new();
        for (at, candidate) in queue.iter().enumerate() {
            let owner = sequencer.share.map(|_| &candidate.class.access_key);
            let lane = bands.entry(candidate.priority).or_default().entry(owner);
            let lane = lane.or_insert_with(|| Lane { share: 0.0, turns: vec![] });
            lane.turns.push(Turn { rank: (sequencer.rank)(candidate), name: candidate.name, at });
        }
        let sorted = |mut lane: Lane<'q>| {
            lane.turns.sort_unstable_by(|a, b| (b.rank, b.name).cmp(&(a.rank, a.name)));
            lane
        };
        let bands = bands.into_values().map(|lanes| lanes.into_values().map(sorted).collect()).collect();
        Self { sequencer, queue, bands, lanes: BinaryHeap::new(), last: None }
    }

    /// The place in the queue of the session whose turn is next.
    pub fn next(&mut self, scope: &Scope<'_>, ledger: &LedgerSnapshot) -> Option<usize> {
        if let Some(lane) = self.last.take().filter(|lane| !lane.turns.is_empty()) {
            let lane = self.shared(scope, ledger, lane);
            self.lanes.push(lane);
        }
        if self.lanes.is_empty() {
            let band = self.bands.pop()?;
            self.lanes = band.into_iter().map(|lane| self.shared(scope, ledger, lane)).collect();
        }
        let mut lane = self.lanes.pop()?;
        let turn = lane.turns.pop()?;
        self.last = Some(lane);
        Some(turn.at)
    }

    /// A lane with its owner's share as it is now.
    fn shared(&self, scope: &Scope<'_>, ledger: &LedgerSnapshot, lane: Lane<'q>) -> Lane<'q> {
        let next = lane.turns.last().map(|turn| &self.queue[turn.at]);
        let share = self.sequencer.share.zip(next).map_or(0.0, |(share, next)| share(scope, ledger, next));
        Lane { share, ..lane }
    }
}

impl Ord for Lane<'_> {
    /// The lane whose turn comes first is the greatest, as a heap wants it.
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

    /// The names of those that get one of two places.
    fn placed(group: Value, specs: &[(&str, Value)], prepare: impl Fn(&mut Setup)) -> Vec<String> {
        let mut setup = Setup::new(group, vec![node("a", &[("cpu", 2)])]);
        setup.keypair("other");
        prepare(&mut setup);
        let sessions: Vec<_> = specs.iter().map(|(name, spec)| waiting(name, spec.clone())).collect();
        let nodes = setup.run(&sessions);
        specs.iter().zip(nodes).filter(|(_, nodes)| !nodes.is_empty()).map(|((name, _), _)| (*name).to_owned()).collect()
    }

    #[test]
    fn the_highest_priority_comes_first_whatever_the_sequencer() {
        let specs = [("low", json!({})), ("high", json!({"priority": 50})), ("mid", json!({"priority": 20}))];
        for sequencer in ["FIFO", "LIFO", "DRF"] {
            assert_eq!(placed(json!({"sequencer": sequencer}), &specs, |_| ()), ["high", "mid"], "{sequencer}");
        }
    }

    #[test]
    fn within_a_priority_fifo_takes_the_first_made_and_lifo_the_last() {
        let specs = [("1", json!({})), ("2", json!({})), ("3", json!({}))];
        assert_eq!(placed(json!({"sequencer": "FIFO"}), &specs, |_| ()), ["1", "2"]);
        assert_eq!(placed(json!({"sequencer": "LIFO"}), &specs, |_| ()), ["2", "3"]);
    }

    #[test]
    fn drf_prefers_the_owner_with_the_smaller_dominant_share() {
        use crate::provisioner::Holding;
        use crate::views::Tenant;
        let occupy = |setup: &mut Setup| {
            let mut taken = crate::api::Resources::default();
            taken.set("cpu", crate::api::Amount::from_units(1));
            let holding = Holding { nodes: [("elsewhere".into(), (taken, 1))].into(), ..Holding::default() };
            setup.ledger.take(&[Tenant::Keypair("key".into())], &holding);
        };
        let mine = |name| (name, json!({}));
        let theirs = |name| (name, json!({"accessKey": "other"}));
        let specs = [mine("1"), mine("2"), theirs("3"), theirs("4")];
        let only_theirs = [mine("1"), theirs("3"), theirs("4")];
        assert_eq!(placed(json!({"sequencer": "DRF"}), &only_theirs, occupy), ["1", "3"], "theirs first, then equal: by age");
        let occupy_all = |setup: &mut Setup| {
            occupy(setup);
            occupy(setup);
        };
        assert_eq!(placed(json!({"sequencer": "DRF"}), &specs, occupy_all), ["3", "4"]);
        assert_eq!(placed(json!({"sequencer": "DRF"}), &specs[..2], |_| ()), ["1", "2"], "equal shares: by age");
    }

    #[test]
    fn drf_counts_what_the_same_cycle_has_given_to_an_owner() {
        let mine = |name| (name, json!({}));
        let theirs = |name| (name, json!({"accessKey": "other"}));
        let specs = [mine("1"), mine("2"), mine("3"), theirs("4"), theirs("5")];
        assert_eq!(placed(json!({"sequencer": "DRF"}), &specs, |_| ()), ["1", "4"], "one of the two places each");
        assert_eq!(placed(json!({"sequencer": "FIFO"}), &specs, |_| ()), ["1", "2"]);
    }

    #[test]
    fn a_session_that_could_not_start_with_room_holds_nobody_up() {
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
    fn a_group_may_look_at_the_highest_priority_alone() {
        let huge = json!({"priority": 50, "kernels": [crate::provisioner::testing::kernel(&[("cpu", 2)])]});
        let specs = [("small", json!({})), ("full", json!({"priority": 50})), ("huge", huge)];
        assert_eq!(placed(json!({}), &specs, |_| ()), ["small", "full"], "others pass what does not fit");
        assert_eq!(placed(json!({"topPriorityOnly": true}), &specs, |_| ()), ["full"]);
    }

    #[test]
    fn who_waits_for_another_or_for_their_time_is_not_the_highest_priority() {
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
        assert_eq!(reasons(decisions), [Some(DependencyMissing); 2], "nobody comes first");
    }
}
