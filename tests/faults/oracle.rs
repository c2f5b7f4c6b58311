//! The oracle: reads every version of what a plan left in the store, and tells what should never be there. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use sokovan::api::CONTAINER_MAIN;
use sokovan::api::expand;
use sokovan::api::*;
use sokovan::cluster::store::extract;
use sokovan::cluster::store::requests::requests;
use sokovan::session::handlers::HANDLERS;
use sokovan::session::kernels::kernel_name;

use crate::record::{Object, Version};

/// That a node of a plan, which has 4 cores, 16 GiB and room for 110 pods, cannot hold so much.
fn beyond(node: &str, held: &Resources, how: &str) -> Option<String> {
    let mut offered = Resources::default();
    for (name, amount) in [("cpu", 4), ("memory", 16 << 30), ("pods", 110)] {
        offered.set(name, Amount::from_units(amount));
    }
    let (name, wanted, had) = offered.lacking(held)?;
    Some(format!("{node}: {name} {wanted} of {had} {how}"))
}

/// What stands at some version: sessions and pods by uid, kernels by name.
#[derive(Default)]
struct Standing {
    sessions: BTreeMap<String, Session>,
    kernels: BTreeMap<String, Kernel>,
    pods: BTreeMap<String, Pod>,
    /// With which code pods ended that were held until that is recorded, and was not yet; by name, as their kernels.
    codes: BTreeMap<String, i32>,
}

fn put<T: Clone>(into: &mut BTreeMap<String, T>, key: String, object: &T, deleted: bool) -> Option<T> {
    if deleted { into.remove(&key) } else { into.insert(key, object.clone()) }
}

impl Standing {
    /// Takes in one version; returns what is wrong with it.
    fn take(&mut self, Version { number, deleted, object }: &Version) -> Vec<String> {
        match object {
            Object::Session(session) => {
                let key = session.metadata.uid.clone().unwrap_or_default();
                let before = put(&mut self.sessions, key, session, *deleted);
                let mut found = before.iter().flat_map(|before| session_step(before, session)).collect::<Vec<_>>();
                if let Some(before) = before.filter(|_| !found.is_empty()) {
                    found.push(format!("that is version {number}, {}, after {}", told(session), told(&before)));
                }
                found.extend(given_away(&self.sessions));
                found
            }
            Object::Kernel(kernel) => {
                let before = put(&mut self.kernels, kernel.name_any(), kernel, *deleted);
                let lost = deleted.then(|| self.lost_code(kernel)).flatten();
                before.iter().flat_map(|before| kernel_step(before, kernel)).chain(lost).collect()
            }
            Object::Pod(pod) => {
                put(&mut self.pods, pod.metadata.uid.clone().unwrap_or_default(), pod, *deleted);
                let name = pod.name_any();
                let recorded = self.kernels.get(&name).is_none_or(has_end);
                if let Some(code) = exit_code(pod).filter(|_| !recorded && pod.finalizers().contains(&FINALIZER_POD.into())) {
                    self.codes.insert(name, code);
                }
                live_pods(&self.pods)
            }
        }
    }

    /// That a kernel's record lacks the code with which its pod ended.
    fn lost_code(&self, kernel: &Kernel) -> Option<String> {
        let code = self.codes.get(&kernel.name_any())?;
        let status = kernel.status.clone().unwrap_or_default();
        let told = has_end(kernel) && (status.phase != KernelPhase::Terminated || status.exit_code == Some(*code));
        (!told).then(|| format!("kernel {} ended with {code} and its record says {:?}", kernel.name_any(), status.exit_code))
    }
}

/// All that is wrong with a sequence of versions, up to the last of them.
pub fn violations(versions: &[Version]) -> Vec<String> {
    let mut standing = Standing::default();
    let mut found: Vec<String> = versions.iter().flat_map(|version| standing.take(version)).collect();
    found.extend(unfinished(&standing));
    found.dedup();
    found
}

/// What is yet to be done at the last version.
pub fn at_rest(versions: &[Version]) -> Vec<String> {
    let mut standing = Standing::default();
    versions.iter().for_each(|version| _ = standing.take(version));
    unfinished(&standing)
}

/// A version of a session, shortly.
fn told(session: &Session) -> String {
    let words = crate::common::describe(session).split_whitespace().collect::<Vec<_>>().join(" ");
    format!("{} {words}", session.metadata.resource_version.as_deref().unwrap_or_default())
}

