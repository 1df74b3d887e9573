//! `halloo identity`

use libp2p::Multiaddr;

use super::device::link::{joined_for_people, stage_words, target};
use super::error::CliError;
use super::progress::Spinner;
use super::{Context, signals};
use crate::config::RelayPolicy;
use crate::devices::join::{self, JoinOptions};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Make this identity, which has no name, part of another one of yours: this device becomes one of that user's, with all that it knows. The daemon has to be stopped
    Merge(MergeArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct MergeArgs {
    /// The link, or the code with --at, that `halloo device link` shows on a device of the one that stays
    #[arg(value_name = "LINK-OR-CODE")]
    link: String,
    /// With a code: an address of the device that shows it
    #[arg(long, value_name = "MULTIADDR")]
    at: Vec<Multiaddr>,
}

pub(super) fn run(context: &Context, command: Command) -> Result<(), CliError> {
    let Command::Merge(args) = command;
    let options = JoinOptions {
        home: context.home_path()?,
        target: target(&args.link, args.at)?,
        device_name: None,
        device_kind: None,
        relay: RelayPolicy::default(),
    };
    context.run_nodes(async {
        let stop = signals::stop_token()?;
        let spinner = Spinner::start(context.output, "looking for the other device");
        let merged = join::merge(options, stop, |stage| spinner.set(stage_words(stage))).await;
        drop(spinner);
        context.output.print(&merged?, |joined| joined_for_people(joined, context.home.is_some()))
    })
}
