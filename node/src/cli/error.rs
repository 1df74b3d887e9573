//! How a command fails: one line, one exit code.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use thiserror::Error;

use super::output::Output;
use crate::api::client::ClientError;
use crate::daemon::{InitError, RunError};
use crate::devices::join::JoinDeviceError;
use crate::handle::problem::{Problem, ProblemKind};
use crate::home::HomeError;
use crate::testnet::TestnetError;

const EXIT_FAILED: u8 = 1;
const EXIT_USAGE: u8 = 2;
const EXIT_NO_DAEMON: u8 = 3;

/// Why a command failed.
#[derive(Debug, Error)]
pub(super) enum CliError {
    /// Wrong usage or bad input.
    #[error("{0}")]
    Usage(String),
    /// It didn't work.
    #[error("{0}")]
    Failed(String),
    /// It didn't work, and what there is to say was printed already.
    #[error("failed")]
    Told,
    /// Nobody listens at this home.
    #[error("no daemon is running for {}; start one with `halloo run`", .0.display())]
    NoDaemon(PathBuf),
    /// The daemon said no, or said nothing.
    #[error(transparent)]
    Client(ClientError),
    /// The home can't be used.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// No keys were made.
    #[error(transparent)]
    Init(#[from] InitError),
    /// The device wasn't linked.
    #[error(transparent)]
    Join(#[from] JoinDeviceError),
    /// The daemon ended.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The test network could not be set up.
    #[error(transparent)]
    Testnet(#[from] TestnetError),
    /// The asynchronous runtime can't start.
    #[error("can't start: {0}")]
    Runtime(io::Error),
    /// Nothing can be written to stdout.
    #[error("can't write the output: {0}")]
    Output(io::Error),
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::NoDaemon { home } => Self::NoDaemon(home),
            other => Self::Client(other),
        }
    }
}

impl CliError {
    /// Says what is wrong and returns what to exit with.
    pub(super) fn report(self, output: Output) -> ExitCode {
        match &self {
            // Whoever read our output has enough of it.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => return ExitCode::SUCCESS,
            Self::Told => return ExitCode::from(EXIT_FAILED),
            _ => {}
        }
        let code = self.exit_code();
        output.error(&self.to_string());
        if output.is_json() && !matches!(self, Self::Output(_)) {
            // There is nobody left to tell if this fails too.
            let _gone = output.json(&self.problem(code));
        }
        ExitCode::from(code)
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => EXIT_USAGE,
            Self::NoDaemon(_) => EXIT_NO_DAEMON,
            Self::Client(ClientError::Problem(problem)) if problem.exit_code != 0 => problem.exit_code,
            Self::Home(HomeError::Foreign { .. } | HomeError::NoDefault) => EXIT_USAGE,
            Self::Init(InitError::InvalidPhrase { .. } | InitError::Home(HomeError::Foreign { .. })) => EXIT_USAGE,
            Self::Join(error) => error.kind().exit_code(),
            Self::Run(error) => error.exit_code(),
            Self::Testnet(TestnetError::Scenario { .. }) => EXIT_USAGE,
            _ => EXIT_FAILED,
        }
    }

    /// What `--json` prints in place of a result.
    fn problem(&self, exit_code: u8) -> Problem {
        if let Self::Client(ClientError::Problem(problem)) = self {
            return problem.clone();
        }
        if let Self::Join(error) = self {
            return Problem::new(error.kind(), error.to_string());
        }
        let kind = match exit_code {
            EXIT_USAGE => ProblemKind::InvalidRequest,
            EXIT_NO_DAEMON => ProblemKind::NodeStopped,
            _ => ProblemKind::Internal,
        };
        Problem { exit_code, ..Problem::new(kind, self.to_string()) }
    }
}

/// Reports what clap refused, in one line; help and version are no errors.
pub(super) fn usage(error: &clap::Error, output: Output) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let printed = output.text(&error.render().to_string());
            printed.map_or_else(|error| error.report(output), |()| ExitCode::SUCCESS)
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            CliError::Usage("no command given; --help lists them".to_owned()).report(output)
        }
        _ => CliError::Usage(one_line(&error.render().to_string())).report(output),
    }
}

/// clap explains in paragraphs: the first says what is wrong, one may hold a tip.
fn one_line(rendered: &str) -> String {
    let mut paragraphs = rendered.split("\n\n");
    let join = |paragraph: &str| paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
    let what = join(paragraphs.next().unwrap_or_default());
    let what = what.strip_prefix("error: ").unwrap_or(&what);
    let tip = paragraphs.map(join).find(|paragraph| paragraph.starts_with("tip: "));
    match tip {
        Some(tip) => format!("{what} ({tip})"),
        None => format!("{what}; --help says more"),
    }
}
