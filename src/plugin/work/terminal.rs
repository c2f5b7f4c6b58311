//! The user's terminal: raw while a program of a kernel reads it.

use std::io::IsTerminal;
use std::time::Duration;

use crossterm::terminal;
use futures::SinkExt;
use futures::channel::mpsc::Sender;
use kube::api::TerminalSize;

/// How often the size is compared. Windows has no signal for its change.
const SIZE_CHECK: Duration = Duration::from_millis(500);

/// Whether the input and the output are a terminal.
pub fn is_interactive() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// The raw mode, which ends with this value.
pub struct Raw(());

impl Raw {
    pub fn begin() -> std::io::Result<Self> {
        terminal::enable_raw_mode().map(|()| Self(()))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = terminal::disable_raw_mode(); // nothing can be done about it
    }
}

/// Tells the program the terminal's size, now and at each change.
pub async fn follow_size(mut sizes: Sender<TerminalSize>) {
    let mut last = None;
    loop {
        let now = terminal::size().ok();
        if let Some((width, height)) = now.filter(|_| now != last)
            && sizes.send(TerminalSize { width, height }).await.is_err()
        {
            return;
        }
        last = now;
        tokio::time::sleep(SIZE_CHECK).await;
    }
}
