//! `halloo why`

use super::doctor::checks_for_people;
use super::error::CliError;
use super::output::printable;
use super::progress::Spinner;
use super::{Context, parse};
use crate::handle::network::Explanation;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Whom it is about
    #[arg(value_parser = parse::user)]
    user: String,
}

/// Exits 0 with an explanation, whether or not the user can be reached.
pub(super) async fn run(context: &Context, args: Args) -> Result<(), CliError> {
    let client = context.client()?;
    let spinner = Spinner::start(context.output, &format!("trying to reach {}", args.user));
    let path = format!("/v1/users/{}/why", parse::url_part(&args.user));
    let explanation: Explanation = client.get(&path).await?;
    drop(spinner);
    context.output.print(&explanation, |explanation| {
        let summary = printable(&explanation.summary).into_owned();
        format!("{summary}\n\n{}", checks_for_people(&explanation.checks))
    })
}
