//! `halloo contact`

use std::io::Read;
use std::path::PathBuf;

use halloo_protocol::contact::ContactLink;
use qrcode::QrCode;
use qrcode::render::unicode::Dense1x2;

use super::error::CliError;
use super::output::{list, pairs, printable, table, word};
use super::progress::Spinner;
use super::{Context, parse};
use crate::api::client::Client;
use crate::api::requests::ContactRequestBody;
use crate::handle::contacts::{ContactBook, ContactImport, ContactInvite, ContactList, ContactState, ContactView, Fingerprint};

/// Largest file taken by an import: thousands of links.
const BOOK_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Links in one request, so that it stays within what the API takes.
const LINKS_AT_ONCE: usize = 500;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Ask somebody to be a contact; says yes if they have asked
    Add(AddArgs),
    /// Print the link and QR code by which others add you
    Invite,
    /// Say yes to a request
    Accept(UserArgs),
    /// Say no to a request; they aren't heard again for 30 days
    Decline(UserArgs),
    /// End it with a contact, or take a request back
    Remove(UserArgs),
    /// Hear nothing of somebody any more
    Block(UserArgs),
    /// End a block
    Unblock(UserArgs),
    /// Contacts, requests and blocks
    List,
    /// Show the number to compare with somebody, who has to see the same
    Verify(VerifyArgs),
    /// Print the list as links
    Export,
    /// Add everybody in a list that was exported
    Import(ImportArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct AddArgs {
    /// Whom: NAME@AUTHORITY, or a contact link
    #[arg(value_name = "USER-OR-LINK", value_parser = user_or_link)]
    user: String,
    /// A few words that go with the request, at most 280 bytes
    #[arg(long, default_value = "")]
    text: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct UserArgs {
    /// Who
    #[arg(value_parser = parse::user_or_linked)]
    user: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct VerifyArgs {
    /// Who
    #[arg(value_parser = parse::user_or_linked)]
    user: String,
    /// Take their changed identity key for theirs, and ask them anew
    #[arg(long)]
    accept: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct ImportArgs {
    /// The file; standard input without one
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
}

fn user_or_link(text: &str) -> Result<String, String> {
    if !text.trim_start().starts_with("halloo:") {
        return parse::user_or_linked(text);
    }
    ContactLink::parse(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

pub(super) async fn run(context: &Context, command: Command) -> Result<(), CliError> {
    let client = context.client()?;
    match command {
        Command::Add(args) => add(context, &client, args).await,
        Command::Invite => invite(context, &client).await,
        Command::Accept(args) => change(context, &client, &args.user, "accept").await,
        Command::Decline(args) => change(context, &client, &args.user, "decline").await,
        Command::Remove(args) => change(context, &client, &args.user, "remove").await,
        Command::Block(args) => change(context, &client, &args.user, "block").await,
        Command::Unblock(args) => change(context, &client, &args.user, "unblock").await,
        Command::List => {
            let contacts: ContactList = client.get("/v1/contacts").await?;
            context.output.print(&contacts, list_for_people)
        }
        Command::Verify(args) if args.accept => change(context, &client, &args.user, "accept-identity").await,
        Command::Verify(args) => {
            let path = format!("/v1/contacts/{}/fingerprint", parse::url_part(&args.user));
            let fingerprint: Fingerprint = client.get(&path).await?;
            context.output.print(&fingerprint, fingerprint_for_people)
        }
        Command::Export => {
            let book: ContactBook = client.get("/v1/contact-book").await?;
            // The same for people: it is made to be kept in a file.
            context.output.json(&book)
        }
        Command::Import(args) => import(context, &client, args).await,
    }
}

async fn add(context: &Context, client: &Client, args: AddArgs) -> Result<(), CliError> {
    let request = ContactRequestBody { user: args.user, text: args.text };
    let spinner = Spinner::start(context.output, "asking");
    let contact: ContactView = client.post("/v1/contacts", &request).await?;
    drop(spinner);
    context.output.print(&contact, contact_for_people)
}

async fn change(context: &Context, client: &Client, user: &str, change: &str) -> Result<(), CliError> {
    let path = format!("/v1/contacts/{}/{change}", parse::url_part(user));
    let contact: ContactView = client.post(&path, &serde_json::json!({})).await?;
    context.output.print(&contact, contact_for_people)
}

async fn invite(context: &Context, client: &Client) -> Result<(), CliError> {
    let invite: ContactInvite = client.get("/v1/contact-link").await?;
    context.output.print(&invite, |invite| {
        let code = QrCode::new(invite.link.as_bytes()).map(|code| code.render::<Dense1x2>().build());
        let code = code.map(|code| format!("{code}\n")).unwrap_or_default();
        format!("{code}{}\n\nhalloo contact add {}\n", printable(&invite.username), invite.link)
    })
}

async fn import(context: &Context, client: &Client, args: ImportArgs) -> Result<(), CliError> {
    let (text, name) = match &args.file {
        Some(path) => (std::fs::File::open(path).and_then(read_bounded), path.display().to_string()),
        None => (read_bounded(std::io::stdin().lock()), "standard input".to_owned()),
    };
    let text = text.map_err(|error| CliError::Usage(format!("can't read {name}: {error}")))?;
    let book: ContactBook = serde_json::from_str(&text)
        .map_err(|error| CliError::Usage(format!("{name} is no list that `halloo contact export` made: {error}")))?;
    let mut outcome = ContactImport::default();
    let parts = book.contacts.chunks(LINKS_AT_ONCE).map(|links| ContactBook { contacts: links.to_vec(), blocked: Vec::new() });
    let blocks = book.blocked.chunks(LINKS_AT_ONCE).map(|links| ContactBook { contacts: Vec::new(), blocked: links.to_vec() });
    for part in parts.chain(blocks) {
        let done: ContactImport = client.post("/v1/contact-book", &part).await?;
        outcome.asked.extend(done.asked);
        outcome.known.extend(done.known);
        outcome.blocked.extend(done.blocked);
        outcome.refused.extend(done.refused);
    }
    context.output.print(&outcome, |outcome| {
        pairs([
            ("asked", list(&outcome.asked)),
            ("known before", list(&outcome.known)),
            ("blocked", list(&outcome.blocked)),
            ("refused", list(&outcome.refused)),
        ])
    })?;
    if outcome.refused.is_empty() { Ok(()) } else { Err(CliError::Told) }
}

fn read_bounded(source: impl Read) -> std::io::Result<String> {
    let mut text = String::new();
    source.take(BOOK_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

fn contact_for_people(contact: &ContactView) -> String {
    let said = match contact.state {
        ContactState::Contact => "is a contact",
        ContactState::Changed => "has another identity key: compare with `halloo contact verify`",
        ContactState::Asked => "is asked; the request goes out until it arrives",
        ContactState::Requested => "asks to be a contact",
        ContactState::Declined => "has declined",
        ContactState::Removed => "is no contact",
        ContactState::Blocked => "is blocked",
        ContactState::Linked => "is a contact in a linked system, and nothing here",
    };
    printable(&format!("{} {said}", contact.username)).into_owned()
}

fn list_for_people(list: &ContactList) -> String {
    if list.contacts.is_empty() && list.linked.is_empty() {
        return "no contacts; halloo contact add NAME@AUTHORITY".to_owned();
    }
    let rows = list.contacts.iter().chain(&list.linked).map(|contact| {
        let words = contact.mood.clone().or_else(|| contact.text.clone().filter(|_| contact.state == ContactState::Requested));
        [
            contact.username.clone(),
            word(&contact.state),
            contact.display_name.clone().unwrap_or_default(),
            contact.linked.iter().map(|peer| peer.id.as_str()).collect::<Vec<_>>().join(", "),
            words.unwrap_or_default(),
        ]
    });
    table(["USER", "STATE", "NAME", "ELSEWHERE", "SAYS"], rows)
}

fn fingerprint_for_people(fingerprint: &Fingerprint) -> String {
    pairs([
        ("user", Some(fingerprint.username.clone())),
        ("number", Some(fingerprint.safety_number.clone())),
        ("their key", Some(fingerprint.identity.clone())),
        ("your key", Some(fingerprint.own_identity.clone())),
        ("changed key", fingerprint.changed_identity.clone()),
        ("its number", fingerprint.changed_safety_number.clone()),
    ])
}
