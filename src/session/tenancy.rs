//! Who a session belongs to: namespace → project → domain, access key → user; and the policies over each.

use std::collections::HashMap;
use std::sync::Arc;

use super::volumes::{ClaimKey, ClaimView, VolumeView};
use crate::api::{AccessKey, Domain, DomainName, Keypair, PolicyName, Project, ProjectName, ResourcePolicy, User, UserName};
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
    pub claims: HashMap<ClaimKey, ClaimView>,
    /// PersistentVolumes by name.
    pub volumes: HashMap<String, VolumeView>,
}

/// One whose usage is counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tenant {
    Keypair(AccessKey),
    User(UserName),
    Project(ProjectName),
    Domain(DomainName),
}

impl std::fmt::Display for Tenant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Keypair(name) => write!(f, "keypair {name}"),
            Self::User(name) => write!(f, "user {name}"),
            Self::Project(name) => write!(f, "project {name}"),
            Self::Domain(name) => write!(f, "domain {name}"),
        }
    }
}

impl Tenancy {
    /// Those that the usage of a key's sessions in a namespace counts for, as far as they are known.
    pub fn tenants(&self, key: &AccessKey, namespace: &str) -> Vec<Tenant> {
        let user = self.keypairs.get(key).map(|keypair| keypair.spec.user.clone());
        let project = self.namespaces.get(namespace).cloned();
        let domain = project.as_ref().and_then(|name| self.projects.get(name)).map(|p| p.spec.domain.clone());
        let mut tenants = vec![Tenant::Keypair(key.clone())];
        tenants.extend(user.map(Tenant::User));
        tenants.extend(project.map(Tenant::Project));
        tenants.extend(domain.map(Tenant::Domain));
        tenants
    }

    /// All that sessions of a key and namespace belong to exists and is active; else the first that is not.
    pub fn check_active(&self, key: &AccessKey, namespace: &str) -> Result<(), Failure> {
        let fault = |reason, message: String| Err(Failure::fault(reason, message));
        let Some(keypair) = self.keypairs.get(key) else {
            return fault(Reason::KeypairNotFound, format!("keypair {key} does not exist"));
        };
        if !keypair.spec.active {
            return fault(Reason::KeypairInactive, format!("keypair {key} is not active"));
        }
        let user = &keypair.spec.user;
        match self.users.get(user) {
            None => return fault(Reason::UserNotFound, format!("user {user} of keypair {key} does not exist")),
            Some(object) if !object.spec.active => {
                return fault(Reason::UserInactive, format!("user {user} is not active"));
            }
            Some(_) => {}
        }
        let Some(project) = self.namespaces.get(namespace) else {
            return fault(
                Reason::NamespaceWithoutProject,
                format!("namespace {namespace} belongs to no project: it has no label {}", crate::api::LABEL_PROJECT),
            );
        };
        let Some(object) = self.projects.get(project) else {
            return fault(Reason::ProjectNotFound, format!("project {project} does not exist"));
        };
        if !object.spec.active {
            return fault(Reason::ProjectInactive, format!("project {project} is not active"));
        }
        let domain = &object.spec.domain;
        match self.domains.get(domain) {
            None => fault(Reason::DomainNotFound, format!("domain {domain} of project {project} does not exist")),
            Some(object) if !object.spec.active => fault(Reason::DomainInactive, format!("domain {domain} is not active")),
            Some(_) => Ok(()),
        }
    }

    /// The policy that a tenant refers to, if any.
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
