//! Templates: the kernels that a session takes from its SessionTemplate. Pure.

use crate::api::{
    Amount, EnvVar, KernelTemplate, Parameter, Quantity, Reason, ResolvedTemplate, Session, SessionTemplate, Target, TemplateRef,
};

/// The most bytes of a template's kernels in a session's status, as JSON.
const MAX_BYTES: usize = 12 * 1024;

/// Why a session cannot use its template.
pub type Problem = (Reason, String);

/// Puts the kernels of a session's template into its spec: those that its status records, otherwise those of the template as it is now.
/// A session that cannot use the template keeps the kernels that its author wrote, and is not scheduled.
pub fn expand(session: &mut Session, template: Option<&SessionTemplate>) {
    let Some(reference) = &session.spec.template else { return };
    let written = reference.written.clone().unwrap_or_else(|| session.spec.kernels.clone());
    let recorded = session.status.as_ref().and_then(|status| status.template.clone());
    let resolved = recorded.map_or_else(|| resolve(reference, template), Ok);
    let kernels = resolved.and_then(|resolved| {
        session.spec.cluster_mode = resolved.cluster_mode.unwrap_or(session.spec.cluster_mode);
        merge(resolved.kernels, &written)
    });
    session.spec.kernels = kernels.unwrap_or_else(|_| written.clone());
    if let Some(reference) = &mut session.spec.template {
        reference.written = Some(written);
    }
}

/// Returns what a waiting session records of its template when it gets its nodes. None if it has no template, or has recorded it.
pub fn to_record(session: &Session, template: Option<&SessionTemplate>) -> Option<Result<ResolvedTemplate, Problem>> {
    let reference = session.spec.template.as_ref()?;
    if session.status.as_ref().is_some_and(|status| status.template.is_some()) {
        return None;
    }
    let written = reference.written.as_ref().unwrap_or(&session.spec.kernels);
    let check = |resolved: ResolvedTemplate| merge(resolved.kernels.clone(), written).map(|_| resolved);
    Some(resolve(reference, template).and_then(check))
}

/// Returns the kernels of a template with these parameters.
fn resolve(reference: &TemplateRef, template: Option<&SessionTemplate>) -> Result<ResolvedTemplate, Problem> {
    let name = &reference.name;
    let Some(template) = template else {
        return Err((Reason::TemplateNotFound, format!("SessionTemplate {name} does not exist")));
    };
    let mismatch = |problem: String| (Reason::TemplateMismatch, format!("SessionTemplate {name}: {problem}"));
    let mut kernels = template.spec.kernels.clone();
    for (given, value) in &reference.parameters {
        let Some(parameter) = template.spec.parameters.iter().find(|parameter| parameter.name == *given) else {
            let known: Vec<&str> = template.spec.parameters.iter().map(|parameter| parameter.name.as_str()).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(mismatch(format!("it has no parameter {given}; its parameters: {known}")));
        };
        check(parameter, value).map_err(mismatch)?;
        let set = |kernel: &&mut KernelTemplate| parameter.role.as_ref().is_none_or(|role| *role == kernel.role);
        kernels.iter_mut().filter(set).for_each(|kernel| apply(parameter, value, kernel));
    }
    if bytes(&kernels) > MAX_BYTES {
        return Err(mismatch(format!("its kernels take more than {MAX_BYTES} bytes")));
    }
    Ok(ResolvedTemplate {
        generation: template.metadata.generation.unwrap_or_default(),
        cluster_mode: template.spec.cluster_mode,
        kernels,
    })
}

/// Returns the bytes of kernels in JSON.
pub fn bytes(kernels: &[KernelTemplate]) -> usize {
    serde_json::to_string(kernels).map_or(0, |json| json.len())
}

/// Checks a value against the bounds of its parameter.
fn check(parameter: &Parameter, value: &str) -> Result<(), String> {
    let Parameter { name, allowed, minimum, maximum, .. } = parameter;
    if !allowed.is_empty() && !allowed.iter().any(|known| known == value) {
        return Err(format!("{name} is {value}; it may be {}", allowed.join(", ")));
    }
    match parameter.sets {
        Target::Image if value.is_empty() || value.contains(char::is_whitespace) => {
            Err(format!("{name} is not the name of an image"))
        }
        Target::Image | Target::Env => Ok(()),
        Target::Replicas if !value.parse::<i32>().is_ok_and(|replicas| (1..=128).contains(&replicas)) => {
            Err(format!("{name} is {value}; it must be a whole number from 1 to 128"))
        }
        Target::Resource | Target::Replicas => {
            let amount = Amount::parse(value).filter(|amount| *amount > Amount::ZERO && *amount < Amount::MAX);
            let Some(amount) = amount else { return Err(format!("{name} is {value}, which is no positive quantity")) };
            let is_device = parameter.key.as_ref().is_some_and(|key| key.contains('/'));
            match (minimum, maximum) {
                _ if is_device && amount.milli() % 1000 != 0 => Err(format!("{name} is {value}; it must be a whole number")),
                (Some(Quantity(least)), _) if Amount::parse(least).is_some_and(|least| amount < least) => {
                    Err(format!("{name} is {value}; its minimum is {least}"))
                }
                (_, Some(Quantity(most))) if Amount::parse(most).is_some_and(|most| amount > most) => {
                    Err(format!("{name} is {value}; its maximum is {most}"))
                }
                _ => Ok(()),
            }
        }
    }
}

