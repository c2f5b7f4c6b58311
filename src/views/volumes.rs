//! Views of volume claims: which exist, and which nodes can reach their volumes.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::NodeView;
use crate::api::{Amount, KernelTemplate, Session, SessionUid};

/// The namespace and name of a claim.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClaimKey {
    pub namespace: String,
    pub name: String,
}

/// A session's use of a claim.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mount {
    pub claim: ClaimKey,
    pub read_only: bool,
    /// The number of kernels that mount it.
    pub kernels: i64,
    /// The session that it is created for, from the session's `claims`.
    pub created_for: Option<SessionUid>,
}

/// A PersistentVolumeClaim.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClaimView {
    pub deleting: bool,
    /// The session that the operator created it for.
    pub created_for: Option<SessionUid>,
    /// It may only be mounted read-only.
    pub read_only: bool,
    /// Only one pod at a time may use it (`ReadWriteOncePod`).
    pub is_for_one_pod: bool,
    /// The PersistentVolume that it is bound to.
    pub volume: Option<String>,
    /// The class, modes and amount that it requests. They matter while it is unbound.
    pub storage_class: String,
    pub access_modes: Vec<String>,
    pub requested: Amount,
}

/// A PersistentVolume.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VolumeView {
    /// Nodes that match any of these terms can reach it; all nodes if there are no terms.
    pub terms: Vec<Vec<Requirement>>,
    pub storage_class: String,
    pub access_modes: Vec<String>,
    pub capacity: Amount,
    /// Nothing is bound to it.
    pub is_available: bool,
    /// If set, only this claim can be bound to it.
    pub reserved_for: Option<ClaimKey>,
}

/// A StorageClass: when and where its volumes are created.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StorageClassView {
    /// Volumes are bound once a pod has its node (`WaitForFirstConsumer`).
    pub waits_for_pod: bool,
    /// New volumes are created for claims.
    pub provisions: bool,
    /// New volumes can be created for nodes that match any of these terms; for all nodes if there are no terms.
    pub topologies: Vec<Vec<Requirement>>,
}

/// The nodes that can reach the volume of a claim, or could reach one that is bound later.
#[derive(Debug, PartialEq)]
pub enum Reach<'v> {
    Everywhere,
    /// Nodes that match any of these lists of terms.
    From(Vec<&'v [Vec<Requirement>]>),
}

impl Reach<'_> {
    pub fn includes(&self, node: &NodeView) -> bool {
        match self {
            Self::Everywhere => true,
            Self::From(lists) => lists.iter().any(|terms| matches_any(terms, node)),
        }
    }
}

/// Whether a node matches any of these terms. An empty term matches no node.
fn matches_any(terms: &[Vec<Requirement>], node: &NodeView) -> bool {
    terms.iter().any(|term| !term.is_empty() && term.iter().all(|requirement| requirement.holds(node)))
}

/// Claims, volumes and storage classes at one moment.
#[derive(Clone, Debug, Default)]
pub struct Storage {
    pub claims: HashMap<ClaimKey, ClaimView>,
    /// PersistentVolumes by name.
    pub volumes: HashMap<String, VolumeView>,
    pub classes: HashMap<String, StorageClassView>,
}

impl Storage {
    /// Whether a claim gets its volume only after its pod has a node.
    pub fn waits_for_pod(&self, claim: &ClaimView) -> bool {
        self.classes.get(&claim.storage_class).is_some_and(|class| class.waits_for_pod)
    }

    /// Returns the nodes that can reach a claim's volume. For a claim that waits for its pod, the nodes for which a volume
    /// exists or can be created.
    pub fn reach(&self, key: &ClaimKey) -> Reach<'_> {
        let Some(claim) = self.claims.get(key) else { return Reach::Everywhere };
        if let Some(volume) = claim.volume.as_ref().and_then(|name| self.volumes.get(name)) {
            return volume.reach();
        }
        let Some(class) = self.classes.get(&claim.storage_class).filter(|class| class.waits_for_pod) else {
            return Reach::Everywhere;
        };
        if class.provisions && class.topologies.is_empty() {
            return Reach::Everywhere;
        }
        let fitting = || self.volumes.values().filter(|volume| volume.fits(key, claim));
        if fitting().any(|volume| volume.terms.is_empty()) {
            return Reach::Everywhere;
        }
        let provisioned = class.provisions.then_some(class.topologies.as_slice());
        Reach::From(fitting().map(|volume| volume.terms.as_slice()).chain(provisioned).collect())
    }
}

