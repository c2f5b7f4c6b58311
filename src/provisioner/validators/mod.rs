//! Validators: the conditions for giving a session its nodes. One file each, listed in one table. All of them run, and the
//! session reports every blocker.

mod claims;
mod concurrency;
mod containers;
mod dependencies;
mod owner;
mod pending;
mod policies;
mod priority;
mod quota;
mod scaling_group;
mod service_account;
mod start_time;
mod suspend;
mod template;
mod volumes;

use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::equivalence_class::EquivalenceClass;

use super::candidate::Candidate;
use super::ledger_snapshot::{LedgerSnapshot, Own};
use super::refusal::{Blocker, Refusal};
use crate::api::{GroupName, ResourcePolicy, ScalingGroup};
use crate::views::{Tenancy, Tenant};

/// The input of a validator besides the session.
pub struct Context<'c> {
    pub now: DateTime<Utc>,
    pub group_name: Option<&'c GroupName>,
    pub group: Option<&'c ScalingGroup>,
    pub tenancy: &'c Tenancy,
    pub ledger: &'c LedgerSnapshot,
}

/// An equivalence class with its tenants and their policies.
pub struct Subject<'c> {
    pub class: &'c EquivalenceClass,
    pub tenants: &'c [(Tenant, Option<Arc<ResourcePolicy>>)],
    /// The session's own holding, which must not count against it.
    pub own: Option<&'c Own<'c>>,
}

impl Subject<'_> {
    /// Returns the policies that apply, each with its tenant.
    fn policies(&self) -> impl Iterator<Item = (&Tenant, &ResourcePolicy)> {
        self.tenants.iter().filter_map(|(tenant, policy)| Some((tenant, policy.as_deref()?)))
    }
}

pub enum Check {
    /// Runs once for all sessions of a class, and again before their pods are created.
    EquivalenceClass(fn(&Context<'_>, &Subject<'_>) -> Vec<Blocker>),
    /// Runs for each waiting session.
    Waiting(fn(&Context<'_>, &Candidate<'_>) -> Vec<Blocker>),
}

pub struct Validator {
    /// The name in a session's status (`check`).
    pub name: &'static str,
    pub check: Check,
}

/// All validators. To add one, add its file and a line here.
pub static VALIDATORS: [&Validator; 15] = [
    &scaling_group::VALIDATOR,
    &owner::VALIDATOR,
    &policies::VALIDATOR,
    &priority::VALIDATOR,
    &containers::VALIDATOR,
    &service_account::VALIDATOR,
    &claims::VALIDATOR,
    &volumes::VALIDATOR,
    &concurrency::VALIDATOR,
    &quota::VALIDATOR,
    &pending::VALIDATOR,
    &dependencies::VALIDATOR,
    &start_time::VALIDATOR,
    &suspend::VALIDATOR,
    &template::VALIDATOR,
];

/// Returns the tenants of a class, with their policies if these exist.
pub fn tenants(tenancy: &Tenancy, class: &EquivalenceClass) -> Vec<(Tenant, Option<Arc<ResourcePolicy>>)> {
    let tenants = tenancy.tenants(&class.access_key, &class.namespace);
    tenants.into_iter().map(|tenant| (tenant.clone(), tenancy.policy_of(&tenant).ok().flatten())).collect()
}

/// Returns the blockers that all sessions of a class share.
pub fn check_class(context: &Context<'_>, subject: &Subject<'_>) -> Vec<Blocker> {
    let blockers = VALIDATORS.iter().filter_map(|validator| match validator.check {
        Check::EquivalenceClass(check) => Some(check(context, subject)),
        Check::Waiting(_) => None,
    });
    blockers.flatten().map(|blocker| if context.tenancy.unreadable > 0 { may_exist(blocker) } else { blocker }).collect()
}

