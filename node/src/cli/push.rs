//! `halloo push`

mod policy;
mod sessions;

use super::error::CliError;
use super::output::table;
use super::progress::Spinner;
use super::{Context, parse};
use crate::handle::push::{PushChannel, PushList, PushRegistration, PushRemoved, PushTarget, PushTest, PushTestStep};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Let a gateway wake this device
    #[command(subcommand)]
    Register(Register),
    /// Take a registration back
    Unregister {
        /// Its id, as `halloo push list` shows it
        #[arg(value_name = "ID", value_parser = parse::text)]
        id: String,
    },
    /// This device's registrations
    List,
    /// Let a gateway ask this device for sessions
    Subscribe(sessions::Subscribe),
    /// Let it no longer
    Unsubscribe(sessions::Unsubscribe),
    /// What this device tells its gateways: shown, and changed by what is given
    Preferences(sessions::Preferences),
    /// Sessions that a gateway asks clients for
    #[command(subcommand)]
    Session(sessions::Session),
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
    /// By Firebase Cloud Messaging, with an application's token
    Fcm(FcmArgs),
    /// By the Apple Push Notification service, with an application's token
    Apns(ApnsArgs),
    /// By HTTP to a server of your own, which hands the payload to the device
    Webhook(WebhookArgs),
    /// By a short message that says no more than that there is something
    Sms(SmsArgs),
    /// By a SIP request to a phone of yours, at the SIP edge beside the gateway
    Sip(SipArgs),
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
    #[arg(long, allow_hyphen_values = true, value_name = "KEY", value_parser = base64url::<65>, requires = "auth")]
    p256dh: Option<String>,
    /// The authentication secret, base64url
    #[arg(long, allow_hyphen_values = true, value_name = "SECRET", value_parser = base64url::<16>, requires = "p256dh")]
    auth: Option<String>,
    #[command(flatten)]
    gateway: GatewayArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct FcmArgs {
    /// The application instance's registration token
    #[arg(long, allow_hyphen_values = true, value_name = "TOKEN", value_parser = parse::text)]
    token: String,
    #[command(flatten)]
    gateway: GatewayArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct ApnsArgs {
    /// The device token, in hexadecimal digits
    #[arg(long, value_name = "TOKEN", value_parser = hexadecimal)]
    token: String,
    /// The application's identifier; with .voip at its end it takes calls and nothing else
    #[arg(long, value_name = "TOPIC", value_parser = parse::text)]
    topic: String,
    /// The token is of Apple's development environment
    #[arg(long)]
    sandbox: bool,
    #[command(flatten)]
    gateway: GatewayArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct WebhookArgs {
    /// Where the server takes posts; the secret that signs them is made, and shown once
    #[arg(long, value_name = "URL", value_parser = endpoint)]
    url: String,
    #[command(flatten)]
    gateway: GatewayArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct SmsArgs {
    /// The number, with + and the country's code
    #[arg(long, value_name = "NUMBER", value_parser = phone_number)]
    number: String,
    #[command(flatten)]
    gateway: GatewayArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct SipArgs {
    /// The phone: sip:NAME@AUTHORITY, with ;gr= and its instance if one phone is meant
    #[arg(long, value_name = "ADDRESS", value_parser = parse::text)]
    address: String,
    #[command(flatten)]
    gateway: GatewayArgs,
}

pub(super) async fn run(context: &Context, command: Command) -> Result<(), CliError> {
    match command {
        Command::Policy(command) => policy::run(context, &context.client()?, command).await,
        Command::Register(register) => {
            let target = target(register);
            let client = context.client()?;
            let spinner = Spinner::start(context.output, "registering");
            let registration: PushRegistration = client.post("/v1/push", &target).await?;
            drop(spinner);
            context.output.print(&registration, registration_for_people)
        }
        Command::Unregister { id } => {
            let path = format!("/v1/push/{}/unregister", parse::url_part(&id));
            let removed: PushRemoved = context.client()?.post(&path, &()).await?;
            context.output.print(&removed, |removed| match removed.gateway_told {
                true => format!("{} is no more", removed.id),
                false => format!("{} is no more here; the gateway isn't reachable, and forgets it when it expires", removed.id),
            })
        }
        Command::List => {
            let list: PushList = context.client()?.get("/v1/push").await?;
            context.output.print(&list, |list| rows_for_people(&list.registrations))
        }
        Command::Subscribe(args) => sessions::subscribe(context, args).await,
        Command::Unsubscribe(args) => sessions::unsubscribe(context, args).await,
        Command::Preferences(args) => sessions::preferences(context, args).await,
        Command::Session(command) => sessions::session(context, command).await,
        Command::Test => {
            let client = context.client()?;
            let spinner = Spinner::start(context.output, "ringing this device through its gateways");
            let test: PushTest = client.post("/v1/push/test", &serde_json::json!({})).await?;
            drop(spinner);
            context.output.print(&test, stages_for_people)?;
            if test.ok { Ok(()) } else { Err(CliError::Told) }
        }
    }
}

fn target(register: Register) -> PushTarget {
    let (channel, gateway) = match register {
        Register::Stream(args) => (PushChannel::Stream {}, args),
        Register::Webpush(args) => {
            (PushChannel::Webpush { endpoint: args.endpoint, p256dh: args.p256dh, auth: args.auth }, args.gateway)
        }
        Register::Fcm(args) => (PushChannel::Fcm { token: args.token }, args.gateway),
        Register::Apns(args) => (PushChannel::Apns { token: args.token, topic: args.topic, sandbox: args.sandbox }, args.gateway),
        Register::Webhook(args) => (PushChannel::Webhook { url: args.url, secret: None }, args.gateway),
        Register::Sms(args) => (PushChannel::Sms { number: args.number }, args.gateway),
        Register::Sip(args) => (PushChannel::Sip { address: args.address }, args.gateway),
    };
    PushTarget { channel, gateway: gateway.gateway }
}

fn registration_for_people(registration: &PushRegistration) -> String {
    let row = rows_for_people(std::slice::from_ref(registration));
    match &registration.secret {
        Some(secret) => format!("{row}\n\nthe secret that signs the posts, shown this once:\n{secret}"),
        None => row,
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
        let state = match &registration.reason {
            Some(reason) => format!("{}: {reason}", registration.state.name()),
            None => registration.state.name().to_owned(),
        };
        [registration.id.clone(), registration.kind.clone(), registration.gateway.clone(), expires, state]
    });
    table(["ID", "KIND", "GATEWAY", "EXPIRES", "STATE"], rows)
}

fn hexadecimal(text: &str) -> Result<String, String> {
    match data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()) {
        Ok(bytes) if !bytes.is_empty() => Ok(text.to_owned()),
        _ => Err("expected hexadecimal digits, two a byte".to_owned()),
    }
}

fn phone_number(text: &str) -> Result<String, String> {
    if halloo_protocol::push::is_phone_number(text) {
        return Ok(text.to_owned());
    }
    Err("expected + and 7 to 15 digits, the country's code first".to_owned())
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
