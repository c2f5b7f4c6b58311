//! The provisioner of one scaling group and cycle: sequence → validate → select → allocate (docs/scheduling.md). One
//! session's failure never stops the others, equal sessions are evaluated once, and every allocation counts for the sessions
//! after it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::candidate::Candidate;
use super::equivalence_class::{EquivalenceClass, Request};
use super::holding::Holding;
use super::ledger_snapshot::LedgerSnapshot;
use super::plan::{Part, Plan, plan, refuse};
use super::pool::{Choice, Index, Pool};
use super::refusal::{Blocker, Refusal};
use super::scope::Scope;
use super::selectors::{Select, selector};
use super::sequencers::Sequence;
use super::validators::{Context, Subject, check_class, check_waiting, tenants};
use crate::api::{KernelAllocation, ResourcePolicy, whole};
use crate::lifecycle::{Cause, Reason};
use crate::views::{Account, Tenant};

/// The result for one session.
#[derive(Clone, Debug)]
pub enum Decision {
    Placed(Vec<KernelAllocation>),
    Refused(Arc<Refusal>),
}

/// Decides on every session of the queue, in its order, and adds each allocation to the ledger.
pub fn provision(scope: &Scope<'_>, ledger: &mut LedgerSnapshot, queue: &[Candidate<'_>]) -> Vec<Decision> {
    let mut sequence = Sequence::new(scope, queue);
    // Sessions that the loop skips keep this decision.
    let mut decisions = vec![Decision::Refused(Arc::new(behind_priority())); queue.len()];
    let mut cycle = Cycle::new(scope, ledger);
    let mut top: Option<i32> = None;
    while let Some(index) = sequence.next(scope, cycle.ledger) {
        let candidate = &queue[index];
        // A session that depends on one of lower priority must not block it.
        let is_behind = top.is_some_and(|top| candidate.priority < top) && !candidate.is_not_due(scope.now);
        if scope.group.spec.top_priority_only && is_behind {
            continue;
        }
        decisions[index] = cycle.decide(candidate);
        if decisions[index].could_start() {
            top = top.or(Some(candidate.priority));
        }
    }
    cycle.keep_cursor();
    decisions
}

impl Decision {
    /// Whether the session starts, or would start if resources were free. Only such a session blocks lower priorities: free
    /// nodes do not help a session that is over its quota or that no node can hold.
    fn could_start(&self) -> bool {
        match self {
            Self::Placed(_) => true,
            Self::Refused(refusal) => refusal.cause == Some(Cause::Capacity) && refusal.reason == Reason::NoAvailableNode,
        }
    }
}

/// Returns the refusal of a session below the highest priority in a scaling group with `topPriorityOnly`.
fn behind_priority() -> Refusal {
    // The message has no numbers: they would change with every session that comes or goes.
    let message = "sessions of higher priority wait, and the scaling group has topPriorityOnly".to_owned();
    let blockers = vec![Blocker::not_yet("sequence", Reason::BehindPriority, message.clone())];
    Refusal { cause: None, reason: Reason::BehindPriority, message, blockers, nodes: None }
}

/// The state of an equivalence class within a cycle.
struct ClassState {
    tenants: Vec<(Tenant, Option<Arc<ResourcePolicy>>)>,
    /// Nothing is freed within a cycle, so a refusal holds until the cycle ends.
    refused: Option<Arc<Refusal>>,
}

struct Cycle<'s, 'r> {
    scope: &'s Scope<'s>,
    ledger: &'r mut LedgerSnapshot,
    pool: Pool<'s>,
    select: Select,
    /// By address: equal classes are the same object.
    classes: HashMap<*const EquivalenceClass, ClassState>,
    plans: HashMap<*const Request, Plan>,
}

impl<'s, 'r> Cycle<'s, 'r> {
    fn new(scope: &'s Scope<'s>, ledger: &'r mut LedgerSnapshot) -> Self {
        let mut pool = Pool::new(scope.group, &scope.nodes, ledger);
        if let Some(last) = ledger.cursors.get(scope.group_name).and_then(|name| pool.index_of(name)) {
            pool.cursor = last + 1;
        }
        let select = selector(scope.group.spec.selector);
        Self { scope, ledger, pool, select, classes: HashMap::new(), plans: HashMap::new() }
    }

