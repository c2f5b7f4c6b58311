//! Log lines: their format, and their level, which a file can change while the operator runs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

/// How often the file is read. The kubelet brings a changed ConfigMap into a pod about once a minute.
const INTERVAL: Duration = Duration::from_secs(5);

const DEFAULT: &str = "info";

/// Kube's client warns of each certificate that it need not verify: of every kubelet that is asked for the traffic of pods. Its other
/// warning names the file of certificate authorities that it could not read again.
const QUIET: &str = "kube_client::client::tls=error,kube_client::client::tls[{path}]=warn";

/// Starts logging with the level in the file, in RUST_LOG, or `info`. Follows the file until the process ends. Needs a
/// tokio runtime.
pub fn start(json: bool, level_file: Option<PathBuf>) {
    let level = level_file.as_deref().and_then(|file| read(file).ok()).or_else(|| std::env::var("RUST_LOG").ok());
    let level = level.filter(|level| !level.is_empty()).unwrap_or_else(|| DEFAULT.into());
    let (filter, refused) = match filter(&level) {
        Ok(filter) => (filter, None),
        Err(error) => (filter(DEFAULT).unwrap_or_default(), Some(error)),
    };
    let (filter, handle) = reload::Layer::new(filter);
    tracing_subscriber::registry().with(filter).with(lines(json, std::io::stdout)).init();
    if let Some(error) = refused {
        tracing::warn!(filter = level, "not a log level, so {DEFAULT} holds: {error}");
    }
    follow(handle, level_file, level);
}

fn filter(level: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::try_new(format!("{QUIET},{level}"))
}

fn lines<S, W>(json: bool, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    match json {
        true => tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(writer).boxed(),
        false => tracing_subscriber::fmt::layer().with_writer(writer).boxed(),
    }
}

fn follow(handle: Handle<EnvFilter, Registry>, file: Option<PathBuf>, mut current: String) {
    let Some(file) = file else { return };
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(INTERVAL).await;
            match read(&file) {
                Ok(level) if level != current => {
                    current = level;
                    apply(&handle, &current);
                }
                Ok(_) => {}
                Err(error) => tracing::debug!("the log level cannot be read from {}: {error}", file.display()),
            }
        }
    });
}

fn apply(handle: &Handle<EnvFilter, Registry>, level: &str) {
    match filter(level).map(|filter| handle.reload(filter)) {
        Ok(Ok(())) => tracing::info!(filter = level, "the log level changed"),
        Ok(Err(_)) => {} // the process ends
        Err(error) => tracing::warn!(filter = level, "not a log level, so the old one stays: {error}"),
    }
}

/// Returns the level in a file. An empty file means the default.
fn read(file: &Path) -> std::io::Result<String> {
    let level = std::fs::read_to_string(file)?.trim().to_owned();
    Ok(if level.is_empty() { DEFAULT.into() } else { level })
}

#[cfg(test)]
mod tests {
    use tracing::level_filters::LevelFilter;

    use super::*;

    #[test]
    fn a_json_line_has_its_fields_at_the_top() {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let subscriber = tracing_subscriber::registry().with(lines(true, move || writer.try_clone().expect("a pipe")));
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(kind = "session", name = "train", attempt = 2, "committed");
        });
        let line: serde_json::Value =
            serde_json::Deserializer::from_reader(reader).into_iter().next().expect("a line").expect("JSON");
        let fields = ["kind", "name", "attempt", "message", "level"].map(|field| line[field].clone());
        assert_eq!(serde_json::json!(fields), serde_json::json!(["session", "train", 2, "committed", "INFO"]));
    }

    #[test]
    fn the_unverified_certificates_of_kubelets_make_no_lines() {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let lines = lines(true, move || writer.try_clone().expect("a pipe"));
        let subscriber = tracing_subscriber::registry().with(filter("debug").expect("a filter")).with(lines);
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(target: "kube_client::client::tls::rustls_tls", "Server cert bypassed");
            tracing::warn!(target: "kube_client::client::tls::rustls_tls", path = "ca.crt", "failed to reload");
        });
        let lines: Vec<serde_json::Value> =
            serde_json::Deserializer::from_reader(reader).into_iter().map(|line| line.expect("JSON")).collect();
        assert_eq!(lines.iter().map(|line| line["message"].as_str()).collect::<Vec<_>>(), [Some("failed to reload")]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_level_follows_the_file_and_a_wrong_one_changes_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("level");
        let (_layer, handle) = reload::Layer::new(EnvFilter::new("info"));
        follow(handle.clone(), Some(file.clone()), "info".into());
        let max = || handle.with_current(|filter| filter.max_level_hint()).expect("a filter");
        for (level, expected) in [
            ("debug\n", LevelFilter::DEBUG),
            ("no,level=at=all", LevelFilter::DEBUG),
            ("", LevelFilter::INFO),
            ("warn", LevelFilter::WARN),
        ] {
            std::fs::write(&file, level).expect("written");
            tokio::time::sleep(INTERVAL * 2).await;
            assert_eq!(max(), Some(expected), "{level}");
        }
        std::fs::remove_file(&file).expect("removed");
        tokio::time::sleep(INTERVAL * 2).await;
        assert_eq!(max(), Some(LevelFilter::WARN), "without a file the level stays");
    }
}
