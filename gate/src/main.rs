//! The gate: holds a kernel's start until its whole session may start. It runs in the kernel's own image as an init
//! container, so that the image is there before anything starts; it needs nothing of that image.
//!
//!     gate copy FILE   copies itself to FILE, for the container that follows
//!     gate wait FILE   waits until FILE, which shows the pod's annotation, says `open`

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

const OPEN: &str = "open";
const LOOK_EVERY: Duration = Duration::from_millis(50);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["copy", file] => copy(file),
        ["wait", file] => {
            wait(file);
            Ok(())
        }
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

/// How long it waits is the session's to bound: it is deleted or reset when it takes too long.
fn wait(file: &str) {
    while !fs::read_to_string(file).is_ok_and(|content| content.trim() == OPEN) {
        thread::sleep(LOOK_EVERY);
    }
}