    fn decide(&mut self, candidate: &Candidate<'_>) -> Decision {
        match self.place(candidate) {
            Ok(allocation) => Decision::Placed(allocation),
            Err(refusal) => Decision::Refused(refusal),
        }
    }

    fn place(&mut self, candidate: &Candidate<'_>) -> Result<Vec<KernelAllocation>, Arc<Refusal>> {
        let class = candidate.class;
        let tenancy = self.scope.tenancy;
        let state = self.classes.entry(Arc::as_ptr(class));
        let state = state.or_insert_with(|| ClassState { tenants: tenants(tenancy, class), refused: None });
        let context = Context {
            now: self.scope.now,
            group_name: Some(self.scope.group_name),
            group: Some(self.scope.group),
            tenancy,
            ledger: self.ledger,
        };
        let own = check_waiting(&context, candidate);
        if state.refused.as_ref().is_some_and(|refused| !refused.suffices(candidate.recently_reported)) {
            state.refused = None;
        }
        if state.refused.is_none() {
            let subject = Subject { class, tenants: &state.tenants, own: None };
            state.refused = Refusal::of(check_class(&context, &subject)).map(Arc::new);
        }
        match &state.refused {
            Some(refused) if own.is_empty() => return Err(refused.clone()),
            Some(refused) => {
                let all = own.into_iter().chain(refused.blockers.iter().cloned()).collect();
                return Err(Refusal::of(all).map_or_else(|| refused.clone(), Arc::new));
            }
            None => {}
        }
        if let Some(refusal) = Refusal::of(own) {
            return Err(Arc::new(refusal));
        }
        let avoided: Vec<Index> = candidate.avoided.iter().filter_map(|name| self.pool.index_of(name)).collect();
        let mut selected = self.select(candidate, &avoided);
        if selected.is_err() && !avoided.is_empty() {
            selected = self.select(candidate, &[]); // avoiding a node must not keep a gang from its only fit
        }
        if let Some(state) = self.classes.get_mut(&Arc::as_ptr(class)) {
            match &selected {
                Ok((_, holding)) => self.ledger.take(state.tenants.iter().map(|(tenant, _)| tenant), holding),
                Err(refusal) => state.refused = Some(refusal.clone()),
            }
        }
        selected.map(|(allocation, _)| allocation)
    }

    /// Selects a node for every kernel, or none at all. A refusal applies to equal sessions only if no node was avoided.
    fn select(&mut self, candidate: &Candidate<'_>, avoided: &[Index]) -> Result<(Vec<KernelAllocation>, Holding), Arc<Refusal>> {
        let request = &candidate.class.request;
        let key = Arc::as_ptr(request);
        let plan = self.plans.entry(key).or_insert_with(|| plan(self.scope, &self.pool, request));
        if let Some(refused) = plan.refused.as_ref().filter(|refused| refused.suffices(candidate.recently_reported)) {
            return Err(refused.clone());
        }
        let cursor = self.pool.cursor;
        let mut picked: Vec<(Index, &Part, &[String])> = vec![];
        let mut own: Vec<Index> = vec![];
        for part in &plan.steps {
            for hostnames in &part.hostnames {
                match pick(&mut self.pool, self.select, self.scope, part, &own, avoided) {
                    Some(index) => {
                        self.pool.count(index, &part.request, 1);
                        own.push(index);
                        picked.push((index, part, hostnames));
                    }
                    None => {
                        let refusal = Arc::new(refuse(&self.pool, &plan.steps, part, &own, candidate.recently_reported));
                        picked.into_iter().for_each(|(index, part, _)| self.pool.count(index, &part.request, -1));
                        self.pool.cursor = cursor;
                        if avoided.is_empty() {
                            plan.refused = Some(refusal.clone());
                        }
                        return Err(refusal);
                    }
                }
            }
        }
        let class = candidate.class;
        let mut holding = Holding {
            account: Account { namespace: class.namespace.clone(), access_key: class.access_key.clone(), owner: None },
            private: request.private,
            active: true,
            claims: class.mounts.iter().map(|mount| mount.claim.clone()).collect(),
            deployment: request.deployment.clone(),
            nodes: BTreeMap::new(),
        };
        let mut allocation = vec![];
        for (index, part, hostnames) in picked {
            let node = self.pool.name(index);
            let (sum, kernels) = holding.nodes.entry(node.clone()).or_default();
            sum.add(&part.resources);
            *kernels += whole(hostnames.len());
            allocation.extend(hostnames.iter().map(|kernel| KernelAllocation { kernel: kernel.clone(), node: node.clone() }));
        }
        own.sort_unstable();
        own.dedup();
        own.into_iter().for_each(|index| self.pool.settle(index, request.private));
        Ok((allocation, holding))
    }

