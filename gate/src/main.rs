//! The gate: an init container that holds a kernel back until its whole session can start. It runs in the kernel's image, so
//! that the image is pulled before anything starts. It needs nothing from that image.
//!
//!     gate copy FILE   copies itself to FILE, for the next container
//!     gate wait FILE   waits until FILE, which shows the pod's annotation, contains `open`

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
const POLL_INTERVAL: Duration = Duration::from_millis(50);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["copy", file] => copy(file),
        ["wait", file] => wait(file),
        _ => {
            eprintln!("usage: gate copy FILE | gate wait FILE");
            return ExitCode::from(2);
        }
    };
    match result {
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

/// The wait has no timeout: the operator deletes or resets a session that takes too long. For the first process of a
/// container, Linux ignores every signal that has no handler. Without the handler for SIGTERM, stopping would take the whole
/// grace period.
fn wait(file: &str) -> io::Result<()> {
    let stopping = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(SIGTERM, stopping.clone())?;
    while !fs::read_to_string(file).is_ok_and(|content| content.trim() == OPEN) {
        if stopping.load(Ordering::Relaxed) {
            return Err(io::Error::other("stopped by SIGTERM before the gate was opened"));
        }
        thread::sleep(POLL_INTERVAL);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sigterm_stops_a_closed_gate() {
        signal_hook::flag::register(SIGTERM, Arc::default()).expect("a handler, so that the signal does not end the test");
        let waiting = thread::spawn(|| wait("/nowhere"));
        for _ in 0..200 {
            signal_hook::low_level::raise(SIGTERM).expect("raised");
            thread::sleep(POLL_INTERVAL);
            if waiting.is_finished() {
                break;
            }
        }
        assert!(waiting.is_finished() && waiting.join().expect("no panic").is_err());
    }

    #[test]
    fn an_open_gate_lets_the_kernel_start() {
        let file = std::env::temp_dir().join(format!("gate-{}", std::process::id()));
        fs::write(&file, "open\n").expect("written");
        assert!(wait(&file.to_string_lossy()).is_ok());
        fs::remove_file(&file).expect("removed");
    }
}
