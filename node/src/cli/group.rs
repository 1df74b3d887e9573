//! `halloo group`

use super::error::CliError;
use super::output::{printable, table, word};
use super::watch::watch;
use super::{Context, msg, parse};
use crate::api::client::Client;
use crate::api::requests::GroupRequest;
use crate::handle::Event;
use crate::handle::groups::{GroupChange, GroupEntry, GroupList, GroupMember};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Found a group, and add these users
    Create(CreateArgs),
    /// Add a user, or make an admin of a member
    Add(AddArgs),
    /// Remove a member, who gets nothing that is sent afterwards
    Remove(MemberArgs),
    /// Leave a group
    Leave(GroupArgs),
    /// Give a group another name
    Rename(RenameArgs),
    /// Take part in a group to which somebody has added you who had to ask
    Accept(GroupArgs),
    /// Take no part in it
    Decline(GroupArgs),
    /// Send a message to all members
    Send(SendArgs),
    /// All groups and their members; with a group, its messages
    List(ListArgs),
    /// Mark a group's messages as read
    Read(ReadArgs),
    /// Messages and changes as they arrive
    Watch,
}

#[derive(Debug, clap::Args)]
pub(super) struct CreateArgs {
    /// What it is called
    #[arg(value_parser = parse::text)]
    name: String,
    /// Who is to be a member
    #[arg(value_name = "USER", value_parser = parse::user_or_linked)]
    users: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct GroupArgs {
    /// The group: its id, the start of it, or its name
    group: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct AddArgs {
    /// The group: its id, the start of it, or its name
    group: String,
    /// Whom
    #[arg(value_parser = parse::user_or_linked)]
    user: String,
    /// As an admin, who may add and remove members
    #[arg(long)]
    admin: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct MemberArgs {
    /// The group: its id, the start of it, or its name
    group: String,
    /// Whom
    #[arg(value_parser = parse::user_or_linked)]
    user: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct RenameArgs {
    /// The group: its id, the start of it, or its name
    group: String,
    /// What it is called from now on
    #[arg(value_parser = parse::text)]
    name: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct SendArgs {
    /// The group: its id, the start of it, or its name
    group: String,
    /// What
    #[arg(value_parser = parse::text)]
    text: String,
    /// Wait until every member has it; fails if that is not so within --timeout
    #[arg(long)]
    wait: bool,
    /// How long to wait, in seconds [default: 30]
    #[arg(long, value_name = "SECS", requires = "wait", value_parser = parse::seconds)]
    timeout: Option<u64>,
}

#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    /// The group whose messages to list: its id, the start of it, or its name
    group: Option<String>,
    /// At most so many messages, the newest [default: 100]
    #[arg(long, value_name = "COUNT", requires = "group", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    limit: Option<u32>,
    /// Mark what is shown as read
    #[arg(long, requires = "group")]
    mark_read: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct ReadArgs {
    /// The group: its id, the start of it, or its name
    group: String,
    /// Up to this message [default: the newest]
    #[arg(value_parser = parse::id)]
    id: Option<String>,
}

pub(super) async fn run(context: &Context, command: Command) -> Result<(), CliError> {
    match command {
        Command::Create(args) => create(context, args).await,
        Command::Add(args) => change(context, &args.group, GroupChange::Add { user: args.user, admin: args.admin }).await,
        Command::Remove(args) => change(context, &args.group, GroupChange::Remove { user: args.user }).await,
        Command::Leave(args) => change(context, &args.group, GroupChange::Leave {}).await,
        Command::Rename(args) => change(context, &args.group, GroupChange::Rename { name: args.name }).await,
        Command::Accept(args) => change(context, &args.group, GroupChange::Accept {}).await,
        Command::Decline(args) => change(context, &args.group, GroupChange::Decline {}).await,
        Command::Send(args) => msg::send(context, address(&args.group), args.text, args.wait.then_some(args.timeout)).await,
        Command::List(ListArgs { group: Some(group), limit, mark_read }) => {
            msg::list(context, &address(&group), limit, mark_read).await
        }
        Command::List(_) => {
            let list: GroupList = context.client()?.get("/v1/groups").await?;
            context.output.print(&list, list_for_people)
        }
        Command::Read(args) => msg::read(context, address(&args.group), args.id).await,
        Command::Watch => watch(context, for_people).await,
    }
}

/// As conversations name a group.
fn address(group: &str) -> String {
    format!("group:{group}")
}

async fn create(context: &Context, args: CreateArgs) -> Result<(), CliError> {
    let client = context.client()?;
    let mut group: GroupEntry = client.post("/v1/groups", &GroupRequest { name: args.name }).await?;
    let mut refused = Vec::new();
    for user in args.users {
        let added = GroupChange::Add { user: user.clone(), admin: false };
        match post(&client, &group.id, &added).await {
            Ok(newer) => group = newer,
            Err(error) => refused.push(format!("{user}: {error}")),
        }
    }
    context.output.print(&group, group_for_people)?;
    for refusal in &refused {
        context.output.error(refusal);
    }
    if refused.is_empty() { Ok(()) } else { Err(CliError::Told) }
}

async fn change(context: &Context, group: &str, change: GroupChange) -> Result<(), CliError> {
    let group = post(&context.client()?, group, &change).await?;
    context.output.print(&group, group_for_people)
}

async fn post(client: &Client, group: &str, change: &GroupChange) -> Result<GroupEntry, CliError> {
    Ok(client.post(&format!("/v1/groups/{}", parse::url_part(group)), change).await?)
}

fn members(group: &GroupEntry) -> String {
    let shown = |member: &GroupMember| {
        let role = if member.admin { " (admin)" } else { "" };
        format!("{}{role}", member.username)
    };
    group.members.iter().map(shown).collect::<Vec<_>>().join(", ")
}

fn group_for_people(group: &GroupEntry) -> String {
    printable(&format!("{} {} ({}): {}", group.id, group.name, word(&group.state), members(group))).into_owned()
}

fn list_for_people(list: &GroupList) -> String {
    if list.groups.is_empty() {
        return "no groups; halloo group create NAME USER...".to_owned();
    }
    let rows = list.groups.iter().map(|group| {
        let unread = if group.unread > 0 { group.unread.to_string() } else { String::new() };
        [group.id.chars().take(8).collect(), group.name.clone(), word(&group.state), unread, members(group)]
    });
    table(["GROUP", "NAME", "STATE", "UNREAD", "MEMBERS"], rows)
}

fn for_people(event: &Event) -> Option<String> {
    match event {
        Event::MessageReceived { group: None, .. }
        | Event::MessageState { group: None, .. }
        | Event::MessageSent { group: None, .. }
        | Event::ConversationRead { group: None, .. }
        | Event::MessageGap { group: None, .. } => None,
        Event::GroupInvited { group, name, from, joined } => {
            let next = if *joined { String::new() } else { format!(": halloo group accept {group}") };
            Some(format!("{} has added you to {}{next}", printable(from), printable(name)))
        }
        Event::GroupChanged { name, added, removed, .. } => {
            let mut words = printable(name).into_owned();
            let pairs = [("in: ", added), ("out: ", removed)];
            for (way, users) in pairs.into_iter().filter(|(_, users)| !users.is_empty()) {
                words = format!("{words}  {way}{}", printable(&users.join(", ")));
            }
            Some(words)
        }
        Event::GroupLeft { name, .. } => Some(format!("you are no member of {} any more", printable(name))),
        other => msg::for_people(other),
    }
}
