//! `halloo msg`

use super::error::CliError;
use super::output::{duration, printable, shown_on, table, word};
use super::progress::Spinner;
use super::watch::watch;
use super::{Context, parse};
use crate::api::client::{Client, ClientError};
use crate::api::requests::{ComposingRequest, MessageRequest, ReadRequest, WAIT_MS_DEFAULT, WAIT_MS_MAX};
use crate::handle::Event;
use crate::handle::history::{Found, FoundMessages};
use crate::handle::messages::{
    ComposingTold, ConversationList, MessageEntry, MessageList, MessageState, MessageStatus, ReadOutcome,
};
use crate::handle::problem::ProblemKind;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Send a message; it is stored until it is delivered
    Send(SendArgs),
    /// The conversation with a user
    List(ListArgs),
    /// Messages that have these words; the last one may be begun only
    Search(SearchArgs),
    /// Mark what a user has written as read; they are told, unless `halloo privacy` says no
    Read(ReadArgs),
    /// Say that you are writing, or have stopped; nothing of it is kept, and `halloo privacy` may say no
    Typing(TypingArgs),
    /// With whom there are conversations, and what is unread
    Conversations,
    /// Messages as they arrive, and how far own messages get
    Watch,
}

#[derive(Debug, clap::Args)]
pub(super) struct ReadArgs {
    /// Who wrote
    #[arg(value_parser = parse::user_or_linked)]
    user: String,
    /// Up to this message [default: the newest]
    #[arg(value_parser = parse::id)]
    id: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct TypingArgs {
    /// To whom
    #[arg(value_parser = parse::user_or_linked)]
    user: String,
    /// You have stopped
    #[arg(long)]
    stop: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct SendArgs {
    /// To whom
    #[arg(value_parser = parse::user_or_linked)]
    user: String,
    /// What
    #[arg(value_parser = parse::text)]
    text: String,
    /// Wait until it is delivered; fails if it is not within --timeout
    #[arg(long)]
    wait: bool,
    /// How long to wait, in seconds [default: 30]
    #[arg(long, value_name = "SECS", requires = "wait", value_parser = parse::seconds)]
    timeout: Option<u64>,
}

#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    /// With whom
    #[arg(value_parser = parse::user_or_linked)]
    user: String,
    /// At most so many, the newest [default: 100]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    limit: Option<u32>,
    /// Mark what is shown as read
    #[arg(long)]
    mark_read: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct SearchArgs {
    /// The words
    #[arg(value_parser = parse::text)]
    text: String,
    /// In the conversation with this user alone
    #[arg(long, value_name = "USER", value_parser = parse::user_or_linked)]
    with: Option<String>,
    /// At most so many, the newest [default: 20]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=200))]
    limit: Option<u32>,
}

pub(super) async fn run(context: &Context, command: Command) -> Result<(), CliError> {
    match command {
        Command::Send(args) => send(context, args.user, args.text, args.wait.then_some(args.timeout)).await,
        Command::List(args) => list(context, &args.user, args.limit, args.mark_read).await,
        Command::Read(args) => read(context, args.user, args.id).await,
        Command::Typing(args) => typing(context, args).await,
        Command::Conversations => conversations(context).await,
        Command::Search(args) => search(context, args).await,
        Command::Watch => watch(context, for_people).await,
    }
}

/// Sends; with `wait` waits until it is delivered, at most so long.
pub(super) async fn send(context: &Context, to: String, text: String, wait_for: Option<Option<u64>>) -> Result<(), CliError> {
    let client = context.client()?;
    let request = MessageRequest { to, text, wait_ms: None };
    let spinner = Spinner::start(context.output, &format!("sending to {}", request.to));
    let mut status: MessageStatus = client.post("/v1/messages", &request).await?;
    if let Some(timeout) = wait_for.filter(|_| status.state < MessageState::Delivered) {
        spinner.set(&format!("waiting for delivery to {}", request.to));
        let limit = timeout.unwrap_or(WAIT_MS_DEFAULT);
        match wait(&client, &status.id, limit).await {
            Ok(newer) => status = newer,
            Err(ClientError::Problem(problem)) if problem.kind() == Some(ProblemKind::TimedOut) => {
                drop(spinner);
                return not_delivered(context, &status, &problem.detail);
            }
            Err(error) => return Err(error.into()),
        }
    }
    drop(spinner);
    context.output.print(&status, |status| {
        let state = word(&status.state);
        let reason = status.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        printable(&format!("{} {state}{reason}", status.id)).into_owned()
    })?;
    if status.state == MessageState::Failed { Err(CliError::Told) } else { Ok(()) }
}

/// Programs get the message's id and state all the same, since it stays in the outbox.
fn not_delivered(context: &Context, status: &MessageStatus, detail: &str) -> Result<(), CliError> {
    if !context.output.is_json() {
        return Err(CliError::Failed(detail.to_owned()));
    }
    context.output.error(detail);
    context.output.json(status)?;
    Err(CliError::Told)
}

/// Waits in pieces, since one request may take only so long.
async fn wait(client: &Client, id: &str, limit_ms: u64) -> Result<MessageStatus, ClientError> {
    let mut left_ms = limit_ms;
    loop {
        let piece_ms = left_ms.min(WAIT_MS_MAX);
        left_ms -= piece_ms;
        let path = format!("/v1/messages/{}?wait_ms={piece_ms}", parse::url_part(id));
        match client.get(&path).await {
            Err(ClientError::Problem(problem)) if problem.kind() == Some(ProblemKind::TimedOut) && left_ms > 0 => {}
            answer => return answer,
        }
    }
}

/// Lists a conversation.
pub(super) async fn list(context: &Context, with: &str, limit: Option<u32>, mark_read: bool) -> Result<(), CliError> {
    let limit = limit.map(|limit| format!("&limit={limit}")).unwrap_or_default();
    let path = format!("/v1/messages?with={}{limit}", parse::url_part(with));
    let client = context.client()?;
    let list: MessageList = client.get(&path).await?;
    if mark_read && let Some(newest) = list.messages.last() {
        let request = ReadRequest { with: with.to_owned(), id: Some(newest.id.clone()) };
        let _outcome: ReadOutcome = client.post("/v1/conversations/read", &request).await?;
    }
    context.output.print(&list, list_for_people)
}

fn list_for_people(list: &MessageList) -> String {
    if list.messages.is_empty() {
        return printable(&format!("no messages with {}", list.with)).into_owned();
    }
    let line = |message: &MessageEntry| {
        let state = match (message.incoming, message.unread) {
            (true, true) => "  (new)".to_owned(),
            (true, false) => String::new(),
            (false, _) => format!("  ({})", word(&message.state)),
        };
        let voicemail = message.voicemail_ms.map(|ms| format!("(voicemail of {}, {})", duration(ms), message.id));
        let text = voicemail.as_deref().unwrap_or(&message.text);
        format!("{}  {}: {}{state}\n", message.sent_at, printable(&message.from), printable(text))
    };
    let missing = match list.missing {
        0 => String::new(),
        count => format!("({count} messages between these have not arrived)\n"),
    };
    list.messages.iter().map(line).chain([missing]).collect()
}

/// Marks as read.
pub(super) async fn read(context: &Context, with: String, id: Option<String>) -> Result<(), CliError> {
    let outcome: ReadOutcome = context.client()?.post("/v1/conversations/read", &ReadRequest { with, id }).await?;
    context.output.print(&outcome, |outcome| {
        printable(&format!("{}: {} marked, {} unread", outcome.with, outcome.marked, outcome.unread)).into_owned()
    })
}

async fn typing(context: &Context, args: TypingArgs) -> Result<(), CliError> {
    let request = ComposingRequest { with: args.user, active: !args.stop };
    let outcome: ComposingTold = context.client()?.post("/v1/conversations/composing", &request).await?;
    context.output.print(&outcome, |outcome| {
        let words = if outcome.told { "is told" } else { "isn't told" };
        format!("{} {words}", printable(&outcome.with))
    })
}

async fn search(context: &Context, args: SearchArgs) -> Result<(), CliError> {
    let with = args.with.map(|user| format!("&with={}", parse::url_part(&user))).unwrap_or_default();
    let limit = args.limit.map(|limit| format!("&limit={limit}")).unwrap_or_default();
    let path = format!("/v1/search?text={}{with}{limit}", parse::url_part(&args.text));
    let found: FoundMessages = context.client()?.get(&path).await?;
    context.output.print(&found, |found| {
        if found.messages.is_empty() {
            return "nothing found".to_owned();
        }
        let line = |found: &Found| {
            let (message, with) = (&found.message, printable(&found.with));
            let whom = if message.incoming { format!("{with}") } else { format!("to {with}") };
            format!("{}  {whom}: {}\n", message.sent_at, printable(&message.text))
        };
        found.messages.iter().map(line).collect()
    })
}

async fn conversations(context: &Context) -> Result<(), CliError> {
    let list: ConversationList = context.client()?.get("/v1/conversations").await?;
    context.output.print(&list, |list| {
        if list.conversations.is_empty() {
            return "no conversations".to_owned();
        }
        let rows = list.conversations.iter().map(|entry| {
            let unread = if entry.unread > 0 { entry.unread.to_string() } else { String::new() };
            [entry.with.clone(), unread, entry.last_at.to_string(), entry.last_text.chars().take(60).collect()]
        });
        table(["WITH", "UNREAD", "LAST", "SAYS"], rows)
    })
}

/// What is shown of what happens.
pub(super) fn for_people(event: &Event) -> Option<String> {
    match event {
        // It is said when it is due.
        Event::MessageReceived { held_secs: Some(_), .. } => None,
        Event::MessageReceived { from, text, notice, .. } | Event::MessageDue { from, text, notice, .. } => {
            Some(format!("{}: {}{}", printable(from), printable(text), shown_on(notice.as_ref())))
        }
        Event::MailReceived { from_name, from_address, subject, notice, .. } => {
            let place = shown_on(notice.as_ref());
            Some(format!("mail from {} <{}>: {}{place}", printable(from_name), printable(from_address), printable(subject)))
        }
        Event::MessageState { message_id, to, state, .. } => {
            Some(format!("{message_id} to {} is {}", printable(to), word(state)))
        }
        Event::MessageSent { to, text, .. } => Some(format!("to {}, from another device: {}", printable(to), printable(text))),
        Event::ConversationRead { with, unread, elsewhere: true, .. } => {
            Some(format!("read on another device: {}, {unread} unread", printable(with)))
        }
        Event::Composing { from, for_secs } => {
            let words = if *for_secs > 0 { "is writing" } else { "has stopped writing" };
            Some(format!("{} {words}", printable(from)))
        }
        Event::MessageGap { with, missing, .. } => Some(format!("{missing} messages of {} are missing", printable(with))),
        _ => None,
    }
}
