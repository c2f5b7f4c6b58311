//! The custom resources, one kind a file, and what they share.

mod condition;
mod deployment;
mod domain;
mod history;
mod kernel;
mod keypair;
mod names;
mod project;
mod quantity;
mod resource_policy;
mod route;
mod scaling_group;
mod session;
mod session_status;
mod usage;
mod user;
mod waiting;

pub use condition::*;
pub use deployment::*;
pub use domain::*;
pub use history::*;
pub use kernel::*;
pub use keypair::*;
pub use names::*;
pub use project::*;
pub use quantity::*;
pub use resource_policy::*;
pub use route::*;
use scaling_group::yes;
pub use scaling_group::*;
pub use session::*;
pub use session_status::*;
pub use usage::*;
pub use user::*;
pub use waiting::*;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

/// The API group of every kind here.
pub const GROUP: &str = "sokovan.dev";

/// All custom resource definitions, as `sokovan crds` prints them.
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![
        Session::crd(),
        Kernel::crd(),
        Deployment::crd(),
        Route::crd(),
        ScalingGroup::crd(),
        Domain::crd(),
        Project::crd(),
        User::crd(),
        Keypair::crd(),
        ResourcePolicy::crd(),
    ]
}