/// While an object cannot be read, for example one that a newer version of the operator wrote, a missing object may be that
/// object.
fn may_exist(blocker: Blocker) -> Blocker {
    use crate::lifecycle::Reason::*;
    match blocker.reason {
        ScalingGroupNotFound | KeypairNotFound | UserNotFound | ProjectNotFound | DomainNotFound | PolicyNotFound => {
            let message = format!("{}, or cannot be read by this version of the operator", blocker.message);
            Blocker { message, ..blocker }
        }
        _ => blocker,
    }
}

/// Returns the blockers of one waiting session, without those of its class.
pub fn check_waiting(context: &Context<'_>, candidate: &Candidate<'_>) -> Vec<Blocker> {
    let blockers = VALIDATORS.iter().filter_map(|validator| match validator.check {
        Check::Waiting(check) => Some(check(context, candidate)),
        Check::EquivalenceClass(_) => None,
    });
    blockers.flatten().collect()
}

/// Returns all blockers of a waiting session, except that no node takes it.
pub fn check_all(context: &Context<'_>, candidate: &Candidate<'_>) -> Option<Refusal> {
    let tenants = tenants(context.tenancy, candidate.class);
    let shared = check_class(context, &Subject { class: candidate.class, tenants: &tenants, own: None });
    Refusal::of(check_waiting(context, candidate).into_iter().chain(shared).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use crate::api::{Cause, Domain, Project, SessionPhase, SessionResult, SessionType, User};
    use crate::lifecycle::Reason;
    use crate::provisioner::testing::{Extra, Setup, kernel, node, refusal, waiting};
    use crate::provisioner::{Ahead, Dependency, Refusal};
    use crate::views::Tenant;
    use crate::views::{ClaimKey, ClaimView};

    fn setup(policy: serde_json::Value) -> Setup {
        let mut setup = Setup::new(json!({}), vec![node("a", &[("cpu", 16)])]);
        setup.limit(policy);
        setup
    }

    fn reasons(refusal: &Refusal) -> Vec<Reason> {
        refusal.blockers.iter().map(|blocker| blocker.reason).collect()
    }

    #[test]
    fn while_an_object_cannot_be_read_a_missing_object_is_reported_as_possibly_unreadable() {
        let mut setup = setup(json!({}));
        setup.tenancy.users.clear();
        let session = [waiting("s", json!({}))];
        let refused = |setup: &mut Setup| setup.refusals(&session).remove(0).expect("refused");
        let words = "cannot be read by this version of the operator";
        let missing = refused(&mut setup);
        assert_eq!((missing.cause, missing.reason), (Some(Cause::Hold), Reason::UserNotFound));
        assert!(!missing.message.contains(words), "{}", missing.message);
        setup.tenancy.unreadable = 1;
        assert!(refused(&mut setup).message.contains(words));
    }

    #[test]
    fn a_suspended_session_is_on_hold_until_its_user_resumes_it() {
        let mut setup = setup(json!({}));
        let refused = setup.refusals(&[waiting("s", json!({"suspend": true}))]).remove(0).expect("refused");
        assert_eq!((refused.cause, refused.reason), (Some(Cause::Hold), Reason::Suspended));
        assert_eq!(setup.refusals(&[waiting("s", json!({}))]), [None]);
    }

    #[test]
    fn before_the_start_time_other_blockers_are_reported_but_only_a_failed_dependency_is_a_fault() {
        let mut setup = setup(json!({}));
        setup.tenancy.users.clear();
        let refused = setup.refusals(&[waiting("s", json!({"startsAt": "2999-01-01T00:00:00Z"}))]).remove(0).expect("refused");
        assert_eq!((refused.cause, reasons(&refused)), (None, vec![Reason::NotYetDue, Reason::UserNotFound]));
        let ended = [("other".to_owned(), Dependency::Is(SessionPhase::Terminated, Some(SessionResult::Failure)))];
        let later = waiting("s", json!({"startsAt": "2999-01-01T00:00:00Z"}));
        let decisions = setup.run_with(&[later], &Extra { dependencies: &ended, ..Extra::default() });
        let refused = refusal(&decisions[0]).expect("refused");
        assert_eq!(
            (refused.cause, refused.reason),
            (Some(Cause::Fault), Reason::DependencyFailed),
            "a failed dependency never recovers"
        );
    }

    #[test]
    fn all_blockers_are_reported_numbered_and_faults_first() {
        let mut setup = setup(json!({"limits": {"cpu": 1}, "maxContainersPerSession": 1}));
        let big = waiting("s", json!({"kernels": [{"image": "i", "replicas": 2, "resources": {"cpu": 1}}]}));
        let refused = setup.refusals(&[big]).remove(0).expect("refused");
        assert_eq!((refused.cause, refused.reason), (Some(Cause::Fault), Reason::ContainerLimitExceeded));
        assert_eq!(reasons(&refused), [Reason::ContainerLimitExceeded, Reason::QuotaExceeded]);
        assert!(refused.message.starts_with("(1) ") && refused.message.contains("; (2) "), "{}", refused.message);
    }

    #[test]
    fn an_allocation_counts_for_later_sessions_of_the_same_cycle() {
        let mut setup = setup(json!({"limits": {"cpu": 2}}));
        let decisions = setup.refusals(&["1", "2", "3"].map(|name| waiting(name, json!({}))));
        assert!(decisions[0].is_none() && decisions[1].is_none());
        let refused = decisions[2].as_ref().expect("refused");
        assert_eq!(refused.message, "keypair key: cpu 1 requested, 2 of 2 used");
    }

    #[test]
    fn a_claim_must_exist_and_allow_the_mount() {
        let mounting = |read_only: bool| {
            let mut kernel = kernel(&[("cpu", 1)]);
            kernel["volumes"] = json!([{"claimName": "data", "mountPath": "/data", "readOnly": read_only}]);
            [waiting("s", json!({"kernels": [kernel]}))]
        };
        let mut setup = setup(json!({}));
        let reported = |setup: &mut Setup, read_only| {
            setup.refusals(&mounting(read_only)).remove(0).map(|reported| reported.message.clone())
        };
        assert_eq!(reported(&mut setup, false).as_deref(), Some("volume claim data does not exist in namespace ns"));
        let key = ClaimKey { namespace: "ns".into(), name: "data".into() };
        setup
            .tenancy
            .storage
            .claims
            .insert(key.clone(), ClaimView { read_only: true, volume: Some("v".into()), ..ClaimView::default() });
        let message = "volume claim data is read-only but mounted for writing";
        assert_eq!(reported(&mut setup, false).as_deref(), Some(message));
        assert_eq!(reported(&mut setup, true), None);
        setup.tenancy.storage.claims.insert(key.clone(), ClaimView::default());
        assert_eq!(reported(&mut setup, true).as_deref(), Some("volume claim data is not bound to a volume"));
        setup.tenancy.storage.claims.insert(key, ClaimView { deleting: true, ..ClaimView::default() });
        assert_eq!(reported(&mut setup, true).as_deref(), Some("volume claim data is being deleted"));
    }

    /// Limits one tenant of the sessions to one core.
    fn one_core_for(tenant: &str) -> Setup {
        let mut setup = setup(json!({"limits": {"cpu": 1}}));
        if tenant != "keypair" {
            setup.keypair("key");
        }
        let limited = || json!({"domain": "domain", "resourcePolicy": "policy"});
        let tenancy = &mut setup.tenancy;
        match tenant {
            "user" => {
                let user = serde_json::from_value(limited()).expect("a user");
                tenancy.users.insert("user".into(), Arc::new(User::new("user", user)));
            }
            "project" => {
                let project = serde_json::from_value(limited()).expect("a project");
                tenancy.projects.insert("project".into(), Arc::new(Project::new("project", project)));
            }
            "domain" => {
                let domain = serde_json::from_value(json!({"resourcePolicy": "policy"})).expect("a domain");
                tenancy.domains.insert("domain".into(), Arc::new(Domain::new("domain", domain)));
            }
            _ => {}
        }
        setup
    }

    #[test]
    fn cp_002_a_quota_applies_at_each_level_and_the_message_names_its_tenant() {
        for (class, tenant) in
            [("keypair", "keypair key"), ("user", "user user"), ("project", "project project"), ("domain", "domain domain")]
        {
            let mut setup = one_core_for(class);
            let reported = setup.refusals(&[waiting("first", json!({})), waiting("second", json!({}))]);
            assert!(reported[0].is_none(), "{tenant}");
            let second = reported[1].as_ref().expect("refused");
            assert_eq!((second.cause, second.reason), (Some(Cause::Quota), Reason::QuotaExceeded));
            assert_eq!(second.message, format!("{tenant}: cpu 1 requested, 1 of 1 used"));
        }
    }

    #[test]
    fn cp_003_cp_004_a_missing_or_inactive_object_blocks_its_sessions() {
        type Change = fn(&mut Setup);
        let cases: [(Change, Reason); 13] = [
            (|s| s.tenancy.keypairs.clear(), Reason::KeypairNotFound),
            (|s| s.tenancy.keypairs.values_mut().for_each(|k| Arc::make_mut(k).spec.active = false), Reason::KeypairInactive),
            (|s| s.tenancy.users.clear(), Reason::UserNotFound),
            (|s| s.tenancy.users.values_mut().for_each(|u| Arc::make_mut(u).spec.active = false), Reason::UserInactive),
            (|s| s.tenancy.namespaces.clear(), Reason::NamespaceWithoutProject),
            (|s| s.tenancy.projects.clear(), Reason::ProjectNotFound),
            (|s| s.tenancy.projects.values_mut().for_each(|p| Arc::make_mut(p).spec.active = false), Reason::ProjectInactive),
            (|s| s.tenancy.domains.clear(), Reason::DomainNotFound),
            (|s| s.tenancy.domains.values_mut().for_each(|d| Arc::make_mut(d).spec.active = false), Reason::DomainInactive),
            (|s| s.tenancy.policies.clear(), Reason::PolicyNotFound),
            (|s| s.group.spec.active = false, Reason::ScalingGroupInactive),
            (|s| s.group.spec.session_types = vec![SessionType::Batch], Reason::ScalingGroupNotAllowed),
            (|s| s.group.spec.projects = vec!["another".into()], Reason::ScalingGroupNotAllowed),
        ];
        for (change, reason) in cases {
            let mut setup = setup(json!({}));
            change(&mut setup);
            let refused = setup.refusals(&[waiting("s", json!({}))]).remove(0).expect("refused");
            let cause = if reason == Reason::ScalingGroupNotAllowed { Cause::Fault } else { Cause::Hold };
            assert_eq!((refused.cause, refused.reason), (Some(cause), reason));
            let first = &refused.blockers[0];
            assert!(first.object.is_some() && first.needs.is_some(), "the object, and what would have to change: {first:?}");
        }
    }

    #[test]
    fn the_keypairs_max_priority_applies_to_its_sessions() {
        let mut setup = setup(json!({}));
        let keypair = serde_json::from_value(json!({"user": "user", "maxPriority": 20})).expect("a keypair");
        setup.tenancy.keypairs.insert("key".into(), std::sync::Arc::new(crate::api::Keypair::new("key", keypair)));
        let reported = setup.refusals(&[waiting("a", json!({"priority": 21})), waiting("b", json!({"priority": 20}))]);
        let first = reported[0].as_ref().expect("refused");
        assert_eq!(first.message, "keypair key: priority 21 requested, at most 20 allowed");
        assert_eq!((first.cause, first.reason), (Some(Cause::Fault), Reason::PriorityTooHigh));
        assert!(reported[1].is_none());
    }

    #[test]
    fn a_resource_that_a_policy_does_not_name_is_unlimited_or_zero() {
        let with_gpu = || [waiting("s", json!({"kernels": [kernel(&[("cpu", 1), ("x.com/y", 1)])]}))];
        let nodes = || vec![node("a", &[("cpu", 2), ("x.com/y", 2)])];
        let mut open = Setup::new(json!({}), nodes());
        open.limit(json!({"limits": {"cpu": 8}}));
        assert_eq!(open.run(&with_gpu()), [["a"]]);
        let mut closed = Setup::new(json!({}), nodes());
        closed.limit(json!({"limits": {"cpu": 8}, "unspecified": "Limited"}));
        let refused = closed.refusals(&with_gpu()).remove(0).expect("refused");
        assert_eq!(refused.message, "keypair key: x.com/y 1 requested, 0 of 0 used");
    }

    #[test]
    fn private_sessions_are_counted_separately_and_zero_means_no_limit() {
        let private = |name| waiting(name, json!({"private": true}));
        let shared = |name| waiting(name, json!({}));
        let nodes = || (0..4).map(|n| node(&format!("a{n}"), &[("cpu", 4)])).collect::<Vec<_>>();
        let mut one_each = Setup::new(json!({}), nodes());
        one_each.limit(json!({"maxConcurrentSessions": 1, "maxConcurrentPrivateSessions": 1}));
        let placed = one_each.run(&[private("1"), shared("2"), private("3"), shared("4")]);
        assert_eq!(placed.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 0, 0]);
        let mut unlimited = Setup::new(json!({}), nodes());
        unlimited.limit(json!({"maxConcurrentSessions": 0}));
        assert_eq!(unlimited.run(&[shared("1"), shared("2")]).iter().map(Vec::len).collect::<Vec<_>>(), [1, 1]);
    }

    #[test]
    fn a_session_beyond_the_pending_limit_of_its_tenant_is_refused() {
        let mut setup = setup(json!({}));
        let ahead = [Ahead {
            tenant: Tenant::Keypair("key".into()),
            sessions: 2,
            resources: crate::api::Resources::default(),
            max_sessions: Some(2),
            max_resources: Default::default(),
        }];
        let decisions = setup.run_with(&[waiting("s", json!({}))], &Extra { ahead: &ahead, ..Extra::default() });
        let refused = refusal(&decisions[0]).expect("refused");
        assert_eq!((refused.cause, refused.reason), (Some(Cause::Quota), Reason::PendingLimitExceeded));
    }

    #[test]
    fn waiting_for_a_dependency_or_a_time_is_no_failure_but_a_failed_dependency_is() {
        let mut setup = setup(json!({}));
        let mut reported = |state| {
            let dependencies = [("first".to_owned(), state)];
            let decisions =
                setup.run_with(&[waiting("s", json!({}))], &Extra { dependencies: &dependencies, ..Extra::default() });
            refusal(&decisions[0]).map(|refused| (refused.cause, refused.reason))
        };
        let pending = reported(Dependency::Is(SessionPhase::Running, None));
        assert_eq!(pending, Some((None, Reason::DependencyPending)));
        let failed = reported(Dependency::Is(SessionPhase::Terminated, Some(SessionResult::Failure)));
        assert_eq!(failed, Some((Some(Cause::Fault), Reason::DependencyFailed)));
        assert_eq!(reported(Dependency::Circular), Some((Some(Cause::Fault), Reason::DependencyCircular)));
        assert_eq!(reported(Dependency::Is(SessionPhase::Terminated, Some(SessionResult::Success))), None);
        let later = waiting("s", json!({"startsAt": "1970-01-01T01:00:01Z"}));
        let refused = setup.refusals(&[later]).remove(0).expect("refused");
        assert_eq!((refused.cause, refused.reason), (None, Reason::NotYetDue));
        assert!(setup.refusals(&[waiting("s", json!({"startsAt": "1970-01-01T01:00:00Z"}))])[0].is_none(), "due at its time");
    }
}
