//! Extracts the fields of volumes, storage classes, runtime classes and ResourceQuotas that decisions need.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    NodeSelectorRequirement, NodeSelectorTerm, PersistentVolume, PersistentVolumeClaim, ResourceQuota, TopologySelectorTerm,
};
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::api::{Amount, LABEL_SESSION_UID, SessionUid};
use crate::views::QuotaView;
use crate::views::RuntimeClassView;
use crate::views::requests::amounts;
use crate::views::{ClaimKey, ClaimView, NodeField, Operator, Requirement, StorageClassView, VolumeView};

/// The provisioner of classes whose volumes are created by hand.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

fn storage_of<'q>(list: impl IntoIterator<Item = (&'q String, &'q Quantity)>) -> Amount {
    amounts(list).get("storage")
}

pub fn claim(claim: PersistentVolumeClaim) -> ClaimView {
    let bound = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
    let spec = claim.spec.unwrap_or_default();
    let modes = spec.access_modes.unwrap_or_default();
    let requests = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    ClaimView {
        deleting: claim.metadata.deletion_timestamp.is_some(),
        created_for: claim.metadata.labels.and_then(|mut labels| labels.remove(LABEL_SESSION_UID)).map(SessionUid),
        read_only: !modes.is_empty() && modes.iter().all(|mode| *mode == "ReadOnlyMany"),
        is_for_one_pod: modes.iter().any(|mode| *mode == "ReadWriteOncePod"),
        volume: spec.volume_name.filter(|_| bound),
        storage_class: spec.storage_class_name.unwrap_or_default(),
        requested: storage_of(requests.into_iter().flatten()),
        access_modes: modes,
    }
}

pub fn volume(volume: PersistentVolume) -> VolumeView {
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
    let is_available = phase == Some("Available");
    let spec = volume.spec.unwrap_or_default();
    let terms = spec.node_affinity.as_ref().and_then(|affinity| affinity.required.as_ref());
    let terms = terms.map(|required| required.node_selector_terms.as_slice()).unwrap_or_default();
    let term = |term: &NodeSelectorTerm| {
        let labels = term.match_expressions.iter().flatten();
        let labels = labels.map(|wanted| requirement(NodeField::Label(wanted.key.clone()), wanted));
        // A node's name is the only field that Kubernetes can match.
        labels.chain(term.match_fields.iter().flatten().map(|wanted| requirement(NodeField::Name, wanted))).collect()
    };
    let claim = spec
        .claim_ref
        .as_ref()
        .and_then(|claim| Some(ClaimKey { namespace: claim.namespace.clone()?, name: claim.name.clone()? }));
    VolumeView {
        terms: terms.iter().map(term).collect(),
        capacity: storage_of(spec.capacity.iter().flatten()),
        storage_class: spec.storage_class_name.unwrap_or_default(),
        access_modes: spec.access_modes.unwrap_or_default(),
        is_available,
        reserved_for: claim,
    }
}

pub fn storage_class(class: StorageClass) -> StorageClassView {
    let term = |term: &TopologySelectorTerm| -> Vec<Requirement> {
        let labels = term.match_label_expressions.iter().flatten();
        let one_of = |wanted: &k8s_openapi::api::core::v1::TopologySelectorLabelRequirement| Requirement {
            of: NodeField::Label(wanted.key.clone()),
            operator: Operator::In,
            values: wanted.values.clone(),
        };
        labels.map(one_of).collect()
    };
    StorageClassView {
        waits_for_pod: class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"),
        provisions: class.provisioner != NO_PROVISIONER,
        topologies: class.allowed_topologies.iter().flatten().map(term).collect(),
    }
}

pub fn runtime_class(class: RuntimeClass) -> RuntimeClassView {
    RuntimeClassView {
        overhead: amounts(class.overhead.iter().flat_map(|overhead| overhead.pod_fixed.iter().flatten())),
        node_selector: class.scheduling.and_then(|scheduling| scheduling.node_selector).unwrap_or_default(),
    }
}

pub fn quota(quota: ResourceQuota) -> QuotaView {
    let spec = quota.spec.unwrap_or_default();
    let status = quota.status.unwrap_or_default();
    let read = |list: &Option<BTreeMap<String, Quantity>>| -> BTreeMap<String, Amount> {
        let amount = |(name, quantity): (&String, &Quantity)| (name.clone(), Amount::parse(&quantity.0).unwrap_or_default());
        list.iter().flatten().map(amount).collect()
    };
    let is_scoped = spec.scope_selector.is_some() || spec.scopes.is_some_and(|scopes| !scopes.is_empty());
    // The status has the limits that are enforced now.
    QuotaView { hard: read(&status.hard), used: read(&status.used), is_scoped }
}

fn requirement(of: NodeField, wanted: &NodeSelectorRequirement) -> Requirement {
    let operator = match wanted.operator.as_str() {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::Gt,
        "Lt" => Operator::Lt,
        _ => Operator::Unknown,
    };
    Requirement { of, operator, values: wanted.values.clone().unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::views::NodeView;

    #[test]
    fn a_claim_names_its_volume_once_it_is_bound_and_a_volume_names_the_nodes_that_reach_it() {
        let claim_in = |phase: &str| -> PersistentVolumeClaim {
            serde_json::from_value(json!({
                "spec": {"accessModes": ["ReadOnlyMany"], "volumeName": "v"}, "status": {"phase": phase}
            }))
            .expect("a claim")
        };
        assert_eq!(
            claim(claim_in("Bound")),
            ClaimView {
                read_only: true,
                volume: Some("v".into()),
                access_modes: vec!["ReadOnlyMany".into()],
                ..ClaimView::default()
            }
        );
        assert_eq!(claim(claim_in("Pending")).volume, None);
        let local: PersistentVolume =
            serde_json::from_value(json!({"spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["node-2"]}]}]}}}}))
            .expect("a volume");
        let on = |host: &str| {
            let labels = [("kubernetes.io/hostname".to_owned(), host.to_owned())].into();
            volume(local.clone()).reach().includes(&NodeView { labels, ..NodeView::default() })
        };
        assert!(on("node-2") && !on("node-1"));
    }
}
