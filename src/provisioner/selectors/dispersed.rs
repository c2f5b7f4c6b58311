//! dispersed: takes the node with the fewest idle resources, then the most left, then the first name.

use crate::provisioner::pool::{Choice, Index, Pool};

pub fn select(pool: &Pool<'_>, choice: &Choice<'_>) -> Option<Index> {
    pool.with_most_left(choice)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::provisioner::testing::{Setup, kernel, node, waiting};

    #[test]
    fn chooses_the_node_with_most_left_then_the_first_name() {
        let mut setup = Setup::new(json!({}), vec![node("a", &[("cpu", 2)]), node("b", &[("cpu", 3)]), node("c", &[("cpu", 3)])]);
        let four: Vec<_> = ["1", "2", "3", "4"].map(|name| waiting(name, json!({}))).into();
        assert_eq!(setup.run(&four), [["b"], ["c"], ["a"], ["b"]]);
    }

    #[test]
    fn fewest_idle_resources_come_before_most_left() {
        let gpu = node("a-gpu", &[("cpu", 64), ("nvidia.com/gpu", 8)]);
        let mut setup = Setup::new(json!({}), vec![gpu, node("b-cpu", &[("cpu", 2)])]);
        let three = [waiting("1", json!({})), waiting("2", json!({})), waiting("3", json!({}))];
        assert_eq!(setup.run(&three), [["b-cpu"], ["b-cpu"], ["a-gpu"]], "GPU nodes come last for sessions without GPUs");
    }

    #[test]
    fn accelerators_are_compared_before_cpu() {
        let many = node("a", &[("cpu", 8), ("nvidia.com/gpu", 4)]);
        let few = node("b", &[("cpu", 64), ("nvidia.com/gpu", 2)]);
        let mut setup = Setup::new(json!({}), vec![few, many]);
        let with_gpu = waiting("gpu", json!({"kernels": [kernel(&[("cpu", 1), ("nvidia.com/gpu", 1)])]}));
        assert_eq!(setup.run(&[with_gpu]), [["a"]]);
    }
}
