//! Pushes: from the dial to the ring through gateway and push service, what a gateway's processor does for a push, and what sleeping costs.
//! `scripts/bench push` runs it.

mod idle;
#[path = "../../src/postgres.rs"]
#[allow(unreachable_pub, dead_code, clippy::expect_used, reason = "shared with the scenarios")]
mod postgres;
mod processor;
mod registrations;
mod ring;
mod service;
mod town;

use anyhow::Result;

use crate::report::Report;
use crate::slow_link::SlowLink;
use crate::wiretap::Wiretap;

/// What of it is measured, and how often.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Amounts {
    /// Pushes whose processor time is measured; at most 3,000.
    #[arg(long, default_value_t = 1_600)]
    pushes: usize,
    /// Measures the background device for five minutes, and a gateway with a million registrations.
    #[arg(long)]
    long: bool,
    /// Registrations of that gateway.
    #[arg(long, default_value_t = 1_000_000)]
    registrations: usize,
    /// Only these parts of `push`.
    #[arg(long, value_delimiter = ',')]
    push: Vec<Piece>,
}

/// Parts of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Piece {
    Processor,
    /// A gateway whose records are in PostgreSQL, which has to be installed: only where it is asked for.
    Database,
    Ring,
    Idle,
    Registrations,
}

pub(crate) async fn measure(link: &SlowLink, tap: &Wiretap, dials: usize, amounts: &Amounts, report: &mut Report) -> Result<()> {
    let wants = |piece: Piece| amounts.push.is_empty() || amounts.push.contains(&piece);
    if wants(Piece::Processor) {
        processor::measure(link, amounts.pushes, report).await?;
    }
    if amounts.push.contains(&Piece::Database) {
        processor::measure_shared(link, amounts.pushes, report).await?;
    }
    if wants(Piece::Ring) || wants(Piece::Idle) {
        let mut town = town::Town::build(link).await?;
        if wants(Piece::Ring) {
            ring::measure(link, tap, &mut town, dials, report).await?;
        }
        if wants(Piece::Idle) {
            idle::measure(link, tap, &mut town, amounts.long, report).await?;
        }
    }
    if amounts.long && wants(Piece::Registrations) {
        registrations::measure(amounts.registrations, report).await?;
    }
    Ok(())
}
