//! The user's rights to keypairs, scaling groups and pods, as the API server reports them.

use std::collections::BTreeSet;

use k8s_openapi::api::authorization::v1::{
    ResourceRule, SelfSubjectRulesReview, SelfSubjectRulesReviewSpec, SubjectRulesReviewStatus,
};
use kube::Api;
use kube::api::PostParams;
use serde::Serialize;

use crate::plugin::fetch::Reader;

/// The objects of a kind that somebody has a right to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Names {
    All,
    These(BTreeSet<String>),
}

impl Default for Names {
    fn default() -> Self {
        Self::These(BTreeSet::new())
    }
}

/// The rights in one namespace that matter to sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rights {
    #[serde(skip)]
    pub namespace: String,
    pub keypairs: Names,
    pub scaling_groups: Names,
    pub create_sessions: bool,
    pub read_pods: bool,
    /// Whether the user may run programs in kernels and forward ports to them.
    pub connect: bool,
    /// Whether there may be rights that the API server cannot list.
    pub incomplete: bool,
}

/// Asks the API server for the rights of the user in the namespace.
pub async fn of_user(reader: &Reader) -> kube::Result<Rights> {
    let review = SelfSubjectRulesReview {
        spec: SelfSubjectRulesReviewSpec { namespace: Some(reader.namespace.clone()) },
        ..SelfSubjectRulesReview::default()
    };
    let answer = Api::<SelfSubjectRulesReview>::all(reader.client.clone()).create(&PostParams::default(), &review).await?;
    Ok(of_rules(&reader.namespace, &answer.status.unwrap_or_default()))
}

fn of_rules(namespace: &str, rules: &SubjectRulesReviewStatus) -> Rights {
    let (incomplete, rules) = (rules.incomplete, &rules.resource_rules);
    let ours = "sokovan.dev";
    Rights {
        namespace: namespace.into(),
        keypairs: names(rules, "use", ours, "keypairs"),
        scaling_groups: names(rules, "use", ours, "scalinggroups"),
        create_sessions: names(rules, "create", ours, "sessions") == Names::All,
        read_pods: names(rules, "list", "", "pods") == Names::All,
        connect: names(rules, "create", "", "pods/exec") == Names::All,
        incomplete,
    }
}

/// Returns the objects that the rules give a right to.
fn names(rules: &[ResourceRule], verb: &str, group: &str, resource: &str) -> Names {
    let has = |list: &[String], word: &str| list.iter().any(|item| item == word || item == "*");
    let mut these = BTreeSet::new();
    for rule in rules {
        let groups = rule.api_groups.as_deref().unwrap_or_default();
        let resources = rule.resources.as_deref().unwrap_or_default();
        if !(has(&rule.verbs, verb) && has(groups, group) && has(resources, resource)) {
            continue;
        }
        match rule.resource_names.as_deref().unwrap_or_default() {
            [] => return Names::All,
            some => these.extend(some.iter().cloned()),
        }
    }
    Names::These(these)
}

impl Rights {
    /// Returns the keypair that needs no choice.
    pub fn only_keypair(&self) -> Result<String, String> {
        let names = match &self.keypairs {
            Names::All => return Err("you may use every keypair: choose one with --access-key".into()),
            Names::These(names) => names,
        };
        match names.iter().collect::<Vec<_>>()[..] {
            [only] => Ok(only.clone()),
            [] if self.incomplete => Err("your keypairs cannot be listed: choose one with --access-key".into()),
            [] => Err(format!("you may use no keypair in namespace {}: an administrator can grant it", self.namespace)),
            ref several => {
                let list = several.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
                Err(format!("you may use several keypairs: choose one with --access-key: {list}"))
            }
        }
    }

    /// Returns the scaling group that needs no choice.
    pub fn only_group(&self) -> Option<String> {
        match &self.scaling_groups {
            Names::These(names) if names.len() == 1 => names.first().cloned(),
            Names::These(_) | Names::All => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rights(rules: serde_json::Value) -> Rights {
        let status = json!({"resourceRules": rules, "nonResourceRules": [], "incomplete": false});
        of_rules("ns", &serde_json::from_value(status).expect("rules"))
    }

    fn usable(verb: &str, resource: &str, names: &[&str]) -> serde_json::Value {
        json!({"verbs": [verb], "apiGroups": ["sokovan.dev"], "resources": [resource], "resourceNames": names})
    }

    #[test]
    fn the_only_keypair_needs_no_choice() {
        let one = rights(json!([usable("use", "keypairs", &["ada"]), usable("get", "keypairs", &["bob"])]));
        assert_eq!(one.only_keypair(), Ok("ada".into()));
        let two = rights(json!([usable("use", "keypairs", &["ada"]), usable("use", "keypairs", &["team"])]));
        assert!(two.only_keypair().is_err_and(|why| why.ends_with("ada, team")));
        let all = rights(json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]));
        assert!(all.only_keypair().is_err_and(|why| why.contains("--access-key")));
        assert_eq!((all.only_group(), all.create_sessions, all.connect), (None, true, true));
        let none = rights(json!([]));
        assert!(none.only_keypair().is_err_and(|why| why.contains("namespace ns")));
        assert!(!none.create_sessions && !none.read_pods && !none.connect);
        assert_eq!(rights(json!([usable("use", "scalinggroups", &["lab"])])).only_group(), Some("lab".into()));
    }
}
