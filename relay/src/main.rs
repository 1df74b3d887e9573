//! `halloo-relay`: reads arguments and the configuration file, sets up logging, serves until a signal comes.
//!
//! Stdout has one line, `ready` with the addresses served, once they are. Exit codes: 0 told to stop, 1 it failed,
//! 2 wrong usage or configuration.

use std::future::Future;
use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{ArgAction, Parser, ValueEnum};
use halloo_relay::config::{Config, ConfigFile};
use halloo_relay::server::Server;
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;
use tracing_subscriber::EnvFilter;

/// STUN server: tells clients behind NATs the address they are seen at.
#[derive(Debug, Parser)]
#[command(name = "halloo-relay", version)]
struct Arguments {
    /// Settings in TOML; flags go before them.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// UDP address to serve, several times for several [default: 0.0.0.0:3478 and [::]:3478].
    #[arg(long, value_name = "IP:PORT")]
    listen: Vec<SocketAddr>,

    /// Serve counters for Prometheus at http://IP:PORT/metrics [default: off].
    #[arg(long, value_name = "IP:PORT")]
    metrics: Option<SocketAddr>,

    /// Log more, to stderr; twice: every datagram. RUST_LOG goes before it.
    #[arg(short, action = ArgAction::Count)]
    verbose: u8,

    /// Form of the log on stderr.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

/// Whose fault it is that the program can't go on.
enum Failure {
    Usage(anyhow::Error),
    Operation(anyhow::Error),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    start_logging(&arguments);
    let (error, code) = match run(arguments) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Operation(error)) => (error, 1),
        Err(Failure::Usage(error)) => (error, 2),
    };
    // A closed stderr leaves nobody to tell. Complaints about TOML end with a line break of their own.
    let _ = writeln!(io::stderr(), "halloo-relay: {}", format!("{error:#}").trim_end());
    ExitCode::from(code)
}

fn run(arguments: Arguments) -> Result<(), Failure> {
    let config = configure(arguments).map_err(Failure::Usage)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the runtime").map_err(Failure::Operation)?;
    runtime.block_on(serve(config)).map_err(Failure::Operation)
}

fn configure(arguments: Arguments) -> anyhow::Result<Config> {
    let mut config = match &arguments.config {
        Some(path) => {
            ConfigFile::read(path).and_then(Config::try_from).with_context(|| format!("configuration {}", path.display()))?
        }
        None => Config::default(),
    };
    if !arguments.listen.is_empty() {
        config.listen = arguments.listen;
    }
    config.metrics = arguments.metrics.or(config.metrics);
    Ok(config)
}

async fn serve(config: Config) -> anyhow::Result<()> {
    // Before "ready", so that whoever waits for it can already send the signal.
    let shutdown = shutdown_signal().context("cannot wait for signals")?;
    let server = Server::bind(config)?;
    announce(&server).context("cannot write to stdout")?;
    let metrics = server.metrics();
    server.run(shutdown).await?;
    info!(totals = ?metrics.snapshot(), "stopped");
    Ok(())
}

/// One line, addresses as STUN URIs (RFC 7064): `ready stun:192.0.2.7:3478 stun:[2001:db8::7]:3478`.
fn announce(server: &Server) -> io::Result<()> {
    let mut line = String::from("ready");
    for address in server.local_addresses() {
        line += &format!(" stun:{address}");
    }
    if let Some(address) = server.metrics_address() {
        line += &format!(" http://{address}/metrics");
    }
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}

fn shutdown_signal() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => info!("told to stop by SIGTERM"),
            _ = interrupt.recv() => info!("told to stop by SIGINT"),
        }
    })
}

fn start_logging(arguments: &Arguments) {
    let level = match arguments.verbose {
        0 => "info",
        1 => "debug",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    match arguments.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}
