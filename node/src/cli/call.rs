//! `halloo call`

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::Client;
use super::error::CliError;
use super::output::{duration, pairs, printable, word};
use super::progress::Spinner;
use super::{Context, calls, parse, presence, signals, voicemail};
use crate::handle::call_media::CallVideo;
use crate::handle::calls::{CallEntry, CallOutcome, CallResult, CallStage, DialOptions, OtherEnd};
use crate::handle::presence::PresenceView;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Whom to call: a user, an address such as mailto:bob@example.org, or a telephone number as `tel:+4930123456`
    #[arg(required = true, value_name = "USER", value_parser = parse::user_or_telephone)]
    users: Vec<String>,
    /// WAV file to send
    #[arg(long, value_name = "WAV")]
    play: Option<PathBuf>,
    /// WAV file that receives what is heard
    #[arg(long, value_name = "WAV")]
    record: Option<PathBuf>,
    /// Speak and hear by this machine's microphone and loudspeakers; the default without --play and --record, where they are built in
    #[arg(long)]
    microphone: bool,
    /// WAV file to leave as voicemail if nobody answers
    #[arg(long, value_name = "WAV")]
    voicemail: Option<PathBuf>,
    /// Hang up so many seconds after the answer
    #[arg(long, value_name = "SECS", value_parser = parse::seconds)]
    duration: Option<u64>,
    /// Make it a video call
    #[arg(long)]
    video: bool,
    /// File whose video is sent: VP8 in IVF, or H.264 in annex B. Makes it a video call
    #[arg(long, value_name = "FILE")]
    play_video: Option<PathBuf>,
    /// File that receives the other end's video. Makes it a video call
    #[arg(long, value_name = "FILE")]
    record_video: Option<PathBuf>,
    /// Send media through a relay only: invite and media don't show this device's addresses
    #[arg(long)]
    relayed: bool,
    /// Let one SIP phone of theirs ring alone, by its instance, as in its own address: urn:uuid:…
    #[arg(long, value_name = "INSTANCE")]
    phone: Option<String>,
    /// The gateway by which a telephone number is called; the default is in config.toml, telephone under [calls]
    #[arg(long, value_name = "NAME@AUTHORITY", value_parser = parse::full_user)]
    via: Option<String>,
    /// Call them as this contact of yours in a linked system, who doesn't show there who they are here: xmpp:bob@example.org
    #[arg(long = "as", value_name = "CONTACT", value_parser = parse::linked)]
    as_contact: Option<String>,
    /// Show what happened, stage by stage, at both ends
    #[arg(long)]
    trace: bool,
}

/// An outcome, with what happened before.
#[derive(serde::Serialize)]
struct Traced {
    #[serde(flatten)]
    outcome: CallOutcome,
    stages: Vec<CallStage>,
    other_ends: Vec<OtherEnd>,
}

/// How long the other end's account of the call is waited for, and how often it is looked for: it comes a round trip after the end.
const OTHER_END_WAIT: Duration = Duration::from_secs(3);
const OTHER_END_LOOK: Duration = Duration::from_millis(50);

/// The call with what both ends have seen of it, or this end alone if the other says nothing.
async fn traced(client: &Client, outcome: CallOutcome) -> Result<Traced, CliError> {
    let path = format!("/v1/calls/{}", parse::url_part(&outcome.call_id));
    let until = Instant::now() + OTHER_END_WAIT;
    loop {
        let entry: CallEntry = client.get(&path).await?;
        if !entry.is_asking || Instant::now() >= until {
            return Ok(Traced { outcome, stages: entry.stages, other_ends: entry.other_ends });
        }
        tokio::time::sleep(OTHER_END_LOOK).await;
    }
}

