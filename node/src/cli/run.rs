//! `halloo run`

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::ValueEnum;
use libp2p::Multiaddr;
use tokio::sync::oneshot;

use super::error::CliError;
use super::{Context, parse, signals};
use crate::config::{ApiAddress, NamedAuthority, Role};
use crate::daemon::{self, AutoAnswer, RunOptions};
use crate::handle::{Event, EventRecord};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Address to listen on
    #[arg(long, value_name = "MULTIADDR")]
    listen: Vec<Multiaddr>,
    /// Node to join the network through
    #[arg(long, value_name = "MULTIADDR")]
    bootstrap: Vec<Multiaddr>,
    /// Role to take whatever the node would decide by itself
    #[arg(long, value_name = "ROLE")]
    role: Vec<Role>,
    /// An authority to know, by your label for it
    #[arg(long, value_name = "NAME=KEY")]
    authority: Vec<NamedAuthority>,
    /// Where the local API listens; TCP asks for the token in the home's api-token
    #[arg(long, value_name = "unix:PATH|IP:PORT")]
    api: Option<ApiAddress>,
    /// Where metrics are served
    #[arg(long, value_name = "IP:PORT")]
    metrics: Option<SocketAddr>,
    /// Where SIP phones connect, by UDP and TCP
    #[arg(long, value_name = "IP:PORT")]
    sip: Option<SocketAddr>,
    /// A local network or a test: private addresses everywhere, published openly, no diversity rules
    #[arg(long)]
    lab: bool,
    /// Answer calls by itself
    #[arg(long, value_name = "HOW")]
    answer: Option<Answer>,
    /// WAV file sent to callers
    #[arg(long, value_name = "WAV", requires = "answer")]
    play: Option<PathBuf>,
    /// WAV file that receives what callers say
    #[arg(long, value_name = "WAV", requires = "answer")]
    record: Option<PathBuf>,
    /// File whose video is sent in video calls: VP8 in IVF, or H.264 in annex B
    #[arg(long, value_name = "FILE", requires = "answer")]
    play_video: Option<PathBuf>,
    /// File that receives the caller's video
    #[arg(long, value_name = "FILE", requires = "answer")]
    record_video: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Answer {
    /// Every call, at once
    Auto,
}

pub(super) fn run(context: &Context, args: Args) -> Result<(), CliError> {
    if args.metrics.is_some() {
        return Err(CliError::Failed("--metrics is not supported yet".to_owned()));
    }
    let options = options(context, args)?;
    context.run_nodes(serve(context, options, None))
}

/// Runs the daemon, and says when it is ready.
pub(super) async fn serve(
    context: &Context,
    options: RunOptions,
    mut ready: Option<oneshot::Sender<()>>,
) -> Result<(), CliError> {
    {
        let stop = signals::stop_token()?;
        let broken = stop.clone();
        let mut outcome = Ok(());
        daemon::run(options, stop, |record| {
            if matches!(record.event, Event::Ready(_))
                && let Some(ready) = ready.take()
            {
                // Whoever isn't there any more needn't know.
                let _ = ready.send(());
            }
            // A closed stdout ends nothing: whoever wanted the first line has it.
            if outcome.is_ok() {
                outcome = tell(context, record);
            }
            if matches!(&outcome, Err(CliError::Output(error)) if error.kind() != std::io::ErrorKind::BrokenPipe) {
                broken.cancel();
            }
        })
        .await?;
        match outcome {
            Err(CliError::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            other => other,
        }
    }
}

pub(super) fn options(context: &Context, args: Args) -> Result<RunOptions, CliError> {
    let play = args.play.as_deref().map(parse::wav_to_play).transpose()?;
    let record = args.record.as_deref().map(parse::to_record).transpose()?;
    let play_video = args.play_video.as_deref().map(parse::file_to_play).transpose()?;
    let record_video = args.record_video.as_deref().map(parse::to_record).transpose()?;
    Ok(RunOptions {
        home: context.home_path()?,
        listen: args.listen,
        bootstrap: args.bootstrap,
        roles: args.role,
        authorities: args.authority,
        api: args.api,
        metrics: args.metrics,
        sip: args.sip,
        lab: args.lab,
        answer: args.answer.map(|Answer::Auto| AutoAnswer { play, record, play_video, record_video }),
    })
}

/// With `--json` every event is a line, the ready event first; people read the log.
fn tell(context: &Context, record: &EventRecord) -> Result<(), CliError> {
    match &record.event {
        _ if context.output.is_json() => context.output.json(record),
        Event::Ready(ready) => {
            let api = ready.api.as_deref().unwrap_or("nowhere");
            let roles = super::output::list(&ready.roles).map(|roles| format!(" as {roles}"));
            let roles = roles.unwrap_or_default();
            context.output.text(&format!("ready: {}{roles}, API at {api}", ready.peer_id))
        }
        _ => Ok(()),
    }
}
