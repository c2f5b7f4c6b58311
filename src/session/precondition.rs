//! What must hold again before a session's pods are made: what the provisioner's validators say of it, its own holding
//! left out of what is occupied (rules §4).

use super::snapshot::{SessionItem, Snapshot};
use crate::provisioner::validators::{Context, Subject, check_class, tenants};
use crate::provisioner::{LedgerSnapshot, Own, Refusal};

/// What validators look at besides a session.
pub fn context<'c>(snapshot: &'c Snapshot, ledger: &'c LedgerSnapshot) -> Context<'c> {
    Context {
        now: snapshot.now,
        group_name: snapshot.group_name.as_ref(),
        group: snapshot.group.as_deref(),
        tenancy: &snapshot.tenancy,
        ledger,
    }
}

/// Everything that stands against a session that has its nodes.
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

/// Takes what a session holds out of what its tenants occupy, for the rest of the cycle.
pub fn leave_out(snapshot: &Snapshot, ledger: &mut LedgerSnapshot, item: &SessionItem) {
    if let Some(own) = own(snapshot, item) {
        ledger.give_back(&own);
    }
}
