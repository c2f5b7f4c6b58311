//! Asks the rules for their verdicts. A rule that panics hurts its own object alone.

use std::panic::{AssertUnwindSafe, catch_unwind};

use kube::ResourceExt;

use super::host::Batch;
use crate::api::Reason;
use crate::lifecycle::{Decide, Failure, Handler, Item, Subject, Verdict};
use crate::metrics::RunResult;

/// The verdicts of a handler. If a rule panics, its object fails; if that object's handler waits, it stays as it is. A rule that decides
/// about all objects together fails all of them.
pub(super) fn decide<S: Subject>(
    handler: &Handler<S>,
    batch: &Batch<S>,
    shared: Option<&mut S::Shared>,
) -> (Vec<Verdict<S>>, RunResult) {
    let decided: Vec<Option<Verdict<S>>> = match (handler.decide, shared) {
        (Decide::Each(decide), _) => batch.items.iter().map(|item| guarded(|| decide(&batch.snapshot, item))).collect(),
        (Decide::All(decide), Some(shared)) => match guarded(|| decide(&batch.snapshot, shared, &batch.items)) {
            Some(verdicts) => verdicts.into_iter().map(Some).collect(),
            None => batch.items.iter().map(|_| None).collect(),
        },
        (Decide::All(_), None) => vec![],
    };
    let panicked = decided.iter().any(Option::is_none);
    let verdict = |(verdict, item): (Option<Verdict<S>>, &S::Item)| verdict.unwrap_or_else(|| after_panic(handler, item));
    let verdicts = decided.into_iter().zip(&batch.items).map(verdict).collect();
    (verdicts, if panicked { RunResult::Panicked } else { RunResult::Success })
}

/// The verdict of a rule about one object, which fails if the rule panics.
pub(super) fn decide_one<S: Subject>(
    handler: &Handler<S>,
    decide: fn(&S::Snapshot, &S::Item) -> Verdict<S>,
    snapshot: &S::Snapshot,
    item: &S::Item,
) -> Verdict<S> {
    guarded(|| decide(snapshot, item)).unwrap_or_else(|| after_panic(handler, item))
}

fn guarded<T>(decide: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(decide)).ok()
}

fn after_panic<S: Subject>(handler: &Handler<S>, item: &S::Item) -> Verdict<S> {
    let object = item.object();
    tracing::error!(handler = %handler.name, name = %object.name_any(), namespace = object.namespace(), "the handler panicked");
    if handler.waits() {
        return Verdict::idle();
    }
    Verdict::failure(Failure::fault(Reason::HandlerPanicked, format!("{} panicked", handler.name)))
}
