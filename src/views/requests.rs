//! Computes a pod's requests as kube-scheduler does (`AggregateContainerRequests` of component-helpers).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodStatus, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::api::{Amount, ResourceName, Resources};

/// Returns a list of quantities as amounts.
pub fn amounts<'a>(list: impl IntoIterator<Item = (&'a String, &'a Quantity)>) -> Resources {
    let mut resources = Resources::default();
    for (name, quantity) in list {
        resources.set(name.as_str(), Amount::parse(&quantity.0).unwrap_or_default());
    }
    resources
}

fn requested(resources: Option<&ResourceRequirements>) -> Resources {
    amounts(resources.iter().flat_map(|resources| resources.requests.iter().flatten()))
}

/// Returns the larger of all running containers and of each init container with the sidecars before it, plus the overhead
/// and one unit of `pods`.
pub fn requests(pod: &Pod) -> Resources {
    let mut total = Resources::default();
    if let Some(spec) = &pod.spec {
        let state = Resizing::of(pod);
        let mut running = Resources::default();
        for container in &spec.containers {
            running.add(&state.container(container));
        }
        let mut sidecars = Resources::default();
        let mut at_start = Resources::default();
        for container in spec.init_containers.iter().flatten() {
            if container.restart_policy.as_deref() == Some("Always") {
                let sidecar = state.container(container);
                running.add(&sidecar);
                sidecars.add(&sidecar);
                at_start = at_start.max(&sidecars);
            } else {
                let mut with_sidecars = requested(container.resources.as_ref());
                with_sidecars.add(&sidecars);
                at_start = at_start.max(&with_sidecars);
            }
        }
        total = running.max(&at_start);
        for (name, amount) in state.pod_level(requested(spec.resources.as_ref())).iter() {
            total.set(name.clone(), amount);
        }
        total.add(&amounts(spec.overhead.iter().flatten()));
    }
    total.set(ResourceName::Pods, Amount::from_units(1));
    total
}

/// A pod that may be in the middle of an in-place resize. Until it is done, the larger of its request and its present
/// resources counts.
struct Resizing<'p> {
    status: Option<&'p PodStatus>,
    /// The node can never satisfy the request.
    infeasible: bool,
}

impl<'p> Resizing<'p> {
    fn of(pod: &'p Pod) -> Self {
        let status = pod.status.as_ref();
        let conditions = status.into_iter().flat_map(|status| status.conditions.iter().flatten());
        let mut pending = conditions.filter(|condition| condition.type_ == "PodResizePending");
        Self { status, infeasible: pending.any(|condition| condition.reason.as_deref() == Some("Infeasible")) }
    }

    fn container(&self, container: &Container) -> Resources {
        let lists = self.status.map(|status| [&status.container_statuses, &status.init_container_statuses]);
        let status = lists.into_iter().flatten().flatten().flatten().find(|status| status.name == container.name);
        let present = status.and_then(|status| Some((status.resources.as_ref()?, status.allocated_resources.as_ref())));
        self.larger(requested(container.resources.as_ref()), present)
    }

    fn pod_level(&self, request: Resources) -> Resources {
        let status = self.status.filter(|_| !request.is_zero());
        let present = status.and_then(|status| Some((status.resources.as_ref()?, status.allocated_resources.as_ref())));
        self.larger(request, present)
    }

    /// `present` has the resources in effect, and the resources that the kubelet has allocated.
    fn larger(
        &self,
        request: Resources,
        present: Option<(&ResourceRequirements, Option<&BTreeMap<String, Quantity>>)>,
    ) -> Resources {
        let Some((in_effect, allocated)) = present else { return request };
        let present = requested(Some(in_effect)).max(&amounts(allocated.into_iter().flatten()));
        if self.infeasible { present } else { request.max(&present) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn cpu(pod: serde_json::Value) -> Amount {
        requests(&serde_json::from_value(pod).expect("a pod")).get("cpu")
    }

    #[test]
    fn requests_are_counted_as_kube_scheduler_counts_them() {
        let spec = json!({
            "containers": [{"name": "a", "resources": {"requests": {"cpu": "1"}}}, {"name": "b", "resources": {"requests": {"cpu": "1"}}}],
            "initContainers": [
                {"name": "side", "restartPolicy": "Always", "resources": {"requests": {"cpu": "500m"}}},
                {"name": "init", "resources": {"requests": {"cpu": "3"}}}
            ],
            "overhead": {"cpu": "250m"}
        });
        assert_eq!(cpu(json!({"spec": spec})), Amount::from_milli(3750), "init with sidecar is the larger");
        let pod = serde_json::from_value(json!({"spec": {"containers": []}})).expect("a pod");
        assert_eq!(requests(&pod).get("pods"), Amount::from_units(1));
    }

    #[test]
    fn a_pod_that_is_being_resized_counts_with_the_larger_of_its_request_and_its_present_resources() {
        let resized = |request: &str, present: &str, reason: &str| {
            cpu(json!({
                "spec": {"containers": [{"name": "a", "resources": {"requests": {"cpu": request}}}]},
                "status": {
                    "conditions": [{"type": "PodResizePending", "status": "True", "reason": reason}],
                    "containerStatuses": [{
                        "name": "a", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                        "allocatedResources": {"cpu": present}, "resources": {"requests": {"cpu": present}},
                    }],
                },
            }))
        };
        assert_eq!(resized("3", "2", "Deferred"), Amount::from_units(3));
        assert_eq!(resized("1", "2", "Deferred"), Amount::from_units(2), "the node has not freed it yet");
        assert_eq!(resized("1000", "2", "Infeasible"), Amount::from_units(2), "this node never grants it");
    }
}
