//! `halloo push policy`

use std::path::{Path, PathBuf};

use super::super::Context;
use super::super::error::CliError;
use super::super::output::{pairs, printable, table};
use super::super::parse;
use crate::api::client::Client;
use crate::api::requests::PolicyRequest;
use crate::handle::choice::{ExplainOptions, PolicyExplanation, PushPolicy};

/// More than a policy has.
const FILE_BYTES_MAX: u64 = 64 * 1024;

#[derive(Debug, clap::Subcommand)]
pub(in super::super) enum Command {
    /// The policy in force
    Get,
    /// Set the policy for all your devices, from a file in TOML; an empty file takes it back
    Set {
        /// The file
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Who is told of an event, when, and why
    Explain(ExplainArgs),
}

#[derive(Debug, clap::Args)]
pub(in super::super) struct ExplainArgs {
    /// A call, message or file that came to this device: decided anew from what was known then; without it, an event that might come now
    #[arg(value_name = "EVENT_ID", value_parser = parse::text, conflicts_with_all = ["event", "from", "format"])]
    event_id: Option<String>,
    /// Kind of the event: call, video, message, file, voicemail or mail
    #[arg(long, value_name = "KIND", value_parser = parse::text)]
    event: Option<String>,
    /// Who it would come from
    #[arg(long, value_name = "USER", value_parser = parse::text)]
    from: Option<String>,
    /// MIME type of what would be shown
    #[arg(long, value_name = "TYPE", value_parser = parse::text)]
    format: Option<String>,
    /// Decide by the policy in this file, without setting it
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
}

pub(in super::super) async fn run(context: &Context, client: &Client, command: Command) -> Result<(), CliError> {
    match command {
        Command::Get => {
            let policy: PushPolicy = client.get("/v1/push/policy").await?;
            context.output.print(&policy, for_people)
        }
        Command::Set { file } => {
            let policy: PushPolicy = client.post("/v1/push/policy", &PolicyRequest { text: read(&file)? }).await?;
            context.output.print(&policy, for_people)
        }
        Command::Explain(args) => {
            let policy = args.policy.as_deref().map(read).transpose()?;
            let ExplainArgs { event_id, event, from, format, .. } = args;
            let options = ExplainOptions { event_id, event, from, format, policy };
            let explanation: PolicyExplanation = client.post("/v1/push/policy/explain", &options).await?;
            context.output.print(&explanation, explanation_for_people)
        }
    }
}

fn read(file: &Path) -> Result<String, CliError> {
    let failed = |reason: String| CliError::Usage(format!("{}: {reason}", file.display()));
    let length = std::fs::metadata(file).map_err(|error| failed(error.to_string()))?.len();
    if length > FILE_BYTES_MAX {
        return Err(failed(format!("{length} bytes is too long for a policy")));
    }
    std::fs::read_to_string(file).map_err(|error| failed(error.to_string()))
}

fn for_people(policy: &PushPolicy) -> String {
    match policy.text.as_str() {
        "" => "no policy: every device is told of everything at once".to_owned(),
        text => text.lines().map(|line| printable(line).into_owned()).collect::<Vec<_>>().join("\n"),
    }
}

fn explanation_for_people(explanation: &PolicyExplanation) -> String {
    let rule = explanation.rule.map(|rule| match &explanation.rule_name {
        Some(name) => format!("{rule} ({name})"),
        None => rule.to_string(),
    });
    let passed = explanation.passed_over.iter().map(|passed| format!("{}: {}", passed.rule, passed.detail)).collect::<Vec<_>>();
    let heading = pairs([
        ("event", Some(explanation.event.clone())),
        ("from", explanation.from.clone()),
        ("at", Some(explanation.at.to_string())),
        ("rule", rule),
        ("passed over", (!passed.is_empty()).then(|| passed.join("; "))),
    ]);
    let rows = explanation.stages.iter().flat_map(|stage| stage.devices.iter().map(move |device| (stage, device)));
    let rows = rows.map(|(stage, device)| {
        let name = device.name.clone().unwrap_or_else(|| device.peer_id.clone());
        let gets = if device.shown_on.is_some() { "a prompt" } else { "the event" };
        [format!("{} s", stage.after_secs), name, gets.to_owned(), device.because.clone(), device.detail.clone()]
    });
    heading + &table(["AFTER", "DEVICE", "GETS", "BECAUSE", "DETAIL"], rows)
}
