//! What is seen of ResourceQuotas.

use std::collections::BTreeMap;

use crate::api::Amount;

/// A ResourceQuota.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QuotaView {
    pub hard: BTreeMap<String, Amount>,
    pub used: BTreeMap<String, Amount>,
    /// It counts only some pods: which, only the API server can tell.
    pub is_scoped: bool,
}
