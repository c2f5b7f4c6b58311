//! Model definitions: what the files of a ConfigMap say about a server. Files fill in what a deployment leaves open.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::revision::Invalid;
use crate::api::{
    DefinitionSource, EnvVar, HealthCheck, HealthCheckType, LABEL_MODEL_DEFINITION, MAIN_ROLE, ModelSpec, SessionSpec, Variant,
};

/// The most bytes of one file.
const MAX_FILE: usize = 65_536;

/// What the files say, merged: the model definition, before the variant's section, before the root of the deployment config.
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

/// `model-definition.yaml`. It describes one model.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Models {
    #[serde(default)]
    models: Vec<Model>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Model {
    #[serde(rename = "name")]
    _name: Option<String>,
    #[serde(rename = "metadata")]
    _metadata: Option<IgnoredAny>,
    model_path: Option<String>,
    environ: Option<Environ>,
    service: Option<Service>,
}

impl Models {
    fn only(mut self) -> Result<Section, String> {
        match self.models.len() {
            0 => Ok(Section::default()),
            1 => {
                let Model { model_path, environ, service, .. } = self.models.remove(0);
                Ok(Section { model_path, environ, service })
            }
            count => Err(format!("models: it describes {count} models, and a deployment serves one")),
        }
    }
}

/// `deployment-config.yaml`: what holds for every variant, and a section for each.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    model_path: Option<String>,
    environ: Option<Environ>,
    service: Option<Service>,
    vllm: Option<Section>,
    nim: Option<Section>,
    tgi: Option<Section>,
    sglang: Option<Section>,
    #[serde(rename = "llama-cpp")]
    llama_cpp: Option<Section>,
    custom: Option<Section>,
}

impl Config {
    fn root(&self) -> Section {
        Section { model_path: self.model_path.clone(), environ: self.environ.clone(), service: self.service.clone() }
    }

    fn of(&self, variant: Option<Variant>) -> Option<Section> {
        match variant? {
            Variant::Vllm => self.vllm.clone(),
            Variant::Nim => self.nim.clone(),
            Variant::Tgi => self.tgi.clone(),
            Variant::Sglang => self.sglang.clone(),
            Variant::LlamaCpp => self.llama_cpp.clone(),
            Variant::Custom => self.custom.clone(),
        }
    }
}

/// What every part of the files may say. A field that is null counts as absent.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Section {
    model_path: Option<String>,
    environ: Option<Environ>,
    service: Option<Service>,
}

type Environ = BTreeMap<String, Option<Scalar>>;

/// A value of a variable, as YAML reads it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
enum Scalar {
    Flag(bool),
    Whole(i64),
    Number(f64),
    Text(String),
}

