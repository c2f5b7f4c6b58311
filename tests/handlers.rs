//! Generates the table of handlers in docs/lifecycle.md from their rows, and checks that it is current.

use std::path::Path;

use sokovan::session::handlers::{HANDLERS, Handler, Mode, To};

const BEGIN: &str = "<!-- handlers: generated -->\n";
const END: &str = "<!-- /handlers -->";

fn phases(phases: impl IntoIterator<Item = sokovan::api::SessionPhase>) -> String {
    phases.into_iter().map(|phase| phase.to_string()).collect::<Vec<_>>().join(", ")
}

fn transition(to: Option<To>) -> String {
    match to {
        None => String::new(),
        Some(to) if to.restarts => format!("{}, reset", to.phase),
        Some(to) => to.phase.to_string(),
    }
}

/// Returns the phases of a handler's sessions, shortened to a range such as `Pending to Terminating` if there are many.
fn targets(handler: &Handler) -> String {
    match handler.targets {
        [first, .., last] if handler.targets.len() > 3 => format!("{first} to {last}"),
        few => phases(few.iter().copied()),
    }
}

fn row(handler: &Handler) -> String {
    let transitions = &handler.transitions;
    let success = [transition(transitions.success), phases(transitions.exits.iter().copied())];
    let success = success.into_iter().filter(|words| !words.is_empty()).collect::<Vec<_>>().join(", ");
    let mode = match handler.mode {
        Mode::Acts => "acts",
        Mode::Evaluates => "evaluates",
        Mode::Waits => "waits",
        Mode::Restarts(_) => "counts resets",
    };
    let lock = handler.lock.map(|lock| format!("{lock:?}")).unwrap_or_default();
    let [retry, expired, gave_up, refused] =
        [transitions.need_retry, transitions.expired, transitions.give_up, transitions.refused].map(transition);
    let (name, targets) = (handler.name.as_str(), targets(handler));
    format!("| {name} | {targets} | {mode} | {success} | {retry} | {expired} | {gave_up} | {refused} | {lock} |\n")
}

#[test]
fn the_table_of_handlers_matches_their_rows() {
    let heading = "| handler | sessions in | mode | success | retry | expired | gave up | refused | lock |\n";
    let rule = "|---|---|---|---|---|---|---|---|---|\n";
    let table: String =
        [heading.to_owned(), rule.to_owned()].into_iter().chain(HANDLERS.iter().map(|handler| row(handler))).collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/lifecycle.md");
    let page = std::fs::read_to_string(&path).expect("the page");
    let (before, rest) = page.split_once(BEGIN).expect("a marker before the table");
    let (_, after) = rest.split_once(END).expect("a marker after the table");
    let fresh = format!("{before}{BEGIN}{table}{END}{after}");
    if std::env::var_os("WRITE_HANDLERS").is_some() {
        std::fs::write(&path, &fresh).expect("the page can be written");
    }
    assert!(page == fresh || std::env::var_os("WRITE_HANDLERS").is_some(), "docs/lifecycle.md is out of date: run make handlers");
}
