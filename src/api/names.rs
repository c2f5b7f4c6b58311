//! Names, each with a type of its own so that they cannot be confused. Also labels, annotations and finalizers.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The pattern of an object's name, as the API server accepts it.
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
    /// The name of a Keypair: the owner of a session.
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

/// The metric label of objects whose scaling group does not exist. No object can have this name.
pub const UNKNOWN_GROUP: &str = "(unknown)";

/// A session's uid. It differs between two sessions of the same name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionUid(pub String);

impl From<String> for SessionUid {
    fn from(uid: String) -> Self {
        Self(uid)
    }
}

impl fmt::Display for SessionUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A deployment's uid.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeploymentUid(pub String);

impl From<String> for DeploymentUid {
    fn from(uid: String) -> Self {
        Self(uid)
    }
}

/// A route's uid.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteUid(pub String);

impl From<String> for RouteUid {
    fn from(uid: String) -> Self {
        Self(uid)
    }
}

/// On a namespace: the project it belongs to.
pub const LABEL_PROJECT: &str = "sokovan.dev/project";
/// On EndpointSlices, set by Kubernetes: the name of their Service.
pub const LABEL_SERVICE: &str = "kubernetes.io/service-name";
/// On kernels, pods, services and secrets: the uid of their session.
pub const LABEL_SESSION_UID: &str = "sokovan.dev/session-uid";
/// On kernels and pods: the name of their session.
pub const LABEL_SESSION: &str = "sokovan.dev/session";
/// On kernels and pods: role and index within the session, for example `main1`.
pub const LABEL_KERNEL: &str = "sokovan.dev/kernel";
/// On kernels and pods: the allocation generation they were created for.
pub const LABEL_GENERATION: &str = "sokovan.dev/allocation-generation";
/// On pods: the scaling group.
pub const LABEL_GROUP: &str = "sokovan.dev/scaling-group";
/// On ConfigMaps that deployments may name in `model.definitionFrom`. Its value does not matter.
pub const LABEL_MODEL_DEFINITION: &str = "sokovan.dev/model-definition";
/// On everything that belongs to a deployment: the deployment's uid.
pub const LABEL_DEPLOYMENT_UID: &str = "sokovan.dev/deployment-uid";
/// On sessions and pods of a deployment: its name.
pub const LABEL_DEPLOYMENT: &str = "sokovan.dev/deployment";
/// On sessions and pods of a deployment: their revision.
pub const LABEL_REVISION: &str = "sokovan.dev/revision";
/// On the main pod of a replica: whether the Service of its deployment sends it requests.
pub const LABEL_TRAFFIC: &str = "sokovan.dev/traffic";
/// The value of [`LABEL_TRAFFIC`] of a replica that gets requests.
pub const TRAFFIC_ON: &str = "on";
/// The value of [`LABEL_TRAFFIC`] of a replica that gets none.
pub const TRAFFIC_OFF: &str = "off";
/// On routes: how much it costs to end the replica, as an integer. The cheapest ends first.
pub const ANNOTATION_DELETION_COST: &str = "sokovan.dev/deletion-cost";
/// On deployments: a new value tries a failed revision again.
pub const ANNOTATION_RETRY: &str = "sokovan.dev/retry";
/// On routes: keeps the object until its replica has ended.
pub const FINALIZER_ROUTE: &str = "sokovan.dev/route";
/// On deployments: keeps the object until its replicas have ended.
pub const FINALIZER_DEPLOYMENT: &str = "sokovan.dev/deployment";
/// On a gang's pods: `open` once the whole session may start. The gate reads it through the downward API.
pub const ANNOTATION_GATE: &str = "sokovan.dev/gate";
/// The value of [`ANNOTATION_GATE`] that starts a kernel.
pub const GATE_OPEN: &str = "open";
/// On a gang's pods: when the kubelet was last reminded of an open gate, as RFC 3339. Any change of a pod's
/// annotations makes its kubelet write them for the gate again.
pub const ANNOTATION_GATE_REMINDED: &str = "sokovan.dev/gate-reminded-at";
/// On sessions: the client's own id of the submission. Events carry it, or the session's uid if it is absent.
pub const ANNOTATION_CREATION_ID: &str = "sokovan.dev/creation-id";
/// The time until which a session is not ended for being idle.
pub const ANNOTATION_KEEP_UNTIL: &str = "sokovan.dev/keep-until";
/// On sessions: keeps the object until the operator has ended the session's pods.
pub const FINALIZER_SESSION: &str = "sokovan.dev/session";
/// On pods: keeps the pod until the kernel's exit code and reason are recorded.
pub const FINALIZER_POD: &str = "sokovan.dev/record-end";
/// The prefix of environment variables that are reserved for the operator.
pub const RESERVED_ENV_PREFIX: &str = "BACKENDAI_";

/// Returns eight hexadecimal characters of the text's hash.
pub fn short_hash(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the name of a replica: of its route and its session. It is never used again.
pub fn replica_name(deployment: &str, uid: &str, revision: i64, ordinal: i64) -> String {
    format!("{deployment}-{}", short_hash(&format!("{uid}/{revision}/{ordinal}")))
}

/// Returns the name of a deployment's revision.
pub fn revision_name(deployment: &str, number: i64) -> String {
    format!("{deployment}-r{number}")
}