impl Scalar {
    fn text(&self) -> String {
        match self {
            Self::Flag(value) => value.to_string(),
            Self::Whole(value) => value.to_string(),
            Self::Number(value) => value.to_string(),
            Self::Text(value) => value.clone(),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Service {
    start_command: Option<Command>,
    /// The shell of a start command that is one string.
    shell: Option<String>,
    port: Option<i32>,
    health_check: Option<Check>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
enum Command {
    Line(String),
    Words(Vec<String>),
}

/// A health check, field by field.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Check {
    path: Option<String>,
    interval: Option<f64>,
    max_wait_time: Option<f64>,
    max_retries: Option<i32>,
    expected_status_code: Option<i32>,
    /// The time until the first check. It has no effect: a check that fails does no harm before the server is up.
    #[serde(rename = "initial_delay")]
    _initial_delay: Option<IgnoredAny>,
}

impl Section {
    /// This section with another above it, whose fields come first.
    fn below(self, above: Self) -> Self {
        let environ = match (self.environ, above.environ) {
            (Some(mut below), Some(above)) => {
                below.extend(above.into_iter().filter(|(_, value)| value.is_some()));
                Some(below)
            }
            (below, above) => above.or(below),
        };
        let service = match (self.service, above.service) {
            (Some(below), Some(above)) => Some(below.below(above)),
            (below, above) => above.or(below),
        };
        Self { model_path: above.model_path.or(self.model_path), environ, service }
    }

    /// Refuses what the CRD of sessions would refuse, so that no replica is made in vain.
    fn check(&self, within: &str) -> Result<(), String> {
        let refuse = |field: &str, why: &str| Err(format!("{within}{field}: {why}"));
        if self.model_path.as_ref().is_some_and(|path| path.is_empty() || path.len() > 1024) {
            return refuse("model_path", "it must have 1 to 1024 bytes");
        }
        for (name, value) in self.environ.iter().flatten() {
            let first = name.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
            if !first || name.len() > 128 || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                return refuse(&format!("environ.{name}"), "a name has letters, digits and _, and does not begin with a digit");
            }
            if name.starts_with("BACKENDAI_") {
                return refuse(&format!("environ.{name}"), "names that begin with BACKENDAI_ are reserved");
            }
            if value.as_ref().is_some_and(|value| value.text().len() > 32_768) {
                return refuse(&format!("environ.{name}"), "it has more than 32768 bytes");
            }
        }
        if self.environ.as_ref().is_some_and(|environ| environ.len() > 200) {
            return refuse("environ", "it has more than 200 variables");
        }
        self.service.as_ref().map_or(Ok(()), |service| service.check(&format!("{within}service.")))
    }
}

impl Service {
    fn below(self, above: Self) -> Self {
        let health_check = match (self.health_check, above.health_check) {
            (Some(below), Some(above)) => Some(below.below(above)),
            (below, above) => above.or(below),
        };
        Self {
            start_command: above.start_command.or(self.start_command),
            shell: above.shell.or(self.shell),
            port: above.port.or(self.port),
            health_check,
        }
    }

    fn command(&self) -> Option<Vec<String>> {
        match self.start_command.as_ref()? {
            Command::Words(words) => Some(words.clone()),
            Command::Line(line) => {
                let shell = self.shell.clone().unwrap_or_else(|| "/bin/sh".into());
                Some(vec![shell, "-c".into(), line.clone()])
            }
        }
    }

    fn check(&self, within: &str) -> Result<(), String> {
        let refuse = |field: &str, why: &str| Err(format!("{within}{field}: {why}"));
        if self.port.is_some_and(|port| !(1..=65_535).contains(&port)) {
            return refuse("port", "it must be from 1 to 65535");
        }
        if let Some(words) = self.command()
            && (words.is_empty() || words.len() > 64 || words.iter().any(|word| word.len() > 16_384))
        {
            return refuse("start_command", "it must have 1 to 64 words of at most 16384 bytes");
        }
        let Some(check) = &self.health_check else { return Ok(()) };
        if check.path.as_ref().is_some_and(|path| !path.starts_with('/') || path.len() > 512) {
            return refuse("health_check.path", "it must begin with / and have at most 512 bytes");
        }
        if [check.interval, check.max_wait_time].iter().flatten().any(|seconds| !(0.0..=3600.0).contains(seconds)) {
            return refuse("health_check", "interval and max_wait_time must be from 0 to 3600 seconds");
        }
        if check.max_retries.is_some_and(|count| !(1..=100).contains(&count)) {
            return refuse("health_check.max_retries", "it must be from 1 to 100");
        }
        match check.expected_status_code {
            Some(code) if !(200..=399).contains(&code) => refuse(
                "health_check.expected_status_code",
                "the kubelet takes every status from 200 to 399 as healthy and no other",
            ),
            Some(_) | None => Ok(()),
        }
    }
}

impl Check {
    fn below(self, above: Self) -> Self {
        Self {
            path: above.path.or(self.path),
            interval: above.interval.or(self.interval),
            max_wait_time: above.max_wait_time.or(self.max_wait_time),
            max_retries: above.max_retries.or(self.max_retries),
            expected_status_code: above.expected_status_code.or(self.expected_status_code),
            _initial_delay: None,
        }
    }

    fn complete(self, variant: Option<Variant>) -> HealthCheck {
        let default = HealthCheck::default();
        HealthCheck {
            type_: HealthCheckType::Http,
            path: self.path.unwrap_or_else(|| variant.map_or(default.path, |variant| variant.defaults().1.into())),
            interval_seconds: self.interval.map_or(default.interval_seconds, whole_seconds),
            timeout_seconds: self.max_wait_time.map_or(default.timeout_seconds, whole_seconds),
            failure_threshold: self.max_retries.unwrap_or(default.failure_threshold),
            expected_status: self.expected_status_code,
            ..default
        }
    }
}

/// The kubelet counts in whole seconds, from one on.
fn whole_seconds(seconds: f64) -> i32 {
    #[allow(clippy::cast_possible_truncation, reason = "checked to be from 0 to 3600")]
    let whole = seconds.ceil() as i32;
    whole.max(1)
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