fn has_end(kernel: &Kernel) -> bool {
    kernel.status.as_ref().is_some_and(|status| status.phase.is_terminal())
}

fn exit_code(pod: &Pod) -> Option<i32> {
    let statuses = pod.status.as_ref().filter(|_| extract::has_ended(pod))?.container_statuses.as_ref()?;
    let main = statuses.iter().find(|status| status.name == CONTAINER_MAIN)?;
    Some(main.state.as_ref()?.terminated.as_ref()?.exit_code)
}

fn label<'a>(pod: &'a Pod, name: &str) -> &'a str {
    pod.metadata.labels.as_ref().and_then(|labels| labels.get(name)).map(String::as_str).unwrap_or_default()
}

/// No node over what it holds, and one live pod for each kernel and attempt.
fn live_pods(pods: &BTreeMap<String, Pod>) -> Vec<String> {
    let mut found = vec![];
    let mut used: BTreeMap<String, Resources> = BTreeMap::new();
    let mut of_kernel: BTreeMap<(&str, &str, &str), usize> = BTreeMap::new();
    for pod in pods.values().filter(|pod| !extract::has_ended(pod)) {
        let attempt = (label(pod, LABEL_SESSION_UID), label(pod, LABEL_KERNEL), label(pod, LABEL_GENERATION));
        *of_kernel.entry(attempt).or_default() += 1;
        if let Some(spec) = &pod.spec
            && let Some(node) = &spec.node_name
        {
            used.entry(node.clone()).or_default().add(&requests(pod));
        }
    }
    found.extend(used.iter().filter_map(|(node, used)| beyond(node, used, "held")));
    found.extend(
        of_kernel.into_iter().filter(|(_, count)| *count > 1).map(|(attempt, n)| format!("{n} live pods of {attempt:?}")),
    );
    found
}

/// Whether one handler's row leads from a phase to another, or stays.
fn is_legal(handler: &str, from: &str, to: &str) -> bool {
    HANDLERS.iter().filter(|row| row.name.as_str() == handler).any(|row| {
        let t = &row.transitions;
        let listed = [t.success, t.need_retry, t.expired, t.give_up].into_iter().flatten().map(|to| to.phase);
        let mut leads = listed.chain(t.exits.iter().copied());
        let asked = row.targets.iter().any(|phase| phase.as_str() == from);
        // After its last reset, what is created too slowly ends instead (docs/lifecycle.md#resets).
        let ends = handler == "promote-to-running" && to == "Terminating";
        asked && (from == to || ends || leads.any(|phase| phase.as_str() == to))
    })
}

/// What may change from one version of a session to the next.
fn session_step(before: &Session, after: &Session) -> Vec<String> {
    let (Some(new), old) = (&after.status, before.status.clone().unwrap_or_default()) else {
        return if before.status.is_some() { vec!["a status vanished".into()] } else { vec![] };
    };
    let mut found = vec![];
    if old == *new {
        return found;
    }
    if old.phase.is_terminal() && old.phase != new.phase {
        found.push(format!("{} was left for {}", old.phase, new.phase));
    }
    if new.allocation_generation < old.allocation_generation {
        found.push("the allocation's generation fell".into());
    }
    if old.allocation.is_empty() && !new.allocation.is_empty() && new.allocation_generation <= old.allocation_generation {
        found.push(format!("allocation {} has the number of an earlier one", new.allocation_generation));
    }
    if old.result.is_some() && old.result != new.result {
        found.push(format!("the result {:?} became {:?}", old.result, new.result));
    }
    found.extend(history_step(&old, new));
    found
}

