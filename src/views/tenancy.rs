//! The tenants of a session (namespace → project → domain, access key → user) and their policies.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::volumes::Storage;
use crate::api::{
    AccessKey, Domain, DomainName, Keypair, LABEL_PROJECT, PolicyName, Project, ProjectName, ResourcePolicy, Resources,
    ScalingGroup, SessionOwner, User, UserName,
};
use crate::lifecycle::{Failure, Reason};

/// All tenant objects at one moment, and the volumes in their namespaces.
#[derive(Clone, Debug, Default)]
pub struct Tenancy {
    /// The project label of each namespace that has one.
    pub namespaces: HashMap<String, ProjectName>,
    pub projects: HashMap<ProjectName, Arc<Project>>,
    pub domains: HashMap<DomainName, Arc<Domain>>,
    pub users: HashMap<UserName, Arc<User>>,
    pub keypairs: HashMap<AccessKey, Arc<Keypair>>,
    pub policies: HashMap<PolicyName, Arc<ResourcePolicy>>,
    pub storage: Storage,
    pub runtime_classes: HashMap<String, RuntimeClassView>,
    /// The number of scaling groups, tenants, policies and volumes that cannot be read.
    pub unreadable: usize,
}

/// A tenant, whose usage is counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tenant {
    Keypair(AccessKey),
    User(UserName),
    Project(ProjectName),
    Domain(DomainName),
}

impl Tenant {
    /// Returns its kind and its name.
    pub fn label(&self) -> (&'static str, &str) {
        match self {
            Self::Keypair(name) => ("keypair", name.as_str()),
            Self::User(name) => ("user", name.as_str()),
            Self::Project(name) => ("project", name.as_str()),
            Self::Domain(name) => ("domain", name.as_str()),
        }
    }
}

impl std::fmt::Display for Tenant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (kind, name) = self.label();
        write!(f, "{kind} {name}")
    }
}

/// The account that a session's usage is counted under.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Account {
    pub access_key: AccessKey,
    pub namespace: String,
    /// The tenants at admission, if they are recorded.
    pub owner: Option<SessionOwner>,
}

fn tenants(key: &AccessKey, owner: SessionOwner) -> Vec<Tenant> {
    let mut tenants = vec![Tenant::Keypair(key.clone())];
    tenants.extend(owner.user.map(Tenant::User));
    tenants.extend(owner.project.map(Tenant::Project));
    tenants.extend(owner.domain.map(Tenant::Domain));
    tenants
}

/// A tenant of a session that does not exist or is not active.
#[derive(Debug)]
pub struct Inactive {
    /// For example `keypair alice`.
    pub object: String,
    pub reason: Reason,
    pub message: String,
}

impl Inactive {
    fn new(reason: Reason, object: &str, problem: impl std::fmt::Display) -> Self {
        Self { reason, object: object.to_owned(), message: format!("{object} {problem}") }
    }
}

/// A RuntimeClass: the overhead of each of its pods, and the nodes that can run them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RuntimeClassView {
    pub overhead: Resources,
    pub node_selector: BTreeMap<String, String>,
}

impl Tenancy {
    /// Returns the RuntimeClass of a scaling group's kernels, if it exists.
    pub fn runtime_class(&self, group: &ScalingGroup) -> Option<&RuntimeClassView> {
        self.runtime_classes.get(group.spec.pod.runtime_class_name.as_ref()?)
    }

    /// Returns the current user, project and domain of a keypair's sessions in a namespace, as far as they are known.
    pub fn owner(&self, key: &AccessKey, namespace: &str) -> SessionOwner {
        let project = self.namespaces.get(namespace).cloned();
        SessionOwner {
            user: self.keypairs.get(key).map(|keypair| keypair.spec.user.clone()),
            domain: project.as_ref().and_then(|name| self.projects.get(name)).map(|p| p.spec.domain.clone()),
            project,
        }
    }

    /// Returns the tenants that a waiting session of a keypair and namespace would count for.
    pub fn tenants(&self, key: &AccessKey, namespace: &str) -> Vec<Tenant> {
        tenants(key, self.owner(key, namespace))
    }

