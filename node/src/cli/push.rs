//! `halloo push`

mod policy;

use super::error::CliError;
use super::output::table;
use super::progress::Spinner;
use super::{Context, parse};
use crate::handle::push::{PushChannel, PushList, PushRegistration, PushTarget, PushTest, PushTestStep};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Let a gateway wake this device
    #[command(subcommand)]
    Register(Register),
    /// This device's registrations
    List,
    /// Which of your devices an event goes to
    #[command(subcommand)]
    Policy(policy::Command),
    /// Ring this device through the whole chain, and say how far it got
    Test,
}

#[derive(Debug, clap::Subcommand)]
pub(super) enum Register {
    /// Over the connection to the gateway: for a device that is awake, or in the background
    Stream(GatewayArgs),
    /// By Web Push (RFC 8030), as browsers and UnifiedPush distributors offer it
    Webpush(WebpushArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct GatewayArgs {
    /// The gateway, as peer id or multiaddress; without it the node picks one
    #[arg(long, value_name = "PEER", value_parser = parse::text)]
    gateway: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct WebpushArgs {
    /// The push resource's URL; without it the node runs a push service for itself, on this machine
    #[arg(long, value_name = "URL", value_parser = endpoint)]
    endpoint: Option<String>,
    /// The receiver's P-256 public key, base64url; without it the node makes keys
    #[arg(long, value_name = "KEY", value_parser = base64url::<65>, requires = "auth")]
    p256dh: Option<String>,
    /// The authentication secret, base64url
    #[arg(long, value_name = "SECRET", value_parser = base64url::<16>, requires = "p256dh")]
    auth: Option<String>,
    #[command(flatten)]
    gateway: GatewayArgs,
}

pub(super) async fn run(context: &Context, command: Command) -> Result<(), CliError> {
    let client = context.client()?;
    match command {
        Command::Policy(command) => policy::run(context, &client, command).await,
        Command::Register(register) => {
            let target = target(register);
            let spinner = Spinner::start(context.output, "registering");
            let registration: PushRegistration = client.post("/v1/push", &target).await?;
            drop(spinner);
            context.output.print(&registration, |registration| rows_for_people(std::slice::from_ref(registration)))
        }
        Command::List => {
            let list: PushList = client.get("/v1/push").await?;
            context.output.print(&list, |list| rows_for_people(&list.registrations))
        }
        Command::Test => {
            let spinner = Spinner::start(context.output, "ringing this device through its gateways");
            let test: PushTest = client.post("/v1/push/test", &serde_json::json!({})).await?;
            drop(spinner);
            context.output.print(&test, stages_for_people)?;
            if test.ok { Ok(()) } else { Err(CliError::Told) }
        }
    }
}

fn target(register: Register) -> PushTarget {
    match register {
        Register::Stream(args) => PushTarget { channel: PushChannel::Stream {}, gateway: args.gateway },
        Register::Webpush(args) => PushTarget {
            channel: PushChannel::Webpush { endpoint: args.endpoint, p256dh: args.p256dh, auth: args.auth },
            gateway: args.gateway.gateway,
        },
    }
}

fn stages_for_people(test: &PushTest) -> String {
    let rows = test.gateways.iter().flat_map(|gateway| {
        gateway.stages.iter().map(|stage| {
            let step = match stage.step {
                PushTestStep::Gateway => "gateway",
                PushTestStep::Stream => "stream",
                PushTestStep::Service => "push service",
            };
            let mark = if stage.ok { "ok" } else { "FAILED" };
            [gateway.gateway.clone(), format!("{} ms", stage.at_ms), step.to_owned(), mark.to_owned(), stage.detail.clone()]
        })
    });
    table(["GATEWAY", "AFTER", "STAGE", "", ""], rows)
}

fn rows_for_people(registrations: &[PushRegistration]) -> String {
    if registrations.is_empty() {
        return "no registrations; halloo push register stream".to_owned();
    }
    let rows = registrations.iter().map(|registration| {
        let expires = registration.expires_at.map_or_else(|| "-".to_owned(), |at| at.to_string());
        [registration.id.clone(), registration.kind.clone(), registration.gateway.clone(), expires]
    });
    table(["ID", "KIND", "GATEWAY", "EXPIRES"], rows)
}

fn endpoint(text: &str) -> Result<String, String> {
    let uri: http::Uri = text.parse().map_err(|error| format!("{error}"))?;
    match uri.scheme_str() {
        Some("https" | "http") if uri.host().is_some() => Ok(text.to_owned()),
        _ => Err("expected an https URL".to_owned()),
    }
}

fn base64url<const BYTES: usize>(text: &str) -> Result<String, String> {
    match data_encoding::BASE64URL_NOPAD.decode(text.trim_end_matches('=').as_bytes()) {
        Ok(bytes) if bytes.len() == BYTES => Ok(text.to_owned()),
        _ => Err(format!("expected {BYTES} bytes as base64url")),
    }
}
