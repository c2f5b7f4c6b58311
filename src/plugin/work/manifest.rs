//! The session that `run` creates. Pure.

use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value, json};

use crate::api::{MAIN_ROLE, Session, SessionType};
use crate::plugin::rollout::duration;

/// The kernels' default request.
const CPU: &str = "1";
const MEMORY: &str = "1Gi";
/// The accelerators of --gpu.
const GPU: &str = "nvidia.com/gpu";

#[derive(Args)]
pub struct RunArgs {
    /// The name of the session. If absent, one is made of the image's or the template's name.
    pub name: Option<String>,
    /// The container image.
    #[arg(long, required_unless_present = "template", conflicts_with = "template")]
    image: Option<String>,
    /// The SessionTemplate to take the kernels from.
    #[arg(long)]
    pub template: Option<String>,
    /// A parameter of the template.
    #[arg(long = "set", value_name = "PARAMETER=VALUE", value_parser = pair, requires = "template", conflicts_with = "image")]
    parameters: Vec<(String, String)>,
    /// Cores of each kernel; 1 if absent.
    #[arg(long, conflicts_with = "template")]
    cpu: Option<String>,
    /// Memory of each kernel, for example 4Gi; 1Gi if absent.
    #[arg(long, conflicts_with = "template")]
    memory: Option<String>,
    /// GPUs of each kernel (nvidia.com/gpu).
    #[arg(long, conflicts_with = "template")]
    gpu: Option<u32>,
    /// Another resource of each kernel.
    #[arg(short, long = "resource", value_name = "NAME=AMOUNT", value_parser = pair, conflicts_with = "template")]
    resources: Vec<(String, String)>,
    /// The number of kernels: main1 and sub1 to subN.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..=128), conflicts_with = "template")]
    kernels: i32,
    /// The keypair that owns the session. If absent, the only one that you may use.
    #[arg(long, env = "SOKOVAN_ACCESS_KEY")]
    pub access_key: Option<String>,
    /// The scaling group. If absent, the only one that you may use.
    #[arg(long, env = "SOKOVAN_SCALING_GROUP")]
    pub scaling_group: Option<String>,
    /// The type. If absent, Batch with a command, else Interactive.
    #[arg(long = "type", value_parser = session_type)]
    type_: Option<SessionType>,
    /// From 0 to 100. A higher priority comes first.
    #[arg(long, value_parser = clap::value_parser!(i32).range(0..=100))]
    priority: Option<i32>,
    /// An environment variable.
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = pair)]
    env: Vec<(String, String)>,
    /// A port of the main kernel.
    #[arg(short, long = "port", value_name = "NAME=PORT", value_parser = pair)]
    ports: Vec<(String, String)>,
    /// A volume claim to mount.
    #[arg(short, long = "volume", value_name = "CLAIM=PATH", value_parser = pair)]
    volumes: Vec<(String, String)>,
    /// The longest run time of a Batch session, for example 1h.
    #[arg(long, value_parser = duration)]
    batch_timeout: Option<Duration>,
    /// Open a shell, or run the command, in the session once it runs. The kernels run `sleep infinity` instead of the image's program.
    #[arg(short = 'i', long)]
    pub stdin: bool,
    /// Allocate a terminal. Needs -i.
    #[arg(short, long, requires = "stdin")]
    pub tty: bool,
    /// Wait until the session runs, or, with a Batch session, until it has ended. The exit code is that of `wait`.
    #[arg(long)]
    pub wait: bool,
    /// Delete the session afterwards. Needs --wait or -i.
    #[arg(long)]
    pub rm: bool,
    /// Print the session and do not create it.
    #[arg(long)]
    pub dry_run: bool,
    /// The command of the kernels and its arguments, in place of the image's own.
    #[arg(last = true)]
    pub command: Vec<String>,
}

/// `NAME=VALUE`.
fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        Some(_) | None => Err("give NAME=VALUE".into()),
    }
}

fn session_type(text: &str) -> Result<SessionType, String> {
    match text.to_lowercase().as_str() {
        "interactive" => Ok(SessionType::Interactive),
        "batch" => Ok(SessionType::Batch),
        _ => Err("use Interactive or Batch".into()),
    }
}

impl RunArgs {
    pub fn type_(&self) -> SessionType {
        let runs_command = !self.command.is_empty() && !self.stdin;
        self.type_.unwrap_or(if runs_command { SessionType::Batch } else { SessionType::Interactive })
    }

