//! `halloo calls`

use std::path::PathBuf;

use serde_json::json;

use super::error::CliError;
use super::output::{printable, shown_on, table, word};
use super::watch::watch;
use super::{Context, call, parse};
use crate::api::requests::CallDone;
use crate::calls::media::{HAS_SOUND, Microphone};
use crate::handle::Event;
use crate::handle::calls::{
    AddOptions, AnswerOptions, CallAdded, CallEntry, CallList, CallRejoined, CallStage, KeyOptions, OtherEnd,
};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Calls in progress and past
    List,
    /// One call, also of an earlier run, and what happened in it
    Show(IdArgs),
    /// Calls as they come, ring and end
    Watch,
    /// Answer a ringing call
    Answer(AnswerArgs),
    /// Decline a ringing call
    Decline(IdArgs),
    /// Note that you have seen an ended call; all your devices show it
    Dismiss(IdArgs),
    /// Add somebody to a call in progress: it becomes a conference
    Add(AddArgs),
    /// Press keys in a call: digits, *, #, A to D
    Press(PressArgs),
    /// Come back to a conference that you left within the last hour
    Rejoin(AnswerArgs),
    /// End a call in any state; a call of a conference ends the conference here
    Hangup(IdArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct PressArgs {
    /// The call, as `calls list` shows it
    #[arg(value_parser = parse::id)]
    id: String,
    /// The keys, at most 32
    keys: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct AnswerArgs {
    /// The call, as `calls list` shows it
    #[arg(value_parser = parse::id)]
    id: String,
    /// WAV file to send
    #[arg(long, value_name = "WAV")]
    play: Option<PathBuf>,
    /// WAV file that receives what is heard
    #[arg(long, value_name = "WAV")]
    record: Option<PathBuf>,
    /// Speak and hear by this machine's microphone and loudspeakers; the default without --play and --record, where they are built in
    #[arg(long)]
    microphone: bool,
    /// File whose video is sent, of a video call: VP8 in IVF, or H.264 in annex B
    #[arg(long, value_name = "FILE")]
    play_video: Option<PathBuf>,
    /// File that receives the other end's video, of a video call
    #[arg(long, value_name = "FILE")]
    record_video: Option<PathBuf>,
}

impl AnswerArgs {
    fn options(&self) -> Result<AnswerOptions, CliError> {
        Ok(AnswerOptions {
            play: self.play.as_deref().map(parse::wav_to_play).transpose()?,
            record: self.record.as_deref().map(parse::to_record).transpose()?,
            microphone: microphone(self.microphone, self.play.is_none() && self.record.is_none()),
            play_video: self.play_video.as_deref().map(parse::file_to_play).transpose()?,
            record_video: self.record_video.as_deref().map(parse::to_record).transpose()?,
            answer: None,
            passthrough: Vec::new(),
        })
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct AddArgs {
    /// The call, as `calls list` shows it; of a conference any of its calls
    #[arg(value_parser = parse::id)]
    id: String,
    /// Whom to add; all their devices ring
    #[arg(value_parser = parse::user_or_linked)]
    user: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct IdArgs {
    /// The call, as `calls list` shows it
    #[arg(value_parser = parse::id)]
    id: String,
}

pub(super) async fn run(context: &Context, command: Command) -> Result<(), CliError> {
    match command {
        Command::List => list(context).await,
        Command::Show(args) => show(context, &args.id).await,
        Command::Watch => watch(context, for_people).await,
        Command::Answer(args) => {
            let options = args.options()?;
            act(context, &args.id, "answer", &options).await
        }
        Command::Add(args) => add(context, args).await,
        Command::Press(args) => act(context, &args.id, "keys", &KeyOptions { keys: args.keys }).await,
        Command::Rejoin(args) => rejoin(context, &args).await,
        Command::Decline(args) => act(context, &args.id, "decline", &json!({})).await,
        Command::Dismiss(args) => act(context, &args.id, "dismiss", &json!({})).await,
        Command::Hangup(args) => act(context, &args.id, "hangup", &json!({})).await,
    }
}

/// Whether the machine's sound is used: where it was asked for, or where nothing else was and this build has it.
pub(super) fn microphone(is_asked: bool, is_free: bool) -> Microphone {
    match (is_asked, is_free && HAS_SOUND) {
        (true, _) => Microphone::On,
        (false, true) => Microphone::Auto,
        (false, false) => Microphone::Off,
    }
}

async fn act(context: &Context, id: &str, action: &str, body: &impl serde::Serialize) -> Result<(), CliError> {
    let path = format!("/v1/calls/{}/{action}", parse::url_part(id));
    let done: CallDone = context.client()?.post(&path, body).await?;
    context.output.print(&done, |done| format!("{} {}", done.call_id, done.done))
}

async fn add(context: &Context, args: AddArgs) -> Result<(), CliError> {
    let path = format!("/v1/calls/{}/add", parse::url_part(&args.id));
    let added: CallAdded = context.client()?.post(&path, &AddOptions { user: args.user, phone: None }).await?;
    context.output.print(&added, |added| {
        let reason = added.reason.as_deref().unwrap_or_default();
        let line = match &added.outcome {
            Some(outcome) => format!("{} doesn't take part: {}, {reason}", added.username, word(outcome)),
            None if added.joined => format!("{} takes part", added.username),
            None => format!("{} doesn't take part: {reason}", added.username),
        };
        printable(&line).into_owned()
    })?;
    if added.joined { Ok(()) } else { Err(CliError::Told) }
}

async fn rejoin(context: &Context, args: &AnswerArgs) -> Result<(), CliError> {
    let path = format!("/v1/calls/{}/rejoin", parse::url_part(&args.id));
    let options = args.options()?;
    let rejoined: CallRejoined = context.client()?.post(&path, &options).await?;
    context.output.print(&rejoined, |rejoined| {
        if rejoined.joined { "back in the conference" } else { "nobody is there any more" }.to_owned()
    })?;
    if rejoined.joined { Ok(()) } else { Err(CliError::Told) }
}

async fn show(context: &Context, id: &str) -> Result<(), CliError> {
    let entry: CallEntry = context.client()?.get(&format!("/v1/calls/{}", parse::url_part(id))).await?;
    context.output.print(&entry, |entry| {
        let way = if entry.incoming { "from" } else { "to" };
        let head = format!("call {} {way} {}, {}", entry.call_id, entry.users.join(", "), entry.started_at);
        let end = entry.outcome.as_ref().map_or_else(|| format!("{}\n", word(&entry.state)), call::for_people);
        format!("{}\n{end}\n{}", printable(&head), timeline(&entry.stages, &entry.other_ends))
    })
}

/// What happened in a call, a line each; what the other end has told of it stands between.
pub(super) fn timeline(stages: &[CallStage], other_ends: &[OtherEnd]) -> String {
    let here = stages.iter().map(|stage| (stage, "here".to_owned()));
    let of_end = |end: &'_ OtherEnd| format!("at {}", short(&end.peer_id));
    let there = other_ends.iter().flat_map(|end| end.stages.iter().map(move |stage| (stage, of_end(end))));
    let mut seen: Vec<(&CallStage, String)> = here.chain(there).collect();
    // Stable: what happens at one end stays in order.
    seen.sort_by_key(|(stage, _)| stage.at_ms);
    let rows = seen.into_iter().map(|(stage, at)| {
        let device = stage.peer_id.as_deref().map(short).unwrap_or_default();
        [format!("{} ms", stage.at_ms), at, word(&stage.stage), device, stage.detail.clone()]
    });
    let table = table(["AFTER", "SEEN", "STAGE", "DEVICE", "WHAT"], rows);
    let off = other_ends.iter().map(|end| end.off_by_ms).max();
    let note = off.map_or_else(String::new, |ms| format!("Times of the other end may be off by {ms} ms.\n"));
    format!("{table}{note}")
}

/// The end of a peer id tells devices apart.
fn short(peer: &str) -> String {
    peer.get(peer.len().saturating_sub(6)..).unwrap_or(peer).to_owned()
}

async fn list(context: &Context) -> Result<(), CliError> {
    let list: CallList = context.client()?.get("/v1/calls").await?;
    context.output.print(&list, |list| {
        if list.calls.is_empty() {
            return "no calls".to_owned();
        }
        let rows = list.calls.iter().map(|call| {
            let way = if call.incoming { "from" } else { "to" };
            let state = match &call.outcome {
                Some(outcome) => word(&outcome.outcome),
                None => word(&call.state),
            };
            let by = call.introduced_by.as_ref().map_or_else(String::new, |by| format!(" (no contact; introduced by {by})"));
            let users = match &call.telephone {
                Some(number) => format!("{number} through {}", call.users.join(", ")),
                None => format!("{}{by}", call.users.join(", ")),
            };
            [call.call_id.clone(), call.started_at.to_string(), way.to_owned(), users, state]
        });
        table(["CALL", "STARTED", "WAY", "USER", "STATE"], rows)
    })
}

fn for_people(event: &Event) -> Option<String> {
    match event {
        Event::CallDialing { call_id, to, telephone: Some(number), .. } => {
            Some(format!("{call_id} to {} through {}", printable(number), printable(to)))
        }
        Event::CallDialing { call_id, to, .. } => Some(format!("{call_id} to {}", printable(to))),
        Event::CallJoined { call_id, instead_of } => Some(format!("{call_id} goes on instead of {instead_of}: both had dialled")),
        Event::CallIncoming { call_id, from, video, via_push, conference_id, telephone, dialled, linked, notice, .. } => {
            if let Some(number) = dialled {
                return Some(format!("{call_id} from {} to {}", printable(from), printable(number)));
            }
            let from = &match (telephone, linked) {
                (Some(number), _) => telephone_caller(number, from),
                (None, Some(peer)) => format!("{} ({}, {from} here)", peer.name.as_deref().unwrap_or(&peer.id), peer.id),
                (None, None) => from.clone(),
            };
            let video = if *video { " with video" } else { "" };
            let woken = if *via_push { ", woken for it" } else { "" };
            let into = if conference_id.is_some() { ", into a conference" } else { "" };
            let place = shown_on(notice.as_ref());
            Some(format!("{call_id} from {}{video}{woken}{into}{place}: halloo calls answer {call_id}", printable(from)))
        }
        Event::CallMissed { call_id, from, called_at, .. } => {
            Some(format!("{call_id} from {} at {called_at}: missed, it came too late to ring", printable(from)))
        }
        Event::CallHeld { call_id, from, after_secs, .. } => {
            Some(format!("{from} calls ({call_id}): rings here in {after_secs} s, unless you answer elsewhere"))
        }
        Event::CallRinging { call_id, peer_id } => Some(format!("{call_id} rings at {peer_id}")),
        Event::ConferenceJoined { call_id, username, is_contact, introduced_by, .. } => {
            let stranger = stranger(*is_contact, introduced_by.as_deref());
            Some(printable(&format!("{call_id} {username} takes part{stranger}")).into_owned())
        }
        Event::CallKey { call_id, key } => Some(format!("{call_id} key {}", printable(key))),
        Event::ConferenceLeft { call_id, username, reason, .. } => {
            Some(printable(&format!("{call_id} {username} doesn't take part any more: {reason}")).into_owned())
        }
        Event::CallAnswered { call_id, answered_by } => Some(format!("{call_id} answered by {answered_by}")),
        Event::CallEnded(outcome) => Some(format!("{} {}", outcome.call_id, call::for_people(outcome))),
        _ => None,
    }
}

/// A caller of the telephone network, whom nobody has verified.
fn telephone_caller(number: &str, gateway: &str) -> String {
    format!("telephone {number} (not verified; through {gateway})")
}

/// What is said of somebody who is no contact.
fn stranger(is_contact: bool, introduced_by: Option<&str>) -> String {
    match (is_contact, introduced_by) {
        (true, _) => String::new(),
        (false, Some(by)) => format!(" (no contact; introduced by {by})"),
        (false, None) => " (no contact)".to_owned(),
    }
}
