//! Arguments, rows and rounds.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::{Parser, Subcommand};
use serde_json::json;

use crate::delays::Delays;
use crate::forward::{self, Way};
use crate::load::{Generator, Seen};
use crate::relays::{Kind, Programs, Relay};
use crate::report::{self, Column, Round};
use crate::rows::{Ends, ROWS, Row, RowKind};

/// Measures halloo-relay beside other TURN servers.
#[derive(Debug, Parser)]
#[command(name = "scripts/bench relay")]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,

    /// Rounds of each row, in which each relay has one turn.
    #[arg(long, default_value_t = 5)]
    rounds: usize,

    /// Milliseconds of a turn that count.
    #[arg(long, default_value_t = 700, value_name = "MS")]
    turn: u64,

    /// Rows, by name: pair-50, pair-500, pair-paced, pair-bursts, pair-video, peer-50, peer-bursts, peer-paced, setup,
    /// setup-many, threads [default: all].
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    rows: Vec<String>,

    /// Relays, by the first letters of their names: halloo-relay, turn-server, coturn, bare [default: all].
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    relays: Vec<String>,

    /// Write all figures there.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Our relay.
    #[arg(long, default_value = "target/release/halloo-relay", value_name = "PROGRAM")]
    halloo_relay: PathBuf,

    /// coturn's server.
    #[arg(long, default_value = "turnserver", value_name = "PROGRAM")]
    coturn: PathBuf,

    /// The program of the turn-server crate.
    #[arg(long, default_value = "target/external/turn-server/bin/turn-server", value_name = "PROGRAM")]
    turn_server: PathBuf,

    /// Core of the relays. The generator's is set from outside.
    #[arg(long, default_value = "1")]
    core: String,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Is a bare forwarder, until killed.
    #[command(hide = true)]
    Forward {
        #[arg(long)]
        way: Way,
        #[arg(long)]
        listen: SocketAddr,
    },
}

pub(crate) fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let Some(Command::Forward { way, listen }) = arguments.command {
        return forward::run(way, listen);
    }
    let unknown = arguments.rows.iter().find(|name| ROWS.iter().all(|row| row.name != name.as_str()));
    ensure!(unknown.is_none(), "there is no row {unknown:?}, but {:?}", ROWS.map(|row| row.name));
    let folder = std::env::temp_dir().join(format!("halloo-bench-relay-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let programs = Programs {
        halloo: arguments.halloo_relay.clone(),
        coturn: arguments.coturn.clone(),
        turn_server: arguments.turn_server.clone(),
        cores: arguments.core.clone(),
        folder: folder.clone(),
    };
    let mut results = Vec::new();
    for row in ROWS.iter().filter(|row| arguments.rows.is_empty() || arguments.rows.iter().any(|name| name == row.name)) {
        let columns =
            run_row(row, &arguments, &programs).with_context(|| format!("row {}, logs in {}", row.name, folder.display()))?;
        println!("{}", report::text(row, &columns));
        results.push(report::json(row, &columns));
    }
    if let Some(path) = &arguments.json {
        let all = json!({ "rounds": arguments.rounds, "turn_ms": arguments.turn, "rows": results });
        fs::write(path, format!("{all:#}\n")).with_context(|| format!("write {}", path.display()))?;
    }
    fs::remove_dir_all(&folder).context("remove the folder of logs")
}

fn kinds(row: &Row, arguments: &Arguments) -> Vec<Kind> {
    let mut kinds = vec![Kind::Halloo(1)];
    if row.kind == RowKind::Threads {
        kinds.push(Kind::Halloo(2));
        return kinds;
    }
    if row.ends == Ends::Pair {
        kinds.push(Kind::TurnServer);
    }
    kinds.push(Kind::Coturn);
    match row.kind {
        RowKind::Load if row.ends == Ends::Pair => kinds.extend([Way::Plain, Way::Batch, Way::Trains].map(Kind::Forward)),
        RowKind::SetUp(_) => kinds.extend([Way::Plain, Way::Wait].map(Kind::Forward)),
        _ => {}
    }
    let is_wanted =
        |kind: &Kind| arguments.relays.is_empty() || arguments.relays.iter().any(|name| kind.name().starts_with(name.as_str()));
    kinds.retain(is_wanted);
    kinds
}