    /// Returns the command that is run in the session once that runs. None means a shell.
    pub fn command_inside(&self) -> Option<&[String]> {
        Some(self.command.as_slice()).filter(|command| !command.is_empty())
    }

    /// Refuses options that contradict each other.
    pub fn check(&self) -> Result<(), String> {
        if self.rm && !(self.wait || self.stdin) {
            return Err("--rm needs --wait or -i: nothing would wait for the session".into());
        }
        if self.stdin && self.type_() == SessionType::Batch {
            return Err("-i needs a session of type Interactive".into());
        }
        Ok(())
    }

    /// Returns the session. Errors name the option that cannot be read.
    pub fn session(&self, name: &str, access_key: &str, scaling_group: Option<&str>) -> Result<Session, String> {
        let mut main = self.kernel();
        let mut kernels = vec![];
        if self.kernels > 1 {
            let mut sub = main.clone();
            sub.insert("role".into(), json!("sub"));
            sub.insert("replicas".into(), json!(self.kernels - 1));
            kernels.push(Value::Object(sub));
        }
        if !self.ports.is_empty() {
            main.insert("ports".into(), json!(self.ports()?));
        }
        kernels.insert(0, Value::Object(main));
        let mut spec = json!({"type": self.type_(), "accessKey": access_key, "kernels": kernels});
        if self.kernels > 1 {
            spec["clusterMode"] = json!("MultiNode");
        }
        if let Some(template) = &self.template {
            let parameters: Map<String, Value> =
                self.parameters.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
            spec["template"] = json!({"name": template, "parameters": parameters});
        }
        let seconds = self.batch_timeout.map(|limit| limit.as_secs());
        let options =
            [("scalingGroup", json!(scaling_group)), ("priority", json!(self.priority)), ("batchTimeoutSeconds", json!(seconds))];
        options.into_iter().filter(|(_, value)| !value.is_null()).for_each(|(field, value)| spec[field] = value);
        let spec = serde_json::from_value(spec).map_err(|error| error.to_string())?;
        Ok(Session::new(name, spec))
    }

    /// Returns the kernel, without role-specific fields. With a template, it has only what the session adds to the template's.
    fn kernel(&self) -> Map<String, Value> {
        let mut kernel = Map::from_iter([("role".into(), json!(MAIN_ROLE))]);
        if let Some(image) = &self.image {
            let (cpu, memory) = (self.cpu.as_deref().unwrap_or(CPU), self.memory.as_deref().unwrap_or(MEMORY));
            let mut resources = json!({"cpu": cpu, "memory": memory});
            if let Some(count) = self.gpu {
                resources[GPU] = json!(count.to_string());
            }
            self.resources.iter().for_each(|(name, amount)| resources[name] = json!(amount));
            kernel.extend([("image".into(), json!(image)), ("resources".into(), resources)]);
        }
        if self.stdin {
            // The program of most images ends at once without a terminal.
            kernel.insert("command".into(), json!(["sleep", "infinity"]));
        } else if !self.command.is_empty() {
            kernel.insert("command".into(), json!(self.command));
        }
        let env: Vec<Value> = self.env.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
        let volume = |(claim, path): &(String, String)| json!({"claimName": claim, "mountPath": path});
        let lists = [("env", env), ("volumes", self.volumes.iter().map(volume).collect())];
        kernel.extend(lists.into_iter().filter(|(_, list)| !list.is_empty()).map(|(name, list)| (name.into(), json!(list))));
        kernel
    }

    fn ports(&self) -> Result<Vec<Value>, String> {
        let port = |(name, number): &(String, String)| match number.parse::<u16>() {
            Ok(number) => Ok(json!({"name": name, "containerPort": number})),
            Err(_) => Err(format!("--port {name}={number}: {number} is not a valid port number")),
        };
        self.ports.iter().map(port).collect()
    }

    /// Returns a name for the session: the image's or the template's, and letters that differ each time.
    pub fn new_name(&self, salt: &str) -> String {
        let source = self.template.as_ref().or(self.image.as_ref()).map_or("", String::as_str);
        let last = source.rsplit('/').next().unwrap_or_default();
        let base: String = last.chars().take_while(|c| !matches!(c, ':' | '@')).collect();
        let plain = base.to_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        let plain: String = plain.trim_matches('-').chars().take(MAX_BASE).collect();
        let base = if plain.is_empty() { "session" } else { plain.trim_end_matches('-') };
        format!("{base}-{}", crate::api::short_hash(salt))
    }
}

