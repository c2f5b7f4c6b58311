//! The format of the files of a model definition: their fields, their limits, and how one part goes above another.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::api::{HealthCheck, HealthCheckType, Variant};

/// `model-definition.yaml`. It describes one model.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Models {
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
    pub fn only(mut self) -> Result<Section, String> {
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
pub struct Config {
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
    pub fn root(&self) -> Section {
        Section { model_path: self.model_path.clone(), environ: self.environ.clone(), service: self.service.clone() }
    }

    pub fn of(&self, variant: Option<Variant>) -> Option<Section> {
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

/// The fields that every part of the files may have. A field that is null counts as absent.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Section {
    pub model_path: Option<String>,
    pub environ: Option<Environ>,
    pub service: Option<Service>,
}

pub type Environ = BTreeMap<String, Option<Scalar>>;

/// A value of a variable, as YAML reads it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Scalar {
    Flag(bool),
    Whole(i64),
    Number(f64),
    Text(String),
}

impl Scalar {
    pub fn text(&self) -> String {
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
pub struct Service {
    start_command: Option<Command>,
    /// The shell of a start command that is one string.
    shell: Option<String>,
    pub port: Option<i32>,
    pub health_check: Option<Check>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Command {
    Line(String),
    Words(Vec<String>),
}

/// A health check, field by field.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
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
    pub fn below(self, above: Self) -> Self {
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
    pub fn check(&self, within: &str) -> Result<(), String> {
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
    pub fn below(self, above: Self) -> Self {
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

    pub fn command(&self) -> Option<Vec<String>> {
        match self.start_command.as_ref()? {
            Command::Words(words) => Some(words.clone()),
            Command::Line(line) => {
                let shell = self.shell.clone().unwrap_or_else(|| "/bin/sh".into());
                Some(vec![shell, "-c".into(), line.clone()])
            }
        }
    }

    pub fn check(&self, within: &str) -> Result<(), String> {
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
    pub fn below(self, above: Self) -> Self {
        Self {
            path: above.path.or(self.path),
            interval: above.interval.or(self.interval),
            max_wait_time: above.max_wait_time.or(self.max_wait_time),
            max_retries: above.max_retries.or(self.max_retries),
            expected_status_code: above.expected_status_code.or(self.expected_status_code),
            _initial_delay: None,
        }
    }

    pub fn complete(self, variant: Option<Variant>) -> HealthCheck {
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
