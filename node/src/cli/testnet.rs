//! `halloo testnet`

use std::path::PathBuf;

use super::error::CliError;
use super::output::{duration, printable, table};
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
            format!("{mark}  {}  ({})\n        {}", stage.name, duration(stage.elapsed_ms), printable(&stage.detail))
        }
        TestnetEvent::Staying { homes } => staying(homes),
        TestnetEvent::Summary { ok, stages } => summary(*ok, stages),
    }
}

/// All homes, and what can be done with them.
fn staying(homes: &[PathBuf]) -> String {
    let mut text = "\nthe network stays until Ctrl-C; its nodes:\n".to_owned();
    for home in homes {
        text += &format!("  {}\n", home.display());
    }
    // The first is the infrastructure's; users follow.
    let [_, first, second, ..] = homes else { return text };
    let (home, callee) = (first.display(), second.file_name().unwrap_or_default().display());
    let examples = ["status".to_owned(), format!("msg send {callee} \"Hello!\" --wait"), format!("resolve {callee}")];
    text += "for example:\n";
    for example in examples {
        text += &format!("  halloo --home {home} {example}\n");
    }
    text + &format!("  halloo --home {} msg watch\n", second.display())
}

fn summary(ok: bool, stages: &[Stage]) -> String {
    let rows = stages.iter().map(|stage| {
        let result = if stage.ok { "ok" } else { "FAILED" };
        [stage.name.clone(), result.to_owned(), duration(stage.elapsed_ms)]
    });
    let verdict = if ok { "all of it worked" } else { "not all of it worked" };
    format!("\n{}\n{verdict}", table(["STAGE", "RESULT", "TOOK"], rows))
}
