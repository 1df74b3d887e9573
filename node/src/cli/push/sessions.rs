//! `halloo push subscribe`, `preferences`, `session`

use std::path::PathBuf;

use data_encoding::BASE64URL_NOPAD;

use crate::cli::error::CliError;
use crate::cli::output::table;
use crate::cli::progress::Spinner;
use crate::cli::{Context, parse};
use crate::handle::push_sessions::{
    PushAcceptance, PushApplication, PushSessionBrought, PushSessionChoice, PushSessionOptions, PushSessionReport,
    PushSessionTaken, PushSettings, PushSettingsChange, PushSubscription,
};

/// Longest message of another bearer: an HTTP request with its head.
const MESSAGE_BYTES_MAX: u64 = 32 * 1024;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Subscribe {
    /// The gateway's peer id
    #[arg(value_name = "GATEWAY", value_parser = parse::text)]
    gateway: String,
    /// For this application only; may be repeated
    #[arg(long = "application", value_name = "ID", value_parser = parse::text)]
    applications: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Unsubscribe {
    /// The gateway's peer id
    #[arg(value_name = "GATEWAY", value_parser = parse::text)]
    gateway: String,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Preferences {
    /// What is done with requests for sessions
    #[arg(long, value_name = "always|ask|never", value_parser = acceptance)]
    sessions: Option<PushAcceptance>,
    /// An application that nobody may activate; may be repeated
    #[arg(long = "unwanted", value_name = "ID", value_parser = parse::text)]
    unwanted: Vec<String>,
    /// What may be told: capabilities,preferences,security,subscriptions,refusal
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    disclose: Option<Vec<String>>,
    /// A further name of the device, such as imei:490154203237518; may be repeated
    #[arg(long = "identifier", value_name = "KIND:VALUE", value_parser = parse::text)]
    identifiers: Vec<String>,
    /// An application that is there to take pushes; may be repeated
    #[arg(long = "application", value_name = "ID=NAME", value_parser = application)]
    applications: Vec<PushApplication>,
}

#[derive(Debug, clap::Subcommand)]
pub(in crate::cli) enum Session {
    /// On a gateway: get a user's clients to open a session
    Request(Request),
    /// Take a request that another bearer brought
    Take(Take),
    /// The user's word on a request
    Answer(Answer),
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Request {
    /// Whose clients
    #[arg(long, value_name = "USER", value_parser = parse::text)]
    identity: String,
    /// Which of them, such as imei:490154203237518; may be repeated; without it all
    #[arg(long = "device", value_name = "KIND:VALUE", value_parser = parse::text)]
    devices: Vec<String>,
    /// One request for each client (A), to all (B), or to all and those that match respond (C); without it the gateway chooses
    #[arg(long, value_name = "A|B|C", value_parser = parse::text)]
    mode: Option<String>,
    /// The application to activate
    #[arg(long, value_name = "ID=NAME", value_parser = application)]
    application: Option<PushApplication>,
    /// Activate it before connecting
    #[arg(long, requires = "application")]
    before: bool,
    /// What clients are to return: capabilities,preferences,security,subscriptions,refusal
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    ask: Vec<String>,
    /// Clients are to register anew
    #[arg(long)]
    register: bool,
    /// What to push
    #[arg(long, value_name = "TEXT", value_parser = parse::text)]
    content: Option<String>,
    /// The server to connect to; without it this gateway
    #[arg(long, value_name = "MULTIADDR", value_parser = parse::text)]
    server: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Take {
    /// How it came: http, sms, ussd, wsp, datagram, sip or stream
    #[arg(long, value_name = "BEARER", value_parser = parse::text)]
    encapsulation: String,
    /// Files with the messages, one each
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Answer {
    /// The request, as the event shows it
    #[arg(value_name = "ID", value_parser = parse::id)]
    id: String,
    /// No
    #[arg(long)]
    refuse: bool,
}

pub(super) async fn subscribe(context: &Context, args: Subscribe) -> Result<(), CliError> {
    let subscribe = PushSubscription { gateway: args.gateway, applications: args.applications };
    change(context, PushSettingsChange { subscribe: Some(subscribe), ..PushSettingsChange::default() }).await
}

pub(super) async fn unsubscribe(context: &Context, args: Unsubscribe) -> Result<(), CliError> {
    change(context, PushSettingsChange { unsubscribe: Some(args.gateway), ..PushSettingsChange::default() }).await
}

pub(super) async fn preferences(context: &Context, args: Preferences) -> Result<(), CliError> {
    let given = |list: Vec<String>| (!list.is_empty()).then_some(list);
    let wanted = PushSettingsChange {
        sessions: args.sessions,
        unwanted: given(args.unwanted),
        disclose: args.disclose,
        identifiers: given(args.identifiers),
        applications: (!args.applications.is_empty()).then_some(args.applications),
        ..PushSettingsChange::default()
    };
    if wanted == PushSettingsChange::default() {
        let settings: PushSettings = context.client()?.get("/v1/push/settings").await?;
        return context.output.print(&settings, settings_for_people);
    }
    change(context, wanted).await
}

async fn change(context: &Context, change: PushSettingsChange) -> Result<(), CliError> {
    let settings: PushSettings = context.client()?.post("/v1/push/settings", &change).await?;
    context.output.print(&settings, settings_for_people)
}

pub(super) async fn session(context: &Context, command: Session) -> Result<(), CliError> {
    match command {
        Session::Request(args) => request(context, args).await,
        Session::Take(args) => take(context, args).await,
        Session::Answer(args) => {
            let choice = PushSessionChoice { accept: !args.refuse };
            let path = format!("/v1/push/session-requests/{}", args.id);
            let taken: PushSessionTaken = context.client()?.post(&path, &choice).await?;
            context.output.print(&taken, taken_for_people)
        }
    }
}

async fn request(context: &Context, args: Request) -> Result<(), CliError> {
    let options = PushSessionOptions {
        identity: args.identity,
        devices: args.devices,
        mode: args.mode,
        application: args.application,
        before: args.before,
        ask: args.ask,
        register: args.register,
        content: args.content,
        server: args.server,
    };
    let client = context.client()?;
    let spinner = Spinner::start(context.output, "asking");
    let report: PushSessionReport = client.post("/v1/push/sessions", &options).await?;
    drop(spinner);
    context.output.print(&report, report_for_people)
}

async fn take(context: &Context, args: Take) -> Result<(), CliError> {
    let read = |path: &PathBuf| {
        let unreadable = |what: String| CliError::Usage(format!("{}: {what}", path.display()));
        let bytes = std::fs::metadata(path).map_err(|error| unreadable(error.to_string()))?.len();
        if bytes > MESSAGE_BYTES_MAX {
            return Err(unreadable(format!("{bytes} bytes, at most {MESSAGE_BYTES_MAX}")));
        }
        let message = std::fs::read(path).map_err(|error| unreadable(error.to_string()))?;
        Ok(BASE64URL_NOPAD.encode(&message))
    };
    let messages = args.files.iter().map(read).collect::<Result<_, CliError>>()?;
    let brought = PushSessionBrought { encapsulation: args.encapsulation, messages, sender: String::new() };
    let taken: PushSessionTaken = context.client()?.post("/v1/push/session-requests", &brought).await?;
    context.output.print(&taken, taken_for_people)
}

fn settings_for_people(settings: &PushSettings) -> String {
    let subscriptions = settings.subscriptions.iter().map(|known| match known.applications.as_slice() {
        [] => known.gateway.clone(),
        some => format!("{} for {}", known.gateway, some.join(" ")),
    });
    let applications = settings.applications.iter().map(|known| format!("{} {}", known.id, known.name).trim_end().to_owned());
    let sessions = match settings.sessions {
        PushAcceptance::Always => "always",
        PushAcceptance::Ask => "ask",
        PushAcceptance::Never => "never",
    };
    let rows = [
        ("sessions", sessions.to_owned()),
        ("subscriptions", subscriptions.collect::<Vec<_>>().join(", ")),
        ("disclose", settings.disclose.join(", ")),
        ("unwanted", settings.unwanted.join(", ")),
        ("identifiers", settings.identifiers.join(", ")),
        ("applications", applications.collect::<Vec<_>>().join(", ")),
    ];
    table(
        ["SETTING", "VALUE"],
        rows.map(|(name, value)| [name.to_owned(), if value.is_empty() { "-".to_owned() } else { value }]),
    )
}

fn report_for_people(report: &PushSessionReport) -> String {
    let rows = report.clients.iter().map(|client| {
        let answers = client.answers.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect::<Vec<_>>();
        let reason = client.reason.clone().unwrap_or_else(|| answers.join(", "));
        [client.peer_id.clone(), client.outcome.clone(), reason]
    });
    format!("mode {}: {}\n{}", report.mode, report.reason, table(["CLIENT", "OUTCOME", "WHY OR WHAT"], rows))
}

fn taken_for_people(taken: &PushSessionTaken) -> String {
    match &taken.reason {
        Some(reason) => format!("{}: {reason}", taken.status),
        None => taken.status.clone(),
    }
}

fn acceptance(text: &str) -> Result<PushAcceptance, String> {
    match text {
        "always" => Ok(PushAcceptance::Always),
        "ask" => Ok(PushAcceptance::Ask),
        "never" => Ok(PushAcceptance::Never),
        _ => Err("expected always, ask or never".to_owned()),
    }
}

fn application(text: &str) -> Result<PushApplication, String> {
    let known = halloo_protocol::push::session::Application::parse(text).map_err(|error| error.to_string())?;
    Ok(PushApplication { id: known.id, name: known.name })
}
