//! The command line: the daemon, and a client of its local API.
//!
//! Results go to stdout, as text for people or with `--json` as JSON for programs; everything
//! else goes to stderr. Exit codes: 0 done, 1 the operation failed, 2 wrong usage or bad
//! input, 3 no daemon is running for this home. A failure is one line; never a stack trace.
//!
//! One file per command.

mod authority;
mod call;
mod calls;
mod completions;
mod contact;
mod device;
mod doctor;
mod enrol;
mod error;
mod file;
mod group;
mod history;
mod identity;
mod init;
mod link;
mod logging;
mod msg;
mod output;
mod parse;
mod peers;
mod presence;
mod privacy;
mod profile;
mod progress;
mod push;
mod relay;
mod resolve;
mod run;
mod signals;
mod sip;
mod start;
mod status;
mod suspend;
mod testnet;
mod voicemail;
mod wake;
mod watch;
mod why;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use tokio::runtime::{Builder, Runtime};

use crate::api::client::Client;
use crate::home::Home;
use error::CliError;
use output::Output;

/// How long threads may take to end when the work is done. With the goodbyes before, a daemon
/// ends within 5 s.
const RUNTIME_END_MAX: Duration = Duration::from_millis(500);

/// Halloo: find people by username, message and call them, without a server in between.
#[derive(Debug, Parser)]
#[command(name = "halloo", version, subcommand_required = true, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Flags of every command.
#[derive(Debug, clap::Args)]
struct Global {
    /// Directory of keys, database, configuration and API socket
    #[arg(long, global = true, value_name = "DIR", env = "HALLOO_HOME", help_heading = "Global options")]
    home: Option<PathBuf>,
    /// Print JSON: one document, or one object per line from commands that stream
    #[arg(long, global = true, help_heading = "Global options")]
    json: bool,
    /// Log more to stderr (-v, -vv); RUST_LOG wins
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Global options")]
    verbose: u8,
    /// Form of the log on stderr
    #[arg(long, global = true, value_name = "FORM", default_value = "text", help_heading = "Global options")]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make identity and device keys; prints the recovery phrase once
    Init(init::Args),
    /// Run the daemon
    Run(run::Args),
    /// Begin as somebody who is known elsewhere: makes an identity with no further question if there is none, runs the daemon, and links the account
    Start(Box<start::Args>),
    /// Which identity this is
    #[command(subcommand)]
    Identity(identity::Command),
    /// Get a username from an authority
    Enrol(enrol::Args),
    /// What this node does as an authority
    #[command(subcommand)]
    Authority(authority::Command),
    /// What runs
    Status,
    /// Whom this node knows
    Peers,
    /// Who has used how much of this node's media relay
    Relay,
    /// What is wrong with my connectivity
    Doctor,
    /// Why a user can't be reached
    Why(why::Args),
    /// Find a user's identity and devices
    Resolve(resolve::Args),
    /// Whom you know
    #[command(subcommand)]
    Contact(contact::Command),
    /// Your devices
    #[command(subcommand)]
    Device(device::Command),
    /// What contacts see of you
    #[command(subcommand)]
    Profile(profile::Command),
    /// Who may call you, write to you, and so on
    #[command(subcommand)]
    Privacy(privacy::Command),
    /// Messages
    #[command(subcommand)]
    Msg(msg::Command),
    /// Take all conversations out, or bring them back
    #[command(subcommand)]
    History(history::Command),
    /// Files
    #[command(subcommand)]
    File(file::Command),
    /// Messages among several people
    #[command(subcommand)]
    Group(group::Command),
    /// What contacts see of each other: online, away, do not disturb
    #[command(subcommand)]
    Presence(presence::Command),
    /// Call somebody; all of their devices ring
    Call(call::Args),
    /// Calls in progress and past
    #[command(subcommand)]
    Calls(calls::Command),
    /// What callers have left for you
    #[command(subcommand)]
    Voicemail(voicemail::Command),
    /// Registrations that let a gateway wake this device
    #[command(subcommand)]
    Push(push::Command),
    /// Accounts for ordinary telephones
    #[command(subcommand)]
    Sip(sip::Command),
    /// Accounts in other systems, whose contacts can call here
    #[command(subcommand)]
    Link(link::Command),
    /// Freeze this node as an operating system would
    Suspend(suspend::Args),
    /// Wake this node
    Wake(wake::Args),
    /// Run a whole network on this machine and take a tour through it
    Testnet(testnet::Args),
    /// Print a completion script for a shell
    Completions(completions::Args),
}

