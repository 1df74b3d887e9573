//! `halloo init`

use std::io::{BufRead, Read, Write};

use clap::ValueEnum;
use serde::Serialize;
use zeroize::Zeroizing;

use super::error::CliError;
use super::output::{is_dialogue, pairs};
use super::{Context, parse};
use crate::config::{DeviceKind, ProfileConfig, RelayPolicy};
use crate::daemon::{InitOptions, InitOutcome, Phrase, init};

/// 24 words of at most 8 letters, with room for spaces and line ends.
const PHRASE_BYTES_MAX: u64 = 1_024;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Your name, as others see it; any script, not unique
    #[arg(long, value_name = "TEXT", value_parser = parse::text)]
    display_name: Option<String>,
    /// Languages you read, best first: en,de
    #[arg(long, value_name = "LANGUAGES", value_delimiter = ',', value_parser = parse::language)]
    lang: Vec<String>,
    /// A name for this device
    #[arg(long, value_name = "TEXT", value_parser = parse::text)]
    device_name: Option<String>,
    /// What this device is
    #[arg(long, value_name = "KIND")]
    device_kind: Option<DeviceKind>,
    /// For whom this node relays, within the quotas in config.toml (asked on a terminal)
    #[arg(long, value_name = "WHOM")]
    relay: Option<RelayPolicy>,
    /// Read a recovery phrase from stdin instead of making a new identity
    #[arg(long)]
    recover: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Printed<'a> {
    home: &'a std::path::Path,
    peer_id: &'a str,
    identity: &'a str,
    recovery_phrase: Option<&'a str>,
}

pub(super) fn run(context: &Context, args: Args) -> Result<(), CliError> {
    let recovery_phrase = if args.recover { Some(read_phrase(context, "--recover")?) } else { None };
    let relay = match args.relay {
        Some(relay) => relay,
        None if is_dialogue() && !args.recover => ask_relay(context)?,
        None => RelayPolicy::default(),
    };
    let outcome = init(&InitOptions {
        home: context.home_path()?,
        profile: ProfileConfig { display_name: args.display_name, languages: args.lang },
        device_name: args.device_name,
        device_kind: args.device_kind,
        relay,
        recovery_phrase,
    })?;
    let printed = Printed {
        home: &outcome.home,
        peer_id: &outcome.peer_id,
        identity: &outcome.identity,
        recovery_phrase: outcome.recovery_phrase.as_ref().map(|phrase| phrase.0.as_str()),
    };
    context.output.print(&printed, |_| for_people(&outcome, context.home.is_some()))
}

fn for_people(outcome: &InitOutcome, is_chosen: bool) -> String {
    let mut text = pairs([
        ("home", Some(outcome.home.display().to_string())),
        ("identity", Some(outcome.identity.clone())),
        ("device", Some(outcome.peer_id.clone())),
    ]);
    if let Some(phrase) = &outcome.recovery_phrase {
        text += "\nRecovery phrase: write it down and keep it safe, it is not shown again.\n";
        text += "Whoever has it is you; without it a lost device is a lost identity.\n\n";
        for (index, word) in phrase.0.split_whitespace().enumerate() {
            text += &format!("{:>4}. {word:<10}", index + 1);
            text += if index % 4 == 3 { "\n" } else { "" };
        }
    }
    let home = if is_chosen { format!(" --home {}", outcome.home.display()) } else { String::new() };
    text += &format!("\nNext: `halloo{home} enrol NAME@AUTHORITY --invite CODE`, then `halloo{home} run`.\n");
    text
}

pub(super) fn read_phrase(context: &Context, flag: &str) -> Result<Phrase, CliError> {
    if is_dialogue() {
        context.output.note("Type the 24 words of your recovery phrase, then Enter and Ctrl-D:");
    }
    let mut phrase = Zeroizing::new(String::new());
    let read = std::io::stdin().lock().take(PHRASE_BYTES_MAX).read_to_string(&mut phrase);
    read.map_err(|error| CliError::Usage(format!("can't read the recovery phrase from stdin: {error}")))?;
    if phrase.trim().is_empty() {
        return Err(CliError::Usage(format!("{flag} reads the recovery phrase from stdin, and stdin is empty")));
    }
    Ok(Phrase(phrase))
}

/// Asks until the answer is one of the policies; Enter means off.
fn ask_relay(context: &Context) -> Result<RelayPolicy, CliError> {
    loop {
        let question = "Shall this node relay for others, within the quotas in config.toml? off, contacts, everyone [off] ";
        let mut answer = String::new();
        let asked = std::io::stderr().write_all(question.as_bytes());
        let read = asked.and_then(|()| std::io::stdin().lock().take(PHRASE_BYTES_MAX).read_line(&mut answer));
        read.map_err(|error| CliError::Failed(format!("can't ask: {error}")))?;
        match answer.trim() {
            "" => return Ok(RelayPolicy::Off),
            word => match RelayPolicy::from_str(word, true) {
                Ok(policy) => return Ok(policy),
                Err(_) => context.output.note("Please answer off, contacts or everyone."),
            },
        }
    }
}