/// Rounds in which each relay sets up all allocations anew.
fn run_setup(row: &Row, at_once: usize, arguments: &Arguments, programs: &Programs) -> anyhow::Result<Vec<Column>> {
    let kinds = kinds(row, arguments);
    let mut relays = kinds.iter().map(|kind| Relay::start(*kind, programs)).collect::<anyhow::Result<Vec<_>>>()?;
    let column =
        |kind: &Kind| Column { kind: *kind, set_up: None, kib_after: None, rounds: Vec::new(), delays: Delays::default() };
    let mut columns: Vec<Column> = kinds.iter().map(column).collect();
    // The first one warms up.
    for round in 0..=arguments.rounds {
        eprint!("\r{}: round {round} of {}   ", row.name, arguments.rounds);
        for index in (0..relays.len()).map(|n| (n + round) % kinds.len()) {
            let begun = Instant::now();
            let set_up = match kinds[index] {
                Kind::Forward(_) => relays[index].answer(row.allocations, at_once).map(Some),
                _ => relays[index].set_up_pairs(row.allocations, at_once).map(|(_, set_up)| set_up),
            };
            let set_up = set_up.with_context(|| kinds[index].name())?;
            let seconds = begun.elapsed().as_secs_f64();
            relays[index].release();
            let cpu_ns = set_up.map_or(f64::NAN, |set_up| set_up.cpu_us * 1e3);
            let per_sec = row.allocations as f64 / seconds;
            let result = Round { cpu_ns, packets_per_sec: per_sec, busy: cpu_ns * per_sec / 1e9, sent: 0, lost: 0, busiest: 0.0 };
            if round > 0 {
                columns[index].rounds.push(result);
            }
        }
    }
    eprintln!();
    Ok(columns)
}

fn run_row(row: &Row, arguments: &Arguments, programs: &Programs) -> anyhow::Result<Vec<Column>> {
    if let RowKind::SetUp(at_once) = row.kind {
        return run_setup(row, at_once, arguments, programs);
    }
    let mut columns = Vec::new();
    let mut relays = Vec::new();
    for kind in kinds(row, arguments) {
        eprintln!("{}: setting up {}", row.name, kind.name());
        let mut relay = Relay::start(kind, programs)?;
        let kib = relay.process.resident_kib()?;
        let (endpoints, set_up) = match row.ends {
            Ends::Pair => relay.set_up_pairs(row.allocations, 1),
            Ends::Peer => relay.set_up_peers(row.allocations),
        }
        .with_context(|| format!("set up {}", kind.name()))?;
        let flows: Vec<usize> = (0..endpoints.len()).collect();
        let generator = Generator::new(endpoints, &flows, row.payload_bytes)?;
        relays.push((relay, generator, kib));
        columns.push(Column { kind, set_up, kib_after: None, rounds: Vec::new(), delays: Delays::default() });
    }
    let count = relays.len();
    for round in 0..arguments.rounds {
        eprint!("\r{}: round {} of {}   ", row.name, round + 1, arguments.rounds);
        // Each goes first in turn.
        for index in (0..count).map(|n| (n + round) % count) {
            let (relay, generator, _) = &mut relays[index];
            let turn = Duration::from_millis(arguments.turn);
            let (seen, before, after) =
                generator.run(row.pattern, turn, || relay.process.cpu_by_thread()).with_context(|| relay.kind.name())?;
            columns[index].rounds.push(figures(&seen, &before, &after));
            columns[index].delays.merge(&seen.delays);
        }
    }
    eprintln!();
    for ((relay, _, kib), column) in relays.iter_mut().zip(&mut columns) {
        if column.set_up.is_some() {
            column.kib_after = Some(relay.process.resident_kib()?.saturating_sub(*kib) as f64 / row.allocations as f64);
        }
        relay.release();
    }
    Ok(columns)
}

fn figures(seen: &Seen, before: &[(String, u64)], after: &[(String, u64)]) -> Round {
    let earlier = |thread: &str| before.iter().find(|(name, _)| name == thread).map_or(0, |(_, cpu)| *cpu);
    let by_thread: Vec<u64> = after.iter().map(|(thread, cpu)| cpu - earlier(thread)).collect();
    let cpu: u64 = by_thread.iter().sum();
    Round {
        cpu_ns: cpu as f64 / (seen.packets as f64).max(1.0),
        packets_per_sec: seen.packets as f64 / seen.seconds,
        busy: cpu as f64 / 1e9 / seen.seconds,
        sent: seen.sent,
        lost: seen.lost,
        busiest: by_thread.iter().max().map_or(0.0, |most| *most as f64 / (cpu as f64).max(1.0)),
    }
}
