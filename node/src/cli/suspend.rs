//! `halloo suspend`

use super::Context;
use super::error::CliError;
use crate::handle::power::{SuspendOptions, Suspended};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Take leave of peers first
    #[arg(long)]
    clean: bool,
}

pub(super) async fn run(context: &Context, args: Args) -> Result<(), CliError> {
    let options = SuspendOptions { clean: args.clean };
    let suspended: Suspended = context.client()?.post("/v1/suspend", &options).await?;
    context.output.print(&suspended, |suspended| match suspended.push_registrations {
        0 => "suspended; nothing can wake it but `halloo wake`".to_owned(),
        count => format!("suspended; {count} push registrations can wake it"),
    })
}