    /// Returns the tenants that an account's usage counts for: as recorded at admission, else the current ones.
    pub fn tenants_of(&self, account: &Account) -> Vec<Tenant> {
        let now = self.owner(&account.access_key, &account.namespace);
        let recorded = account.owner.clone().unwrap_or_default();
        let owner = SessionOwner {
            user: recorded.user.or(now.user),
            project: recorded.project.or(now.project),
            domain: recorded.domain.or(now.domain),
        };
        tenants(&account.access_key, owner)
    }

    /// Returns all that do not exist or are not active among a keypair, its user, the namespace's project and their domains.
    pub fn inactive(&self, key: &AccessKey, namespace: &str) -> Vec<Inactive> {
        let mut objects = self.inactive_owner(key);
        objects.extend(self.inactive_project(namespace));
        objects
    }

    fn inactive_owner(&self, key: &AccessKey) -> Vec<Inactive> {
        let object = format!("keypair {key}");
        let Some(keypair) = self.keypairs.get(key) else {
            return vec![Inactive::new(Reason::KeypairNotFound, &object, "does not exist")];
        };
        let mut objects = vec![];
        if !keypair.spec.active {
            objects.push(Inactive::new(Reason::KeypairInactive, &object, "is not active"));
        }
        let user = format!("user {}", keypair.spec.user);
        match self.users.get(&keypair.spec.user).map(|user| &user.spec) {
            None => objects.push(Inactive::new(Reason::UserNotFound, &user, format!("of {object} does not exist"))),
            Some(spec) => objects.extend(self.inactive_in(&spec.domain, &user, spec.active, Reason::UserInactive)),
        }
        objects
    }

    fn inactive_project(&self, namespace: &str) -> Vec<Inactive> {
        let Some(project) = self.namespaces.get(namespace) else {
            let problem = format!("belongs to no project: it has no label {LABEL_PROJECT}");
            return vec![Inactive::new(Reason::NamespaceWithoutProject, &format!("namespace {namespace}"), problem)];
        };
        let object = format!("project {project}");
        match self.projects.get(project).map(|project| &project.spec) {
            None => vec![Inactive::new(Reason::ProjectNotFound, &object, "does not exist")],
            Some(spec) => self.inactive_in(&spec.domain, &object, spec.active, Reason::ProjectInactive),
        }
    }

    /// Checks a user or project and its domain.
    fn inactive_in(&self, domain: &DomainName, name: &str, active: bool, inactive: Reason) -> Vec<Inactive> {
        let mut objects = vec![];
        if !active {
            objects.push(Inactive::new(inactive, name, "is not active"));
        }
        let object = format!("domain {domain}");
        match self.domains.get(domain) {
            None => objects.push(Inactive::new(Reason::DomainNotFound, &object, format!("of {name} does not exist"))),
            Some(spec) if !spec.spec.active => {
                objects.push(Inactive::new(Reason::DomainInactive, &object, format!("of {name} is not active")));
            }
            Some(_) => {}
        }
        objects
    }

    /// Returns the policy that a tenant names, if it names one.
    pub fn policy_of(&self, tenant: &Tenant) -> Result<Option<Arc<ResourcePolicy>>, Failure> {
        let name = match tenant {
            Tenant::Keypair(name) => self.keypairs.get(name).and_then(|object| object.spec.resource_policy.clone()),
            Tenant::User(name) => self.users.get(name).and_then(|object| object.spec.resource_policy.clone()),
            Tenant::Project(name) => self.projects.get(name).and_then(|object| object.spec.resource_policy.clone()),
            Tenant::Domain(name) => self.domains.get(name).and_then(|object| object.spec.resource_policy.clone()),
        };
        let Some(name) = name else { return Ok(None) };
        match self.policies.get(&name) {
            Some(policy) => Ok(Some(policy.clone())),
            None => Err(Failure::fault(Reason::PolicyNotFound, format!("resource policy {name} of {tenant} does not exist"))),
        }
    }
}
