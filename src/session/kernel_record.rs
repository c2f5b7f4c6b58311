//! The record of a kernel: what it is, and its last state. Pure.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource;

use super::kernels::kernel_name;
use crate::api::{
    GroupName, Kernel, KernelSpec, LABEL_GENERATION, LABEL_GROUP, LABEL_KERNEL, LABEL_SESSION, LABEL_SESSION_UID, Session, expand,
};

/// Returns the owner of all objects of a session.
fn owner(session: &Session) -> Vec<OwnerReference> {
    let owner = session.controller_owner_ref(&());
    owner.map(|owner| OwnerReference { block_owner_deletion: Some(true), ..owner }).into_iter().collect()
}

/// Returns the labels of all objects of a session.
pub fn labels(session: &Session, group: &GroupName) -> BTreeMap<String, String> {
    let meta = &session.metadata;
    BTreeMap::from([
        (LABEL_SESSION.into(), meta.name.clone().unwrap_or_default()),
        (LABEL_SESSION_UID.into(), meta.uid.clone().unwrap_or_default()),
        (LABEL_GROUP.into(), group.0.clone()),
    ])
}

/// Returns the labels of a kernel and its pod.
pub fn kernel_labels(session: &Session, group: &GroupName, hostname: &str, generation: i64) -> BTreeMap<String, String> {
    let mut labels = labels(session, group);
    labels.insert(LABEL_KERNEL.into(), hostname.to_owned());
    labels.insert(LABEL_GENERATION.into(), generation.to_string());
    labels
}

/// Returns the metadata of an object that belongs to a session.
pub fn meta(session: &Session, name: String, labels: BTreeMap<String, String>) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: session.metadata.namespace.clone(),
        labels: Some(labels),
        owner_references: Some(owner(session)),
        ..ObjectMeta::default()
    }
}

/// Returns the record of a kernel of the session's present allocation, without a state and not yet written. None if the
/// session has no such kernel.
pub fn new_record(session: &Session, group: &GroupName, hostname: &str) -> Option<Kernel> {
    let slot = expand(&session.spec.kernels).into_iter().find(|slot| slot.hostname == hostname)?;
    let status = session.status.as_ref()?;
    let allocation = status.allocation.iter().find(|allocation| allocation.kernel == hostname)?;
    let (name, uid) = (session.metadata.name.clone()?, session.metadata.uid.clone()?);
    let generation = status.allocation_generation;
    let labels = kernel_labels(session, group, hostname, generation);
    let metadata = meta(session, kernel_name(&name, &uid, hostname, generation), labels);
    let spec = KernelSpec {
        session: name,
        session_uid: uid,
        role: slot.template.role.clone(),
        index: slot.index,
        local_rank: slot.local_rank,
        hostname: slot.hostname,
        allocation_generation: generation,
        scaling_group: group.clone(),
        node: allocation.node.clone(),
        image: slot.template.image.clone(),
        resources: slot.template.resources.clone(),
    };
    Some(Kernel { metadata, spec, status: None })
}