/// Entries are only added, or merged into the last one, or the last that is no skip, with an attempt more; together they
/// tell how the phase changed.
fn history_step(old: &SessionStatus, new: &SessionStatus) -> Vec<String> {
    let mut found = vec![];
    let dropped = usize::try_from(new.history_dropped - old.history_dropped).unwrap_or(0);
    let kept = old.history.len().saturating_sub(dropped);
    if new.history.len() < kept {
        return vec!["entries of the history were lost".into()];
    }
    let old_kept = &old.history[old.history.len() - kept..];
    let last_attempt = old_kept.iter().rposition(|entry| entry.result != HistoryResult::Skipped);
    let mut phase = old.phase.as_str().to_owned();
    for (number, (was, is)) in old_kept.iter().zip(&new.history).enumerate().filter(|(_, (was, is))| was != is) {
        let merged = (number + 1 == kept || Some(number) == last_attempt)
            && (&is.handler, &is.error_code, &is.to, is.created_at) == (&was.handler, &was.error_code, &was.to, was.created_at)
            && is.attempts == was.attempts + 1;
        if merged {
            // What was merged may have led on.
            phase.clone_from(&is.to);
        } else if !(is.steps.is_empty() && is.attempts == was.attempts) {
            found.push(format!("entry {number} of the history changed: {was:?} became {is:?}"));
        }
    }
    for entry in &new.history[kept..] {
        if entry.attempts != 1 {
            found.push(format!("a new entry has {} attempts: {entry:?}", entry.attempts));
        }
        if entry.from != phase || !is_legal(&entry.handler, &entry.from, &entry.to) {
            found.push(format!("from {phase}: {} {} → {} is no step", entry.handler, entry.from, entry.to));
        }
        phase.clone_from(&entry.to);
    }
    if phase != new.phase.as_str() {
        found.push(format!("the history ends in {phase}, the phase is {}", new.phase));
    }
    found
}

fn kernel_step(before: &Kernel, after: &Kernel) -> Vec<String> {
    let (old, new) = (before.status.clone().unwrap_or_default(), after.status.clone().unwrap_or_default());
    let mut found = vec![];
    if old.phase.is_terminal() && old != new {
        found.push(format!("kernel {}: the end {:?} became {:?}", after.name_any(), old, new));
    }
    if old.started_at.is_some() && old.started_at != new.started_at {
        found.push(format!("kernel {}: it started twice", after.name_any()));
    }
    found
}

/// When all is done: no pod and no kernel without a use, no node given away twice, everything ended or says why not.
fn unfinished(standing: &Standing) -> Vec<String> {
    let Standing { sessions, kernels, pods, .. } = standing;
    let mut found: Vec<String> = kernels.values().filter_map(|kernel| standing.lost_code(kernel)).collect();
    let of_current = |uid: &str, name: &str| {
        let session = sessions.get(uid)?;
        let status = session.status.clone().unwrap_or_default();
        let held =
            status.allocation.iter().map(|a| kernel_name(&session.name_any(), uid, &a.kernel, status.allocation_generation));
        held.into_iter().any(|held| held == name).then_some(status.phase)
    };
    for pod in pods.values() {
        match of_current(label(pod, LABEL_SESSION_UID), &pod.name_any()) {
            None => found.push(format!("pod {} is of no use", pod.name_any())),
            Some(phase) if phase.is_terminal() && !extract::has_ended(pod) => {
                found.push(format!("pod {} outlives its session", pod.name_any()))
            }
            Some(_) => {}
        }
    }
    // Kernels of a session that is gone are the garbage collector's.
    for kernel in kernels.values().filter(|kernel| sessions.contains_key(&kernel.spec.session_uid)) {
        match of_current(&kernel.spec.session_uid, &kernel.name_any()) {
            None => found.push(format!("kernel {} is of no use", kernel.name_any())),
            Some(phase) if phase.is_terminal() && !has_end(kernel) => {
                found.push(format!("kernel {} has no end", kernel.name_any()));
            }
            Some(_) => {}
        }
    }
    for session in sessions.values() {
        let status = session.status.clone().unwrap_or_default();
        if !status.phase.holds_resources() && !status.phase.is_terminal() && status.reason.is_none() {
            found.push(format!("session {} waits and does not say why", session.name_any()));
        }
    }
    found
}

/// No node is given away beyond what it holds.
fn given_away(sessions: &BTreeMap<String, Session>) -> Vec<String> {
    let mut given: BTreeMap<NodeName, Resources> = BTreeMap::new();
    for session in sessions.values() {
        let Some(status) = session.status.as_ref().filter(|status| status.phase.holds_resources()) else { continue };
        for slot in expand(&session.spec.kernels) {
            let node = status.allocation.iter().find(|allocation| allocation.kernel == slot.hostname);
            if let Some(allocation) = node {
                given.entry(allocation.node.clone()).or_default().add(&Resources::from(&slot.template.resources));
            }
        }
    }
    given.iter().filter_map(|(node, given)| beyond(node.as_str(), given, "given away")).collect()
}

/// The sessions as they were last, for whoever looks into a violation.
pub fn last_sessions(versions: &[Version]) -> Vec<String> {
    let mut last: BTreeMap<String, String> = BTreeMap::new();
    for version in versions {
        if let Object::Session(session) = &version.object {
            last.insert(session.name_any(), crate::common::describe(session));
        }
    }
    last.into_values().collect()
}
