//! The oracle: checks every version of every object that a plan wrote, and returns what should never happen. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use sokovan::api::CONTAINER_MAIN;
use sokovan::api::expand;
use sokovan::api::*;
use sokovan::lifecycle::{HandlerName, Phase, Subject};
use sokovan::session::kernels::kernel_name;
use sokovan::session::sessions::Sessions;
use sokovan::views::extract;
use sokovan::views::requests::requests;

use crate::record::{Object, Version};
use crate::serving;

/// Returns a violation if a node of a plan, with 4 cores, 16 GiB and 110 pods, cannot hold these resources.
fn overcommitted(node: &str, used: &Resources, by: &str) -> Option<String> {
    let mut allocatable = Resources::default();
    for (name, amount) in [("cpu", 4), ("memory", 16 << 30), ("pods", 110)] {
        allocatable.set(name, Amount::from_units(amount));
    }
    let (name, needed, available) = allocatable.lacking(used)?;
    Some(format!("{node} is overcommitted by {by}: {name} {needed} of {available}"))
}

/// The objects at one version: sessions and pods by uid, kernels by name.
#[derive(Default)]
struct Objects {
    sessions: BTreeMap<String, Session>,
    kernels: BTreeMap<String, Kernel>,
    pods: BTreeMap<String, Pod>,
    /// The exit codes of ended pods whose finalizer waits for the record of the code, by the name of pod and kernel.
    codes: BTreeMap<String, i32>,
}

fn replace<T: Clone>(into: &mut BTreeMap<String, T>, key: String, object: &T, deleted: bool) -> Option<T> {
    if deleted { into.remove(&key) } else { into.insert(key, object.clone()) }
}

impl Objects {
    /// Applies one version, and returns its violations.
    fn apply(&mut self, Version { number, deleted, object, .. }: &Version) -> Vec<String> {
        match object {
            Object::Session(session) => {
                let key = session.metadata.uid.clone().unwrap_or_default();
                let before = replace(&mut self.sessions, key, session, *deleted);
                let mut found = before.iter().flat_map(|before| session_step(before, session)).collect::<Vec<_>>();
                if let Some(before) = before.filter(|_| !found.is_empty()) {
                    found.push(format!("version {number} is {}, after {}", summary(session), summary(&before)));
                }
                found.extend(overallocated(&self.sessions));
                found
            }
            Object::Kernel(kernel) => {
                let before = replace(&mut self.kernels, kernel.name_any(), kernel, *deleted);
                let lost = deleted.then(|| self.lost_code(kernel)).flatten();
                before.iter().flat_map(|before| kernel_step(before, kernel)).chain(lost).collect()
            }
            Object::Pod(pod) => {
                replace(&mut self.pods, pod.metadata.uid.clone().unwrap_or_default(), pod, *deleted);
                let name = pod.name_any();
                let recorded = self.kernels.get(&name).is_some_and(has_end);
                if let Some(code) = exit_code(pod).filter(|_| !recorded && pod.finalizers().contains(&FINALIZER_POD.into())) {
                    self.codes.insert(name, code);
                }
                live_pods(&self.pods)
            }
            // They are checked in `serving`.
            Object::Deployment(_)
            | Object::Route(_)
            | Object::Service(_)
            | Object::Slice(_)
            | Object::Budget(_)
            | Object::Revision(_) => vec![],
        }
    }

    /// Returns a violation if a kernel's status lacks the exit code of its pod.
    fn lost_code(&self, kernel: &Kernel) -> Option<String> {
        // The record of a deleted session goes with it.
        self.sessions.get(&kernel.spec.session_uid).filter(|session| session.metadata.deletion_timestamp.is_none())?;
        let code = self.codes.get(&kernel.name_any())?;
        let status = kernel.status.clone().unwrap_or_default();
        let recorded = has_end(kernel) && (status.phase != KernelPhase::Terminated || status.exit_code == Some(*code));
        (!recorded).then(|| format!("kernel {} ended with {code}, but its status says {:?}", kernel.name_any(), status.exit_code))
    }
}

/// Returns the violations of a sequence of versions, including work left undone at the end.
pub fn violations(versions: &[Version]) -> Vec<String> {
    let mut objects = Objects::default();
    let mut found: Vec<String> = versions.iter().flat_map(|version| objects.apply(version)).collect();
    found.extend(unfinished(&objects));
    found.extend(serving::violations(versions));
    found.dedup();
    found
}

