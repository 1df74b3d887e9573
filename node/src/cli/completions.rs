//! `halloo completions`

use clap::CommandFactory;
use clap_complete::Shell;
use serde_json::json;

use super::error::CliError;
use super::{Cli, Context};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// For which shell
    shell: Shell,
}

pub(super) fn run(context: &Context, args: &Args) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "halloo", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    let document = json!({ "shell": args.shell.to_string(), "script": script });
    context.output.print(&document, |_| script.clone())
}
