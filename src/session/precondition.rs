//! Checks a session a second time before its pods are created, with the provisioner's validators. The session's own
//! holding does not count as used (docs/scheduling.md#checks).

use super::snapshot::{SessionItem, Snapshot};
use crate::provisioner::validators::{Context, Subject, check_class, tenants};
use crate::provisioner::{LedgerSnapshot, Own, Refusal};

/// Returns the validators' input, apart from the session itself.
pub fn context<'c>(snapshot: &'c Snapshot, ledger: &'c LedgerSnapshot) -> Context<'c> {
    Context {
        now: snapshot.now,
        group_name: snapshot.group_name.as_ref(),
        group: snapshot.group.as_deref(),
        tenancy: &snapshot.tenancy,
        ledger,
    }
}

/// Returns everything that blocks a session that already has its nodes.
pub fn check(snapshot: &Snapshot, ledger: &LedgerSnapshot, item: &SessionItem) -> Option<Refusal> {
    let context = context(snapshot, ledger);
    let tenants = tenants(&snapshot.tenancy, &item.class);
    let own = own(snapshot, item);
    let subject = Subject { class: &item.class, tenants: &tenants, own: own.as_ref() };
    Refusal::of(check_class(&context, &subject))
}

fn own<'i>(snapshot: &Snapshot, item: &'i SessionItem) -> Option<Own<'i>> {
    let holding = item.holding.as_deref()?;
    Some(Own { holding, tenants: snapshot.tenancy.tenants_of(&holding.account) })
}

/// Subtracts a session's holding from the usage of its tenants, for the rest of the cycle.
pub fn leave_out(snapshot: &Snapshot, ledger: &mut LedgerSnapshot, item: &SessionItem) {
    if let Some(own) = own(snapshot, item) {
        ledger.give_back(&own);
    }
}
