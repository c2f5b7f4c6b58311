//! The custom resources, one kind a file, and what they share.

mod claim_template;
mod condition;
mod deployment;
mod deployment_status;
mod domain;
mod history;
mod kernel;
mod kernel_template;
mod keypair;
mod names;
mod progress;
mod project;
mod quantity;
mod reason;
mod resource_policy;
mod route;
mod scaling_group;
mod serving;
mod session;
mod session_status;
mod session_template;
mod slots;
mod usage;
mod user;
mod waiting;

pub use claim_template::*;
pub use condition::*;
pub use deployment::*;
pub use deployment_status::*;
pub use domain::*;
pub use history::*;
pub use kernel::*;
pub use kernel_template::*;
pub use keypair::*;
pub use names::*;
pub use progress::*;
pub use project::*;
pub use quantity::*;
pub use reason::*;
pub use resource_policy::*;
pub use route::*;
use scaling_group::yes;
pub use scaling_group::*;
pub use serving::*;
pub use session::*;
pub use session_status::*;
pub use session_template::*;
pub use slots::*;
pub use usage::*;
pub use user::*;
pub use waiting::*;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{CustomResourceDefinition, JSON};
use kube::CustomResourceExt;

/// The API group of every kind here.
pub const GROUP: &str = "sokovan.dev";

/// All custom resource definitions, as `sokovan crds` prints them.
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![
        Session::crd(),
        without_subresources(Kernel::crd()),
        Deployment::crd(),
        with_default_status(Route::crd(), &RouteStatus::default()),
        ScalingGroup::crd(),
        Domain::crd(),
        Project::crd(),
        User::crd(),
        Keypair::crd(),
        ResourcePolicy::crd(),
        SessionTemplate::crd(),
    ]
}

/// A kind whose status is written together with its spec.
fn without_subresources(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    crd.spec.versions.iter_mut().for_each(|version| version.subresources = None);
    crd
}

/// A kind whose objects have a status before the operator writes one.
fn with_default_status(mut crd: CustomResourceDefinition, status: &impl serde::Serialize) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        let schema = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut());
        let properties = schema.and_then(|schema| schema.properties.as_mut());
        if let Some(field) = properties.and_then(|properties| properties.get_mut("status")) {
            field.default = serde_json::to_value(status).ok().map(JSON);
        }
    }
    crd
}

/// The container that runs what the user asked for.
pub const CONTAINER_MAIN: &str = "main";
/// The init container that waits for the whole session.
pub const CONTAINER_GATE: &str = "gate";
pub const CONTAINER_GATE_COPY: &str = "gate-copy";

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// The paths of defaults below a list.
    fn defaults_in_lists(schema: &Value, path: &str, in_list: bool, found: &mut Vec<String>) {
        let Some(fields) = schema.as_object() else { return };
        if in_list && fields.contains_key("default") {
            found.push(path.to_owned());
        }
        for (name, field) in fields.get("properties").and_then(Value::as_object).into_iter().flatten() {
            defaults_in_lists(field, &format!("{path}.{name}"), in_list, found);
        }
        if let Some(items) = fields.get("items") {
            defaults_in_lists(items, &format!("{path}[]"), true, found);
        }
    }

    #[test]
    fn no_schema_of_a_spec_has_a_default_inside_a_list() {
        // The API server would write it into the stored list, and `kubectl apply` replaces a list as a whole: each time, it
        // would say "configured".
        let mut found = vec![];
        for crd in crds() {
            let kind = crd.spec.names.kind.clone();
            let crd = serde_json::to_value(&crd).expect("JSON");
            let spec = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
            defaults_in_lists(spec, &kind, false, &mut found);
        }
        assert_eq!(found, Vec::<String>::new());
    }
}
