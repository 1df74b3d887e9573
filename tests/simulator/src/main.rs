//! `halloo-simulator`: the directory's rows, one at a time; without a command, a run as a picture.

use std::time::Duration;

use clap::{Parser, Subcommand};
use halloo_simulator::directory::picture::{Run, picture};
use halloo_simulator::directory::rows::{self, Phase, Row, Scale};

/// Runs the production directory in a simulated network and prints what was seen.
#[derive(Debug, Parser)]
struct Arguments {
    /// Feeds all randomness; the same seed gives the same run.
    #[arg(long, global = true, default_value_t = 1)]
    seed: u64,
    /// Nodes in the network.
    #[arg(long, global = true)]
    nodes: Option<usize>,
    /// Without a command: draws a run under churn, with 20% freezing in the middle, into this file.
    #[arg(long, default_value = "run.svg")]
    svg: std::path::PathBuf,
    /// Minutes of that run.
    #[arg(long, default_value_t = 30)]
    minutes: u32,
    /// Share of the nodes that can't be dialled, of that run and of `scale`.
    #[arg(long, global = true, default_value_t = 0.3)]
    blocked: f64,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Messages by kind for joining, looking up, publishing and refreshing, for comparison with real nodes.
    Counts,
    /// 40% of the nodes frozen, nobody knows which.
    Frozen,
    /// 30% of the nodes lie.
    Liars,
    /// 20% freeze at once.
    Repair,
    /// Look-ups and upkeep under churn.
    Scale {
        /// Minutes of churn before anything is counted.
        #[arg(long, default_value_t = 40)]
        settle: u64,
        /// Minutes over which upkeep is counted.
        #[arg(long, default_value_t = 30)]
        measure: u64,
        /// Look-ups.
        #[arg(long, default_value_t = 10_000)]
        lookups: usize,
    },
    /// A tenth of the nodes collude against one name.
    Eclipse,
}

#[allow(clippy::print_stdout, reason = "the program's result")]
fn main() -> std::io::Result<()> {
    let arguments = Arguments::parse();
    halloo_simulator::prepare();
    let (seed, nodes) = (arguments.seed, arguments.nodes);
    println!("seed {seed}");
    let Some(command) = arguments.command else {
        let nodes = nodes.unwrap_or(1_000);
        let run = Run { seed, nodes, blocked: arguments.blocked, minutes: arguments.minutes, lookups: 300 };
        return std::fs::write(&arguments.svg, picture(run));
    };
    let rows = match command {
        Command::Counts => {
            for phase in rows::counts(seed, nodes.unwrap_or(200)) {
                print_phase(&phase);
            }
            Vec::new()
        }
        Command::Frozen => vec![rows::frozen(seed, nodes.unwrap_or(1_000), 2_000)],
        Command::Liars => vec![rows::liars(seed, nodes.unwrap_or(1_000), 1_000, 10_000)],
        Command::Repair => vec![rows::repair(seed, nodes.unwrap_or(1_000))],
        Command::Scale { settle, measure, lookups } => {
            let (settle, measure) = (Duration::from_secs(60 * settle), Duration::from_secs(60 * measure));
            rows::scale(seed, Scale { nodes: nodes.unwrap_or(10_000), blocked: arguments.blocked, settle, measure, lookups })
        }
        Command::Eclipse => {
            let nodes = nodes.unwrap_or(10_000);
            [false, true].map(|ages| rows::eclipse(seed, nodes, ages, 1_000)).into()
        }
    };
    for row in &rows {
        print_row(row);
    }
    Ok(())
}

#[allow(clippy::print_stdout, reason = "the program's result")]
fn print_row(row: &Row) {
    println!("{} {}\n    reach {}\n    seen  {}", if row.is_met { "met   " } else { "MISSED" }, row.name, row.reach, row.seen);
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
}
