//! What was measured, as a table for people.

use serde::Serialize;

use crate::measure::{Counts, Lookups, RoundTrips};

/// One round trip over the delayed way, in milliseconds.
const ROUND_TRIP_MS: f64 = 100.0;

/// All that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Result {
    pub(crate) seed: u64,
    pub(crate) ours: Counts,
    pub(crate) theirs: Option<Counts>,
    pub(crate) our_times: Option<RoundTrips>,
    pub(crate) their_times: Option<RoundTrips>,
}

fn row(name: &str, reach: &str, ours: Option<f64>, theirs: Option<f64>) {
    let shown = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), number);
    let ratio = match (ours, theirs) {
        (Some(ours), Some(theirs)) if ours > 0.0 => format!("{:.1}", theirs / ours),
        _ => "-".to_owned(),
    };
    println!("| {name} | {reach} | {} | {} | {ratio} |", shown(ours), shown(theirs));
}

fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 1_000_000.0 => format!("{:.2} M", value / 1_000_000.0),
        size if size >= 10_000.0 => format!("{:.1} k", value / 1_000.0),
        size if size >= 100.0 => format!("{value:.0}"),
        _ => format!("{value:.2}"),
    }
}

impl Result {
    #[allow(clippy::print_stdout, reason = "the table is what the program is for")]
    pub(crate) fn print(&self) {
        let (ours, theirs) = (&self.ours, self.theirs.as_ref());
        println!("{} nodes, record of {} bytes, seed {}; bytes in units of 1,000\n", ours.nodes, ours.record_bytes, self.seed);
        println!("| | reach | Halloo | libp2p-kad | ratio |");
        println!("| --- | --- | --- | --- | --- |");
        let both = |name: &str, reach: &str, value: fn(&Counts) -> f64| row(name, reach, Some(value(ours)), theirs.map(value));
        let whole = |value: fn(&Lookups) -> f64| theirs.and_then(|counts| counts.connected_whole.as_ref()).map(value);
        both("holder connected: requests, mean", "1.3", |counts| counts.connected.requests.mean);
        both("holder connected: requests, 95%", "2", |counts| counts.connected.requests.p95);
        row("as shipped, not cut short: requests, mean", "", Some(ours.connected.requests.mean), whole(|one| one.requests.mean));
        row("as shipped, not cut short: requests, 95%", "", Some(ours.connected.requests.p95), whole(|one| one.requests.p95));
        let above = |counts: &Counts, lookups: &Lookups| lookups.bytes.unwrap_or(0.0) - f64::from(counts.record_bytes);
        row(
            "holder connected: bytes above the record",
            "1 KB",
            Some(above(ours, &ours.connected)),
            theirs.map(|counts| above(counts, &counts.connected)),
        );
        row(
            "as shipped, not cut short: bytes above the record",
            "",
            Some(above(ours, &ours.connected)),
            theirs.and_then(|counts| counts.connected_whole.as_ref().map(|whole| above(counts, whole))),
        );
        both("no holder connected: requests, mean", "", |counts| counts.unconnected.requests.mean);
        let times = |name: &str, reach: &str, value: fn(&RoundTrips) -> f64| {
            row(name, reach, self.our_times.as_ref().map(value), self.their_times.as_ref().map(value));
        };
        times("holder connected: round trips, median", "1.1", |times| times.connected.elapsed.p50 / ROUND_TRIP_MS);
        times("no holder connected: round trips, median", "2.2", |times| times.unconnected.elapsed.p50 / ROUND_TRIP_MS);
        times("random names: round trips, mean", "1.8", |times| times.random.elapsed.mean / ROUND_TRIP_MS);
        both("publication: requests, mean", "12", |counts| counts.publish_requests.mean);
        both("publication: replicas", "8", |counts| counts.publish_replicas);
        both("publication: bytes above the records", "8 KB", |counts| counts.publish_bytes);
        both("refresh, a replica: bytes", "250", |counts| counts.refresh_bytes_per_replica);
        both("memory above an empty swarm: live", "1 MiB", |counts| counts.memory_live);
        both("memory above an empty swarm: resident", "", |counts| counts.memory_resident);
        both("connections at rest", "16", |counts| counts.connections_rest);
        both("connections just joined", "", |counts| counts.connections_joined);
        both("connections in the midst of look-ups", "", |counts| counts.connections_busy);
        both("joining: bytes", "80 KB", |counts| counts.join_bytes);
        both("joining: CPU, ms", "60", |counts| counts.join_cpu_ms);
        both("servers in the table", "", |counts| counts.table);
        both("at rest, all nodes: bytes a second", "", |counts| counts.idle_bytes_per_sec);
        let found = |name: &str, lookups: &Lookups| println!("{name}: {} of {} found", lookups.found, lookups.requests.count);
        println!();
        found("Halloo, holder connected", &ours.connected);
        found("Halloo, no holder connected", &ours.unconnected);
        if let Some(theirs) = theirs {
            found("libp2p-kad, holder connected", &theirs.connected);
            found("libp2p-kad, no holder connected", &theirs.unconnected);
        }
    }
}
