//! `halloo sip`

use super::Context;
use super::error::CliError;
use super::output::{pairs, printable, table, word};
use super::parse;
use super::progress::Spinner;
use crate::handle::sip::{SipAccount, SipAccountList, SipAccountOptions, SipAccountRemoved, SipCredentials, SipTrunkList};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Accounts for phones
    #[command(subcommand)]
    Account(AccountCommand),
    /// Trunks to the telephone network
    #[command(subcommand)]
    Trunk(TrunkCommand),
}

#[derive(Debug, clap::Subcommand)]
pub(super) enum TrunkCommand {
    /// The trunks of config.toml: how they stand, and what was used of them today
    List,
}

#[derive(Debug, clap::Subcommand)]
pub(super) enum AccountCommand {
    /// Make an account: a device of yours, or of whoever shows you a device link, or of a new user. Prints the password once
    Add(AddArgs),
    /// The accounts, and the phones that are registered
    List,
    /// Remove an account with its keys; revoke the device too
    Remove(AccountArgs),
    /// Give an account another password; prints it once
    Password(AccountArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct AddArgs {
    /// A new user to enrol
    #[arg(value_name = "NAME@AUTHORITY", value_parser = parse::full_user, conflicts_with = "link")]
    username: Option<String>,
    /// The authority's invite for the new user
    #[arg(long, value_name = "CODE", value_parser = parse::text, requires = "username")]
    invite: Option<String>,
    /// What `halloo device link` shows on a device of another user
    #[arg(long, value_name = "LINK", value_parser = parse::text)]
    link: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct AccountArgs {
    /// The account: `name@authority`, or `name` where that is clear
    #[arg(value_name = "ACCOUNT", value_parser = parse::text)]
    account: String,
}

pub(super) async fn run(context: &Context, command: Command) -> Result<(), CliError> {
    let command = match command {
        Command::Account(command) => command,
        Command::Trunk(TrunkCommand::List) => return trunks(context).await,
    };
    let client = context.client()?;
    let path = |account: &str, what: &str| format!("/v1/sip/accounts/{}/{what}", parse::url_part(account));
    match command {
        AccountCommand::Add(args) => {
            let options = SipAccountOptions { link: args.link, username: args.username, invite: args.invite };
            let spinner = Spinner::start(context.output, "making a device for the phone");
            let credentials: SipCredentials = client.post("/v1/sip/accounts", &options).await?;
            drop(spinner);
            context.output.print(&credentials, credentials_for_people)
        }
        AccountCommand::List => {
            let list: SipAccountList = client.get("/v1/sip/accounts").await?;
            context.output.print(&list, list_for_people)
        }
        AccountCommand::Remove(args) => {
            let removed: SipAccountRemoved = client.post(&path(&args.account, "remove"), &serde_json::json!({})).await?;
            context.output.print(&removed, removed_for_people)
        }
        AccountCommand::Password(args) => {
            let credentials: SipCredentials = client.post(&path(&args.account, "password"), &serde_json::json!({})).await?;
            context.output.print(&credentials, credentials_for_people)
        }
    }
}

async fn trunks(context: &Context) -> Result<(), CliError> {
    let list: SipTrunkList = context.client()?.get("/v1/sip/trunks").await?;
    context.output.print(&list, trunks_for_people)
}

fn trunks_for_people(list: &SipTrunkList) -> String {
    let Some(gateway) = &list.gateway else { return "no trunks; docs/sip.md says how one is set up\n".to_owned() };
    let missing = if list.has_gateway { "" } else { ", which isn't here: halloo sip account add makes it" };
    let mut text = format!("numbers are called through {gateway}{missing}\n");
    let rows = list.trunks.iter().map(|trunk| {
        let reason = trunk.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        let state = printable(&format!("{}{reason}", word(&trunk.state))).into_owned();
        [trunk.name.clone(), format!("{} {}", trunk.transport, trunk.server), state, trunk.patterns.join(", ")]
    });
    text += &table(["trunk", "server", "state", "numbers"], rows);
    let max = |used: u32, max: Option<u32>| max.map_or_else(|| used.to_string(), |max| format!("{used} of {max}"));
    let used = list.trunks.iter().flat_map(|trunk| trunk.used.iter().map(|of| (trunk.name.clone(), of)));
    let rows = used.map(|(name, of)| [name, of.of.clone(), max(of.calls, of.calls_max), max(of.minutes, of.minutes_max)]);
    text += &table(["trunk", "of", "calls today", "minutes today"], rows);
    let mapped = list.trunks.iter().flat_map(|trunk| &trunk.inbound);
    mapped.fold(text, |text, (number, user)| text + &format!("calls to {number} ring at {user}\n"))
}

fn credentials_for_people(credentials: &SipCredentials) -> String {
    let mut text = pairs([
        ("account", Some(credentials.account.clone())),
        ("address", Some(credentials.uri.clone())),
        ("username", Some(credentials.username.clone())),
        ("password", Some(credentials.password.clone())),
        ("outbound proxy", Some(credentials.servers.join(" or "))),
    ]);
    text += "\nSet the phone up with these. The password isn't shown again.\n";
    if let Some(phrase) = &credentials.recovery_phrase {
        text += &format!("\nThe new user's recovery phrase, shown once; keep it safe and off this machine:\n\n    {phrase}\n");
    }
    text
}

fn list_for_people(list: &SipAccountList) -> String {
    let mut text = format!("phones connect to {}\n", list.servers.join(", "));
    if list.banned > 0 {
        text += &format!("{} sources are banned for guessing passwords\n", list.banned);
    }
    if list.accounts.is_empty() {
        return text + "no accounts; halloo sip account add makes one\n";
    }
    let rows = list.accounts.iter().map(|account| [account.account.clone(), phones(account), account.peer_id.clone()]);
    text += &table(["account", "phones", "device"], rows);
    text
}

fn phones(account: &SipAccount) -> String {
    let shown = |phone: &crate::handle::sip::SipPhone| format!("{} ({} {})", phone.user_agent, phone.transport, phone.address);
    let all: Vec<String> = account.phones.iter().map(shown).collect();
    if all.is_empty() { "none".to_owned() } else { printable(&all.join(", ")).into_owned() }
}

fn removed_for_people(removed: &SipAccountRemoved) -> String {
    format!(
        "{} is gone; `halloo device revoke {}` where the identity key is takes the device out for good\n",
        removed.account, removed.peer_id
    )
}
