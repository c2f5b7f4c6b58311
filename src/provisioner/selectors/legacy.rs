//! legacy: the same as dispersed, under a name that some scaling groups still use.

use super::dispersed;
use crate::provisioner::pool::{Choice, Index, Pool};

pub fn select(pool: &Pool<'_>, choice: &Choice<'_>) -> Option<Index> {
    dispersed::select(pool, choice)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::provisioner::testing::{Setup, node, waiting};

    #[test]
    fn chooses_as_dispersed_does() {
        let chosen = |strategy: &str| {
            let nodes = vec![node("a", &[("cpu", 2)]), node("b", &[("cpu", 5)]), node("c", &[("cpu", 3), ("x.com/y", 1)])];
            let mut setup = Setup::new(json!({"selector": strategy}), nodes);
            let sessions: Vec<_> = ["1", "2", "3", "4", "5", "6", "7", "8"].map(|name| waiting(name, json!({}))).into();
            setup.run(&sessions)
        };
        assert_eq!(chosen("Legacy"), chosen("Dispersed"));
        assert_ne!(chosen("Legacy"), chosen("Concentrated"));
    }
}