/// Returns the work that remains at the last version.
pub fn at_rest(versions: &[Version]) -> Vec<String> {
    let mut objects = Objects::default();
    versions.iter().for_each(|version| _ = objects.apply(version));
    unfinished(&objects).into_iter().chain(serving::at_rest(versions)).collect()
}

/// Summarizes one version of a session.
fn summary(session: &Session) -> String {
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

pub fn label<'a>(object: &'a impl ResourceExt, name: &str) -> &'a str {
    object.labels().get(name).map(String::as_str).unwrap_or_default()
}

/// Checks that no node is overcommitted by its pods, and that each kernel of an allocation has one live pod.
fn live_pods(pods: &BTreeMap<String, Pod>) -> Vec<String> {
    let mut found = vec![];
    let mut used: BTreeMap<String, Resources> = BTreeMap::new();
    let mut live: BTreeMap<(&str, &str, &str), usize> = BTreeMap::new();
    for pod in pods.values().filter(|pod| !extract::has_ended(pod)) {
        let kernel = (label(pod, LABEL_SESSION_UID), label(pod, LABEL_KERNEL), label(pod, LABEL_GENERATION));
        *live.entry(kernel).or_default() += 1;
        if let Some(spec) = &pod.spec
            && let Some(node) = &spec.node_name
        {
            used.entry(node.clone()).or_default().add(&requests(pod));
        }
    }
    found.extend(used.iter().filter_map(|(node, used)| overcommitted(node, used, "pods")));
    found.extend(
        live.into_iter().filter(|(_, count)| *count > 1).map(|(kernel, count)| format!("{count} live pods of {kernel:?}")),
    );
    found
}

/// Whether the handler's row permits this transition, or the phase does not change.
pub fn is_legal<S: Subject>(handler: &str, from: &str, to: &str) -> bool {
    S::table().iter().filter(|row| row.name.as_str() == handler).any(|row| {
        let t = &row.transitions;
        let listed = [t.success, t.need_retry, t.expired, t.give_up].into_iter().flatten().map(|to| to.phase);
        let mut permitted = listed.chain(t.exits.iter().copied());
        let handles = row.targets.iter().any(|phase| phase.as_str() == from);
        // After its last reset, a session that is created too slowly ends instead (docs/lifecycle.md#resets).
        let ends = handler == "promote-to-running" && to == "Terminating";
        handles && (from == to || ends || permitted.any(|phase| phase.as_str() == to))
    })
}

/// Returns the violations of a change from one version of a session to the next.
fn session_step(before: &Session, after: &Session) -> Vec<String> {
    let (Some(new), old) = (&after.status, before.status.clone().unwrap_or_default()) else {
        return if before.status.is_some() { vec!["a status disappeared".into()] } else { vec![] };
    };
    let mut found = vec![];
    if old == *new {
        return found;
    }
    if old.phase.is_terminal() && old.phase != new.phase {
        found.push(format!("the terminal phase {} changed to {}", old.phase, new.phase));
    }
    if new.allocation_generation < old.allocation_generation {
        found.push("the allocation's generation decreased".into());
    }
    if old.allocation.is_empty() && !new.allocation.is_empty() && new.allocation_generation <= old.allocation_generation {
        found.push(format!("allocation {} has the number of an earlier one", new.allocation_generation));
    }
    if old.result.is_some() && old.result != new.result {
        found.push(format!("the result {:?} changed to {:?}", old.result, new.result));
    }
    found.extend(history_step::<Sessions>(&old, new));
    found
}

/// Checks the history of a change. A step adds an entry, or merges into the last entry, or into the last one that is not a
/// skip, and then counts one more attempt. Together the entries explain the change of the phase.
pub fn history_step<S: Subject>(old: &Progress<S::Phase>, new: &Progress<S::Phase>) -> Vec<String> {
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
            // A merged entry may have changed the phase.
            phase.clone_from(&is.to);
        } else if !(is.steps.is_empty() && is.attempts == was.attempts) {
            found.push(format!("entry {number} of the history changed from {was:?} to {is:?}"));
        }
    }
    for entry in &new.history[kept..] {
        if entry.attempts != 1 {
            found.push(format!("a new entry has {} attempts: {entry:?}", entry.attempts));
        }
        if entry.from != phase || !is_legal::<S>(&entry.handler, &entry.from, &entry.to) {
            found.push(format!(
                "from {phase}: {} {} → {} is not a transition of the handler's row",
                entry.handler, entry.from, entry.to
            ));
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
        found.push(format!("kernel {}: the end {:?} changed to {:?}", after.name_any(), old, new));
    }
    if old.started_at.is_some() && old.started_at != new.started_at {
        found.push(format!("kernel {} started twice", after.name_any()));
    }
    found
}

