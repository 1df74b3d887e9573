//! `halloo device link`, both ends.

use halloo_protocol::linking::{DEVICE_LINK_PREFIX, DeviceLink};
use libp2p::Multiaddr;
use qrcode::QrCode;
use qrcode::render::unicode::Dense1x2;
use serde_json::json;

use super::super::error::CliError;
use super::super::output::{pairs, printable};
use super::super::progress::Spinner;
use super::super::{Context, parse, signals};
use crate::api::client::ClientError;
use crate::config::{DeviceKind, RelayPolicy};
use crate::devices::join::{self, JoinOptions, JoinStage, Joined, LinkTarget};
use crate::handle::Event;
use crate::handle::devices::{LinkOffer, LinkOptions, LinkStage, LinkedDevice};

#[derive(Debug, clap::Args)]
pub(in super::super) struct Args {
    /// On the new device: the link, or the code with --at, that `halloo device link` shows on the other one
    #[arg(value_name = "LINK-OR-CODE")]
    link: Option<String>,
    /// With a code: an address of the device that shows it
    #[arg(long, value_name = "MULTIADDR", requires = "link")]
    at: Vec<Multiaddr>,
    /// A name for the new device
    #[arg(long, value_name = "TEXT", value_parser = parse::text, requires = "link")]
    device_name: Option<String>,
    /// What the new device is
    #[arg(long, value_name = "KIND", requires = "link")]
    device_kind: Option<DeviceKind>,
    /// For whom the new device relays, within the quotas in config.toml
    #[arg(long, value_name = "WHOM", requires = "link")]
    relay: Option<RelayPolicy>,
    /// Give the new device the identity key too: it can then link and revoke devices itself
    #[arg(long, conflicts_with = "link")]
    with_identity_key: bool,
}

pub(in super::super) fn run(context: &Context, args: Args) -> Result<(), CliError> {
    match args.link.clone() {
        Some(text) => join(context, &text, args),
        None => context.light_runtime()?.block_on(offer(context, LinkOptions { with_identity_key: args.with_identity_key })),
    }
}

// The device that has the identity key.

async fn offer(context: &Context, options: LinkOptions) -> Result<(), CliError> {
    let client = context.client()?;
    let stop = signals::stop_token()?;
    let mut events = client.events().await?;
    let offer: LinkOffer = client.post("/v1/devices/link", &options).await?;
    if context.output.is_json() {
        context.output.json(&with_event("offer", &offer))?;
    } else {
        context.output.text(&offer_for_people(context, &offer))?;
    }
    let spinner = Spinner::start(context.output, "waiting for the new device");
    let path = format!("/v1/devices/link/{}/wait", parse::url_part(&offer.id));
    let body = json!({});
    // Dropping the request closes its connection, and that takes the code back.
    let waiting = client.post::<LinkedDevice>(&path, &body);
    tokio::pin!(waiting);
    let outcome = loop {
        tokio::select! {
            biased;
            outcome = &mut waiting => break outcome,
            () = stop.cancelled() => return Err(CliError::Failed("the link code was taken back".to_owned())),
            event = events.next() => match event {
                Ok(Some(record)) => tell(context, &spinner, &record.event)?,
                _ => break waiting.await,
            },
        }
    };
    drop(spinner);
    finish(context, outcome)
}

fn finish(context: &Context, outcome: Result<LinkedDevice, ClientError>) -> Result<(), CliError> {
    let linked = outcome?;
    if context.output.is_json() {
        let event = if linked.stage == LinkStage::Linked { "linked" } else { "unconfirmed" };
        context.output.json(&with_event(event, &linked))?;
    } else {
        context.output.text(&linked_for_people(&linked))?;
    }
    if linked.stage == LinkStage::Linked { Ok(()) } else { Err(CliError::Told) }
}

fn with_event(name: &str, value: &impl serde::Serialize) -> serde_json::Value {
    let mut line = serde_json::to_value(value).unwrap_or_default();
    line["event"] = name.into();
    line
}

