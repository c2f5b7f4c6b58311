//! DRF: the keypair with the smallest dominant share first. Sessions of one keypair keep their order of creation.

use super::Sequencer;
use crate::provisioner::LedgerSnapshot;
use crate::provisioner::candidate::Candidate;
use crate::provisioner::scope::Scope;
use crate::views::Tenant;

pub static SEQUENCER: Sequencer = Sequencer { share: Some(dominant_share), rank: |candidate| candidate.created_micros() };

/// Returns the keypair's largest share of any resource of the scaling group. Resources that the scaling group lacks are
/// ignored.
fn dominant_share(scope: &Scope<'_>, ledger: &LedgerSnapshot, candidate: &Candidate<'_>) -> f64 {
    let occupied = ledger.tenant(&Tenant::Keypair(candidate.class.access_key.clone())).resources;
    let share = |(name, capacity): (_, crate::api::Amount)| {
        let capacity = capacity.milli();
        (capacity > 0).then(|| occupied.amount(name).milli() as f64 / capacity as f64)
    };
    scope.capacity.iter().filter_map(share).fold(0.0, f64::max)
}
