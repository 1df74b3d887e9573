//! `halloo status`

use super::Context;
use super::error::CliError;
use super::output::{duration, list, pairs, word, yes_no};
use crate::handle::network::Status;

pub(super) async fn run(context: &Context) -> Result<(), CliError> {
    let status: Status = context.client()?.get("/v1/status").await?;
    context.output.print(&status, for_people)
}

fn for_people(status: &Status) -> String {
    let state = match (status.suspended, status.ready) {
        _ if status.revoked_at.is_some() => "REVOKED: removed by its user, nobody believes it any more; its data is still here",
        (true, _) => "suspended",
        (false, true) => "ready",
        (false, false) => "starting",
    };
    let directory = &status.directory;
    let part = if directory.server { "server" } else { "client" };
    let directory = format!(
        "{part}, {} nodes in the table, {} records held, own record on {} nodes",
        directory.table, directory.records, directory.replicas
    );
    let authorities = status.authorities.iter().map(|authority| format!("{} {}", authority.name, authority.key));
    let name = status.username.clone().unwrap_or_else(|| "none yet: halloo enrol".to_owned());
    pairs([
        ("username", Some(name)),
        ("identity", status.identity.clone()),
        ("device", Some(status.peer_id.clone())),
        ("device name", status.device_name.clone()),
        ("state", Some(format!("{state}, up {}", duration(status.uptime_ms)))),
        ("roles", list(&status.roles)),
        ("listens on", list(&status.listen)),
        ("reached at", list(&status.external)),
        ("reachability", Some(word(&status.reachability))),
        ("relays", list(&status.relays)),
        ("mailboxes", list(&status.mailboxes)),
        ("keeps for others", (status.letters_kept > 0).then(|| format!("{} letters", status.letters_kept))),
        ("connections", Some(status.connections.to_string())),
        ("directory", Some(directory)),
        ("outbox", Some(status.outbox.to_string())),
        ("clock offset", Some(format!("{} ms", status.clock_offset_ms))),
        ("authorities", list(&authorities.collect::<Vec<_>>())),
        ("lab", status.lab.then(|| yes_no(true))),
        ("version", Some(status.version.clone())),
    ])
}
