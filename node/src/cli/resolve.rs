//! `halloo resolve`

use super::error::CliError;
use super::output::{duration, pairs, printable, table, word, yes_no};
use super::progress::Spinner;
use super::{Context, parse};
use crate::handle::directory::{ResolveSource, Resolved};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Whom to find
    #[arg(value_parser = parse::user)]
    user: String,
    /// Not from the cache
    #[arg(long)]
    fresh: bool,
    /// The newest of all replicas that answer
    #[arg(long)]
    settled: bool,
}

pub(super) async fn run(context: &Context, args: Args) -> Result<(), CliError> {
    let client = context.client()?;
    let spinner = Spinner::start(context.output, &format!("looking for {}", args.user));
    let user = parse::url_part(&args.user);
    let path = format!("/v1/users/{user}?fresh={}&settled={}", args.fresh, args.settled);
    let resolved: Resolved = client.get(&path).await?;
    drop(spinner);
    context.output.print(&resolved, for_people)
}

fn for_people(resolved: &Resolved) -> String {
    let source = match resolved.source {
        ResolveSource::Cache => format!("cache, {} old", duration(resolved.age_ms)),
        // This node keeps the record for others.
        ResolveSource::Directory if resolved.requests == 0 => "directory, held by this node".to_owned(),
        ResolveSource::Directory => format!("directory, {} requests", resolved.requests),
    };
    let head = pairs([
        ("username", Some(resolved.username.clone())),
        ("identity", Some(resolved.identity.clone())),
        ("source", Some(source)),
        ("settled", Some(yes_no(resolved.settled))),
        ("took", Some(duration(resolved.elapsed_ms))),
    ]);
    let devices = resolved.devices.iter().map(|device| {
        [
            device.peer_id.clone(),
            device.name.clone().unwrap_or_else(|| "-".to_owned()),
            device.kind.clone().unwrap_or_else(|| "-".to_owned()),
            word(&device.reachability),
        ]
    });
    let devices = table(["DEVICE", "NAME", "KIND", "REACHABILITY"], devices);
    // One address a line: those through a relay are long.
    let mut addresses = String::new();
    for device in resolved.devices.iter().filter(|device| !device.addresses.is_empty()) {
        addresses += &format!("\n{}\n", device.peer_id);
        addresses.extend(device.addresses.iter().map(|address| format!("  {}\n", printable(address))));
    }
    format!("{head}\n{devices}{addresses}")
}
