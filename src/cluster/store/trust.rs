//! Decides which pods belong to a session, and how foreign pods count. Labels and owners alone prove nothing, because
//! tenants can write them.

use super::state::State;
use super::stores::PodRow;
use crate::views::extract::Extracted;
use crate::views::{ForeignPod, Lifetime};

impl State {
    /// Treats a pod as foreign if its label names a session in another namespace, or if its kernel or its owner belongs to
    /// another session. The owner is the session or, from an older version, the kernel.
    pub(super) fn verified(&self, extracted: Extracted) -> Extracted {
        let Extracted::Ours(view) = extracted else { return extracted };
        let in_other_namespace =
            self.index.key_of.get(&view.session_uid).is_some_and(|(namespace, _)| *namespace != view.namespace);
        let kernel = self.stores.kernels.get(&(view.namespace.clone(), view.name.clone()));
        let has_other_kernel = kernel.is_some_and(|kernel| {
            let of_session = view.owner_uid.as_ref().is_none_or(|owner| *owner == view.session_uid.0);
            kernel.spec.session_uid != view.session_uid.0 || !(of_session || view.owner_uid == kernel.metadata.uid)
        });
        if !in_other_namespace && !has_other_kernel {
            return Extracted::Ours(view);
        }
        match (&view.node, view.is_live()) {
            (Some(node), true) => Extracted::Foreign(view.as_foreign(node)),
            _ => Extracted::Nothing,
        }
    }

    /// Verifies all pods again. A pod that was listed before its session and kernel could not be verified then.
    pub(super) fn reverify_pods(&mut self) {
        let ours = self.stores.pods.iter().filter_map(|(key, row)| match row {
            PodRow::Ours(view) => Some((key.clone(), view.clone())),
            PodRow::Foreign(_) => None,
        });
        for (key, view) in ours.collect::<Vec<_>>() {
            let Extracted::Foreign(mut foreign) = self.verified(Extracted::Ours(Box::new((*view).clone()))) else { continue };
            foreign.lifetime = self.trusted_lifetime(&foreign);
            self.ledger.count_foreign(&foreign, 1);
            self.stores.pods.replace(&key, PodRow::Foreign(foreign));
            self.index.pods_of.remove(&view.session_uid, &key);
            self.refresh(&view.session_uid);
        }
    }

    /// Returns the lifetime of a foreign pod. Pods of DaemonSets and static pods are permanent only in namespaces where no
    /// tenant can create such a pod.
    pub(super) fn trusted_lifetime(&self, pod: &ForeignPod) -> Lifetime {
        let namespace = self.stores.namespaces.get(&(String::new(), pod.namespace.clone()));
        match pod.claimed_lifetime {
            // The namespace is known and belongs to no project.
            Lifetime::Permanent if namespace.is_some_and(Option::is_none) => Lifetime::Permanent,
            Lifetime::Permanent | Lifetime::NodeBound => Lifetime::NodeBound,
            Lifetime::Transient => Lifetime::Transient,
        }
    }

    /// Updates the lifetimes of foreign pods after namespaces have joined or left projects.
    pub(super) fn recheck_lifetimes(&mut self) {
        let mut changed = vec![];
        for (key, row) in self.stores.pods.iter() {
            if let PodRow::Foreign(pod) = row
                && self.trusted_lifetime(pod) != pod.lifetime
            {
                changed.push((key.clone(), pod.clone()));
            }
        }
        for (key, old) in changed {
            let new = ForeignPod { lifetime: self.trusted_lifetime(&old), ..old.clone() };
            self.ledger.count_foreign(&old, -1);
            self.ledger.count_foreign(&new, 1);
            self.stores.pods.replace(&key, PodRow::Foreign(new));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    use super::*;
    use crate::api::*;
    use crate::cluster::store::identity::uid_of;
    use crate::cluster::store::world::{Scope, World};
    use crate::session::handlers::testing::{kernel_of, session_in};
    use crate::views::extract;

    fn world() -> World {
        World::new(Arc::default(), Scope::default())
    }

    fn pod(value: Value) -> Pod {
        serde_json::from_value(value).expect("a pod")
    }

    #[test]
    fn a_daemon_sets_pod_is_permanent_only_where_no_tenant_can_create_it() {
        let world = world();
        let daemon = |namespace: &str| {
            let owner = json!([{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "u", "controller": true}]);
            pod(json!({
                "metadata": {"name": "d", "namespace": namespace, "ownerReferences": owner},
                "spec": {"nodeName": "n", "containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]},
                "status": {"conditions": [{"type": "Ready", "status": "True"}]},
            }))
        };
        let permanent = || {
            let state = world.lock();
            let tenancy = state.tenancy();
            state.ledger.snapshot(&tenancy).load(&"n".into()).map(|load| load.permanent.get("cpu").milli()).unwrap_or_default()
        };
        let namespace = |name: &str, project: Option<ProjectName>| {
            let mut state = world.lock();
            state.stores.namespaces.upsert((String::new(), name.to_owned()), 0, project);
            world.tenancy_changed(state);
        };
        world.upsert_pod(&daemon("kube-system"));
        assert_eq!(permanent(), 0, "its namespace is not known yet");
        namespace("kube-system", None);
        assert_eq!(permanent(), 1000);
        namespace("tenant", Some("project".into()));
        world.upsert_pod(&daemon("tenant"));
        assert_eq!(permanent(), 1000, "a tenant may have created it");
        namespace("kube-system", Some("project".into()));
        assert_eq!(permanent(), 0);
    }

    #[test]
    fn a_label_alone_does_not_make_a_pod_ours() {
        let world = world();
        let session = world.upsert_session(session_in(SessionPhase::Running));
        let uid = uid_of(&session);
        let mut kernel = kernel_of(&session);
        kernel.metadata.namespace = Some("ns".into());
        let name = kernel.metadata.name.clone().expect("a name");
        world.upsert_kernel(kernel);
        let claimed = |namespace: &str, owner: &str, finalizers: &[&str]| {
            let owner =
                json!([{"apiVersion": "sokovan.dev/v1alpha1", "kind": "Kernel", "name": name, "uid": owner, "controller": true}]);
            let labels = json!({LABEL_SESSION_UID: uid.0, LABEL_KERNEL: "main1"});
            let meta = json!({"name": name, "namespace": namespace, "labels": labels, "ownerReferences": owner, "finalizers": finalizers});
            pod(json!({"metadata": meta, "spec": {"nodeName": "n", "containers": [{"name": "main"}]}}))
        };
        let ours = |pod: &Pod| matches!(world.lock().verified(extract::pod(pod)), Extracted::Ours(_));
        assert!(ours(&claimed("ns", "uid-kernel", &[FINALIZER_POD])), "an older version made it");
        assert!(ours(&claimed("ns", &uid.0, &[FINALIZER_POD])));
        assert!(!ours(&claimed("ns", "uid-other", &[FINALIZER_POD])), "another kernel owns it");
        assert!(!ours(&claimed("elsewhere", "uid-kernel", &[FINALIZER_POD])), "another namespace");
        let mut labelled = claimed("ns", "uid-kernel", &[]);
        labelled.metadata.owner_references = None;
        assert!(!ours(&labelled), "a label and nothing else");
    }
}
