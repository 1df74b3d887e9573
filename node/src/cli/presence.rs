//! `halloo presence`

use super::error::CliError;
use super::output::{duration, pairs, printable, table, word};
use super::watch::watch;
use super::{Context, parse};
use crate::handle::Event;
use crate::handle::presence::{OwnPresence, PresenceChange, PresenceList, PresenceSource, PresenceState, PresenceView};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// A contact's presence as it is known here; without a user, everybody's
    Get(GetArgs),
    /// Choose what contacts see; without anything to choose, show it
    Set(SetArgs),
    /// Changes of contacts' presence as they become known
    Watch,
}

#[derive(Debug, clap::Args)]
pub(super) struct GetArgs {
    /// Whose
    #[arg(value_parser = parse::user)]
    user: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct SetArgs {
    /// What to be; dnd is do not disturb, offline looks as if you weren't there
    #[arg(value_enum)]
    state: Option<PresenceState>,
    /// Your own words, at most 280 bytes; "" for none
    #[arg(long, value_name = "TEXT")]
    mood: Option<String>,
}

pub(super) async fn run(context: &Context, command: Command) -> Result<(), CliError> {
    match command {
        Command::Get(GetArgs { user: Some(user) }) => {
            let path = format!("/v1/presence/contacts/{}", parse::url_part(&user));
            let view: PresenceView = context.client()?.get(&path).await?;
            context.output.print(&view, for_people)
        }
        Command::Get(GetArgs { user: None }) => {
            let list: PresenceList = context.client()?.get("/v1/presence/contacts").await?;
            context.output.print(&list, all_for_people)
        }
        Command::Set(args) => set(context, args).await,
        Command::Watch => {
            watch(context, |event| match event {
                Event::Presence(view) => Some(in_a_line(view)),
                _ => None,
            })
            .await
        }
    }
}

async fn set(context: &Context, args: SetArgs) -> Result<(), CliError> {
    let client = context.client()?;
    let own: OwnPresence = if args.state.is_none() && args.mood.is_none() {
        client.get("/v1/presence").await?
    } else {
        client.post("/v1/presence", &PresenceChange { state: args.state, mood: args.mood }).await?
    };
    context.output.print(&own, |own| {
        let hidden = own.is_hidden.then(|| "from everybody: halloo privacy set --presence contacts".to_owned());
        pairs([("state", Some(word(&own.state))), ("mood", some_text(&own.mood)), ("hidden", hidden)])
    })
}

fn for_people(view: &PresenceView) -> String {
    pairs([
        ("user", Some(printable(&view.username).into_owned())),
        ("state", Some(state(view))),
        ("mood", some_text(&view.mood)),
        ("reachable", Some(word(&view.reachability)).filter(|_| view.source != PresenceSource::Nobody)),
        ("said", Some(said(view))),
    ])
}

fn all_for_people(list: &PresenceList) -> String {
    if list.contacts.is_empty() {
        return "no contacts; halloo contact add USER".to_owned();
    }
    let rows = list.contacts.iter().map(|view| {
        let mood = printable(&view.mood).into_owned();
        [printable(&view.username).into_owned(), state(view), word(&view.reachability), said(view), mood]
    });
    table(["USER", "STATE", "REACHABLE", "SAID", "MOOD"], rows)
}

/// A contact's presence on one line.
pub(super) fn in_a_line(view: &PresenceView) -> String {
    if view.source == PresenceSource::Nobody {
        return format!("nothing is known of {} yet", printable(&view.username));
    }
    let mood = if view.mood.is_empty() { String::new() } else { format!("  \"{}\"", printable(&view.mood)) };
    format!("{} is {} ({}){mood}", printable(&view.username), word(&view.state), word(&view.reachability))
}

/// What they say they are; nothing yet isn't offline.
fn state(view: &PresenceView) -> String {
    if view.source == PresenceSource::Nobody { "unknown".to_owned() } else { word(&view.state) }
}

/// When it was said, and who told it.
fn said(view: &PresenceView) -> String {
    match word(&view.source).as_str() {
        "nobody" => "never".to_owned(),
        source => format!("{} ago, by {source}", duration(view.age_ms)),
    }
}

fn some_text(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| printable(text).into_owned())
}
