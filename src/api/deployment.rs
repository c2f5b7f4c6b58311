//! Deployment: replicas of an inference server behind one Service.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DeploymentStatus, ModelSpec, SessionSpec};

/// The number of replicas, the session that each of them is, and how they are replaced.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "sokovan.dev",
    version = "v1alpha1",
    kind = "Deployment",
    namespaced,
    status = "DeploymentStatus",
    derive = "PartialEq",
    shortname = "sdep",
    category = "sokovan",
    doc = "Replicas of an inference server. Each replica is a session with a route, and a Service of the deployment's name sends requests to the healthy ones.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.replicasReady"),
    printcolumn(name = "Available", type_ = "integer", json_path = ".status.available"),
    printcolumn(name = "Revision", type_ = "integer", json_path = ".status.currentRevision"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 31")
        .message("a deployment's name has at most 31 characters: its replicas' names add 9"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("a deployment's name is a DNS label that begins with a letter: its Service has the same name"),
    validation = Rule::new("self.spec.template.accessKey == oldSelf.spec.template.accessKey")
        .message("accessKey cannot be changed: create a new deployment"),
    validation = Rule::new("has(self.spec.template.scalingGroup) == has(oldSelf.spec.template.scalingGroup) && (!has(self.spec.template.scalingGroup) || self.spec.template.scalingGroup == oldSelf.spec.template.scalingGroup)")
        .message("scalingGroup cannot be changed: create a new deployment"),
    validation = Rule::new("oldSelf.spec.desiredState == 'Running' || self.spec.desiredState == 'Destroyed'")
        .message("desiredState cannot be changed from Destroyed to Running: create a new deployment")
)]
#[serde(rename_all = "camelCase")]
pub struct DeploymentSpec {
    /// The number of replicas.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: i32,

    /// The session of each replica. Its type is Inference. A change begins a rollout, except for `priority`.
    #[x_kube(
        validation = Rule::new("self.type == 'Inference'").message("a deployment's template is of type Inference"),
        validation = Rule::new("!has(self.startsAt) && !has(self.dependsOn) && !has(self.ttlSecondsAfterFinished) && !has(self.maxLifetimeSeconds) && !has(self.idleTimeoutSeconds) && !has(self.claims) && (!has(self.suspend) || !self.suspend)")
            .message("startsAt, dependsOn, ttlSecondsAfterFinished, maxLifetimeSeconds, idleTimeoutSeconds, claims and suspend do not apply to replicas: leave them out of the template"),
        validation = Rule::new("!has(self.template)").message("replicas have no SessionTemplate: describe their kernels here"),
        validation = Rule::new("!has(self.serving)").message("a deployment sets serving itself: use spec.model"),
        validation = Rule::new("self.desiredState == 'Running'").message("use spec.desiredState to end a deployment, or delete it")
    )]
    pub template: SessionSpec,

    /// The server in the main kernel. A change begins a rollout.
    #[serde(default)]
    pub model: ModelSpec,

    /// How a new revision replaces the current one.
    #[serde(default)]
    pub strategy: Strategy,

    /// Seconds without progress after which a rollout is rolled back. Progress means more available replicas of the new revision
    /// than ever before. Time while the deployment is paused does not count.
    #[serde(default = "default_progress_deadline")]
    #[schemars(range(min = 1, max = 604_800))]
    pub progress_deadline_seconds: i64,

    /// Seconds that a replica must have been ready before it counts as available.
    #[serde(default)]
    #[schemars(range(min = 0, max = 86_400))]
    pub min_ready_seconds: i64,

    /// The number of old revisions to keep.
    #[serde(default = "ten")]
    #[schemars(range(min = 0, max = 100))]
    pub revision_history_limit: i32,

    /// Whether rollouts stand still. Replicas that end are still replaced, and the number of replicas still follows `replicas`.
    #[serde(default)]
    pub paused: bool,

    /// How a replica leaves the traffic.
    #[serde(default)]
    pub drain: Drain,

    /// When an unhealthy replica is replaced.
    #[serde(default)]
    pub eviction: Eviction,

    /// Whether replicas avoid nodes that run other replicas of the deployment.
    #[serde(default)]
    pub spread: Spread,

    /// The Service of the deployment.
    #[serde(default)]
    pub service: ServiceOptions,

    /// `Destroyed` ends the deployment and keeps its record. Deleting the object ends and removes it.
    #[serde(default)]
    pub desired_state: DeploymentDesiredState,

    /// Whether an ending deployment ends at once: its sessions are killed without a drain, and what remains is removed later.
    #[serde(default)]
    pub force: bool,
}

fn one() -> i32 {
    1
}

fn ten() -> i32 {
    10
}

fn default_progress_deadline() -> i64 {
    3600
}

