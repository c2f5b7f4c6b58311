//! Views of ResourceQuotas.

use std::collections::BTreeMap;

use crate::api::Amount;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct QuotaView {
    pub hard: BTreeMap<String, Amount>,
    pub used: BTreeMap<String, Amount>,
    /// It counts only some pods, and only the API server knows which.
    pub is_scoped: bool,
}
