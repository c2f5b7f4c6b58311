//! Names that must not be mixed up, each its own type; and the labels, annotations and finalizers in use.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The name of an object, as the API server takes it.
pub(super) const DNS_NAME: &str = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$";

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(transparent)]
        pub struct $name(#[schemars(length(min = 1, max = 63), regex(pattern = DNS_NAME))] pub String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl From<&str> for $name {
            fn from(s: &str) -> Self {
                Self(s.to_owned())
            }
        }
        impl From<String> for $name {
            fn from(s: String) -> Self {
                Self(s)
            }
        }
    };
}

name_type!(
    /// The name of a ScalingGroup.
    GroupName
);

name_type!(
    /// The name of a Keypair object: who a session belongs to.
    AccessKey
);
name_type!(
    /// The name of a Domain.
    DomainName
);
name_type!(
    /// The name of a Project.
    ProjectName
);
name_type!(
    /// The name of a User.
    UserName
);
name_type!(
    /// The name of a ResourcePolicy.
    PolicyName
);

/// The name of a Node.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct NodeName(#[schemars(length(min = 1, max = 253), regex(pattern = DNS_NAME))] pub String);

impl NodeName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for NodeName {
    fn from(s: &str) -> Self {
        Self(s.to_owned())
    }
}

/// A session's uid: what tells two sessions of one name apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionUid(pub String);

impl fmt::Display for SessionUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// On a namespace: the project it belongs to.
pub const LABEL_PROJECT: &str = "sokovan.dev/project";
/// On EndpointSlices, by Kubernetes: the name of their Service.
pub const LABEL_SERVICE: &str = "kubernetes.io/service-name";
/// On kernels, pods, services and secrets: the uid of their session.
pub const LABEL_SESSION_UID: &str = "sokovan.dev/session-uid";
/// On kernels and pods: the name of their session.
pub const LABEL_SESSION: &str = "sokovan.dev/session";
/// On kernels and pods: role and index within the session, for example `main1`.
pub const LABEL_KERNEL: &str = "sokovan.dev/kernel";
/// On kernels and pods: the allocation generation they were made for.
pub const LABEL_GENERATION: &str = "sokovan.dev/allocation-generation";
/// On pods: the scaling group.
pub const LABEL_GROUP: &str = "sokovan.dev/scaling-group";
/// On a gang's pods: `open` once the whole session may start; the gate reads it by the downward API.
pub const ANNOTATION_GATE: &str = "sokovan.dev/gate";
/// The value of [`ANNOTATION_GATE`] that lets a kernel start.
pub const GATE_OPEN: &str = "open";
/// On sessions: an id of the client's own for the submission; events carry it, or else the session's uid.
pub const ANNOTATION_CREATION_ID: &str = "sokovan.dev/creation-id";
/// On sessions: nothing is lost before the operator has terminated what the session holds.
pub const FINALIZER_SESSION: &str = "sokovan.dev/session";
/// On pods: kept until the kernel's end (exit code, reason) is recorded.
pub const FINALIZER_POD: &str = "sokovan.dev/record-end";
/// Environment variables of this prefix belong to the operator.
pub const RESERVED_ENV_PREFIX: &str = "BACKENDAI_";