/// A condition on a node.
#[derive(Clone, Debug, PartialEq)]
pub struct Requirement {
    pub of: NodeField,
    pub operator: Operator,
    pub values: Vec<String>,
}

/// The field of a node that a requirement compares.
#[derive(Clone, Debug, PartialEq)]
pub enum NodeField {
    Name,
    Label(String),
}

/// The comparison with the values, as in a node selector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    Gt,
    Lt,
    /// An operator of a newer Kubernetes. No node satisfies it.
    Unknown,
}

impl VolumeView {
    pub fn reach(&self) -> Reach<'_> {
        if self.terms.is_empty() { Reach::Everywhere } else { Reach::From(vec![&self.terms]) }
    }

    /// Whether a claim could be bound to this volume.
    fn fits(&self, key: &ClaimKey, claim: &ClaimView) -> bool {
        self.is_available
            && self.reserved_for.as_ref().is_none_or(|only| only == key)
            && self.storage_class == claim.storage_class
            && claim.access_modes.iter().all(|mode| self.access_modes.contains(mode))
            && self.capacity >= claim.requested
    }
}

impl Requirement {
    fn holds(&self, node: &NodeView) -> bool {
        let value = match &self.of {
            NodeField::Name => Some(node.name.as_str()),
            NodeField::Label(key) => node.labels.get(key).map(String::as_str),
        };
        let listed = |value: &str| self.values.iter().any(|listed| listed == value);
        let numbers = || Some((value?.parse::<i64>().ok()?, self.values.first()?.parse::<i64>().ok()?));
        match self.operator {
            Operator::In => value.is_some_and(listed),
            Operator::NotIn => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Gt => numbers().is_some_and(|(value, bound)| value > bound),
            Operator::Lt => numbers().is_some_and(|(value, bound)| value < bound),
            Operator::Unknown => false,
        }
    }
}

/// Returns the claims that a kernel of a session mounts.
pub fn claims_of(session: &Session, kernel: &KernelTemplate) -> BTreeSet<ClaimKey> {
    kernel.volumes.iter().map(|volume| claim_key(session, &volume.claim_name)).collect()
}

/// Returns the claims that a session mounts.
pub fn claims(session: &Session) -> BTreeSet<ClaimKey> {
    session.spec.kernels.iter().flat_map(|kernel| claims_of(session, kernel)).collect()
}

/// Returns the claim that a session mounts by this name.
fn claim_key(session: &Session, name: &str) -> ClaimKey {
    ClaimKey { namespace: session.metadata.namespace.clone().unwrap_or_default(), name: session.claim_name(name) }
}

