//! The command line of `kubectl sokovan`.

use clap::Parser;
use sokovan::plugin::{self, Arguments};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    plugin::run(Arguments::parse()).await
}