/// Ends with the call; SIGINT hangs up. Exits 0 only if the call was answered and ended well.
pub(super) async fn run(context: &Context, args: Args) -> Result<(), CliError> {
    let options = DialOptions {
        microphone: calls::microphone(args.microphone, args.play.is_none() && args.record.is_none()),
        play: args.play.as_deref().map(parse::wav_to_play).transpose()?,
        record: args.record.as_deref().map(parse::to_record).transpose()?,
        voicemail: args.voicemail.as_deref().map(parse::wav_to_play).transpose()?,
        users: args.users,
        duration_ms: args.duration,
        video: args.video,
        play_video: args.play_video.as_deref().map(parse::file_to_play).transpose()?,
        record_video: args.record_video.as_deref().map(parse::to_record).transpose()?,
        offer: None,
        passthrough: Vec::new(),
        relayed_only: args.relayed,
        via: args.via,
        phone: args.phone,
        by_telephone: false,
        telephone: None,
        as_contact: args.as_contact,
        linked: None,
    };
    let client = context.client()?;
    if !context.output.is_json()
        && let [user] = options.users.as_slice()
        && let Ok(view) = client.get::<PresenceView>(&format!("/v1/presence/contacts/{}", parse::url_part(user))).await
    {
        // Of others than contacts nothing is known; that is no reason not to call them.
        context.output.note(&presence::in_a_line(&view));
    }
    let stop = signals::stop_token()?;
    // Who isn't known by an address is looked for first, which can take a while.
    let is_address = matches!(options.users.as_slice(), [user] if parse::linked(user).is_ok());
    let first = if is_address && options.as_contact.is_none() { ", whom the directory may have to name first" } else { "" };
    let spinner = Spinner::start(context.output, &format!("calling {}{first}", options.users.join(", ")));
    // Dropping the request closes its connection, and that hangs up.
    let outcome = stop.run_until_cancelled(client.post::<CallOutcome>("/v1/calls", &options)).await;
    drop(spinner);
    let Some(outcome) = outcome else { return Err(CliError::Failed("hung up".to_owned())) };
    let outcome = outcome?;
    let result = outcome.outcome;
    if args.trace {
        let traced = traced(&client, outcome).await?;
        let timeline = |traced: &Traced| calls::timeline(&traced.stages, &traced.other_ends);
        context.output.print(&traced, |traced| format!("{}\n{}", for_people(&traced.outcome), timeline(traced)))?;
    } else {
        context.output.print(&outcome, for_people)?;
    }
    if result == CallResult::Completed { Ok(()) } else { Err(CliError::Told) }
}

fn video_line(video: &CallVideo) -> String {
    let codec = video.codec.map(|codec| format!(", {}", word(&codec))).unwrap_or_default();
    let lost = video.packets_lost;
    format!("{} frames sent, {} received{codec}; {lost} packets lost", video.frames_sent, video.frames_received)
}

pub(super) fn for_people(outcome: &CallOutcome) -> String {
    let result = word(&outcome.outcome);
    let reason = outcome.reason.as_ref().map(|reason| format!(": {}", printable(reason))).unwrap_or_default();
    let path = outcome.path.map(|path| word(&path));
    let details = pairs([
        ("call", Some(outcome.call_id.clone())),
        ("answered by", outcome.answered_by.clone()),
        ("codec", outcome.codec.map(|codec| codec.to_string())),
        ("path", path),
        ("rang after", outcome.ring_ms.map(duration)),
        ("media after", outcome.setup_ms.map(duration)),
        ("round trip", outcome.rtt_ms.map(duration)),
        ("loss", outcome.loss.map(|loss| format!("{:.1} %", loss * 100.0))),
        ("jitter", outcome.jitter_ms.map(|ms| format!("{ms:.1} ms"))),
        ("video", outcome.video.as_ref().map(video_line)),
        ("woken", outcome.via_push.then(|| "by push".to_owned())),
    ]);
    let left = outcome.voicemail.as_ref().map(|left| format!("{}\n", voicemail::left_for_people(left))).unwrap_or_default();
    let problem = outcome.voicemail_problem.as_ref();
    let problem = problem.map(|problem| format!("no voicemail is left: {}\n", printable(problem))).unwrap_or_default();
    format!("{result}{reason}\n{details}{left}{problem}")
}
