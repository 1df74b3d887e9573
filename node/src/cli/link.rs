//! `halloo link`

use std::io::Read;
use std::path::{Path, PathBuf};

use super::error::CliError;
use super::output::{pairs, printable, table, word};
use super::progress::Spinner;
use super::{Context, parse};
use crate::api::client::Client;
use crate::api::requests::{CertifyLinkRequest, FindRequest, ListingRequest};
use crate::handle::linked::{
    LinkBook, LinkBookOptions, LinkBookServer, LinkCertified, LinkCode, LinkCodeOptions, LinkCodeShown, LinkFound, LinkList,
    LinkLogin, LinkLoginOptions, LinkOptions, LinkRemoved, LinkedAccount,
};

/// Longest password, with the end of its line.
const PASSWORD_BYTES_MAX: u64 = 1_026;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Link an account: its contacts can call you, and you them, without being contacts here. The password is read from standard input, or a file
    Add(AddArgs),
    /// Take a file of vCards, or a server's address books (CardDAV), as yours: who is in them are the contacts of your linked addresses. Without either: what is taken now
    Book(BookArgs),
    /// Linked accounts, and who of their contacts can be called
    List,
    /// Who somebody in another system is here, as the directory says; whoever knows the address can ask
    Find(FindArgs),
    /// Whether who knows the address of a linked account finds you by it, in the directory
    Listing(ListingArgs),
    /// Have your certificate hint at an identity that your authority knows to be yours: contacts there let you in by nothing else
    Certify(CertifyArgs),
    /// Unlink an account: takes back what its contacts are shown, and forgets the password
    Remove(RemoveArgs),
}

