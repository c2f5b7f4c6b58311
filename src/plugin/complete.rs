//! Completion of commands, options and names, in the form that kubectl asks its plugins for.

use clap::CommandFactory;
use kube::ResourceExt;
use kube::api::ListParams;

use super::fetch::Reader;
use crate::api::{Deployment, Session};

/// Candidates are not files. The number is cobra's, whose protocol kubectl speaks.
const NO_FILES: u8 = 4;
const FILES: u8 = 0;
/// The most names of a kind.
const MAX: u32 = 500;

/// The words that complete the last one.
#[derive(Debug, Default, PartialEq, Eq)]
struct Candidates {
    words: Vec<String>,
    /// Whether names of sessions and deployments fit too.
    names: bool,
    files: bool,
}

/// Returns the lines that kubectl reads: candidates, then what else may be completed.
pub async fn run(words: &[String], reader: &Reader) -> String {
    let known = candidates(&super::Arguments::command(), words);
    let begun = words.last().map(String::as_str).unwrap_or_default();
    let mut lines = known.words;
    if known.names {
        lines.extend(names(reader).await.into_iter().filter(|name| name.starts_with(begun)));
    }
    lines.push(format!(":{}", if known.files { FILES } else { NO_FILES }));
    lines.join("\n")
}

fn candidates(root: &clap::Command, words: &[String]) -> Candidates {
    let Some((begun, before)) = words.split_last() else { return Candidates::default() };
    let mut command = root;
    for word in before {
        command = command.find_subcommand(word).unwrap_or(command);
    }
    let fitting = |words: Vec<String>| {
        let words = words.into_iter().filter(|word| word.starts_with(begun.as_str())).collect();
        Candidates { words, ..Candidates::default() }
    };
    if begun.starts_with('-') {
        let options = command.get_arguments().chain(root.get_arguments().filter(|argument| argument.is_global_set()));
        return fitting(options.filter_map(|option| option.get_long().map(|long| format!("--{long}"))).collect());
    }
    if command.has_subcommands() {
        let visible = command.get_subcommands().filter(|command| !command.is_hide_set());
        return fitting(visible.map(|command| command.get_name().to_owned()).collect());
    }
    Candidates { words: vec![], names: true, files: command.get_name() == "cp" }
}

/// Returns the names of sessions and deployments. Kinds that the user may not list are left out.
async fn names(reader: &Reader) -> Vec<String> {
    let params = ListParams::default().limit(MAX);
    let sessions = reader.namespaced::<Session>().list_metadata(&params).await.map(|list| list.items).unwrap_or_default();
    let deployments = reader.namespaced::<Deployment>().list_metadata(&params).await.map(|list| list.items).unwrap_or_default();
    let deployments = deployments.iter().map(|object| format!("sdep/{}", object.name_any()));
    sessions.iter().map(ResourceExt::name_any).chain(deployments).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(line: &[&str]) -> Candidates {
        let words: Vec<String> = line.iter().map(|word| (*word).to_owned()).collect();
        candidates(&super::super::Arguments::command(), &words)
    }

    #[test]
    fn commands_options_and_names_are_completed_where_they_fit() {
        assert_eq!(completed(&["exp"]).words, ["explain"]);
        assert_eq!(completed(&["rollout", "un"]).words, ["undo"]);
        assert!(completed(&["logs", "--ta"]).words.contains(&"--tail".to_owned()));
        assert!(completed(&["logs", "--name"]).words.contains(&"--namespace".to_owned()));
        assert_eq!(completed(&["logs", "tr"]), Candidates { words: vec![], names: true, files: false });
        assert!(completed(&["cp", "./a"]).files);
        assert!(completed(&["__"]).words.is_empty(), "what people do not type is not offered");
    }

    #[test]
    fn the_command_line_is_consistent() {
        super::super::Arguments::command().debug_assert();
    }
}
