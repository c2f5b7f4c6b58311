//! ClaimTemplate: a volume claim that is created for one session.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::Display;

use super::kernel_template::is_default;
use super::names::DNS_NAME;
use super::{Quantity, Session};

/// A PersistentVolumeClaim that is created for the session.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ClaimTemplate {
    /// The name by which `volumes` of the kernels mount it. The claim is called `<session>-<name>`.
    #[schemars(length(min = 1, max = 20), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// The storage that the claim requests.
    pub size: Quantity,
    /// The StorageClass; the cluster's default if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = DNS_NAME))]
    pub storage_class_name: Option<String>,
    /// How many nodes or pods may use the volume; `ReadWriteOnce` if absent. Kernels on several nodes need `ReadWriteMany`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub access_mode: AccessMode,
    /// `Delete` removes the claim and its data with the session; `Keep` leaves it for later sessions, which mount it by its own
    /// name. `Delete` if absent.
    #[serde(default, skip_serializing_if = "is_default")]
    pub retention: Retention,
}

/// The access mode of a claim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Display)]
pub enum AccessMode {
    /// One node at a time.
    #[default]
    ReadWriteOnce,
    /// Many nodes at a time.
    ReadWriteMany,
    /// One pod at a time.
    ReadWriteOncePod,
}

/// Whether a claim outlives its session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Retention {
    /// It is deleted, with its data.
    #[default]
    Delete,
    /// It stays until somebody deletes it.
    Keep,
}

impl ClaimTemplate {
    /// Returns the name of the claim.
    pub fn claim_name(&self, session: &str) -> String {
        format!("{session}-{}", self.name)
    }
}

impl Session {
    /// Returns the template of a claim that its volumes mount by this name, if it has one. Otherwise the name is that of a claim.
    pub fn claim_template(&self, name: &str) -> Option<&ClaimTemplate> {
        self.spec.claims.iter().find(|template| template.name == name)
    }

    /// Returns the name of the claim that its volumes mount by this name.
    pub fn claim_name(&self, name: &str) -> String {
        let session = self.metadata.name.as_deref().unwrap_or_default();
        self.claim_template(name).map_or_else(|| name.to_owned(), |template| template.claim_name(session))
    }
}
