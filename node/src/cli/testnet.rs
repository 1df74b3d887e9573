//! `halloo testnet`

use std::path::PathBuf;

use super::error::CliError;
use super::output::{duration, table};
use super::progress::Spinner;
use super::{Context, signals};
use crate::testnet::{self, Stage, TestnetEvent, TestnetOptions};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How many users
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=1_000))]
    nodes: Option<u32>,
    /// Seed of everything random
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Scenario (TOML) to play instead of the tour
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,
    /// Keep the network running afterwards
    #[arg(long)]
    stay: bool,
    /// Let everybody enrol without an invite
    #[arg(long)]
    open: bool,
}

/// Exits 0 only if every stage worked.
pub(super) fn run(context: &Context, args: Args) -> Result<(), CliError> {
    let options =
        TestnetOptions { nodes: args.nodes, seed: args.seed, scenario: args.scenario, stay: args.stay, open: args.open };
    context.run_nodes(async {
        let stop = signals::stop_token()?;
        let spinner = Spinner::start(context.output, "setting up a network");
        let mut told = Ok(());
        let ok = testnet::run(options, stop, |event| {
            if told.is_ok() {
                told = tell(context, &spinner, &event);
            }
        })
        .await?;
        drop(spinner);
        told?;
        if ok { Ok(()) } else { Err(CliError::Told) }
    })
}

fn tell(context: &Context, spinner: &Spinner, event: &TestnetEvent) -> Result<(), CliError> {
    if let TestnetEvent::StageStarted { name } = event {
        spinner.set(name);
        return Ok(());
    }
    spinner.suspend(|| context.output.print(event, for_people))
}

fn for_people(event: &TestnetEvent) -> String {
    match event {
        TestnetEvent::StageStarted { .. } => String::new(),
        TestnetEvent::Stage(stage) => {
            let mark = if stage.ok { "ok    " } else { "FAILED" };
            format!("{mark}  {}  ({})  {}", stage.name, duration(stage.elapsed_ms), super::output::printable(&stage.detail))
        }
        TestnetEvent::Staying { homes } => {
            let lines = homes.iter().map(|home| format!("  halloo --home {} status\n", home.display()));
            format!("the network stays until Ctrl-C; talk to its nodes:\n{}", lines.collect::<String>())
        }
        TestnetEvent::Summary { ok, stages } => summary(*ok, stages),
    }
}

fn summary(ok: bool, stages: &[Stage]) -> String {
    let rows = stages.iter().map(|stage| {
        let result = if stage.ok { "ok" } else { "FAILED" };
        [stage.name.clone(), result.to_owned(), duration(stage.elapsed_ms), stage.detail.clone()]
    });
    let verdict = if ok { "all of it worked" } else { "not all of it worked" };
    format!("\n{}\n{verdict}", table(["STAGE", "RESULT", "TOOK", "WHAT HAPPENED"], rows))
}
