//! Asks the rules for their verdicts. A rule that panics hurts its own object alone.

use std::panic::{AssertUnwindSafe, catch_unwind};

use kube::ResourceExt;

use super::host::Batch;
use crate::api::Reason;
use crate::lifecycle::{Decide, Failure, Handler, Item, Snapshot, Subject, Verdict};
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
    let panicked: Vec<&S::Item> =
        decided.iter().zip(&batch.items).filter(|(verdict, _)| verdict.is_none()).map(|(_, item)| item).collect();
    let result = if panicked.is_empty() { RunResult::Success } else { RunResult::Panicked };
    report(handler, &batch.snapshot, &panicked);
    (decided.into_iter().map(|verdict| verdict.unwrap_or_else(|| after_panic(handler))).collect(), result)
}

/// The verdict of a rule about one object, which fails if the rule panics.
pub(super) fn decide_one<S: Subject>(
    handler: &Handler<S>,
    decide: fn(&S::Snapshot, &S::Item) -> Verdict<S>,
    snapshot: &S::Snapshot,
    item: &S::Item,
) -> Verdict<S> {
    guarded(|| decide(snapshot, item)).unwrap_or_else(|| {
        report(handler, snapshot, &[item]);
        after_panic(handler)
    })
}

fn guarded<T>(decide: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(decide)).ok()
}

/// Logs a panic with the first of its objects.
fn report<S: Subject>(handler: &Handler<S>, snapshot: &S::Snapshot, panicked: &[&S::Item]) {
    let Some(first) = panicked.first().map(|item| item.object()) else { return };
    let (partition, objects) = (snapshot.partition(), panicked.len());
    let (name, namespace) = (first.name_any(), first.namespace());
    tracing::error!(handler = %handler.name, partition, objects, name, namespace, "the handler panicked");
}

fn after_panic<S: Subject>(handler: &Handler<S>) -> Verdict<S> {
    if handler.waits() {
        return Verdict::idle();
    }
    Verdict::failure(Failure::fault(Reason::HandlerPanicked, format!("{} panicked", handler.name)))
}
