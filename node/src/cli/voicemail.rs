//! `halloo voicemail`

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};

use bytes::Bytes;
use serde_json::json;

use super::error::CliError;
use super::output::{bytes, duration, pairs, printable, shown_on, table, word};
use super::watch::watch;
use super::{Context, parse};
use crate::api::client::Client;
use crate::api::requests::VoicemailRequest;
use crate::handle::Event;
use crate::handle::voicemail::{VoicemailLeft, VoicemailList, VoicemailView};

/// Programs that play a WAV file, and how they are asked to do so quietly. The first one that is there is taken.
const PLAYERS: [(&str, &[&str]); 6] = [
    ("pw-play", &[]),
    ("paplay", &[]),
    ("aplay", &["-q"]),
    ("afplay", &[]),
    ("ffplay", &["-nodisp", "-autoexit", "-loglevel", "error"]),
    ("mpv", &["--no-video", "--really-quiet"]),
];

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Voicemail that was left for you, the newest first
    List(ListArgs),
    /// Hear one; all your devices show that you have
    Play(PlayArgs),
    /// Write one to a file: WAV if its name ends so, else Opus in Ogg
    Save(SaveArgs),
    /// Note that you have heard one; all your devices show it
    Heard(IdArgs),
    /// Take one off this device
    Delete(IdArgs),
    /// Leave somebody a recording without calling
    Leave(LeaveArgs),
    /// Voicemail as it comes and is heard
    Watch,
}

#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    /// Of this caller only
    #[arg(long, value_name = "USER", value_parser = parse::user_or_linked)]
    from: Option<String>,
    /// What you haven't heard only
    #[arg(long)]
    unheard: bool,
    /// What you have left for others too
    #[arg(long)]
    sent: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct IdArgs {
    /// The voicemail's id; its first characters will do
    #[arg(value_parser = parse::id)]
    id: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct PlayArgs {
    #[command(flatten)]
    id: IdArgs,
    /// Program that plays it: it gets the path of a WAV file [default: one that is installed]
    #[arg(long, value_name = "PROGRAM")]
    with: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(super) struct SaveArgs {
    #[command(flatten)]
    id: IdArgs,
    /// Where to: a file that isn't there yet
    path: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(super) struct LeaveArgs {
    /// For whom
    #[arg(value_parser = parse::user_or_linked)]
    user: String,
    /// WAV file of at most three minutes
    #[arg(value_name = "WAV")]
    path: PathBuf,
}

pub(super) async fn run(context: &Context, command: Command) -> Result<(), CliError> {
    match command {
        Command::List(args) => list(context, &args).await,
        Command::Play(args) => play(context, &args).await,
        Command::Save(args) => save(context, &args).await,
        Command::Heard(args) => change(context, &args.id, "heard").await,
        Command::Delete(args) => change(context, &args.id, "delete").await,
        Command::Leave(args) => leave(context, args).await,
        Command::Watch => watch(context, for_people).await,
    }
}

async fn list(context: &Context, args: &ListArgs) -> Result<(), CliError> {
    let with = args.from.as_ref().map(|user| format!("&with={}", parse::url_part(user))).unwrap_or_default();
    let path = format!("/v1/voicemails?unheard={}&sent={}{with}", args.unheard, args.sent);
    let list: VoicemailList = context.client()?.get(&path).await?;
    context.output.print(&list, |list| {
        if list.voicemails.is_empty() {
            return "no voicemail".to_owned();
        }
        table(["ID", "", "WITH", "LEFT", "LENGTH", "STATE", "PROBLEM"], list.voicemails.iter().map(row))
    })
}

fn row(view: &VoicemailView) -> [String; 7] {
    let state = match (view.incoming, view.heard) {
        (true, true) => "heard".to_owned(),
        _ => word(&view.state),
    };
    [
        view.id.chars().take(8).collect(),
        if view.incoming { "from" } else { "to" }.to_owned(),
        view.with.clone(),
        view.sent_at.to_string(),
        duration(view.duration_ms),
        state,
        view.problem.clone().unwrap_or_default(),
    ]
}

fn path_of(id: &str) -> String {
    format!("/v1/voicemails/{}", parse::url_part(id))
}

async fn change(context: &Context, id: &str, what: &str) -> Result<(), CliError> {
    let view: VoicemailView = context.client()?.post(&format!("{}/{what}", path_of(id)), &json!({})).await?;
    context.output.print(&view, one_for_people)
}

async fn audio(client: &Client, id: &str, form: &str) -> Result<Bytes, CliError> {
    Ok(client.get_bytes(&format!("{}/audio?format={form}", path_of(id))).await?)
}

async fn save(context: &Context, args: &SaveArgs) -> Result<(), CliError> {
    let client = context.client()?;
    let is_wav = args.path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("wav"));
    let content = audio(&client, &args.id.id, if is_wav { "wav" } else { "ogg" }).await?;
    let failed = |error: io::Error| CliError::Failed(format!("can't write {}: {error}", args.path.display()));
    let mut file = new_file(&args.path).map_err(failed)?;
    file.write_all(&content).map_err(failed)?;
    let view: VoicemailView = client.get(&path_of(&args.id.id)).await?;
    context
        .output
        .print(&view, |view| format!("{}\n{} at {}", one_for_people(view), bytes(content.len() as u64), args.path.display()))
}

/// A file that isn't there yet, for its owner alone.
fn new_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    options.open(path)
}

/// A file that goes when it isn't needed any more.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _gone = std::fs::remove_file(&self.0);
    }
}

