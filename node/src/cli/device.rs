//! `halloo device`

mod link;

use super::Context;
use super::error::CliError;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Make a new device one of yours: without an argument on a device that has your identity key, with what that shows on the new one
    Link(link::Args),
}

pub(super) fn run(context: &Context, command: Command) -> Result<(), CliError> {
    match command {
        Command::Link(args) => link::run(context, args),
    }
}
