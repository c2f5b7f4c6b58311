//! Revisions: what users wrote about a replica, as immutable content, and the session that follows from it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::definition::Definition;
use super::image;
use super::invalid::Invalid;
use crate::api::{
    DeploymentSpec, HealthCheck, HealthCheckType, MAIN_ROLE, ModelSpec, Serving, SessionSpec, SessionType, default_priority,
};

/// The content of a revision: the parts of a deployment's spec whose change begins a rollout. It holds nothing that the operator
/// adds, so that an upgrade of the operator makes no new revision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Content {
    pub template: SessionSpec,
    #[serde(default)]
    pub model: ModelSpec,
}

/// A revision that exists.
#[derive(Clone, Debug, PartialEq)]
pub struct Revision {
    pub number: i64,
    /// The name and uid of its ControllerRevision.
    pub name: String,
    pub uid: String,
    pub content: Content,
}

impl Content {
    /// The content of a deployment's spec, completed by its model definition. The priority of the sessions may change without a
    /// rollout.
    pub fn of(spec: &DeploymentSpec, definition: &Definition) -> Self {
        let mut template = SessionSpec { priority: default_priority(), ..spec.template.clone() };
        definition.add_environment(&mut template);
        Self { template, model: definition.complete(&spec.model) }
    }

    /// The session of a replica, with what the deployment adds to it.
    pub fn session(&self, spec: &DeploymentSpec) -> Result<SessionSpec, Invalid> {
        let mut session = self.template.clone();
        session.type_ = SessionType::Inference;
        session.priority = spec.template.priority;
        session.termination.grace_period_seconds = spec.drain.timeout_seconds;
        let port = self.port()?;
        let serving = Serving {
            port,
            health_check: self.health_check(),
            metrics_path: self.model.metrics_path.clone().unwrap_or_else(|| "/metrics".into()),
            pre_stop_seconds: PRE_STOP_SECONDS.min(spec.drain.timeout_seconds),
            spread: spec.spread,
        };
        session.serving = Some(serving);
        if let Some(command) = &self.model.start_command {
            let path = self.model.model_path.clone().unwrap_or_default();
            let command = command.iter().map(|word| word.replace("{model_path}", &path));
            for main in session.kernels.iter_mut().filter(|kernel| kernel.role == MAIN_ROLE) {
                main.command = command.clone().collect();
                main.args.clear();
            }
        }
        let refused = session.kernels.iter().find(|kernel| !image::is_valid(&kernel.image));
        match refused {
            Some(kernel) => {
                let (role, image) = (&kernel.role, &kernel.image);
                Err(Invalid(format!("spec.template.kernels: the image of role {role} is not a valid reference: {image}")))
            }
            None => Ok(session),
        }
    }

    fn port(&self) -> Result<i32, Invalid> {
        let main = self.template.kernels.iter().find(|kernel| kernel.role == MAIN_ROLE);
        let ports = main.map(|main| main.ports.as_slice()).unwrap_or_default();
        match (self.model.port, self.model.variant, ports) {
            (Some(port), _, _) => Ok(port),
            (None, Some(variant), _) => Ok(variant.defaults().0),
            (None, None, [only]) => Ok(only.container_port),
            (None, None, ports) => {
                let count = ports.len();
                Err(Invalid(format!("spec.model.port: give a port or a variant; the main kernel lists {count} ports")))
            }
        }
    }

    fn health_check(&self) -> HealthCheck {
        match (&self.model.health_check, self.model.variant) {
            (Some(check), _) => check.clone(),
            (None, Some(variant)) => {
                HealthCheck { type_: HealthCheckType::Http, path: variant.defaults().1.into(), ..HealthCheck::default() }
            }
            (None, None) => HealthCheck::default(),
        }
    }
}

/// Seconds between the request to stop and SIGTERM, within the grace period.
const PRE_STOP_SECONDS: i64 = 5;

/// The number of the next revision.
pub fn next_number(revisions: &[Arc<Revision>]) -> i64 {
    revisions.iter().map(|revision| revision.number).max().unwrap_or(0) + 1
}

