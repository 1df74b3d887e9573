//! What it costs to be asleep, to be in the background, and to be vouched for.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use anyhow::{Context, Result};
use bincode::{Decode, Encode};
use halloo::handle::power::SuspendOptions;
use halloo::store::StoreError;
use halloo_protocol::directory::{KEEPER_RENEW_AFTER_SECS, RecordKey};
use halloo_protocol::kademlia::RenewLease;
use halloo_protocol::push::PushHandle;
use halloo_protocol::time::UnixTime;
use halloo_protocol::wire::{self, Message};

use super::town::Town;
use crate::dial::name_of;
use crate::lab::eventually;
use crate::report::{Report, Row};
use crate::slow_link::{Packet, SlowLink};
use crate::wiretap::Wiretap;

const MEASURED: Duration = Duration::from_secs(60);
const MEASURED_LONG: Duration = Duration::from_secs(300);

/// How long everything is left alone before.
const SETTLE: Duration = Duration::from_secs(20);

/// How long a renewal's answers and acknowledgements may take.
const RENEWAL: Duration = Duration::from_secs(1);

/// Renewals of a keeper's lease in a day.
const RENEWALS_PER_DAY: f64 = 86_400.0 / KEEPER_RENEW_AFTER_SECS as f64;

/// What the gateway stores about a device that it vouches for.
#[derive(Encode, Decode)]
struct Kept {
    handle: PushHandle,
    record: RecordKey,
    entry_hash: [u8; 32],
    signed_at: UnixTime,
}

pub(crate) async fn measure(link: &SlowLink, tap: &Wiretap, town: &mut Town, is_long: bool, report: &mut Report) -> Result<()> {
    link.set_delay(crate::dial::DELAY);
    tokio::time::sleep(SETTLE).await;
    for sleeper in &town.sleepers {
        sleeper.member.node.suspend(SuspendOptions::default()).await?;
    }
    tokio::time::sleep(SETTLE).await;
    let time = if is_long { MEASURED_LONG } else { MEASURED };
    link.listen();
    tokio::time::sleep(time).await;
    let packets = link.heard();
    let of_sleepers = town.packets_of(None, &packets).await?;
    report.add(Row::at_most("suspended devices at rest: packets", "packets", 0.0, 0.0, of_sleepers as f64).note(format!(
        "{} devices, {} s",
        town.sleepers.len(),
        time.as_secs()
    )));
    background(town, &packets, time, report).await?;
    upkeep(link, tap, town, report).await
}

async fn background(town: &Town, packets: &[Packet], time: Duration, report: &mut Report) -> Result<()> {
    let (own, gateway) = (town.background.ports().await?, town.gateway.ports().await?);
    let is_own = |packet: &&Packet| own.contains(&packet.from) || own.contains(&packet.to);
    let is_gateways = |packet: &&Packet| gateway.contains(&packet.from) || gateway.contains(&packet.to);
    let hourly = |bytes: usize| bytes as f64 * 3_600.0 / time.as_secs_f64() / 1_000.0;
    let all: usize = packets.iter().filter(is_own).map(|packet| packet.bytes).sum();
    let streams: usize = packets.iter().filter(is_own).filter(is_gateways).map(|packet| packet.bytes).sum();
    let how = format!("IP packets both ways, from {} s", time.as_secs());
    report.add(Row::stated("a background device, with its gateway: an hour", "kB", hourly(streams)).note(&how));
    report.add(
        Row::stated("the same with everybody: an hour", "kB", hourly(all))
            .note(format!("{how}; {} servers, one of them the gateway", town.servers.len() + 1)),
    );
    Ok(())
}

/// Has the gateway renew one lease: in its database it is older than it is.
async fn upkeep(link: &SlowLink, tap: &Wiretap, town: &Town, report: &mut Report) -> Result<()> {
    link.set_delay(Duration::ZERO);
    tap.begin();
    link.listen();
    town.gateway_store.transaction::<_, StoreError>(|tx| {
        let Some((key, content)) = tx.gateway_keeps_after(None, 1)?.into_iter().next() else { return Ok(()) };
        let key = <[u8; 32]>::try_from(key.as_slice()).unwrap_or_default();
        if let Ok(mut kept) = wire::decode::<Kept>(&content, 1_024) {
            kept.signed_at = kept.signed_at.minus_secs(KEEPER_RENEW_AFTER_SECS);
            tx.put_gateway_keep(
                &halloo_protocol::key::DeviceKey(halloo_protocol::key::PublicKey(key)),
                Some(&wire::encode(&kept)),
            )?;
        }
        Ok(())
    })?;
    let (mut heard, mut packets) = (Vec::new(), Vec::new());
    let id = town.gateway.peer_id.clone();
    // Looked at every 30 s; what was heard is kept from one look at the tap to the next.
    for _ in 0..35 {
        tokio::time::sleep(RENEWAL).await;
        heard.extend(tap.take());
        packets.extend(link.heard());
        tap.begin();
        link.listen();
        if heard.iter().any(|frame: &crate::wiretap::Sent| frame.from == id && frame.kind == RenewLease::KIND.0) {
            tokio::time::sleep(RENEWAL).await;
            heard.extend(tap.take());
            packets.extend(link.heard());
            break;
        }
    }
    let mine: Vec<_> = heard.iter().filter(|frame| frame.from == id && frame.kind == RenewLease::KIND.0).collect();
    let first = mine.iter().filter_map(|frame| frame.at).min().context("no lease was renewed")?;
    let mut ports: HashMap<String, Vec<u16>> = HashMap::new();
    for server in &town.servers {
        ports.insert(server.peer_id.clone(), server.ports().await?);
    }
    let asked: Vec<u16> = mine.iter().filter_map(|frame| ports.get(&frame.to)).flatten().copied().collect();
    let gateway = town.gateway.ports().await?;
    let is_between = |packet: &&Packet| {
        (gateway.contains(&packet.from) && asked.contains(&packet.to))
            || (gateway.contains(&packet.to) && asked.contains(&packet.from))
    };
    let window: Vec<Packet> = packets
        .into_iter()
        .filter(|packet| packet.at >= first && packet.at < first + RENEWAL)
        .filter(|packet| is_between(&packet))
        .collect();
    let bytes: usize = window.iter().map(|packet| packet.bytes).sum();
    let mut others: BTreeMap<String, usize> = BTreeMap::new();
    let in_window = |at: Option<std::time::Instant>| at.is_some_and(|at| at >= first && at < first + RENEWAL);
    for frame in heard.iter().filter(|frame| in_window(frame.at) && (frame.from == id || frame.to == id)) {
        *others.entry(name_of(frame.kind)).or_default() += 1;
    }
    let words: Vec<String> = others.iter().map(|(name, count)| format!("{count} {name}")).collect();
    let replicas = mine.len();
    let each = bytes as f64 / replicas as f64;
    report.add(
        Row::at_most("the gateway's lease for a suspended device: a replica and day", "bytes", 600.0, 0.0, each * RENEWALS_PER_DAY).note(
            format!(
                "a renewal in two days, of {each:.0} bytes in {} packets, IP headers, QUIC, answer and acknowledgements included; {replicas} replicas; frames of that \
                 second: {}",
                window.len(),
                words.join(", ")
            ),
        ),
    );
    eventually("the end", async || Ok(Some(()))).await
}
