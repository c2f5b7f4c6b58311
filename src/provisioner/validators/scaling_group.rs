//! The scaling group exists, is active, and takes this type of session from this project.

use super::{Check, Context, Subject, Validator};
use crate::lifecycle::Reason;
use crate::provisioner::refusal::Blocker;

pub static VALIDATOR: Validator = Validator { name: "scaling-group", check: Check::Kind(check) };

fn check(context: &Context<'_>, subject: &Subject<'_>) -> Vec<Blocker> {
    let name = context.group_name;
    let fault =
        |reason, message: String| vec![Blocker::fault(VALIDATOR.name, reason, message).of(format!("scaling group {name}"))];
    if name.is_none() {
        let words =
            format!("no scaling group takes sessions of type {:?} from namespace {}", subject.kind.type_, subject.kind.namespace);
        return vec![Blocker::fault(VALIDATOR.name, Reason::ScalingGroupNotFound, words)];
    }
    let Some(group) = context.group else {
        return fault(Reason::ScalingGroupNotFound, format!("scaling group {name} does not exist"));
    };
    if !group.spec.active {
        return fault(Reason::ScalingGroupInactive, format!("scaling group {name} is not active"));
    }
    let type_ = subject.kind.type_;
    if !group.spec.session_types.contains(&type_) {
        return fault(Reason::ScalingGroupNotAllowed, format!("scaling group {name} takes no sessions of type {type_:?}"));
    }
    let project = context.tenancy.namespaces.get(&subject.kind.namespace);
    if !group.spec.projects.is_empty() && !project.is_some_and(|project| group.spec.projects.contains(project)) {
        let project = project.map_or("none", |project| project.as_str());
        return fault(Reason::ScalingGroupNotAllowed, format!("project {project} may not use scaling group {name}"));
    }
    vec![]
}
