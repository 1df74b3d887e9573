//! `halloo enrol`

use super::error::CliError;
use super::output::pairs;
use super::progress::Spinner;
use super::{Context, parse};
use crate::daemon::{self, RunOptions};
use crate::handle::authority::{EnrolOptions, Enrolled};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The username to ask for
    #[arg(value_name = "NAME@AUTHORITY", value_parser = parse::full_user)]
    username: String,
    /// The invite code: carries the authority's key, addresses, bootstrap nodes and a secret
    #[arg(long, value_name = "CODE", value_parser = parse::text)]
    invite: Option<String>,
}

/// Works with a running daemon and without one.
pub(super) fn run(context: &Context, args: Args) -> Result<(), CliError> {
    let enrol = EnrolOptions { username: args.username, invite: args.invite };
    context.run_nodes(async {
        let spinner = Spinner::start(context.output, &format!("enrolling {}", enrol.username));
        let enrolled = ask(context, enrol).await?;
        drop(spinner);
        show(context, &enrolled)
    })
}

async fn ask(context: &Context, enrol: EnrolOptions) -> Result<Enrolled, CliError> {
    match context.client() {
        Ok(client) if client.is_running().await => Ok(client.post("/v1/enrol", &enrol).await?),
        Ok(_) | Err(CliError::NoDaemon(_)) => {
            let options = RunOptions { home: context.home_path()?, ..RunOptions::default() };
            Ok(daemon::enrol(options, enrol).await?)
        }
        Err(error) => Err(error),
    }
}

fn show(context: &Context, enrolled: &Enrolled) -> Result<(), CliError> {
    context.output.print(enrolled, |enrolled| {
        pairs([
            ("username", Some(enrolled.username.clone())),
            ("identity", Some(enrolled.identity.clone())),
            ("authority key", Some(enrolled.authority_key.clone())),
            ("valid until", Some(enrolled.not_after.to_string())),
        ])
    })
}
