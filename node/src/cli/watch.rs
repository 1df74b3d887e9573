//! Commands that stream: one line per event until the daemon or the user ends it.

use super::Context;
use super::error::CliError;
use crate::handle::{Event, EventRecord};

/// Prints events that `people` has words for; with `--json` the same events as JSON lines.
///
/// Ends well on SIGINT and SIGTERM.
pub(super) async fn watch(context: &Context, people: impl Fn(&Event) -> Option<String>) -> Result<(), CliError> {
    let client = context.client()?;
    let stop = super::signals::stop_token()?;
    let mut events = client.events().await?;
    while let Some(record) = stop.run_until_cancelled(events.next()).await {
        let Some(record) = record? else { return Err(CliError::Failed("the daemon has stopped".to_owned())) };
        show(context, &record, &people)?;
    }
    Ok(())
}

fn show(context: &Context, record: &EventRecord, people: impl Fn(&Event) -> Option<String>) -> Result<(), CliError> {
    let words = match &record.event {
        Event::Missed { count } => Some(format!("({count} events were missed)")),
        event => people(event),
    };
    match words {
        Some(words) => context.output.print(record, |record| format!("{}  {words}", record.at)),
        None => Ok(()),
    }
}
