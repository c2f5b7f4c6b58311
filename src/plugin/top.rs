//! `top`: the usage of nodes and tenants.

use std::collections::BTreeMap;
use std::fmt;

use kube::ResourceExt;
use serde::Serialize;

use super::fetch::TopInput;
use super::table::table;
use crate::api::{LABEL_SESSION_UID, Resources, TenantStatus};
use crate::views::extract;
use crate::views::requests::requests;

#[derive(Serialize)]
pub struct Top {
    /// None if the user may not list nodes and all pods.
    nodes: Option<Vec<NodeRow>>,
    /// The tenants that the user may see. None if the user may list no kind of tenant.
    tenants: Option<Vec<Usage>>,
}

#[derive(Serialize)]
struct NodeRow {
    name: String,
    ready: bool,
    kernels: usize,
    /// By resource: the usage of all pods, and the allocatable amount.
    used: BTreeMap<String, (String, String)>,
}

#[derive(Serialize)]
struct Usage {
    kind: &'static str,
    name: String,
    status: TenantStatus,
}

pub fn view(input: &TopInput) -> Top {
    let mut tenants = vec![];
    let mut add = |kind, name: String, status: &Option<TenantStatus>| {
        tenants.push(Usage { kind, name, status: status.clone().unwrap_or_default() });
    };
    input.domains.iter().flatten().for_each(|it| add("domain", it.name_any(), &it.status));
    input.projects.iter().flatten().for_each(|it| add("project", it.name_any(), &it.status));
    input.users.iter().flatten().for_each(|it| add("user", it.name_any(), &it.status));
    input.keypairs.iter().flatten().for_each(|it| add("keypair", it.name_any(), &it.status));
    let any_visible = input.domains.is_some() || input.projects.is_some() || input.users.is_some() || input.keypairs.is_some();
    Top { nodes: nodes(input), tenants: any_visible.then_some(tenants) }
}

fn nodes(input: &TopInput) -> Option<Vec<NodeRow>> {
    let (nodes, pods) = (input.nodes.as_ref()?, input.pods.as_ref()?);
    let mut used: BTreeMap<String, (Resources, usize)> = BTreeMap::new();
    for pod in pods {
        let Some(spec) = pod.spec.as_ref().filter(|_| !extract::has_ended(pod)) else { continue };
        let Some(node) = &spec.node_name else { continue };
        let (sum, kernels) = used.entry(node.clone()).or_default();
        sum.add(&requests(pod));
        *kernels += usize::from(pod.labels().contains_key(LABEL_SESSION_UID));
    }
    let node = |node| {
        let view = extract::node(node);
        let (sum, kernels) = used.get(view.name.as_str()).cloned().unwrap_or_default();
        let offered = view.allocatable.iter().filter(|(_, amount)| !amount.is_zero());
        let used = offered.map(|(name, all)| (name.to_string(), (sum.amount(name).to_string(), all.to_string()))).collect();
        NodeRow { ready: view.takes_pods(), name: view.name.0, kernels, used }
    };
    Some(nodes.iter().map(node).collect())
}

impl fmt::Display for Top {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.nodes {
            None => writeln!(f, "nodes: you may not list nodes and pods of all namespaces")?,
            Some(nodes) => {
                let usage =
                    |node: &NodeRow, name: &str| node.used.get(name).map_or("-".into(), |(used, all)| format!("{used}/{all}"));
                let others = |node: &NodeRow| {
                    let others = node.used.iter().filter(|(name, _)| name.contains('/'));
                    others.map(|(name, (used, all))| format!("{name} {used}/{all}")).collect::<Vec<_>>().join(", ")
                };
                let ready = |node: &NodeRow| if node.ready { "yes" } else { "no" }.to_owned();
                let row = |node: &NodeRow| {
                    let kernels = node.kernels.to_string();
                    vec![
                        node.name.clone(),
                        ready(node),
                        kernels,
                        usage(node, "cpu"),
                        usage(node, "memory"),
                        usage(node, "pods"),
                        others(node),
                    ]
                };
                let rows: Vec<_> = nodes.iter().map(row).collect();
                f.write_str(&table(&["NODE", "READY", "KERNELS", "CPU", "MEMORY", "PODS", "ACCELERATORS"], &rows, f))?;
            }
        }
        writeln!(f)?;
        let row = |usage: &Usage| {
            let status = &usage.status;
            let resource = |r: &crate::api::ResourceUsage| match &r.limit {
                Some(limit) => format!("{} {}/{}", r.resource, r.used.0, limit.0),
                None => format!("{} {}", r.resource, r.used.0),
            };
            let resources: Vec<String> = status.resources.iter().map(resource).collect();
            let counts = [status.sessions_running, status.sessions_pending].map(|count| count.to_string());
            vec![usage.kind.to_owned(), usage.name.clone(), counts[0].clone(), counts[1].clone(), resources.join(", ")]
        };
        match &self.tenants {
            None => writeln!(f, "tenants: you may not list them"),
            Some(tenants) => {
                let rows: Vec<_> = tenants.iter().map(row).collect();
                f.write_str(&table(&["TENANT", "NAME", "RUNNING", "PENDING", "USED/LIMIT"], &rows, f))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_usage_of_nodes_and_of_tenants_is_shown_with_their_limits() {
        let node = json!({
            "metadata": {"name": "node-1"},
            "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110", "nvidia.com/gpu": "2"},
                       "conditions": [{"type": "Ready", "status": "True"}]},
        });
        let pod = |phase: &str, labels: serde_json::Value| {
            json!({
                "metadata": {"name": "p", "labels": labels},
                "spec": {"nodeName": "node-1", "containers": [{"name": "c", "resources":
                    {"requests": {"cpu": "500m", "nvidia.com/gpu": "1"}, "limits": {"nvidia.com/gpu": "1"}}}]},
                "status": {"phase": phase},
            })
        };
        let kernel = json!({LABEL_SESSION_UID: "u"});
        let pods = [pod("Running", kernel.clone()), pod("Running", json!({})), pod("Succeeded", kernel)];
        let keypair = json!({
            "metadata": {"name": "bob"}, "spec": {"user": "bob"},
            "status": {"sessionsRunning": 1, "sessionsPending": 2, "resources": [
                {"resource": "cpu", "used": "1", "limit": "3"}, {"resource": "memory", "used": "1Gi"}]},
        });
        let input = TopInput {
            nodes: Some(vec![serde_json::from_value(node).expect("a node")]),
            pods: Some(pods.map(|pod| serde_json::from_value(pod).expect("a pod")).into()),
            keypairs: Some(vec![serde_json::from_value(keypair).expect("a keypair")]),
            users: None,
            projects: None,
            domains: None,
        };
        let words =
            |text: String| text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>();
        let wanted = [
            "NODE READY KERNELS CPU MEMORY PODS ACCELERATORS",
            "node-1 yes 1 1/4 0/8Gi 2/110 nvidia.com/gpu 2/2",
            "",
            "TENANT NAME RUNNING PENDING USED/LIMIT",
            "keypair bob 1 2 cpu 1/3, memory 1Gi",
        ];
        assert_eq!(words(view(&input).to_string()), wanted);
        let nothing_visible = TopInput { nodes: None, keypairs: None, ..input };
        let wanted = ["nodes: you may not list nodes and pods of all namespaces", "", "tenants: you may not list them"];
        assert_eq!(words(view(&nothing_visible).to_string()), wanted);
    }
}
