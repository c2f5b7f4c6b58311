//! Log lines: their format, and their level, which a file can change while the operator runs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

/// How often the file is read. The kubelet brings a changed ConfigMap into a pod about once a minute.
const INTERVAL: Duration = Duration::from_secs(5);

/// Starts logging with the level in the file, in RUST_LOG, or `info`. Follows the file until the process ends. Needs a
/// tokio runtime.
pub fn start(json: bool, level_file: Option<PathBuf>) {
    let initial = level_file.as_deref().and_then(|file| read(file).ok()).unwrap_or_default();
    let filter = EnvFilter::try_new(&initial).ok().filter(|_| !initial.is_empty());
    let filter = filter.or_else(|| EnvFilter::try_from_default_env().ok()).unwrap_or_else(|| EnvFilter::new("info"));
    let (filter, handle) = reload::Layer::new(filter);
    let lines = match json {
        true => tracing_subscriber::fmt::layer().json().flatten_event(true).boxed(),
        false => tracing_subscriber::fmt::layer().boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).init();
    follow(handle, level_file, initial);
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
    match EnvFilter::try_new(level).map(|filter| handle.reload(filter)) {
        Ok(Ok(())) => tracing::info!(level, "the log level changed"),
        Ok(Err(_)) => {} // the process ends
        Err(error) => tracing::warn!(level, "not a log level, so the old one stays: {error}"),
    }
}

fn read(file: &Path) -> std::io::Result<String> {
    Ok(std::fs::read_to_string(file)?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use tracing::level_filters::LevelFilter;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_level_follows_the_file_and_a_wrong_one_changes_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("level");
        let (_layer, handle) = reload::Layer::new(EnvFilter::new("info"));
        follow(handle.clone(), Some(file.clone()), "info".into());
        let max = || handle.with_current(|filter| filter.max_level_hint()).expect("a filter");
        for (level, expected) in
            [("debug\n", LevelFilter::DEBUG), ("no,level=at=all", LevelFilter::DEBUG), ("warn", LevelFilter::WARN)]
        {
            std::fs::write(&file, level).expect("written");
            tokio::time::sleep(INTERVAL * 2).await;
            assert_eq!(max(), Some(expected), "{level}");
        }
        std::fs::remove_file(&file).expect("removed");
        tokio::time::sleep(INTERVAL * 2).await;
        assert_eq!(max(), Some(LevelFilter::WARN), "without a file the level stays");
    }
}
