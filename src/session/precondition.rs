//! What must hold again before a session's pods are made: what the provisioner's validators say of it, its own holding
//! left out of what is occupied (rules §4).

use super::snapshot::{SessionItem, Snapshot};
use crate::provisioner::validators::{Context, Subject, check_kind, tenants};
use crate::provisioner::{Own, Refusal, Room};

/// Everything that stands against a session that has its agents.
pub fn check(snapshot: &Snapshot, room: &Room, item: &SessionItem) -> Option<Refusal> {
    let context = Context {
        now: snapshot.now,
        group_name: &snapshot.group_name,
        group: snapshot.group.as_deref(),
        tenancy: &snapshot.tenancy,
        room,
    };
    let tenants = tenants(&snapshot.tenancy, &item.kind);
    let own = item.holding.as_deref().map(|holding| Own { holding, tenants: snapshot.tenancy.tenants_of(&holding.account) });
    let subject = Subject { kind: &item.kind, tenants: &tenants, own: own.as_ref() };
    Refusal::of(check_kind(&context, &subject))
}