/// Returns a session's use of each of its claims.
pub fn mounts(session: &Session) -> Vec<Mount> {
    let mut mounts: BTreeMap<&str, Mount> = BTreeMap::new();
    for kernel in &session.spec.kernels {
        let names: BTreeSet<&str> = kernel.volumes.iter().map(|volume| volume.claim_name.as_str()).collect();
        for name in names {
            let uid = || SessionUid(session.metadata.uid.clone().unwrap_or_default());
            let created_for = session.claim_template(name).map(|_| uid());
            let unused = || Mount { claim: claim_key(session, name), read_only: true, kernels: 0, created_for };
            let mount = mounts.entry(name).or_insert_with(unused);
            mount.kernels += i64::from(kernel.replicas);
            mount.read_only &= kernel.volumes.iter().all(|volume| volume.read_only || volume.claim_name != name);
        }
    }
    mounts.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> NodeView {
        let labels = [("zone".to_owned(), "a".to_owned()), ("slots".to_owned(), "4".to_owned())];
        NodeView { name: "node-1".into(), labels: labels.into(), ..NodeView::default() }
    }

    fn holds(of: NodeField, operator: Operator, values: &[&str]) -> bool {
        Requirement { of, operator, values: values.iter().map(|value| (*value).to_owned()).collect() }.holds(&node())
    }

    #[test]
    fn each_operator_compares_as_in_a_node_selector() {
        let label = |key: &str| NodeField::Label(key.into());
        assert!(holds(NodeField::Name, Operator::In, &["node-1"]) && !holds(NodeField::Name, Operator::In, &["node-2"]));
        assert!(holds(label("zone"), Operator::In, &["b", "a"]) && !holds(label("none"), Operator::In, &["a"]));
        assert!(holds(label("zone"), Operator::NotIn, &["b"]) && !holds(label("zone"), Operator::NotIn, &["a"]));
        assert!(holds(label("none"), Operator::NotIn, &["a"]), "as in Kubernetes, NotIn matches a missing label");
        assert!(holds(label("zone"), Operator::Exists, &[]) && holds(label("none"), Operator::DoesNotExist, &[]));
        assert!(holds(label("slots"), Operator::Gt, &["3"]) && !holds(label("slots"), Operator::Gt, &["4"]));
        assert!(holds(label("slots"), Operator::Lt, &["5"]) && !holds(label("zone"), Operator::Lt, &["5"]));
        assert!(!holds(label("zone"), Operator::Unknown, &["a"]));
    }

    #[test]
    fn an_unbound_claim_can_be_reached_where_a_volume_fits_or_can_be_created() {
        let zone = |zone: &str| {
            vec![Requirement { of: NodeField::Label("zone".into()), operator: Operator::In, values: vec![zone.into()] }]
        };
        let key = ClaimKey { namespace: "ns".into(), name: "data".into() };
        let mut storage = Storage::default();
        let claim = ClaimView { storage_class: "fast".into(), requested: Amount::from_units(10), ..ClaimView::default() };
        storage.claims.insert(key.clone(), claim);
        let mut reached = |class: StorageClassView, volumes: &[(&str, i64)]| {
            storage.classes.insert("fast".into(), class);
            let volume = |(name, size): &(&str, i64)| {
                let capacity = Amount::from_units(*size);
                let terms = vec![zone(name)];
                (
                    format!("{name}-{size}"),
                    VolumeView { terms, storage_class: "fast".into(), capacity, is_available: true, ..VolumeView::default() },
                )
            };
            storage.volumes = volumes.iter().map(volume).collect();
            storage.reach(&key).includes(&node())
        };
        let waits = StorageClassView { waits_for_pod: true, ..StorageClassView::default() };
        assert!(!reached(waits.clone(), &[]), "no volume, and the class creates none");
        assert!(reached(waits.clone(), &[("b", 10), ("a", 10)]));
        assert!(!reached(waits.clone(), &[("b", 10), ("a", 9)]), "the volume in zone a is too small");
        let provisions = |topologies| StorageClassView { provisions: true, topologies, ..waits.clone() };
        assert!(reached(provisions(vec![]), &[]));
        assert!(reached(provisions(vec![zone("b"), zone("a")]), &[]) && !reached(provisions(vec![zone("b")]), &[]));
        assert!(reached(StorageClassView::default(), &[]), "a claim that is bound at once limits no node");
    }

    #[test]
    fn one_matching_term_is_enough_and_an_empty_term_matches_no_node() {
        let is = |zone: &str| {
            vec![Requirement { of: NodeField::Label("zone".into()), operator: Operator::In, values: vec![zone.into()] }]
        };
        assert!(VolumeView::default().reach().includes(&node()));
        assert!(VolumeView { terms: vec![is("b"), is("a")], ..VolumeView::default() }.reach().includes(&node()));
        assert!(!VolumeView { terms: vec![is("b"), vec![]], ..VolumeView::default() }.reach().includes(&node()));
    }
}
