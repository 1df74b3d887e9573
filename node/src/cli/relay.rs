//! `halloo relay`

use super::Context;
use super::error::CliError;
use super::output::{printable, table};
use crate::handle::network::{RelayUsage, RelayUser};

pub(super) async fn run(context: &Context) -> Result<(), CliError> {
    let usage: RelayUsage = context.client()?.get("/v1/relay").await?;
    context.output.print(&usage, for_people)
}

fn for_people(usage: &RelayUsage) -> String {
    let media = media(usage);
    let signalling = usage.signalling;
    if !signalling.relays {
        return media;
    }
    format!(
        "{media}\nsignalling: {} reservations, {} circuits ({} made, {} refused), {} invites handed over",
        signalling.reservations,
        signalling.circuits,
        signalling.circuits_made,
        signalling.circuits_refused,
        signalling.invites_handed_over,
    )
}

fn media(usage: &RelayUsage) -> String {
    if !usage.relays {
        return "this node relays no media; `[relay] for` in config.toml says for whom it shall".to_owned();
    }
    let head = format!("serving at {}, load {} of 8", usage.addresses.join(", "), usage.load);
    if usage.users.is_empty() {
        return format!("{head}\nnobody has used it yet");
    }
    format!("{head}\n{}", table(["USER", "CLASS", "BYTES", "PACKETS", "DROPPED", "ALLOCATIONS"], usage.users.iter().map(row)))
}

fn row(user: &RelayUser) -> [String; 6] {
    [
        user.user.as_deref().map_or_else(|| "-".to_owned(), |name| printable(name).into_owned()),
        user.class.clone(),
        user.bytes.to_string(),
        user.packets.to_string(),
        user.dropped.to_string(),
        user.allocations.to_string(),
    ]
}