fn tell(context: &Context, spinner: &Spinner, event: &Event) -> Result<(), CliError> {
    let Event::DeviceLinking { stage, peer_id, name } = event else { return Ok(()) };
    let words = match stage {
        LinkStage::Asked => "a device has connected",
        LinkStage::Certified => "the new device knows the code and is given what it needs",
        // What ends it is told as the outcome.
        _ => return Ok(()),
    };
    if context.output.is_json() {
        let event = if *stage == LinkStage::Asked { "asked" } else { "certified" };
        return context.output.json(&json!({"event": event, "peer_id": peer_id, "name": name}));
    }
    spinner.set(words);
    Ok(())
}

fn offer_for_people(context: &Context, offer: &LinkOffer) -> String {
    let code = QrCode::new(offer.link.as_bytes()).map(|code| code.render::<Dense1x2>().build());
    let mut text = code.map(|code| format!("{code}\n")).unwrap_or_default();
    text += "On the new device:\n\n";
    text += &format!("    halloo device link {}\n\n", offer.link);
    text += &format!("or type the code {}", offer.code);
    match offer.addresses.first() {
        Some(address) => text += &format!(":\n\n    halloo device link {} --at {address}\n\n", offer.code),
        None => text += ".\n\n",
    }
    text +=
        "The code works once, for five minutes. Whoever has it can make a device of theirs one of yours: show it to nobody.\n";
    if context.home.is_some() {
        text += "(with --home DIR there if its home isn't the default)\n";
    }
    text
}

fn linked_for_people(linked: &LinkedDevice) -> String {
    let name = if linked.name.is_empty() { linked.peer_id.clone() } else { linked.name.clone() };
    let said = match linked.stage {
        LinkStage::Linked => "is linked",
        _ => "was certified, and hasn't said that it has everything: see `halloo device list`, and revoke it if it isn't there",
    };
    let key = if linked.has_identity_key { "; it has the identity key too" } else { "" };
    printable(&format!("{name} ({}) {said}{key}", linked.kind)).into_owned()
}

// The new device.

fn join(context: &Context, text: &str, args: Args) -> Result<(), CliError> {
    let options = JoinOptions {
        home: context.home_path()?,
        target: target(text, args.at)?,
        device_name: args.device_name,
        device_kind: args.device_kind,
        relay: args.relay.unwrap_or_default(),
    };
    context.run_nodes(async {
        let stop = signals::stop_token()?;
        let spinner = Spinner::start(context.output, "looking for the other device");
        let joined = join::join(options, stop, |stage| spinner.set(stage_words(stage))).await;
        drop(spinner);
        context.output.print(&joined?, |joined| joined_for_people(joined, context.home.is_some()))
    })
}

pub(in super::super) fn target(text: &str, at: Vec<Multiaddr>) -> Result<LinkTarget, CliError> {
    let usage = |reason: String| CliError::Usage(reason);
    if text.trim_start().starts_with("halloo:") {
        let link = DeviceLink::parse(text).map_err(|error| usage(error.to_string()))?;
        return match at.as_slice() {
            [] => Ok(LinkTarget::Link(Box::new(link))),
            _ => Err(usage("a link has addresses already: --at is for codes".to_owned())),
        };
    }
    let code = text.parse().map_err(|error| usage(format!("neither a link ({DEVICE_LINK_PREFIX}...) nor a code: {error}")))?;
    if at.is_empty() {
        return Err(usage("a code needs an address of the device that shows it: --at MULTIADDR; the link has it".to_owned()));
    }
    Ok(LinkTarget::Code { code, at })
}

pub(in super::super) const fn stage_words(stage: JoinStage) -> &'static str {
    match stage {
        JoinStage::Connecting => "looking for the other device",
        JoinStage::Asking => "asking the other device",
        JoinStage::Keeping => "keeping what it gave",
    }
}

pub(in super::super) fn joined_for_people(joined: &Joined, is_chosen: bool) -> String {
    let mut text = pairs([
        ("home", Some(joined.home.display().to_string())),
        ("username", Some(joined.username.clone())),
        ("identity", Some(joined.identity.clone())),
        ("device", Some(joined.peer_id.clone())),
        ("linked by", Some(joined.linked_by.clone())),
    ]);
    if joined.has_identity_key {
        text += "\nThe identity key is on this device too.\n";
    }
    let home = if is_chosen { format!(" --home {}", joined.home.display()) } else { String::new() };
    text += &format!("\nNext: `halloo{home} run`.\n");
    text
}
