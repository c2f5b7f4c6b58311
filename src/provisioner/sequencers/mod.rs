//! In which order waiting sessions are looked at: one sequencer a file, and the one place that lists them.

mod drf;
mod fifo;
mod lifo;

use super::candidate::Candidate;
use super::pipeline::Scope;
use super::room::Room;
use crate::api::SequencerName;

/// A sequencer: in which order sessions of one priority are looked at, the smallest share and then the smallest rank
/// first. Shares of owners are those of the cycle's beginning.
pub struct Sequencer {
    /// Worked out once for each owner.
    pub share: Option<fn(&Scope<'_>, &Room, &Candidate<'_>) -> f64>,
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

/// A session's turn: what it is compared by, beside where it stands, so that sorting touches nothing else.
struct Turn {
    priority: i32,
    share: f64,
    rank: i64,
    at: usize,
}

/// The order of the queue: highest effective priority first, then as the sequencer has it, then by name.
pub fn sequence(scope: &Scope<'_>, room: &Room, queue: &[Candidate<'_>]) -> Vec<usize> {
    let sequencer = sequencer(scope.group.spec.sequencer);
    let mut shares = std::collections::HashMap::new();
    let mut turns = vec![];
    for (at, candidate) in queue.iter().enumerate() {
        let share = match sequencer.share {
            None => 0.0,
            Some(share) => *shares.entry(&candidate.kind.access_key).or_insert_with(|| share(scope, room, candidate)),
        };
        turns.push(Turn { priority: candidate.priority, share, rank: (sequencer.rank)(candidate), at });
    }
    turns.sort_unstable_by(|a, b| {
        let by_priority = b.priority.cmp(&a.priority);
        let by_sequencer = by_priority.then(a.share.total_cmp(&b.share)).then(a.rank.cmp(&b.rank));
        by_sequencer.then_with(|| queue[a.at].name.cmp(&queue[b.at].name))
    });
    if scope.group.spec.top_priority_only {
        // Who waits for one of lower priority must not hold that one up.
        let waits = |at: usize| queue[at].awaits_its_time(scope.now);
        let top = turns.iter().find(|turn| !waits(turn.at)).map(|turn| turn.priority);
        turns.retain(|turn| Some(turn.priority) == top || waits(turn.at));
    }
    turns.into_iter().map(|turn| turn.at).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::provisioner::testing::{Extra, Setup, agent, refusal, waiting};

    /// The names of those that get one of two places.
    fn placed(group: Value, specs: &[(&str, Value)], prepare: impl Fn(&mut Setup)) -> Vec<String> {
        let mut setup = Setup::new(group, vec![agent("a", &[("cpu", 2)])]);
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
        use crate::session::tenancy::Tenant;
        let occupy = |setup: &mut Setup| {
            let mut taken = crate::api::Resources::default();
            taken.set("cpu", crate::api::Amount::from_units(1));
            let holding = Holding { agents: [("elsewhere".into(), (taken, 1))].into(), ..Holding::default() };
            setup.room.take(&[Tenant::Keypair("key".into())], &holding);
        };
        let mine = |name| (name, json!({}));
        let theirs = |name| (name, json!({"accessKey": "other"}));
        let specs = [mine("1"), mine("2"), theirs("3"), theirs("4")];
        assert_eq!(placed(json!({"sequencer": "DRF"}), &specs, occupy), ["3", "4"]);
        assert_eq!(placed(json!({"sequencer": "DRF"}), &specs, |_| ()), ["1", "2"], "equal shares: by age");
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
        let mut setup = Setup::new(json!({"topPriorityOnly": true}), vec![agent("a", &[("cpu", 2)])]);
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