/// How to log in to an account's server.
#[derive(Debug, clap::Args)]
pub(super) struct ServerArgs {
    /// A file with the password of the account alone, readable by its owner alone
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Where the account's server is; otherwise the domain of the address, port 5222, or 5061 of SIP
    #[arg(long, value_name = "HOST:PORT", value_parser = parse::text)]
    server: Option<String>,
    /// Certificates to trust beside the usual ones
    #[arg(long, value_name = "FILE")]
    roots: Option<PathBuf>,
    /// Without TLS; for a server on this machine alone
    #[arg(long)]
    plain: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct AddArgs {
    /// Which system: xmpp, sip, or oidc for OpenID Connect; or an own address that a code is sent to: mailto:alice@example.org, tel:+4930123456, sip:alice@example.org
    #[arg(value_name = "SYSTEM", value_parser = system)]
    system: String,
    /// The address there: alice@example.org; for oidc the provider: https://id.example.org
    #[arg(value_name = "ADDRESS", value_parser = parse::text, required_if_eq_any = [("system", "xmpp"), ("system", "oidc"), ("system", "sip")])]
    address: Option<String>,
    /// An own address: the code that came there; without, one is sent
    #[arg(long, value_name = "CODE", value_parser = parse::text)]
    code: Option<String>,
    #[command(flatten)]
    server: ServerArgs,
    /// Let whoever knows the address find you by it, in the directory
    #[arg(long, conflicts_with_all = ["unlisted", "tokens"])]
    listed: bool,
    /// Keep it out of the directory, as accounts are whose contacts have a place to look, and telephone numbers
    #[arg(long)]
    unlisted: bool,
    /// Don't show its contacts who you are here: whoever you call learns it, by a token of the server for that call. They can't call you by it
    #[arg(long)]
    tokens: bool,
    /// oidc: the application that this node is at the provider, where config.toml doesn't say it
    #[arg(long, value_name = "ID", value_parser = parse::text)]
    client_id: Option<String>,
    /// oidc: a file with the application's secret alone, readable by its owner alone
    #[arg(long, value_name = "FILE", requires = "client_id")]
    client_secret_file: Option<PathBuf>,
    /// oidc: log in on another machine, by a code
    #[arg(long)]
    device: bool,
    /// oidc: link the mail address that the provider has verified, not the account itself
    #[arg(long)]
    mail: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct FindArgs {
    /// Who they are there: mailto:bob@example.org
    #[arg(value_name = "ID", value_parser = parse::linked)]
    id: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct ListingArgs {
    /// The account: xmpp:alice@example.org
    #[arg(value_name = "ACCOUNT", value_parser = parse::linked)]
    account: String,
    /// Whether it is listed
    #[arg(value_name = "on|off", value_parser = ["on", "off"])]
    listed: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct CertifyArgs {
    /// Who you are there: xmpp:alice@example.org
    #[arg(value_name = "ID", value_parser = parse::linked)]
    id: String,
    /// Hint at it no more
    #[arg(long)]
    remove: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct BookArgs {
    /// A file, or https://dav.example.org/: a book, whose books there are, or the server
    #[arg(value_name = "FILE|URL", conflicts_with_all = ["again", "none"])]
    source: Option<String>,
    /// A server: the user there. The password is read from standard input, or a file
    #[arg(long, value_name = "USER", value_parser = parse::text, requires = "source")]
    user: Option<String>,
    /// A server: a file with the password alone, readable by its owner alone
    #[arg(long, value_name = "FILE", requires = "user")]
    password_file: Option<PathBuf>,
    /// A server: certificates to trust beside the usual ones
    #[arg(long, value_name = "FILE", requires = "user")]
    roots: Option<PathBuf>,
    /// Read it again, now
    #[arg(long, conflicts_with = "none")]
    again: bool,
    /// Forget it, and the password
    #[arg(long)]
    none: bool,
}

/// Whether it is an address that a code is sent to.
fn is_address(text: &str) -> bool {
    ["mailto:", "tel:", "sip:"].iter().any(|scheme| text.starts_with(scheme))
}

fn system(text: &str) -> Result<String, String> {
    match text {
        "xmpp" | "oidc" | "sip" => Ok(text.to_owned()),
        _ if is_address(text) => parse::linked(text),
        _ => Err("expected xmpp, oidc, sip, or an address as mailto:alice@example.org, tel:+4930123456 or sip:alice@example.org"
            .to_owned()),
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct RemoveArgs {
    /// The account: xmpp:alice@example.org
    #[arg(value_name = "ACCOUNT", value_parser = parse::linked)]
    account: String,
}

pub(super) async fn run(context: &Context, command: Command) -> Result<(), CliError> {
    if let Command::Book(BookArgs { source: Some(source), user: None, .. }) = &command
        && source.starts_with("https://")
    {
        return Err(CliError::Usage("a server is read as a user there: --user USER".into()));
    }
    let client = context.client()?;
    match command {
        Command::Add(args) if is_address(&args.system) => address(context, &client, args).await,
        Command::Book(args) => book(context, &client, args).await,
        Command::Add(args) if args.system == "oidc" => login(context, &client, args).await,
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
        Command::Find(args) => {
            let spinner = Spinner::start(context.output, "asking the directory");
            let found: LinkFound = client.post("/v1/links/find", &FindRequest { id: args.id }).await?;
            drop(spinner);
            context.output.print(&found, found_for_people)
        }
        Command::Listing(args) => {
            let path = format!("/v1/links/{}/listing", parse::url_part(&args.account));
            let account: LinkedAccount = client.post(&path, &ListingRequest { listed: args.listed == "on" }).await?;
            context.output.print(&account, account_for_people)
        }
        Command::Certify(args) => {
            let spinner = Spinner::start(context.output, "asking the authority");
            let request = CertifyLinkRequest { id: args.id, is_wanted: !args.remove };
            let certified: LinkCertified = client.post("/v1/links/certify", &request).await?;
            drop(spinner);
            context.output.print(&certified, certified_for_people)
        }
        Command::Remove(args) => {
            let path = format!("/v1/links/{}/remove", parse::url_part(&args.account));
            let removed: LinkRemoved = client.post(&path, &serde_json::json!({})).await?;
            context.output.print(&removed, removed_for_people)
        }
    }
}

/// Takes an address book, or says how the one that is taken stands.
async fn book(context: &Context, client: &Client, args: BookArgs) -> Result<(), CliError> {
    let nothing = serde_json::json!({});
    let book: LinkBook = match args.source {
        Some(url) if args.user.is_some() => {
            let user = args.user.unwrap_or_default();
            let password = password(args.password_file.as_deref())?;
            let server = LinkBookServer { url, user, password, roots: absolute(args.roots)? };
            let _spinner = Spinner::start(context.output, "reading the address book");
            client.post("/v1/links/book/server", &server).await?
        }
        Some(file) => {
            let file = absolute(Some(file.into()))?.unwrap_or_default();
            client.post("/v1/links/book", &LinkBookOptions { file }).await?
        }
        None if args.again => client.post("/v1/links/book/again", &nothing).await?,
        None if args.none => client.post("/v1/links/book/forget", &nothing).await?,
        None => client.get("/v1/links/book").await?,
    };
    context.output.print(&book, book_for_people)
}

/// Has a code sent to an address, or shows the one that came.
async fn address(context: &Context, client: &Client, args: AddArgs) -> Result<(), CliError> {
    let address = args.system;
    if let Some(code) = args.code {
        let code = code.chars().filter(char::is_ascii_digit).collect();
        let listed = (args.listed || args.unlisted).then_some(args.listed);
        let account: LinkedAccount = client.post("/v1/links/code/show", &LinkCodeShown { address, code, listed }).await?;
        return context.output.print(&account, account_for_people);
    }
    let sent: LinkCode = client.post("/v1/links/code", &LinkCodeOptions { address }).await?;
    context.output.print(&sent, |sent| {
        let account = printable(&sent.account);
        format!("a code is on its way; with it:\n\n  halloo link add {account} --code CODE\n\nuntil {}", sent.expires_at)
    })
}

/// Says where to log in, and waits for it.
async fn login(context: &Context, client: &Client, args: AddArgs) -> Result<(), CliError> {
    let secret = args.client_secret_file.as_deref().map(crate::mail::password).transpose().map_err(CliError::Usage)?;
    let options = LinkLoginOptions {
        issuer: args.address.unwrap_or_default(),
        client_id: args.client_id,
        client_secret: secret.map(|secret| secret.to_string()),
        device: args.device,
        roots: absolute(args.server.roots)?,
        mail: args.mail,
    };
    let begun: LinkLogin = client.post("/v1/links/login", &options).await?;
    if context.output.is_json() {
        context.output.json(&with_event("login", &begun))?;
    } else {
        context.output.text(&login_for_people(&begun, args.device))?;
    }
    let spinner = Spinner::start(context.output, "waiting for the login");
    let path = format!("/v1/links/login/{}/wait", parse::url_part(&begun.login));
    let account: LinkedAccount = client.post(&path, &serde_json::json!({})).await?;
    drop(spinner);
    if context.output.is_json() {
        return context.output.json(&with_event("linked", &account));
    }
    context.output.text(&account_for_people(&account))
}

fn with_event(name: &str, value: &impl serde::Serialize) -> serde_json::Value {
    let mut line = serde_json::to_value(value).unwrap_or_default();
    line["event"] = name.into();
    line
}

fn login_for_people(begun: &LinkLogin, is_device: bool) -> String {
    let url = printable(&begun.url);
    let Some(code) = begun.user_code.as_ref().filter(|_| is_device) else {
        return format!("open this address in a browser on this machine:\n\n  {url}\n");
    };
    let picture = qrcode::QrCode::new(begun.url.as_bytes()).ok();
    let picture = picture.map(|picture| picture.render::<qrcode::render::unicode::Dense1x2>().build()).unwrap_or_default();
    format!("{picture}\nopen this address in any browser, and type {}:\n\n  {url}\n", printable(code))
}

fn absolute(path: Option<PathBuf>) -> Result<Option<PathBuf>, CliError> {
    path.map(std::path::absolute).transpose().map_err(|error| CliError::Usage(format!("roots: {error}")))
}

/// An account, and how to log in to it.
pub(super) struct Login {
    pub(super) system: String,
    pub(super) address: String,
    pub(super) server: ServerArgs,
    pub(super) tokens: bool,
    pub(super) listed: Option<bool>,
}

fn options(args: AddArgs) -> Result<LinkOptions, CliError> {
    let AddArgs { system, address, server, tokens, listed, unlisted, .. } = args;
    let listed = (listed || unlisted).then_some(listed);
    link_options(Login { system, address: address.unwrap_or_default(), server, tokens, listed })
}

/// Reads the password.
pub(super) fn link_options(args: Login) -> Result<LinkOptions, CliError> {
    let password = password(args.server.password_file.as_deref())?;
    let roots = absolute(args.server.roots)?;
    Ok(LinkOptions {
        system: args.system,
        address: args.address,
        password,
        server: args.server.server,
        roots,
        plain: args.server.plain,
        tokens: args.tokens,
        listed: args.listed,
    })
}

/// Of a file, or from standard input.
fn password(file: Option<&Path>) -> Result<String, CliError> {
    if let Some(path) = file {
        return Ok(crate::mail::password(path).map_err(CliError::Usage)?.to_string());
    }
    let mut text = String::new();
    let read = std::io::stdin().lock().take(PASSWORD_BYTES_MAX).read_to_string(&mut text);
    read.map_err(|error| CliError::Usage(format!("can't read the password from standard input: {error}")))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn book_for_people(book: &LinkBook) -> String {
    if book.source.is_none() && book.addresses == 0 {
        return "there is no address book; halloo link book FILE, or https://SERVER/ --user USER".to_owned();
    }
    let books = if book.books > 1 { format!(" in {} books", book.books) } else { String::new() };
    pairs([
        ("from", book.source.clone()),
        ("as", book.user.clone()),
        ("addresses", Some(format!("{}{books}", book.addresses))),
        ("read", book.read_at.map(|at| at.to_string())),
        ("not read since", book.reason.clone()),
    ])
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
        ("in the directory", account.listed.then(|| format!("at {} nodes", account.listed_at))),
        ("certified until", account.certified_until.map(|until| until.to_string())),
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
        return "nothing is linked; halloo link add xmpp ADDRESS, or oidc ISSUER".to_owned();
    }
    let accounts: Vec<String> = list.accounts.iter().map(account_for_people).collect();
    format!("{}\nby: {}\n", accounts.join("\n"), list.carriers.join(", "))
}

fn found_for_people(found: &LinkFound) -> String {
    if found.users.is_empty() {
        return printable(&format!("nobody says that they are {}", found.id)).into_owned();
    }
    let rows = found.users.iter().map(|user| {
        let proof = user.proved_by.map_or_else(|| "nothing: a mere claim".to_owned(), |proof| word(&proof));
        [user.username.clone(), proof]
    });
    table(["HERE", "PROVED BY"], rows)
}

fn certified_for_people(certified: &LinkCertified) -> String {
    let LinkCertified { id, is_certified, not_after } = certified;
    let text = match is_certified {
        true => format!("your certificate hints at {id} until {not_after}, and the one after it"),
        false => format!("your certificate doesn't hint at {id} any more; earlier ones do until they end"),
    };
    printable(&text).into_owned()
}

fn removed_for_people(removed: &LinkRemoved) -> String {
    let place = if !removed.account.starts_with("xmpp:") {
        "contacts who know who you are here can call you by it until what they know ends"
    } else if removed.is_taken_back {
        "its contacts aren't shown it any more"
    } else {
        "its server couldn't be told: its contacts are shown it until it ends"
    };
    printable(&format!("{} is unlinked; {place}", removed.account)).into_owned()
}
