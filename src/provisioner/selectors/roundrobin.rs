//! roundrobin: takes the nodes in turn, by name, and continues from cycle to cycle.

use crate::provisioner::pool::{Choice, Index, Pool};

pub fn select(pool: &Pool<'_>, choice: &Choice<'_>) -> Option<Index> {
    pool.next(choice)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::provisioner::testing::{Setup, node, waiting};

    #[test]
    fn nodes_are_chosen_in_turn_by_name_across_cycles() {
        let nodes = vec![node("a", &[("cpu", 4)]), node("b", &[("cpu", 1)]), node("c", &[("cpu", 4)])];
        let mut setup = Setup::new(json!({"selector": "RoundRobin"}), nodes);
        let two = |names: [&str; 2]| names.map(|name| waiting(name, json!({})));
        assert_eq!(setup.run(&two(["1", "2"])), [["a"], ["b"]]);
        assert_eq!(setup.run(&two(["3", "4"])), [["c"], ["a"]]);
        assert_eq!(setup.run(&two(["5", "6"])), [["c"], ["a"]], "b is full");
    }
}
