//! Generates the tables of handlers in the docs from their rows, and checks that they are current.

use std::path::Path;

use sokovan::deployment::Deployments;
use sokovan::lifecycle::{Handler, HandlerName, Mode, Subject, To};
use sokovan::route::Routes;
use sokovan::session::sessions::Sessions;

fn phases<P: ToString>(phases: impl IntoIterator<Item = P>) -> String {
    phases.into_iter().map(|phase| phase.to_string()).collect::<Vec<_>>().join(", ")
}

fn transition<P: ToString>(to: Option<To<P>>) -> String {
    match to {
        None => String::new(),
        Some(to) if to.restarts => format!("{}, reset", to.phase.to_string()),
        Some(to) => to.phase.to_string(),
    }
}

/// Returns the phases of a handler's objects, shortened to a range such as `Pending to Terminating` if there are many.
fn targets<S: Subject>(handler: &Handler<S>) -> String {
    match handler.targets {
        [first, .., last] if handler.targets.len() > 4 => format!("{first} to {last}"),
        few => phases(few.iter().copied()),
    }
}

fn row<S: Subject>(handler: &Handler<S>) -> String {
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

fn table<S: Subject>() -> String {
    let name = S::NAME;
    let heading = format!("| handler | {name}s in | mode | success | retry | expired | gave up | refused | lock |\n");
    let rule = "|---|---|---|---|---|---|---|---|---|\n".to_owned();
    [heading, rule].into_iter().chain(S::table().iter().map(|handler| row(handler))).collect()
}

/// Checks the table between its markers in a page, or writes it.
fn check<S: Subject>(page: &str) {
    let (begin, end) = (format!("<!-- {} handlers: generated -->\n", S::NAME), "<!-- /handlers -->");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
    let text = std::fs::read_to_string(&path).expect("the page");
    let (before, rest) = text.split_once(&begin).expect("a marker before the table");
    let (_, after) = rest.split_once(end).expect("a marker after the table");
    let fresh = format!("{before}{begin}{}{end}{after}", table::<S>());
    if std::env::var_os("WRITE_HANDLERS").is_some() {
        std::fs::write(&path, &fresh).expect("the page can be written");
    }
    assert!(text == fresh || std::env::var_os("WRITE_HANDLERS").is_some(), "{page} is out of date: run make handlers");
}

#[test]
fn the_tables_of_handlers_match_their_rows() {
    check::<Sessions>("docs/lifecycle.md");
    check::<Deployments>("docs/deployments.md");
    check::<Routes>("docs/deployments.md");
}
