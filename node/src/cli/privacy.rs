//! `halloo privacy`

use clap::ValueEnum;

use super::Context;
use super::error::CliError;
use super::output::{pairs, word};
use crate::handle::contacts::{Audience, Privacy, PrivacyChange};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Who may do what
    Get,
    /// Change it; what isn't given stays
    Set(SetArgs),
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Who {
    Nobody,
    Contacts,
    Linked,
    Anyone,
}

impl From<Who> for Audience {
    fn from(who: Who) -> Self {
        match who {
            Who::Nobody => Self::Nobody,
            Who::Contacts => Self::Contacts,
            Who::Linked => Self::Linked,
            Who::Anyone => Self::Anyone,
        }
    }
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
pub(super) struct SetArgs {
    /// Who may call, call with video, write and send files
    #[arg(long, value_name = "WHO", conflicts_with_all = ["call", "video", "message", "file"])]
    all: Option<Who>,
    /// Who may call
    #[arg(long, value_name = "WHO")]
    call: Option<Who>,
    /// Who may call with video
    #[arg(long, value_name = "WHO")]
    video: Option<Who>,
    /// Who may write
    #[arg(long, value_name = "WHO")]
    message: Option<Who>,
    /// Who may send files
    #[arg(long, value_name = "WHO")]
    file: Option<Who>,
    /// Who may see the presence: nobody or contacts
    #[arg(long, value_name = "WHO")]
    presence: Option<Who>,
    /// Who may add you to groups without asking: nobody or contacts
    #[arg(long, value_name = "WHO")]
    group: Option<Who>,
    /// Whether others are told that you have read their messages
    #[arg(long, value_name = "ON-OFF")]
    receipts: Option<Switch>,
    /// Whether contacts may pass your presence on to each other: they learn that they share you
    #[arg(long, value_name = "ON-OFF")]
    pass_on: Option<Switch>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

pub(super) async fn run(context: &Context, command: Command) -> Result<(), CliError> {
    let client = context.client()?;
    let privacy: Privacy = match command {
        Command::Get => client.get("/v1/privacy").await?,
        Command::Set(args) => client.post("/v1/privacy", &change(&args)).await?,
    };
    context.output.print(&privacy, |privacy| {
        pairs([
            ("call", Some(word(&privacy.call))),
            ("video", Some(word(&privacy.video))),
            ("message", Some(word(&privacy.message))),
            ("file", Some(word(&privacy.file))),
            ("presence", Some(word(&privacy.presence))),
            ("group", Some(word(&privacy.group))),
            ("receipts", Some(if privacy.receipts { "on" } else { "off" }.to_owned())),
            ("pass on", Some(if privacy.pass_on { "on" } else { "off" }.to_owned())),
        ])
    })
}

fn change(args: &SetArgs) -> PrivacyChange {
    let of = |who: Option<Who>| who.or(args.all).map(Audience::from);
    PrivacyChange {
        call: of(args.call),
        video: of(args.video),
        message: of(args.message),
        file: of(args.file),
        presence: args.presence.map(Audience::from),
        group: args.group.map(Audience::from),
        receipts: args.receipts.map(|switch| switch == Switch::On),
        pass_on: args.pass_on.map(|switch| switch == Switch::On),
    }
}
