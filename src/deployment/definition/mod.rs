//! Model definitions: the files of a ConfigMap that describe a server. They fill in the fields that a deployment leaves open.

mod format;

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;

use super::invalid::Invalid;
use crate::api::{DefinitionSource, EnvVar, LABEL_MODEL_DEFINITION, MAIN_ROLE, ModelSpec, SessionSpec, Variant};
use format::{Config, Models, Section};

/// The most bytes of one file.
const MAX_FILE: usize = 65_536;

/// The files, merged: the model definition comes first, then the variant's section, then the root of the deployment config.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Definition {
    section: Section,
}

/// The files of a ConfigMap by key.
pub type Files = BTreeMap<String, String>;

impl Definition {
    /// Reads the files that a deployment names. Errors name the file and the field.
    pub fn read(source: &DefinitionSource, variant: Option<Variant>, files: Option<&Files>) -> Result<Self, Invalid> {
        let name = &source.config_map;
        let refused = |why: String| Invalid(format!("spec.model.definitionFrom: {why}"));
        let files =
            files.ok_or_else(|| refused(format!("there is no ConfigMap {name} with the label {LABEL_MODEL_DEFINITION}")))?;
        let (config, models) = (&source.deployment_config, &source.model_definition);
        if !files.contains_key(config) && !files.contains_key(models) {
            return Err(refused(format!("ConfigMap {name} has neither a key {models} nor a key {config}")));
        }
        let in_file = |key: &str, why: String| refused(format!("ConfigMap {name}, {key}: {why}"));
        let config: Config = parse(files, config).map_err(|why| in_file(config, why))?;
        let models: Models = parse(files, models).map_err(|why| in_file(&source.model_definition, why))?;
        let own = config.of(variant).unwrap_or_default();
        own.check("").map_err(|why| in_file(&source.deployment_config, why))?;
        config.root().check("").map_err(|why| in_file(&source.deployment_config, why))?;
        let model = models.only().map_err(|why| in_file(&source.model_definition, why))?;
        model.check("models[0].").map_err(|why| in_file(&source.model_definition, why))?;
        Ok(Self { section: config.root().below(own).below(model) })
    }

    /// Fills in what a model leaves open.
    pub fn complete(&self, model: &ModelSpec) -> ModelSpec {
        let service = self.section.service.clone().unwrap_or_default();
        ModelSpec {
            definition_from: None,
            port: model.port.or(service.port),
            start_command: model.start_command.clone().or_else(|| service.command()),
            model_path: model.model_path.clone().or_else(|| self.section.model_path.clone()),
            health_check: model.health_check.clone().or_else(|| Some(service.health_check?.complete(model.variant))),
            ..model.clone()
        }
    }

    /// Adds the variables that the main kernel does not set itself.
    pub fn add_environment(&self, template: &mut SessionSpec) {
        for main in template.kernels.iter_mut().filter(|kernel| kernel.role == MAIN_ROLE) {
            for (name, value) in self.section.environ.iter().flatten() {
                let is_set = main.env.iter().any(|variable| variable.name == *name);
                if let Some(value) = value.as_ref().filter(|_| !is_set) {
                    main.env.push(EnvVar { name: name.clone(), value: Some(value.text()), secret_key_ref: None });
                }
            }
        }
    }
}

