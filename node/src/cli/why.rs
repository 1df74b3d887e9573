//! `halloo why`

use super::doctor::checks_for_people;
use super::error::CliError;
use super::output::{printable, table, word};
use super::progress::Spinner;
use super::{Context, parse};
use crate::handle::network::{Explanation, PastCall};

/// Characters of a call's id that are shown: enough to name it.
const ID_CHARS: usize = 10;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Whom it is about
    #[arg(value_parser = parse::user_or_linked)]
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
        let checks = checks_for_people(&explanation.checks);
        format!("{summary}\n\n{checks}{}{}", next_call(&explanation.next_call), past_calls(&explanation.calls))
    })
}

fn next_call(steps: &[String]) -> String {
    let steps: String = steps.iter().map(|step| format!("  {}\n", printable(step))).collect();
    if steps.is_empty() { steps } else { format!("\nA call now\n{steps}") }
}

fn past_calls(calls: &[PastCall]) -> String {
    if calls.is_empty() {
        return "\nNo call with them is known here.\n".to_owned();
    }
    let rows = calls.iter().map(|call| {
        let way = if call.incoming { "from" } else { "to" };
        let outcome = call.outcome.as_ref().map(word).unwrap_or_default();
        let id = call.call_id.get(..ID_CHARS).unwrap_or(&call.call_id).to_owned();
        [id, call.started_at.to_string(), way.to_owned(), outcome, call.decisive.clone()]
    });
    format!("\n{}`halloo calls show CALL` has the timeline.\n", table(["CALL", "STARTED", "WAY", "OUTCOME", "WHY"], rows))
}
