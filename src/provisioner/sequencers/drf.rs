//! DRF: owners with the smallest dominant share first; an owner's own sessions stay in the order of their making.

use super::Sequencer;
use crate::provisioner::LedgerSnapshot;
use crate::provisioner::candidate::Candidate;
use crate::provisioner::scope::Scope;
use crate::views::Tenant;

pub static SEQUENCER: Sequencer = Sequencer { share: Some(dominant_share), rank: |candidate| candidate.made() };

/// The largest part of any resource of the group that the owner occupies; what the group has none of is ignored.
fn dominant_share(scope: &Scope<'_>, ledger: &LedgerSnapshot, candidate: &Candidate<'_>) -> f64 {
    let occupied = ledger.tenant(&Tenant::Keypair(candidate.class.access_key.clone())).resources;
    let share = |(name, capacity): (_, crate::api::Amount)| {
        let capacity = capacity.milli();
        (capacity > 0).then(|| occupied.amount(name).milli() as f64 / capacity as f64)
    };
    scope.capacity.iter().filter_map(share).fold(0.0, f64::max)
}