/// A session's name has at most 40 characters, nine of which are added.
const MAX_BASE: usize = 31;

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Arguments {
        #[command(flatten)]
        run: RunArgs,
    }

    fn parsed(line: &str) -> RunArgs {
        let words = std::iter::once("run").chain(line.split_whitespace());
        Arguments::try_parse_from(words).expect("valid").run
    }

    fn made(line: &str) -> Value {
        json!(parsed(line).session("s", "k", Some("g")).expect("a session"))["spec"].clone()
    }

    #[test]
    fn a_command_makes_a_batch_and_none_an_interactive_session() {
        let batch = made("--image busybox:1 --cpu 2 -e A=b=c -- sh -c true");
        assert_eq!((&batch["type"], &batch["accessKey"], &batch["scalingGroup"]), (&json!("Batch"), &json!("k"), &json!("g")));
        let kernel = &batch["kernels"][0];
        assert_eq!(kernel["command"], json!(["sh", "-c", "true"]));
        assert_eq!(kernel["resources"], json!({"cpu": "2", "memory": "1Gi"}));
        assert_eq!(kernel["env"], json!([{"name": "A", "value": "b=c"}]));
        assert_eq!(made("--image jupyter")["type"], json!("Interactive"));
        let shell = made("--image busybox:1 -i -t -- top");
        assert_eq!((&shell["type"], &shell["kernels"][0]["command"]), (&json!("Interactive"), &json!(["sleep", "infinity"])));
    }

    #[test]
    fn more_kernels_are_a_gang_over_nodes_and_only_main_has_ports() {
        let gang = made("--image a --kernels 3 --gpu 1 -r example.com/nic=2 --port web=80");
        assert_eq!(gang["clusterMode"], json!("MultiNode"));
        assert_eq!((&gang["kernels"][1]["role"], &gang["kernels"][1]["replicas"]), (&json!("sub"), &json!(2)));
        assert_eq!(gang["kernels"][1]["resources"]["nvidia.com/gpu"], json!("1"));
        assert_eq!(gang["kernels"][0]["resources"]["example.com/nic"], json!("2"));
        assert_eq!(gang["kernels"][0]["ports"][0]["containerPort"], json!(80));
        assert!(gang["kernels"][1].get("ports").is_none());
        assert!(parsed("--image a --port web=x").session("s", "k", None).is_err_and(|why| why.contains("web=x")));
    }

    #[test]
    fn a_session_with_a_template_has_only_what_it_adds_to_it() {
        let spec = made("--template torch --set gpus=2 -e A=b --volume data=/data -- python train.py");
        assert_eq!(spec["template"], json!({"name": "torch", "parameters": {"gpus": "2"}}));
        let added = json!({"command": ["python", "train.py"], "env": [{"name": "A", "value": "b"}],
            "volumes": [{"claimName": "data", "mountPath": "/data"}]});
        assert_eq!((&spec["type"], &spec["kernels"]), (&json!("Batch"), &json!([added])));
        for words in ["--template t --image i", "--template t --cpu 2", "--image i --set a=b", "--cpu 1"] {
            assert!(Arguments::try_parse_from(std::iter::once("run").chain(words.split(' '))).is_err(), "{words}");
        }
    }

    #[test]
    fn options_that_do_not_go_together_are_refused() {
        assert!(parsed("--image a --rm").check().is_err() && parsed("--image a --rm --wait").check().is_ok());
        assert!(parsed("--image a -i --type Batch").check().is_err());
        assert!(Arguments::try_parse_from(["run", "--image", "a", "-t"]).is_err());
    }

    #[test]
    fn a_name_is_made_of_the_image_or_the_template() {
        let name = |image: &str| parsed(&format!("--image {image}")).new_name("x");
        assert!(name("registry.example:5000/team/PyTorch_2.1:latest").starts_with("pytorch-2-1-"));
        assert!(name(&"x".repeat(90)).len() <= 40 && name("_").starts_with("session-"));
        assert!(parsed("--template pytorch-1gpu").new_name("x").starts_with("pytorch-1gpu-"));
        assert_ne!(parsed("--image a").new_name("1"), parsed("--image a").new_name("2"));
    }
}
