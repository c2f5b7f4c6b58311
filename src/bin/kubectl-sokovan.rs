//! The command line of `kubectl sokovan`.

use clap::Parser;
use sokovan::plugin::{self, Arguments};

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(plugin::run(arguments));
    // A read of the terminal would hold the program up until the next key.
    runtime.shutdown_background();
    result
}
