//! `halloo peers`

use super::Context;
use super::error::CliError;
use super::output::table;
use crate::handle::network::{PeerEntry, PeerList};

pub(super) async fn run(context: &Context) -> Result<(), CliError> {
    let peers: PeerList = context.client()?.get("/v1/peers").await?;
    context.output.print(&peers, for_people)
}

fn for_people(peers: &PeerList) -> String {
    if peers.peers.is_empty() {
        return "nobody".to_owned();
    }
    table(["PEER", "USER", "LINK", "RTT", "ROLES", "ADDRESS"], peers.peers.iter().map(row))
}

fn row(peer: &PeerEntry) -> [String; 6] {
    let link = match (peer.connected, peer.relayed) {
        (true, true) => "relayed",
        (true, false) => "direct",
        (false, _) => "-",
    };
    [
        peer.peer_id.clone(),
        peer.username.clone().unwrap_or_else(|| "-".to_owned()),
        link.to_owned(),
        peer.rtt_ms.map_or_else(|| "-".to_owned(), |rtt| format!("{rtt} ms")),
        if peer.roles.is_empty() { "-".to_owned() } else { peer.roles.join(",") },
        peer.addresses.first().cloned().unwrap_or_default(),
    ]
}
