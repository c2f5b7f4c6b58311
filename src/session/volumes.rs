//! Volume claims as placement sees them: which there are, and from which nodes what they are bound to can be reached.

use std::collections::BTreeSet;

use super::views::AgentView;
use crate::api::{KernelTemplate, Session};

/// A claim, by its namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClaimKey {
    pub namespace: String,
    pub name: String,
}

/// What is asked of a claim: to be there, and to be written to, unless it is only read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mount {
    pub claim: ClaimKey,
    pub read_only: bool,
}

/// A PersistentVolumeClaim.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClaimView {
    pub deleting: bool,
    /// It may be mounted for reading only.
    pub read_only: bool,
    /// The PersistentVolume it is bound to.
    pub volume: Option<String>,
}

/// A PersistentVolume: from where it can be reached.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VolumeView {
    /// Any of these terms; from everywhere, if there is none.
    pub terms: Vec<Vec<Requirement>>,
}

/// What a node must be like.
#[derive(Clone, Debug, PartialEq)]
pub struct Requirement {
    pub of: Subject,
    pub operator: Operator,
    pub values: Vec<String>,
}

/// What of a node is looked at.
#[derive(Clone, Debug, PartialEq)]
pub enum Subject {
    Name,
    Label(String),
}

/// How it is compared with the values, as in a node selector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    Gt,
    Lt,
    /// One that this operator does not know: nothing satisfies it.
    Unknown,
}

impl VolumeView {
    pub fn is_reached_from(&self, agent: &AgentView) -> bool {
        let holds = |term: &Vec<Requirement>| !term.is_empty() && term.iter().all(|requirement| requirement.holds(agent));
        self.terms.is_empty() || self.terms.iter().any(holds)
    }
}

impl Requirement {
    fn holds(&self, agent: &AgentView) -> bool {
        let value = match &self.of {
            Subject::Name => Some(agent.name.as_str()),
            Subject::Label(key) => agent.labels.get(key).map(String::as_str),
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

/// The claims that a kernel mounts.
pub fn claims_of(namespace: &str, kernel: &KernelTemplate) -> BTreeSet<ClaimKey> {
    let key = |name: &String| ClaimKey { namespace: namespace.into(), name: name.clone() };
    kernel.volumes.iter().map(|volume| key(&volume.claim_name)).collect()
}

/// The claims that a session mounts.
pub fn claims(session: &Session) -> BTreeSet<ClaimKey> {
    let namespace = session.metadata.namespace.as_deref().unwrap_or_default();
    session.spec.kernels.iter().flat_map(|kernel| claims_of(namespace, kernel)).collect()
}

/// What a session asks of each of its claims.
pub fn mounts(session: &Session) -> Vec<Mount> {
    let only_read = |claim: &ClaimKey| {
        let mut volumes = session.spec.kernels.iter().flat_map(|kernel| &kernel.volumes);
        volumes.all(|volume| volume.read_only || volume.claim_name != claim.name)
    };
    claims(session).into_iter().map(|claim| Mount { read_only: only_read(&claim), claim }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent() -> AgentView {
        let labels = [("zone".to_owned(), "a".to_owned()), ("slots".to_owned(), "4".to_owned())];
        AgentView { name: "node-1".into(), labels: labels.into(), ..AgentView::default() }
    }

    fn holds(of: Subject, operator: Operator, values: &[&str]) -> bool {
        Requirement { of, operator, values: values.iter().map(|value| (*value).to_owned()).collect() }.holds(&agent())
    }

    #[test]
    fn each_operator_compares_as_in_a_node_selector() {
        let label = |key: &str| Subject::Label(key.into());
        assert!(holds(Subject::Name, Operator::In, &["node-1"]) && !holds(Subject::Name, Operator::In, &["node-2"]));
        assert!(holds(label("zone"), Operator::In, &["b", "a"]) && !holds(label("none"), Operator::In, &["a"]));
        assert!(holds(label("zone"), Operator::NotIn, &["b"]) && !holds(label("zone"), Operator::NotIn, &["a"]));
        assert!(holds(label("none"), Operator::NotIn, &["a"]), "as in Kubernetes, what is not there is not in");
        assert!(holds(label("zone"), Operator::Exists, &[]) && holds(label("none"), Operator::DoesNotExist, &[]));
        assert!(holds(label("slots"), Operator::Gt, &["3"]) && !holds(label("slots"), Operator::Gt, &["4"]));
        assert!(holds(label("slots"), Operator::Lt, &["5"]) && !holds(label("zone"), Operator::Lt, &["5"]));
        assert!(!holds(label("zone"), Operator::Unknown, &["a"]));
    }

    #[test]
    fn one_term_of_several_is_enough_and_an_empty_one_matches_nothing() {
        let is = |zone: &str| {
            vec![Requirement { of: Subject::Label("zone".into()), operator: Operator::In, values: vec![zone.into()] }]
        };
        assert!(VolumeView::default().is_reached_from(&agent()));
        assert!(VolumeView { terms: vec![is("b"), is("a")] }.is_reached_from(&agent()));
        assert!(!VolumeView { terms: vec![is("b"), vec![]] }.is_reached_from(&agent()));
    }
}
