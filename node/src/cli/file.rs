//! `halloo file`

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::CliError;
use super::output::{bytes, duration, pairs, printable, shown_on, table, word};
use super::progress::Bar;
use super::watch::watch;
use super::{Context, parse};
use crate::api::client::Client;
use crate::api::requests::{FileChangeBody, FileRequestBody};
use crate::handle::Event;
use crate::handle::files::{FileList, FileState, FileView};

/// How often it is looked how far a file is that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(250);

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Offer a file to somebody; it must stay where it is until they have it
    Send(SendArgs),
    /// Files, coming and going
    List,
    /// Fetch a file that was offered
    Accept(AcceptArgs),
    /// Say no to a file that was offered
    Decline(IdArgs),
    /// Give up a file, coming or going
    Cancel(IdArgs),
    /// Files as they are offered, and how far they get
    Watch,
}

#[derive(Debug, clap::Args)]
pub(super) struct SendArgs {
    /// To whom
    #[arg(value_parser = parse::user_or_linked)]
    user: String,
    /// The file
    path: PathBuf,
    #[command(flatten)]
    wait: WaitArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct AcceptArgs {
    #[command(flatten)]
    id: IdArgs,
    /// Where to put it: a file that isn't there yet, or a directory
    #[arg(long, value_name = "PATH")]
    to: Option<PathBuf>,
    #[command(flatten)]
    wait: WaitArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct IdArgs {
    /// The file's id; its first characters will do
    #[arg(value_parser = parse::id)]
    id: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct WaitArgs {
    /// Wait until they, or you, have it; fails if that doesn't come to pass
    #[arg(long)]
    wait: bool,
    /// How long to wait, in seconds [default: as long as it takes]
    #[arg(long, value_name = "SECS", requires = "wait", value_parser = parse::seconds)]
    timeout: Option<u64>,
}

pub(super) async fn run(context: &Context, command: Command) -> Result<(), CliError> {
    match command {
        Command::Send(args) => {
            let client = context.client()?;
            let request = FileRequestBody { to: args.user, path: absolute(&args.path)? };
            let view: FileView = client.post("/v1/files", &request).await?;
            finish(context, &client, view, &args.wait).await
        }
        Command::List => list(context).await,
        Command::Accept(args) => {
            let client = context.client()?;
            let to = args.to.as_deref().map(absolute).transpose()?;
            let view = change(&client, &args.id.id, "accept", &FileChangeBody { to }).await?;
            finish(context, &client, view, &args.wait).await
        }
        Command::Decline(args) => end(context, &args.id, "decline").await,
        Command::Cancel(args) => end(context, &args.id, "cancel").await,
        Command::Watch => watch(context, for_people).await,
    }
}

/// The daemon has another working directory.
fn absolute(path: &Path) -> Result<PathBuf, CliError> {
    std::path::absolute(path).map_err(|error| CliError::Usage(format!("{}: {error}", path.display())))
}

async fn change(client: &Client, id: &str, change: &str, body: &FileChangeBody) -> Result<FileView, CliError> {
    Ok(client.post(&format!("/v1/files/{}/{change}", parse::url_part(id)), body).await?)
}

async fn end(context: &Context, id: &str, what: &str) -> Result<(), CliError> {
    let view = change(&context.client()?, id, what, &FileChangeBody::default()).await?;
    context.output.print(&view, one_for_people)
}

/// Waits if that was asked for, and says how it is.
async fn finish(context: &Context, client: &Client, view: FileView, args: &WaitArgs) -> Result<(), CliError> {
    let view = if args.wait { wait(context, client, view, args.timeout).await? } else { view };
    context.output.print(&view, one_for_people)?;
    if args.wait && view.state != FileState::Done { Err(CliError::Told) } else { Ok(()) }
}

/// Looks at it until it has ended, or the time is over.
async fn wait(context: &Context, client: &Client, mut view: FileView, timeout_ms: Option<u64>) -> Result<FileView, CliError> {
    let bar = Bar::start(context.output, view.size);
    let path = format!("/v1/files/{}", parse::url_part(&view.id));
    let started = std::time::Instant::now();
    while !view.state.is_end() {
        bar.set(view.bytes, &doing(&view));
        if timeout_ms.is_some_and(|limit| started.elapsed() >= Duration::from_millis(limit)) {
            context.output.error(&format!(
                "file {} is not done after {}; it goes on",
                view.id,
                duration(timeout_ms.unwrap_or(0))
            ));
            break;
        }
        tokio::time::sleep(LOOK_EVERY).await;
        view = client.get(&path).await?;
    }
    Ok(view)
}

fn doing(view: &FileView) -> String {
    match (view.state, &view.problem) {
        (FileState::Preparing, _) => format!("reading {}", view.name),
        (_, Some(problem)) => format!("{}: {problem}", view.name),
        (FileState::Offered, None) => format!("waiting for {} to accept {}", view.with, view.name),
        (_, None) => view.name.clone(),
    }
}

async fn list(context: &Context) -> Result<(), CliError> {
    let list: FileList = context.client()?.get("/v1/files").await?;
    context.output.print(&list, |list| {
        if list.files.is_empty() {
            return "no files; halloo file send USER PATH".to_owned();
        }
        table(["ID", "", "WITH", "NAME", "SIZE", "STATE", "GOT", "RATE", "PROBLEM"], list.files.iter().map(row))
    })
}

fn row(view: &FileView) -> [String; 9] {
    let id = view.id.chars().take(8).collect();
    let way = if view.incoming { "from" } else { "to" };
    let got = if view.state.is_end() && view.state != FileState::Done { String::new() } else { percent(view) };
    [
        id,
        way.to_owned(),
        view.with.clone(),
        view.name.clone(),
        bytes(view.size),
        word(&view.state),
        got,
        view.rate.map(|rate| format!("{}/s", bytes(rate))).unwrap_or_default(),
        view.problem.clone().unwrap_or_default(),
    ]
}

fn percent(view: &FileView) -> String {
    let of_hundred = view.bytes.saturating_mul(100).checked_div(view.size).unwrap_or(100);
    format!("{of_hundred}%")
}

fn one_for_people(view: &FileView) -> String {
    let way = if view.incoming { "from" } else { "to" };
    pairs([
        ("file", Some(view.id.clone())),
        (way, Some(view.with.clone())),
        ("name", Some(view.name.clone())),
        ("size", Some(bytes(view.size))),
        ("state", Some(word(&view.state))),
        ("path", view.path.clone()),
        ("problem", view.problem.clone()),
    ])
}

fn for_people(event: &Event) -> Option<String> {
    match event {
        Event::FileOffered { file_id, from, name, size, notice, .. } => {
            let (name, place) = (printable(name), shown_on(notice.as_ref()));
            Some(format!("{}: {} offers {name} ({}){place}", short(file_id), printable(from), bytes(*size)))
        }
        Event::FileProgress { file_id, bytes: got, size, rate } => {
            let rate = rate.map(|rate| format!(", {}/s", bytes(rate))).unwrap_or_default();
            Some(format!("{}: {} of {}{rate}", short(file_id), bytes(*got), bytes(*size)))
        }
        Event::FileState { file_id, state, path, problem, .. } => {
            let more = problem.as_ref().or(path.as_ref()).map(|more| format!(": {}", printable(more))).unwrap_or_default();
            Some(format!("{} is {}{more}", short(file_id), word(state)))
        }
        _ => None,
    }
}

fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}