    /// Keeps the cursor, so that round robin continues there in the next cycle.
    fn keep_cursor(&mut self) {
        if let Some(last) = self.pool.cursor.checked_sub(1).filter(|last| *last < self.pool.len()) {
            self.ledger.cursors.insert(self.scope.group_name.clone(), self.pool.name(last).clone());
        }
    }
}

/// Returns the strategy's choice among the nodes that are not avoided; if none of them fits, among all nodes.
fn pick(pool: &mut Pool<'_>, select: Select, scope: &Scope<'_>, part: &Part, own: &[Index], avoided: &[Index]) -> Option<Index> {
    let choice = |excluded| Choice { request: &part.request, own, excluded, spread: scope.group.spec.enforce_spreading };
    // Replicas of a deployment spread, whatever the strategy chooses among nodes with equally few.
    let crowded: Vec<Index> = pool.crowded(&choice(avoided)).into_iter().chain(avoided.iter().copied()).collect();
    let index = select(pool, &choice(&crowded));
    let index = index.or_else(|| if avoided.is_empty() { None } else { select(pool, &choice(&[])) })?;
    pool.cursor = index + 1;
    Some(index)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::{Amount, NodeName, Resources};
    use crate::provisioner::Ledger;
    use crate::provisioner::testing::{Extra, Setup, kernel, node, nodes_of, refusal, waiting};
    use crate::views::{ClaimKey, ClaimView, NodeField, Operator, Requirement, VolumeView};
    use crate::views::{ForeignPod, Lifetime, NodeView};

    fn gang(replicas: i32) -> serde_json::Value {
        let mut sub = kernel(&[("cpu", 2)]);
        sub["role"] = json!("sub");
        sub["replicas"] = json!(replicas);
        json!({"kernels": [kernel(&[("cpu", 1)]), sub]})
    }

    #[test]
    fn a_gang_that_does_not_fit_takes_no_resources() {
        let nodes = vec![node("a", &[("cpu", 4)]), node("b", &[("cpu", 3)])];
        let mut setup = Setup::new(json!({}), nodes);
        let first = waiting("first", json!({"priority": 50, "kernels": [kernel(&[("cpu", 2)])]}));
        let sessions = [first, waiting("gang", gang(3)), waiting("small", json!({"kernels": [kernel(&[("cpu", 3)])]}))];
        let placed = setup.run(&sessions);
        assert_eq!(placed, [vec!["a"], vec![], vec!["b"]]);
    }

    #[test]
    fn a_single_node_session_gets_one_node_for_the_sum_of_its_kernels() {
        let mut spec = gang(2);
        spec["clusterMode"] = json!("SingleNode");
        let mut setup = Setup::new(json!({}), vec![node("a", &[("cpu", 4)]), node("b", &[("cpu", 5)])]);
        assert_eq!(setup.run(&[waiting("s", spec.clone())]), [["b", "b", "b"]]);
        let mut small = Setup::new(json!({}), vec![node("a", &[("cpu", 4)]), node("b", &[("cpu", 4)])]);
        let refused = small.refusals(&[waiting("s", spec)]).remove(0).expect("refused");
        assert_eq!(refused.cause, Some(Cause::Hold), "{}", refused.message);
    }

    #[test]
    fn a_private_session_gets_an_empty_node_and_keeps_others_off_it() {
        let nodes = || vec![node("a", &[("cpu", 4)]), node("b", &[("cpu", 4)])];
        let private = || waiting("private", json!({"private": true, "priority": 5}));
        let mut setup = Setup::new(json!({}), nodes());
        assert_eq!(setup.run(&[waiting("1", json!({})), private()]), [["a"], ["b"]]);
        let refused = setup.refusals(&[waiting("2", json!({"kernels": [kernel(&[("cpu", 4)])]}))]).remove(0).expect("refused");
        assert!(refused.message.contains("1 of 2: occupied by a private session"), "{}", refused.message);
        let refused = setup.refusals(&[private()]).remove(0).expect("refused");
        assert!(refused.message.contains("2 of 2: not empty, and the session is private"), "{}", refused.message);
    }

    #[test]
    fn resources_of_permanent_pods_never_become_free_and_resources_of_other_pods_do() {
        let mut setup = Setup::new(json!({}), vec![node("a", &[("cpu", 4)])]);
        let mut ledger = Ledger::default();
        let mut refused = |lifetime| {
            let mut requests = Resources::default();
            requests.set("cpu", Amount::from_units(1));
            ledger.count_foreign(&ForeignPod { node: "a".into(), requests, lifetime, ..ForeignPod::default() }, 1);
            setup.ledger = ledger.snapshot(&setup.tenancy);
            let wants_three = waiting("3", json!({"kernels": [kernel(&[("cpu", 3)])]}));
            let wants_all = waiting("4", json!({"kernels": [kernel(&[("cpu", 4)])]}));
            let reported = setup.refusals(&[wants_all, wants_three]);
            reported
                .into_iter()
                .map(|reported| reported.map(|reported| (reported.cause, reported.message.clone())))
                .collect::<Vec<_>>()
        };
        assert_eq!(refused(Lifetime::Transient)[0].as_ref().and_then(|reported| reported.0), Some(Cause::Capacity));
        let reported = refused(Lifetime::Permanent);
        let (cause, message) = reported[0].clone().expect("refused");
        assert_eq!(cause, Some(Cause::Hold));
        assert!(message.contains("even an empty one: 1 of 1: cpu 3 of 4 needed"), "{message}");
        assert_eq!(reported[1].as_ref().and_then(|reported| reported.0), Some(Cause::Capacity), "were it empty, three would fit");
    }

    #[test]
    fn only_designated_nodes_are_chosen_and_one_of_them_must_exist() {
        let mut setup = Setup::new(json!({}), vec![node("a", &[("cpu", 1)]), node("b", &[("cpu", 8)])]);
        let on = |names: &[&str]| {
            let mut main = kernel(&[("cpu", 1)]);
            main["designatedNodes"] = json!(names);
            waiting("s", json!({"kernels": [main]}))
        };
        assert_eq!(setup.run(&[on(&["a"])]), [["a"]]);
        let refused = setup.refusals(&[on(&["a"])]).remove(0).expect("no fallback");
        assert!(refused.message.contains("1 of 2: not designated"), "{}", refused.message);
        assert_eq!(refused.cause, Some(Cause::Capacity));
        let refused = setup.refusals(&[on(&["nowhere"])]).remove(0).expect("refused");
        assert_eq!((refused.cause, refused.reason), (Some(Cause::Hold), Reason::DesignatedNodeNotFound));
    }

    #[test]
    fn a_kernel_runs_only_where_the_volume_of_its_claim_can_be_reached() {
        let labelled = |name: &str, zone: &str| NodeView {
            labels: [("zone".to_owned(), zone.to_owned())].into(),
            ..node(name, &[("cpu", 2)])
        };
        let mut setup = Setup::new(json!({}), vec![labelled("a", "x"), labelled("b", "y")]);
        let claim = ClaimKey { namespace: "ns".into(), name: "data".into() };
        setup.tenancy.storage.claims.insert(claim, ClaimView { volume: Some("v".into()), ..ClaimView::default() });
        let term = Requirement { of: NodeField::Label("zone".into()), operator: Operator::In, values: vec!["y".into()] };
        setup.tenancy.storage.volumes.insert("v".into(), VolumeView { terms: vec![vec![term]], ..VolumeView::default() });
        let mut mounting = kernel(&[("cpu", 2)]);
        mounting["volumes"] = json!([{"claimName": "data", "mountPath": "/data"}]);
        let sessions = ["1", "2"].map(|name| waiting(name, json!({"kernels": [mounting]})));
        assert_eq!(setup.run(&sessions[..1]), [["b"]]);
        let refused = setup.refusals(&sessions[1..]).remove(0).expect("b is full");
        let counts = "1 of 2: cannot reach the volume of claim data; 1 of 2: cpu 0 of 2 needed";
        assert!(refused.message.ends_with(counts), "{}", refused.message);
    }

    #[test]
    fn each_rejected_node_has_its_reason_with_numbers() {
        let mut arm = node("arm", &[("cpu", 8)]);
        arm.architecture = "arm64".into();
        let mut cordoned = node("cordoned", &[("cpu", 8)]);
        cordoned.unschedulable = true;
        let mut down = node("down", &[("cpu", 8)]);
        down.ready = false;
        let mut setup = Setup::new(json!({}), vec![arm, cordoned, down, node("small", &[("cpu", 2)]), node("x", &[("cpu", 2)])]);
        let mut main = kernel(&[("cpu", 4)]);
        main["architecture"] = json!("amd64");
        let refused = setup.refusals(&[waiting("s", json!({"kernels": [main]}))]).remove(0).expect("refused");
        let counts = refused.nodes.clone().expect("nodes");
        assert_eq!(counts.total, 5);
        assert_eq!(counts.reasons[0], ("cpu 2 of 4 needed".to_owned(), 2));
        let mut words: Vec<&str> = counts.reasons[1..].iter().map(|(reason, _)| reason.as_str()).collect();
        words.sort_unstable();
        assert_eq!(words, ["architecture", "cordoned", "not ready"]);
        assert_eq!(refused.cause, Some(Cause::Hold), "two of the closed nodes are large enough");
    }

    #[test]
    fn nodes_are_counted_for_sessions_that_did_not_report_it_recently() {
        let mut setup = Setup::new(json!({}), vec![node("a", &[("cpu", 1)])]);
        let sessions = ["first", "reported", "new"].map(|name| waiting(name, json!({})));
        let decisions = setup.run_with(&sessions, &Extra { reported: &["reported"], ..Extra::default() });
        assert!(matches!(decisions[0], Decision::Placed(_)));
        let counted = |index: usize| refusal(&decisions[index]).map(|refused| (refused.reason, refused.nodes.is_some()));
        assert_eq!(counted(1), Some((Reason::NoAvailableNode, false)));
        assert_eq!(counted(2), Some((Reason::NoAvailableNode, true)));
    }

    #[test]
    fn nodes_that_failed_a_session_are_tried_last() {
        let mut setup = Setup::new(json!({}), vec![node("a", &[("cpu", 9)]), node("b", &[("cpu", 1)])]);
        let failed = [NodeName::from("a")];
        let two = [waiting("1", json!({})), waiting("2", json!({}))];
        let decisions = setup.run_with(&two, &Extra { avoided: &failed, ..Extra::default() });
        assert_eq!(decisions.iter().map(nodes_of).collect::<Vec<_>>(), [["b"], ["a"]]);
    }

    #[test]
    fn avoiding_a_node_never_keeps_a_gang_from_its_only_fit() {
        let nodes = vec![node("a", &[("cpu", 2), ("gpu.dev/x", 1)]), node("b", &[("cpu", 2)])];
        let mut sub = kernel(&[("cpu", 2), ("gpu.dev/x", 1)]);
        sub["role"] = json!("sub");
        let gang = waiting("s", json!({"kernels": [kernel(&[("cpu", 2)]), sub]}));
        let failed = [NodeName::from("b")];
        let decisions = Setup::new(json!({}), nodes).run_with(&[gang], &Extra { avoided: &failed, ..Extra::default() });
        assert_eq!(nodes_of(&decisions[0]), ["b", "a"], "main must use the avoided node, because sub fits only on a");
    }

    #[test]
    fn a_scaling_group_without_nodes_makes_sessions_wait_and_not_fail() {
        let refused = Setup::new(json!({}), vec![]).refusals(&[waiting("s", json!({}))]).remove(0).expect("refused");
        assert_eq!((refused.cause, refused.message.as_str()), (Some(Cause::Hold), "the scaling group has no nodes"));
    }
}
