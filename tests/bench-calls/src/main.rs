//! Calls measured with real nodes in this process. `scripts/bench calls` runs it, and `scripts/bench push`, in a network namespace of its own.

mod accept;
mod buffer;
mod dial;
mod lab;
mod many;
mod path;
mod plain;
mod push;
mod report;
mod slow_link;
mod wiretap;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;

use crate::report::{Report, load};
use crate::slow_link::SlowLink;
use crate::wiretap::Wiretap;

/// Measures calls: round trips to ring and to audio, delay, processor time, memory.
#[derive(Debug, Parser)]
struct Arguments {
    /// Only these parts.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// Dials of each kind.
    #[arg(long, default_value_t = 21)]
    dials: usize,
    /// Only these dials.
    #[arg(long, value_delimiter = ',')]
    case: Vec<dial::Case>,
    /// Calls at once.
    #[arg(long, default_value_t = 200)]
    calls: usize,
    #[command(flatten)]
    push: push::Amounts,
    /// Also writes everything measured to this file, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Round trips from the dial to the ring, 50 ms each way.
    Dial,
    /// Round trips from the accept to the first audio, 50 ms each way.
    Accept,
    /// The buffer for received audio, in virtual time.
    Buffer,
    /// Processor time of a packet beside str0m alone, and a relay's delay.
    Path,
    /// Many calls at once.
    Many,
    /// Pushes; only if it is named.
    Push,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let wants = |part: Part| (arguments.only.is_empty() && part != Part::Push) || arguments.only.contains(&part);
    let tap = Wiretap::install();
    let link = SlowLink::up()?;
    let mut report = Report::default();
    report.load.0 = load();
    if wants(Part::Dial) || wants(Part::Accept) {
        let town = dial::Town::build(&link, arguments.dials).await?;
        if wants(Part::Dial) {
            dial::measure(&link, &tap, &town, &arguments.case, arguments.dials, &mut report).await?;
        }
        if wants(Part::Accept) {
            accept::measure(&link, &town, arguments.dials, &mut report).await?;
        }
    }
    if wants(Part::Buffer) {
        buffer::measure(&mut report)?;
    }
    if wants(Part::Path) {
        path::measure(&link, &mut report).await?;
    }
    if wants(Part::Many) {
        many::measure(&link, arguments.calls, &mut report).await?;
    }
    if wants(Part::Push) {
        push::measure(&link, &tap, arguments.dials, &arguments.push, &mut report).await?;
    }
    report.load.1 = load();
    report.print();
    if let Some(path) = &arguments.json {
        std::fs::write(path, serde_json::to_vec_pretty(&report)?)?;
    }
    Ok(())
}