/// The numbers of revisions to remove: those that are not in use, except the newest `limit`.
pub fn surplus<'r>(revisions: &'r [Arc<Revision>], in_use: &[i64], limit: i32) -> Vec<&'r Revision> {
    let mut unused: Vec<&Revision> =
        revisions.iter().map(Arc::as_ref).filter(|revision| !in_use.contains(&revision.number)).collect();
    unused.sort_by_key(|revision| std::cmp::Reverse(revision.number));
    unused.split_off(usize::try_from(limit).unwrap_or(0).min(unused.len()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(model: Value) -> DeploymentSpec {
        let ports = json!([{"name": "http", "containerPort": 9000}]);
        let kernel = json!({"image": "example.com/server:1", "resources": {"cpu": "1", "memory": "1Gi"}, "ports": ports});
        let template = json!({"type": "Inference", "accessKey": "alice", "kernels": [kernel]});
        serde_json::from_value(json!({"template": template, "model": model})).expect("a spec")
    }

    fn serving(model: Value) -> Serving {
        let spec = spec(model);
        Content::of(&spec, &Definition::default()).session(&spec).expect("valid").serving.expect("serving")
    }

    #[test]
    fn a_variant_gives_port_and_health_check_and_the_deployments_own_fields_come_first() {
        assert_eq!(serving(json!({})).port, 9000, "the only port of the main kernel");
        assert_eq!(serving(json!({})).health_check.type_, HealthCheckType::Tcp);
        let nim = serving(json!({"variant": "nim"}));
        assert_eq!((nim.port, nim.health_check.path.as_str()), (8000, "/v1/health/ready"));
        let own = serving(json!({"variant": "nim", "port": 1234, "healthCheck": {"type": "None"}}));
        assert_eq!((own.port, own.health_check.type_), (1234, HealthCheckType::None));
    }

    #[test]
    fn the_start_command_names_the_path_of_the_model() {
        let spec = spec(json!({"startCommand": ["serve", "--model={model_path}"], "modelPath": "/models/m"}));
        let session = Content::of(&spec, &Definition::default()).session(&spec).expect("valid");
        assert_eq!(session.kernels[0].command, ["serve", "--model=/models/m"]);
    }

    #[test]
    fn cd_003_an_invalid_template_is_refused_with_the_name_of_the_field() {
        let mut wrong = spec(json!({}));
        wrong.template.kernels[0].image = "Not/An/Image".into();
        let Err(Invalid(message)) = Content::of(&wrong, &Definition::default()).session(&wrong) else { panic!("it is invalid") };
        assert!(message.starts_with("spec.template.kernels: the image of role main"), "{message}");
        let mut unclear = spec(json!({}));
        unclear.template.kernels[0].ports.clear();
        let Err(Invalid(message)) = Content::of(&unclear, &Definition::default()).session(&unclear) else {
            panic!("it is invalid")
        };
        assert!(message.starts_with("spec.model.port"), "{message}");
    }

    #[test]
    fn replicas_drain_and_priority_make_no_new_revision() {
        let base = spec(json!({}));
        let mut same = base.clone();
        (same.replicas, same.template.priority, same.drain.delay_seconds) = (7, 99, 1);
        assert_eq!(Content::of(&base, &Definition::default()), Content::of(&same, &Definition::default()));
        let mut other = base.clone();
        other.template.kernels[0].image = "example.com/server:2".into();
        assert_ne!(Content::of(&base, &Definition::default()), Content::of(&other, &Definition::default()));
    }

    #[test]
    fn content_written_by_an_older_operator_equals_that_of_the_same_spec() {
        let base = spec(json!({}));
        let mut written = serde_json::to_value(Content::of(&base, &Definition::default())).expect("JSON");
        written.as_object_mut().expect("an object").remove("model");
        written["template"].as_object_mut().expect("an object").remove("private");
        assert_eq!(serde_json::from_value::<Content>(written).expect("content"), Content::of(&base, &Definition::default()));
    }

    #[test]
    fn the_newest_unused_revisions_are_kept() {
        let content = Content::of(&spec(json!({})), &Definition::default());
        let revision = |number| Arc::new(Revision { number, name: String::new(), uid: String::new(), content: content.clone() });
        let all: Vec<Arc<Revision>> = (1..=5).map(revision).collect();
        let numbers: Vec<i64> = surplus(&all, &[1, 5], 2).iter().map(|revision| revision.number).collect();
        assert_eq!(numbers, [2]);
        assert_eq!(next_number(&all), 6);
    }
}