/// What every command gets.
#[derive(Debug)]
struct Context {
    home: Option<PathBuf>,
    output: Output,
    log: logging::Settings,
}

/// Runs one command line and returns what to exit with. Never panics on input.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<_> = args.into_iter().collect();
    let wants_json = args.iter().any(|arg| arg == "--json");
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => return error::usage(&error, Output::new(wants_json)),
    };
    let output = Output::new(cli.global.json);
    let log = logging::Settings { verbose: cli.global.verbose, json: cli.global.log_format == LogFormat::Json };
    let context = Context { home: cli.global.home, output, log };
    match dispatch(&context, cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(output),
    }
}

fn dispatch(context: &Context, command: Command) -> Result<(), CliError> {
    logging::start(context.log, matches!(command, Command::Run(_) | Command::Start(_)));
    match command {
        Command::Init(args) => init::run(context, args),
        Command::Run(args) => run::run(context, args),
        Command::Start(args) => start::run(context, *args),
        Command::Identity(command) => identity::run(context, command),
        Command::Enrol(args) => enrol::run(context, args),
        Command::Device(command) => device::run(context, command),
        Command::Testnet(args) => testnet::run(context, args),
        Command::Completions(args) => completions::run(context, &args),
        client_command => context.light_runtime()?.block_on(dispatch_client(context, client_command)),
    }
}

/// Commands that are nothing but clients of the daemon.
async fn dispatch_client(context: &Context, command: Command) -> Result<(), CliError> {
    match command {
        Command::Authority(command) => authority::run(context, command).await,
        Command::Status => status::run(context).await,
        Command::Peers => peers::run(context).await,
        Command::Relay => relay::run(context).await,
        Command::Doctor => doctor::run(context).await,
        Command::Why(args) => why::run(context, args).await,
        Command::Resolve(args) => resolve::run(context, args).await,
        Command::Contact(command) => contact::run(context, command).await,
        Command::Profile(command) => profile::run(context, command).await,
        Command::Privacy(command) => privacy::run(context, command).await,
        Command::Msg(command) => msg::run(context, command).await,
        Command::History(command) => history::run(context, command).await,
        Command::File(command) => file::run(context, command).await,
        Command::Group(command) => group::run(context, command).await,
        Command::Presence(command) => presence::run(context, command).await,
        Command::Call(args) => call::run(context, args).await,
        Command::Calls(command) => calls::run(context, command).await,
        Command::Voicemail(command) => voicemail::run(context, command).await,
        Command::Push(command) => push::run(context, command).await,
        Command::Sip(command) => sip::run(context, command).await,
        Command::Link(command) => link::run(context, command).await,
        Command::Suspend(args) => suspend::run(context, args).await,
        Command::Wake(args) => wake::run(context, args).await,
        Command::Init(_)
        | Command::Run(_)
        | Command::Start(_)
        | Command::Identity(_)
        | Command::Enrol(_)
        | Command::Device(_)
        | Command::Testnet(_)
        | Command::Completions(_) => Ok(()),
    }
}

impl Context {
    /// Where the home is, whether or not it exists.
    fn home_path(&self) -> Result<PathBuf, CliError> {
        match &self.home {
            // An empty HALLOO_HOME means none, as an empty variable does elsewhere.
            Some(path) if !path.as_os_str().is_empty() => Ok(path.clone()),
            _ => Ok(Home::default_path()?),
        }
    }

    /// The client of this home's daemon.
    fn client(&self) -> Result<Client, CliError> {
        let path = self.home_path()?;
        match Home::open(&path) {
            Ok(home) => Ok(Client::of(&home)?),
            // Without a home there is no daemon either.
            Err(_) => Err(CliError::NoDaemon(path)),
        }
    }

    /// For commands that wait for one answer.
    fn light_runtime(&self) -> Result<Runtime, CliError> {
        Builder::new_current_thread().enable_all().build().map_err(CliError::Runtime)
    }

    /// Runs what runs nodes, and ends in time even if a thread hangs.
    fn run_nodes(&self, work: impl Future<Output = Result<(), CliError>>) -> Result<(), CliError> {
        let runtime = Builder::new_multi_thread().enable_all().build().map_err(CliError::Runtime)?;
        let outcome = runtime.block_on(work);
        runtime.shutdown_timeout(RUNTIME_END_MAX);
        outcome
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