fn apply(parameter: &Parameter, value: &str, kernel: &mut KernelTemplate) {
    let key = || parameter.key.clone().unwrap_or_default();
    match parameter.sets {
        Target::Image => kernel.image = value.into(),
        Target::Replicas => kernel.replicas = value.parse().unwrap_or(kernel.replicas),
        Target::Resource => _ = kernel.resources.insert(key(), value.into()),
        Target::Env => set_variable(kernel, EnvVar { name: key(), value: Some(value.into()), secret_key_ref: None }),
    }
}

fn set_variable(kernel: &mut KernelTemplate, variable: EnvVar) {
    kernel.env.retain(|known| known.name != variable.name);
    kernel.env.push(variable);
}

/// Adds what the author of a session wrote to the kernels of its template.
fn merge(mut kernels: Vec<KernelTemplate>, written: &[KernelTemplate]) -> Result<Vec<KernelTemplate>, Problem> {
    for own in written {
        let Some(kernel) = kernels.iter_mut().find(|kernel| kernel.role == own.role) else {
            return Err((Reason::TemplateMismatch, format!("the template has no kernel of role {}", own.role)));
        };
        if !own.command.is_empty() {
            // The template's arguments belong to its own command.
            (kernel.command, kernel.args) = (own.command.clone(), vec![]);
        }
        if !own.args.is_empty() {
            kernel.args.clone_from(&own.args);
        }
        own.env.iter().cloned().for_each(|variable| set_variable(kernel, variable));
        kernel.ports.retain(|port| own.ports.iter().all(|other| other.name != port.name));
        kernel.ports.extend(own.ports.iter().cloned());
        kernel.volumes.extend(own.volumes.iter().cloned());
        kernel.files.extend(own.files.iter().cloned());
        kernel.scratch.retain(|scratch| own.scratch.iter().all(|other| other.mount_path != scratch.mount_path));
        kernel.scratch.extend(own.scratch.iter().cloned());
        kernel.designated_nodes.clone_from(&own.designated_nodes);
        if let Some(path) = path_used_twice(kernel) {
            return Err((Reason::TemplateMismatch, format!("{path} is mounted twice: by the template, and by the session")));
        }
    }
    match kernels.iter().map(|kernel| i64::from(kernel.replicas)).sum::<i64>() {
        0..=crate::api::MAX_KERNELS => Ok(kernels),
        many => Err((Reason::TemplateMismatch, format!("{many} kernels, and a session has at most {}", crate::api::MAX_KERNELS))),
    }
}