fn parse<T: DeserializeOwned + Default>(files: &Files, key: &str) -> Result<T, String> {
    let Some(text) = files.get(key) else { return Ok(T::default()) };
    match text.len() {
        length if length > MAX_FILE => Err(format!("it has {length} bytes, and at most {MAX_FILE} are read")),
        _ => serde_yaml::from_str::<Option<T>>(text).map(Option::unwrap_or_default).map_err(|error| error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::DeploymentSpec;
    use crate::deployment::revision::Content;

    const MODELS: &str = "model-definition.yaml";
    const CONFIG: &str = "deployment-config.yaml";

    fn read(variant: Option<Variant>, files: &[(&str, &str)]) -> Result<Definition, Invalid> {
        let source: DefinitionSource = serde_json::from_value(json!({"configMap": "chat"})).expect("a source");
        let files = files.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect();
        Definition::read(&source, variant, Some(&files))
    }

    fn refused(files: &[(&str, &str)]) -> String {
        read(None, files).expect_err("it is refused").0
    }

    fn completed(files: &[(&str, &str)], model: serde_json::Value) -> ModelSpec {
        let model: ModelSpec = serde_json::from_value(model).expect("a model");
        read(model.variant, files).expect("readable").complete(&model)
    }

    #[test]
    fn the_more_specific_source_comes_first() {
        let config = "service: {port: 1, health_check: {path: /root, interval: 2}}\nmodel_path: /root\n\
                      vllm: {service: {port: 2, health_check: {max_retries: 7}}}";
        let models = "models: [{name: m, model_path: null, service: {port: 3}}]";
        let port = |files: &[(&str, &str)], model| completed(files, model).port;
        assert_eq!(port(&[(CONFIG, config)], json!({})), Some(1));
        assert_eq!(port(&[(CONFIG, config)], json!({"variant": "vllm"})), Some(2));
        assert_eq!(port(&[(CONFIG, config), (MODELS, models)], json!({"variant": "vllm"})), Some(3));
        assert_eq!(port(&[(CONFIG, config), (MODELS, models)], json!({"variant": "vllm", "port": 4})), Some(4));
        let merged = completed(&[(CONFIG, config), (MODELS, models)], json!({"variant": "vllm"}));
        let check = merged.health_check.expect("a check");
        assert_eq!((check.path.as_str(), check.interval_seconds, check.failure_threshold), ("/root", 2, 7), "by field");
        assert_eq!(merged.model_path.as_deref(), Some("/root"), "null is not given");
    }

    #[test]
    fn a_command_is_a_list_of_words_or_a_line_for_a_shell() {
        let words = completed(&[(MODELS, "models: [{service: {start_command: [serve, '{model_path}']}}]")], json!({}));
        assert_eq!(words.start_command.expect("a command"), ["serve", "{model_path}"]);
        let line = completed(&[(MODELS, "models: [{service: {start_command: serve --all, shell: /bin/bash}}]")], json!({}));
        assert_eq!(line.start_command.expect("a command"), ["/bin/bash", "-c", "serve --all"]);
    }

    #[test]
    fn variables_are_merged_by_name_and_the_kernels_own_come_first() {
        let files = [(CONFIG, "environ: {A: 1, B: two, C: null}\ncustom: {environ: {B: 2.5, D: true}}")];
        let definition = read(Some(Variant::Custom), &files).expect("readable");
        let kernel = json!({"image": "i:1", "resources": {"cpu": "1"}, "env": [{"name": "A", "value": "own"}]});
        let template = json!({"type": "Inference", "accessKey": "alice", "kernels": [kernel]});
        let spec: DeploymentSpec = serde_json::from_value(json!({"template": template})).expect("a spec");
        let content = Content::of(&spec, &definition);
        let env = content.template.kernels[0].env.iter().map(|v| (v.name.as_str(), v.value.as_deref().unwrap_or_default()));
        assert_eq!(env.collect::<Vec<_>>(), [("A", "own"), ("B", "2.5"), ("D", "true")]);
    }

    #[test]
    fn an_error_names_the_file_and_the_field() {
        let source: DefinitionSource = serde_json::from_value(json!({"configMap": "chat"})).expect("a source");
        let missing = Definition::read(&source, None, None).expect_err("it is missing").0;
        assert!(missing.contains("there is no ConfigMap chat with the label sokovan.dev/model-definition"), "{missing}");
        assert!(refused(&[("other", "")]).contains("ConfigMap chat has neither a key model-definition.yaml nor"));
        let typo = refused(&[(MODELS, "models: [{service: {prot: 80}}]")]);
        assert!(typo.contains("ConfigMap chat, model-definition.yaml: models[0].service: unknown field `prot`"), "{typo}");
        let kind = refused(&[(MODELS, "models: [{service: {port: http}}]")]);
        assert!(kind.contains("model-definition.yaml: models[0].service.port: invalid type"), "{kind}");
        let range = refused(&[(CONFIG, "service: {port: 70000}")]);
        assert!(range.contains("deployment-config.yaml: service.port: it must be from 1 to 65535"), "{range}");
        let several = refused(&[(MODELS, "models: [{name: a}, {name: b}]")]);
        assert!(several.contains("models: it describes 2 models"), "{several}");
        let reserved = refused(&[(CONFIG, "environ: {BACKENDAI_X: a}")]);
        assert!(reserved.contains("environ.BACKENDAI_X: names that begin with BACKENDAI_"), "{reserved}");
        let status = refused(&[(MODELS, "models: [{service: {health_check: {expected_status_code: 500}}}]")]);
        assert!(status.contains("models[0].service.health_check.expected_status_code: the kubelet"), "{status}");
    }
}
