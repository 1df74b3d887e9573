//! `halloo device`

pub(super) mod link;

use super::error::CliError;
use super::output::{pairs, printable, table, word, yes_no};
use super::{Context, init, parse};
use crate::api::client::Client;
use crate::api::requests::{RenameRequest, RevokeDeviceRequest};
use crate::handle::choice::{AttributesReport, DeviceReportView, DeviceUsage, UsageReport};
use crate::handle::devices::{DeviceList, DeviceRevocation, DeviceState, DeviceView};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Your devices
    List,
    /// Make a new device one of yours: without an argument on a device that has your identity key, with what that shows on the new one
    Link(link::Args),
    /// Give a device another name
    Rename(RenameArgs),
    /// Say whether this device is in use: events go where you are, if your push policy says so
    Usage(UsageArgs),
    /// Say what this device can do
    Attributes(AttributesArgs),
    /// Remove a device for good, as when it is lost: it is out at once, and contacts get new keys
    Revoke(RevokeArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct RenameArgs {
    /// The device: its name or peer id, as `device list` shows them
    #[arg(value_name = "DEVICE", value_parser = parse::text)]
    device: String,
    /// The new name, at most 64 bytes
    #[arg(value_name = "NAME", value_parser = parse::text)]
    name: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct UsageArgs {
    /// Whether it is in use
    #[arg(value_name = "USAGE", value_enum)]
    usage: DeviceUsage,
    /// You are near it
    #[arg(long, conflicts_with = "far")]
    near: bool,
    /// You are far from it
    #[arg(long)]
    far: bool,
    /// How far you are from it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=10_000))]
    metres: Option<u16>,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
pub(super) struct AttributesArgs {
    /// Its screen in pixels; 0x0 for none
    #[arg(long, value_name = "WIDTHxHEIGHT", value_parser = parse::text)]
    screen: Option<String>,
    /// Whether it has a camera
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    camera: Option<bool>,
    /// MIME types it can show, with commas between; image/* stands for all images
    #[arg(long, value_name = "TYPES", value_delimiter = ',', value_parser = parse::text)]
    formats: Option<Vec<String>>,
    /// Whether it can ring
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    can_ring: Option<bool>,
    /// The MAC address at which a magic packet wakes it; empty takes it back
    #[arg(long, value_name = "MAC")]
    wake_mac: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct RevokeArgs {
    /// The device: its name or peer id, as `device list` shows them
    #[arg(value_name = "NAME", value_parser = parse::text)]
    device: String,
    /// Read the recovery phrase from stdin, where the identity key isn't on this device
    #[arg(long)]
    recovery_phrase: bool,
}

pub(super) fn run(context: &Context, command: Command) -> Result<(), CliError> {
    match command {
        Command::Link(args) => link::run(context, args),
        other => context.light_runtime()?.block_on(ask(context, other)),
    }
}

async fn ask(context: &Context, command: Command) -> Result<(), CliError> {
    let client = context.client()?;
    match command {
        Command::List => {
            let list: DeviceList = client.get("/v1/devices").await?;
            context.output.print(&list, list_for_people)
        }
        Command::Rename(args) => {
            let path = format!("/v1/devices/{}/rename", parse::url_part(&args.device));
            let view: DeviceView = client.post(&path, &RenameRequest { name: args.name }).await?;
            context.output.print(&view, |view| {
                let name = view.name.clone().unwrap_or_default();
                printable(&format!("{} is called {name} now", view.peer_id)).into_owned()
            })
        }
        Command::Usage(args) => {
            let near = if args.near { Some(true) } else { args.far.then_some(false) };
            let report = UsageReport { usage: args.usage, near, metres: args.metres };
            let view: DeviceView = client.post("/v1/devices/usage", &report).await?;
            context.output.print(&view, said)
        }
        Command::Attributes(args) => {
            let AttributesArgs { screen, camera, formats, can_ring, wake_mac } = args;
            let report = AttributesReport { screen, camera, formats, can_ring, wake_mac };
            let view: DeviceView = client.post("/v1/devices/attributes", &report).await?;
            context.output.print(&view, said)
        }
        Command::Revoke(args) => revoke(context, &client, args).await,
        Command::Link(_) => Ok(()),
    }
}

async fn revoke(context: &Context, client: &Client, args: RevokeArgs) -> Result<(), CliError> {
    let phrase = if args.recovery_phrase { Some(init::read_phrase(context, "--recovery-phrase")?) } else { None };
    let request = RevokeDeviceRequest { recovery_phrase: phrase.map(|phrase| phrase.0.to_string()) };
    let path = format!("/v1/devices/{}/revoke", parse::url_part(&args.device));
    let revoked: DeviceRevocation = client.post(&path, &request).await?;
    context.output.print(&revoked, |revoked| {
        let name = revoked.name.clone().unwrap_or_else(|| revoked.peer_id.clone());
        let said = "is revoked: it is none of your devices any more, and your contacts get new keys.";
        let kept = "What it had read before, it has.";
        printable(&format!("{name} {said} {kept}")).into_owned()
    })
}

/// What this device has said of itself.
fn said(view: &DeviceView) -> String {
    let Some(report) = &view.report else { return "nothing said yet".to_owned() };
    pairs([
        ("usage", report.usage.map(|usage| word(&usage))),
        ("user", nearness(report)),
        ("screen", report.screen.clone()),
        ("camera", report.camera.map(yes_no)),
        ("formats", report.formats.as_ref().map(|formats| formats.join(", "))),
        ("can ring", report.can_ring.map(yes_no)),
        ("woken at", report.wake_mac.clone()),
    ])
}

fn nearness(report: &DeviceReportView) -> Option<String> {
    let near = report.near?;
    let side = if near { "near" } else { "far" };
    Some(report.metres.map_or_else(|| side.to_owned(), |metres| format!("{side}, {metres} m")))
}

fn list_for_people(list: &DeviceList) -> String {
    let rows = list.devices.iter().map(|device| {
        let name = device.name.clone().unwrap_or_else(|| "(no name)".to_owned());
        let state = match device.state {
            DeviceState::Revoked => "revoked".to_owned(),
            DeviceState::Active if device.is_this => "this device".to_owned(),
            DeviceState::Active if device.is_connected => "connected".to_owned(),
            DeviceState::Active => word(&device.reachability),
        };
        [
            name,
            device.kind.clone().unwrap_or_default(),
            state,
            device.report.as_ref().and_then(|report| report.usage).map(|usage| word(&usage)).unwrap_or_default(),
            device.has_identity_key.map(yes_no).unwrap_or_default(),
            device.last_seen.map(|at| at.to_string()).unwrap_or_default(),
            device.certificate_until.map(|at| at.to_string()).unwrap_or_default(),
            device.peer_id.clone(),
        ]
    });
    let heading = ["DEVICE", "KIND", "STATE", "USE", "IDENTITY KEY", "SEEN", "CERTIFIED UNTIL", "PEER ID"];
    pairs([("user", Some(list.username.clone()))]) + &table(heading, rows)
}