async fn play(context: &Context, args: &PlayArgs) -> Result<(), CliError> {
    let client = context.client()?;
    let content = audio(&client, &args.id.id, "wav").await?;
    let view: VoicemailView = client.get(&path_of(&args.id.id)).await?;
    let path = std::env::temp_dir().join(format!("halloo-{}-{}.wav", view.id, std::process::id()));
    let failed = |error: io::Error| CliError::Failed(format!("can't write {}: {error}", path.display()));
    let mut file = new_file(&path).map_err(failed)?;
    let scratch = Scratch(path.clone());
    file.write_all(&content).map_err(failed)?;
    drop(file);
    context.output.note(&format!("{} from {}, {}", duration(view.duration_ms), printable(&view.with), view.sent_at));
    play_file(&scratch.0, args.with.as_deref())?;
    drop(scratch);
    change(context, &view.id, "heard").await
}

fn play_file(path: &Path, with: Option<&Path>) -> Result<(), CliError> {
    let players: Vec<(&Path, &[&str])> = match with {
        Some(program) => vec![(program, &[])],
        None => PLAYERS.iter().map(|(program, args)| (Path::new(*program), *args)).collect(),
    };
    for (program, args) in players {
        let mut player = Process::new(program);
        // Standard output is for what this command says.
        player.args(args).arg(path).stdin(Stdio::null()).stdout(Stdio::null());
        match player.status() {
            Ok(status) if status.success() => return Ok(()),
            Ok(status) => return Err(CliError::Failed(format!("{} has not played it: {status}", program.display()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound && with.is_none() => {}
            Err(error) => return Err(CliError::Failed(format!("can't run {}: {error}", program.display()))),
        }
    }
    Err(CliError::Failed(
        "no program that plays WAV files was found: name one with --with, or use `halloo voicemail save`".to_owned(),
    ))
}

async fn leave(context: &Context, args: LeaveArgs) -> Result<(), CliError> {
    let request = VoicemailRequest { to: args.user, path: parse::wav_to_play(&args.path)?, call_id: None };
    let left: VoicemailLeft = context.client()?.post("/v1/voicemails", &request).await?;
    context.output.print(&left, left_for_people)
}

/// What is said of one that was left.
pub(super) fn left_for_people(left: &VoicemailLeft) -> String {
    format!("voicemail {} of {} is left", left.id, duration(left.duration_ms))
}

fn one_for_people(view: &VoicemailView) -> String {
    let way = if view.incoming { "from" } else { "to" };
    pairs([
        ("voicemail", Some(view.id.clone())),
        (way, Some(view.with.clone())),
        ("left", Some(view.sent_at.to_string())),
        ("length", Some(duration(view.duration_ms))),
        ("state", Some(word(&view.state))),
        ("heard", view.heard.then(|| "yes".to_owned())),
        ("call", view.call_id.clone()),
        ("problem", view.problem.clone()),
    ])
}

fn for_people(event: &Event) -> Option<String> {
    match event {
        Event::VoicemailReceived { voicemail_id, from, duration_ms, notice, .. } => {
            let place = shown_on(notice.as_ref());
            Some(format!("{} from {}, {}{place}", short(voicemail_id), printable(from), duration(*duration_ms)))
        }
        Event::VoicemailHeard { voicemail_id, from, elsewhere } => {
            let place = if *elsewhere { " on another device" } else { "" };
            Some(format!("{} from {} was heard{place}", short(voicemail_id), printable(from)))
        }
        _ => None,
    }
}

fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}
