//! `halloo-simulator`: the directory's table in virtual time, a run as a picture, and the comparison with real nodes.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use halloo_simulator::directory::calibration::{self, Real};
use halloo_simulator::directory::picture::{Run, picture};
use halloo_simulator::directory::rows::{self, Phase, Row, Scale};
use halloo_simulator::directory::soak::{self, Soak};

/// Runs the production directory in a simulated network and prints what was seen beside what is to be reached.
#[derive(Debug, Parser)]
struct Arguments {
    /// Feeds all randomness; the same seed gives the same run.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Nodes of the rows about scale and about colluders.
    #[arg(long, default_value_t = 10_000)]
    nodes: usize,
    /// Nodes of the other rows.
    #[arg(long, default_value_t = 200)]
    few: usize,
    /// Only these rows.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// Share of the nodes that can't be dialled, each a row.
    #[arg(long, value_delimiter = ',', default_values_t = [0.3, 0.9])]
    blocked: Vec<f64>,
    /// Minutes of churn before anything is counted, and over which upkeep is counted.
    #[arg(long, default_value_t = 30)]
    minutes: u64,
    /// Most nodes that a table knows by hearsay, in the rows about scale and about colluders; the product's limit if absent. Memory of very large networks goes with it.
    #[arg(long)]
    hints: Option<usize>,
    /// Look-ups of the rows about scale.
    #[arg(long, default_value_t = 10_000)]
    lookups: usize,
    /// Instead: draws half an hour under churn, with 20% freezing in the middle, into this file.
    #[arg(long)]
    svg: Option<PathBuf>,
    /// Instead: holds the simulator against what `scripts/bench directory-nodes --alone --json FILE` counted, and fails if they are too far apart.
    #[arg(long)]
    compare: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Messages and bytes by kind: joining, looking up, publishing, refreshing.
    Counts,
    /// 40% of the nodes frozen, nobody knows which.
    Frozen,
    /// 30% of the nodes lie.
    Liars,
    /// 20% freeze at once.
    Repair,
    /// Look-ups and upkeep under churn.
    Scale,
    /// A tenth of the nodes collude against one name.
    Eclipse,
    /// A death and a birth every second.
    Soak,
}

#[allow(clippy::print_stdout, reason = "the program's result")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    halloo_simulator::prepare();
    let seed = arguments.seed;
    println!("seed {seed}\n");
    if let Some(file) = &arguments.svg {
        let blocked = arguments.blocked.first().copied().unwrap_or(0.3);
        let run = Run { seed, nodes: arguments.nodes, blocked, minutes: 30, lookups: 300 };
        return Ok(std::fs::write(file, picture(run))?);
    }
    if let Some(file) = &arguments.compare {
        let rows = calibration::compare(seed, &Real::read(&std::fs::read(file)?)?);
        heading();
        rows.iter().for_each(print_row);
        return if rows.iter().all(|row| row.is_met) { Ok(()) } else { Err("too far from real nodes".into()) };
    }
    let has = |part| arguments.only.is_empty() || arguments.only.contains(&part);
    if has(Part::Counts) {
        rows::counts(seed, arguments.few).iter().for_each(print_phase);
    }
    heading();
    let few = arguments.few;
    if has(Part::Frozen) {
        print_row(&rows::frozen(seed, few, 2_000));
    }
    if has(Part::Liars) {
        print_row(&rows::liars(seed, few, 1_000, 10_000));
    }
    if has(Part::Repair) {
        print_row(&rows::repair(seed, few));
    }
    if has(Part::Scale) {
        let time = Duration::from_secs(60 * arguments.minutes);
        for blocked in arguments.blocked.iter().copied() {
            let (nodes, hints, lookups) = (arguments.nodes, arguments.hints, arguments.lookups);
            let scale = Scale { nodes, blocked, hints, settle: time, measure: time, lookups };
            rows::scale(seed, scale).iter().for_each(print_row);
        }
    }
    if has(Part::Soak) {
        let (second, time) = (Duration::from_secs(1), Duration::from_secs(60 * arguments.minutes));
        print_row(&soak::row(seed, Soak { nodes: arguments.nodes, time, churn: second, lookups: second / 10 }));
    }
    if has(Part::Eclipse) {
        for ages in [false, true] {
            print_row(&rows::eclipse(seed, arguments.nodes, arguments.hints, ages, arguments.lookups.min(1_000)));
        }
    }
    Ok(())
}

#[allow(clippy::print_stdout, reason = "the program's result")]
fn heading() {
    println!("| | reach | seen | |\n| --- | --- | --- | --- |");
}

#[allow(clippy::print_stdout, reason = "the program's result")]
fn print_row(row: &Row) {
    println!("| {} | {} | {} | {} |", row.name, row.reach, row.seen, if row.is_met { "met" } else { "missed" });
}

#[allow(clippy::print_stdout, reason = "the program's result")]
fn print_phase(phase: &Phase) {
    let times = phase.times.max(1) as f64;
    println!("{} ({} times): {:.0} bytes each", phase.name, phase.times, phase.bytes as f64 / times);
    if phase.requests > 0.0 {
        println!("    requests reported: mean {:.3}", phase.requests);
    }
    if let Some(sample) = &phase.sample {
        println!(
            "    requests p95 {}; round trips p50 {:.2} mean {:.2}; found {}",
            sample.requests(0.95),
            sample.round_trips(0.5),
            sample.round_trips_mean(),
            sample.found
        );
    }
    for (kind, count) in &phase.by_kind {
        println!("    {:#06x}: {:8.3} messages, {:8.1} bytes", kind.0, count.messages as f64 / times, count.bytes as f64 / times);
    }
    println!();
}