/// Returns the work left undone: pods and kernels without a use, ended kernels without a record, waits without a reason.
fn unfinished(objects: &Objects) -> Vec<String> {
    let Objects { sessions, kernels, pods, .. } = objects;
    let mut found: Vec<String> = kernels.values().filter_map(|kernel| objects.lost_code(kernel)).collect();
    let phase_if_current = |uid: &str, name: &str| {
        let session = sessions.get(uid)?;
        let status = session.status.clone().unwrap_or_default();
        let current =
            status.allocation.iter().map(|a| kernel_name(&session.name_any(), uid, &a.kernel, status.allocation_generation));
        current.into_iter().any(|current| current == name).then_some(status.phase)
    };
    for pod in pods.values() {
        match phase_if_current(label(pod, LABEL_SESSION_UID), &pod.name_any()) {
            None => found.push(format!("pod {} has no use", pod.name_any())),
            Some(phase) if phase.is_terminal() && !extract::has_ended(pod) => {
                found.push(format!("pod {} outlives its session", pod.name_any()))
            }
            Some(_) => {}
        }
    }
    let ended = pods.values().filter(|pod| extract::has_ended(pod) && !kernels.contains_key(&pod.name_any()));
    let unrecorded = ended.filter(|pod| phase_if_current(label(*pod, LABEL_SESSION_UID), &pod.name_any()).is_some());
    found.extend(unrecorded.map(|pod| format!("pod {} has ended without a record", pod.name_any())));
    let kept = sessions.iter().filter(|(_, session)| session.metadata.deletion_timestamp.is_none()).map(|(uid, _)| uid);
    let of_a_session = |name: &str| kept.clone().any(|uid| phase_if_current(uid, name).is_some());
    let lost = objects.codes.iter().filter(|(name, _)| !kernels.contains_key(*name) && of_a_session(name));
    found.extend(lost.map(|(name, code)| format!("kernel {name} ended with {code} and has no record")));
    // The garbage collector removes the kernels of a deleted session.
    for kernel in kernels.values().filter(|kernel| sessions.contains_key(&kernel.spec.session_uid)) {
        match phase_if_current(&kernel.spec.session_uid, &kernel.name_any()) {
            None => found.push(format!("kernel {} has no use", kernel.name_any())),
            Some(phase) if phase.is_terminal() && !has_end(kernel) => {
                found.push(format!("kernel {} has no recorded end", kernel.name_any()));
            }
            Some(_) => {}
        }
    }
    for session in sessions.values() {
        let status = session.status.clone().unwrap_or_default();
        if !status.phase.holds_resources() && !status.phase.is_terminal() && status.reason.is_none() {
            found.push(format!("session {} waits without a reason", session.name_any()));
        }
    }
    found
}

/// Checks that no node is overcommitted by the allocations of sessions.
fn overallocated(sessions: &BTreeMap<String, Session>) -> Vec<String> {
    let mut allocated: BTreeMap<NodeName, Resources> = BTreeMap::new();
    for session in sessions.values() {
        let Some(status) = session.status.as_ref().filter(|status| status.phase.holds_resources()) else { continue };
        for slot in expand(&session.spec.kernels) {
            let node = status.allocation.iter().find(|allocation| allocation.kernel == slot.hostname);
            if let Some(allocation) = node {
                allocated.entry(allocation.node.clone()).or_default().add(&Resources::from(&slot.template.resources));
            }
        }
    }
    allocated.iter().filter_map(|(node, used)| overcommitted(node.as_str(), used, "allocations")).collect()
}

/// Summarizes the last version of each session, to help to diagnose a violation.
pub fn last_sessions(versions: &[Version]) -> Vec<String> {
    let mut last: BTreeMap<String, String> = BTreeMap::new();
    for version in versions {
        if let Object::Session(session) = &version.object {
            last.insert(session.name_any(), crate::common::describe(session));
        }
    }
    last.into_values().collect()
}
