//! `halloo profile`

use std::path::{Path, PathBuf};

use data_encoding::BASE64URL_NOPAD;
use halloo_protocol::profile::Avatar;

use super::Context;
use super::error::CliError;
use super::output::{list, pairs};
use crate::handle::contacts::{ProfileChange, ProfileView};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// What contacts see of you
    Get,
    /// Change it; what isn't given stays
    Set(SetArgs),
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
pub(super) struct SetArgs {
    /// How you want to be called
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
    /// A few words of the moment
    #[arg(long, value_name = "TEXT")]
    mood: Option<String>,
    /// Languages, preferred first: en,de
    #[arg(long, value_name = "TAGS", value_delimiter = ',')]
    lang: Option<Vec<String>>,
    /// A PNG of at most 32 KiB and 512 by 512 pixels; what else is in the file is left out
    #[arg(long, value_name = "FILE", conflicts_with = "no_avatar")]
    avatar: Option<PathBuf>,
    /// No picture any more
    #[arg(long)]
    no_avatar: bool,
}

pub(super) async fn run(context: &Context, command: Command) -> Result<(), CliError> {
    let client = context.client()?;
    let profile: ProfileView = match command {
        Command::Get => client.get("/v1/profile").await?,
        Command::Set(args) => client.post("/v1/profile", &change(args)?).await?,
    };
    context.output.print(&profile, |profile| {
        let shown = |text: &String| (!text.is_empty()).then(|| text.clone());
        pairs([
            ("name", shown(&profile.display_name)),
            ("mood", shown(&profile.mood)),
            ("languages", list(&profile.languages)),
            ("avatar", Some(if profile.avatar.is_some() { "yes" } else { "none" }.to_owned())),
        ])
    })
}

fn change(args: SetArgs) -> Result<ProfileChange, CliError> {
    let avatar = match args.avatar {
        Some(path) => Some(read_avatar(&path)?),
        None => args.no_avatar.then(String::new),
    };
    Ok(ProfileChange { display_name: args.name, mood: args.mood, languages: args.lang, avatar })
}

/// Checked here already: the node takes only so much.
fn read_avatar(path: &Path) -> Result<String, CliError> {
    let bytes = std::fs::read(path).map_err(|error| CliError::Usage(format!("can't read {}: {error}", path.display())))?;
    let avatar = Avatar::clean(&bytes).map_err(|error| CliError::Usage(format!("{}: {error}", path.display())))?;
    Ok(BASE64URL_NOPAD.encode(avatar.as_bytes()))
}
