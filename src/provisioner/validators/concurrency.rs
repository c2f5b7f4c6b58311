//! A tenant has no more sessions at a time than its policy allows. Private sessions count separately. 0 means no limit.

use super::{Check, Context, Subject, Validator};
use crate::lifecycle::{Cause, Reason};
use crate::provisioner::refusal::Blocker;

pub static VALIDATOR: Validator = Validator { name: "concurrency", check: Check::EquivalenceClass(check) };

fn check(context: &Context<'_>, subject: &Subject<'_>) -> Vec<Blocker> {
    let private = subject.class.request.private;
    let mut blockers = vec![];
    for (tenant, policy) in subject.policies() {
        let spec = &policy.spec;
        let limit = if private { spec.max_concurrent_private_sessions } else { spec.max_concurrent_sessions };
        let Some(limit) = limit.map(i64::from).filter(|limit| *limit > 0) else { continue };
        let occupied = context.ledger.occupied(tenant, subject.own);
        let running = if private { occupied.private_sessions } else { occupied.sessions - occupied.private_sessions };
        if running >= limit {
            let noun = if private { "private sessions" } else { "sessions" };
            let message = format!("{tenant}: {running} of {limit} {noun} running");
            let blocker = Blocker::new(VALIDATOR.name, Cause::Quota, Reason::ConcurrencyExceeded, message);
            blockers.push(blocker.of(tenant.to_string()).counting_units(1, running, limit));
        }
    }
    blockers
}
