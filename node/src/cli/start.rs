//! `halloo start`: for whoever is known elsewhere, and has nothing here yet.

use std::io::{BufRead, Read, Write};

use halloo_protocol::linked::LinkedId;
use libp2p::Multiaddr;
use tokio::sync::oneshot;

use super::device::link::{stage_words, target};
use super::error::CliError;
use super::output::is_dialogue;
use super::progress::Spinner;
use super::{Context, link, parse, run, signals};
use crate::config::{ProfileConfig, RelayPolicy};
use crate::daemon::{InitOptions, init};
use crate::devices::join::{self, JoinOptions};
use crate::handle::linked::{LinkList, LinkOptions, LinkedAccount};

/// Longest answer that is read.
const ANSWER_BYTES_MAX: u64 = 4_096;

#[derive(Debug, clap::Args)]
#[group(id = "start")]
pub(super) struct Args {
    /// Who you are elsewhere: xmpp:alice@example.org. The account is linked; its password is read from standard input, or a file
    #[arg(long = "as", value_name = "ACCOUNT", value_parser = parse::text)]
    account: String,
    #[command(flatten)]
    server: link::ServerArgs,
    /// You use Halloo already: the link, or the code with --at, that `halloo device link` shows there (asked on a terminal)
    #[arg(long, value_name = "LINK-OR-CODE")]
    existing: Option<String>,
    /// With a code: an address of the device that shows it
    #[arg(long, value_name = "MULTIADDR", requires = "existing")]
    at: Vec<Multiaddr>,
    #[command(flatten)]
    run: run::Args,
}

pub(super) fn run(context: &Context, args: Args) -> Result<(), CliError> {
    let account: LinkedId = args.account.parse().map_err(|error| CliError::Usage(format!("--as: {error}")))?;
    let home = context.home_path()?;
    if !crate::identity::is_initialised(&home) {
        match args.existing.clone().or(ask_for_existing(context)?) {
            Some(text) => join_existing(context, &text, args.at.clone())?,
            None => begin_anew(context)?,
        }
    }
    let options = link::link_options(link::Login {
        system: account.system().as_str().to_owned(),
        address: account.address().to_owned(),
        server: args.server,
        tokens: false,
        listed: None,
    })?;
    let run = run::options(context, args.run)?;
    context.run_nodes(async {
        let (ready, is_ready) = oneshot::channel();
        let linking = async {
            if is_ready.await.is_ok()
                && let Err(error) = link_account(context, &account, &options).await
            {
                context.output.note(&format!("{account} isn't linked: {error}"));
            }
        };
        let (ran, ()) = tokio::join!(run::serve(context, run, Some(ready)), linking);
        ran
    })
}

/// Whether the person has an identity already; asked on a terminal alone.
fn ask_for_existing(context: &Context) -> Result<Option<String>, CliError> {
    if !is_dialogue() || context.output.is_json() {
        return Ok(None);
    }
    let question = "Do you use Halloo on another device? Paste the link that `halloo device link` shows there, or press Enter to begin anew: ";
    let mut answer = String::new();
    let asked = std::io::stderr().write_all(question.as_bytes());
    let read = asked.and_then(|()| std::io::stdin().lock().take(ANSWER_BYTES_MAX).read_line(&mut answer));
    read.map_err(|error| CliError::Failed(format!("can't ask: {error}")))?;
    Ok(Some(answer.trim().to_owned()).filter(|answer| !answer.is_empty()))
}

fn join_existing(context: &Context, text: &str, at: Vec<Multiaddr>) -> Result<(), CliError> {
    let (home, target) = (context.home_path()?, target(text, at)?);
    let options = JoinOptions { home, target, device_name: None, device_kind: None, relay: RelayPolicy::default() };
    context.run_nodes(async {
        let stop = signals::stop_token()?;
        let spinner = Spinner::start(context.output, "looking for the other device");
        let joined = join::join(options, stop, |stage| spinner.set(stage_words(stage))).await;
        drop(spinner);
        let joined = joined?;
        tell(context, "joined", &joined, &format!("this is a device of {} now", joined.username))
    })
}

/// An identity without a name, which nobody has to be asked for.
fn begin_anew(context: &Context) -> Result<(), CliError> {
    let made = init(&InitOptions {
        home: context.home_path()?,
        profile: ProfileConfig::default(),
        device_name: None,
        device_kind: None,
        relay: RelayPolicy::default(),
        recovery_phrase: None,
    })?;
    let phrase = made.recovery_phrase.as_ref().map(|phrase| phrase.0.as_str());
    let value = serde_json::json!({ "identity": made.identity, "peer_id": made.peer_id, "recovery_phrase": phrase });
    let words = phrase.unwrap_or_default();
    let text = format!("Recovery phrase: write it down and keep it safe, it is not shown again.\n\n    {words}\n");
    tell(context, "identity", &value, &text)
}

fn tell(context: &Context, event: &str, value: &impl serde::Serialize, text: &str) -> Result<(), CliError> {
    if !context.output.is_json() {
        return context.output.text(text);
    }
    let mut line = serde_json::to_value(value).unwrap_or_default();
    line["event"] = event.into();
    context.output.json(&line)
}

/// Links the account, unless it is.
async fn link_account(context: &Context, account: &LinkedId, options: &LinkOptions) -> Result<(), CliError> {
    let client = context.client()?;
    let list: LinkList = client.get("/v1/links").await?;
    if list.accounts.iter().any(|known| known.account == account.to_string()) {
        return Ok(());
    }
    let linked: LinkedAccount = client.post("/v1/links", options).await?;
    tell(context, "link_added", &linked, &format!("{account} is linked: its contacts can call you here"))
}
