//! The scaling group exists, is active, and accepts this session type and project.

use super::{Check, Context, Subject, Validator};
use crate::lifecycle::Reason;
use crate::provisioner::refusal::Blocker;

pub static VALIDATOR: Validator = Validator { name: "scaling-group", check: Check::EquivalenceClass(check) };

fn check(context: &Context<'_>, subject: &Subject<'_>) -> Vec<Blocker> {
    let type_ = subject.class.type_;
    let Some(name) = context.group_name else {
        let message = format!("no scaling group accepts sessions of type {type_:?} from namespace {}", subject.class.namespace);
        let needs = "a scaling group that accepts the session, or one named in its spec";
        return vec![Blocker::hold(VALIDATOR.name, Reason::ScalingGroupNotFound, message).needing(needs)];
    };
    let object = format!("scaling group {name}");
    let blocker = |blocker: fn(&'static str, Reason, String) -> Blocker, reason, message: String, needs: String| {
        vec![blocker(VALIDATOR.name, reason, message).of(object.clone()).needing(needs)]
    };
    let hold = |reason, message, needs| blocker(Blocker::hold, reason, message, needs);
    let fault = |reason, message, needs| blocker(Blocker::fault, reason, message, needs);
    let Some(group) = context.group else {
        return hold(Reason::ScalingGroupNotFound, format!("{object} does not exist"), format!("{object} to be created"));
    };
    if !group.spec.active {
        return hold(Reason::ScalingGroupInactive, format!("{object} is not active"), format!("{object} to be activated"));
    }
    if let Some(class) = group.spec.pod.runtime_class_name.as_ref().filter(|_| context.tenancy.runtime_class(group).is_none()) {
        let message = format!("RuntimeClass {class} of {object} does not exist");
        return hold(Reason::RuntimeClassNotFound, message, format!("RuntimeClass {class} to be created"));
    }
    let other = |change: String| format!("another scaling group, or {change} of {object}");
    if !group.spec.session_types.contains(&type_) {
        let message = format!("{object} accepts no sessions of type {type_:?}");
        return fault(Reason::ScalingGroupNotAllowed, message, other(format!("{type_:?} in sessionTypes")));
    }
    let project = context.tenancy.namespaces.get(&subject.class.namespace);
    if !group.spec.projects.is_empty() && !project.is_some_and(|project| group.spec.projects.contains(project)) {
        let project = project.map_or("none", |project| project.as_str());
        let message = format!("project {project} may not use {object}");
        return fault(Reason::ScalingGroupNotAllowed, message, other(format!("{project} in projects")));
    }
    vec![]
}
