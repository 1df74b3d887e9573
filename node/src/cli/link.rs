//! `halloo link`

use std::io::Read;
use std::path::PathBuf;

use halloo_protocol::linked::LinkedId;

use super::error::CliError;
use super::output::{pairs, printable, table, word};
use super::progress::Spinner;
use super::{Context, parse};
use crate::handle::linked::{LinkList, LinkOptions, LinkRemoved, LinkedAccount};

/// Longest password, with the end of its line.
const PASSWORD_BYTES_MAX: u64 = 1_026;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Link an account: its contacts can call you, and you them, without being contacts here. The password is read from standard input, or a file
    Add(AddArgs),
    /// Linked accounts, and who of their contacts can be called
    List,
    /// Unlink an account: takes back what its contacts are shown, and forgets the password
    Remove(RemoveArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct AddArgs {
    /// Which system
    #[arg(value_name = "SYSTEM", value_parser = ["xmpp"])]
    system: String,
    /// The address there: alice@example.org
    #[arg(value_name = "ADDRESS", value_parser = parse::text)]
    address: String,
    /// A file with the password alone, readable by its owner alone
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Where its server is; otherwise the domain of the address, port 5222
    #[arg(long, value_name = "HOST:PORT", value_parser = parse::text)]
    server: Option<String>,
    /// Certificates to trust beside the usual ones
    #[arg(long, value_name = "FILE")]
    roots: Option<PathBuf>,
    /// Without TLS; for a server on this machine alone
    #[arg(long)]
    plain: bool,
    /// Don't show its contacts who you are here: whoever you call learns it, by a token of the server for that call. They can't call you by it
    #[arg(long)]
    tokens: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct RemoveArgs {
    /// The account: xmpp:alice@example.org
    #[arg(value_name = "ACCOUNT", value_parser = account)]
    account: String,
}

fn account(text: &str) -> Result<String, String> {
    text.parse::<LinkedId>().map(|id| id.to_string()).map_err(|error| error.to_string())
}

pub(super) async fn run(context: &Context, command: Command) -> Result<(), CliError> {
    let client = context.client()?;
    match command {
        Command::Add(args) => {
            let options = options(args)?;
            let spinner = Spinner::start(context.output, "logging in");
            let account: LinkedAccount = client.post("/v1/links", &options).await?;
            drop(spinner);
            context.output.print(&account, account_for_people)
        }
        Command::List => {
            let list: LinkList = client.get("/v1/links").await?;
            context.output.print(&list, list_for_people)
        }
        Command::Remove(args) => {
            let path = format!("/v1/links/{}/remove", parse::url_part(&args.account));
            let removed: LinkRemoved = client.post(&path, &serde_json::json!({})).await?;
            context.output.print(&removed, removed_for_people)
        }
    }
}

/// An account, and how to log in to it.
pub(super) struct Login {
    pub(super) system: String,
    pub(super) address: String,
    pub(super) password_file: Option<PathBuf>,
    pub(super) server: Option<String>,
    pub(super) roots: Option<PathBuf>,
    pub(super) plain: bool,
    pub(super) tokens: bool,
}

fn options(args: AddArgs) -> Result<LinkOptions, CliError> {
    let AddArgs { system, address, password_file, server, roots, plain, tokens } = args;
    link_options(Login { system, address, password_file, server, roots, plain, tokens })
}

/// Reads the password.
pub(super) fn link_options(args: Login) -> Result<LinkOptions, CliError> {
    let password = match &args.password_file {
        Some(path) => crate::mail::password(path).map_err(CliError::Usage)?.to_string(),
        None => {
            let mut text = String::new();
            let read = std::io::stdin().lock().take(PASSWORD_BYTES_MAX).read_to_string(&mut text);
            read.map_err(|error| CliError::Usage(format!("can't read the password from standard input: {error}")))?;
            text.trim_end_matches(['\r', '\n']).to_owned()
        }
    };
    let roots = args.roots.map(std::path::absolute).transpose();
    let roots = roots.map_err(|error| CliError::Usage(format!("roots: {error}")))?;
    Ok(LinkOptions {
        system: args.system,
        address: args.address,
        password,
        server: args.server,
        roots,
        plain: args.plain,
        tokens: args.tokens,
    })
}

fn account_for_people(account: &LinkedAccount) -> String {
    let shown = account.shown_until.map(|until| until.to_string());
    let shown = if account.tokens { Some("to nobody: each call has a token".to_owned()) } else { shown };
    let callable = account.contacts.iter().filter(|contact| contact.username.is_some()).count();
    let contacts = format!("{}, of whom {callable} can be called", account.contacts.len());
    let device = account.device.clone().unwrap_or_else(|| account.peer_id.clone());
    let login = if account.here { format!("on this device ({device})") } else { format!("on {device}") };
    let mut text = pairs([
        ("account", Some(account.account.clone())),
        ("state", Some(word(&account.state))),
        ("because", account.reason.clone()),
        ("login", Some(login)),
        ("shown until", shown),
        ("contacts", Some(contacts)),
    ]);
    let rows = account.contacts.iter().filter_map(|contact| {
        let username = contact.username.clone()?;
        Some([contact.name.clone().unwrap_or_default(), contact.id.clone(), username])
    });
    let rows: Vec<[String; 3]> = rows.collect();
    if !rows.is_empty() {
        text += &table(["NAME", "CALL", "HERE"], rows);
    }
    text
}

fn list_for_people(list: &LinkList) -> String {
    if list.accounts.is_empty() {
        return "nothing is linked; halloo link add xmpp ADDRESS".to_owned();
    }
    list.accounts.iter().map(account_for_people).collect::<Vec<_>>().join("\n")
}

fn removed_for_people(removed: &LinkRemoved) -> String {
    let place = if removed.is_taken_back {
        "its contacts aren't shown it any more"
    } else {
        "its server couldn't be told: its contacts are shown it until it ends"
    };
    printable(&format!("{} is unlinked; {place}", removed.account)).into_owned()
}
