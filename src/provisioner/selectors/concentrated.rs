//! concentrated: fills up used nodes. It takes the node with the fewest kernels of the same deployment (with
//! `enforceSpreading`), then the fewest idle resources, then the least left, then the first name.

use crate::provisioner::pool::{Choice, Index, Pool};

pub fn select(pool: &Pool<'_>, choice: &Choice<'_>) -> Option<Index> {
    let Some(deployment) = choice.request.deployment.as_deref().filter(|_| choice.spread) else {
        return pool.with_least_left(choice);
    };
    let key = |index: &Index| (pool.replicas(*index, deployment), pool.tightness(*index, choice.request), *index);
    pool.all(choice).min_by_key(key)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::provisioner::testing::{Setup, kernel, node, waiting};

    #[test]
    fn chooses_the_node_with_least_left_then_the_first_name() {
        let group = || json!({"selector": "Concentrated"});
        let mut setup = Setup::new(group(), vec![node("a", &[("cpu", 4)]), node("b", &[("cpu", 2)]), node("c", &[("cpu", 4)])]);
        let four: Vec<_> = ["1", "2", "3", "4"].map(|name| waiting(name, json!({}))).into();
        assert_eq!(setup.run(&four), [["b"], ["b"], ["a"], ["a"]]);
    }

    #[test]
    fn fewest_idle_resources_come_before_least_left() {
        let gpu = node("a-gpu", &[("cpu", 2), ("nvidia.com/gpu", 1)]);
        let mut setup = Setup::new(json!({"selector": "Concentrated"}), vec![gpu, node("b-cpu", &[("cpu", 8)])]);
        let with_gpu = waiting("gpu", json!({"kernels": [kernel(&[("cpu", 1), ("nvidia.com/gpu", 1)])]}));
        assert_eq!(setup.run(&[waiting("cpu", json!({})), with_gpu]), [["b-cpu"], ["a-gpu"]]);
    }

    #[test]
    fn a_resource_that_a_node_does_not_offer_counts_as_zero() {
        let gpu = node("a", &[("amd.com/gpu", 1), ("cpu", 64)]);
        let pages = node("b", &[("cpu", 4), ("hugepages-2Mi", 8)]);
        let run = |selector: &str| {
            Setup::new(json!({"selector": selector}), vec![gpu.clone(), pages.clone()]).run(&[waiting("s", json!({}))])
        };
        assert_eq!(run("Concentrated"), [["b"]], "b has no accelerator");
        assert_eq!(run("Dispersed"), [["a"]]);
    }

    #[test]
    fn replicas_of_a_deployment_spread_unless_it_leaves_that_to_the_scaling_group() {
        let placed = |spread: &str, group: serde_json::Value| {
            let replicas = ["1", "2", "3"].map(|name| {
                let serving = json!({"port": 80, "spread": spread});
                let mut session = waiting(name, json!({"type": "Inference", "serving": serving}));
                session.metadata.labels = Some([(crate::api::LABEL_DEPLOYMENT_UID.to_owned(), "d-uid".to_owned())].into());
                session
            });
            Setup::new(group, vec![node("a", &[("cpu", 4)]), node("b", &[("cpu", 4)])]).run(&replicas)
        };
        let packing = || json!({"selector": "Concentrated"});
        assert_eq!(placed("Preferred", packing()), [["a"], ["b"], ["a"]]);
        assert_eq!(placed("Required", packing()), [vec!["a"], vec!["b"], vec![]], "two replicas never share a node");
        assert_eq!(placed("None", packing()), [["a"], ["a"], ["a"]]);
        assert_eq!(placed("None", json!({"selector": "Concentrated", "enforceSpreading": true})), [["a"], ["b"], ["a"]]);
    }
}