fn path_used_twice(kernel: &KernelTemplate) -> Option<String> {
    let volumes = kernel.volumes.iter().map(|volume| &volume.mount_path);
    let files = kernel.files.iter().map(|file| &file.path);
    let mut paths: Vec<&String> = volumes.chain(files).chain(kernel.scratch.iter().map(|scratch| &scratch.mount_path)).collect();
    paths.sort_unstable();
    paths.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0].clone())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn template() -> SessionTemplate {
        let gpu = json!({"image": "pytorch:2", "resources": {"cpu": 4, "memory": "16Gi", "nvidia.com/gpu": 1}, "command": ["jupyter"],
            "args": ["lab"], "env": [{"name": "MODE", "value": "notebook"}], "scratch": [{"mountPath": "/tmp/work", "size": "10Gi"}]});
        let workers = json!({"role": "worker", "replicas": 2, "image": "pytorch:2", "resources": {"cpu": 4, "memory": "16Gi"}});
        let parameters = json!([
            {"name": "gpus", "sets": "Resource", "key": "nvidia.com/gpu", "role": "main", "maximum": 4},
            {"name": "workers", "sets": "Replicas", "role": "worker", "minimum": 2, "maximum": 8},
            {"name": "image", "sets": "Image", "allowed": ["pytorch:2", "pytorch:3"]},
            {"name": "mode", "sets": "Env", "key": "MODE"},
        ]);
        let spec = json!({"clusterMode": "MultiNode", "kernels": [gpu, workers], "parameters": parameters});
        SessionTemplate::new("torch", serde_json::from_value(spec).expect("a template"))
    }

    fn session(parameters: Value, kernels: Value) -> Session {
        let spec = json!({"accessKey": "key", "template": {"name": "torch", "parameters": parameters}, "kernels": kernels});
        Session::new("s", serde_json::from_value(spec).expect("a session"))
    }

    fn expanded(parameters: Value, kernels: Value) -> Session {
        let mut session = session(parameters, kernels);
        expand(&mut session, Some(&template()));
        session
    }

    fn problem(parameters: Value, kernels: Value) -> String {
        let problem = to_record(&session(parameters, kernels), Some(&template())).expect("a template");
        problem.expect_err("a problem").1
    }

    #[test]
    fn a_session_takes_the_kernels_of_its_template_with_its_parameters() {
        let parameters = json!({"gpus": "2", "workers": "4", "image": "pytorch:3", "mode": "train"});
        let session = expanded(parameters, json!([]));
        let [main, worker] = &session.spec.kernels[..] else { panic!("two roles") };
        assert_eq!((main.image.as_str(), worker.image.as_str(), worker.replicas), ("pytorch:3", "pytorch:3", 4));
        assert_eq!(main.resources["nvidia.com/gpu"].0, "2");
        assert!(!worker.resources.contains_key("nvidia.com/gpu"), "the parameter names the role main");
        assert_eq!(main.env.iter().map(|variable| variable.value.as_deref()).collect::<Vec<_>>(), [Some("train")]);
        assert_eq!(session.spec.cluster_mode, crate::api::ClusterMode::MultiNode);
        assert_eq!(main.command, ["jupyter"]);
    }

    #[test]
    fn a_session_adds_its_own_command_variables_and_mounts() {
        let own = json!([{"command": ["python", "train.py"], "env": [{"name": "EPOCHS", "value": "3"}],
            "volumes": [{"claimName": "data", "mountPath": "/data"}]}]);
        let session = expanded(json!({}), own);
        let main = &session.spec.kernels[0];
        assert_eq!((main.command.len(), main.args.len(), main.env.len(), main.volumes.len()), (2, 0, 2, 1));
        assert_eq!(main.image, "pytorch:2");
        assert_eq!(session.spec.kernels[1].volumes.len(), 0);
    }

    #[test]
    fn a_value_out_of_its_bounds_is_named_with_them() {
        assert_eq!(problem(json!({"gpus": "8"}), json!([])), "SessionTemplate torch: gpus is 8; its maximum is 4");
        assert_eq!(
            problem(json!({"gpus": "1500m"}), json!([])),
            "SessionTemplate torch: gpus is 1500m; it must be a whole number"
        );
        assert_eq!(problem(json!({"workers": "1"}), json!([])), "SessionTemplate torch: workers is 1; its minimum is 2");
        assert_eq!(
            problem(json!({"workers": "2.5"}), json!([])),
            "SessionTemplate torch: workers is 2.5; it must be a whole number from 1 to 128"
        );
        assert_eq!(
            problem(json!({"image": "other"}), json!([])),
            "SessionTemplate torch: image is other; it may be pytorch:2, pytorch:3"
        );
        let unknown = problem(json!({"tpus": "1"}), json!([]));
        assert_eq!(unknown, "SessionTemplate torch: it has no parameter tpus; its parameters: gpus, workers, image, mode");
        assert!(problem(json!({}), json!([{"role": "ps"}])).contains("no kernel of role ps"));
        let twice = json!([{"volumes": [{"claimName": "c", "mountPath": "/tmp/work"}]}]);
        assert!(problem(json!({}), twice).contains("/tmp/work is mounted twice"));
    }

    #[test]
    fn a_session_keeps_the_template_that_it_recorded() {
        let mut session = expanded(json!({"gpus": "2"}), json!([{"command": ["python"]}]));
        let recorded = to_record(&session, Some(&template())).expect("a template").expect("no problem");
        session.status = Some(crate::api::SessionStatus { template: Some(recorded), ..Default::default() });
        let kernels = session.spec.kernels.clone();
        let mut changed = template();
        changed.spec.kernels[0].image = "changed".into();
        for template in [Some(&changed), None] {
            expand(&mut session, template);
            assert_eq!(session.spec.kernels, kernels, "once recorded, the template does not matter");
            assert_eq!(to_record(&session, template), None);
        }
    }

    #[test]
    fn a_session_whose_template_is_missing_keeps_what_its_author_wrote_until_the_template_exists() {
        let mut session = session(json!({}), json!([{"command": ["python"]}]));
        let written = session.spec.kernels.clone();
        expand(&mut session, None);
        assert_eq!(session.spec.kernels, written);
        let (reason, message) = to_record(&session, None).expect("a template").expect_err("a problem");
        assert_eq!((reason, message.as_str()), (Reason::TemplateNotFound, "SessionTemplate torch does not exist"));
        expand(&mut session, Some(&template()));
        assert_eq!(session.spec.kernels[0].image, "pytorch:2");
        assert_eq!(session.spec.kernels[0].command, ["python"]);
    }
}