/// The state that the user wants of a deployment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeploymentDesiredState {
    #[default]
    Running,
    Destroyed,
}

/// How a new revision replaces the current one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Strategy {
    /// `Rolling` replaces a few replicas at a time.
    #[serde(rename = "type", default)]
    pub type_: StrategyType,
    /// The limits of a rolling update.
    #[serde(default)]
    pub rolling: Rolling,
}

/// The kind of a rollout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StrategyType {
    #[default]
    Rolling,
}

/// The limits of a rolling update.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rolling {
    /// How many replicas may exist beyond `replicas`: a number, or a percentage of `replicas`, rounded up.
    #[serde(default = "half")]
    pub max_surge: Share,
    /// How many replicas may be missing: a number, or a percentage of `replicas`, rounded down. If both limits are 0, one may be
    /// missing.
    #[serde(default = "none")]
    pub max_unavailable: Share,
    /// A new replica may find no node. Then `Wait` keeps the old replicas and waits, and `ReplaceInPlace` ends one old replica at
    /// a time to make room.
    #[serde(default)]
    pub when_no_capacity: WhenNoCapacity,
}

impl Default for Rolling {
    fn default() -> Self {
        Self { max_surge: half(), max_unavailable: none(), when_no_capacity: WhenNoCapacity::default() }
    }
}

fn half() -> Share {
    Share::Percent("50%".into())
}

fn none() -> Share {
    Share::Count(0)
}

/// A number of replicas, or a percentage of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Share {
    Count(i32),
    Percent(String),
}

impl Share {
    /// The share of `total`, rounded up.
    pub fn rounded_up(&self, total: i32) -> i32 {
        self.of(total, 99)
    }

    /// The share of `total`, rounded down.
    pub fn rounded_down(&self, total: i32) -> i32 {
        self.of(total, 0)
    }

    fn of(&self, total: i32, rounding: i64) -> i32 {
        match self {
            Self::Count(count) => *count,
            Self::Percent(text) => {
                let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
                i32::try_from((i64::from(total) * percent + rounding) / 100).unwrap_or(i32::MAX)
            }
        }
    }
}

/// As Kubernetes writes it: an integer or a string.
impl JsonSchema for Share {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Share".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "x-kubernetes-int-or-string": true,
            "x-kubernetes-validations": [{
                "rule": "type(self) == int ? self >= 0 && self <= 1000 : self.matches('^[0-9]{1,3}%$')",
                "message": "give a number from 0 to 1000 or a percentage such as 25%",
            }],
        })
    }
}

/// The answer to a new replica that finds no node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WhenNoCapacity {
    #[default]
    Wait,
    ReplaceInPlace,
}

/// How a replica leaves the traffic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Drain {
    /// Seconds between leaving the traffic and the request to stop, so that every proxy notices.
    #[serde(default = "thirty")]
    #[schemars(range(min = 0, max = 3600))]
    pub delay_seconds: i64,
    /// Seconds between the request to stop and the kill.
    #[serde(default = "thirty")]
    #[schemars(range(min = 0, max = 3600))]
    pub timeout_seconds: i64,
}

impl Default for Drain {
    fn default() -> Self {
        Self { delay_seconds: thirty(), timeout_seconds: thirty() }
    }
}

fn thirty() -> i64 {
    30
}

/// When an unhealthy replica is replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Eviction {
    /// Seconds that a replica may be unhealthy before it is replaced. At most a quarter of the replicas are replaced for their
    /// health at a time.
    #[serde(default = "default_evict_after")]
    #[schemars(range(min = 1, max = 86_400))]
    pub after_seconds: i64,
}

impl Default for Eviction {
    fn default() -> Self {
        Self { after_seconds: default_evict_after() }
    }
}

fn default_evict_after() -> i64 {
    120
}

/// Whether replicas avoid nodes that run other replicas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Spread {
    /// A node with fewer replicas is preferred.
    #[default]
    Preferred,
    /// Two replicas never share a node.
    Required,
    /// The strategy of the scaling group decides alone.
    None,
}

/// The Service of a deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceOptions {
    /// The port of the Service.
    #[serde(default = "default_service_port")]
    #[schemars(range(min = 1, max = 65_535))]
    pub port: i32,
}

impl Default for ServiceOptions {
    fn default() -> Self {
        Self { port: default_service_port() }
    }
}

fn default_service_port() -> i32 {
    80
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_surge_is_rounded_up_and_an_unavailable_share_is_rounded_down() {
        let percent = Share::Percent("25%".into());
        assert_eq!((percent.rounded_up(3), percent.rounded_down(3)), (1, 0));
        assert_eq!((percent.rounded_up(8), percent.rounded_down(8)), (2, 2));
        assert_eq!((Share::Count(2).rounded_up(1), Share::Percent("0%".into()).rounded_up(9)), (2, 0));
    }
}
