//! The gate: holds a kernel's start until its whole session may start. It runs in the kernel's own image as an init
//! container, so that the image is there before anything starts; it needs nothing of that image.
//!
//!     gate copy FILE   copies itself to FILE, for the container that follows
//!     gate wait FILE   waits until FILE, which shows the pod's annotation, says `open`

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use signal_hook::consts::SIGTERM;

const OPEN: &str = "open";
const LOOK_EVERY: Duration = Duration::from_millis(50);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["copy", file] => copy(file),
        ["wait", file] => wait(file),
        _ => {
            eprintln!("usage: gate copy FILE | gate wait FILE");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gate: {error}");
            ExitCode::FAILURE
        }
    }
}

fn copy(file: &str) -> io::Result<()> {
    let mut from = fs::File::open("/proc/self/exe")?;
    let mut to = OpenOptions::new().write(true).create(true).truncate(true).mode(0o755).open(file)?;
    io::copy(&mut from, &mut to).map(|_| ())
}

/// How long it waits is the session's to bound: it is deleted or reset when it takes too long. Nobody ends the first
/// process of a container by a signal that it does not ask for, so it does: else ending it took the whole grace period.
fn wait(file: &str) -> io::Result<()> {
    let ending = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(SIGTERM, ending.clone())?;
    while !fs::read_to_string(file).is_ok_and(|content| content.trim() == OPEN) {
        if ending.load(Ordering::Relaxed) {
            return Err(io::Error::other("ended before it was opened"));
        }
        thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_when_it_is_asked_to_though_it_was_not_opened() {
        signal_hook::flag::register(SIGTERM, Arc::default()).expect("a handler, so that the test itself lives on");
        let waiting = thread::spawn(|| wait("/nowhere"));
        for _ in 0..200 {
            signal_hook::low_level::raise(SIGTERM).expect("raised");
            thread::sleep(LOOK_EVERY);
            if waiting.is_finished() {
                break;
            }
        }
        assert!(waiting.is_finished() && waiting.join().expect("no panic").is_err());
    }

    #[test]
    fn it_passes_once_it_is_opened() {
        let file = std::env::temp_dir().join(format!("gate-{}", std::process::id()));
        fs::write(&file, "open\n").expect("written");
        assert!(wait(&file.to_string_lossy()).is_ok());
        fs::remove_file(&file).expect("removed");
    }
}
